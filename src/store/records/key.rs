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
use super::noun::{Entry, Index, List, Noun, Tables, at_its_place, damaged, erase, refused, replace};
use super::project;
use crate::domain::record::{ApiKey, KeyState};

/// One API key. The secret is known to its owner alone; the digest cannot be turned back into it.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct StoredKey {
    /// The public name of the key: 12 base62 characters.
    #[prost(string, tag = "1")]
    id: String,
    /// HMAC-SHA-256(pepper, whole key): 32 bytes.
    #[prost(bytes = "vec", tag = "2")]
    digest: Vec<u8>,
    /// Which pepper the digest was made with.
    #[prost(uint32, tag = "3")]
    pepper_version: u32,
    /// For people.
    #[prost(string, tag = "4")]
    name: String,
    /// The plane its prefix was declared for when it was minted.
    #[prost(string, tag = "5")]
    plane: String,
    /// One project, or "*" for every one.
    #[prost(string, tag = "6")]
    project: String,
    /// Names of workloads, or "*" alone for every one. Empty: none.
    #[prost(string, repeated, tag = "7")]
    workloads: Vec<String>,
    /// Sorted, without duplicates. Empty: none.
    #[prost(string, repeated, tag = "8")]
    permissions: Vec<String>,
    /// Every time is in milliseconds since the Unix epoch.
    #[prost(uint64, tag = "9")]
    created_at_ms: u64,
    /// "key:<id>", or "operator" for whoever holds the admin socket.
    #[prost(string, tag = "10")]
    created_by: String,
    /// Absent: the key does not expire.
    #[prost(uint64, optional, tag = "11")]
    expires_at_ms: Option<u64>,
    /// End of the overlap that a rotation granted. Absent: not rotated.
    #[prost(uint64, optional, tag = "12")]
    retires_at_ms: Option<u64>,
    /// Set once and never cleared: a revoked record stays as a tombstone.
    #[prost(uint64, optional, tag = "13")]
    revoked_at_ms: Option<u64>,
    /// The id of the key that this one took the place of.
    #[prost(string, optional, tag = "14")]
    replaces: Option<String>,
    /// The id of the key that took this one's place.
    #[prost(string, optional, tag = "15")]
    replaced_by: Option<String>,
    /// Counts the writes of this record, from 1.
    #[prost(uint64, tag = "16")]
    version: u64,
    /// Format 3: the id of the project. Absent: every project.
    #[prost(string, optional, tag = "17")]
    project_id: Option<String>,
}

/// It stands under its digest, by which a check finds it; its id points there.
impl Noun for ApiKey {
    type Key = DigestKey;
    const KIND: Kind = Kind::Keys;
    const TABLE: TableDefinition<'static, DigestKey, Bytes> = keyspace::KEYS;
    const PREFIX: &'static str = names::KEYS;
    const HAS_PROJECT_IN_FRONT: bool = true;
    const INDEXES: &'static [Index] = &[
        Index::Valued(keyspace::KEYS_BY_PROJECT),
        Index::Bytes(keyspace::KEYS_BY_PLANE),
        Index::Bytes(keyspace::KEYS_BY_BOTH),
        Index::Valued(keyspace::KEYS_IN_PROJECTS),
    ];

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
    let message = StoredKey {
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
    message.encode_to_vec()
}

/// # Errors
/// [`StoreError::Damaged`] if the bytes are no key.
pub(in crate::store) fn decode_key(bytes: &[u8]) -> Result<ApiKey, StoreError> {
    let message = StoredKey::decode(bytes).map_err(|_| damaged("a key"))?;
    let id = KeyId::parse(&message.id).ok_or_else(|| damaged("a key"))?;
    let damaged = || damaged(&format!("key {id}"));
    let other = |id: Option<String>| match id {
        Some(id) => KeyId::parse(&id).map(Some).ok_or_else(damaged),
        None => Ok(None),
    };
    Ok(ApiKey {
        id,
        digest: Digest::from_slice(&message.digest).ok_or_else(damaged)?,
        pepper_version: message.pepper_version,
        name: message.name,
        plane: message.plane,
        project: message.project,
        project_id: project::id_of(message.project_id).ok_or_else(damaged)?,
        workloads: message.workloads,
        permissions: message.permissions,
        created_at: Timestamp::from_millis(message.created_at_ms),
        created_by: message.created_by,
        expires_at: message.expires_at_ms.map(Timestamp::from_millis),
        retires_at: message.retires_at_ms.map(Timestamp::from_millis),
        revoked_at: message.revoked_at_ms.map(Timestamp::from_millis),
        replaces: other(message.replaces)?,
        replaced_by: other(message.replaced_by)?,
        version: message.version,
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
