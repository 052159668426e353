//! Whether a change has reached everybody who could still act against it. Never says so of a replica that could: one is
//! confirmed, or it is silent and without a lease, or it is named.

use std::collections::HashMap;

use crate::FENCE;
use crate::channel::LeaseHistory;
use crate::protocol::{Member, Unlisted};
use crate::time::Moment;

/// A wait for one change, begun once it was acknowledged.
#[derive(Clone, Debug)]
pub struct Wait {
    sequence: u64,
    began: Moment,
    /// The count of histories when the change was made.
    lineages: u64,
    /// The last beat of each member, and when it was first seen.
    beats: HashMap<String, (u64, Moment)>,
}

/// What the one who waits sees.
#[derive(Clone, Copy, Debug)]
pub struct Observation<'a> {
    /// Before `members` were asked for, and when they had been listed.
    pub asked: Moment,
    pub listed: Moment,
    pub members: &'a [Member],
    /// Those that are in the list no more, though nobody has taken them off it.
    pub unlisted: Option<Unlisted>,
    /// As a renewal **sent after** the list has found it, from the same primary.
    pub own: LeaseHistory,
    pub now: Moment,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Pending,
    Done(Report),
    /// The history in which the change was made was left: it must be made again, and waited for again.
    StartOver,
}

/// Where a change has arrived. Of those who are not confirmed, only one with grace can still act against it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub confirmed: Vec<Member>,
    /// Silent for so long that they hold no lease.
    pub fenced: Vec<Member>,
    /// They are heard of, and have not confirmed.
    pub lagging: Vec<Member>,
    /// They have not confirmed, and may go on without the store for a time that they chose.
    pub graced: Vec<Member>,
    /// Nobody knows who they are, and one of them may have a grace that is not over.
    pub unlisted: Option<Unlisted>,
}

impl Report {
    /// Whether every member has confirmed.
    pub fn is_complete(&self) -> bool {
        self.fenced.is_empty() && self.lagging.is_empty() && self.graced.is_empty() && self.unlisted.is_none()
    }
}

impl Wait {
    /// For change number `sequence`, which was acknowledged by `began`, and made when the standing counted `lineages`.
    pub fn new(sequence: u64, lineages: u64, began: Moment) -> Self {
        Self { sequence, began, lineages, beats: HashMap::new() }
    }

    pub fn observe(&mut self, seen: &Observation<'_>) -> Verdict {
        if seen.own.lineages != self.lineages {
            return Verdict::StartOver;
        }
        // Somebody may have come after this list was made and before the change was.
        if seen.asked < self.began {
            return Verdict::Pending;
        }
        for member in seen.members {
            match self.beats.get_mut(&member.id) {
                Some((beat, _)) if *beat == member.beat => {}
                Some(last) => *last = (member.beat, seen.listed),
                None => {
                    self.beats.insert(member.id.clone(), (member.beat, seen.listed));
                }
            }
        }
        let report = self.report(seen);
        // Whoever held a lease from another primary, which this one may not know of, holds it no more.
        let is_fence_passed = |since: Moment| seen.now.since(since) >= FENCE;
        let is_alone = seen.own.attached_since.is_some_and(is_fence_passed) && seen.own.applied >= self.sequence;
        // Whoever is not listed, and has no grace, holds no lease at the fence, or has been listed again with the next one.
        let is_whole = seen.unlisted.is_none();
        if is_fence_passed(self.began) || (is_alone && is_whole && report.is_complete()) {
            Verdict::Done(report)
        } else {
            Verdict::Pending
        }
    }

    fn report(&self, seen: &Observation<'_>) -> Report {
        let unlisted = seen.unlisted.filter(|unlisted| !unlisted.still.is_zero());
        let mut report = Report { unlisted, ..Report::default() };
        for member in seen.members {
            let silent = self.beats.get(&member.id).is_some_and(|(_, since)| seen.listed.since(*since) >= FENCE);
            let place = if member.position.sequence >= self.sequence {
                &mut report.confirmed
            } else if !member.grace.is_zero() {
                &mut report.graced
            } else if silent {
                &mut report.fenced
            } else {
                &mut report.lagging
            };
            place.push(member.clone());
        }
        report
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::protocol::MemberState;
    use crate::protocol::Position;
    use crate::time::Timestamp;

    fn at(millis: u64) -> Moment {
        Moment::from_millis(millis)
    }

    fn member(id: &str, sequence: u64, beat: u64, grace: u64) -> Member {
        Member {
            id: id.to_owned(),
            name: id.to_owned(),
            position: Position { sequence, chain: String::new() },
            beat,
            state: MemberState::Attached,
            since: Timestamp::default(),
            grace: Duration::from_secs(grace),
            version: "1".to_owned(),
            format: 3,
        }
    }

    fn standing(since: u64) -> LeaseHistory {
        LeaseHistory { attached_since: Some(at(since)), lineages: 1, applied: 7 }
    }

    fn seen<'a>(millis: u64, members: &'a [Member], own: LeaseHistory) -> Observation<'a> {
        Observation { asked: at(millis), listed: at(millis), members, unlisted: None, own, now: at(millis) }
    }

    #[test]
    fn it_ends_early_once_everybody_confirmed_and_no_other_primary_can_have_a_say() {
        let confirmed = [member("a", 7, 1, 0), member("b", 8, 1, 0)];
        let done = |own, members: &[Member]| Wait::new(7, 1, at(2_000)).observe(&seen(2_010, members, own));
        assert!(matches!(done(standing(910), &confirmed), Verdict::Done(report) if report.is_complete()));
        assert_eq!(done(standing(911), &confirmed), Verdict::Pending, "attached for too short a time");
        assert_eq!(done(LeaseHistory { attached_since: None, ..standing(0) }, &confirmed), Verdict::Pending);
        let graced = [member("a", 7, 1, 0), member("d", 6, 1, 9)];
        assert_eq!(done(standing(0), &graced), Verdict::Pending, "one may go on without the store");
        assert_eq!(done(LeaseHistory { applied: 6, ..standing(0) }, &confirmed), Verdict::Pending);
        let early = Wait::new(7, 1, at(2_011)).observe(&seen(2_010, &confirmed, standing(0)));
        assert_eq!(early, Verdict::Pending, "a list from before the wait");
        let newcomer = [member("a", 7, 1, 0), member("b", 8, 1, 0), member("new", 0, 1, 0)];
        assert_eq!(done(standing(0), &newcomer), Verdict::Pending);
        assert_eq!(done(LeaseHistory { lineages: 2, ..standing(0) }, &confirmed), Verdict::StartOver);
    }

    #[test]
    fn a_list_that_was_lost_is_not_taken_for_whole() {
        let confirmed = [member("a", 7, 1, 0)];
        let grace = Duration::from_secs(3_600);
        let unlisted = |still| Some(Unlisted { count: 1, still: Duration::from_millis(still), grace });
        let observe = |millis, still| {
            let seen = Observation { unlisted: unlisted(still), ..seen(millis, &confirmed, standing(0)) };
            Wait::new(7, 1, at(2_000)).observe(&seen)
        };
        assert_eq!((observe(2_010, 5_000), observe(2_010, 0)), (Verdict::Pending, Verdict::Pending));
        assert!(matches!(observe(3_100, 5_000), Verdict::Done(report) if report.unlisted == unlisted(5_000)));
        assert!(matches!(observe(3_100, 0), Verdict::Done(report) if report.is_complete()));
    }

    #[test]
    fn at_the_fence_it_names_those_who_did_not_confirm() {
        let mut wait = Wait::new(7, 1, at(2_000));
        let list =
            |beat| [member("a", 7, beat, 0), member("b", 6, 4, 0), member("c", 6, beat, 0), member("d", 6, 1, 9)];
        assert_eq!(wait.observe(&seen(2_000, &list(1), standing(0))), Verdict::Pending);
        assert_eq!(wait.observe(&seen(3_099, &list(2), standing(0))), Verdict::Pending);
        let Verdict::Done(report) = wait.observe(&seen(3_100, &list(2), standing(0))) else { panic!("not done") };
        let names = |members: &[Member]| members.iter().map(|member| member.id.clone()).collect::<Vec<_>>();
        let places = [&report.confirmed, &report.fenced, &report.lagging, &report.graced];
        assert_eq!(places.map(|place| names(place)), [["a"], ["b"], ["c"], ["d"]]);
    }
}
