//! Where a migration takes records from: another store, or a snapshot of one. Never changes it.

use std::future::Future;
use std::sync::Arc;

use super::store::{History, MigrationStore};
use crate::store::StoreError;
use crate::store::format::Format;
use crate::store::kind::Kind;
use crate::store::page::Page;
use crate::store::snapshot::SnapshotFile;

/// What gives records a page at a time, in the order of their places.
pub(in crate::store) trait Pages {
    fn page(
        &self,
        kind: Kind,
        after: Option<Vec<u8>>,
        limit: usize,
    ) -> impl Future<Output = Result<Page, StoreError>> + Send;
}

impl Pages for MigrationStore {
    async fn page(&self, kind: Kind, after: Option<Vec<u8>>, limit: usize) -> Result<Page, StoreError> {
        self.page(kind, after, limit).await
    }
}

/// One end of a migration.
#[derive(Debug)]
pub enum Source {
    /// One that nobody answers checks from.
    Store(MigrationStore),
    Snapshot(Arc<SnapshotFile>),
}

impl From<MigrationStore> for Source {
    fn from(store: MigrationStore) -> Self {
        Self::Store(store)
    }
}

impl Pages for Source {
    async fn page(&self, kind: Kind, after: Option<Vec<u8>>, limit: usize) -> Result<Page, StoreError> {
        match self {
            Self::Store(store) => store.page(kind, after, limit).await,
            Self::Snapshot(file) => {
                let file = Arc::clone(file);
                let read = tokio::task::spawn_blocking(move || file.page(kind, after.as_deref(), limit));
                read.await.map_err(|error| StoreError::Unavailable(error.to_string()))?
            }
        }
    }
}

impl Source {
    /// Which one it is; another one for each.
    pub(super) fn origin(&self) -> String {
        match self {
            Self::Store(store) => store.origin(),
            Self::Snapshot(file) => file.origin(),
        }
    }

    /// As [`MigrationStore::head`]. What a snapshot has given since this was asked last is what was signed.
    pub(super) async fn head(&self) -> Result<String, StoreError> {
        match self {
            Self::Store(store) => store.head().await,
            Self::Snapshot(file) => {
                let read = Arc::clone(file);
                let same = tokio::task::spawn_blocking(move || read.demand_same()).await;
                same.map_err(|error| StoreError::Unavailable(error.to_string()))??;
                Ok(file.digest().to_owned())
            }
        }
    }

    /// Whether it has records of this kind.
    pub(super) fn has(&self, kind: Kind) -> bool {
        matches!(self, Self::Store(_)) || kind.is_in_snapshots()
    }

    pub(super) async fn format(&self) -> Result<Format, StoreError> {
        match self {
            Self::Store(store) => store.format().await,
            Self::Snapshot(file) => Ok(file.header().format),
        }
    }

    /// # Errors
    /// [`StoreError::Conflict`] if somebody answers checks from it.
    pub(super) async fn refuse_if_used(&self) -> Result<(), StoreError> {
        match self {
            Self::Store(store) => store.refuse_if_used().await,
            Self::Snapshot(_) => Ok(()),
        }
    }

    /// What the target is to others.
    pub(super) async fn history(&self) -> Result<History, StoreError> {
        match self {
            Self::Store(store) => Ok(History::After(store.former().await?)),
            Self::Snapshot(file) => {
                let (header, end) = (file.header(), file.end());
                Ok(match header.lineage.clone() {
                    Some(lineage) => History::Same {
                        lineage,
                        sequence: end.sequence,
                        chain: end.chain.clone(),
                        was: header.was.clone(),
                    },
                    None => History::After(String::new()),
                })
            }
        }
    }
}
