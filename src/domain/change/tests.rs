//! What is remembered of endings, with those of the records.

use tollgate_guard::digest::Digest;
use tollgate_guard::ending::Ending;
use tollgate_guard::protocol::Position;
use tollgate_guard::time::Timestamp;

use super::{Ended, Endings, Stored};
use crate::domain::record::ProjectState;

fn key(number: u8) -> Ended {
    Ended::Key { digest: Digest([number; 32]), at: Timestamp::from_millis(u64::from(number)) }
}

#[test]
fn what_a_store_that_went_back_may_have_lost() {
    let endings = Endings::default();
    for number in 1..=4 {
        endings.hear(&at(number.into()), &[key(number)]);
    }
    endings.write_down(&[key(9)]);
    assert_eq!(endings.ended_behind(2, 10), [key(9), key(4), key(3)]);
    assert_eq!(endings.ended_behind(2, 2), [key(9), key(4)]);
}

fn stands(number: u8, endings: &Endings) -> bool {
    endings.contradicts(&Stored::Key { digest: &Digest([number; 32]), revoked: false })
}

fn user(sessions: u64, disabled: bool) -> Ended {
    let created_at = Timestamp::from_millis(1);
    Ended::User { name: "alice".to_owned(), created_at, sessions, disabled, deleted: false }
}

fn project(state: ProjectState, version: u64, changed_at: u64) -> Ended {
    let changed_at = Timestamp::from_millis(changed_at);
    Ended::Project { name: "acme".to_owned(), state, changed_at, version }
}

fn at(sequence: u64) -> Position {
    Position { sequence, chain: sequence.to_string() }
}

fn suspects(endings: &Endings) -> Vec<Ended> {
    let mut suspects = endings.take_suspects(usize::MAX);
    suspects.sort_by_key(|one| one.digest().0);
    suspects
}

fn numbers(milestones: &[Position]) -> Vec<u64> {
    milestones.iter().map(|place| place.sequence).collect()
}

#[test]
fn what_was_ended_contradicts_the_store_until_the_log_has_forgotten_it() {
    let endings = Endings::keeping(3);
    for number in 1..=4 {
        endings.write_down(&[key(number)]);
        endings.hear(&at(number.into()), &[key(number)]);
        endings.write_down(&[key(number)]);
    }
    assert!(!stands(1, &endings));
    assert!(stands(2, &endings) && stands(2, &endings));
    assert!(!endings.contradicts(&Stored::Key { digest: &Digest([3; 32]), revoked: true }));
    assert_eq!(suspects(&endings), [key(2)]);
    assert!(suspects(&endings).is_empty());
    assert_eq!(endings.contradictions(), 2);
    // Told of once more, it is as new as that.
    for sequence in 5..=6 {
        endings.hear(&at(sequence), &[key(2)]);
    }
    assert!(stands(2, &endings) && stands(4, &endings) && !stands(3, &endings));
}

#[test]
fn only_what_another_history_may_have_lost_is_suspected() {
    let endings = Endings::default();
    for number in 1..=100 {
        endings.hear(&at(number.into()), &[key(number)]);
    }
    endings.write_down(&[key(101)]);
    assert_eq!(endings.previous_history(), None, "there was no other one");
    endings.join(&at(99));
    assert_eq!(suspects(&endings), [key(101)]);
    // What this one tells meanwhile says nothing about the one before, whatever its numbers are.
    endings.hear(&at(100), &[key(102)]);
    // Nor does the one before say anything of what lies behind the place of joining.
    let former = endings.previous_history().unwrap();
    assert_eq!((former.joined.sequence, numbers(&former.milestones)), (99, vec![99, 98, 96, 92, 84, 68, 36]));
    endings.settle(&former, Some(96));
    assert_eq!(suspects(&endings), [97, 98, 99, 100].map(key));
    assert_eq!(endings.previous_history(), None);
    // A look that failed is made again, and a suspect is one of every history until it was told of.
    endings.suspect(&key(7));
    assert_eq!(suspects(&endings), [key(7)]);
    endings.join(&at(200));
    assert_eq!(suspects(&endings), [97, 98, 99, 100, 101].map(key));
    // What was found out about a history that is not followed any more is worth nothing.
    let former = endings.previous_history().unwrap();
    endings.join(&at(300));
    assert_eq!(suspects(&endings).len(), 102);
    endings.settle(&former, Some(300));
    assert!(suspects(&endings).is_empty());
    let former = endings.previous_history().unwrap();
    assert_eq!(former.milestones, []);
    endings.settle(&former, None);
    assert_eq!(endings.previous_history(), None);
}

#[test]
fn what_was_written_here_is_suspected_until_it_was_heard_of() {
    let endings = Endings::default();
    endings.write_down(&[key(1), key(2)]);
    endings.hear(&at(1), &[key(1)]);
    endings.suspect_unheard(&[key(1), key(2), key(3)]);
    assert_eq!(suspects(&endings), [key(2)]);
}

#[test]
fn the_newest_that_was_said_counts() {
    let (suspended, active, deleted) = (ProjectState::Suspended, ProjectState::Active, ProjectState::Deleted);
    for (one, other, newest) in [
        (user(2, true), user(3, false), user(3, false)),
        // Another history has begun without what was known.
        (user(3, true), user(2, false), user(3, true)),
        (user(3, true), user(3, false), user(3, true)),
        (project(suspended, 5, 10), project(active, 2, 20), project(active, 2, 20)),
        (project(suspended, 5, 10), project(active, 6, 9), project(active, 6, 9)),
        (project(suspended, 5, 10), project(active, 4, 9), project(suspended, 5, 10)),
        (project(deleted, 5, 10), project(active, 9, 20), project(deleted, 5, 10)),
        (project(deleted, 5, 10), project(deleted, 2, 20), project(deleted, 2, 20)),
    ] {
        // Who wrote something may hear of what came before or after it, and note it then.
        for places in [[Some(at(1)), Some(at(2))], [None, Some(at(2))], [Some(at(1)), None]] {
            let endings = Endings::default();
            for (told, place) in [&one, &other].into_iter().zip(&places) {
                let told = std::slice::from_ref(told);
                match place {
                    Some(place) => endings.hear(place, told),
                    None => endings.write_down(told),
                }
            }
            assert_eq!(endings.ended_behind(0, 9), std::slice::from_ref(&newest), "{one:?}, {other:?}");
        }
    }
}

#[test]
fn what_was_kept_counts_once_its_place_was_heard_of() {
    let endings = Endings::default();
    let all = [1, 2, 3].map(key);
    endings.write_down(&all);
    endings.suspect_unheard(&all);
    assert_eq!((endings.take_suspects(2).len(), endings.take_suspects(2).len()), (2, 1));
    let places = [at(1), at(2), Position { sequence: 1, chain: "of another history".to_owned() }];
    for (one, place) in all.iter().zip(places) {
        endings.found_kept(one, place);
    }
    endings.hear(&at(1), &[]);
    endings.suspect_kept();
    assert_eq!(suspects(&endings), [2, 3].map(key));
    endings.join(&at(9));
    suspects(&endings);
    endings.found_kept(&key(2), at(1));
    endings.suspect_kept();
    assert_eq!(suspects(&endings), [key(2)], "another history has nothing there");
    endings.hear(&at(10), &[]);
    // What became of something since was not found by a look before.
    endings.write_down(&[user(1, false)]);
    endings.found_kept(&user(1, false), at(10));
    endings.write_down(&[user(2, true)]);
    endings.suspect_kept();
    endings.suspect_unheard(&[user(2, true)]);
    assert_eq!(suspects(&endings), [user(2, true)]);
}
