//! The default store: redb in one file, owned by one process. Every write is on the disk when it is acknowledged, and
//! every act blocks. Never answers from a database that has failed.

mod act;
mod counts;
mod engine;
mod indexes;
mod journal;
mod keys;
mod migration;
mod records;
mod reserve;
mod signing;
mod source;
mod tables;
mod upgrade;

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use redb::backends::InMemoryBackend;
use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata, StorageBackend};
use tollgate_core::credential::KeyId;
use tollgate_guard::time::Timestamp;

use super::format::Format;
use super::keyspace::{self, META_FORMAT, META_SEQUENCE, id_key};
use super::records::step;
use super::records::written::Written;
use super::rules::Purpose;
use super::signature::{Signers, Trust};
use super::{PepperCheck, SessionLoad, StoreError, Write};
use crate::domain::record::{User, UserSessions};
use act::{Act, Failure};
use counts::Counts;
use engine::{Admits, Engine, OpenError};
use records::Records;
use reserve::Reserve;
use source::Source;

pub use source::BackendFactory;

/// How often a lock that another process holds is tried.
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// The store in one file. After a fault of the disk it opens itself again.
#[derive(Debug)]
pub struct Embedded {
    engine: Engine,
    /// `None`: what was given is no file.
    reserve: Option<Reserve>,
    /// Rows that lists have looked at.
    looked_at: AtomicU64,
    counts: Mutex<Counts>,
    trust: Trust,
}

impl Embedded {
    /// Opens the file, or makes it with mode 0600; its folder must be there. Waits up to `wait` while another process
    /// owns the file.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if it cannot be opened, with what to do about it; [`StoreError::Damaged`] if it is no
    /// store.
    pub fn open(path: &Path, wait: Duration) -> Result<Self, StoreError> {
        Self::open_if(path, wait, Admits::Whole)
    }

    fn open_if(path: &Path, wait: Duration, admits: Admits) -> Result<Self, StoreError> {
        let deadline = Instant::now() + wait;
        let mut has_warned = false;
        loop {
            match Engine::open(Source::file(path), admits) {
                Ok(engine) => return Self::of(engine, Some(Reserve::beside(path)), admits),
                Err(OpenError::Failed(error)) => return Err(error),
                Err(OpenError::Locked) if Instant::now() < deadline => {
                    if !std::mem::replace(&mut has_warned, true) {
                        let (store, seconds) = (path.display(), wait.as_secs());
                        tracing::warn!(%store, "another process has the store open: waiting up to {seconds} s for it to end");
                    }
                    std::thread::sleep(LOCK_RETRY);
                }
                Err(OpenError::Locked) => {
                    return Err(StoreError::Unavailable(format!(
                        "{} is in use by another process, and only one may own it: stop that one, or reach the store \
                         through its admin socket",
                        path.display()
                    )));
                }
            }
        }
    }

    /// Opens a store on other storage. The factory is called again after each fault.
    ///
    /// # Errors
    /// As [`Embedded::open`].
    pub fn open_with(backend: BackendFactory) -> Result<Self, StoreError> {
        match Engine::open(Source::Backend(backend), Admits::Whole) {
            Ok(engine) => Self::of(engine, None, Admits::Whole),
            Err(OpenError::Failed(error)) => Err(error),
            Err(OpenError::Locked) => Err(StoreError::Unavailable("the given storage is in use".to_owned())),
        }
    }

    fn of(engine: Engine, reserve: Option<Reserve>, admits: Admits) -> Result<Self, StoreError> {
        let (looked_at, counts, trust) = Default::default();
        let store = Self { engine, reserve, looked_at, counts, trust };
        // One that a migration fills has none yet.
        if admits == Admits::Whole {
            store.format()?;
        }
        Ok(store)
    }

    /// Gives it the keys that sign what is in it. Without them nothing of it is read or written that is signed.
    #[must_use]
    pub fn with_signers(self, signers: Signers) -> Self {
        self.trust.set_signers(signers);
        self
    }

    /// What its records are believed by.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// An empty store that is gone when it is dropped, and so signs with a key that nobody else has.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if it cannot be made.
    pub fn in_memory() -> Result<Self, StoreError> {
        let signers = Signers::random()?;
        let memory = Mutex::new(Some(InMemoryBackend::new()));
        let store = Self::open_with(std::sync::Arc::new(move || {
            let memory = memory.lock().unwrap_or_else(PoisonError::into_inner).take();
            let memory = memory.ok_or_else(|| io::Error::other("what was in memory is lost"))?;
            Ok(Box::new(memory) as Box<dyn StorageBackend>)
        }))?;
        Ok(store.with_signers(signers))
    }

    fn look_at_one(&self) {
        self.looked_at.fetch_add(1, Ordering::Relaxed);
    }

    /// How many rows lists of records and of the audit log have looked at since the store was opened: what a page costs.
    pub fn looked_at(&self) -> u64 {
        self.looked_at.load(Ordering::Relaxed)
    }

    /// A user, what became of one of their sessions, and what is said of their project, of one moment.
    pub fn load_session(&self, user: &str, session: &str) -> Result<SessionLoad, StoreError> {
        let verifier = self.trust.verifier();
        self.engine.read(|read| {
            let open = match records::read::<UserSessions>(&verifier, read, user.as_bytes()) {
                // It keeps nobody from logging in, which begins it anew.
                Err(Failure::Refused(StoreError::Damaged(_))) => false,
                open => open?.is_some_and(|open| open.has(session)),
            };
            let user: Option<User> = records::read(&verifier, read, user.as_bytes())?;
            let ended = read.open_table(keyspace::ENDED_SESSIONS)?.get(session)?.is_some();
            let project = match &user {
                Some(user) => records::read(&verifier, read, user.project.as_bytes())?,
                None => None,
            };
            Ok(SessionLoad { user, open, ended, project })
        })
    }

    /// # Errors
    /// [`StoreError::Full`] where only what ends something is taken, because the disk is full.
    pub fn apply(&self, batch: &[Write]) -> Result<u64, StoreError> {
        self.demand_room(batch)?;
        // Writes follow each other anyway.
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let verifier = &self.trust.verifier();
        let written = self.engine.write(|transaction| {
            let format = format_in(&transaction.open_table(keyspace::META)?)?;
            let mut records =
                Records { transaction, format, verifier, counts: &mut counts, written: Written::default() };
            batch.iter().try_for_each(|write| step(&mut records, write))?;
            records::number(transaction)
        });
        if written.is_err() {
            *counts = Counts::default();
        }
        let sequence = written?;
        self.engine.acknowledge(sequence);
        Ok(sequence)
    }

    /// As [`super::Store::format`].
    pub fn format(&self) -> Result<Format, StoreError> {
        let format = self.engine.read(|read| format_in(&read.open_table(keyspace::META)?))?;
        self.trust.of(format);
        Ok(format)
    }

    /// Sees to it that there is room for the batch before the database is touched: it does not survive a full disk.
    fn demand_room(&self, batch: &[Write]) -> Result<(), StoreError> {
        if self.reserve.is_none() {
            return Ok(());
        }
        let mut purpose = Purpose::default();
        for step in batch {
            let user = match step {
                Write::UpdateUser(user) => self.find::<User>(user.name.as_bytes())?,
                _ => None,
            };
            purpose.note(step, user.as_ref());
        }
        if purpose.only_ends() {
            self.make_room();
            return Ok(());
        }
        self.demand_space()
    }

    /// Gives some of the room back that is kept, if it is needed.
    fn make_room(&self) {
        if let Some(reserve) = &self.reserve {
            reserve.make_room();
        }
    }

    /// Refuses what can wait while there is no room but what is kept.
    fn demand_space(&self) -> Result<(), StoreError> {
        let shortage = self.reserve.as_ref().and_then(Reserve::shortage);
        shortage.map_or(Ok(()), |reason| Err(StoreError::Full(reason)))
    }

    /// The number of the last batch that was applied.
    pub fn sequence(&self) -> Result<u64, StoreError> {
        self.engine.read(|read| Ok(read.open_table(keyspace::META)?.get(META_SEQUENCE)?.map_or(0, |last| last.value())))
    }

    pub fn note_use(&self, uses: &[(KeyId, Timestamp)]) -> Result<(), StoreError> {
        if uses.is_empty() {
            return Ok(());
        }
        self.demand_space()?;
        self.engine.write(|transaction| {
            let mut last_used = transaction.open_table(keyspace::LAST_USED)?;
            for (id, at) in uses {
                let (id, at) = (id_key(id), at.as_millis());
                let known = last_used.get(&id)?.map(|known| known.value());
                if known.is_none_or(|known| known < at) {
                    last_used.insert(&id, at)?;
                }
            }
            Ok(())
        })
    }

    pub fn forget_use(&self, ids: &[KeyId]) -> Result<(), StoreError> {
        self.engine.write(|transaction| {
            let mut last_used = transaction.open_table(keyspace::LAST_USED)?;
            for id in ids {
                last_used.remove(&id_key(id))?;
            }
            Ok(())
        })
    }

    pub fn last_used(&self, ids: &[KeyId]) -> Result<Vec<Option<Timestamp>>, StoreError> {
        self.engine.read(|read| {
            let last_used = read.open_table(keyspace::LAST_USED)?;
            let of = |id: &KeyId| Ok(last_used.get(&id_key(id))?.map(|at| Timestamp::from_millis(at.value())));
            ids.iter().map(of).collect()
        })
    }

    /// Whether it can be read, and what is written would be found again.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] with what to do.
    pub fn check(&self) -> Result<(), StoreError> {
        self.engine.is_in_place()?;
        self.has_no_keys().map(|_| ())
    }

    pub fn has_no_keys(&self) -> Result<bool, StoreError> {
        self.engine.read(|read| Ok(read.open_table(keyspace::KEYS)?.is_empty()?))
    }

    pub fn pepper_checks(&self) -> Result<Vec<PepperCheck>, StoreError> {
        self.engine.read(|read| {
            let mut checks = Vec::new();
            for entry in read.open_table(keyspace::PEPPERS)?.iter()? {
                let (version, check) = entry?;
                checks.push(PepperCheck { version: version.value(), check: *check.value() });
            }
            Ok(checks)
        })
    }

    pub fn put_pepper_check(&self, check: PepperCheck) -> Result<(), StoreError> {
        self.engine.write(|transaction| {
            let mut peppers = transaction.open_table(keyspace::PEPPERS)?;
            let known = peppers.insert(check.version, &check.check)?.map(|known| *known.value());
            match known {
                Some(known) if known != check.check => {
                    let reason = format!("pepper version {} is known with another value", check.version);
                    Err(StoreError::Conflict(reason).into())
                }
                _ => Ok(()),
            }
        })
    }
}

fn format_in(meta: &impl ReadableTable<&'static str, u64>) -> Act<Format> {
    Ok(Format::of_file(meta.get(META_FORMAT)?.map_or(0, |format| format.value()))?)
}

/// Whether every record stands in every index.
fn has_indexes(read: &ReadTransaction) -> Act<bool> {
    Ok(format_in(&read.open_table(keyspace::META)?)?.has_indexes_of_three())
}

fn damaged<T>(reason: String) -> Act<T> {
    Err(StoreError::Damaged(reason).into())
}
