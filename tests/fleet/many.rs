//! A large fleet and very many revocations, in simulated time: the real state machine and stamps of every replica on one log,
//! with pauses, lost connections and a log that is trimmed. Never waits, and looks at no clock but its own.
//!
//! `TOLLGATE_TEST_FULL=1` is 100,000 revocations with 300 replicas.

use std::collections::VecDeque;
use std::env;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tollgate::clock::Clock;
use tollgate::domain::change::{Action, Ended, Endings, Event, Input, LogEntry, Renewal, Stored};
use tollgate_guard::GUARD;
use tollgate_guard::channel::{Channel, Identity, Now};
use tollgate_guard::digest::Digest;
use tollgate_guard::protocol::{Head, MemberState, Position, Term};
use tollgate_guard::slots::{Slots, Touched};
use tollgate_guard::stamps::{Proof, Stamps};
use tollgate_guard::time::{Moment, Timestamp};

/// In milliseconds: a lease and the time that Envoy waits for an answer, how long a bell is listened for, the longest way to the
/// store or back, and the longest time that a replica does not run.
const D: u64 = 1_000;
const ENVOY_WAITS: u64 = 200;
const LISTENS: u64 = 200;
const WAY: u64 = 8;
const PAUSE: u64 = 4_000;

/// So many changes are kept, and a renewal tells of so many at most: few, so that whoever is behind needs more than one.
const KEPT: usize = 500;
const PAGE: usize = 16;

/// So many keys are in a replica's cache, of those so many that are revoked next; and so many are revoked at once at most.
const CACHED: usize = 24;
const NEXT: u64 = 60;
const AT_ONCE: u64 = 20;

/// What is left out, to show that it would be missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// Whoever begins anew keeps what it has cached.
    ResyncKeepsCache,
    /// A lease is given for any answer, be it from behind the head.
    LeaseBehindTheHead,
    /// Whoever revokes does not apply it before the acknowledgement.
    WriterForgetsItself,
}

fn mixed(seed: u64) -> u64 {
    let seed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let seed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let seed = (seed ^ (seed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    seed ^ (seed >> 31)
}

fn digest(key: usize) -> Digest {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&key.to_le_bytes());
    bytes[8..16].copy_from_slice(&mixed(key as u64).to_le_bytes());
    Digest(bytes)
}

fn slots(key: usize) -> Slots {
    Slots::of_digests(&[digest(key)])
}

/// The log, and how many keys are revoked: one after the other.
#[derive(Debug)]
struct Store {
    /// Up to where it was trimmed.
    base: Position,
    log: VecDeque<LogEntry>,
    revoked: usize,
}

impl Store {
    fn new() -> Self {
        Self { base: Position { sequence: 0, chain: String::new() }, log: VecDeque::new(), revoked: 0 }
    }

    fn head(&self) -> &Position {
        self.log.back().map_or(&self.base, |entry| &entry.position)
    }

    fn revoke_next(&mut self) -> (u64, Touched) {
        let key = self.revoked;
        self.revoked += 1;
        let sequence = self.head().sequence + 1;
        let ended = vec![Ended::Key { digest: digest(key), at: Timestamp::from_millis(1) }];
        let event = Event { ended, ..Event::touching(&[slots(key)]) };
        let touched = event.touched.clone();
        self.log
            .push_back(LogEntry { position: Position { sequence, chain: format!("{:x}", mixed(sequence)) }, event });
        if self.log.len() > KEPT
            && let Some(entry) = self.log.pop_front()
        {
            self.base = entry.position;
        }
        (sequence, touched)
    }

    fn renew(&self, position: &Position) -> Renewal {
        let head = Head { lineage: "one".to_owned(), position: self.head().clone() };
        let Some(behind) = position.sequence.checked_sub(self.base.sequence) else { return Renewal::Resync(head) };
        let behind = behind as usize;
        let known = behind.checked_sub(1).map_or(Some(&self.base), |at| self.log.get(at).map(|entry| &entry.position));
        if known != Some(position) {
            return Renewal::Resync(head);
        }
        Renewal::Ahead { head, entries: self.log.range(behind..).take(PAGE).cloned().collect() }
    }
}

/// What a replica waits for.
#[derive(Debug)]
enum Link {
    Down,
    Listening { after: u64 },
    Sent { position: Position, at: Moment },
    Answered { renewal: Renewal, at: Moment },
}

#[derive(Debug)]
struct Cached {
    key: usize,
    proof: Proof,
    /// It is not there before its load is back.
    from: u64,
}

#[derive(Debug)]
struct Replica {
    stamps: Stamps,
    channel: Channel,
    link: Link,
    /// When the link brings something.
    due: u64,
    paused_until: u64,
    cache: VecDeque<Cached>,
}

impl Replica {
    fn new(number: usize, millis: &Arc<AtomicU64>) -> Self {
        let identity = Identity {
            id: number.to_string(),
            name: String::new(),
            grace: Duration::ZERO,
            version: String::new(),
            format: 3,
        };
        Self {
            stamps: Stamps::leased(Clock::Manual(Arc::clone(millis))),
            channel: Channel::new(identity, 0, Timestamp::default()),
            link: Link::Down,
            due: 0,
            paused_until: 0,
            cache: VecDeque::new(),
        }
    }

    fn is_at(&self, head: &Position) -> bool {
        let own = self.channel.own();
        own.state == MemberState::Attached && own.position == *head && self.stamps.is_leased()
    }

    fn serves(&self, cached: &Cached, now: u64) -> bool {
        cached.from <= now && self.stamps.stand(&cached.proof, Duration::ZERO)
    }

    /// A load of a key that stands: stamped, sent and read now, and back later.
    fn load(&mut self, key: usize, back: u64) {
        let proof = Proof { stamp: self.stamps.take(), slots: slots(key), sent: self.stamps.now() };
        self.cache.push_back(Cached { key, proof, from: back });
        if self.cache.len() > CACHED {
            self.cache.pop_front();
        }
    }
}

/// What happened in a run.
#[derive(Debug, Default)]
struct Counts {
    allows: u64,
    /// Of a key that was revoked already, within what is promised.
    early: u64,
    resyncs: u64,
    failures: u64,
}

struct World {
    millis: Arc<AtomicU64>,
    random: u64,
    broken: Broken,
    store: Store,
    replicas: Vec<Replica>,
    /// The one memory of all: nobody asks it, so that only the stamps keep a revoked key out.
    endings: Endings,
    /// When each revocation was acknowledged, and by whom.
    acknowledged: Vec<(u64, usize)>,
    revocations: usize,
    counts: Counts,
}

impl World {
    fn new(revocations: usize, replicas: usize, broken: Broken) -> Self {
        let millis = Arc::new(AtomicU64::new(3_600_000));
        Self {
            random: 7,
            broken,
            store: Store::new(),
            replicas: (0..replicas).map(|number| Replica::new(number, &millis)).collect(),
            endings: Endings::default(),
            acknowledged: Vec::with_capacity(revocations),
            revocations,
            counts: Counts::default(),
            millis,
        }
    }

    fn below(&mut self, end: u64) -> u64 {
        self.random = self.random.wrapping_add(1);
        mixed(self.random) % end
    }

    fn now(&self) -> u64 {
        self.millis.load(Ordering::SeqCst)
    }

    fn pass(&mut self, millis: u64) {
        self.millis.fetch_add(millis, Ordering::SeqCst);
    }

    /// From when all have joined to the last revocation, and then until the fleet is at rest again. The first promise that is
    /// broken ends it.
    fn run(&mut self) -> Result<(), String> {
        self.come_to_rest()?;
        while self.store.revoked < self.revocations {
            for _ in 0..=self.below(AT_ONCE) {
                self.revoke_next()?;
            }
            for number in 0..self.replicas.len() {
                self.disturb(number);
                self.fill(number);
                self.follow(number);
                self.judge(number)?;
            }
            let time = self.below(60);
            self.pass(time);
        }
        self.come_to_rest()
    }

    fn revoke_next(&mut self) -> Result<(), String> {
        if self.store.revoked == self.revocations {
            return Ok(());
        }
        let (key, by) = (self.store.revoked, self.below(self.replicas.len() as u64) as usize);
        let (sequence, touched) = self.store.revoke_next();
        let (now, maker) = (self.now(), &self.replicas[by]);
        if self.broken != Broken::WriterForgetsItself {
            maker.stamps.acknowledge(sequence, &touched);
        }
        self.acknowledged.push((now, by));
        let served = maker.cache.iter().any(|cached| cached.key == key && maker.serves(cached, now));
        if served { Err(format!("replica {by} allows key {key}, which it revoked itself")) } else { Ok(()) }
    }

    /// Rarely a replica loses its connection, or does not run for a while.
    fn disturb(&mut self, number: usize) {
        match self.below(400) {
            0 if !matches!(self.replicas[number].link, Link::Down) => {
                self.counts.failures += 1;
                self.take(number, Input::Failed);
            }
            1 => self.replicas[number].paused_until = self.now() + self.below(PAUSE),
            _ => {}
        }
    }

    /// Loads keys that will soon be revoked.
    fn fill(&mut self, number: usize) {
        for _ in 0..2 {
            let key = self.store.revoked + self.below(NEXT) as usize;
            let back = self.now() + self.below(100);
            let replica = &mut self.replicas[number];
            if self.millis.load(Ordering::SeqCst) >= replica.paused_until && replica.stamps.can_serve() {
                replica.load(key, back);
            }
        }
    }

    /// Brings a replica's channel to now.
    fn follow(&mut self, number: usize) {
        let now = self.now();
        while now >= self.replicas[number].due.max(self.replicas[number].paused_until) {
            let way = 1 + self.below(WAY);
            let replica = &mut self.replicas[number];
            match std::mem::replace(&mut replica.link, Link::Down) {
                Link::Down => self.take(number, Input::Connected),
                Link::Listening { after } if self.store.head().sequence <= after && now < replica.due + LISTENS => {
                    replica.link = Link::Listening { after };
                    return;
                }
                Link::Listening { .. } => self.take(number, Input::Rang),
                Link::Sent { position, at } => {
                    replica.link = Link::Answered { renewal: self.store.renew(&position), at };
                    replica.due = now + way;
                }
                Link::Answered { renewal, at } => self.take(number, Input::Renewed { sent: at, renewal }),
            }
        }
    }

    fn take(&mut self, number: usize, input: Input) {
        let (moment, random, way) = (Moment::from_millis(self.now()), self.below(1 << 20), 1 + self.below(WAY));
        let lease_anyway = match &input {
            Input::Renewed { sent, .. } if self.broken == Broken::LeaseBehindTheHead => Some(*sent),
            _ => None,
        };
        let replica = &mut self.replicas[number];
        let actions = replica
            .channel
            .take(&Now { moment, time: Timestamp::default(), random, term: Term::Fixed, acknowledged: 0 }, input);
        for action in actions {
            self.counts.resyncs += u64::from(matches!(action, Action::Adopt(_)));
            if !(self.broken == Broken::ResyncKeepsCache && matches!(action, Action::Adopt(_))) {
                // They share what they remember, so that no history of one begins anew for all.
                let (own, is_adopted) = (Endings::default(), matches!(action, Action::Adopt(_)));
                action.carry_out(&replica.stamps, if is_adopted { &own } else { &self.endings });
            }
            (replica.link, replica.due) = match action {
                Action::Connect { after } => (Link::Down, moment.plus(after).as_millis()),
                Action::Listen { after } => (Link::Listening { after }, moment.as_millis()),
                Action::Renew { member, .. } => {
                    (Link::Sent { position: member.position, at: moment }, moment.as_millis() + way)
                }
                _ => continue,
            };
        }
        if let Some(sent) = lease_anyway {
            replica.stamps.grant(sent.plus(GUARD));
        }
    }

    /// Everything that a replica has cached is asked for, also by a replica that does not follow: it answers what lies there.
    fn judge(&mut self, number: usize) -> Result<(), String> {
        let (now, replica) = (self.now(), &self.replicas[number]);
        for cached in replica.cache.iter().filter(|cached| replica.serves(cached, now)) {
            self.counts.allows += 1;
            let Some((at, by)) = self.acknowledged.get(cached.key) else { continue };
            // The answer may take as long as Envoy waits for it.
            if now + ENVOY_WAITS >= at + D || *by == number {
                let Cached { key, .. } = cached;
                return Err(format!("replica {number} allows key {key} {} ms after {by} revoked it", now - at));
            }
            self.counts.early += 1;
        }
        Ok(())
    }

    /// Nobody is disturbed any more: in the end every replica is attached at the head, and nothing that was revoked stands.
    fn come_to_rest(&mut self) -> Result<(), String> {
        let until = self.now() + 2 * PAUSE;
        let is_at_rest = |world: &Self| world.replicas.iter().all(|replica| replica.is_at(world.store.head()));
        while !is_at_rest(self) {
            if self.now() > until {
                return Err("the fleet does not come to rest".to_owned());
            }
            self.pass(5);
            for number in 0..self.replicas.len() {
                self.follow(number);
                self.judge(number)?;
            }
        }
        let (now, revoked) = (self.now(), self.store.revoked);
        for replica in &mut self.replicas {
            let stands = |cached: &Cached| cached.key < revoked && replica.serves(cached, now);
            if replica.cache.iter().any(stands) {
                return Err("a revoked key stands where everything has been heard".to_owned());
            }
            replica.load(revoked, now);
            if !replica.cache.back().is_some_and(|cached| replica.serves(cached, now)) {
                return Err("a good key is not served from the cache".to_owned());
            }
        }
        Ok(())
    }
}

/// How many revocations, and replicas.
fn size() -> (usize, usize) {
    if env::var_os("TOLLGATE_TEST_FULL").is_some() { (100_000, 300) } else { (2_000, 50) }
}

#[test]
fn a_large_fleet_hears_of_every_revocation() {
    let (revocations, replicas) = size();
    let mut world = World::new(revocations, replicas, Broken::Nothing);
    assert_eq!(world.run(), Ok(()));
    let is_remembered = |key| world.endings.contradicts(&Stored::Key { digest: &digest(key), revoked: false });
    assert!((0..revocations).all(is_remembered), "what was ended is remembered");
    // Otherwise nothing was shown.
    let (Counts { allows, early, resyncs, failures }, each) = (&world.counts, replicas as u64);
    let is_busy = *allows > 100 * each && *early > 10 * each && *resyncs > each && *failures > each / 5;
    assert!(is_busy, "{:?}", world.counts);
}

#[test]
fn a_large_fleet_finds_what_is_left_out() {
    for broken in [Broken::ResyncKeepsCache, Broken::LeaseBehindTheHead, Broken::WriterForgetsItself] {
        let mut world = World::new(2_000, 50, broken);
        let is_noticed = world.run().is_err_and(|why| why.contains("allows key"));
        assert!(is_noticed, "{broken:?} was not noticed: {:?}", world.counts);
    }
}
