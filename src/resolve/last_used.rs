//! When a key was last used, without a write per request: noted in memory, flushed now and then. Never blocks a check.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tollgate_core::credential::KeyId;
use tollgate_guard::time::Timestamp;

/// Uses are told apart by the minute.
const RESOLUTION_SECS: u64 = 60;
const MARKS: usize = 1 << 18;
/// More uses than this in one flush interval are noted the next time.
const MAX_PENDING: usize = 100_000;

/// Uses that are not in the store yet.
pub struct LastUsed {
    /// By a hash of the id: the minute and part of the hash of the last key noted there.
    marks: Box<[AtomicU32]>,
    /// In the order in which they came, and perhaps several of one key: a list is appended to without looking anything up.
    pending: Mutex<Pending>,
    is_full: AtomicBool,
    /// What readers have looked up in `pending`: whoever notes a use does not wait for it.
    index: Mutex<Index>,
}

#[derive(Default)]
struct Pending {
    uses: Vec<(KeyId, Timestamp)>,
    /// How often something else than an addition happened to them.
    replaced: u64,
}

/// The last use of each key in the first `seen` of the uses that were there before they were `replaced` again.
#[derive(Default)]
struct Index {
    last: HashMap<KeyId, Timestamp>,
    seen: usize,
    replaced: u64,
}

impl std::fmt::Debug for LastUsed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LastUsed")
    }
}

impl Default for LastUsed {
    fn default() -> Self {
        let marks = (0..MARKS).map(|_| AtomicU32::new(0)).collect();
        Self { marks, pending: Mutex::default(), is_full: AtomicBool::new(false), index: Mutex::default() }
    }
}

impl LastUsed {
    /// Notes a use; cheap if the key was noted in this minute already.
    pub fn note(&self, id: KeyId, now: Timestamp) {
        if self.is_full.load(Ordering::Relaxed) {
            return;
        }
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
        if pending.uses.len() < MAX_PENDING {
            pending.uses.push((id, now));
            mark.store(stamped, Ordering::Relaxed);
        } else {
            self.is_full.store(true, Ordering::Relaxed);
        }
    }

    /// What has been noted and not yet taken, for the store. The later use of a key wins there.
    pub fn take(&self) -> Vec<(KeyId, Timestamp)> {
        let uses = self.lock().replace(Vec::new());
        self.is_full.store(false, Ordering::Relaxed);
        uses
    }

    /// Notes again what could not be stored.
    pub fn put_back(&self, mut uses: Vec<(KeyId, Timestamp)>) {
        // Put together while nobody has to wait for it.
        uses.append(&mut self.lock().replace(Vec::new()));
        // The newest are kept where there is no room for all.
        let surplus = uses.len().saturating_sub(MAX_PENDING);
        uses.drain(..surplus);
        let mut pending = self.lock();
        let mut meanwhile = pending.replace(uses);
        // What was noted meanwhile is little.
        pending.uses.append(&mut meanwhile);
    }

    /// The last use of each of these keys that is not in the store yet. Each use is looked at once, however many keys are asked
    /// for and however often.
    pub fn pending(&self, ids: &[KeyId]) -> Vec<Option<Timestamp>> {
        let mut index = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let unseen = self.unseen(&mut index);
        index.seen += unseen.len();
        for (id, at) in unseen {
            let last = index.last.entry(id).or_insert(at);
            *last = at.max(*last);
        }
        ids.iter().map(|id| index.last.get(id).copied()).collect()
    }

    /// The uses that an index lacks. They are taken into it while nobody has to wait for that.
    fn unseen(&self, index: &mut Index) -> Vec<(KeyId, Timestamp)> {
        let pending = self.lock();
        if index.replaced != pending.replaced {
            *index = Index { replaced: pending.replaced, ..Index::default() };
        }
        pending.uses.get(index.seen..).unwrap_or_default().to_vec()
    }

    fn lock(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pending {
    fn replace(&mut self, uses: Vec<(KeyId, Timestamp)>) -> Vec<(KeyId, Timestamp)> {
        self.replaced += 1;
        std::mem::replace(&mut self.uses, uses)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> KeyId {
        KeyId::parse(&format!("{number:012}")).unwrap()
    }

    fn at(seconds: u64) -> Timestamp {
        Timestamp::from_secs(1_795_000_020 + seconds)
    }

    #[test]
    fn a_use_is_noted_once_a_minute_and_the_last_one_is_told() {
        let uses = LastUsed::default();
        for second in 0..100 {
            uses.note(id(1), at(second));
        }
        uses.note(id(2), at(5));
        assert_eq!(uses.pending(&[id(1), id(2), id(3)]), [Some(at(60)), Some(at(5)), None]);
        assert_eq!(uses.take().len(), 3);
        assert_eq!(uses.pending(&[id(1)]), [None]);
    }

    #[test]
    fn a_page_of_keys_looks_at_each_use_once() {
        let uses = LastUsed::default();
        for number in 0..MAX_PENDING / 2 {
            uses.note(id(number), at(0));
        }
        let unseen = || uses.unseen(&mut uses.index.lock().unwrap()).len();
        let noted = unseen();
        assert!(noted > MAX_PENDING / 4, "{noted}");
        let page: Vec<KeyId> = (0..100).map(id).collect();
        assert!(uses.pending(&page).iter().flatten().count() > 50);
        assert_eq!(unseen(), 0, "the next page looks at none");
        uses.note(id(7), at(60));
        assert_eq!(unseen(), 1, "and at one once that is noted");
        assert_eq!(uses.pending(&[id(7)]), [Some(at(60))]);
        // An earlier one that could not be stored comes back, behind what was noted meanwhile.
        let taken = uses.take();
        uses.note(id(7), at(120));
        assert_eq!(uses.pending(&[id(7), id(8)]), [Some(at(120)), None]);
        uses.put_back(taken);
        assert_eq!(uses.pending(&[id(7)]), [Some(at(120))]);
        assert_eq!(unseen(), 0);
    }

    #[test]
    fn a_flood_of_keys_is_bounded_and_what_failed_is_kept() {
        let uses = LastUsed::default();
        for number in 0..MAX_PENDING + 10 {
            uses.note(id(number), at(0));
        }
        let taken = uses.take();
        assert!(taken.len() <= MAX_PENDING && taken.len() > MAX_PENDING / 2, "{}", taken.len());
        uses.note(id(1_000_000), at(1));
        let count = taken.len();
        uses.put_back(taken);
        assert_eq!(uses.pending(&[id(1_000_000)]), [Some(at(1))]);
        assert_eq!(uses.take().len(), (count + 1).min(MAX_PENDING));
        // There is room again.
        uses.note(id(1_000_001), at(2));
        assert_eq!(uses.pending(&[id(1_000_001)]), [Some(at(2))]);
    }
}
