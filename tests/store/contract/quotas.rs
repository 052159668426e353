//! What every backend must do with quotas: judged with the batch, and with all that was ended.

use std::sync::Arc;

use tollgate::domain::record::{ApiKey, User};
use tollgate::store::{Counted, Quota, Store, StoreError, Write};
use tollgate_core::resource::Resource;

use crate::support::{Apply, key, key_of, resource, revoked, user};

fn quota(counted: Counted, project: &str, most: u64) -> Write {
    Write::Quota(Quota { counted, project: project.to_owned(), most })
}

/// Makes it if the project has less than so many.
async fn make(store: &Store, counted: Counted, most: u64, write: Write) -> bool {
    let project = match &write {
        Write::CreateKey(key) | Write::UpdateKey(key) => &key.project,
        Write::CreateUser(user) | Write::UpdateUser(user) => &user.project,
        Write::CreateResource(resource) | Write::UpdateResource(resource) => &resource.project,
        other => panic!("{other:?}"),
    };
    match store.apply(vec![quota(counted, project, most), write]).await {
        Ok(_) => true,
        Err(StoreError::OverQuota(over)) => {
            assert_eq!(over.most, most);
            false
        }
        Err(error) => panic!("{error}"),
    }
}

async fn keys_count_for_good(store: Store) {
    let create = async |key: ApiKey| make(&store, Counted::Keys, 3, Write::CreateKey(key)).await;
    store.apply(vec![Write::CreateKey(key(1))]).await.unwrap();
    assert!(create(key(2)).await);
    store.apply(vec![Write::UpdateKey(revoked(&key(2)))]).await.unwrap();
    assert!(create(key(3)).await);
    assert!(!create(key(4)).await);
    assert_eq!(store.key(key(4).id).await.unwrap(), None, "nothing of the batch is there");
    assert!(create(key_of(5, "data", "beta")).await && create(key_of(6, "data", "acm")).await);
    assert!(make(&store, Counted::Keys, 4, Write::CreateKey(key(4))).await);
    let moved = ApiKey { project: "beta".to_owned(), version: 2, ..key(1) };
    store.apply(vec![Write::UpdateKey(moved)]).await.unwrap();
    assert!(make(&store, Counted::Keys, 4, Write::CreateKey(key(7))).await);
    assert!(!make(&store, Counted::Keys, 2, Write::CreateKey(key_of(8, "data", "beta"))).await);
}

async fn deleted_users_count(store: Store) {
    let create = async |user: User| make(&store, Counted::Users, 3, Write::CreateUser(user)).await;
    store.apply(vec![Write::CreateUser(user("ann"))]).await.unwrap();
    assert!(create(user("bob")).await && create(user("carl")).await);
    assert!(!create(user("dora")).await);
    let deleted = User { deleted: true, sessions: 2, version: 2, ..user("bob") };
    store.apply(vec![Write::UpdateUser(deleted.clone())]).await.unwrap();
    assert!(!create(user("dora")).await);
    let again = User { deleted: false, sessions: 3, version: 3, ..deleted };
    store.apply(vec![Write::UpdateUser(again.clone())]).await.unwrap();
    assert!(!create(user("dora")).await);
    let moved = User { project: "beta".to_owned(), version: 4, ..again };
    assert!(make(&store, Counted::Users, 1, Write::UpdateUser(moved)).await);
    assert!(create(user("dora")).await);
    assert!(
        !make(&store, Counted::Users, 1, Write::CreateUser(User { project: "beta".to_owned(), ..user("e") })).await
    );
}

async fn resources_count_while_they_are_there(store: Store) {
    let thing = |id: &str, project: &str| resource("workload", id, project);
    let create = async |thing: Resource| make(&store, Counted::Resources, 2, Write::CreateResource(thing)).await;
    assert!(create(thing("1", "acme")).await && create(thing("2", "acme")).await);
    assert!(!create(thing("3", "acme")).await);
    assert!(create(thing("4", "beta")).await);
    let moved = Resource { version: 2, ..thing("4", "acme") };
    assert!(!make(&store, Counted::Resources, 2, Write::UpdateResource(moved)).await);
    let delete = Write::DeleteResource { kind: "workload".to_owned(), id: "1".to_owned(), version: 1 };
    store.apply(vec![delete]).await.unwrap();
    assert!(create(thing("3", "acme")).await);
    assert!(!create(thing("5", "acme")).await);
}

/// Nobody is let through between the count and the creation.
async fn many_at_once_do_not_exceed_it(store: Store) {
    let store = Arc::new(store);
    let tasks: Vec<_> = (0..40)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { make(&store, Counted::Keys, 10, Write::CreateKey(key(n))).await })
        })
        .collect();
    let mut made = 0;
    for task in tasks {
        made += usize::from(task.await.unwrap());
    }
    assert_eq!(made, 10);
}

for_every_backend!(
    keys_count_for_good,
    deleted_users_count,
    resources_count_while_they_are_there,
    many_at_once_do_not_exceed_it,
);
