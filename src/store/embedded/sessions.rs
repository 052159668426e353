//! Ended sessions and the keys that sign tokens, in the embedded store. Never forgets the end of a session whose token could
//! still pass.

use redb::{ReadableTable, WriteTransaction};

use super::super::ENDED_SESSION_KEPT;
use super::super::StoreError;
use super::super::keyspace::{self, rest_of_timed, timed};
use super::super::records::{decode_ended_session, decode_signing_key, encode_ended_session, encode_signing_key};
use super::super::rules::check_parts;
use super::batch::conflict;
use super::engine::Act;
use super::{Embedded, damaged};
use crate::domain::record::{EndedSession, SigningKey};
use crate::domain::time::Timestamp;

/// How many are forgotten with each one that is added: more than one, so that they become fewer.
const FORGOTTEN_AT_ONCE: usize = 8;

impl Embedded {
    pub fn ended_session(&self, id: &str) -> Result<bool, StoreError> {
        self.engine.read(|read| match read.open_table(keyspace::ENDED_SESSIONS)?.get(id)? {
            Some(bytes) if decode_ended_session(bytes.value())?.id != id => {
                damaged(format!("the end of session {id} stands in the wrong place"))
            }
            found => Ok(found.is_some()),
        })
    }

    pub fn signing_keys(&self) -> Result<Vec<SigningKey>, StoreError> {
        let mut keys = self.engine.read(|read| {
            let mut keys = Vec::new();
            for entry in read.open_table(keyspace::SIGNING_KEYS)?.iter()? {
                keys.push(decode_signing_key(entry?.1.value())?);
            }
            Ok(keys)
        })?;
        keys.sort_by_key(|key| key.created_at);
        Ok(keys)
    }
}

pub(super) fn end(transaction: &WriteTransaction, session: &EndedSession) -> Act<()> {
    check_parts([&session.id])?;
    forget(transaction, session.ended_at)?;
    let mut sessions = transaction.open_table(keyspace::ENDED_SESSIONS)?;
    if sessions.get(&*session.id)?.is_some() {
        return Ok(());
    }
    sessions.insert(&*session.id, &*encode_ended_session(session))?;
    let mut by_expiry = transaction.open_table(keyspace::ENDED_SESSIONS_BY_EXPIRY)?;
    by_expiry.insert(&*timed(session.expires_at, session.id.as_bytes()), ())?;
    Ok(())
}

/// Forgets a few sessions whose tokens expired long ago.
fn forget(transaction: &WriteTransaction, now: Timestamp) -> Act<()> {
    let mut sessions = transaction.open_table(keyspace::ENDED_SESSIONS)?;
    let mut by_expiry = transaction.open_table(keyspace::ENDED_SESSIONS_BY_EXPIRY)?;
    let end = timed(now.minus(ENDED_SESSION_KEPT), b"");
    let mut old = Vec::new();
    for entry in by_expiry.range::<&[u8]>(..&*end)?.take(FORGOTTEN_AT_ONCE) {
        old.push(entry?.0.value().to_vec());
    }
    for key in old {
        by_expiry.remove(&*key)?;
        let id = rest_of_timed(&key).and_then(|id| std::str::from_utf8(id).ok()).unwrap_or_default();
        sessions.remove(id)?;
    }
    Ok(())
}

pub(super) fn create_signing_key(transaction: &WriteTransaction, key: &SigningKey) -> Act<()> {
    let mut keys = transaction.open_table(keyspace::SIGNING_KEYS)?;
    if keys.insert(&*key.id, &*encode_signing_key(key))?.is_some() {
        return conflict(format!("the id {} of a signing key is taken", key.id));
    }
    Ok(())
}

pub(super) fn delete_signing_key(transaction: &WriteTransaction, id: &str) -> Act<()> {
    if transaction.open_table(keyspace::SIGNING_KEYS)?.remove(id)?.is_none() {
        return conflict(format!("there is no signing key {id}"));
    }
    Ok(())
}
