//! The redb database behind the embedded store: opened, watched, and opened again after a fault. Never answers from a
//! database that has failed, never makes a new store where one was lost, and never lets redb's panics out.
//!
//! After an I/O error redb refuses every act until it is opened again. So the first act that meets a fault puts the
//! database away, and a later act, at most every [`RETRY`], opens it again.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};
use std::time::{Duration, Instant};

use redb::{Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase, StorageBackend, WriteTransaction};

use super::super::StoreError;
use super::super::format::{Format, UNFINISHED};
use super::super::keyspace::{META, META_FORMAT, META_SEQUENCE};
use super::act::{Act, Failure};
use super::indexes;
use super::source::{Boxed, Source};
use super::tables::{is_younger_than_its_format, make_tables, missing_table};

/// How often a broken database is tried again.
const RETRY: Duration = Duration::from_millis(100);
/// What redb may keep of the file in memory.
const CACHE_BYTES: usize = 16 << 20;

/// One redb database, and another one after each fault.
pub(super) struct Engine {
    source: Source,
    admits: Admits,
    open: RwLock<Option<Arc<Handle>>>,
    fault: Mutex<Fault>,
    /// The highest sequence number that was acknowledged.
    newest: AtomicU64,
    /// Whether it was said that the file is gone.
    is_gone: AtomicBool,
}

/// Which stores may be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admits {
    Whole,
    /// Also one that a migration has begun to fill; for the migration alone.
    Unfinished,
}

/// An open database. When it is dropped the database is closed, and only then says so.
struct Handle {
    database: Option<Database>,
    closed: Arc<AtomicBool>,
}

/// The last fault, while there is no open database.
struct Fault {
    reason: String,
    /// Whether the broken database is gone, and its lock with it.
    closed: Arc<AtomicBool>,
    last_attempt: Option<Instant>,
}

impl Engine {
    /// Opens what is at the source, and makes it if there is nothing yet.
    ///
    /// # Errors
    /// [`OpenError::Locked`] if another process owns it.
    pub(super) fn open(source: Source, admits: Admits) -> Result<Self, OpenError> {
        let made = match admits {
            Admits::Whole => initialise,
            Admits::Unfinished => initialise_closed,
        };
        source.prepare(made).map_err(OpenError::Failed)?;
        let (handle, newest) = open_database(&source, admits, None)?;
        let fault = Fault { reason: String::new(), closed: Arc::default(), last_attempt: None };
        let (open, fault, newest) = (RwLock::new(Some(handle)), Mutex::new(fault), AtomicU64::new(newest));
        Ok(Self { source, admits, open, fault, newest, is_gone: AtomicBool::new(false) })
    }

    /// Reads from one state of the store, in which no write is half done.
    pub(super) fn read<T>(&self, act: impl FnOnce(&ReadTransaction) -> Act<T>) -> Result<T, StoreError> {
        self.with(|database| act(&database.begin_read()?))
    }

    /// Writes wholly and durably, or not at all.
    ///
    /// # Errors
    /// After [`StoreError::Unavailable`] it may have been written; the next read tells.
    pub(super) fn write<T>(&self, act: impl FnOnce(&WriteTransaction) -> Act<T>) -> Result<T, StoreError> {
        self.is_in_place()?;
        let done = self.with(|database| write(database, act))?;
        // What went into a file that was removed meanwhile is lost with it.
        self.is_in_place()?;
        Ok(done)
    }

    /// Whether the file that is open is the one that will be found at the next start. Says once in the log that it is not.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] with what to do.
    pub(super) fn is_in_place(&self) -> Result<(), StoreError> {
        let result = self.source.is_in_place();
        if self.is_gone.swap(result.is_err(), Ordering::SeqCst) != result.is_err() {
            match &result {
                Ok(()) => tracing::info!(store = %self.source, "the store's file is back in its place"),
                Err(error) => tracing::error!(%error, "the store's file is not in its place any more"),
            }
        }
        result
    }

    /// Notes that a sequence number has been acknowledged: no later opening of the store may have a lower one.
    pub(super) fn acknowledge(&self, sequence: u64) {
        self.newest.fetch_max(sequence, Ordering::SeqCst);
    }

    fn with<T>(&self, act: impl FnOnce(&Database) -> Act<T>) -> Result<T, StoreError> {
        let handle = self.handle()?;
        // The last act on a broken database closes it here, so the handle lives within the guard.
        let result = catch_unwind(AssertUnwindSafe(|| match &handle.database {
            Some(database) => act(database),
            None => Err(Failure::Broken("it is closed".to_owned())),
        }));
        let reason = match result {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(Failure::Refused(error))) => return Err(error),
            Ok(Err(Failure::Broken(reason))) => reason,
            Err(_) => "its engine panicked".to_owned(),
        };
        Err(self.put_away(&handle, &reason))
    }

    /// Puts a broken database away before anybody else can read from it.
    fn put_away(&self, handle: &Arc<Handle>, reason: &str) -> StoreError {
        let reason = format!("{}: {reason}", self.source);
        let is_current = || self.current().is_some_and(|open| Arc::ptr_eq(&open, handle));
        if is_current() {
            let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
            if is_current() {
                fault.reason.clone_from(&reason);
                fault.closed = Arc::clone(&handle.closed);
                *self.open.write().unwrap_or_else(PoisonError::into_inner) = None;
                tracing::error!(reason, "the store failed and will be opened again");
            }
        }
        StoreError::Unavailable(reason)
    }

    /// Whether it has not failed since it was opened last.
    pub(super) fn is_open(&self) -> bool {
        self.current().is_some()
    }

    fn current(&self) -> Option<Arc<Handle>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn handle(&self) -> Result<Arc<Handle>, StoreError> {
        match self.current() {
            Some(handle) => Ok(handle),
            None => self.open_again(),
        }
    }

    /// One attempt to open it again, if it is time for one. Others are answered at once meanwhile.
    fn open_again(&self) -> Result<Arc<Handle>, StoreError> {
        let mut fault = match self.fault.try_lock() {
            Ok(fault) => fault,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(StoreError::Unavailable(format!("{} is being opened again", self.source)));
            }
        };
        if let Some(handle) = self.current() {
            return Ok(handle);
        }
        let too_early = fault.last_attempt.is_some_and(|at| at.elapsed() < RETRY);
        if too_early || !fault.closed.load(Ordering::SeqCst) {
            return Err(StoreError::Unavailable(fault.reason.clone()));
        }
        let result = open_database(&self.source, self.admits, Some(self.newest.load(Ordering::SeqCst)));
        // Counted from the end, so that a device that answers slowly is not tried without a pause.
        fault.last_attempt = Some(Instant::now());
        match result {
            Ok((handle, _)) => {
                *self.open.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&handle));
                tracing::info!(store = %self.source, "the store is open again");
                Ok(handle)
            }
            Err(error) => {
                fault.reason = match error {
                    OpenError::Failed(StoreError::OverQuota(quota)) => quota.to_string(),
                    OpenError::Locked => format!("{} is in use by another process", self.source),
                    OpenError::Failed(
                        StoreError::Unavailable(reason)
                        | StoreError::Full(reason)
                        | StoreError::Unreplicated(reason)
                        | StoreError::Damaged(reason)
                        | StoreError::Conflict(reason),
                    ) => reason,
                };
                Err(StoreError::Unavailable(fault.reason.clone()))
            }
        }
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Engine({})", self.source)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let database = self.database.take();
        if catch_unwind(AssertUnwindSafe(|| drop(database))).is_err() {
            tracing::error!("the store's engine panicked when it was closed");
        }
        self.closed.store(true, Ordering::SeqCst);
    }
}

/// Why there is no open database.
#[derive(Debug)]
pub(super) enum OpenError {
    /// Another process has it.
    Locked,
    Failed(StoreError),
}

/// Opens the database, and gives its sequence number. With `newest` it was open in this process before, and must still
/// be what it was.
fn open_database(source: &Source, admits: Admits, newest: Option<u64>) -> Result<(Arc<Handle>, u64), OpenError> {
    let again = newest.is_some();
    let opened = catch_unwind(AssertUnwindSafe(|| -> Result<Handle, OpenError> {
        let backend = source.backend(again).map_err(OpenError::Failed)?;
        let database = create(backend).map_err(|error| refused(source, error))?;
        let handle = Handle { database: Some(database), closed: Arc::default() };
        Ok(handle)
    }));
    let panicked = || OpenError::Failed(StoreError::Unavailable(format!("{source}: its engine panicked")));
    let handle = opened.unwrap_or_else(|_| Err(panicked()))?;
    let Some(database) = &handle.database else { return Err(panicked()) };
    let checked = catch_unwind(AssertUnwindSafe(|| check(database, admits, newest)));
    match checked {
        Ok(Ok(sequence)) => Ok((Arc::new(handle), sequence)),
        Ok(Err(Failure::Refused(StoreError::Damaged(reason)))) => {
            Err(OpenError::Failed(StoreError::Damaged(format!("{source}: {reason}"))))
        }
        Ok(Err(Failure::Refused(error))) => Err(OpenError::Failed(error)),
        Ok(Err(Failure::Broken(reason))) => {
            Err(OpenError::Failed(StoreError::Unavailable(format!("{source}: {reason}"))))
        }
        Err(_) => Err(panicked()),
    }
}

fn create(backend: Box<dyn StorageBackend>) -> Result<Database, DatabaseError> {
    Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(Boxed(backend))
}

/// Makes a whole, closed, empty store on this backend.
fn initialise(backend: Box<dyn StorageBackend>) -> Result<(), String> {
    make(backend, |_| Ok(()))
}

/// The same, of a store that only a migration opens before it is filled.
fn initialise_closed(backend: Box<dyn StorageBackend>) -> Result<(), String> {
    make(backend, |database| {
        write(database, |transaction| {
            transaction.open_table(META)?.insert(META_FORMAT, UNFINISHED)?;
            Ok(())
        })
    })
}

fn make(backend: Box<dyn StorageBackend>, then: fn(&Database) -> Act<()>) -> Result<(), String> {
    let made = catch_unwind(AssertUnwindSafe(|| -> Result<(), Failure> {
        let database = create(backend).map_err(|error| Failure::Broken(error.to_string()))?;
        check(&database, Admits::Whole, None)?;
        then(&database)
    }));
    match made {
        Ok(Ok(())) => Ok(()),
        Ok(Err(Failure::Refused(error))) => Err(error.to_string()),
        Ok(Err(Failure::Broken(reason))) => Err(reason),
        Err(_) => Err("its engine panicked".to_owned()),
    }
}

/// In place of a format where there is no store yet.
const MISSING: u64 = 0;

/// Makes the tables that are not there and gives the sequence number; refuses a store that this Tollgate cannot read, or that
/// lost what was acknowledged.
fn check(database: &Database, admits: Admits, newest: Option<u64>) -> Act<u64> {
    let damaged = |reason: String| Err::<u64, _>(Failure::Refused(StoreError::Damaged(reason)));
    let (format, sequence, missing) = {
        let read = database.begin_read()?;
        match read.open_table(META) {
            Ok(meta) => (
                meta.get(META_FORMAT)?.map_or(MISSING, |value| value.value()),
                meta.get(META_SEQUENCE)?.map_or(0, |value| value.value()),
                missing_table(&read)?,
            ),
            Err(redb::TableError::TableDoesNotExist(_)) => (MISSING, 0, None),
            Err(error) => return Err(error.into()),
        }
    };
    if format == UNFINISHED && admits == Admits::Unfinished {
        return Ok(sequence);
    }
    let stored = format;
    let format = match stored {
        MISSING => Format::NEWEST,
        // What came with the second format is a table alone, which is made here.
        1 => Format::Two,
        number => Format::of_file(number)?,
    };
    if let Some(newest) = newest
        && sequence < newest
    {
        return damaged(format!(
            "changes that were acknowledged are gone after a fault (it ends at {sequence}, it had {newest}): \
             restore a backup, or restart to go on without them"
        ));
    }
    if stored == Format::NEWEST.in_file()
        && let Some(table) = missing.as_ref().filter(|table| !is_younger_than_its_format(table))
    {
        return damaged(format!("the table `{table}` is gone from it: restore a backup"));
    }
    if missing.is_none() && stored == format.in_file() {
        return Ok(sequence);
    }
    write(database, |transaction| {
        make_tables(transaction)?;
        if missing.is_some() && format.has_indexes_of_three() {
            indexes::fill_keys(transaction)?;
        }
        transaction.open_table(META)?.insert(META_FORMAT, format.in_file())?;
        Ok(sequence)
    })
}

fn write<T>(database: &Database, act: impl FnOnce(&WriteTransaction) -> Act<T>) -> Act<T> {
    let mut transaction = database.begin_write()?;
    transaction.set_durability(Durability::Immediate).map_err(|error| Failure::Broken(error.to_string()))?;
    // Keeps what is needed to open the file after a crash without walking all of it.
    transaction.set_quick_repair(true);
    match act(&transaction) {
        Ok(done) => {
            transaction.commit()?;
            Ok(done)
        }
        Err(failure) => {
            // A database that cannot even abort says so to the next act.
            let _ = transaction.abort();
            Err(failure)
        }
    }
}

fn refused(source: &Source, error: DatabaseError) -> OpenError {
    OpenError::Failed(match error {
        DatabaseError::DatabaseAlreadyOpen => return OpenError::Locked,
        DatabaseError::Storage(redb::StorageError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
            StoreError::Damaged(format!("{source} is not a store of Tollgate ({error})"))
        }
        DatabaseError::Storage(error) => match Failure::from(error) {
            Failure::Refused(StoreError::Damaged(reason)) => StoreError::Damaged(format!("{source}: {reason}")),
            Failure::Refused(error) => error,
            Failure::Broken(reason) => StoreError::Unavailable(format!("{source}: {reason}")),
        },
        other => StoreError::Damaged(format!("{source}: {other}")),
    })
}
