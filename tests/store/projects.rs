//! What the registry promises about projects, and what a change of one does to what is cached: everything of the project is
//! refused or works again with the next look-up, and nothing of another one is touched.

use std::sync::Arc;
use std::time::Duration;

use Expected::{Any, Version};
use tollgate::clock::Clock;
use tollgate::domain::change::Event;
use tollgate::domain::record::{ApiKey, AuditEntry, Project, ProjectState};
use tollgate::registry::{Actor, Expected, Made, NewKey, Once, RegistryError, ResourceSpec, UserChange};
use tollgate::resolve::Resolver;
use tollgate::resolve::cache::Sizes;
use tollgate::store::Write;
use tollgate_core::credential::{PresentedKey, ProjectId};
use tollgate_core::decision::Tier;
use tollgate_guard::slots::Slots;
use tollgate_guard::stamps::Stamps;

use crate::log::Log;
use crate::registry_fixture::{RegistryFixture, actor, spec, user_spec};
use crate::support::in_redis;

type Result<T> = std::result::Result<T, RegistryError>;

async fn turn(fixture: &RegistryFixture, name: &str, state: ProjectState, expected: Expected) -> Result<Made<Project>> {
    let (registry, operator) = (&fixture.registry, Actor::operator());
    match state {
        ProjectState::Active => registry.resume_project(&operator, name, expected).await,
        ProjectState::Suspended => registry.suspend_project(&operator, name, expected).await,
        ProjectState::Deleted => registry.delete_project(&operator, name, expected).await,
    }
}

fn acts(rows: &[AuditEntry]) -> Vec<&str> {
    rows.iter().rev().map(|row| &*row.act).collect()
}

#[tokio::test]
async fn a_project_is_made_once_by_an_administrator_of_every_project() {
    let fixture = RegistryFixture::new();
    let (registry, operator) = (&fixture.registry, Actor::operator());
    let once = || Some(Once { key: "first".to_owned() });
    let made = registry.create_project(&operator, "acme", once()).await.unwrap();
    assert_eq!((made.state, made.version, &*made.changed_by), (ProjectState::Active, 1, "operator"));
    assert!(made.id.is_some());
    assert_eq!(registry.project(&operator, "acme").await.unwrap(), made);
    assert_eq!(registry.create_project(&operator, "acme", once()).await.unwrap(), made, "asked for twice, made once");
    let key = fixture.key("data", "acme", &["run"]).await;
    assert_eq!(key.record.project_id, made.id, "what is made in it carries its id");
    for name in ["acme", "beta"] {
        registry.delete_project(&operator, "beta", Any).await.unwrap();
        let again = registry.create_project(&operator, name, None).await;
        assert!(matches!(again, Err(RegistryError::Conflict(_))), "{name}: {again:?}");
    }
    // Nor does the idempotency key make it again, or say that it is there, once it is deleted.
    registry.delete_project(&operator, "acme", Any).await.unwrap();
    let repeated = registry.create_project(&operator, "acme", once()).await;
    assert!(matches!(repeated, Err(RegistryError::Repeated { .. })), "{repeated:?}");
    let bound = actor("ops", "gamma", &["manage_keys"]);
    assert!(matches!(registry.create_project(&bound, "gamma", None).await, Err(RegistryError::Forbidden(_))));
    assert!(matches!(registry.create_project(&operator, "*", None).await, Err(RegistryError::Invalid { .. })));
    assert_eq!(registry.project(&operator, "gamma").await.unwrap().version, 0);
}

#[tokio::test]
async fn a_project_from_active_to_deleted() {
    let fixture = RegistryFixture::new();
    let operator = Actor::operator();
    let unsaid = fixture.registry.project(&operator, "acme").await.unwrap();
    assert_eq!((unsaid.state, unsaid.version), (ProjectState::Active, 0));
    // Nothing is to be done, and nothing is written.
    assert_eq!(turn(&fixture, "acme", ProjectState::Active, Version(0)).await.unwrap().sequence, None);
    assert!(fixture.registry.projects(&operator, None, 9).await.unwrap().is_empty());

    let suspended = turn(&fixture, "acme", ProjectState::Suspended, Version(0)).await.unwrap();
    assert_eq!((suspended.state, suspended.version, &*suspended.changed_by), (ProjectState::Suspended, 1, "operator"));
    fixture.pass(Duration::from_secs(1));
    // Again is no error; it is told anew, and since when it holds stays.
    let again = turn(&fixture, "acme", ProjectState::Suspended, Any).await.unwrap();
    assert_eq!((again.version, again.changed_at), (2, suspended.changed_at));
    assert!(again.sequence > suspended.sequence && suspended.sequence.is_some());
    let resumed = turn(&fixture, "acme", ProjectState::Active, Version(2)).await.unwrap();
    assert!(resumed.changed_at > suspended.changed_at && resumed.sequence > again.sequence);
    let stale = turn(&fixture, "acme", ProjectState::Deleted, Version(2)).await;
    assert!(matches!(stale, Err(RegistryError::Stale(_))), "{stale:?}");
    let gone = turn(&fixture, "acme", ProjectState::Deleted, Version(3)).await.unwrap();
    assert!(gone.changed_at > resumed.changed_at, "also by a clock that lags");
    let again = turn(&fixture, "acme", ProjectState::Deleted, Any).await.unwrap();
    assert_eq!((again.state, again.changed_at, again.version), (ProjectState::Deleted, gone.changed_at, 5));
    for state in [ProjectState::Active, ProjectState::Suspended] {
        let refused = turn(&fixture, "acme", state, Any).await;
        assert!(matches!(refused, Err(RegistryError::Conflict(reason)) if reason.contains("is deleted")));
    }
    assert_eq!(fixture.registry.projects(&operator, None, 9).await.unwrap(), [again.result]);
    let log = fixture.log().await;
    let expected = ["project.suspend", "project.suspend", "project.resume", "project.delete", "project.delete"];
    assert_eq!(acts(&log), expected);
    assert!(log.iter().all(|row| row.target == "project:acme" && row.project.as_deref() == Some("acme")));
}

#[tokio::test]
async fn what_is_no_project_is_none() {
    let fixture = RegistryFixture::new();
    for name in ["*", "", "a/b", "a b", "-a", &"x".repeat(65)] {
        for state in [ProjectState::Active, ProjectState::Suspended, ProjectState::Deleted] {
            let refused = turn(&fixture, name, state, Any).await;
            assert!(matches!(refused, Err(RegistryError::Invalid { field: "name", .. })), "{name:?}: {refused:?}");
        }
    }
    assert!(fixture.log().await.is_empty());
}

#[tokio::test]
async fn a_list_ends_where_the_reach_does() {
    let fixture = RegistryFixture::new();
    for name in ["acme", "beta", "zeta"] {
        turn(&fixture, name, ProjectState::Suspended, Any).await.unwrap();
    }
    let beta = actor("b", "beta", &[]);
    let list = async |actor: &Actor, after: &str, limit| {
        let after = (!after.is_empty()).then(|| after.to_owned());
        let found = fixture.registry.projects(actor, after, limit).await.unwrap();
        found.into_iter().map(|project| project.name).collect::<Vec<_>>()
    };
    let root = actor("r", "*", &[]);
    assert_eq!(list(&root, "", 9).await, ["acme", "beta", "zeta"]);
    assert_eq!(list(&root, "acme", 1).await, ["beta"]);
    assert_eq!(list(&beta, "", 9).await, ["beta"]);
    assert_eq!(list(&beta, "acme", 9).await, ["beta"]);
    for (after, limit) in [("beta", 9), ("zeta", 9), ("", 0)] {
        assert!(list(&beta, after, limit).await.is_empty(), "{after} {limit}");
    }
    assert!(list(&actor("n", "nothing", &[]), "", 9).await.is_empty());
}

#[tokio::test]
async fn nothing_is_made_in_a_deleted_project() {
    let fixture = RegistryFixture::new();
    let (operator, policy, registry) = (Actor::operator(), &fixture.policy, &fixture.registry);
    let old = fixture.key("data", "acme", &["run"]).await.record.id;
    fixture.user("ann", "beta", &["run"]).await;
    turn(&fixture, "beta", ProjectState::Suspended, Any).await.unwrap();
    // A suspended one can be prepared for the day that it goes on.
    fixture.key("data", "beta", &["run"]).await;
    turn(&fixture, "acme", ProjectState::Deleted, Any).await.unwrap();
    let to_acme = UserChange { project: Some("acme".to_owned()), ..Default::default() };
    for result in [
        registry.create_key(policy, &operator, spec("data", "acme", &["run"]), None).await.map(|_| ()),
        registry.rotate_key(policy, &operator, old, Duration::ZERO, Any).await.map(|_| ()),
        registry.create_user(policy, &operator, user_spec("bob", "acme", &["run"]), None).await.map(|_| ()),
        registry.update_user(policy, &operator, "ann", to_acme, Any).await.map(|_| ()),
    ] {
        assert!(matches!(&result, Err(RegistryError::Conflict(reason)) if reason.contains("acme is deleted")));
    }
    // What is there can still be taken away.
    registry.revoke_key(&operator, old, Any).await.unwrap();
}

#[tokio::test]
async fn the_first_thing_makes_its_project_and_all_carry_its_id() {
    let fixture = RegistryFixture::new();
    let operator = Actor::operator();
    let (policy, registry) = (&fixture.policy, &fixture.registry);
    let id_of = async |name: &str| registry.project(&operator, name).await.unwrap().id;
    let resource = |id: &str, project: &str| ResourceSpec {
        kind: "workload".to_owned(),
        id: id.to_owned(),
        project: project.to_owned(),
        ..ResourceSpec::default()
    };
    assert_eq!(id_of("acme").await, None);
    let key = fixture.key("data", "acme", &["run"]).await.record;
    let acme = registry.project(&operator, "acme").await.unwrap();
    assert_eq!((acme.state, acme.version, &*acme.changed_by), (ProjectState::Active, 1, "operator"));
    assert!(acme.id.is_some() && key.project_id == acme.id);
    assert_eq!(fixture.user("ann", "acme", &["run"]).await.project_id, acme.id);
    let put = registry.put_resource(&operator, resource("w-1", "acme"), false, Any).await.unwrap();
    assert_eq!(put.project_id, acme.id);
    let rotated = registry.rotate_key(policy, &operator, key.id, Duration::ZERO, Any).await.unwrap();
    assert_eq!(rotated.record.project_id, acme.id);
    assert_eq!(registry.project(&operator, "acme").await.unwrap(), acme, "the first thing alone makes it");
    assert_eq!(fixture.key("admin", "*", &["run"]).await.record.project_id, None);

    // By a user, a resource, a move, and by what is said of it.
    let bob = fixture.user("bob", "beta", &["run"]).await;
    assert!(bob.project_id.is_some() && bob.project_id == id_of("beta").await);
    let put = registry.put_resource(&operator, resource("w-2", "gamma"), false, Any).await.unwrap();
    assert!(put.project_id.is_some() && put.project_id == id_of("gamma").await);
    let moved = registry.put_resource(&operator, resource("w-2", "delta"), true, Any).await.unwrap();
    assert!(moved.project_id == id_of("delta").await && moved.project_id != put.project_id);
    let to_delta = UserChange { project: Some("delta".to_owned()), ..Default::default() };
    assert_eq!(fixture.user("cleo", "*", &["run"]).await.project_id, None);
    let moved = registry.update_user(policy, &operator, "cleo", to_delta, Any).await.unwrap();
    assert_eq!(moved.project_id, id_of("delta").await);
    let suspended = turn(&fixture, "zeta", ProjectState::Suspended, Any).await.unwrap();
    assert!(suspended.id.is_some());
    assert_eq!(fixture.key("data", "zeta", &["run"]).await.record.project_id, suspended.id);
    let all = ["acme", "beta", "delta", "gamma", "zeta"];
    let listed = registry.projects(&operator, None, 9).await.unwrap();
    assert_eq!(listed.iter().map(|project| &*project.name).collect::<Vec<_>>(), all);

    turn(&fixture, "acme", ProjectState::Deleted, Any).await.unwrap();
    assert_eq!(id_of("acme").await, acme.id);
    for (id, may_move) in [("w-3", false), ("w-2", true)] {
        let refused = registry.put_resource(&operator, resource(id, "acme"), may_move, Any).await;
        assert!(matches!(&refused, Err(RegistryError::Conflict(reason)) if reason.contains("acme is deleted")));
    }
}

#[tokio::test]
async fn many_first_things_at_once_make_one_project() {
    let (store, _redis, _server) = in_redis().await;
    let fixture = RegistryFixture::on(store);
    let keys = futures_util::future::join_all((0..12).map(|_| fixture.key("data", "acme", &["run"]))).await;
    let acme = fixture.registry.project(&Actor::operator(), "acme").await.unwrap();
    assert_eq!((acme.version, acme.id.is_some()), (1, true));
    assert!(keys.iter().all(|key| key.record.project_id == acme.id));
}

/// Keys of two projects and of all, behind a cache.
struct Lobby {
    fixture: RegistryFixture,
    resolver: Resolver,
}

impl Lobby {
    fn new() -> Self {
        let fixture = RegistryFixture::new();
        let sizes = Sizes { known: 100, unknown: 100, loads: 10 };
        let (digester, stamps) = (Arc::clone(&fixture.digester), Arc::clone(&fixture.stamps));
        let resolver = Resolver::new(fixture.store.clone(), digester, stamps, Arc::default(), sizes, None);
        Self { fixture, resolver }
    }

    /// Whether the key is refused as a revoked one, and where that was found.
    async fn look(&self, key: &NewKey, prefix: &str) -> (bool, Tier) {
        let presented = PresentedKey::parse(key.secret.expose(), prefix).unwrap();
        let found = self.resolver.principal(&presented, Duration::ZERO).await.unwrap();
        (found.value.as_ref().unwrap().revoked, found.tier())
    }
}

#[tokio::test]
async fn every_key_of_a_project_follows_it_with_the_next_look_up() {
    let lobby = Lobby::new();
    let fixture = &lobby.fixture;
    let (one, two) = (fixture.key("data", "acme", &["run"]).await, fixture.key("data", "acme", &["read"]).await);
    let other = fixture.key("data", "beta", &["run"]).await;
    let every = fixture.key("admin", "*", &["run"]).await;
    let (data, admin) = ("ik_live", "ik_adm");
    for key in [&one, &two, &other] {
        assert_eq!(lobby.look(key, data).await, (false, Tier::Store));
        assert_eq!(lobby.look(key, data).await, (false, Tier::Cache));
    }
    lobby.look(&every, admin).await;
    for (state, barred) in
        [(ProjectState::Suspended, true), (ProjectState::Active, false), (ProjectState::Deleted, true)]
    {
        turn(fixture, "acme", state, Any).await.unwrap();
        for key in [&one, &two] {
            assert_eq!(lobby.look(key, data).await, (barred, Tier::Store), "{state:?}");
            assert_eq!(lobby.look(key, data).await, (barred, Tier::Cache), "{state:?}");
        }
        assert_eq!(lobby.look(&other, data).await, (false, Tier::Cache), "another project is not touched");
        assert_eq!(lobby.look(&every, admin).await, (false, Tier::Cache));
    }
    // One that was revoked meanwhile does not come back with its project.
    turn(fixture, "beta", ProjectState::Suspended, Any).await.unwrap();
    fixture.registry.revoke_key(&Actor::operator(), other.record.id, Any).await.unwrap();
    turn(fixture, "beta", ProjectState::Active, Any).await.unwrap();
    assert_eq!(lobby.look(&other, data).await, (true, Tier::Store));
}

#[tokio::test]
async fn whoever_carries_the_id_of_another_project_is_refused() {
    let lobby = Lobby::new();
    let (fixture, data) = (&lobby.fixture, "ik_live");
    let (key, every) = (fixture.key("data", "acme", &["run"]).await, fixture.key("admin", "*", &["run"]).await);
    assert_eq!(lobby.look(&key, data).await, (false, Tier::Store));
    let other = ProjectId::parse("0000000000000001");
    let carries = async |project_id: Option<ProjectId>| {
        // Such a record comes from no change that the store accepts, so it is made anew.
        let version = fixture.store.key(key.record.id).await.unwrap().unwrap().version;
        let moved = |project: &str, project_id, version| {
            let record = ApiKey { project: project.to_owned(), project_id, version, ..key.record.clone() };
            Write::UpdateKey(record)
        };
        let batch = vec![moved("elsewhere", None, version + 1), moved("acme", project_id, version + 2)];
        let event = Event::touching(&[Slots::of_digests(&[key.record.digest])]);
        let sequence = fixture.store.commit(batch, event.clone()).await.unwrap();
        fixture.stamps.acknowledge(sequence, &event.touched);
        lobby.look(&key, data).await
    };
    let log = Log::default();
    let listening = log.listen();
    assert_eq!(carries(other).await, (true, Tier::Store), "another project had the name");
    assert_eq!(carries(other).await, (true, Tier::Store));
    drop(listening);
    // Which, and only once.
    let said = log.text();
    let who = format!("key:{}", key.record.id);
    assert!(
        said.lines().count() == 1 && said.contains(&who) && said.contains("earlier project of the same name"),
        "{said}"
    );
    assert_eq!(carries(key.record.project_id).await, (false, Tier::Store));
    assert_eq!(carries(None).await, (false, Tier::Store), "made before projects had ids");
    assert!(!lobby.look(&every, "ik_adm").await.0);

    // A project that is not there is not active because of that.
    let lost = fixture.key("data", "lost", &["run"]).await;
    let (elsewhere, _redis, _server) = in_redis().await;
    elsewhere.commit(vec![Write::CreateKey(lost.record.clone())], Event::touching(&[])).await.unwrap();
    let sizes = Sizes { known: 100, unknown: 100, loads: 10 };
    let (digester, stamps) = (Arc::clone(&fixture.digester), Arc::new(Stamps::sole(Clock::System)));
    let resolver = Resolver::new(elsewhere, digester, stamps, Arc::default(), sizes, None);
    let presented = PresentedKey::parse(lost.secret.expose(), data).unwrap();
    assert!(resolver.principal(&presented, Duration::ZERO).await.unwrap().value.unwrap().revoked);
}

#[tokio::test]
async fn a_mark_is_behind_every_change() {
    let fixture = RegistryFixture::new();
    let suspended = turn(&fixture, "acme", ProjectState::Suspended, Any).await.unwrap();
    let mark = fixture.registry.mark().await.unwrap();
    assert!(Some(mark) > suspended.sequence);
    let resumed = turn(&fixture, "acme", ProjectState::Active, Any).await.unwrap();
    assert!(resumed.sequence > Some(mark));
    let rows = fixture.log().await.len();
    fixture.registry.mark().await.unwrap();
    assert_eq!(fixture.log().await.len(), rows, "it changes nothing");
}
