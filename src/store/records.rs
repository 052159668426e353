//! Records to bytes and back. Never panics on what it reads: bytes that are no record are a damaged store. Fields it
//! does not know are passed over, so that a stored record can grow.

use prost::Message;

use super::StoreError;
use crate::domain::credential::{Digest, KeyId};
use crate::domain::record::{ApiKey, Resource};
use crate::domain::time::Timestamp;

#[allow(missing_debug_implementations)]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/tollgate.v1.rs"));
}

pub(super) fn encode_key(key: &ApiKey) -> Vec<u8> {
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
    };
    wire.encode_to_vec()
}

/// # Errors
/// [`StoreError::Damaged`] if the bytes are no key.
pub(super) fn decode_key(bytes: &[u8]) -> Result<ApiKey, StoreError> {
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

pub(super) fn encode_resource(resource: &Resource) -> Vec<u8> {
    let wire = wire::Resource {
        kind: resource.kind.clone(),
        id: resource.id.clone(),
        slug: resource.slug.clone(),
        project: resource.project.clone(),
        owner: resource.owner.clone(),
        created_at_ms: resource.created_at.as_millis(),
        version: resource.version,
    };
    wire.encode_to_vec()
}

/// # Errors
/// [`StoreError::Damaged`] if the bytes are no resource.
pub(super) fn decode_resource(bytes: &[u8]) -> Result<Resource, StoreError> {
    let wire = wire::Resource::decode(bytes).map_err(|_| damaged("a resource"))?;
    Ok(Resource {
        kind: wire.kind,
        id: wire.id,
        slug: wire.slug,
        project: wire.project,
        owner: wire.owner,
        created_at: Timestamp::from_millis(wire.created_at_ms),
        version: wire.version,
    })
}

fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(format!("the record of {what} cannot be read"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn full_key() -> ApiKey {
        ApiKey {
            id: KeyId::parse("abcdefABCDEF").unwrap(),
            digest: Digest([7; 32]),
            pepper_version: 3,
            name: "Chat front end".to_owned(),
            plane: "data".to_owned(),
            project: "acme".to_owned(),
            workloads: vec!["chat".to_owned(), "embed".to_owned()],
            permissions: vec!["run_inference".to_owned()],
            created_at: Timestamp::from_millis(1),
            created_by: "operator".to_owned(),
            expires_at: Some(Timestamp::from_millis(0)),
            retires_at: Some(Timestamp::from_millis(u64::MAX)),
            revoked_at: Some(Timestamp::from_millis(4)),
            replaces: KeyId::parse("000000000000"),
            replaced_by: KeyId::parse("zzzzzzzzzzzz"),
            version: 9,
        }
    }

    fn resource() -> Resource {
        Resource {
            kind: "workload".to_owned(),
            id: "w-1".to_owned(),
            slug: "chat".to_owned(),
            project: "acme".to_owned(),
            owner: Some("key:abcdefABCDEF".to_owned()),
            created_at: Timestamp::from_millis(5),
            version: 2,
        }
    }

    #[test]
    fn records_come_back_as_they_were() {
        let full = full_key();
        assert_eq!(decode_key(&encode_key(&full)).unwrap(), full);
        let bare = ApiKey {
            workloads: vec![],
            permissions: vec![],
            expires_at: None,
            retires_at: None,
            revoked_at: None,
            replaces: None,
            replaced_by: None,
            ..full
        };
        assert_eq!(decode_key(&encode_key(&bare)).unwrap(), bare);
        assert_eq!(decode_resource(&encode_resource(&resource())).unwrap(), resource());
        let unowned = Resource { owner: None, ..resource() };
        assert_eq!(decode_resource(&encode_resource(&unowned)).unwrap(), unowned);
    }

    #[test]
    fn fields_of_a_later_version_are_passed_over() {
        // Field 200, length-delimited, "new"; then field 201, varint 1.
        let later = [0xc2, 0x0c, 3, b'n', b'e', b'w', 0xc8, 0x0c, 1];
        let key = [encode_key(&full_key()), later.to_vec()].concat();
        assert_eq!(decode_key(&key).unwrap(), full_key());
        let thing = [encode_resource(&resource()), later.to_vec()].concat();
        assert_eq!(decode_resource(&thing).unwrap(), resource());
    }

    #[test]
    fn what_is_no_record_is_damage() {
        let good = encode_key(&full_key());
        let short_digest = wire::ApiKey { digest: vec![7; 31], ..wire::ApiKey::decode(&*good).unwrap() };
        let bad_id = wire::ApiKey { id: "too-short".to_owned(), ..wire::ApiKey::decode(&*good).unwrap() };
        let bad_link = wire::ApiKey { replaces: Some(String::new()), ..wire::ApiKey::decode(&*good).unwrap() };
        for bytes in [short_digest.encode_to_vec(), bad_id.encode_to_vec(), bad_link.encode_to_vec(), vec![], vec![255]]
        {
            assert!(matches!(decode_key(&bytes), Err(StoreError::Damaged(_))));
        }
        assert!(matches!(decode_resource(&[8]), Err(StoreError::Damaged(_))));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode_key(&bytes);
            let _ = decode_resource(&bytes);
        }

        #[test]
        fn no_damage_makes_it_panic(at in 0usize..120, byte: u8, cut in 0usize..200) {
            let mut bytes = encode_key(&full_key());
            let len = bytes.len();
            bytes[at % len] = byte;
            bytes.truncate(cut);
            let _ = decode_key(&bytes);
        }
    }
}
