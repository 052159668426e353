//! What Redis alone can get wrong: a server that was emptied, demoted, filled, stopped or restarted, and other writers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;
use tollgate::clock::Clock;
use tollgate::domain::change::{Ended, Endings, Event};
use tollgate::domain::record::{ApiKey, EndedSession, OpenSession, Project, ProjectState, User};
use tollgate::registry::{Actor, Expected, Registry, RegistryError};
use tollgate::resolve::api_key::Digester;
use tollgate::resolve::pepper::Pepper;
use tollgate::store::redis::{Init, Redis};
use tollgate::store::{AuditQuery, KeyQuery, OnceRecord, Store, StoreError, UserQuery, Write};
use tollgate_guard::slots::Touched;
use tollgate_guard::stamps::Stamps;
use zeroize::Zeroizing;

use crate::redis_server::RedisServer;
use crate::registry_fixture::RegistryFixture;
use crate::support::{at, id, in_redis, key, key_of, on_server, project, resource, revoked, row, user};

pub mod alike;
pub mod channel;
mod lost;
mod proxy;
mod unheard;

const DAY: u64 = 24 * 3600 * 1000;

fn event() -> Event {
    Event { touched: Touched::Slots(vec![1, 2]), ended: Vec::new() }
}

async fn write(redis: &Redis, batch: Vec<Write>) -> Result<u64, StoreError> {
    redis.commit(&batch, &event()).await
}

#[track_caller]
fn assert_unavailable<T: std::fmt::Debug>(result: Result<T, StoreError>, why: &str) {
    match result {
        Err(StoreError::Unavailable(reason)) => assert!(reason.contains(why), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_head_is_made_once_and_by_nothing_else() {
    let server = RedisServer::start().await;
    let redis = on_server(&server);
    assert_unavailable(write(&redis, vec![Write::CreateKey(key(1))]).await, "lost its head");
    assert_eq!(server.send::<u64>("DBSIZE").await, 0);
    let Init::Made { lineage } = redis.init().await.unwrap() else { panic!("there was a head") };
    write(&redis, vec![Write::CreateKey(key(1))]).await.unwrap();
    assert_eq!(redis.init().await.unwrap(), Init::WasThere { lineage, sequence: 1 });
    server.send::<u64>("HSET tg:{tg}:head format 2").await;
    assert!(matches!(redis.init().await, Err(StoreError::Damaged(_))));
    assert!(matches!(redis.load_key(&[key(1).digest]).await, Err(StoreError::Damaged(_))), "another one can read it");
    assert!(matches!(redis.has_no_keys().await, Err(StoreError::Damaged(_))));
    assert!(matches!(write(&redis, vec![Write::CreateKey(key(2))]).await, Err(StoreError::Damaged(_))));
}

#[tokio::test]
async fn a_server_that_was_emptied_is_not_a_store_without_records() {
    let (_, redis, server) = in_redis().await;
    write(&redis, vec![Write::CreateKey(key(1)), Write::CreateUser(user("ann"))]).await.unwrap();
    let Init::WasThere { lineage: before, .. } = redis.init().await.unwrap() else { panic!("the head is gone") };
    server.send::<()>("FLUSHALL").await;
    let lost = "lost its head";
    assert_unavailable(redis.load_key(&[key(1).digest]).await, lost);
    assert_unavailable(redis.load_session("ann", "s-1").await, lost);
    assert_unavailable(redis.load_resource("workload", "w").await, lost);
    assert_unavailable(redis.load_project("acme").await, lost);
    assert_unavailable(redis.key(id(1)).await, lost);
    assert_unavailable(redis.keys(&KeyQuery { limit: 9, ..KeyQuery::default() }).await, lost);
    let store = Store::Redis(Arc::clone(&redis));
    assert_unavailable(store.users(UserQuery { limit: 9, ..UserQuery::default() }).await, lost);
    assert_unavailable(store.user("ann".to_owned()).await, lost);
    assert_unavailable(redis.audit(&AuditQuery { limit: 9, ..AuditQuery::default() }).await, lost);
    assert_unavailable(redis.has_no_keys().await, lost);
    assert_unavailable(redis.pepper_checks().await, lost);
    assert!(!redis.is_available().await);
    assert_unavailable(write(&redis, vec![Write::UpdateKey(revoked(&key(1)))]).await, lost);
    assert_unavailable(write(&redis, vec![]).await, lost);
    assert_eq!(server.send::<u64>("DBSIZE").await, 0, "nothing was written");
    let Init::Made { lineage } = redis.init().await.unwrap() else { panic!("there was a head") };
    assert_ne!(lineage, before);
}

/// Some processes on one server.
fn processes(server: &RedisServer) -> [Arc<Redis>; 6] {
    [(); 6].map(|()| on_server(server))
}

/// How many of these succeeded; the others must have been refused.
async fn successes(writes: impl IntoIterator<Item = (Arc<Redis>, Vec<Write>)>) -> usize {
    let tasks: Vec<_> =
        writes.into_iter().map(|(redis, batch)| tokio::spawn(async move { write(&redis, batch).await })).collect();
    let mut won = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => won += 1,
            Err(error) => assert!(matches!(error, StoreError::Conflict(_)), "{error}"),
        }
    }
    won
}

#[tokio::test]
async fn what_changed_between_reading_and_writing_is_not_overwritten() {
    let (_, redis, server) = in_redis().await;
    let processes = processes(&server);
    let each = |batch: &dyn Fn(u64) -> Vec<Write>| {
        let writes = (1..).zip(&processes).map(|(n, redis)| (Arc::clone(redis), batch(n)));
        writes.collect::<Vec<_>>()
    };
    // Connections are made first, so that all write at the same time.
    assert_eq!(successes(each(&|n| vec![Write::CreateKey(key(n))])).await, 6);
    for version in 2..20 {
        let named = |n: u64| ApiKey { name: format!("{n}"), version, ..key(1) };
        assert_eq!(successes(each(&|n| vec![Write::UpdateKey(named(n))])).await, 1, "version {version}");
    }
    for round in 0..10 {
        let plane = format!("plane-{round}");
        let first = |n: u64| {
            let none = Write::NoActiveKey { plane: plane.clone(), now: at(1) };
            vec![none, Write::CreateKey(key_of(100 + 10 * round + n, &plane, "*"))]
        };
        assert_eq!(successes(each(&first)).await, 1, "{plane}");
        let same = Write::CreateResource(resource("workload", &plane, "acme"));
        assert_eq!(successes(each(&|_| vec![same.clone()])).await, 1, "{plane}");
    }
    let rows = each(&|n| vec![Write::Audit(row(&n.to_string())), Write::Audit(row(&n.to_string()))]);
    assert_eq!(successes(rows).await, 6);
    let rows = redis.audit(&AuditQuery { limit: 99, ..AuditQuery::default() }).await.unwrap().rows;
    assert_eq!(rows.iter().map(|row| row.sequence).collect::<Vec<_>>(), (1..=12).rev().collect::<Vec<u64>>());
    assert!(rows.chunks(2).all(|pair| pair[0].target == pair[1].target), "the rows of a batch stand together");
}

#[tokio::test]
async fn a_server_that_was_demoted_is_not_believed() {
    let (_, redis, server) = in_redis().await;
    write(&redis, vec![Write::CreateKey(key(1))]).await.unwrap();
    assert!(redis.load_key(&[key(1).digest]).await.unwrap().found.is_some());
    let mut channel = redis.channel().await.unwrap();
    let other = RedisServer::start().await;
    server.send::<()>(&format!("REPLICAOF 127.0.0.1 {}", other.port())).await;
    for _ in 0..3 {
        assert!(matches!(redis.load_key(&[key(1).digest]).await, Err(StoreError::Unavailable(_))));
        assert!(matches!(redis.keys(&KeyQuery::default()).await.map(|_| ()), Ok(())), "nothing was asked for");
        let listed = redis.keys(&KeyQuery { limit: 1, ..KeyQuery::default() }).await;
        assert!(matches!(listed, Err(StoreError::Unavailable(_))));
        assert!(matches!(write(&redis, vec![]).await, Err(StoreError::Unavailable(_))));
    }
    assert!(matches!(channel.members().await, Err(StoreError::Unavailable(_))));
    assert!(matches!(channel.renew(&channel::member("a")).await, Err(StoreError::Unavailable(_))));
    assert!(redis.channel().await.is_err());
    server.send::<()>("REPLICAOF NO ONE").await;
}

#[tokio::test]
async fn a_server_that_was_filled_keeps_room_for_every_end() {
    let (store, redis, server) = in_redis().await;
    let fixture = RegistryFixture::on(store);
    let barred = project("acme", ProjectState::Suspended);
    let thing = resource("workload", "w-1", "acme");
    let disabled = User { disabled: true, sessions: 2, version: 2, ..user("ann") };
    let made = (1..=200).map(|n| Write::CreateKey(key(n))).chain([
        Write::CreateUser(user("ann")),
        Write::CreateUser(user("bob")),
        Write::CreateResource(thing.clone()),
        Write::Audit(row("old")),
        Write::Audit(row("old")),
    ]);
    write(&redis, made.collect()).await.unwrap();
    // What the server frees by itself, such as the garbage of scripts, is little beside a tenth of this.
    let limit = used_memory(&server).await + (24 << 20);
    server.send::<()>(&format!("CONFIG SET maxmemory {limit}")).await;
    // Somebody makes keys until no more are taken.
    let mut next = 1000;
    let refused = loop {
        let batch = (next..next + 50).map(|n| Write::CreateKey(key(n))).collect();
        match write(&redis, batch).await {
            Ok(_) => next += 50,
            Err(error) => break error,
        }
        assert!(next < 100_000, "it is never full");
    };
    assert!(matches!(&refused, StoreError::Full(why) if why.contains("raise `maxmemory`")), "{refused}");
    let used = used_memory(&server).await;
    assert!(used < limit, "nothing is left");
    // Well above the mark, so that what the server frees by itself makes no room for more.
    server.send::<()>(&format!("CONFIG SET maxmemory {}", used / 95 * 100)).await;
    let others = [
        vec![Write::CreateUser(user("new"))],
        vec![Write::CreateResource(resource("workload", "w-2", "acme"))],
        vec![Write::UpdateKey(ApiKey { name: "x".repeat(100), version: 2, ..key(1) })],
        vec![Write::Audit(row("a refusal"))],
        vec![Write::PutProject(project("other", ProjectState::Active))],
        vec![Write::UpdateUser(User { permissions: vec!["more".to_owned()], version: 2, ..user("ann") })],
        vec![Write::UpdateKey(revoked(&key(1))), Write::CreateKey(key(2_000_000))],
    ];
    // Also when the rest is gone, by whatever the server holds beside.
    for limit in [None, Some(1)] {
        if let Some(limit) = limit {
            server.send::<()>(&format!("CONFIG SET maxmemory {limit}")).await;
        }
        for batch in others.clone() {
            let result = write(&redis, batch.clone()).await;
            assert!(matches!(result, Err(StoreError::Full(_))), "{batch:?}: {result:?}");
        }
        let n = limit.unwrap_or(0) + 10;
        write(&redis, vec![Write::UpdateKey(revoked(&key(n))), Write::Audit(row("end"))]).await.unwrap();
        let (removed, more) = fixture.registry.trim_audit(&Actor::operator(), at(9)).await.unwrap();
        assert!(removed > 0 && !more, "what makes room is written down, too");
        let load = redis.load_key(&[key(n).digest]).await.unwrap();
        assert_eq!(load.found.map(|load| load.key), Some(revoked(&key(n))));
        assert!(redis.load_key(&[key(200).digest]).await.unwrap().found.is_some(), "checks go on");
        assert!(redis.channel().await.unwrap().renew(&channel::member("a")).await.is_ok());
        let used = redis.note_use(&[(id(1), at(1))]).await;
        assert_eq!(used.is_err(), limit.is_some(), "the last thing to matter goes last: {used:?}");
        assert_eq!(redis.keys(&KeyQuery { limit: 3, ..KeyQuery::default() }).await.unwrap().len(), 3);
        write(&redis, vec![]).await.unwrap();
        let taken = vec![Write::CreateKey(key(1))];
        assert!(
            matches!(write(&redis, taken).await, Err(StoreError::Conflict(_))),
            "what is wrong is said all the same"
        );
    }
    // One takes a copy of a full store above all.
    fixture.registry.note_backup(&Actor::operator()).await.unwrap();
    let session = EndedSession { id: "s".to_owned(), user: "ann".to_owned(), ended_at: at(1), expires_at: at(9) };
    // And whoever makes room logs in first.
    let (began_at, expires_at) = (at(1), at(9));
    let open = OpenSession { id: "t".to_owned(), generation: 1, began_at, expires_at, address: None };
    let ends = [
        Write::BeginSession { user: "ann".to_owned(), session: open },
        Write::UpdateUser(disabled.clone()),
        Write::UpdateUser(User { deleted: true, sessions: 3, version: 3, ..disabled }),
        Write::UpdateUser(User { sessions: 2, version: 2, ..user("bob") }),
        Write::EndSession(session),
        Write::PutProject(barred),
        Write::DeleteResource { kind: thing.kind, id: thing.id, version: 1 },
    ];
    for end in ends {
        write(&redis, vec![end.clone(), Write::Audit(row("end"))])
            .await
            .unwrap_or_else(|error| panic!("{end:?}: {error}"));
    }
    server.send::<()>("CONFIG SET maxmemory 0").await;
    wait_for(async || write(&redis, vec![Write::CreateKey(key(1_000_000))]).await.is_ok()).await;
}

async fn used_memory(server: &RedisServer) -> u64 {
    let info: String = server.send("INFO memory").await;
    let line = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap();
    line.trim().parse().unwrap()
}

#[tokio::test]
async fn a_write_that_too_few_replicas_have_says_so() {
    let server = RedisServer::start().await;
    let replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &server.port().to_string()]).await;
    let Ok(redis) = Arc::try_unwrap(on_server(&server)) else { panic!("it is in use") };
    let redis = redis.with_replicas(1);
    wait_for(async || redis.init().await.is_ok()).await;
    if let Err(error) = write(&redis, vec![Write::CreateKey(key(1))]).await {
        // A replica that is slow to answer has it a moment later.
        assert!(matches!(error, StoreError::Unreplicated(_)), "{error}");
        wait_for(async || write(&redis, vec![]).await.is_ok()).await;
    }
    let before = redis.load_key(&[key(1).digest]).await.unwrap().position.unwrap().sequence;
    drop(replica);
    let update = vec![Write::UpdateKey(revoked(&key(1)))];
    let result = write(&redis, update).await;
    assert!(matches!(&result, Err(StoreError::Unreplicated(why)) if why.contains("0 of 1")), "{result:?}");
    let load = redis.load_key(&[key(1).digest]).await.unwrap();
    assert_eq!(load.found.map(|load| load.key), Some(revoked(&key(1))), "it is recorded");
    assert_eq!(load.position.unwrap().sequence, before + 1);
    // An empty write confirms what came before it, once there is a replica again.
    assert!(matches!(write(&redis, vec![]).await, Err(StoreError::Unreplicated(_))));
    let _replica = RedisServer::start_with(&["--replicaof", "127.0.0.1", &server.port().to_string()]).await;
    wait_for(async || write(&redis, vec![]).await.is_ok()).await;
}

#[tokio::test]
async fn a_revocation_that_no_replica_has_yet_holds_up_no_other() {
    let (_, redis, server) = in_redis().await;
    write(&redis, vec![Write::CreateKey(key(1)), Write::CreateKey(key(2))]).await.unwrap();
    let Ok(lonely) = Arc::try_unwrap(on_server(&server)) else { panic!("it is in use") };
    let store = Store::Redis(Arc::new(lonely.with_replicas(1)));
    let digester = Arc::new(Digester::new(&Pepper::new(1, Zeroizing::new([7; 32])), &[]));
    let (stamps, (_heard, hears)) = (Arc::new(Stamps::leased(Clock::System)), watch::channel(0));
    let endings = Arc::new(Endings::default());
    let registry = Registry::new(store, digester, stamps, Arc::default(), Clock::System);
    let registry = registry.in_fleet(hears, Arc::clone(&endings), None);
    for n in [1, 2] {
        let result = registry.revoke_key(&Actor::operator(), id(n), Expected::Any).await;
        assert!(matches!(&result, Err(RegistryError::Unavailable(why)) if why.contains("recorded")), "{result:?}");
        let found = redis.load_key(&[key(n).digest]).await.unwrap().found;
        assert!(found.is_some_and(|load| load.key.revoked_at.is_some()), "what is said to be recorded is");
    }
    // Nor does what is ended again after a failover.
    write(&redis, vec![Write::CreateKey(key(3)), Write::CreateKey(key(4))]).await.unwrap();
    let lost = [3, 4].map(|n| Ended::Key { digest: key(n).digest, at: at(1) });
    endings.write_down(&lost);
    endings.suspect_unheard(&lost);
    assert!(registry.end_again().await.is_err(), "nobody has confirmed it");
    for n in [3, 4] {
        let found = redis.load_key(&[key(n).digest]).await.unwrap().found;
        assert!(found.is_some_and(|load| load.key.revoked_at.is_some()), "{n}");
    }
    // It is seen that there is nothing left to do.
    registry.end_again().await.unwrap();
}

#[tokio::test]
async fn a_restart_is_bridged_and_loses_nothing() {
    let (_, redis, mut server) = in_redis().await;
    write(&redis, vec![Write::CreateKey(key(1))]).await.unwrap();
    redis.load_project("acme").await.unwrap();
    server.kill();
    assert_unavailable(redis.load_key(&[key(1).digest]).await, "");
    assert_unavailable(write(&redis, vec![Write::CreateKey(key(2))]).await, "");
    server.restart().await;
    for _ in 0..4 {
        assert!(redis.load_key(&[key(1).digest]).await.unwrap().found.is_some());
    }
    assert_eq!(write(&redis, vec![Write::CreateKey(key(2))]).await, Ok(2));
    // With connections that were good before the restart.
    server.kill();
    server.restart().await;
    assert!(redis.load_key(&[key(2).digest]).await.unwrap().found.is_some());
    assert_eq!(write(&redis, vec![Write::CreateKey(key(3))]).await, Ok(3));
    redis.drop_loads();
    assert!(redis.load_key(&[key(3).digest]).await.unwrap().found.is_some());
}

#[tokio::test]
async fn nothing_is_loaded_from_another_history_than_the_one_that_is_followed() {
    let (_, redis, server) = in_redis().await;
    write(&redis, vec![Write::CreateKey(key(1))]).await.unwrap();
    let lineage = |init: Init| match init {
        Init::Made { lineage } | Init::WasThere { lineage, .. } => lineage,
    };
    let followed = lineage(redis.init().await.unwrap());
    redis.join(&followed);
    assert!(redis.load_key(&[key(1).digest]).await.unwrap().found.is_some());
    server.send::<()>("FLUSHALL").await;
    let made = lineage(redis.init().await.unwrap());
    assert_ne!(made, followed);
    assert_unavailable(redis.load_key(&[key(1).digest]).await, "has not followed it yet");
    assert_unavailable(redis.load_session("ada", "s").await, "has not followed it yet");
    assert_unavailable(redis.load_project("acme").await, "has not followed it yet");
    assert_unavailable(redis.load_resource("vm", "1").await, "has not followed it yet");
    assert!(!redis.is_available().await);
    redis.join(&made);
    assert_eq!(redis.load_key(&[key(1).digest]).await.unwrap().found, None);
}

#[tokio::test]
async fn a_server_that_hangs_is_given_up_in_time() {
    let (_, redis, server) = in_redis().await;
    write(&redis, vec![Write::CreateKey(key(1))]).await.unwrap();
    redis.load_project("acme").await.unwrap();
    let process = Pid::from_raw(i32::try_from(server.process()).unwrap()).unwrap();
    kill_process(process, Signal::STOP).unwrap();
    let began = Instant::now();
    let loads: Vec<_> = (0..20)
        .map(|_| {
            let redis = Arc::clone(&redis);
            tokio::spawn(async move { redis.load_key(&[key(1).digest]).await })
        })
        .collect();
    for load in loads {
        assert!(matches!(load.await.unwrap(), Err(StoreError::Unavailable(_))));
    }
    let took = began.elapsed();
    kill_process(process, Signal::CONT).unwrap();
    assert!(took < Duration::from_millis(1500), "they waited one behind the other: {took:?}");
    wait_for(async || redis.load_key(&[key(1).digest]).await.is_ok()).await;
}

#[tokio::test]
async fn a_load_tells_of_the_project_and_of_the_newest_change() {
    let (_, redis, _server) = in_redis().await;
    let barred = Project {
        name: "acme".to_owned(),
        id: None,
        state: ProjectState::Suspended,
        changed_at: at(1),
        changed_by: "operator".to_owned(),
        version: 1,
    };
    write(&redis, vec![Write::CreateKey(key(1)), Write::CreateUser(user("ann"))]).await.unwrap();
    let load = redis.load_key(&[key(9).digest, key(1).digest]).await.unwrap();
    assert_eq!((load.position.unwrap().sequence, load.found.unwrap().project), (1, None));
    write(&redis, vec![Write::PutProject(barred.clone())]).await.unwrap();
    let load = redis.load_key(&[key(9).digest, key(1).digest]).await.unwrap();
    assert_eq!(load.position.unwrap().sequence, 2);
    assert_eq!(load.found.unwrap().project.as_ref(), Some(&barred));
    let load = redis.load_session("ann", "s-1").await.unwrap().found;
    assert_eq!((load.user, load.ended, load.project), (Some(user("ann")), false, Some(barred)));
    let load = redis.load_session("bob", "s-1").await.unwrap().found;
    assert_eq!((load.user, load.ended, load.project), (None, false, None));
}

#[tokio::test]
async fn what_has_a_life_of_its_own_ends_by_itself() {
    let (_, redis, server) = in_redis().await;
    let session =
        EndedSession { id: "s-1".to_owned(), user: "ann".to_owned(), ended_at: at(1000), expires_at: at(61_000) };
    let once = OnceRecord { digest: [1; 32], fingerprint: [2; 32], target: "key:1".to_owned(), at: at(1000) };
    write(&redis, vec![Write::EndSession(session), Write::Once(once), Write::CreateKey(key(1))]).await.unwrap();
    write(&redis, vec![Write::UpdateKey(revoked(&key(1)))]).await.unwrap();
    let left: u64 = server.send("PTTL tg:{tg}:s:s-1").await;
    assert!((DAY + 30_000..=DAY + 60_000).contains(&left), "{left}");
    let left: u64 = server.send(&format!("PTTL tg:{{tg}}:once:{}", "01".repeat(32))).await;
    assert!((DAY + 3_000_000..=DAY + 3_600_000).contains(&left), "{left}");
    let names: Vec<String> = server.send("KEYS tg:{tg}:k:*").await;
    assert_eq!(server.send::<i64>(&format!("PTTL {}", names[0])).await, -1, "a tombstone stays");
}

#[tokio::test]
async fn a_batch_that_would_hold_everybody_up_is_refused() {
    let (_, redis, _server) = in_redis().await;
    let rows = |count| vec![Write::Audit(row("x")); count];
    assert_eq!(write(&redis, rows(2048)).await, Ok(1));
    assert!(matches!(write(&redis, rows(2049)).await, Err(StoreError::Conflict(_))));
}

#[tokio::test]
async fn what_is_not_ours_is_damage_and_not_an_answer() {
    let (_, redis, server) = in_redis().await;
    write(&redis, vec![Write::CreateKey(key(1)), Write::CreateKey(key(2))]).await.unwrap();
    let names: Vec<String> = server.send("KEYS tg:{tg}:k:*").await;
    // The record of one key in the place of the other: whoever can write the store can do that.
    server.send::<()>(&format!("COPY {} {} REPLACE", names[0], names[1])).await;
    let loads = [redis.load_key(&[key(1).digest]).await, redis.load_key(&[key(2).digest]).await];
    assert_eq!(loads.iter().filter(|load| matches!(load, Err(StoreError::Damaged(_)))).count(), 1);
    for name in names {
        server.send::<()>(&format!("SET {name} x")).await;
    }
    assert!(matches!(redis.load_key(&[key(1).digest]).await, Err(StoreError::Damaged(_))));
    assert!(matches!(redis.key(id(1)).await, Err(StoreError::Damaged(_))));
    let update = write(&redis, vec![Write::UpdateKey(revoked(&key(1)))]).await;
    assert!(matches!(update, Err(StoreError::Damaged(_))));
}

#[tokio::test]
async fn a_script_that_ended_in_the_middle_has_told_everybody() {
    let (_, redis, server) = in_redis().await;
    server.send::<()>("SET tg:{tg}:list:keys x").await;
    assert_unavailable(write(&redis, vec![Write::CreateKey(key(1))]).await, "may have been made");
    assert_eq!(redis.load_key(&[key(1).digest]).await.unwrap().position.unwrap().sequence, 1);
}

async fn wait_for(mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition().await {
        assert!(Instant::now() < deadline, "it never came to be");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// One call over each connection that a store keeps; this one comes first.
async fn first_call(store: &Store, first: usize) -> Result<(), StoreError> {
    match first {
        0 => store.keys(KeyQuery { limit: 9, ..KeyQuery::default() }).await.map(drop),
        1 => store.last_used(vec![id(1)]).await.map(drop),
        2 => store.note_use(vec![(id(1), at(1))]).await,
        3 => store.load_key(vec![key(1).digest]).await.map(drop),
        _ => store.commit(vec![], event()).await.map(drop),
    }
}

#[tokio::test]
async fn the_first_call_after_a_restart_is_answered() {
    let (_, redis, mut server) = in_redis().await;
    write(&redis, vec![Write::CreateKey(key(1))]).await.unwrap();
    let stores: Vec<Store> = (0..5).map(|_| Store::Redis(on_server(&server))).collect();
    for store in &stores {
        // Each of the lanes.
        for call in [0, 0, 1, 3, 4] {
            first_call(store, call).await.unwrap();
        }
    }
    for _ in 0..2 {
        server.kill();
        server.restart().await;
        for (first, store) in stores.iter().enumerate() {
            let answer = first_call(store, first).await;
            assert!(answer.is_ok(), "call {first}: {answer:?}");
        }
    }
}
