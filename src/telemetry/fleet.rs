//! The metrics of a replica in a fleet: how it stands to the store, how far behind it is, and what the fleet shares. Never a
//! replica's id in a label: there is no end to them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};
use tollgate_guard::protocol::MemberState;

use super::registered;
use crate::domain::change::Endings;
use crate::fleet::handle::Fleet;
use crate::resolve::Resolver;
use crate::resolve::l2::L2;

/// Read when the metrics are.
pub(super) struct FleetMetrics {
    fleet: Fleet,
    endings: Arc<Endings>,
    l2: Option<L2>,
    level: IntGaugeVec,
    state: IntGaugeVec,
    lag: IntGauge,
    unwritten: IntGauge,
    counts: IntGaugeVec,
    shared: IntGaugeVec,
}

impl FleetMetrics {
    /// # Errors
    /// If a metric's name is not one, or there is one of its name.
    pub(super) fn new(registry: &Registry, fleet: Fleet, resolver: &Resolver) -> Result<Self, prometheus::Error> {
        let gauges =
            |name, help, labels: &[&str]| registered(registry, IntGaugeVec::new(Opts::new(name, help), labels)?);
        let level =
            gauges("tollgate_fleet_level_info", "What the store's server guarantees of revocations.", &["level"])?;
        let lag = "Changes in the store's log that this replica had not applied at its last renewal.";
        let unwritten = "1 while this replica's position cannot be written to its file (`fleet.position`).";
        Ok(Self {
            level,
            unwritten: registered(registry, IntGauge::new("tollgate_fleet_position_unwritten", unwritten)?)?,
            state: gauges("tollgate_fleet_state", "1 for the state that this replica is in.", &["state"])?,
            lag: registered(registry, IntGauge::new("tollgate_fleet_lag_changes", lag)?)?,
            counts: gauges(
                "tollgate_fleet_events",
                "Since the start: renewals asked for, leases granted, changes applied, histories gone over to, connections \
                 begun anew, and times that the store was found to have lost a revocation.",
                &["event"],
            )?,
            shared: gauges(
                "tollgate_shared_cache_requests",
                "Questions to the fleet's shared cache since the start, by outcome.",
                &["outcome"],
            )?,
            endings: Arc::clone(resolver.endings()),
            l2: resolver.l2(),
            fleet,
        })
    }

    pub(super) fn refresh(&self) {
        let figures = self.fleet.figures();
        self.level.reset();
        self.level.with_label_values(&[self.fleet.level().as_str()]).set(1);
        let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        for state in MemberState::ALL {
            self.state.with_label_values(&[state.as_str()]).set(i64::from(state == figures.state()));
        }
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        self.lag.set(signed(read(&figures.lag)));
        self.unwritten.set(i64::from(figures.is_forgetful.load(Ordering::Relaxed)));
        for (event, count) in [
            ("renewal", read(&figures.renewals)),
            ("lease", read(&figures.leases)),
            ("change", read(&figures.events)),
            ("resync", read(&figures.resyncs)),
            ("reconnect", read(&figures.failures)),
            ("contradiction", self.endings.contradictions()),
        ] {
            self.counts.with_label_values(&[event]).set(signed(count));
        }
        let Some(stats) = self.l2.as_ref().map(L2::stats) else { return };
        for (outcome, count) in [("hit", stats.hits), ("miss", stats.misses), ("failed", stats.failures)] {
            self.shared.with_label_values(&[outcome]).set(signed(count));
        }
    }
}
