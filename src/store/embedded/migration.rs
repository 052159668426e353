//! The embedded store as one end of a migration. Never overwrites a record, and never forgets one.

use std::io::{self, Write};
use std::ops::Bound;
use std::path::Path;
use std::time::Duration;

use redb::{Key, ReadTransaction, ReadableTable, TableDefinition, Value, WriteTransaction};
use tollgate_guard::time::Timestamp;

use super::super::chain::{RemovedRows, demand_row};
use super::super::format::{Format, UNFINISHED};
use super::super::keyspace::{self, META_FORMAT, META_SEQUENCE, MIGRATION_ORIGIN, id_key};
use super::super::kind::Kind;
use super::super::migration::Begun;
use super::super::page::Page;
use super::super::record::{Record, by_kind};
use super::super::records::audit::decode_audit;
use super::super::records::noun::Noun;
use super::super::records::written::Written;
use super::super::signature::Verifier;
use super::super::snapshot::{End, Header, Signer, SnapshotWriter};
use super::super::upgrade::UPGRADE_FIRST;
use super::super::{PepperCheck, StoreError};
use super::act::{Act, Failure, conflict};
use super::counts::Counts;
use super::engine::Admits;
use super::keys::{indexed_key, known_id};
use super::records::Records;
use super::{Embedded, indexes, journal, records};
use crate::domain::record::AuditEntry;

/// How many records of a snapshot are read at once.
const PAGE: usize = 500;

impl Embedded {
    /// As [`Embedded::open`], also a store that a migration has begun to fill.
    pub(in crate::store) fn open_for_migration(path: &Path) -> Result<Self, StoreError> {
        Self::open_if(path, Duration::ZERO, Admits::Unfinished)
    }

    pub(in crate::store) fn begin_migration(&self, origin: &str) -> Result<Begun, StoreError> {
        self.engine.write(|transaction| {
            let mut meta = transaction.open_table(keyspace::META)?;
            let mut migration = transaction.open_table(keyspace::MIGRATION)?;
            let format = meta.get(META_FORMAT)?.map(|format| format.value());
            let known = migration.get(MIGRATION_ORIGIN)?.map(|known| known.value().to_owned());
            match (format, known) {
                (Some(UNFINISHED), Some(known)) if known != origin => conflict(format!(
                    "another migration fills the target, from {known}: end that one, or use another target"
                )),
                (Some(UNFINISHED), _) => {
                    migration.insert(MIGRATION_ORIGIN, origin)?;
                    Ok(Begun::Open)
                }
                (_, Some(known)) if known == origin => Ok(Begun::Ended),
                _ => {
                    if meta.get(META_SEQUENCE)?.is_some_and(|last| last.value() > 0) {
                        return conflict("the target holds records already: use an empty one".to_owned());
                    }
                    migration.insert(MIGRATION_ORIGIN, origin)?;
                    meta.insert(META_FORMAT, UNFINISHED)?;
                    Ok(Begun::Open)
                }
            }
        })
    }

    /// Opens it, laid out like this, with this row behind the others.
    pub(in crate::store) fn end_migration(&self, format: Format, row: Option<&AuditEntry>) -> Result<(), StoreError> {
        let sequence = self.engine.write(|transaction| {
            let mut meta = transaction.open_table(keyspace::META)?;
            if meta.insert(META_FORMAT, format.in_file())?.map(|format| format.value()) == Some(UNFINISHED) {
                drop(meta);
                if format.has_indexes_of_three() {
                    // The source may have been raised meanwhile, with records that were carried over before.
                    indexes::fill(transaction)?;
                }
                let verifier = &self.trust.verifier();
                if format.has_signatures() {
                    note_removed_rows(transaction, verifier)?;
                }
                row.map_or(Ok(()), |row| journal::append(transaction, (verifier, format), row, &[]))?;
                return records::number(transaction);
            }
            Ok(0)
        })?;
        self.engine.acknowledge(sequence);
        self.trust.of(format);
        Ok(())
    }

    /// Records of one kind behind a place.
    pub(in crate::store) fn page(&self, kind: Kind, after: Option<&[u8]>, limit: usize) -> Result<Page, StoreError> {
        let verifier = self.trust.verifier();
        self.engine.read(|read| page(&verifier, read, kind, after, limit))
    }

    /// Writes a snapshot of one moment, however long it takes. Gives what it was written to.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the store is being upgraded, or `out` takes no more.
    pub fn snapshot<W: Write>(&self, out: W, made_at: Timestamp, signer: &Signer) -> Result<(W, End), StoreError> {
        let cut_off =
            |error: io::Error| Failure::Refused(StoreError::Conflict(format!("the backup was cut off: {error}")));
        let verifier = self.trust.verifier();
        self.engine.read(|read| {
            let meta = read.open_table(keyspace::META)?;
            let format = super::format_in(&meta)?;
            if format.is_under_way() {
                return conflict(UPGRADE_FIRST.to_owned());
            }
            self.trust.demand_of(format)?;
            let sequence = meta.get(META_SEQUENCE)?.map_or(0, |last| last.value());
            let release = env!("CARGO_PKG_VERSION").to_owned();
            let header =
                Header { made_at, format, pepper: signer.pepper(), release, lineage: None, was: String::new() };
            let mut writer = SnapshotWriter::begin(out, &header, signer).map_err(cut_off)?;
            for kind in Kind::ALL.into_iter().filter(|kind| kind.is_in_snapshots()) {
                let mut after = None;
                loop {
                    if !self.engine.is_open() {
                        // It is opened again only when nobody reads from it any more.
                        return conflict("the backup was cut off: the store has failed meanwhile".to_owned());
                    }
                    let page = page(&verifier, read, kind, after.as_deref(), PAGE)?;
                    page.records.iter().try_for_each(|record| writer.record(record)).map_err(cut_off)?;
                    after = page.next;
                    if after.is_none() {
                        break;
                    }
                }
            }
            writer.end(sequence, "").map_err(cut_off)
        })
    }

    /// Puts records where none are, all or none, as a store of this format has them.
    pub(in crate::store) fn import(&self, records: &[Record], format: Format) -> Result<(), StoreError> {
        let verifier = &self.trust.verifier();
        self.engine.write(|transaction| {
            let stored = transaction.open_table(keyspace::META)?.get(META_FORMAT)?.map(|format| format.value());
            if stored != Some(UNFINISHED) {
                return conflict("no migration fills this store".to_owned());
            }
            let mut counts = Counts::default();
            let mut tables =
                Records { transaction, format, verifier, counts: &mut counts, written: Written::default() };
            records.iter().try_for_each(|record| put(&mut tables, record))
        })
    }
}

/// Records of one kind behind a place.
fn page(verifier: &Verifier, read: &ReadTransaction, kind: Kind, after: Option<&[u8]>, limit: usize) -> Act<Page> {
    let records = by_kind!(kind, N => all::<N>(verifier, read, after, limit),
            Kind::Keys => keys(verifier, read, after, limit),
            Kind::Peppers => behind(read, keyspace::PEPPERS, after.map(number), limit, |version, check| {
                Ok(Record::Pepper(PepperCheck { version, check: *check }))
            }),
            Kind::LastUses => behind(read, keyspace::LAST_USED, array(after).as_ref(), limit, |id, at| {
                Ok(Record::LastUse(known_id(id)?, Timestamp::from_millis(at)))
            }),
            Kind::Audit => {
                let noted = journal::removed_rows(&read.open_table(keyspace::REMOVED_ROWS)?, verifier)?;
                let unsigned = noted.map_or(0, |noted| noted.unsigned_rows);
                behind(read, keyspace::AUDIT, array(after).map(u64::from_be_bytes), limit, |number, bytes| {
                    demand_row(verifier, number, bytes, unsigned)?;
                    Ok(Record::Audit(decode_audit(bytes)?))
                })
            },
    )?;
    Ok(Page::of(records, limit))
}

fn put(tables: &mut Records<'_, '_>, record: &Record) -> Act<()> {
    let taken = || conflict(format!("{} is there already", record.name()));
    if record.is_taken(tables)? {
        return taken();
    }
    // A file forgets nothing by itself.
    if record.put(tables, Timestamp::default())? {
        return Ok(());
    }
    let transaction = tables.transaction;
    let was_there = match record {
        Record::Audit(row) => return put_row(transaction, row, (tables.verifier, tables.format)),
        Record::Pepper(pepper) => {
            transaction.open_table(keyspace::PEPPERS)?.insert(pepper.version, &pepper.check)?.is_some()
        }
        Record::LastUse(id, at) => {
            transaction.open_table(keyspace::LAST_USED)?.insert(&id_key(id), at.as_millis())?.is_some()
        }
        _ => false,
    };
    if was_there { taken() } else { Ok(()) }
}

/// Behind the last one, with the number that it has.
fn put_row(transaction: &WriteTransaction, row: &AuditEntry, how: (&Verifier, Format)) -> Act<()> {
    let last = transaction.open_table(keyspace::AUDIT)?.last()?.map_or(0, |(last, _)| last.value());
    // The oldest ones may have been removed.
    if row.sequence <= last || (last > 0 && last + 1 != row.sequence) {
        return conflict(format!("row {} of the audit log cannot follow row {last}", row.sequence));
    }
    journal::append(transaction, how, row, &[])
}

/// Notes which rows the source had lost.
fn note_removed_rows(transaction: &WriteTransaction, verifier: &Verifier) -> Act<()> {
    let oldest = transaction.open_table(keyspace::AUDIT)?.first()?.map_or(1, |(oldest, _)| oldest.value());
    if oldest > 1 {
        let removed = RemovedRows { last: oldest - 1, ..RemovedRows::default() };
        journal::put_removed_rows(transaction, verifier, &removed)?;
    }
    Ok(())
}

fn keys(verifier: &Verifier, read: &ReadTransaction, after: Option<&[u8]>, limit: usize) -> Act<Vec<Record>> {
    let keys = read.open_table(keyspace::KEYS)?;
    behind(read, keyspace::KEY_IDS, array(after).as_ref(), limit, |id, digest| {
        Ok(Record::Key(indexed_key(verifier, &keys, digest, &known_id(id)?)?))
    })
}

/// A page of a kind.
fn all<N: Noun + Into<Record>>(
    verifier: &Verifier,
    read: &ReadTransaction,
    after: Option<&[u8]>,
    limit: usize,
) -> Act<Vec<Record>> {
    Ok(records::page::<N>(verifier, read, after, limit)?.into_iter().map(N::into).collect())
}

/// A page of a table, behind this key.
fn behind<K: Key + 'static, V: Value + 'static>(
    read: &ReadTransaction,
    table: TableDefinition<'_, K, V>,
    after: Option<K::SelfType<'_>>,
    limit: usize,
    record: impl for<'v> Fn(K::SelfType<'v>, V::SelfType<'v>) -> Act<Record>,
) -> Act<Vec<Record>> {
    let table = read.open_table(table)?;
    let start = after.map_or(Bound::Unbounded, Bound::Excluded);
    let mut page = Vec::new();
    for entry in table.range::<K::SelfType<'_>>((start, Bound::Unbounded))?.take(limit) {
        let (key, value) = entry?;
        page.push(record(key.value(), value.value())?);
    }
    Ok(page)
}

/// The bytes of a place of fixed length.
fn array<const N: usize>(place: Option<&[u8]>) -> Option<[u8; N]> {
    place.and_then(|place| place.try_into().ok())
}

fn number(place: &[u8]) -> u32 {
    array(Some(place)).map_or(0, u32::from_be_bytes)
}
