//! Which records a list has, and in which order, as both stores understand it: a kind says it in its own file, and the stores read it,
//! each in a way of its own. Never reads anything itself.

use std::ops::Bound;

use redb::TableDefinition;

use super::super::StoreError;
use super::super::keyspace::Bytes;

/// A page of records, in the order of their places.
pub(in crate::store) struct Listing<N> {
    /// The sorted set in Redis whose members are their places.
    pub(in crate::store) list: String,
    /// Where the embedded store has the same.
    pub(in crate::store) in_file: InFile,
    /// Places.
    pub(in crate::store) start: Bound<Vec<u8>>,
    pub(in crate::store) end: Bound<Vec<u8>>,
    /// At most this many.
    pub(in crate::store) limit: usize,
    /// Whether one of the table is on the list, where the embedded store has no index of it yet.
    pub(in crate::store) is_on: fn(&N) -> bool,
    /// Whether one that is not believed is passed over, and the log names it: one of them must not hide the others.
    pub(in crate::store) passes_over: bool,
}

pub(in crate::store) enum InFile {
    /// All that the table has.
    Table,
    /// Those whose places stand behind this [`scoped`](super::super::keyspace::scoped) text in an index.
    Scope(TableDefinition<'static, Bytes, ()>, String),
    /// Those whose places stand in an index that came with the third format.
    Names(TableDefinition<'static, &'static str, ()>),
}

impl<N> Listing<N> {
    /// All of a list.
    pub(in crate::store) fn of(list: impl Into<String>, in_file: InFile, limit: usize) -> Self {
        Self {
            list: list.into(),
            in_file,
            start: Bound::Unbounded,
            end: Bound::Unbounded,
            limit,
            is_on: |_| true,
            passes_over: false,
        }
    }

    /// A record that stands on it; `None`: it is passed over.
    pub(in crate::store) fn listed(&self, read: Result<N, StoreError>) -> Result<Option<N>, StoreError> {
        match read {
            Err(StoreError::Damaged(_)) if self.passes_over => Ok(None),
            read => read.map(Some),
        }
    }

    /// What stands behind a place, if one is said.
    pub(in crate::store) fn after(self, place: Option<&[u8]>) -> Self {
        match place {
            Some(place) => Self { start: Bound::Excluded(place.to_vec()), ..self },
            None => self,
        }
    }
}
