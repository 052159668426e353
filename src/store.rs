//! The port to what is durable: records in, records out. Never caches, never decides, never sees a secret.

pub mod embedded;
pub mod keyspace;
mod records;

use std::sync::Arc;

use crate::domain::credential::{Digest, KeyId};
use crate::domain::record::{ApiKey, Resource};
use crate::domain::time::Timestamp;
use embedded::Embedded;

/// Why the store did not do what it was asked. None of these carries a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It may work later: the disk is full, the device failed, the store is being opened again.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// The record is not what the writer thought it was: it exists already, is gone, or has another version.
    #[error("{0}")]
    Conflict(String),
    /// The store holds something that cannot be read.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

impl StoreError {
    /// Whether trying again, unchanged, may succeed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

/// One step of an atomic write. A batch is applied wholly or not at all.
#[derive(Clone, Debug)]
pub enum Write {
    /// Conflict if the id or the digest is taken.
    CreateKey(ApiKey),
    /// Replaces the record of this id. Conflict unless the stored version is one less than the new one, or if the
    /// stored record is revoked and the new one is not.
    UpdateKey(ApiKey),
    /// Conflict if a key on this plane is active at this time. Writes nothing.
    NoActiveKey { plane: String, now: Timestamp },
    /// Conflict if the kind and id are taken.
    CreateResource(Resource),
    /// Conflict unless the stored version is one less than the new one.
    UpdateResource(Resource),
    /// Conflict unless it is there with this version.
    DeleteResource { kind: String, id: String, version: u64 },
}

/// A page of keys, by id.
#[derive(Clone, Debug, Default)]
pub struct KeyQuery {
    pub project: Option<String>,
    pub plane: Option<String>,
    /// Keys behind this id.
    pub after: Option<KeyId>,
    /// At most this many.
    pub limit: usize,
}

/// A page of resources, by kind and id.
#[derive(Clone, Debug, Default)]
pub struct ResourceQuery {
    pub kind: Option<String>,
    pub project: Option<String>,
    /// Resources behind this kind and id.
    pub after: Option<(String, String)>,
    /// At most this many.
    pub limit: usize,
}

/// A pepper's version and a value that only the same pepper yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PepperCheck {
    pub version: u32,
    pub check: [u8; 32],
}

/// The system of record. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Store {
    Embedded(Arc<Embedded>),
}

impl Store {
    /// The key with one of these digests; the first that is known.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Damaged`], as for every read below.
    pub async fn key_by_digest(&self, digests: Vec<Digest>) -> Result<Option<ApiKey>, StoreError> {
        self.embedded(move |store| store.key_by_digest(&digests)).await
    }

    pub async fn key(&self, id: KeyId) -> Result<Option<ApiKey>, StoreError> {
        self.embedded(move |store| store.key(id)).await
    }

    pub async fn keys(&self, query: KeyQuery) -> Result<Vec<ApiKey>, StoreError> {
        self.embedded(move |store| store.keys(&query)).await
    }

    pub async fn resource(&self, kind: String, id: String) -> Result<Option<Resource>, StoreError> {
        self.embedded(move |store| store.resource(&kind, &id)).await
    }

    pub async fn resources(&self, query: ResourceQuery) -> Result<Vec<Resource>, StoreError> {
        self.embedded(move |store| store.resources(&query)).await
    }

    /// Applies a batch, durably, and gives its sequence number: greater than that of every earlier batch.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if a step does not fit, and nothing was written. After
    /// [`StoreError::Unavailable`] the batch may or may not have been written; trying again is safe.
    pub async fn apply(&self, batch: Vec<Write>) -> Result<u64, StoreError> {
        self.embedded(move |store| store.apply(&batch)).await
    }

    /// Notes when keys were last used; later times win. Changes no record and no sequence number.
    pub async fn note_use(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<(), StoreError> {
        self.embedded(move |store| store.note_use(&uses)).await
    }

    /// When each key was last used, in the order of `ids`.
    pub async fn last_used(&self, ids: Vec<KeyId>) -> Result<Vec<Option<Timestamp>>, StoreError> {
        self.embedded(move |store| store.last_used(&ids)).await
    }

    /// Whether there is not one key.
    pub async fn has_no_keys(&self) -> Result<bool, StoreError> {
        self.embedded(|store| store.has_no_keys()).await
    }

    pub async fn pepper_checks(&self) -> Result<Vec<PepperCheck>, StoreError> {
        self.embedded(|store| store.pepper_checks()).await
    }

    /// Keeps the check value of a pepper version. Conflict if the version has another one.
    pub async fn put_pepper_check(&self, check: PepperCheck) -> Result<(), StoreError> {
        self.embedded(move |store| store.put_pepper_check(check)).await
    }

    /// Whether a read succeeds now, for readiness.
    pub async fn is_available(&self) -> bool {
        self.embedded(|store| store.has_no_keys()).await.is_ok()
    }

    /// Runs a blocking act off the threads that answer checks.
    async fn embedded<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Embedded) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let Self::Embedded(store) = self;
        let store = Arc::clone(store);
        match tokio::task::spawn_blocking(move || act(&store)).await {
            Ok(result) => result,
            Err(error) => Err(StoreError::Unavailable(format!("the store's thread ended: {error}"))),
        }
    }
}
