//! Signatures that a thread which answers checks verifies itself, in time that it has to spare: where the whole process has let nobody
//! in for a while who needed none. Otherwise they go to threads of their own, which stand behind checks.

use std::cell::Cell;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long nobody must have been let in without a signature.
const QUIET_FOR: Duration = Duration::from_millis(10);
/// Whoever comes first after that waits for two such turns at most, and for one signature more in each.
const AT_A_TIME: Duration = Duration::from_millis(4);

static START: LazyLock<Instant> = LazyLock::new(Instant::now);
/// When somebody was let in last without a signature, in milliseconds after the start.
static WANTED_AT: AtomicU64 = AtomicU64::new(0);

/// A thread tells the others once it has let so many in, however long it does not look at what has come.
const TOLD_TOGETHER: u32 = 64;

thread_local! {
    /// How many this thread let in without a signature since it told the others.
    static WANTED: Cell<u32> = const { Cell::new(0) };
    /// What it has spent since it looked at what has come; `None` where it answers no checks.
    static SPENT: Cell<Option<Duration>> = const { Cell::new(None) };
}

/// This thread answers checks, and is about to look at what has come.
pub fn begin_turn() {
    SPENT.set(Some(Duration::ZERO));
    if WANTED.get() > 0 {
        tell();
    }
}

/// Says of this thread that it let somebody in who needed no signature.
pub fn somebody_was_let_in() {
    WANTED.set(WANTED.get() + 1);
    if WANTED.get() >= TOLD_TOGETHER {
        tell();
    }
}

fn tell() {
    WANTED.set(0);
    WANTED_AT.store(now(), Ordering::Relaxed);
}

/// Does the work at once, if this thread has time for it.
pub fn spend<T>(work: impl FnOnce() -> T) -> Option<T> {
    let start = Instant::now();
    let spent = SPENT.get().filter(|spent| *spent < AT_A_TIME && is_quiet(millis(start)))?;
    let done = work();
    SPENT.set(Some(spent + start.elapsed()));
    Some(done)
}

fn is_quiet(now: u64) -> bool {
    let quiet_for = now.saturating_sub(WANTED_AT.load(Ordering::Relaxed));
    WANTED.get() == 0 && u128::from(quiet_for) >= QUIET_FOR.as_millis()
}

fn now() -> u64 {
    millis(Instant::now())
}

fn millis(at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(*START).as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_quiet_once_nobody_was_let_in_without_a_signature_for_a_while() {
        somebody_was_let_in();
        assert!(!is_quiet(u64::MAX), "it is not told yet");
        begin_turn();
        let told = WANTED_AT.load(Ordering::Relaxed);
        assert!(!is_quiet(told + 9));
        assert!(is_quiet(told + 10));
        while now() == told {
            std::thread::yield_now();
        }
        (0..TOLD_TOGETHER).for_each(|_| somebody_was_let_in());
        assert!(WANTED_AT.load(Ordering::Relaxed) > told, "a thread that has no time to look");
    }

    #[test]
    fn a_thread_spends_a_little_at_a_time_and_only_if_it_answers_checks() {
        while !is_quiet(now()) {
            std::thread::yield_now();
        }
        let work = || {
            let begun = Instant::now();
            while begun.elapsed().is_zero() {}
        };
        assert_eq!(spend(work), None, "it answers no checks");
        begin_turn();
        assert_eq!(spend(work), Some(()));
        assert!(SPENT.get() > Some(Duration::ZERO));
        SPENT.set(Some(AT_A_TIME - Duration::from_nanos(1)));
        assert_eq!(spend(work), Some(()));
        assert_eq!(spend(work), None, "whoever has come is answered first");
        begin_turn();
        assert_eq!(spend(work), Some(()));
        somebody_was_let_in();
        assert_eq!(spend(work), None);
    }
}
