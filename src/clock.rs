//! The wall clock as a value, so that whoever needs the time is given it. Never read inside a rule.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tollgate_guard::time::{Moment, MonotonicClock, Timestamp};

/// Where `now` comes from.
#[derive(Clone, Debug)]
pub enum Clock {
    System,
    /// Set by hand, for tests and for `explain --at`: milliseconds since the Unix epoch.
    Manual(Arc<AtomicU64>),
    /// As [`Clock::Manual`], with a time of its own for [`Clock::moment`], for tests in which somebody sets the wall clock.
    Apart {
        wall: Arc<AtomicU64>,
        moment: Arc<AtomicU64>,
    },
    /// Asked of a function, for a test that must act between two steps of a decision.
    Asked(Ask),
}

/// What is called whenever somebody wants to know the time.
#[derive(Clone)]
pub struct Ask(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Ask {
    pub fn new(time: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(time))
    }
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ask")
    }
}

impl Clock {
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => {
                let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                Timestamp::from_millis(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
            }
            Self::Manual(millis) | Self::Apart { wall: millis, .. } => {
                Timestamp::from_millis(millis.load(Ordering::Relaxed))
            }
            Self::Asked(ask) => (ask.0)(),
        }
    }

    /// The clock for leases: it never steps. By hand it is the same number as [`Clock::now`]; nobody is asked
    /// for it.
    pub fn moment(&self) -> Moment {
        match self {
            Self::System | Self::Asked(_) => {
                // CLOCK_BOOTTIME counts the time that the machine was suspended, too: a lease ends in its sleep.
                let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
                let millis = now.tv_sec.saturating_mul(1000).saturating_add(now.tv_nsec / 1_000_000);
                Moment::from_millis(u64::try_from(millis).unwrap_or_default())
            }
            Self::Manual(millis) | Self::Apart { moment: millis, .. } => {
                Moment::from_millis(millis.load(Ordering::SeqCst))
            }
        }
    }
}

impl MonotonicClock for Clock {
    fn moment(&self) -> Moment {
        self.moment()
    }
}
