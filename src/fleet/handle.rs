//! This process's part in a fleet, as the rest of the process sees it: what it can ask the thread that follows the log, and how
//! things are there. Never touches the store itself.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{mpsc, oneshot, watch};
use tollgate_guard::FENCE;
use tollgate_guard::protocol::MemberState;

use super::report::{FleetView, Waited};
use crate::clock::Clock;
use crate::store::StoreError;

/// How long a replica listens at most before it renews its lease: a quarter of what a lease holds.
pub(super) const BELL: Duration = Duration::from_millis(200);

/// This process's part in a fleet. Cheap to clone.
#[derive(Clone)]
pub struct Fleet(Arc<Shared>);

struct Shared {
    requests: mpsc::UnboundedSender<Request>,
    level: Arc<ArcSwap<String>>,
    clock: Clock,
    position: watch::Receiver<u64>,
    figures: Arc<Figures>,
    lineages_seen: Arc<AtomicU64>,
}

/// What the thread that follows the log has of [`Fleet`].
pub(super) struct Ends {
    pub(super) requests: mpsc::UnboundedReceiver<Request>,
    pub(super) level: Arc<ArcSwap<String>>,
    pub(super) position: watch::Sender<u64>,
    pub(super) figures: Arc<Figures>,
    pub(super) lineages_seen: Arc<AtomicU64>,
}

/// Counts since the start, and how things are now.
#[derive(Debug, Default)]
pub struct Figures {
    /// Index into [`MemberState::ALL`].
    state: AtomicU64,
    pub renewals: AtomicU64,
    pub leases: AtomicU64,
    pub resyncs: AtomicU64,
    pub failures: AtomicU64,
    pub events: AtomicU64,
    /// How many changes there were that had not been applied, at the last renewal.
    pub lag: AtomicU64,
    /// Whether the position could not be written to its file.
    pub is_forgetful: AtomicBool,
}

impl Figures {
    pub fn state(&self) -> MemberState {
        let index = usize::try_from(self.state.load(Ordering::Relaxed)).unwrap_or_default();
        MemberState::ALL.get(index).copied().unwrap_or(MemberState::Detached)
    }

    pub(super) fn set_state(&self, state: MemberState) {
        let index = MemberState::ALL.iter().position(|known| *known == state).unwrap_or_default();
        self.state.store(index as u64, Ordering::Relaxed);
    }
}

/// What the thread that follows the log is asked.
pub(super) enum Request {
    Wait { sequence: u64, lineages: u64, limit: Duration, answer: oneshot::Sender<Waited> },
    View { answer: oneshot::Sender<Result<FleetView, StoreError>> },
    Leave { answer: oneshot::Sender<()> },
}

impl Fleet {
    /// A part that nobody drives yet, and what it is driven by.
    pub(super) fn new(level: String, clock: Clock) -> (Self, Ends) {
        let (requests, received) = mpsc::unbounded_channel();
        let (position, heard) = watch::channel(0);
        let level = Arc::new(ArcSwap::from_pointee(level));
        let (figures, lineages_seen) = (Arc::<Figures>::default(), Arc::<AtomicU64>::default());
        let shared = Shared {
            requests,
            level: Arc::clone(&level),
            clock,
            position: heard,
            figures: Arc::clone(&figures),
            lineages_seen: Arc::clone(&lineages_seen),
        };
        (Self(Arc::new(shared)), Ends { requests: received, level, position, figures, lineages_seen })
    }

    /// The number of the newest change that this replica has applied, as it rises.
    pub fn position(&self) -> watch::Receiver<u64> {
        self.0.position.clone()
    }

    pub fn figures(&self) -> &Figures {
        &self.0.figures
    }

    /// Counts the histories that this replica went over to. Read it before a change is made that is then waited for.
    pub fn lineages(&self) -> u64 {
        self.0.lineages_seen.load(Ordering::SeqCst)
    }

    /// Waits until every replica has applied a change, or cannot act against it any more, or until `limit` has passed.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if nobody could be asked.
    pub async fn wait(&self, sequence: u64, lineages: u64, limit: Duration) -> Result<Waited, StoreError> {
        let (answer, answered) = oneshot::channel();
        // With time for one more look at the end.
        let patience = limit.max(FENCE) + 2 * BELL;
        self.ask(Request::Wait { sequence, lineages, limit, answer }, patience, answered).await
    }

    /// # Errors
    /// [`StoreError::Unavailable`] if the store cannot be asked.
    pub async fn view(&self) -> Result<FleetView, StoreError> {
        let (answer, answered) = oneshot::channel();
        self.ask(Request::View { answer }, Duration::from_secs(2), answered).await?
    }

    /// Leaves the fleet, once nobody is answered any more.
    pub async fn leave(&self) {
        let (answer, answered) = oneshot::channel();
        if let Err(error) = self.ask(Request::Leave { answer }, Duration::from_secs(1), answered).await {
            tracing::warn!(%error, "the fleet was not told that this replica leaves: it is listed as silent for a while");
        }
    }

    async fn ask<T>(
        &self,
        request: Request,
        patience: Duration,
        answered: oneshot::Receiver<T>,
    ) -> Result<T, StoreError> {
        let unreachable = || StoreError::Unavailable("the store of the fleet cannot be reached now".to_owned());
        self.0.requests.send(request).map_err(|_| unreachable())?;
        match tokio::time::timeout(patience, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) | Err(_) => Err(unreachable()),
        }
    }

    /// What the store's configuration guarantees, in words.
    pub fn level(&self) -> Arc<String> {
        self.0.level.load_full()
    }

    /// The clock that leases are counted by.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }
}

impl fmt::Debug for Fleet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fleet({})", self.0.figures.state().as_str())
    }
}
