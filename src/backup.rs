//! Copies of an embedded store, made by the process that owns it while it answers checks. Never makes two at a time, never keeps a
//! copy in memory, and never waits for long for whoever takes one.

use std::io::{self, Write};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
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
pub struct Backups(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Store,
    signer: Signer,
    turn: Arc<Semaphore>,
    is_ending: AtomicBool,
}

/// A turn to make a copy: nobody else has one.
#[derive(Debug)]
pub struct Turn(#[expect(dead_code)] OwnedSemaphorePermit);

/// The bytes of a copy, as they come.
#[derive(Debug)]
pub struct Chunks {
    incoming: mpsc::Receiver<Chunk>,
    is_over: bool,
}

/// Has no `Debug`: what stands in records has no place in a log.
enum Chunk {
    Bytes(Bytes),
    /// There are no more.
    End,
    Failed(String),
}

impl Chunks {
    /// The next ones; an error, once, where the rest does not come; `None` behind the end.
    pub async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.is_over {
            return None;
        }
        let chunk = self.incoming.recv().await;
        self.is_over = !matches!(chunk, Some(Chunk::Bytes(_)));
        match chunk {
            Some(Chunk::Bytes(bytes)) => Some(Ok(bytes)),
            Some(Chunk::End) => None,
            Some(Chunk::Failed(reason)) => Some(Err(io::Error::other(reason))),
            // Without a word of it, what was sent so far would pass for all.
            None => Some(Err(io::Error::other("the backup was cut off"))),
        }
    }
}

impl Backups {
    pub fn new(store: Store, signer: Signer) -> Self {
        Self(Arc::new(Inner { store, signer, turn: Arc::new(Semaphore::new(1)), is_ending: AtomicBool::new(false) }))
    }

    /// A turn to make a copy.
    ///
    /// # Errors
    /// [`BackupError`]
    pub fn turn(&self) -> Result<Turn, BackupError> {
        self.own_store()?;
        Arc::clone(&self.0.turn).try_acquire_owned().map(Turn).map_err(|_| BackupError::Busy)
    }

    /// The process ends: so does a copy that is being made.
    pub fn end(&self) {
        self.0.is_ending.store(true, Ordering::SeqCst);
    }

    fn own_store(&self) -> Result<&Arc<Embedded>, BackupError> {
        match &self.0.store {
            Store::Embedded(store) => Ok(store),
            Store::Redis(_) => Err(BackupError::Shared),
        }
    }

    /// Begins a copy of the store as it is now.
    ///
    /// # Errors
    /// [`BackupError`]
    pub fn begin(&self, turn: Turn, now: Timestamp) -> Result<Chunks, BackupError> {
        let (store, inner) = (Arc::clone(self.own_store()?), Arc::clone(&self.0));
        let (sender, incoming) = mpsc::channel(WAITING);
        let runtime = Handle::current();
        let make = move || {
            stand_behind_checks(NICENESS, "what makes a backup");
            let out =
                Sender { chunk: BytesMut::with_capacity(CHUNK), sender: &sender, runtime: &runtime, backups: &inner };
            let made = catch_unwind(AssertUnwindSafe(|| store.snapshot(out, now, &inner.signer)));
            let made = made.unwrap_or_else(|_| Err(StoreError::Unavailable("the copy panicked".to_owned())));
            // Whoever does not hear of the end finds it missing.
            match made {
                Ok((_, end)) => {
                    tracing::info!(records = end.records, "a backup was made");
                    let _ = send(&runtime, &sender, Chunk::End);
                }
                Err(error) => {
                    tracing::warn!(%error, "a backup was not made");
                    let _ = sender.try_send(Chunk::Failed(error.to_string()));
                }
            }
            drop(turn);
        };
        let thread = std::thread::Builder::new().name("tollgate-backup".to_owned()).spawn(make);
        thread.map_err(|error| BackupError::NoThread(error.to_string()))?;
        Ok(Chunks { incoming, is_over: false })
    }
}

/// Gathers what is written, and sends it off when there is enough.
struct Sender<'s> {
    chunk: BytesMut,
    sender: &'s mpsc::Sender<Chunk>,
    runtime: &'s Handle,
    backups: &'s Inner,
}

impl Write for Sender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(CHUNK - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..taken]);
        if self.chunk.len() == CHUNK {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.backups.is_ending.load(Ordering::SeqCst) {
            return Err(io::Error::other("Tollgate is told to end"));
        }
        let chunk = mem::replace(&mut self.chunk, BytesMut::with_capacity(CHUNK)).freeze();
        if chunk.is_empty() { Ok(()) } else { send(self.runtime, self.sender, Chunk::Bytes(chunk)) }
    }
}

fn send(runtime: &Handle, sender: &mpsc::Sender<Chunk>, chunk: Chunk) -> io::Result<()> {
    match runtime.block_on(async { tokio::time::timeout(STALL, sender.send(chunk)).await }) {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(io::Error::other("whoever took it has gone")),
        Err(_) => Err(io::Error::other("whoever takes it has taken nothing for 10 seconds")),
    }
}
