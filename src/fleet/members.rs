//! The members of a fleet as one of them sees them: who is heard of, who is silent, who is gone. Goes by its own clock, since
//! those of others cannot be compared with it.

use std::collections::HashMap;

use tollgate_guard::protocol::{Member, MemberState, Unlisted};
use tollgate_guard::time::Moment;
use tollgate_guard::wait::Report;
use tollgate_guard::{FENCE, GUARD, PRUNED};

use super::report::{FleetView, Replica, ReplicaStatus, ReplicaView, WaitReport};

/// The members that were listed last, and when each of them was last heard of.
#[derive(Debug, Default)]
pub(super) struct Members {
    listed: Vec<Member>,
    beats: HashMap<String, (u64, Moment)>,
    /// Those that are not listed any more, since when so many are missing, and until when one of them could act by all that was heard.
    unlisted: Option<(Unlisted, Moment, Moment)>,
}

impl Members {
    /// Takes a new list. Gives the id and the beat of those that have been silent for so long that they may be forgotten.
    pub(super) fn see(&mut self, listed: Vec<Member>, now: Moment) -> Vec<(String, u64)> {
        let mut beats = HashMap::with_capacity(listed.len());
        let mut gone = Vec::new();
        for member in &listed {
            let heard = match self.beats.get(&member.id) {
                Some((beat, heard)) if *beat == member.beat => *heard,
                _ => now,
            };
            // One with a grace may go on for so long after its last lease.
            if now.since(heard) >= PRUNED + member.grace {
                gone.push((member.id.clone(), member.beat));
            }
            beats.insert(member.id.clone(), (member.beat, heard));
        }
        (self.listed, self.beats) = (listed, beats);
        gone
    }

    /// Takes what is known of those that are missing in the list. Gives how many they are once none of them can act any more, so
    /// that the list may be taken for whole.
    pub(super) fn miss(&mut self, unlisted: Option<Unlisted>, now: Moment) -> Option<u64> {
        let known = self.unlisted.take();
        let mut unlisted = unlisted?;
        // More than before: the list was lost once more.
        let since = known.filter(|(known, ..)| known.count >= unlisted.count).map_or(now, |(_, since, _)| since);
        // The server tells it by its own clock, which somebody may set forward or back, as may a failover.
        let still = unlisted.still.min(unlisted.grace + FENCE);
        let until = known.map_or(now, |(.., until)| until).max(now.plus(still));
        unlisted.still = until.since(now);
        self.unlisted = Some((unlisted, since, until));
        (unlisted.still.is_zero() && now.since(since) >= FENCE).then_some(unlisted.count)
    }

    pub(super) fn unlisted(&self) -> Option<Unlisted> {
        self.unlisted.map(|(unlisted, ..)| unlisted)
    }

    pub(super) fn listed(&self) -> &[Member] {
        &self.listed
    }
}

/// What people are shown, as the member `asked` sees it.
pub(super) fn fleet_view(level: &str, head: u64, members: &Members, asked: &str, now: Moment) -> FleetView {
    let view = |member: &Member| {
        let silent = members.beats.get(&member.id).map(|(_, heard)| now.since(*heard)).unwrap_or_default();
        let is_fenced = silent >= FENCE;
        let is_attached = member.state == MemberState::Attached && !is_fenced;
        ReplicaView {
            replica: replica(member),
            is_asked: member.id == asked,
            version: member.version.clone(),
            standing: if is_fenced { ReplicaStatus::Fenced } else { ReplicaStatus::Member(member.state) },
            since: member.since,
            position: member.position.sequence,
            lease: is_attached.then(|| GUARD.saturating_sub(silent)),
            format: member.format,
        }
    };
    let mut replicas: Vec<ReplicaView> = members.listed.iter().map(view).collect();
    replicas.sort_by(|one, other| (&one.replica.name, &one.replica.id).cmp(&(&other.replica.name, &other.replica.id)));
    FleetView { level: level.to_owned(), findings: Vec::new(), head, replicas }
}

pub(super) fn wait_report(level: &str, sequence: u64, report: &Report) -> WaitReport {
    let unlisted = report.unlisted.map(|Unlisted { count, grace, .. }| Replica {
        id: String::new(),
        name: format!("{count} that the store lists no more"),
        grace,
    });
    let lagging = report.lagging.iter().chain(&report.graced).map(replica).chain(unlisted).collect();
    WaitReport {
        level: level.to_owned(),
        sequence,
        confirmed: report.confirmed.len(),
        fenced: report.fenced.iter().map(replica).collect(),
        lagging,
    }
}

fn replica(member: &Member) -> Replica {
    Replica { id: member.id.clone(), name: member.name.clone(), grace: member.grace }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use tollgate_guard::protocol::Position;
    use tollgate_guard::time::Timestamp;

    fn member(id: &str, beat: u64) -> Member {
        Member {
            id: id.to_owned(),
            name: format!("host-{id}"),
            position: Position { sequence: 4, chain: "h".to_owned() },
            beat,
            state: MemberState::Attached,
            since: Timestamp::from_millis(1),
            grace: Duration::ZERO,
            version: "1".to_owned(),
            format: 3,
        }
    }

    #[test]
    fn a_list_that_was_lost_is_whole_again_once_nobody_else_can_act() {
        let (at, mut members) = (Moment::from_millis, Members::default());
        let missing =
            |count, still| Some(Unlisted { count, still: Duration::from_millis(still), grace: Duration::from_secs(2) });
        assert_eq!(members.miss(None, at(0)), None);
        for (now, unlisted, whole) in [
            (1_000, missing(2, 1_500), None),
            (2_300, missing(2, 200), None),
            (2_500, missing(2, 0), Some(2)),
            (2_600, missing(3, 0), None),
            (3_600, missing(3, 0), None),
            (3_700, missing(3, 0), Some(3)),
            (3_800, None, None),
            (3_900, missing(1, 0), None),
        ] {
            assert_eq!(members.miss(unlisted, at(now)), whole, "{now}");
            assert_eq!(members.unlisted(), unlisted);
        }
    }

    #[test]
    fn a_grace_of_somebody_who_is_missing_ends_no_sooner_than_was_heard_once() {
        let (at, mut members) = (Moment::from_millis, Members::default());
        let grace = Duration::from_secs(60);
        let missing = |still| Some(Unlisted { count: 1, still: Duration::from_secs(still), grace });
        assert_eq!(members.miss(missing(60), at(0)), None);
        for now in [2_000, 59_999] {
            assert_eq!(members.miss(missing(0), at(now)), None, "the server's clock was set forward");
            assert_eq!(members.unlisted().unwrap().still, Duration::from_millis(60_000 - now));
        }
        assert_eq!(members.miss(missing(0), at(60_000)), Some(1));
    }

    #[test]
    fn silence_is_counted_from_the_last_new_beat() {
        let at = Moment::from_millis;
        let mut members = Members::default();
        for (now, beat) in [(0, 1), (1_000, 2), (2_000, 3)] {
            assert!(members.see(vec![member("a", beat), member("b", 7)], at(now)).is_empty());
        }
        let view = fleet_view("bounded (1 s)", 5, &members, "a", at(2_100));
        let standing: Vec<_> = view.replicas.iter().map(|view| (view.is_asked, view.standing, view.lease)).collect();
        let attached = ReplicaStatus::Member(MemberState::Attached);
        let left = Some(Duration::from_millis(700));
        assert_eq!(standing, [(true, attached, left), (false, ReplicaStatus::Fenced, None)]);
        assert_eq!(members.see(vec![member("a", 4), member("b", 7)], at(600_000)), [("b".to_owned(), 7)]);
        // It may still allow what it was told to be ended.
        let graced = Member { grace: Duration::from_secs(3_600), ..member("c", 1) };
        let gone = |members: &mut Members, now| members.see(vec![graced.clone()], at(now));
        assert!(gone(&mut members, 600_000).is_empty() && gone(&mut members, 600_000 + 4_199_999).is_empty());
        assert_eq!(gone(&mut members, 600_000 + 4_200_000), [("c".to_owned(), 1)]);
        // It was forgotten, and it is back.
        assert!(members.see(vec![member("a", 5)], at(600_100)).is_empty());
        assert!(members.see(vec![member("a", 6), member("b", 7)], at(600_200)).is_empty());
    }
}
