//! Every change to what is known: judged, durable, visible to the cache, and only then acknowledged. Never makes a change
//! without its row in the audit log, and never lets an actor give what they do not hold.

mod actor;
mod audit;
mod backups;
mod end_again;
mod issuers;
mod keys;
mod limits;
mod names;
mod once;
mod projects;
mod refusals;
mod resources;
mod rules;
mod sessions;
mod tombstones;
mod users;

use std::borrow::Cow;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Mutex, watch};
use tokio::time::timeout;
use tollgate_core::named::named;
use tollgate_guard::slots::{Slots, Touched};
use tollgate_guard::stamps::Stamps;
use tollgate_guard::time::Timestamp;

use crate::clock::Clock;
use crate::domain::change::Endings;
use crate::domain::change::Event;
use crate::domain::record::Outcome;
use crate::resolve::api_key::Digester;
use crate::resolve::l2::L2;
use crate::resolve::last_used::LastUsed;
use crate::store::format::Format;
use crate::store::{Counted, Store, StoreError, Write};
use audit::Attempt;
use limits::{LimitedBy, Paces};
use refusals::Refusals;

pub use actor::{Actor, ActorPermissions};
pub use end_again::Failure;
pub use keys::{KeyChange, KeySpec, KeyView, NewKey};
pub use limits::{Limits, ProjectQuotas, Quotas, Rate, Rates};
pub use names::{Freed, whoever_logs_in};
pub use once::Once;
pub use resources::ResourceSpec;
pub use tombstones::Tombstones;
pub use users::{UserChange, UserSpec};

/// Makes and changes records. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Registry {
    store: Store,
    digester: Arc<Digester>,
    stamps: Arc<Stamps>,
    last_used: Arc<LastUsed>,
    clock: Clock,
    /// What was touched by writes that failed: whether they were done is not known.
    unsettled: Arc<Mutex<Vec<Touched>>>,
    refusals: Arc<std::sync::Mutex<Refusals>>,
    limits: Arc<ArcSwap<Limits>>,
    paces: Arc<Paces>,
    /// Where this replica hears of its own changes by the store's log.
    heard: Option<Heard>,
    /// What the fleet finds out once, if there is a fleet.
    l2: Option<L2>,
}

/// What this replica has heard.
#[derive(Clone, Debug)]
struct Heard {
    /// The number of the newest change.
    newest: watch::Receiver<u64>,
    /// What was ended.
    ended: Arc<Endings>,
}

/// What the record that is to be changed must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Whatever it is now.
    Any,
    /// What it was when its reader saw this version.
    Version(u64),
}

impl Expected {
    fn check(self, what: impl FnOnce() -> String, version: u64) -> Result<()> {
        match self {
            Self::Version(expected) if expected != version => Err(RegistryError::Stale(format!(
                "{} is not what it was: it has version {version}, not {expected}; read it again before you change it",
                what()
            ))),
            _ => Ok(()),
        }
    }
}

/// What a change came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made<T> {
    /// What there is now.
    pub result: T,
    /// The number of the change in the store, for whoever waits until every replica has it; `None`: everything was as it
    /// should be already.
    pub sequence: Option<u64>,
}

impl<T> Deref for Made<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.result
    }
}

/// Why a change was not made. Each sentence is for the person who asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// What was asked for cannot be: a field and what to write there.
    #[error("{field}: {problem}")]
    Invalid { field: &'static str, problem: String },
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Conflict(String),
    /// The record has another version than was expected.
    #[error("{0}")]
    Stale(String),
    /// This was made already, under the same idempotency key, and cannot be shown again.
    #[error("{target} was made already under this idempotency key")]
    Repeated { target: String },
    /// The idempotency key stands for something else.
    #[error("{0}")]
    Mismatch(String),
    /// The actor's reach ends before this, or what the actor holds does.
    #[error("{0}")]
    Forbidden(String),
    /// The project has as many as it may have.
    #[error("{0}")]
    OverQuota(String),
    /// Too much was made of late.
    #[error("{message}")]
    TooFast { message: String, retry_after: Duration },
    #[error("{0}")]
    Unavailable(String),
}

impl From<StoreError> for RegistryError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(message) => Self::Conflict(message),
            StoreError::OverQuota(quota) => Self::OverQuota(quota.to_string()),
            StoreError::Unavailable(_) | StoreError::Full(_) | StoreError::Unreplicated(_) | StoreError::Damaged(_) => {
                Self::Unavailable(error.to_string())
            }
        }
    }
}

/// How long a change waits to be heard of where it was made. It counts there already; what is asked for meanwhile is refused
/// as unavailable.
const HEARING: Duration = Duration::from_millis(250);

/// Uses of keys that are stored at once, and what lies between one lot and the next.
const USES: usize = 500;
const PAUSE: Duration = Duration::from_millis(1);

/// How often a change follows a record that others keep writing.
const ATTEMPTS: usize = 16;

type Result<T> = std::result::Result<T, RegistryError>;

/// A change that its actor has the right to.
#[derive(Debug)]
struct Change<T> {
    /// The project that it is written down under.
    project: Option<String>,
    /// Empty: everything is as it should be already.
    writes: Vec<Write>,
    event: Event,
    /// What the actor is told when it is made.
    result: T,
}

impl<T> Change<T> {
    fn none(result: T) -> Self {
        Self { project: None, writes: Vec::new(), event: Event::touching(&[]), result }
    }
}

impl Registry {
    pub fn new(
        store: Store,
        digester: Arc<Digester>,
        stamps: Arc<Stamps>,
        last_used: Arc<LastUsed>,
        clock: Clock,
    ) -> Self {
        let (unsettled, refusals, limits, paces) = Default::default();
        Self { store, digester, stamps, last_used, clock, unsettled, refusals, limits, paces, heard: None, l2: None }
    }

    /// A registry of a fleet: it acknowledges its changes when this replica has heard of them in their turn, and has what the
    /// fleet shares forgotten.
    pub fn in_fleet(self, newest: watch::Receiver<u64>, ended: Arc<Endings>, l2: Option<L2>) -> Self {
        Self { heard: Some(Heard { newest, ended }), l2, ..self }
    }

    /// How much may be made from now on.
    pub fn limit(&self, limits: Limits) {
        self.limits.store(Arc::new(limits));
    }

    /// A subject as it may stand in a log: one with an e-mail address as a keyed hash, which joins its lines all the same.
    pub fn logged<'s>(&self, subject: &'s str) -> Cow<'s, str> {
        self.digester.logged(subject).map_or(Cow::Borrowed(subject), Cow::Owned)
    }

    /// Puts what was noted about the use of keys into the store, a little at a time: changes are made in between.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; nothing noted is lost.
    pub async fn flush_last_used(&self) -> std::result::Result<(), StoreError> {
        self.settle().await?;
        let mut uses = self.last_used.take();
        while !uses.is_empty() {
            let lot = uses.split_off(uses.len().saturating_sub(USES));
            if let Err(error) = self.store.note_use(lot.clone()).await {
                uses.extend(lot);
                self.last_used.put_back(uses);
                return Err(error);
            }
            // Whoever waits for the store has it before the next ones do.
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Makes a change that depends on what is stored: when somebody else writes the record in between, `plan` judges it
    /// anew as it is then.
    async fn make<T, P>(&self, attempt: &Attempt<'_>, plan: impl Fn() -> P) -> Result<Made<T>>
    where
        P: Future<Output = Result<Change<T>>>,
    {
        let mut attempts = 0;
        loop {
            attempts += 1;
            self.settle().await?;
            match self.commit(attempt, plan().await?).await {
                Err(RegistryError::Conflict(_)) if attempts < ATTEMPTS => {}
                result => return result,
            }
        }
    }

    /// Makes a change and writes it down, both or neither.
    async fn commit<T>(&self, attempt: &Attempt<'_>, change: Change<T>) -> Result<Made<T>> {
        let Change { project, mut writes, event, result } = change;
        if writes.is_empty() {
            // Whoever made it before may not have been told that every replica of the store has it.
            let sequence = if self.heard.is_some() { Some(self.mark().await?) } else { None };
            return Ok(Made { result, sequence });
        }
        if writes.iter().any(Write::makes) {
            self.demand_pace(attempt, project.as_deref())?;
        }
        writes.push(Write::Audit(self.row(attempt, project.as_deref(), Outcome::Done, None)));
        match self.apply(writes, event).await {
            Ok(sequence) => Ok(Made { result, sequence: Some(sequence) }),
            Err(RegistryError::OverQuota(reason)) => {
                let answer = RegistryError::OverQuota(reason.clone());
                self.refuse(attempt, project.as_deref(), &reason, answer).await
            }
            Err(error) => Err(error),
        }
    }

    /// What the store is to check before one more of these is in a project.
    fn within_quota(&self, counted: Counted, project: &str) -> Write {
        self.limits.load().quotas.step(counted, project)
    }

    /// # Errors
    /// [`RegistryError::TooFast`] where too much was made of late, by the actor or in the project.
    fn demand_pace(&self, attempt: &Attempt<'_>, project: Option<&str>) -> Result<()> {
        if attempt.actor.is_operator() {
            return Ok(());
        }
        let limits = self.limits.load();
        let admitted = self.paces.made.admit(&limits.rates, &attempt.actor.identity(), project, self.clock.moment());
        admitted.map_err(|(retry_after, slower)| {
            let (who, setting) = match slower {
                LimitedBy::Actor => ("you have", "actor"),
                LimitedBy::Project => ("this project has", "project"),
            };
            let message = format!(
                "{who} made or changed too much of late: wait, or raise `rates.{setting}` in the configuration; what ends \
                 something is never held back"
            );
            RegistryError::TooFast { message, retry_after }
        })
    }

    /// Now, or later than this time, which another replica's clock may have told: what comes later has the later time.
    fn time_after(&self, earlier: Timestamp) -> Timestamp {
        self.clock.now().max(earlier.plus(Duration::from_millis(1)))
    }

    /// How the store is laid out now.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`] if the store does not say it.
    pub async fn format(&self) -> Result<Format> {
        Ok(self.store.format().await?)
    }

    /// A number behind those of all changes so far, also of those that somebody else made.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`] if the store does not give one.
    pub async fn mark(&self) -> Result<u64> {
        self.apply(Vec::new(), Event::touching(&[])).await
    }

    /// Durable first, then visible to the cache; the caller acknowledges after that. Runs to its end even if the caller
    /// is dropped, so that no durable change stays invisible. Gives the number of the change.
    async fn apply(&self, batch: Vec<Write>, event: Event) -> Result<u64> {
        Ok(self.write(batch, event).await?)
    }

    async fn write(&self, batch: Vec<Write>, event: Event) -> std::result::Result<u64, StoreError> {
        let event = touching_projects(&batch, event);
        let (store, stamps) = (self.store.clone(), Arc::clone(&self.stamps));
        let (unsettled, mut heard) = (Arc::clone(&self.unsettled), self.heard.clone());
        let task = tokio::spawn(async move {
            let Event { touched, ended } = event.clone();
            let result = store.commit(batch, event).await;
            match &result {
                Ok(sequence) => {
                    if let Some(heard) = &heard {
                        // A store that loses it before its log has told of it must not lose it unnoticed.
                        heard.ended.write_down(&ended);
                    }
                    stamps.acknowledge(*sequence, &touched);
                    if let Some(heard) = &mut heard {
                        // Whoever does not hear it in time has been told already.
                        let _ = timeout(HEARING, heard.newest.wait_for(|newest| newest >= sequence)).await;
                        // What was heard of may have been another history, which begins without it.
                        heard.ended.suspect_unheard(&ended);
                    }
                }
                Err(StoreError::Conflict(_) | StoreError::Full(_) | StoreError::OverQuota(_)) => {}
                // Where the store has a log, it tells of the write if it was made. Nothing is held up until replicas are back.
                Err(_) if heard.is_some() => {}
                Err(_) => unsettled.lock().await.push(touched),
            }
            result
        });
        match task.await {
            Ok(result) => result,
            Err(error) => Err(StoreError::Unavailable(format!("the write was interrupted: {error}"))),
        }
    }

    /// Makes what is cached forget what failed writes may have done all the same. An empty write takes a number behind
    /// theirs; once it is durable, every load that begins sees what became of them.
    async fn settle(&self) -> std::result::Result<(), StoreError> {
        let mut unsettled = self.unsettled.lock().await;
        if !unsettled.is_empty() {
            let touched = Touched::all_of(&unsettled);
            let event = Event { touched: touched.clone(), ended: Vec::new() };
            self.stamps.acknowledge(self.store.commit(Vec::new(), event).await?, &touched);
            unsettled.clear();
        }
        Ok(())
    }
}

/// What is made first in a project makes its record, for want of which its tokens were refused.
fn touching_projects(batch: &[Write], event: Event) -> Event {
    let of_project = |write: &Write| match write {
        Write::PutProject(project) => Some(Slots::of_digests(&[named("project", &project.name)])),
        _ => None,
    };
    let projects: Vec<Slots> = batch.iter().filter_map(of_project).collect();
    if projects.is_empty() {
        return event;
    }
    Event { touched: Touched::all_of(&[event.touched, Touched::of(&projects)]), ..event }
}
