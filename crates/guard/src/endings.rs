//! What was heard to be ended stays ended, even if a store that lost it says otherwise. Never forgets what the log still tells
//! of.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::iter;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::digest::Digest;
use crate::ending::Ending;
use crate::protocol::Position;

/// As many as the log of the store has entries, and some more: it is trimmed in blocks.
const KEPT: usize = 110_000;
/// How many entries of the log are told apart by their hashes; a look at the store should be that near to what was heard.
const RECENT: usize = 4_096;

/// What was ended, as far back as the log goes.
pub struct Endings<E>(Mutex<Inner<E>>);

struct Inner<E> {
    /// How many are kept.
    most: usize,
    known: HashMap<Digest, Known<E>>,
    /// In the order in which they were heard of. One that was heard of again since has a higher number.
    order: VecDeque<(u64, Digest)>,
    last_number: u64,
    /// The end of what was heard of the history that is followed now, one by one.
    recent: VecDeque<Position>,
    /// Where that history was joined, until it was found out what it has in common with the one before.
    joined: Option<Position>,
    /// What the store may have lost.
    suspects: HashSet<Digest>,
    /// What the store was found to have kept, as of a place that need not be in the history that is followed.
    kept: HashMap<Digest, Position>,
    /// How often the store was contradicted.
    contradictions: u64,
}

struct Known<E> {
    ended: E,
    entry: InLog,
    number: u64,
}

/// Where the log's entry of an ending is.
enum InLog {
    /// Nowhere yet in the history that is followed now: it was written here, or the store may have lost it.
    Nowhere,
    /// In the history before, which this one may have in common so far.
    Before(Position),
    Here(Position),
}

impl InLog {
    /// Whether this and an entry there, or one that was written here, may be the same.
    fn may_be_at(&self, position: Option<&Position>) -> bool {
        match (self, position) {
            (_, None) | (Self::Nowhere, _) => true,
            (Self::Before(_), Some(_)) => false,
            (Self::Here(known), Some(position)) => known == position,
        }
    }
}

/// What of the history before is to be found in the one that is followed now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreviousHistory {
    /// Where the one of now was joined.
    pub joined: Position,
    /// Places in the one before, the last one first and ever further apart. None lies behind the place of joining, as the two
    /// have nothing in common there.
    pub milestones: Vec<Position>,
}

impl<E> Default for Endings<E> {
    fn default() -> Self {
        Self::keeping(KEPT)
    }
}

impl<E> Endings<E> {
    /// Remembers the newest of them, so many at most.
    pub fn keeping(most: usize) -> Self {
        Self(Mutex::new(Inner {
            most,
            known: HashMap::new(),
            order: VecDeque::new(),
            last_number: 0,
            recent: VecDeque::new(),
            joined: None,
            suspects: HashSet::new(),
            kept: HashMap::new(),
            contradictions: 0,
        }))
    }

    /// How often the store was contradicted since the start.
    pub fn contradictions(&self) -> u64 {
        self.lock().contradictions
    }

    fn lock(&self) -> MutexGuard<'_, Inner<E>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: Ending> Endings<E> {
    /// Remembers what this entry of the log ended.
    pub fn hear(&self, position: &Position, ended: &[E]) {
        let mut inner = self.lock();
        inner.note_all(Some(position), ended);
        inner.pass(position);
    }

    /// Remembers what was ended here, whatever becomes of the log.
    pub fn write_down(&self, ended: &[E]) {
        self.lock().note_all(None, ended);
    }

    /// Follows another history from here on, of which nothing was heard yet.
    pub fn join(&self, position: &Position) {
        let inner = &mut *self.lock();
        inner.joined = Some(position.clone());
        inner.recent.clear();
        inner.pass(position);
        for (digest, known) in &mut inner.known {
            known.entry = match std::mem::replace(&mut known.entry, InLog::Nowhere) {
                InLog::Here(position) => InLog::Before(position),
                InLog::Before(_) | InLog::Nowhere => {
                    inner.suspects.insert(*digest);
                    InLog::Nowhere
                }
            };
        }
    }

    /// What is to be found out about the history before; `None`: nothing is.
    pub fn previous_history(&self) -> Option<PreviousHistory> {
        let inner = self.lock();
        let joined = inner.joined.clone()?;
        let before = |(number, digest): &(u64, Digest)| match inner.known.get(digest) {
            Some(Known { entry: InLog::Before(position), number: newest, .. })
                if newest == number && position.sequence <= joined.sequence =>
            {
                Some(position)
            }
            _ => None,
        };
        let before: Vec<&Position> = inner.order.iter().rev().filter_map(before).collect();
        let distances = iter::successors(Some(0_usize), |distance| distance.checked_mul(2)?.checked_add(1));
        let milestones = distances.map_while(|distance| before.get(distance)).map(|position| (*position).clone());
        Some(PreviousHistory { joined, milestones: milestones.collect() })
    }

    /// Takes what the history before had told up to `shared` for told by this one, too, and all else of it for lost, until it
    /// was looked at.
    pub fn settle(&self, former: &PreviousHistory, shared: Option<u64>) {
        let inner = &mut *self.lock();
        if inner.joined.as_ref() != Some(&former.joined) {
            return;
        }
        inner.joined = None;
        for (digest, known) in &mut inner.known {
            known.entry = match std::mem::replace(&mut known.entry, InLog::Nowhere) {
                InLog::Before(position) if shared.is_some_and(|shared| position.sequence <= shared) => {
                    InLog::Here(position)
                }
                InLog::Before(_) => {
                    inner.suspects.insert(*digest);
                    InLog::Nowhere
                }
                entry => entry,
            };
        }
    }

    /// Whether this was ended, though the store says that it stands. It is remembered, to be ended again.
    pub fn contradicts(&self, stored: &E::Stored<'_>) -> bool {
        if self.lock().known.is_empty() {
            return false;
        }
        let digest = E::digest_of(stored);
        let mut inner = self.lock();
        let is_lost = inner.known.get(&digest).is_some_and(|known| known.ended.is_lost_in(stored));
        if is_lost {
            inner.contradictions += 1;
            inner.suspects.insert(digest);
        }
        is_lost
    }

    /// Some of what is to be looked at because the store may have lost it. Each is given once; then it was ended again, or is said
    /// to be kept, or suspected once more.
    pub fn take_suspects(&self, most: usize) -> Vec<E> {
        let inner = &mut *self.lock();
        inner.confirm_kept();
        let some: Vec<Digest> = inner.suspects.iter().take(most).copied().collect();
        let ended = some.iter().filter_map(|digest| Some(inner.known.get(digest)?.ended.clone())).collect();
        for digest in &some {
            inner.suspects.remove(digest);
        }
        ended
    }

    /// Has this looked at once more.
    pub fn suspect(&self, ended: &E) {
        self.lock().suspects.insert(ended.digest());
    }

    /// Has everything looked at once more that was found at a place that was not heard of since.
    pub fn suspect_kept(&self) {
        let inner = &mut *self.lock();
        inner.confirm_kept();
        inner.suspects.extend(inner.kept.drain().map(|(digest, _)| digest));
    }

    /// The store had not lost this at this place of its log. It counts once the place was heard of: until then the store may go
    /// back behind it without anybody being told.
    pub fn found_kept(&self, ended: &E, position: Position) {
        let mut inner = self.lock();
        let digest = ended.digest();
        if inner.known.get(&digest).is_some_and(|known| known.ended == *ended && matches!(known.entry, InLog::Nowhere))
        {
            inner.kept.insert(digest, position);
        }
    }

    /// Has looked at what was written here, if the log has not told of it: it may have gone over to another history meanwhile.
    pub fn suspect_unheard(&self, ended: &[E]) {
        let mut inner = self.lock();
        for digest in ended.iter().map(Ending::digest) {
            if inner.known.get(&digest).is_some_and(|known| matches!(known.entry, InLog::Nowhere)) {
                inner.suspects.insert(digest);
            }
        }
    }

    /// The newest of what was ended behind this number of the history that is followed, or was written here alone.
    pub fn ended_behind(&self, sequence: u64, most: usize) -> Vec<E> {
        let inner = self.lock();
        let is_behind = |entry: &InLog| match entry {
            InLog::Here(position) => position.sequence > sequence,
            InLog::Nowhere => true,
            InLog::Before(_) => false,
        };
        let ended = |(number, digest): &(u64, Digest)| {
            let known = inner.known.get(digest).filter(|known| known.number == *number && is_behind(&known.entry))?;
            Some(known.ended.clone())
        };
        inner.order.iter().rev().filter_map(ended).take(most).collect()
    }
}

impl<E: Ending> Inner<E> {
    fn note_all(&mut self, position: Option<&Position>, ended: &[E]) {
        for one in ended {
            self.note(position, one);
        }
        while self.order.len() > self.most {
            self.forget_oldest();
        }
    }

    fn note(&mut self, position: Option<&Position>, ended: &E) {
        let digest = ended.digest();
        let entry = || position.map_or(InLog::Nowhere, |position| InLog::Here(position.clone()));
        match self.known.get_mut(&digest) {
            // Told of once more at another place, it is as new as that; but not for having been written here.
            Some(known) if known.ended == *ended && known.entry.may_be_at(position) => {
                if position.is_some() {
                    known.entry = entry();
                }
            }
            // This history has not come to what is known, or went on without it, and then that is a suspect.
            Some(known) if known.ended != *ended && !ended.is_newer_than(&known.ended) => {}
            _ => {
                self.last_number += 1;
                let number = self.last_number;
                self.kept.remove(&digest);
                self.known.insert(digest, Known { ended: ended.clone(), entry: entry(), number });
                self.order.push_back((number, digest));
            }
        }
    }

    fn pass(&mut self, position: &Position) {
        self.recent.push_back(position.clone());
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
    }

    /// What was found at a place that was heard of since is as good as heard of there.
    fn confirm_kept(&mut self) {
        let (recent, known) = (&self.recent, &mut self.known);
        self.kept.retain(|digest, position| match known.get_mut(digest) {
            Some(Known { entry: entry @ InLog::Nowhere, .. }) => {
                let found = recent.binary_search_by_key(&position.sequence, |recent| recent.sequence);
                let is_heard = found.is_ok_and(|at| recent.get(at) == Some(position));
                if is_heard {
                    *entry = InLog::Here(position.clone());
                }
                !is_heard
            }
            _ => false,
        });
    }

    /// A suspect, too: nobody can have heard of it who has not heard of a whole log since.
    fn forget_oldest(&mut self) {
        let Some((number, digest)) = self.order.pop_front() else { return };
        if self.known.get(&digest).is_some_and(|known| known.number == number) {
            self.known.remove(&digest);
            self.suspects.remove(&digest);
        }
    }
}

impl<E> fmt::Debug for Endings<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Endings({})", self.lock().known.len())
    }
}
