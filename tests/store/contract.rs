//! What every backend must do, as functions over a store; run for each backend there is. Here: keys, resources and batches.

use tollgate::domain::record::{ApiKey, AuditEntry, Project, ProjectState, User};
use tollgate::store::{KeyQuery, PepperCheck, ProjectItem, ResourceQuery, Store, StoreError, Write};
use tollgate_core::credential::{KeyId, ProjectId};
use tollgate_core::resource::Resource;
use tollgate_guard::digest::Digest;

use crate::support::{Apply, at, id, key, key_of, project, resource, revoked, row, user};

macro_rules! for_every_backend {
    ($($name:ident),* $(,)?) => {
        for_every_file!($($name),*);

        mod redis_single {
            $(#[tokio::test]
            async fn $name() {
                let (store, _redis, _server) = crate::support::in_redis().await;
                super::$name(store).await;
            })*
        }

        // These take seconds to start, so that one does for all.
        #[tokio::test]
        async fn redis_sentinel() {
            let fleet = crate::support::InRedis::behind_sentinels();
            $(println!("{}", stringify!($name));
            $name(fleet.empty().await).await;)*
        }

        #[tokio::test]
        async fn redis_cluster() {
            let fleet = crate::support::InRedis::in_a_cluster();
            $(println!("{}", stringify!($name));
            $name(fleet.empty().await).await;)*
        }
    };
}

/// For what only a store does that has no clock but the times in its records.
macro_rules! for_every_file {
    ($($name:ident),* $(,)?) => {
        mod embedded {
            $(#[tokio::test]
            async fn $name() {
                let (store, _folder) = crate::support::in_file();
                super::$name(store).await;
            })*
        }

        mod in_memory {
            $(#[tokio::test]
            async fn $name() {
                let store = tollgate::store::embedded::Embedded::in_memory().unwrap();
                super::$name(tollgate::store::Store::Embedded(std::sync::Arc::new(store))).await;
            })*
        }
    };
}

mod journal;
mod projects;
mod quotas;
mod tombstones;
mod trim;
mod users;

fn ids(keys: &[ApiKey]) -> Vec<String> {
    keys.iter().map(|key| key.id.to_string().trim_start_matches('0').to_owned()).collect()
}

fn names(resources: &[Resource]) -> Vec<String> {
    resources.iter().map(|resource| resource.reference().to_string()).collect()
}

#[track_caller]
fn assert_conflict<T: std::fmt::Debug>(result: &Result<T, StoreError>) {
    assert!(matches!(result, Err(StoreError::Conflict(_))), "{result:?}");
}

async fn create(store: &Store, keys: impl IntoIterator<Item = ApiKey>) -> u64 {
    store.apply(keys.into_iter().map(Write::CreateKey).collect()).await.unwrap()
}

async fn what_is_written_is_read(store: Store) {
    assert!(store.has_no_keys().await.unwrap());
    assert!(store.is_available().await);
    assert_eq!(store.key(id(1)).await.unwrap(), None);
    assert_eq!(store.key_by_digest(vec![key(1).digest]).await.unwrap(), None);
    assert_eq!(store.key_by_digest(vec![]).await.unwrap(), None);

    let full = ApiKey {
        workloads: vec!["*".to_owned()],
        permissions: vec!["a".to_owned(), "b".to_owned()],
        expires_at: Some(at(10)),
        retires_at: Some(at(11)),
        revoked_at: Some(at(12)),
        replaces: Some(id(8)),
        replaced_by: Some(id(9)),
        ..key(1)
    };
    let bare = ApiKey { workloads: vec![], permissions: vec![], ..key(2) };
    create(&store, [full.clone(), bare.clone()]).await;
    assert!(!store.has_no_keys().await.unwrap());
    for key in [full, bare] {
        assert_eq!(store.key(key.id).await.unwrap().as_ref(), Some(&key));
        assert_eq!(store.key_by_digest(vec![key.digest]).await.unwrap(), Some(key));
    }
}

async fn the_first_known_digest_counts(store: Store) {
    create(&store, [key(1), key(2)]).await;
    let unknown = Digest([9; 32]);
    let digests = vec![unknown, key(2).digest, key(1).digest];
    assert_eq!(store.key_by_digest(digests).await.unwrap(), Some(key(2)));
    assert_eq!(store.key_by_digest(vec![unknown]).await.unwrap(), None);
}

async fn ids_and_digests_are_taken_once(store: Store) {
    create(&store, [key(1)]).await;
    assert_conflict(&store.apply(vec![Write::CreateKey(ApiKey { id: id(1), ..key(2) })]).await);
    assert_conflict(&store.apply(vec![Write::CreateKey(ApiKey { digest: key(1).digest, ..key(2) })]).await);
    assert_conflict(&store.apply(vec![Write::CreateKey(key(3)), Write::CreateKey(key(3))]).await);
    assert_eq!(store.key(id(1)).await.unwrap(), Some(key(1)));
    assert_eq!(store.key_by_digest(vec![key(1).digest]).await.unwrap(), Some(key(1)));
    assert_eq!(store.key(id(2)).await.unwrap(), None);
    assert_eq!(store.key(id(3)).await.unwrap(), None);
}

async fn keys_are_listed_by_id_in_pages(store: Store) {
    create(&store, [5, 1, 4, 2, 3].map(key)).await;
    let page = async |after: Option<u64>, limit| {
        let query = KeyQuery { after: after.map(id), limit, ..KeyQuery::default() };
        ids(&store.keys(query).await.unwrap())
    };
    assert_eq!(page(None, 10).await, ["1", "2", "3", "4", "5"]);
    assert_eq!(page(None, 2).await, ["1", "2"]);
    assert_eq!(page(Some(2), 2).await, ["3", "4"]);
    assert_eq!(page(Some(4), 2).await, ["5"]);
    assert!(page(Some(5), 2).await.is_empty());
    assert!(page(None, 0).await.is_empty());
}

async fn keys_are_listed_by_project_and_plane(store: Store) {
    let keys = [
        key_of(1, "data", "acme"),
        key_of(2, "control", "acme"),
        key_of(3, "data", "acme-2"),
        key_of(4, "data", "beta"),
        key_of(5, "data", "acme"),
        key_of(6, "admin", "*"),
    ];
    create(&store, keys).await;
    let list = async |project: &str, plane: &str, after: Option<u64>, limit| {
        let named = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        let query = KeyQuery { project: named(project), plane: named(plane), after: after.map(id), limit };
        ids(&store.keys(query).await.unwrap())
    };
    assert_eq!(list("acme", "", None, 9).await, ["1", "2", "5"]);
    assert_eq!(list("acme", "", Some(1), 1).await, ["2"]);
    assert_eq!(list("", "data", None, 9).await, ["1", "3", "4", "5"]);
    assert_eq!(list("", "data", Some(3), 1).await, ["4"]);
    assert_eq!(list("acme", "data", None, 9).await, ["1", "5"]);
    assert_eq!(list("acme", "data", None, 1).await, ["1"]);
    assert_eq!(list("acme", "data", Some(1), 9).await, ["5"]);
    assert_eq!(list("*", "", None, 9).await, ["6"]);
    assert!(list("acm", "", None, 9).await.is_empty());
    assert!(list("acme", "dat", None, 9).await.is_empty());
    assert!(list("acme\0", "", None, 9).await.is_empty());
    assert!(list("", "data", None, 0).await.is_empty());

    // A key that moves leaves its old lists.
    let moved = ApiKey { project: "beta".to_owned(), plane: "control".to_owned(), version: 2, ..key(1) };
    store.apply(vec![Write::UpdateKey(moved)]).await.unwrap();
    assert_eq!(list("acme", "", None, 9).await, ["2", "5"]);
    assert_eq!(list("beta", "", None, 9).await, ["1", "4"]);
    assert_eq!(list("", "control", None, 9).await, ["1", "2"]);
}

/// However a key is looked for, it is the same one.
async fn a_list_shows_the_records_as_they_are(store: Store) {
    create(&store, [key(1), key(2), key_of(3, "control", "beta"), key_of(4, "data", "beta")]).await;
    let id_of_acme = ProjectId::parse("0000000000000001").unwrap();
    let acme = Project { id: Some(id_of_acme), ..project("acme", ProjectState::Active) };
    let belongs = Write::GiveProjectId { to: ProjectItem::Key(id(1)), project: acme.name.clone(), id: id_of_acme };
    let renamed = ApiKey { name: "renamed".to_owned(), version: 2, ..key(2) };
    let changes = [
        vec![Write::PutProject(acme)],
        vec![belongs],
        vec![Write::UpdateKey(renamed.clone())],
        vec![Write::UpdateKey(ApiKey { digest: key(7).digest, version: 3, ..renamed.clone() })],
        vec![Write::UpdateKey(ApiKey { digest: key(7).digest, plane: "control".to_owned(), version: 4, ..renamed })],
        vec![Write::UpdateKey(ApiKey { version: 2, ..key_of(3, "data", "acme") })],
        vec![Write::UpdateKey(revoked(&key_of(4, "data", "beta")))],
    ];
    for change in changes {
        store.apply(change).await.unwrap();
        let mut listed = 0;
        for project in [None, Some("acme"), Some("beta")] {
            for plane in [None, Some("data"), Some("control")] {
                let named = |name: Option<&str>| name.map(str::to_owned);
                let query = KeyQuery { project: named(project), plane: named(plane), after: None, limit: 9 };
                for found in store.keys(query).await.unwrap() {
                    assert_eq!(store.key(found.id).await.unwrap().as_ref(), Some(&found));
                    assert!(project.is_none_or(|project| found.project == project));
                    assert!(plane.is_none_or(|plane| found.plane == plane));
                    listed += 1;
                }
            }
        }
        // In every list of its plane, of its project, of both, and of all.
        assert_eq!(listed, 4 * 4);
    }
}

async fn an_update_needs_the_version_it_saw(store: Store) {
    create(&store, [key(1)]).await;
    let named = |version| ApiKey { name: format!("version {version}"), version, ..key(1) };
    for version in [0, 1, 3] {
        assert_conflict(&store.apply(vec![Write::UpdateKey(named(version))]).await);
    }
    assert_conflict(&store.apply(vec![Write::UpdateKey(ApiKey { version: 2, ..key(2) })]).await);
    store.apply(vec![Write::UpdateKey(named(2))]).await.unwrap();
    assert_conflict(&store.apply(vec![Write::UpdateKey(named(2))]).await);
    store.apply(vec![Write::UpdateKey(named(3)), Write::UpdateKey(named(4))]).await.unwrap();
    assert_eq!(store.key(id(1)).await.unwrap(), Some(named(4)));
    assert_eq!(store.key_by_digest(vec![key(1).digest]).await.unwrap(), Some(named(4)));
}

async fn a_digest_can_change(store: Store) {
    create(&store, [key(1), key(2)]).await;
    let again = ApiKey { digest: key(7).digest, pepper_version: 2, version: 2, ..key(1) };
    store.apply(vec![Write::UpdateKey(again.clone())]).await.unwrap();
    assert_eq!(store.key_by_digest(vec![key(1).digest]).await.unwrap(), None);
    assert_eq!(store.key_by_digest(vec![key(7).digest]).await.unwrap().as_ref(), Some(&again));
    assert_eq!(store.key(id(1)).await.unwrap(), Some(again));
    let taken = ApiKey { digest: key(7).digest, version: 2, ..key(2) };
    assert_conflict(&store.apply(vec![Write::UpdateKey(taken)]).await);
    assert_eq!(store.key(id(2)).await.unwrap(), Some(key(2)));
}

async fn revoked_is_for_good(store: Store) {
    create(&store, [key(1)]).await;
    let tombstone = revoked(&key(1));
    store.apply(vec![Write::UpdateKey(tombstone.clone())]).await.unwrap();
    let revived = ApiKey { revoked_at: None, version: 3, ..tombstone.clone() };
    assert_conflict(&store.apply(vec![Write::UpdateKey(revived)]).await);
    assert_conflict(&store.apply(vec![Write::CreateKey(key(1))]).await);
    assert_eq!(store.key_by_digest(vec![key(1).digest]).await.unwrap().as_ref(), Some(&tombstone));
    let again = ApiKey { version: 3, ..tombstone };
    store.apply(vec![Write::UpdateKey(again)]).await.unwrap();
}

async fn a_batch_is_all_or_nothing(store: Store) {
    create(&store, [key(1)]).await;
    let before = store.apply(vec![]).await.unwrap();
    let batch = vec![
        Write::CreateKey(key(2)),
        Write::UpdateKey(ApiKey { name: "new".to_owned(), version: 2, ..key(1) }),
        Write::CreateResource(resource("workload", "w", "acme")),
        Write::DeleteResource { kind: "workload".to_owned(), id: "other".to_owned(), version: 1 },
    ];
    assert_conflict(&store.apply(batch).await);
    assert_eq!(store.key(id(1)).await.unwrap(), Some(key(1)));
    assert_eq!(store.key(id(2)).await.unwrap(), None);
    assert_eq!(store.keys(KeyQuery { limit: 9, ..KeyQuery::default() }).await.unwrap().len(), 1);
    assert_eq!(store.resource("workload".to_owned(), "w".to_owned()).await.unwrap(), None);
    assert!(store.apply(vec![Write::CreateKey(key(2))]).await.unwrap() > before);
}

async fn the_sequence_grows(store: Store) {
    let mut last = 0;
    for n in 0..5 {
        let sequence = create(&store, [key(n)]).await;
        assert!(sequence > last);
        last = sequence;
        assert_conflict(&store.apply(vec![Write::CreateKey(key(n))]).await);
        store.note_use(vec![(id(n), at(1))]).await.unwrap();
    }
    let tasks: Vec<_> = (10..30)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { create(&store, [key(n)]).await })
        })
        .collect();
    let mut numbers = Vec::new();
    for task in tasks {
        numbers.push(task.await.unwrap());
    }
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 20, "every batch has a number of its own");
    assert!(numbers.iter().all(|number| *number > last));
}

async fn no_active_key_means_none_that_works(store: Store) {
    let none = |plane: &str, now| vec![Write::NoActiveKey { plane: plane.to_owned(), now: at(now) }];
    store.apply(none("admin", 100)).await.unwrap();
    let states = [
        ApiKey { revoked_at: Some(at(1)), ..key_of(1, "admin", "*") },
        ApiKey { expires_at: Some(at(100)), ..key_of(2, "admin", "*") },
        ApiKey { retires_at: Some(at(100)), ..key_of(3, "admin", "*") },
        key_of(4, "data", "acme"),
        key_of(5, "admin2", "*"),
    ];
    create(&store, states).await;
    store.apply(none("admin", 100)).await.unwrap();
    // Before its end each of the two still works.
    assert_conflict(&store.apply(none("admin", 99)).await);

    let mut bootstrap = none("admin", 100);
    bootstrap.push(Write::CreateKey(key_of(6, "admin", "*")));
    store.apply(bootstrap.clone()).await.unwrap();
    assert_conflict(&store.apply(bootstrap).await);
}

async fn only_one_bootstrap_wins(store: Store) {
    let tasks: Vec<_> = (1..=8)
        .map(|n| {
            let none = Write::NoActiveKey { plane: "admin".to_owned(), now: at(1) };
            let store = store.clone();
            tokio::spawn(async move { store.apply(vec![none, Write::CreateKey(key_of(n, "admin", "*"))]).await })
        })
        .collect();
    let mut won = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => won += 1,
            error => assert_conflict(&error),
        }
    }
    assert_eq!(won, 1);
}

async fn resources_come_and_go(store: Store) {
    let one =
        Resource { owner: Some("key:x".to_owned()), slug: "chat".to_owned(), ..resource("workload", "w-1", "acme") };
    let find = async || store.resource("workload".to_owned(), "w-1".to_owned()).await.unwrap();
    assert_eq!(find().await, None);
    store.apply(vec![Write::CreateResource(one.clone())]).await.unwrap();
    assert_eq!(find().await.as_ref(), Some(&one));
    assert_conflict(&store.apply(vec![Write::CreateResource(resource("workload", "w-1", "beta"))]).await);
    store.apply(vec![Write::CreateResource(resource("run", "w-1", "beta"))]).await.unwrap();

    let moved = Resource { project: "beta".to_owned(), owner: None, version: 2, ..one };
    assert_conflict(&store.apply(vec![Write::UpdateResource(Resource { version: 3, ..moved.clone() })]).await);
    assert_conflict(
        &store.apply(vec![Write::UpdateResource(Resource { id: "w-2".to_owned(), ..moved.clone() })]).await,
    );
    store.apply(vec![Write::UpdateResource(moved.clone())]).await.unwrap();
    assert_eq!(find().await, Some(moved));

    let delete = |version| vec![Write::DeleteResource { kind: "workload".to_owned(), id: "w-1".to_owned(), version }];
    assert_conflict(&store.apply(delete(1)).await);
    store.apply(delete(2)).await.unwrap();
    assert_eq!(find().await, None);
    assert_conflict(&store.apply(delete(2)).await);
    store.apply(vec![Write::CreateResource(resource("workload", "w-1", "gamma"))]).await.unwrap();
}

async fn resources_are_listed_by_kind_and_project(store: Store) {
    let all = [
        resource("workload", "b", "acme"),
        resource("run", "a", "beta"),
        resource("workload", "a", "acme"),
        resource("workload-2", "a", "acme"),
        resource("run", "b", "acme"),
        resource("workload", "c", "beta"),
    ];
    store.apply(all.map(Write::CreateResource).to_vec()).await.unwrap();
    let list = async |kind: &str, project: &str, after: Option<(&str, &str)>, limit| {
        let named = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        let after = after.map(|(kind, id)| (kind.to_owned(), id.to_owned()));
        let query = ResourceQuery { kind: named(kind), project: named(project), after, limit };
        names(&store.resources(query).await.unwrap())
    };
    let everything = ["run:a", "run:b", "workload:a", "workload:b", "workload:c", "workload-2:a"];
    assert_eq!(list("", "", None, 9).await, everything);
    assert_eq!(list("", "", None, 2).await, everything[..2]);
    assert_eq!(list("", "", Some(("run", "b")), 2).await, everything[2..4]);
    assert_eq!(list("workload", "", None, 9).await, everything[2..5]);
    assert_eq!(list("workload", "", Some(("workload", "a")), 1).await, everything[3..4]);
    assert_eq!(list("workload", "", Some(("run", "a")), 1).await, everything[2..3]);
    assert!(list("run", "", Some(("workload", "a")), 9).await.is_empty());
    assert_eq!(list("", "acme", None, 9).await, ["run:b", "workload:a", "workload:b", "workload-2:a"]);
    assert_eq!(list("", "acme", Some(("workload", "a")), 1).await, ["workload:b"]);
    assert_eq!(list("workload", "acme", None, 9).await, ["workload:a", "workload:b"]);
    assert_eq!(list("workload", "acme", Some(("workload", "a")), 9).await, ["workload:b"]);
    assert!(list("workload", "acme", Some(("workload", "b")), 9).await.is_empty());
    assert!(list("", "acm", None, 9).await.is_empty());

    let moved = Resource { version: 2, ..resource("workload", "a", "beta") };
    let gone = Write::DeleteResource { kind: "workload".to_owned(), id: "b".to_owned(), version: 1 };
    store.apply(vec![Write::UpdateResource(moved), gone]).await.unwrap();
    assert_eq!(list("workload", "acme", None, 9).await, Vec::<String>::new());
    assert_eq!(list("workload", "beta", None, 9).await, ["workload:a", "workload:c"]);
}

async fn names_cannot_pass_for_others(store: Store) {
    assert_conflict(&store.apply(vec![Write::CreateUser(User { project: "ac\0me".to_owned(), ..user("ann") })]).await);
    assert_conflict(&store.apply(vec![Write::CreateUser(user("an\0n"))]).await);
    assert_conflict(&store.apply(vec![Write::Audit(AuditEntry { project: Some("a\0".to_owned()), ..row("x") })]).await);
    store.apply(vec![Write::CreateResource(resource("a", "b", "acme"))]).await.unwrap();
    assert_eq!(store.resource("a\0b".to_owned(), String::new()).await.unwrap(), None);
    assert_conflict(&store.apply(vec![Write::CreateResource(resource("a\0", "b", "acme"))]).await);
    assert_conflict(&store.apply(vec![Write::CreateResource(resource("a", "c", "acme\0"))]).await);
    assert_conflict(&store.apply(vec![Write::CreateKey(key_of(1, "data\0", "acme"))]).await);
    assert_conflict(&store.apply(vec![Write::CreateKey(key_of(1, "data", "ac\0me"))]).await);
}

async fn the_latest_use_counts(store: Store) {
    let sequence = create(&store, [key(1), key(2)]).await;
    let last = async || store.last_used(vec![id(2), id(1), id(3)]).await.unwrap();
    assert_eq!(last().await, [None, None, None]);
    store.note_use(vec![(id(1), at(50)), (id(2), at(70))]).await.unwrap();
    store.note_use(vec![(id(1), at(60)), (id(2), at(10)), (id(1), at(55))]).await.unwrap();
    store.note_use(vec![]).await.unwrap();
    assert_eq!(last().await, [Some(at(70)), Some(at(60)), None]);
    assert!(store.last_used(vec![]).await.unwrap().is_empty());
    // Ids that differ in how they begin.
    let ids = ["zz0000000001", "aa0000000001", "mm0000000001", "zz0000000002", "aa0000000002"];
    let ids = ids.map(|id| KeyId::parse(id).unwrap());
    let uses: Vec<_> = ids.iter().zip(1..).filter(|(_, n)| n % 2 == 1).map(|(id, n)| (*id, at(n))).collect();
    store.note_use(uses).await.unwrap();
    let expected = [Some(at(1)), None, Some(at(3)), None, Some(at(5))];
    assert_eq!(store.last_used(ids.to_vec()).await.unwrap(), expected);
    assert_eq!(store.key(id(1)).await.unwrap(), Some(key(1)), "the record is as it was");
    assert_eq!(store.apply(vec![]).await.unwrap(), sequence + 1);
}

async fn a_pepper_check_never_changes(store: Store) {
    assert!(store.pepper_checks().await.unwrap().is_empty());
    let check = |version, byte| PepperCheck { version, check: [byte; 32] };
    store.put_pepper_check(check(2, 2)).await.unwrap();
    store.put_pepper_check(check(1, 1)).await.unwrap();
    store.put_pepper_check(check(1, 1)).await.unwrap();
    assert_conflict(&store.put_pepper_check(check(1, 3)).await);
    assert_eq!(store.pepper_checks().await.unwrap(), [check(1, 1), check(2, 2)]);
}

async fn many_keys_are_made_at_once(store: Store) {
    let all = (0..10_000).map(|n| key_of(n, "data", ["acme", "beta"][usize::from(n % 3 == 0)]));
    // More than a thousand at once hold everybody up in a store that is shared.
    for some in all.collect::<Vec<_>>().chunks(1000) {
        create(&store, some.iter().cloned()).await;
    }
    let mut seen = 0;
    let mut query = KeyQuery { project: Some("beta".to_owned()), limit: 1000, ..KeyQuery::default() };
    while let Some(last) = {
        let page = store.keys(query.clone()).await.unwrap();
        seen += page.len();
        page.last().map(|key| key.id)
    } {
        query.after = Some(last);
    }
    assert_eq!(seen, 3334);
    assert_eq!(store.key_by_digest(vec![key(9_999).digest]).await.unwrap().map(|key| key.id), Some(id(9_999)));
}

for_every_backend!(
    what_is_written_is_read,
    the_first_known_digest_counts,
    ids_and_digests_are_taken_once,
    keys_are_listed_by_id_in_pages,
    keys_are_listed_by_project_and_plane,
    a_list_shows_the_records_as_they_are,
    an_update_needs_the_version_it_saw,
    a_digest_can_change,
    revoked_is_for_good,
    a_batch_is_all_or_nothing,
    the_sequence_grows,
    no_active_key_means_none_that_works,
    only_one_bootstrap_wins,
    resources_come_and_go,
    resources_are_listed_by_kind_and_project,
    names_cannot_pass_for_others,
    the_latest_use_counts,
    a_pepper_check_never_changes,
    many_keys_are_made_at_once,
);
