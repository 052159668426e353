//! When each member was last heard of, by the clock of whoever looks. Knows no store.

use std::collections::HashMap;
use std::time::Duration;

use crate::domain::fleet::Member;
use crate::domain::time::Moment;
use crate::revocation::PRUNED;

/// The last beat of each member, and since when it is known.
#[derive(Debug, Default)]
pub struct Roll(HashMap<String, (u64, Moment)>);

impl Roll {
    /// Takes a list; whoever is not on it is forgotten.
    pub fn call(&mut self, members: &[Member], now: Moment) {
        let known = |member: &Member| match self.0.get(&member.id) {
            Some((beat, since)) if *beat == member.beat => *since,
            _ => now,
        };
        let seen = members.iter().map(|member| (member.id.clone(), (member.beat, known(member)))).collect();
        self.0 = seen;
    }

    /// How long the last beat of a member has been known.
    pub fn silent(&self, member: &Member, now: Moment) -> Option<Duration> {
        self.0.get(&member.id).map(|(_, since)| now.since(*since))
    }

    /// Those of which nothing was heard for so long that they are to be forgotten, with their last beats; but not `own`.
    pub fn take_gone(&mut self, now: Moment, own: &str) -> Vec<(String, u64)> {
        let is_gone = |id: &String, (_, since): &mut (u64, Moment)| id != own && now.since(*since) >= PRUNED;
        self.0.extract_if(is_gone).map(|(id, (beat, _))| (id, beat)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::change::Position;
    use crate::domain::fleet::MemberState;
    use crate::domain::time::Timestamp;

    fn member(id: &str, beat: u64) -> Member {
        Member {
            id: id.to_owned(),
            name: id.to_owned(),
            position: Position { sequence: 0, chain: String::new() },
            beat,
            state: MemberState::Attached,
            since: Timestamp::default(),
            grace: Duration::ZERO,
            version: String::new(),
        }
    }

    #[test]
    fn who_beats_stays_and_who_is_silent_for_ten_minutes_goes() {
        let (mut roll, at) = (Roll::default(), |seconds: u64| Moment::from_millis(seconds * 1_000));
        roll.call(&[member("alive", 1), member("dead", 1), member("left", 1)], at(100));
        roll.call(&[member("alive", 2), member("dead", 1)], at(699));
        assert!(roll.take_gone(at(699), "own").is_empty());
        assert!(roll.take_gone(at(700), "dead").is_empty(), "nobody takes themselves off the list");
        assert_eq!(roll.take_gone(at(700), "own"), [("dead".to_owned(), 1)]);
        assert!(roll.take_gone(at(700), "own").is_empty());
        assert_eq!(roll.silent(&member("alive", 2), at(700)), Some(Duration::from_secs(1)));
        assert_eq!(roll.silent(&member("left", 1), at(700)), None);
    }
}
