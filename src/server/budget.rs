//! What the process holds in memory for its peers: what is arriving, and answers that nobody has read yet. Never grows beyond its
//! limits for long, and never takes from a peer that is known what others hold. Whoever is known is hung up on only where nothing
//! is left to refuse, and it holds many times what those do who would be refused in its place.
//!
//! Each connection counts by itself and asks for more in chunks, so that a check that is answered at once costs two additions
//! to a number that no other thread touches.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;

use super::places::PeerState;

/// Bytes for all connections of peers that are known.
pub const LIMIT: usize = 32 << 20;
/// Bytes for those that come from where somebody known has come from: as much as an Envoy sends at once that connects again, with bodies
/// of 32 KiB.
const VOUCHED: usize = 20 << 20;
/// Bytes for all others.
const STRANGERS: usize = 8 << 20;
/// What each connection has besides.
const OWN: usize = 16 << 10;
/// A connection asks for so much at a time: one that is known for more, so that it asks seldom.
const CHUNK: usize = 16 << 10;
const KNOWN_CHUNK: usize = 64 << 10;
/// Bytes that are read from a peer before what came is answered.
const TURN: usize = 256 << 10;
/// The same for strangers where it is quiet: one who comes now waits for a few of these.
const QUIET_TURN: usize = 64 << 10;
/// The same where little is left, for those that come from where somebody known has come from, and for strangers of which parts of
/// messages are here: one becomes whole after the other, and not all of them at last.
const SHORT_TURN: usize = 16 << 10;
/// The same for strangers among the known: a few calls, so that these, who take turns with them, do not wait for long.
const STRANGERS_TURN: usize = 1 << 10;
/// A peer that is known and holds more than this, and so many times as much as another one whose call would be refused, is hung up on.
const TOO_LARGE: usize = 1 << 20;
const TIMES_AS_MUCH: usize = 4;
/// How long a peer that has to leave is waited for, before another one has to.
const LEAVING_TIME: Duration = Duration::from_millis(200);

/// What all connections hold together, in whole chunks.
pub struct Budget {
    known: AtomicUsize,
    vouched: AtomicUsize,
    strangers: AtomicUsize,
    /// Of those that are known.
    known_leaving: Leaving,
    vouched_leaving: Leaving,
    strangers_leaving: Leaving,
    accounts: Mutex<Vec<Weak<Account>>>,
}

/// Who is counted together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pool {
    Known,
    Vouched,
    Strangers,
}

/// Whether somebody who has to leave has not gone yet.
struct Leaving {
    start: Instant,
    /// In milliseconds after the start; 0: nobody.
    since: AtomicU64,
}

/// There is no room left, and nobody else is to give any up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exhausted;

/// What one connection holds.
pub struct Account {
    budget: Arc<Budget>,
    peer_state: Arc<PeerState>,
    /// Whether it is counted among the known.
    is_known: AtomicBool,
    /// Whether it is counted apart from other strangers until then.
    is_vouched_for: bool,
    held: AtomicUsize,
    /// Of the budget, in whole chunks.
    granted: AtomicUsize,
    /// Of what it holds, bytes of a request that has yet to be answered.
    received: AtomicUsize,
    /// The connection is about to be closed: it gets nothing more.
    is_leaving: AtomicBool,
    /// Bytes that may still be read in this turn.
    turn: AtomicUsize,
    is_paused: AtomicBool,
    messages: Mutex<Vec<Weak<Message>>>,
}

/// Bytes that are held until this is dropped.
#[derive(Debug)]
pub struct MemoryReservation {
    account: Arc<Account>,
    bytes: usize,
}

/// Bytes of a message that is arriving, held until this is dropped.
#[derive(Debug)]
pub struct MessageReservation {
    held: MemoryReservation,
    message: Arc<Message>,
}

/// A message, as others see it who need room.
#[derive(Debug, Default)]
struct Message {
    bytes: AtomicUsize,
    refused: Notify,
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Budget");
        shown.field("known", &self.known).field("strangers", &self.strangers).finish_non_exhaustive()
    }
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("held", &self.held).finish_non_exhaustive()
    }
}

impl Budget {
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            known: AtomicUsize::default(),
            vouched: AtomicUsize::default(),
            strangers: AtomicUsize::default(),
            known_leaving: Leaving::new(),
            vouched_leaving: Leaving::new(),
            strangers_leaving: Leaving::new(),
            accounts: Mutex::default(),
        })
    }

    /// For a connection.
    pub fn open(self: &Arc<Self>, peer_state: Arc<PeerState>) -> Arc<Account> {
        let account = Arc::new(Account {
            budget: Arc::clone(self),
            is_vouched_for: peer_state.is_vouched_for(),
            peer_state,
            is_known: AtomicBool::default(),
            held: AtomicUsize::default(),
            granted: AtomicUsize::default(),
            received: AtomicUsize::default(),
            is_leaving: AtomicBool::default(),
            turn: AtomicUsize::default(),
            is_paused: AtomicBool::default(),
            messages: Mutex::default(),
        });
        let mut accounts = lock(&self.accounts);
        if accounts.len() == accounts.capacity() {
            accounts.retain(|account| account.strong_count() > 0);
        }
        accounts.push(Arc::downgrade(&account));
        account
    }

    /// What those who are counted together hold, and how much that may be.
    fn of(&self, pool: Pool) -> (&AtomicUsize, usize) {
        match pool {
            Pool::Known => (&self.known, LIMIT),
            Pool::Vouched => (&self.vouched, VOUCHED),
            Pool::Strangers => (&self.strangers, STRANGERS),
        }
    }

    fn leaving(&self, pool: Pool) -> &Leaving {
        match pool {
            Pool::Known => &self.known_leaving,
            Pool::Vouched => &self.vouched_leaving,
            Pool::Strangers => &self.strangers_leaving,
        }
    }

    fn take(&self, bytes: usize, pool: Pool) -> bool {
        let (used, limit) = self.of(pool);
        let more = |used: usize| used.checked_add(bytes).filter(|used| *used <= limit);
        used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok()
    }

    /// Has the stranger that holds most of those who are counted with this one hung up on, one at a time. There is room only when it has gone. If that is who asks, for a
    /// message of its own, the message is refused, and nobody hung up on.
    fn close_stranger(&self, asks: &Account, message: Option<&Message>) {
        let (pool, leaving) = (asks.pool(), self.leaving(asks.pool()));
        if !leaving.begin() {
            return;
        }
        let mut strangers = self.all(pool);
        strangers.retain(|account| {
            let (is_leaving, held) = (account.is_leaving.load(Ordering::Relaxed), account.held.load(Ordering::Relaxed));
            !account.peer_state.is_trusted() && !is_leaving && held > OWN
        });
        match Account::that_holds_most(&strangers) {
            Some(most) if message.is_none() || !std::ptr::eq(Arc::as_ptr(most), asks) => most.leave(),
            _ => leaving.end(),
        }
    }

    /// Has the one hung up on that holds most among the known, if that is many times what the one holds who asks. Whether there will be
    /// room in a moment.
    fn close_known(&self, asks: &Account) -> bool {
        let own = asks.held.load(Ordering::Relaxed);
        if own > TOO_LARGE {
            return false;
        }
        if !self.known_leaving.begin() {
            return true;
        }
        let mut known = self.all(Pool::Known);
        known.retain(|account| !account.is_leaving.load(Ordering::Relaxed));
        let held = |account: &Account| account.held.load(Ordering::Relaxed);
        match Account::that_holds_most(&known) {
            Some(most) if held(most) > TOO_LARGE.max(own.saturating_mul(TIMES_AS_MUCH)) => {
                tracing::warn!(bytes = held(most), "a client that does not read its answers was hung up on");
                most.leave();
                true
            }
            _ => {
                self.known_leaving.end();
                false
            }
        }
    }

    /// Has the known give up their largest message. Whether it was another than this one.
    fn refuse_one(&self, message: Option<&Message>) -> bool {
        let known = self.all(Pool::Known);
        let messages = known.iter().filter_map(|account| account.largest_message());
        let largest = messages.max_by_key(|message| message.bytes.load(Ordering::Relaxed));
        let own = message.map_or(0, |message| message.bytes.load(Ordering::Relaxed));
        let Some(largest) = largest.filter(|largest| largest.bytes.load(Ordering::Relaxed) > own) else {
            return false;
        };
        largest.bytes.store(0, Ordering::Relaxed);
        largest.refused.notify_one();
        true
    }

    fn all(&self, pool: Pool) -> Vec<Arc<Account>> {
        let accounts = lock(&self.accounts);
        let mut all: Vec<_> = accounts.iter().filter_map(Weak::upgrade).collect();
        drop(accounts);
        all.retain(|account| account.pool() == pool);
        all
    }
}

impl Leaving {
    fn new() -> Self {
        Self { start: Instant::now(), since: AtomicU64::default() }
    }

    /// Whether somebody else may be told to leave, and is from now on.
    fn begin(&self) -> bool {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX).max(1);
        let since = self.since.load(Ordering::Relaxed);
        let is_free = since == 0 || u128::from(now - since.min(now)) >= LEAVING_TIME.as_millis();
        is_free && self.since.compare_exchange(since, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }

    fn end(&self) {
        self.since.store(0, Ordering::Relaxed);
    }
}

impl Account {
    fn that_holds_most(accounts: &[Arc<Self>]) -> Option<&Arc<Self>> {
        accounts.iter().max_by_key(|account| account.held.load(Ordering::Relaxed))
    }

    fn leave(&self) {
        self.is_leaving.store(true, Ordering::Relaxed);
        self.peer_state.give_up();
    }

    pub fn peer_state(&self) -> &Arc<PeerState> {
        &self.peer_state
    }

    /// With whom it is counted.
    fn pool(&self) -> Pool {
        match (self.is_known.load(Ordering::Relaxed), self.is_vouched_for) {
            (true, _) => Pool::Known,
            (false, true) => Pool::Vouched,
            (false, false) => Pool::Strangers,
        }
    }

    /// Whether its peer has proved who it is. What it holds is counted accordingly from then on.
    fn is_known(&self) -> bool {
        let is_known = self.is_known.load(Ordering::Relaxed);
        if is_known || !self.peer_state.is_trusted() {
            return is_known;
        }
        let granted = self.granted.load(Ordering::Relaxed);
        let (before, _) = self.budget.of(self.pool());
        before.fetch_sub(granted, Ordering::Relaxed);
        self.budget.known.fetch_add(granted, Ordering::Relaxed);
        self.is_known.store(true, Ordering::Relaxed);
        true
    }

    fn chunk(&self) -> usize {
        if self.is_known.load(Ordering::Relaxed) { KNOWN_CHUNK } else { CHUNK }
    }

    /// Counts these bytes until they are [released](Self::release).
    fn charge(&self, bytes: usize, message: Option<&Message>) -> Result<(), Exhausted> {
        let held = self.held.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let granted = self.granted.load(Ordering::Relaxed);
        if held <= OWN + granted {
            return Ok(());
        }
        let is_known = self.is_known();
        let more = (held - OWN - granted).next_multiple_of(self.chunk());
        if !self.is_leaving.load(Ordering::Relaxed) && self.is_granted(more, is_known, message) {
            self.granted.fetch_add(more, Ordering::Relaxed);
            return Ok(());
        }
        self.held.fetch_sub(bytes, Ordering::Relaxed);
        Err(Exhausted)
    }

    fn is_granted(&self, more: usize, is_known: bool, message: Option<&Message>) -> bool {
        if self.budget.take(more, self.pool()) {
            return true;
        }
        if !is_known {
            self.budget.close_stranger(self, message);
            return false;
        }
        if self.budget.refuse_one(message) || self.budget.close_known(self) {
            // What somebody known gives up is back in a moment only.
            self.budget.known.fetch_add(more, Ordering::Relaxed);
            return true;
        }
        false
    }

    fn release(&self, bytes: usize) {
        let held = self.held.fetch_sub(bytes, Ordering::Relaxed) - bytes;
        let kept = held.saturating_sub(OWN).next_multiple_of(self.chunk());
        if self.granted.load(Ordering::Relaxed) > kept {
            self.give_back(kept);
        }
    }

    /// Keeps no more than this of the budget.
    fn give_back(&self, kept: usize) {
        let granted = self.granted.fetch_min(kept, Ordering::Relaxed);
        let (used, _) = self.budget.of(self.pool());
        used.fetch_sub(granted.saturating_sub(kept), Ordering::Relaxed);
    }

    /// Counts what a call needs.
    pub fn hold(self: &Arc<Self>, bytes: usize) -> Result<MemoryReservation, Exhausted> {
        self.charge(bytes, None)?;
        Ok(MemoryReservation { account: Arc::clone(self), bytes })
    }

    /// A message of which a part has arrived.
    pub fn message(self: &Arc<Self>) -> MessageReservation {
        let message = Arc::<Message>::default();
        let mut messages = lock(&self.messages);
        messages.retain(|message| message.strong_count() > 0);
        messages.push(Arc::downgrade(&message));
        MessageReservation { held: MemoryReservation { account: Arc::clone(self), bytes: 0 }, message }
    }

    /// Counts a part of a request until it [was answered](Self::was_answered). What the known send is bounded by their door.
    pub fn has_received(&self, bytes: usize) -> Result<(), Exhausted> {
        match self.charge(bytes, None) {
            Ok(()) => {
                self.received.fetch_add(bytes, Ordering::Relaxed);
                Ok(())
            }
            Err(Exhausted) if self.is_known() => Ok(()),
            Err(Exhausted) => Err(Exhausted),
        }
    }

    pub fn was_answered(&self) {
        self.release(self.received.swap(0, Ordering::Relaxed));
    }

    fn largest_message(&self) -> Option<Arc<Message>> {
        let messages = lock(&self.messages);
        messages.iter().filter_map(Weak::upgrade).max_by_key(|message| message.bytes.load(Ordering::Relaxed))
    }

    /// What came before has been answered: more may be read. `is_quiet`: there is nobody for whom it should be short.
    pub fn begin_turn(&self, is_quiet: bool) {
        let has_room = self.is_vouched_for || self.granted.load(Ordering::Relaxed) == 0;
        let turn = match self.is_known() {
            false if is_quiet && has_room => QUIET_TURN,
            false if is_quiet || self.is_vouched_for => SHORT_TURN,
            false => STRANGERS_TURN,
            true if self.budget.known.load(Ordering::Relaxed) > LIMIT / 2 => SHORT_TURN,
            true => TURN,
        };
        self.turn.store(turn, Ordering::Relaxed);
        self.is_paused.store(false, Ordering::Relaxed);
    }

    /// Whether the turn ended before everything was read that is there.
    pub fn is_paused(&self) -> bool {
        self.is_paused.load(Ordering::Relaxed)
    }

    /// How many bytes may be read in this turn; at 0 it is over.
    pub fn may_read(&self) -> usize {
        let left = self.turn.load(Ordering::Relaxed);
        if left == 0 {
            self.is_paused.store(true, Ordering::Relaxed);
        }
        left
    }

    /// Whether more may be read than there is room for yet, and be kept meanwhile: only of whom is known, where much room is left.
    pub fn may_read_ahead(&self) -> bool {
        self.is_known() && self.budget.known.load(Ordering::Relaxed) <= LIMIT / 2
    }

    pub fn has_read(&self, bytes: usize) {
        let left = self.turn.load(Ordering::Relaxed).saturating_sub(bytes);
        self.turn.store(left, Ordering::Relaxed);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.give_back(0);
        if *self.is_leaving.get_mut() {
            // What a stranger does frees no place in the turn of the known.
            self.budget.leaving(self.pool()).end();
        }
    }
}

impl MemoryReservation {
    /// Counts so many more.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Exhausted> {
        self.account.charge(bytes, None)?;
        self.bytes += bytes;
        Ok(())
    }

    /// These bytes, counted until they are dropped.
    pub fn until_dropped(self, bytes: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        Bytes::from_owner(Counted { bytes, _held: self })
    }

    /// The same, where they are one part of several.
    pub fn with_part(held: &Arc<Self>, bytes: impl AsRef<[u8]> + Send + 'static) -> Bytes {
        Bytes::from_owner(Counted { bytes, _held: Arc::clone(held) })
    }
}

struct Counted<T, H> {
    bytes: T,
    _held: H,
}

impl<T: AsRef<[u8]>, H> AsRef<[u8]> for Counted<T, H> {
    fn as_ref(&self) -> &[u8] {
        self.bytes.as_ref()
    }
}

impl Drop for MemoryReservation {
    fn drop(&mut self) {
        self.account.release(self.bytes);
    }
}

impl MessageReservation {
    /// Counts what has arrived of it since.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Exhausted> {
        self.held.account.charge(bytes, Some(&self.message))?;
        self.held.bytes += bytes;
        self.message.bytes.store(self.held.bytes, Ordering::Relaxed);
        Ok(())
    }

    /// It has arrived: what it holds is no longer there to be refused.
    pub fn complete(self) -> MemoryReservation {
        self.held
    }

    /// Returns when somebody else needs what it holds.
    pub async fn refused(&self) {
        self.message.refused.notified().await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
