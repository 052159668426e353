//! The only place that builds things: from a configuration file to a running process, started and drained in order.
//! Decides nothing about requests.

pub mod memory;
mod sealed;
pub mod store;

use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use futures_util::future::join_all;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tollgate_core::policy::Policy;
use tollgate_guard::channel::Identity;
use tollgate_guard::stamps::Stamps;

use crate::backup::Backups;
use crate::clock::Clock;
use crate::config::{self, Compiled, Problems, Settings};
use crate::domain::change::Endings;
use crate::fleet::driver::{self, Joining};
use crate::fleet::handle::Fleet;
use crate::fleet::replicas::Replicas;
use crate::login::Logins;
use crate::password::Passwords;
use crate::pepper::{self, PepperError};
use crate::pipeline::Pipeline;
use crate::registry::Registry;
use crate::resolve::Resolver;
use crate::resolve::api_key::Digester;
use crate::resolve::cache::Sizes;
use crate::resolve::l2::L2;
use crate::resolve::last_used::LastUsed;
use crate::server::admin::{self, AdminState, Door, Parts};
use crate::server::budget::Budget;
use crate::server::ext_authz::CheckService;
use crate::server::listen::{CheckListener, Options};
use crate::server::ops::{self, OpsState};
use crate::server::runtime::{End, all_until};
use crate::server::socket::{self, SocketFile};
use crate::store::format::Format;
use crate::store::redis::shared::SharedCache;
use crate::store::{Store, StoreError};
use crate::tasks::Tasks;
use crate::telemetry::{self, Telemetry};
use store::{Joined, Opened};

/// How long a new process waits for the old one to let go of the store, or for a server to be reachable.
const STORE_WAIT: Duration = Duration::from_secs(60);
/// How long a replica waits for its first lease before it lets anybody in.
const FIRST_LEASE: Duration = Duration::from_secs(2);
const FLUSH_EVERY: Duration = Duration::from_secs(30);
/// How often it is looked for rows of the audit log that are too old, and whether today's tombstones were.
const TRIM_EVERY: Duration = Duration::from_secs(3600);
/// Nobody reads the whole store while this process has yet to fill its caches.
const SETTLED: Duration = Duration::from_secs(15 * 60);
const RECONCILE_EVERY: Duration = Duration::from_secs(1);

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
    /// Over a store that nobody else changes, or of which one answer is wanted. Opens nothing: the store is open and the
    /// peppers are read.
    pub fn new(store: Store, digester: Digester, sizes: Sizes, clock: Clock) -> Self {
        Self::of(store, Arc::new(digester), Arc::new(Stamps::sole(Clock::System)), sizes, clock, None, Tasks::default())
    }

    /// A part of a fleet, which it joins with this.
    ///
    /// # Errors
    /// [`RunError::Start`] if there is no thread to be had.
    pub fn join(
        joined: Joined,
        grace: Duration,
        digester: Digester,
        sizes: Sizes,
        tasks: Tasks,
    ) -> Result<(Self, Fleet), RunError> {
        let (clock, digester) = (Clock::System, Arc::new(digester));
        let stamps = Arc::new(Stamps::leased(clock.clone()).with_longest_grace(grace));
        let cache = SharedCache::new(joined.redis.connector().clone(), Handle::current());
        let l2 = L2::new(cache, Arc::clone(&digester), clock.clone());
        let store = Store::Redis(Arc::clone(&joined.redis));
        let (following, reconciling) = (tasks.task("fleet_log"), tasks.task("reconcile"));
        let core = Self::of(store, digester, Arc::clone(&stamps), sizes, clock.clone(), Some(l2), tasks);
        let (reconcile, wanted) = mpsc::unbounded_channel();
        let fleet = driver::start(Joining {
            redis: joined.redis,
            stamps,
            endings: Arc::clone(core.resolver.endings()),
            identity: identity(joined.name, grace),
            level: joined.survey.level.to_string(),
            clock,
            reconcile,
            task: following,
            remembered: joined.remembered,
            file: joined.file,
            former: joined.former,
        })
        .map_err(start)?;
        let endings = Arc::clone(core.resolver.endings());
        let registry = core.registry.in_fleet(fleet.position(), endings, core.resolver.l2());
        let (keeper, wanted) = (registry.clone(), Arc::new(Mutex::new(wanted)));
        tokio::spawn(reconciling.keep(move || keep_ended(keeper.clone(), Arc::clone(&wanted))));
        Ok((Self { registry, ..core }, fleet))
    }

    fn of(
        store: Store,
        digester: Arc<Digester>,
        stamps: Arc<Stamps>,
        sizes: Sizes,
        clock: Clock,
        l2: Option<L2>,
        tasks: Tasks,
    ) -> Self {
        let (last_used, endings) = (Arc::new(LastUsed::default()), Arc::new(Endings::default()));
        let resolver = Resolver::new(store.clone(), Arc::clone(&digester), Arc::clone(&stamps), endings, sizes, l2);
        let resolver = Arc::new(resolver.among(tasks));
        let pipeline = Pipeline::new(Arc::clone(&resolver), Arc::clone(&last_used), clock.clone());
        let registry = Registry::new(store.clone(), digester, stamps, last_used, clock);
        Self { pipeline, registry, resolver, store }
    }

    /// Who logs users in, with the keys that the store has.
    async fn logins(&self) -> Result<Logins, RunError> {
        self.resolver.signing().load(Clock::System.now()).await?;
        self.logins_without_keys()
    }

    fn logins_without_keys(&self) -> Result<Logins, RunError> {
        let passwords = Passwords::start_among(self.resolver.tasks()).map_err(start)?;
        let signing = Arc::clone(self.resolver.signing());
        Ok(Logins::new(self.store.clone(), self.registry.clone(), signing, passwords, Clock::System))
    }

    /// Over a store that is open, with the peppers that it knows.
    async fn open(
        opened: Opened,
        settings: &Settings,
        policy: &Policy,
        tasks: Tasks,
    ) -> Result<(Self, Replicas), RunError> {
        let store = opened.store();
        if settings.demands_signatures || store.trust().is_signed() {
            store.demand_signatures().await?;
        }
        let (current, older) = pepper::load(&settings.pepper, &store).await?;
        if !store.format().await?.demands_signatures() {
            tracing::warn!(
                "the records of the store are not signed, so that whoever can write the store can mint keys: run `tollgate store upgrade` \
                 once every Tollgate on it is of this release"
            );
        }
        let digester = Digester::new(&current, &older);
        match opened {
            Opened::Sole(embedded) => {
                let (store, stamps) = (Store::Embedded(Arc::clone(&embedded)), Arc::new(Stamps::sole(Clock::System)));
                let core = Self::of(store, Arc::new(digester), stamps, settings.cache, Clock::System, None, tasks);
                Ok((core, Replicas::sole(embedded, Clock::System.now())))
            }
            Opened::Joined(joined) => {
                let (core, fleet) = Self::join(*joined, longest_grace(policy), digester, settings.cache, tasks)?;
                Ok((core, Replicas::Fleet(fleet)))
            }
            Opened::Lost(_, loss) => Err(RunError::Start(loss.to_string())),
        }
    }
}

/// Runs until SIGTERM or SIGINT, then drains and returns.
///
/// # Errors
/// [`RunError`] if something it needs cannot be had at start; nothing is served then.
pub async fn serve(config: PathBuf) -> Result<(), RunError> {
    // From the first moment on, or it would end the process.
    let hangups = signal(SignalKind::hangup()).map_err(start)?;
    let (changed, changes) = mpsc::unbounded_channel();
    let tasks = Tasks::default();
    // Watched before it is read for the first time, so that no change falls in between.
    let watch = config::reload::watch(&config, tasks.task("config_watch"), move || {
        // Nobody listens any more once the process ends.
        let _ = changed.send(());
    });
    let Compiled { policy, settings } = config::load(&config)?;
    let policy = Arc::new(policy);

    let (_log_guard, log) = telemetry::init_log(&settings.log).map_err(start)?;
    raise_file_limit();
    let telemetry = Arc::new(Telemetry::new(Some(log)).map_err(start)?);
    telemetry.set_log(&settings.log);

    let Some((opened, stop)) = open_store(&settings, &policy, &tasks).await? else { return Ok(()) };
    let (core, replicas) = Core::open(opened, &settings, &policy, tasks.clone()).await?;
    if let Replicas::Fleet(fleet) = &replicas {
        telemetry.watch_fleet(fleet.clone(), &core.resolver).map_err(start)?;
    }
    core.resolver.adopt(&policy);
    core.registry.limit(settings.limits.clone());
    let logins = core.logins().await?;
    if policy.login.is_some() {
        logins.renew_keys().await?;
    }
    let grace = longest_grace(&policy);
    let live = Arc::new(ArcSwap::new(policy));
    telemetry.adopt(&live.load_full());

    first_lease(&core.resolver).await;
    let doors = Doors::open(&settings, &core, &replicas, logins, &live, &telemetry).await?;
    let mut background = JoinSet::new();
    if let Err(error) = &watch {
        tracing::warn!(%error, "changes of the configuration file will not be noticed: send SIGHUP after each");
    }
    let (resolver, registry, inbox) =
        (Arc::clone(&core.resolver), core.registry.clone(), Mutex::new((changes, hangups)));
    let reload = Arc::new(Reload { path: config, settings, grace, live, resolver, registry, telemetry, inbox });
    let mut is_again = false;
    background.spawn(tasks.task("config_reload").keep(move || {
        let (reload, is_again) = (Arc::clone(&reload), std::mem::replace(&mut is_again, true));
        async move { reload.follow(is_again).await }
    }));
    let registry = core.registry.clone();
    background.spawn(tasks.task("last_used").keep(move || flush_last_used(registry.clone())));
    let registry = core.registry.clone();
    background.spawn(tasks.task("audit_trim").keep(move || trim_audit(registry.clone())));
    let registry = core.registry.clone();
    background.spawn(tasks.task("tombstones").keep(move || purge_tombstones(registry.clone())));
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "serving");

    let served = doors.serve(stop).await;

    background.shutdown().await;
    if let Err(error) = core.registry.flush_last_used().await {
        tracing::warn!(%error, "the last use of some keys was not stored");
    }
    replicas.leave().await;
    tracing::info!("stopped");
    served
}

/// The store, once it has what was known of it, and what tells the process to end. `None`: it was told to end before that.
async fn open_store(
    settings: &Settings,
    policy: &Arc<Policy>,
    tasks: &Tasks,
) -> Result<Option<(Opened, impl Future<Output = ()> + use<>)>, RunError> {
    store::refuse_to_begin_anew(settings)?;
    let mut stop = Box::pin(stop_signal()?);
    let Some(mut opened) = open_until(&mut stop, settings, tasks).await? else { return Ok(None) };
    while let Opened::Lost(joined, loss) = opened {
        if sealed::refuse_all(*joined, &loss, settings, policy, tasks, &mut stop).await? == sealed::Ended::Stopped {
            return Ok(None);
        }
        match open_until(&mut stop, settings, tasks).await? {
            Some(again) => opened = again,
            None => return Ok(None),
        }
    }
    Ok(Some((opened, stop)))
}

/// `None`: it was told to end before the store was open.
async fn open_until(
    stop: &mut (impl Future<Output = ()> + Unpin),
    settings: &Settings,
    tasks: &Tasks,
) -> Result<Option<Opened>, RunError> {
    tokio::select! {
        opened = store::open(&settings.store, STORE_WAIT, tasks) => Ok(Some(opened?)),
        () = stop => {
            tracing::info!("told to end before the store was open: stopped");
            Ok(None)
        }
    }
}

/// As many files as the system lets us have: with all its doors full, the process needs more than the customary 1,024.
fn raise_file_limit() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files could not be raised: the doors may run out of them");
    }
}

/// Waits until a replica may serve, but not for long. Whoever is asked before that refuses, and behind one Envoy a replica that has
/// just been restarted is asked as if it had never been away.
async fn first_lease(resolver: &Resolver) {
    let is_settled = async {
        while !resolver.can_serve() && !resolver.is_sealed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(FIRST_LEASE, is_settled).await.is_err() {
        tracing::warn!("no lease from the store yet: until there is one, everything is refused");
    }
}

fn longest_grace(policy: &Policy) -> Duration {
    policy.planes.iter().map(|plane| plane.grace).max().unwrap_or_default()
}

fn start(error: impl std::fmt::Display) -> RunError {
    RunError::Start(error.to_string())
}

/// Every listener, bound and not yet serving.
struct Doors {
    check: CheckListener,
    service: CheckService,
    options: Options,
    ops: (TcpListener, OpsState),
    draining: watch::Sender<bool>,
    backups: Backups,
    admin_socket: (UnixListener, SocketFile, Router),
    admin_http: Vec<(TcpListener, Door, Router)>,
}

impl Doors {
    /// Binds them all, so that a door that cannot open keeps the others shut.
    async fn open(
        settings: &Settings,
        core: &Core,
        replicas: &Replicas,
        logins: Logins,
        live: &Arc<ArcSwap<Policy>>,
        telemetry: &Arc<Telemetry>,
    ) -> Result<Self, RunError> {
        let backups = Backups::new(core.store.clone(), core.registry.snapshot_signer());
        let admin = AdminState::new(Parts {
            live: Arc::clone(live),
            registry: core.registry.clone(),
            replicas: replicas.clone(),
            pipeline: core.pipeline.clone(),
            logins,
            backups: backups.clone(),
            clock: Clock::System,
            settings: settings.admin.clone(),
        });
        let check = CheckListener::bind(&settings.check)
            .map_err(|error| RunError::Listen { what: "listen.check".to_owned(), error })?;
        let (socket, file) = socket::bind(&settings.admin.unix)
            .map_err(|error| RunError::Listen { what: "listen.admin.unix".to_owned(), error })?;
        let mut admin_http = Vec::new();
        let doors = [(settings.admin.http, Door::Http), (settings.admin.through_envoy, Door::ThroughEnvoy)];
        for (address, door) in doors.into_iter().filter_map(|(address, door)| Some((address?, door))) {
            admin_http.push((bind_tcp(address)?, door, admin::router(&admin, door)));
        }
        let (draining, is_draining) = watch::channel(false);
        let ops = OpsState {
            telemetry: Arc::clone(telemetry),
            resolver: Arc::clone(&core.resolver),
            store: core.store.clone(),
            draining: is_draining,
        };
        Ok(Self {
            check,
            service: CheckService::new(Arc::clone(live), core.pipeline.clone(), Arc::clone(telemetry)),
            options: Options { workers: settings.workers, drain: settings.drain, reflection: settings.reflection },
            ops: (bind_tcp(settings.ops)?, ops),
            draining,
            backups,
            admin_socket: (socket, file, admin::router(&admin, Door::Socket)),
            admin_http,
        })
    }

    /// Serves until `stop`. Readiness goes first, then the checks drain, then the doors of the admin API close, and the
    /// door that tells how it goes is the last. Each door but that of the checks has a thread of its own, so that whoever
    /// holds one up holds up no other.
    async fn serve(self, stop: impl Future<Output = ()>) -> Result<(), RunError> {
        let checks_done = CancellationToken::new();
        let all_done = CancellationToken::new();
        // One for all doors but the operator's and that of whoever watches, who have to be heard whatever the others hold.
        let budget = Budget::new();
        let (listener, state) = self.ops;
        let end = all_done.clone().cancelled_owned();
        // Whoever watches has no credential, and must see what strangers hold elsewhere.
        let ops = ops::start(listener, state, Budget::new(), end).map_err(start)?;
        let (listener, file, router) = self.admin_socket;
        let end = checks_done.clone().cancelled_owned();
        let mut admin = vec![admin::serve::start_unix(listener, file, router, end).map_err(start)?];
        for (listener, door, router) in self.admin_http {
            let end = checks_done.clone().cancelled_owned();
            admin.push(admin::serve::start_tcp(listener, door, router, Arc::clone(&budget), end).map_err(start)?);
        }

        let ends: Vec<End> = admin.iter().chain([&ops]).cloned().collect();
        let mut ended = Ok(());
        let stop = async {
            ended = all_until(stop, &ends).await;
            match &ended {
                Ok(()) => tracing::info!("draining"),
                Err(error) => {
                    tracing::error!(%error, "draining: a listener has ended, and the process must be started again");
                }
            }
            self.draining.send_replace(true);
            // The door that one goes through is waited for.
            self.backups.end();
        };
        let served = self.check.serve(self.service, self.options, budget, stop).await.and(ended);
        checks_done.cancel();
        // Each says that it has ended by not being there any more.
        join_all(admin).await;
        all_done.cancel();
        let _ = ops.await;
        served.map_err(start)
    }
}

fn bind_tcp(address: SocketAddr) -> Result<TcpListener, RunError> {
    socket::bind_tcp(address, Some(socket::FEW_UNREAD))
        .map_err(|error| RunError::Listen { what: address.to_string(), error })
}

/// Resolves at the first SIGTERM or SIGINT.
fn stop_signal() -> Result<impl Future<Output = ()>, RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(start)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(start)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn identity(name: String, grace: Duration) -> Identity {
    let mut random = [0; 16];
    // Without chance two processes that start in the same moment on one host would be taken for one.
    let _ = getrandom::fill(&mut random);
    let id = u128::from_be_bytes(random) ^ u128::from(std::process::id()) ^ u128::from(Clock::System.now().as_millis());
    Identity {
        id: format!("{id:032x}"),
        name,
        grace,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        format: Format::HIGHEST,
    }
}

/// Ends again what the store has lost, at once when it went over to another history. Nothing is given up that the log may still
/// tell of: others may not have heard of what is missing, and would allow it.
async fn keep_ended(registry: Registry, wanted: Arc<Mutex<mpsc::UnboundedReceiver<()>>>) {
    let mut wanted = wanted.lock().await;
    let mut has_complained = false;
    loop {
        tokio::select! {
            asked = wanted.recv() => match asked {
                Some(()) => {}
                None => return,
            },
            () = tokio::time::sleep(RECONCILE_EVERY) => {}
        }
        let result = registry.end_again().await;
        if let Err(error) = &result
            && !has_complained
        {
            tracing::warn!(%error, "what the store may have lost cannot be ended again yet: trying until it can");
        }
        has_complained = result.is_err();
    }
}

async fn flush_last_used(registry: Registry) {
    let mut ticks = tokio::time::interval(FLUSH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = registry.flush_last_used().await {
            tracing::warn!(%error, "the last use of some keys could not be stored and is kept for the next time");
        }
    }
}

async fn trim_audit(registry: Registry) {
    let mut ticks = tokio::time::interval(TRIM_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = registry.trim_old_rows().await {
            tracing::warn!(%error, "old rows of the audit log could not be removed: tried again in an hour");
        }
    }
}

async fn purge_tombstones(registry: Registry) {
    let mut ticks = tokio::time::interval_at(Instant::now() + SETTLED, TRIM_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        if let Err(error) = registry.purge_tombstones().await {
            tracing::warn!(%error, "what is left of revoked keys could not be removed: tried again in a day");
        }
    }
}

/// Follows the configuration file: a good one goes live at once, a bad one changes nothing and says so.
struct Reload {
    path: PathBuf,
    settings: Settings,
    /// The longest one that the fleet was told of.
    grace: Duration,
    live: Arc<ArcSwap<Policy>>,
    resolver: Arc<Resolver>,
    registry: Registry,
    telemetry: Arc<Telemetry>,
    /// What asks for it: the file has changed, or somebody sent SIGHUP.
    inbox: Mutex<(mpsc::UnboundedReceiver<()>, Signal)>,
}

impl Reload {
    /// With `is_again` one that came before may have been lost in a panic.
    async fn follow(&self, is_again: bool) {
        let mut inbox = self.inbox.lock().await;
        let (changes, hangups) = &mut *inbox;
        if is_again {
            self.reload();
        }
        loop {
            tokio::select! {
                Some(()) = changes.recv() => {}
                _ = hangups.recv() => {}
            }
            self.reload();
        }
    }

    fn reload(&self) {
        match config::reload::reload(&self.path, &self.settings) {
            Ok(mut reloaded) => {
                if longest_grace(&reloaded.policy) > self.grace {
                    reloaded.needs_restart.push("planes.*.grace");
                }
                let policy = Arc::new(reloaded.policy);
                self.telemetry.adopt(&policy);
                // First who callers are, then what they may do.
                self.resolver.adopt(&policy);
                self.live.store(policy);
                self.telemetry.set_log(&reloaded.log);
                self.registry.limit(reloaded.limits);
                self.telemetry.set_reload(true);
                tracing::info!(needs_restart = reloaded.needs_restart.join(", "), "configuration reloaded");
            }
            Err(problems) => {
                self.telemetry.set_reload(false);
                tracing::error!(%problems, "the changed configuration is not used: the last good one stays in force");
            }
        }
    }
}
