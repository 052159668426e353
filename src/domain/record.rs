//! What the store keeps: keys, users, sessions, resources and the audit log. Never holds a secret that can be used as it
//! stands; an absent scope list means nothing, not everything.

use std::fmt;
use std::sync::Arc;

use tollgate_core::credential::{KeyId, ProjectId, UserId};
use tollgate_core::name::split_login_name;
use tollgate_core::principal::{Grant, InvalidRecord, Principal, Validity};
use tollgate_core::resource::EVERY;
use tollgate_guard::digest::Digest;
use tollgate_guard::time::Timestamp;

/// One API key. The secret itself is known to its owner alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    pub id: KeyId,
    pub digest: Digest,
    /// Which pepper the digest was made with.
    pub pepper_version: u32,
    /// For people; free text by [`tollgate_core::name::is_label`].
    pub name: String,
    /// The plane its prefix was declared for when it was minted.
    pub plane: String,
    /// One project, or [`EVERY`] on an admin plane.
    pub project: String,
    /// See [`Project::id`]; `None` also where it is of every project.
    pub project_id: Option<ProjectId>,
    /// Names of workloads, or [`EVERY`] alone. Empty: none.
    pub workloads: Vec<String>,
    /// Sorted, without duplicates.
    pub permissions: Vec<String>,
    pub created_at: Timestamp,
    /// `key:<id>`, or `operator` for whoever holds the admin socket.
    pub created_by: String,
    pub expires_at: Option<Timestamp>,
    /// End of the overlap that a rotation granted; kept apart from `expires_at`, as it is answered differently.
    pub retires_at: Option<Timestamp>,
    /// Set once and never cleared: a revoked record stays as a tombstone.
    pub revoked_at: Option<Timestamp>,
    /// The key that this one took the place of.
    pub replaces: Option<KeyId>,
    /// The key that took this one's place.
    pub replaced_by: Option<KeyId>,
    /// Counts the writes of this record, from 1.
    pub version: u64,
}

/// What happened to a key, for people and programs that list keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    Active,
    /// Rotated: valid until its grace ends.
    Retiring,
    Retired,
    Expired,
    Revoked,
}

impl KeyState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Retiring => "retiring",
            Self::Retired => "retired",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl ApiKey {
    /// What its holder may do.
    ///
    /// # Errors
    /// As [`Grant::new`].
    pub fn grant(&self) -> Result<Grant, InvalidRecord> {
        Ok(Grant::new(&self.plane, &self.project, &self.workloads, &self.permissions)?.in_project(self.project_id))
    }

    /// Its holder, with the [`ApiKey::grant`].
    pub fn principal(&self, grant: Arc<Grant>) -> Principal {
        let Self { expires_at, retires_at, .. } = *self;
        Principal::of_key(self.id, grant, Validity { expires_at, retires_at, revoked: self.revoked_at.is_some() })
    }

    pub fn state(&self, now: Timestamp) -> KeyState {
        if self.revoked_at.is_some() {
            KeyState::Revoked
        } else if self.retires_at.is_some_and(|end| end <= now) {
            KeyState::Retired
        } else if self.expires_at.is_some_and(|end| end <= now) {
            KeyState::Expired
        } else if self.retires_at.is_some() {
            KeyState::Retiring
        } else {
            KeyState::Active
        }
    }

    /// Whether it was revoked and would have expired by itself, both before this time. Its record may go then, if every copy of the
    /// store that may ever be put back is as young as that: in each the key is revoked, and its own expiry is past.
    pub fn is_over_before(&self, time: Timestamp) -> bool {
        [self.revoked_at, self.expires_at].iter().all(|end| end.is_some_and(|end| end < time))
    }
}

/// A project as a whole. It is there once it is made, by itself or with the first thing in it; a name that only a token says is active as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Project {
    pub name: String,
    /// What everything in it carries: whatever carries another one belongs to another project of this name. `None`: the store's
    /// format knows none.
    pub id: Option<ProjectId>,
    pub state: ProjectState,
    pub changed_at: Timestamp,
    /// As [`AuditEntry::actor`].
    pub changed_by: String,
    /// Counts the writes of this record, from 1.
    pub version: u64,
}

impl Project {
    /// Whether it was made, and neither suspended nor deleted ever since.
    pub fn is_merely_there(&self) -> bool {
        self.state == ProjectState::Active && self.version == 1
    }

    /// Whether whoever carries this id is let in, by what is known of the project of that name: it is the same one, and active.
    /// What was made before projects had ids, and a token of another issuer, carries none: it means whichever has the name, and
    /// one that is not known is active.
    pub fn lets_in(project: Option<&Self>, carried: Option<ProjectId>) -> bool {
        let is_the_same = carried.is_none() || project.and_then(|project| project.id) == carried;
        is_the_same && project.is_none_or(|project| project.state == ProjectState::Active)
    }
}

/// Whether anybody of a project is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProjectState {
    Active,
    /// Nobody, until it is active again.
    Suspended,
    /// Nobody, for good.
    Deleted,
}

impl ProjectState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Deleted => "deleted",
        }
    }
}

/// Somebody who logs in with a password.
#[derive(Clone, PartialEq, Eq)]
pub struct User {
    /// What tells the user from whoever else has or had the name. `None`: the store's format knows none.
    pub id: Option<UserId>,
    /// What the user is known by everywhere, and nobody else: by [`tollgate_core::name::is_login_name`]. With the project in front if the
    /// user was made in one by a store that tells names of projects apart; it never changes.
    pub name: String,
    /// Argon2id, as a PHC string. Empty once the user is deleted.
    pub password_hash: String,
    /// One project, or [`EVERY`].
    pub project: String,
    /// See [`Project::id`]; `None` also where the user is of every project.
    pub project_id: Option<ProjectId>,
    /// Sorted, without duplicates.
    pub permissions: Vec<String>,
    pub disabled: bool,
    /// A tombstone: the name is kept from reuse.
    pub deleted: bool,
    /// Of a deleted user: the name is free for another one. A store whose format does not know it keeps no name.
    pub freed: bool,
    /// The generation of the user's sessions: tokens of another one are refused. It rises when the user is disabled,
    /// enabled, deleted or made again and when the password changes, and never falls.
    pub sessions: u64,
    pub created_at: Timestamp,
    /// As [`AuditEntry::actor`].
    pub created_by: String,
    pub changed_at: Timestamp,
    /// Counts the writes of this record, from 1.
    pub version: u64,
}

impl User {
    /// What the user is called within the project.
    pub fn plain_name(&self) -> &str {
        split_login_name(&self.name).1
    }

    /// What another user of this plain name is called, where names of projects are told apart.
    pub fn name_in(project: &str, plain: &str) -> String {
        if project == EVERY { plain.to_owned() } else { format!("{project}/{plain}") }
    }

    pub fn may_log_in(&self) -> bool {
        !self.disabled && !self.deleted
    }
}

impl fmt::Debug for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("name", &self.name)
            .field("project", &self.project)
            .field("permissions", &self.permissions)
            .field("disabled", &self.disabled)
            .field("deleted", &self.deleted)
            .field("sessions", &self.sessions)
            .field("version", &self.version)
            .finish_non_exhaustive()
    }
}

/// A session that was ended before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedSession {
    /// The `jti` of its token; a name.
    pub id: String,
    /// The name of the user whose session it was.
    pub user: String,
    pub ended_at: Timestamp,
    /// When its token expires: until then it must be remembered.
    pub expires_at: Timestamp,
}

/// The sessions of one user that have begun and were not ended. Some may be over; one is over when its token expires, or when the
/// user's generation of sessions is another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserSessions {
    /// The name of the user.
    pub user: String,
    /// In the order in which they began, at most [`UserSessions::MOST`].
    pub sessions: Vec<OpenSession>,
}

impl UserSessions {
    /// So many of one user go on at the same time.
    pub const MOST: usize = 256;

    /// Whether the session with this id is among them.
    pub fn has(&self, id: &str) -> bool {
        self.sessions.iter().any(|session| session.id == id)
    }

    /// When the last of their tokens expires.
    pub fn last_expiry(&self) -> Timestamp {
        self.sessions.iter().map(|session| session.expires_at).max().unwrap_or_default()
    }
}

/// A session from its login on. The token that it is known by is kept by its owner alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenSession {
    /// The `jti` of its token; a name.
    pub id: String,
    /// The user's generation of sessions at the login.
    pub generation: u64,
    pub began_at: Timestamp,
    pub expires_at: Timestamp,
    /// Of the client that logged in, if it was known.
    pub address: Option<String>,
}

impl OpenSession {
    /// Whether its token may still pass, as far as its user says.
    pub fn goes_on(&self, user: &User, now: Timestamp) -> bool {
        user.may_log_in() && self.generation == user.sessions && now < self.expires_at
    }
}

/// A private key that session tokens are signed with, sealed by a key that is not in the store.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey {
    /// The `kid` of its tokens; a name.
    pub id: String,
    pub sealed: Vec<u8>,
    pub created_at: Timestamp,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}, …)", self.id)
    }
}

/// How an administrative act ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// The actor did not have the right to it; nothing was changed.
    Refused,
}

impl Outcome {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Refused => "refused",
        }
    }
}

/// The act of a row that tells how many older rows were removed.
pub const AUDIT_TRIM: &str = "audit.trim";
/// The act of taking a copy of the store: it is taken in a full store, too.
pub const STORE_BACKUP: &str = "store.backup";

/// One row of the audit log: an administrative act, or the attempt of one. Never changed and never removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Counts the rows, from 1; the store gives it.
    pub sequence: u64,
    pub at: Timestamp,
    /// `key:<id>`, `user:<name>`, `<issuer>:<subject>`, or `operator` for whoever holds the admin socket.
    pub actor: String,
    /// The id of the user or of the subject of a token, which nobody else ever has. `None`: the actor has none, or had none then.
    pub actor_id: Option<String>,
    /// Such as `key.create`.
    pub act: String,
    /// Such as `key:<id>`, `user:<name>` or `<kind>:<id>` of a resource.
    pub target: String,
    /// The project of the target, if it has one: who is bound to a project sees its rows alone.
    pub project: Option<String>,
    pub outcome: Outcome,
    /// Why it was refused.
    pub reason: Option<String>,
    /// Where the request came from.
    pub peer: String,
    pub request_id: String,
}

/// What was done, for people.
impl fmt::Display for AuditEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} by {}", self.act, self.target, self.actor)?;
        self.project.as_ref().map_or(Ok(()), |project| write!(f, " in {project}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_neither_hash_nor_sealed_key() {
        let at = Timestamp::from_millis(1);
        let user = User {
            id: None,
            name: "alice".to_owned(),
            password_hash: "$argon2id$hash".to_owned(),
            project: "acme".to_owned(),
            project_id: None,
            permissions: vec![],
            disabled: false,
            deleted: false,
            freed: false,
            sessions: 1,
            created_at: at,
            created_by: "operator".to_owned(),
            changed_at: at,
            version: 1,
        };
        let text = format!("{user:?}");
        assert!(text.contains("alice") && !text.contains("argon2id"), "{text}");
        let key = SigningKey { id: "k-1".to_owned(), sealed: vec![77; 4], created_at: at };
        let text = format!("{key:?}");
        assert!(text.contains("k-1") && !text.contains("77"), "{text}");
    }
}
