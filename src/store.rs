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

use tollgate_core::credential::{KeyId, ProjectId, UserId};
use tollgate_core::resource::Resource;
use tollgate_guard::digest::Digest;
use tollgate_guard::protocol::Position;
use tollgate_guard::time::Timestamp;

use self::redis::Redis;
use crate::domain::change::Event;
use crate::domain::record::{
    ApiKey, AuditEntry, EndedSession, OpenSession, Project, ProjectState, SigningKey, User, UserSessions,
};
use embedded::Embedded;
use format::Format;
use keyspace::is_part;
pub use load::{AsOf, KeyLoad, SessionLoad};
use records::listing::Listing;
use records::noun::Noun;
use records::{project, resource, signing_key, user};

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

/// One step of an atomic write. A batch is applied wholly or not at all.
#[derive(Clone, Debug)]
pub enum Write {
    /// Conflict if the id or the digest is taken.
    CreateKey(ApiKey),
    /// Replaces the record of this id. Conflict unless the stored version is one less than the new one, or if the
    /// stored record is revoked and the new one is not.
    UpdateKey(ApiKey),
    /// Removes what is left of a key. Conflict unless it is there with this version and [`ApiKey::is_over_before`] this time.
    PurgeKey { id: KeyId, version: u64, before: Timestamp },
    /// Conflict if a key on this plane is active at this time. Writes nothing.
    NoActiveKey { plane: String, now: Timestamp },
    /// Over quota if the project has as many already, before the steps of this batch. Writes nothing.
    Quota(Quota),
    /// Conflict if the kind and id are taken.
    CreateResource(Resource),
    /// Conflict unless the stored version is one less than the new one.
    UpdateResource(Resource),
    /// Conflict unless it is there with this version.
    DeleteResource { kind: String, id: String, version: u64 },
    /// Conflict unless the stored version is one less than the new one (none counts as 0), or if the project is deleted and
    /// would not be any more, or if it has another id, or is given one where the store's format knows none.
    PutProject(Project),
    /// Conflict if the project is deleted or has not this id; also for `None` where the store's format knows ids, as whatever is
    /// made in it then has to carry one. Writes nothing.
    InProject { name: String, id: Option<ProjectId> },
    /// Gives what carries none, and still belongs to this project, the project's id. Conflict unless that is its id.
    GiveProjectId { to: ProjectItem, project: String, id: ProjectId },
    /// Conflict if the name is taken, be it by a tombstone, or if another user has it in the project.
    CreateUser(User),
    /// Conflict unless the stored version is one less than the new one, if `sessions` would fall, if the stored user is
    /// deleted and the new one neither is nor has more `sessions`, or if another user has the name in a project that this one comes to.
    UpdateUser(User),
    /// Gives a user an id who has none; also a deleted one.
    GiveUserId { name: String, id: UserId },
    /// Puts a session on the list of its user, and takes those off whose tokens have expired, and the oldest beyond
    /// [`UserSessions::MOST`](crate::domain::record::UserSessions::MOST). Nothing in a store that keeps no list yet.
    BeginSession { user: String, session: OpenSession },
    /// Remembers the first end of a session, and takes it off the list of its user. Forgets a few whose token expired more than a day before.
    EndSession(EndedSession),
    /// Conflict if the id is taken.
    CreateSigningKey(SigningKey),
    /// Conflict if it is not there.
    DeleteSigningKey { id: String },
    /// Appends a row; its `sequence` is given by the store.
    Audit(AuditEntry),
    /// Conflict if the digest was used less than [`ONCE_KEPT`] ago. Forgets a few that are older.
    Once(OnceRecord),
}

/// Something that belongs to a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProjectItem {
    Key(KeyId),
    /// By name.
    User(String),
    Resource {
        kind: String,
        id: String,
    },
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

impl Write {
    /// Whether it makes something, or gives somebody more than they had. What only takes away, and a mere row, does not.
    pub fn makes(&self) -> bool {
        match self {
            Self::UpdateKey(key) => key.revoked_at.is_none(),
            Self::PutProject(project) => project.state == ProjectState::Active,
            Self::UpdateUser(user) => !user.deleted && !user.disabled,
            Self::PurgeKey { .. }
            | Self::DeleteResource { .. }
            // Its user logs in with a password, at a pace; in a full store, too: who else could make room?
            | Self::BeginSession { .. }
            | Self::EndSession(_)
            | Self::DeleteSigningKey { .. }
            | Self::Audit(_)
            | Self::InProject { .. }
            | Self::Quota(_) => false,
            _ => true,
        }
    }
}

/// How long an idempotency key is remembered.
pub const ONCE_KEPT: Duration = Duration::from_secs(24 * 3600);

/// How long a session, or its end, is remembered after its token expired, whatever the clocks say.
pub const SESSION_KEPT: Duration = Duration::from_secs(24 * 3600);

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

/// A page of users, by name, without deleted ones.
#[derive(Clone, Debug, Default)]
pub struct UserQuery {
    pub project: Option<String>,
    /// Users behind this name.
    pub after: Option<String>,
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

    pub async fn resource(&self, kind: String, id: String) -> Result<Option<Resource>, StoreError> {
        if !is_part(&kind) || !is_part(&id) {
            return Ok(None);
        }
        self.find(resource::place(&kind, &id)).await
    }

    pub async fn resources(&self, query: ResourceQuery) -> Result<Vec<Resource>, StoreError> {
        self.list(resource::listing(&query)).await
    }

    /// What was said of a project, if anything.
    pub async fn project(&self, name: String) -> Result<Option<Project>, StoreError> {
        self.find(name.into_bytes()).await
    }

    /// The projects of which something was said, by name.
    pub async fn projects(&self, after: Option<String>, limit: usize) -> Result<Vec<Project>, StoreError> {
        self.list(Some(project::listing(after.as_deref(), limit))).await
    }

    /// The user of this name, also a deleted one.
    pub async fn user(&self, name: String) -> Result<Option<User>, StoreError> {
        self.find(name.into_bytes()).await
    }

    /// Users of one project each who have this name in it, by project; without those who have no project in front of their name.
    pub async fn users_of_plain_name(&self, plain: String, limit: usize) -> Result<Vec<User>, StoreError> {
        self.list(user::of_plain_name(&plain, limit)).await
    }

    pub async fn users(&self, query: UserQuery) -> Result<Vec<User>, StoreError> {
        self.list(user::listing(&query)).await
    }

    /// Whether the session with this id was ended.
    pub async fn ended_session(&self, id: String) -> Result<bool, StoreError> {
        Ok(self.find::<EndedSession>(id.into_bytes()).await?.is_some())
    }

    /// The sessions of a user that have begun and were not ended, the oldest first; also such as are over.
    pub async fn sessions(&self, user: String) -> Result<Vec<OpenSession>, StoreError> {
        let known: Option<UserSessions> = self.find(user.into_bytes()).await?;
        Ok(known.map_or_else(Vec::new, |known| known.sessions))
    }

    /// The oldest first.
    pub async fn signing_keys(&self) -> Result<Vec<SigningKey>, StoreError> {
        let mut keys = self.list(Some(signing_key::listing())).await?;
        keys.sort_by_key(|key| key.created_at);
        Ok(keys)
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

    /// What was made under the idempotency key with this digest, if it is still remembered.
    pub async fn once(&self, digest: [u8; 32]) -> Result<Option<OnceRecord>, StoreError> {
        self.find(digest.to_vec()).await
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
