//! Tasks and threads that must run for as long as the process does: one that panics is counted and started again, after pauses
//! that grow. Never lets a panic pass unseen, and holds nothing of what the tasks work on.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use rustix::process::{getpriority_process, setpriority_process};

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A task that ran for so long begins with the first pause again.
const STEADY: Duration = Duration::from_secs(60);

/// How far behind the threads that answer checks the others stand (`nice`), so that no crowd at a door takes their core. Doors do not stand
/// far behind: a check may wait for what they begin for one caller, such as a look-up.
pub const DOORS: i32 = 5;
/// Further back, but not so far that a good token is kept waiting for seconds while a crowd holds a door: of a busy core they get a third
/// of what a door gets.
pub const SIGNATURES: i32 = 10;
/// Half of that: hashes are long, and a check that comes in the middle of one waits for longer the more is left to it.
pub const PASSWORDS: i32 = 13;

/// Has this thread, and those that it starts, stand so far behind whatever answers checks: of the thread alone, as Linux has it.
pub fn stand_behind_checks(niceness: i32, who: &str) {
    let lowered = getpriority_process(None).and_then(|stands| {
        // Whoever was started further behind stays there.
        if stands < niceness { setpriority_process(None, niceness) } else { Ok(()) }
    });
    if let Err(error) = lowered {
        tracing::warn!(%error, "the priority of {who} cannot be lowered: they may slow checks down");
    }
}

/// The long tasks of a process, by name. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Tasks(Arc<Mutex<BTreeMap<&'static str, Arc<State>>>>);

#[derive(Debug, Default)]
struct State {
    restarts: AtomicU64,
    /// How many of this name are not running now.
    down: AtomicU64,
}

impl Tasks {
    /// The task of this name. Several may share a name; they are counted together.
    pub fn task(&self, name: &'static str) -> Task {
        Task { name, state: Arc::clone(self.lock().entry(name).or_default()) }
    }

    /// The names of those that should be running and are not.
    pub fn down(&self) -> Vec<&'static str> {
        let is_down = |state: &State| state.down.load(Ordering::SeqCst) > 0;
        self.lock().iter().filter(|(_, state)| is_down(state)).map(|(name, _)| *name).collect()
    }

    /// How often each was started again.
    pub fn restarts(&self) -> Vec<(&'static str, u64)> {
        self.lock().iter().map(|(name, state)| (*name, state.restarts.load(Ordering::SeqCst))).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Arc<State>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of the long tasks. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Task {
    name: &'static str,
    state: Arc<State>,
}

impl Task {
    /// Runs what `make` gives to its end; after a panic it is made anew.
    pub async fn keep<F: Future>(self, mut make: impl FnMut() -> F) -> F::Output {
        let mut pauses = Backoff::default();
        loop {
            let begun = Instant::now();
            // What a panic left half done is behind locks that do not mind, or is made anew.
            match AssertUnwindSafe(async { make().await }).catch_unwind().await {
                Ok(done) => return done,
                Err(_) => {
                    let down = self.fell();
                    tokio::time::sleep(pauses.next(begun)).await;
                    drop(down);
                }
            }
        }
    }

    /// As [`Task::keep`], for what blocks its thread.
    pub fn keep_blocking<T>(self, mut run: impl FnMut() -> T) -> T {
        let mut pauses = Backoff::default();
        loop {
            let begun = Instant::now();
            match catch_unwind(AssertUnwindSafe(&mut run)) {
                Ok(done) => return done,
                Err(_) => {
                    let down = self.fell();
                    std::thread::sleep(pauses.next(begun));
                    drop(down);
                }
            }
        }
    }

    /// Counts an end that should not have been. It is down until the guard is dropped.
    pub fn fell(&self) -> Down {
        tracing::error!(task = self.name, "a long task ended by a panic, and is started again");
        self.state.restarts.fetch_add(1, Ordering::SeqCst);
        self.stopped()
    }

    /// It does not do its work now, until the guard is dropped.
    pub fn stopped(&self) -> Down {
        self.state.down.fetch_add(1, Ordering::SeqCst);
        Down(Arc::clone(&self.state))
    }
}

/// That a task is not running.
#[derive(Debug)]
pub struct Down(Arc<State>);

impl Drop for Down {
    fn drop(&mut self) {
        self.0.down.fetch_sub(1, Ordering::SeqCst);
    }
}

/// How long each start is put off.
#[derive(Debug, Default)]
pub struct Backoff(u32);

impl Backoff {
    /// After an end of what had begun then.
    pub fn next(&mut self, begun: Instant) -> Duration {
        if begun.elapsed() >= STEADY {
            self.0 = 0;
        }
        let pause = FIRST_PAUSE.saturating_mul(2u32.saturating_pow(self.0)).min(LONGEST_PAUSE);
        self.0 = self.0.saturating_add(1);
        pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_task_that_panics_is_counted_and_made_anew() {
        let tasks = Tasks::default();
        let (mut begun, seen) = (0, tasks.clone());
        let kept = tasks.task("follower").keep(|| {
            begun += 1;
            let (now, seen) = (begun, seen.clone());
            async move {
                assert!(seen.down().is_empty(), "it is running");
                assert!(now > 3, "it panics three times");
                now
            }
        });
        let looked = async {
            let mut was_down = false;
            for _ in 0..2_000 {
                was_down |= tasks.down() == ["follower"];
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            was_down
        };
        assert_eq!(tokio::join!(kept, looked), (4, true));
        assert_eq!((tasks.restarts(), tasks.down()), (vec![("follower", 3)], vec![]));
    }

    #[test]
    fn a_thread_that_stands_behind_checks_leaves_the_others_where_they_are() {
        let stands = || getpriority_process(None).unwrap();
        let before = stands();
        let behind = std::thread::spawn(move || {
            let mut seen = Vec::new();
            for niceness in [DOORS, PASSWORDS, DOORS] {
                stand_behind_checks(niceness, "a test");
                seen.push(stands());
            }
            (seen, std::thread::spawn(stands).join().unwrap())
        });
        let at = |niceness: i32| niceness.max(before);
        let expected = [DOORS, PASSWORDS, PASSWORDS].map(at);
        assert_eq!(behind.join().unwrap(), (expected.to_vec(), at(PASSWORDS)));
        assert_eq!(stands(), before);
    }

    #[test]
    fn a_thread_is_kept_as_well() {
        let tasks = Tasks::default();
        let mut begun = 0;
        let done = tasks.task("thread").keep_blocking(|| {
            begun += 1;
            assert!(begun > 1, "it panics once");
            begun
        });
        assert_eq!((done, tasks.restarts()), (2, vec![("thread", 1)]));
    }

    #[test]
    fn pauses_grow_to_a_bound() {
        let mut pauses = Backoff::default();
        let now = Instant::now();
        let millis: Vec<u128> = (0..10).map(|_| pauses.next(now).as_millis()).collect();
        assert_eq!(millis, [200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000]);
        let long_ago = now.checked_sub(STEADY).unwrap();
        assert_eq!(pauses.next(long_ago), FIRST_PAUSE);
    }
}
