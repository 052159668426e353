//! What the peers of a door may hold together, and who gives way.

use futures_util::FutureExt;

use super::*;
use crate::server::places::{ConnectionLimits, PeerStage, Place, Places};

const CONNECTION_LIMITS: ConnectionLimits = ConnectionLimits { places: 9, strangers: 9, share: 9, cuts_answers: true };

/// By the known, and by strangers.
fn held(budget: &Budget) -> (usize, usize) {
    (budget.known.load(Ordering::Relaxed), budget.strangers.load(Ordering::Relaxed))
}

struct Peer {
    place: Place,
    account: Arc<Account>,
}

impl Peer {
    fn of(places: &Arc<Places>, budget: &Arc<Budget>, stage: PeerStage) -> Self {
        let place = places.enter(None).unwrap();
        place.peer_state().set(stage);
        let account = budget.open(Arc::clone(place.peer_state()));
        Self { place, account }
    }

    fn is_closed(&self) -> bool {
        self.place.taken_away().now_or_never().is_some()
    }
}

#[test]
fn the_stranger_that_holds_most_is_closed_and_all_is_given_back() {
    let (places, budget) = (Places::new(CONNECTION_LIMITS), Budget::new());
    let [small, large, known] =
        [PeerStage::Idle, PeerStage::Idle, PeerStage::Known].map(|stage| Peer::of(&places, &budget, stage));
    let mut messages = [small.account.message(), known.account.message()];
    let mut largest = large.account.message();
    messages[0].grow(1 << 20).unwrap();
    largest.grow(STRANGERS - (2 << 20)).unwrap();
    // Within its own, whatever the others hold.
    let own = small.account.hold(OWN / 2);
    assert!(!large.is_closed());
    for _ in 0..2 {
        assert_eq!(messages[0].grow(2 << 20), Err(Exhausted));
    }
    assert!(large.is_closed() && !small.is_closed(), "one at a time");
    // There is room when it has gone.
    drop((large, largest));
    messages[0].grow(2 << 20).unwrap();
    messages[1].grow(LIMIT).unwrap();
    assert!(!known.is_closed());
    drop((messages, own));
    assert_eq!(held(&budget), (0, 0));
}

#[test]
fn a_stranger_that_holds_most_itself_is_the_one_to_go() {
    let (places, budget) = (Places::new(CONNECTION_LIMITS), Budget::new());
    let stranger = Peer::of(&places, &budget, PeerStage::Idle);
    assert_eq!(stranger.account.hold(LIMIT).unwrap_err(), Exhausted);
    assert!(stranger.is_closed());
    assert_eq!(held(&budget), (0, 0));
}

#[test]
fn among_the_known_the_largest_message_is_refused_and_nobody_closed() {
    let (places, budget) = (Places::new(CONNECTION_LIMITS), Budget::new());
    let peers = [(); 2].map(|()| Peer::of(&places, &budget, PeerStage::Known));
    let mut large = peers[0].account.message();
    let mut small = peers[1].account.message();
    large.grow(LIMIT - (1 << 20)).unwrap();
    small.grow(2 << 20).unwrap();
    assert!(large.refused().now_or_never().is_some());
    assert!(small.refused().now_or_never().is_none());
    // Its own is the largest: refused itself.
    assert!(small.grow(LIMIT).is_err());
    assert!(!peers[0].is_closed() && !peers[1].is_closed());
}

#[test]
fn a_strangers_message_that_is_too_long_is_refused_and_nobody_closed() {
    let (places, budget) = (Places::new(CONNECTION_LIMITS), Budget::new());
    let [stranger, other] = [(); 2].map(|()| Peer::of(&places, &budget, PeerStage::Idle));
    let mut message = stranger.account.message();
    message.grow(STRANGERS / 4 * 3).unwrap();
    assert_eq!(message.grow(STRANGERS), Err(Exhausted));
    assert!(!stranger.is_closed());
    // Where it keeps others out, it is.
    assert_eq!(other.account.message().grow(STRANGERS / 4 + 4 * OWN), Err(Exhausted));
    assert!(stranger.is_closed() && !other.is_closed());
}

#[test]
fn a_stranger_that_does_not_leave_is_waited_for_but_not_for_ever() {
    let (places, budget) = (Places::new(CONNECTION_LIMITS), Budget::new());
    let [large, medium, small] = [(); 3].map(|()| Peer::of(&places, &budget, PeerStage::Idle));
    let _held = large.account.hold(STRANGERS / 8 * 4).unwrap();
    let _less = medium.account.hold(STRANGERS / 8 * 3).unwrap();
    let is_refused = || small.account.hold(STRANGERS / 8 + 4 * OWN).is_err();
    assert!(is_refused() && large.is_closed() && !medium.is_closed());
    while !medium.is_closed() {
        assert!(is_refused());
        std::thread::yield_now();
    }
    assert!(!small.is_closed());
}

#[test]
fn a_message_that_has_arrived_is_not_there_to_be_refused() {
    let (places, budget) = (Places::new(CONNECTION_LIMITS), Budget::new());
    let peers = [(); 2].map(|()| Peer::of(&places, &budget, PeerStage::Known));
    let [mut large, mut medium] = peers.each_ref().map(|peer| peer.account.message());
    large.grow(LIMIT / 2).unwrap();
    medium.grow(LIMIT / 4).unwrap();
    let _arrived = large.complete();
    peers[1].account.message().grow(LIMIT / 4 + KNOWN_CHUNK).unwrap();
    assert!(medium.refused().now_or_never().is_some());
}

#[test]
fn one_that_is_known_and_reads_nothing_is_closed_before_others_are_refused() {
    let (places, budget) = (Places::new(CONNECTION_LIMITS), Budget::new());
    let [unread, also, envoy] = [(); 3].map(|()| Peer::of(&places, &budget, PeerStage::Known));
    let answers = unread.account.hold(LIMIT - TOO_LARGE).unwrap();
    let more = also.account.hold(TOO_LARGE / 2).unwrap();
    let checks: Vec<_> = (0..3).map(|_| envoy.account.hold(TOO_LARGE / 4).unwrap()).collect();
    assert!(unread.is_closed() && !also.is_closed() && !envoy.is_closed());
    drop((answers, unread));
    // Nobody has many times as much as the other.
    let _own = also.account.hold(LIMIT - 2 * TOO_LARGE).unwrap();
    assert!(envoy.account.hold(LIMIT / 2).is_err());
    assert!(!also.is_closed() && !envoy.is_closed());
    drop((more, checks));
}

#[test]
fn what_came_is_answered_before_more_is_read() {
    let (places, budget) = (Places::new(CONNECTION_LIMITS), Budget::new());
    let peer = Peer::of(&places, &budget, PeerStage::Known);
    let account = &peer.account;
    account.begin_turn(false);
    account.has_read(TURN - 1);
    assert!(account.may_read() == 1 && !account.is_paused());
    account.has_read(1);
    assert!(account.may_read() == 0 && account.is_paused());
    account.begin_turn(false);
    assert!(account.may_read() == TURN && !account.is_paused());
    let answer = account.hold(OWN + 1).unwrap().until_dropped(vec![1, 2]);
    assert_eq!((&*answer, held(&budget)), ([1, 2].as_slice(), (KNOWN_CHUNK, 0)));
    drop(answer);
    assert_eq!(held(&budget), (0, 0));
}

#[test]
fn whoever_is_vouched_for_is_counted_apart_and_takes_nothing_from_the_known() {
    let (places, budget) = (Places::new(CONNECTION_LIMITS), Budget::new());
    let home = Some(std::net::IpAddr::from([192, 0, 2, 1]));
    let come = || {
        let place = places.enter(home).unwrap();
        let account = budget.open(Arc::clone(place.peer_state()));
        Peer { place, account }
    };
    let known = come();
    known.place.peer_state().set(PeerStage::Known);
    let (first, second) = (come(), come());
    let large = first.account.hold(VOUCHED).unwrap();
    assert_eq!((held(&budget), budget.vouched.load(Ordering::Relaxed)), ((0, 0), VOUCHED - OWN));
    assert_eq!(second.account.hold(OWN + CHUNK + 1).err(), Some(Exhausted));
    assert!(first.is_closed() && !known.is_closed(), "the one that holds most");
    let much = known.account.hold(LIMIT).unwrap();
    drop((large, first));
    assert_eq!(budget.vouched.load(Ordering::Relaxed), 0);
    let own = second.account.hold(OWN + CHUNK).unwrap();
    second.place.peer_state().trust();
    drop((own, much));
    assert_eq!((held(&budget), budget.vouched.load(Ordering::Relaxed)), ((0, 0), 0));
}

#[test]
fn a_peer_that_turns_out_to_be_known_is_counted_among_them() {
    let (places, budget) = (Places::new(CONNECTION_LIMITS), Budget::new());
    let peer = Peer::of(&places, &budget, PeerStage::Idle);
    peer.account.has_received(OWN + 1).unwrap();
    assert_eq!(held(&budget), (0, CHUNK));
    peer.place.peer_state().trust();
    let more = peer.account.hold(CHUNK).unwrap();
    assert_eq!(held(&budget), (CHUNK + KNOWN_CHUNK, 0));
    // More than there is for the known is not counted, and nobody is hung up on.
    peer.account.has_received(LIMIT).unwrap();
    assert!(!peer.is_closed() && peer.account.hold(LIMIT).is_err());
    peer.account.was_answered();
    drop(more);
    assert_eq!(held(&budget), (0, 0));
}
