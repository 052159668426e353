//! The default store: redb in one file, owned by one process. Every write is on the disk when it is acknowledged, and
//! every act blocks. Never answers from a database that has failed.

mod batch;
mod counts;
mod engine;
mod indexes;
mod journal;
mod migration;
mod projects;
mod reserve;
mod sessions;
mod source;
mod upgrade;
mod users;

use std::io;
use std::ops::Bound;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use redb::backends::InMemoryBackend;
use redb::{Range, ReadOnlyTable, ReadTransaction, ReadableTable, ReadableTableMetadata, StorageBackend};

use super::format::Format;
use super::keyspace::{
    self, Bytes, DigestKey, META_FORMAT, META_SEQUENCE, id_key, is_part, key_id, rest_of, scope_end, scoped,
};
use super::records::{decode_key, decode_resource};
use super::rules::Purpose;
use super::{KeyLoad, KeyQuery, PepperCheck, ResourceQuery, SessionLoad, StoreError, Write};
use crate::domain::credential::{Digest, KeyId};
use crate::domain::record::{ApiKey, Resource};
use crate::domain::time::Timestamp;
use batch::Batch;
use counts::Counts;
use engine::{Act, Admits, Engine, OpenError};
use reserve::Reserve;
use source::Source;

pub use source::BackendFactory;

/// Records that are passed over to come to the next one of a page, before it is looked up.
const NEAR: usize = 4;
/// How often a lock that another process holds is tried.
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// The store in one file. After a fault of the disk it opens itself again.
#[derive(Debug)]
pub struct Embedded {
    engine: Engine,
    /// `None`: what was given is no file.
    reserve: Option<Reserve>,
    /// Rows that lists have looked at.
    looked_at: AtomicU64,
    counts: Mutex<Counts>,
}

impl Embedded {
    /// Opens the file, or makes it with mode 0600; its folder must be there. Waits up to `wait` while another process
    /// owns the file.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if it cannot be opened, with what to do about it; [`StoreError::Damaged`] if it is no
    /// store.
    pub fn open(path: &Path, wait: Duration) -> Result<Self, StoreError> {
        Self::open_if(path, wait, Admits::Whole)
    }

    fn open_if(path: &Path, wait: Duration, admits: Admits) -> Result<Self, StoreError> {
        let deadline = Instant::now() + wait;
        let mut has_warned = false;
        loop {
            match Engine::open(Source::file(path), admits) {
                Ok(engine) => {
                    let reserve = Some(Reserve::beside(path));
                    return Ok(Self { engine, reserve, looked_at: AtomicU64::new(0), counts: Mutex::default() });
                }
                Err(OpenError::Failed(error)) => return Err(error),
                Err(OpenError::Locked) if Instant::now() < deadline => {
                    if !std::mem::replace(&mut has_warned, true) {
                        let (store, seconds) = (path.display(), wait.as_secs());
                        tracing::warn!(%store, "another process has the store open: waiting up to {seconds} s for it to end");
                    }
                    std::thread::sleep(LOCK_RETRY);
                }
                Err(OpenError::Locked) => {
                    return Err(StoreError::Unavailable(format!(
                        "{} is in use by another process, and only one may own it: stop that one, or reach the store \
                         through its admin socket",
                        path.display()
                    )));
                }
            }
        }
    }

    /// Opens a store on other storage. The factory is called again after each fault.
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub fn open_with(backend: BackendFactory) -> Result<Self, StoreError> {
        match Engine::open(Source::Backend(backend), Admits::Whole) {
            Ok(engine) => Ok(Self { engine, reserve: None, looked_at: AtomicU64::new(0), counts: Mutex::default() }),
            Err(OpenError::Failed(error)) => Err(error),
            Err(OpenError::Locked) => Err(StoreError::Unavailable("the given storage is in use".to_owned())),
        }
    }

    /// An empty store that is gone when it is dropped.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if it cannot be made.
    pub fn in_memory() -> Result<Self, StoreError> {
        let memory = Mutex::new(Some(InMemoryBackend::new()));
        Self::open_with(std::sync::Arc::new(move || {
            let memory = memory.lock().unwrap_or_else(PoisonError::into_inner).take();
            let memory = memory.ok_or_else(|| io::Error::other("what was in memory is lost"))?;
            Ok(Box::new(memory) as Box<dyn StorageBackend>)
        }))
    }

    pub fn key_by_digest(&self, digests: &[Digest]) -> Result<Option<ApiKey>, StoreError> {
        self.engine.read(|read| key_of_digests(&read.open_table(keyspace::KEYS)?, digests))
    }

    pub fn key(&self, id: KeyId) -> Result<Option<ApiKey>, StoreError> {
        self.engine.read(|read| {
            let key_ids = read.open_table(keyspace::KEY_IDS)?;
            let Some(digest) = key_ids.get(&id_key(&id))? else { return Ok(None) };
            indexed_key(&read.open_table(keyspace::KEYS)?, digest.value(), &id).map(Some)
        })
    }

    pub fn keys(&self, query: &KeyQuery) -> Result<Vec<ApiKey>, StoreError> {
        let (after, limit) = (query.after.as_ref(), query.limit);
        self.engine.read(|read| {
            if let Some(project) = query.project.as_ref().filter(|project| is_part(project))
                && has_indexes(read)?
            {
                return self.keys_in_project(read, project, query);
            }
            let key_ids = read.open_table(keyspace::KEY_IDS)?;
            let page = match (&query.project, &query.plane) {
                (Some(project), plane) => {
                    let index = read.open_table(keyspace::KEYS_BY_PROJECT)?;
                    let wanted = |of: &[u8]| {
                        self.look_at_one();
                        plane.as_ref().is_none_or(|plane| plane.as_bytes() == of)
                    };
                    key_ids_in(&index, project, after, limit, wanted)?
                }
                (None, Some(plane)) => {
                    let looked_at = |()| {
                        self.look_at_one();
                        true
                    };
                    key_ids_in(&read.open_table(keyspace::KEYS_BY_PLANE)?, plane, after, limit, looked_at)?
                }
                (None, None) => {
                    let after = after.map(id_key);
                    let start = after.as_ref().map_or(Bound::Unbounded, Bound::Excluded);
                    let mut page = Vec::new();
                    for entry in key_ids.range::<&[u8; 12]>((start, Bound::Unbounded))?.take(limit) {
                        page.push(known_id(entry?.0.value())?);
                    }
                    page
                }
            };
            let keys = read.open_table(keyspace::KEYS)?;
            let record = |id: KeyId| match key_ids.get(&id_key(&id))? {
                Some(digest) => indexed_key(&keys, digest.value(), &id),
                None => damaged(format!("key {id} is listed and not there")),
            };
            page.into_iter().map(record).collect()
        })
    }

    /// A page of the keys of one project, where all of them lie together.
    fn keys_in_project(&self, read: &ReadTransaction, project: &str, query: &KeyQuery) -> Act<Vec<ApiKey>> {
        let (after, limit) = (query.after.as_ref(), query.limit);
        let records = read.open_table(keyspace::KEYS_IN_PROJECTS)?;
        if let Some(plane) = &query.plane {
            let index = read.open_table(keyspace::KEYS_BY_BOTH)?;
            let page = self.key_ids_of_both(&index, [project, plane], after, limit)?;
            return records_of(&records, project, &page);
        }
        let (first, end) = (scoped(project, b""), scope_end(project));
        let after = after.map(|id| scoped(project, &id_key(id)));
        let start = after.as_deref().map_or(Bound::Included(&*first), Bound::Excluded);
        let mut page = Vec::new();
        for entry in records.range::<&[u8]>((start, Bound::Excluded(&*end)))?.take(limit) {
            self.look_at_one();
            let (place, bytes) = entry?;
            page.push(listed_key(place.value(), bytes.value())?);
        }
        Ok(page)
    }

    /// A page of the ids of one project and plane, in order.
    fn key_ids_of_both(
        &self,
        index: &impl ReadableTable<Bytes, ()>,
        parts: [&str; 2],
        after: Option<&KeyId>,
        limit: usize,
    ) -> Act<Vec<KeyId>> {
        if !parts.into_iter().all(is_part) {
            return Ok(Vec::new());
        }
        let first = keyspace::scope(parts);
        let end = keyspace::scope_end_of(&first);
        let after = after.map(|id| keyspace::within(parts, &id_key(id)));
        let start = after.as_deref().map_or(Bound::Included(&*first), Bound::Excluded);
        let mut page = Vec::new();
        for entry in index.range::<&[u8]>((start, Bound::Excluded(&*end)))?.take(limit) {
            self.look_at_one();
            page.push(known_id(entry?.0.value().get(first.len()..).unwrap_or_default())?);
        }
        Ok(page)
    }

    fn look_at_one(&self) {
        self.looked_at.fetch_add(1, Ordering::Relaxed);
    }

    /// How many rows lists of keys, users and the audit log have looked at since the store was opened: what a page costs.
    pub fn looked_at(&self) -> u64 {
        self.looked_at.load(Ordering::Relaxed)
    }

    pub fn resource(&self, kind: &str, id: &str) -> Result<Option<Resource>, StoreError> {
        if !is_part(kind) || !is_part(id) {
            return Ok(None);
        }
        self.engine.read(|read| stored_resource(&read.open_table(keyspace::RESOURCES)?, &scoped(kind, id.as_bytes())))
    }

    pub fn resources(&self, query: &ResourceQuery) -> Result<Vec<Resource>, StoreError> {
        let parts = [&query.kind, &query.project].into_iter().flatten();
        if !parts.into_iter().all(|part| is_part(part)) {
            return Ok(Vec::new());
        }
        let after = query.after.as_ref().map(|(kind, id)| scoped(kind, id.as_bytes()));
        let first = query.kind.as_ref().map_or_else(Vec::new, |kind| scoped(kind, b""));
        // Of the two lower bounds the one that is further on.
        let start = match after {
            Some(after) if after >= first => Bound::Excluded(after),
            _ => Bound::Included(first),
        };
        let end = query.kind.as_ref().map_or(Bound::Unbounded, |kind| Bound::Excluded(scope_end(kind)));
        self.engine.read(|read| {
            let resources = read.open_table(keyspace::RESOURCES)?;
            let mut page = Vec::new();
            if let Some(project) = &query.project {
                let index = read.open_table(keyspace::RESOURCES_BY_PROJECT)?;
                let start = start.as_ref().map(|key| scoped(project, key));
                let end = match &end {
                    Bound::Excluded(key) => scoped(project, key),
                    _ => scope_end(project),
                };
                let bounds = (start.as_ref().map(Vec::as_slice), Bound::Excluded(&*end));
                for entry in index.range::<&[u8]>(bounds)?.take(query.limit) {
                    let entry = entry?.0;
                    let key = rest_of(entry.value()).unwrap_or_default();
                    match stored_resource(&resources, key)? {
                        Some(resource) => page.push(resource),
                        None => return damaged("a resource is listed and not there".to_owned()),
                    }
                }
            } else {
                let bounds = (start.as_ref().map(Vec::as_slice), end.as_ref().map(Vec::as_slice));
                for entry in resources.range::<&[u8]>(bounds)?.take(query.limit) {
                    page.push(decode_resource(entry?.1.value())?);
                }
            }
            Ok(page)
        })
    }

    /// The key with one of these digests and what is said of its project, of one moment.
    pub fn load_key(&self, digests: &[Digest]) -> Result<Option<KeyLoad>, StoreError> {
        self.engine.read(|read| {
            let Some(key) = key_of_digests(&read.open_table(keyspace::KEYS)?, digests)? else { return Ok(None) };
            let project = projects::stored(&read.open_table(keyspace::PROJECTS)?, &key.project)?;
            Ok(Some(KeyLoad { key, project }))
        })
    }

    /// A user, whether one of their sessions was ended, and what is said of their project, of one moment.
    pub fn load_session(&self, user: &str, session: &str) -> Result<SessionLoad, StoreError> {
        self.engine.read(|read| {
            let user = users::stored(&read.open_table(keyspace::USERS)?, user)?;
            let ended = read.open_table(keyspace::ENDED_SESSIONS)?.get(session)?.is_some();
            let project = match &user {
                Some(user) => projects::stored(&read.open_table(keyspace::PROJECTS)?, &user.project)?,
                None => None,
            };
            Ok(SessionLoad { user, ended, project })
        })
    }

    /// # Errors
    /// [`StoreError::Full`] where only what ends something is taken, because the disk is full.
    pub fn apply(&self, batch: &[Write]) -> Result<u64, StoreError> {
        self.demand_room(batch)?;
        // Writes follow each other anyway.
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let written = self.engine.write(|transaction| {
            let format = format_in(&transaction.open_table(keyspace::META)?)?;
            let mut tables = Batch::begin(transaction, format)?;
            for step in batch {
                tables.step(step, &mut counts)?;
            }
            tables.number()
        });
        if written.is_err() {
            *counts = Counts::default();
        }
        let sequence = written?;
        self.engine.acknowledge(sequence);
        Ok(sequence)
    }

    /// As [`super::Store::format`].
    pub fn format(&self) -> Result<Format, StoreError> {
        self.engine.read(|read| format_in(&read.open_table(keyspace::META)?))
    }

    /// Sees to it that there is room for the batch before the database is touched: it does not survive a full disk.
    fn demand_room(&self, batch: &[Write]) -> Result<(), StoreError> {
        if self.reserve.is_none() {
            return Ok(());
        }
        let mut purpose = Purpose::default();
        for step in batch {
            let user = match step {
                Write::UpdateUser(user) => self.user(&user.name)?,
                _ => None,
            };
            purpose.note(step, user.as_ref());
        }
        if purpose.only_ends() {
            self.make_room();
            return Ok(());
        }
        self.demand_space()
    }

    /// Gives some of the room back that is kept, if it is needed.
    fn make_room(&self) {
        if let Some(reserve) = &self.reserve {
            reserve.make_room();
        }
    }

    /// Refuses what can wait while there is no room but what is kept.
    fn demand_space(&self) -> Result<(), StoreError> {
        let shortage = self.reserve.as_ref().and_then(Reserve::shortage);
        shortage.map_or(Ok(()), |reason| Err(StoreError::Full(reason)))
    }

    /// The number of the last batch that was applied.
    pub fn sequence(&self) -> Result<u64, StoreError> {
        self.engine.read(|read| Ok(read.open_table(keyspace::META)?.get(META_SEQUENCE)?.map_or(0, |last| last.value())))
    }

    pub fn note_use(&self, uses: &[(KeyId, Timestamp)]) -> Result<(), StoreError> {
        if uses.is_empty() {
            return Ok(());
        }
        self.demand_space()?;
        self.engine.write(|transaction| {
            let mut last_used = transaction.open_table(keyspace::LAST_USED)?;
            for (id, at) in uses {
                let (id, at) = (id_key(id), at.as_millis());
                let known = last_used.get(&id)?.map(|known| known.value());
                if known.is_none_or(|known| known < at) {
                    last_used.insert(&id, at)?;
                }
            }
            Ok(())
        })
    }

    pub fn forget_use(&self, ids: &[KeyId]) -> Result<(), StoreError> {
        self.engine.write(|transaction| {
            let mut last_used = transaction.open_table(keyspace::LAST_USED)?;
            for id in ids {
                last_used.remove(&id_key(id))?;
            }
            Ok(())
        })
    }

    pub fn last_used(&self, ids: &[KeyId]) -> Result<Vec<Option<Timestamp>>, StoreError> {
        self.engine.read(|read| {
            let last_used = read.open_table(keyspace::LAST_USED)?;
            let of = |id: &KeyId| Ok(last_used.get(&id_key(id))?.map(|at| Timestamp::from_millis(at.value())));
            ids.iter().map(of).collect()
        })
    }

    /// Whether it can be read, and what is written would be found again.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] with what to do.
    pub fn check(&self) -> Result<(), StoreError> {
        self.engine.is_in_place()?;
        self.has_no_keys().map(|_| ())
    }

    pub fn has_no_keys(&self) -> Result<bool, StoreError> {
        self.engine.read(|read| Ok(read.open_table(keyspace::KEYS)?.is_empty()?))
    }

    pub fn pepper_checks(&self) -> Result<Vec<PepperCheck>, StoreError> {
        self.engine.read(|read| {
            let mut checks = Vec::new();
            for entry in read.open_table(keyspace::PEPPERS)?.iter()? {
                let (version, check) = entry?;
                checks.push(PepperCheck { version: version.value(), check: *check.value() });
            }
            Ok(checks)
        })
    }

    pub fn put_pepper_check(&self, check: PepperCheck) -> Result<(), StoreError> {
        self.engine.write(|transaction| {
            let mut peppers = transaction.open_table(keyspace::PEPPERS)?;
            let known = peppers.insert(check.version, &check.check)?.map(|known| *known.value());
            match known {
                Some(known) if known != check.check => {
                    let reason = format!("pepper version {} is known with another value", check.version);
                    Err(StoreError::Conflict(reason).into())
                }
                _ => Ok(()),
            }
        })
    }
}

fn format_in(meta: &impl ReadableTable<&'static str, u64>) -> Act<Format> {
    Ok(Format::of_file(meta.get(META_FORMAT)?.map_or(0, |format| format.value()))?)
}

/// Whether every record stands in every index.
fn has_indexes(read: &ReadTransaction) -> Act<bool> {
    Ok(format_in(&read.open_table(keyspace::META)?)?.has_indexes_of_three())
}

fn key_of_digests(keys: &impl ReadableTable<DigestKey, Bytes>, digests: &[Digest]) -> Act<Option<ApiKey>> {
    for digest in digests {
        if let Some(bytes) = keys.get(&digest.0)? {
            let key = decode_key(bytes.value())?;
            if !key.digest.matches(digest) {
                return damaged(format!("the record of key {} stands in the wrong place", key.id));
            }
            return Ok(Some(key));
        }
    }
    Ok(None)
}

/// A page of the ids in one scope of an index, in order.
fn key_ids_in<V: redb::Value + 'static>(
    index: &impl ReadableTable<Bytes, V>,
    scope: &str,
    after: Option<&KeyId>,
    limit: usize,
    wanted: impl for<'v> Fn(V::SelfType<'v>) -> bool,
) -> Act<Vec<KeyId>> {
    if !is_part(scope) {
        return Ok(Vec::new());
    }
    let (after, first, end) = (after.map(|id| scoped(scope, &id_key(id))), scoped(scope, b""), scope_end(scope));
    let start = after.as_deref().map_or(Bound::Included(&*first), Bound::Excluded);
    let mut page = Vec::new();
    for entry in index.range::<&[u8]>((start, Bound::Excluded(&*end)))? {
        if page.len() == limit {
            break;
        }
        let (key, value) = entry?;
        if wanted(value.value()) {
            page.push(known_id(rest_of(key.value()).unwrap_or_default())?);
        }
    }
    Ok(page)
}

/// The records of these ids, which are in order. Mostly they lie behind each other: then they are read as they lie.
fn records_of(records: &ReadOnlyTable<Bytes, Bytes>, project: &str, ids: &[KeyId]) -> Act<Vec<ApiKey>> {
    let end = scope_end(project);
    let from = |place: &[u8]| records.range::<&[u8]>((Bound::Included(place), Bound::Excluded(&*end)));
    let seek = |walk: &mut Range<'_, Bytes, Bytes>, place: &[u8]| -> Act<Option<ApiKey>> {
        for entry in walk.take(NEAR) {
            let (key, bytes) = entry?;
            if key.value() == place {
                return listed_key(key.value(), bytes.value()).map(Some);
            }
        }
        Ok(None)
    };
    let mut walk = None;
    let mut found = Vec::with_capacity(ids.len());
    for id in ids {
        let place = scoped(project, &id_key(id));
        let mut record = match &mut walk {
            Some(walk) => seek(walk, &place)?,
            None => None,
        };
        if record.is_none() {
            record = seek(walk.insert(from(&place)?), &place)?;
        }
        match record {
            Some(record) => found.push(record),
            None => return damaged(format!("key {id} is listed and not there")),
        }
    }
    Ok(found)
}

/// The record of a key as it stands among those of its project.
fn listed_key(place: &[u8], bytes: &[u8]) -> Act<ApiKey> {
    let key = decode_key(bytes)?;
    if scoped(&key.project, &id_key(&key.id)) == place {
        Ok(key)
    } else {
        damaged(format!("the record of key {} stands in the wrong place", key.id))
    }
}

/// The record that an index points to.
fn indexed_key(keys: &impl ReadableTable<DigestKey, Bytes>, digest: &[u8; 32], id: &KeyId) -> Act<ApiKey> {
    match keys.get(digest)? {
        Some(bytes) => {
            let key = decode_key(bytes.value())?;
            if key.id == *id { Ok(key) } else { damaged(format!("key {id} points to the record of key {}", key.id)) }
        }
        None => damaged(format!("key {id} points to no record")),
    }
}

fn stored_resource(resources: &ReadOnlyTable<Bytes, Bytes>, key: &[u8]) -> Act<Option<Resource>> {
    let Some(bytes) = resources.get(key)? else { return Ok(None) };
    let resource = decode_resource(bytes.value())?;
    if scoped(&resource.kind, resource.id.as_bytes()) != key {
        return damaged(format!("the record of {} stands in the wrong place", resource.reference()));
    }
    Ok(Some(resource))
}

fn known_id(bytes: &[u8]) -> Act<KeyId> {
    match key_id(bytes) {
        Some(id) => Ok(id),
        None => damaged("an index holds what is no id".to_owned()),
    }
}

fn damaged<T>(reason: String) -> Act<T> {
    Err(StoreError::Damaged(reason).into())
}
