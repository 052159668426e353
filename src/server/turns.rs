//! Turns of the strangers at one thread: between two looks at what has come in, a few of those who have yet to say something whole get
//! one, one of those who are being answered, and one of those who were. So whoever is known waits for no crowd, and whoever comes, or
//! waits for an answer, for no crowd that had its answers. Tells strangers whether it is quiet, or there are others for whom their turns
//! should be short. Knows nothing of what is done in a turn.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;

use tokio::sync::Semaphore;
use tokio::task::yield_now;
use tokio_util::sync::PollSemaphore;

use super::places::{PeerStage, PeerState, Place};

/// Of those who have yet to say something whole, so many have a turn between two looks, in which as many more come.
pub const ARRIVING: usize = 4;
/// As many connections as the threads of one Envoy have; more are a crowd.
const FEW: usize = 16;

/// For the connections of one thread, whose runtime is its own. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Turns {
    arriving: Arc<Semaphore>,
    busy: Arc<Semaphore>,
    idle: Arc<Semaphore>,
    watch: Arc<Watch>,
}

/// What the connections of one thread see of each other.
#[derive(Debug, Default)]
struct Watch {
    connections: AtomicUsize,
    /// Turns of the known.
    known: AtomicU64,
}

/// What one connection sees of the others. Held for as long as it is there.
#[derive(Debug)]
pub struct LoadProbe {
    watch: Arc<Watch>,
    seen: Option<u64>,
}

impl LoadProbe {
    /// Looks whether it is quiet: there are few connections, and nobody known has had a turn since the last look. At the first look
    /// nobody can say so.
    pub fn sees_quiet(&mut self) -> bool {
        let known = self.watch.known.load(Ordering::Relaxed);
        let was_nobody = self.seen.replace(known) == Some(known);
        was_nobody && self.watch.connections.load(Ordering::Relaxed) <= FEW
    }
}

impl Drop for LoadProbe {
    fn drop(&mut self) {
        self.watch.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Turns {
    pub fn new() -> Self {
        let together = |count| Arc::new(Semaphore::new(count));
        Self { arriving: together(ARRIVING), busy: together(1), idle: together(1), watch: Arc::default() }
    }

    pub fn probe(&self) -> LoadProbe {
        self.watch.connections.fetch_add(1, Ordering::Relaxed);
        LoadProbe { watch: Arc::clone(&self.watch), seen: None }
    }

    /// As [`Turns::take`], until the place is taken away: then there is no other turn, and `None`.
    pub async fn take_until_taken_away<F: Future>(&self, place: &Place, work: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            () = place.taken_away() => None,
            done = self.take(place.peer_state(), work) => Some(done),
        }
    }

    /// Does `work` for this peer, a turn each time that something has come for it. Waits neither for the first of them nor
    /// once the peer is trusted.
    pub async fn take<F: Future>(&self, peer_state: &PeerState, work: F) -> F::Output {
        let mut work = pin!(work);
        let mut is_new = true;
        let mut waiting = None;
        poll_fn(|cx| {
            let is_trusted = peer_state.is_trusted();
            if is_trusted {
                // No other thread counts here.
                let known = &self.watch.known;
                known.store(known.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
            }
            if std::mem::take(&mut is_new) || is_trusted {
                waiting = None;
                return work.as_mut().poll(cx);
            }
            let Poll::Ready(turn) = waiting.get_or_insert_with(|| self.queue(peer_state.stage())).poll_acquire(cx)
            else {
                return Poll::Pending;
            };
            waiting = None;
            let done = work.as_mut().poll(cx);
            tokio::spawn(async move {
                // The next one begins behind all who are ready, and whoever has sent something meanwhile.
                yield_now().await;
                drop(turn);
            });
            done
        })
        .await
    }

    fn queue(&self, stage: PeerStage) -> PollSemaphore {
        let queue = match stage {
            PeerStage::Arriving => &self.arriving,
            PeerStage::Busy | PeerStage::Known => &self.busy,
            PeerStage::Idle => &self.idle,
        };
        PollSemaphore::new(Arc::clone(queue))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use tokio::task::LocalSet;

    use super::*;
    use crate::server::places::{ConnectionLimits, Places};

    const CONNECTION_LIMITS: ConnectionLimits =
        ConnectionLimits { places: 9, strangers: 9, share: 9, cuts_answers: true };

    /// Notes its name in each of four turns, and always has more to do.
    async fn busy(turns: Turns, place: Place, name: char, log: Rc<RefCell<String>>) {
        let work = async {
            for _ in 0..4 {
                log.borrow_mut().push(name);
                let mut is_first = true;
                poll_fn(|cx| {
                    cx.waker().wake_by_ref();
                    if std::mem::take(&mut is_first) { Poll::Pending } else { Poll::Ready(()) }
                })
                .await;
            }
        };
        turns.take(place.peer_state(), work).await;
    }

    #[tokio::test]
    async fn the_known_wait_for_no_crowd_and_newcomers_for_no_crowd_before_them() {
        let (places, turns, log) = (Places::new(CONNECTION_LIMITS), Turns::new(), Rc::default());
        let local = LocalSet::new();
        let stages =
            [PeerStage::Idle, PeerStage::Idle, PeerStage::Idle, PeerStage::Arriving, PeerStage::Busy, PeerStage::Known];
        for (name, stage) in ('a'..).zip(stages) {
            let place = places.enter(None).unwrap();
            place.peer_state().set(stage);
            local.spawn_local(busy(turns.clone(), place, name, Rc::clone(&log)));
        }
        local.await;
        let log = log.borrow();
        // Each at once for the first time. Then whoever is known goes on, and of the crowd that was answered one at a time.
        let end = |name| log.rfind(name).unwrap();
        assert!(end('f') < end('e'), "{log}");
        assert!(end('d').max(end('e')) < end('a').min(end('b')).min(end('c')), "{log}");
        assert_eq!(log.len(), 24, "{log}");
    }

    #[tokio::test]
    async fn it_is_quiet_until_somebody_known_has_a_turn_or_a_crowd_comes() {
        let (places, turns) = (Places::new(CONNECTION_LIMITS), Turns::new());
        let come = |stage| {
            let place = places.enter(None).unwrap();
            place.peer_state().set(stage);
            place
        };
        let (stranger, known, mut probe) = (come(PeerStage::Busy), come(PeerStage::Known), turns.probe());
        assert!(!probe.sees_quiet(), "nobody can say so yet");
        turns.take(stranger.peer_state(), async {}).await;
        assert!(probe.sees_quiet());
        turns.take(known.peer_state(), async {}).await;
        assert!(!probe.sees_quiet());
        assert!(probe.sees_quiet());
        let crowd: Vec<_> = (0..FEW).map(|_| turns.probe()).collect();
        assert!(!probe.sees_quiet());
        drop(crowd);
        assert!(probe.sees_quiet());
    }

    #[tokio::test]
    async fn whoever_has_to_leave_has_no_other_turn() {
        let (places, turns) = (Places::new(CONNECTION_LIMITS), Turns::new());
        for stage in [PeerStage::Arriving, PeerStage::Idle, PeerStage::Busy, PeerStage::Known].repeat(16) {
            let place = places.enter(None).unwrap();
            place.peer_state().set(stage);
            place.peer_state().give_up();
            let mut is_done = false;
            assert_eq!(turns.take_until_taken_away(&place, async { is_done = true }).await, None);
            assert!(!is_done);
        }
    }
}
