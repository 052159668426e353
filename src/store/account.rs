//! What the two logs of a store say of its records, and which records do not agree with that: older ones that were put back, and such as
//! were taken out. Never says more than the logs still tell, and changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::StoreError;
use super::chain::{Follower, Linked, RemovedRows};
use super::kind::Kind;
use super::records::written::{Left, Place};
use super::signature::{Distrusted, Mac, Sealed, Signature, Verifier};

/// What stands in a place: the version of a kind that counts them, and its signature.
pub(super) type Standing = (Option<u64>, Mac);

/// A place, and where the record stands that does not agree; `None`: there is none.
pub(super) type Suspect = (Place, Option<Vec<u8>>);

/// What the logs say of a place.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    /// The newest entry of the log of changes.
    entry: Option<(u64, Left)>,
    /// The newest row.
    row: Option<(u64, Left)>,
    /// The highest version that any of them names, and its row.
    version: Option<(u64, u64)>,
    is_there: bool,
}

/// What was read of the two logs.
#[derive(Debug)]
pub(super) struct Account {
    said: HashMap<Place, Said>,
    removed: RemovedRows,
    rows: Follower,
    entries: Follower,
    /// The newest row, and the newest entry, that were read.
    row: u64,
    entry: u64,
    suspects: BTreeSet<Suspect>,
    /// How many rows and entries, by the version of their pepper.
    of_unknown_peppers: BTreeMap<u32, u64>,
    found: Distrusted,
}

impl Account {
    /// Of an audit log that has lost these rows, as far as it is noted.
    pub(super) fn behind(removed: RemovedRows) -> Self {
        let (said, suspects, of_unknown_peppers, found) = Default::default();
        let (rows, row, entries) = (removed.processes.clone(), removed.last, Follower::from_anywhere());
        Self { said, removed, rows, entries, row, entry: 0, suspects, of_unknown_peppers, found }
    }

    /// The newest entry of the log of changes that was read; zero: there was none.
    pub(super) fn newest_entry(&self) -> u64 {
        self.entry
    }

    /// Reads the next row.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if this process has not been given the pepper.
    pub(super) fn row(&mut self, verifier: &Verifier, number: u64, bytes: &[u8]) -> Result<(), StoreError> {
        self.found.looked_at += 1;
        if number > self.row.saturating_add(1) {
            self.found.note(&match number - self.row {
                2 => format!("row {} of the audit log is gone", number - 1),
                _ => format!("rows {} to {} of the audit log are gone", self.row + 1, number - 1),
            });
        }
        self.row = self.row.max(number);
        let name = format!("row {number} of the audit log");
        let age = (number <= self.removed.unsigned_rows, number <= self.removed.older_rows);
        // It is noted already what comes behind one that is about to be removed.
        let may_follow = number > self.removed.last;
        let linked = self.believe(verifier, (Sealed::Row, bytes), &name, (age, may_follow))?;
        for (place, left) in linked.and_then(|linked| linked.written).into_iter().flatten() {
            if may_be_gone(place.0) {
                continue;
            }
            let said = self.said.entry(place).or_default();
            said.row = Some((number, left));
            match left {
                Left::Record { version: Some(version), .. } => {
                    if said.version.is_none_or(|(known, _)| known < version) {
                        said.version = Some((version, number));
                    }
                }
                // What is there later is counted anew.
                Left::Nothing => said.version = None,
                Left::Record { version: None, .. } | Left::Unsaid => {}
            }
        }
        Ok(())
    }

    /// Reads the next entry of the log of changes.
    ///
    /// # Errors
    /// As [`Account::row`].
    pub(super) fn entry(&mut self, verifier: &Verifier, sequence: u64, bytes: &[u8]) -> Result<(), StoreError> {
        self.found.looked_at += 1;
        if self.entry > 0 && sequence > self.entry.saturating_add(1) {
            self.found.note(&format!("changes {} to {} are gone from the store's log", self.entry + 1, sequence - 1));
        }
        self.entry = self.entry.max(sequence);
        let age = (sequence <= self.removed.unsigned_entries, sequence <= self.removed.older_entries);
        let name = format!("change {sequence} in the store's log");
        let linked = self.believe(verifier, (Sealed::Entry, bytes), &name, (age, true))?;
        for (place, left) in linked.and_then(|linked| linked.written).into_iter().flatten() {
            self.said.entry(place).or_default().entry = Some((sequence, left));
        }
        Ok(())
    }

    /// What a row or an entry says; `None`: it is not believed, is signed with a pepper that is not configured any more, or is older than
    /// signatures and has none.
    fn believe(
        &mut self,
        verifier: &Verifier,
        (what, bytes): (Sealed, &[u8]),
        name: &str,
        ((may_have_none, may_be_older), may_follow): ((bool, bool), bool),
    ) -> Result<Option<Linked>, StoreError> {
        let process = if what == Sealed::Row { &mut self.rows } else { &mut self.entries };
        match verifier.look_at_sealed(what, bytes)? {
            Signature::Missing if may_have_none => return Ok(None),
            Signature::Unknown(version) if may_be_older => {
                *self.of_unknown_peppers.entry(version).or_default() += 1;
                // Only so that the next one has one before it.
                if let (true, Ok(linked)) = (may_follow, Linked::unverified(what, bytes)) {
                    process.follow(&linked);
                }
                return Ok(None);
            }
            _ => {}
        }
        let linked = match Linked::read(verifier, what, bytes) {
            Ok(linked) => linked,
            Err(StoreError::Damaged(problem)) => {
                self.found.note(&format!("{name} {problem}"));
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        if may_follow && process.has_passed(&linked) {
            self.found.note(&format!(
                "{name} is one that its process had written before: somebody has put it here once more"
            ));
            return Ok(None);
        }
        if may_follow && !process.follow(&linked) {
            self.found.note(&format!("{name} does not follow the one before it of its process: some are gone"));
        }
        Ok(Some(linked))
    }

    /// Looks at a record that is believed, which stands at `at` among its kind.
    pub(super) fn look_at(&mut self, place: Place, at: &[u8], standing: Standing) {
        self.found.looked_at += 1;
        let Some(said) = self.said.get_mut(&place) else { return };
        said.is_there = true;
        if said.contradicts(place.0, Some(standing)).is_some() {
            self.suspects.insert((place, Some(at.to_vec())));
        }
    }

    /// What to look at once more, now that each record was looked at: what is there now may have been written since.
    pub(super) fn take_suspects(&mut self) -> BTreeSet<Suspect> {
        let is_missing = |(place, said): &(&Place, &Said)| !said.is_there && said.contradicts(place.0, None).is_some();
        let missing: Vec<Suspect> =
            self.said.iter().filter(is_missing).map(|(place, _)| (place.clone(), None)).collect();
        let mut suspects = std::mem::take(&mut self.suspects);
        suspects.extend(missing);
        suspects
    }

    /// Whether what stands there disagrees with what was read.
    pub(super) fn contradicts(&self, place: &Place, standing: Option<Standing>) -> bool {
        self.said.get(place).is_some_and(|said| said.contradicts(place.0, standing).is_some())
    }

    /// Notes what is wrong with what stands in this place.
    pub(super) fn conclude(&mut self, place: &Place, standing: Option<Standing>) {
        let problem = self.said.get(place).and_then(|said| said.contradicts(place.0, standing));
        if let Some(problem) = problem {
            let (kind, place) = (place.0.as_str().replace('_', " "), String::from_utf8_lossy(&place.1));
            self.found.note(&format!("{kind} {}: {problem}", place.escape_debug()));
        }
    }

    /// Whether so much is wrong that no more is named.
    pub(super) fn is_full(&self) -> bool {
        self.found.found >= Distrusted::MOST as u64
    }

    pub(super) fn end(self) -> Distrusted {
        let unlooked_at = self.of_unknown_peppers;
        Distrusted { unlooked_at, ..self.found }
    }
}

/// These are gone when they are over.
fn may_be_gone(kind: Kind) -> bool {
    matches!(kind, Kind::EndedSessions | Kind::Sessions | Kind::Once)
}

impl Said {
    /// What is wrong with this record, or with there being none.
    fn contradicts(&self, kind: Kind, standing: Option<Standing>) -> Option<String> {
        let (newest, what) = match (self.entry, self.row) {
            (Some((number, left)), _) => (left, format!("change {number}")),
            (None, Some((number, left))) => (left, format!("row {number} of the audit log")),
            (None, None) => return None,
        };
        match (newest, standing) {
            (Left::Record { .. }, None) if !may_be_gone(kind) => {
                Some(format!("it is gone, and {what} says that it was put there"))
            }
            (Left::Nothing, Some(_)) => Some(format!("it is there again, and {what} says that it was removed")),
            (Left::Record { version, mac }, Some((now, own))) if self.entry.is_some() && mac != own => {
                let is_newer = now.zip(version).is_some_and(|(now, version)| now > version);
                (!is_newer).then(|| format!("{what} says that another one was put there: an older one was put back"))
            }
            // Where versions may begin anew, the log knows better than the rows.
            (Left::Record { mac, .. }, Some((_, own))) if self.entry.is_some() && mac == own && !kind.only_rises() => {
                None
            }
            (_, Some((Some(now), _))) => {
                let (version, row) = self.version.filter(|(version, _)| now < *version)?;
                Some(format!(
                    "it has version {now}, and row {row} of the audit log tells of version {version}: an older one was put back"
                ))
            }
            _ => None,
        }
    }
}
