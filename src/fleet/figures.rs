//! What is counted about this replica's place in the fleet. Never read by a rule.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crate::domain::fleet::MemberState;
use crate::domain::time::Moment;

#[derive(Debug, Default)]
pub struct Figures {
    state: AtomicUsize,
    behind: AtomicU64,
    leased_at: AtomicU64,
    leases: AtomicU64,
    resyncs: AtomicU64,
    reconnects: AtomicU64,
    panics: AtomicU64,
}

/// The counts since the start, of one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Changes of the store that were heard of and not applied.
    pub behind: u64,
    pub leases: u64,
    /// How often it went over to another history, the first one included.
    pub resyncs: u64,
    /// How often a connection was lost or refused.
    pub reconnects: u64,
    pub panics: u64,
}

impl Figures {
    pub fn state(&self) -> MemberState {
        MemberState::ALL.get(self.state.load(Ordering::Relaxed)).copied().unwrap_or(MemberState::Detached)
    }

    /// When the last lease was granted.
    pub fn leased_at(&self) -> Moment {
        Moment::from_millis(self.leased_at.load(Ordering::Relaxed))
    }

    pub fn counts(&self) -> Counts {
        Counts {
            behind: self.behind.load(Ordering::Relaxed),
            leases: self.leases.load(Ordering::Relaxed),
            resyncs: self.resyncs.load(Ordering::Relaxed),
            reconnects: self.reconnects.load(Ordering::Relaxed),
            panics: self.panics.load(Ordering::Relaxed),
        }
    }

    pub(super) fn note_state(&self, state: MemberState, behind: u64) {
        let place = MemberState::ALL.iter().position(|known| *known == state).unwrap_or_default();
        self.state.store(place, Ordering::Relaxed);
        self.behind.store(behind, Ordering::Relaxed);
    }

    pub(super) fn note_lease(&self, now: Moment) {
        self.leased_at.store(now.as_millis(), Ordering::Relaxed);
        self.leases.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_resync(&self) {
        self.resyncs.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_reconnect(&self) {
        self.reconnects.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn note_panic(&self) {
        self.panics.fetch_add(1, Ordering::Relaxed);
    }
}
