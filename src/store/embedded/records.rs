//! Any kind of record in the embedded store: read, written, listed and forgotten. Never gives one that stands in another place.

use std::ops::Bound;
use std::time::Duration;

use redb::{ReadTransaction, ReadableTable, TableDefinition, TableHandle, Value, WriteTransaction};
use tollgate_core::credential::KeyId;
use tollgate_guard::digest::Digest;
use tollgate_guard::time::Timestamp;

use super::super::format::Format;
use super::super::keyspace::{self, Bytes, META_SEQUENCE, id_key, rest_of, rest_of_timed, scope_end, scoped, timed};
use super::super::kind::Kind;
use super::super::records::listing::{InFile, Listing};
use super::super::records::noun::{Entry, List, Noun, Tables};
use super::super::records::written::{Left, Written};
use super::super::signature::{Mac, Verifier};
use super::super::{Counted, Quota, StoreError};
use super::act::{Act, Failure, conflict};
use super::counts::{Counts, in_scope};
use super::{Embedded, damaged, has_indexes, journal};
use crate::domain::record::AuditEntry;

/// How many are forgotten with each one that is added: more than one, so that they become fewer.
const FORGOTTEN_AT_ONCE: usize = 8;

/// The record in this place.
pub(super) fn stored<N: Noun>(
    verifier: &Verifier,
    table: &impl ReadableTable<N::Key, Bytes>,
    place: &[u8],
) -> Act<Option<N>> {
    let Some(key) = N::key(place) else { return Ok(None) };
    let Some(bytes) = table.get(key)? else { return Ok(None) };
    Ok(Some(verifier.read(place, bytes.value())?))
}

/// The record in this place, of one moment.
pub(super) fn read<N: Noun>(verifier: &Verifier, transaction: &ReadTransaction, place: &[u8]) -> Act<Option<N>> {
    stored(verifier, &transaction.open_table(N::TABLE)?, place)
}

/// A page of all of a kind, behind a place and in the order of their places.
pub(super) fn page<N: Noun>(
    verifier: &Verifier,
    transaction: &ReadTransaction,
    after: Option<&[u8]>,
    limit: usize,
) -> Act<Vec<N>> {
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    if key_bound::<N>(start).is_none() {
        return damaged(format!("one of the {} stands where none can", N::KIND.as_str().replace('_', " ")));
    }
    in_table(verifier, transaction, (start, Bound::Unbounded), limit, |read| read.map(Some))
}

/// Records of a table between two places that are wanted, in their order.
fn in_table<N: Noun>(
    verifier: &Verifier,
    transaction: &ReadTransaction,
    (start, end): (Bound<&[u8]>, Bound<&[u8]>),
    limit: usize,
    mut wanted: impl FnMut(Result<N, StoreError>) -> Result<Option<N>, StoreError>,
) -> Act<Vec<N>> {
    let table = transaction.open_table(N::TABLE)?;
    let (Some(start), Some(end)) = (key_bound::<N>(start), key_bound::<N>(end)) else { return Ok(Vec::new()) };
    let mut page = Vec::new();
    for entry in table.range::<<N::Key as Value>::SelfType<'_>>((start, end))? {
        if page.len() == limit {
            break;
        }
        let (key, bytes) = entry?;
        let key = key.value();
        page.extend(wanted(verifier.read(N::Key::as_bytes(&key).as_ref(), bytes.value()))?);
    }
    Ok(page)
}

/// `None`: nothing can stand there.
fn key_bound<N: Noun>(place: Bound<&[u8]>) -> Option<Bound<<N::Key as Value>::SelfType<'_>>> {
    Some(match place {
        Bound::Unbounded => Bound::Unbounded,
        Bound::Included(place) => Bound::Included(N::key(place)?),
        Bound::Excluded(place) => Bound::Excluded(N::key(place)?),
    })
}

impl Embedded {
    /// The record in a place, of any kind.
    pub(in crate::store) fn find<N: Noun>(&self, place: &[u8]) -> Result<Option<N>, StoreError> {
        let verifier = self.trust.verifier();
        self.engine.read(|read| self::read(&verifier, read, place))
    }

    /// A page of a list.
    pub(in crate::store) fn list<N: Noun>(&self, listing: &Listing<N>) -> Result<Vec<N>, StoreError> {
        let Listing { in_file, start, end, limit, is_on, .. } = listing;
        let (start, end) = (start.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice));
        let verifier = self.trust.verifier();
        self.engine.read(|read| match in_file {
            InFile::Scope(index, scope) => {
                let (first, last) = (scoped(scope, b""), scope_end(scope));
                let within = |place: Bound<&[u8]>| place.map(|place| scoped(scope, place));
                let (start, end) = (within(start), within(end));
                let start = match &start {
                    Bound::Unbounded => Bound::Included(&*first),
                    start => start.as_ref().map(Vec::as_slice),
                };
                let end = match &end {
                    Bound::Unbounded => Bound::Excluded(&*last),
                    end => end.as_ref().map(Vec::as_slice),
                };
                let in_index = index;
                let (table, index) = (read.open_table(N::TABLE)?, read.open_table(*index)?);
                let mut page = Vec::new();
                for entry in index.range::<&[u8]>((start, end))?.take(*limit) {
                    self.look_at_one();
                    let entry = entry?.0;
                    let key = entry.value();
                    let record: N = listed(&verifier, &table, rest_of(key).unwrap_or_default())?;
                    demand_listed(&record, in_index.name(), key)?;
                    page.push(record);
                }
                Ok(page)
            }
            InFile::Names(index) if has_indexes(read)? => {
                let text = |place: Bound<&'_ [u8]>| {
                    Some(match place {
                        Bound::Unbounded => Bound::Unbounded,
                        Bound::Included(place) => Bound::Included(std::str::from_utf8(place).ok()?.to_owned()),
                        Bound::Excluded(place) => Bound::Excluded(std::str::from_utf8(place).ok()?.to_owned()),
                    })
                };
                let (Some(start), Some(end)) = (text(start), text(end)) else { return Ok(Vec::new()) };
                let in_index = index;
                let (table, index) = (read.open_table(N::TABLE)?, read.open_table(*index)?);
                let bounds = (start.as_ref().map(String::as_str), end.as_ref().map(String::as_str));
                let mut page = Vec::new();
                for entry in index.range::<&str>(bounds)?.take(*limit) {
                    self.look_at_one();
                    let entry = entry?.0;
                    let record: N = listed(&verifier, &table, entry.value().as_bytes())?;
                    demand_listed(&record, in_index.name(), entry.value().as_bytes())?;
                    page.push(record);
                }
                Ok(page)
            }
            InFile::Table | InFile::Names(_) => in_table(&verifier, read, (start, end), *limit, |read| {
                self.look_at_one();
                Ok(listing.listed(read)?.filter(is_on))
            }),
        })
    }
}

/// Who can write the file can put anybody on an index.
fn demand_listed<N: Noun>(record: &N, index: &str, key: &[u8]) -> Act<()> {
    if record.lists(Format::NEWEST).iter().any(|list| list.is_at(index, key)) {
        return Ok(());
    }
    damaged(format!("{} is listed by {index}, and does not belong there", record.name()))
}

/// The record that an index names.
fn listed<N: Noun>(verifier: &Verifier, table: &impl ReadableTable<N::Key, Bytes>, place: &[u8]) -> Act<N> {
    match stored(verifier, table, place)? {
        Some(record) => Ok(record),
        None => damaged(format!("one of the {} is listed and not there", N::KIND.as_str().replace('_', " "))),
    }
}

/// The records of a transaction that writes.
pub(super) struct Records<'t, 'c> {
    pub(super) transaction: &'t WriteTransaction,
    /// What they are encoded for.
    pub(super) format: Format,
    pub(super) verifier: &'c Verifier,
    /// After an error these are of no use any more.
    pub(super) counts: &'c mut Counts,
    /// What was written by it, for the rows that tell of it.
    pub(super) written: Written,
}

/// Takes the next number of a change.
pub(super) fn number(transaction: &WriteTransaction) -> Act<u64> {
    let mut meta = transaction.open_table(keyspace::META)?;
    let last = meta.get(META_SEQUENCE)?.map_or(0, |value| value.value());
    meta.insert(META_SEQUENCE, last + 1)?;
    Ok(last + 1)
}

impl Tables for Records<'_, '_> {
    type Halt = Failure;
    /// They are filled in one go when the file is raised to a later format.
    const FILLS_LISTS: bool = false;

    fn format(&self) -> Format {
        self.format
    }

    fn value<N: Noun>(&mut self, place: &[u8]) -> Act<Option<Vec<u8>>> {
        let Some(key) = N::key(place) else { return Ok(None) };
        let table = self.transaction.open_table(N::TABLE)?;
        let found = table.get(key)?.map(|bytes| bytes.value().to_vec());
        Ok(found)
    }

    fn read<N: Noun>(&self, place: &[u8], value: &[u8]) -> Result<N, StoreError> {
        self.verifier.read(place, value)
    }

    fn put<N: Noun>(&mut self, record: &N, _kept: Option<Duration>) -> Act<()> {
        let place = record.place();
        let Some(key) = N::key(&place) else { return conflict(format!("no record can be called {}", record.name())) };
        let bytes = self.verifier.write(record, self.format)?;
        let mac = Mac::of(&bytes).filter(|_| self.format.has_signatures());
        let left = mac.map_or(Left::Unsaid, |mac| Left::Record { version: record.version(), mac });
        self.written.note(N::KIND, &record.listed_place(), left);
        self.transaction.open_table(N::TABLE)?.insert(key, &*bytes)?;
        Ok(())
    }

    fn remove<N: Noun>(&mut self, place: &[u8]) -> Act<()> {
        if let Some(key) = N::key(place) {
            self.transaction.open_table(N::TABLE)?.remove(key)?;
        }
        // Of a key its pointer says it.
        if N::KIND != Kind::Keys {
            self.written.note(N::KIND, place, Left::Nothing);
        }
        Ok(())
    }

    fn enlist<N: Noun>(&mut self, record: &N, list: &List) -> Act<()> {
        match &list.in_file {
            Some(Entry::Bytes(index, key)) => drop(self.transaction.open_table(*index)?.insert(&**key, ())?),
            Some(Entry::Text(index, key)) => drop(self.transaction.open_table(*index)?.insert(&**key, ())?),
            Some(Entry::Valued(index, key, value)) => {
                self.transaction.open_table(*index)?.insert(&**key, &**value)?;
            }
            Some(Entry::Copied(index, key)) => {
                let value = self.verifier.write(record, self.format)?;
                self.transaction.open_table(*index)?.insert(&**key, &*value)?;
            }
            None => {}
        }
        Ok(())
    }

    fn unlist(&mut self, list: &List) -> Act<()> {
        match &list.in_file {
            Some(Entry::Bytes(index, key)) => drop(self.transaction.open_table(*index)?.remove(&**key)?),
            Some(Entry::Text(index, key)) => drop(self.transaction.open_table(*index)?.remove(&**key)?),
            Some(Entry::Valued(index, key, _) | Entry::Copied(index, key)) => {
                drop(self.transaction.open_table(*index)?.remove(&**key)?);
            }
            None => {}
        }
        Ok(())
    }

    fn members(&mut self, _: &str, (index, scope): (TableDefinition<'static, Bytes, ()>, &str)) -> Act<Vec<Vec<u8>>> {
        let index = self.transaction.open_table(index)?;
        let mut members = Vec::new();
        for entry in index.range::<&[u8]>(&*scoped(scope, b"")..&*scope_end(scope))? {
            members.push(rest_of(entry?.0.value()).unwrap_or_default().to_vec());
        }
        Ok(members)
    }

    fn pointer(&mut self, id: &KeyId) -> Act<Option<Digest>> {
        let pointers = self.transaction.open_table(keyspace::KEY_IDS)?;
        let found = pointers.get(&id_key(id))?.map(|digest| Digest(*digest.value()));
        Ok(found)
    }

    fn point(&mut self, id: &KeyId, to: Option<&Digest>) -> Act<()> {
        let mut pointers = self.transaction.open_table(keyspace::KEY_IDS)?;
        match to {
            Some(digest) => {
                drop(pointers.insert(&id_key(id), &digest.0)?);
                self.written.note_touched(Kind::Keys, &id_key(id));
            }
            None => {
                drop(pointers.remove(&id_key(id))?);
                self.written.note(Kind::Keys, &id_key(id), Left::Nothing);
            }
        }
        Ok(())
    }

    fn append(&mut self, row: &AuditEntry) -> Act<()> {
        let row = AuditEntry { sequence: 0, ..row.clone() };
        journal::append(self.transaction, (self.verifier, self.format), &row, &self.written.take_unnamed())
    }

    fn check_quota(&mut self, quota: &Quota) -> Act<()> {
        let Self { transaction, format, counts, .. } = self;
        if !format.has_three() {
            return Ok(());
        }
        counts.check(quota, |counts| match quota.counted {
            Counted::Keys => in_scope(&transaction.open_table(keyspace::KEYS_BY_PROJECT)?, &quota.project),
            Counted::Users => counts.count_users(transaction, &quota.project),
            Counted::Resources => in_scope(&transaction.open_table(keyspace::RESOURCES_BY_PROJECT)?, &quota.project),
        })
    }

    fn forget<N: Noun>(&mut self, now: Timestamp) -> Act<()> {
        let Some((index, kept)) = N::BY_TIME else { return Ok(()) };
        let mut by_time = self.transaction.open_table(index)?;
        let mut table = self.transaction.open_table(N::TABLE)?;
        let end = timed(now.minus(kept), b"");
        let mut old = Vec::new();
        for entry in by_time.range::<&[u8]>(..&*end)?.take(FORGOTTEN_AT_ONCE) {
            old.push(entry?.0.value().to_vec());
        }
        for key in old {
            by_time.remove(&*key)?;
            let Some(place) = rest_of_timed(&key) else { continue };
            let Some(at) = N::key(place) else { continue };
            let found = table.get(at)?.map(|bytes| N::decode(place, bytes.value()));
            // One whose time has changed since is on the index with that, too.
            let is_over = match found {
                Some(Ok(record)) => record.lists(self.format).iter().any(|list| list.is_at(index.name(), &key)),
                Some(Err(_)) => true,
                None => false,
            };
            if let Some(at) = N::key(place).filter(|_| is_over) {
                table.remove(at)?;
            }
        }
        Ok(())
    }

    fn count(&mut self, counted: Counted, from: Option<&str>, to: Option<&str>) {
        match (from, to) {
            (Some(from), Some(to)) => self.counts.moved(counted, from, to),
            (Some(from), None) => self.counts.fewer(counted, from),
            (None, Some(to)) => self.counts.more(counted, to),
            (None, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::record::{OpenSession, UserSessions};
    use crate::store::{SESSION_KEPT, Write};

    fn begun(user: &str, began_at: u64) -> Write {
        let at = Timestamp::from_millis;
        let session = OpenSession {
            id: format!("{user}-{began_at}"),
            generation: 1,
            began_at: at(began_at),
            expires_at: at(began_at).plus(Duration::from_secs(3_600)),
            address: None,
        };
        Write::BeginSession { user: user.to_owned(), session }
    }

    #[test]
    fn a_list_that_was_begun_anew_is_not_forgotten_with_the_one_before() {
        let store = Embedded::in_memory().unwrap();
        store.apply(&[begun("ann", 0)]).unwrap();
        // It cannot be read any more, and so its key in the index by time is not known.
        let damage = |transaction: &WriteTransaction| -> Act<()> {
            transaction.open_table(keyspace::SESSIONS)?.insert("ann", &b"\xff"[..])?;
            Ok(())
        };
        store.engine.write(damage).unwrap();
        let kept = u64::try_from(SESSION_KEPT.as_millis()).unwrap();
        store.apply(&[begun("ann", kept)]).unwrap();
        let list = || {
            let known: Result<Option<UserSessions>, _> = store.find(b"ann");
            known.map(|known| known.map_or(0, |known| known.sessions.len()))
        };
        assert_eq!(list(), Ok(1));
        store.apply(&[begun("bob", kept + 3_600_001)]).unwrap();
        assert_eq!(list(), Ok(1), "only the one before is over for so long");
        store.apply(&[begun("bob", 2 * kept + 3_600_001)]).unwrap();
        assert_eq!(list(), Ok(0));
    }
}
