//! What every backend must do when what is left of a key is removed: all of it at once, and only if it is over for long enough.

use tollgate::domain::record::ApiKey;
use tollgate::store::{Counted, KeyQuery, Quota, Store, StoreError, Write};

use crate::support::{Apply, at, id, key, revoked};

/// Revoked at 9,000, expired at `end`.
fn over(n: u64, end: u64) -> ApiKey {
    revoked(&ApiKey { expires_at: Some(at(end)), ..key(n) })
}

async fn put(store: &Store, key: ApiKey) {
    let first = ApiKey { revoked_at: None, version: 1, ..key.clone() };
    store.apply(vec![Write::CreateKey(first)]).await.unwrap();
    if key.version > 1 {
        store.apply(vec![Write::UpdateKey(key)]).await.unwrap();
    }
}

fn purge(n: u64, version: u64, before: u64) -> Write {
    Write::PurgeKey { id: id(n), version, before: at(before) }
}

async fn nothing_is_left_of_a_key(store: Store) {
    put(&store, over(1, 5_000)).await;
    put(&store, key(2)).await;
    store.note_use(vec![(id(1), at(7)), (id(2), at(8))]).await.unwrap();
    store.apply(vec![purge(1, 2, 10_000)]).await.unwrap();
    store.forget_use(vec![id(1)]).await.unwrap();
    assert_eq!(store.key(id(1)).await.unwrap(), None);
    assert_eq!(store.key_by_digest(vec![key(1).digest]).await.unwrap(), None);
    assert_eq!(store.last_used(vec![id(1), id(2)]).await.unwrap(), [None, Some(at(8))]);
    let (project, plane) = (Some("acme".to_owned()), Some("data".to_owned()));
    for (project, plane) in [(None, None), (project.clone(), None), (None, plane.clone()), (project, plane)] {
        let query = KeyQuery { project, plane, limit: 9, ..KeyQuery::default() };
        assert_eq!(store.keys(query).await.unwrap(), [key(2)]);
    }
    // Neither its id nor its place in the quota is taken any more.
    let quota = Write::Quota(Quota { counted: Counted::Keys, project: "acme".to_owned(), most: 2 });
    store.apply(vec![quota.clone(), Write::CreateKey(key(1))]).await.unwrap();
    assert!(matches!(store.apply(vec![quota, Write::CreateKey(key(3))]).await, Err(StoreError::OverQuota(_))));
}

async fn only_what_is_over_for_long_enough_goes(store: Store) {
    let refused = [
        ("not revoked", ApiKey { expires_at: Some(at(5)), ..key(1) }, 1, 10_000),
        ("no expiry", revoked(&key(2)), 2, 10_000),
        ("not expired for so long", over(3, 10_000), 2, 10_000),
        ("not revoked for so long", over(4, 5), 2, 9_000),
        ("another version", over(5, 5), 1, 10_000),
    ];
    for (what, key, version, before) in refused {
        let n = key.id;
        put(&store, key.clone()).await;
        let batch = vec![Write::PurgeKey { id: n, version, before: at(before) }];
        assert!(matches!(store.apply(batch).await, Err(StoreError::Conflict(_))), "{what}");
        assert_eq!(store.key(n).await.unwrap(), Some(key), "{what}");
    }
    assert!(matches!(store.apply(vec![purge(9, 1, 10_000)]).await, Err(StoreError::Conflict(_))), "no key");
    // All or nothing.
    put(&store, over(6, 5)).await;
    assert!(store.apply(vec![purge(6, 2, 10_000), purge(3, 2, 10_000)]).await.is_err());
    assert!(store.key(id(6)).await.unwrap().is_some());
    store.apply(vec![purge(6, 2, 10_000), purge(3, 2, 10_001)]).await.unwrap();
    assert_eq!((store.key(id(6)).await.unwrap(), store.key(id(3)).await.unwrap()), (None, None));
}

for_every_backend!(nothing_is_left_of_a_key, only_what_is_over_for_long_enough_goes);
