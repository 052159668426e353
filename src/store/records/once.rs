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
use super::super::{ONCE_KEPT, OnceRecord, StoreError};
use super::noun::{Entry, List, Noun, Tables, damaged, keep, refused};
use super::wire;

/// How much longer one is there than it counts, in stores that forget by themselves.
const SPARE: Duration = Duration::from_secs(3600);

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
        wire::Once { fingerprint, target: self.target.clone(), at_ms }.encode_to_vec()
    }

    fn decode(place: &[u8], bytes: &[u8]) -> Result<Self, StoreError> {
        let damaged = || damaged("an idempotency key");
        let wire = wire::Once::decode(bytes).map_err(|_| damaged())?;
        let digest = place.try_into().map_err(|_| damaged())?;
        let fingerprint = wire.fingerprint.try_into().map_err(|_| damaged())?;
        Ok(Self { digest, fingerprint, target: wire.target, at: Timestamp::from_millis(wire.at_ms) })
    }

    fn lists(&self, _format: Format) -> Vec<List> {
        vec![List::in_file(Entry::Bytes(keyspace::ONCE_BY_TIME, timed(self.at, &self.digest)))]
    }

    fn kept(&self, now: Timestamp) -> Option<Duration> {
        let left = self.at.plus(ONCE_KEPT).as_millis().saturating_sub(now.as_millis());
        Some(Duration::from_millis(left).saturating_add(SPARE))
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
