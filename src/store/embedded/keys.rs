//! Keys in the embedded store: by digest for a check, by id, and in lists. Never gives a record that is not the one that was asked for.

use std::ops::Bound;

use redb::{Range, ReadOnlyTable, ReadTransaction, ReadableTable};
use tollgate_core::credential::KeyId;
use tollgate_guard::digest::Digest;

use super::super::keyspace::{self, Bytes, DigestKey, id_key, is_part, key_id, rest_of, scope_end, scoped};
use super::super::records::key::decode_key;
use super::super::signature::Verifier;
use super::super::{KeyLoad, KeyQuery, StoreError};
use super::act::Act;
use super::{Embedded, damaged, has_indexes, records};
use crate::domain::record::ApiKey;

/// Records that are passed over to come to the next one of a page, before it is looked up.
const NEAR: usize = 4;

impl Embedded {
    pub fn key_by_digest(&self, digests: &[Digest]) -> Result<Option<ApiKey>, StoreError> {
        let verifier = self.trust.verifier();
        self.engine.read(|read| key_of_digests(&verifier, &read.open_table(keyspace::KEYS)?, digests))
    }

    pub fn key(&self, id: KeyId) -> Result<Option<ApiKey>, StoreError> {
        let verifier = self.trust.verifier();
        self.engine.read(|read| {
            let key_ids = read.open_table(keyspace::KEY_IDS)?;
            let Some(digest) = key_ids.get(&id_key(&id))? else { return Ok(None) };
            indexed_key(&verifier, &read.open_table(keyspace::KEYS)?, digest.value(), &id).map(Some)
        })
    }

    pub fn keys(&self, query: &KeyQuery) -> Result<Vec<ApiKey>, StoreError> {
        let (after, limit) = (query.after.as_ref(), query.limit);
        let verifier = self.trust.verifier();
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
                Some(digest) => indexed_key(&verifier, &keys, digest.value(), &id),
                None => damaged(format!("key {id} is listed and not there")),
            };
            let keys: Vec<ApiKey> = page.into_iter().map(record).collect::<Act<_>>()?;
            demand_asked_for(&keys, query)?;
            Ok(keys)
        })
    }

    /// A page of the keys of one project, where all of them lie together.
    fn keys_in_project(&self, read: &ReadTransaction, project: &str, query: &KeyQuery) -> Act<Vec<ApiKey>> {
        let (after, limit) = (query.after.as_ref(), query.limit);
        let verifier = self.trust.verifier();
        let records = read.open_table(keyspace::KEYS_IN_PROJECTS)?;
        if let Some(plane) = &query.plane {
            let index = read.open_table(keyspace::KEYS_BY_BOTH)?;
            let page = self.key_ids_of_both(&index, [project, plane], after, limit)?;
            let keys = records_of(&verifier, &records, project, &page)?;
            demand_asked_for(&keys, query)?;
            return Ok(keys);
        }
        let (first, end) = (scoped(project, b""), scope_end(project));
        let after = after.map(|id| scoped(project, &id_key(id)));
        let start = after.as_deref().map_or(Bound::Included(&*first), Bound::Excluded);
        let mut page = Vec::new();
        for entry in records.range::<&[u8]>((start, Bound::Excluded(&*end)))?.take(limit) {
            self.look_at_one();
            let (place, bytes) = entry?;
            page.push(listed_key(&verifier, place.value(), bytes.value())?);
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

    /// The key with one of these digests and what is said of its project, of one moment.
    pub fn load_key(&self, digests: &[Digest]) -> Result<Option<KeyLoad>, StoreError> {
        let verifier = self.trust.verifier();
        self.engine.read(|read| {
            let Some(key) = key_of_digests(&verifier, &read.open_table(keyspace::KEYS)?, digests)? else {
                return Ok(None);
            };
            let project = records::read(&verifier, read, key.project.as_bytes())?;
            Ok(Some(KeyLoad { key, project }))
        })
    }
}

/// Who can write the file can put any key on an index.
fn demand_asked_for(keys: &[ApiKey], query: &KeyQuery) -> Act<()> {
    let is_of = |wanted: &Option<String>, found: &str| wanted.as_ref().is_none_or(|wanted| wanted == found);
    match keys.iter().find(|key| !is_of(&query.project, &key.project) || !is_of(&query.plane, &key.plane)) {
        Some(key) => damaged(format!("key {} is listed where it does not belong", key.id)),
        None => Ok(()),
    }
}

fn key_of_digests(
    verifier: &Verifier,
    keys: &impl ReadableTable<DigestKey, Bytes>,
    digests: &[Digest],
) -> Act<Option<ApiKey>> {
    for digest in digests {
        if let Some(bytes) = keys.get(&digest.0)? {
            let key = verifier.believe(decode_key(bytes.value())?, bytes.value())?;
            if !key.digest.matches(digest) {
                return damaged(format!("the record of key {} stands in the wrong place", key.id));
            }
            return Ok(Some(key));
        }
    }
    Ok(None)
}

/// A page of the ids in one scope of an index, in order.
pub(super) fn key_ids_in<V: redb::Value + 'static>(
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
fn records_of(
    verifier: &Verifier,
    records: &ReadOnlyTable<Bytes, Bytes>,
    project: &str,
    ids: &[KeyId],
) -> Act<Vec<ApiKey>> {
    let end = scope_end(project);
    let from = |place: &[u8]| records.range::<&[u8]>((Bound::Included(place), Bound::Excluded(&*end)));
    let seek = |walk: &mut Range<'_, Bytes, Bytes>, place: &[u8]| -> Act<Option<ApiKey>> {
        for entry in walk.take(NEAR) {
            let (key, bytes) = entry?;
            if key.value() == place {
                return listed_key(verifier, key.value(), bytes.value()).map(Some);
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
fn listed_key(verifier: &Verifier, place: &[u8], bytes: &[u8]) -> Act<ApiKey> {
    let key = verifier.believe(decode_key(bytes)?, bytes)?;
    if scoped(&key.project, &id_key(&key.id)) == place {
        Ok(key)
    } else {
        damaged(format!("the record of key {} stands in the wrong place", key.id))
    }
}

/// The record that an index points to.
pub(super) fn indexed_key(
    verifier: &Verifier,
    keys: &impl ReadableTable<DigestKey, Bytes>,
    digest: &[u8; 32],
    id: &KeyId,
) -> Act<ApiKey> {
    match keys.get(digest)? {
        Some(bytes) => {
            let key: ApiKey = verifier.read(digest, bytes.value())?;
            if key.id == *id { Ok(key) } else { damaged(format!("key {id} points to the record of key {}", key.id)) }
        }
        None => damaged(format!("key {id} points to no record")),
    }
}

pub(super) fn known_id(bytes: &[u8]) -> Act<KeyId> {
    match key_id(bytes) {
        Some(id) => Ok(id),
        None => damaged("an index holds what is no id".to_owned()),
    }
}
