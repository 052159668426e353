//! Copies of a store, made while it is written to, and put back: the same as it was at the change that the copy ends with.

use std::io::{self, Cursor, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tollgate::resolve::pepper::Pepper;
use tollgate::store::migration::{MigrationStore, Source, migrate};
use tollgate::store::redis::Redis;
use tollgate::store::redis::snapshot::Copied;
use tollgate::store::snapshot::{End, Signer, SnapshotError, SnapshotFile};
use tollgate::store::{AuditQuery, KeyQuery, OnceRecord, Store, StoreError, Write};
use tollgate_core::credential::KeyId;
use zeroize::Zeroizing;

use crate::migration::{File, NOW, assert_same_records, depot, fill};
use crate::redis::alike::Dice;
use crate::redis_server::RedisServer;
use crate::support::{Apply, InRedis, Random, at, in_redis, key, on_server, row};

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

#[tokio::test]
async fn what_a_copy_leaves_out_is_found_again_in_the_log() {
    // A key that gets another digest, one that is purged, and what is ended, all while the copy is made.
    let (store, redis, _server) = in_redis().await;
    fill(&store).await;
    let ids: Vec<KeyId> =
        store.keys(KeyQuery { limit: 40, ..KeyQuery::default() }).await.unwrap().iter().map(|key| key.id).collect();
    let (sender, mut wanted) = tokio::sync::mpsc::unbounded_channel();
    let changer = {
        let store = store.clone();
        tokio::spawn(async move {
            let mut number: u8 = 0;
            while wanted.recv().await.is_some() {
                for id in &ids {
                    let Some(known) = store.key(*id).await.unwrap() else { continue };
                    number = number.wrapping_add(1);
                    let mut changed = known.clone();
                    changed.version += 1;
                    changed.digest.0[0] = changed.digest.0[0].wrapping_add(number);
                    let _ = store.apply(vec![Write::UpdateKey(changed)]).await;
                }
            }
        })
    };
    let told = |_| sender.send(()).unwrap();
    let Copied::Whole(bytes, end) = redis.snapshot(Vec::new(), NOW, &signer(), told).await.unwrap() else {
        panic!("it is not overtaken");
    };
    drop(sender);
    changer.await.unwrap();
    let back = File::new();
    put_back(bytes, &back.target().await).await;
    let keys = back.open().keys(KeyQuery { limit: 5_000, ..KeyQuery::default() }).await.unwrap();
    assert!(keys.len() > 1_300 && end.sequence > 0);
    for key in keys {
        assert_eq!(back.open().key_by_digest(vec![key.digest]).await.unwrap().map(|found| found.id), Some(key.id));
    }
}

#[tokio::test]
async fn a_copy_whose_changes_were_trimmed_away_is_begun_anew() {
    let server = RedisServer::start().await;
    let redis = Arc::new(Arc::into_inner(on_server(&server)).unwrap().with_log_length(10));
    redis.init().await.unwrap();
    let store = Store::Redis(Arc::clone(&redis));
    fill(&store).await;
    let (sender, mut wanted) = tokio::sync::mpsc::unbounded_channel();
    let writer = {
        let store = store.clone();
        tokio::spawn(async move {
            let mut number = 20_000;
            while wanted.recv().await.is_some() {
                for _ in 0..300 {
                    number += 1;
                    store.apply(vec![Write::CreateKey(key(number))]).await.unwrap();
                }
            }
        })
    };
    let mut has_asked = false;
    let told = |_| {
        if !std::mem::replace(&mut has_asked, true) {
            let _ = sender.send(());
        }
    };
    let copied = redis.snapshot(io::sink(), NOW, &signer(), told).await.unwrap();
    assert!(matches!(copied, Copied::Overtaken(reason) if reason.contains("log")), "{copied:?}");
    drop(sender);
    writer.await.unwrap();
    assert!(matches!(copy_of(&redis).await, (_, End { sequence, .. }) if sequence > 300));
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
    put_back(bytes, &depot(&again).await).await;
    let after = again.standing().await.unwrap();
    assert_eq!(
        (&after.lineage, after.sequence, after.log),
        (&before.lineage, before.sequence + 1, before.sequence + 1)
    );
    copy.apply(vec![Write::CreateKey(key(8))]).await.unwrap();
    assert_eq!(copy.audit(AuditQuery { limit: 50, ..AuditQuery::default() }).await.unwrap().rows.len(), 7);
    // Whoever knows more of it finds that it is missing.
    let known = store.apply(vec![Write::CreateKey(key(9))]).await.unwrap();
    let place = tollgate_guard::protocol::Position { sequence: known, chain: redis.standing().await.unwrap().chain };
    assert!(!again.has(&place).await.unwrap().1);
    let place = tollgate_guard::protocol::Position { sequence: before.sequence, chain: before.chain };
    assert!(again.has(&place).await.unwrap().1);
}
