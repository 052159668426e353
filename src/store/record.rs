//! Whatever a store keeps, as one type, so that it can be carried to another store and compared there. Never shows a secret.

use tollgate_core::credential::KeyId;
use tollgate_guard::time::Timestamp;

use super::format::Format;
use super::keyspace::{id_key, key_id};
use super::kind::{Kind, nouns};
use super::records::audit::{decode_audit, encode_audit};
use super::records::key;
use super::records::noun::{Noun, Tables, keep};
use super::{PepperCheck, StoreError};
use crate::domain::record::{ApiKey, AuditEntry};

macro_rules! define_record {
    (() $($kind:ident => $record:ident($type:ty),)*) => {
        /// One record, also of a user who was deleted.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub enum Record {
            $($record($type),)*
            Key(ApiKey),
            Pepper(PepperCheck),
            LastUse(KeyId, Timestamp),
            Audit(AuditEntry),
        }

        $(impl From<$type> for Record {
            fn from(record: $type) -> Self {
                Self::$record(record)
            }
        })*
    };
}
nouns!([define_record]);

/// What is done with a kind that is a [`Noun`]; the others stand in stores in ways of their own.
macro_rules! by_kind {
    ($kind:expr, $noun:ident => $do:expr, $($others:tt)*) => {
        $crate::store::kind::nouns!([$crate::store::record::match_kind] $kind, $noun, $do, { $($others)* })
    };
}
pub(super) use by_kind;

macro_rules! match_kind {
    (($kind:expr, $noun:ident, $do:expr, { $($others:tt)* }) $($of:ident => $record:ident($type:ty),)*) => {
        match $kind {
            $($crate::store::kind::Kind::$of => {
                type $noun = $type;
                $do
            })*
            $($others)*
        }
    };
}
pub(super) use match_kind;

/// The same with a record.
macro_rules! by_record {
    ($value:expr, $noun:ident => $do:expr, $($others:tt)*) => {
        nouns!([match_record] $value, $noun, $do, { $($others)* })
    };
}

macro_rules! match_record {
    (($value:expr, $noun:ident, $do:expr, { $($others:tt)* }) $($of:ident => $record:ident($type:ty),)*) => {
        match $value {
            $(Record::$record($noun) => $do,)*
            $($others)*
        }
    };
}

impl Record {
    pub fn kind(&self) -> Kind {
        fn of<N: Noun>(_: &N) -> Kind {
            N::KIND
        }
        by_record!(self, noun => of(noun),
            Self::Key(key) => of(key),
            Self::Pepper(_) => Kind::Peppers,
            Self::LastUse(..) => Kind::LastUses,
            Self::Audit(_) => Kind::Audit,
        )
    }

    /// Where it stands among those of its kind: in this order every store gives them.
    pub fn place(&self) -> Vec<u8> {
        by_record!(self, noun => noun.listed_place(),
            Self::Pepper(pepper) => pepper.version.to_be_bytes().to_vec(),
            Self::Key(key) => key.listed_place(),
            Self::LastUse(id, _) => id_key(id).to_vec(),
            Self::Audit(row) => row.sequence.to_be_bytes().to_vec(),
        )
    }

    /// All of it but its place, the same for equal records.
    pub(super) fn body(&self) -> Vec<u8> {
        by_record!(self, noun => noun.encode(Format::NEWEST),
            Self::Pepper(pepper) => pepper.check.to_vec(),
            Self::Key(key) => key.encode(Format::NEWEST),
            Self::LastUse(_, at) => at.as_millis().to_be_bytes().to_vec(),
            Self::Audit(row) => encode_audit(row),
        )
    }

    /// The record in a place, by its [`body`](Self::body).
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the bytes are no such record, or one of another place.
    pub(super) fn decode(kind: Kind, place: &[u8], body: &[u8]) -> Result<Self, StoreError> {
        let damaged = || StoreError::Damaged(format!("one of the {} cannot be read", kind.as_str().replace('_', " ")));
        let record = by_kind!(kind, N => N::decode(place, body)?.into(),
            Kind::Keys => Self::Key(key::decode_key(body)?),
            Kind::Peppers => {
                let version = u32::from_be_bytes(place.try_into().map_err(|_| damaged())?);
                Self::Pepper(PepperCheck { version, check: body.try_into().map_err(|_| damaged())? })
            },
            Kind::LastUses => {
                let at = u64::from_be_bytes(body.try_into().map_err(|_| damaged())?);
                Self::LastUse(key_id(place).ok_or_else(damaged)?, Timestamp::from_millis(at))
            },
            Kind::Audit => Self::Audit(decode_audit(body)?),
        );
        if record.place() == place { Ok(record) } else { Err(damaged()) }
    }

    /// All of it, the same for equal records.
    pub(super) fn bytes(&self) -> Vec<u8> {
        [self.place(), self.body()].concat()
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
    pub(super) fn put<T: Tables>(&self, tables: &mut T, now: Timestamp) -> Result<bool, T::Halt> {
        by_record!(self, noun => keep(tables, None, noun, now)?,
            Self::Key(record) => key::put(tables, record)?,
            Self::Pepper(_) | Self::LastUse(..) | Self::Audit(_) => return Ok(false),
        );
        Ok(true)
    }

    /// Whether something stands there already, in a store that [puts](Self::put) it.
    pub(super) fn is_taken<T: Tables>(&self, tables: &mut T) -> Result<bool, T::Halt> {
        fn stands<T: Tables, N: Noun>(tables: &mut T, record: &N) -> Result<bool, T::Halt> {
            Ok(tables.value::<N>(&record.place())?.is_some())
        }
        by_record!(self, noun => stands(tables, noun),
            Self::Key(key) => Ok(tables.pointer(&key.id)?.is_some() || stands(tables, key)?),
            Self::Pepper(_) | Self::LastUse(..) | Self::Audit(_) => Ok(false),
        )
    }

    /// Whether it still counts.
    pub(super) fn counts(&self, now: Timestamp) -> bool {
        by_record!(self, noun => noun.counts(now),
            Self::Key(_) | Self::Pepper(_) | Self::LastUse(..) | Self::Audit(_) => true,
        )
    }
}
