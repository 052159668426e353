//! That something was made under an idempotency key. Never has one make two things.

use std::time::Duration;

use data_encoding::HEXLOWER;
use prost::Message;
use redb::TableDefinition;
use tollgate_guard::time::Timestamp;

use super::super::format::Format;
use super::super::keyspace::redis as names;
use super::super::keyspace::{self, Bytes, DigestKey, timed};
use super::super::kind::Kind;
use super::super::{Store, StoreError};
use super::noun::{Entry, List, Noun, Tables, damaged, keep, refused};

/// That a creation was made under an idempotency key. The key itself is not kept.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct StoredOnce {
    /// HMAC-SHA-256 of what was asked for: 32 bytes.
    #[prost(bytes = "vec", tag = "1")]
    fingerprint: Vec<u8>,
    /// What was made, such as "key:<id>".
    #[prost(string, tag = "2")]
    target: String,
    #[prost(uint64, tag = "3")]
    at_ms: u64,
}

/// How much longer one is there than it counts, in stores that forget by themselves.
const SPARE: Duration = Duration::from_secs(3600);

/// How long an idempotency key is remembered.
const ONCE_KEPT: Duration = Duration::from_secs(24 * 3600);

/// That something was made under an idempotency key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnceRecord {
    /// Of the key, its actor and the act.
    pub digest: [u8; 32],
    /// Of what was asked for.
    pub fingerprint: [u8; 32],
    /// What was made, such as `key:<id>`.
    pub target: String,
    pub at: Timestamp,
}

impl OnceRecord {
    /// Whether it still counts. It outlasts processes, and so goes by the time of day; what is dated ahead of now counts as made now.
    pub fn holds(&self, now: Timestamp) -> bool {
        now < self.at.plus(ONCE_KEPT)
    }
}

impl Noun for OnceRecord {
    type Key = DigestKey;
    const KIND: Kind = Kind::Once;
    const TABLE: TableDefinition<'static, DigestKey, Bytes> = keyspace::ONCE;
    const PREFIX: &'static str = names::ONCE;
    const BY_TIME: Option<(TableDefinition<'static, Bytes, ()>, Duration)> = Some((keyspace::ONCE_BY_TIME, ONCE_KEPT));

    fn name(&self) -> String {
        format!("the idempotency key that made {}", self.target)
    }

    fn place(&self) -> Vec<u8> {
        self.digest.to_vec()
    }

    fn key(place: &[u8]) -> Option<&[u8; 32]> {
        place.try_into().ok()
    }

    fn text(place: &[u8]) -> String {
        HEXLOWER.encode(place)
    }

    fn place_of(text: &str) -> Option<Vec<u8>> {
        HEXLOWER.decode(text.as_bytes()).ok().filter(|digest| digest.len() == 32)
    }

    /// All but the digest, which is its place.
    fn encode(&self, _format: Format) -> Vec<u8> {
        let (fingerprint, at_ms) = (self.fingerprint.to_vec(), self.at.as_millis());
        StoredOnce { fingerprint, target: self.target.clone(), at_ms }.encode_to_vec()
    }

    fn decode(place: &[u8], bytes: &[u8]) -> Result<Self, StoreError> {
        let damaged = || damaged("an idempotency key");
        let message = StoredOnce::decode(bytes).map_err(|_| damaged())?;
        let digest = place.try_into().map_err(|_| damaged())?;
        let fingerprint = message.fingerprint.try_into().map_err(|_| damaged())?;
        Ok(Self { digest, fingerprint, target: message.target, at: Timestamp::from_millis(message.at_ms) })
    }

    fn lists(&self, _format: Format) -> Vec<List> {
        vec![List::in_file(Entry::Bytes(keyspace::ONCE_BY_TIME, timed(self.at, &self.digest)))]
    }

    fn counts(&self, now: Timestamp) -> bool {
        self.holds(now)
    }

    fn kept(&self, now: Timestamp) -> Option<Duration> {
        let left = self.at.plus(ONCE_KEPT).as_millis().saturating_sub(now.as_millis());
        Some(Duration::from_millis(left).saturating_add(SPARE))
    }
}

impl Store {
    /// What was made under the idempotency key with this digest, if it is still remembered.
    pub async fn once(&self, digest: [u8; 32]) -> Result<Option<OnceRecord>, StoreError> {
        self.find(digest.to_vec()).await
    }
}

pub(in crate::store) fn note<T: Tables>(tables: &mut T, once: &OnceRecord) -> Result<(), T::Halt> {
    let earlier = tables.find::<OnceRecord>(&once.digest)?;
    if let Some(earlier) = earlier.as_ref().filter(|earlier| earlier.holds(once.at)) {
        return refused(format!("this idempotency key made {} already", earlier.target));
    }
    keep(tables, earlier.as_ref(), once, once.at)?;
    tables.forget::<OnceRecord>(once.at)
}
