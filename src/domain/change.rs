//! A change as all who cache hear of it: what it touched, and what it ended for good. Never says what the change was.
//!
//! What is cached depends on a few of [`SLOTS`] slots, chosen by digests and names that every replica computes alike.

use sha2::{Digest as _, Sha256};

use super::credential::Digest;
use super::time::Timestamp;

pub const SLOTS: usize = 16_384;

/// A change that touches more slots than this touches all.
const MANY: usize = SLOTS / 10;

/// The slots that an entry depends on, or that a change touches. At most four; unused ones repeat the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots([u16; 4]);

impl Slots {
    /// The most digests that [`Slots::of_digests`] can hold.
    pub const MAX_DIGESTS: usize = 4;

    /// For what is known under any of these digests, or for its absence.
    pub fn of_digests(digests: &[Digest]) -> Self {
        let first = digests.first().map_or(0, slot);
        let mut slots = [first; 4];
        for (place, digest) in slots.iter_mut().zip(digests) {
            *place = slot(digest);
        }
        Self(slots)
    }

    pub fn numbers(&self) -> [u16; 4] {
        self.0
    }
}

fn slot(digest: &Digest) -> u16 {
    // Bytes 0-7 choose the bucket in a cache; these are others, so that slots and buckets do not coincide.
    u16::from_le_bytes([digest.0[8], digest.0[9]]) % (SLOTS as u16)
}

/// The digest of something that is not a key, such as a user, a session or a project. It has no pepper in it, so that it is
/// the same in every replica, also while a pepper is being replaced.
pub fn named(kind: &str, name: &str) -> Digest {
    Digest(Sha256::new().chain_update(kind).chain_update(" ").chain_update(name).finalize().into())
}

/// The name of the keys that sessions are signed with, which change as one.
pub const SIGNING_KEYS: (&str, &str) = ("signing_keys", "all");

/// What a change touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touched {
    Slots(Vec<u16>),
    All,
}

impl Touched {
    pub fn of(touched: &[Slots]) -> Self {
        Self::new(touched.iter().flat_map(Slots::numbers).collect())
    }

    /// What any of these touched.
    pub fn all_of(several: &[Self]) -> Self {
        let mut numbers = Vec::new();
        for touched in several {
            match touched {
                Self::All => return Self::All,
                Self::Slots(slots) => numbers.extend(slots),
            }
        }
        Self::new(numbers)
    }

    fn new(mut numbers: Vec<u16>) -> Self {
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.len() > MANY { Self::All } else { Self::Slots(numbers) }
    }
}

/// What was ended for good: a key by its digest, a session by its [`named`] one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    pub digest: Digest,
    pub at: Timestamp,
}

/// One entry of the log that every replica follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub touched: Touched,
    pub ended: Vec<Ended>,
}

impl Event {
    pub fn touching(touched: &[Slots]) -> Self {
        Self { touched: Touched::of(touched), ended: Vec::new() }
    }
}

/// A place in the log: how many changes there were, and a hash over all of them, so that two histories with as many changes
/// are told apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    pub sequence: u64,
    /// SHA-1 in hexadecimal over the chain of changes, made by the store.
    pub chain: String,
}

/// The end of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Given when the store was made, and anew whenever it is made again.
    pub lineage: String,
    pub position: Position,
}
