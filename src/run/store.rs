//! From settings to an open store. Never starts on a server that may throw revocations away, and never makes a fleet's store:
//! `tollgate store init` does.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout_at};
use tollgate_guard::protocol::{Loss, Remembered, Term};

use super::{RunError, start};
use crate::config::{RedisSettings, Settings, StoreSettings};
use crate::fleet::position::{Kept, PositionFile};
use crate::store::embedded::Embedded;
use crate::store::redis::Redis;
use crate::store::redis::connect::Connector;
use crate::store::redis::store_state::StoreState;
use crate::store::redis::survey::{Finding, Severity, Survey};
use crate::store::{Store, StoreError};
use crate::tasks::{Task, Tasks};

/// Between two tries of a server that cannot be reached, with as much again by chance: a fleet does not start in step.
const RETRY: Duration = Duration::from_millis(250);

/// A store that is open.
#[derive(Debug)]
pub enum Opened {
    /// It has one owner, which this process is.
    Sole(Arc<Embedded>),
    /// A fleet's.
    Joined(Box<Joined>),
    /// A fleet's that has lost something which a process before this one has known. Nothing is to be read from it or written to it.
    Lost(Box<Joined>, Loss),
}

/// What a process brings into a fleet.
#[derive(Debug)]
pub struct Joined {
    pub redis: Arc<Redis>,
    pub survey: Survey,
    /// What people call this process.
    pub name: String,
    /// What a process before this one has known of the store, and where this one keeps what it knows.
    pub remembered: Option<Remembered>,
    pub file: Option<PositionFile>,
    /// The lineages that the store says to have had before.
    pub former: Vec<String>,
}

impl Opened {
    pub fn store(&self) -> Store {
        match self {
            Self::Sole(store) => Store::Embedded(Arc::clone(store)),
            Self::Joined(joined) | Self::Lost(joined, _) => Store::Redis(Arc::clone(&joined.redis)),
        }
    }
}

/// Opens the store. Waits up to `patience` for a file that another process owns, or a server that cannot be reached.
///
/// # Errors
/// [`RunError`] with what to do.
pub async fn open(settings: &StoreSettings, patience: Duration, tasks: &Tasks) -> Result<Opened, RunError> {
    match settings {
        StoreSettings::Embedded(path) => {
            let path = path.clone();
            let opened = tokio::task::spawn_blocking(move || Embedded::open(&path, patience)).await;
            Ok(Opened::Sole(Arc::new(opened.map_err(start)??)))
        }
        StoreSettings::Redis(settings) => join(settings, patience, tasks).await,
    }
}

/// A pepper that is there was made with a store. Where that one is missing it is lost, or the path is another: no empty one takes
/// its place unasked, in which nobody's key is known.
///
/// # Errors
/// [`RunError::Start`] with what to do.
pub fn refuse_to_begin_anew(settings: &Settings) -> Result<(), RunError> {
    let StoreSettings::Embedded(store) = &settings.store else { return Ok(()) };
    let pepper = settings.pepper.files.iter().map(|(_, pepper)| pepper).find(|pepper| pepper.exists());
    match pepper {
        Some(pepper) if !store.exists() => Err(RunError::Start(format!(
            "the store {} is missing, and the pepper {} is there, so this is not the first start: restore the store, or correct \
             `store.embedded.path`. If Tollgate is to begin anew, without a single key, say so with `tollgate store init`",
            store.display(),
            pepper.display()
        ))),
        _ => Ok(()),
    }
}

async fn join(settings: &RedisSettings, patience: Duration, tasks: &Tasks) -> Result<Opened, RunError> {
    let connector = Connector::open(settings.location.clone())?;
    let survey = survey(&connector, patience).await?;
    report(&survey);
    if let Some(unfit) = unfit(&survey) {
        return Err(RunError::Start(unfit));
    }
    let redis = Arc::new(Redis::new(connector, Handle::current()));
    let (file, remembered) = match &settings.position {
        Some(path) => {
            let location = settings.location.topology.to_string();
            let (file, kept) =
                open_position(path, &location, redis.trust().memory(), patience, &tasks.task("position")).await?;
            if let Some(kept) = &kept {
                refuse_another_store(&redis, kept, path, &location).await?;
            }
            (Some(file), kept.map(|kept| kept.remembered))
        }
        None => (None, None),
    };
    let found = redis.look().await?;
    let remembered = remembered.map(|remembered| since_put_back(remembered, found.as_ref()));
    let loss = find_loss(&redis, found.as_ref(), remembered.as_ref()).await?;
    let former = found.map(|found| found.was).unwrap_or_default();
    let name = settings.name.clone().unwrap_or_else(host_name);
    let joined = Box::new(Joined { redis, survey, name, remembered, file, former });
    if let Some(loss) = loss {
        return Ok(Opened::Lost(joined, loss));
    }
    // Also says it if nobody has made the store yet.
    Store::Redis(Arc::clone(&joined.redis)).has_no_keys().await?;
    Ok(Opened::Joined(joined))
}

/// Waits for a process that is about to end, as that which is replaced by this one.
async fn open_position(
    path: &Path,
    place: &str,
    is_signed: Arc<AtomicBool>,
    patience: Duration,
    task: &Task,
) -> Result<(PositionFile, Option<Kept>), RunError> {
    let deadline = Instant::now() + patience;
    let mut has_warned = false;
    loop {
        match PositionFile::open(path, place, Arc::clone(&is_signed), task.clone()) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            opened => return opened.map_err(|error| RunError::Start(unreadable(path, &error))),
        }
        if !has_warned && !patience.is_zero() {
            tracing::warn!(path = %path.display(), "another process uses the file of `fleet.position`: waiting for its end");
            has_warned = true;
        }
        if timeout_at(deadline, sleep(jittered())).await.is_err() {
            let in_use =
                format!("fleet.position: {}: another process uses it: give each a file of its own", path.display());
            return Err(RunError::Start(in_use));
        }
    }
}

/// What is remembered of one store says nothing of another one, and would be taken for a loss. A store that has moved has kept its
/// lineage, or names it as one that it had before.
async fn refuse_another_store(redis: &Redis, kept: &Kept, path: &Path, place: &str) -> Result<(), RunError> {
    let Some(of) = kept.store.as_deref().filter(|of| *of != place) else { return Ok(()) };
    let known = &kept.remembered.place.lineage;
    if redis.look().await?.is_some_and(|found| found.lineage == *known || found.was.contains(known)) {
        return Ok(());
    }
    let path = path.display();
    Err(RunError::Start(format!(
        "fleet.position: {path} is of the store at {of}, and `store.redis` names {place}, which holds another one: give each store a \
         file of its own, or correct `store.redis`. If that store was given up, remove the file"
    )))
}

/// What is remembered of a store, for whoever judges by it or follows by it what is missing in the store as it is: a failover before it
/// was put back from a backup has taken nothing away.
pub fn since_put_back(remembered: Remembered, found: Option<&StoreState>) -> Remembered {
    let term = match (remembered.term, found.and_then(|found| found.copied)) {
        (Term::Epoch(before), Some(copied)) => Term::Epoch(before.max(copied)),
        (before, _) => before,
    };
    Remembered { term, ..remembered }
}

/// What the store has lost of what a process before this one has known, or another replica, and no failover explains. Asked before
/// anything is read from it or written to it: a store that went back would be taken for one with few keys.
///
/// # Errors
/// [`StoreError`]
pub async fn find_loss(
    redis: &Redis,
    found: Option<&StoreState>,
    remembered: Option<&Remembered>,
) -> Result<Option<Loss>, StoreError> {
    let Some(&StoreState { sequence, log, missed, .. }) = found else {
        // Without a memory nobody can tell it from one that was never made.
        return Ok(remembered.map(|_| Loss::Head));
    };
    if log != sequence {
        return Ok(Some(Loss::Log { head: sequence, log }));
    }
    if missed > 0 {
        return Ok(Some(Loss::Told { known: missed, head: sequence }));
    }
    let Some(Remembered { place, term: before, left }) = remembered else { return Ok(None) };
    let (head, has_place) = redis.has(&place.position).await?;
    let is_left = left.contains(&head.lineage);
    if !is_left && (head.lineage != place.lineage || has_place) {
        return Ok(None);
    }
    let now = redis.connector().term().await?;
    let (known, newest) = (place.position.sequence, head.position.sequence);
    Ok(match now.explains(*before) {
        true => None,
        false if is_left => Some(Loss::Left { lineage: head.lineage }),
        false if now.is_behind(*before) => Some(Loss::Uncounted { known, head: newest }),
        false => Some(Loss::Changes { known, head: newest }),
    })
}

fn unreadable(path: &Path, error: &io::Error) -> String {
    format!(
        "fleet.position: {}: {error}: let this user write there; or, if it is sure that the store was not put back meanwhile, \
         remove the file",
        path.display()
    )
}

async fn survey(connector: &Connector, patience: Duration) -> Result<Survey, StoreError> {
    let deadline = Instant::now() + patience;
    let mut has_warned = false;
    loop {
        let error = match Survey::of(connector).await {
            Err(error) if error.is_transient() => error,
            known => return known,
        };
        if !has_warned && !patience.is_zero() {
            tracing::warn!(%error, "the store cannot be reached yet: trying for {} s", patience.as_secs());
            has_warned = true;
        }
        if timeout_at(deadline, sleep(jittered())).await.is_err() {
            return Err(error);
        }
    }
}

fn jittered() -> Duration {
    let mut random = [0; 1];
    // Without chance the pause is merely the same for all.
    let _ = getrandom::fill(&mut random);
    RETRY + RETRY * u32::from(random[0]) / 255
}

/// Logs what was found, each finding once.
fn report(survey: &Survey) {
    let (engine, version, level) = (survey.engine, survey.version, &survey.level);
    tracing::info!(%engine, %version, revocation = %level, "the store's server");
    for Finding { severity, what, remedy } in &survey.findings {
        match severity {
            Severity::Refuse => tracing::error!(remedy, "{what}"),
            Severity::Warn => tracing::warn!(remedy, "{what}"),
            Severity::Note => tracing::info!(remedy, "{what}"),
        }
    }
}

/// Why the server cannot be the store, if it cannot.
pub fn unfit(survey: &Survey) -> Option<String> {
    let refusals: Vec<String> =
        survey.refusals().map(|refusal| format!("{}: {}", refusal.what, refusal.remedy)).collect();
    (!refusals.is_empty()).then(|| format!("the server cannot be the store\n{}", refusals.join("\n")))
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
