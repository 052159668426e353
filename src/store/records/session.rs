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
use super::super::{SESSION_KEPT, Store, StoreError};
use super::noun::{
    Entry, FORGOTTEN_EARLIER, List, Noun, Tables, at_its_place, damaged, erase, keep, refused, text_key,
};
use crate::domain::record::{EndedSession, OpenSession, UserSessions};

/// A session that was ended before its token expires.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(super) struct StoredEndedSession {
    /// The "jti" of its token.
    #[prost(string, tag = "1")]
    id: String,
    /// The name of the user whose session it was.
    #[prost(string, tag = "2")]
    user: String,
    #[prost(uint64, tag = "3")]
    ended_at_ms: u64,
    #[prost(uint64, tag = "4")]
    expires_at_ms: u64,
}

/// The sessions of one user that have begun and were not ended. Format 3.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct StoredSessions {
    /// The name of the user.
    #[prost(string, tag = "1")]
    user: String,
    /// In the order in which they began.
    #[prost(message, repeated, tag = "2")]
    sessions: Vec<StoredSession>,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct StoredSession {
    /// The "jti" of its token.
    #[prost(string, tag = "1")]
    id: String,
    /// The generation of the user's sessions at the login.
    #[prost(uint64, tag = "2")]
    generation: u64,
    #[prost(uint64, tag = "3")]
    began_at_ms: u64,
    #[prost(uint64, tag = "4")]
    expires_at_ms: u64,
    /// Of the client. Absent: it was not known.
    #[prost(string, optional, tag = "5")]
    address: Option<String>,
}

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
        message_of(self).encode_to_vec()
    }

    fn decode(place: &[u8], bytes: &[u8]) -> Result<Self, StoreError> {
        let message = StoredEndedSession::decode(bytes).map_err(|_| damaged("an ended session"))?;
        at_its_place(of_message(message), place)
    }

    fn lists(&self, _format: Format) -> Vec<List> {
        let key = timed(self.expires_at, self.id.as_bytes());
        vec![List::in_file(Entry::Bytes(keyspace::ENDED_SESSIONS_BY_EXPIRY, key))]
    }

    fn counts(&self, now: Timestamp) -> bool {
        counts(self.expires_at, now)
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
        let message = |session: &OpenSession| StoredSession {
            id: session.id.clone(),
            generation: session.generation,
            began_at_ms: session.began_at.as_millis(),
            expires_at_ms: session.expires_at.as_millis(),
            address: session.address.clone(),
        };
        let sessions = self.sessions.iter().map(message).collect();
        StoredSessions { user: self.user.clone(), sessions }.encode_to_vec()
    }

    fn decode(place: &[u8], bytes: &[u8]) -> Result<Self, StoreError> {
        let message = StoredSessions::decode(bytes).map_err(|_| damaged("sessions"))?;
        let session = |message: StoredSession| OpenSession {
            id: message.id,
            generation: message.generation,
            began_at: Timestamp::from_millis(message.began_at_ms),
            expires_at: Timestamp::from_millis(message.expires_at_ms),
            address: message.address,
        };
        let sessions = Self { user: message.user, sessions: message.sessions.into_iter().map(session).collect() };
        at_its_place(sessions, place)
    }

    fn lists(&self, _format: Format) -> Vec<List> {
        let key = timed(self.last_expiry(), self.user.as_bytes());
        vec![List::in_file(Entry::Bytes(keyspace::SESSIONS_BY_EXPIRY, key))]
    }

    fn counts(&self, now: Timestamp) -> bool {
        counts(self.last_expiry(), now)
    }

    fn kept(&self, now: Timestamp) -> Option<Duration> {
        Some(kept(self.last_expiry(), now))
    }
}

/// As events have them, too.
pub(super) fn message_of(session: &EndedSession) -> StoredEndedSession {
    StoredEndedSession {
        id: session.id.clone(),
        user: session.user.clone(),
        ended_at_ms: session.ended_at.as_millis(),
        expires_at_ms: session.expires_at.as_millis(),
    }
}

/// As [`message_of`], the other way.
pub(super) fn of_message(message: StoredEndedSession) -> EndedSession {
    EndedSession {
        id: message.id,
        user: message.user,
        ended_at: Timestamp::from_millis(message.ended_at_ms),
        expires_at: Timestamp::from_millis(message.expires_at_ms),
    }
}

/// The last hour is spared, so that none is forgotten between two looks at it: its token expired a day ago.
fn counts(expires_at: Timestamp, now: Timestamp) -> bool {
    now.plus(FORGOTTEN_EARLIER) < expires_at.plus(SESSION_KEPT)
}

/// How long what expires then is remembered.
fn kept(expires_at: Timestamp, now: Timestamp) -> Duration {
    let left = expires_at.as_millis().saturating_sub(now.as_millis());
    Duration::from_millis(left).saturating_add(SESSION_KEPT)
}

impl Store {
    /// Whether the session with this id was ended.
    pub async fn ended_session(&self, id: String) -> Result<bool, StoreError> {
        Ok(self.find::<EndedSession>(id.into_bytes()).await?.is_some())
    }

    /// The sessions of a user that have begun and were not ended, the oldest first; also such as are over.
    pub async fn sessions(&self, user: String) -> Result<Vec<OpenSession>, StoreError> {
        let known: Option<UserSessions> = self.find(user.into_bytes()).await?;
        Ok(known.map_or_else(Vec::new, |known| known.sessions))
    }
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
