//! Sessions, their ends and the keys that sign tokens, in the embedded store. Never forgets a session, nor the end of one, whose
//! token could still pass.

use redb::{ReadableTable, Table, WriteTransaction};
use tollgate_guard::time::Timestamp;

use super::super::SESSION_KEPT;
use super::super::StoreError;
use super::super::format::Format;
use super::super::keyspace::{self, Bytes, rest_of_timed, timed};
use super::super::records::{
    decode_ended_session, decode_sessions, decode_signing_key, encode_ended_session, encode_sessions,
    encode_signing_key, readable_sessions,
};
use super::super::rules::{check_parts, sessions_with, sessions_without};
use super::act::Act;
use super::act::conflict;
use super::{Embedded, damaged};
use crate::domain::record::{EndedSession, OpenSession, SigningKey, UserSessions};

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

    /// As [`super::super::Store::sessions`].
    pub fn sessions(&self, user: &str) -> Result<Vec<OpenSession>, StoreError> {
        let known = self.engine.read(|read| known(&read.open_table(keyspace::SESSIONS)?, user))?;
        Ok(known.map_or_else(Vec::new, |known| known.sessions))
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

fn known(sessions: &impl ReadableTable<&'static str, Bytes>, user: &str) -> Act<Option<UserSessions>> {
    match sessions.get(user)? {
        Some(bytes) => Ok(Some(decode_sessions(bytes.value(), user)?)),
        None => Ok(None),
    }
}

pub(super) fn begin(transaction: &WriteTransaction, user: &str, session: &OpenSession, format: Format) -> Act<()> {
    if !format.has_three() {
        return Ok(());
    }
    check_parts([user, &session.id])?;
    forget_users(transaction, session.began_at)?;
    let mut open = Open::of(transaction)?;
    let before = open.take(user)?;
    open.put(&sessions_with(before, user, session)?)
}

/// The tables of the sessions that go on.
struct Open<'t> {
    sessions: Table<'t, &'static str, Bytes>,
    by_expiry: Table<'t, Bytes, ()>,
}

impl<'t> Open<'t> {
    fn of(transaction: &'t WriteTransaction) -> Act<Self> {
        let sessions = transaction.open_table(keyspace::SESSIONS)?;
        Ok(Self { sessions, by_expiry: transaction.open_table(keyspace::SESSIONS_BY_EXPIRY)? })
    }

    /// One that cannot be read counts as none: it keeps no session from being begun or ended.
    fn take(&mut self, user: &str) -> Act<Option<UserSessions>> {
        let before = match self.sessions.remove(user)? {
            Some(bytes) => readable_sessions(bytes.value(), user),
            None => None,
        };
        if let Some(before) = &before {
            self.by_expiry.remove(&*timed(before.last_expiry(), user.as_bytes()))?;
        }
        Ok(before)
    }

    fn put(&mut self, sessions: &UserSessions) -> Act<()> {
        self.sessions.insert(&*sessions.user, &*encode_sessions(sessions))?;
        self.by_expiry.insert(&*timed(sessions.last_expiry(), sessions.user.as_bytes()), ())?;
        Ok(())
    }
}

/// Puts the sessions of a user where none are. Gives whether some were.
pub(super) fn import(transaction: &WriteTransaction, sessions: &UserSessions) -> Act<bool> {
    check_parts([&sessions.user])?;
    let mut open = Open::of(transaction)?;
    let were_there = open.take(&sessions.user)?.is_some();
    open.put(sessions)?;
    Ok(were_there)
}

/// Forgets a few users whose sessions are all over for long.
fn forget_users(transaction: &WriteTransaction, now: Timestamp) -> Act<()> {
    let mut open = Open::of(transaction)?;
    let end = timed(now.minus(SESSION_KEPT), b"");
    let mut old = Vec::new();
    for entry in open.by_expiry.range::<&[u8]>(..&*end)?.take(FORGOTTEN_AT_ONCE) {
        old.push(entry?.0.value().to_vec());
    }
    for key in old {
        let user = rest_of_timed(&key).and_then(|user| std::str::from_utf8(user).ok()).unwrap_or_default();
        open.take(user)?;
        open.by_expiry.remove(&*key)?;
    }
    Ok(())
}

pub(super) fn end(transaction: &WriteTransaction, session: &EndedSession) -> Act<()> {
    check_parts([&session.id])?;
    forget(transaction, session.ended_at)?;
    let mut open = Open::of(transaction)?;
    if let Some(left) = open.take(&session.user)?.and_then(|known| sessions_without(known, &session.id)) {
        open.put(&left)?;
    }
    drop(open);
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
    let end = timed(now.minus(SESSION_KEPT), b"");
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
