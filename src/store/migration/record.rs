//! Whatever a store keeps, as one type, so that it can be carried to another store and compared there. Never shows a secret.

use tollgate_core::credential::KeyId;
use tollgate_core::resource::Resource;
use tollgate_guard::time::Timestamp;

use crate::domain::record::{ApiKey, AuditEntry, EndedSession, Project, SigningKey, User, UserSessions};
use crate::store::format::Format;
use crate::store::keyspace::id_key;
use crate::store::records::audit::encode_audit;
use crate::store::records::key::{self, encode_key};
use crate::store::records::noun::{Noun, Tables, keep};
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

/// What is done with a kind that is a [`Noun`]; the others stand in stores in ways of their own.
macro_rules! by_kind {
    ($kind:expr, $noun:ident => $do:expr, $($other:pat => $else:expr),+ $(,)?) => {
        match $kind {
            $crate::store::migration::Kind::Projects => {
                type $noun = $crate::domain::record::Project;
                $do
            }
            $crate::store::migration::Kind::Users => {
                type $noun = $crate::domain::record::User;
                $do
            }
            $crate::store::migration::Kind::EndedSessions => {
                type $noun = $crate::domain::record::EndedSession;
                $do
            }
            $crate::store::migration::Kind::Sessions => {
                type $noun = $crate::domain::record::UserSessions;
                $do
            }
            $crate::store::migration::Kind::SigningKeys => {
                type $noun = $crate::domain::record::SigningKey;
                $do
            }
            $crate::store::migration::Kind::Resources => {
                type $noun = ::tollgate_core::resource::Resource;
                $do
            }
            $crate::store::migration::Kind::Once => {
                type $noun = $crate::store::OnceRecord;
                $do
            }
            $($other => $else),+
        }
    };
}
pub(in crate::store) use by_kind;

/// The same with a record.
macro_rules! by_record {
    ($record:expr, $noun:ident => $do:expr, $($other:pat => $else:expr),+ $(,)?) => {
        match $record {
            Record::Project($noun) => $do,
            Record::User($noun) => $do,
            Record::EndedSession($noun) => $do,
            Record::Sessions($noun) => $do,
            Record::SigningKey($noun) => $do,
            Record::Resource($noun) => $do,
            Record::Once($noun) => $do,
            $($other => $else),+
        }
    };
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
    OnceRecord => Once,
}

impl Record {
    /// Where it stands among those of its kind: in this order every store gives them.
    pub fn place(&self) -> Vec<u8> {
        by_record!(self, noun => noun.place(),
            Self::Pepper(pepper) => pepper.version.to_be_bytes().to_vec(),
            Self::Key(key) => id_key(&key.id).to_vec(),
            Self::LastUse(id, _) => id_key(id).to_vec(),
            Self::Audit(row) => row.sequence.to_be_bytes().to_vec(),
        )
    }

    /// All of it, the same for equal records.
    pub(super) fn bytes(&self) -> Vec<u8> {
        by_record!(self, noun => [noun.place(), noun.encode(Format::NEWEST)].concat(),
            Self::Pepper(pepper) => [&pepper.version.to_be_bytes()[..], &pepper.check].concat(),
            Self::Key(key) => encode_key(key),
            Self::LastUse(id, at) => [&id_key(id)[..], &at.as_millis().to_be_bytes()].concat(),
            Self::Audit(row) => encode_audit(row),
        )
    }

    /// What people call it.
    pub fn name(&self) -> String {
        by_record!(self, noun => Noun::name(noun),
            Self::Pepper(pepper) => format!("the check value of pepper version {}", pepper.version),
            Self::Key(key) => Noun::name(key),
            Self::LastUse(id, _) => format!("the last use of key {id}"),
            Self::Audit(row) => format!("row {} of the audit log", row.sequence),
        )
    }

    /// Puts it where it stands, and on its lists; `false`: stores do so in ways of their own.
    pub(in crate::store) fn put<T: Tables>(&self, tables: &mut T, now: Timestamp) -> Result<bool, T::Halt> {
        by_record!(self, noun => keep(tables, None, noun, now)?,
            Self::Key(record) => key::put(tables, record)?,
            Self::Pepper(_) | Self::LastUse(..) | Self::Audit(_) => return Ok(false),
        );
        Ok(true)
    }

    /// Whether something stands there already, in a store that [puts](Self::put) it.
    pub(in crate::store) fn is_taken<T: Tables>(&self, tables: &mut T) -> Result<bool, T::Halt> {
        fn stands<T: Tables, N: Noun>(tables: &mut T, record: &N) -> Result<bool, T::Halt> {
            Ok(tables.value::<N>(&record.place())?.is_some())
        }
        by_record!(self, noun => stands(tables, noun),
            Self::Key(key) => Ok(tables.pointer(&key.id)?.is_some() || stands(tables, key)?),
            Self::Pepper(_) | Self::LastUse(..) | Self::Audit(_) => Ok(false),
        )
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
