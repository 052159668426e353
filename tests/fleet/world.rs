//! The world that a scheduler drives: replicas, their store, one who revokes, and time. Checks each allow against what the
//! protocol promises.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tollgate_guard::FENCE;
use tollgate_guard::protocol::Remembered;
use tollgate_guard::time::Moment;

use crate::redis::{Change, Redis};
use crate::replica::{DECISIONS, Decision, GRACE, KEYS, REPLICAS, Replica};
use crate::revoker::{Revocation, RevokerStage};
use crate::rules::{Broken, Violation};

/// A lease, and the time that Envoy waits for an answer.
const D: u64 = 1_000;
const ENVOY_WAITS: u64 = 200;
/// For how long a failover explains what comes after it.
const EXPLAINS: Duration = Duration::from_secs(30);
/// A member of which nothing was heard for so long, and for its grace, is forgotten. Ours waits longer.
const PRUNED: u64 = 3_000;

pub struct World {
    millis: Arc<AtomicU64>,
    random: u64,
    pub broken: Broken,
    pub redis: Redis,
    pub replicas: Vec<Replica>,
    pub revocation: Option<Revocation>,
    pub acknowledged: [Option<(Moment, u64, usize)>; KEYS],
    pub returned: [Option<u64>; KEYS],
    /// One whose channel is slow.
    sleepy: Option<usize>,
    /// The last beat before everything was lost of the one who waited then.
    pub flushed_at: u64,
    /// Whether the store was emptied or put back, with what it knew of its members.
    has_forgotten: bool,
    /// The last beat of each member, and when it was first seen.
    beats: [Option<(u64, Moment)>; REPLICAS],
    /// How many members are missing in the list, and since when.
    missing: Option<(u64, Moment)>,
    pub step: u64,
    allows: u64,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {:?} {:?}", self.redis, self.revocation, self.acknowledged)
    }
}

impl World {
    pub fn new() -> Self {
        let millis = Arc::new(AtomicU64::new(0));
        let replicas = (0..REPLICAS).map(|number| Replica::new(number, &millis)).collect();
        Self {
            millis,
            random: 0,
            broken: Broken::Nothing,
            redis: Redis::new(true, false),
            replicas,
            revocation: None,
            acknowledged: [None; KEYS],
            returned: [None; KEYS],
            sleepy: None,
            flushed_at: 0,
            has_forgotten: false,
            beats: [None; REPLICAS],
            missing: None,
            step: 0,
            allows: 0,
        }
    }

    /// Begins anew, long after everything that was.
    pub fn restart(&mut self, seed: u64, broken: Broken) {
        self.millis.fetch_add(3_600_000, Ordering::SeqCst);
        self.random = seed;
        self.broken = broken;
        let is_single = self.below(4) == 0;
        self.redis = Redis::new(broken != Broken::Unfenced, is_single);
        let graced = self.pick(2 * REPLICAS);
        for (number, replica) in self.replicas.iter_mut().enumerate() {
            replica.grace = if number == graced { GRACE } else { 0 };
            replica.restart(broken, self.redis.known_term());
        }
        self.revocation = None;
        self.acknowledged = [None; KEYS];
        self.returned = [None; KEYS];
        self.sleepy = Some(self.pick(2 * REPLICAS)).filter(|replica| *replica < REPLICAS);
        self.flushed_at = 0;
        (self.has_forgotten, self.beats, self.missing) = (false, [None; REPLICAS], None);
        self.step = 0;
        self.allows = 0;
    }

    pub fn below(&mut self, end: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    pub fn pick(&mut self, end: usize) -> usize {
        self.below(end as u64) as usize
    }

    pub fn allows(&self) -> u64 {
        self.allows
    }

    pub fn now(&self) -> Moment {
        Moment::from_millis(self.millis.load(Ordering::SeqCst))
    }

    pub fn pass(&mut self, millis: u64) {
        self.millis.fetch_add(millis, Ordering::SeqCst);
    }

    pub fn count_step(&mut self) {
        self.step += 1;
    }

    /// Often goes on, so that long ways come to an end, and may stop after each step.
    pub fn follow(&mut self, replica: usize) {
        if self.sleepy == Some(replica) && self.below(8) > 0 {
            return;
        }
        loop {
            self.follow_once(replica);
            if self.below(3) == 0 {
                return;
            }
        }
    }

    pub fn follow_once(&mut self, replica: usize) {
        let random = self.below(1 << 20);
        self.replicas[replica].follow(&mut self.redis, random, self.step);
    }

    /// Whether a replica trusts a store that has lost what it knew.
    pub fn is_unsealed(&self) -> bool {
        self.replicas.iter().any(|replica| replica.unsealed)
    }

    pub fn lose_connection(&mut self, replica: usize) {
        let random = self.below(1 << 20);
        self.replicas[replica].lose_connection(random);
    }

    /// A request arrives, and is often answered at once.
    pub fn ask(&mut self, replica: usize, key: usize) -> Result<(), Violation> {
        let random = self.below(1 << 20);
        match self.replicas[replica].ask(&self.redis, key, random, self.step) {
            Some(at) => self.go_on(replica, at),
            None => Ok(()),
        }
    }

    /// Moves one of the loads that are under way.
    pub fn fly(&mut self) {
        let first = self.pick(REPLICAS * KEYS);
        let all = (first..first + REPLICAS * KEYS).map(|at| (at / KEYS % REPLICAS, at % KEYS));
        let Some((replica, key)) = all.into_iter().find(|(replica, key)| self.replicas[*replica].is_loading(*key))
        else {
            return;
        };
        self.replicas[replica].fly(&self.redis, key);
        if self.below(2) == 0 {
            self.replicas[replica].fly(&self.redis, key);
        }
    }

    /// Moves one of the decisions that are under way.
    pub fn decide(&mut self) -> Result<(), Violation> {
        let first = self.pick(REPLICAS * DECISIONS);
        let mut all = (first..first + REPLICAS * DECISIONS).map(|at| (at / DECISIONS % REPLICAS, at % DECISIONS));
        match all.find(|(replica, at)| self.replicas[*replica].is_asked(*at)) {
            Some((replica, at)) => self.go_on(replica, at),
            None => Ok(()),
        }
    }

    fn go_on(&mut self, replica: usize, at: usize) -> Result<(), Violation> {
        while self.below(3) > 0 && self.replicas[replica].is_asked(at) {
            self.advance(replica, at)?;
        }
        Ok(())
    }

    /// One replica answers whatever it is asked, and a request for each key.
    pub fn probe(&mut self, replica: usize) -> Result<(), Violation> {
        for key in 0..KEYS {
            let random = self.below(1 << 20);
            self.replicas[replica].ask(&self.redis, key, random, self.step);
            for turn in 0..2 * KEYS * DECISIONS * 4 {
                self.advance(replica, turn % DECISIONS)?;
                self.replicas[replica].fly(&self.redis, turn % KEYS);
            }
        }
        Ok(())
    }

    fn advance(&mut self, replica: usize, at: usize) -> Result<(), Violation> {
        let random = self.below(1 << 20);
        match self.replicas[replica].decide(&self.redis, at, random) {
            Some(decision) => self.judge(replica, decision),
            None => Ok(()),
        }
    }

    /// An allow is sent.
    fn judge(&mut self, replica: usize, decision: Decision) -> Result<(), Violation> {
        let Decision { key, began, began_step, .. } = decision;
        let now = self.now();
        // Envoy has refused the request by itself.
        if now.since(began).as_millis() as u64 > ENVOY_WAITS {
            return Ok(());
        }
        self.allows += 1;
        if let Some((at, step, by)) = self.acknowledged[key] {
            if now.since(at).as_millis() as u64 >= D + self.replicas[replica].grace {
                return Err(Violation::Late);
            }
            if by == replica && began_step > step {
                return Err(Violation::Own);
            }
        }
        // A store that has lost its head, or was put back, does not know whom to wait for.
        let is_unknown = self.has_forgotten && self.replicas[replica].grace > 0;
        if self.returned[key].is_some_and(|step| began_step > step) && !is_unknown {
            return Err(Violation::AfterWait);
        }
        let heard = self.replicas[replica].heard;
        if key == 0 && heard.is_some_and(|step| began_step > step) {
            return Err(Violation::Revived);
        }
        Ok(())
    }

    /// Somebody changes something else, and does not care whether it lasts.
    pub fn write_other(&mut self) {
        let server = self.pick(2);
        let data = &mut self.redis.servers[server].data;
        if data.is_open() && self.redis.writes(server, self.now()) {
            self.redis.servers[server].data.append(Change::Other);
        }
    }

    pub fn cut(&mut self) {
        self.redis.cut(self.now());
    }

    pub fn promote(&mut self) {
        if self.redis.is_cut() && self.below(2) == 0 {
            self.pass(6_000);
        }
        self.redis.promote(self.now());
    }

    /// What was promised cannot be kept where everything was lost.
    pub fn flush(&mut self) {
        self.redis.flush();
        self.has_forgotten = true;
        self.acknowledged = [None; KEYS];
        self.returned = [None; KEYS];
        match &self.revocation {
            // It is not done, and must find out.
            Some(Revocation { by, stage: RevokerStage::Waiting { .. }, .. }) => {
                self.flushed_at = self.replicas[*by].channel.own().beat;
            }
            _ => self.revocation = None,
        }
    }

    /// The store comes back with an older copy. What was promised is kept by those who know that, until an operator has spoken.
    pub fn go_back(&mut self) {
        let has_joined = |replica: &Replica| replica.channel.lineage().is_some();
        if !self.replicas.iter().all(has_joined) || !self.redis.go_back() {
            return;
        }
        self.has_forgotten = true;
        let now = self.now();
        let (data, term) = (&self.redis.servers[self.redis.primary].data, self.redis.known_term());
        for replica in &mut self.replicas {
            replica.hang_up();
            // Whoever has not been attached since the last failover takes that for the reason.
            let is_current = |known: Remembered| known.place.lineage == data.lineage.to_string() && known.term == term;
            // The same of one that has only just heard of it.
            let is_settled = replica.risen_at.is_none_or(|at| now.since(at) > EXPLAINS);
            replica.is_current = replica.channel.remembered().is_some_and(is_current) && is_settled;
            replica.misses = replica.is_current && data.misses(&replica.channel.own().position);
        }
        self.acknowledged = [None; KEYS];
        self.returned = [None; KEYS];
        self.revocation = None;
    }

    /// An operator takes the store as it is.
    pub fn accept(&mut self) {
        if self.redis.needs_accepting {
            self.redis.accept();
        }
    }

    /// One that has answered everything leaves, and another process takes its place.
    pub fn leave(&mut self, replica: usize) {
        let Some(server) = self.replicas[replica].listens_to() else { return };
        if !self.redis.writes(server, self.now()) || self.redis.servers[server].data.is_lost() {
            return;
        }
        self.redis.servers[server].data.forget(replica);
        if self.broken == Broken::LeavesEarly {
            self.sleepy = Some(replica);
            return;
        }
        self.replicas[replica].restart(self.broken, self.redis.known_term());
        self.beats[replica] = None;
        if self.revocation.as_ref().is_some_and(|revocation| revocation.by == replica) {
            self.revocation = None;
        }
    }

    /// One leaves, and the others revoke a key.
    pub fn scale_down(&mut self) {
        self.rest_well(0..REPLICAS);
        let gone = self.pick(REPLICAS);
        self.leave(gone);
        for _ in 0..self.below(24) {
            self.revoke();
            self.redis.replicate();
            for replica in (0..REPLICAS).filter(|replica| *replica != gone) {
                self.follow_once(replica);
            }
        }
    }

    /// Often so long that the first lease of each is no reason any more for what is lost.
    pub fn rest_for_long(&mut self) {
        self.rest_well(0..REPLICAS);
        if self.below(2) == 0 {
            self.pass(EXPLAINS.as_millis() as u64 + 1);
            self.rest_well(0..REPLICAS);
        }
    }

    /// Somebody looks through the members for those that are gone.
    pub fn look_round(&mut self) {
        let (random, now, broken) = (self.below(1 << 20), self.now(), self.broken);
        let server = self.redis.find(random);
        if !self.redis.writes(server, now) {
            return;
        }
        let data = &mut self.redis.servers[server].data;
        for (number, known) in self.beats.iter_mut().enumerate() {
            let Some(listed) = data.members[number] else {
                *known = None;
                continue;
            };
            let heard = known.filter(|(beat, _)| *beat == listed.beat).map_or(now, |(_, heard)| heard);
            *known = Some((listed.beat, heard));
            let grace = if broken == Broken::PrunesGraced { 0 } else { listed.grace };
            if now.since(heard) >= Duration::from_millis(PRUNED + grace) {
                data.forget(number);
            }
        }
        let known = self.missing.take();
        data.see_loss();
        if let Some(unlisted) = data.unlisted(now, broken) {
            let since = known.filter(|(count, _)| *count >= unlisted.count).map_or(now, |(_, since)| since);
            self.missing = Some((unlisted.count, since));
            if unlisted.still.is_zero() && now.since(since) >= FENCE {
                data.recount(unlisted.count);
            }
        }
    }

    /// Somebody has followed what is then lost.
    pub fn lost_copy(&mut self) {
        self.rest(0..REPLICAS);
        self.redis.copy();
        for _ in 0..=self.below(2) {
            self.write_other();
        }
        self.redis.replicate();
        let ahead = self.pick(REPLICAS);
        for _ in 0..self.below(12) {
            self.follow_once(ahead);
        }
        for _ in 0..self.below(4) {
            self.revoke();
        }
        self.go_back();
    }

    /// Everything goes well for a while: these replicas end attached, and have both keys.
    pub fn rest(&mut self, replicas: Range<usize>) {
        for _ in 0..40 {
            self.redis.replicate();
            for replica in replicas.clone() {
                self.follow_once(replica);
            }
        }
        for replica in &mut self.replicas[replicas] {
            for key in 0..KEYS {
                replica.fill(&self.redis, key);
            }
        }
    }

    /// For long enough that nobody holds a lease from another primary.
    pub fn rest_well(&mut self, replicas: Range<usize>) {
        for _ in 0..4 {
            self.rest(replicas.clone());
            self.pass(400);
        }
        self.rest(replicas);
    }

    /// One comes when the others are at rest, and then the store's primary is lost before its standby has heard of that.
    pub fn newcomer(&mut self) {
        let (new, old) = (REPLICAS - 1, 0..REPLICAS - 1);
        self.rest_well(old.clone());
        for _ in 0..16 {
            self.follow_once(new);
        }
        self.redis.hand_over();
        self.sleepy = Some(new);
        self.rest_well(old);
        for key in 0..KEYS {
            self.replicas[new].fill(&self.redis, key);
        }
    }

    /// A new store is made in the place of the one that all have followed, and one has not heard of that while the others have.
    pub fn made_anew(&mut self) {
        let (late, others) = (REPLICAS - 1, 0..REPLICAS - 1);
        self.rest_well(0..REPLICAS);
        self.flush();
        self.redis.restore();
        self.sleepy = Some(late);
        self.rest_well(others);
        for key in 0..KEYS {
            self.replicas[late].fill(&self.redis, key);
        }
    }

    /// One follows changes that are then lost with their primary.
    pub fn lost_suffix(&mut self) {
        self.rest(0..REPLICAS);
        for _ in 0..=self.below(2) {
            self.write_other();
        }
        let ahead = self.pick(REPLICAS);
        for _ in 0..12 {
            self.follow_once(ahead);
        }
        self.redis.hand_over();
    }

    /// L1: once everything works again, everybody is attached and serves from the cache.
    pub fn comes_to_rest(&mut self) -> Result<(), Violation> {
        self.redis.heal();
        self.redis.restore();
        self.accept();
        self.pass(ENVOY_WAITS + 1);
        for replica in 0..REPLICAS {
            self.probe(replica)?;
        }
        self.rest(0..REPLICAS);
        self.redis.lose_members();
        for _ in 0..2 * REPLICAS {
            self.rest(0..REPLICAS);
            self.look_round();
            self.pass(GRACE);
        }
        self.rest(0..REPLICAS);
        let is_listed = self.redis.servers[self.redis.primary].data.unlisted(self.now(), self.broken).is_none();
        let fine = |replica: &Replica| {
            !replica.stamps.is_sealed() && replica.stamps.is_leased() && (0..KEYS).all(|key| replica.serves(key))
        };
        if is_listed && self.replicas.iter().all(fine) { Ok(()) } else { Err(Violation::Restless) }
    }
}
