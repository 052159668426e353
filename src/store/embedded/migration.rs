//! The embedded store as one end of a migration. Never overwrites a record, and never forgets one.

use std::ops::Bound;
use std::path::Path;
use std::time::Duration;

use redb::{Key, ReadTransaction, ReadableTable, TableDefinition, Value, WriteTransaction};
use tollgate_guard::time::Timestamp;

use super::super::format::{Format, UNFINISHED};
use super::super::keyspace::{self, Bytes, META_FORMAT, META_SEQUENCE, MIGRATION_ORIGIN, id_key, timed};
use super::super::migration::{Begun, Kind, Page, Record};
use super::super::records::{
    decode_audit, decode_ended_session, decode_once, decode_project, decode_resource, decode_sessions,
    decode_signing_key, decode_user, encode_audit, encode_ended_session, encode_once, encode_project,
};
use super::super::rules::check_parts;
use super::super::{PepperCheck, StoreError, Write};
use super::act::{Act, conflict};
use super::batch::Batch;
use super::counts::Counts;
use super::engine::Admits;
use super::keys::{indexed_key, known_id};
use super::{Embedded, indexes, journal, sessions};
use crate::domain::record::{AuditEntry, EndedSession};

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
                (Some(UNFINISHED), _) => Ok(Begun::Open),
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

    /// Opens it, laid out like this.
    pub(in crate::store) fn end_migration(&self, format: Format) -> Result<(), StoreError> {
        let sequence = self.engine.write(|transaction| {
            let mut meta = transaction.open_table(keyspace::META)?;
            if meta.insert(META_FORMAT, format.in_file())?.map(|format| format.value()) == Some(UNFINISHED) {
                drop(meta);
                if format.has_indexes_of_three() {
                    // The source may have been raised meanwhile, with records that were carried over before.
                    indexes::fill(transaction)?;
                }
                return Batch::begin(transaction, format)?.number();
            }
            Ok(0)
        })?;
        self.engine.acknowledge(sequence);
        Ok(())
    }

    /// Records of one kind behind a place.
    pub(in crate::store) fn page(&self, kind: Kind, after: Option<&[u8]>, limit: usize) -> Result<Page, StoreError> {
        let records = self.engine.read(|read| match kind {
            Kind::Keys => keys(read, after, limit),
            Kind::Projects => {
                named(read, keyspace::PROJECTS, after, limit, |bytes| Ok(Record::Project(decode_project(bytes)?)))
            }
            Kind::Users => named(read, keyspace::USERS, after, limit, |bytes| Ok(Record::User(decode_user(bytes)?))),
            Kind::EndedSessions => named(read, keyspace::ENDED_SESSIONS, after, limit, |bytes| {
                Ok(Record::EndedSession(decode_ended_session(bytes)?))
            }),
            Kind::Sessions => {
                let after = after.and_then(|after| std::str::from_utf8(after).ok());
                behind(read, keyspace::SESSIONS, after, limit, |user, bytes| {
                    Ok(Record::Sessions(decode_sessions(bytes, user)?))
                })
            }
            Kind::SigningKeys => named(read, keyspace::SIGNING_KEYS, after, limit, |bytes| {
                Ok(Record::SigningKey(decode_signing_key(bytes)?))
            }),
            Kind::Resources => behind(read, keyspace::RESOURCES, after, limit, |_, bytes| {
                Ok(Record::Resource(decode_resource(bytes)?))
            }),
            Kind::Peppers => behind(read, keyspace::PEPPERS, after.map(number), limit, |version, check| {
                Ok(Record::Pepper(PepperCheck { version, check: *check }))
            }),
            Kind::LastUses => behind(read, keyspace::LAST_USED, array(after).as_ref(), limit, |id, at| {
                Ok(Record::LastUse(known_id(id)?, Timestamp::from_millis(at)))
            }),
            Kind::Once => behind(read, keyspace::ONCE, array(after).as_ref(), limit, |digest, bytes| {
                Ok(Record::Once(decode_once(*digest, bytes)?))
            }),
            Kind::Audit => behind(read, keyspace::AUDIT, array(after).map(u64::from_be_bytes), limit, |_, bytes| {
                Ok(Record::Audit(decode_audit(bytes)?))
            }),
        })?;
        Ok(Page::of(records, limit))
    }

    /// Puts records where none are, all or none, as a store of this format has them.
    pub(in crate::store) fn import(&self, records: &[Record], format: Format) -> Result<(), StoreError> {
        self.engine.write(|transaction| {
            let stored = transaction.open_table(keyspace::META)?.get(META_FORMAT)?.map(|format| format.value());
            if stored != Some(UNFINISHED) {
                return conflict("no migration fills this store".to_owned());
            }
            let (mut ordinary, mut others) = (Vec::new(), Vec::new());
            for record in records {
                match record {
                    Record::Key(key) => ordinary.push(Write::CreateKey(key.clone())),
                    Record::Resource(resource) => ordinary.push(Write::CreateResource(resource.clone())),
                    Record::User(user) => ordinary.push(Write::CreateUser(user.clone())),
                    Record::SigningKey(key) => ordinary.push(Write::CreateSigningKey(key.clone())),
                    other => others.push(other),
                }
            }
            let mut tables = Batch::begin(transaction, format)?;
            for step in &ordinary {
                tables.step(step, &mut Counts::default())?;
            }
            drop(tables);
            others.into_iter().try_for_each(|record| put(transaction, record, format))
        })
    }
}

/// Puts a record that no ordinary write makes as it is.
fn put(transaction: &WriteTransaction, record: &Record, format: Format) -> Act<()> {
    let was_there = match record {
        Record::Project(project) => {
            check_parts([&project.name])?;
            let mut projects = transaction.open_table(keyspace::PROJECTS)?;
            projects.insert(&*project.name, &*encode_project(project))?.is_some()
        }
        Record::EndedSession(session) => put_ended_session(transaction, session)?,
        Record::Sessions(sessions) => sessions::import(transaction, sessions)?,
        Record::Pepper(pepper) => {
            transaction.open_table(keyspace::PEPPERS)?.insert(pepper.version, &pepper.check)?.is_some()
        }
        Record::LastUse(id, at) => {
            transaction.open_table(keyspace::LAST_USED)?.insert(&id_key(id), at.as_millis())?.is_some()
        }
        Record::Once(once) => {
            let mut by_time = transaction.open_table(keyspace::ONCE_BY_TIME)?;
            by_time.insert(&*timed(once.at, &once.digest), ())?;
            transaction.open_table(keyspace::ONCE)?.insert(&once.digest, &*encode_once(once))?.is_some()
        }
        Record::Audit(row) => return put_row(transaction, row, format),
        // The ordinary writes have made these.
        Record::User(_) | Record::SigningKey(_) | Record::Resource(_) | Record::Key(_) => false,
    };
    if was_there { conflict(format!("{} is there already", record.name())) } else { Ok(()) }
}

fn put_ended_session(transaction: &WriteTransaction, session: &EndedSession) -> Act<bool> {
    check_parts([&session.id])?;
    let mut by_expiry = transaction.open_table(keyspace::ENDED_SESSIONS_BY_EXPIRY)?;
    by_expiry.insert(&*timed(session.expires_at, session.id.as_bytes()), ())?;
    let mut sessions = transaction.open_table(keyspace::ENDED_SESSIONS)?;
    Ok(sessions.insert(&*session.id, &*encode_ended_session(session))?.is_some())
}

/// Behind the last one, with the number that it has.
fn put_row(transaction: &WriteTransaction, row: &AuditEntry, format: Format) -> Act<()> {
    let mut rows = transaction.open_table(keyspace::AUDIT)?;
    let last = rows.last()?.map_or(0, |(last, _)| last.value());
    // The oldest ones may have been removed.
    if row.sequence <= last || (last > 0 && last + 1 != row.sequence) {
        return conflict(format!("row {} of the audit log cannot follow row {last}", row.sequence));
    }
    rows.insert(row.sequence, &*encode_audit(row))?;
    journal::list(transaction, row.sequence, row, format)
}

fn keys(read: &ReadTransaction, after: Option<&[u8]>, limit: usize) -> Act<Vec<Record>> {
    let keys = read.open_table(keyspace::KEYS)?;
    behind(read, keyspace::KEY_IDS, array(after).as_ref(), limit, |id, digest| {
        Ok(Record::Key(indexed_key(&keys, digest, &known_id(id)?)?))
    })
}

/// As [`behind`], where the names are texts.
fn named(
    read: &ReadTransaction,
    table: TableDefinition<'_, &'static str, Bytes>,
    after: Option<&[u8]>,
    limit: usize,
    record: impl Fn(&[u8]) -> Act<Record>,
) -> Act<Vec<Record>> {
    let after = after.and_then(|after| std::str::from_utf8(after).ok());
    behind(read, table, after, limit, |_, bytes| record(bytes))
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
