//! The thread that follows a real server's log: it attaches, hears of changes, waits for the others, and notices whatever
//! happens to the server.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use redis::streams::StreamRangeReply;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::mpsc;
use tollgate::clock::{Ask, Clock};
use tollgate::domain::change::{Ended, Endings, Event, Stored};
use tollgate::domain::record::{AuditEntry, Outcome};
use tollgate::fleet::driver::{self, Joining};
use tollgate::fleet::handle::Fleet;
use tollgate::fleet::position::PositionFile;
use tollgate::fleet::report::{WaitReport, Waited};
use tollgate::store::format::Format;
use tollgate::store::redis::Redis;
use tollgate::store::redis::connect::Connector;
use tollgate::tasks::Tasks;
use tollgate_guard::FENCE;
use tollgate_guard::channel::Identity;
use tollgate_guard::protocol::{Member, MemberState, Position, Remembered};
use tollgate_guard::slots::Touched;
use tollgate_guard::stamps::{Proof, Stamps};
use tollgate_guard::time::{Moment, Timestamp};

use crate::chaos::proxy::{Mode, Proxy};
use crate::replica::{digest, slots};
use crate::server::RedisServer;
use crate::signed;

const DEADLINE: Duration = Duration::from_secs(20);

struct House {
    redis: Arc<Redis>,
    stamps: Arc<Stamps>,
    endings: Arc<Endings>,
    fleet: Fleet,
    reconcile: mpsc::UnboundedReceiver<()>,
    tasks: Tasks,
}

impl House {
    fn on(server: &RedisServer, id: &str) -> Self {
        Self::at(&address(server), id)
    }

    fn at(address: &str, id: &str) -> Self {
        Self::by(Clock::System, address, id)
    }

    fn by(clock: Clock, address: &str, id: &str) -> Self {
        Self::with(clock, address, id, None, None)
    }

    fn remembering(address: &str, id: &str, remembered: Option<Remembered>, file: Option<PositionFile>) -> Self {
        Self::with(Clock::System, address, id, remembered, file)
    }

    fn with(clock: Clock, address: &str, id: &str, remembered: Option<Remembered>, file: Option<PositionFile>) -> Self {
        let redis = Arc::new(redis_at(address));
        let (stamps, endings) = (Arc::new(Stamps::leased(Clock::System)), Arc::new(Endings::default()));
        let (reconciled, reconcile) = mpsc::unbounded_channel();
        let tasks = Tasks::default();
        let (id, name, version) = (id.to_owned(), id.to_owned(), "1".to_owned());
        let joining = Joining {
            redis: Arc::clone(&redis),
            stamps: Arc::clone(&stamps),
            endings: Arc::clone(&endings),
            identity: Identity { id, name, grace: Duration::ZERO, version, format: Format::HIGHEST },
            level: "bounded (1 s)".to_owned(),
            clock,
            reconcile: reconciled,
            task: tasks.task("fleet_log"),
            remembered,
            file,
            former: Vec::new(),
        };
        Self { redis, stamps, endings, fleet: driver::start(joining).unwrap(), reconcile, tasks }
    }

    async fn attached(&self) {
        until("attached", || self.fleet.figures().state() == MemberState::Attached && self.stamps.is_leased()).await;
    }

    /// Ends key 0 for good.
    async fn revoke(&self) -> u64 {
        let ended = vec![Ended::Key { digest: digest(0), at: Timestamp::from_millis(1) }];
        self.redis.commit(&[], &Event { ended, ..Event::touching(&[slots(0)]) }).await.unwrap()
    }

    async fn revoke_and_wait(&self, limit: Duration) -> WaitReport {
        let lineages = self.fleet.lineages();
        let sequence = self.revoke().await;
        match self.fleet.wait(sequence, lineages, limit).await.unwrap() {
            Waited::Done(report) => report,
            Waited::StartOver => panic!("there is no other history"),
        }
    }

    async fn heard(&self, sequence: u64) {
        tokio::time::timeout(DEADLINE, self.fleet.position().wait_for(|applied| *applied >= sequence))
            .await
            .expect("it must hear of its own change")
            .unwrap();
    }

    fn has_heard(&self) -> bool {
        self.endings.contradicts(&Stored::Key { digest: &digest(0), revoked: false })
    }
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "it did not come about: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn redis(server: &RedisServer) -> Redis {
    redis_at(&address(server))
}

fn address(server: &RedisServer) -> String {
    format!("127.0.0.1:{}", server.port())
}

fn redis_at(address: &str) -> Redis {
    signed::redis(Connector::single(address).unwrap())
}

/// A store that was changed already.
async fn store() -> RedisServer {
    let server = RedisServer::start().await;
    init(&server).await;
    server
}

async fn init(server: &RedisServer) {
    let redis = redis(server);
    redis.init().await.unwrap();
    redis.commit(&[], &Event::touching(&[])).await.unwrap();
}

fn signal(server: &RedisServer, signal: Signal) {
    kill_process(Pid::from_raw(server.process().try_into().unwrap()).unwrap(), signal).unwrap();
}

#[tokio::test]
async fn a_follower_that_panics_follows_again_and_forgets_nothing() {
    let server = store().await;
    let panics = Arc::new(AtomicBool::new(false));
    let armed = Arc::clone(&panics);
    let clock = Clock::Asked(Ask::new(move || {
        assert!(!armed.swap(false, Ordering::SeqCst), "it panics once");
        Clock::System.now()
    }));
    let mut house = House::by(clock, &address(&server), "one");
    house.attached().await;
    let sequence = house.revoke().await;
    house.heard(sequence).await;
    let (before, lineages) = (house.stamps.take(), house.fleet.lineages());
    while house.reconcile.try_recv().is_ok() {}

    panics.store(true, Ordering::SeqCst);
    until("it is counted", || house.tasks.restarts() == [("fleet_log", 1)]).await;
    until("it follows again", || house.fleet.lineages() > lineages && house.tasks.down().is_empty()).await;
    house.attached().await;
    assert!(house.has_heard(), "what was ended stays ended");
    assert!(!house.stamps.allow(before, &slots(1)), "nothing that was cached before is believed");
    house.reconcile.recv().await.unwrap();
    // And it hears of what comes.
    let other = House::on(&server, "other");
    other.attached().await;
    let sequence = other.revoke().await;
    house.heard(sequence).await;
}

#[tokio::test]
async fn a_change_reaches_the_others_and_its_maker() {
    let server = store().await;
    let (one, other) = (House::on(&server, "one"), House::on(&server, "other"));
    one.attached().await;
    other.attached().await;
    let before = other.stamps.take();
    let sequence = one.revoke().await;
    one.heard(sequence).await;
    until("heard", || other.has_heard()).await;
    assert!(!other.stamps.allow(before, &slots(0)) && other.stamps.allow(before, &slots(1)));
}

#[tokio::test]
async fn a_wait_is_over_when_everybody_has_confirmed() {
    let server = store().await;
    let (one, other) = (House::on(&server, "one"), House::on(&server, "other"));
    one.attached().await;
    other.attached().await;
    let since = Instant::now();
    until("attached for long enough", || since.elapsed() >= FENCE).await;
    let begun = Instant::now();
    let report = one.revoke_and_wait(DEADLINE).await;
    assert!(other.has_heard());
    assert_eq!((report.confirmed, report.fenced.len(), report.lagging.len()), (2, 0, 0), "{report:?}");
    assert!(begun.elapsed() < FENCE, "{:?}", begun.elapsed());
}

/// A member that is nowhere, and of which nothing more is heard.
fn silent() -> Member {
    Member {
        id: "silent".to_owned(),
        name: "silent".to_owned(),
        position: Position { sequence: 0, chain: String::new() },
        beat: 1,
        state: MemberState::Attached,
        since: Timestamp::default(),
        grace: Duration::ZERO,
        version: String::new(),
        format: 3,
    }
}

#[tokio::test]
async fn a_wait_names_who_is_silent() {
    let server = store().await;
    let house = House::on(&server, "one");
    house.attached().await;
    house.redis.channel().await.unwrap().renew(&silent()).await.unwrap();
    let begun = Instant::now();
    let report = house.revoke_and_wait(DEADLINE).await;
    assert!(begun.elapsed() >= FENCE);
    assert_eq!((report.confirmed, report.fenced.len(), report.lagging.len()), (1, 1, 0), "{report:?}");
    assert_eq!(report.fenced[0].id, "silent");
    let view = house.fleet.view().await.unwrap();
    let silent = view.replicas.iter().find(|replica| replica.replica.id == "silent").unwrap();
    assert_eq!((silent.standing.as_str(), silent.lease), ("fenced", None), "{view:?}");
}

#[tokio::test]
async fn a_server_that_hangs_ends_the_lease_and_one_that_is_back_renews_it() {
    let server = store().await;
    let house = House::on(&server, "one");
    house.attached().await;
    signal(&server, Signal::STOP);
    until("no lease", || !house.stamps.is_leased()).await;
    until("detached", || house.fleet.figures().state() == MemberState::Detached).await;
    assert!(house.fleet.wait(1, house.fleet.lineages(), FENCE).await.is_err(), "nobody can be asked");
    signal(&server, Signal::CONT);
    house.attached().await;
}

#[tokio::test]
async fn a_server_that_comes_back_with_its_data_is_followed_on() {
    let mut server = store().await;
    let house = House::on(&server, "one");
    house.attached().await;
    let (lineages, before) = (house.fleet.lineages(), house.stamps.take());
    server.kill();
    until("detached", || house.fleet.figures().state() == MemberState::Detached).await;
    server.restart().await;
    house.attached().await;
    assert_eq!(house.fleet.lineages(), lineages);
    assert!(house.stamps.allow(before, &slots(0)), "what is cached is good as long as nothing has changed");
}

#[tokio::test]
async fn an_emptied_store_seals_and_a_new_one_is_told_what_was_ended() {
    let server = store().await;
    let mut house = House::on(&server, "one");
    house.attached().await;
    let sequence = house.revoke().await;
    house.heard(sequence).await;
    let (lineages, before) = (house.fleet.lineages(), house.stamps.take());
    server.send::<()>("FLUSHALL").await;
    until("sealed", || house.stamps.is_sealed()).await;
    assert_eq!(house.fleet.figures().state(), MemberState::Sealed);
    let view = house.fleet.view().await;
    assert!(view.as_ref().is_err_and(|error| error.to_string().contains("`tollgate store init`")), "{view:?}");
    init(&server).await;
    house.attached().await;
    assert!(!house.stamps.is_sealed() && !house.stamps.allow(before, &slots(1)));
    assert_eq!(house.fleet.wait(sequence, lineages, DEADLINE).await.unwrap(), Waited::StartOver);
    // Once for each history: the first one, and the new one.
    for _ in 0..2 {
        tokio::time::timeout(DEADLINE, house.reconcile.recv()).await.unwrap().unwrap();
    }
    assert!(house.has_heard());
}

/// As a server comes back that has replayed nothing but how its store was made.
async fn go_back(server: &RedisServer) {
    let script = "local head = redis.call('HMGET', KEYS[1], 'id', 'format') redis.call('FLUSHALL') \
                  return redis.call('HSET', KEYS[1], 'id', head[1], 'format', head[2], 'seq', '0', 'h', '')";
    let mut command = redis::cmd("EVAL");
    command.arg(script).arg(1).arg("tg:{tg}:head");
    let _: u64 = command.query_async(&mut server.connection().await).await.unwrap();
}

#[tokio::test]
async fn a_store_that_went_back_seals_until_it_is_accepted() {
    let server = store().await;
    let (house, other) = (House::on(&server, "one"), House::on(&server, "other"));
    house.attached().await;
    other.attached().await;
    let sequence = house.revoke().await;
    house.heard(sequence).await;
    other.heard(sequence).await;
    let lineages = house.fleet.lineages();
    go_back(&server).await;
    until("sealed", || house.stamps.is_sealed() && other.stamps.is_sealed()).await;
    // Nothing is read from it or written to it.
    let told = "2 were known here, so that 2 are missing";
    let said = |error: &tollgate::store::StoreError| error.to_string().contains(told);
    assert!(house.redis.load_key(&[digest(0)]).await.is_err_and(|error| said(&error)));
    assert!(house.redis.commit(&[], &Event::touching(&[])).await.is_err_and(|error| said(&error)));
    let view = house.fleet.view().await;
    assert!(view.as_ref().is_err_and(|error| error.to_string().contains("`tollgate store accept`")), "{view:?}");

    let operator = redis(&server);
    let mut standing = operator.standing().await.unwrap();
    let deadline = Instant::now() + DEADLINE;
    while standing.witnesses.len() < 2 || standing.witnesses.iter().any(|witness| witness.missed.is_empty()) {
        assert!(Instant::now() < deadline, "{standing:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
        standing = operator.standing().await.unwrap();
    }
    assert!(standing.witnesses.iter().all(|witness| witness.known == 2), "{standing:?}");
    assert!(standing.witnesses[0].missed[0].starts_with("key with digest"), "{standing:?}");
    operator.accept(&standing, &accepted()).await.unwrap();
    house.attached().await;
    other.attached().await;
    assert!(!house.stamps.is_sealed() && house.has_heard() && house.fleet.lineages() == lineages + 1);
    house.redis.load_key(&[digest(0)]).await.unwrap();
}

#[tokio::test]
async fn a_copy_that_has_everything_unseals() {
    let server = store().await;
    let house = House::on(&server, "one");
    house.attached().await;
    let mut dump = redis::cmd("DUMP");
    let mut connection = server.connection().await;
    let head: Vec<u8> = dump.arg("tg:{tg}:head").query_async(&mut connection).await.unwrap();
    let log: Vec<u8> = redis::cmd("DUMP").arg("tg:{tg}:log").query_async(&mut connection).await.unwrap();
    go_back(&server).await;
    until("sealed", || house.stamps.is_sealed()).await;
    for (name, value) in [("tg:{tg}:log", log), ("tg:{tg}:head", head)] {
        let mut put = redis::cmd("RESTORE");
        put.arg(name).arg(0).arg(value).arg("REPLACE");
        let () = put.query_async(&mut connection).await.unwrap();
    }
    house.attached().await;
    assert!(!house.stamps.is_sealed());
}

fn accepted() -> AuditEntry {
    AuditEntry {
        sequence: 0,
        at: Timestamp::from_millis(1),
        actor: "operator".to_owned(),
        actor_id: None,
        act: "store.accept".to_owned(),
        target: "store".to_owned(),
        project: None,
        outcome: Outcome::Done,
        reason: None,
        peer: String::new(),
        request_id: String::new(),
    }
}

#[tokio::test]
async fn a_new_process_finds_what_the_one_before_has_known() {
    let server = store().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("position");
    let start = |id: &str| {
        let (file, kept) =
            PositionFile::open(&path, "here", Arc::default(), Tasks::default().task("position")).unwrap();
        House::remembering(&address(&server), id, kept.map(|kept| kept.remembered), Some(file))
    };
    let first = start("first");
    first.attached().await;
    let sequence = first.revoke().await;
    first.heard(sequence).await;
    first.attached().await;
    first.fleet.leave().await;
    drop(first);
    let second = start("second");
    second.attached().await;
    second.fleet.leave().await;
    drop(second);

    go_back(&server).await;
    let newcomer = House::on(&server, "newcomer");
    newcomer.attached().await;
    let third = start("third");
    until("sealed", || third.stamps.is_sealed()).await;
}

/// The log is short, and one replica hears nothing of it until it was trimmed: of what was revoked meanwhile no entry is left.
#[tokio::test]
async fn who_missed_a_part_of_the_log_serves_nothing_old() {
    let server = RedisServer::start_with(&["--stream-node-max-entries", "5"]).await;
    init(&server).await;
    let proxy = Proxy::before(address(&server)).await;
    let mut stopped = House::at(&proxy.address, "stopped");
    let other = House::on(&server, "other");
    stopped.attached().await;
    other.attached().await;
    stopped.reconcile.recv().await.unwrap();
    let stamps = Arc::clone(&stopped.stamps);
    let old = [0, 1].map(|key| Proof { stamp: stamps.take(), slots: slots(key), sent: stamps.now() });
    assert!(old.iter().all(|proof| stamps.stand(proof, Duration::ZERO)));
    let lineages = (stopped.fleet.lineages(), other.fleet.lineages());

    proxy.turn(Mode::Silent);
    until("no lease", || !stamps.is_leased()).await;
    let sequence = other.revoke().await;
    // The other one keeps up with it.
    let short = redis(&server).with_log_length(10);
    for _ in 0..40 {
        let newest = short.commit(&[], &Event { touched: Touched::Slots(vec![9]), ended: Vec::new() }).await.unwrap();
        other.heard(newest).await;
    }
    let first = first_in_log(&server).await;
    assert!(first > sequence + 1, "the log must have lost the revocation, and it begins at {first}");
    assert!(!stopped.has_heard() && other.has_heard());

    proxy.turn(Mode::Forward);
    until("attached again, with nothing old on the way", || {
        let stands = old.iter().any(|proof| stamps.stand(proof, Duration::ZERO));
        assert!(!stands, "what was cached before is served");
        stamps.is_leased() && stopped.fleet.figures().state() == MemberState::Attached
    })
    .await;
    assert_eq!(stamps.position(), other.stamps.position());
    assert_eq!((stopped.fleet.lineages(), other.fleet.lineages()), (lineages.0 + 1, lineages.1), "one began anew");
    tokio::time::timeout(DEADLINE, stopped.reconcile.recv()).await.unwrap().unwrap();
}

/// The number of the oldest change that is left.
async fn first_in_log(server: &RedisServer) -> u64 {
    let oldest: StreamRangeReply = server.send("XRANGE tg:{tg}:log - + COUNT 1").await;
    oldest.ids[0].id.trim_end_matches("-0").parse().unwrap()
}

#[tokio::test]
async fn an_emptied_store_seals_also_whoever_asks_for_the_members() {
    let server = store().await;
    let house = House::on(&server, "one");
    house.attached().await;
    let (sequence, lineages) = (house.revoke().await, house.fleet.lineages());
    // As long as somebody waits, each renewal comes after the list of members.
    house.redis.channel().await.unwrap().renew(&silent()).await.unwrap();
    let waiting = {
        let fleet = house.fleet.clone();
        tokio::spawn(async move { fleet.wait(sequence, lineages, DEADLINE).await })
    };
    tokio::task::yield_now().await;
    server.send::<()>("FLUSHALL").await;
    until("sealed", || house.stamps.is_sealed()).await;
    waiting.abort();
}

#[tokio::test]
async fn who_leaves_holds_no_lease_and_is_not_listed() {
    let server = store().await;
    let (one, other) = (House::on(&server, "one"), House::on(&server, "other"));
    one.attached().await;
    other.attached().await;
    other.fleet.leave().await;
    assert!(!other.stamps.is_leased());
    let view = one.fleet.view().await.unwrap();
    assert_eq!(view.replicas.iter().map(|listed| &*listed.replica.id).collect::<Vec<_>>(), ["one"]);
}

#[tokio::test]
async fn who_leaves_while_the_server_is_away_does_not_wait_for_it() {
    let mut server = store().await;
    let house = House::on(&server, "one");
    house.attached().await;
    server.kill();
    until("detached", || house.fleet.figures().state() == MemberState::Detached).await;
    house.fleet.leave().await;
    assert!(!house.stamps.is_leased() && house.stamps.lease() == Moment::default(), "the lease is given up");
}

#[tokio::test]
async fn the_level_is_that_of_the_server_as_it_is_now() {
    let server = store().await;
    let house = House::on(&server, "one");
    house.attached().await;
    assert_eq!(*house.fleet.level(), "bounded (1 s)");
    let _: String = server.send("CONFIG SET appendonly no").await;
    let mut snapshots = redis::cmd("CONFIG");
    snapshots.arg("SET").arg("save").arg("60 1");
    let _: String = snapshots.query_async(&mut server.connection().await).await.unwrap();
    let _: u64 = server.send("CLIENT KILL TYPE normal").await;
    until("another level", || house.fleet.level().contains("goes back to the last snapshot")).await;
    house.attached().await;
    assert!(house.fleet.view().await.unwrap().level.contains("goes back to the last snapshot"));
}
