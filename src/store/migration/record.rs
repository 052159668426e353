//! Whatever a store keeps, as one type, so that it can be carried to another store and compared there. Never shows a secret.

use tollgate_core::credential::KeyId;
use tollgate_core::resource::Resource;
use tollgate_guard::time::Timestamp;

use crate::domain::record::{ApiKey, AuditEntry, EndedSession, Project, SigningKey, User, UserSessions};
use crate::store::format::Format;
use crate::store::keyspace::id_key;
use crate::store::records::audit::encode_audit;
use crate::store::records::key::encode_key;
use crate::store::records::noun::Noun;
use crate::store::{OnceRecord, PepperCheck, SESSION_KEPT};

/// A kind of record. What takes rights away stands before what gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    Projects,
    Users,
    EndedSessions,
    Sessions,
    SigningKeys,
    Peppers,
    Resources,
    Keys,
    LastUses,
    Once,
    Audit,
}

impl Kind {
    /// In the order in which they are carried over: a last use needs its key.
    pub const ALL: [Self; 11] = [
        Self::Projects,
        Self::Users,
        Self::EndedSessions,
        Self::Sessions,
        Self::SigningKeys,
        Self::Peppers,
        Self::Resources,
        Self::Keys,
        Self::LastUses,
        Self::Once,
        Self::Audit,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Projects => "projects",
            Self::Users => "users",
            Self::EndedSessions => "ended_sessions",
            Self::Sessions => "sessions",
            Self::SigningKeys => "signing_keys",
            Self::Peppers => "peppers",
            Self::Resources => "resources",
            Self::Keys => "keys",
            Self::LastUses => "last_uses",
            Self::Once => "idempotency_keys",
            Self::Audit => "audit_rows",
        }
    }
}

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    Project(Project),
    /// Also a deleted one.
    User(User),
    EndedSession(EndedSession),
    /// Of one user.
    Sessions(UserSessions),
    SigningKey(SigningKey),
    Pepper(PepperCheck),
    Resource(Resource),
    Key(ApiKey),
    LastUse(KeyId, Timestamp),
    Once(OnceRecord),
    Audit(AuditEntry),
}

macro_rules! into_record {
    ($($noun:ty => $kind:ident),* $(,)?) => {
        $(impl From<$noun> for Record {
            fn from(record: $noun) -> Self {
                Self::$kind(record)
            }
        })*
    };
}

into_record! {
    Project => Project,
    User => User,
    EndedSession => EndedSession,
    UserSessions => Sessions,
    SigningKey => SigningKey,
    Resource => Resource,
    ApiKey => Key,
    OnceRecord => Once,
}

impl Record {
    /// Where it stands among those of its kind: in this order every store gives them.
    pub fn place(&self) -> Vec<u8> {
        match self {
            Self::Project(project) => project.place(),
            Self::User(user) => user.place(),
            Self::EndedSession(session) => session.place(),
            Self::Sessions(sessions) => sessions.place(),
            Self::SigningKey(key) => key.place(),
            Self::Pepper(pepper) => pepper.version.to_be_bytes().to_vec(),
            Self::Resource(resource) => resource.place(),
            Self::Key(key) => id_key(&key.id).to_vec(),
            Self::LastUse(id, _) => id_key(id).to_vec(),
            Self::Once(once) => once.place(),
            Self::Audit(row) => row.sequence.to_be_bytes().to_vec(),
        }
    }

    /// All of it, the same for equal records.
    pub(super) fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Project(project) => project.encode(Format::NEWEST),
            Self::User(user) => user.encode(Format::NEWEST),
            Self::EndedSession(session) => session.encode(Format::NEWEST),
            Self::Sessions(sessions) => sessions.encode(Format::NEWEST),
            Self::SigningKey(key) => key.encode(Format::NEWEST),
            Self::Pepper(pepper) => [&pepper.version.to_be_bytes()[..], &pepper.check].concat(),
            Self::Resource(resource) => resource.encode(Format::NEWEST),
            Self::Key(key) => encode_key(key),
            Self::LastUse(id, at) => [&id_key(id)[..], &at.as_millis().to_be_bytes()].concat(),
            Self::Once(once) => [once.place(), once.encode(Format::NEWEST)].concat(),
            Self::Audit(row) => encode_audit(row),
        }
    }

    /// What people call it.
    pub fn name(&self) -> String {
        match self {
            Self::Project(project) => Noun::name(project),
            Self::User(user) => Noun::name(user),
            Self::EndedSession(session) => session.name(),
            Self::Sessions(sessions) => sessions.name(),
            Self::SigningKey(key) => key.name(),
            Self::Pepper(pepper) => format!("the check value of pepper version {}", pepper.version),
            Self::Resource(resource) => resource.name(),
            Self::Key(key) => format!("key {}", key.id),
            Self::LastUse(id, _) => format!("the last use of key {id}"),
            Self::Once(once) => once.name(),
            Self::Audit(row) => format!("row {} of the audit log", row.sequence),
        }
    }

    /// Whether it still counts. Stores forget by themselves what does not, each when it likes.
    pub(super) fn holds(&self, now: Timestamp) -> bool {
        match self {
            Self::Once(once) => once.holds(now),
            // The last hour is spared, so that none is forgotten between two looks at it: its token expired a day ago.
            Self::EndedSession(session) => now.plus(SPARE) < session.expires_at.plus(SESSION_KEPT),
            Self::Sessions(sessions) => now.plus(SPARE) < sessions.last_expiry().plus(SESSION_KEPT),
            _ => true,
        }
    }
}

/// How much earlier than a store a migration forgets, at least.
pub(in crate::store) const SPARE: std::time::Duration = std::time::Duration::from_secs(3600);
