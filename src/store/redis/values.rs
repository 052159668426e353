//! Records as they stand in Redis: some with their project in front, so that a script can find the record of the project. Never
//! believes what stands in front if the record says something else.

use crate::domain::record::ApiKey;
use crate::store::StoreError;
use crate::store::format::Format;
use crate::store::records::key::decode_key;
use crate::store::records::noun::Noun;

/// The name of the record in this place.
pub(super) fn name_of<N: Noun>(place: &[u8]) -> String {
    format!("{}{}", N::PREFIX, N::text(place))
}

pub(super) fn value_of<N: Noun>(record: &N, format: Format) -> Vec<u8> {
    let bytes = record.encode(format);
    match record.project() {
        Some(project) if N::HAS_PROJECT_IN_FRONT => behind(project, &bytes),
        _ => bytes,
    }
}

/// # Errors
/// [`StoreError::Damaged`] if the bytes are no such record, or one of another place.
pub(super) fn record_of<N: Noun>(place: &[u8], value: &[u8]) -> Result<N, StoreError> {
    if !N::HAS_PROJECT_IN_FRONT {
        return N::decode(place, value);
    }
    let (project, bytes) = split(value)?;
    let record = N::decode(place, bytes)?;
    if record.project().map(str::as_bytes) != Some(project) {
        return damaged(format!("the record of {} names two projects", record.name()));
    }
    Ok(record)
}

/// # Errors
/// [`StoreError::Damaged`] if the bytes are no key.
pub(super) fn key_of(value: &[u8]) -> Result<ApiKey, StoreError> {
    let (project, record) = split(value)?;
    let key = decode_key(record)?;
    if key.project.as_bytes() != project {
        return damaged(format!("the record of key {} names two projects", key.id));
    }
    Ok(key)
}

fn behind(project: &str, record: &[u8]) -> Vec<u8> {
    [project.as_bytes(), &[0], record].concat()
}

fn split(value: &[u8]) -> Result<(&[u8], &[u8]), StoreError> {
    let stop = value.iter().position(|byte| *byte == 0);
    match stop.and_then(|stop| Some((value.get(..stop)?, value.get(stop + 1..)?))) {
        Some(parts) => Ok(parts),
        None => damaged("a record names no project".to_owned()),
    }
}

fn damaged<T>(reason: String) -> Result<T, StoreError> {
    Err(StoreError::Damaged(reason))
}
