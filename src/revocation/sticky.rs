//! What was heard to be ended for good stays ended, even if a store that lost it says otherwise. Never forgets what the log
//! still tells of.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::change::Ended;
use crate::domain::credential::Digest;
use crate::domain::time::Timestamp;

/// As many as the log of the store has entries, and some more: it is trimmed in blocks.
const KEPT: usize = 110_000;

/// What was ended, as far back as the log goes.
#[derive(Default)]
pub struct Sticky(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    ended: HashMap<Digest, Timestamp>,
    /// In the order in which they were heard of.
    order: VecDeque<Digest>,
    contradicted: HashSet<Digest>,
    /// How often the store was contradicted.
    count: u64,
}

impl Sticky {
    pub fn note(&self, ended: &[Ended]) {
        self.note_at_most(ended, KEPT);
    }

    fn note_at_most(&self, ended: &[Ended], kept: usize) {
        let mut inner = self.lock();
        for Ended { digest, at } in ended {
            if inner.ended.insert(*digest, *at).is_none() {
                inner.order.push_back(*digest);
            }
        }
        while inner.order.len() > kept {
            if let Some(oldest) = inner.order.pop_front() {
                inner.ended.remove(&oldest);
                inner.contradicted.remove(&oldest);
            }
        }
    }

    /// Whether this was ended, though the store says that it stands. It is remembered, to be ended again.
    pub fn contradicts(&self, digest: &Digest) -> bool {
        let mut inner = self.lock();
        let ended = inner.ended.contains_key(digest);
        if ended {
            inner.count += 1;
            inner.contradicted.insert(*digest);
        }
        ended
    }

    /// What is to be ended again because the store was found to have lost it. Given once.
    pub fn take_contradicted(&self) -> Vec<Ended> {
        let mut inner = self.lock();
        let taken = std::mem::take(&mut inner.contradicted);
        taken.into_iter().filter_map(|digest| Some(Ended { digest, at: *inner.ended.get(&digest)? })).collect()
    }

    /// Everything that is remembered, the oldest first.
    pub fn all(&self) -> Vec<Ended> {
        let inner = self.lock();
        let ended = |digest: &Digest| Some(Ended { digest: *digest, at: *inner.ended.get(digest)? });
        inner.order.iter().filter_map(ended).collect()
    }

    /// How often the store was contradicted since the start.
    pub fn contradictions(&self) -> u64 {
        self.lock().count
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Sticky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sticky({})", self.lock().order.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(number: u8) -> Ended {
        Ended { digest: Digest([number; 32]), at: Timestamp::from_millis(u64::from(number)) }
    }

    #[test]
    fn what_was_ended_contradicts_the_store_until_the_log_has_forgotten_it() {
        let sticky = Sticky::default();
        for number in 1..=4 {
            sticky.note_at_most(&[ended(number), ended(number)], 3);
        }
        assert!(!sticky.contradicts(&ended(1).digest));
        assert!(sticky.contradicts(&ended(2).digest) && sticky.contradicts(&ended(2).digest));
        assert_eq!(sticky.take_contradicted(), [ended(2)]);
        assert!(sticky.take_contradicted().is_empty());
        assert_eq!((sticky.contradictions(), sticky.all()), (2, [2, 3, 4].map(ended).to_vec()));
    }
}
