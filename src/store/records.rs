//! Records to bytes and back. Never panics on what it reads: bytes that are no record are a damaged store. Fields it
//! does not know are passed over, so that a stored record can grow.

use prost::Message;
use tollgate_core::credential::{KeyId, ProjectId, UserId};
use tollgate_core::resource::Resource;
use tollgate_guard::digest::Digest;
use tollgate_guard::slots::{SLOTS, Touched};
use tollgate_guard::time::Timestamp;

use super::format::Format;
use super::{OnceRecord, StoreError};
use crate::domain::change::{Ended, Event};
use crate::domain::record::{
    ApiKey, AuditEntry, EndedSession, OpenSession, Outcome, Project, ProjectState, SigningKey, User, UserSessions,
};

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
        project_id: key.project_id.map(|id| id.to_string()),
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
        project_id: project_id(wire.project_id).ok_or_else(damaged)?,
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
        project_id: resource.project_id.map(|id| id.to_string()),
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
        project_id: project_id(wire.project_id).ok_or_else(|| damaged("a resource"))?,
        owner: wire.owner,
        created_at: Timestamp::from_millis(wire.created_at_ms),
        version: wire.version,
    })
}

pub(super) fn encode_project(project: &Project) -> Vec<u8> {
    let state = encode_state(project.state);
    let wire = wire::Project {
        name: project.name.clone(),
        state,
        changed_at_ms: project.changed_at.as_millis(),
        changed_by: project.changed_by.clone(),
        version: project.version,
        id: project.id.map(|id| id.to_string()),
    };
    wire.encode_to_vec()
}

/// # Errors
/// [`StoreError::Damaged`] if the bytes are no project.
pub(super) fn decode_project(bytes: &[u8]) -> Result<Project, StoreError> {
    let wire = wire::Project::decode(bytes).map_err(|_| damaged("a project"))?;
    let state = decode_state(wire.state)?;
    Ok(Project {
        name: wire.name,
        id: project_id(wire.id).ok_or_else(|| damaged("a project"))?,
        state,
        changed_at: Timestamp::from_millis(wire.changed_at_ms),
        changed_by: wire.changed_by,
        version: wire.version,
    })
}

/// `None` for what is no id.
fn project_id(wire: Option<String>) -> Option<Option<ProjectId>> {
    match wire {
        Some(id) => ProjectId::parse(&id).map(Some),
        None => Some(None),
    }
}

fn encode_state(state: ProjectState) -> i32 {
    match state {
        ProjectState::Active => wire::project::State::Active,
        ProjectState::Suspended => wire::project::State::Suspended,
        ProjectState::Deleted => wire::project::State::Deleted,
    }
    .into()
}

fn decode_state(state: i32) -> Result<ProjectState, StoreError> {
    // One that is not known lets nobody in.
    match wire::project::State::try_from(state).map_err(|_| damaged("a project"))? {
        wire::project::State::Active => Ok(ProjectState::Active),
        wire::project::State::Suspended => Ok(ProjectState::Suspended),
        wire::project::State::Deleted => Ok(ProjectState::Deleted),
    }
}

pub(super) fn encode_event(event: &Event) -> Vec<u8> {
    let (slots, all) = match &event.touched {
        Touched::All => (Vec::new(), true),
        Touched::Slots(slots) => (slots.iter().map(|slot| u32::from(*slot)).collect(), false),
    };
    wire::Event { slots, all, ended: event.ended.iter().map(encode_ended).collect() }.encode_to_vec()
}

fn encode_ended(ended: &Ended) -> wire::event::Ended {
    use wire::event::ended::What;
    let what = match ended.clone() {
        Ended::Key { digest, at } => What::Key(wire::event::Key { digest: digest.0.to_vec(), at_ms: at.as_millis() }),
        Ended::Session(session) => What::Session(wire_session(&session)),
        Ended::User { name, created_at, sessions, disabled, deleted } => {
            let created_at_ms = created_at.as_millis();
            What::User(wire::event::User { name, sessions, disabled, deleted, created_at_ms })
        }
        Ended::Project { name, state, changed_at, version } => {
            let (state, changed_at_ms) = (encode_state(state), changed_at.as_millis());
            What::Project(wire::event::Project { name, state, version, changed_at_ms })
        }
        Ended::Resource { kind, id, created_at } => {
            What::Resource(wire::event::Resource { kind, id, created_at_ms: created_at.as_millis() })
        }
    };
    wire::event::Ended { what: Some(what) }
}

/// # Errors
/// [`StoreError::Damaged`] if the bytes are no event.
pub(super) fn decode_event(bytes: &[u8]) -> Result<Event, StoreError> {
    let damaged = || damaged("an event");
    let wire = wire::Event::decode(bytes).map_err(|_| damaged())?;
    let slot = |slot: &u32| u16::try_from(*slot).ok().filter(|slot| usize::from(*slot) < SLOTS).ok_or_else(damaged);
    let slots = wire.slots.iter().map(slot).collect::<Result<Vec<u16>, _>>()?;
    let said = wire.ended.into_iter().filter_map(|ended| ended.what);
    Ok(Event {
        touched: if wire.all { Touched::All } else { Touched::Slots(slots) },
        ended: said.filter_map(|what| decode_ended(what).transpose()).collect::<Result<_, _>>()?,
    })
}

/// `None` for what another version says.
fn decode_ended(what: wire::event::ended::What) -> Result<Option<Ended>, StoreError> {
    use wire::event::ended::What;
    Ok(Some(match what {
        What::Key(key) => {
            let digest = Digest::from_slice(&key.digest).ok_or_else(|| damaged("an event"))?;
            Ended::Key { digest, at: Timestamp::from_millis(key.at_ms) }
        }
        What::Session(session) => Ended::Session(session_of(session)),
        What::User(wire::event::User { name, sessions, disabled, deleted, created_at_ms }) => {
            Ended::User { name, created_at: Timestamp::from_millis(created_at_ms), sessions, disabled, deleted }
        }
        What::Project(wire::event::Project { name, state, version, changed_at_ms }) => {
            let Ok(state) = decode_state(state) else { return Ok(None) };
            Ended::Project { name, state, changed_at: Timestamp::from_millis(changed_at_ms), version }
        }
        What::Resource(wire::event::Resource { kind, id, created_at_ms }) => {
            Ended::Resource { kind, id, created_at: Timestamp::from_millis(created_at_ms) }
        }
    }))
}

pub(super) fn encode_user(user: &User, format: Format) -> Vec<u8> {
    let wire = wire::User {
        name: user.name.clone(),
        password_hash: user.password_hash.clone(),
        project: user.project.clone(),
        permissions: user.permissions.clone(),
        disabled: user.disabled,
        deleted: user.deleted,
        sessions: user.sessions,
        created_at_ms: user.created_at.as_millis(),
        created_by: user.created_by.clone(),
        changed_at_ms: user.changed_at.as_millis(),
        version: user.version,
        id: user.id.filter(|_| format.has_three()).map(|id| id.to_string()),
        freed: user.freed && format.has_three(),
        project_id: user.project_id.filter(|_| format.has_three()).map(|id| id.to_string()),
    };
    wire.encode_to_vec()
}

/// # Errors
/// [`StoreError::Damaged`] if the bytes are no user.
pub(super) fn decode_user(bytes: &[u8]) -> Result<User, StoreError> {
    let wire = wire::User::decode(bytes).map_err(|_| damaged("a user"))?;
    Ok(User {
        id: wire.id.map(|id| UserId::parse(&id).ok_or_else(|| damaged("a user"))).transpose()?,
        name: wire.name,
        password_hash: wire.password_hash,
        project: wire.project,
        project_id: project_id(wire.project_id).ok_or_else(|| damaged("a user"))?,
        permissions: wire.permissions,
        disabled: wire.disabled,
        deleted: wire.deleted,
        freed: wire.freed,
        sessions: wire.sessions,
        created_at: Timestamp::from_millis(wire.created_at_ms),
        created_by: wire.created_by,
        changed_at: Timestamp::from_millis(wire.changed_at_ms),
        version: wire.version,
    })
}

pub(super) fn encode_ended_session(session: &EndedSession) -> Vec<u8> {
    wire_session(session).encode_to_vec()
}

fn wire_session(session: &EndedSession) -> wire::EndedSession {
    wire::EndedSession {
        id: session.id.clone(),
        user: session.user.clone(),
        ended_at_ms: session.ended_at.as_millis(),
        expires_at_ms: session.expires_at.as_millis(),
    }
}

/// # Errors
/// [`StoreError::Damaged`] if the bytes are no ended session.
pub(super) fn decode_ended_session(bytes: &[u8]) -> Result<EndedSession, StoreError> {
    wire::EndedSession::decode(bytes).map(session_of).map_err(|_| damaged("an ended session"))
}

fn session_of(wire: wire::EndedSession) -> EndedSession {
    EndedSession {
        id: wire.id,
        user: wire.user,
        ended_at: Timestamp::from_millis(wire.ended_at_ms),
        expires_at: Timestamp::from_millis(wire.expires_at_ms),
    }
}

pub(super) fn encode_sessions(sessions: &UserSessions) -> Vec<u8> {
    let wire = |session: &OpenSession| wire::sessions::Session {
        id: session.id.clone(),
        generation: session.generation,
        began_at_ms: session.began_at.as_millis(),
        expires_at_ms: session.expires_at.as_millis(),
        address: session.address.clone(),
    };
    wire::Sessions { user: sessions.user.clone(), sessions: sessions.sessions.iter().map(wire).collect() }
        .encode_to_vec()
}

/// # Errors
/// [`StoreError::Damaged`] if the bytes are no sessions of this user.
pub(super) fn decode_sessions(bytes: &[u8], user: &str) -> Result<UserSessions, StoreError> {
    let wire = wire::Sessions::decode(bytes).map_err(|_| damaged("sessions"))?;
    if wire.user != user {
        return Err(StoreError::Damaged(format!("the sessions of user {} stand in the wrong place", wire.user)));
    }
    let session = |wire: wire::sessions::Session| OpenSession {
        id: wire.id,
        generation: wire.generation,
        began_at: Timestamp::from_millis(wire.began_at_ms),
        expires_at: Timestamp::from_millis(wire.expires_at_ms),
        address: wire.address,
    };
    Ok(UserSessions { user: wire.user, sessions: wire.sessions.into_iter().map(session).collect() })
}

/// A list of sessions, unless it is damaged.
pub(super) fn readable_sessions(bytes: &[u8], user: &str) -> Option<UserSessions> {
    let sessions = decode_sessions(bytes, user).ok();
    if sessions.is_none() {
        // Whose they are is not said: a name may be an e-mail address.
        tracing::error!("the list of a user's sessions cannot be read, and is begun anew");
    }
    sessions
}

pub(super) fn encode_signing_key(key: &SigningKey) -> Vec<u8> {
    let wire =
        wire::SigningKey { id: key.id.clone(), sealed: key.sealed.clone(), created_at_ms: key.created_at.as_millis() };
    wire.encode_to_vec()
}

/// # Errors
/// [`StoreError::Damaged`] if the bytes are no signing key.
pub(super) fn decode_signing_key(bytes: &[u8]) -> Result<SigningKey, StoreError> {
    let wire = wire::SigningKey::decode(bytes).map_err(|_| damaged("a signing key"))?;
    let created_at = Timestamp::from_millis(wire.created_at_ms);
    Ok(SigningKey { id: wire.id, sealed: wire.sealed, created_at })
}

pub(super) fn encode_audit(entry: &AuditEntry) -> Vec<u8> {
    let outcome = match entry.outcome {
        Outcome::Done => wire::audit_entry::Outcome::Done,
        Outcome::Refused => wire::audit_entry::Outcome::Refused,
    };
    let wire = wire::AuditEntry {
        sequence: entry.sequence,
        at_ms: entry.at.as_millis(),
        actor: entry.actor.clone(),
        act: entry.act.clone(),
        target: entry.target.clone(),
        project: entry.project.clone(),
        outcome: outcome.into(),
        reason: entry.reason.clone(),
        peer: entry.peer.clone(),
        request_id: entry.request_id.clone(),
        actor_id: entry.actor_id.clone(),
    };
    wire.encode_to_vec()
}

/// # Errors
/// [`StoreError::Damaged`] if the bytes are no row of the audit log.
pub(super) fn decode_audit(bytes: &[u8]) -> Result<AuditEntry, StoreError> {
    let wire = wire::AuditEntry::decode(bytes).map_err(|_| damaged("an audit entry"))?;
    let outcome = match wire.outcome() {
        wire::audit_entry::Outcome::Done => Outcome::Done,
        wire::audit_entry::Outcome::Refused => Outcome::Refused,
        wire::audit_entry::Outcome::Unspecified => {
            return Err(damaged(&format!("audit entry {}", wire.sequence)));
        }
    };
    Ok(AuditEntry {
        sequence: wire.sequence,
        at: Timestamp::from_millis(wire.at_ms),
        actor: wire.actor,
        actor_id: wire.actor_id,
        act: wire.act,
        target: wire.target,
        project: wire.project,
        outcome,
        reason: wire.reason,
        peer: wire.peer,
        request_id: wire.request_id,
    })
}

/// All but the digest, which is the key it is stored under.
pub(super) fn encode_once(once: &OnceRecord) -> Vec<u8> {
    let wire =
        wire::Once { fingerprint: once.fingerprint.to_vec(), target: once.target.clone(), at_ms: once.at.as_millis() };
    wire.encode_to_vec()
}

/// # Errors
/// [`StoreError::Damaged`] if the bytes are no idempotency record.
pub(super) fn decode_once(digest: [u8; 32], bytes: &[u8]) -> Result<OnceRecord, StoreError> {
    let wire = wire::Once::decode(bytes).map_err(|_| damaged("an idempotency key"))?;
    let fingerprint = wire.fingerprint.try_into().map_err(|_| damaged("an idempotency key"))?;
    Ok(OnceRecord { digest, fingerprint, target: wire.target, at: Timestamp::from_millis(wire.at_ms) })
}

fn damaged(what: &str) -> StoreError {
    StoreError::Damaged(format!("the record of {what} cannot be read"))
}

#[cfg(test)]
mod tests;
