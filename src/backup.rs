//! Copies of an embedded store, made by the process that owns it while it answers checks. Never makes two at a time, never keeps a
//! copy in memory, and never waits for long for whoever takes one.

use std::io::{self, Write};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tollgate_guard::time::Timestamp;

use crate::store::embedded::Embedded;
use crate::store::snapshot::Signer;
use crate::store::{Store, StoreError};
use crate::tasks::stand_behind_checks;

/// How much is given at once.
const CHUNK: usize = 64 << 10;
/// How many of those wait for whoever takes them.
const WAITING: usize = 4;
/// How long one may wait. The store keeps what was changed since the copy was begun for as long as it is read from, and is not
/// opened again after a fault.
const STALL: Duration = Duration::from_secs(10);
/// How far behind checks it stands.
const NICENESS: i32 = 15;

/// Why no copy is begun.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackupError {
    #[error("Another backup is being made: wait for its end.")]
    Busy,
    #[error(
        "The store is in Redis: run `tollgate backup` where its configuration and its pepper are, which reads it there."
    )]
    Shared,
    #[error("The system gives no thread for it: {0}.")]
    NoThread(String),
}

/// Makes copies. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Backups {
    store: Store,
    signer: Arc<Signer>,
    turn: Arc<Semaphore>,
}

/// The bytes of a copy, as they come. An error means that the rest does not.
pub type Chunks = mpsc::Receiver<io::Result<Bytes>>;

impl Backups {
    pub fn new(store: Store, signer: Signer) -> Self {
        Self { store, signer: Arc::new(signer), turn: Arc::new(Semaphore::new(1)) }
    }

    /// Whether a copy can be begun here at all.
    ///
    /// # Errors
    /// [`BackupError::Shared`]
    pub fn demand_own_store(&self) -> Result<(), BackupError> {
        self.own_store().map(|_| ())
    }

    fn own_store(&self) -> Result<&Arc<Embedded>, BackupError> {
        match &self.store {
            Store::Embedded(store) => Ok(store),
            Store::Redis(_) => Err(BackupError::Shared),
        }
    }

    /// Begins a copy of the store as it is now.
    ///
    /// # Errors
    /// [`BackupError`]
    pub fn begin(&self, now: Timestamp) -> Result<Chunks, BackupError> {
        let (store, signer) = (Arc::clone(self.own_store()?), Arc::clone(&self.signer));
        let turn = Arc::clone(&self.turn).try_acquire_owned().map_err(|_| BackupError::Busy)?;
        let (sender, chunks) = mpsc::channel(WAITING);
        let out = Sender { chunk: BytesMut::with_capacity(CHUNK), sender, runtime: Handle::current() };
        let make = move || {
            stand_behind_checks(NICENESS, "what makes a backup");
            let (runtime, sender) = (out.runtime.clone(), out.sender.clone());
            // Without a word of it, what was sent so far would pass for all.
            let made = catch_unwind(AssertUnwindSafe(|| store.snapshot(out, now, &signer)));
            match made.unwrap_or_else(|_| Err(StoreError::Unavailable("the copy panicked".to_owned()))) {
                Ok((_, end)) => tracing::info!(records = end.records, "a backup was made"),
                Err(error) => {
                    tracing::warn!(%error, "a backup was not made");
                    let _ = send(&runtime, &sender, Err(io::Error::other(error.to_string())));
                }
            }
            drop(turn);
        };
        let thread = std::thread::Builder::new().name("tollgate-backup".to_owned()).spawn(make);
        thread.map_err(|error| BackupError::NoThread(error.to_string()))?;
        Ok(chunks)
    }
}

/// Gathers what is written, and sends it off when there is enough.
struct Sender {
    chunk: BytesMut,
    sender: mpsc::Sender<io::Result<Bytes>>,
    runtime: Handle,
}

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        if self.chunk.len() == CHUNK {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        let chunk = mem::replace(&mut self.chunk, BytesMut::with_capacity(CHUNK)).freeze();
        if chunk.is_empty() { Ok(()) } else { send(&self.runtime, &self.sender, Ok(chunk)) }
    }
}

fn send(runtime: &Handle, sender: &mpsc::Sender<io::Result<Bytes>>, chunk: io::Result<Bytes>) -> io::Result<()> {
    match runtime.block_on(async { tokio::time::timeout(STALL, sender.send(chunk)).await }) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(io::Error::other("whoever took it has gone")),
        Err(_) => Err(io::Error::other("whoever takes it has taken nothing for 10 seconds")),
    }
}
