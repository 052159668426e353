//! When a key was last used, without a write per request: noted in memory, flushed now and then. Never blocks a check.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::domain::credential::KeyId;
use crate::domain::time::Timestamp;

/// Uses are told apart by the minute.
const RESOLUTION_SECS: u64 = 60;
const MARKS: usize = 1 << 18;
/// More keys than this in one flush interval are noted at their next use.
const MAX_PENDING: usize = 100_000;

/// Uses that are not in the store yet.
pub struct LastUsed {
    /// By a hash of the id: the minute and part of the hash of the last key noted there.
    marks: Box<[AtomicU32]>,
    pending: Mutex<HashMap<KeyId, Timestamp>>,
}

impl std::fmt::Debug for LastUsed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LastUsed")
    }
}

impl Default for LastUsed {
    fn default() -> Self {
        Self { marks: (0..MARKS).map(|_| AtomicU32::new(0)).collect(), pending: Mutex::default() }
    }
}

impl LastUsed {
    /// Notes a use; cheap if the key was noted in this minute already.
    pub fn note(&self, id: KeyId, now: Timestamp) {
        let hash = crc32fast::hash(id.as_str().as_bytes());
        let mark = &self.marks[hash as usize % MARKS];
        let minute = now.as_secs() / RESOLUTION_SECS;
        // The low half of the minute, and the half of the hash that did not choose the mark.
        let stamped = (minute as u32) << 16 | hash >> 16;
        if mark.load(Ordering::Relaxed) == stamped {
            return;
        }
        // While another thread is at it this use goes unnoted: a check does not wait, and a key in use is used again.
        let Ok(mut pending) = self.pending.try_lock() else { return };
        if pending.len() < MAX_PENDING || pending.contains_key(&id) {
            pending.insert(id, now);
            mark.store(stamped, Ordering::Relaxed);
        }
    }

    /// What has been noted and not yet taken, for the store.
    pub fn take(&self) -> Vec<(KeyId, Timestamp)> {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *pending).into_iter().collect()
    }

    /// Notes again what could not be stored.
    pub fn put_back(&self, uses: Vec<(KeyId, Timestamp)>) {
        let mut pending = self.pending.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, at) in uses {
            if pending.len() >= MAX_PENDING && !pending.contains_key(&id) {
                continue;
            }
            let latest = pending.entry(id).or_insert(at);
            *latest = at.max(*latest);
        }
    }

    /// The last use that is not in the store yet.
    pub fn pending(&self, id: KeyId) -> Option<Timestamp> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).get(&id).copied()
    }
}
