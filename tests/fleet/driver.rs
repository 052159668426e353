//! The thread that follows a real server's log: it attaches, hears of changes, waits for the others, and notices whatever
//! happens to the server.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tollgate::clock::Clock;
use tollgate::domain::change::{Ended, Event, Position};
use tollgate::domain::fleet::{Member, MemberState};
use tollgate::domain::time::Timestamp;
use tollgate::fleet::{Fleet, Parts, Waited};
use tollgate::revocation::channel::Identity;
use tollgate::revocation::stamps::Stamps;
use tollgate::revocation::sticky::Sticky;
use tollgate::revocation::wait::Report;
use tollgate::revocation::{FENCE, GUARD};
use tollgate::store::redis::Redis;
use tollgate::store::redis::connect::Connector;

use crate::replica::{digest, slots};
use crate::server::RedisServer;

const DEADLINE: Duration = Duration::from_secs(20);

struct House {
    redis: Arc<Redis>,
    stamps: Arc<Stamps>,
    sticky: Arc<Sticky>,
    fleet: Fleet,
    reconcile: mpsc::Receiver<Vec<Ended>>,
}

impl House {
    fn on(server: &RedisServer) -> Self {
        let redis = Arc::new(redis(server));
        let (stamps, sticky) = (Arc::new(Stamps::leased(Clock::System)), Arc::new(Sticky::default()));
        let (reconciled, reconcile) = mpsc::channel(4);
        let parts = Parts {
            redis: Arc::clone(&redis),
            stamps: Arc::clone(&stamps),
            sticky: Arc::clone(&sticky),
            clock: Clock::System,
            identity: Identity::of_process(Duration::ZERO).unwrap(),
            reconcile: reconciled,
        };
        Self { redis, stamps, sticky, fleet: Fleet::start(parts).unwrap(), reconcile }
    }

    async fn attached(&self) {
        until("attached", || self.fleet.figures().state() == MemberState::Attached && self.stamps.is_leased()).await;
    }

    /// Ends key 0 for good.
    async fn revoke(&self) -> u64 {
        let ended = vec![Ended { digest: digest(0), at: Timestamp::from_millis(1) }];
        self.redis.commit(&[], &Event { ended, ..Event::touching(&[slots(0)]) }).await.unwrap()
    }

    async fn revoke_and_wait(&self) -> Report {
        let lineages = self.fleet.lineages();
        let sequence = self.revoke().await;
        match self.fleet.wait(sequence, lineages, DEADLINE).await {
            Waited::Done(report) => report,
            other => panic!("{other:?}"),
        }
    }

    fn has_heard(&self) -> bool {
        self.sticky.all().iter().any(|ended| ended.digest == digest(0))
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
    let connector = Connector::single(&format!("127.0.0.1:{}", server.port())).unwrap();
    Redis::new(connector, Handle::current())
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
async fn a_change_reaches_the_others_and_its_maker() {
    let server = store().await;
    let (one, other) = (House::on(&server), House::on(&server));
    one.attached().await;
    other.attached().await;
    let before = other.stamps.take();
    let sequence = one.revoke().await;
    assert!(one.fleet.heard(sequence).await);
    until("heard", || other.has_heard()).await;
    assert!(!other.stamps.allow(before, &slots(0)) && other.stamps.allow(before, &slots(1)));
}

#[tokio::test]
async fn a_wait_is_over_when_everybody_has_confirmed() {
    let server = store().await;
    let (one, other) = (House::on(&server), House::on(&server));
    one.attached().await;
    other.attached().await;
    let since = one.fleet.own().standing.attached_since.unwrap();
    until("attached for long enough", || Clock::System.moment().since(since) >= FENCE).await;
    let begun = Instant::now();
    let report = one.revoke_and_wait().await;
    assert!(other.has_heard() && report.is_complete() && report.confirmed.len() == 2, "{report:?}");
    assert!(begun.elapsed() < FENCE, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_wait_names_who_is_silent() {
    let server = store().await;
    let house = House::on(&server);
    house.attached().await;
    let silent = Member {
        id: "silent".to_owned(),
        name: "silent".to_owned(),
        position: Position { sequence: 0, chain: String::new() },
        beat: 1,
        state: MemberState::Attached,
        since: Timestamp::default(),
        grace: Duration::ZERO,
        version: String::new(),
    };
    house.redis.channel().await.unwrap().renew(&silent).await.unwrap();
    let begun = Instant::now();
    let report = house.revoke_and_wait().await;
    assert!(begun.elapsed() >= FENCE);
    assert_eq!((report.confirmed.len(), report.graced.len()), (1, 0));
    assert!(report.fenced.iter().chain(&report.lagging).all(|member| member.id == "silent"));
    let view = house.fleet.view().await.unwrap();
    assert_eq!(view.members.iter().map(|seen| seen.behind).max(), Some(view.own.head), "{view:?}");
}

#[tokio::test]
async fn a_server_that_hangs_ends_the_lease_and_one_that_is_back_renews_it() {
    let server = store().await;
    let house = House::on(&server);
    house.attached().await;
    signal(&server, Signal::STOP);
    until("no lease", || !house.stamps.is_leased()).await;
    until("detached", || house.fleet.figures().state() == MemberState::Detached).await;
    assert_eq!(house.fleet.wait(1, house.fleet.lineages(), GUARD).await, Waited::Unknown);
    signal(&server, Signal::CONT);
    house.attached().await;
    assert!(house.fleet.figures().counts().reconnects > 0);
}

#[tokio::test]
async fn a_server_that_comes_back_with_its_data_is_followed_on() {
    let mut server = store().await;
    let house = House::on(&server);
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
    let mut house = House::on(&server);
    house.attached().await;
    let sequence = house.revoke().await;
    assert!(house.fleet.heard(sequence).await);
    let (lineages, before) = (house.fleet.lineages(), house.stamps.take());
    server.send::<()>("FLUSHALL").await;
    until("sealed", || house.stamps.is_sealed()).await;
    assert_eq!(house.fleet.figures().state(), MemberState::Sealed);
    init(&server).await;
    house.attached().await;
    assert!(!house.stamps.is_sealed() && !house.stamps.allow(before, &slots(1)));
    assert_eq!(house.fleet.wait(sequence, lineages, DEADLINE).await, Waited::StartOver);
    let again = tokio::time::timeout(DEADLINE, house.reconcile.recv()).await.unwrap().unwrap();
    assert_eq!(again.iter().map(|ended| ended.digest).collect::<Vec<_>>(), [digest(0)]);
}

#[tokio::test]
async fn who_leaves_holds_no_lease_and_is_not_listed() {
    let server = store().await;
    let (one, other) = (House::on(&server), House::on(&server));
    one.attached().await;
    other.attached().await;
    other.fleet.leave().await;
    assert!(!other.stamps.is_leased());
    let view = one.fleet.view().await.unwrap();
    assert_eq!(view.members.len(), 1, "{view:?}");
    assert_eq!(view.members[0].member.id, view.own.member.id);
}
