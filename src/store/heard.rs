//! What a replica has heard from the log of changes: what was written of late, and the last entry of each process. So a record that
//! somebody puts back at an older version is refused where the newer one was heard of. Never takes what one history says for another
//! one's, and never remembers more than so much.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tollgate_guard::protocol::Position;

use super::StoreError;
use super::chain::{Follower, Linked};
use super::kind::Kind;
use super::records::written::{Left, Place};
use super::signature::{Mac, Sealed, Verifier};

/// How many places are remembered at least.
const MOST: usize = 50_000;
/// How many of the last entries are known by their hashes.
const RECENT: usize = 1_024;
/// How many processes are remembered.
const MOST_PROCESSES: usize = 10_000;
/// So many entries that are not believed are named in the log of the process.
const LOGGED: u64 = 100;

/// What the change of this number has left in a place.
type Newest = (u64, Left);

/// What is to be made of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Belief {
    /// It is ours, and so was the one before it.
    Whole,
    /// It is ours, and what its process wrote before it is missing.
    AfterAGap,
    /// Something else has written it, or it cannot be known.
    Nothing,
}

#[derive(Debug, Default)]
pub(super) struct Heard {
    history: Mutex<History>,
    /// How many entries were not believed.
    distrusted: AtomicU64,
}

#[derive(Debug)]
struct History {
    lineage: String,
    /// The last entries and what each was signed with, the newest at the end.
    recent: VecDeque<(Position, Option<Mac>)>,
    processes: Follower,
    young: HashMap<Place, Newest>,
    old: HashMap<Place, Newest>,
    /// The last entry of which nobody knows what it wrote; zero: none is.
    doubted_at: u64,
    /// What was made of the entries that were not believed.
    doubted: HashMap<u64, Belief>,
}

impl Default for History {
    fn default() -> Self {
        let (lineage, recent, young, old, doubted_at, doubted) = Default::default();
        Self { lineage, recent, processes: Follower::from_anywhere(), young, old, doubted_at, doubted }
    }
}

impl History {
    fn newest(&self) -> Option<&Position> {
        self.recent.back().map(|(position, _)| position)
    }

    /// Whether an entry at this place may be one of this history.
    fn has_room_for(&self, position: &Position) -> bool {
        match self.newest() {
            Some(newest) if position.sequence > newest.sequence => position.sequence == newest.sequence + 1,
            // A standby that was promoted may use the numbers of lost changes again.
            Some(_) => self.recent.iter().any(|(known, _)| known == position),
            None => true,
        }
    }

    /// What an entry says behind a gap: it may be one that was written long before.
    fn note_doubtful(&mut self, place: Place, sequence: u64, left: Left) {
        let known = self.young.get(&place).or_else(|| self.old.get(&place)).map(|(_, known)| *known);
        let is_newer = match (known, left) {
            (Some(Left::Record { version: Some(known), .. }), Left::Record { version: Some(new), .. }) => known < new,
            (known, _) => known.is_none(),
        };
        if is_newer {
            self.note(place, (sequence, left));
        }
    }

    fn note(&mut self, place: Place, newest: Newest) {
        if self.young.len() >= MOST {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(place, newest);
    }

    /// Whether this is the very entry that was told of there before.
    fn has(&self, position: &Position, bytes: &[u8]) -> bool {
        self.recent.iter().any(|(known, mac)| known == position && mac.is_some() && *mac == Mac::of(bytes))
    }

    /// What was written while nobody could say what it was. Gives whether it was not doubted before.
    fn doubt(&mut self, sequence: u64, belief: Belief) -> bool {
        self.doubted_at = self.doubted_at.max(sequence);
        if self.doubted.len() >= MOST {
            self.doubted.clear();
        }
        self.doubted.insert(sequence, belief).is_none()
    }
}

impl Heard {
    /// Hears an entry of this lineage.
    pub(super) fn hear(&self, verifier: &Verifier, (lineage, position): (&str, &Position), bytes: &[u8]) -> Belief {
        let mut history = self.lock();
        if history.lineage != lineage || !history.has_room_for(position) {
            *history = History { lineage: lineage.to_owned(), ..History::default() };
        }
        let sequence = position.sequence;
        // One may be told of again, as where an answer was lost.
        let is_new = history.newest().is_none_or(|newest| newest.sequence < sequence);
        if is_new {
            history.recent.push_back((position.clone(), Mac::of(bytes)));
            let over = history.recent.len().saturating_sub(RECENT);
            history.recent.drain(..over);
        }
        let (belief, problem) = match Linked::read(verifier, Sealed::Entry, bytes) {
            Ok(_) if !is_new && history.has(position, bytes) => {
                return history.doubted.get(&sequence).copied().unwrap_or(Belief::Whole);
            }
            Ok(_) if !is_new => (Belief::Nothing, "is another one than was told of there before".to_owned()),
            Ok(linked) => {
                if history.processes.len() >= MOST_PROCESSES {
                    history.processes = Follower::from_anywhere();
                }
                if history.processes.has_passed(&linked) {
                    (Belief::Nothing, "is one that was there before: somebody has put it there once more".to_owned())
                } else {
                    let follows = history.processes.follow(&linked);
                    for (place, left) in linked.written.iter().flatten().cloned() {
                        match follows {
                            true => history.note(place, (sequence, left)),
                            false => history.note_doubtful(place, sequence, left),
                        }
                    }
                    if follows {
                        if linked.written.is_none() {
                            history.doubted_at = sequence;
                        }
                        return Belief::Whole;
                    }
                    (Belief::AfterAGap, "follows on one that is not there: entries before it were removed".to_owned())
                }
            }
            Err(StoreError::Damaged(problem)) => (Belief::Nothing, problem),
            // This process was not given the pepper yet, and so has answered nothing.
            Err(_) => {
                *history = History::default();
                return Belief::Nothing;
            }
        };
        if history.doubt(sequence, belief) && self.distrusted.fetch_add(1, Ordering::Relaxed) < LOGGED {
            tracing::error!(
                sequence,
                "an entry of the store's log {problem}. Everything is looked up anew: find out who can write the store, and run \
                 `tollgate store check`"
            );
        }
        belief
    }

    /// The store has gone over to another history, in which what was heard may be missing.
    pub(super) fn forget(&self) {
        *self.lock() = History::default();
    }

    /// The change that has left something newer in this place than a record of this version and with this signature, which was read when
    /// `sequence` was the number of the newest change, and `chain`, if it is known, its hash. Says nothing where what was heard cannot tell.
    pub(super) fn contradicts(
        &self,
        (kind, place): (Kind, &[u8]),
        (version, mac): (Option<u64>, Mac),
        (sequence, chain): (u64, Option<&str>),
    ) -> Option<u64> {
        let history = self.lock();
        let newest = history.newest()?;
        let place = (kind, place.to_vec());
        let (change, left) = *history.young.get(&place).or_else(|| history.old.get(&place))?;
        // Another history has other hashes, and may have the same numbers.
        if sequence == newest.sequence && chain.is_some_and(|chain| chain != newest.chain) {
            return None;
        }
        let is_as_heard = sequence == newest.sequence && chain.is_some() && change > history.doubted_at;
        let is_another = match left {
            Left::Record { version: Some(newer), .. } if kind.only_rises() && sequence >= newest.sequence => {
                version.is_some_and(|version| version < newer) || (is_as_heard && is_not(left, mac))
            }
            _ => is_as_heard && is_not(left, mac),
        };
        is_another.then_some(change)
    }

    pub(super) fn distrusted(&self) -> u64 {
        self.distrusted.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_not(left: Left, mac: Mac) -> bool {
    match left {
        Left::Record { mac: known, .. } => known != mac,
        Left::Nothing => true,
        Left::Unsaid => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::change::Event;
    use crate::store::chain::Chains;
    use crate::store::format::Format;
    use crate::store::records::written::Written;
    use crate::store::signature::{Signers, Trust};

    fn position(sequence: u64, chain: &str) -> Position {
        Position { sequence, chain: chain.to_owned() }
    }

    fn mac(byte: u8) -> Mac {
        Mac::try_from(vec![byte; 32]).unwrap()
    }

    struct House {
        verifier: Verifier,
        chains: Chains,
        heard: Heard,
    }

    impl House {
        fn new() -> Self {
            let trust = Trust::default();
            trust.set_signers(Signers::random().unwrap());
            trust.demand();
            Self { verifier: trust.verifier(), chains: Chains::begin().unwrap(), heard: Heard::default() }
        }

        /// The entry of a change that has put this version under the name of a key.
        fn entry(&mut self, version: u64) -> Vec<u8> {
            let mut written = Written::default();
            let mac = mac(u8::try_from(version).unwrap());
            written.note(Kind::Keys, b"k", Left::Record { version: Some(version), mac });
            let event = Event::touching(&[]);
            self.chains.tell(&self.verifier, Format::NEWEST, (&event, Some(&written)), &[]).unwrap().event
        }

        fn hear(&self, sequence: u64, chain: &str, entry: &[u8]) -> Belief {
            self.heard.hear(&self.verifier, ("l", &position(sequence, chain)), entry)
        }

        /// Whether a record of this version is refused, read by this change.
        fn refuses(&self, version: u64, sequence: u64, chain: &str) -> bool {
            let now = (Some(version), mac(u8::try_from(version).unwrap()));
            self.heard.contradicts((Kind::Keys, b"k"), now, (sequence, Some(chain))).is_some()
        }
    }

    #[test]
    fn an_older_version_is_refused_once_the_newer_one_was_heard_of() {
        let mut house = House::new();
        for version in 1..4 {
            let entry = house.entry(version);
            assert_eq!(house.hear(version, "c", &entry), Belief::Whole);
        }
        assert!(house.refuses(2, 3, "c") && house.refuses(2, 9, "other"), "also while others go on writing");
        assert!(!house.refuses(3, 3, "c") && !house.refuses(4, 4, "d"));
        assert!(!house.refuses(2, 2, "c"), "it was read before");
        // Told of once more, and by somebody who has no pepper.
        let entry = house.entry(4);
        assert_eq!([house.hear(4, "d", &entry), house.hear(4, "d", &entry)], [Belief::Whole; 2]);
        assert_eq!(house.hear(5, "e", b"junk"), Belief::Nothing);
        assert!(house.refuses(3, 5, "e"), "nobody makes it forget");
    }

    #[test]
    fn an_entry_that_is_exchanged_before_it_is_told_of_again_is_not_believed() {
        let mut house = House::new();
        let (one, two) = (house.entry(1), house.entry(2));
        assert_eq!([house.hear(1, "a", &one), house.hear(2, "b", &two)], [Belief::Whole; 2]);
        // Its answer was lost, and somebody has put another one of ours in its place.
        assert_eq!([house.hear(2, "b", &one), house.hear(2, "b", &one)], [Belief::Nothing; 2]);
        assert_eq!(house.heard.distrusted(), 1);
    }

    #[test]
    fn what_a_failover_has_lost_is_not_held_against_what_came_instead() {
        let mut house = House::new();
        let (one, lost) = (house.entry(1), house.entry(3));
        assert_eq!(house.hear(1, "a", &one), Belief::Whole);
        // Its answer was dropped, and the primary with it.
        assert_eq!(house.hear(2, "lost", &lost), Belief::Whole);
        house.chains = Chains::begin().unwrap();
        let instead = house.entry(2);
        assert_eq!(house.hear(2, "b", &instead), Belief::Whole);
        assert!(!house.refuses(2, 2, "b") && house.refuses(1, 2, "b"));
    }

    #[test]
    fn an_entry_behind_a_gap_is_ours_and_says_not_everything() {
        let mut house = House::new();
        let (one, _gone, three) = (house.entry(1), house.entry(2), house.entry(3));
        assert_eq!(house.hear(1, "a", &one), Belief::Whole);
        assert_eq!([house.hear(2, "b", &three), house.hear(2, "b", &three)], [Belief::AfterAGap; 2]);
        assert_eq!(house.heard.distrusted(), 1);
    }

    #[test]
    fn an_entry_that_is_put_there_once_more_changes_nothing_that_was_heard() {
        let mut house = House::new();
        let entries: Vec<_> = (1..4).map(|version| house.entry(version)).collect();
        for (sequence, entry) in (1..).zip(&entries) {
            assert_eq!(house.hear(sequence, "c", entry), Belief::Whole);
        }
        assert_eq!(house.hear(4, "d", &entries[1]), Belief::Nothing);
        assert!(house.refuses(2, 4, "d") && !house.refuses(3, 4, "d"));
        // Of a process whose entries were never heard of, behind a gap.
        let (mut theirs, verifier) = (Chains::begin().unwrap(), house.verifier.clone());
        let mut written = Written::default();
        written.note(Kind::Keys, b"k", Left::Record { version: Some(1), mac: mac(1) });
        let event = Event::touching(&[]);
        for (sequence, belief) in [(5, Belief::Whole), (6, Belief::AfterAGap)] {
            let told = theirs.tell(&verifier, Format::NEWEST, (&event, None), &[]).unwrap();
            let _gone = theirs.tell(&verifier, Format::NEWEST, (&event, None), &[]).unwrap();
            let older = theirs.clone().tell(&verifier, Format::NEWEST, (&event, Some(&written)), &[]).unwrap();
            let entry = if sequence == 5 { told.event } else { older.event };
            assert_eq!(house.hear(sequence, "e", &entry), belief);
        }
        assert!(house.refuses(1, 6, "e") && house.refuses(2, 6, "e"));
    }
}
