//! One replica in the model: the real state machine, stamps and endings revocations, and around them a cache, its loads and
//! its decisions, each cut into the steps between which a scheduler may stop it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tollgate::clock::Clock;
use tollgate::domain::change::{Action, Endings, Input, Renewal, Stored};
use tollgate_guard::GUARD;
use tollgate_guard::channel::{Channel, Identity, Now};
use tollgate_guard::digest::Digest;
use tollgate_guard::protocol::{Member, MemberState, Position, Term};
use tollgate_guard::slots::{Slots, Touched};
use tollgate_guard::stamps::{Proof, Stamp, Stamps};
use tollgate_guard::time::{Moment, Timestamp};

use crate::redis::{Asked, Mark, Redis};
use crate::rules::Broken;

pub const REPLICAS: usize = 3;
pub const KEYS: usize = 2;
pub const DECISIONS: usize = 2;
/// In milliseconds; of the replica that has one.
pub const GRACE: u64 = 10_000;

pub fn digest(key: usize) -> Digest {
    Digest([key as u8 + 1; 32])
}

/// As [`Slots::of_digests`] gives them.
pub fn slots(key: usize) -> Slots {
    Slots::of_digests(&[digest(key)])
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    valid: bool,
    proof: Proof,
}

#[derive(Clone, Copy, Debug)]
struct Sent {
    stamp: Stamp,
    at: Moment,
    position: u64,
    /// The lineage that was joined then.
    joined: Option<u64>,
    server: usize,
}

#[derive(Clone, Copy, Debug)]
enum Flight {
    Sent(Sent),
    /// None if the server refused.
    Answered(Sent, Option<Loaded>),
}

#[derive(Clone, Copy, Debug)]
struct Loaded {
    lineage: u64,
    sequence: u64,
    is_valid: bool,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    Waiting,
    /// The three steps of `Stamps::stand`.
    Begin(Entry),
    Second(Entry, Moment),
    Third(Entry, Moment),
    Judged,
}

#[derive(Clone, Copy, Debug)]
pub struct Decision {
    pub key: usize,
    pub began: Moment,
    pub began_step: u64,
    phase: Phase,
    retried: bool,
}

#[derive(Debug)]
enum Link {
    Down,
    Listening(usize),
    Sent { server: usize, member: Member, at: Moment, settle: bool },
    Settling { mark: Mark, at: Moment, renewal: Renewal, is_back: bool },
    Answered { server: usize, at: Moment, renewal: Option<Renewal>, is_back: bool },
}

pub struct Replica {
    number: usize,
    /// In milliseconds.
    pub grace: u64,
    broken: Broken,
    clock: Clock,
    pub stamps: Stamps,
    pub endings: Endings,
    pub channel: Channel,
    link: Link,
    queue: VecDeque<Action>,
    loads_to: Option<usize>,
    joined: Option<u64>,
    cache: [Option<Entry>; KEYS],
    flights: [Option<Flight>; KEYS],
    decisions: [Option<Decision>; DECISIONS],
    /// At which step it heard that key 0 was ended.
    pub heard: Option<u64>,
    term: Term,
    /// The lineage and the place of the newest change that it was told to be made; and the place as of the last renewal.
    pub acknowledged: (String, Position),
    floor: Position,
    /// Whether it was attached since the last failover when the store went back, and whether that was behind what it knows.
    pub is_current: bool,
    /// When it was first given a lease after the failover that it knows of.
    pub risen_at: Option<Moment>,
    pub misses: bool,
    /// Whether it was given a lease all the same.
    pub unsealed: bool,
}

impl Replica {
    pub fn new(number: usize, millis: &Arc<AtomicU64>) -> Self {
        let clock = Clock::Manual(Arc::clone(millis));
        Self {
            number,
            grace: 0,
            broken: Broken::Nothing,
            stamps: Stamps::leased(clock.clone()).with_longest_grace(Duration::from_millis(GRACE)),
            clock,
            endings: Endings::default(),
            channel: channel(number, 0),
            link: Link::Down,
            queue: VecDeque::new(),
            loads_to: None,
            joined: None,
            cache: [None; KEYS],
            flights: [None; KEYS],
            decisions: [None; DECISIONS],
            heard: None,
            term: Term::Epoch(0),
            acknowledged: Default::default(),
            floor: Position::default(),
            is_current: false,
            risen_at: None,
            misses: false,
            unsealed: false,
        }
    }

    /// A new process. The stamps are kept, since making them takes longer than a whole run.
    pub fn restart(&mut self, broken: Broken, term: Term) {
        self.broken = broken;
        self.stamps.adopt(0);
        self.stamps.release();
        self.stamps.unseal();
        self.endings = Endings::default();
        self.channel = channel(self.number, self.grace);
        self.link = Link::Down;
        self.queue.clear();
        (self.loads_to, self.joined) = (None, None);
        self.cache = [None; KEYS];
        self.flights = [None; KEYS];
        self.decisions = [None; DECISIONS];
        self.heard = None;
        self.term = term;
        (self.acknowledged, self.floor) = Default::default();
        (self.is_current, self.misses, self.unsealed) = (false, false, false);
        self.risen_at = None;
    }

    /// The newest change that it was told to be made in the history that it follows.
    pub fn newest_acknowledged(&self) -> Position {
        let (lineage, place) = &self.acknowledged;
        if self.channel.lineage() == Some(&**lineage) { place.clone() } else { Position::default() }
    }

    pub fn is_attached(&self) -> bool {
        self.channel.own().state == MemberState::Attached && self.queue.is_empty()
    }

    /// The server that its channel is connected to while nothing is under way.
    pub fn listens_to(&self) -> Option<usize> {
        match self.link {
            Link::Listening(server) if self.queue.is_empty() => Some(server),
            _ => None,
        }
    }

    fn take(&mut self, input: Input, random: u64) {
        let moment = self.clock.moment();
        let (sent, ahead) = match &input {
            Input::Renewed { sent, renewal: Renewal::Ahead { entries, .. } } => (*sent, !entries.is_empty()),
            _ => (moment, false),
        };
        let acknowledged = self.floor.sequence;
        let now = Now { moment, time: Timestamp::default(), random, term: self.term, acknowledged };
        let before = self.channel.remembered().map(|known| known.term);
        let actions = self.channel.take(&now, input);
        let term = self.channel.remembered().map(|known| known.term);
        let is_first = before.is_none() && matches!(term, Some(Term::Epoch(_)));
        if is_first || before.is_some() && term != before {
            self.risen_at = Some(moment);
        }
        let leased = actions.iter().any(|action| matches!(action, Action::Lease(_)));
        if actions.iter().any(|action| matches!(action, Action::Adopt(_))) {
            self.acknowledged = Default::default();
        }
        self.queue.extend(actions);
        if self.broken == Broken::LeaseBehindTheHead && ahead && !leased {
            self.stamps.grant(sent.plus(GUARD));
        }
    }

    pub fn lose_connection(&mut self, random: u64) {
        if !matches!(self.link, Link::Down) && self.queue.is_empty() {
            self.link = Link::Down;
            self.take(Input::Failed, random);
        }
    }

    /// The servers were started again: what was sent is not answered.
    pub fn hang_up(&mut self) {
        self.link = match std::mem::replace(&mut self.link, Link::Down) {
            Link::Sent { server, at, .. } => Link::Answered { server, at, renewal: None, is_back: false },
            Link::Settling { mark, at, .. } => {
                Link::Answered { server: mark.server, at, renewal: None, is_back: false }
            }
            link => link,
        };
    }

    /// Moves the channel one step on.
    pub fn follow(&mut self, redis: &mut Redis, random: u64, step: u64) {
        if let Some(action) = self.queue.pop_front() {
            return self.act(action, step);
        }
        let now = self.clock.moment();
        match std::mem::replace(&mut self.link, Link::Down) {
            Link::Down => {
                self.term = redis.known_term();
                self.link = Link::Listening(redis.find(random));
                self.take(Input::Connected, random);
            }
            Link::Listening(server) => {
                self.link = Link::Listening(server);
                self.take(Input::Rang, random);
            }
            Link::Sent { server, member, at, settle } => {
                let nothing = Position::default();
                let forgets = matches!(self.broken, Broken::FollowsBack | Broken::MissesOnlyTheApplied);
                let acknowledged = if forgets { &nothing } else { &self.floor };
                let refused = self.channel.refused();
                let asked = Asked {
                    position: &member.position,
                    acknowledged,
                    beat: member.beat,
                    grace: self.grace,
                    refused: refused.as_ref(),
                };
                let is_unkept = self.misses || self.is_current && redis.servers[server].data.misses(&self.floor);
                let is_unkept = is_unkept || redis.was_told;
                let is_back = redis.went_back && is_unkept;
                let renewal = redis.renew(server, now, self.number, &asked, self.broken);
                let settle = settle && !matches!(self.broken, Broken::LeaseUnsettled | Broken::WaitIgnoresFence);
                self.link = match renewal {
                    Some(renewal @ Renewal::Ahead { .. }) if settle => {
                        Link::Settling { mark: redis.mark(server), at, renewal, is_back }
                    }
                    renewal => Link::Answered { server, at, renewal, is_back },
                };
            }
            Link::Settling { mark, at, renewal, is_back } => {
                let server = mark.server;
                self.link = if redis.is_replicated(mark) {
                    Link::Answered { server, at, renewal: Some(renewal), is_back }
                } else if redis.is_broken(mark) {
                    Link::Answered { server, at, renewal: None, is_back }
                } else {
                    Link::Settling { mark, at, renewal, is_back }
                };
            }
            Link::Answered { renewal: None, .. } => self.take(Input::Failed, random),
            Link::Answered { server, at, renewal: Some(renewal), is_back } => {
                self.link = Link::Listening(server);
                let sent = if self.broken == Broken::LeaseFromReceipt { now } else { at };
                // The driver asks again now and then.
                if self.wants_term(&renewal) || random.is_multiple_of(16) {
                    self.term = redis.known_term();
                }
                let renewal = match renewal {
                    Renewal::Gone(head) if self.broken == Broken::FollowsBack => Renewal::Resync(head),
                    renewal => renewal,
                };
                self.take(Input::Renewed { sent, renewal }, random);
                let is_leased = self.queue.iter().any(|action| matches!(action, Action::Lease(_)));
                self.unsealed |= is_leased && is_back && redis.went_back;
            }
        }
    }

    /// As the driver does.
    fn wants_term(&self, renewal: &Renewal) -> bool {
        match renewal {
            Renewal::Gone(_) => true,
            Renewal::Resync(head) | Renewal::Ahead { head, .. } => {
                self.channel.lineage().is_some_and(|lineage| lineage != head.lineage)
            }
            Renewal::Lost | Renewal::Short { .. } | Renewal::Missed { .. } => false,
        }
    }

    fn act(&mut self, action: Action, step: u64) {
        match action {
            Action::Connect { .. } => self.link = Link::Down,
            Action::DropLoads => self.loads_to = None,
            Action::Renew { member, settle } => {
                if let Link::Listening(server) = self.link {
                    self.floor = self.newest_acknowledged();
                    self.link = Link::Sent { server, member, at: self.clock.moment(), settle };
                }
            }
            Action::Adopt(head) if self.broken == Broken::ResyncKeepsCache => {
                self.stamps.apply(head.position.sequence, &Touched::Slots(Vec::new()));
            }
            action => {
                if let Action::Adopt(head) = &action {
                    self.joined = head.lineage.parse().ok();
                }
                if matches!(&action, Action::Apply(entry) if !entry.event.ended.is_empty()) {
                    self.heard.get_or_insert(step);
                }
                action.carry_out(&self.stamps, &self.endings);
            }
        }
    }

    fn grace(&self) -> Duration {
        Duration::from_millis(self.grace)
    }

    pub fn is_asked(&self, at: usize) -> bool {
        self.decisions[at].is_some()
    }

    pub fn is_loading(&self, key: usize) -> bool {
        self.flights[key].is_some()
    }

    /// A request arrives.
    pub fn ask(&mut self, redis: &Redis, key: usize, random: u64, step: u64) -> Option<usize> {
        let free = self.decisions.iter().position(Option::is_none)?;
        if random & 12 == 0 {
            // Caches forget.
            self.cache[key] = None;
        }
        // Half of the look-ups judge what they find, as ours do; the others leave it all to the check before the answer.
        let judges = random & 2 == 0;
        let hit = self.cache[key].filter(|entry| !judges || self.stamps.stand(&entry.proof, self.grace()));
        let phase = hit.map_or(Phase::Waiting, Phase::Begin);
        let began = self.clock.moment();
        self.decisions[free] = Some(Decision { key, began, began_step: step, phase, retried: false });
        if hit.is_none() {
            self.load(redis, key, random);
        }
        Some(free)
    }

    fn load(&mut self, redis: &Redis, key: usize, random: u64) {
        if self.flights[key].is_none() {
            let server = *self.loads_to.get_or_insert_with(|| redis.find(random));
            let (stamp, at, position) = (self.stamps.take(), self.stamps.now(), self.stamps.position());
            self.flights[key] = Some(Flight::Sent(Sent { stamp, at, position, joined: self.joined, server }));
        }
    }

    /// Moves a load one step on.
    pub fn fly(&mut self, redis: &Redis, key: usize) {
        match self.flights[key].take() {
            None => {}
            Some(Flight::Sent(sent)) => {
                let data = &redis.servers[sent.server].data;
                let answers = self.broken == Broken::PlainLoads || redis.writes(sent.server, self.clock.moment());
                let (lineage, sequence, is_valid) = (data.lineage, data.sequence(), !data.revoked[key]);
                let found = (answers && !data.is_lost()).then_some(Loaded { lineage, sequence, is_valid });
                self.flights[key] = Some(Flight::Answered(sent, found));
            }
            Some(Flight::Answered(sent, found)) => self.land(key, sent, found),
        }
    }

    fn land(&mut self, key: usize, sent: Sent, found: Option<Loaded>) {
        let forgets_history = self.broken == Broken::LoadsFromAnyHistory;
        let is_ours = |lineage| forgets_history || sent.joined.is_none_or(|joined| joined == lineage);
        let found = found.filter(|load| load.sequence >= sent.position && is_ours(load.lineage));
        if found.is_none() {
            self.loads_to = None;
        }
        let entry = found.map(|Loaded { is_valid: stored, .. }| {
            let forgets = self.broken == Broken::ForgetsRevocations;
            let said = Stored::Key { digest: &digest(key), revoked: !stored };
            let valid = stored && (key != 0 || forgets || !self.endings.contradicts(&said));
            let at = if self.broken == Broken::LoadsFromReceipt { self.clock.moment() } else { sent.at };
            Entry { valid, proof: Proof { stamp: sent.stamp, slots: slots(key), sent: at } }
        });
        if entry.is_some() {
            self.cache[key] = entry;
        }
        for waiting in &mut self.decisions {
            let Some(decision) = waiting.as_mut().filter(|it| it.key == key && matches!(it.phase, Phase::Waiting))
            else {
                continue;
            };
            match entry {
                Some(entry) if entry.valid && self.broken == Broken::JoinsUnchecked => decision.phase = Phase::Judged,
                Some(entry) if entry.valid => decision.phase = Phase::Begin(entry),
                _ => *waiting = None,
            }
        }
    }

    /// Moves a decision one step on, and gives it back when it is sent as an allow.
    pub fn decide(&mut self, redis: &Redis, at: usize, random: u64) -> Option<Decision> {
        let mut decision = self.decisions[at].take()?;
        let swapped = self.broken == Broken::StampsBeforeLease;
        decision.phase = match decision.phase {
            Phase::Waiting => Phase::Waiting,
            Phase::Begin(entry) if !entry.valid => return None,
            Phase::Begin(entry) if swapped => {
                if self.stamps.is_untouched(&entry.proof) {
                    Phase::Second(entry, Moment::default())
                } else {
                    return self.retry(redis, at, decision, random);
                }
            }
            Phase::Begin(entry) => Phase::Second(entry, self.stamps.lease()),
            Phase::Second(entry, _) if swapped => Phase::Third(entry, self.stamps.lease()),
            Phase::Second(entry, lease) if self.stamps.is_untouched(&entry.proof) => Phase::Third(entry, lease),
            Phase::Third(entry, lease) if self.stamps.is_covered(&entry.proof, lease, self.grace()) => Phase::Judged,
            Phase::Second(..) | Phase::Third(..) => return self.retry(redis, at, decision, random),
            Phase::Judged => return Some(decision),
        };
        self.decisions[at] = Some(decision);
        None
    }

    fn retry(&mut self, redis: &Redis, at: usize, decision: Decision, random: u64) -> Option<Decision> {
        if !decision.retried {
            self.decisions[at] = Some(Decision { phase: Phase::Waiting, retried: true, ..decision });
            self.load(redis, decision.key, random);
        }
        None
    }

    /// Loads a key unless it is cached.
    pub fn fill(&mut self, redis: &Redis, key: usize) {
        self.land_all(redis, key);
        if !self.serves(key) {
            self.load(redis, key, 0);
            self.land_all(redis, key);
        }
    }

    fn land_all(&mut self, redis: &Redis, key: usize) {
        while self.flights[key].is_some() {
            self.fly(redis, key);
        }
    }

    /// What is cached and would be served now.
    pub fn serves(&self, key: usize) -> bool {
        self.cache[key].is_some_and(|entry| self.stamps.stand(&entry.proof, Duration::ZERO))
    }
}

fn channel(number: usize, grace: u64) -> Channel {
    let identity = Identity {
        id: number.to_string(),
        name: String::new(),
        grace: Duration::from_millis(grace),
        version: String::new(),
        format: 3,
    };
    Channel::new(identity, 0, Timestamp::default())
}
