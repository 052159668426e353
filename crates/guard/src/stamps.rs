//! Stamps and the lease: what makes a cached entry invalid the moment a change was acknowledged, or when nobody can tell any
//! more. Never holds an entry itself.
//!
//! Every change has a sequence number and touches a few slots. An entry carries the sequence that was applied **before** its
//! load was sent, and is good only while no later change touched one of its slots. So a load that raced a change is never
//! served, whichever of the two finished first. Where others make changes too, all this holds only under a lease, which says
//! that every change before a moment has been applied.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::slots::{SLOTS, Slots, Touched};
use crate::time::{Moment, MonotonicClock};
use crate::{GUARD, LISTED};

/// What an entry was loaded after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    epoch: u64,
    applied: u64,
}

/// What an entry is judged by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof {
    pub stamp: Stamp,
    pub slots: Slots,
    /// When its load was sent.
    pub sent: Moment,
}

/// The last change of each slot, the newest change applied, and until when that is known to be enough.
pub struct Stamps {
    clock: Box<dyn MonotonicClock>,
    epoch: AtomicU64,
    /// Counts on when the store's own numbers go back, so that a number is never given twice.
    applied: AtomicU64,
    /// What is added to the store's numbers for that.
    offset: AtomicU64,
    last: Box<[AtomicU64]>,
    /// The store's own number of the newest change applied.
    position: AtomicU64,
    lease: AtomicU64,
    /// A lease is extended by no more than this.
    longest_grace: Duration,
    sealed: AtomicBool,
    turn: Mutex<()>,
}

/// The lease of whoever is the only one to make changes.
const FOREVER: Moment = Moment::from_millis(u64::MAX);

/// Of whoever has not had one, or has given it up.
const NEVER: Moment = Moment::from_millis(0);

impl Stamps {
    /// For a store that nobody else changes.
    pub fn sole(clock: impl MonotonicClock + 'static) -> Self {
        Self::new(Box::new(clock), FOREVER)
    }

    /// For a store that others change as well: nothing cached is good before the first lease.
    pub fn leased(clock: impl MonotonicClock + 'static) -> Self {
        Self::new(Box::new(clock), NEVER)
    }

    /// With the grace that the others are told of. Whoever waits for a change counts on it, so no configuration that comes later
    /// may lengthen it.
    pub fn with_longest_grace(self, longest_grace: Duration) -> Self {
        Self { longest_grace, ..self }
    }

    fn new(clock: Box<dyn MonotonicClock>, lease: Moment) -> Self {
        Self {
            clock,
            epoch: AtomicU64::new(0),
            applied: AtomicU64::new(0),
            offset: AtomicU64::new(0),
            last: (0..SLOTS).map(|_| AtomicU64::new(0)).collect(),
            position: AtomicU64::new(0),
            lease: AtomicU64::new(lease.as_millis()),
            longest_grace: Duration::MAX,
            sealed: AtomicBool::new(false),
            turn: Mutex::new(()),
        }
    }

    /// Taken before a load is sent.
    pub fn take(&self) -> Stamp {
        Stamp { epoch: self.epoch.load(Ordering::SeqCst), applied: self.applied.load(Ordering::SeqCst) }
    }

    /// What an entry will be judged by whose load is sent now.
    pub fn now(&self) -> Moment {
        self.clock.moment()
    }

    /// The store's own number of the newest change that was applied. A load that comes from before it is to be refused.
    pub fn position(&self) -> u64 {
        self.position.load(Ordering::SeqCst)
    }

    /// Whether what was loaded after `stamp` has not been touched since, as far as changes have been heard of.
    pub fn allow(&self, stamp: Stamp, slots: &Slots) -> bool {
        stamp.epoch == self.epoch.load(Ordering::SeqCst)
            && slots.numbers().iter().all(|slot| stamp.applied >= self.last[usize::from(*slot)].load(Ordering::SeqCst))
    }

    /// Whether an entry may be served now: it is untouched, and either a lease says that no change went unheard of, or its
    /// own load is as young. `grace` extends the lease.
    ///
    /// The order is the argument: the lease as it was **before** the stamps were read, and then a fresh clock. Whatever
    /// stops this thread in between, a lease that covers the clock at the end covered the stamps.
    pub fn stand(&self, proof: &Proof, grace: Duration) -> bool {
        let lease = self.lease();
        self.is_untouched(proof) && self.is_covered(proof, lease, grace)
    }

    /// The first step of [`Stamps::stand`].
    pub fn lease(&self) -> Moment {
        Moment::from_millis(self.lease.load(Ordering::SeqCst))
    }

    /// The second step.
    pub fn is_untouched(&self, proof: &Proof) -> bool {
        !self.is_sealed() && self.allow(proof.stamp, &proof.slots)
    }

    /// The third step, with what the first one gave.
    pub fn is_covered(&self, proof: &Proof, lease: Moment, grace: Duration) -> bool {
        // Before the first lease nobody who waits for a change to arrive everywhere knows of this replica.
        if lease == FOREVER || lease == NEVER {
            return lease == FOREVER;
        }
        let by_itself = proof.sent.plus(GUARD).min(lease.plus(LISTED));
        self.clock.moment() < lease.plus(grace.min(self.longest_grace)).max(by_itself)
    }

    /// Whether there is a lease now.
    pub fn is_leased(&self) -> bool {
        let lease = self.lease();
        !self.is_sealed() && (lease == FOREVER || self.clock.moment() < lease)
    }

    /// Whether anything can be served at all, be it from a load that is made for the request.
    pub fn can_serve(&self) -> bool {
        let lease = self.lease();
        !self.is_sealed() && lease != NEVER && (lease == FOREVER || self.clock.moment() < lease.plus(LISTED))
    }

    pub fn is_sealed(&self) -> bool {
        self.sealed.load(Ordering::SeqCst)
    }

    /// Whether a load stamped `stamp` began at or after the moment `arrival` was taken.
    pub fn began_after(stamp: Stamp, arrival: Stamp) -> bool {
        stamp.epoch >= arrival.epoch && stamp.applied >= arrival.applied
    }

    /// What the maker of a change does once it is durable, and before it is acknowledged. Under a lease the change will be
    /// applied in its turn; until then it counts as one of its own.
    pub fn acknowledge(&self, sequence: u64, touched: &Touched) {
        if self.lease() == FOREVER {
            self.apply(sequence, touched);
        } else {
            let _turn = self.turn();
            self.offset.store(self.offset.load(Ordering::SeqCst).wrapping_add(1), Ordering::SeqCst);
            self.advance(self.applied.load(Ordering::SeqCst).saturating_add(1), touched);
        }
    }

    /// Applies a change that is durable, by its number in the store, in its turn. The position first: no load that is stamped with
    /// this number takes an answer from before it.
    pub fn apply(&self, sequence: u64, touched: &Touched) {
        let _turn = self.turn();
        self.position.fetch_max(sequence, Ordering::SeqCst);
        self.advance(self.offset.load(Ordering::SeqCst).wrapping_add(sequence), touched);
    }

    /// What is touched first, so that no load is stamped with this number that began before.
    fn advance(&self, number: u64, touched: &Touched) {
        match touched {
            Touched::All => self.raise_all(),
            Touched::Slots(slots) => self.raise(number, slots),
        }
        self.applied.fetch_max(number, Ordering::SeqCst);
    }

    /// Goes over to another history, of which everything up to `sequence` counts as applied. Nothing that was loaded before
    /// is good any more, and no number is given again. The position first, as in [`Stamps::apply`].
    pub fn adopt(&self, sequence: u64) {
        let _turn = self.turn();
        self.position.store(sequence, Ordering::SeqCst);
        self.raise_all();
        let next = self.applied.load(Ordering::SeqCst).saturating_add(1);
        self.offset.store(next.wrapping_sub(sequence), Ordering::SeqCst);
        self.applied.store(next, Ordering::SeqCst);
    }

    /// Every change before the lease's beginning has been applied, and the store promises to say so of no other.
    pub fn grant(&self, until: Moment) {
        self.lease.fetch_max(until.as_millis(), Ordering::SeqCst);
    }

    /// Gives the lease up for good. Whoever leaves the fleet does so once nobody asks any more.
    pub fn release(&self) {
        self.lease.store(NEVER.as_millis(), Ordering::SeqCst);
    }

    /// Nothing is served until the store is again what it was: see [`Stamps::unseal`].
    pub fn seal(&self) {
        self.sealed.store(true, Ordering::SeqCst);
    }

    pub fn unseal(&self) {
        self.sealed.store(false, Ordering::SeqCst);
    }

    /// Makes every entry invalid.
    pub fn raise_all(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    /// Numbers are given one after the other. Whoever judges an entry does not wait for this.
    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn raise(&self, number: u64, slots: &[u16]) {
        for slot in slots {
            if let Some(last) = self.last.get(usize::from(*slot)) {
                last.fetch_max(number, Ordering::SeqCst);
            }
        }
    }
}

impl fmt::Debug for Stamps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stamps({:?})", self.take())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::digest::Digest;
    use crate::testing::{RunningClock, SetClock};

    #[test]
    fn no_grace_is_longer_than_the_others_were_told() {
        let now = Arc::new(AtomicU64::new(1_000));
        let clock = SetClock(Arc::clone(&now));
        let stamps = Stamps::leased(clock).with_longest_grace(Duration::from_secs(5));
        stamps.grant(Moment::from_millis(1_800));
        let proof = Proof { stamp: stamps.take(), slots: Slots::of_digests(&[Digest([7; 32])]), sent: stamps.now() };
        for (millis, asked, stands) in [(6_799, 9, true), (6_800, 9, false), (3_799, 2, true), (3_800, 2, false)] {
            now.store(millis, Ordering::SeqCst);
            assert_eq!(stamps.stand(&proof, Duration::from_secs(asked)), stands, "at {millis} with {asked} s");
        }
    }

    fn proof(stamps: &Stamps) -> Proof {
        Proof { stamp: stamps.take(), slots: Slots::of_digests(&[Digest([7; 32])]), sent: stamps.now() }
    }

    /// What a moment allows, by the lease alone and by a load of that very moment.
    fn at(stamps: &Stamps) -> (bool, bool, bool) {
        (stamps.is_leased(), stamps.can_serve(), stamps.stand(&proof(stamps), Duration::ZERO))
    }

    #[test]
    fn nothing_is_served_while_sealed_or_before_the_first_lease_or_once_the_others_have_forgotten_it() {
        for stamps in [Stamps::sole(RunningClock::default()), Stamps::leased(RunningClock::default())] {
            stamps.grant(stamps.now().plus(Duration::from_secs(60)));
            assert_eq!(at(&stamps), (true, true, true));
            stamps.seal();
            assert_eq!(at(&stamps), (false, false, false), "sealed");
            stamps.unseal();
            assert_eq!(at(&stamps), (true, true, true));
        }
        let now = Arc::new(AtomicU64::new(1_000));
        let stamps = Stamps::leased(SetClock(Arc::clone(&now)));
        assert_eq!(at(&stamps), (false, false, false), "before the first lease");
        stamps.grant(Moment::from_millis(1_800));
        let listed = u64::try_from(LISTED.as_millis()).unwrap();
        for (millis, expected) in [
            (1_799, (true, true, true)),
            (1_800, (false, true, true)),
            (1_800 + listed - 1, (false, true, true)),
            (1_800 + listed, (false, false, false)),
        ] {
            now.store(millis, Ordering::SeqCst);
            assert_eq!(at(&stamps), expected, "at {millis}");
        }
        stamps.release();
        now.store(1_000, Ordering::SeqCst);
        assert_eq!(at(&stamps), (false, false, false), "given up");
    }

    #[test]
    fn a_load_counts_for_who_came_before_it_was_sent() {
        let stamps = Stamps::leased(RunningClock::default());
        let arrival = stamps.take();
        assert!(Stamps::began_after(arrival, arrival));
        stamps.apply(1, &Touched::Slots(vec![]));
        let later = stamps.take();
        assert!(Stamps::began_after(later, arrival) && !Stamps::began_after(arrival, later));
        stamps.raise_all();
        let last = stamps.take();
        assert!(Stamps::began_after(last, later) && !Stamps::began_after(later, last));
    }

    /// It would take an answer from before the change that it is stamped with.
    #[test]
    fn no_load_is_stamped_with_a_change_that_the_position_is_behind() {
        const CHANGES: u64 = 3_000_000;
        for adopts in [false, true] {
            let stamps = Stamps::leased(RunningClock::default());
            let change = |n| if adopts { stamps.adopt(n) } else { stamps.apply(n, &Touched::Slots(vec![])) };
            std::thread::scope(|scope| {
                scope.spawn(|| (1..=CHANGES).for_each(change));
                loop {
                    let Stamp { epoch, applied } = stamps.take();
                    let position = stamps.position();
                    let stamped = if adopts { epoch } else { applied };
                    assert!(position >= stamped, "at {position}, stamped with {stamped}");
                    if stamped == CHANGES {
                        break;
                    }
                }
            });
        }
    }

    #[test]
    fn a_change_of_everything_leaves_nothing_good() {
        let stamps = Stamps::leased(RunningClock::default());
        let before = proof(&stamps);
        assert!(stamps.is_untouched(&before));
        stamps.apply(1, &Touched::All);
        assert!(!stamps.is_untouched(&before) && stamps.is_untouched(&proof(&stamps)));
    }

    /// Whichever of the two comes first: the log, which tells the maker of its own change, or the acknowledgement.
    #[test]
    fn a_change_of_ones_own_is_forgotten_once_and_cached_again() {
        let slots = Slots::of_digests(&[Digest([7; 32])]);
        let touched = Touched::of(&[slots]);
        for heard_first in [true, false] {
            let stamps = Stamps::leased(RunningClock::default());
            stamps.adopt(41);
            let before = stamps.take();
            if heard_first {
                stamps.apply(42, &touched);
            }
            stamps.acknowledge(42, &touched);
            let after = stamps.take();
            assert!(!stamps.allow(before, &slots) && stamps.allow(after, &slots));
            if !heard_first {
                stamps.apply(42, &touched);
            }
            assert!(stamps.allow(stamps.take(), &slots));
            // Another one's change still counts for what was loaded after ours.
            let between = stamps.take();
            stamps.apply(43, &touched);
            assert!(!stamps.allow(between, &slots) && stamps.allow(stamps.take(), &slots));
        }
    }
}
