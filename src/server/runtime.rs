//! Runtimes of their own for doors that must answer whatever the others are doing. Never shares a thread with another door.

use std::future::Future;
use std::io;

use tokio::sync::oneshot;

/// Blocking acts, such as look-ups in the store, that one door has under way at a time.
const BLOCKING_THREADS: usize = 8;

/// Runs `work` on a thread, in a runtime and with blocking threads of its own. What comes back is told when it has ended.
///
/// # Errors
/// If the system gives no thread.
pub fn run_apart<F: Future<Output = ()>>(
    name: &str,
    work: impl FnOnce() -> F + Send + 'static,
) -> io::Result<oneshot::Receiver<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_name(format!("{name}-io"))
        .enable_all()
        .build()?;
    let (ended, end) = oneshot::channel();
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        // Within the runtime, so that sockets find it.
        runtime.block_on(async { work().await });
        // An act that a broken disk holds up does not hold up the end.
        runtime.shutdown_background();
        drop(ended);
    })?;
    Ok(end)
}
