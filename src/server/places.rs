//! The connections of one door: each has a place, and where there is none left, a peer that does nothing with its place gives
//! it up for the next. Never takes a place from a peer that is known.
//!
//! A peer that does not read what it was answered goes first, then one that has yet to say something whole, then one that is idle;
//! among them first those whose network holds more than its share, and then whoever has been so for the longest time. Some go
//! together, so that a crowd that comes again and again is not looked through for each of them, and some room is left to those who
//! have only just come, so that there is time to speak. Whoever comes from where somebody known has come from lately goes last.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::login::network_of;

/// How many connections a door has at a time.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    pub places: usize,
    /// Of these for peers that are not known.
    pub strangers: usize,
    /// What one network may hold while others wait.
    pub share: usize,
    /// Whether even a peer that is being answered goes, where there is no other. Of a network with more than its share a stranger always
    /// does.
    pub cuts_answers: bool,
}

/// Of the peers that are not known, one part in so many leaves at a time.
const TOGETHER: usize = 32;
/// The same for those who have yet to speak: while they hold no more than this part, the idle make room for them.
const LISTENED_TO: usize = 8;
/// For so long after they came they may hold as much as this part.
const YOUNG: Duration = Duration::from_millis(200);
const YOUNG_LISTENED_TO: usize = 2;
/// For so long after somebody known came from a network, whoever else comes from there goes last: an Envoy that connects again.
const VOUCHED: Duration = Duration::from_secs(10 * 60);
/// Networks of which that is remembered; the one whose last is the longest ago is forgotten for another.
const MOST_VOUCHED: usize = 4_096;

/// How far a peer has come. The order is that in which places are taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerStage {
    /// It has said nothing yet, or a part.
    Arriving,
    /// It has said something whole and was answered.
    Idle,
    /// It is being answered.
    Busy,
    /// It has proved who it is: its place is never taken away.
    Known,
}

impl PeerStage {
    fn of(number: u8) -> Self {
        match number {
            0 => Self::Arriving,
            1 => Self::Idle,
            2 => Self::Busy,
            _ => Self::Known,
        }
    }
}

/// The order in which strangers leave.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum EvictionRank {
    Unread,
    Unheard,
    Idle,
    /// As yet unheard, while these are few.
    JustCome,
    /// Being answered.
    Answered,
    /// From where somebody known has come from, within the share of one network.
    Vouched,
}

impl EvictionRank {
    const COUNT: usize = 6;
    const ALL: [Self; Self::COUNT] =
        [Self::Unread, Self::Unheard, Self::Idle, Self::JustCome, Self::Answered, Self::Vouched];
}

/// The places of one door.
pub struct Places {
    room: ConnectionLimits,
    start: Instant,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    next: u64,
    seats: HashMap<u64, Arc<PeerState>>,
    networks: HashMap<IpAddr, Arc<AtomicUsize>>,
    /// From where somebody known has come, and when that was seen last, in milliseconds after the door was opened.
    vouched: HashMap<IpAddr, u64>,
}

/// What a connection has of its door until this is dropped.
#[derive(Debug)]
pub struct Place {
    places: Arc<Places>,
    peer_state: Arc<PeerState>,
}

/// How far the peer of one connection has come. Told by whatever serves it.
pub struct PeerState {
    number: u64,
    places: Weak<Places>,
    start: Instant,
    stage: AtomicU8,
    /// Since when, in milliseconds after the door was opened.
    since: AtomicU64,
    /// It has brought a good credential at least once, though its place may be taken away.
    is_trusted: AtomicBool,
    /// It came from where somebody known had come from lately.
    is_vouched_for: AtomicBool,
    /// It takes nothing more of what is there for it.
    is_full: AtomicBool,
    network: Mutex<Option<Network>>,
    leave: Notify,
}

/// There is no place left, and nobody gives theirs up.
struct Full;

struct Network {
    address: IpAddr,
    /// Places that it holds.
    holds: Arc<AtomicUsize>,
}

impl fmt::Debug for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Places").field("room", &self.room).finish_non_exhaustive()
    }
}

impl fmt::Debug for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerState").field("stage", &self.stage()).finish_non_exhaustive()
    }
}

impl Places {
    pub fn new(room: ConnectionLimits) -> Arc<Self> {
        Arc::new(Self { room, start: Instant::now(), inner: Mutex::default() })
    }

    /// A place for a connection, perhaps another one's; `None` if nobody's can be taken away.
    pub fn enter(self: &Arc<Self>, peer: Option<IpAddr>) -> Option<Place> {
        let mut inner = self.lock();
        loop {
            let leaving = self.next_to_leave(&inner).ok()?;
            if leaving.is_empty() {
                break;
            }
            for peer_state in leaving {
                inner.remove(&peer_state);
                peer_state.leave.notify_one();
            }
        }
        inner.next += 1;
        let peer_state = Arc::new(PeerState {
            number: inner.next,
            places: Arc::downgrade(self),
            start: self.start,
            stage: AtomicU8::new(PeerStage::Arriving as u8),
            since: AtomicU64::default(),
            is_trusted: AtomicBool::default(),
            is_vouched_for: AtomicBool::default(),
            is_full: AtomicBool::default(),
            network: Mutex::default(),
            leave: Notify::new(),
        });
        peer_state.set(PeerStage::Arriving);
        inner.name(&peer_state, peer);
        inner.seats.insert(peer_state.number, Arc::clone(&peer_state));
        Some(Place { places: Arc::clone(self), peer_state })
    }

    /// Connections that are open, but for those that are about to leave.
    pub fn taken(&self) -> usize {
        self.lock().seats.len()
    }

    /// Whose places are to be taken away for one more: nobody's, if there is room.
    fn next_to_leave(&self, inner: &Inner) -> Result<Vec<Arc<PeerState>>, Full> {
        let ConnectionLimits { places, strangers, share, cuts_answers } = self.room;
        if inner.seats.len() < places.min(strangers) {
            return Ok(Vec::new());
        }
        let stages = inner.seats.values().map(|peer_state| (peer_state.stage(), peer_state));
        let unknown: Vec<_> = stages.filter(|(stage, _)| *stage != PeerStage::Known).collect();
        if inner.seats.len() < places && unknown.len() < strangers {
            return Ok(Vec::new());
        }
        let arriving = unknown.iter().filter(|(stage, _)| *stage == PeerStage::Arriving).count();
        let now = since(self.start);
        let is_listened_to = |peer_state: &PeerState| {
            let is_young = now < peer_state.since.load(Ordering::Relaxed).saturating_add(YOUNG.as_millis() as u64);
            arriving <= strangers / if is_young { YOUNG_LISTENED_TO } else { LISTENED_TO }
        };
        let is_within_share = |peer_state: &PeerState| peer_state.network_holds() <= share;
        let is_cut = |peer_state: &PeerState| cuts_answers || !is_within_share(peer_state) && !peer_state.is_trusted();
        let may_leave =
            unknown.into_iter().filter(|(stage, peer_state)| *stage != PeerStage::Busy || is_cut(peer_state));
        let mut in_turn = [0; EvictionRank::COUNT];
        let mut ranked: Vec<_> = may_leave
            .map(|(stage, peer_state)| {
                let is_within_share = is_within_share(peer_state);
                let turn = match stage {
                    _ if is_within_share && peer_state.is_vouched_for() && !peer_state.is_full() => {
                        EvictionRank::Vouched
                    }
                    PeerStage::Busy if !cuts_answers => EvictionRank::Idle,
                    PeerStage::Busy | PeerStage::Known => EvictionRank::Answered,
                    _ if peer_state.is_full() => EvictionRank::Unread,
                    PeerStage::Arriving if !is_listened_to(peer_state) => EvictionRank::Unheard,
                    PeerStage::Idle => EvictionRank::Idle,
                    PeerStage::Arriving => EvictionRank::JustCome,
                };
                in_turn[turn as usize] += 1;
                ((turn, is_within_share, peer_state.since.load(Ordering::Relaxed), peer_state.number), peer_state)
            })
            .collect();
        let Some((turn, of_these)) = EvictionRank::ALL.into_iter().zip(in_turn).find(|(_, count)| *count > 0) else {
            return Err(Full);
        };
        let together = match turn {
            EvictionRank::Unread | EvictionRank::Idle => of_these,
            EvictionRank::Unheard => of_these / 2,
            EvictionRank::JustCome | EvictionRank::Answered | EvictionRank::Vouched => 1,
        };
        let count = together.min(strangers / TOGETHER).max(1);
        ranked.select_nth_unstable_by_key(count - 1, |(rank, _)| *rank);
        Ok(ranked[..count].iter().map(|(_, peer_state)| Arc::clone(peer_state)).collect())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn remove(&mut self, peer_state: &PeerState) {
        if self.seats.remove(&peer_state.number).is_some() {
            // It may come again.
            if let Some(network) = peer_state.network().filter(|_| peer_state.is_trusted()) {
                self.vouch(network, since(peer_state.start));
            }
            self.name(peer_state, None);
        }
    }

    /// Whether somebody known has come from this network lately.
    fn vouches_for(&self, network: IpAddr, now: u64) -> bool {
        let lasts = |last: &u64| now < last.saturating_add(VOUCHED.as_millis() as u64);
        self.vouched.get(&network).is_some_and(lasts)
    }

    fn vouch(&mut self, network: IpAddr, now: u64) {
        if self.vouched.len() >= MOST_VOUCHED && !self.vouched.contains_key(&network) {
            let oldest = self.vouched.iter().min_by_key(|(_, last)| **last).map(|(network, _)| *network);
            oldest.and_then(|oldest| self.vouched.remove(&oldest));
        }
        self.vouched.insert(network, now);
    }

    /// Counts a peer among those of a network, and no longer among those of another.
    fn name(&mut self, peer_state: &PeerState, peer: Option<IpAddr>) {
        let mut network = peer_state.network.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Network { address, holds }) = network.take()
            && holds.fetch_sub(1, Ordering::Relaxed) == 1
        {
            self.networks.remove(&address);
        }
        *network = peer.map(|peer| {
            let address = network_of(peer);
            let holds = Arc::clone(self.networks.entry(address).or_default());
            holds.fetch_add(1, Ordering::Relaxed);
            peer_state.is_vouched_for.store(self.vouches_for(address, since(peer_state.start)), Ordering::Relaxed);
            Network { address, holds }
        });
    }
}

impl Place {
    /// For whatever serves the connection.
    pub fn peer_state(&self) -> &Arc<PeerState> {
        &self.peer_state
    }

    /// Returns when somebody else has got this place, or it was given up.
    pub async fn taken_away(&self) {
        self.peer_state.leave.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock().remove(&self.peer_state);
    }
}

impl PeerState {
    pub fn stage(&self) -> PeerStage {
        PeerStage::of(self.stage.load(Ordering::Relaxed))
    }

    /// How far the peer is from now on. One that is known stays known.
    pub fn set(&self, stage: PeerStage) {
        self.since.store(since(self.start), Ordering::Relaxed);
        let next = |now| (now < PeerStage::Known as u8).then_some(stage as u8);
        let changed = self.stage.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next).is_ok();
        if changed && stage == PeerStage::Known {
            self.vouch();
        }
    }

    /// Its peer has brought a good credential.
    pub fn trust(&self) {
        if !self.is_trusted.swap(true, Ordering::Relaxed) {
            self.vouch();
        }
    }

    /// Whoever comes from where this one comes from is believed to be no stranger, for a while.
    fn vouch(&self) {
        if let (Some(places), Some(network)) = (self.places.upgrade(), self.network()) {
            places.lock().vouch(network, since(self.start));
        }
    }

    pub fn is_trusted(&self) -> bool {
        self.stage() == PeerStage::Known || self.is_trusted.load(Ordering::Relaxed)
    }

    pub fn is_vouched_for(&self) -> bool {
        self.is_vouched_for.load(Ordering::Relaxed)
    }

    /// Whether the peer leaves unread what is there for it.
    pub fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// As [`Self::is_full`] tells it.
    pub fn set_full(&self, is_full: bool) {
        self.is_full.store(is_full, Ordering::Relaxed);
    }

    /// The connection is to be closed.
    pub fn give_up(&self) {
        self.leave.notify_one();
    }

    /// The peer is another one than is connected: Envoy speaks for it.
    pub fn speaks_for(&self, client: IpAddr) {
        let Some(places) = self.places.upgrade() else { return };
        let mut inner = places.lock();
        // One that was told to leave counts no longer.
        if inner.seats.contains_key(&self.number) {
            inner.name(self, Some(client));
        }
    }

    fn network(&self) -> Option<IpAddr> {
        self.network.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|network| network.address)
    }

    fn network_holds(&self) -> usize {
        let network = self.network.lock().unwrap_or_else(PoisonError::into_inner);
        network.as_ref().map_or(0, |network| network.holds.load(Ordering::Relaxed))
    }
}

/// Milliseconds.
fn since(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const CONNECTION_LIMITS: ConnectionLimits =
        ConnectionLimits { places: 6, strangers: 4, share: 2, cuts_answers: false };

    fn from(n: u8) -> Option<IpAddr> {
        Some(IpAddr::from([127, 0, 0, n]))
    }

    /// Of a door that has been open for a while.
    fn open(room: ConnectionLimits) -> Arc<Places> {
        let start = Instant::now().checked_sub(Duration::from_secs(1)).unwrap();
        Arc::new(Places { room, start, inner: Mutex::default() })
    }

    /// They have had time to speak.
    fn wait(seated: &[Place]) {
        seated.iter().for_each(|place| place.peer_state().since.store(0, Ordering::Relaxed));
    }

    fn is_told_to_leave(place: &Place) -> bool {
        place.taken_away().now_or_never().is_some()
    }

    #[test]
    fn the_oldest_that_has_not_spoken_goes_first_and_then_the_oldest_that_is_idle() {
        let places = open(CONNECTION_LIMITS);
        let seated: Vec<Place> = (0..4).map(|n| places.enter(from(n)).unwrap()).collect();
        wait(&seated);
        seated[0].peer_state().set(PeerStage::Idle);
        seated[1].peer_state().set(PeerStage::Busy);
        let fifth = places.enter(from(5)).unwrap();
        assert!(is_told_to_leave(&seated[2]) && !is_told_to_leave(&seated[3]));
        let sixth = places.enter(from(6)).unwrap();
        assert!(is_told_to_leave(&seated[3]));
        fifth.peer_state().set(PeerStage::Busy);
        sixth.peer_state().set(PeerStage::Busy);
        let seventh = places.enter(from(7)).unwrap();
        assert!(is_told_to_leave(&seated[0]));
        seventh.peer_state().set(PeerStage::Busy);
        assert!(places.enter(from(8)).is_none(), "all are being answered");
        assert_eq!(places.taken(), 4);
        drop((seated, fifth, sixth, seventh));
        assert_eq!(places.taken(), 0);
        assert!(places.lock().networks.is_empty());
    }

    #[test]
    fn a_crowd_leaves_together_and_whoever_has_just_come_is_listened_to() {
        let places = Places::new(ConnectionLimits { places: 64, strangers: 64, share: 1, cuts_answers: false });
        let silent: Vec<Place> = (0..64).map(|n| places.enter(from(n)).unwrap()).collect();
        let next = places.enter(from(64)).unwrap();
        assert_eq!(
            silent.iter().map(is_told_to_leave).collect::<Vec<_>>(),
            [[true; 2].as_slice(), &[false; 62]].concat()
        );
        assert_eq!(places.taken(), 63);
        silent[2..].iter().for_each(|place| place.peer_state().set(PeerStage::Idle));
        let more: Vec<Place> = (65..96).map(|n| places.enter(from(n)).unwrap()).collect();
        assert!(!is_told_to_leave(&next) && !more.iter().any(is_told_to_leave), "half have time to speak");
        assert_eq!(silent[2..].iter().filter(|place| is_told_to_leave(place)).count(), 30);
        let _next = [96, 97, 98].map(|n| places.enter(from(n)).unwrap());
        assert!(is_told_to_leave(&next) && is_told_to_leave(&more[0]), "and no more than that");
    }

    #[test]
    fn whoever_has_had_time_to_speak_goes_before_the_idle_but_for_a_few() {
        let places = open(ConnectionLimits { places: 16, strangers: 16, share: 16, cuts_answers: false });
        let seated: Vec<Place> = (0..16).map(|n| places.enter(from(n)).unwrap()).collect();
        seated[3..].iter().for_each(|place| place.peer_state().set(PeerStage::Idle));
        wait(&seated[..2]);
        let _next = places.enter(None).unwrap();
        assert!(is_told_to_leave(&seated[0]) && !seated[1..].iter().any(is_told_to_leave));
        seated[2].peer_state().set(PeerStage::Idle);
        let _next = places.enter(None).unwrap();
        assert!(!is_told_to_leave(&seated[1]), "two may be heard for longer");
    }

    #[test]
    fn whoever_is_known_keeps_the_place_and_has_room_kept() {
        let places = Places::new(CONNECTION_LIMITS);
        let known: Vec<Place> = (0..6)
            .map(|n| {
                let place = places.enter(from(n)).unwrap();
                place.peer_state().set(PeerStage::Known);
                place
            })
            .collect();
        assert!(places.enter(from(9)).is_none());
        drop(known.into_iter().skip(1).collect::<Vec<_>>());
        let strangers: Vec<Place> = (0..4).map(|n| places.enter(from(n)).unwrap()).collect();
        let one_more = places.enter(from(9)).unwrap();
        assert!(is_told_to_leave(&strangers[0]), "strangers have four of the six");
        one_more.peer_state().set(PeerStage::Known);
        one_more.peer_state().set(PeerStage::Arriving);
        assert_eq!(one_more.peer_state().stage(), PeerStage::Known);
    }

    #[test]
    fn a_network_that_holds_more_than_its_share_gives_up_first() {
        let places = Places::new(CONNECTION_LIMITS);
        let old = places.enter(from(1)).unwrap();
        let v6 = |n: u16| Some(IpAddr::from([0x2001, 0xdb8, 0, 0, n, n, n, n]));
        let many: Vec<Place> = (0..3).map(|n| places.enter(v6(n)).unwrap()).collect();
        let _next = places.enter(from(2)).unwrap();
        assert!(is_told_to_leave(&many[0]) && !is_told_to_leave(&old));
        // Within its share again, so that age alone counts.
        let _next = places.enter(from(3)).unwrap();
        assert!(is_told_to_leave(&old));
    }

    #[test]
    fn a_network_whose_requests_are_long_keeps_no_more_than_its_share_while_others_come() {
        let places = Places::new(CONNECTION_LIMITS);
        let busy: Vec<Place> = [1, 1, 1, 2].map(|n| places.enter(from(n)).unwrap()).into_iter().collect();
        busy.iter().for_each(|place| place.peer_state().set(PeerStage::Busy));
        // Of somebody known no answer is cut.
        busy[0].peer_state().trust();
        let next = places.enter(from(3)).unwrap();
        assert!(is_told_to_leave(&busy[1]) && ![&busy[0], &busy[2], &busy[3]].into_iter().any(is_told_to_leave));
        next.peer_state().set(PeerStage::Busy);
        assert!(places.enter(from(4)).is_none(), "all are being answered, none beyond its share");
    }

    #[test]
    fn whoever_does_not_read_goes_before_those_who_came_later() {
        let places = Places::new(CONNECTION_LIMITS);
        let [unread, new, idle, busy] =
            [PeerStage::Idle, PeerStage::Arriving, PeerStage::Idle, PeerStage::Busy].map(|stage| {
                let place = places.enter(None).unwrap();
                place.peer_state().set(stage);
                place
            });
        unread.peer_state().set_full(true);
        idle.peer_state().set_full(true);
        idle.peer_state().set_full(false);
        busy.peer_state().set_full(true);
        let _next = places.enter(None).unwrap();
        assert!(is_told_to_leave(&unread));
        assert!(![&new, &idle, &busy].into_iter().any(is_told_to_leave));
    }

    #[test]
    fn whoever_comes_from_where_somebody_known_has_come_from_goes_last() {
        let places = open(ConnectionLimits { places: 8, strangers: 4, share: 2, cuts_answers: true });
        places.enter(from(1)).unwrap().peer_state().set(PeerStage::Known);
        let [vouched, old, _third, _fourth] = [1, 2, 3, 4].map(|n| places.enter(from(n)).unwrap());
        wait(&[places.enter(from(5)).unwrap()]);
        assert!(is_told_to_leave(&old) && !is_told_to_leave(&vouched));
        // No more than the share of one network.
        let _crowd = [1, 1].map(|n| places.enter(from(n)).unwrap());
        let _next = places.enter(from(6)).unwrap();
        assert!(is_told_to_leave(&vouched));
        let home = IpAddr::from([127, 0, 0, 1]);
        places.lock().vouch(home, 7);
        let end = 7 + VOUCHED.as_millis() as u64;
        assert_eq!([end - 1, end].map(|now| places.lock().vouches_for(home, now)), [true, false]);
    }

    #[test]
    fn few_networks_are_remembered() {
        let places = Places::new(CONNECTION_LIMITS);
        for number in 0..MOST_VOUCHED as u32 + 9 {
            places.lock().vouch(IpAddr::from(number.to_be_bytes()), number.into());
        }
        let inner = places.lock();
        assert_eq!(inner.vouched.len(), MOST_VOUCHED);
        assert!(!inner.vouched.contains_key(&IpAddr::from([0, 0, 0, 8])));
        assert!(inner.vouched.contains_key(&IpAddr::from([0, 0, 0, 9])));
    }

    #[test]
    fn envoy_speaks_for_others() {
        let places = Places::new(CONNECTION_LIMITS);
        let clients: Vec<Place> = (0..4).map(|_| places.enter(None).unwrap()).collect();
        clients[1..].iter().for_each(|place| place.peer_state().speaks_for(IpAddr::from([192, 0, 2, 1])));
        let _next = places.enter(None).unwrap();
        assert!(is_told_to_leave(&clients[1]) && !is_told_to_leave(&clients[0]));
    }
}
