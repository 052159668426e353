//! What is told of a fleet: its replicas, and which of them have confirmed a change. Plain values; never asks anybody itself.

use std::time::Duration;

use tollgate_guard::protocol::MemberState;
use tollgate_guard::time::Timestamp;

use crate::store::redis::survey::Finding;

/// Everybody who answers checks from one store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FleetView {
    /// How soon a change counts everywhere, as the store's configuration really gives it: `sole`, `bounded (1 s)`,
    /// `bounded except failover (why)`, `unknown (why)`.
    pub level: String,
    /// What an operator should know of the store's server.
    pub findings: Vec<Finding>,
    /// The number of the newest change.
    pub head: u64,
    /// By name, and then by id.
    pub replicas: Vec<ReplicaView>,
}

/// One process, as whoever was asked sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaView {
    pub replica: Replica,
    /// Whether it is the one that was asked.
    pub is_asked: bool,
    pub version: String,
    pub standing: ReplicaStatus,
    pub since: Timestamp,
    /// The number of the newest change that it has applied.
    pub position: u64,
    /// How long its lease goes on at most; `None`: it has none, or needs none.
    pub lease: Option<Duration>,
    /// The highest format of the store that it can write.
    pub format: u64,
}

/// Names one process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Another one for each process: names of hosts hide those that came back.
    pub id: String,
    /// Of the host, for people.
    pub name: String,
    /// The longest time that it goes on without the store; zero: not at all.
    pub grace: Duration,
}

/// How a replica stands to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplicaStatus {
    /// It owns the store, and nobody else answers from it.
    Sole,
    /// What it said last, less than a lease ago.
    Member(MemberState),
    /// It has been silent for so long that it cannot hold a lease any more.
    Fenced,
}

impl ReplicaStatus {
    pub const ALL: [Self; 6] = [
        Self::Sole,
        Self::Member(MemberState::ALL[0]),
        Self::Member(MemberState::ALL[1]),
        Self::Member(MemberState::ALL[2]),
        Self::Member(MemberState::ALL[3]),
        Self::Fenced,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sole => "sole",
            Self::Member(state) => state.as_str(),
            Self::Fenced => "fenced",
        }
    }
}

/// How a wait for a change ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Waited {
    Done(WaitReport),
    /// The store went over to another history meanwhile, in which the change may be missing: it is to be made again.
    StartOver,
}

/// Who has confirmed a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WaitReport {
    /// As [`FleetView::level`].
    pub level: String,
    /// The number of the change.
    pub sequence: u64,
    /// How many have applied it.
    pub confirmed: usize,
    /// Those that were silent for so long that they cannot allow anything any more.
    pub fenced: Vec<Replica>,
    /// Those that may still act on what was before: they are heard of and have not applied the change, or have a grace, also
    /// when they are silent.
    pub lagging: Vec<Replica>,
}
