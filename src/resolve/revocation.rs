//! Stamps: what makes a cached entry invalid the moment a change was acknowledged. Never holds an entry itself.
//!
//! Every change has a sequence number and touches a few of 16,384 slots. An entry carries the sequence that was applied
//! **before** its load began, and is good only while no later change touched one of its slots. So a load that raced a
//! change is never served, whichever of the two finished first.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::domain::credential::Digest;

const SLOTS: usize = 16_384;

/// What an entry was loaded after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    epoch: u64,
    applied: u64,
}

/// The slots that an entry depends on, or that a change touches. At most four; unused ones repeat the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots([u16; 4]);

impl Slots {
    /// The most digests that [`Slots::of_digests`] can hold.
    pub const MAX_DIGESTS: usize = 4;

    /// For a key under any of these digests, or for its absence.
    pub fn of_digests(digests: &[Digest]) -> Self {
        let first = digests.first().map_or(0, slot_of_digest);
        let mut slots = [first; 4];
        for (slot, digest) in slots.iter_mut().zip(digests) {
            *slot = slot_of_digest(digest);
        }
        Self(slots)
    }

    /// For a key and the project it belongs to.
    pub fn of_key(digest: &Digest, project: &str) -> Self {
        let (key, project) = (slot_of_digest(digest), slot_of_name(project));
        Self([key, project, key, key])
    }
}

fn slot_of_digest(digest: &Digest) -> u16 {
    // Bytes 0-7 choose the bucket in the cache; these are others, so that slots and buckets do not coincide.
    u16::from_le_bytes([digest.0[8], digest.0[9]]) % (SLOTS as u16)
}

fn slot_of_name(name: &str) -> u16 {
    (crc32fast::hash(name.as_bytes()) % SLOTS as u32) as u16
}

/// The last change of each slot, and the newest change applied.
pub struct Stamps {
    epoch: AtomicU64,
    applied: AtomicU64,
    last: Box<[AtomicU64]>,
}

impl Default for Stamps {
    fn default() -> Self {
        let last = (0..SLOTS).map(|_| AtomicU64::new(0)).collect();
        Self { epoch: AtomicU64::new(0), applied: AtomicU64::new(0), last }
    }
}

impl Stamps {
    /// Taken before a load is sent.
    pub fn take(&self) -> Stamp {
        Stamp { epoch: self.epoch.load(Ordering::SeqCst), applied: self.applied.load(Ordering::SeqCst) }
    }

    /// Whether what was loaded after `stamp` may still be served.
    pub fn allow(&self, stamp: Stamp, slots: &Slots) -> bool {
        stamp.epoch == self.epoch.load(Ordering::SeqCst)
            && slots.0.iter().all(|slot| stamp.applied >= self.last[usize::from(*slot)].load(Ordering::SeqCst))
    }

    /// Whether a load stamped `stamp` began at or after the moment `arrival` was taken.
    pub fn began_after(stamp: Stamp, arrival: Stamp) -> bool {
        stamp.epoch >= arrival.epoch && stamp.applied >= arrival.applied
    }

    /// Makes every entry on these slots invalid. Call it after the change is durable and before it is acknowledged.
    pub fn raise(&self, sequence: u64, changes: &[Slots]) {
        for slot in changes.iter().flat_map(|slots| slots.0) {
            self.last[usize::from(slot)].fetch_max(sequence, Ordering::SeqCst);
        }
        self.applied.fetch_max(sequence, Ordering::SeqCst);
    }

    /// Makes every entry invalid.
    pub fn raise_all(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }
}

impl fmt::Debug for Stamps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Stamps({:?})", self.take())
    }
}
