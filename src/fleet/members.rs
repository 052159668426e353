//! The members of a fleet as one of them sees them: who is heard of, who is silent, who is gone. Goes by its own clock, since
//! those of others cannot be compared with it.

use std::collections::HashMap;

use super::report::{FleetView, Replica, ReplicaView, Standing, WaitReport};
use crate::domain::fleet::{Member, MemberState};
use crate::domain::time::Moment;
use crate::revocation::wait::Report;
use crate::revocation::{FENCE, GUARD, PRUNED};

/// The members that were listed last, and when each of them was last heard of.
#[derive(Debug, Default)]
pub(super) struct Members {
    listed: Vec<Member>,
    beats: HashMap<String, (u64, Moment)>,
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
            standing: if is_fenced { Standing::Fenced } else { Standing::Member(member.state) },
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
    let lagging = report.lagging.iter().chain(&report.graced).map(replica).collect();
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
    use crate::domain::change::Position;
    use crate::domain::time::Timestamp;

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
    fn silence_is_counted_from_the_last_new_beat() {
        let at = Moment::from_millis;
        let mut members = Members::default();
        for (now, beat) in [(0, 1), (1_000, 2), (2_000, 3)] {
            assert!(members.see(vec![member("a", beat), member("b", 7)], at(now)).is_empty());
        }
        let view = fleet_view("bounded (1 s)", 5, &members, "a", at(2_100));
        let standing: Vec<_> = view.replicas.iter().map(|view| (view.is_asked, view.standing, view.lease)).collect();
        let attached = Standing::Member(MemberState::Attached);
        let left = Some(Duration::from_millis(700));
        assert_eq!(standing, [(true, attached, left), (false, Standing::Fenced, None)]);
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
