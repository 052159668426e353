//! Sessions, and the ends of sessions. Never forgets a session, nor the end of one, whose token could still pass.

use std::time::Duration;

use prost::Message;
use redb::TableDefinition;
use tollgate_guard::time::Timestamp;

use super::super::format::Format;
use super::super::keyspace::redis as names;
use super::super::keyspace::{self, Bytes, timed};
use super::super::kind::Kind;
use super::super::rules::check_parts;
use super::super::{SESSION_KEPT, StoreError};
use super::noun::{Entry, List, Noun, Tables, at_its_place, damaged, erase, keep, refused, text_key};
use super::wire;
use crate::domain::record::{EndedSession, OpenSession, UserSessions};

impl Noun for EndedSession {
    type Key = &'static str;
    const KIND: Kind = Kind::EndedSessions;
    const TABLE: TableDefinition<'static, &'static str, Bytes> = keyspace::ENDED_SESSIONS;
    const PREFIX: &'static str = names::ENDED_SESSIONS;
    const BY_TIME: Option<(TableDefinition<'static, Bytes, ()>, Duration)> =
        Some((keyspace::ENDED_SESSIONS_BY_EXPIRY, SESSION_KEPT));

    fn name(&self) -> String {
        format!("the end of session {}", self.id)
    }

    fn place(&self) -> Vec<u8> {
        self.id.clone().into_bytes()
    }

    fn key(place: &[u8]) -> Option<&str> {
        text_key(place)
    }

    fn encode(&self, _format: Format) -> Vec<u8> {
        wire_of(self).encode_to_vec()
    }

    fn decode(place: &[u8], bytes: &[u8]) -> Result<Self, StoreError> {
        let wire = wire::EndedSession::decode(bytes).map_err(|_| damaged("an ended session"))?;
        at_its_place(of_wire(wire), place)
    }

    fn lists(&self, _format: Format) -> Vec<List> {
        let key = timed(self.expires_at, self.id.as_bytes());
        vec![List::in_file(Entry::Bytes(keyspace::ENDED_SESSIONS_BY_EXPIRY, key))]
    }

    fn kept(&self, now: Timestamp) -> Option<Duration> {
        Some(kept(self.expires_at, now))
    }
}

impl Noun for UserSessions {
    type Key = &'static str;
    const KIND: Kind = Kind::Sessions;
    const TABLE: TableDefinition<'static, &'static str, Bytes> = keyspace::SESSIONS;
    const PREFIX: &'static str = names::SESSIONS;
    const BY_TIME: Option<(TableDefinition<'static, Bytes, ()>, Duration)> =
        Some((keyspace::SESSIONS_BY_EXPIRY, SESSION_KEPT));

    fn name(&self) -> String {
        format!("the sessions of user {}", self.user)
    }

    fn place(&self) -> Vec<u8> {
        self.user.clone().into_bytes()
    }

    fn key(place: &[u8]) -> Option<&str> {
        text_key(place)
    }

    fn encode(&self, _format: Format) -> Vec<u8> {
        let wire = |session: &OpenSession| wire::sessions::Session {
            id: session.id.clone(),
            generation: session.generation,
            began_at_ms: session.began_at.as_millis(),
            expires_at_ms: session.expires_at.as_millis(),
            address: session.address.clone(),
        };
        let sessions = self.sessions.iter().map(wire).collect();
        wire::Sessions { user: self.user.clone(), sessions }.encode_to_vec()
    }

    fn decode(place: &[u8], bytes: &[u8]) -> Result<Self, StoreError> {
        let wire = wire::Sessions::decode(bytes).map_err(|_| damaged("sessions"))?;
        let session = |wire: wire::sessions::Session| OpenSession {
            id: wire.id,
            generation: wire.generation,
            began_at: Timestamp::from_millis(wire.began_at_ms),
            expires_at: Timestamp::from_millis(wire.expires_at_ms),
            address: wire.address,
        };
        let sessions = Self { user: wire.user, sessions: wire.sessions.into_iter().map(session).collect() };
        at_its_place(sessions, place)
    }

    fn lists(&self, _format: Format) -> Vec<List> {
        let key = timed(self.last_expiry(), self.user.as_bytes());
        vec![List::in_file(Entry::Bytes(keyspace::SESSIONS_BY_EXPIRY, key))]
    }

    fn kept(&self, now: Timestamp) -> Option<Duration> {
        Some(kept(self.last_expiry(), now))
    }
}

/// As events have them, too.
pub(super) fn wire_of(session: &EndedSession) -> wire::EndedSession {
    wire::EndedSession {
        id: session.id.clone(),
        user: session.user.clone(),
        ended_at_ms: session.ended_at.as_millis(),
        expires_at_ms: session.expires_at.as_millis(),
    }
}

/// As [`wire_of`], the other way.
pub(super) fn of_wire(wire: wire::EndedSession) -> EndedSession {
    EndedSession {
        id: wire.id,
        user: wire.user,
        ended_at: Timestamp::from_millis(wire.ended_at_ms),
        expires_at: Timestamp::from_millis(wire.expires_at_ms),
    }
}

/// How long what expires then is remembered.
fn kept(expires_at: Timestamp, now: Timestamp) -> Duration {
    let left = expires_at.as_millis().saturating_sub(now.as_millis());
    Duration::from_millis(left).saturating_add(SESSION_KEPT)
}

pub(in crate::store) fn begin<T: Tables>(tables: &mut T, user: &str, session: &OpenSession) -> Result<(), T::Halt> {
    check_parts([user, &session.id])?;
    // Read in any case, as that tells the format.
    let known = known(tables, user)?;
    if !tables.format().has_three() {
        return Ok(());
    }
    tables.forget::<UserSessions>(session.began_at)?;
    let after = with(known.clone(), user, session)?;
    keep(tables, known.as_ref(), &after, session.began_at)
}

/// The first end counts.
pub(in crate::store) fn end<T: Tables>(tables: &mut T, session: &EndedSession) -> Result<(), T::Halt> {
    check_parts([&session.id])?;
    tables.forget::<EndedSession>(session.ended_at)?;
    // Both are asked for before either is judged, so that one reading is enough.
    let (ended, known) = (tables.value::<EndedSession>(session.id.as_bytes()), known(tables, &session.user));
    if ended?.is_none() {
        keep(tables, None, session, session.ended_at)?;
    }
    if let Some(known) = known?.filter(|known| known.has(&session.id)) {
        match without(known.clone(), &session.id) {
            Some(left) => keep(tables, Some(&known), &left, session.ended_at)?,
            None => erase(tables, &known)?,
        }
    }
    Ok(())
}

/// A list that cannot be read counts as none: it keeps no session from being begun or ended.
fn known<T: Tables>(tables: &mut T, user: &str) -> Result<Option<UserSessions>, T::Halt> {
    let value = tables.value::<UserSessions>(user.as_bytes())?;
    let known = value.as_ref().and_then(|value| tables.read::<UserSessions>(user.as_bytes(), value).ok());
    if value.is_some() && known.is_none() {
        // Whose they are is not said: a name may be an e-mail address.
        tracing::error!("the list of a user's sessions cannot be read, and is begun anew");
    }
    Ok(known)
}

/// The sessions of a user once another one has begun. Those of a generation before it have ended with that.
///
/// # Errors
/// [`StoreError::Conflict`] if there are as many as there may be: none goes on that is not listed.
fn with(known: Option<UserSessions>, user: &str, session: &OpenSession) -> Result<UserSessions, StoreError> {
    let mut sessions = known.map_or_else(Vec::new, |known| known.sessions);
    sessions.retain(|known| {
        session.began_at < known.expires_at && known.generation >= session.generation && known.id != session.id
    });
    if sessions.len() >= UserSessions::MOST {
        return refused(format!("user {user} has as many sessions as there may be"));
    }
    sessions.push(session.clone());
    Ok(UserSessions { user: user.to_owned(), sessions })
}

/// The sessions of a user once one of them was ended; `None`: there are no others.
fn without(mut known: UserSessions, id: &str) -> Option<UserSessions> {
    known.sessions.retain(|session| session.id != id);
    Some(known).filter(|known| !known.sessions.is_empty())
}
