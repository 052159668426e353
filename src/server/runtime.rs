//! Runtimes of their own for doors that must answer whatever the others are doing. Never shares a thread with another door, and never
//! lets a crowd take the core from the threads that answer checks.

use std::future::Future;
use std::io;

use futures_util::future::{FutureExt, Shared, select_all};
use tokio::sync::oneshot;

use crate::tasks;

/// Blocking acts, such as look-ups in the store, that one door has under way at a time.
const BLOCKING_THREADS: usize = 8;

/// What comes back when a door has ended.
pub type End = Shared<oneshot::Receiver<()>>;

/// Who may come to a door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crowd {
    /// Whoever reaches its address. What they ask stands behind checks.
    Anybody,
    Operator,
}

/// Runs `work` on a thread, in a runtime and with blocking threads of its own. What comes back is told when it has ended.
///
/// # Errors
/// If the system gives no thread.
pub fn run_apart<F: Future<Output = ()>>(
    name: &'static str,
    crowd: Crowd,
    work: impl FnOnce() -> F + Send + 'static,
) -> io::Result<End> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name(format!("{name}-io"))
        .enable_all()
        .build()?;
    let (ended, end) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        if crowd == Crowd::Anybody {
            tasks::stand_behind_checks(tasks::DOORS, name);
        }
        // Within the runtime, so that sockets find it.
        runtime.block_on(async { work().await });
        // An act that a broken disk holds up does not hold up the end.
        runtime.shutdown_background();
        drop(ended);
    })?;
    Ok(end.shared())
}

/// Waits for `stop`.
///
/// # Errors
/// If one of these has ended before: nobody answers there any more, and nobody would notice.
pub async fn all_until(stop: impl Future<Output = ()>, ends: &[End]) -> io::Result<()> {
    tokio::select! {
        biased;
        () = stop => Ok(()),
        _ = select_all(ends.iter().cloned()) => Err(io::Error::other("a door has ended by itself")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_door_that_ends_by_itself_is_noticed() {
        let stays = || run_apart("stays", Crowd::Operator, std::future::pending::<()>).unwrap();
        let soon = || tokio::time::sleep(Duration::from_millis(50));
        assert!(all_until(soon(), &[stays(), stays()]).await.is_ok());
        let falls = run_apart("falls", Crowd::Anybody, || async { panic!("as a fault of ours would") }).unwrap();
        assert!(all_until(std::future::pending(), &[stays(), falls]).await.is_err());
    }
}
