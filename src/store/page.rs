//! Some records of one kind. Never says which store they are of.

use super::record::Record;

/// Records in the order of their places.
pub(super) struct Page {
    pub(super) records: Vec<Record>,
    /// Behind which place the next page begins, if there may be one.
    pub(super) next: Option<Vec<u8>>,
}

impl Page {
    /// Of a store that was asked for this many, and gives fewer only at the end.
    pub(super) fn of(records: Vec<Record>, limit: usize) -> Self {
        let next = if records.len() < limit { None } else { records.last().map(Record::place) };
        Self { records, next }
    }
}
