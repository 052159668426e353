//! What every backend must do with what is said of a whole project.

use tollgate::domain::record::{Project, ProjectState};
use tollgate::store::{KeyLoad, SessionLoad, Store, Write};

use super::assert_conflict;
use crate::support::{Apply, at, id, key, key_of, project, user};

use ProjectState::{Active, Deleted, Suspended};

fn next(project: &Project, state: ProjectState) -> Project {
    Project { state, version: project.version + 1, changed_at: at(2), ..project.clone() }
}

async fn put(store: &Store, project: &Project) {
    store.apply(vec![Write::PutProject(project.clone())]).await.unwrap();
}

async fn find(store: &Store, name: &str) -> Option<Project> {
    store.project(name.to_owned()).await.unwrap()
}

async fn list(store: &Store, after: &str, limit: usize) -> Vec<String> {
    let after = (!after.is_empty()).then(|| after.to_owned());
    store.projects(after, limit).await.unwrap().into_iter().map(|project| project.name).collect()
}

async fn a_project_is_read_as_written(store: Store) {
    assert_eq!(find(&store, "acme").await, None);
    for (name, state) in [("acme", Suspended), ("beta", Active), ("gone", Deleted)] {
        let project = project(name, state);
        put(&store, &project).await;
        assert_eq!(find(&store, name).await.as_ref(), Some(&project));
        assert_eq!(store.load_project(name.to_owned()).await.unwrap().found, Some(project));
    }
    for other in ["acm", "acme2", "Acme", ""] {
        assert_eq!(find(&store, other).await, None, "{other}");
    }
}

async fn a_project_is_changed_by_who_saw_it(store: Store) {
    let first = project("acme", Suspended);
    for version in [0, 2, u64::MAX] {
        assert_conflict(&store.apply(vec![Write::PutProject(Project { version, ..first.clone() })]).await);
    }
    put(&store, &first).await;
    for version in [0, 1, 3] {
        let stale = Project { version, ..next(&first, Active) };
        assert_conflict(&store.apply(vec![Write::PutProject(stale)]).await);
    }
    assert_eq!(find(&store, "acme").await.as_ref(), Some(&first), "a conflict changes nothing");
    let second = next(&first, Active);
    put(&store, &second).await;
    assert_eq!(find(&store, "acme").await, Some(second));
}

async fn a_deleted_project_stays_deleted(store: Store) {
    let gone = project("acme", Deleted);
    put(&store, &gone).await;
    for state in [Active, Suspended] {
        assert_conflict(&store.apply(vec![Write::PutProject(next(&gone, state))]).await);
    }
    let again = next(&gone, Deleted);
    put(&store, &again).await;
    assert_eq!(find(&store, "acme").await, Some(again));
}

async fn a_project_and_what_comes_with_it_are_one(store: Store) {
    put(&store, &project("acme", Suspended)).await;
    let stale = Write::PutProject(project("acme", Deleted));
    assert_conflict(&store.apply(vec![Write::CreateKey(key(1)), stale]).await);
    assert_eq!(store.key(id(1)).await.unwrap(), None);
    let twice = next(&project("acme", Suspended), Active);
    let batch = vec![Write::PutProject(twice.clone()), Write::PutProject(next(&twice, Suspended))];
    store.apply(batch).await.unwrap();
    assert_eq!(find(&store, "acme").await.unwrap().version, 3);
}

async fn projects_are_listed_by_name_in_pages(store: Store) {
    assert!(list(&store, "", 9).await.is_empty());
    for name in ["b", "a-1", "c", "a", "ab"] {
        put(&store, &project(name, if name == "c" { Deleted } else { Suspended })).await;
    }
    assert_eq!(list(&store, "", 9).await, ["a", "a-1", "ab", "b", "c"]);
    assert_eq!(list(&store, "", 2).await, ["a", "a-1"]);
    assert_eq!(list(&store, "a-1", 2).await, ["ab", "b"]);
    assert_eq!(list(&store, "aa", 9).await, ["ab", "b", "c"]);
    assert!(list(&store, "c", 9).await.is_empty());
    assert!(list(&store, "", 0).await.is_empty());
}

async fn what_is_loaded_for_a_check_comes_with_its_project(store: Store) {
    let every = key_of(2, "admin", "*");
    store.apply(vec![Write::CreateKey(key(1)), Write::CreateKey(every.clone())]).await.unwrap();
    store.apply(vec![Write::CreateUser(user("ann"))]).await.unwrap();
    let of_key = async |digest| store.load_key(vec![digest]).await.unwrap().found;
    let of_session = async |name: &str| store.load_session(name.to_owned(), "s-1".to_owned()).await.unwrap().found;
    assert_eq!(of_key(key(1).digest).await, Some(KeyLoad { key: key(1), project: None }));
    assert_eq!(of_session("ann").await.project, None);

    let suspended = project("acme", Suspended);
    put(&store, &suspended).await;
    put(&store, &project("beta", Deleted)).await;
    let of_acme = Some(suspended);
    assert_eq!(of_key(key(1).digest).await, Some(KeyLoad { key: key(1), project: of_acme.clone() }));
    assert_eq!(of_key(every.digest).await, Some(KeyLoad { key: every, project: None }));
    assert_eq!(of_session("ann").await, SessionLoad { user: Some(user("ann")), ended: false, project: of_acme });
    assert_eq!(of_session("bob").await, SessionLoad::default());
}

for_every_backend!(
    a_project_is_read_as_written,
    a_project_is_changed_by_who_saw_it,
    a_deleted_project_stays_deleted,
    a_project_and_what_comes_with_it_are_one,
    projects_are_listed_by_name_in_pages,
    what_is_loaded_for_a_check_comes_with_its_project,
);
