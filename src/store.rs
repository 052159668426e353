//! The port to what is durable: records in, records out. Never caches, never decides, never sees a secret.

mod account;
mod chain;
pub mod embedded;
pub mod format;
mod heard;
pub mod keyspace;
pub mod kind;
mod load;
pub mod migration;
mod page;
pub mod record;
mod records;
pub mod redis;
mod rules;
mod search;
pub mod signature;
pub mod snapshot;
pub mod upgrade;

use std::sync::Arc;
use std::time::Duration;

use tollgate_core::credential::KeyId;
use tollgate_core::resource::Resource;
use tollgate_guard::digest::Digest;
use tollgate_guard::protocol::Position;
use tollgate_guard::time::Timestamp;

use self::redis::Redis;
use crate::domain::change::Event;
use crate::domain::record::{ApiKey, AuditEntry, Project};
use embedded::Embedded;
use format::Format;
pub use load::{AsOf, KeyLoad, SessionLoad};
use records::listing::Listing;
use records::noun::Noun;
pub use records::once::OnceRecord;
pub use records::resource::ResourceQuery;
pub use records::user::UserQuery;
pub use records::{ProjectItem, Write};

/// Why the store did not do what it was asked. None of these carries a secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// It may work later: the disk is full, the device failed, the store is being opened again.
    #[error("the store is not available: {0}")]
    Unavailable(String),
    /// Nothing was written: there is no room but what is kept for ending things.
    #[error("the store is full: {0}")]
    Full(String),
    /// The record is not what the writer thought it was: it exists already, is gone, or has another version.
    #[error("{0}")]
    Conflict(String),
    /// The write is recorded, and would be lost if the store's primary were lost now: not every replica has it. Trying again
    /// is safe.
    #[error("recorded, not yet replicated: {0}")]
    Unreplicated(String),
    /// Nothing was written: the project has as many as it may have.
    #[error("{0}")]
    OverQuota(Quota),
    /// The store holds something that cannot be read.
    #[error("the store is damaged: {0}")]
    Damaged(String),
}

impl StoreError {
    /// Whether trying again, unchanged, may succeed.
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Full(_) | Self::Unreplicated(_))
    }
}

/// How many things of a kind one project may have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    pub counted: Counted,
    pub project: String,
    pub most: u64,
}

/// What is counted for each project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Counted {
    /// Also revoked ones, until they are purged.
    Keys,
    /// Also deleted ones: their names stay.
    Users,
    Resources,
}

impl Counted {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Users => "users",
            Self::Resources => "resources",
        }
    }
}

impl std::fmt::Display for Quota {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ended = match self.counted {
            Counted::Keys => ", revoked ones included",
            Counted::Users => ", deleted ones included",
            Counted::Resources => "",
        };
        let (project, most, what) = (&self.project, self.most, self.counted.as_str());
        write!(
            f,
            "project {project} has {most} {what}{ended}, as many as its quota allows: to raise it, set `quotas.{what}` in the \
             configuration, or `quotas.projects.{project}.{what}`"
        )
    }
}

/// How long a session, or its end, is remembered after its token expired, whatever the clocks say.
pub const SESSION_KEPT: Duration = Duration::from_secs(24 * 3600);

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

/// A page of the audit log, the newest row first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditQuery {
    pub project: Option<String>,
    pub actor: Option<String>,
    pub act: Option<String>,
    pub target: Option<String>,
    /// Rows of this time or later.
    pub since: Option<Timestamp>,
    /// Rows before this time.
    pub until: Option<Timestamp>,
    /// Rows before the one with this sequence.
    pub before: Option<u64>,
    /// At most this many.
    pub limit: usize,
}

/// What was found of the audit log, the newest row first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditRows {
    pub rows: Vec<AuditEntry>,
    /// Set if the search was ended with fewer rows than asked for, as so many others were passed over: it goes on before the row
    /// with this sequence.
    pub goes_on_before: Option<u64>,
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
    Redis(Arc<Redis>),
}

impl Store {
    /// The key with one of these digests; the first that is known.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Damaged`], as for every read below.
    pub async fn key_by_digest(&self, digests: Vec<Digest>) -> Result<Option<ApiKey>, StoreError> {
        match self {
            Self::Embedded(store) => on_thread(store, move |store| store.key_by_digest(&digests)).await,
            Self::Redis(store) => store.key_by_digest(&digests).await,
        }
    }

    /// As [`Store::key_by_digest`], for a check: never from a store that was replaced by another one.
    pub async fn load_key(&self, digests: Vec<Digest>) -> Result<AsOf<Option<KeyLoad>>, StoreError> {
        match self {
            Self::Embedded(store) => on_thread(store, move |store| store.load_key(&digests)).await.map(AsOf::ever),
            Self::Redis(store) => store.load_key(&digests).await,
        }
    }

    /// As [`Store::user`] and [`Store::ended_session`], for a check.
    pub async fn load_session(&self, user: String, session: String) -> Result<AsOf<SessionLoad>, StoreError> {
        match self {
            Self::Embedded(store) => {
                on_thread(store, move |store| store.load_session(&user, &session)).await.map(AsOf::ever)
            }
            Self::Redis(store) => store.load_session(&user, &session).await,
        }
    }

    /// As [`Store::resource`], for a check.
    pub async fn load_resource(&self, kind: String, id: String) -> Result<AsOf<Option<Resource>>, StoreError> {
        match self {
            Self::Embedded(_) => self.resource(kind, id).await.map(AsOf::ever),
            Self::Redis(store) => store.load_resource(&kind, &id).await,
        }
    }

    /// As [`Store::project`], for a check.
    pub async fn load_project(&self, name: String) -> Result<AsOf<Option<Project>>, StoreError> {
        match self {
            Self::Embedded(_) => self.project(name).await.map(AsOf::ever),
            Self::Redis(store) => store.load_project(&name).await,
        }
    }

    /// The record in a place.
    async fn find<N: Noun + Send + 'static>(&self, place: Vec<u8>) -> Result<Option<N>, StoreError> {
        match self {
            Self::Embedded(store) => on_thread(store, move |store| store.find(&place)).await,
            Self::Redis(store) => store.find(&place).await,
        }
    }

    /// A page of a list; `None`: nothing can be on it.
    async fn list<N: Noun + Send + 'static>(&self, listing: Option<Listing<N>>) -> Result<Vec<N>, StoreError> {
        let Some(listing) = listing else { return Ok(Vec::new()) };
        match self {
            Self::Embedded(store) => on_thread(store, move |store| store.list(&listing)).await,
            Self::Redis(store) => store.list(&listing).await,
        }
    }

    pub async fn key(&self, id: KeyId) -> Result<Option<ApiKey>, StoreError> {
        match self {
            Self::Embedded(store) => on_thread(store, move |store| store.key(id)).await,
            Self::Redis(store) => store.key(id).await,
        }
    }

    pub async fn keys(&self, query: KeyQuery) -> Result<Vec<ApiKey>, StoreError> {
        match self {
            Self::Embedded(store) => on_thread(store, move |store| store.keys(&query)).await,
            Self::Redis(store) => store.keys(&query).await,
        }
    }

    /// A page of the audit log. A row is found if the clocks that dated it, and rows around it, are less than a day wrong.
    pub async fn audit(&self, query: AuditQuery) -> Result<AuditRows, StoreError> {
        match self {
            Self::Embedded(store) => on_thread(store, move |store| store.audit(&query)).await,
            Self::Redis(store) => store.audit(&query).await,
        }
    }

    /// The time by the one clock that all who share the store have in common; `None`: it is nobody else's.
    pub async fn time(&self) -> Result<Option<Timestamp>, StoreError> {
        match self {
            Self::Embedded(_) => Ok(None),
            Self::Redis(store) => store.time().await.map(Some),
        }
    }

    /// Removes rows of the audit log that are older than this, from the oldest on and at most so many, and gives how many. The
    /// newest row always stays: the next one is numbered behind it.
    pub async fn trim_audit(&self, before: Timestamp, most: usize) -> Result<usize, StoreError> {
        match self {
            Self::Embedded(store) => on_thread(store, move |store| store.trim_audit(before, most)).await,
            Self::Redis(store) => store.trim_audit(before, most).await,
        }
    }

    /// The number of the first of these places that is in the log of the history with a place where it was joined; `None`: none
    /// of them is.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] also if it is in another history now.
    pub async fn newest_known(&self, joined: &Position, places: &[Position]) -> Result<Option<u64>, StoreError> {
        match self {
            // It has no log, and never goes back.
            Self::Embedded(_) => Ok(None),
            Self::Redis(store) => store.newest_known(joined, places).await,
        }
    }

    /// Applies a batch, durably, tells of it by `event`, and gives its sequence number: greater than that of every earlier
    /// batch.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if a step does not fit, and nothing was written. After
    /// [`StoreError::Unavailable`] the batch may or may not have been written; trying again is safe. After
    /// [`StoreError::Unreplicated`] it was written.
    pub async fn commit(&self, batch: Vec<Write>, event: Event) -> Result<u64, StoreError> {
        match self {
            // Whoever owns the file is the only one to cache what is in it.
            Self::Embedded(store) => on_thread(store, move |store| store.apply(&batch)).await,
            Self::Redis(store) => store.commit(&batch, &event).await,
        }
    }

    /// Notes when keys were last used; later times win. Changes no record and no sequence number.
    pub async fn note_use(&self, uses: Vec<(KeyId, Timestamp)>) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => on_thread(store, move |store| store.note_use(&uses)).await,
            Self::Redis(store) => store.note_use(&uses).await,
        }
    }

    /// Forgets when keys were last used.
    pub async fn forget_use(&self, ids: Vec<KeyId>) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => on_thread(store, move |store| store.forget_use(&ids)).await,
            Self::Redis(store) => store.forget_use(&ids).await,
        }
    }

    /// When each key was last used, in the order of `ids`.
    pub async fn last_used(&self, ids: Vec<KeyId>) -> Result<Vec<Option<Timestamp>>, StoreError> {
        match self {
            Self::Embedded(store) => on_thread(store, move |store| store.last_used(&ids)).await,
            Self::Redis(store) => store.last_used(&ids).await,
        }
    }

    /// Whether there is not one key.
    pub async fn has_no_keys(&self) -> Result<bool, StoreError> {
        match self {
            Self::Embedded(store) => on_thread(store, |store| store.has_no_keys()).await,
            Self::Redis(store) => store.has_no_keys().await,
        }
    }

    pub async fn pepper_checks(&self) -> Result<Vec<PepperCheck>, StoreError> {
        match self {
            Self::Embedded(store) => on_thread(store, |store| store.pepper_checks()).await,
            Self::Redis(store) => store.pepper_checks().await,
        }
    }

    /// Keeps the check value of a pepper version. Conflict if the version has another one.
    pub async fn put_pepper_check(&self, check: PepperCheck) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => on_thread(store, move |store| store.put_pepper_check(check)).await,
            Self::Redis(store) => store.put_pepper_check(check).await,
        }
    }

    /// How it is laid out now, which `tollgate store upgrade` may change at any time. A batch is judged and encoded for the format
    /// that the store has when it is written, whatever is answered here.
    pub async fn format(&self) -> Result<Format, StoreError> {
        match self {
            Self::Embedded(store) => on_thread(store, |store| store.format()).await,
            Self::Redis(store) => store.format().await,
        }
    }

    /// Whether a read succeeds now, and a write would last, for readiness.
    pub async fn is_available(&self) -> bool {
        match self {
            Self::Embedded(store) => on_thread(store, Embedded::check).await.is_ok(),
            Self::Redis(store) => store.is_available().await,
        }
    }
}

/// Runs a blocking act off the threads that answer checks.
async fn on_thread<T: Send + 'static>(
    store: &Arc<Embedded>,
    act: impl FnOnce(&Embedded) -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    let store = Arc::clone(store);
    match tokio::task::spawn_blocking(move || act(&store)).await {
        Ok(result) => result,
        Err(error) => Err(StoreError::Unavailable(format!("the store's thread ended: {error}"))),
    }
}
