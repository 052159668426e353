//! One replica's side of the protocol, as a state machine: what happened goes in, what is to be done comes out. Knows no
//! clock and no socket, and never grants a lease for anything but the very head of the log.

use std::time::Duration;

use super::GUARD;
use super::stamps::Stamps;
use super::sticky::Sticky;
use crate::domain::change::{Head, Position};
use crate::domain::fleet::{LogEntry, Member, MemberState, Renewal};
use crate::domain::time::{Moment, Timestamp};
use crate::store::format::Format;

/// Connections are tried anew after a random time between these; the longest one doubles with each failure.
const RETRY: Duration = Duration::from_millis(50);
const LONGEST_RETRY: Duration = Duration::from_secs(1);

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// There is a connection to the primary.
    Connected,
    /// Anything that was asked of the store failed, or took too long.
    Failed,
    /// The answer to [`Action::Renew`], and the moment before it was **sent**.
    Renewed { sent: Moment, renewal: Renewal },
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
}

/// What is to be done, in this order. Each input leads to exactly one of `Connect`, `Renew` and `Listen`, as the last one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
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
    Apply(LogEntry),
    Adopt(Head),
    Lease(Moment),
    Seal,
    Unseal,
    /// Wait for an entry behind this one, but not for long.
    Listen {
        after: u64,
    },
}

impl Action {
    /// Does what concerns the guard of the cache; the rest is up to whoever has the connection.
    pub fn carry_out(&self, stamps: &Stamps, sticky: &Sticky) {
        match self {
            Self::Apply(LogEntry { position, event }) => {
                // First, so that no load that was stamped after this change can find it forgotten.
                sticky.hear(position, &event.ended);
                stamps.apply(position.sequence, &event.touched);
            }
            Self::Adopt(head) => {
                sticky.join(&head.position);
                stamps.adopt(head.position.sequence);
            }
            Self::Lease(until) => stamps.grant(*until),
            Self::Seal => stamps.seal(),
            Self::Unseal => stamps.unseal(),
            Self::Connect { .. } | Self::DropLoads | Self::Renew { .. } | Self::Listen { .. } => {}
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
}

/// How a replica stands, for whoever waits for a change to arrive everywhere.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
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
    sealed: bool,
    /// Whether the store's replicas know of this member, too.
    settled: bool,
    leased_until: Moment,
    attached_since: Option<Moment>,
    failures: u32,
}

impl Channel {
    /// A new one for a replica that had one before counts its histories on from there.
    pub fn new(identity: Identity, lineages: u64, since: Timestamp) -> Self {
        let Identity { id, name, grace, version } = identity;
        let position = Position { sequence: 0, chain: String::new() };
        let format = Format::HIGHEST;
        let own = Member { id, name, position, beat: 0, state: MemberState::Detached, since, grace, version, format };
        Self {
            own,
            lineage: None,
            lineages,
            sealed: false,
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

    /// This replica as the others see it.
    pub fn own(&self) -> &Member {
        &self.own
    }

    pub fn standing(&self) -> Standing {
        Standing { attached_since: self.attached_since, lineages: self.lineages, applied: self.own.position.sequence }
    }

    pub fn take(&mut self, now: &Now, input: Input) -> Vec<Action> {
        match input {
            Input::Connected => {
                self.turn(now, MemberState::Syncing);
                self.settled = false;
                vec![self.renew()]
            }
            Input::Failed => self.fail(now),
            Input::Renewed { renewal: Renewal::Lost, .. } => self.seal(now),
            Input::Renewed { renewal: Renewal::Resync(head), .. } => self.adopt(now, head),
            // The same place in another history: two of them can be alike while both are empty.
            Input::Renewed { renewal: Renewal::Ahead { head, .. }, .. }
                if self.sealed || self.lineage.as_ref() != Some(&head.lineage) =>
            {
                self.adopt(now, head)
            }
            Input::Renewed { sent, renewal: Renewal::Ahead { head, entries } } => {
                if follows(&self.own.position, &entries, &head) {
                    self.follow(now, sent, &head, entries)
                } else {
                    self.fail(now)
                }
            }
            Input::Rang => vec![self.renew()],
        }
    }

    fn follow(&mut self, now: &Now, sent: Moment, head: &Head, entries: Vec<LogEntry>) -> Vec<Action> {
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
    fn lease(&mut self, now: &Now, sent: Moment) -> Action {
        if now.moment >= self.leased_until {
            self.attached_since = None;
        }
        // From now and not from `sent`: this server may have become the primary in between.
        self.attached_since.get_or_insert(now.moment);
        self.leased_until = self.leased_until.max(sent.plus(GUARD));
        self.failures = 0;
        self.turn(now, MemberState::Attached);
        Action::Lease(sent.plus(GUARD))
    }

    /// No lease before the next renewal has confirmed the new position.
    fn adopt(&mut self, now: &Now, head: Head) -> Vec<Action> {
        self.lineages += 1;
        self.lineage = Some(head.lineage.clone());
        self.own.position = head.position.clone();
        self.attached_since = None;
        self.settled = false;
        // Nobody else may be believed who has been asked before.
        let mut actions = vec![Action::DropLoads, Action::Adopt(head)];
        if std::mem::take(&mut self.sealed) {
            actions.push(Action::Unseal);
        }
        self.turn(now, MemberState::Syncing);
        actions.push(self.renew());
        actions
    }

    fn seal(&mut self, now: &Now) -> Vec<Action> {
        let was_sealed = std::mem::replace(&mut self.sealed, true);
        self.attached_since = None;
        self.turn(now, MemberState::Sealed);
        let listen = Action::Listen { after: self.own.position.sequence };
        if was_sealed { vec![listen] } else { vec![Action::Seal, listen] }
    }

    fn fail(&mut self, now: &Now) -> Vec<Action> {
        self.attached_since = None;
        self.turn(now, MemberState::Detached);
        let longest = RETRY.saturating_mul(2 << self.failures.min(8)).min(LONGEST_RETRY);
        self.failures = self.failures.saturating_add(1);
        let spread = u64::try_from((longest - RETRY).as_millis()).unwrap_or(u64::MAX);
        let after = RETRY + Duration::from_millis(now.random % (spread + 1));
        vec![Action::DropLoads, Action::Connect { after }]
    }

    fn renew(&mut self) -> Action {
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
fn follows(position: &Position, entries: &[LogEntry], head: &Head) -> bool {
    let numbers = entries.iter().map(|entry| entry.position.sequence);
    let reached = entries.last().map_or(position, |last| &last.position);
    let is_at_head = reached == &head.position;
    let is_on_the_way = !entries.is_empty() && reached.sequence < head.position.sequence;
    numbers.eq((position.sequence + 1..).take(entries.len())) && (is_at_head || is_on_the_way)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::change::{Event, Touched};

    fn now(millis: u64) -> Now {
        Now { moment: Moment::from_millis(millis), time: Timestamp::from_millis(millis), random: millis }
    }

    fn position(sequence: u64) -> Position {
        Position { sequence, chain: format!("h{sequence}") }
    }

    fn head(sequence: u64) -> Head {
        Head { lineage: "one".to_owned(), position: position(sequence) }
    }

    fn entry(sequence: u64) -> LogEntry {
        let event = Event { touched: Touched::Slots(vec![1]), ended: Vec::new() };
        LogEntry { position: position(sequence), event }
    }

    fn renewed(sent: u64, renewal: Renewal) -> Input {
        Input::Renewed { sent: Moment::from_millis(sent), renewal }
    }

    fn ahead(sequence: u64, entries: &[u64]) -> Renewal {
        Renewal::Ahead { head: head(sequence), entries: entries.iter().copied().map(entry).collect() }
    }

    /// Attached at entry 3 since 20, with a lease from 10.
    fn attached() -> Channel {
        let identity =
            Identity { id: "a".to_owned(), name: "a".to_owned(), grace: Duration::ZERO, version: "1".to_owned() };
        let mut channel = Channel::new(identity, 0, Timestamp::default());
        channel.take(&now(1), Input::Connected);
        channel.take(&now(5), renewed(1, Renewal::Resync(head(3))));
        assert_eq!(channel.own().state, MemberState::Syncing);
        let actions = channel.take(&now(20), renewed(10, ahead(3, &[])));
        assert_eq!(actions, [Action::Lease(Moment::from_millis(810)), Action::Listen { after: 3 }]);
        channel
    }

    #[test]
    fn a_lease_is_granted_at_the_head_alone_from_the_moment_of_sending() {
        let mut channel = attached();
        channel.take(&now(30), Input::Rang);
        let actions = channel.take(&now(90), renewed(40, ahead(6, &[4, 5])));
        assert_eq!(actions[..2], [4, 5].map(entry).map(Action::Apply));
        assert!(matches!(&actions[2..], [Action::Renew { settle: false, .. }]), "{actions:?}");
        assert_eq!(channel.own().state, MemberState::Syncing);
        let actions = channel.take(&now(120), renewed(100, ahead(6, &[6])));
        assert_eq!(actions[1], Action::Lease(Moment::from_millis(900)));
        assert!(matches!(&actions[2..], [Action::Renew { member, .. }] if member.position == position(6)));
        assert_eq!(channel.standing().attached_since, Some(Moment::from_millis(20)));
    }

    #[test]
    fn what_does_not_follow_is_a_failure() {
        let other = Head { position: Position { sequence: 4, chain: "other".to_owned() }, ..head(4) };
        let broken = [
            ahead(5, &[5]),
            ahead(6, &[4, 6]),
            ahead(5, &[5, 4]),
            ahead(4, &[]),
            ahead(2, &[]),
            ahead(4, &[4, 5]),
            Renewal::Ahead { head: other, entries: vec![entry(4)] },
        ];
        for renewal in broken {
            let mut channel = attached();
            let actions = channel.take(&now(30), renewed(25, renewal.clone()));
            assert!(matches!(actions[..], [Action::DropLoads, Action::Connect { .. }]), "{renewal:?}: {actions:?}");
            assert_eq!((channel.own().state, channel.standing().attached_since), (MemberState::Detached, None));
        }
    }

    #[test]
    fn another_history_is_adopted_and_gives_no_lease_at_first() {
        let mut channel = attached();
        let other = Head { lineage: "two".to_owned(), ..head(3) };
        for renewal in [Renewal::Resync(head(2)), Renewal::Ahead { head: other, entries: Vec::new() }] {
            let before = channel.standing().lineages;
            let actions = channel.take(&now(30), renewed(25, renewal));
            let [Action::DropLoads, actions @ ..] = &actions[..] else { panic!("{actions:?}") };
            let [Action::Adopt(adopted), Action::Renew { member, settle: true }] = actions else {
                panic!("{actions:?}");
            };
            assert_eq!(adopted.position, member.position);
            assert_eq!((channel.standing().lineages, channel.standing().attached_since), (before + 1, None));
        }
    }

    #[test]
    fn a_lost_head_seals_until_there_is_one_again() {
        let mut channel = attached();
        let actions = channel.take(&now(30), renewed(25, Renewal::Lost));
        assert_eq!(actions, [Action::Seal, Action::Listen { after: 3 }]);
        let actions = channel.take(&now(35), renewed(32, Renewal::Lost));
        assert_eq!(actions, [Action::Listen { after: 3 }], "it is sealed already");
        channel.take(&now(40), Input::Failed);
        channel.take(&now(50), Input::Connected);
        assert_eq!(channel.own().state, MemberState::Sealed, "a connection says nothing about the head");
        let actions = channel.take(&now(60), renewed(55, ahead(3, &[])));
        assert!(matches!(&actions[1..], [Action::Adopt(_), Action::Unseal, Action::Renew { .. }]));
        assert_eq!(channel.own().state, MemberState::Syncing);
    }

    #[test]
    fn who_begins_anew_under_a_seal_breaks_it_with_a_head() {
        let identity =
            Identity { id: "a".to_owned(), name: "a".to_owned(), grace: Duration::ZERO, version: "1".to_owned() };
        let mut channel = Channel::new(identity, 7, Timestamp::default()).still_sealed(true);
        channel.take(&now(1), Input::Connected);
        assert_eq!(channel.own().state, MemberState::Sealed);
        let actions = channel.take(&now(5), renewed(1, Renewal::Resync(head(3))));
        assert!(actions.contains(&Action::Unseal), "{actions:?}");
    }

    #[test]
    fn whoever_let_its_lease_lapse_is_attached_anew() {
        let mut channel = attached();
        channel.take(&now(800), renewed(790, ahead(3, &[])));
        assert_eq!(channel.standing().attached_since, Some(Moment::from_millis(20)));
        channel.take(&now(1_590), renewed(1_580, ahead(3, &[])));
        assert_eq!(channel.standing().attached_since, Some(Moment::from_millis(1_590)));
    }

    #[test]
    fn connections_are_tried_at_a_growing_and_bounded_distance() {
        let mut channel = attached();
        let mut longest = Vec::new();
        for _ in 0..8 {
            let delays = (0..2_000).map(|random| {
                let mut tried = Channel { own: channel.own.clone(), lineage: None, ..channel };
                let actions = tried.take(&Now { random, ..now(30) }, Input::Failed);
                let [Action::DropLoads, Action::Connect { after }] = actions[..] else { panic!("{actions:?}") };
                assert!((RETRY..=LONGEST_RETRY).contains(&after));
                after
            });
            longest.push(delays.max().unwrap().as_millis());
            channel.take(&now(30), Input::Failed);
        }
        assert_eq!(longest, [100, 200, 400, 800, 1_000, 1_000, 1_000, 1_000]);
    }
}
