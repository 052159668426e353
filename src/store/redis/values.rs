//! Records as they stand in Redis: some with their project in front, so that a script can find the record of the project. Never
//! believes what stands in front if the record says something else.

use crate::domain::record::ApiKey;
use crate::store::StoreError;
use crate::store::format::Format;
use crate::store::records::key::decode_key;
use crate::store::records::noun::Noun;
use crate::store::signature::{Signature, Verifier};

/// The name of the record in this place.
pub(super) fn name_of<N: Noun>(place: &[u8]) -> String {
    format!("{}{}", N::PREFIX, N::text(place))
}

/// # Errors
/// As [`Verifier::write`].
pub(super) fn value_of<N: Noun>(verifier: &Verifier, record: &N, format: Format) -> Result<Vec<u8>, StoreError> {
    let bytes = verifier.write(record, format)?;
    Ok(match record.project() {
        Some(project) if N::HAS_PROJECT_IN_FRONT => behind(project, &bytes),
        _ => bytes,
    })
}

/// # Errors
/// [`StoreError::Damaged`] if the bytes are no such record, or one of another place, or are not believed.
pub(super) fn record_of<N: Noun>(verifier: &Verifier, place: &[u8], value: &[u8]) -> Result<N, StoreError> {
    if !N::HAS_PROJECT_IN_FRONT {
        return verifier.read(place, value);
    }
    let (project, bytes) = split(value)?;
    let record: N = verifier.read(place, bytes)?;
    if record.project().map(str::as_bytes) != Some(project) {
        return damaged(format!("the record of {} names two projects", record.name()));
    }
    Ok(record)
}

/// # Errors
/// [`StoreError::Damaged`] if the bytes are no key, or are not believed.
pub(super) fn key_of(verifier: &Verifier, value: &[u8]) -> Result<ApiKey, StoreError> {
    let (project, record) = split(value)?;
    let key = verifier.believe(decode_key(record)?, record)?;
    if key.project.as_bytes() != project {
        return damaged(format!("the record of key {} names two projects", key.id));
    }
    Ok(key)
}

/// What the record in this place carries.
///
/// # Errors
/// As [`Verifier::look`]; [`StoreError::Damaged`] also if no project stands in front of one that must have it.
pub(super) fn signature_of<N: Noun>(verifier: &Verifier, place: &[u8], value: &[u8]) -> Result<Signature, StoreError> {
    let bytes = if N::HAS_PROJECT_IN_FRONT { split(value)?.1 } else { value };
    verifier.look(N::KIND, place, bytes)
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
