//! Where signatures are verified: beside the checks, on threads of their own, few and of low priority, behind a bounded queue,
//! so that a flood of forged tokens slows neither API keys nor tokens that are remembered; or where they are asked for, in time to
//! spare. Remembers for a while which tokens a set of keys has not signed. Never remembers that a token is good, and never queues without bound.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{Shared, WeakShared};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, oneshot};
use tollgate_core::issuer::Header;
use tollgate_core::token::PresentedToken;
use tollgate_guard::digest::Digest;
use zeroize::Zeroizing;

use super::inline;
use super::key_set::{KeySet, NotSigned};
use super::refusals::{Refused, name};
use crate::tasks::{self, Task};

/// Signatures that may wait: a fraction of a second's work, even of the slowest kind, so that who waits is answered before the
/// proxy gives up.
const QUEUE: usize = 256;
const MAX_THREADS: usize = 4;
/// While more signatures wait, whoever asked is told together with so many others, or after this time and one signature: one write
/// answers for a crowd on one connection, and one wake-up for a crowd on one thread.
const TOLD_TOGETHER: usize = 16;
const TOLD_WITHIN: Duration = Duration::from_millis(1);
/// Tokens that are asked about in the fleet's cache at a time; beyond them a signature is verified here.
const MAX_LOOKS: usize = 64;

/// Too many signatures wait already: try again in a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

type Verdict = Result<(), NotSigned>;
type Flight = Shared<oneshot::Receiver<Verdict>>;

/// The threads that verify; they start with the first signature and end when this is dropped.
pub struct Signatures {
    queue: Arc<Queue>,
    /// By the names of tokens that their sets of keys have not signed.
    refused: Refused<()>,
    looks: Semaphore,
    turned_away: AtomicU64,
}

#[derive(Default)]
struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    /// What panics are counted under.
    task: OnceLock<Task>,
}

#[derive(Default)]
struct State {
    jobs: VecDeque<Job>,
    /// By name: what is queued or being verified, so that a crowd with one token is one signature.
    flights: HashMap<Digest, WeakShared<oneshot::Receiver<Verdict>>>,
    threads: usize,
    closed: bool,
}

struct Job {
    name: Digest,
    work: Box<dyn FnOnce() -> Verdict + Send>,
    done: oneshot::Sender<Verdict>,
    /// Of whoever asked.
    runtime: Handle,
}

/// What was found out, and is still to be told.
struct Found {
    name: Digest,
    verdict: Option<Verdict>,
    done: oneshot::Sender<Verdict>,
    runtime: Handle,
}

impl Default for Signatures {
    fn default() -> Self {
        Self {
            queue: Arc::default(),
            refused: Refused::new(),
            looks: Semaphore::new(MAX_LOOKS),
            turned_away: AtomicU64::new(0),
        }
    }
}

impl Signatures {
    /// Whether one of these keys has signed the token. `digest` is that of the token.
    ///
    /// # Errors
    /// [`Busy`]
    pub async fn verify(
        &self,
        digest: Digest,
        keys: &Arc<KeySet>,
        header: &Header,
        token: &PresentedToken<'_>,
    ) -> Result<Verdict, Busy> {
        if !keys.has_key_for(header) {
            // It costs nothing to know, and another set may have the key.
            return Ok(Err(NotSigned::UnknownKey));
        }
        let name = name(digest, keys);
        if self.refused.get(&name).is_some() {
            return Ok(Err(NotSigned::WrongSignature));
        }
        let here = inline::spend(|| keys.verify(header, token.signed(), token.signature()));
        let verdict = match here {
            Some(verdict) => verdict,
            None => self.beside(name, keys, header, token).await?,
        };
        if verdict == Err(NotSigned::WrongSignature) {
            self.refused.insert(&name, ());
        }
        Ok(verdict)
    }

    /// By one of the threads here.
    async fn beside(
        &self,
        name: Digest,
        keys: &Arc<KeySet>,
        header: &Header,
        token: &PresentedToken<'_>,
    ) -> Result<Verdict, Busy> {
        let (keys, header) = (Arc::clone(keys), header.clone());
        let signed = Zeroizing::new(token.signed().to_vec());
        let signature = Zeroizing::new(token.signature().to_owned());
        let flight = self.queue.flight(name, move || keys.verify(&header, &signed, &signature));
        let flight = flight.inspect_err(|Busy| {
            self.turned_away.fetch_add(1, Ordering::Relaxed);
        })?;
        flight.await.map_err(|_| Busy)
    }

    /// Has panics of verifications counted under this task, if nothing else was said before.
    pub fn count_panics(&self, task: Task) {
        let _ = self.queue.task.set(task);
    }

    /// Whether this set of keys was seen not to have signed the token.
    pub fn has_refused(&self, digest: Digest, keys: &KeySet) -> bool {
        self.refused.get(&name(digest, keys)).is_some()
    }

    /// The right to ask the fleet's cache, while there is one left.
    pub fn look(&self) -> Option<SemaphorePermit<'_>> {
        self.looks.try_acquire().ok()
    }

    /// How many signatures were not verified because too many waited.
    pub fn turned_away(&self) -> u64 {
        self.turned_away.load(Ordering::Relaxed)
    }

    /// Holds every thread and fills the queue, until what is given back is dropped.
    #[cfg(any(test, feature = "test-panic"))]
    pub fn fill(&self) -> Vec<std::sync::mpsc::Sender<()>> {
        let (begun, begins) = std::sync::mpsc::channel::<()>();
        let job = |number: u64| {
            let (hold, held) = std::sync::mpsc::channel::<()>();
            let mut name = Digest([0; 32]);
            name.0[..8].copy_from_slice(&number.to_be_bytes());
            let begun = begun.clone();
            let work = move || {
                let _ = begun.send(());
                let _ = held.recv();
                Err(NotSigned::UnknownKey)
            };
            tokio::spawn(self.queue.flight(name, work).ok()?);
            Some(hold)
        };
        let threads = most_threads();
        let mut held: Vec<_> = (0..threads as u64).filter_map(job).collect();
        // A thread that takes its job later would leave a place behind.
        begins.iter().take(threads).for_each(drop);
        held.extend((threads as u64..).map_while(job));
        held
    }
}

/// One for every two cores, and at least one.
fn most_threads() -> usize {
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (cores / 2).clamp(1, MAX_THREADS)
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What will be found out about this token: by the signature that is under way, or by another one.
    fn flight(self: &Arc<Self>, name: Digest, work: impl FnOnce() -> Verdict + Send + 'static) -> Result<Flight, Busy> {
        let runtime = Handle::current();
        let mut state = self.lock();
        if let Some(flight) = state.flights.get(&name).and_then(WeakShared::upgrade) {
            return Ok(flight);
        }
        if state.jobs.len() >= QUEUE {
            return Err(Busy);
        }
        self.start_thread(&mut state)?;
        let (done, verdict) = oneshot::channel();
        let flight = verdict.shared();
        if let Some(weak) = flight.downgrade() {
            state.flights.insert(name, weak);
        }
        state.jobs.push_back(Job { name, work: Box::new(work), done, runtime });
        drop(state);
        self.changed.notify_one();
        Ok(flight)
    }

    /// One more thread, until there are as many as there may be.
    fn start_thread(self: &Arc<Self>, state: &mut State) -> Result<(), Busy> {
        if state.threads >= most_threads() {
            return Ok(());
        }
        let queue = Arc::clone(self);
        match thread::Builder::new().name("signatures".to_owned()).spawn(move || queue.work()) {
            Ok(_) => state.threads += 1,
            Err(error) if state.threads == 0 => {
                tracing::error!(%error, "no thread could be started to verify signatures");
                return Err(Busy);
            }
            // Those that there are do it.
            Err(_) => {}
        }
        Ok(())
    }

    fn work(&self) {
        tasks::stand_behind_checks(tasks::SIGNATURES, "signatures");
        let (mut found, mut since) = (Vec::with_capacity(TOLD_TOGETHER), Instant::now());
        while let Some(Job { name, work, done, runtime }) = self.next(&mut found) {
            if found.is_empty() {
                since = Instant::now();
            }
            // Whoever asked may have gone away.
            let verdict = if done.is_closed() { None } else { self.verdict(work) };
            found.push(Found { name, verdict, done, runtime });
            // A check that has come meanwhile waits for one signature, and not for this thread's share of time.
            thread::yield_now();
            if found.len() >= TOLD_TOGETHER || since.elapsed() >= TOLD_WITHIN {
                self.tell(&mut found);
            }
        }
    }

    /// Tells everybody who asked, on the thread that they asked on: all of one thread together.
    fn tell(&self, found: &mut Vec<Found>) {
        let mut state = self.lock();
        for Found { name, done, .. } in &*found {
            // Where nobody waits for this one any more, somebody may have begun another.
            let is_another = done.is_closed() && state.flights.get(name).is_some_and(|it| it.upgrade().is_some());
            if !is_another {
                state.flights.remove(name);
            }
        }
        drop(state);
        found.retain(|one| one.verdict.is_some());
        while let Some(runtime) = found.first().map(|first| first.runtime.clone()) {
            let theirs = found.extract_if(.., |one| one.runtime.id() == runtime.id());
            let told: Vec<_> = theirs.filter_map(|one| Some((one.done, one.verdict?))).collect();
            runtime.spawn(async move {
                for (done, verdict) in told {
                    let _ = done.send(verdict);
                }
            });
        }
    }

    /// A verification that panics says nothing, and its thread goes on.
    fn verdict(&self, work: impl FnOnce() -> Verdict) -> Option<Verdict> {
        let verdict = catch_unwind(AssertUnwindSafe(work)).ok();
        if verdict.is_none() {
            match self.task.get() {
                Some(task) => drop(task.fell()),
                None => tracing::error!("a signature could not be verified, as that panicked"),
            }
        }
        verdict
    }

    /// The next job, once there is one; `None` when nobody can send another. Nobody is kept waiting for what was found while there is none.
    fn next(&self, found: &mut Vec<Found>) -> Option<Job> {
        let mut state = self.lock();
        loop {
            if state.closed {
                return None;
            }
            if let Some(job) = state.jobs.pop_front() {
                return Some(job);
            }
            if found.is_empty() {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            } else {
                drop(state);
                self.tell(found);
                state = self.lock();
            }
        }
    }
}

impl Drop for Signatures {
    fn drop(&mut self) {
        let mut state = self.queue.lock();
        state.closed = true;
        state.jobs.clear();
        drop(state);
        self.queue.changed.notify_all();
    }
}

impl fmt::Debug for Signatures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signatures")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::Tasks;

    #[tokio::test]
    async fn a_verification_that_panics_is_counted_and_the_next_one_is_made() {
        let (signatures, tasks) = (Signatures::default(), Tasks::default());
        signatures.count_panics(tasks.task("signatures"));
        let verify = |number: u8, work: fn() -> Verdict| signatures.queue.flight(Digest([number; 32]), work).unwrap();
        for number in 0..3 {
            assert!(verify(number, || panic!("a key that nobody has thought of")).await.is_err());
        }
        assert_eq!(verify(3, || Ok(())).await, Ok(Ok(())));
        assert_eq!((tasks.restarts(), tasks.down()), (vec![("signatures", 3)], vec![]));
    }

    #[test]
    fn a_crowd_on_two_threads_is_told_what_each_asked() {
        let signatures = Arc::new(Signatures::default());
        let verdict = |number: u8| if number.is_multiple_of(2) { Ok(()) } else { Err(NotSigned::WrongSignature) };
        let ask = |numbers: std::ops::Range<u8>| {
            let signatures = Arc::clone(&signatures);
            let crowd = async move {
                let flight = |number| signatures.queue.flight(Digest([number; 32]), move || verdict(number)).unwrap();
                let flights: Vec<_> = numbers.map(|number| (number, flight(number))).collect();
                for (number, flight) in flights {
                    assert_eq!(flight.await, Ok(verdict(number)));
                }
            };
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            thread::spawn(move || runtime.block_on(crowd))
        };
        for asked in [ask(0..60), ask(30..90)] {
            asked.join().unwrap();
        }
        assert!(signatures.queue.lock().flights.is_empty());
    }
}
