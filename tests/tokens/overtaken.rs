//! A decision that a change overtakes: what it looked up is held on its way to it, the change is made and acknowledged, and only then
//! is it judged. Whoever has been told that something was ended must not see it pass.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use futures_util::poll;
use tokio::runtime::{Builder, Runtime};
use tollgate::clock::Clock;
use tollgate::config;
use tollgate::domain::change::Event;
use tollgate::domain::record::EndedSession;
use tollgate::login::Logins;
use tollgate::password::Passwords;
use tollgate::registry::{Actor, Expected, KeyChange, KeySpec, NewKey, ResourceSpec, UserChange, UserSpec};
use tollgate::resolve::api_key::Digester;
use tollgate::resolve::cache::Sizes;
use tollgate::resolve::pepper::Pepper;
use tollgate::run::Core;
use tollgate::store::embedded::Embedded;
use tollgate::store::{Store, Write};
use tollgate_core::attributes::{Attributes, Header};
use tollgate_core::denial::Denial;
use tollgate_core::policy::Policy;
use tollgate_core::resource::Resource;
use tollgate_core::respond::Decision;
use tollgate_guard::time::Timestamp;
use zeroize::Zeroizing;

use crate::idp::{Answer, Idp};
use crate::mint::{SigningKey, jwks};
use crate::sessions::{claims, secret};
use crate::world::{self, World};

const CONFIG: &str = "
version: 1
store: {embedded: {path: s}}
pepper: {current: 1, keys: {1: {file: p}}}
listen: {check: {unix: {path: c}}, admin: {unix: {path: a}}, ops: {http: 127.0.0.1:0}}
permissions: [run, tune]
credentials: [{header: authorization, scheme: Bearer, kinds: [api_key, jwt]}]
login: {issuer: https://api.test, plane: admin}
hosts:
  - match: [api.test]
    routes:
      - {name: run, match: [POST /run], plane: data, all_of: [run], in: {project: key}}
      - {name: admin, match: [POST /admin], plane: admin, all_of: [manage_keys], in: {project: key}, credential: keep}
      - {name: workload, match: [\"POST /workloads/{id}\"], plane: data, all_of: [run], in: {resource: \"workload:{id}\"}}
";
const PASSWORD: &str = "correct horse battery";

/// Two runtimes over one store: the decision's own, whose blocking thread can be held, and that of whoever makes the change.
struct House {
    deciding: Runtime,
    changing: Runtime,
    policy: Policy,
    core: Core,
    logins: Logins,
    /// The time, in milliseconds.
    now: Arc<AtomicU64>,
}

impl House {
    fn new() -> Self {
        let deciding = Builder::new_current_thread().enable_all().max_blocking_threads(1).build().unwrap();
        let changing = Builder::new_current_thread().enable_all().build().unwrap();
        let policy = config::parse(CONFIG).unwrap_or_else(|problems| panic!("{problems}")).policy;
        let store = Store::Embedded(Arc::new(Embedded::in_memory().unwrap()));
        let digester = Digester::new(&Pepper::new(1, Zeroizing::new([7; 32])), &[]);
        let sizes = Sizes { known: 100, unknown: 100, loads: 16 };
        let now = Arc::new(AtomicU64::new(1_000_000_000_000));
        let clock = Clock::Manual(Arc::clone(&now));
        let core = Core::new(store, digester, sizes, clock.clone());
        deciding.block_on(async { core.resolver.adopt(&policy) });
        let signing = Arc::clone(core.resolver.signing());
        let passwords = Passwords::start().unwrap();
        let logins = Logins::new(core.store.clone(), core.registry.clone(), signing, passwords, clock);
        Self { deciding, changing, policy, core, logins, now }
    }

    fn key(&self) -> NewKey {
        self.key_that_may(&["run"])
    }

    fn key_that_may(&self, permissions: &[&str]) -> NewKey {
        self.key_for(permissions, None)
    }

    fn key_for(&self, permissions: &[&str], expires_in: Option<Duration>) -> NewKey {
        let spec = KeySpec {
            name: "A key".to_owned(),
            plane: "data".to_owned(),
            project: "acme".to_owned(),
            workloads: vec!["*".to_owned()],
            permissions: permissions.iter().map(|&permission| permission.to_owned()).collect(),
            expires_in,
        };
        self.made(self.core.registry.create_key(&self.policy, &Actor::operator(), spec, None))
    }

    /// Registers the workload, or moves it.
    fn workload(&self, project: &str) {
        let spec = ResourceSpec {
            kind: "workload".to_owned(),
            id: "w-1".to_owned(),
            project: project.to_owned(),
            ..ResourceSpec::default()
        };
        self.made(self.core.registry.put_resource(&Actor::operator(), spec, true, Expected::Any));
    }

    /// The token of a user who has just logged in.
    fn token(&self) -> String {
        self.made(async {
            let spec = UserSpec {
                name: "ada".to_owned(),
                password_hash: self.logins.passwords().hash(secret(PASSWORD)).await.unwrap(),
                project: "acme".to_owned(),
                permissions: vec!["manage_keys".to_owned()],
            };
            self.core.registry.create_user(&self.policy, &Actor::operator(), spec, None).await.unwrap();
            self.logins.login(&self.policy, "ada", secret(PASSWORD), None).await
        })
        .token
        .to_string()
    }

    fn made<T, E: std::fmt::Debug>(&self, change: impl Future<Output = Result<T, E>>) -> T {
        self.changing.block_on(change).unwrap()
    }

    fn denial(&self, path: &str, credential: &str) -> Option<Denial> {
        self.overtaken(path, credential, || ())
    }

    /// The denial of a request, with a change that is made and acknowledged after everything it asks of the store was read, and
    /// before any of that reaches it.
    fn overtaken(&self, path: &str, credential: &str, change: impl FnOnce()) -> Option<Denial> {
        let mut change = Some(change);
        self.overtaken_each_time(path, credential, || change.take().map_or((), |change| change()))
    }

    /// The same with a change for every time that it asks the store.
    fn overtaken_each_time(&self, path: &str, credential: &str, mut change: impl FnMut()) -> Option<Denial> {
        let bearer = format!("Bearer {credential}");
        let request = Attributes {
            method: "POST",
            target: path,
            host: "api.test",
            headers: vec![Header::new("authorization", bearer.as_bytes())],
            ..Attributes::default()
        };
        let mut decision = pin!(self.core.pipeline.decide(&self.policy, &request));
        loop {
            let (release, held) = mpsc::channel::<()>();
            self.deciding.handle().spawn_blocking(move || held.recv());
            let decided = self.deciding.block_on(async {
                for _ in 0..10 {
                    if let std::task::Poll::Ready(decision) = poll!(&mut decision) {
                        return Some(denial(&decision));
                    }
                    tokio::task::yield_now().await;
                }
                None
            });
            release.send(()).unwrap();
            if let Some(decided) = decided {
                return decided;
            }
            // Behind the read, on the only thread.
            let (tell, has_read) = mpsc::channel();
            self.deciding.handle().spawn_blocking(move || tell.send(()));
            has_read.recv().unwrap();
            change();
        }
    }
}

fn denial(decision: &Decision<'_>) -> Option<Denial> {
    match decision {
        Decision::Allow(_) => None,
        Decision::Deny(deny) => Some(deny.denial),
    }
}

#[test]
fn a_key_that_is_revoked_while_it_is_judged_is_refused() {
    let house = House::new();
    let (other, key) = (house.key(), house.key());
    assert_eq!(house.denial("/run", other.secret.expose()), None);
    let found = house.overtaken("/run", key.secret.expose(), || {
        house.made(house.core.registry.revoke_key(&Actor::operator(), key.record.id, Expected::Any));
    });
    assert_eq!(found, Some(Denial::RevokedUnauthenticated));
    // What was changed beside it does not matter.
    let key = house.key();
    let found = house.overtaken("/run", key.secret.expose(), || {
        house.made(house.core.registry.revoke_key(&Actor::operator(), other.record.id, Expected::Any));
    });
    assert_eq!(found, None);
}

#[test]
fn a_decision_that_is_overtaken_each_time_is_none() {
    let house = House::new();
    let key = house.key();
    let mut changes = 0;
    let found = house.overtaken_each_time("/run", key.secret.expose(), || {
        changes += 1;
        let (actor, id) = (Actor::operator(), key.record.id);
        let change = KeyChange { name: Some(format!("Name {changes}")), ..KeyChange::default() };
        house.made(house.core.registry.update_key(&house.policy, &actor, id, change, Expected::Any));
    });
    assert_eq!((found, changes), (Some(Denial::Unavailable), 3));
    assert_eq!(house.denial("/run", key.secret.expose()), None);
}

#[test]
fn a_key_that_is_revoked_while_its_resource_is_looked_up_is_refused() {
    let house = House::new();
    let key = house.key();
    house.workload("acme");
    // The key is cached; the workload is not.
    assert_eq!(house.denial("/run", key.secret.expose()), None);
    let found = house.overtaken("/workloads/w-1", key.secret.expose(), || {
        house.made(house.core.registry.revoke_key(&Actor::operator(), key.record.id, Expected::Any));
    });
    assert_eq!(found, Some(Denial::RevokedUnauthenticated));
}

#[test]
fn a_key_that_expires_while_it_is_looked_up_is_refused() {
    let house = House::new();
    let key = house.key_for(&["run"], Some(Duration::from_secs(10)));
    let found = house.overtaken("/run", key.secret.expose(), || {
        house.now.fetch_add(11_000, Ordering::Relaxed);
    });
    assert_eq!(found, Some(Denial::Expired));
}

#[test]
fn a_resource_that_moves_while_it_is_judged_is_refused() {
    let house = House::new();
    let key = house.key();
    house.workload("acme");
    assert_eq!(house.denial("/run", key.secret.expose()), None);
    let found = house.overtaken("/workloads/w-1", key.secret.expose(), || house.workload("other"));
    assert_eq!(found, Some(Denial::ResourceOutOfScope));
    house.workload("acme");
    assert_eq!(house.denial("/workloads/w-1", key.secret.expose()), None);
}

/// Such a record comes from no change that a registry makes.
#[test]
fn a_resource_that_no_rule_would_have_let_in_is_an_error() {
    let house = House::new();
    let key = house.key();
    for (id, project, slug, denial) in [
        ("w-1", "acme", "chat", None),
        ("w-2", "acme\r\n", "chat", Some(Denial::Internal)),
        ("w-3", "", "chat", Some(Denial::Internal)),
        ("w-4", "*", "chat", Some(Denial::Internal)),
        ("w-5", "acme", "chat\r\nx-tollgate-project: beta", Some(Denial::Internal)),
        ("w-6", "acme", "", Some(Denial::Internal)),
    ] {
        let resource = Resource {
            kind: "workload".to_owned(),
            id: id.to_owned(),
            slug: slug.to_owned(),
            project: project.to_owned(),
            project_id: None,
            owner: None,
            created_at: Timestamp::default(),
            version: 1,
        };
        house.made(house.core.store.commit(vec![Write::CreateResource(resource)], Event::touching(&[])));
        assert_eq!(house.denial(&format!("/workloads/{id}"), key.secret.expose()), denial, "{id}");
    }
}

#[test]
fn nothing_is_looked_up_for_who_could_not_have_it() {
    let house = House::new();
    let key = house.key_that_may(&["tune"]);
    house.workload("acme");
    assert_eq!(house.denial("/run", key.secret.expose()), Some(Denial::PermissionMissing));
    let found = house.overtaken("/workloads/w-1", key.secret.expose(), || panic!("the store was asked"));
    assert_eq!(found, Some(Denial::PermissionMissing));
}

#[test]
fn a_key_whose_project_is_suspended_while_it_is_judged_is_refused() {
    let house = House::new();
    let key = house.key();
    let found = house.overtaken("/run", key.secret.expose(), || {
        house.made(house.core.registry.suspend_project(&Actor::operator(), "acme", Expected::Any));
    });
    assert_eq!(found, Some(Denial::RevokedUnauthenticated));
}

#[test]
fn a_session_that_ends_while_it_is_judged_is_refused() {
    let house = House::new();
    let token = house.token();
    let found = house.overtaken("/admin", &token, || {
        let id = claims(&token)["jti"].as_str().unwrap().to_owned();
        let now = tollgate::clock::Clock::System.now();
        let session = EndedSession { id, user: "acme/ada".to_owned(), ended_at: now, expires_at: now };
        house.made(house.core.registry.end_session(&Actor::operator(), session));
    });
    assert_eq!(found, Some(Denial::RevokedUnauthenticated));
}

#[test]
fn a_session_whose_user_is_disabled_while_it_is_judged_is_refused() {
    let house = House::new();
    let token = house.token();
    let found = house.overtaken("/admin", &token, || {
        let change = UserChange { disabled: Some(true), ..UserChange::default() };
        house.made(house.core.registry.update_user(&house.policy, &Actor::operator(), "ada", change, Expected::Any));
    });
    assert_eq!(found, Some(Denial::RevokedUnauthenticated));
}

#[tokio::test]
async fn a_token_whose_issuer_is_forgotten_while_it_is_verified_is_verified_anew() {
    let (kept, stolen) = (SigningKey::generate("kept", "EdDSA"), SigningKey::generate("stolen", "EdDSA"));
    let idp = Idp::start(Answer::Keys(jwks([&kept, &stolen]))).await;
    let world = World::new(&format!("{{url: \"{}\"}}", idp.url()), "");
    world.wait_for(&kept.token(&world::claims()), None).await;
    let token = stolen.token(&world::claims());
    let mut denial = pin!(world.denial(&token));
    assert!(poll!(&mut denial).is_pending(), "its signature is verified by another thread");

    // The issuer takes the key back, which somebody's unknown key finds out.
    idp.answer_with(Answer::Keys(jwks([&kept])));
    let unknown = SigningKey::generate("unknown", "EdDSA");
    assert_eq!(world.denial(&unknown.token(&world::claims())).await, Some(Denial::TokenKey));
    world.core.registry.forget_issuer(&world.policy, &Actor::operator(), "sso").await.unwrap();
    assert_eq!(denial.await, Some(Denial::TokenKey));
}
