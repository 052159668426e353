//! The only place that builds things: from a configuration file to a running process, started and drained in order.
//! Decides nothing about requests.

use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::clock::Clock;
use crate::config::{self, Compiled, Problems, Settings};
use crate::pepper::{self, PepperError};
use crate::pipeline::Pipeline;
use crate::policy::Policy;
use crate::registry::Registry;
use crate::resolve::Resolver;
use crate::resolve::api_key::Digester;
use crate::resolve::last_used::LastUsed;
use crate::resolve::revocation::Stamps;
use crate::store::embedded::Embedded;
use crate::store::{Store, StoreError};
use crate::telemetry::{self, Telemetry};

/// How long a new process waits for the old one to let go of the store.
const LOCK_WAIT: Duration = Duration::from_secs(60);
const FLUSH_EVERY: Duration = Duration::from_secs(30);

/// Why the process could not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("{0}")]
    Config(#[from] Problems),
    #[error("{0}")]
    Store(#[from] StoreError),
    #[error("{0}")]
    Pepper(#[from] PepperError),
    #[error("cannot listen on {what}: {error}")]
    Listen { what: String, error: io::Error },
    #[error("{0}")]
    Start(String),
}

/// What decides and what changes records, over one store.
#[derive(Clone, Debug)]
pub struct Core {
    pub pipeline: Pipeline,
    pub registry: Registry,
    pub resolver: Arc<Resolver>,
    pub store: Store,
}

impl Core {
    /// Opens nothing: the store is open and the peppers are read.
    pub fn new(store: Store, digester: Digester, sizes: crate::resolve::cache::Sizes, clock: Clock) -> Self {
        let (digester, stamps) = (Arc::new(digester), Arc::new(Stamps::default()));
        let last_used = Arc::new(LastUsed::default());
        let resolver =
            Arc::new(Resolver::new(store.clone(), Arc::clone(&digester), Arc::clone(&stamps), sizes));
        let pipeline = Pipeline::new(Arc::clone(&resolver), Arc::clone(&last_used), clock.clone());
        let registry = Registry::new(store.clone(), digester, stamps, last_used, clock);
        Self { pipeline, registry, resolver, store }
    }
}

/// Runs until SIGTERM or SIGINT, then drains and returns.
///
/// # Errors
/// [`RunError`] if something it needs cannot be had at start; nothing is served then.
pub async fn serve(config: PathBuf) -> Result<(), RunError> {
    let Compiled { policy, settings } = config::load(&config)?;
    let (_log_guard, log) = telemetry::init_log(&settings.log).map_err(|error| RunError::Start(error.to_string()))?;
    let telemetry = Telemetry::new(Some(log)).map_err(|error| RunError::Start(error.to_string()))?;
    let telemetry = Arc::new(telemetry);
    telemetry.set_log(&settings.log);

    let core = open(&settings).await?;
    let live = Arc::new(ArcSwap::from_pointee(policy));
    telemetry.adopt(&live.load());

    let stop = Stop::on_signals()?;
    let doors = Doors::open(&settings, &core, &live, &telemetry).await?;
    let reloads = tokio::spawn(follow_config(config, settings.clone(), Arc::clone(&live), Arc::clone(&telemetry)));
    let flushes = tokio::spawn(flush_last_used(core.registry.clone()));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "serving");

    doors.serve(stop).await?;

    reloads.abort();
    flushes.abort();
    if let Err(error) = core.registry.flush_last_used().await {
        tracing::warn!(%error, "the last use of some keys was not stored");
    }
    tracing::info!("stopped");
    Ok(())
}
