//! What replicas and their store tell each other. Never says anything about a request.

use std::fmt;
use std::time::Duration;

use crate::ending::Ending;
use crate::slots::{Slots, Touched};
use crate::time::Timestamp;

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

/// The replicas of a store, as far as it still lists them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    pub members: Vec<Member>,
    /// Those that have been counted and are not listed: the list was lost.
    pub unlisted: Option<Unlisted>,
}

/// Replicas of which nothing is known but that they were there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unlisted {
    pub count: u64,
    /// For how long the last one with a grace could go on without the store, and that grace.
    pub still: Duration,
    pub grace: Duration,
}

/// What a replica knows of a store that it refuses for good: which lineage that has, and where the replica stood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    pub lineage: String,
    pub known: Head,
}

/// A place in the log: how many changes there were, and a hash over all of them, so that two histories with as many changes
/// are told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    pub sequence: u64,
    /// SHA-1 in hexadecimal over the chain of changes, made by the store.
    pub chain: String,
}

/// The end of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Given when the store was made, and anew whenever it is made again.
    pub lineage: String,
    pub position: Position,
}

/// What the log tells of a change: what it touched, and what it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<E> {
    pub touched: Touched,
    pub ended: Vec<E>,
}

impl<E> Event<E> {
    pub fn touching(touched: &[Slots]) -> Self {
        Self { touched: Touched::of(touched), ended: Vec::new() }
    }
}

impl<E: Ending> Event<E> {
    /// Touches all that depends on what was ended.
    pub fn ending(ended: Vec<E>) -> Self {
        let touched: Vec<Slots> = ended.iter().map(Ending::slots).collect();
        Self { touched: Touched::of(&touched), ended }
    }
}

/// One entry of the log that every replica follows, and the place behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry<E> {
    pub position: Position,
    pub event: Event<E>,
}

/// What the store answers to a renewal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Renewal<E> {
    /// There is no head: the store is empty, or was emptied.
    Lost,
    /// The log does not end where the head says: it ends with this number, or there is none.
    Short { head: Head, log: u64 },
    /// The replica's position lies before the log's beginning: it must begin anew at the head.
    Resync(Head),
    /// The replica's position, or the newest change that was acknowledged to it, should be in this store's log and is not: the
    /// store went back, or holds other changes.
    Gone(Head),
    /// Another replica has known this change of the store, and misses it.
    Missed { head: Head, known: u64 },
    /// The position is in the log, and these entries, a bounded number of them, follow it.
    Ahead { head: Head, entries: Vec<LogEntry<E>> },
}

impl<E> Renewal<E> {
    /// The end of the log, if there is one.
    pub fn head(&self) -> Option<&Head> {
        match self {
            Self::Lost => None,
            Self::Short { head, .. } | Self::Missed { head, .. } | Self::Ahead { head, .. } => Some(head),
            Self::Resync(head) | Self::Gone(head) => Some(head),
        }
    }
}

/// By what a store may have gone back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Term {
    /// By nothing that is known of.
    #[default]
    Fixed,
    /// By a failover, and nobody who counts them could be asked yet.
    Untold,
    /// By a service that makes another server the primary, and tells nobody.
    Managed,
    /// By a failover, after which the configuration epoch of Sentinel or the Cluster is a higher one.
    Epoch(u64),
}

impl Term {
    /// Whether there may have been a failover since it was `before`.
    pub fn explains(self, before: Self) -> bool {
        match (before, self) {
            (_, Self::Managed) => true,
            (Self::Epoch(before), Self::Epoch(now)) => now > before,
            _ => false,
        }
    }

    /// Whether somebody has said how many failovers there were.
    pub fn is_counted(self) -> bool {
        matches!(self, Self::Epoch(_))
    }

    /// Whether those who count the failovers have begun anew since, so that nobody can tell.
    pub fn is_behind(self, before: Self) -> bool {
        matches!((before, self), (Self::Epoch(before), Self::Epoch(now)) if now < before)
    }
}

/// What a replica knows of the history that it follows, and is to be remembered beyond its process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Up to where it has applied the log.
    pub place: Head,
    /// As of then.
    pub term: Term,
    /// Lineages that were followed before this one, the last one at the end.
    pub left: Vec<String>,
}

/// What a store has lost and a failover explains, so that it is followed all the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToleratedLoss {
    pub loss: Loss,
    /// As of the last lease before it.
    pub before: Option<Term>,
    pub now: Term,
}

impl fmt::Display for ToleratedLoss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.loss {
            Loss::Changes { known, head } | Loss::Uncounted { known, head } if head < known => {
                write!(
                    f,
                    "the store went back by {} changes: it has {head}, and {known} were known here",
                    known - head
                )?;
            }
            Loss::Changes { known, .. } | Loss::Uncounted { known, .. } => {
                write!(f, "the store went back: its change number {known} is another one than was known here")?;
            }
            loss => write!(f, "{loss}")?,
        }
        match (self.before, self.now) {
            (_, Term::Managed) => f.write_str("; explained by `store.redis.failover: managed`"),
            (Some(Term::Epoch(before)), Term::Epoch(now)) if before < now => {
                write!(f, "; explained by the failover from configuration epoch {before} to {now}")
            }
            (Some(_), _) => f.write_str("; explained by a failover that was heard of shortly before"),
            (None, _) => f.write_str("; explained by a failover as this process began"),
        }
    }
}

/// What is wrong with a store that nobody has said to be right. Everything is refused until somebody has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// It has no head.
    Head,
    /// Its log does not end where its head says.
    Log { head: u64, log: u64 },
    /// It ends before this change, which was applied or acknowledged here; or has another one under that number.
    Changes { known: u64, head: u64 },
    /// The same, and whether there was a failover cannot be told: those who count them have begun anew.
    Uncounted { known: u64, head: u64 },
    /// It ends before this change, which another replica has known.
    Told { known: u64, head: u64 },
    /// It holds a history that was left for another one.
    Left { lineage: String },
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head => f.write_str("the store has lost its head: it was emptied, or it is the wrong server"),
            Self::Log { head, log: 0 } => {
                write!(f, "the store says that it has {head} changes, and its log is missing")
            }
            Self::Log { head, log } => {
                write!(f, "the store says that it has {head} changes, and its log ends with number {log}")
            }
            Self::Changes { known, head } if head < known => write!(
                f,
                "the store went back without a failover: it has {head} changes, and {known} were known here, so that {} \
                 are missing",
                known - head
            ),
            Self::Changes { known, .. } => write!(
                f,
                "the store went back without a failover, and on from there: its change number {known} is another one than \
                 was known here"
            ),
            Self::Uncounted { known, head } => write!(
                f,
                "the store went back: it has {head} changes, and change number {known} was known here as it is not there. The \
                 configuration epoch is a lower one than it was, such as that of sentinels which were made anew, so that the \
                 two cannot be compared, and nobody can tell whether there was a failover"
            ),
            Self::Told { known, head } => write!(
                f,
                "the store went back without a failover: it has {head} changes, and another replica has known change number \
                 {known} as it is not there"
            ),
            Self::Left { lineage } => {
                write!(
                    f,
                    "the store holds the lineage {lineage}, which was left for another one: an older copy was put back"
                )
            }
        }
    }
}
