//! The default store: redb in one file.
use super::{KeyQuery, PepperCheck, ResourceQuery, StoreError, Write};
use crate::domain::credential::{Digest, KeyId};
use crate::domain::record::{ApiKey, Resource};
use crate::domain::time::Timestamp;

#[derive(Debug)]
pub struct Embedded {}

#[allow(unused_variables)]
impl Embedded {
    pub fn key_by_digest(&self, digests: &[Digest]) -> Result<Option<ApiKey>, StoreError> {
        todo!()
    }
    pub fn key(&self, id: KeyId) -> Result<Option<ApiKey>, StoreError> {
        todo!()
    }
    pub fn keys(&self, query: &KeyQuery) -> Result<Vec<ApiKey>, StoreError> {
        todo!()
    }
    pub fn resource(&self, kind: &str, id: &str) -> Result<Option<Resource>, StoreError> {
        todo!()
    }
    pub fn resources(&self, query: &ResourceQuery) -> Result<Vec<Resource>, StoreError> {
        todo!()
    }
    pub fn apply(&self, batch: &[Write]) -> Result<u64, StoreError> {
        todo!()
    }
    pub fn note_use(&self, uses: &[(KeyId, Timestamp)]) -> Result<(), StoreError> {
        todo!()
    }
    pub fn last_used(&self, ids: &[KeyId]) -> Result<Vec<Option<Timestamp>>, StoreError> {
        todo!()
    }
    pub fn has_no_keys(&self) -> Result<bool, StoreError> {
        todo!()
    }
    pub fn pepper_checks(&self) -> Result<Vec<PepperCheck>, StoreError> {
        todo!()
    }
    pub fn put_pepper_check(&self, check: PepperCheck) -> Result<(), StoreError> {
        todo!()
    }
}
