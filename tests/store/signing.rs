//! A store that is signed: by its operator alone, once, and never again from the beginning because somebody has set it back.

use std::sync::Arc;
use std::time::Duration;

use tollgate::clock::Clock;
use tollgate::domain::record::{SigningKey, User};
use tollgate::pepper;
use tollgate::resolve::pepper::Pepper;
use tollgate::store::format::Format;
use tollgate::store::keyspace::redis as names;
use tollgate::store::migration::{MigrationStore, migrate};
use tollgate::store::redis::Redis;
use tollgate::store::redis::connect::Connector;
use tollgate::store::signature::Signers;
use tollgate::store::upgrade::upgrade;
use tollgate::store::{KeyQuery, OnceRecord, Store, StoreError, UserQuery, Write};
use zeroize::Zeroizing;

use crate::log::Log;
use crate::redis_server::RedisServer;
use crate::signed;
use crate::signed::file_says;
use crate::support::{Apply, at, id, in_redis, key, key_of, revoked, user};

async fn head_says(server: &RedisServer, format: Format) {
    server.send::<u64>(&format!("HSET tg:{{tg}}:head format {}", format.in_head())).await;
}

/// A store in Redis as the release before has made it, with so many keys.
async fn unsigned(keys: u64) -> (Store, Arc<Redis>, RedisServer) {
    let (first, _, server) = in_redis().await;
    drop(first);
    head_says(&server, Format::Three).await;
    let redis = Arc::new(another(&server));
    let store = Store::Redis(Arc::clone(&redis));
    for some in (0..keys).collect::<Vec<_>>().chunks(500) {
        store.apply(some.iter().map(|n| Write::CreateKey(key(*n))).collect()).await.unwrap();
    }
    (store, redis, server)
}

/// Another process on the same store, which remembers nothing.
fn another(server: &RedisServer) -> Redis {
    signed::redis(Connector::single(&server.address()).unwrap())
}

#[allow(clippy::needless_pass_by_value, reason = "it is made for this")]
fn is_refused<T: std::fmt::Debug>(result: Result<T, StoreError>, why: &str) {
    assert!(matches!(&result, Err(StoreError::Damaged(reason)) if reason.contains(why)), "{result:?}");
}

#[tokio::test]
async fn an_unsigned_store_is_read_until_it_is_signed() {
    let (store, _, server) = unsigned(250).await;
    assert!(store.key(id(7)).await.unwrap().is_some());
    let other = Store::Redis(Arc::new(another(&server)));
    is_refused(other.demand_signatures().await, "tollgate store upgrade");
    is_refused(other.key(id(7)).await, "has no signature");
    let upgraded = upgrade(&store).await.unwrap();
    assert_eq!((upgraded.was, upgraded.rewritten), (Format::Three, 250));
    other.demand_signatures().await.unwrap();
    assert!(other.key(id(7)).await.unwrap().is_some());
    // What is unsigned now was not written by us.
    let name = format!("tg:{{tg}}:k:{}", key(7).digest.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    server.send::<u64>(&format!("SETRANGE {name} 1 x")).await;
    is_refused(store.load_key(vec![key(7).digest]).await, "names two projects");
    is_refused(store.keys(KeyQuery { limit: 999, ..KeyQuery::default() }).await, "");
    let found = other.distrusted().await.unwrap();
    assert_eq!((found.looked_at, found.found), (250, 1), "{found:?}");
}

#[tokio::test]
async fn whoever_has_seen_it_signed_takes_no_older_format() {
    let (store, redis, server) = unsigned(3).await;
    upgrade(&store).await.unwrap();
    assert!(redis.trust().is_signed());
    // A fourth key as an earlier release would have written it, which somebody has done.
    let (theirs, _, elsewhere) = unsigned(5).await;
    drop(theirs);
    copy_key(&elsewhere, &server, 4);
    for format in [Format::Three, Format::RisingToFour, Format::Two] {
        head_says(&server, format).await;
        // What is signed is read as ever, and nothing else is.
        assert!(store.load_key(vec![key(1).digest]).await.unwrap().found.is_some());
        is_refused(store.load_key(vec![key(4).digest]).await, "has no signature");
        is_refused(upgrade(&store).await, "somebody has put an older store in its place");
        is_refused(store.demand_signatures().await, "somebody has put");
        let made = store.apply(vec![Write::CreateKey(key(9_000 + format.in_head()))]).await;
        if format == Format::RisingToFour {
            made.unwrap();
        } else {
            is_refused(made, "somebody has put");
        }
    }
    head_says(&server, Format::Four).await;
    assert!(store.key(id(1)).await.unwrap().is_some());
}

#[tokio::test]
async fn an_upgrade_that_nobody_with_the_pepper_began_does_not_go_on() {
    let (store, _, server) = unsigned(3).await;
    head_says(&server, Format::RisingToFour).await;
    is_refused(upgrade(&store).await, "nothing that was made with this pepper says so");
    // One of another pepper, and one of another store.
    for (signers, lineage) in [(9, "HGET tg:{tg}:head id"), (7, "ECHO 00112233445566778899aabbccddeeff")] {
        let (theirs, _, elsewhere) = unsigned(1).await;
        theirs.set_signers(signed::signers_of(signers));
        let lineage: String = if signers == 9 { server.send(lineage).await } else { elsewhere.send(lineage).await };
        elsewhere.send::<u64>(&format!("HSET tg:{{tg}}:head id {lineage}")).await;
        let mark = interrupted(&theirs, &elsewhere).await;
        let mut connection = client(&server);
        ::redis::cmd("SET").arg("tg:{tg}:upgrade").arg(mark).exec(&mut connection).unwrap();
        is_refused(upgrade(&store).await, "nothing that was made with this pepper says so");
    }
    assert_eq!(store.distrusted().await.unwrap().found, 0, "nothing is refused for it");
}

fn client(server: &RedisServer) -> ::redis::Connection {
    ::redis::Client::open(format!("redis://{}", server.address())).unwrap().get_connection().unwrap()
}

/// The mark that an upgrade leaves which cannot end, as somebody has put something of their own into the store.
async fn interrupted(store: &Store, server: &RedisServer) -> Vec<u8> {
    server.send::<()>("SET tg:{tg}:r:zz junk").await;
    upgrade(store).await.unwrap_err();
    server.send::<u64>("DEL tg:{tg}:r:zz").await;
    ::redis::cmd("GET").arg("tg:{tg}:upgrade").query(&mut client(server)).unwrap()
}

#[tokio::test]
async fn an_upgrade_that_was_cut_off_goes_on_and_believes_nothing_that_came_meanwhile() {
    let (store, _, server) = unsigned(1_200).await;
    store.apply(vec![Write::CreateUser(user("ann"))]).await.unwrap();
    interrupted(&store, &server).await;
    assert_eq!(store.format().await.unwrap(), Format::RisingToFour);
    // What is made meanwhile is signed, and what is left is read.
    store.apply(vec![Write::CreateKey(key(5_000)), Write::UpdateKey(revoked(&key(3)))]).await.unwrap();
    assert!(store.key(id(4)).await.unwrap().is_some());
    let upgraded = upgrade(&Store::Redis(Arc::new(another(&server)))).await.unwrap();
    assert_eq!((upgraded.was, store.format().await.unwrap()), (Format::RisingToFour, Format::Four));
    let found = store.distrusted().await.unwrap();
    assert_eq!((found.looked_at, found.found), (1_202, 0), "{found:?}");
    assert!(store.key(id(3)).await.unwrap().unwrap().revoked_at.is_some());
    assert_eq!(server.send::<u64>("EXISTS tg:{tg}:upgrade").await, 0);
}

fn copy_key(from: &RedisServer, to: &RedisServer, n: u64) {
    let name = format!("tg:{{tg}}:k:{}", key(n).digest.0.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let value: Vec<u8> = ::redis::cmd("GET").arg(&name).query(&mut client(from)).unwrap();
    ::redis::cmd("SET").arg(&name).arg(value).exec(&mut client(to)).unwrap();
}

#[tokio::test]
async fn what_keeps_for_a_time_keeps_as_long_when_it_is_signed() {
    let (store, _, server) = unsigned(1).await;
    let at = Clock::System.now();
    let once = OnceRecord { digest: [3; 32], fingerprint: [1; 32], target: "key:x".to_owned(), at };
    store.apply(vec![Write::Once(once.clone())]).await.unwrap();
    let name = format!("tg:{{tg}}:once:{}", "03".repeat(32));
    server.send::<u64>(&format!("PEXPIRE {name} 5000000")).await;
    assert_eq!(upgrade(&store).await.unwrap().rewritten, 2);
    let left: i64 = server.send(&format!("PTTL {name}")).await;
    assert!((4_900_000..=5_000_000).contains(&left), "{left}");
    assert_eq!(store.once([3; 32]).await.unwrap(), Some(once));
}

#[tokio::test]
async fn nobody_is_on_a_list_because_somebody_has_put_them_there() {
    let (store, _, server) = in_redis().await;
    let of = |name: &str| User { project: name.split('/').next().unwrap().to_owned(), ..user(name) };
    store.apply(["acme/ann", "evil/mallory"].map(|name| Write::CreateUser(of(name))).into()).await.unwrap();
    store.apply(vec![Write::CreateKey(key(1)), Write::CreateKey(key_of(2, "data", "evil"))]).await.unwrap();
    for (list, real, other) in [
        (names::users_of_plain_name("ann"), "acme/ann", "evil/mallory"),
        (names::users_of_project("acme"), "acme/ann", "evil/mallory"),
        (names::keys_of_project("acme"), id(1).as_str(), id(2).as_str()),
    ] {
        let mut connection = client(&server);
        let removed: u64 = ::redis::cmd("ZREM").arg(&list).arg(real).query(&mut connection).unwrap();
        assert_eq!(removed, 1, "{list}");
        ::redis::cmd("ZADD").arg(&list).arg(0).arg(other).exec(&mut connection).unwrap();
    }
    is_refused(store.users_of_plain_name("ann".to_owned(), 9).await, "does not belong there");
    let users = UserQuery { project: Some("acme".to_owned()), limit: 9, ..UserQuery::default() };
    is_refused(store.users(users).await, "does not belong there");
    let keys = KeyQuery { project: Some("acme".to_owned()), limit: 9, ..KeyQuery::default() };
    is_refused(store.keys(keys).await, "does not belong there");
}

#[tokio::test]
async fn what_stands_where_nothing_can_is_named_and_in_nobodys_way() {
    let (store, _, server) = unsigned(3).await;
    server.send::<()>("SET tg:{tg}:k:zz x").await;
    ::redis::cmd("SET").arg(b"tg:{tg}:u:\xff\xfe").arg("x").exec(&mut client(&server)).unwrap();
    let found = store.distrusted().await.unwrap();
    let named = found.named.join("\n");
    assert!(found.found == 2 && named.contains("tg:{tg}:k:zz") && named.contains("\\xff\\xfe"), "{found:?}");
    assert_eq!(upgrade(&store).await.unwrap().rewritten, 3);
}

#[tokio::test]
async fn the_log_tells_of_a_user_who_is_not_believed_and_not_whose_name_it_is() {
    let (store, _, _server) = in_redis().await;
    let log = Log::default();
    let _listening = log.listen();
    store.set_signers(signed::signers_of(9));
    store.apply(vec![Write::CreateUser(user("ann@example.com")), Write::CreateKey(key(1))]).await.unwrap();
    store.set_signers(signed::signers_of(7));
    is_refused(store.user("ann@example.com".to_owned()).await, "ann@example.com");
    is_refused(store.load_key(vec![key(1).digest]).await, "key 000000000001");
    let text = log.text();
    assert!(text.contains("the record of a user has a wrong signature") && text.contains("key 000000000001"), "{text}");
    assert!(!text.contains("ann"), "{text}");
}

#[tokio::test]
async fn one_signing_key_that_is_not_believed_does_not_hide_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let file = signed::embedded(&folder.path().join("store.redb"), Duration::ZERO).unwrap();
    let (in_redis, _, _server) = in_redis().await;
    for store in [Store::Embedded(Arc::new(file)), in_redis] {
        for (n, pepper) in [(1, 7), (2, 9), (3, 7)] {
            store.set_signers(signed::signers_of(pepper));
            let signing = SigningKey { id: format!("s{n}"), sealed: vec![n; 80], created_at: at(1) };
            store.apply(vec![Write::CreateSigningKey(signing)]).await.unwrap();
        }
        let known = store.signing_keys().await.unwrap();
        assert_eq!(known.iter().map(|key| &*key.id).collect::<Vec<_>>(), ["s1", "s3"]);
        assert_eq!(store.distrusted().await.unwrap().found, 1);
    }
}

#[tokio::test]
async fn a_target_that_was_filled_before_its_source_was_signed_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let [from, to] = ["from.redb", "to.redb"].map(|name| folder.path().join(name));
    drop(signed::embedded(&from, Duration::ZERO).unwrap());
    file_says(&from, Format::Three.in_file());
    let source = Store::Embedded(Arc::new(signed::embedded(&from, Duration::ZERO).unwrap()));
    source.apply((0..9).map(|n| Write::CreateKey(key(n))).collect()).await.unwrap();
    drop(source);
    let ends = async || -> (MigrationStore, MigrationStore) {
        let source = MigrationStore::source_file(&from, signed::signers_of(7)).await.unwrap();
        (source, MigrationStore::target_file(&to, signed::signers_of(7)).await.unwrap())
    };
    let (source, target) = ends().await;
    migrate(&source.into(), &target, at(1)).await.unwrap();
    drop(target);
    // As if it had been ended before its end.
    file_says(&to, u64::MAX);
    upgrade(&Store::Embedded(Arc::new(signed::embedded(&from, Duration::from_secs(9)).unwrap()))).await.unwrap();
    let (source, target) = ends().await;
    let refused = migrate(&source.into(), &target, at(1)).await;
    assert!(matches!(&refused, Err(StoreError::Damaged(reason)) if reason.contains("has no signature")), "{refused:?}");
}

fn both(current: (u32, u8), older: Option<(u32, u8)>) -> Signers {
    let of = |(version, byte)| Pepper::new(version, Zeroizing::new([byte; 32]));
    pepper::signers(&of(current), &older.map(of).into_iter().collect::<Vec<_>>())
}

#[tokio::test]
async fn records_are_signed_anew_when_the_pepper_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let file = signed::embedded(&folder.path().join("store.redb"), Duration::ZERO).unwrap();
    let (in_redis, _, _server) = in_redis().await;
    for store in [Store::Embedded(Arc::new(file)), in_redis] {
        let keys = (0..130).map(|n| Write::CreateKey(key(n)));
        store.apply(keys.chain([Write::CreateUser(user("ann"))]).collect()).await.unwrap();
        store.set_signers(both((2, 8), None));
        is_refused(store.key(id(7)).await, "pepper version 1, which is not configured");
        assert_eq!(store.distrusted().await.unwrap().unknown.into_keys().collect::<Vec<_>>(), [1]);
        store.set_signers(both((2, 8), Some((1, 7))));
        assert!(store.key(id(7)).await.unwrap().is_some(), "what the older one has signed is believed");
        store.apply(vec![Write::UpdateKey(revoked(&key(3)))]).await.unwrap();
        assert_eq!(upgrade(&store).await.unwrap().rewritten, 130, "all but what was written since");
        assert_eq!(upgrade(&store).await.unwrap().rewritten, 0);
        store.set_signers(both((2, 8), None));
        let found = store.distrusted().await.unwrap();
        assert_eq!((found.looked_at, found.found), (131, 0), "{found:?}");
        assert_eq!(store.keys(KeyQuery { limit: 999, ..KeyQuery::default() }).await.unwrap().len(), 130);
        let of_acme = KeyQuery { project: Some("acme".to_owned()), limit: 999, ..KeyQuery::default() };
        assert_eq!(store.keys(of_acme).await.unwrap().len(), 130, "where they lie together, too");
    }
}

#[tokio::test]
async fn a_file_is_signed_in_one_step() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let open = || Store::Embedded(Arc::new(signed::embedded(&path, Duration::from_secs(9)).unwrap()));
    drop(open());
    file_says(&path, Format::Three.in_file());
    let store = open();
    store.apply((0..30_000).map(|n| Write::CreateKey(key(n))).collect()).await.unwrap();
    drop(store);
    let store = open();
    assert!(!store.trust().is_signed());
    is_refused(store.demand_signatures().await, "tollgate store upgrade");
    drop(store);
    let store = open();
    assert_eq!(upgrade(&store).await.unwrap().rewritten, 30_000);
    assert!(store.trust().is_signed());
    let found = store.distrusted().await.unwrap();
    assert_eq!((found.looked_at, found.found), (30_000, 0));
    let of_acme = KeyQuery { project: Some("acme".to_owned()), limit: 99_999, ..KeyQuery::default() };
    assert_eq!(store.keys(of_acme).await.unwrap().len(), 30_000);
}
