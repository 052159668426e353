//! Keys and users as they stand in Redis: their project in front, so that a script can find the record of the project. Never
//! believes what stands in front if the record says something else.

use crate::domain::record::{ApiKey, User};
use crate::store::StoreError;
use crate::store::format::Format;
use crate::store::records::{decode_key, decode_user, encode_key, encode_user};

pub(super) fn key_value(key: &ApiKey) -> Vec<u8> {
    behind(&key.project, &encode_key(key))
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

pub(super) fn user_value(user: &User, format: Format) -> Vec<u8> {
    behind(&user.project, &encode_user(user, format))
}

/// # Errors
/// [`StoreError::Damaged`] if the bytes are no user.
pub(super) fn user_of(value: &[u8]) -> Result<User, StoreError> {
    let (project, record) = split(value)?;
    let user = decode_user(record)?;
    if user.project.as_bytes() != project {
        return damaged(format!("the record of user {} names two projects", user.name));
    }
    Ok(user)
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
