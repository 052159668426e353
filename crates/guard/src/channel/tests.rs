//! Steps through a replica's side of the protocol: what happened, and what is to be done.

use super::*;
use crate::protocol::Event;
use crate::slots::Touched;

// What was ended plays no part here.
type Action = super::Action<u8>;
type Input = super::Input<u8>;
type LogEntry = super::LogEntry<u8>;
type Renewal = super::Renewal<u8>;

fn now(millis: u64) -> Now {
    let (moment, time) = (Moment::from_millis(millis), Timestamp::from_millis(millis));
    Now { moment, time, random: millis, term: Term::Epoch(1), acknowledged: 0 }
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

fn identity() -> Identity {
    Identity { id: "a".to_owned(), name: "a".to_owned(), grace: Duration::ZERO, version: "1".to_owned(), format: 3 }
}

/// Attached at entry 3 since 20, with a lease from 10.
fn attached() -> Channel {
    let mut channel = Channel::new(identity(), 0, Timestamp::default());
    channel.take(&now(1), Input::Connected);
    channel.take(&now(5), renewed(1, Renewal::Resync(head(3))));
    assert_eq!(channel.own().state, MemberState::Syncing);
    let actions = channel.take(&now(20), renewed(10, ahead(3, &[])));
    assert_eq!(actions, [Action::Lease(Moment::from_millis(810)), Action::Listen { after: 3 }]);
    // It has been for long.
    channel.risen_at = None;
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
    for renewal in [Renewal::Resync(head(9)), Renewal::Ahead { head: other, entries: Vec::new() }] {
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

fn after_failover(millis: u64) -> Now {
    Now { term: Term::Epoch(2), ..now(millis) }
}

#[test]
fn a_store_that_went_back_is_followed_only_after_a_failover() {
    let mut channel = attached();
    let gone = || renewed(25, Renewal::Gone(head(2)));
    let actions = channel.take(&now(30), gone());
    assert_eq!(actions, [Action::Seal(Loss::Changes { known: 3, head: 2 }), Action::Listen { after: 3 }]);
    assert_eq!(channel.own().state, MemberState::Sealed);
    assert_eq!(channel.take(&now(40), gone()), [Action::Listen { after: 3 }]);
    channel.take(&now(10_031), gone());
    assert_eq!(channel.take(&after_failover(10_031), gone()), [Action::Listen { after: 3 }], "a later failover");
    // What it knew is back.
    let actions = channel.take(&now(10_040), renewed(10_035, ahead(4, &[4])));
    assert!(actions.contains(&Action::Unseal) && actions.contains(&Action::Adopt(head(4))), "{actions:?}");

    // A failover that becomes known only now.
    let mut channel = attached();
    channel.take(&now(30), gone());
    let actions = channel.take(&after_failover(2_000), gone());
    assert!(actions.contains(&Action::Unseal) && actions.contains(&Action::Adopt(head(2))), "{actions:?}");
    // It explains what it brought, and nothing that comes later.
    channel.take(&after_failover(2_004), Input::Connected);
    channel.take(&after_failover(2_010), renewed(2_005, ahead(2, &[])));
    let actions = channel.take(&after_failover(2_020), renewed(2_015, Renewal::Gone(head(1))));
    assert_eq!(actions[0], Action::Seal(Loss::Changes { known: 2, head: 1 }));
}

#[test]
fn a_failover_explains_what_comes_shortly_after_it_was_heard_of() {
    let gone = |sent| renewed(sent, Renewal::Gone(head(2)));
    // It is counted already, and the deposed primary still answers.
    let heard = || {
        let mut channel = attached();
        channel.take(&now(30), Input::Failed);
        channel.take(&after_failover(100), Input::Connected);
        let actions = channel.take(&after_failover(110), renewed(105, ahead(3, &[])));
        assert!(matches!(actions[0], Action::Lease(_)), "{actions:?}");
        channel
    };
    let actions = heard().take(&after_failover(30_110), gone(30_105));
    assert!(actions.contains(&Action::Adopt(head(2))), "{actions:?}");
    let actions = heard().take(&after_failover(30_111), gone(30_106));
    assert_eq!(actions[0], Action::Seal(Loss::Changes { known: 3, head: 2 }));
    // Once.
    let mut channel = heard();
    channel.take(&after_failover(200), gone(190));
    channel.take(&after_failover(220), renewed(210, ahead(2, &[])));
    let actions = channel.take(&after_failover(240), renewed(230, Renewal::Gone(head(1))));
    assert_eq!(actions[0], Action::Seal(Loss::Changes { known: 2, head: 1 }));
}

#[test]
fn a_process_that_begins_during_a_failover_may_have_found_the_deposed_primary() {
    // Of none before it, or of one that has heard of no failover yet.
    let past = || attached().remembered();
    let begun = |term: Term, remembered: Option<Remembered>| {
        let mut channel = Channel::new(identity(), 0, Timestamp::default()).remembering(remembered.clone());
        let at = |millis| Now { term, ..now(millis) };
        channel.take(&at(1), Input::Connected);
        let first = if remembered.is_some() { ahead(3, &[]) } else { Renewal::Resync(head(3)) };
        channel.take(&at(5), renewed(1, first));
        let actions = channel.take(&at(10), renewed(8, ahead(3, &[])));
        assert!(matches!(actions[0], Action::Lease(_)), "{actions:?}");
        channel
    };
    let gone = |channel: &mut Channel, term: Term, millis: u64| {
        channel.take(&Now { term, ..now(millis) }, renewed(millis - 5, Renewal::Gone(head(2))))
    };
    let risen = Term::Epoch(2);
    for remembered in [None, past()] {
        let actions = gone(&mut begun(risen, remembered.clone()), risen, 30_010);
        assert!(actions.contains(&Action::Adopt(head(2))), "{remembered:?}: {actions:?}");
        let actions = gone(&mut begun(risen, remembered), risen, 30_011);
        assert_eq!(actions[0], Action::Seal(Loss::Changes { known: 3, head: 2 }));
    }
    // It explains one change of histories, and nothing where there was no failover since what is remembered.
    let mut channel = begun(risen, None);
    gone(&mut channel, risen, 100);
    channel.take(&Now { term: risen, ..now(120) }, renewed(110, ahead(2, &[])));
    let actions = channel.take(&Now { term: risen, ..now(140) }, renewed(130, Renewal::Gone(head(1))));
    assert_eq!(actions[0], Action::Seal(Loss::Changes { known: 2, head: 1 }));
    let actions = gone(&mut begun(Term::Epoch(1), past()), Term::Epoch(1), 100);
    assert_eq!(actions[0], Action::Seal(Loss::Changes { known: 3, head: 2 }));
    let actions = gone(&mut begun(Term::Fixed, None), Term::Fixed, 100);
    assert_eq!(actions[0], Action::Seal(Loss::Changes { known: 3, head: 2 }));
}

#[test]
fn a_failover_that_is_heard_of_while_connected_explains_nothing_much_later() {
    let mut channel = attached();
    let actions = channel.take(&after_failover(100), renewed(95, ahead(3, &[])));
    assert!(matches!(actions[..], [Action::DropLoads, Action::Connect { .. }]), "{actions:?}");
    channel.take(&after_failover(150), Input::Connected);
    let actions = channel.take(&after_failover(160), renewed(155, ahead(3, &[])));
    assert!(matches!(actions[0], Action::Lease(_)), "{actions:?}");
    let actions = channel.take(&after_failover(40_000), renewed(39_990, Renewal::Gone(head(2))));
    assert_eq!(actions[0], Action::Seal(Loss::Changes { known: 3, head: 2 }));
    // Nobody counts those of a service.
    let managed = |millis| Now { term: Term::Managed, ..now(millis) };
    let mut channel = attached();
    channel.take(&managed(30), Input::Failed);
    channel.take(&managed(90), Input::Connected);
    assert!(matches!(channel.take(&managed(100), renewed(95, ahead(3, &[])))[0], Action::Lease(_)));
}

#[test]
fn sentinels_that_are_silent_explain_nothing_and_exclude_nothing() {
    let untold = |millis| Now { term: Term::Untold, ..now(millis) };
    let gone = || renewed(25, Renewal::Gone(head(2)));
    let mut channel = attached();
    channel.take(&untold(26), Input::Failed);
    channel.take(&untold(27), Input::Connected);
    channel.take(&untold(28), renewed(27, ahead(3, &[])));
    assert_eq!(channel.remembered().map(|known| known.term), Some(Term::Epoch(1)), "what was told is still known");
    assert_eq!(channel.take(&untold(30), gone())[0], Action::Seal(Loss::Changes { known: 3, head: 2 }));
    assert_eq!(channel.refused(), None, "nobody is told before it is sure");
    assert!(channel.take(&after_failover(5_000), gone()).contains(&Action::Adopt(head(2))));
    let mut channel = attached();
    channel.take(&untold(30), gone());
    channel.take(&untold(10_031), gone());
    assert!(channel.refused().is_some());
}

#[test]
fn what_a_failover_explains_is_told() {
    let told = |actions: Vec<Action>| {
        let told =
            actions.into_iter().find_map(|action| if let Action::Tell(told) = action { Some(told) } else { None });
        told.map(|told| told.to_string()).unwrap_or_default()
    };
    let gone = || renewed(25, Renewal::Gone(head(1)));
    let by_failover = told(attached().take(&after_failover(30), gone()));
    assert_eq!(
        by_failover,
        "the store went back by 2 changes: it has 1, and 3 were known here; explained by the failover from configuration epoch 1 \
         to 2"
    );
    let managed = told(attached().take(&Now { term: Term::Managed, ..now(30) }, gone()));
    assert!(managed.ends_with("explained by `store.redis.failover: managed`"), "{managed}");
    assert_eq!(told(attached().take(&now(30), gone())), "", "it is refused");
    assert_eq!(
        told(attached().take(&now(30), renewed(25, Renewal::Resync(head(9))))),
        "",
        "nothing is known to be lost"
    );
}

#[test]
fn a_lower_epoch_neither_explains_nor_excludes_a_failover() {
    let anew = |millis| Now { term: Term::Epoch(0), ..now(millis) };
    let mut channel = attached();
    let actions = channel.take(&anew(30), renewed(25, Renewal::Gone(head(2))));
    assert_eq!(actions[0], Action::Seal(Loss::Uncounted { known: 3, head: 2 }));
    // Those who count from there on are believed from then on.
    let mut channel = attached();
    channel.take(&now(30), Input::Failed);
    channel.take(&anew(100), Input::Connected);
    channel.take(&anew(110), renewed(105, ahead(3, &[])));
    let actions = channel.take(&now(40_000), renewed(39_990, Renewal::Gone(head(2))));
    assert!(actions.contains(&Action::Adopt(head(2))), "{actions:?}");
}

#[test]
fn who_has_never_had_a_lease_may_have_followed_a_deposed_primary() {
    let adopted = || {
        let mut channel = Channel::new(identity(), 0, Timestamp::default());
        channel.take(&now(1), Input::Connected);
        channel.take(&now(5), renewed(1, Renewal::Resync(head(3))));
        assert_eq!(channel.remembered(), None);
        channel
    };
    let gone = || renewed(10, Renewal::Gone(head(2)));
    assert!(adopted().take(&now(20), gone()).contains(&Action::Adopt(head(2))));
    let fixed = Now { term: Term::Fixed, ..now(20) };
    assert_eq!(adopted().take(&fixed, gone())[0], Action::Seal(Loss::Changes { known: 3, head: 2 }));
}

#[test]
fn what_was_acknowledged_here_is_missed_before_it_was_heard_of() {
    let acknowledged = |now: Now| Now { acknowledged: 4, ..now };
    let gone = || renewed(25, Renewal::Gone(head(3)));
    let actions = attached().take(&acknowledged(now(30)), gone());
    assert_eq!(actions[0], Action::Seal(Loss::Changes { known: 4, head: 3 }));
    let actions = attached().take(&acknowledged(after_failover(30)), gone());
    assert_eq!(actions[..2], [Action::DropLoads, Action::Adopt(head(3))]);
    let mut channel = attached();
    let actions = channel.take(&acknowledged(now(30)), renewed(25, ahead(4, &[4])));
    assert!(actions.contains(&Action::Lease(Moment::from_millis(825))), "{actions:?}");
}

#[test]
fn a_log_that_does_not_end_at_the_head_is_a_loss_for_everybody() {
    let short = || renewed(25, Renewal::Short { head: head(3), log: 0 });
    for now in [now(30), after_failover(30), Now { term: Term::Managed, ..now(30) }] {
        let actions = attached().take(&now, short());
        assert_eq!(actions[0], Action::Seal(Loss::Log { head: 3, log: 0 }));
    }
    let mut newcomer = Channel::new(identity(), 0, Timestamp::default());
    newcomer.take(&now(1), Input::Connected);
    assert_eq!(newcomer.take(&now(30), short())[0], Action::Seal(Loss::Log { head: 3, log: 0 }));
}

#[test]
fn a_lineage_that_was_left_does_not_come_back() {
    let mut channel = attached();
    let other = Head { lineage: "two".to_owned(), ..head(9) };
    channel.take(&now(30), renewed(25, Renewal::Gone(other)));
    let remembered = channel.remembered();
    assert_eq!(remembered.as_ref().unwrap().left, ["one"]);
    for renewal in [Renewal::Gone(head(5)), ahead(9, &[]), Renewal::Resync(head(20))] {
        let mut channel = Channel::new(identity(), 0, Timestamp::default()).remembering(remembered.clone());
        channel.take(&now(35), Input::Connected);
        let actions = channel.take(&now(40), renewed(36, renewal));
        assert_eq!(actions[0], Action::Seal(Loss::Left { lineage: "one".to_owned() }));
    }
}

#[test]
fn a_lineage_that_the_store_says_to_be_over_does_not_come_back() {
    let former = ["zero", "two", "one"].map(str::to_owned);
    let of = |remembered| Channel::new(identity(), 0, Timestamp::default()).remembering(remembered);
    let mut channel = of(None).having_left(former[..2].to_vec());
    channel.take(&now(1), Input::Connected);
    channel.take(&now(5), renewed(1, Renewal::Resync(head(3))));
    channel.take(&now(10), renewed(8, ahead(3, &[])));
    let remembered = channel.remembered();
    assert_eq!(remembered.as_ref().unwrap().left, former[..2]);
    let mut channel = of(remembered.clone());
    channel.take(&now(20), Input::Connected);
    let older = Head { lineage: "two".to_owned(), ..head(9) };
    let actions = channel.take(&now(30), renewed(25, Renewal::Gone(older)));
    assert_eq!(actions[0], Action::Seal(Loss::Left { lineage: "two".to_owned() }));
    // One that was stopped meanwhile is of the store as it is, though its own is a former one.
    let mut channel = of(remembered).having_left(former.to_vec());
    channel.take(&now(20), Input::Connected);
    let newer = Head { lineage: "three".to_owned(), ..head(9) };
    let actions = channel.take(&now(30), renewed(25, Renewal::Gone(newer.clone())));
    assert!(actions.contains(&Action::Adopt(newer)), "{actions:?}");
    assert_eq!(channel.remembered().unwrap().left, former);
}

#[test]
fn what_another_process_has_known_is_looked_for() {
    let remembered = attached().remembered();
    let begun = || {
        let mut channel = Channel::new(identity(), 0, Timestamp::default()).remembering(remembered.clone());
        let actions = channel.take(&now(1), Input::Connected);
        assert!(matches!(&actions[..], [Action::Renew { member, .. }] if member.position == position(3)));
        channel
    };
    let actions = begun().take(&now(5), renewed(1, Renewal::Gone(head(2))));
    assert_eq!(actions[0], Action::Seal(Loss::Changes { known: 3, head: 2 }));
    let actions = begun().take(&after_failover(5), renewed(1, Renewal::Gone(head(2))));
    assert!(actions.contains(&Action::Adopt(head(2))));
    // Nothing is cached yet, so there is nothing to hear of.
    let actions = begun().take(&now(5), renewed(1, ahead(5, &[4, 5])));
    assert!(actions.contains(&Action::Adopt(head(5))), "{actions:?}");
}

#[test]
fn failovers_that_nobody_tells_of_explain_everything_but_a_broken_log() {
    let managed = Now { term: Term::Managed, ..now(30) };
    let actions = attached().take(&managed, renewed(25, Renewal::Gone(head(2))));
    assert!(actions.contains(&Action::Adopt(head(2))), "{actions:?}");
}

#[test]
fn a_lost_head_seals_until_there_is_one_again() {
    let mut channel = attached();
    let actions = channel.take(&now(30), renewed(25, Renewal::Lost));
    assert_eq!(actions, [Action::Seal(Loss::Head), Action::Listen { after: 3 }]);
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
    let mut channel = Channel::new(identity(), 7, Timestamp::default()).still_sealed(true);
    channel.take(&now(1), Input::Connected);
    assert_eq!(channel.own().state, MemberState::Sealed);
    let actions = channel.take(&now(5), renewed(1, Renewal::Resync(head(3))));
    assert!(actions.contains(&Action::Unseal), "{actions:?}");
}

#[test]
fn another_connection_is_settled_anew() {
    let mut channel = attached();
    assert!(matches!(channel.take(&now(30), Input::Rang)[..], [Action::Renew { settle: false, .. }]));
    channel.take(&now(40), Input::Failed);
    // It may lead to another primary, whose replicas know nothing of this one.
    assert!(matches!(channel.take(&now(50), Input::Connected)[..], [Action::Renew { settle: true, .. }]));
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
            let mut tried = Channel { failures: channel.failures, ..attached() };
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
