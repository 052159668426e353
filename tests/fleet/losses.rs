//! A store that goes back to older histories at any moment: whatever a replica has heard to be ended is ended in the one that
//! stays, however its looks, its own writes and the changes of others fall between.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tollgate::domain::change::{Ended, Endings};
use tollgate_guard::endings::PreviousHistory;
use tollgate_guard::protocol::Position;
use tollgate_guard::time::Timestamp;

#[derive(Clone, Debug)]
enum Act {
    /// Somebody else ends the sessions of a user.
    End(u8),
    /// This replica does, and has not written it down yet.
    EndHere(u8),
    WriteDown,
    /// It hears some entries, and joins the history of now if it cannot go on.
    Follow(usize),
    /// So many entries are lost.
    GoBack(usize),
    Ask,
    Settle,
    /// It looks at what it suspects, at most so much; each look fails, or none.
    Look(usize, bool),
    LookAgain,
}

/// A user, and a generation of their sessions before which all have ended.
type End = (u8, u64);

#[derive(Default)]
struct World {
    log: Vec<(Position, End)>,
    written: usize,
    endings: Endings,
    applied: Position,
    /// Written by this replica, and not written down yet.
    pending: Vec<End>,
    asked: Option<(PreviousHistory, Option<u64>)>,
    /// What this replica knows of each user.
    known: BTreeMap<u8, u64>,
}

fn told((user, sessions): End) -> Ended {
    let (name, created_at) = (user.to_string(), Timestamp::default());
    Ended::User { name, created_at, sessions, disabled: false, deleted: false }
}

impl World {
    fn generation(&self, user: u8) -> u64 {
        self.log.iter().rev().find(|(_, end)| end.0 == user).map_or(1, |(_, end)| end.1)
    }

    fn append(&mut self, end: End) {
        self.written += 1;
        let position = Position { sequence: self.log.len() as u64 + 1, chain: self.written.to_string() };
        self.log.push((position, end));
    }

    fn end(&mut self, user: u8) -> End {
        let end = (user, self.generation(user) + 1);
        self.append(end);
        end
    }

    fn has(&self, position: &Position) -> bool {
        position.sequence == 0 || self.log.iter().any(|(known, _)| known == position)
    }

    fn learn(&mut self, (user, sessions): End) {
        let known = self.known.entry(user).or_default();
        *known = sessions.max(*known);
    }

    fn follow(&mut self, most: usize) {
        if !self.has(&self.applied) {
            self.applied = self.head();
            self.endings.join(&self.applied);
            return;
        }
        let behind = self.applied.sequence as usize;
        for (position, end) in self.log.clone().into_iter().skip(behind).take(most) {
            self.endings.hear(&position, &[told(end)]);
            self.learn(end);
            self.applied = position;
        }
    }

    fn head(&self) -> Position {
        self.log.last().map(|(head, _)| head.clone()).unwrap_or_default()
    }

    fn write_down(&mut self) {
        for end in std::mem::take(&mut self.pending) {
            self.endings.write_down(&[told(end)]);
            self.endings.suspect_unheard(&[told(end)]);
            self.learn(end);
        }
    }

    fn ask(&mut self) {
        let former = self.endings.previous_history().filter(|former| self.has(&former.joined));
        self.asked = former.map(|former| {
            let known = former.milestones.iter().find(|place| self.has(place)).map(|place| place.sequence);
            (former, known)
        });
    }

    fn settle(&mut self) {
        if let Some((former, known)) = self.asked.take() {
            self.endings.settle(&former, known);
        }
    }

    fn look(&mut self, most: usize, fails: bool) {
        for ended in self.endings.take_suspects(most) {
            let Ended::User { name, sessions, .. } = &ended else { unreachable!() };
            let user = name.parse().unwrap();
            let found = self.generation(user);
            if fails {
                self.endings.suspect(&ended);
            } else if found >= *sessions {
                self.endings.found_kept(&ended, self.head());
            } else {
                let again = (user, sessions.max(&found) + 1);
                self.append(again);
                self.pending.push(again);
            }
        }
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::End(user) => drop(self.end(user)),
            Act::EndHere(user) => {
                let end = self.end(user);
                self.pending.push(end);
            }
            Act::WriteDown => self.write_down(),
            Act::Follow(most) => self.follow(most),
            Act::GoBack(entries) => self.log.truncate(self.log.len().saturating_sub(entries)),
            Act::Ask => self.ask(),
            Act::Settle => self.settle(),
            Act::Look(most, fails) => self.look(most, fails),
            Act::LookAgain => self.endings.suspect_kept(),
        }
    }

    /// Nothing goes wrong any more.
    fn come_to_rest(&mut self) {
        for _ in 0..5 {
            self.write_down();
            self.follow(usize::MAX);
            self.follow(usize::MAX);
            self.ask();
            self.settle();
            self.endings.suspect_kept();
            self.look(usize::MAX, false);
        }
    }
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..6_u8).prop_map(Act::End),
        3 => (0..6_u8).prop_map(Act::EndHere),
        3 => Just(Act::WriteDown),
        5 => (1..4_usize).prop_map(Act::Follow),
        2 => (1..4_usize).prop_map(Act::GoBack),
        2 => Just(Act::Ask),
        2 => Just(Act::Settle),
        3 => (1..4_usize, prop::bool::weighted(0.2)).prop_map(|(most, fails)| Act::Look(most, fails)),
        1 => Just(Act::LookAgain),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_a_replica_has_heard_of_is_ended_in_every_history(acts in prop::collection::vec(act(), 1..60)) {
        let mut world = World::default();
        acts.iter().for_each(|act| world.act(act));
        world.come_to_rest();
        for (user, sessions) in &world.known {
            let found = world.generation(*user);
            prop_assert!(found >= *sessions, "user {user}: {found}, and {sessions} was heard of");
        }
        prop_assert!(world.endings.take_suspects(1).is_empty() && world.endings.previous_history().is_none());
    }
}
