//! Everything carried from one store to another: both ways, gone on with after it was ended in the middle, and refused where
//! anything would be overwritten or somebody looks on.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tollgate::domain::record::{AuditEntry, EndedSession, OpenSession, Project, ProjectState, SigningKey, User};
use tollgate::store::embedded::Embedded;
use tollgate::store::kind::Kind;
use tollgate::store::migration::{self, MigrationStore, Report};
use tollgate::store::redis::Redis;
use tollgate::store::{AuditQuery, KeyQuery, OnceRecord, PepperCheck, Store, StoreError, Write};
use tollgate_guard::protocol::{Member, MemberState, Position};
use tollgate_guard::time::Timestamp;

use crate::redis::alike::{Dice, all_of};
use crate::redis_server::RedisServer;
use crate::signed;
use crate::support::{
    Apply, InRedis, Random, at, id, in_redis, key, key_of, on_server, project, resource, revoked, row, user,
};

/// More than two pages of keys, apart from those of the random batches.
const KEYS: std::ops::Range<u64> = 1_000..2_300;
pub const NOW: Timestamp = Timestamp::from_millis(1_000);
const UNFINISHED: u64 = u64::MAX;

pub struct File {
    _folder: TempDir,
    path: PathBuf,
}

impl File {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { path: folder.path().join("store.redb"), _folder: folder }
    }

    /// Its lock is free again when this is dropped.
    pub fn open(&self) -> Store {
        Store::Embedded(Arc::new(open(&self.path).unwrap()))
    }

    /// As anybody else would.
    pub fn try_open(&self) -> Result<Embedded, StoreError> {
        open(&self.path)
    }

    async fn source(&self) -> MigrationStore {
        MigrationStore::source_file(&self.path, signed::signers_of(7)).await.unwrap()
    }

    pub async fn target(&self) -> MigrationStore {
        MigrationStore::target_file(&self.path, signed::signers_of(7)).await.unwrap()
    }
}

fn open(path: &Path) -> Result<Embedded, StoreError> {
    // Who had it before may be closing it on another thread.
    signed::embedded(path, Duration::from_secs(10))
}

pub async fn depot(redis: &Arc<Redis>) -> MigrationStore {
    MigrationStore::redis(Arc::clone(redis)).await.unwrap()
}

fn goes_on(id: &str, expires_at: u64) -> OpenSession {
    let (began_at, expires_at) = (at(1), at(expires_at));
    OpenSession { id: id.to_owned(), generation: 1, began_at, expires_at, address: Some("192.0.2.1".to_owned()) }
}

/// A little of everything, and enough keys and rows for several pages.
pub async fn fill(store: &Store) {
    let mut dice = Dice(Random(0x7e57));
    for number in 0..200 {
        let step = dice.step(store).await;
        // Some of them do not fit.
        let _ = store.apply(vec![step, Write::Audit(row(&number.to_string()))]).await;
    }
    let keys: Vec<u64> = KEYS.collect();
    for some in keys.chunks(100) {
        let plane = |n: &u64| if n.is_multiple_of(3) { "control" } else { "data" };
        let mut batch: Vec<Write> = some.iter().map(|n| Write::CreateKey(key_of(*n, plane(n), "acme"))).collect();
        batch.extend(some.iter().map(|n| Write::Audit(row(&format!("key:{n}")))));
        batch.extend(
            some.iter().filter(|n| **n % 5 == 0).map(|n| Write::UpdateKey(revoked(&key_of(*n, plane(n), "acme")))),
        );
        store.apply(batch).await.unwrap();
        store.note_use(some.iter().filter(|n| **n % 2 == 0).map(|n| (id(*n), at(*n))).collect()).await.unwrap();
    }
    let gone = User { deleted: true, sessions: 2, version: 2, password_hash: String::new(), ..user("gone") };
    let deleted = Project { state: ProjectState::Deleted, version: 2, ..project("late", ProjectState::Suspended) };
    let ends = |id: &str, at_: u64| {
        Write::EndSession(EndedSession {
            id: id.to_owned(),
            user: "ann".to_owned(),
            ended_at: at(1),
            expires_at: at(at_),
        })
    };
    let batch = vec![
        Write::CreateUser(user("gone")),
        Write::UpdateUser(gone),
        Write::PutProject(project("late", ProjectState::Suspended)),
        Write::PutProject(deleted),
        Write::CreateResource(resource("workload", "w-42", "acme")),
        ends("ended", 5_000),
        Write::BeginSession { user: "ann".to_owned(), session: goes_on("one", 5_000) },
        Write::BeginSession { user: "ann".to_owned(), session: goes_on("two", 6_000) },
        Write::CreateSigningKey(SigningKey { id: "sign".to_owned(), sealed: vec![9; 80], created_at: at(3) }),
        Write::Once(OnceRecord { digest: [201; 32], fingerprint: [1; 32], target: "key:x".to_owned(), at: at(900) }),
    ];
    store.apply(batch).await.unwrap();
    for version in [2, 10, 1] {
        let check = [u8::try_from(version).unwrap(); 32];
        store.put_pepper_check(PepperCheck { version, check }).await.unwrap();
    }
}

/// Everything that both can be asked.
async fn assert_same(one: &Store, other: &Store) {
    assert_same_records(one, other).await;
    let keys = one.keys(KeyQuery { limit: 5_000, ..KeyQuery::default() }).await.unwrap();
    let ids: Vec<_> = keys.iter().map(|key| key.id).collect();
    assert_eq!(one.last_used(ids.clone()).await.unwrap(), other.last_used(ids).await.unwrap());
}

/// The same without what no snapshot has.
pub async fn assert_same_records(one: &Store, other: &Store) {
    for dice in 0..4 {
        for (ours, theirs) in all_of(one, dice).await.into_iter().zip(all_of(other, dice).await) {
            assert_eq!(ours, theirs);
        }
    }
    for (project, plane) in [(None, None), (Some("acme"), None), (None, Some("control")), (Some("acme"), Some("data"))]
    {
        let [project, plane] = [project, plane].map(|name: Option<&str>| name.map(str::to_owned));
        let query = KeyQuery { project, plane, after: None, limit: 5_000 };
        let keys = one.keys(query.clone()).await.unwrap();
        assert_eq!(keys, other.keys(query.clone()).await.unwrap());
        let query = AuditQuery { project: query.project, limit: 5_000, ..AuditQuery::default() };
        assert_eq!(one.audit(query.clone()).await.unwrap(), other.audit(query).await.unwrap());
    }
    assert_eq!(one.user("gone".to_owned()).await.unwrap(), other.user("gone".to_owned()).await.unwrap());
    assert!(other.user("gone".to_owned()).await.unwrap().is_some_and(|gone| gone.deleted));
    assert!(other.ended_session("ended".to_owned()).await.unwrap());
    assert_eq!(one.once([201; 32]).await.unwrap(), other.once([201; 32]).await.unwrap());
    let sorted = |mut checks: Vec<PepperCheck>| {
        checks.sort_by_key(|check| check.version);
        checks
    };
    assert_eq!(sorted(one.pepper_checks().await.unwrap()), sorted(other.pepper_checks().await.unwrap()));
}

async fn migrate(from: MigrationStore, to: &MigrationStore, now: Timestamp) -> Result<Report, StoreError> {
    migration::migrate(&from.into(), to, now).await
}

fn count(report: &Report, kind: Kind) -> (u64, u64) {
    let count = report.counts.iter().find(|count| count.kind == kind).unwrap();
    (count.found, count.copied)
}

fn refused(result: Result<Report, StoreError>, why: &str) {
    match result {
        Err(StoreError::Conflict(reason)) => assert!(reason.contains(why), "{reason}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn everything_goes_to_redis_and_back() {
    let (file, back) = (File::new(), File::new());
    fill(&file.open()).await;
    let (store, redis, _server) = in_redis().await;
    let there = migrate(file.source().await, &depot(&redis).await, NOW).await.unwrap();
    assert_same(&file.open(), &store).await;
    for count in &there.counts {
        assert!(count.found > 0 && count.copied == count.found, "{count:?}");
    }
    assert!(count(&there, Kind::Keys).0 > 1_300 && count(&there, Kind::Audit).0 > 1_300);

    let again = migrate(depot(&redis).await, &back.target().await, NOW).await.unwrap();
    assert_same(&store, &back.open()).await;
    assert_eq!(again, there);

    // Both go on as any other store.
    for store in [store, back.open()] {
        let number = store.apply(vec![Write::CreateKey(key(9_000)), Write::Audit(row("next"))]).await.unwrap();
        assert!(number > 1, "it follows the change that the migration was");
        let rows = store.audit(AuditQuery { limit: 2, ..AuditQuery::default() }).await.unwrap().rows;
        assert_eq!(rows[0].sequence, rows[1].sequence + 1);
    }
}

#[tokio::test]
async fn several_servers_are_filled_and_read() {
    let file = File::new();
    fill(&file.open()).await;
    for servers in [InRedis::behind_sentinels(), InRedis::in_a_cluster()] {
        let back = File::new();
        let store = servers.empty().await;
        let Store::Redis(redis) = &store else { panic!("it is in Redis") };
        let there = migrate(file.source().await, &depot(redis).await, NOW).await.unwrap();
        assert_same(&file.open(), &store).await;
        assert_eq!(migrate(depot(redis).await, &back.target().await, NOW).await.unwrap().digest, there.digest);
    }
}

#[tokio::test]
async fn what_no_longer_counts_stays_behind() {
    let (file, hour) = (File::new(), 3_600_000);
    fill(&file.open()).await;
    let (store, redis, _server) = in_redis().await;
    let report = migrate(file.source().await, &depot(&redis).await, at(26 * hour)).await.unwrap();
    assert_eq!((count(&report, Kind::Once), count(&report, Kind::EndedSessions)), ((0, 0), (0, 0)));
    assert!(!store.ended_session("ended".to_owned()).await.unwrap());
}

/// A store that was filled, as it is when its migration was ended before the last step.
async fn unfinished(file: &File) -> (Store, Arc<Redis>, RedisServer) {
    fill(&file.open()).await;
    let (store, redis, server) = in_redis().await;
    migrate(file.source().await, &depot(&redis).await, NOW).await.unwrap();
    server.send::<u64>(&format!("HSET tg:{{tg}}:head format {UNFINISHED}")).await;
    (store, redis, server)
}

#[tokio::test]
async fn a_run_goes_on_where_the_last_one_ended() {
    let file = File::new();
    let (store, redis, server) = unfinished(&file).await;
    let shut = store.has_no_keys().await.unwrap_err().to_string();
    assert!(shut.contains("has not ended"), "{shut}");
    let written = store.apply(vec![Write::CreateKey(key(9_000))]).await;
    assert!(written.unwrap_err().to_string().contains("has not ended"), "nobody else writes to it");
    assert!(redis.init().await.unwrap_err().to_string().contains("has not ended"));
    for name in ["u:gone", "s:ended", "r:workload\0w-42", "p:late"] {
        let mut command = redis::cmd("DEL");
        command.arg(format!("tg:{{tg}}:{name}"));
        assert_eq!(command.query_async::<u64>(&mut server.connection().await).await.unwrap(), 1, "{name}");
    }
    for list in ["resources workload\0w-42", "resources:project:acme workload\0w-42", "projects late"] {
        let (list, member) = list.split_once(' ').unwrap();
        let mut command = redis::cmd("ZREM");
        command.arg(format!("tg:{{tg}}:list:{list}")).arg(member);
        assert_eq!(command.query_async::<u64>(&mut server.connection().await).await.unwrap(), 1, "{list}");
    }
    let report = migrate(file.source().await, &depot(&redis).await, NOW).await.unwrap();
    let copied = [Kind::Users, Kind::EndedSessions, Kind::Resources, Kind::Projects].map(|kind| count(&report, kind).1);
    assert_eq!(copied, [1, 1, 1, 1]);
    assert_eq!((count(&report, Kind::Keys).1, count(&report, Kind::Audit).1), (0, 0));
    assert_same(&file.open(), &store).await;

    let compared = migrate(file.source().await, &depot(&redis).await, NOW).await.unwrap();
    assert!(compared.digest == report.digest && compared.counts.iter().all(|count| count.copied == 0));
}

#[tokio::test]
async fn nothing_is_overwritten() {
    let file = File::new();
    let (store, redis, server) = unfinished(&file).await;
    let changed = Project { changed_by: "key:x".to_owned(), version: 3, ..project("late", ProjectState::Deleted) };
    file.open().apply(vec![Write::PutProject(changed.clone())]).await.unwrap();
    let run = async || migrate(file.source().await, &depot(&redis).await, NOW).await;
    refused(run().await, "project late is another one in the target");
    assert!(store.has_no_keys().await.is_err(), "it stays shut");

    server.send::<u64>("DEL tg:{tg}:p:late").await;
    server.send::<u64>("ZREM tg:{tg}:list:projects late").await;
    file.open()
        .apply(vec![Write::DeleteResource { kind: "workload".into(), id: "w-42".into(), version: 1 }])
        .await
        .unwrap();
    refused(run().await, "workload:w-42 is in the target, and not in the source");
    assert!(store.has_no_keys().await.is_err(), "it stays shut");
}

#[tokio::test]
async fn a_target_must_be_empty_or_of_this_migration() {
    let (file, other) = (File::new(), File::new());
    let (_, redis, _server) = unfinished(&file).await;
    other.open().apply(vec![Write::CreateKey(key(1))]).await.unwrap();
    refused(migrate(other.source().await, &depot(&redis).await, NOW).await, "another migration fills the target");
    refused(migrate(file.source().await, &other.target().await, NOW).await, "holds records already");
    let (store, redis, _server) = in_redis().await;
    store.apply(vec![Write::CreateKey(key(2))]).await.unwrap();
    refused(migrate(other.source().await, &depot(&redis).await, NOW).await, "holds records already");
    refused(migrate(depot(&redis).await, &depot(&redis).await, NOW).await, "both stores are the same");
    assert_eq!(store.keys(KeyQuery { limit: 9, ..KeyQuery::default() }).await.unwrap().len(), 1);

    let missing =
        MigrationStore::source_file(Path::new("/nowhere/store.redb"), signed::signers_of(7)).await.unwrap_err();
    assert!(missing.to_string().contains("there is no store at"), "{missing}");
    let server = RedisServer::start().await;
    let headless = MigrationStore::redis(on_server(&server)).await.unwrap_err();
    assert!(headless.to_string().contains("tollgate store init"), "{headless}");
}

#[tokio::test]
async fn a_source_that_has_lost_something_is_not_carried_over() {
    let (store, redis, server) = in_redis().await;
    store.apply(vec![Write::CreateUser(user("ann"))]).await.unwrap();
    let target = File::new();
    let is_refused = async || {
        let run = migrate(depot(&redis).await, &target.target().await, NOW).await;
        refused(run, "the source has lost changes");
    };
    let mut command = redis::cmd("HSET");
    command.arg("tg:{tg}:head").arg("missed").arg("one 9 h");
    let _: u64 = command.query_async(&mut server.connection().await).await.unwrap();
    is_refused().await;
    server.send::<u64>("HDEL tg:{tg}:head missed").await;
    let knows = r#"{"name":"gate-1","state":"sealed","known":1,"missed":[]}"#;
    server.send::<u64>(&format!("HSET tg:{{tg}}:members a {knows}")).await;
    is_refused().await;
    server.send::<u64>("DEL tg:{tg}:members").await;
    server.send::<u64>("DEL tg:{tg}:log").await;
    is_refused().await;
}

#[tokio::test]
async fn a_file_that_is_half_filled_is_opened_by_nobody_else() {
    let (target, (store, redis, server)) = (File::new(), in_redis().await);
    // A key that points to nothing: the migration ends there.
    store.apply(vec![Write::CreateUser(user("ann")), Write::CreateKey(key(1))]).await.unwrap();
    let value: Vec<u8> = {
        let mut command = redis::cmd("GETDEL");
        command.arg(format!("tg:{{tg}}:i:{}", id(1)));
        command.query_async(&mut server.connection().await).await.unwrap()
    };
    let ended = migrate(depot(&redis).await, &target.target().await, NOW).await;
    assert!(matches!(ended, Err(StoreError::Damaged(_))), "{ended:?}");
    let shut = open(&target.path).unwrap_err().to_string();
    assert!(shut.contains("store.redb") && shut.contains("has not ended"), "{shut}");

    let mut command = redis::cmd("SET");
    command.arg(format!("tg:{{tg}}:i:{}", id(1))).arg(value);
    let () = command.query_async(&mut server.connection().await).await.unwrap();
    let report = migrate(depot(&redis).await, &target.target().await, NOW).await.unwrap();
    assert_eq!((count(&report, Kind::Users), count(&report, Kind::Keys)), ((1, 0), (1, 1)));
    assert_eq!(target.open().key(id(1)).await.unwrap(), Some(key(1)));
}

fn member(beat: u64) -> Member {
    Member {
        id: "m-1".to_owned(),
        name: "gate-1".to_owned(),
        position: Position { sequence: 0, chain: String::new() },
        beat,
        state: MemberState::Attached,
        since: at(1),
        grace: Duration::ZERO,
        version: "1".to_owned(),
        format: 3,
    }
}

#[tokio::test]
async fn a_store_in_use_is_left_alone() {
    let file = File::new();
    let held = file.open();
    let locked = MigrationStore::source_file(&file.path, signed::signers_of(7)).await.unwrap_err();
    assert!(locked.to_string().contains("in use by another process"), "{locked}");
    assert!(MigrationStore::target_file(&file.path, signed::signers_of(7)).await.is_err());
    drop(held);

    let (_, redis, _server) = in_redis().await;
    let mut channel = redis.channel().await.unwrap();
    let beating = tokio::spawn(async move {
        for beat in 1.. {
            channel.renew(&member(beat)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let used = loop {
        // Until the first beat there is nobody.
        if let Err(error) = MigrationStore::redis(Arc::clone(&redis)).await {
            break error;
        }
    };
    assert!(used.to_string().contains("in use by the replica gate-1"), "{used}");
    beating.abort();
    let _ = beating.await;
    // What was killed is listed on, and silent.
    depot(&redis).await;
}

#[tokio::test]
async fn rows_keep_their_numbers_though_the_oldest_are_gone() {
    let (file, back) = (File::new(), File::new());
    let store = file.open();
    for n in 1..=30 {
        let entry = AuditEntry { at: at(n), ..row(&n.to_string()) };
        store.apply(vec![Write::Audit(entry)]).await.unwrap();
    }
    assert_eq!(store.trim_audit(at(21), 100).await.unwrap(), 20);
    drop(store);
    let (store, redis, _server) = in_redis().await;
    migrate(file.source().await, &depot(&redis).await, NOW).await.unwrap();
    migrate(depot(&redis).await, &back.target().await, NOW).await.unwrap();
    for store in [store, back.open()] {
        for actor in [None, Some(row("1").actor)] {
            let query = AuditQuery { actor, limit: 99, ..AuditQuery::default() };
            let rows = store.audit(query).await.unwrap().rows;
            let numbers: Vec<u64> = rows.iter().map(|row| row.sequence).collect();
            assert_eq!(numbers, (21..=30).rev().collect::<Vec<_>>());
            assert!(rows.iter().all(|row| row.target == row.sequence.to_string()), "{rows:?}");
        }
        store.apply(vec![Write::Audit(row("next"))]).await.unwrap();
        let newest = AuditQuery { limit: 1, ..AuditQuery::default() };
        assert_eq!(store.audit(newest).await.unwrap().rows[0].sequence, 31);
        assert_eq!(store.trim_audit(at(26), 100).await.unwrap(), 5);
    }
}
