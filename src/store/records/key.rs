//! API keys. Never takes back a revocation.

use data_encoding::HEXLOWER;
use prost::Message;
use redb::TableDefinition;
use tollgate_core::credential::{KeyId, ProjectId};
use tollgate_guard::digest::Digest;
use tollgate_guard::time::Timestamp;

use super::super::format::Format;
use super::super::keyspace::redis as names;
use super::super::keyspace::{self, Bytes, DigestKey, id_key, key_id, scoped, within};
use super::super::kind::Kind;
use super::super::rules::{check_parts, check_version, project_id_after};
use super::super::{Counted, StoreError};
use super::noun::{Entry, List, Noun, Tables, at_its_place, damaged, erase, refused, replace};
use super::{project, wire};
use crate::domain::record::{ApiKey, KeyState};

/// It stands under its digest, by which a check finds it; its id points there.
impl Noun for ApiKey {
    type Key = DigestKey;
    const KIND: Kind = Kind::Keys;
    const TABLE: TableDefinition<'static, DigestKey, Bytes> = keyspace::KEYS;
    const PREFIX: &'static str = names::KEYS;
    const HAS_PROJECT_IN_FRONT: bool = true;

    fn name(&self) -> String {
        format!("key {}", self.id)
    }

    fn version(&self) -> Option<u64> {
        Some(self.version)
    }

    fn place(&self) -> Vec<u8> {
        self.digest.0.to_vec()
    }

    /// By its id, which stays while its digest may change.
    fn listed_place(&self) -> Vec<u8> {
        id_key(&self.id).to_vec()
    }

    fn key(place: &[u8]) -> Option<&[u8; 32]> {
        place.try_into().ok()
    }

    fn text(place: &[u8]) -> String {
        HEXLOWER.encode(place)
    }

    fn place_of(text: &str) -> Option<Vec<u8>> {
        HEXLOWER.decode(text.as_bytes()).ok().filter(|digest| digest.len() == 32)
    }

    fn encode(&self, _format: Format) -> Vec<u8> {
        encode_key(self)
    }

    fn decode(place: &[u8], bytes: &[u8]) -> Result<Self, StoreError> {
        at_its_place(decode_key(bytes)?, place)
    }

    fn project(&self) -> Option<&str> {
        Some(&self.project)
    }

    fn lists(&self, format: Format) -> Vec<List> {
        let (id, key) = (self.id.as_str(), id_key(&self.id));
        let of_project = scoped(&self.project, &key);
        let by_both = || Entry::Bytes(keyspace::KEYS_BY_BOTH, within([&self.project, &self.plane], &key));
        let mut lists = vec![
            List::in_redis(names::KEY_LIST, id),
            List {
                in_redis: Some((names::keys_of_project(&self.project), id.to_owned())),
                in_file: Some(Entry::Valued(
                    keyspace::KEYS_BY_PROJECT,
                    of_project.clone(),
                    self.plane.clone().into_bytes(),
                )),
            },
            List::in_both(
                (names::keys_of_plane(&self.plane), id),
                (keyspace::KEYS_BY_PLANE, scoped(&self.plane, &key)),
            ),
            List {
                in_redis: Some((names::keys_of_both(&self.project, &self.plane), id.to_owned())),
                in_file: format.has_three().then(by_both),
            },
        ];
        if format.has_three() {
            lists.push(List::in_file(Entry::Copied(keyspace::KEYS_IN_PROJECTS, of_project)));
        }
        lists
    }
}

pub(in crate::store) fn encode_key(key: &ApiKey) -> Vec<u8> {
    let wire = wire::ApiKey {
        id: key.id.to_string(),
        digest: key.digest.0.to_vec(),
        pepper_version: key.pepper_version,
        name: key.name.clone(),
        plane: key.plane.clone(),
        project: key.project.clone(),
        workloads: key.workloads.clone(),
        permissions: key.permissions.clone(),
        created_at_ms: key.created_at.as_millis(),
        created_by: key.created_by.clone(),
        expires_at_ms: key.expires_at.map(Timestamp::as_millis),
        retires_at_ms: key.retires_at.map(Timestamp::as_millis),
        revoked_at_ms: key.revoked_at.map(Timestamp::as_millis),
        replaces: key.replaces.map(|id| id.to_string()),
        replaced_by: key.replaced_by.map(|id| id.to_string()),
        version: key.version,
        project_id: key.project_id.map(|id| id.to_string()),
    };
    wire.encode_to_vec()
}

/// # Errors
/// [`StoreError::Damaged`] if the bytes are no key.
pub(in crate::store) fn decode_key(bytes: &[u8]) -> Result<ApiKey, StoreError> {
    let wire = wire::ApiKey::decode(bytes).map_err(|_| damaged("a key"))?;
    let id = KeyId::parse(&wire.id).ok_or_else(|| damaged("a key"))?;
    let damaged = || damaged(&format!("key {id}"));
    let other = |id: Option<String>| match id {
        Some(id) => KeyId::parse(&id).map(Some).ok_or_else(damaged),
        None => Ok(None),
    };
    Ok(ApiKey {
        id,
        digest: Digest::from_slice(&wire.digest).ok_or_else(damaged)?,
        pepper_version: wire.pepper_version,
        name: wire.name,
        plane: wire.plane,
        project: wire.project,
        project_id: project::id_of(wire.project_id).ok_or_else(damaged)?,
        workloads: wire.workloads,
        permissions: wire.permissions,
        created_at: Timestamp::from_millis(wire.created_at_ms),
        created_by: wire.created_by,
        expires_at: wire.expires_at_ms.map(Timestamp::from_millis),
        retires_at: wire.retires_at_ms.map(Timestamp::from_millis),
        revoked_at: wire.revoked_at_ms.map(Timestamp::from_millis),
        replaces: other(wire.replaces)?,
        replaced_by: other(wire.replaced_by)?,
        version: wire.version,
    })
}

/// Puts one where none of its id is.
pub(in crate::store) fn put<T: Tables>(tables: &mut T, key: &ApiKey) -> Result<(), T::Halt> {
    tables.point(&key.id, Some(&key.digest))?;
    replace(tables, None, key)
}

pub(in crate::store) fn create<T: Tables>(tables: &mut T, key: &ApiKey) -> Result<(), T::Halt> {
    check_parts([&key.project, &key.plane])?;
    // Both are asked for before either is judged, so that one reading is enough.
    let (id, digest) = (tables.pointer(&key.id), tables.value::<ApiKey>(&key.digest.0));
    let (id, digest) = (id?, digest?);
    if id.is_some() {
        return refused(format!("the key id {} is taken", key.id));
    }
    if digest.is_some() {
        return digest_taken(key);
    }
    tables.count(Counted::Keys, None, Some(&key.project));
    put(tables, key)
}

pub(in crate::store) fn update<T: Tables>(tables: &mut T, key: &ApiKey) -> Result<(), T::Halt> {
    check_parts([&key.project, &key.plane])?;
    let Some(stored) = stored(tables, &key.id)? else {
        return refused(format!("there is no key {}", key.id));
    };
    check_version(&format!("key {}", key.id), stored.version, key.version)?;
    if stored.revoked_at.is_some() && key.revoked_at.is_none() {
        return refused(format!("key {} is revoked, and stays so", key.id));
    }
    if stored.digest != key.digest {
        if tables.value::<ApiKey>(&key.digest.0)?.is_some() {
            return digest_taken(key);
        }
        tables.remove::<ApiKey>(&stored.digest.0)?;
        tables.point(&key.id, Some(&key.digest))?;
    }
    tables.count(Counted::Keys, Some(&stored.project), Some(&key.project));
    let project_id = project_id_after((&stored.project, stored.project_id), (&key.project, key.project_id));
    replace(tables, Some(&stored), &ApiKey { project_id, ..key.clone() })
}

/// Removes what is left of one that was over before this time, for good.
pub(in crate::store) fn purge<T: Tables>(
    tables: &mut T,
    id: &KeyId,
    version: u64,
    before: Timestamp,
) -> Result<(), T::Halt> {
    let Some(stored) = stored(tables, id)? else {
        return refused(format!("there is no key {id}"));
    };
    if stored.version != version {
        return refused(format!("key {id} has been changed meanwhile (it has version {})", stored.version));
    }
    if !stored.is_over_before(before) {
        return refused(format!("key {id} is not over for so long"));
    }
    tables.count(Counted::Keys, Some(&stored.project), None);
    tables.point(id, None)?;
    erase(tables, &stored)
}

/// # Errors
/// [`StoreError::Conflict`] if a key of the plane is active at this time.
pub(in crate::store) fn demand_none_active<T: Tables>(
    tables: &mut T,
    plane: &str,
    now: Timestamp,
) -> Result<(), T::Halt> {
    check_parts([plane])?;
    // Goes on behind a record that must be read first, so that one reading is enough.
    let mut halt = None;
    for id in tables.members(&names::keys_of_plane(plane), (keyspace::KEYS_BY_PLANE, plane))? {
        let Some(id) = key_id(&id) else {
            return Err(StoreError::Damaged("a list holds what is no id".to_owned()).into());
        };
        match stored(tables, &id) {
            // Who can write the store can put any key on the list.
            Ok(Some(key)) if key.plane != plane => {}
            Ok(Some(key)) if halt.is_none() && matches!(key.state(now), KeyState::Active | KeyState::Retiring) => {
                return refused(format!("there is an active key on plane {plane} already: {id}"));
            }
            Ok(_) => {}
            Err(first) => drop(halt.get_or_insert(first)),
        }
    }
    halt.map_or(Ok(()), Err)
}

/// Of one that was made before projects had ids, and is still of this project.
pub(super) fn give_project_id<T: Tables>(
    tables: &mut T,
    id: &KeyId,
    (project, project_id): (&str, ProjectId),
) -> Result<(), T::Halt> {
    match stored(tables, id)? {
        Some(stored) if stored.project_id.is_none() && stored.project == project => {
            replace(tables, Some(&stored), &ApiKey { project_id: Some(project_id), ..stored.clone() })
        }
        _ => Ok(()),
    }
}

fn stored<T: Tables>(tables: &mut T, id: &KeyId) -> Result<Option<ApiKey>, T::Halt> {
    let Some(Digest(digest)) = tables.pointer(id)? else { return Ok(None) };
    match tables.find::<ApiKey>(&digest)? {
        Some(key) if key.id == *id => Ok(Some(key)),
        Some(key) => Err(StoreError::Damaged(format!("key {id} points to the record of key {}", key.id)).into()),
        None => Err(StoreError::Damaged(format!("key {id} points to no record")).into()),
    }
}

fn digest_taken<T, H: From<StoreError>>(key: &ApiKey) -> Result<T, H> {
    refused(format!("the digest of key {} is taken by another key", key.id))
}
