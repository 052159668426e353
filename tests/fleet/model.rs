//! A scheduler that picks, by a seed, what happens next: S1, S2, S3 and L1 of the protocol hold, a store that
//! went back is not trusted, and each rule is needed.
//!
//! `TOLLGATE_TEST_FULL=1` tries a million runs, which takes about a minute in an optimised build.

use std::thread;

use crate::replica::{KEYS, REPLICAS};
use crate::rules::{Broken, Violation};
use crate::world::World;

const STEPS: usize = 80;
const SHORT: u64 = 20_000;
const FULL: u64 = 1_000_000;

/// What can happen next, and how often it is picked.
const ACTS: [(Act, u64); 23] = [
    (Act::Follow, 200),
    (Act::Ask, 120),
    (Act::Probe, 80),
    (Act::Decide, 150),
    (Act::Fly, 120),
    (Act::Revoke, 120),
    (Act::WriteOther, 30),
    (Act::Replicate, 60),
    (Act::Pass, 140),
    (Act::LoseConnection, 20),
    (Act::Trim, 12),
    (Act::Cut, 12),
    (Act::Promote, 20),
    (Act::Heal, 12),
    (Act::HandOver, 16),
    (Act::Flush, 6),
    (Act::Restore, 20),
    (Act::Copy, 20),
    (Act::GoBack, 12),
    (Act::Accept, 12),
    (Act::Leave, 12),
    (Act::LookRound, 20),
    (Act::LoseMembers, 12),
];

#[derive(Clone, Copy, Debug)]
enum Act {
    Follow,
    Ask,
    Probe,
    Decide,
    Fly,
    Revoke,
    WriteOther,
    Replicate,
    Pass,
    LoseConnection,
    Trim,
    Cut,
    Promote,
    Heal,
    HandOver,
    Flush,
    Restore,
    Copy,
    GoBack,
    Accept,
    Leave,
    LookRound,
    LoseMembers,
}

const TIMES: [u64; 10] = [1, 10, 50, 150, 200, 350, 600, 800, 1_100, 3_000];

/// One run. Each has likings of its own, so that the rare meets the rare.
fn run(world: &mut World, seed: u64, broken: Broken) -> Result<(), Violation> {
    world.restart(seed, broken);
    let mut weights = ACTS.map(|(act, weight)| (act, weight, world.below(4)));
    for (act, weight, liking) in &mut weights {
        let needed =
            matches!(act, Act::Follow | Act::Ask | Act::Probe | Act::Decide | Act::Fly | Act::Revoke | Act::Pass);
        *weight *= [u64::from(needed), 5, 5, 20][*liking as usize];
    }
    let sum: u64 = weights.iter().map(|(_, weight, _)| weight).sum();
    match world.below(11) {
        0 => {}
        1 | 2 => world.rest(0..REPLICAS),
        3 => world.newcomer(),
        4 | 5 => world.lost_suffix(),
        6 => world.lost_copy(),
        7 => world.scale_down(),
        8 => world.made_anew(),
        _ => world.rest_for_long(),
    }
    for _ in 0..STEPS {
        let mut picked = world.below(sum);
        let act = weights.iter().find_map(|(act, weight, _)| {
            let found = picked < *weight;
            picked = picked.wrapping_sub(*weight);
            found.then_some(*act)
        });
        step(world, act.unwrap())?;
    }
    world.count_step();
    for replica in 0..REPLICAS {
        world.probe(replica)?;
    }
    if matches!(broken, Broken::Nothing | Broken::ProlongsLostGraces) && seed.is_multiple_of(8) {
        world.comes_to_rest()?;
    }
    Ok(())
}

fn step(world: &mut World, act: Act) -> Result<(), Violation> {
    world.count_step();
    let replica = world.below(REPLICAS as u64) as usize;
    let key = world.below(KEYS as u64) as usize;
    match act {
        Act::Follow => world.follow(replica),
        Act::Ask => world.ask(replica, key)?,
        Act::Probe => world.probe(replica)?,
        Act::Decide => world.decide()?,
        Act::Fly => world.fly(),
        Act::Revoke => world.revoke(),
        Act::WriteOther => world.write_other(),
        Act::Replicate => world.redis.replicate(),
        Act::Pass => {
            let short = world.below(2) == 0;
            let time = TIMES[world.below(if short { 3 } else { TIMES.len() as u64 }) as usize];
            world.pass(time);
        }
        Act::LoseConnection => world.lose_connection(replica),
        Act::Trim => {
            let kept = world.below(3) as usize;
            world.redis.trim(kept);
        }
        Act::Cut => world.cut(),
        Act::Promote => world.promote(),
        Act::Heal => world.redis.heal(),
        Act::HandOver => world.redis.hand_over(),
        Act::Flush => world.flush(),
        Act::Restore => world.redis.restore(),
        Act::Copy => world.redis.copy(),
        Act::GoBack => world.go_back(),
        Act::Accept => world.accept(),
        Act::Leave => world.leave(replica),
        Act::LookRound => world.look_round(),
        Act::LoseMembers => world.redis.lose_members(),
    }
    if world.is_unsealed() { Err(Violation::Unsealed) } else { Ok(()) }
}

/// The first run that goes wrong.
fn first_violation(seeds: std::ops::Range<u64>, broken: Broken) -> Option<(u64, Violation)> {
    let mut world = World::new();
    seeds.into_iter().find_map(|seed| run(&mut world, seed, broken).err().map(|violation| (seed, violation)))
}

#[test]
fn every_interleaving_keeps_the_promises() {
    let full = std::env::var_os("TOLLGATE_TEST_FULL").is_some();
    let (runs, threads) = if full { (FULL, 2) } else { (SHORT, 2) };
    let share = runs / threads;
    let workers: Vec<_> = (0..threads)
        .map(|number| thread::spawn(move || first_violation(number * share..(number + 1) * share, Broken::Nothing)))
        .collect();
    for worker in workers {
        assert_eq!(worker.join().unwrap(), None, "the seed and what it violates");
    }
}

#[test]
fn the_runs_are_not_idle() {
    let mut world = World::new();
    let allows: u64 = (0..500)
        .map(|seed| {
            let _ = run(&mut world, seed, Broken::Nothing);
            world.allows()
        })
        .sum();
    assert!(allows > 500, "{allows} allows in 500 runs");
}

/// Without the rule the scheduler finds what the rule is for.
fn needed(broken: Broken, expected: &[Violation]) {
    let found = first_violation(0..SHORT, broken);
    assert!(found.is_some_and(|(_, violation)| expected.contains(&violation)), "{broken:?}: {found:?}");
}

macro_rules! each_rule_is_needed {
    ($($name:ident: $broken:ident => $($violation:ident)|+;)+) => {
        $(#[test]
        fn $name() {
            needed(Broken::$broken, &[$(Violation::$violation),+]);
        })+
    };
}

each_rule_is_needed! {
    rule_3_reads_the_lease_before_the_stamps: StampsBeforeLease => Late | AfterWait | Own;
    rule_4_checks_what_a_joined_load_gave: JoinsUnchecked => Late | AfterWait | Revived | Own;
    rule_6_writes_record_and_log_together: LogBeforeRecord => Late | AfterWait | Own;
    rule_6_appends_for_a_repeated_revocation: RetryAppendsNothing => Late | AfterWait;
    rule_7_acknowledges_what_is_replicated: AcknowledgedUnreplicated => Late | AfterWait | Revived | Own;
    rule_7_applies_to_the_writer_first: WriterForgetsItself => Own;
    rule_8_compares_the_chain: IdsAlone => Late | AfterWait | Own | Unsealed;
    rule_8_refuses_a_store_that_went_back: FollowsBack => Unsealed;
    rule_8_misses_what_was_acknowledged: MissesOnlyTheApplied => Unsealed;
    rule_8_compares_the_chain_of_what_was_acknowledged: AcknowledgedByNumber => Unsealed;
    rule_8_tells_those_who_lag: TellsNobody => Unsealed;
    rule_9_leases_at_the_head_alone: LeaseBehindTheHead => Late | AfterWait;
    rule_9_leases_from_the_moment_of_sending: LeaseFromReceipt => Late | AfterWait;
    rule_9_forgets_what_is_cached_at_a_resync: ResyncKeepsCache => Late | AfterWait;
    rule_10_loads_by_a_guarded_script: PlainLoads => Late | AfterWait | Own;
    rule_10_loads_from_the_history_that_is_followed: LoadsFromAnyHistory => AfterWait;
    rule_11_counts_a_load_from_its_sending: LoadsFromReceipt => Late | AfterWait;
    rule_12_remembers_what_was_revoked: ForgetsRevocations => Revived;
    rule_13_settles_a_member_before_its_lease: LeaseUnsettled => AfterWait;
    rule_13_keeps_a_member_for_its_grace: PrunesGraced => AfterWait;
    rule_13_leaves_last: LeavesEarly => AfterWait;
    rule_13_counts_the_members: CountsNoMembers => AfterWait;
    rule_13_keeps_the_graces_of_those_it_lost: ForgetsGraces => AfterWait;
    rule_13_ends_the_graces_of_those_it_lost: ProlongsLostGraces => Restless;
    rule_14_waits_until_other_primaries_are_fenced: WaitIgnoresFence => AfterWait;
    rule_14_counts_every_member: WaitCountsItselfAlone => AfterWait;
    rule_14_starts_over_in_another_history: WaitNeverStartsOver => AfterWait;
    rule_17_needs_a_fenced_store: Unfenced => Late | AfterWait | Own | Revived;
}
