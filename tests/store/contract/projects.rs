//! What every backend must do with what is said of a whole project.

use ProjectState::{Active, Deleted, Suspended};
use tollgate::domain::record::{ApiKey, Project, ProjectState, User};
use tollgate::store::{KeyLoad, ProjectItem, SessionLoad, Store, Write};
use tollgate_core::credential::ProjectId;
use tollgate_core::resource::Resource;

use super::assert_conflict;
use crate::support::{Apply, at, id, key, key_of, project, resource, user};

fn next(project: &Project, state: ProjectState) -> Project {
    Project { state, version: project.version + 1, changed_at: at(2), ..project.clone() }
}

fn an_id(n: u8) -> Option<ProjectId> {
    ProjectId::parse(&format!("{n:016}"))
}

fn in_project(name: &str, id: Option<ProjectId>) -> Write {
    Write::InProject { name: name.to_owned(), id }
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

async fn an_id_is_given_once(store: Store) {
    let first = Project { id: an_id(1), ..project("acme", Active) };
    put(&store, &first).await;
    for id in [None, an_id(2)] {
        assert_conflict(&store.apply(vec![Write::PutProject(Project { id, ..next(&first, Suspended) })]).await);
    }
    assert_eq!(find(&store, "acme").await.as_ref(), Some(&first));
    // One of which something was said before it had an id.
    let older = project("beta", Suspended);
    put(&store, &older).await;
    let named = Project { id: an_id(3), ..next(&older, Suspended) };
    put(&store, &named).await;
    assert_eq!(store.load_project("beta".to_owned()).await.unwrap().found, Some(named));
}

async fn what_is_made_in_a_project_finds_it_as_it_was(store: Store) {
    put(&store, &Project { id: an_id(1), ..project("acme", Active) }).await;
    put(&store, &Project { id: an_id(2), ..project("gone", Deleted) }).await;
    for refused in [
        in_project("acme", an_id(2)),
        in_project("acme", None),
        in_project("beta", an_id(1)),
        in_project("beta", None),
        in_project("gone", an_id(2)),
    ] {
        assert_conflict(&store.apply(vec![refused, Write::CreateKey(key(1))]).await);
    }
    assert_eq!(store.key(id(1)).await.unwrap(), None, "nothing of it is written");
    store.apply(vec![in_project("acme", an_id(1)), Write::CreateKey(key(1))]).await.unwrap();
    let new = Project { id: an_id(3), ..project("beta", Active) };
    let batch = vec![Write::PutProject(new), in_project("beta", an_id(3)), Write::CreateKey(key_of(2, "data", "beta"))];
    store.apply(batch).await.unwrap();
}

async fn what_belongs_to_a_project_carries_its_id_on(store: Store) {
    let (ann, chat) = (user("ann"), resource("workload", "w-1", "acme"));
    let made = vec![Write::CreateKey(key(1)), Write::CreateUser(ann.clone()), Write::CreateResource(chat.clone())];
    store.apply(made).await.unwrap();
    let give = |id: Option<ProjectId>| {
        let (kind, name) = ("workload".to_owned(), "w-1".to_owned());
        let all =
            [ProjectItem::Key(key(1).id), ProjectItem::User("ann".into()), ProjectItem::Resource { kind, id: name }];
        let project = || "acme".to_owned();
        all.map(|to| Write::GiveProjectId { to, project: project(), id: id.unwrap() }).to_vec()
    };
    let carried = async || {
        let (key, ann) = (store.key(id(1)).await.unwrap().unwrap(), store.user("ann".into()).await.unwrap().unwrap());
        let chat = store.resource("workload".into(), "w-1".into()).await.unwrap().unwrap();
        [key.project_id, ann.project_id, chat.project_id]
    };
    // No id but the project's own.
    assert_conflict(&store.apply(give(an_id(1))).await);
    put(&store, &Project { id: an_id(1), ..project("acme", Active) }).await;
    assert_conflict(&store.apply(give(an_id(2))).await);
    assert_eq!(carried().await, [None; 3]);
    store.apply(give(an_id(1))).await.unwrap();
    assert_eq!(carried().await, [an_id(1); 3]);
    // Whoever changes it may have read it before.
    let change = |project: &str, id: Option<ProjectId>, version| {
        let project = || project.to_owned();
        vec![
            Write::UpdateKey(ApiKey { project: project(), project_id: id, version, ..key(1) }),
            Write::UpdateUser(User { project: project(), project_id: id, version, ..ann.clone() }),
            Write::UpdateResource(Resource { project: project(), project_id: id, version, ..chat.clone() }),
        ]
    };
    store.apply(change("acme", None, 2)).await.unwrap();
    assert_eq!(carried().await, [an_id(1); 3]);
    store.apply(change("acme", an_id(2), 3)).await.unwrap();
    assert_eq!(carried().await, [an_id(1); 3]);
    store.apply(change("beta", an_id(2), 4)).await.unwrap();
    assert_eq!(carried().await, [an_id(2); 3], "moved to another project");
    store.apply(change("*", None, 5)).await.unwrap();
    store.apply(give(an_id(1))).await.unwrap();
    assert_eq!(carried().await, [None; 3], "it is not of that project any more");
    let (to, project) = (ProjectItem::User("bob".into()), "acme".to_owned());
    store.apply(vec![Write::GiveProjectId { to, project, id: an_id(1).unwrap() }]).await.unwrap();
    // Whoever has the name of somebody deleted is somebody else, also in the same project.
    let was = User { project_id: an_id(1), ..user("eve") };
    let gone = User { deleted: true, sessions: 2, version: 2, ..was.clone() };
    let new = User { project_id: an_id(3), sessions: 3, version: 3, ..was.clone() };
    store.apply(vec![Write::CreateUser(was), Write::UpdateUser(gone), Write::UpdateUser(new)]).await.unwrap();
    assert_eq!(store.user("eve".into()).await.unwrap().unwrap().project_id, an_id(3));
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
    assert_eq!(
        of_session("ann").await,
        SessionLoad { user: Some(user("ann")), open: false, ended: false, project: of_acme }
    );
    assert_eq!(of_session("bob").await, SessionLoad::default());
}

for_every_backend!(
    a_project_is_read_as_written,
    a_project_is_changed_by_who_saw_it,
    a_deleted_project_stays_deleted,
    a_project_and_what_comes_with_it_are_one,
    an_id_is_given_once,
    what_is_made_in_a_project_finds_it_as_it_was,
    what_belongs_to_a_project_carries_its_id_on,
    projects_are_listed_by_name_in_pages,
    what_is_loaded_for_a_check_comes_with_its_project,
);
