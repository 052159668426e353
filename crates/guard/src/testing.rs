//! Clocks for tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::time::{Moment, MonotonicClock};

/// Set by hand: milliseconds.
#[derive(Debug)]
pub struct SetClock(pub Arc<AtomicU64>);

impl MonotonicClock for SetClock {
    fn moment(&self) -> Moment {
        Moment::from_millis(self.0.load(Ordering::SeqCst))
    }
}

/// Begins an hour after its zero.
#[derive(Debug)]
pub struct RunningClock(Instant);

impl Default for RunningClock {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl MonotonicClock for RunningClock {
    fn moment(&self) -> Moment {
        let since = u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX);
        Moment::from_millis(since.saturating_add(3_600_000))
    }
}
