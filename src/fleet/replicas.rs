//! Asks who answers checks from this store, and waits for a change to reach them. Never changes a record.

use std::sync::Arc;
use std::time::Duration;

use tollgate_guard::time::Timestamp;

use super::handle::Fleet;
use super::report::{FleetView, Replica, ReplicaStatus, ReplicaView, WaitReport, Waited};
use crate::store::StoreError;
use crate::store::embedded::Embedded;
use crate::store::format::Format;

/// Everybody who answers checks from one store. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Replicas {
    Sole(Arc<Sole>),
    Fleet(Fleet),
    /// Answers to waits in their order, for tests of who asks.
    #[cfg(test)]
    Scripted(Arc<Script>),
}

/// A change that was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledged {
    pub sequence: u64,
    /// As [`Replicas::lineages`] before it was made.
    pub lineages: u64,
}

/// What is answered, the last one first, and what was asked. It has followed one history for each question.
#[cfg(test)]
#[derive(Debug, Default)]
pub struct Script {
    pub answers: std::sync::Mutex<Vec<Waited>>,
    pub asked: std::sync::Mutex<Vec<(Acknowledged, Duration)>>,
}

impl Replicas {
    /// The process that owns its store, since it opened it.
    pub fn sole(store: Arc<Embedded>, since: Timestamp) -> Self {
        Self::Sole(Arc::new(Sole::new(store, since)))
    }

    /// How many histories of the store this process has followed. Asked for before a change is made that is waited for.
    pub fn lineages(&self) -> u64 {
        match self {
            Self::Sole(_) => 1,
            Self::Fleet(fleet) => fleet.lineages(),
            #[cfg(test)]
            Self::Scripted(script) => script.lineages(),
        }
    }

    /// Waits until nobody can act any more on what was before a change, or until `limit` has passed.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if nobody could be asked.
    pub async fn wait(&self, change: Acknowledged, limit: Duration) -> Result<Waited, StoreError> {
        match self {
            Self::Sole(sole) => {
                // What is acknowledged counts here already, however long somebody would wait.
                let _ = limit;
                Ok(Waited::Done(sole.report(change.sequence)))
            }
            Self::Fleet(fleet) => fleet.wait(change.sequence, change.lineages, limit).await,
            #[cfg(test)]
            Self::Scripted(script) => script.wait(change, limit),
        }
    }

    /// Says that this process answers nobody any more.
    pub async fn leave(&self) {
        if let Self::Fleet(fleet) = self {
            fleet.leave().await;
        }
    }

    /// # Errors
    /// [`StoreError::Unavailable`] if nobody could be asked.
    pub async fn view(&self) -> Result<FleetView, StoreError> {
        match self {
            Self::Sole(sole) => sole.view().await,
            Self::Fleet(fleet) => fleet.view().await,
            #[cfg(test)]
            Self::Scripted(_) => Err(StoreError::Unavailable("nobody is there".to_owned())),
        }
    }
}

#[cfg(test)]
impl Script {
    fn lineages(&self) -> u64 {
        self.asked.lock().unwrap().len() as u64
    }

    fn wait(&self, change: Acknowledged, limit: Duration) -> Result<Waited, StoreError> {
        self.asked.lock().unwrap().push((change, limit));
        self.answers.lock().unwrap().pop().ok_or_else(|| StoreError::Unavailable("nobody is there".to_owned()))
    }
}

/// The process that owns its store.
#[derive(Debug)]
pub struct Sole {
    store: Arc<Embedded>,
    replica: Replica,
    since: Timestamp,
}

impl Sole {
    fn new(store: Arc<Embedded>, since: Timestamp) -> Self {
        let id = format!("{:x}", since.as_millis());
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        Self { store, replica: Replica { id, name, grace: Duration::ZERO }, since }
    }

    fn level() -> String {
        ReplicaStatus::Sole.as_str().to_owned()
    }

    fn report(&self, sequence: u64) -> WaitReport {
        WaitReport { level: Self::level(), sequence, confirmed: 1, fenced: Vec::new(), lagging: Vec::new() }
    }

    async fn view(&self) -> Result<FleetView, StoreError> {
        let store = Arc::clone(&self.store);
        let read = tokio::task::spawn_blocking(move || store.sequence()).await;
        let head = read.map_err(|error| StoreError::Unavailable(format!("the store's thread ended: {error}")))??;
        let asked = ReplicaView {
            replica: self.replica.clone(),
            is_asked: true,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            standing: ReplicaStatus::Sole,
            since: self.since,
            position: head,
            lease: None,
            format: Format::HIGHEST,
        };
        Ok(FleetView { level: Self::level(), findings: Vec::new(), head, replicas: vec![asked] })
    }
}
