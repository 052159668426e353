//! What an entry of a cache depends on, and what a change touches: a few of [`SLOTS`] slots, chosen by digests that every replica
//! computes alike.

use crate::digest::Digest;

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
