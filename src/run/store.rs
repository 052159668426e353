//! From settings to an open store. Never starts on a server that may throw revocations away, and never makes a fleet's store:
//! `tollgate store init` does.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout_at};

use super::{RunError, start};
use crate::config::{RedisSettings, Settings, StoreSettings};
use crate::store::embedded::Embedded;
use crate::store::redis::Redis;
use crate::store::redis::connect::Connector;
use crate::store::redis::survey::{Finding, Severity, Survey};
use crate::store::{Store, StoreError};

/// Between two tries of a server that cannot be reached, with as much again by chance: a fleet does not start in step.
const RETRY: Duration = Duration::from_millis(250);

/// A store that is open.
#[derive(Debug)]
pub enum Opened {
    /// It has one owner, which this process is.
    Sole(Arc<Embedded>),
    /// A fleet's.
    Joined(Joined),
}

/// What a process brings into a fleet.
#[derive(Debug)]
pub struct Joined {
    pub redis: Arc<Redis>,
    pub survey: Survey,
    /// What people call this process.
    pub name: String,
}

impl Opened {
    pub fn store(&self) -> Store {
        match self {
            Self::Sole(store) => Store::Embedded(Arc::clone(store)),
            Self::Joined(joined) => Store::Redis(Arc::clone(&joined.redis)),
        }
    }
}

/// Opens the store. Waits up to `patience` for a file that another process owns, or a server that cannot be reached.
///
/// # Errors
/// [`RunError`] with what to do.
pub async fn open(settings: &StoreSettings, patience: Duration) -> Result<Opened, RunError> {
    match settings {
        StoreSettings::Embedded(path) => {
            let path = path.clone();
            let opened = tokio::task::spawn_blocking(move || Embedded::open(&path, patience)).await;
            Ok(Opened::Sole(Arc::new(opened.map_err(start)??)))
        }
        StoreSettings::Redis(settings) => join(settings, patience).await,
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

async fn join(settings: &RedisSettings, patience: Duration) -> Result<Opened, RunError> {
    let connector = Connector::open(settings.place.clone())?;
    let survey = survey(&connector, patience).await?;
    report(&survey);
    if let Some(unfit) = unfit(&survey) {
        return Err(RunError::Start(unfit));
    }
    let redis = Arc::new(Redis::new(connector, Handle::current()));
    let store = Store::Redis(Arc::clone(&redis));
    // Also says it if nobody has made the store yet.
    store.has_no_keys().await?;
    let name = settings.name.clone().unwrap_or_else(host_name);
    Ok(Opened::Joined(Joined { redis, survey, name }))
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
