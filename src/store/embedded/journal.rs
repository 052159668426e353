//! The audit log in the embedded store. Never changes a row of the log, and never removes
//! the newest one.

use std::ops::Bound;

use redb::{ReadableTable, Table, WriteTransaction};
use tollgate_guard::time::Timestamp;

use super::super::chain::{Chain, RemovedRows};
use super::super::format::Format;
use super::super::keyspace::{self, Bytes, is_part, scope, scoped, within};
use super::super::records::audit::{decode_audit, encode_audit};
use super::super::records::written::{Left, Place};
use super::super::rules::check_parts;
use super::super::search::{Beginning, ENOUGH, Search};
use super::super::signature::Verifier;
use super::super::{AuditQuery, AuditRows, StoreError};
use super::act::Act;
use super::{Embedded, damaged, format_in, has_indexes};
use crate::domain::record::AuditEntry;

impl Embedded {
    /// As [`super::super::Store::audit`].
    pub fn audit(&self, query: &AuditQuery) -> Result<AuditRows, StoreError> {
        let parts = [&query.project, &query.actor].into_iter().flatten();
        if !parts.into_iter().all(|part| is_part(part)) {
            return Ok(AuditRows::default());
        }
        self.engine.read(|read| {
            let rows = read.open_table(keyspace::AUDIT)?;
            let before = self.beginning(&rows, query)?;
            let mut search = Search::new(query);
            if let (Some(actor), true) = (&query.actor, has_indexes(read)?) {
                let index = read.open_table(keyspace::AUDIT_BY_ACTOR)?;
                let parts = [actor.as_str(), query.project.as_deref().unwrap_or_default()];
                self.search_list(&mut search, &index, &rows, (&scope(parts), before))?;
            } else if let Some(project) = &query.project {
                let index = read.open_table(keyspace::AUDIT_BY_PROJECT)?;
                self.search_list(&mut search, &index, &rows, (&scoped(project, b""), before))?;
            } else {
                let mut rows = rows.range(..before)?.rev();
                while search.goes_on()
                    && let Some(row) = rows.next()
                {
                    self.look_at_one();
                    search.look_at(decode_audit(row?.1.value())?);
                }
            }
            Ok(search.end())
        })
    }

    /// Searches the rows of a list, which is its scope in an index, with smaller numbers than this one.
    fn search_list(
        &self,
        search: &mut Search<'_>,
        index: &impl ReadableTable<Bytes, ()>,
        rows: &impl ReadableTable<u64, Bytes>,
        (scope, before): (&[u8], u64),
    ) -> Act<()> {
        let end = [scope, &before.to_be_bytes()].concat();
        let mut listed = index.range::<&[u8]>((Bound::Included(scope), Bound::Excluded(&*end)))?.rev();
        while search.goes_on()
            && let Some(entry) = listed.next()
        {
            self.look_at_one();
            let entry = entry?.0;
            search.look_at(listed_row(rows, entry.value().get(scope.len()..).unwrap_or_default())?);
        }
        Ok(())
    }

    /// The number behind that of the first row that may be wanted.
    fn beginning(&self, rows: &impl ReadableTable<u64, Bytes>, query: &AuditQuery) -> Act<u64> {
        let before = query.before.unwrap_or(u64::MAX);
        let oldest = rows.first()?.map_or(1, |(oldest, _)| oldest.value());
        let newest = rows.range(..before)?.next_back().transpose()?.map_or(0, |(newest, _)| newest.value());
        let Some(mut beginning) = Beginning::of(query, oldest, newest) else { return Ok(before) };
        while let Some(from) = beginning.asks_for() {
            let mut shown = Vec::new();
            for entry in rows.range(..=from)?.rev().take(ENOUGH) {
                self.look_at_one();
                let row = decode_audit(entry?.1.value())?;
                let is_last = !beginning.is_too_new(&row);
                shown.push(row);
                if is_last {
                    break;
                }
            }
            beginning.show(&shown);
        }
        Ok(beginning.found())
    }

    /// As [`super::super::Store::trim_audit`].
    pub fn trim_audit(&self, before: Timestamp, most: usize) -> Result<usize, StoreError> {
        self.make_room();
        let verifier = self.trust.verifier();
        self.engine.write(|transaction| {
            let mut rows = transaction.open_table(keyspace::AUDIT)?;
            let format = format_in(&transaction.open_table(keyspace::META)?)?;
            let newest = rows.last()?.map_or(0, |(newest, _)| newest.value());
            let mut old = Vec::new();
            for entry in rows.range(..newest)?.take(most) {
                let (sequence, bytes) = entry?;
                let row = decode_audit(bytes.value())?;
                if row.at >= before {
                    break;
                }
                old.push((sequence.value(), row, bytes.value().to_vec()));
            }
            for (sequence, row, _) in &old {
                rows.remove(*sequence)?;
                unlist(transaction, *sequence, row, format)?;
            }
            if format.has_signatures() && !old.is_empty() {
                let known = removed_rows(&transaction.open_table(keyspace::REMOVED_ROWS)?, &verifier)?;
                let mut removed = known.unwrap_or_default();
                old.iter().for_each(|(sequence, _, bytes)| removed.add(*sequence, bytes));
                put_removed_rows(transaction, &verifier, &removed)?;
            }
            Ok(old.len())
        })
    }
}

/// The row that a list points to.
fn listed_row(rows: &impl ReadableTable<u64, Bytes>, sequence: &[u8]) -> Act<AuditEntry> {
    let sequence = sequence.try_into().ok().map(u64::from_be_bytes);
    match rows.get(sequence.unwrap_or_default())? {
        Some(bytes) => Ok(decode_audit(bytes.value())?),
        None => damaged("an audit entry is listed and not there".to_owned()),
    }
}

/// Adds a row behind the last one, with the number that it has if it has one. Without `written` the row does not say what that was.
pub(super) fn append(
    transaction: &WriteTransaction,
    (verifier, format): (&Verifier, Format),
    entry: &AuditEntry,
    written: &[(Place, Left)],
) -> Act<()> {
    let mut rows = transaction.open_table(keyspace::AUDIT)?;
    let last = rows.last()?.map(|(number, row)| (number.value(), row.value().to_vec()));
    let sequence = match entry.sequence {
        0 => last.as_ref().map_or(0, |(last, _)| *last) + 1,
        sequence => sequence,
    };
    let row = AuditEntry { sequence, ..entry.clone() };
    let bytes = if format.has_signatures() {
        // This process is the only one, and all of them go on from each other.
        let chain = last.and_then(|(_, last)| Chain::behind(&last));
        chain.map_or_else(Chain::begin, Ok)?.row(verifier, &row, written)?
    } else {
        encode_audit(&row)
    };
    rows.insert(sequence, &*bytes)?;
    list(transaction, sequence, entry, format)
}

/// What is noted of rows that are gone; `None`: nothing that this pepper has made.
pub(super) fn removed_rows(
    table: &impl ReadableTable<&'static str, Bytes>,
    verifier: &Verifier,
) -> Act<Option<RemovedRows>> {
    Ok(table.get(keyspace::REMOVED_ROWS_LAST)?.and_then(|bytes| RemovedRows::read(verifier, bytes.value())))
}

pub(super) fn put_removed_rows(transaction: &WriteTransaction, verifier: &Verifier, removed: &RemovedRows) -> Act<()> {
    let bytes = removed.write(verifier)?;
    transaction.open_table(keyspace::REMOVED_ROWS)?.insert(keyspace::REMOVED_ROWS_LAST, &*bytes)?;
    Ok(())
}

/// Puts a row on the lists of its project and its actor.
pub(super) fn list(transaction: &WriteTransaction, sequence: u64, entry: &AuditEntry, format: Format) -> Act<()> {
    let number = sequence.to_be_bytes();
    if let Some(project) = &entry.project {
        check_parts([project])?;
        let mut index = transaction.open_table(keyspace::AUDIT_BY_PROJECT)?;
        index.insert(&*scoped(project, &number), ())?;
    }
    if format.has_three() {
        list_by_actor(&mut transaction.open_table(keyspace::AUDIT_BY_ACTOR)?, sequence, entry)?;
    }
    Ok(())
}

/// Takes a row off every list.
fn unlist(transaction: &WriteTransaction, sequence: u64, entry: &AuditEntry, format: Format) -> Act<()> {
    let number = sequence.to_be_bytes();
    if let Some(project) = &entry.project {
        transaction.open_table(keyspace::AUDIT_BY_PROJECT)?.remove(&*scoped(project, &number))?;
    }
    if format.has_three() && is_part(&entry.actor) {
        let mut index = transaction.open_table(keyspace::AUDIT_BY_ACTOR)?;
        for project in [None, entry.project.as_deref()] {
            index.remove(&*within([&entry.actor, project.unwrap_or_default()], &number))?;
        }
    }
    Ok(())
}

/// Puts a row on the lists of its actor.
pub(super) fn list_by_actor(index: &mut Table<'_, Bytes, ()>, sequence: u64, entry: &AuditEntry) -> Act<()> {
    if is_part(&entry.actor) {
        let number = sequence.to_be_bytes();
        for project in [None, entry.project.as_deref()] {
            index.insert(&*within([&entry.actor, project.unwrap_or_default()], &number), ())?;
        }
    }
    Ok(())
}
