//! The private keys that session tokens are signed with, sealed. Never puts one in the place of another.

use prost::Message;
use redb::TableDefinition;
use tollgate_guard::time::Timestamp;

use super::super::format::Format;
use super::super::keyspace::redis as names;
use super::super::keyspace::{self, Bytes};
use super::super::kind::Kind;
use super::super::{Store, StoreError};
use super::listing::{InFile, Listing};
use super::noun::{List, Noun, Tables, damaged, refused, replace, text_key};
use crate::domain::record::SigningKey;

/// A private key that session tokens are signed with.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct StoredSigningKey {
    /// The "kid" of its tokens.
    #[prost(string, tag = "1")]
    id: String,
    /// Sealed by a key that is not in the store.
    #[prost(bytes = "vec", tag = "2")]
    sealed: Vec<u8>,
    #[prost(uint64, tag = "3")]
    created_at_ms: u64,
}

impl Noun for SigningKey {
    type Key = &'static str;
    const KIND: Kind = Kind::SigningKeys;
    const TABLE: TableDefinition<'static, &'static str, Bytes> = keyspace::SIGNING_KEYS;
    const PREFIX: &'static str = names::SIGNING_KEYS;
    const ALL: Option<&'static str> = Some(names::SIGNING_KEY_LIST);

    fn name(&self) -> String {
        format!("signing key {}", self.id)
    }

    fn place(&self) -> Vec<u8> {
        self.id.clone().into_bytes()
    }

    fn key(place: &[u8]) -> Option<&str> {
        text_key(place)
    }

    fn encode(&self, _format: Format) -> Vec<u8> {
        let created_at_ms = self.created_at.as_millis();
        StoredSigningKey { id: self.id.clone(), sealed: self.sealed.clone(), created_at_ms }.encode_to_vec()
    }

    /// Its seal opens under its own id alone, so that one in another place is passed over where it is used.
    fn decode(_place: &[u8], bytes: &[u8]) -> Result<Self, StoreError> {
        let message = StoredSigningKey::decode(bytes).map_err(|_| damaged("a signing key"))?;
        let created_at = Timestamp::from_millis(message.created_at_ms);
        Ok(Self { id: message.id, sealed: message.sealed, created_at })
    }

    fn lists(&self, _format: Format) -> Vec<List> {
        vec![of_all(&self.id)]
    }
}

/// All of them, by id.
pub(in crate::store) fn listing() -> Listing<SigningKey> {
    // What one that is not believed has signed is refused; the others go on.
    Listing { passes_over: true, ..Listing::of(names::SIGNING_KEY_LIST, InFile::Table, usize::MAX) }
}

fn of_all(id: &str) -> List {
    List::in_redis(names::SIGNING_KEY_LIST, id)
}

impl Store {
    /// The oldest first.
    pub async fn signing_keys(&self) -> Result<Vec<SigningKey>, StoreError> {
        let mut keys = self.list(Some(listing())).await?;
        keys.sort_by_key(|key| key.created_at);
        Ok(keys)
    }
}

pub(in crate::store) fn create<T: Tables>(tables: &mut T, key: &SigningKey) -> Result<(), T::Halt> {
    if tables.value::<SigningKey>(&key.place())?.is_some() {
        return refused(format!("the id {} of a signing key is taken", key.id));
    }
    replace(tables, None, key)
}

pub(in crate::store) fn delete<T: Tables>(tables: &mut T, id: &str) -> Result<(), T::Halt> {
    // Also one that cannot be read.
    if tables.value::<SigningKey>(id.as_bytes())?.is_none() {
        return refused(format!("there is no signing key {id}"));
    }
    tables.remove::<SigningKey>(id.as_bytes())?;
    tables.unlist(&of_all(id))
}
