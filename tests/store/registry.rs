//! What the registry promises beyond who may do what: nothing made twice, no update lost, no session left open, and a log
//! without secrets.

use std::time::Duration;

use tollgate::domain::record::{EndedSession, KeyState};
use tollgate::registry::{
    Actor, Expected, KeyChange, KeySpec, NewKey, Once, RegistryError, ResourceSpec, UserChange, UserSpec,
};
use tollgate::store::KeyQuery;
use tollgate_core::credential::KeyId;

use crate::registry_fixture::{HASH, RegistryFixture, actor, names, spec, user_spec};
use crate::support::{at, id};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn once(key: &str) -> Option<Once> {
    Some(Once { key: key.to_owned() })
}

impl RegistryFixture {
    async fn key_once(&self, actor: &Actor, spec: KeySpec, key: &str) -> Result<NewKey, RegistryError> {
        self.registry.create_key(&self.policy, actor, spec, once(key)).await
    }

    async fn key_count(&self) -> usize {
        self.store.keys(KeyQuery { limit: 999, ..KeyQuery::default() }).await.unwrap().len()
    }

    async fn change_user(&self, name: &str, change: UserChange) -> Result<u64, RegistryError> {
        let changed = self.registry.update_user(&self.policy, &Actor::operator(), name, change, Expected::Any).await;
        changed.map(|user| user.sessions)
    }
}

#[tokio::test]
async fn a_key_is_made_once_under_an_idempotency_key() {
    let fixture = RegistryFixture::new();
    let (operator, wanted) = (Actor::operator(), spec("data", "acme", &["run", "read"]));
    let first = fixture.key_once(&operator, wanted.clone(), "a").await.unwrap();
    let repeated = RegistryError::Repeated { target: format!("key:{}", first.record.id) };
    // The order of a list makes no other key.
    for wanted in [wanted.clone(), KeySpec { permissions: names(&["read", "run"]), ..wanted.clone() }] {
        assert_eq!(fixture.key_once(&operator, wanted, "a").await.unwrap_err(), repeated);
    }
    let lasting = KeySpec { expires_in: Some(DAY), ..wanted.clone() };
    for other in [spec("data", "beta", &["run", "read"]), spec("data", "acme", &["run"]), lasting] {
        assert!(matches!(fixture.key_once(&operator, other, "a").await, Err(RegistryError::Mismatch(_))));
    }
    assert_eq!(fixture.key_count().await, 1);
    assert_eq!(fixture.log().await.len(), 1, "what was not made twice is not in the log twice");

    // Another key, another actor, another act, another day.
    fixture.key_once(&operator, wanted.clone(), "b").await.unwrap();
    fixture.key_once(&actor("x", "*", &["run", "read"]), wanted.clone(), "a").await.unwrap();
    let made =
        fixture.registry.create_user(&fixture.policy, &operator, user_spec("ann", "acme", &["run"]), once("a")).await;
    assert_eq!(made.unwrap().name, "acme/ann");
    fixture.pass(DAY - Duration::from_millis(1));
    assert_eq!(fixture.key_once(&operator, wanted.clone(), "a").await.unwrap_err(), repeated);
    fixture.pass(Duration::from_millis(1));
    fixture.key_once(&operator, wanted.clone(), "a").await.unwrap();
    assert_eq!(fixture.key_count().await, 4);

    for bad in ["", "a b", "ä", "a\n", &"x".repeat(256)] {
        let refused = fixture.key_once(&operator, wanted.clone(), bad).await;
        assert!(matches!(refused, Err(RegistryError::Invalid { field: "Idempotency-Key", .. })), "{bad:?}");
    }
    fixture.key_once(&operator, wanted, &"x".repeat(255)).await.unwrap();
}

#[tokio::test]
async fn who_asks_twice_at_once_gets_one_key() {
    let fixture = RegistryFixture::new();
    let (operator, wanted) = (Actor::operator(), spec("data", "acme", &["run"]));
    let all = (0..8).map(|_| fixture.key_once(&operator, wanted.clone(), "a"));
    let results = futures_util::future::join_all(all).await;
    let made: Vec<&NewKey> = results.iter().filter_map(|result| result.as_ref().ok()).collect();
    assert_eq!(made.len(), 1);
    let repeated = RegistryError::Repeated { target: format!("key:{}", made[0].record.id) };
    assert_eq!(results.iter().filter(|result| result.as_ref().is_err_and(|error| *error == repeated)).count(), 7);
    assert_eq!(fixture.key_count().await, 1);
}

#[tokio::test]
async fn a_user_who_was_made_is_shown_again() {
    let fixture = RegistryFixture::new();
    let operator = Actor::operator();
    let make = async |spec: UserSpec| fixture.registry.create_user(&fixture.policy, &operator, spec, once("a")).await;
    let ann = make(user_spec("ann", "acme", &["run"])).await.unwrap();
    // A password has another hash each time.
    let again = UserSpec { password_hash: HASH.replace('8', "9"), ..user_spec("ann", "acme", &["run"]) };
    assert_eq!(make(again.clone()).await.unwrap(), ann);
    assert!(matches!(make(user_spec("ann", "beta", &["run"])).await, Err(RegistryError::Mismatch(_))));
    assert!(matches!(make(user_spec("bob", "acme", &["run"])).await, Err(RegistryError::Mismatch(_))));
    fixture.registry.delete_user(&operator, "ann", Expected::Any).await.unwrap();
    assert_eq!(make(again).await.unwrap_err(), RegistryError::Repeated { target: "user:acme/ann".to_owned() });
    assert_eq!(fixture.log().await.len(), 2);
}

#[tokio::test]
async fn an_update_that_was_overtaken_is_refused() {
    let fixture = RegistryFixture::new();
    let (operator, policy, registry) = (Actor::operator(), &fixture.policy, &fixture.registry);
    let id = fixture.key("data", "acme", &["run"]).await.record.id;
    fixture.user("ann", "acme", &["run"]).await;
    let thing = ResourceSpec { kind: "workload".into(), id: "w".into(), project: "acme".into(), ..Default::default() };
    registry.put_resource(&operator, thing.clone(), false, Expected::Any).await.unwrap();
    let rows = fixture.log().await.len();

    let rename = KeyChange { name: Some("New".to_owned()), ..KeyChange::default() };
    let disable = UserChange { disabled: Some(true), ..UserChange::default() };
    let moved = ResourceSpec { project: "beta".to_owned(), ..thing };
    for version in [0, 2, u64::MAX] {
        let stale = Expected::Version(version);
        for result in [
            registry.update_key(policy, &operator, id, rename.clone(), stale).await.map(|_| ()),
            registry.rotate_key(policy, &operator, id, DAY, stale).await.map(|_| ()),
            registry.revoke_key(&operator, id, stale).await.map(|_| ()),
            registry.update_user(policy, &operator, "ann", disable.clone(), stale).await.map(|_| ()),
            registry.set_password(policy, &operator, "ann", HASH.to_owned(), stale).await.map(|_| ()),
            registry.delete_user(&operator, "ann", stale).await.map(|_| ()),
            registry.put_resource(&operator, moved.clone(), true, stale).await.map(|_| ()),
            registry.delete_resource(&operator, "workload", "w", stale).await.map(|_| ()),
        ] {
            assert!(matches!(result, Err(RegistryError::Stale(_))), "{result:?}");
        }
    }
    assert_eq!(fixture.log().await.len(), rows);
    let (first, second) = (Expected::Version(1), Expected::Version(2));
    assert_eq!(registry.update_key(policy, &operator, id, rename, first).await.unwrap().version, 2);
    assert_eq!(registry.revoke_key(&operator, id, second).await.unwrap().version, 3);
    assert_eq!(registry.update_user(policy, &operator, "ann", disable, first).await.unwrap().version, 2);
    assert_eq!(registry.set_password(policy, &operator, "ann", HASH.to_owned(), second).await.unwrap().version, 3);
    assert_eq!(registry.put_resource(&operator, moved, true, first).await.unwrap().version, 2);
    registry.delete_resource(&operator, "workload", "w", second).await.unwrap();
}

#[tokio::test]
async fn changes_at_once_are_all_made() {
    let fixture = RegistryFixture::new();
    let id = fixture.key("data", "acme", &["run"]).await.record.id;
    fixture.user("ann", "acme", &["run"]).await;
    let operator = Actor::operator();
    let rename = async |n: u64| {
        let change = KeyChange { name: Some(format!("Name {n}")), ..KeyChange::default() };
        fixture.registry.update_key(&fixture.policy, &operator, id, change, Expected::Any).await.unwrap().version
    };
    let mut versions = futures_util::future::join_all((0..6).map(rename)).await;
    versions.sort_unstable();
    assert_eq!(versions, [2, 3, 4, 5, 6, 7]);

    let passwords = (0..6)
        .map(|_| fixture.registry.set_password(&fixture.policy, &operator, "ann", HASH.to_owned(), Expected::Any));
    futures_util::future::join_all(passwords).await.into_iter().for_each(|changed| assert!(changed.is_ok()));
    assert_eq!(fixture.registry.user(&operator, "ann").await.unwrap().sessions, 7);
}

#[tokio::test]
async fn a_key_changes_in_what_is_said_alone() {
    let fixture = RegistryFixture::new();
    let old = fixture.key("data", "acme", &["run"]).await.record;
    let operator = Actor::operator();
    let change = async |id: KeyId, change: KeyChange| {
        fixture.registry.update_key(&fixture.policy, &operator, id, change, Expected::Any).await
    };
    let unchanged = change(old.id, KeyChange::default()).await.unwrap();
    assert_eq!((&*unchanged, unchanged.sequence), (&old, None));
    let same = KeyChange { permissions: Some(names(&["run", "run"])), ..KeyChange::default() };
    assert_eq!(*change(old.id, same).await.unwrap(), old);
    assert_eq!(fixture.log().await.len(), 1, "nothing was changed");

    let end = old.created_at.plus(DAY);
    let all = KeyChange {
        name: Some("New".to_owned()),
        workloads: Some(names(&["b", "a"])),
        permissions: Some(names(&["run", "read"])),
        expires_at: Some(Some(end)),
    };
    let new = change(old.id, all).await.unwrap().result;
    assert_eq!((&*new.name, new.expires_at, new.version), ("New", Some(end), 2));
    assert_eq!((new.workloads, new.permissions), (names(&["a", "b"]), names(&["read", "run"])));
    assert_eq!(fixture.store.key(old.id).await.unwrap().unwrap().digest, old.digest);
    let lasting = change(old.id, KeyChange { expires_at: Some(None), ..KeyChange::default() }).await.unwrap().result;
    assert_eq!((lasting.expires_at, lasting.name), (None, "New".to_owned()));

    for (bad, wrong) in [
        ("name", KeyChange { name: Some(String::new()), ..KeyChange::default() }),
        ("workloads", KeyChange { workloads: Some(vec![]), ..KeyChange::default() }),
        ("workloads", KeyChange { workloads: Some(names(&["*", "a"])), ..KeyChange::default() }),
        ("workloads", KeyChange { workloads: Some(vec!["a".repeat(63); 66]), ..KeyChange::default() }),
        ("permissions", KeyChange { permissions: Some(vec![]), ..KeyChange::default() }),
        ("permissions", KeyChange { permissions: Some(names(&["fly"])), ..KeyChange::default() }),
        ("permissions", KeyChange { permissions: Some(names(&["manage_users"])), ..KeyChange::default() }),
        ("expires_at", KeyChange { expires_at: Some(Some(old.created_at)), ..KeyChange::default() }),
    ] {
        let result = change(old.id, wrong).await;
        assert!(matches!(result, Err(RegistryError::Invalid { field, .. }) if field == bad), "{bad}: {result:?}");
    }
}

#[tokio::test]
async fn a_key_that_no_longer_works_is_not_changed() {
    let fixture = RegistryFixture::new();
    let operator = Actor::operator();
    let short = KeySpec { expires_in: Some(DAY), ..spec("data", "acme", &["run"]) };
    let short = fixture.registry.create_key(&fixture.policy, &operator, short, None).await.unwrap().record;
    let revoked = fixture.key("data", "acme", &["run"]).await.record;
    fixture.registry.revoke_key(&operator, revoked.id, Expected::Any).await.unwrap();
    fixture.pass(DAY);
    for id in [short.id, revoked.id] {
        let forever = KeyChange { expires_at: Some(None), ..KeyChange::default() };
        let result = fixture.registry.update_key(&fixture.policy, &operator, id, forever, Expected::Any).await;
        assert!(matches!(result, Err(RegistryError::Conflict(_))), "{result:?}");
    }
    let revoked = fixture.registry.revoke_key(&operator, revoked.id, Expected::Any).await.unwrap();
    assert_eq!(revoked.state(at(0)), KeyState::Revoked);
}

#[tokio::test]
async fn what_ends_sessions_ends_all_of_them() {
    let fixture = RegistryFixture::new();
    let (operator, policy, registry) = (Actor::operator(), &fixture.policy, &fixture.registry);
    let set = |disabled| UserChange { disabled: Some(disabled), ..UserChange::default() };
    let widened = UserChange { permissions: Some(names(&["read"])), ..UserChange::default() };
    assert_eq!(fixture.user("ann", "acme", &["run"]).await.sessions, 1);
    assert_eq!(fixture.change_user("ann", set(true)).await, Ok(2));
    assert_eq!(fixture.change_user("ann", set(true)).await, Ok(2));
    // None can be open, and every replica is to know that this is the newest that was said.
    assert_eq!(fixture.change_user("ann", set(false)).await, Ok(3));
    assert_eq!(fixture.change_user("ann", widened).await, Ok(3));
    let changed = registry.set_password(policy, &operator, "ann", HASH.to_owned(), Expected::Any).await.unwrap();
    assert_eq!((changed.sessions, changed.disabled), (4, false));
    let gone = registry.delete_user(&operator, "ann", Expected::Any).await.unwrap();
    assert!(gone.deleted && gone.password_hash.is_empty());
    let again = registry.delete_user(&operator, "ann", Expected::Any).await.map(|made| made.result);
    for result in [registry.user(&operator, "ann").await, again] {
        assert!(matches!(result, Err(RegistryError::NotFound(_))), "{result:?}");
    }
    assert!(matches!(fixture.change_user("ann", set(false)).await, Err(RegistryError::NotFound(_))));

    let kept = fixture.try_user(&operator, "ann", "acme", &["run"]).await.unwrap_err();
    assert!(
        matches!(&kept, RegistryError::Conflict(reason) if reason.contains("tollgate users free acme/ann")),
        "{kept:?}"
    );
    registry.free_user_name(&operator, "acme/ann").await.unwrap();
    let again = fixture.user("ann", "acme", &["run"]).await;
    assert_eq!((again.sessions, again.version), (6, gone.version + 2));
    assert!(matches!(fixture.try_user(&operator, "ann", "acme", &["run"]).await, Err(RegistryError::Conflict(_))));
}

#[tokio::test]
async fn what_is_cached_of_a_user_is_gone_with_each_change() {
    let fixture = RegistryFixture::new();
    let (operator, policy, registry) = (Actor::operator(), &fixture.policy, &fixture.registry);
    fixture.user("ann", "acme", &["run"]).await;
    let (ann, bob) = (fixture.slots("user", "acme/ann"), fixture.slots("user", "bob"));
    for change in [
        UserChange { disabled: Some(true), ..UserChange::default() },
        UserChange { disabled: Some(false), ..UserChange::default() },
        UserChange { permissions: Some(names(&["read"])), ..UserChange::default() },
    ] {
        let stamp = fixture.stamps.take();
        assert!(fixture.stamps.allow(stamp, &ann));
        fixture.change_user("ann", change).await.unwrap();
        assert!(!fixture.stamps.allow(stamp, &ann) && fixture.stamps.allow(stamp, &bob));
    }
    let stamp = fixture.stamps.take();
    registry.set_password(policy, &operator, "ann", HASH.to_owned(), Expected::Any).await.unwrap();
    assert!(!fixture.stamps.allow(stamp, &ann));
    let stamp = fixture.stamps.take();
    registry.delete_user(&operator, "ann", Expected::Any).await.unwrap();
    assert!(!fixture.stamps.allow(stamp, &ann));
    registry.free_user_name(&operator, "acme/ann").await.unwrap();
    let stamp = fixture.stamps.take();
    fixture.user("ann", "acme", &["run"]).await;
    assert!(!fixture.stamps.allow(stamp, &ann));

    let stamp = fixture.stamps.take();
    let ended = |id: &str| EndedSession { id: id.into(), user: "acme/ann".into(), ended_at: at(1), expires_at: at(9) };
    registry.end_session(&operator, ended("s-1")).await.unwrap();
    assert!(!fixture.stamps.allow(stamp, &fixture.slots("session", "s-1")));
    assert!(fixture.stamps.allow(stamp, &fixture.slots("session", "s-2")) && fixture.stamps.allow(stamp, &ann));
    assert!(fixture.store.ended_session("s-1".to_owned()).await.unwrap());

    // One's own session, with no right to anything else.
    let own = Actor { subject: "user:acme/ann".to_owned(), ..actor("ann", "acme", &[]) };
    registry.end_session(&own, ended("s-2")).await.unwrap();
    let others = EndedSession { user: "bob".to_owned(), ..ended("s-3") };
    assert!(matches!(registry.end_session(&own, others).await, Err(RegistryError::NotFound(_))));
    assert!(!fixture.store.ended_session("s-3".to_owned()).await.unwrap());
}

#[tokio::test]
async fn a_user_must_fit_the_plane_of_users() {
    let mut fixture = RegistryFixture::new();
    let operator = Actor::operator();
    let refusal = async |fixture: &RegistryFixture, spec: UserSpec| {
        fixture.registry.create_user(&fixture.policy, &operator, spec, None).await.unwrap_err()
    };
    let good = user_spec("ann", "acme", &["run"]);
    for (bad, wrong) in [
        ("name", UserSpec { name: "a:b".to_owned(), ..good.clone() }),
        ("password", UserSpec { password_hash: "correct horse".to_owned(), ..good.clone() }),
        ("project", UserSpec { project: "a/b".to_owned(), ..good.clone() }),
        ("permissions", UserSpec { permissions: vec![], ..good.clone() }),
        ("permissions", UserSpec { permissions: names(&["fly"]), ..good.clone() }),
    ] {
        let error = refusal(&fixture, wrong).await;
        assert!(matches!(&error, RegistryError::Invalid { field, .. } if *field == bad), "{bad}: {error:?}");
        assert!(!error.to_string().contains("horse"));
    }
    fixture.users_stand_on(Some("data"));
    for wrong in [user_spec("ann", "*", &["run"]), user_spec("ann", "acme", &["manage_users"])] {
        assert!(matches!(refusal(&fixture, wrong).await, RegistryError::Invalid { .. }));
    }
    fixture.user("ann", "acme", &["run"]).await;

    fixture.users_stand_on(None);
    assert!(
        refusal(&fixture, user_spec("bob", "acme", &["run"])).await.to_string().contains("login is not configured")
    );
    let widened = UserChange { permissions: Some(names(&["read"])), ..UserChange::default() };
    assert!(matches!(fixture.change_user("ann", widened).await, Err(RegistryError::Conflict(_))));
    // To take away needs no plane.
    fixture.change_user("ann", UserChange { disabled: Some(true), ..UserChange::default() }).await.unwrap();
    fixture.registry.delete_user(&operator, "ann", Expected::Any).await.unwrap();
}

#[tokio::test]
async fn the_first_key_may_do_everything() {
    let fixture = RegistryFixture::new();
    let key = fixture.registry.bootstrap(&fixture.policy, &Actor::operator()).await.unwrap().record;
    let all = ["manage_keys", "manage_resources", "manage_secrets", "manage_users", "read", "run", "view_audit_logs"];
    assert_eq!((key.permissions, &*key.plane, &*key.project), (names(&all), "admin", "*"));
    let again = fixture.registry.bootstrap(&fixture.policy, &Actor::operator()).await;
    assert!(matches!(again, Err(RegistryError::Conflict(_))));
    let log = fixture.log().await;
    assert_eq!((log.len(), &*log[0].act, &*log[0].target), (1, "key.bootstrap", &*format!("key:{}", key.id)));
}

#[tokio::test]
async fn nobody_fills_the_log_by_being_refused() {
    let fixture = RegistryFixture::new();
    let (pest, other) = (actor("pest", "acme", &[]), actor("other", "acme", &[]));
    let refused = async |actor: &Actor| {
        let result = fixture.try_user(actor, "ann", "beta", &["run"]).await;
        assert!(matches!(result, Err(RegistryError::Forbidden(_))), "{result:?}");
    };
    for _ in 0..130 {
        refused(&pest).await;
    }
    refused(&other).await;
    assert_eq!(fixture.log().await.len(), 121);
    fixture.pass(Duration::from_secs(60));
    refused(&pest).await;
    assert_eq!(fixture.log().await.len(), 122);
}

#[tokio::test]
async fn the_log_holds_no_secret_and_no_line_of_its_reader() {
    let fixture = RegistryFixture::new();
    let forger = Actor { request_id: "r\n\u{1b}[2Jforged".repeat(99), ..actor("x", "acme", &["run"]) };
    let new =
        fixture.registry.create_key(&fixture.policy, &forger, spec("data", "acme", &["run"]), once("idem-key")).await;
    let secret = new.unwrap().secret;
    fixture.try_user(&forger, "ann", "acme", &["run"]).await.unwrap();
    fixture.registry.refused(&forger, "key.create", "a\nb", Some("no project"), "because\r\n").await;
    let log = fixture.log().await;
    assert_eq!((&*log[0].target, log[0].project.as_ref()), ("a\u{fffd}b", None));
    let text = format!("{log:?}");
    for hidden in [&secret.expose()[20..], "argon2id", "idem-key"] {
        assert!(!text.contains(hidden), "{text}");
    }
    for row in &log {
        for text in [Some(&row.target), row.reason.as_ref(), Some(&row.request_id)].into_iter().flatten() {
            assert!(!text.contains(char::is_control) && text.chars().count() <= 256, "{text:?}");
        }
    }
}

#[tokio::test]
async fn changes_are_made_while_the_last_use_of_many_keys_is_stored() {
    const MANY: u64 = 50_000;
    let fixture = RegistryFixture::new();
    for number in 0..MANY {
        fixture.last_used.note(id(number), at(1_800_000_000_000));
    }
    let registry = fixture.registry.clone();
    let flush = tokio::spawn(async move { registry.flush_last_used().await });
    let mut made = 0;
    while !flush.is_finished() {
        fixture.key_once(&Actor::operator(), spec("data", "acme", &["run"]), &format!("{made}")).await.unwrap();
        made += 1;
    }
    flush.await.unwrap().unwrap();
    assert!(made >= 20, "{made} changes were made meanwhile");
    let stored = fixture.store.last_used((0..MANY).map(id).collect()).await.unwrap();
    assert!(stored.iter().filter(|used| used.is_some()).count() > MANY as usize / 2);
}

#[tokio::test]
async fn the_name_of_somebody_deleted_is_kept_until_it_is_freed() {
    let fixture = RegistryFixture::new();
    let (operator, registry) = (Actor::operator(), &fixture.registry);
    let ann = fixture.user("ann", "acme", &["run"]).await;
    let hers = Actor { subject: "user:acme/ann".to_owned(), ..Actor::operator() };
    let owned = |id: &str, owner: &str| ResourceSpec {
        kind: "workload".into(),
        id: id.into(),
        project: "acme".into(),
        owner: Some(owner.to_owned()),
        ..Default::default()
    };
    for (id, owner) in [("w-1", "acme/ann"), ("w-2", "user:acme/ann"), ("w-3", "acme/anna")] {
        registry.put_resource(&operator, owned(id, owner), false, Expected::Any).await.unwrap();
    }
    let made = registry.create_key(&fixture.policy, &hers, spec("data", "acme", &["run"]), None).await.unwrap();
    let key = made.record.id;
    fixture.key("data", "acme", &["run"]).await;
    fixture.try_user(&hers, "bob", "acme", &["run"]).await.unwrap();
    fixture.try_user(&hers, "cat", "hers", &["run"]).await.unwrap();
    registry.suspend_project(&hers, "old", Expected::Any).await.unwrap();
    fixture.user("dan", "other", &["run"]).await;
    let still_there = registry.free_user_name(&operator, "acme/ann").await.unwrap_err();
    assert!(matches!(still_there, RegistryError::Conflict(_)), "{still_there:?}");
    registry.delete_user(&operator, "ann", Expected::Any).await.unwrap();
    let bound = actor("boss", "acme", &["manage_users", "run"]);
    for who in [&operator, &bound] {
        let kept = fixture.try_user(who, "ann", "acme", &["run"]).await;
        assert!(matches!(kept, Err(RegistryError::Conflict(_))), "{kept:?}");
    }
    assert!(matches!(registry.free_user_name(&bound, "ann").await, Err(RegistryError::Forbidden(_))));
    assert!(matches!(registry.free_user_name(&operator, "nobody").await, Err(RegistryError::NotFound(_))));

    let freed = registry.free_user_name(&operator, "acme/ann").await.unwrap().result;
    assert_eq!((freed.id, &*freed.keys, freed.more), (ann.id, &[key][..], false));
    assert_eq!(freed.resources, ["workload:w-1", "workload:w-2"]);
    assert_eq!(
        (&*freed.users, &*freed.projects),
        (&["acme/bob", "hers/cat"].map(String::from)[..], &["hers", "old"].map(String::from)[..])
    );
    assert_eq!(registry.free_user_name(&operator, "acme/ann").await.unwrap().result, freed, "again");
    let another = fixture.user("ann", "acme", &["run"]).await;
    assert!(another.id.is_some() && another.id != ann.id);
    registry.delete_user(&operator, "ann", Expected::Any).await.unwrap();
    let kept = fixture.try_user(&operator, "ann", "acme", &["run"]).await;
    assert!(matches!(kept, Err(RegistryError::Conflict(_))), "it was freed for one: {kept:?}");
}
