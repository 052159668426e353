//! What replicas and their store tell each other. Never says anything about a request.

use std::time::Duration;

use super::change::{Event, Head, Position};
use super::time::Timestamp;

/// What a replica says of itself with each renewal of its lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Another one for each process: names of hosts hide those that came back.
    pub id: String,
    /// Of the host, for people.
    pub name: String,
    /// Up to where it has applied the log.
    pub position: Position,
    /// Counts its renewals.
    pub beat: u64,
    pub state: MemberState,
    /// Since when it has been in this state, by its own clock.
    pub since: Timestamp,
    /// The longest time that any of its planes goes on without the store.
    pub grace: Duration,
    /// The version of Tollgate.
    pub version: String,
    /// The highest format of the store that it can write.
    pub format: u64,
}

/// How a replica stands to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberState {
    /// No connection: what is asked is loaded for each request, or refused.
    Detached,
    /// Connected, and behind the head.
    Syncing,
    /// At the head, under a lease.
    Attached,
    /// The store has lost its head: everything is refused until an operator has said what happened.
    Sealed,
}

impl MemberState {
    pub const ALL: [Self; 4] = [Self::Detached, Self::Syncing, Self::Attached, Self::Sealed];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Detached => "detached",
            Self::Syncing => "syncing",
            Self::Attached => "attached",
            Self::Sealed => "sealed",
        }
    }
}

/// One entry of the log, and the place behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    pub position: Position,
    pub event: Event,
}

/// What the store answers to a renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal {
    /// There is no head: the store is empty, or was emptied.
    Lost,
    /// The replica's position is not in this store's log: it must begin anew at the head.
    Resync(Head),
    /// The position is in the log, and these entries, a bounded number of them, follow it.
    Ahead { head: Head, entries: Vec<LogEntry> },
}
