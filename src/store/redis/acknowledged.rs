//! What the store has acknowledged to this process, which history this process has joined, and whether the store broke its word.
//! Never takes what one history has acknowledged for a promise of the next one, and never what one holds for the truth of another.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwapOption;
use tollgate_guard::protocol::{Head, Position};

use crate::store::StoreError;

/// How many changes are kept for people.
const TOLD: usize = 1_000;

#[derive(Default)]
pub(super) struct Acknowledged {
    newest: Mutex<Newest>,
    /// The lineage whose log this process follows.
    joined: ArcSwapOption<String>,
    /// Why nothing is asked of the store.
    refused: ArcSwapOption<String>,
}

#[derive(Default)]
struct Newest {
    /// Counts the histories that this process went over to.
    histories: u64,
    /// The newest change.
    change: Option<Head>,
    /// What the last ones did, for people, each with its number.
    told: VecDeque<(u64, String)>,
}

impl Acknowledged {
    /// Taken before a change is made.
    pub(super) fn histories(&self) -> u64 {
        self.lock().histories
    }

    /// Notes a change that was made when there were so many histories.
    pub(super) fn note(&self, histories: u64, made: Head) {
        let mut newest = self.lock();
        if newest.histories != histories {
            return;
        }
        let is_older = |known: &Head| known.lineage == made.lineage && known.position.sequence > made.position.sequence;
        if !newest.change.as_ref().is_some_and(is_older) {
            newest.change = Some(made);
        }
    }

    /// Keeps for people what a change did that was made when there were so many histories.
    pub(super) fn tell(&self, histories: u64, sequence: u64, what: String) {
        let mut newest = self.lock();
        if newest.histories == histories {
            newest.told.push_back((sequence, what));
            let over = newest.told.len().saturating_sub(TOLD);
            newest.told.drain(..over);
        }
    }

    /// What the last changes behind this number did, the last one first.
    pub(super) fn told_behind(&self, sequence: u64, most: usize) -> Vec<String> {
        let newest = self.lock();
        let behind = newest.told.iter().rev().filter(|(number, _)| *number > sequence);
        behind.take(most).map(|(number, what)| format!("change {number}: {what}")).collect()
    }

    /// The place of the newest change of this lineage.
    pub(super) fn newest(&self, lineage: &str) -> Option<Position> {
        self.lock().change.as_ref().filter(|known| known.lineage == lineage).map(|known| known.position.clone())
    }

    /// This history is followed from now on, in which it may be missing.
    pub(super) fn join(&self, lineage: &str) {
        self.joined.store(Some(Arc::new(lineage.to_owned())));
        let mut newest = self.lock();
        newest.histories += 1;
        newest.change = None;
        newest.told.clear();
    }

    /// The history that is followed; `None` by whoever follows none, and is not waited for.
    pub(super) fn joined(&self) -> Option<Arc<String>> {
        self.joined.load_full()
    }

    pub(super) fn refuse(&self, reason: Option<String>) {
        self.refused.store(reason.map(Arc::new));
    }

    /// # Errors
    /// [`StoreError::Unavailable`] while the store is not to be believed.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match &*self.refused.load() {
            Some(reason) => Err(StoreError::Unavailable(reason.to_string())),
            None => Ok(()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Newest> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_history_has_acknowledged_is_no_promise_of_another() {
        let acknowledged = Acknowledged::default();
        let before = acknowledged.histories();
        let at = |sequence: u64| Position { sequence, chain: format!("h{sequence}") };
        let made = |sequence| Head { lineage: "one".to_owned(), position: at(sequence) };
        acknowledged.note(before, made(7));
        acknowledged.note(before, made(5));
        assert_eq!((acknowledged.newest("one"), acknowledged.newest("two")), (Some(at(7)), None));
        acknowledged.join("one");
        acknowledged.note(before, made(8));
        assert_eq!(acknowledged.newest("one"), None, "it was made before");
        acknowledged.note(acknowledged.histories(), made(6));
        assert_eq!(acknowledged.newest("one"), Some(at(6)));
    }

    #[test]
    fn the_last_changes_are_told_with_their_numbers() {
        let acknowledged = Acknowledged::default();
        for sequence in 1..=1_500 {
            acknowledged.tell(0, sequence, format!("key.create {sequence}"));
        }
        assert_eq!(
            acknowledged.told_behind(1_498, 10),
            ["change 1500: key.create 1500", "change 1499: key.create 1499"]
        );
        assert_eq!((acknowledged.told_behind(0, 3).len(), acknowledged.told_behind(0, 9_999).len()), (3, TOLD));
        acknowledged.join("two");
        acknowledged.tell(0, 1_501, "too late".to_owned());
        assert_eq!(acknowledged.told_behind(0, 10), Vec::<String>::new());
    }
}
