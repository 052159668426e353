//! What a kind of record says of itself, and what a step of a batch sees of a store. So each kind is one file, and the stores know
//! tables and transactions alone. Never reads or writes anything itself.

use std::time::Duration;

use redb::{TableDefinition, TableHandle};
use tollgate_core::credential::KeyId;
use tollgate_guard::digest::Digest;
use tollgate_guard::time::Timestamp;

use super::super::format::Format;
use super::super::keyspace::Bytes;
use super::super::kind::Kind;
use super::super::{Counted, Quota, StoreError};
use crate::domain::record::AuditEntry;

/// How much earlier than a store a migration forgets, at least.
pub(in crate::store) const FORGOTTEN_EARLIER: Duration = Duration::from_secs(3600);

/// A kind of record: where it stands, how it is written, and the lists that it stands on.
pub(in crate::store) trait Noun: Clone + Sized {
    /// The keys of its table in the embedded store.
    type Key: redb::Key + 'static;
    const KIND: Kind;
    const TABLE: TableDefinition<'static, Self::Key, Bytes>;
    /// What its names in Redis begin with.
    const PREFIX: &'static str;
    /// The list in Redis that all of them stand on, by their places, if there is one.
    const ALL: Option<&'static str> = None;
    /// Whether its [`project`](Noun::project) stands in front of it in Redis.
    const HAS_PROJECT_IN_FRONT: bool = false;
    /// The index of the embedded store by the time at which one is over, and how long it is kept after that.
    const BY_TIME: Option<(TableDefinition<'static, Bytes, ()>, Duration)> = None;

    /// The other indexes of the embedded store that have it.
    const INDEXES: &'static [Index] = &[];

    /// What people call it.
    fn name(&self) -> String;

    /// How often it was written, if it counts that.
    fn version(&self) -> Option<u64> {
        None
    }

    /// Where it stands among its kind.
    fn place(&self) -> Vec<u8>;

    /// Where lists and snapshots have it among its kind.
    fn listed_place(&self) -> Vec<u8> {
        self.place()
    }

    /// The place as a key of the table; `None`: none can stand there.
    fn key(place: &[u8]) -> Option<<Self::Key as redb::Value>::SelfType<'_>>;

    /// The place in a name in Redis.
    fn text(place: &[u8]) -> String {
        String::from_utf8_lossy(place).into_owned()
    }

    /// As [`Noun::text`], the other way; `None`: it is no place.
    fn place_of(text: &str) -> Option<Vec<u8>> {
        Some(text.as_bytes().to_vec())
    }

    fn encode(&self, format: Format) -> Vec<u8>;

    /// # Errors
    /// [`StoreError::Damaged`] if the bytes are no such record, or one that stands in another place.
    fn decode(place: &[u8], bytes: &[u8]) -> Result<Self, StoreError>;

    /// The project that may stand in front of it, so that a script finds the record of the project.
    fn project(&self) -> Option<&str> {
        None
    }

    fn lists(&self, _format: Format) -> Vec<List> {
        Vec::new()
    }

    /// Whether it still counts. Stores forget by themselves what does not, each when it likes.
    fn counts(&self, _now: Timestamp) -> bool {
        true
    }

    /// How long it is kept in stores that forget by themselves; `None`: for good.
    fn kept(&self, _now: Timestamp) -> Option<Duration> {
        None
    }
}

/// A list that a record stands on: where Redis has it, and where the embedded store does. In one that keeps its records in order there
/// is none of all of them.
#[derive(Clone)]
pub(in crate::store) struct List {
    /// The name of a sorted set, and the member.
    pub(in crate::store) in_redis: Option<(String, String)>,
    pub(in crate::store) in_file: Option<Entry>,
}

/// An index of the embedded store.
#[derive(Clone, Copy)]
pub(in crate::store) enum Index {
    Bytes(TableDefinition<'static, Bytes, ()>),
    Text(TableDefinition<'static, &'static str, ()>),
    Valued(TableDefinition<'static, Bytes, Bytes>),
}

/// A key of an index.
#[derive(Clone)]
pub(in crate::store) enum Entry {
    Bytes(TableDefinition<'static, Bytes, ()>, Vec<u8>),
    Text(TableDefinition<'static, &'static str, ()>, String),
    /// With what stands there.
    Valued(TableDefinition<'static, Bytes, Bytes>, Vec<u8>, Vec<u8>),
    /// With the record itself, as it is written.
    Copied(TableDefinition<'static, Bytes, Bytes>, Vec<u8>),
}

impl Entry {
    /// The index and the key.
    fn place(&self) -> (&str, &[u8]) {
        match self {
            Self::Bytes(index, key) => (index.name(), key),
            Self::Text(index, key) => (index.name(), key.as_bytes()),
            Self::Valued(index, key, _) | Self::Copied(index, key) => (index.name(), key),
        }
    }

    /// `None`: it is another one whenever the record is.
    fn value(&self) -> Option<&[u8]> {
        match self {
            Self::Valued(.., value) => Some(value),
            Self::Bytes(..) | Self::Text(..) => Some(b""),
            Self::Copied(..) => None,
        }
    }
}

impl List {
    pub(in crate::store) fn in_both(
        (list, member): (String, impl Into<String>),
        (index, key): (TableDefinition<'static, Bytes, ()>, Vec<u8>),
    ) -> Self {
        Self { in_redis: Some((list, member.into())), in_file: Some(Entry::Bytes(index, key)) }
    }

    pub(in crate::store) fn in_redis(list: impl Into<String>, member: impl Into<String>) -> Self {
        Self { in_redis: Some((list.into(), member.into())), in_file: None }
    }

    pub(in crate::store) fn in_file(entry: Entry) -> Self {
        Self { in_redis: None, in_file: Some(entry) }
    }

    /// Whether this is its key in this index of the embedded store.
    pub(in crate::store) fn is_at(&self, index: &str, key: &[u8]) -> bool {
        self.in_file.as_ref().is_some_and(|entry| entry.place() == (index, key))
    }

    /// Whether it is the same list, and the same member of it.
    fn is_same(&self, other: &Self) -> bool {
        self.in_redis == other.in_redis
            && self.in_file.as_ref().map(Entry::place) == other.in_file.as_ref().map(Entry::place)
    }

    /// Whether the same stands there.
    fn has_same_value(&self, other: &Self) -> bool {
        match (&self.in_file, &other.in_file) {
            (Some(ours), Some(theirs)) => ours.value().is_some_and(|value| theirs.value() == Some(value)),
            (None, None) => true,
            _ => false,
        }
    }
}

/// A store as a step of a batch sees it, with what the steps before have done.
pub(in crate::store) trait Tables {
    /// Why a step goes no further: it is refused, or, in some stores, something must be read first.
    type Halt: From<StoreError>;
    /// Whether a record that is written again is put on all its lists again: so lists are filled that came with a later format.
    const FILLS_LISTS: bool;

    /// How the records are laid out.
    fn format(&self) -> Format;

    /// What stands in a place.
    fn value<N: Noun>(&mut self, place: &[u8]) -> Result<Option<Vec<u8>>, Self::Halt>;

    /// The record in a [`value`](Tables::value).
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is not believed, or is no record of this place.
    fn read<N: Noun>(&self, place: &[u8], value: &[u8]) -> Result<N, StoreError>;

    /// Puts a record in its place. Where stores forget by themselves, it is there for so long at least.
    fn put<N: Noun>(&mut self, record: &N, kept: Option<Duration>) -> Result<(), Self::Halt>;

    fn remove<N: Noun>(&mut self, place: &[u8]) -> Result<(), Self::Halt>;

    /// Puts a record on one of its lists.
    fn enlist<N: Noun>(&mut self, record: &N, list: &List) -> Result<(), Self::Halt>;

    fn unlist(&mut self, list: &List) -> Result<(), Self::Halt>;

    /// The members of a list whose part of an index begins with this [`scoped`](super::super::keyspace::scoped) text, in order.
    fn members(
        &mut self,
        in_redis: &str,
        in_file: (TableDefinition<'static, Bytes, ()>, &str),
    ) -> Result<Vec<Vec<u8>>, Self::Halt>;

    /// Where the record of the key with this id stands.
    fn pointer(&mut self, id: &KeyId) -> Result<Option<Digest>, Self::Halt>;

    /// Notes where it stands; `None`: nowhere.
    fn point(&mut self, id: &KeyId, to: Option<&Digest>) -> Result<(), Self::Halt>;

    /// Forgets a few that are over for so long, in stores that do not forget by themselves.
    fn forget<N: Noun>(&mut self, now: Timestamp) -> Result<(), Self::Halt>;

    /// Appends a row to the audit log. It has the number that it is given then.
    fn append(&mut self, row: &AuditEntry) -> Result<(), Self::Halt>;

    /// # Errors
    /// [`StoreError::OverQuota`], of some stores only once the batch is written, if the project has as many before it.
    fn check_quota(&mut self, quota: &Quota) -> Result<(), Self::Halt>;

    /// Notes that a project has one less, and another one more, in stores that count them.
    fn count(&mut self, counted: Counted, from: Option<&str>, to: Option<&str>);

    fn find<N: Noun>(&mut self, place: &[u8]) -> Result<Option<N>, Self::Halt> {
        Ok(self.value::<N>(place)?.map(|value| self.read(place, &value)).transpose()?)
    }
}

/// Puts a record in the place of another one, or where none is, and on its lists.
pub(in crate::store) fn replace<T: Tables, N: Noun>(
    tables: &mut T,
    before: Option<&N>,
    after: &N,
) -> Result<(), T::Halt> {
    // For good, whenever it is.
    keep(tables, before, after, Timestamp::default())
}

/// As [`replace`], of a kind that is not kept for good.
pub(in crate::store) fn keep<T: Tables, N: Noun>(
    tables: &mut T,
    before: Option<&N>,
    after: &N,
    now: Timestamp,
) -> Result<(), T::Halt> {
    let format = tables.format();
    let (old, new) = (before.map_or_else(Vec::new, |before| before.lists(format)), after.lists(format));
    for list in old.iter().filter(|list| !new.iter().any(|other| other.is_same(list))) {
        tables.unlist(list)?;
    }
    tables.put(after, after.kept(now))?;
    let stands = |list: &List| old.iter().any(|other| other.is_same(list) && other.has_same_value(list));
    new.iter().filter(|list| T::FILLS_LISTS || !stands(list)).try_for_each(|list| tables.enlist(after, list))
}

/// Removes a record, and from its lists.
pub(in crate::store) fn erase<T: Tables, N: Noun>(tables: &mut T, record: &N) -> Result<(), T::Halt> {
    tables.remove::<N>(&record.place())?;
    record.lists(tables.format()).iter().try_for_each(|list| tables.unlist(list))
}

pub(super) fn refused<T, H: From<StoreError>>(reason: String) -> Result<T, H> {
    Err(StoreError::Conflict(reason).into())
}

pub(super) fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(format!("the record of {what} cannot be read"))
}

/// The record, if this is where it stands.
pub(super) fn at_its_place<N: Noun>(record: N, place: &[u8]) -> Result<N, StoreError> {
    if record.place() == place {
        return Ok(record);
    }
    Err(StoreError::Damaged(format!("the record of {} stands in the wrong place", record.name())))
}

/// A place that is text.
pub(super) fn text_key(place: &[u8]) -> Option<&str> {
    std::str::from_utf8(place).ok()
}
