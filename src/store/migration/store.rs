//! A store as a migration sees it: everything in it, in order, and records put into it as they are. Never open to anybody else,
//! as these writes obey no rule but that nothing is overwritten.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tollgate_guard::time::Timestamp;

use crate::domain::record::AuditEntry;
use crate::store::embedded::Embedded;
use crate::store::format::Format;
use crate::store::kind::Kind;
use crate::store::page::Page;
use crate::store::record::Record;
use crate::store::redis::{Migrant, Redis};
use crate::store::signature::Signers;
use crate::store::snapshot::SnapshotFile;
use crate::store::{StoreError, on_thread};

/// One end of a migration.
#[derive(Debug)]
pub struct MigrationStore(Inner);

#[derive(Debug)]
enum Inner {
    Embedded(Arc<Embedded>, PathBuf),
    Redis(Migrant),
}

/// What became of the beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Begun {
    /// The store is closed to others until the migration ends.
    Open,
    /// This migration has filled it before.
    Ended,
}

/// What a fleet that has known the records of a store before is to think of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) enum History {
    /// It begins anew, and had these lineages before, in one text.
    After(String),
    /// It goes on from this change of a lineage, as an older copy that was put back: whoever has known more of it misses that.
    Same { lineage: String, sequence: u64, chain: String, was: String },
}

impl MigrationStore {
    /// The file of an embedded store, which must be there. It is locked.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] also while another process owns it.
    pub async fn source_file(path: &Path, signers: Signers) -> Result<Self, StoreError> {
        if !path.exists() {
            let reason = format!("there is no store at {}: see `store.embedded.path`", path.display());
            return Err(StoreError::Unavailable(reason));
        }
        Self::file(path, signers, |path| Embedded::open(path, Duration::ZERO)).await
    }

    /// The file of an embedded store, which is made if it is not there. It is locked.
    ///
    /// # Errors
    /// As [`MigrationStore::source_file`].
    pub async fn target_file(path: &Path, signers: Signers) -> Result<Self, StoreError> {
        Self::file(path, signers, Embedded::open_for_migration).await
    }

    async fn file(
        path: &Path,
        signers: Signers,
        open: impl FnOnce(&Path) -> Result<Embedded, StoreError> + Send + 'static,
    ) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let opened = tokio::task::spawn_blocking(move || {
            let store = open(&path)?.with_signers(signers);
            let named = path.canonicalize().map_err(|error| StoreError::Unavailable(error.to_string()))?;
            Ok((Arc::new(store), named))
        });
        let (store, path) = opened.await.map_err(|error| StoreError::Unavailable(error.to_string()))??;
        Ok(Self(Inner::Embedded(store, path)))
    }

    /// A store in Redis that nobody answers checks from.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] while a replica is attached.
    pub async fn redis(redis: Arc<Redis>) -> Result<Self, StoreError> {
        Migrant::open(redis).await.map(|migrant| Self(Inner::Redis(migrant)))
    }

    /// A store in Redis that is filled with a backup, and made for that if there is none.
    ///
    /// # Errors
    /// As [`MigrationStore::redis`].
    pub async fn redis_for(redis: Arc<Redis>, backup: &SnapshotFile) -> Result<Self, StoreError> {
        redis.init_closed(&backup.origin()).await?;
        Self::redis(redis).await
    }

    /// Which store it is; another one for each.
    pub(super) fn origin(&self) -> String {
        match &self.0 {
            Inner::Embedded(_, path) => format!("the file {}", path.display()),
            Inner::Redis(migrant) => format!("the lineage {} in Redis", migrant.lineage()),
        }
    }

    /// Something that is another for each change of a record.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is not whole.
    pub(super) async fn head(&self) -> Result<String, StoreError> {
        match &self.0 {
            Inner::Embedded(store, _) => on_thread(store, |store| store.sequence()).await.map(|last| last.to_string()),
            Inner::Redis(migrant) => migrant.head().await,
        }
    }

    /// As [`Store::demand_signatures`](crate::store::Store::demand_signatures).
    pub async fn demand_signatures(&self) -> Result<(), StoreError> {
        self.believe_signed();
        let format = self.format().await?;
        match &self.0 {
            Inner::Embedded(store, _) => store.trust().demand_of(format),
            Inner::Redis(migrant) => migrant.demand_of(format),
        }
    }

    /// From now on believes no record of it without a signature.
    pub(super) fn believe_signed(&self) {
        match &self.0 {
            Inner::Embedded(store, _) => store.trust().demand(),
            Inner::Redis(migrant) => migrant.believe_signed(),
        }
    }

    /// How it is laid out.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is not whole.
    pub(super) async fn format(&self) -> Result<Format, StoreError> {
        match &self.0 {
            Inner::Embedded(store, _) => on_thread(store, |store| store.format()).await,
            Inner::Redis(migrant) => migrant.format().await,
        }
    }

    /// # Errors
    /// [`StoreError::Conflict`] if somebody answers checks from it.
    pub(super) async fn refuse_if_used(&self) -> Result<(), StoreError> {
        match &self.0 {
            // Its lock is ours.
            Inner::Embedded(..) => Ok(()),
            Inner::Redis(migrant) => migrant.refuse_if_used().await,
        }
    }

    /// Closes it to others until [`MigrationStore::end`].
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if it is not empty, and was not filled from there.
    pub(super) async fn begin(&self, origin: &str) -> Result<Begun, StoreError> {
        match &self.0 {
            Inner::Embedded(store, _) => {
                let origin = origin.to_owned();
                on_thread(store, move |store| store.begin_migration(&origin)).await
            }
            Inner::Redis(migrant) => migrant.begin(origin).await,
        }
    }

    pub(super) async fn page(&self, kind: Kind, after: Option<Vec<u8>>, limit: usize) -> Result<Page, StoreError> {
        match &self.0 {
            Inner::Embedded(store, _) => on_thread(store, move |store| store.page(kind, after.as_deref(), limit)).await,
            Inner::Redis(migrant) => migrant.page(kind, after.as_deref(), limit).await,
        }
    }

    /// How many records are put at once.
    pub(super) fn records_at_once(&self) -> usize {
        match &self.0 {
            // Each time the disk is waited for.
            Inner::Embedded(..) => 20_000,
            // A script holds everybody else up.
            Inner::Redis(_) => 500,
        }
    }

    /// Puts records of one kind where none are, all or none, as a store of this format has them.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the place of one is taken.
    pub(super) async fn import(&self, records: Vec<Record>, format: Format, now: Timestamp) -> Result<(), StoreError> {
        match &self.0 {
            Inner::Embedded(store, _) => on_thread(store, move |store| store.import(&records, format)).await,
            Inner::Redis(migrant) => migrant.import(&records, format, now).await,
        }
    }

    /// The lineages that its records have had, in one text, if it has any.
    pub(super) async fn former(&self) -> Result<String, StoreError> {
        match &self.0 {
            Inner::Embedded(..) => Ok(String::new()),
            Inner::Redis(migrant) => migrant.former().await,
        }
    }

    /// Opens it to all, laid out like this, with this row behind those of its audit log.
    pub(super) async fn end(
        &self,
        format: Format,
        history: &History,
        row: Option<&AuditEntry>,
    ) -> Result<(), StoreError> {
        match &self.0 {
            Inner::Embedded(store, _) => {
                let row = row.cloned();
                on_thread(store, move |store| store.end_migration(format, row.as_ref())).await
            }
            Inner::Redis(migrant) => migrant.end(format, history, row).await,
        }
    }
}
