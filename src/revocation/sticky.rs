//! What was heard to be ended stays ended, even if a store that lost it says otherwise. Never forgets what the log still tells
//! of.

use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::iter;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::change::{Ended, Position, Said};
use crate::domain::credential::Digest;
use crate::domain::record::ProjectState;

/// As many as the log of the store has entries, and some more: it is trimmed in blocks.
const KEPT: usize = 110_000;
/// How many entries of the log are told apart by their hashes; a look at the store should be that near to what was heard.
const RECENT: usize = 4_096;

/// What was ended, as far back as the log goes.
#[derive(Default)]
pub struct Sticky(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    noted: HashMap<Digest, Noted>,
    /// In the order in which they were heard of. One that was heard of again since has another turn.
    order: VecDeque<(u64, Digest)>,
    turns: u64,
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

struct Noted {
    ended: Ended,
    told: Told,
    turn: u64,
}

/// Where a log has told of something.
enum Told {
    /// Nowhere yet in the history that is followed now: it was written here, or the store may have lost it.
    Nowhere,
    /// In the history before, which this one may have in common so far.
    Before(Position),
    Here(Position),
}

impl Told {
    /// Whether this and what is told there now, or was written here, may be one telling.
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
pub struct Former {
    /// Where the one of now was joined.
    pub joined: Position,
    /// Places in the one before, the last one first and ever further apart. None lies behind the place of joining, as the two
    /// have nothing in common there.
    pub milestones: Vec<Position>,
}

impl Sticky {
    /// Remembers what this entry of the log ended.
    pub fn hear(&self, position: &Position, ended: &[Ended]) {
        self.note(Some(position), ended, KEPT);
        self.lock().pass(position);
    }

    /// Remembers what was ended here, whatever becomes of the log.
    pub fn write_down(&self, ended: &[Ended]) {
        self.note(None, ended, KEPT);
    }

    fn note(&self, position: Option<&Position>, ended: &[Ended], most: usize) {
        let mut inner = self.lock();
        for one in ended {
            inner.note(position, one);
        }
        while inner.order.len() > most {
            inner.forget_oldest();
        }
    }

    /// Follows another history from here on, of which nothing was heard yet.
    pub fn join(&self, position: &Position) {
        let inner = &mut *self.lock();
        inner.joined = Some(position.clone());
        inner.recent.clear();
        inner.pass(position);
        for (digest, noted) in &mut inner.noted {
            noted.told = match std::mem::replace(&mut noted.told, Told::Nowhere) {
                Told::Here(position) => Told::Before(position),
                Told::Before(_) | Told::Nowhere => {
                    inner.suspects.insert(*digest);
                    Told::Nowhere
                }
            };
        }
    }

    /// What is to be found out about the history before; `None`: nothing is.
    pub fn former(&self) -> Option<Former> {
        let inner = self.lock();
        let joined = inner.joined.clone()?;
        let before = |(turn, digest): &(u64, Digest)| match inner.noted.get(digest) {
            Some(Noted { told: Told::Before(position), turn: newest, .. })
                if newest == turn && position.sequence <= joined.sequence =>
            {
                Some(position)
            }
            _ => None,
        };
        let before: Vec<&Position> = inner.order.iter().rev().filter_map(before).collect();
        let distances = iter::successors(Some(0_usize), |distance| distance.checked_mul(2)?.checked_add(1));
        let milestones = distances.map_while(|distance| before.get(distance)).map(|position| (*position).clone());
        Some(Former { joined, milestones: milestones.collect() })
    }

    /// Takes what the history before had told up to `known` for told by this one, too, and all else of it for lost, until it
    /// was looked at.
    pub fn settle(&self, former: &Former, known: Option<u64>) {
        let inner = &mut *self.lock();
        if inner.joined.as_ref() != Some(&former.joined) {
            return;
        }
        inner.joined = None;
        for (digest, noted) in &mut inner.noted {
            noted.told = match std::mem::replace(&mut noted.told, Told::Nowhere) {
                Told::Before(position) if known.is_some_and(|known| position.sequence <= known) => Told::Here(position),
                Told::Before(_) => {
                    inner.suspects.insert(*digest);
                    Told::Nowhere
                }
                told => told,
            };
        }
    }

    /// Whether this was ended, though the store says that it stands. It is remembered, to be ended again.
    pub fn contradicts(&self, said: &Said<'_>) -> bool {
        if self.lock().noted.is_empty() {
            return false;
        }
        let digest = said.digest();
        let mut inner = self.lock();
        let is_lost = inner.noted.get(&digest).is_some_and(|noted| noted.ended.is_lost_in(said));
        if is_lost {
            inner.contradictions += 1;
            inner.suspects.insert(digest);
        }
        is_lost
    }

    /// Some of what is to be looked at because the store may have lost it. Each is given once; then it was ended again, or is said
    /// to be kept, or suspected once more.
    pub fn take_suspects(&self, most: usize) -> Vec<Ended> {
        let inner = &mut *self.lock();
        inner.confirm_kept();
        let some: Vec<Digest> = inner.suspects.iter().take(most).copied().collect();
        let noted = some.iter().filter_map(|digest| Some(inner.noted.get(digest)?.ended.clone())).collect();
        for digest in &some {
            inner.suspects.remove(digest);
        }
        noted
    }

    /// Has this looked at once more.
    pub fn suspect(&self, ended: &Ended) {
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
    pub fn found_kept(&self, ended: &Ended, position: Position) {
        let mut inner = self.lock();
        let digest = ended.digest();
        if inner.noted.get(&digest).is_some_and(|noted| noted.ended == *ended && matches!(noted.told, Told::Nowhere)) {
            inner.kept.insert(digest, position);
        }
    }

    /// Has looked at what was written here, if the log has not told of it: it may have gone over to another history meanwhile.
    pub fn suspect_unheard(&self, ended: &[Ended]) {
        let mut inner = self.lock();
        for digest in ended.iter().map(Ended::digest) {
            if inner.noted.get(&digest).is_some_and(|noted| matches!(noted.told, Told::Nowhere)) {
                inner.suspects.insert(digest);
            }
        }
    }

    /// The newest of what was ended behind this number of the history that is followed, or was written here alone.
    pub fn ended_behind(&self, sequence: u64, most: usize) -> Vec<Ended> {
        let inner = self.lock();
        let is_behind = |told: &Told| match told {
            Told::Here(position) => position.sequence > sequence,
            Told::Nowhere => true,
            Told::Before(_) => false,
        };
        let ended = |(turn, digest): &(u64, Digest)| {
            let noted = inner.noted.get(digest).filter(|noted| noted.turn == *turn && is_behind(&noted.told))?;
            Some(noted.ended.clone())
        };
        inner.order.iter().rev().filter_map(ended).take(most).collect()
    }

    /// How often the store was contradicted since the start.
    pub fn contradictions(&self) -> u64 {
        self.lock().contradictions
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn note(&mut self, position: Option<&Position>, ended: &Ended) {
        let digest = ended.digest();
        let told = || position.map_or(Told::Nowhere, |position| Told::Here(position.clone()));
        match self.noted.get_mut(&digest) {
            // Told of once more at another place, it is as new as that; but not for having been written here.
            Some(known) if known.ended == *ended && known.told.may_be_at(position) => {
                if position.is_some() {
                    known.told = told();
                }
            }
            // This history has not come to what is known, or went on without it, and then that is a suspect.
            Some(known) if known.ended != *ended && !is_newer(ended, &known.ended) => {}
            _ => {
                self.turns += 1;
                self.kept.remove(&digest);
                self.noted.insert(digest, Noted { ended: ended.clone(), told: told(), turn: self.turns });
                self.order.push_back((self.turns, digest));
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
        let (recent, noted) = (&self.recent, &mut self.noted);
        self.kept.retain(|digest, position| match noted.get_mut(digest) {
            Some(Noted { told: told @ Told::Nowhere, .. }) => {
                let found = recent.binary_search_by_key(&position.sequence, |recent| recent.sequence);
                let is_heard = found.is_ok_and(|at| recent.get(at) == Some(position));
                if is_heard {
                    *told = Told::Here(position.clone());
                }
                !is_heard
            }
            _ => false,
        });
    }

    /// A suspect, too: nobody can have heard of it who has not heard of a whole log since.
    fn forget_oldest(&mut self) {
        let Some((turn, digest)) = self.order.pop_front() else { return };
        if self.noted.get(&digest).is_some_and(|noted| noted.turn == turn) {
            self.noted.remove(&digest);
            self.suspects.remove(&digest);
        }
    }
}

/// Whether what is told of a thing takes the place of what is known of it. Who wrote something may hear of what was there before
/// only then.
fn is_newer(ended: &Ended, known: &Ended) -> bool {
    match (ended, known) {
        (Ended::User { sessions, .. }, Ended::User { sessions: before, .. }) => sessions > before,
        (
            Ended::Project { state, changed_at, version, .. },
            Ended::Project { state: known, changed_at: since, version: before, .. },
        ) => match known {
            ProjectState::Deleted => *state == ProjectState::Deleted,
            _ => version > before || changed_at > since,
        },
        _ => true,
    }
}

impl fmt::Debug for Sticky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sticky({})", self.lock().noted.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::time::Timestamp;

    fn key(number: u8) -> Ended {
        Ended::Key { digest: Digest([number; 32]), at: Timestamp::from_millis(u64::from(number)) }
    }

    #[test]
    fn what_a_store_that_went_back_may_have_lost() {
        let sticky = Sticky::default();
        for number in 1..=4 {
            sticky.hear(&at(number.into()), &[key(number)]);
        }
        sticky.write_down(&[key(9)]);
        assert_eq!(sticky.ended_behind(2, 10), [key(9), key(4), key(3)]);
        assert_eq!(sticky.ended_behind(2, 2), [key(9), key(4)]);
    }

    fn stands(number: u8, sticky: &Sticky) -> bool {
        sticky.contradicts(&Said::Key { digest: &Digest([number; 32]), revoked: false })
    }

    fn user(sessions: u64, disabled: bool) -> Ended {
        let created_at = Timestamp::from_millis(1);
        Ended::User { name: "alice".to_owned(), created_at, sessions, disabled, deleted: false }
    }

    fn project(state: ProjectState, version: u64, changed_at: u64) -> Ended {
        let changed_at = Timestamp::from_millis(changed_at);
        Ended::Project { name: "acme".to_owned(), state, changed_at, version }
    }

    fn at(sequence: u64) -> Position {
        Position { sequence, chain: sequence.to_string() }
    }

    fn suspects(sticky: &Sticky) -> Vec<Ended> {
        let mut suspects = sticky.take_suspects(usize::MAX);
        suspects.sort_by_key(|one| one.digest().0);
        suspects
    }

    fn numbers(milestones: &[Position]) -> Vec<u64> {
        milestones.iter().map(|place| place.sequence).collect()
    }

    #[test]
    fn what_was_ended_contradicts_the_store_until_the_log_has_forgotten_it() {
        let sticky = Sticky::default();
        for number in 1..=4 {
            sticky.note(None, &[key(number)], 3);
            sticky.note(Some(&at(number.into())), &[key(number)], 3);
            sticky.note(None, &[key(number)], 3);
        }
        assert!(!stands(1, &sticky));
        assert!(stands(2, &sticky) && stands(2, &sticky));
        assert!(!sticky.contradicts(&Said::Key { digest: &Digest([3; 32]), revoked: true }));
        assert_eq!(suspects(&sticky), [key(2)]);
        assert!(suspects(&sticky).is_empty());
        assert_eq!(sticky.contradictions(), 2);
        // Told of once more, it is as new as that.
        for sequence in 5..=6 {
            sticky.note(Some(&at(sequence)), &[key(2)], 3);
        }
        assert!(stands(2, &sticky) && stands(4, &sticky) && !stands(3, &sticky));
    }

    #[test]
    fn only_what_another_history_may_have_lost_is_suspected() {
        let sticky = Sticky::default();
        for number in 1..=100 {
            sticky.hear(&at(number.into()), &[key(number)]);
        }
        sticky.write_down(&[key(101)]);
        assert_eq!(sticky.former(), None, "there was no other one");
        sticky.join(&at(99));
        assert_eq!(suspects(&sticky), [key(101)]);
        // What this one tells meanwhile says nothing about the one before, whatever its numbers are.
        sticky.hear(&at(100), &[key(102)]);
        // Nor does the one before say anything of what lies behind the place of joining.
        let former = sticky.former().unwrap();
        assert_eq!((former.joined.sequence, numbers(&former.milestones)), (99, vec![99, 98, 96, 92, 84, 68, 36]));
        sticky.settle(&former, Some(96));
        assert_eq!(suspects(&sticky), [97, 98, 99, 100].map(key));
        assert_eq!(sticky.former(), None);
        // A look that failed is made again, and a suspect is one of every history until it was told of.
        sticky.suspect(&key(7));
        assert_eq!(suspects(&sticky), [key(7)]);
        sticky.join(&at(200));
        assert_eq!(suspects(&sticky), [97, 98, 99, 100, 101].map(key));
        // What was found out about a history that is not followed any more is worth nothing.
        let former = sticky.former().unwrap();
        sticky.join(&at(300));
        assert_eq!(suspects(&sticky).len(), 102);
        sticky.settle(&former, Some(300));
        assert!(suspects(&sticky).is_empty());
        let former = sticky.former().unwrap();
        assert_eq!(former.milestones, []);
        sticky.settle(&former, None);
        assert_eq!(sticky.former(), None);
    }

    #[test]
    fn what_was_written_here_is_suspected_until_it_was_heard_of() {
        let sticky = Sticky::default();
        sticky.write_down(&[key(1), key(2)]);
        sticky.hear(&at(1), &[key(1)]);
        sticky.suspect_unheard(&[key(1), key(2), key(3)]);
        assert_eq!(suspects(&sticky), [key(2)]);
    }

    #[test]
    fn the_newest_that_was_said_counts() {
        let (suspended, active, deleted) = (ProjectState::Suspended, ProjectState::Active, ProjectState::Deleted);
        for (one, other, newest) in [
            (user(2, true), user(3, false), user(3, false)),
            // Another history has begun without what was known.
            (user(3, true), user(2, false), user(3, true)),
            (user(3, true), user(3, false), user(3, true)),
            (project(suspended, 5, 10), project(active, 2, 20), project(active, 2, 20)),
            (project(suspended, 5, 10), project(active, 6, 9), project(active, 6, 9)),
            (project(suspended, 5, 10), project(active, 4, 9), project(suspended, 5, 10)),
            (project(deleted, 5, 10), project(active, 9, 20), project(deleted, 5, 10)),
            (project(deleted, 5, 10), project(deleted, 2, 20), project(deleted, 2, 20)),
        ] {
            // Who wrote something may hear of what came before or after it, and note it then.
            for places in [[Some(at(1)), Some(at(2))], [None, Some(at(2))], [Some(at(1)), None]] {
                let sticky = Sticky::default();
                for (told, place) in [&one, &other].into_iter().zip(&places) {
                    sticky.note(place.as_ref(), std::slice::from_ref(told), KEPT);
                }
                assert_eq!(sticky.lock().noted[&newest.digest()].ended, newest, "{one:?}, {other:?}");
            }
        }
    }

    #[test]
    fn what_was_kept_counts_once_its_place_was_heard_of() {
        let sticky = Sticky::default();
        let all = [1, 2, 3].map(key);
        sticky.write_down(&all);
        sticky.suspect_unheard(&all);
        assert_eq!((sticky.take_suspects(2).len(), sticky.take_suspects(2).len()), (2, 1));
        let places = [at(1), at(2), Position { sequence: 1, chain: "of another history".to_owned() }];
        for (one, place) in all.iter().zip(places) {
            sticky.found_kept(one, place);
        }
        sticky.hear(&at(1), &[]);
        sticky.suspect_kept();
        assert_eq!(suspects(&sticky), [2, 3].map(key));
        sticky.join(&at(9));
        suspects(&sticky);
        sticky.found_kept(&key(2), at(1));
        sticky.suspect_kept();
        assert_eq!(suspects(&sticky), [key(2)], "another history has nothing there");
        sticky.hear(&at(10), &[]);
        // What became of something since was not found by a look before.
        sticky.write_down(&[user(1, false)]);
        sticky.found_kept(&user(1, false), at(10));
        sticky.write_down(&[user(2, true)]);
        sticky.suspect_kept();
        sticky.suspect_unheard(&[user(2, true)]);
        assert_eq!(suspects(&sticky), [user(2, true)]);
    }
}
