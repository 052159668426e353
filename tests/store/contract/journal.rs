//! What every backend must do with the audit log and with idempotency keys.

use tollgate::domain::record::{AuditEntry, Outcome};
use tollgate::store::{AuditQuery, OnceRecord, Store, Write};

use super::assert_conflict;
use crate::support::{Apply, at, id, key, row, user};

const DAY: u64 = 24 * 3600 * 1000;

async fn write(store: &Store, rows: impl IntoIterator<Item = AuditEntry>) {
    store.apply(rows.into_iter().map(Write::Audit).collect()).await.unwrap();
}

fn all() -> AuditQuery {
    AuditQuery { limit: 99, ..AuditQuery::default() }
}

/// The targets of the rows, the newest first.
async fn targets(store: &Store, query: AuditQuery) -> Vec<String> {
    store.audit(query).await.unwrap().rows.into_iter().map(|row| row.target).collect()
}

async fn the_log_counts_its_rows(store: Store) {
    assert!(store.audit(all()).await.unwrap().rows.is_empty());
    let refused = AuditEntry {
        sequence: 77,
        outcome: Outcome::Refused,
        reason: Some("you do not reach project beta".to_owned()),
        project: None,
        ..row("user:ann")
    };
    write(&store, [row("key:1"), row("key:2")]).await;
    write(&store, [refused.clone()]).await;
    let numbered = |sequence, row| AuditEntry { sequence, ..row };
    let expected = [numbered(3, refused), numbered(2, row("key:2")), numbered(1, row("key:1"))];
    assert_eq!(store.audit(all()).await.unwrap().rows, expected, "the store gives the numbers");
}

async fn the_log_is_read_from_its_end_in_pages(store: Store) {
    write(&store, ["a", "b", "c", "d", "e"].map(row)).await;
    let page = async |before, limit| targets(&store, AuditQuery { before, limit, ..all() }).await;
    assert_eq!(page(None, 2).await, ["e", "d"]);
    assert_eq!(page(Some(4), 2).await, ["c", "b"]);
    assert_eq!(page(Some(2), 2).await, ["a"]);
    assert!(page(Some(1), 2).await.is_empty());
    assert!(page(Some(0), 2).await.is_empty());
    assert_eq!(page(Some(99), 1).await, ["e"]);
    assert!(page(None, 0).await.is_empty());
}

async fn the_log_is_searched(store: Store) {
    let of = |target: &str, project: &str, actor: &str, act: &str, time| AuditEntry {
        project: (!project.is_empty()).then(|| project.to_owned()),
        actor: actor.to_owned(),
        act: act.to_owned(),
        at: at(time),
        ..row(target)
    };
    write(
        &store,
        [
            of("a", "acme", "operator", "key.create", 10),
            of("b", "beta", "key:x", "key.create", 20),
            of("c", "acme", "key:x", "key.revoke", 30),
            of("d", "", "operator", "signing_key.create", 40),
            of("e", "acme-2", "key:x", "key.create", 50),
            of("a", "acme", "operator", "key.revoke", 60),
        ],
    )
    .await;
    let some = |text: &str| Some(text.to_owned());
    for (query, expected) in [
        (AuditQuery { project: some("acme"), ..all() }, &["a", "c", "a"][..]),
        (AuditQuery { project: some("acme"), limit: 2, ..all() }, &["a", "c"]),
        (AuditQuery { project: some("acme"), before: Some(3), ..all() }, &["a"]),
        (AuditQuery { project: some("acme"), actor: some("key:x"), limit: 1, ..all() }, &["c"]),
        (AuditQuery { project: some("acme-2"), ..all() }, &["e"]),
        (AuditQuery { project: some("acm"), ..all() }, &[]),
        (AuditQuery { project: some("acme\0"), ..all() }, &[]),
        (AuditQuery { actor: some("operator"), ..all() }, &["a", "d", "a"]),
        (AuditQuery { act: some("key.create"), ..all() }, &["e", "b", "a"]),
        (AuditQuery { act: some("key.create"), limit: 2, ..all() }, &["e", "b"]),
        (AuditQuery { target: some("a"), ..all() }, &["a", "a"]),
        (AuditQuery { since: Some(at(30)), until: Some(at(60)), ..all() }, &["e", "d", "c"]),
        (AuditQuery { act: some("key.revoke"), actor: some("operator"), ..all() }, &["a"]),
        (AuditQuery { act: some("key"), ..all() }, &[]),
    ] {
        assert_eq!(targets(&store, query.clone()).await, expected, "{query:?}");
    }
}

async fn a_change_and_its_row_are_one(store: Store) {
    store.apply(vec![Write::CreateKey(key(1)), Write::Audit(row("key:1"))]).await.unwrap();
    assert_conflict(&store.apply(vec![Write::Audit(row("key:1")), Write::CreateKey(key(1))]).await);
    assert_conflict(
        &store.apply(vec![Write::Audit(row("x")), Write::Once(once(1, 1)), Write::CreateKey(key(1))]).await,
    );
    assert_eq!(targets(&store, all()).await, ["key:1"]);
    assert_eq!(store.once([1; 32]).await.unwrap(), None);
    // No number is lost with a batch that was refused.
    store.apply(vec![Write::CreateUser(user("ann")), Write::Audit(row("user:ann"))]).await.unwrap();
    assert_eq!(store.audit(all()).await.unwrap().rows[0].sequence, 2);
}

async fn many_write_rows_at_once(store: Store) {
    let tasks: Vec<_> = (0..20)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move { write(&store, [row(&n.to_string()), row(&n.to_string())]).await })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let rows = store.audit(all()).await.unwrap().rows;
    let numbers: Vec<u64> = rows.iter().map(|row| row.sequence).collect();
    assert_eq!(numbers, (1..=40).rev().collect::<Vec<u64>>());
    for pair in rows.chunks(2) {
        assert_eq!(pair[0].target, pair[1].target, "the rows of a batch stand together");
    }
}

fn once(n: u8, time: u64) -> OnceRecord {
    OnceRecord { digest: [n; 32], fingerprint: [n + 100; 32], target: format!("key:{n}"), at: at(time) }
}

async fn an_idempotency_key_counts_for_a_day(store: Store) {
    assert_eq!(store.once([1; 32]).await.unwrap(), None);
    store.apply(vec![Write::Once(once(1, 1000)), Write::CreateKey(key(1))]).await.unwrap();
    assert_eq!(store.once([1; 32]).await.unwrap(), Some(once(1, 1000)));
    for time in [1000, 1001, DAY + 999, 1] {
        assert_conflict(&store.apply(vec![Write::CreateKey(key(2)), Write::Once(once(1, time))]).await);
    }
    assert_eq!(store.key(id(2)).await.unwrap(), None, "what came with it was not done");
    store.apply(vec![Write::Once(once(1, DAY + 1000))]).await.unwrap();
    assert_eq!(store.once([1; 32]).await.unwrap(), Some(once(1, DAY + 1000)));
    assert_conflict(&store.apply(vec![Write::Once(once(1, 2 * DAY + 999))]).await);
}

async fn idempotency_keys_are_forgotten_after_a_day(store: Store) {
    for n in 0..20 {
        store.apply(vec![Write::Once(once(n, 1000 + u64::from(n)))]).await.unwrap();
    }
    let remembered = async || {
        let mut count = 0;
        for n in 0..20 {
            count += usize::from(store.once([n; 32]).await.unwrap().is_some());
        }
        count
    };
    store.apply(vec![Write::Once(once(50, DAY + 1000))]).await.unwrap();
    assert_eq!(remembered().await, 20);
    let mut last = 20;
    for n in 0.. {
        store.apply(vec![Write::Once(once(60 + n, 2 * DAY))]).await.unwrap();
        let now = remembered().await;
        assert!(now + 8 >= last, "one write forgets only a few");
        last = now;
        if now == 0 {
            break;
        }
        assert!(n < 20, "they are never forgotten");
    }
    assert_eq!(store.once([50; 32]).await.unwrap(), Some(once(50, DAY + 1000)), "younger ones stay");
}

for_every_backend!(
    the_log_counts_its_rows,
    the_log_is_read_from_its_end_in_pages,
    the_log_is_searched,
    a_change_and_its_row_are_one,
    many_write_rows_at_once,
    an_idempotency_key_counts_for_a_day,
);

mod forgetting {
    use super::idempotency_keys_are_forgotten_after_a_day;

    for_every_file!(idempotency_keys_are_forgotten_after_a_day);
}
