//! One replica's side of the protocol, as a state machine: what happened goes in, what is to be done comes out. Knows no
//! clock and no socket, never grants a lease for anything but the very head of the log, and never follows a store that went
//! back where no failover explains it.

use std::mem;
use std::time::Duration;

use crate::GUARD;
use crate::ending::Ending;
use crate::endings::Endings;
use crate::protocol::{
    Head, LogEntry, Loss, Member, MemberState, Position, Refused, Remembered, Renewal, Term, ToleratedLoss,
};
use crate::stamps::Stamps;
use crate::time::{Moment, Timestamp};

/// Connections are tried anew after a random time between these; the longest one doubles with each failure.
const RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(1);
/// How long after a store was found to have gone back a failover may become known that explains it: Sentinels tell each other
/// every two seconds.
const LATEST_EXPLANATION: Duration = Duration::from_secs(10);
/// How long before that it may have become known: not every Sentinel names the new primary as soon as one counts the failover.
const EARLIEST_EXPLANATION: Duration = Duration::from_secs(30);
/// How many lineages that were left are remembered.
const MOST_LEFT: usize = 16;

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input<E> {
    /// There is a connection to the primary.
    Connected,
    /// Anything that was asked of the store failed, or took too long.
    Failed,
    /// The answer to [`Action::Renew`], and the moment before it was **sent**.
    Renewed { sent: Moment, renewal: Renewal<E> },
    /// [`Action::Listen`] ended, be it because time was up.
    Rang,
}

/// When it happened, and what cannot be computed.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    pub moment: Moment,
    pub time: Timestamp,
    /// Any random number, so that a fleet does not return all at once.
    pub random: u64,
    /// By what the store may have gone back.
    pub term: Term,
    /// The number of the newest change of the history that is followed which the store has acknowledged to this process, as it was
    /// before the renewal was sent; or 0. The store was asked for it with the renewal.
    pub acknowledged: u64,
}

/// What is to be done, in this order. Each input leads to exactly one of `Connect`, `Renew` and `Listen`, as the last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action<E> {
    /// Drop the connection, if there is one, and make another one after this time.
    Connect {
        after: Duration,
    },
    /// Look for the primary anew before the next load is sent.
    DropLoads,
    /// Send a renewal. With `settle` its answer counts only when every replica of the store has it, as far as they can be
    /// asked: so that a failover does not forget a member that holds a lease.
    Renew {
        member: Member,
        settle: bool,
    },
    Apply(LogEntry<E>),
    Adopt(Head),
    /// Tell people why the store is followed though it has lost something.
    Tell(ToleratedLoss),
    Lease(Moment),
    /// Refuse everything, for this reason.
    Seal(Loss),
    Unseal,
    /// Wait for an entry behind this one, but not for long.
    Listen {
        after: u64,
    },
}

impl<E: Ending> Action<E> {
    /// Does what concerns the guard of the cache; the rest is up to whoever has the connection.
    pub fn carry_out(&self, stamps: &Stamps, endings: &Endings<E>) {
        match self {
            Self::Apply(LogEntry { position, event }) => {
                // First, so that no load that was stamped after this change can find it forgotten.
                endings.hear(position, &event.ended);
                stamps.apply(position.sequence, &event.touched);
            }
            Self::Adopt(head) => {
                endings.join(&head.position);
                stamps.adopt(head.position.sequence);
            }
            Self::Lease(until) => stamps.grant(*until),
            Self::Seal(_) => stamps.seal(),
            Self::Unseal => stamps.unseal(),
            Self::Connect { .. } | Self::DropLoads | Self::Renew { .. } | Self::Listen { .. } | Self::Tell(_) => {}
        }
    }
}

/// Who a replica is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Another one for each process.
    pub id: String,
    pub name: String,
    pub grace: Duration,
    pub version: String,
    /// The highest format of the store that it can write.
    pub format: u64,
}

/// How a replica stands, for whoever waits for a change to arrive everywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LeaseHistory {
    /// Since when it has held its leases from one primary without a break.
    pub attached_since: Option<Moment>,
    /// Counts the histories that it went over to.
    pub lineages: u64,
    /// Up to where it has applied the log.
    pub applied: u64,
}

/// How a replica stands to the store.
#[derive(Debug)]
pub struct Channel {
    /// As it is told to others.
    own: Member,
    lineage: Option<String>,
    lineages: u64,
    /// Lineages that were followed before this one.
    left: Vec<String>,
    /// Whether the lineage is followed, and not merely remembered from another process.
    has_joined: bool,
    /// By what the store may have gone back: as of the last lease, if there was one, and as of the connection there is.
    term: Option<Term>,
    connected: Term,
    /// The one that has explained a change of histories, or came with it; and when a higher one came that has not, or a first one.
    explained: Option<Term>,
    risen_at: Option<Moment>,
    sealed: bool,
    /// Why, as it was told last.
    loss: Option<Loss>,
    /// Since when the store is known to have gone back.
    gone_since: Option<Moment>,
    /// The lineage that it had then, once no failover can explain it any more.
    refused: Option<String>,
    /// Whether the store's replicas know of this member, too.
    settled: bool,
    leased_until: Moment,
    attached_since: Option<Moment>,
    failures: u32,
}

impl Channel {
    /// A new one for a replica that had one before counts its histories on from there.
    pub fn new(identity: Identity, lineages: u64, since: Timestamp) -> Self {
        let Identity { id, name, grace, version, format } = identity;
        let position = Position { sequence: 0, chain: String::new() };
        let own = Member { id, name, position, beat: 0, state: MemberState::Detached, since, grace, version, format };
        Self {
            own,
            lineage: None,
            lineages,
            left: Vec::new(),
            has_joined: false,
            term: None,
            connected: Term::Fixed,
            explained: None,
            risen_at: None,
            sealed: false,
            loss: None,
            gone_since: None,
            refused: None,
            settled: false,
            leased_until: Moment::default(),
            attached_since: None,
            failures: 0,
        }
    }

    /// One for a replica that may be sealed already, and is to be unsealed with its first history.
    pub fn still_sealed(self, sealed: bool) -> Self {
        Self { sealed, ..self }
    }

    /// One for a replica that has followed a history before, and must find it again.
    pub fn remembering(mut self, remembered: Option<Remembered>) -> Self {
        if let Some(Remembered { place, term, left }) = remembered {
            self.own.position = place.position;
            self.lineage = Some(place.lineage);
            self.term = Some(term);
            self.left = left;
        }
        self
    }

    /// One that has been told which lineages its store had before: it need not have followed them to know that they are over.
    pub fn having_left(mut self, former: Vec<String>) -> Self {
        let is_new = |lineage: &String| self.lineage.as_ref() != Some(lineage) && !self.left.contains(lineage);
        let new: Vec<String> = former.into_iter().filter(is_new).collect();
        self.left.splice(..0, new);
        self
    }

    /// What must not be lost; `None` before the first lease.
    pub fn remembered(&self) -> Option<Remembered> {
        let place = Head { lineage: self.lineage.clone()?, position: self.own.position.clone() };
        Some(Remembered { place, term: self.term?, left: self.left.clone() })
    }

    /// What all the others are to be told of.
    pub fn refused(&self) -> Option<Refused> {
        let known = Head { lineage: self.lineage.clone()?, position: self.own.position.clone() };
        Some(Refused { lineage: self.refused.clone()?, known })
    }

    /// The history that is followed.
    pub fn lineage(&self) -> Option<&str> {
        self.lineage.as_deref()
    }

    /// This replica as the others see it.
    pub fn own(&self) -> &Member {
        &self.own
    }

    pub fn standing(&self) -> LeaseHistory {
        LeaseHistory {
            attached_since: self.attached_since,
            lineages: self.lineages,
            applied: self.own.position.sequence,
        }
    }

    pub fn take<E>(&mut self, now: &Now, input: Input<E>) -> Vec<Action<E>> {
        match input {
            Input::Connected => {
                self.turn(now, MemberState::Syncing);
                self.settled = false;
                self.connected = now.term;
                vec![self.renew()]
            }
            Input::Failed => self.fail(now),
            Input::Renewed { sent, renewal } => match self.loss(now, &renewal) {
                Some(loss) if !self.explains(now, &loss) => self.seal(now, loss, &renewal),
                explained => self.go_on(now, sent, renewal, explained),
            },
            Input::Rang => vec![self.renew()],
        }
    }

    /// What an answer shows to be lost.
    fn loss<E>(&self, now: &Now, renewal: &Renewal<E>) -> Option<Loss> {
        let (head, is_gone) = match renewal {
            Renewal::Lost => return Some(Loss::Head),
            Renewal::Short { head, log } => return Some(Loss::Log { head: head.position.sequence, log: *log }),
            Renewal::Missed { head, known } => {
                return Some(Loss::Told { known: *known, head: head.position.sequence });
            }
            Renewal::Gone(head) => (head, true),
            Renewal::Resync(head) | Renewal::Ahead { head, .. } => (head, false),
        };
        let newest = head.position.sequence;
        if self.lineage.as_ref()? != &head.lineage {
            let lineage = head.lineage.clone();
            return self.left.contains(&lineage).then_some(Loss::Left { lineage });
        }
        let known = self.own.position.sequence.max(now.acknowledged);
        is_gone.then(|| match self.term {
            Some(before) if now.term.is_behind(before) => Loss::Uncounted { known, head: newest },
            _ => Loss::Changes { known, head: newest },
        })
    }

    /// Whether a failover explains it.
    fn explains(&self, now: &Now, loss: &Loss) -> bool {
        let may_be_its = matches!(loss, Loss::Changes { .. } | Loss::Uncounted { .. } | Loss::Left { .. });
        may_be_its && !self.is_late(now) && self.is_explained(now)
    }

    /// Whether no failover can become known any more that explains it.
    fn is_late(&self, now: &Now) -> bool {
        self.gone_since.is_some_and(|since| now.moment.since(since) > LATEST_EXPLANATION)
    }

    /// Whether there may have been a failover since the last lease. Before the first one it may have followed a primary that was
    /// deposed already, where there are several.
    fn is_explained(&self, now: &Now) -> bool {
        match self.term {
            Some(before) => now.term.explains(before) || self.has_risen(now),
            None => now.term == Term::Managed || now.term.is_counted(),
        }
    }

    /// Whether a failover was heard of shortly before that has explained nothing yet: the primary that was found then may have been
    /// the deposed one.
    fn has_risen(&self, now: &Now) -> bool {
        self.risen_at.is_some_and(|at| now.moment.since(at) <= EARLIEST_EXPLANATION)
    }

    /// Whether there was a failover since the primary was looked for, which may be another one by now.
    fn is_overtaken(&self, now: &Now) -> bool {
        now.term != self.connected && now.term.explains(self.connected)
    }

    /// With what is no loss, or is explained.
    fn go_on<E>(&mut self, now: &Now, sent: Moment, renewal: Renewal<E>, explained: Option<Loss>) -> Vec<Action<E>> {
        let (head, entries) = match renewal {
            Renewal::Lost | Renewal::Short { .. } | Renewal::Missed { .. } => return self.fail(now),
            Renewal::Resync(head) | Renewal::Gone(head) => return self.adopt(now, head, explained),
            Renewal::Ahead { head, entries } => (head, entries),
        };
        // The same place in another history: two of them can be alike while both are empty.
        let is_another = self.lineage.as_ref() != Some(&head.lineage);
        if self.sealed || !self.has_joined || is_another {
            self.adopt(now, head, explained)
        } else if !self.is_overtaken(now) && follows(&self.own.position, &entries, &head) {
            self.follow(now, sent, &head, entries)
        } else {
            self.fail(now)
        }
    }

    fn follow<E>(&mut self, now: &Now, sent: Moment, head: &Head, entries: Vec<LogEntry<E>>) -> Vec<Action<E>> {
        // The others learn of it by the next renewal.
        let tell = !entries.is_empty();
        self.settled = true;
        if let Some(last) = entries.last() {
            self.own.position = last.position.clone();
        }
        let mut actions: Vec<_> = entries.into_iter().map(Action::Apply).collect();
        if self.own.position == head.position {
            actions.push(self.lease(now, sent));
        } else {
            self.turn(now, MemberState::Syncing);
        }
        actions.push(if tell { self.renew() } else { Action::Listen { after: head.position.sequence } });
        actions
    }

    /// Whatever was changed before the renewal was sent has been applied.
    fn lease<E>(&mut self, now: &Now, sent: Moment) -> Action<E> {
        if now.moment >= self.leased_until {
            self.attached_since = None;
        }
        // From now and not from `sent`: this server may have become the primary in between.
        self.attached_since.get_or_insert(now.moment);
        self.leased_until = self.leased_until.max(sent.plus(GUARD));
        self.failures = 0;
        // A first one may have risen just now: the primary that was found may be the deposed one.
        let known = self.term.filter(|before| *before != Term::Untold);
        let is_new = known.map_or(self.connected.is_counted(), |before| self.connected.explains(before));
        if is_new && self.explained != Some(self.connected) {
            self.risen_at = Some(now.moment);
        }
        if known.is_none() || self.connected != Term::Untold {
            self.term = Some(self.connected);
        }
        self.turn(now, MemberState::Attached);
        Action::Lease(sent.plus(GUARD))
    }

    /// No lease before the next renewal has confirmed the new position.
    fn adopt<E>(&mut self, now: &Now, head: Head, explained: Option<Loss>) -> Vec<Action<E>> {
        self.lineages += 1;
        let has_begun = mem::replace(&mut self.has_joined, true);
        match self.lineage.replace(head.lineage.clone()) {
            Some(former) if former != head.lineage => {
                self.left.retain(|left| left != &head.lineage && left != &former);
                self.left.push(former);
                self.left.drain(..self.left.len().saturating_sub(MOST_LEFT));
            }
            _ => {}
        }
        (self.gone_since, self.refused, self.loss) = (None, None, None);
        // Who has only begun with a history has needed no reason for that.
        if has_begun || explained.is_some() {
            (self.explained, self.risen_at) = (Some(now.term), None);
        }
        self.own.position = head.position.clone();
        self.attached_since = None;
        self.settled = false;
        // Nobody else may be believed who has been asked before.
        let mut actions = vec![Action::DropLoads, Action::Adopt(head)];
        let told = explained.map(|loss| ToleratedLoss { loss, before: self.term, now: now.term });
        actions.extend(told.map(Action::Tell));
        if mem::take(&mut self.sealed) {
            actions.push(Action::Unseal);
        }
        self.turn(now, MemberState::Syncing);
        // A failover that became known over this connection may be later than what it has told.
        let is_known = now.term == self.connected;
        actions.push(if is_known { self.renew() } else { Action::Connect { after: RETRY } });
        actions
    }

    fn seal<E>(&mut self, now: &Now, loss: Loss, renewal: &Renewal<E>) -> Vec<Action<E>> {
        let was_sealed = mem::replace(&mut self.sealed, true);
        let is_known = |known: &Loss| mem::discriminant(known) == mem::discriminant(&loss);
        let is_told = was_sealed && self.loss.as_ref().is_some_and(is_known);
        if matches!(loss, Loss::Changes { .. } | Loss::Uncounted { .. } | Loss::Left { .. }) {
            self.gone_since.get_or_insert(now.moment);
            // Of a history that was left the others know as well; and whoever has looked at another store alone misses nothing here.
            let is_missed = !matches!(loss, Loss::Left { .. });
            let is_final = is_missed && (now.term == Term::Fixed || self.is_late(now));
            self.refused = renewal.head().filter(|_| is_final).map(|head| head.lineage.clone());
        }
        self.attached_since = None;
        self.turn(now, MemberState::Sealed);
        // What is in the log already would ring at once, over and over.
        let newest = renewal.head().map_or(0, |head| head.position.sequence);
        let listen = Action::Listen { after: self.own.position.sequence.max(newest) };
        if is_told {
            return vec![listen];
        }
        self.loss = Some(loss.clone());
        vec![Action::Seal(loss), listen]
    }

    fn fail<E>(&mut self, now: &Now) -> Vec<Action<E>> {
        self.attached_since = None;
        self.turn(now, MemberState::Detached);
        let longest = RETRY.saturating_mul(2 << self.failures.min(8)).min(LONGEST_RETRY);
        self.failures = self.failures.saturating_add(1);
        let spread = u64::try_from((longest - RETRY).as_millis()).unwrap_or(u64::MAX);
        let after = RETRY + Duration::from_millis(now.random % (spread + 1));
        vec![Action::DropLoads, Action::Connect { after }]
    }

    fn renew<E>(&mut self) -> Action<E> {
        self.own.beat += 1;
        Action::Renew { member: self.own.clone(), settle: !self.settled }
    }

    /// A seal outlasts connections.
    fn turn(&mut self, now: &Now, state: MemberState) {
        let state = if self.sealed { MemberState::Sealed } else { state };
        if self.own.state != state {
            self.own.state = state;
            self.own.since = now.time;
        }
    }
}

/// Whether these are the next entries behind a position, one by one, and lead towards the head.
fn follows<E>(position: &Position, entries: &[LogEntry<E>], head: &Head) -> bool {
    let numbers = entries.iter().map(|entry| entry.position.sequence);
    let reached = entries.last().map_or(position, |last| &last.position);
    let is_at_head = reached == &head.position;
    let is_on_the_way = !entries.is_empty() && reached.sequence < head.position.sequence;
    numbers.eq((position.sequence + 1..).take(entries.len())) && (is_at_head || is_on_the_way)
}

#[cfg(test)]
mod tests;
