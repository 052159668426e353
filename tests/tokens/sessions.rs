//! Users who log in: what their token is good for, and everything that ends it with the next request.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use tollgate::clock::Clock;
use tollgate::domain::change::{Ended, Event};
use tollgate::domain::record::{EndedSession, OpenSession, ProjectState, User, UserSessions};
use tollgate::login::{Issued, LoginError, Logins};
use tollgate::password::Passwords;
use tollgate::registry::{Actor, ActorPermissions, Expected, Limits, Rate, Rates, UserChange, UserSpec};
use tollgate::store::Write;
use tollgate_core::credential::{ProjectId, UserId};
use tollgate_core::denial::Denial;
use tollgate_core::login::Session;
use tollgate_core::respond::Decision;
use tollgate_guard::protocol::Position;
use zeroize::Zeroizing;

use crate::log::Log;
use crate::mint::SigningKey;
use crate::world::{NOW, World};

const PASSWORD: &str = "correct horse battery";

struct House {
    world: World,
    logins: Logins,
    clock: Clock,
}

impl House {
    fn new() -> Self {
        Self::with("")
    }

    /// With more of a configuration.
    fn with(more: &str) -> Self {
        let login = "login: {issuer: https://api.test, plane: admin, lifetime_seconds: 600}\n";
        let world = World::of(&format!("{login}{more}"));
        let clock = world.clock();
        let core = &world.core;
        let signing = Arc::clone(core.resolver.signing());
        let passwords = Passwords::start().unwrap();
        let logins = Logins::new(core.store.clone(), core.registry.clone(), signing, passwords, clock.clone());
        Self { world, logins, clock }
    }

    async fn user(&self, name: &str, project: &str, permissions: &[&str]) -> User {
        let hash = self.logins.passwords().hash(secret(PASSWORD)).await.unwrap();
        let spec = UserSpec {
            name: name.to_owned(),
            password_hash: hash,
            project: project.to_owned(),
            permissions: permissions.iter().map(|name| (*name).to_owned()).collect(),
        };
        self.world.core.registry.create_user(&self.world.policy, &Actor::operator(), spec, None).await.unwrap()
    }

    async fn login(&self, name: &str, password: &str) -> Result<Issued, LoginError> {
        self.logins.login(&self.world.policy, name, secret(password), "192.0.2.1".parse().ok()).await
    }

    async fn token(&self, name: &str) -> String {
        self.login(name, PASSWORD).await.unwrap().token.to_string()
    }

    async fn denial(&self, token: &str) -> Option<Denial> {
        self.world.denial_at("/admin", token).await
    }

    async fn change(&self, name: &str, change: UserChange) -> User {
        let registry = &self.world.core.registry;
        registry.update_user(&self.world.policy, &Actor::operator(), name, change, Expected::Any).await.unwrap().result
    }
}

pub fn claims(token: &str) -> serde_json::Value {
    let payload = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    serde_json::from_slice(&payload).unwrap()
}

pub fn secret(text: &str) -> Zeroizing<String> {
    Zeroizing::new(text.to_owned())
}

#[tokio::test]
async fn a_login_is_good_until_it_ends() {
    let house = House::new();
    house.user("ada", "acme", &["manage_keys"]).await;
    let issued = house.login("ada", PASSWORD).await.unwrap();
    assert_eq!(issued.expires_at.as_secs(), NOW + 600);
    assert!(!format!("{issued:?}").contains(&*issued.token) || issued.token.is_empty());
    for _ in 0..2 {
        assert_eq!(house.denial(&issued.token).await, None);
    }
    // On the plane of users, and on no other.
    assert_eq!(house.world.denial_at("/data", &issued.token).await, Some(Denial::WrongPlane));
    house.world.set_now(NOW + 599);
    assert_eq!(house.denial(&issued.token).await, None);
    house.world.set_now(NOW + 600);
    assert_eq!(house.denial(&issued.token).await, Some(Denial::Expired));
}

#[tokio::test]
async fn whoever_has_no_password_gets_no_token() {
    let house = House::new();
    house.user("ada", "acme", &["manage_keys"]).await;
    house.user("off", "acme", &["manage_keys"]).await;
    house.change("off", UserChange { disabled: Some(true), ..UserChange::default() }).await;
    house.user("gone", "acme", &["manage_keys"]).await;
    house.world.core.registry.delete_user(&Actor::operator(), "gone", Expected::Any).await.unwrap();
    for (name, password) in [
        ("ada", "wrong horse battery"),
        ("ada", ""),
        ("ADA", PASSWORD),
        ("nobody", PASSWORD),
        ("off", PASSWORD),
        ("gone", PASSWORD),
        ("gone", ""),
        ("", ""),
        ("a b", PASSWORD),
        ("ada\0", PASSWORD),
    ] {
        assert_eq!(house.login(name, password).await.err(), Some(LoginError::Refused), "{name} {password}");
    }
}

#[tokio::test]
async fn guesses_are_throttled() {
    let house = House::new();
    house.user("ada", "acme", &["manage_keys"]).await;
    for _ in 0..10 {
        assert_eq!(house.login("ada", "guess").await.err(), Some(LoginError::Refused));
    }
    let wait = Duration::from_secs(6);
    assert_eq!(house.login("ada", PASSWORD).await.err(), Some(LoginError::Throttled { retry_after: wait }));
    house.world.set_now(NOW + 6);
    assert!(house.login("ada", PASSWORD).await.is_ok());
}

#[tokio::test]
async fn whoever_is_turned_away_is_not_charged_for_it() {
    let house = House::new();
    house.user("ada", "acme", &["manage_keys"]).await;
    let house = &house;
    // Strangers from everywhere, far more than can be hashed.
    let strangers = (0..300u16).map(|n| {
        let [high, low] = n.to_be_bytes();
        let address = std::net::IpAddr::from([198, 51, high, low]);
        let name = format!("stranger-{n}");
        async move { house.logins.login(&house.world.policy, &name, secret("x"), Some(address)).await.err() }
    });
    let mine = async {
        let mut busy = 0;
        for _ in 0..40 {
            match house.login("ada", PASSWORD).await {
                Err(LoginError::Busy) => busy += 1,
                other => assert!(other.is_ok(), "{other:?}"),
            }
        }
        busy
    };
    let (answers, _) = tokio::join!(futures_util::future::join_all(strangers), mine);
    let busy = answers.iter().filter(|answer| **answer == Some(LoginError::Busy)).count();
    assert!(busy > 100, "{busy}");
    assert!(house.login("ada", PASSWORD).await.is_ok());
}

#[cfg(feature = "test-panic")]
#[tokio::test]
async fn a_session_that_is_over_costs_no_other_signature() {
    let house = House::new();
    house.user("ada", "acme", &["manage_keys"]).await;
    let token = house.token("ada").await;
    house.world.set_now(NOW + 700);
    assert_eq!(house.denial(&token).await, Some(Denial::Expired));
    let _full = house.world.core.resolver.signatures().fill();
    assert_eq!(house.denial(&token).await, Some(Denial::Expired), "while no signature is verified");
}

#[tokio::test]
async fn what_ends_a_session_ends_it_with_the_next_request() {
    let house = House::new();
    let (registry, policy) = (&house.world.core.registry, &house.world.policy);
    let operator = Actor::operator();
    for round in 0..6 {
        let name = format!("user-{round}");
        house.user(&name, "acme", &["manage_keys"]).await;
        let (token, other) = (house.token(&name).await, house.token(&name).await);
        assert_eq!((house.denial(&token).await, house.denial(&other).await), (None, None));
        let set = |disabled| UserChange { disabled: Some(disabled), ..UserChange::default() };
        let (denial, others) = match round {
            0 => {
                let own = Actor {
                    subject: format!("user:acme/{name}"),
                    held: ActorPermissions::Only(vec![]),
                    ..Actor::operator()
                };
                house.logins.logout(policy, &own, &token).await.unwrap();
                (Some(Denial::RevokedUnauthenticated), None)
            }
            1 => {
                house.change(&name, set(true)).await;
                (Some(Denial::RevokedUnauthenticated), Some(Denial::RevokedUnauthenticated))
            }
            2 => {
                // Enabled again, the old sessions stay ended.
                house.change(&name, set(true)).await;
                house.change(&name, set(false)).await;
                (Some(Denial::RevokedUnauthenticated), Some(Denial::RevokedUnauthenticated))
            }
            3 => {
                let hash = house.logins.passwords().hash(secret("another password")).await.unwrap();
                registry.set_password(policy, &operator, &name, hash, Expected::Any).await.unwrap();
                (Some(Denial::RevokedUnauthenticated), Some(Denial::RevokedUnauthenticated))
            }
            4 => {
                registry.delete_user(&operator, &name, Expected::Any).await.unwrap();
                assert_eq!(house.denial(&token).await, Some(Denial::CredentialUnknown));
                // Made anew under the same name: another person.
                registry.free_user_name(&operator, &format!("acme/{name}")).await.unwrap();
                house.user(&name, "acme", &["manage_keys"]).await;
                (Some(Denial::RevokedUnauthenticated), Some(Denial::RevokedUnauthenticated))
            }
            _ => {
                let permissions = Some(vec!["manage_resources".to_owned()]);
                house.change(&name, UserChange { permissions, ..UserChange::default() }).await;
                (Some(Denial::PermissionMissing), Some(Denial::PermissionMissing))
            }
        };
        assert_eq!((house.denial(&token).await, house.denial(&other).await), (denial, others), "{round}");
    }
}

#[tokio::test]
async fn a_session_follows_its_project_with_the_next_request() {
    let house = House::new();
    let (registry, operator) = (&house.world.core.registry, Actor::operator());
    house.user("ada", "acme", &["manage_keys"]).await;
    house.user("bob", "beta", &["manage_keys"]).await;
    house.user("eve", "*", &["manage_keys"]).await;
    let mut tokens = Vec::new();
    for name in ["ada", "bob", "eve"] {
        tokens.push(house.token(name).await);
    }
    let denials = async || {
        let mut denials = Vec::new();
        for token in &tokens {
            // What is remembered of it, too.
            let first = house.denial(token).await;
            assert_eq!(house.denial(token).await, first);
            denials.push(first);
        }
        denials
    };
    let ended = Some(Denial::RevokedUnauthenticated);
    assert_eq!(denials().await, [None, None, None]);
    registry.suspend_project(&operator, "acme", Expected::Any).await.unwrap();
    assert_eq!(denials().await, [ended, None, None]);
    assert_eq!(house.login("ada", PASSWORD).await.err(), Some(LoginError::Refused), "nor does a new one begin");
    registry.resume_project(&operator, "acme", Expected::Any).await.unwrap();
    assert_eq!(denials().await, [None, None, None]);
    house.token("ada").await;
    registry.delete_project(&operator, "acme", Expected::Any).await.unwrap();
    assert_eq!(denials().await, [ended, None, None]);
    assert_eq!(house.login("ada", PASSWORD).await.err(), Some(LoginError::Refused));
    assert!(registry.resume_project(&operator, "acme", Expected::Any).await.is_err());
    assert_eq!(denials().await, [ended, None, None]);
}

#[tokio::test]
async fn whoever_carries_the_id_of_another_project_is_refused() {
    let house = House::new();
    let ada = house.user("ada", "acme", &["manage_keys"]).await;
    let carries = async |project_id: Option<ProjectId>| {
        let token = house.token("ada").await;
        let version = house.world.core.store.user(ada.name.clone()).await.unwrap().unwrap().version;
        // Such a record comes from no change that the store accepts, so it is moved away and back.
        let moved = |project: &str, project_id, version| {
            Write::UpdateUser(User { project: project.to_owned(), project_id, version, ..ada.clone() })
        };
        let batch = vec![moved("elsewhere", None, version + 1), moved("acme", project_id, version + 2)];
        house.world.core.store.commit(batch, Event::touching(&[])).await.unwrap();
        // Nobody has looked the session up before.
        (house.denial(&token).await, house.login("ada", PASSWORD).await.is_ok())
    };
    let ended = Some(Denial::RevokedUnauthenticated);
    assert_eq!(carries(ada.project_id).await, (None, true));
    assert_eq!(carries(None).await, (None, true), "made before projects had ids");
    let log = Log::default();
    let listening = log.listen();
    assert_eq!(carries(ProjectId::parse("0000000000000001")).await, (ended, false));
    assert_eq!(house.login("ada", PASSWORD).await.err(), Some(LoginError::Refused));
    drop(listening);
    // Once of a session, and once of a login.
    let said = log.text();
    let is_told = |line: &str| line.contains("ada") && line.contains("earlier project of the same name");
    assert!(said.lines().count() == 2 && said.lines().all(is_told), "{said}");
}

#[tokio::test]
async fn what_was_ended_stays_ended_though_the_store_has_lost_it() {
    let house = House::new();
    let endings = house.world.core.resolver.endings();
    let place = Position { sequence: 1, chain: String::new() };
    for round in 0..5 {
        let name = format!("user-{round}");
        let project = format!("project-{round}");
        let user = house.user(&name, &project, &["manage_keys"]).await;
        let token = house.token(&name).await;
        let session = claims(&token)["jti"].as_str().unwrap().to_owned();
        let project_is =
            |state| Ended::Project { name: project.clone(), state, changed_at: user.created_at, version: 1 };
        let user_is = |disabled| Ended::of_user(&User { sessions: 2, disabled, ..user.clone() });
        let told = match round {
            0 => Ended::Session(EndedSession {
                id: session,
                user: user.name.clone(),
                ended_at: house.clock.now(),
                expires_at: house.clock.now().plus(Duration::from_secs(600)),
            }),
            1 => user_is(true),
            2 => user_is(false),
            3 => project_is(ProjectState::Suspended),
            _ => project_is(ProjectState::Deleted),
        };
        endings.hear(&place, std::slice::from_ref(&told));
        assert_eq!(house.denial(&token).await, Some(Denial::RevokedUnauthenticated), "{told:?}");
        assert_eq!(endings.take_suspects(usize::MAX), [told]);
    }
    assert_eq!(endings.contradictions(), 5);
    // What goes on, or was begun again, is let in.
    let ada = house.user("ada", "acme", &["manage_keys"]).await;
    let of_acme =
        |state, version| Ended::Project { name: "acme".to_owned(), state, changed_at: ada.created_at, version };
    let suspended = [of_acme(ProjectState::Suspended, 1), of_acme(ProjectState::Active, 2)];
    endings.hear(&place, &[&[Ended::of_user(&ada)], &suspended[..]].concat());
    assert_eq!(house.denial(&house.token("ada").await).await, None);
}

#[tokio::test]
async fn nobody_logs_out_another_one() {
    let house = House::new();
    house.user("ada", "acme", &["manage_keys"]).await;
    let token = house.token("ada").await;
    let stranger = Actor {
        subject: "user:bob".to_owned(),
        project: Some("beta".to_owned()),
        held: ActorPermissions::Only(Vec::new()),
        ..Actor::operator()
    };
    assert!(house.logins.logout(&house.world.policy, &stranger, &token).await.is_err());
    assert_eq!(house.denial(&token).await, None);
    for no_session in ["", "x", "a.b.c", &SigningKey::generate("k", "EdDSA").token(&json!({"iss": "https://api.test"}))]
    {
        assert!(
            house.logins.logout(&house.world.policy, &Actor::operator(), no_session).await.is_err(),
            "{no_session}"
        );
    }
}

#[tokio::test]
async fn a_token_of_ours_is_signed_by_us() {
    let house = House::new();
    house.user("ada", "acme", &["manage_keys"]).await;
    let token = house.token("ada").await;
    let [header, _, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("{token}") };
    let kid = house.logins.jwks().await["keys"][0]["kid"].as_str().unwrap().to_owned();
    let stranger = SigningKey::generate(&kid, "EdDSA");
    let claims = claims(&token);
    assert_eq!(house.denial(&stranger.token(&claims)).await, Some(Denial::TokenSignature));
    let root = claims.to_string().replace("\"acme/ada\"", "\"root\"");
    let root = crate::mint::encoded(root.as_bytes());
    assert_eq!(house.denial(&format!("{header}.{root}.{signature}")).await, Some(Denial::TokenSignature));
    let unknown = SigningKey::generate("unknown", "EdDSA");
    assert_eq!(house.denial(&unknown.token(&claims)).await, Some(Denial::TokenKey));
}

#[tokio::test]
async fn keys_are_replaced_and_the_old_ones_verify_for_a_while() {
    const DAY: u64 = 24 * 3600;
    let house = House::new();
    house.user("ada", "acme", &["manage_keys"]).await;
    let keys = async || house.logins.jwks().await["keys"].as_array().unwrap().len();
    assert_eq!(keys().await, 0);
    house.token("ada").await;
    assert_eq!(keys().await, 1);
    house.world.set_now(NOW + 30 * DAY - 300);
    let last_of_the_first = house.token("ada").await;
    assert_eq!(keys().await, 1);
    house.world.set_now(NOW + 30 * DAY);
    let first_of_the_second = house.token("ada").await;
    assert_eq!(keys().await, 2);
    for token in [&last_of_the_first, &first_of_the_second] {
        assert_eq!(house.denial(token).await, None);
    }
    // No token needs the first one any more.
    house.world.set_now(NOW + 33 * DAY);
    house.world.core.resolver.signing().load(house.clock.now()).await.unwrap();
    assert_eq!(keys().await, 1);
    house.logins.renew_keys().await.unwrap();
    assert_eq!(house.world.core.store.signing_keys().await.unwrap().len(), 1);
}

/// The value of a header that the back end is given.
async fn told(house: &House, token: &str, header: &str) -> Option<String> {
    let bearer = format!("Bearer {token}");
    house
        .world
        .decide("/admin", &bearer, |decision| match decision {
            Decision::Allow(allow) => {
                let mut set = allow.headers_to_set();
                let value = set.find(|(name, _)| *name == header).map(|(_, value)| value.to_owned());
                assert_eq!(value.is_none(), allow.headers_to_remove().any(|name| name == header), "set or removed");
                value
            }
            Decision::Deny(deny) => panic!("{:?}", deny.denial),
        })
        .await
}

#[tokio::test]
async fn whoever_has_a_name_later_is_told_from_who_had_it() {
    let house = House::new();
    let ada = house.user("ada", "acme", &["manage_keys"]).await;
    let token = house.token("ada").await;
    assert_eq!(told(&house, &token, "x-tollgate-user-id").await.as_deref(), ada.id.as_ref().map(UserId::as_str));
    house.world.core.registry.delete_user(&Actor::operator(), "ada", Expected::Any).await.unwrap();
    house.world.core.registry.free_user_name(&Actor::operator(), "acme/ada").await.unwrap();
    let another = house.user("ada", "acme", &["manage_keys"]).await;
    assert!(ada.id.is_some() && another.id.is_some() && ada.id != another.id);
    let token = house.token("ada").await;
    assert_eq!(told(&house, &token, "x-tollgate-subject").await.as_deref(), Some("user:acme/ada"));
    assert_eq!(told(&house, &token, "x-tollgate-user-id").await.as_deref(), another.id.as_ref().map(UserId::as_str));
}

#[tokio::test]
async fn the_subject_may_be_the_id() {
    let house = House::with("identity: {subject: id}\n");
    let ada = house.user("ada", "acme", &["manage_keys"]).await;
    let token = house.token("ada").await;
    for header in ["x-tollgate-subject", "x-tollgate-user-id"] {
        assert_eq!(told(&house, &token, header).await.as_deref(), ada.id.as_ref().map(UserId::as_str));
    }
}

#[tokio::test]
async fn whoever_logs_in_and_out_again_and_again_fills_no_store() {
    let house = House::new();
    let rate = |burst| Rate { burst, per_second: 1 };
    let limits = Limits { rates: Rates { actor: rate(10), project: rate(15) }, ..Limits::default() };
    house.world.core.registry.limit(limits);
    for (name, project) in [("ada", "acme"), ("bob", "acme"), ("eve", "beta")] {
        house.user(name, project, &["manage_keys"]).await;
    }
    let mut let_in = Vec::new();
    for name in ["ada", "bob", "eve"] {
        let mut count = 0;
        for _ in 0..20 {
            match house.login(name, PASSWORD).await {
                Ok(issued) => {
                    let actor = Actor::operator();
                    house.logins.logout(&house.world.policy, &actor, &issued.token).await.unwrap();
                    count += 1;
                }
                Err(LoginError::Throttled { retry_after }) => assert!(!retry_after.is_zero()),
                Err(error) => panic!("{error:?}"),
            }
        }
        let_in.push(count);
    }
    println!("20 logins of each: {let_in:?} let in");
    assert_eq!(let_in, [10, 5, 10], "a project has its rate, and others notice nothing");
}

#[tokio::test]
async fn no_session_goes_on_that_is_not_listed() {
    let house = House::new();
    let ada = house.user("ada", "acme", &["manage_keys"]).await;
    let first = house.token("ada").await;
    let registry = &house.world.core.registry;
    for n in 1..UserSessions::MOST {
        let (began_at, generation) = (house.clock.now(), ada.sessions);
        let expires_at = began_at.plus(Duration::from_secs(600));
        let session = OpenSession { id: format!("s-{n}"), generation, began_at, expires_at, address: None };
        registry.begin_session(&ada, session).await.unwrap();
    }
    assert_eq!(house.denial(&first).await, None);
    let last = house.token("ada").await;
    assert_eq!((house.denial(&first).await, house.denial(&last).await), (Some(Denial::RevokedUnauthenticated), None));
    let listed = registry.sessions(&Actor::operator(), "ada").await.unwrap();
    assert_eq!((listed.len(), &*listed[0].id), (UserSessions::MOST, "s-1"));
    assert_eq!(listed[UserSessions::MOST - 1].id, claims(&last)["jti"].as_str().unwrap());
    assert_eq!(listed[UserSessions::MOST - 1].address.as_deref(), Some("192.0.2.1"));
}

#[tokio::test]
async fn a_token_whose_session_has_no_record_is_refused() {
    let house = House::new();
    let ada = house.user("ada", "acme", &["manage_keys"]).await;
    let login = house.world.policy.login.as_ref().unwrap();
    house.token("ada").await;
    let token = |id: &str, recorded: bool| {
        let expires_at = house.clock.now().plus(Duration::from_secs(600));
        let (id, user, generation) = (id.to_owned(), ada.name.clone(), ada.sessions);
        let session = Session { id, user, generation, expires_at, recorded };
        house.world.core.resolver.signing().sign(login.claims(&session, house.clock.now())).unwrap()
    };
    assert_eq!(house.denial(&token("lost", true)).await, Some(Denial::RevokedUnauthenticated));
    assert_eq!(house.denial(&token("of-an-earlier-release", false)).await, None, "until it expires");
    let (began_at, generation) = (house.clock.now(), ada.sessions);
    let expires_at = began_at.plus(Duration::from_secs(600));
    let open = OpenSession { id: "kept".to_owned(), generation, began_at, expires_at, address: None };
    assert_eq!(house.world.core.registry.begin_session(&ada, open).await, Ok(true));
    assert_eq!(house.denial(&token("kept", true)).await, None);
}

#[tokio::test]
async fn whoever_has_one_name_in_two_projects_is_told_apart() {
    let house = House::new();
    let mut names = Vec::new();
    for project in ["acme", "beta"] {
        house.user("ada", project, &["manage_keys"]).await;
        let token = house.token(&format!("{project}/ada")).await;
        names.push(told(&house, &token, "x-tollgate-subject").await.unwrap());
        assert_eq!(told(&house, &token, "x-tollgate-project").await.as_deref(), Some(project));
    }
    assert_eq!(names, ["user:acme/ada", "user:beta/ada"]);
    // The name alone is nobody's now, as a wrong password is.
    assert!(matches!(house.login("ada", PASSWORD).await, Err(LoginError::Refused)));
    assert!(matches!(house.login("gamma/ada", PASSWORD).await, Err(LoginError::Refused)));
    let token = house.token("acme/ada").await;
    let twisted = claims(&token).to_string().replace("acme/ada", "beta/ada");
    let [header, _, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!("{token}") };
    let twisted = format!("{header}.{}.{signature}", crate::mint::encoded(twisted.as_bytes()));
    assert_eq!(house.denial(&twisted).await, Some(Denial::TokenSignature));
    house.change("acme/ada", UserChange { disabled: Some(true), ..UserChange::default() }).await;
    assert_eq!(house.denial(&token).await, Some(Denial::RevokedUnauthenticated));
    assert_eq!(house.denial(&house.token("beta/ada").await).await, None, "who has the name elsewhere goes on");
}
