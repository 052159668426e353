//! Copies of a store, made while it is written to, and put back: the same as it was at the change that the copy ends with.

use std::future::Future;
use std::io::{self, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tollgate::domain::record::{ApiKey, EndedSession, ProjectState};
use tollgate::resolve::pepper::Pepper;
use tollgate::store::migration::{MigrationStore, Source, migrate, restore};
use tollgate::store::redis::Redis;
use tollgate::store::redis::snapshot::Copied;
use tollgate::store::snapshot::{End, Signer, SnapshotError, SnapshotFile};
use tollgate::store::{AuditQuery, OnceRecord, PepperCheck, Store, StoreError, Write};
use zeroize::Zeroizing;

use crate::migration::{File, NOW, assert_same_records, depot, fill};
use crate::redis::alike::Dice;
use crate::redis_server::RedisServer;
use crate::support::{Apply, InRedis, Random, at, in_redis, key, on_server, project, resource, revoked, row, user};

fn signer() -> Signer {
    Pepper::new(1, Zeroizing::new([7; 32])).snapshot_signer()
}

/// One that is whole.
fn opened(bytes: Vec<u8>) -> Arc<SnapshotFile> {
    let open = move || io::Result::Ok(Box::new(Cursor::new(bytes.clone())) as Box<dyn Read + Send>);
    let file = SnapshotFile::open::<SnapshotError>(Box::new(open), |_| Ok(signer()), |_| Ok(()));
    Arc::new(file.unwrap())
}

async fn copy(store: &Store) -> Vec<u8> {
    match store {
        Store::Embedded(store) => store.snapshot(Vec::new(), NOW, &signer()).unwrap().0,
        Store::Redis(store) => copy_of(store).await.0,
    }
}

async fn copy_of(redis: &Arc<Redis>) -> (Vec<u8>, End) {
    match redis.snapshot(Vec::new(), NOW, &signer(), |_| {}).await.unwrap() {
        Copied::Whole(bytes, end) => (bytes, end),
        Copied::Overtaken(reason) => panic!("{reason}"),
    }
}

async fn put_back(bytes: Vec<u8>, target: &MigrationStore) {
    migrate(&Source::Snapshot(opened(bytes)), target, NOW).await.unwrap();
}

#[tokio::test]
async fn a_copy_of_either_store_fills_either_store() {
    let file = File::new();
    fill(&file.open()).await;
    let (store, redis, _server) = in_redis().await;
    put_back(copy(&file.open()).await, &depot(&redis).await).await;
    assert_same_records(&file.open(), &store).await;

    let (again, redis, _server) = in_redis().await;
    put_back(copy(&store).await, &depot(&redis).await).await;
    assert_same_records(&store, &again).await;

    let back = File::new();
    put_back(copy(&again).await, &back.target().await).await;
    assert_same_records(&again, &back.open()).await;
    back.open().apply(vec![Write::CreateKey(key(9_000)), Write::Audit(row("next"))]).await.unwrap();
}

#[tokio::test]
async fn several_servers_are_copied_and_filled() {
    let file = File::new();
    fill(&file.open()).await;
    for servers in [InRedis::behind_sentinels(), InRedis::in_a_cluster()] {
        let store = servers.empty().await;
        let Store::Redis(redis) = &store else { panic!("it is in Redis") };
        put_back(copy(&file.open()).await, &depot(redis).await).await;
        let back = File::new();
        put_back(copy(&store).await, &back.target().await).await;
        assert_same_records(&file.open(), &back.open()).await;
    }
}

/// Everything of a store, up to a change, put back and made once more from the batches that were acknowledged.
#[tokio::test]
async fn a_copy_that_is_made_under_load_is_of_one_moment() {
    let (store, redis, _server) = in_redis().await;
    let again = File::new();
    fill(&store).await;
    fill(&again.open()).await;
    let mut changed_meanwhile = 0;
    for round in 0..6 {
        let begun = head(&redis).await;
        let is_over = Arc::new(AtomicU64::new(0));
        let writer = {
            let (store, is_over) = (store.clone(), Arc::clone(&is_over));
            tokio::spawn(async move {
                let (mut dice, mut written) = (Dice(Random(0xc0_77 + round)), Vec::new());
                let mut number = 0;
                while is_over.load(Ordering::SeqCst) == 0 {
                    number += 1;
                    let digest = [u8::try_from(number % 100).unwrap(); 32];
                    let once = OnceRecord { digest, fingerprint: digest, target: "key:x".to_owned(), at: at(900) };
                    let batch = match number % 3 {
                        0 => vec![dice.step(&store).await, Write::Audit(row(&format!("{round}:{number}")))],
                        1 => vec![Write::CreateKey(key(10_000 + round * 10_000 + number)), Write::Audit(row("made"))],
                        _ => vec![Write::Once(once), dice.step(&store).await],
                    };
                    // Some of them do not fit.
                    if let Ok(sequence) = store.apply(batch.clone()).await {
                        written.push((sequence, batch));
                    }
                }
                written
            })
        };
        // So that some are made before, and some behind it.
        while head(&redis).await < begun + 5 {
            tokio::task::yield_now().await;
        }
        let (bytes, end) = copy_of(&redis).await;
        while head(&redis).await < end.sequence + 5 {
            tokio::task::yield_now().await;
        }
        is_over.store(1, Ordering::SeqCst);
        let written = writer.await.unwrap();
        let (known, later): (Vec<_>, Vec<_>) = written.into_iter().partition(|(sequence, _)| *sequence <= end.sequence);
        assert!(!later.is_empty());
        changed_meanwhile += known.len();
        let file = again.open();
        for (_, batch) in known {
            file.apply(batch).await.unwrap();
        }
        let back = File::new();
        put_back(bytes, &back.target().await).await;
        assert_same_records(&file, &back.open()).await;
        for (_, batch) in later {
            file.apply(batch).await.unwrap();
        }
    }
    assert!(changed_meanwhile > 30, "{changed_meanwhile}");
}

async fn head(redis: &Redis) -> u64 {
    redis.standing().await.unwrap().sequence
}

/// Makes a copy, and does something once, when so many records were copied.
async fn copy_while<F: Future<Output = ()> + Send + 'static>(
    redis: &Arc<Redis>,
    behind: u64,
    change: F,
) -> Result<Copied<Vec<u8>>, StoreError> {
    let mut change = Some(change);
    let told = |records| {
        if records > behind
            && let Some(change) = change.take()
        {
            let (done, is_done) = std::sync::mpsc::channel();
            tokio::spawn(async move {
                change.await;
                done.send(()).unwrap();
            });
            is_done.recv().unwrap();
        }
    };
    let copied = redis.snapshot(Vec::new(), NOW, &signer(), told).await;
    assert!(change.is_none(), "it was done while the copy was made");
    copied
}

/// Behind the keys that are copied first, and before the rows.
const BEHIND: u64 = 700;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_while_it_is_copied_is_copied_again() {
    let (store, redis, _server) = in_redis().await;
    fill(&store).await;
    let over = |number: u64| ApiKey { expires_at: Some(at(5)), revoked_at: Some(at(5)), ..key(number) };
    store.apply(vec![Write::CreateKey(over(50)), Write::CreateKey(key(51)), Write::CreateKey(key(52))]).await.unwrap();
    let change = {
        let store = store.clone();
        async move {
            let purge = Write::PurgeKey { id: over(50).id, version: 1, before: at(9) };
            let mut moved = key(51);
            (moved.version, moved.digest) = (2, key(60).digest);
            let ended =
                EndedSession { id: "one".to_owned(), user: "ann".to_owned(), ended_at: at(3), expires_at: at(5_000) };
            let batch = vec![
                purge,
                Write::UpdateKey(moved),
                Write::UpdateKey(revoked(&key(52))),
                Write::CreateKey(key(53)),
                Write::EndSession(ended),
                Write::DeleteResource { kind: "workload".to_owned(), id: "w-42".to_owned(), version: 1 },
                Write::CreateResource(resource("workload", "w-43", "acme")),
                Write::PutProject(project("newer", ProjectState::Suspended)),
                Write::CreateUser(user("new")),
                Write::DeleteSigningKey { id: "sign".to_owned() },
                Write::Once(OnceRecord { digest: [99; 32], fingerprint: [1; 32], target: "t".to_owned(), at: at(900) }),
                Write::Audit(row("late")),
            ];
            store.apply(batch).await.unwrap();
            store.put_pepper_check(PepperCheck { version: 77, check: [77; 32] }).await.unwrap();
        }
    };
    let Copied::Whole(bytes, _) = copy_while(&redis, BEHIND, change).await.unwrap() else {
        panic!("it is not overtaken");
    };
    let back = File::new();
    put_back(bytes, &back.target().await).await;
    assert_same_records(&store, &back.open()).await;
    let back = back.open();
    assert_eq!(back.key(over(50).id).await.unwrap(), None);
    assert_eq!(back.key_by_digest(vec![key(60).digest]).await.unwrap().map(|found| found.id), Some(key(51).id));
    assert_eq!(back.key_by_digest(vec![key(51).digest]).await.unwrap(), None);
    assert!(back.key(key(52).id).await.unwrap().unwrap().revoked_at.is_some());
    assert!(back.ended_session("one".to_owned()).await.unwrap());
    assert!(back.sessions("ann".to_owned()).await.unwrap().iter().all(|open| open.id != "one"));
    assert!(back.pepper_checks().await.unwrap().iter().any(|check| check.version == 77));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_accepted_or_trimmed_meanwhile_is_copied_anew() {
    let (store, redis, _server) = in_redis().await;
    fill(&store).await;
    let accept = {
        let redis = Arc::clone(&redis);
        async move { drop(redis.accept(&redis.standing().await.unwrap(), &row("accepted")).await.unwrap()) }
    };
    let copied = copy_while(&redis, BEHIND, accept).await.unwrap();
    assert!(matches!(copied, Copied::Overtaken(reason) if reason.contains("another lineage")));
    // All rows but the newest, once some have been copied.
    let rows = store.audit(AuditQuery { limit: 5_000, ..AuditQuery::default() }).await.unwrap().rows.len() as u64;
    let all = copy_of(&redis).await.1.records;
    let trim = async move { assert!(store.trim_audit(at(2), 5_000).await.unwrap() > 1_000) };
    let copied = copy_while(&redis, all - rows, trim).await.unwrap();
    assert!(matches!(copied, Copied::Overtaken(reason) if reason.contains("audit log")));
    copy_of(&redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_release_writes_meanwhile_is_not_passed_over() {
    let (store, redis, server) = in_redis().await;
    fill(&store).await;
    let sequence = head(&redis).await + 1;
    let mut connection = server.connection().await;
    let write = async move {
        // It says which slots it touched, and no record.
        let mut entry = redis::cmd("XADD");
        entry.arg("tg:{tg}:log").arg(format!("{sequence}-0")).arg("h").arg("x").arg("p").arg(&[0x0a_u8, 1, 1][..]);
        let _: String = entry.query_async(&mut connection).await.unwrap();
        let mut newer = redis::cmd("HSET");
        newer.arg("tg:{tg}:head").arg("seq").arg(sequence).arg("h").arg("x");
        let _: u64 = newer.query_async(&mut connection).await.unwrap();
    };
    match copy_while(&redis, BEHIND, write).await {
        Err(StoreError::Conflict(reason)) => assert!(reason.contains("another release"), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_backup_that_is_swapped_while_it_is_read_is_not_believed() {
    let (file, other) = (File::new(), File::new());
    fill(&file.open()).await;
    other.open().apply(vec![Write::CreateKey(key(1))]).await.unwrap();
    let (real, another) = (copy(&file.open()).await, copy(&other.open()).await);
    for (swapped, at_pass) in [(&another, 2), (&another, 3), (&real[..real.len() / 2].to_vec(), 3)] {
        let (real, swapped, passes) = (real.clone(), swapped.clone(), AtomicU64::new(0));
        let open = move || {
            let pass = passes.fetch_add(1, Ordering::SeqCst) + 1;
            let bytes = if pass >= at_pass { swapped.clone() } else { real.clone() };
            io::Result::Ok(Box::new(Cursor::new(bytes)) as Box<dyn Read + Send>)
        };
        let backup = SnapshotFile::open::<SnapshotError>(Box::new(open), |_| Ok(signer()), |_| Ok(())).unwrap();
        let target = File::new();
        restore(Arc::new(backup), &target.target().await, &row("restored"), NOW).await.unwrap_err();
        assert!(target.try_open().unwrap_err().to_string().contains("has not ended"), "pass {at_pass}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_whose_changes_were_trimmed_away_is_begun_anew() {
    let server = RedisServer::start().await;
    let redis = Arc::new(Arc::into_inner(on_server(&server)).unwrap().with_log_length(10));
    redis.init().await.unwrap();
    let store = Store::Redis(Arc::clone(&redis));
    fill(&store).await;
    let change = async move {
        for number in 20_000..20_300 {
            store.apply(vec![Write::CreateKey(key(number))]).await.unwrap();
        }
    };
    let copied = copy_while(&redis, BEHIND, change).await.unwrap();
    assert!(matches!(copied, Copied::Overtaken(reason) if reason.contains("entries of the log")));
    copy_of(&redis).await;
}

#[tokio::test]
async fn a_store_that_has_lost_something_or_is_half_upgraded_is_not_copied() {
    let (store, redis, server) = in_redis().await;
    store.apply(vec![Write::CreateKey(key(1))]).await.unwrap();
    let refused = async || match redis.snapshot(Vec::new(), NOW, &signer(), |_| {}).await {
        Err(StoreError::Conflict(reason)) => reason,
        other => panic!("{other:?}"),
    };
    server.send::<u64>("HSET tg:{tg}:head format 1003").await;
    assert!(refused().await.contains("tollgate store upgrade"));
    server.send::<u64>("HSET tg:{tg}:head format 3").await;
    server.send::<u64>("DEL tg:{tg}:log").await;
    assert!(refused().await.contains("tollgate store accept"));
}

#[tokio::test]
async fn a_copy_goes_on_as_the_lineage_that_it_was() {
    let (store, redis, _server) = in_redis().await;
    for number in 1..=7 {
        store.apply(vec![Write::CreateKey(key(number)), Write::Audit(row("made"))]).await.unwrap();
    }
    let before = redis.standing().await.unwrap();
    let (bytes, end) = copy_of(&redis).await;
    assert_eq!((end.sequence, &end.chain), (before.sequence, &before.chain));
    let (copy, again, _server) = in_redis().await;
    restore(opened(bytes), &depot(&again).await, &row("restored"), NOW).await.unwrap();
    let after = again.standing().await.unwrap();
    assert_eq!(
        (&after.lineage, after.sequence, after.log),
        (&before.lineage, before.sequence + 1, before.sequence + 1)
    );
    copy.apply(vec![Write::CreateKey(key(8))]).await.unwrap();
    assert_eq!(
        copy.audit(AuditQuery { limit: 50, ..AuditQuery::default() }).await.unwrap().rows.len(),
        8,
        "with that it was restored"
    );
    // Whoever knows more of it finds that it is missing.
    let known = store.apply(vec![Write::CreateKey(key(9))]).await.unwrap();
    let place = tollgate_guard::protocol::Position { sequence: known, chain: redis.standing().await.unwrap().chain };
    assert!(!again.has(&place).await.unwrap().1);
    let place = tollgate_guard::protocol::Position { sequence: before.sequence, chain: before.chain };
    assert!(again.has(&place).await.unwrap().1);
}
