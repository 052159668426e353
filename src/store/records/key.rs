//! API keys. Never takes back a revocation.

use prost::Message;
use tollgate_core::credential::KeyId;
use tollgate_guard::digest::Digest;
use tollgate_guard::time::Timestamp;

use super::super::StoreError;
use super::super::rules::check_version;
use super::noun::{damaged, refused};
use super::{project, wire};
use crate::domain::record::ApiKey;

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

pub(in crate::store) fn check_update(stored: &ApiKey, new: &ApiKey) -> Result<(), StoreError> {
    check_version(&format!("key {}", new.id), stored.version, new.version)?;
    if stored.revoked_at.is_some() && new.revoked_at.is_none() {
        return refused(format!("key {} is revoked, and stays so", new.id));
    }
    Ok(())
}

pub(in crate::store) fn check_purge(stored: &ApiKey, version: u64, before: Timestamp) -> Result<(), StoreError> {
    if stored.version != version {
        return refused(format!("key {} has been changed meanwhile (it has version {})", stored.id, stored.version));
    }
    if stored.is_over_before(before) {
        return Ok(());
    }
    refused(format!("key {} is not over for so long", stored.id))
}
