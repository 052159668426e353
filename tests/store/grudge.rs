//! An administrator of one project who tries to fill the store for everybody, within their rights: what is let through, and what
//! the others notice. Prints both.

use std::time::Duration;

use tollgate::clock::Clock;
use tollgate::domain::record::{ApiKey, OpenSession, Outcome};
use tollgate::registry::{
    Actor, Expected, KeyChange, KeySpec, Limits, ProjectQuotas, Quotas, Rate, Rates, RegistryError, ResourceSpec,
    Tombstones, UserChange,
};

use crate::registry_fixture::{RegistryFixture, actor, spec};
use crate::support::in_redis;

const HELD: [&str; 4] = ["run", "manage_keys", "manage_users", "manage_resources"];

fn of(name: &str, project: &str) -> Actor {
    actor(name, project, &HELD)
}

fn limits(burst: u32, keys: u64) -> Limits {
    let rate = |burst| Rate { burst, per_second: 1 };
    let each = ProjectQuotas { keys, users: 8, resources: 6 };
    Limits {
        rates: Rates { actor: rate(burst), project: rate(2 * burst) },
        quotas: Quotas { each, ..Quotas::default() },
        audit_kept: None,
        tombstones: None,
    }
}

fn fixture(limits: Limits) -> RegistryFixture {
    let fixture = RegistryFixture::new();
    fixture.registry.limit(limits);
    fixture
}

impl RegistryFixture {
    async fn try_key(&self, actor: &Actor, project: &str) -> Result<ApiKey, RegistryError> {
        let made = self.registry.create_key(&self.policy, actor, spec("data", project, &["run"]), None).await;
        made.map(|new| new.record)
    }

    /// The keys that so many attempts came to.
    async fn try_keys(&self, actor: &Actor, attempts: usize) -> Vec<ApiKey> {
        let project = actor.project.clone().unwrap_or_else(|| "acme".to_owned());
        let mut made = Vec::new();
        for _ in 0..attempts {
            match self.try_key(actor, &project).await {
                Ok(key) => made.push(key),
                Err(RegistryError::TooFast { message, retry_after }) => {
                    assert!(message.contains("rates.") && !retry_after.is_zero(), "{message}");
                }
                Err(error) => assert!(matches!(error, RegistryError::OverQuota(_)), "{error}"),
            }
        }
        println!("{}: {} keys of {attempts} attempts", actor.subject, made.len());
        made
    }

    async fn try_resource(&self, actor: &Actor, id: &str, project: &str) -> Result<(), RegistryError> {
        let (kind, id, project) = ("workload".to_owned(), id.to_owned(), project.to_owned());
        let spec = ResourceSpec { kind, id, project, ..ResourceSpec::default() };
        self.registry.put_resource(actor, spec, true, Expected::Any).await.map(|_| ())
    }
}

#[track_caller]
fn assert_over<T: std::fmt::Debug>(result: Result<T, RegistryError>, setting: &str) {
    match result {
        Err(RegistryError::OverQuota(reason)) => assert!(reason.contains(setting), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn whoever_makes_too_much_waits_and_others_do_not() {
    let fixture = fixture(limits(40, 10_000));
    let a = of("a", "acme");
    let made = fixture.try_keys(&a, 200).await;
    assert_eq!(made.len(), 40);
    let rename = KeyChange { name: Some("x".to_owned()), ..KeyChange::default() };
    let renamed = fixture.registry.update_key(&fixture.policy, &a, made[0].id, rename, Expected::Any).await;
    assert!(matches!(renamed, Err(RegistryError::TooFast { .. })), "a change takes as much room as a creation");
    assert_eq!(fixture.try_keys(&of("b", "acme"), 200).await.len(), 40);
    assert_eq!(fixture.try_keys(&of("c", "acme"), 200).await.len(), 0, "the project has made enough");
    assert!(matches!(fixture.try_user(&a, "ann", "acme", &["run"]).await, Err(RegistryError::TooFast { .. })));

    // What others notice.
    assert_eq!(fixture.try_keys(&of("d", "beta"), 40).await.len(), 40);
    assert_eq!(fixture.try_keys(&Actor::operator(), 200).await.len(), 200, "the operator is never held back");
    for key in &made {
        fixture.registry.revoke_key(&a, key.id, Expected::Any).await.unwrap();
    }
    fixture.user("bob", "acme", &["run"]).await;
    let disabled = UserChange { disabled: Some(true), ..UserChange::default() };
    fixture.registry.update_user(&fixture.policy, &a, "bob", disabled, Expected::Any).await.unwrap();
    fixture.registry.delete_user(&a, "bob", Expected::Any).await.unwrap();

    fixture.pass(Duration::from_secs(7));
    assert_eq!(fixture.try_keys(&a, 50).await.len(), 7);
}

#[tokio::test]
async fn whoever_is_given_a_name_again_begins_with_a_rate_of_their_own() {
    let fixture = fixture(limits(40, 10_000));
    let ann = |id: &str| Actor {
        subject: "user:acme/ann".to_owned(),
        id: Some(id.to_owned()),
        project: None,
        ..of("ann", "acme")
    };
    assert_eq!(fixture.try_keys(&ann("abcdEFGH01234567"), 50).await.len(), 40);
    assert_eq!(fixture.try_keys(&ann("abcdEFGH01234567"), 50).await.len(), 0);
    assert_eq!(fixture.try_keys(&ann("otherEFGH0123456"), 50).await.len(), 40);
    // Nor is what one was refused counted as the other's.
    for (id, expected) in [("abcdEFGH01234567", 120), ("otherEFGH0123456", 240)] {
        for _ in 0..200 {
            fixture.registry.refused(&ann(id), "key.show", "key:abcdefghijkl", None, "not yours").await;
        }
        let rows = fixture.log().await;
        assert_eq!(rows.iter().filter(|row| row.act == "key.show").count(), expected);
    }
}

#[tokio::test]
async fn what_is_ended_again_and_again_fills_no_log() {
    let fixture = fixture(limits(40, 10_000));
    let a = of("a", "acme");
    let key = fixture.try_key(&a, "acme").await.unwrap();
    for _ in 0..1_000 {
        let revoked = fixture.registry.revoke_key(&a, key.id, Expected::Any).await.unwrap();
        assert!(revoked.revoked_at.is_some());
    }
    let rows = fixture.log().await.len();
    println!("{rows} rows of 1001 revocations of one key");
    assert!(rows < 200);
}

#[tokio::test]
async fn whoever_ends_a_session_again_and_again_waits_and_ends_another_all_the_same() {
    let fixture = fixture(limits(40, 10_000));
    let a = of("a", "acme");
    let ann = fixture.user("ann", "acme", &["run"]).await;
    for id in ["ended", "going-on"].map(str::to_owned) {
        let (began_at, generation) = (fixture.now(), ann.sessions);
        let expires_at = began_at.plus(Duration::from_secs(60));
        let session = OpenSession { id, generation, began_at, expires_at, address: None };
        fixture.registry.begin_session(&ann, session).await.unwrap();
    }
    let end = async |id: &str| fixture.registry.end_listed_session(&a, &ann.name, id).await.map(drop);
    let end_again = async |attempts: usize| {
        let mut made = 0;
        for _ in 0..attempts {
            match end("ended").await {
                Ok(()) => made += 1,
                Err(error) => assert!(matches!(error, RegistryError::TooFast { .. }), "{error}"),
            }
        }
        made
    };
    end("ended").await.unwrap();
    let made = end_again(200).await;
    println!("{made} of 200 attempts to end a session again");
    assert_eq!(made, 40);
    end("going-on").await.unwrap();
    fixture.pass(Duration::from_secs(7));
    assert_eq!(end_again(50).await, 7);
}

#[tokio::test]
async fn a_project_has_what_its_quota_allows_with_what_was_ended() {
    let fixture = fixture(limits(100_000, 10));
    let (a, everywhere) = (of("a", "acme"), of("e", "*"));
    let mut made = Vec::new();
    for _ in 0..50 {
        if let Ok(key) = fixture.try_key(&a, "acme").await {
            fixture.registry.revoke_key(&a, key.id, Expected::Any).await.unwrap();
            made.push(key);
        }
    }
    println!("create and revoke: {} keys of 50 attempts", made.len());
    assert_eq!(made.len(), 10);
    assert_over(fixture.try_key(&a, "acme").await, "quotas.projects.acme.keys");
    assert_over(fixture.try_key(&Actor::operator(), "acme").await, "revoked ones included");
    let refused = fixture.log().await.into_iter().find(|row| row.outcome == Outcome::Refused).unwrap();
    assert_eq!((refused.project.as_deref(), &*refused.actor), (Some("acme"), "operator"));

    let other = fixture.try_key(&of("b", "beta"), "beta").await.unwrap();
    assert_eq!(fixture.try_keys(&of("b", "beta"), 50).await.len(), 9);
    let rotated =
        fixture.registry.rotate_key(&fixture.policy, &of("b", "beta"), other.id, Duration::ZERO, Expected::Any).await;
    assert_over(rotated.map(|_| ()), "quotas.projects.beta.keys");

    for n in 0..50 {
        let name = format!("user-{n}");
        if fixture.try_user(&a, &name, "acme", &["run"]).await.is_ok() {
            fixture.registry.delete_user(&a, &name, Expected::Any).await.unwrap();
        }
    }
    assert_over(fixture.try_user(&a, "one-more", "acme", &["run"]).await, "deleted ones included");
    fixture.user("carl", "*", &["run"]).await;
    let moved = UserChange { project: Some("acme".to_owned()), ..UserChange::default() };
    let moved = fixture.registry.update_user(&fixture.policy, &everywhere, "carl", moved, Expected::Any).await;
    assert_over(moved, "quotas.users");

    for n in 0..6 {
        fixture.try_resource(&everywhere, &n.to_string(), "acme").await.unwrap();
    }
    assert_over(fixture.try_resource(&everywhere, "7", "acme").await, "quotas.projects.acme.resources");
    fixture.try_resource(&everywhere, "8", "beta").await.unwrap();
    assert_over(fixture.try_resource(&everywhere, "8", "acme").await, "quotas.resources");
    fixture.try_resource(&everywhere, "0", "acme").await.unwrap();
    fixture.registry.delete_resource(&everywhere, "workload", "0", Expected::Any).await.unwrap();
    fixture.try_resource(&everywhere, "8", "acme").await.unwrap();

    let mut raised = limits(100_000, 10);
    let own = ProjectQuotas { keys: 12, ..raised.quotas.each };
    raised.quotas.projects.insert("acme".to_owned(), own);
    fixture.registry.limit(raised);
    assert_eq!(fixture.try_keys(&a, 50).await.len(), 2);
    assert_eq!(fixture.try_keys(&of("b", "beta"), 5).await.len(), 0);
}

const DAY: Duration = Duration::from_secs(24 * 3600);

#[tokio::test]
async fn what_was_revoked_makes_room_once_no_copy_of_the_store_has_it_valid() {
    let fixture = RegistryFixture::new();
    let planes = ["data", "admin"].map(str::to_owned).into();
    let rule = Tombstones { backups_kept: 90 * DAY, planes };
    fixture.registry.limit(Limits { tombstones: Some(rule), ..limits(1_000, 6) });
    let operator = Actor::operator();
    let made = async |plane: &str, days: Option<u32>, is_revoked: bool| {
        let expires_in = days.map(|days| days * DAY);
        let spec = KeySpec { expires_in, ..spec(plane, "acme", &["run"]) };
        let key = fixture.registry.create_key(&fixture.policy, &operator, spec, None).await.unwrap().record;
        if is_revoked {
            fixture.registry.revoke_key(&operator, key.id, Expected::Any).await.unwrap();
        }
        key
    };
    let over = made("data", Some(30), true).await;
    let kept = [
        made("data", Some(200), true).await,
        made("data", None, true).await,
        made("data", Some(30), false).await,
        // It is answered with 403.
        made("control", Some(30), true).await,
        made("data", None, false).await,
    ];
    assert_over(fixture.try_key(&operator, "acme").await, "revoked ones included");
    let round = async |after: Duration| {
        fixture.pass(after);
        // A clock that runs ahead takes nothing: it is the log that says how late it is.
        fixture.registry.purge_tombstones().await.unwrap();
        fixture.user(&format!("of-{}", fixture.now().as_millis()), "beta", &["run"]).await;
        fixture.pass(2 * DAY);
        fixture.registry.purge_tombstones().await.unwrap();
        fixture.registry.key(&operator, over.id).await.is_ok()
    };
    assert!(round(110 * DAY).await, "expired 82 days ago");
    assert!(!round(10 * DAY).await, "expired 94 days ago");
    for key in &kept {
        fixture.registry.key(&operator, key.id).await.unwrap();
    }
    let row = fixture.log().await.into_iter().find(|row| row.act == "key.purge").unwrap();
    assert_eq!((&*row.actor, row.project.as_deref(), &*row.target), ("tollgate", Some("acme"), "project:acme"));
    let newest = fixture.log().await.into_iter().filter(|row| row.act != "key.purge").map(|row| row.at).max();
    assert!(Some(row.at) <= newest, "what tells how late it is must not be told by a clock that runs ahead");
    fixture.try_key(&operator, "acme").await.unwrap();
}

#[tokio::test]
async fn a_round_that_a_wrong_clock_has_dated_ahead_holds_up_no_other() {
    let fixture = RegistryFixture::new();
    let rule = Tombstones { backups_kept: 90 * DAY, planes: ["data".to_owned()].into() };
    fixture.registry.limit(Limits { tombstones: Some(rule), ..limits(1_000, 6) });
    let operator = Actor::operator();
    let spec = KeySpec { expires_in: Some(DAY), ..spec("data", "acme", &["run"]) };
    let key = fixture.registry.create_key(&fixture.policy, &operator, spec, None).await.unwrap().record;
    fixture.registry.revoke_key(&operator, key.id, Expected::Any).await.unwrap();
    fixture.pass(100 * DAY);
    let now = fixture.now();
    fixture.pass(1_000 * DAY);
    // By the log it is too early.
    fixture.registry.purge_tombstones().await.unwrap();
    assert!(fixture.registry.key(&operator, key.id).await.is_ok());
    fixture.set(now);
    fixture.user("later", "beta", &["run"]).await;
    fixture.registry.purge_tombstones().await.unwrap();
    assert!(fixture.registry.key(&operator, key.id).await.is_err(), "today's round was held up");
}

/// By what it writes itself, either: all who share the store have the store's time in common.
#[tokio::test]
async fn a_replica_whose_clock_runs_ahead_removes_nothing() {
    let (store, _, _server) = in_redis().await;
    let fixture = RegistryFixture::on(store);
    let rule = Tombstones { backups_kept: 90 * DAY, planes: ["data".to_owned()].into() };
    fixture.registry.limit(Limits { tombstones: Some(rule), audit_kept: Some(90 * DAY), ..limits(1_000, 6) });
    fixture.set(Clock::System.now());
    let operator = Actor::operator();
    let spec = KeySpec { expires_in: Some(DAY), ..spec("data", "acme", &["run"]) };
    let key = fixture.registry.create_key(&fixture.policy, &operator, spec, None).await.unwrap().record;
    fixture.registry.revoke_key(&operator, key.id, Expected::Any).await.unwrap();
    let rows = fixture.log().await.len();
    fixture.pass(200 * DAY);
    fixture.user("ahead", "beta", &["run"]).await;
    fixture.registry.purge_tombstones().await.unwrap();
    fixture.registry.trim_old_rows().await.unwrap();
    assert!(fixture.registry.key(&operator, key.id).await.is_ok());
    assert_eq!(fixture.log().await.len(), rows + 1);
}

#[tokio::test]
async fn refusals_of_one_project_hide_none_of_another() {
    let fixture = RegistryFixture::new();
    for n in 0..3_000 {
        let a = of(&format!("a-{}", n % 50), "acme");
        assert!(matches!(fixture.try_key(&a, "beta").await, Err(RegistryError::Forbidden(_))));
    }
    let rows = fixture.log().await.len();
    println!("{rows} rows of 3000 refusals");
    assert_eq!(rows, 600);
    assert!(fixture.try_key(&of("b", "beta"), "acme").await.is_err());
    assert_eq!(fixture.log().await.len(), 601);
}

#[tokio::test]
async fn only_the_operator_removes_rows_of_the_log() {
    let fixture = RegistryFixture::new();
    fixture.key("data", "acme", &["run"]).await;
    fixture.key("data", "acme", &["run"]).await;
    fixture.pass(Duration::from_secs(60));
    let before = fixture.now();
    for actor in [of("acme", "acme"), of("root", "*")] {
        let trimmed = fixture.registry.trim_audit(&actor, before).await;
        assert!(matches!(trimmed, Err(RegistryError::Forbidden(_))), "{trimmed:?}");
    }
    let log = fixture.log().await;
    let refused = |act: &str| log.iter().filter(|row| row.act == act && row.outcome == Outcome::Refused).count();
    assert_eq!((log.len(), refused("audit.trim")), (4, 2));
    assert_eq!(fixture.registry.trim_audit(&Actor::operator(), before).await.unwrap(), (2, false));
}

#[tokio::test]
async fn a_key_is_for_so_many_workloads_at_most() {
    let fixture = RegistryFixture::new();
    let try_key = async |count: usize| {
        let workloads = (0..count).map(|number| format!("w{number}")).collect();
        let spec = KeySpec { workloads, ..spec("data", "acme", &["run"]) };
        fixture.registry.create_key(&fixture.policy, &Actor::operator(), spec, None).await.map(|key| key.record)
    };
    assert_eq!(try_key(256).await.unwrap().workloads.len(), 256);
    let more = try_key(257).await;
    assert!(matches!(more, Err(RegistryError::Invalid { field: "workloads", .. })), "{more:?}");
}

#[tokio::test]
async fn a_refusal_names_no_secret() {
    let fixture = RegistryFixture::new();
    let key = fixture.key("data", "acme", &["run"]).await.secret;
    let found = fixture.registry.user(&of("beta", "beta"), key.expose()).await;
    assert!(matches!(found, Err(RegistryError::NotFound(_))), "{found:?}");
    let log = fixture.log().await;
    assert_eq!((&*log[0].act, log[0].outcome), ("user.show", Outcome::Refused));
    assert!(log[0].target.starts_with("user:") && !format!("{log:?}").contains(&key.expose()[20..]), "{log:?}");
}

#[tokio::test]
async fn a_clock_that_was_set_forward_removes_no_rows() {
    let fixture = fixture(Limits { audit_kept: Some(400 * DAY), ..limits(9, 9) });
    for _ in 0..3 {
        fixture.key("data", "acme", &["run"]).await;
    }
    fixture.pass(4_000 * DAY);
    fixture.registry.trim_old_rows().await.unwrap();
    assert_eq!(fixture.log().await.len(), 3);
}

#[tokio::test]
async fn a_key_that_no_longer_works_is_not_rotated() {
    let fixture = RegistryFixture::new();
    let (operator, any) = (Actor::operator(), Expected::Any);
    let rotate = async |id| fixture.registry.rotate_key(&fixture.policy, &operator, id, DAY, any).await.map(|_| ());
    let revoked = fixture.key("data", "acme", &["run"]).await.record.id;
    fixture.registry.revoke_key(&operator, revoked, any).await.unwrap();
    let spec = KeySpec { expires_in: Some(DAY), ..spec("data", "acme", &["run"]) };
    let expired = fixture.registry.create_key(&fixture.policy, &operator, spec, None).await.unwrap().record.id;
    fixture.pass(2 * DAY);
    for id in [revoked, expired] {
        let rotated = rotate(id).await;
        assert!(matches!(rotated, Err(RegistryError::Conflict(_))), "{rotated:?}");
    }
}

#[tokio::test]
async fn nobody_sees_or_ends_sessions_of_a_user_elsewhere() {
    let fixture = RegistryFixture::new();
    fixture.user("ben", "beta", &["run"]).await;
    let acme = of("acme", "acme");
    for name in ["ben", "beta/ben", "beta/ghost"] {
        let seen = fixture.registry.sessions(&acme, name).await;
        assert!(matches!(seen, Err(RegistryError::NotFound(_))), "{name}: {seen:?}");
        let ended = fixture.registry.end_listed_session(&acme, name, "s-1").await.map(|_| ());
        assert!(matches!(ended, Err(RegistryError::NotFound(_))), "{name}: {ended:?}");
    }
}
