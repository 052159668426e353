//! What the registry promises about projects, and what a change of one does to what is cached: everything of the project is
//! refused or works again with the next look-up, and nothing of another one is touched.

use std::sync::Arc;
use std::time::Duration;

use tollgate::domain::credential::PresentedKey;
use tollgate::domain::decision::Tier;
use tollgate::domain::record::{AuditEntry, Project, ProjectState};
use tollgate::registry::{Actor, Expected, Made, NewKey, RegistryError, UserChange};
use tollgate::resolve::Resolver;
use tollgate::resolve::cache::Sizes;

use crate::desk::{Desk, actor, spec, user_spec};

use Expected::{Any, Version};

type Result<T> = std::result::Result<T, RegistryError>;

async fn turn(desk: &Desk, name: &str, state: ProjectState, expected: Expected) -> Result<Made<Project>> {
    let (registry, operator) = (&desk.registry, Actor::operator());
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
async fn a_project_from_active_to_deleted() {
    let desk = Desk::new();
    let operator = Actor::operator();
    let unsaid = desk.registry.project(&operator, "acme").await.unwrap();
    assert_eq!((unsaid.state, unsaid.version), (ProjectState::Active, 0));
    // Nothing is to be done, and nothing is written.
    assert_eq!(turn(&desk, "acme", ProjectState::Active, Version(0)).await.unwrap().sequence, None);
    assert!(desk.registry.projects(&operator, None, 9).await.unwrap().is_empty());

    let suspended = turn(&desk, "acme", ProjectState::Suspended, Version(0)).await.unwrap();
    assert_eq!((suspended.state, suspended.version, &*suspended.changed_by), (ProjectState::Suspended, 1, "operator"));
    desk.pass(Duration::from_secs(1));
    // Again is no error; it is told anew, and since when it holds stays.
    let again = turn(&desk, "acme", ProjectState::Suspended, Any).await.unwrap();
    assert_eq!((again.version, again.changed_at), (2, suspended.changed_at));
    assert!(again.sequence > suspended.sequence && suspended.sequence.is_some());
    let resumed = turn(&desk, "acme", ProjectState::Active, Version(2)).await.unwrap();
    assert!(resumed.changed_at > suspended.changed_at && resumed.sequence > again.sequence);
    let stale = turn(&desk, "acme", ProjectState::Deleted, Version(2)).await;
    assert!(matches!(stale, Err(RegistryError::Stale(_))), "{stale:?}");
    let gone = turn(&desk, "acme", ProjectState::Deleted, Version(3)).await.unwrap();
    assert!(gone.changed_at > resumed.changed_at, "also by a clock that lags");
    let again = turn(&desk, "acme", ProjectState::Deleted, Any).await.unwrap();
    assert_eq!((again.state, again.changed_at, again.version), (ProjectState::Deleted, gone.changed_at, 5));
    for state in [ProjectState::Active, ProjectState::Suspended] {
        let refused = turn(&desk, "acme", state, Any).await;
        assert!(matches!(refused, Err(RegistryError::Conflict(reason)) if reason.contains("is deleted")));
    }
    assert_eq!(desk.registry.projects(&operator, None, 9).await.unwrap(), [again.result]);
    let log = desk.log().await;
    let expected = ["project.suspend", "project.suspend", "project.resume", "project.delete", "project.delete"];
    assert_eq!(acts(&log), expected);
    assert!(log.iter().all(|row| row.target == "project:acme" && row.project.as_deref() == Some("acme")));
}

#[tokio::test]
async fn what_is_no_project_is_none() {
    let desk = Desk::new();
    for name in ["*", "", "a/b", "a b", "-a", &"x".repeat(65)] {
        for state in [ProjectState::Active, ProjectState::Suspended, ProjectState::Deleted] {
            let refused = turn(&desk, name, state, Any).await;
            assert!(matches!(refused, Err(RegistryError::Invalid { field: "name", .. })), "{name:?}: {refused:?}");
        }
    }
    assert!(desk.log().await.is_empty());
}

#[tokio::test]
async fn a_list_ends_where_the_reach_does() {
    let desk = Desk::new();
    for name in ["acme", "beta", "zeta"] {
        turn(&desk, name, ProjectState::Suspended, Any).await.unwrap();
    }
    let beta = actor("b", "beta", &[]);
    let list = async |actor: &Actor, after: &str, limit| {
        let after = (!after.is_empty()).then(|| after.to_owned());
        let found = desk.registry.projects(actor, after, limit).await.unwrap();
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
    let desk = Desk::new();
    let (operator, policy, registry) = (Actor::operator(), &desk.policy, &desk.registry);
    let old = desk.key("data", "acme", &["run"]).await.record.id;
    desk.user("ann", "beta", &["run"]).await;
    turn(&desk, "beta", ProjectState::Suspended, Any).await.unwrap();
    // A suspended one can be prepared for the day that it goes on.
    desk.key("data", "beta", &["run"]).await;
    turn(&desk, "acme", ProjectState::Deleted, Any).await.unwrap();
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

/// Keys of two projects and of all, behind a cache.
struct Lobby {
    desk: Desk,
    resolver: Resolver,
}

impl Lobby {
    fn new() -> Self {
        let desk = Desk::new();
        let sizes = Sizes { known: 100, unknown: 100, loads: 10 };
        let (digester, stamps) = (Arc::clone(&desk.digester), Arc::clone(&desk.stamps));
        let resolver = Resolver::new(desk.store.clone(), digester, stamps, Arc::default(), sizes, None);
        Self { desk, resolver }
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
    let desk = &lobby.desk;
    let (one, two) = (desk.key("data", "acme", &["run"]).await, desk.key("data", "acme", &["read"]).await);
    let other = desk.key("data", "beta", &["run"]).await;
    let every = desk.key("admin", "*", &["run"]).await;
    let (data, admin) = ("ik_live", "ik_adm");
    for key in [&one, &two, &other] {
        assert_eq!(lobby.look(key, data).await, (false, Tier::Store));
        assert_eq!(lobby.look(key, data).await, (false, Tier::Cache));
    }
    lobby.look(&every, admin).await;
    for (state, barred) in
        [(ProjectState::Suspended, true), (ProjectState::Active, false), (ProjectState::Deleted, true)]
    {
        turn(desk, "acme", state, Any).await.unwrap();
        for key in [&one, &two] {
            assert_eq!(lobby.look(key, data).await, (barred, Tier::Store), "{state:?}");
            assert_eq!(lobby.look(key, data).await, (barred, Tier::Cache), "{state:?}");
        }
        assert_eq!(lobby.look(&other, data).await, (false, Tier::Cache), "another project is not touched");
        assert_eq!(lobby.look(&every, admin).await, (false, Tier::Cache));
    }
    // One that was revoked meanwhile does not come back with its project.
    turn(desk, "beta", ProjectState::Suspended, Any).await.unwrap();
    desk.registry.revoke_key(&Actor::operator(), other.record.id, Any).await.unwrap();
    turn(desk, "beta", ProjectState::Active, Any).await.unwrap();
    assert_eq!(lobby.look(&other, data).await, (true, Tier::Store));
}

#[tokio::test]
async fn a_mark_is_behind_every_change() {
    let desk = Desk::new();
    let suspended = turn(&desk, "acme", ProjectState::Suspended, Any).await.unwrap();
    let mark = desk.registry.mark().await.unwrap();
    assert!(Some(mark) > suspended.sequence);
    let resumed = turn(&desk, "acme", ProjectState::Active, Any).await.unwrap();
    assert!(resumed.sequence > Some(mark));
    let rows = desk.log().await.len();
    desk.registry.mark().await.unwrap();
    assert_eq!(desk.log().await.len(), rows, "it changes nothing");
}
