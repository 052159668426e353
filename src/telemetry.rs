//! Every metric name and every log line of a decision. Never a secret, a key id or a path in a label; never blocks a
//! check on a log that nobody reads.

mod fleet;

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use prometheus::core::Collector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};
use tollgate_core::attributes::Attributes;
use tollgate_core::decision::Tier;
use tollgate_core::denial::Denial;
use tollgate_core::policy::Policy;
use tollgate_core::principal::Principal;
use tollgate_core::redact;
use tollgate_core::respond::{Allow, Decision, Deny};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::{LevelFilter, Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{fmt, reload};

use crate::config::{Log, LogLevel, LoggedDecisions};
use crate::fleet::handle::Fleet;
use crate::resolve::Resolver;
use fleet::FleetMetrics;

/// Seconds; a check in the cache takes microseconds, one from the store about a millisecond.
const BUCKETS: [f64; 12] = [5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 5e-3, 2e-2, 0.1, 0.5];

/// The metrics of the process.
pub struct Telemetry {
    registry: Registry,
    checks: IntCounterVec,
    duration: Histogram,
    lookups: IntCounterVec,
    hits: IntCounter,
    cache_entries: IntGaugeVec,
    loads: IntGaugeVec,
    refused_loads: IntGaugeVec,
    issuer_key_ages: IntGaugeVec,
    reloads: IntCounterVec,
    reload_ok: IntGauge,
    dropped_lines: IntGauge,
    store_signed: IntGauge,
    distrusted_entries: IntGauge,
    restarts: IntGaugeVec,
    /// The counters of the policy that is live, so that an allowed check looks up no label.
    allowed: ArcSwapOption<AllowedByRoute>,
    logged: AtomicU8,
    log: Option<LogControl>,
    fleet: OnceLock<FleetMetrics>,
    started: Instant,
    /// The period since the start in which it was last told that Envoy withholds headers.
    withheld_told: AtomicU64,
}

struct AllowedByRoute {
    policy: Arc<Policy>,
    counters: Vec<IntCounter>,
}

struct LogControl {
    filter: reload::Handle<Targets, tracing_subscriber::Registry>,
    dropped: ErrorCounter,
}

impl std::fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Telemetry")
    }
}

/// The target of log lines about changes that were made: none of them is ever dropped.
pub const AUDIT: &str = "tollgate::audit";

/// Lines that wait for a reader who is slower than the log. More are dropped and counted, so that memory has a bound.
const WAITING_LINES: usize = 8192;
/// A fault of Envoy's configuration that every request shows is told once in so many seconds.
const TOLD_EVERY_S: u64 = 10;
/// What a client chose is cut to so many bytes in a log line.
const MAX_LOGGED: usize = 256;

/// Writes JSON log lines to standard output from threads of its own, until the guard is dropped.
///
/// # Errors
/// If a subscriber was installed before.
pub fn init_log(log: &Log) -> Result<(LogGuard, LogHandle), tracing::subscriber::SetGlobalDefaultError> {
    let (writer, guard) = NonBlockingBuilder::default().buffered_lines_limit(WAITING_LINES).finish(std::io::stdout());
    let (audit_writer, audit_guard) = NonBlockingBuilder::default().lossy(false).finish(std::io::stdout());
    let dropped = writer.error_counter();
    let (filter, handle) = reload::Layer::new(targets(log.level));
    let is_audit = |metadata: &tracing::Metadata<'_>| metadata.target() == AUDIT;
    let lines = fmt::layer().json().flatten_event(true).with_writer(writer);
    let audit = fmt::layer().json().flatten_event(true).with_writer(audit_writer);
    let lines = lines.with_filter(filter_fn(move |metadata| !is_audit(metadata)));
    let audit = audit.with_filter(filter_fn(is_audit));
    tracing::subscriber::set_global_default(tracing_subscriber::registry().with(filter).with(lines).with(audit))?;
    Ok((LogGuard { _guards: [guard, audit_guard] }, LogHandle(LogControl { filter: handle, dropped })))
}

/// Flushes the log when dropped.
#[derive(Debug)]
pub struct LogGuard {
    _guards: [WorkerGuard; 2],
}

/// Changes the level of the log.
pub struct LogHandle(LogControl);

impl std::fmt::Debug for LogHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("LogHandle")
    }
}

fn targets(level: LogLevel) -> Targets {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    Targets::new()
        .with_default(LevelFilter::WARN.min(level))
        .with_target("tollgate", level)
        .with_target(AUDIT, LevelFilter::INFO)
}

impl Telemetry {
    /// # Errors
    /// If a metric's name is not one; no name depends on input.
    pub fn new(log: Option<LogHandle>) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let counters =
            |name, help, labels: &[&str]| registered(&registry, IntCounterVec::new(Opts::new(name, help), labels)?);
        let gauges =
            |name, help, labels: &[&str]| registered(&registry, IntGaugeVec::new(Opts::new(name, help), labels)?);
        let gauge = |name, help| registered(&registry, IntGauge::new(name, help)?);

        let checks = counters(
            "tollgate_checks_total",
            "Checks by decision, reason and route.",
            &["decision", "reason", "route"],
        )?;
        let duration =
            HistogramOpts::new("tollgate_check_duration_seconds", "Time from a check's arrival to its answer.");
        let duration = registered(&registry, Histogram::with_opts(duration.buckets(BUCKETS.to_vec()))?)?;
        let lookups = counters(
            "tollgate_lookups_total",
            "Look-ups of keys and resources by the tier that answered.",
            &["kind", "tier"],
        )?;
        let cache_entries = gauges("tollgate_cache_entries", "Entries in the cache.", &["kind", "state"])?;
        let loads = gauges("tollgate_store_loads", "Look-ups that went to the store since the start.", &["kind"])?;
        let refused_loads = gauges(
            "tollgate_store_loads_refused",
            "Look-ups refused since the start, as too many were under way.",
            &["kind"],
        )?;
        let issuer_key_ages = gauges(
            "tollgate_issuer_keys_age_seconds",
            "Seconds since the newest key set of an issuer was fetched or read; absent while there is none.",
            &["issuer"],
        )?;
        let reloads = counters("tollgate_config_reloads_total", "Reloads of the configuration.", &["result"])?;
        let reload_ok = gauge(
            "tollgate_config_last_reload_successful",
            "1 if the configuration file on disk is the one in force.",
        )?;
        let dropped_lines =
            gauge("tollgate_log_lines_dropped", "Log lines lost since the start, as nobody read them fast enough.")?;
        let store_signed = gauge(
            "tollgate_store_signed",
            "1 if every record of the store must carry a signature, 0 until `tollgate store upgrade` has run.",
        )?;
        let distrusted_entries = gauge(
            "tollgate_store_log_entries_distrusted",
            "Entries of the store's log, since the start, that something else has written or that others were removed before.",
        )?;
        let restarts = gauges(
            "tollgate_task_restarts",
            "How often a long task was started again after a panic, since the start.",
            &["task"],
        )?;
        let build = gauges("tollgate_build_info", "The version that runs.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        reload_ok.set(1);
        Ok(Self {
            hits: lookups.with_label_values(&["key", Tier::Cache.as_str()]),
            checks,
            duration,
            lookups,
            cache_entries,
            loads,
            refused_loads,
            issuer_key_ages,
            reloads,
            reload_ok,
            dropped_lines,
            store_signed,
            distrusted_entries,
            restarts,
            allowed: ArcSwapOption::empty(),
            logged: AtomicU8::new(LoggedDecisions::Denied as u8),
            log: log.map(|handle| handle.0),
            fleet: OnceLock::new(),
            started: Instant::now(),
            withheld_told: AtomicU64::new(0),
            registry,
        })
    }

    /// Prepares the counters of a policy that is about to go live.
    pub fn adopt(&self, policy: &Arc<Policy>) {
        let counter = |name: &str| self.checks.with_label_values(&["allow", "", name]);
        let counters = policy.routes.routes().iter().map(|route| counter(&route.name)).collect();
        self.allowed.store(Some(Arc::new(AllowedByRoute { policy: Arc::clone(policy), counters })));
    }

    /// Follows changed log settings.
    pub fn set_log(&self, log: &Log) {
        self.logged.store(log.decisions as u8, Ordering::Relaxed);
        if let Some(control) = &self.log
            && let Err(error) = control.filter.reload(targets(log.level))
        {
            tracing::warn!(%error, "the log level could not be changed");
        }
    }

    /// Counts a decision and logs it if it is to be.
    pub fn record(&self, policy: &Policy, decision: &Decision<'_>, request: &Attributes<'_>, elapsed: Duration) {
        self.duration.observe(elapsed.as_secs_f64());
        let trace = decision.trace();
        match trace.principal {
            Some(Tier::Cache) => self.hits.inc(),
            Some(tier) => self.lookups.with_label_values(&["key", tier.as_str()]).inc(),
            None => {}
        }
        if let Some(tier) = trace.resource {
            self.lookups.with_label_values(&["resource", tier.as_str()]).inc();
        }
        let logged = self.logged.load(Ordering::Relaxed);
        match decision {
            Decision::Allow(allow) => {
                self.count_allowed(policy, allow);
                if logged == LoggedDecisions::All as u8 {
                    log_allowed(policy, allow, request, elapsed);
                }
            }
            Decision::Deny(deny) => {
                let route = trace.route.map_or("", |id| &*policy.routes.route(id).name);
                self.checks.with_label_values(&["deny", deny.denial.as_str(), route]).inc();
                if deny.denial == Denial::HeadersWithheld {
                    self.tell_of_withheld();
                }
                if logged != LoggedDecisions::None as u8 {
                    log_denied(policy, deny, route, request, elapsed);
                }
            }
        }
    }

    /// Says which setting of Envoy keeps everybody out, once in each period.
    fn tell_of_withheld(&self) {
        let period = self.started.elapsed().as_secs() / TOLD_EVERY_S + 1;
        if self.withheld_told.swap(period, Ordering::Relaxed) != period {
            tracing::error!(
                "Envoy keeps request headers from the check, so that Tollgate can neither see nor remove them, and every request \
                 is refused: remove `headersToExtAuth` (Envoy Gateway) or `allowed_headers` (ext_authz) from its configuration"
            );
        }
    }

    fn count_allowed(&self, policy: &Policy, allow: &Allow<'_>) {
        let id = allow.permit().route_id().0 as usize;
        let live = self.allowed.load();
        let prepared = live.as_ref().filter(|live| std::ptr::eq(&*live.policy, policy));
        match prepared.and_then(|live| live.counters.get(id)) {
            Some(counter) => counter.inc(),
            None => self.checks.with_label_values(&["allow", "", &allow.permit().route().name]).inc(),
        }
    }

    /// Notes whether a changed configuration was taken.
    pub fn set_reload(&self, ok: bool) {
        self.reloads.with_label_values(&[if ok { "ok" } else { "failed" }]).inc();
        self.reload_ok.set(i64::from(ok));
    }

    /// Tells of this replica's part in a fleet from now on.
    ///
    /// # Errors
    /// If a metric's name is not one, or it is told of already.
    pub fn watch_fleet(&self, fleet: Fleet, resolver: &Resolver) -> Result<(), prometheus::Error> {
        let metrics = FleetMetrics::new(&self.registry, fleet, resolver)?;
        self.fleet.set(metrics).map_err(|_| prometheus::Error::AlreadyReg)
    }

    /// The metrics in the text format of Prometheus.
    ///
    /// # Errors
    /// If a metric cannot be written as text.
    pub fn render(&self, resolver: &Resolver) -> Result<String, prometheus::Error> {
        for (kind, stats) in [("key", resolver.key_stats()), ("resource", resolver.resource_stats())] {
            let set = |gauge: &IntGaugeVec, labels: &[&str], value: u64| {
                gauge.with_label_values(labels).set(i64::try_from(value).unwrap_or(i64::MAX));
            };
            set(&self.cache_entries, &[kind, "known"], stats.entries);
            set(&self.cache_entries, &[kind, "unknown"], stats.unknown_entries);
            set(&self.loads, &[kind], stats.loads);
            set(&self.refused_loads, &[kind], stats.refused_loads);
        }
        let turned_away = i64::try_from(resolver.signatures().turned_away()).unwrap_or(i64::MAX);
        self.refused_loads.with_label_values(&["signature"]).set(turned_away);
        // One that is configured no more has no age.
        self.issuer_key_ages.reset();
        for (issuer, age) in resolver.issuer_key_ages() {
            let age = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
            self.issuer_key_ages.with_label_values(&[&*issuer]).set(age);
        }
        for (task, count) in resolver.tasks().restarts() {
            self.restarts.with_label_values(&[task]).set(i64::try_from(count).unwrap_or(i64::MAX));
        }
        self.store_signed.set(i64::from(resolver.is_store_signed()));
        self.distrusted_entries.set(i64::try_from(resolver.distrusted_entries()).unwrap_or(i64::MAX));
        if let Some(control) = &self.log {
            self.dropped_lines.set(i64::try_from(control.dropped.dropped_lines()).unwrap_or(i64::MAX));
        }
        if let Some(fleet) = self.fleet.get() {
            fleet.refresh();
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}

fn registered<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

fn millis(elapsed: Duration) -> f64 {
    elapsed.as_secs_f64() * 1000.0
}

fn log_allowed(policy: &Policy, allow: &Allow<'_>, request: &Attributes<'_>, elapsed: Duration) {
    let permit = allow.permit();
    tracing::info!(
        decision = "allow",
        route = &*permit.route().name,
        subject = allow.logged_subject(),
        key_id = permit.principal().and_then(Principal::key_id),
        project = permit.logged_project(&policy.planes),
        workload = permit.logged_workload(&policy.planes),
        client_ip = cut(policy.client_ip.of(request)),
        method = redact::method(request.method),
        endpoint = allow.endpoint(),
        cache_tier = allow.trace().principal.map(Tier::as_str),
        request_id = request.request_id().map(|id| redact::text(&policy.planes, id)),
        duration_ms = millis(elapsed),
        "check"
    );
}

fn log_denied(policy: &Policy, deny: &Deny<'_>, route: &str, request: &Attributes<'_>, elapsed: Duration) {
    let trace = deny.trace();
    tracing::info!(
        decision = "deny",
        reason = deny.denial.as_str(),
        status = deny.status,
        route,
        subject = deny.logged_subject().as_deref(),
        key_id = deny.known_key_id(),
        presented_key_id = deny.presented_key_id(),
        client_ip = cut(policy.client_ip.of(request)),
        method = redact::method(request.method),
        endpoint = deny.endpoint(),
        cache_tier = trace.principal.map(Tier::as_str),
        request_id = request.request_id().map(|id| redact::text(&policy.planes, id)),
        duration_ms = millis(elapsed),
        "check"
    );
}

fn cut(text: &str) -> &str {
    match text.char_indices().find(|(at, char)| at + char.len_utf8() > MAX_LOGGED) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}
