//! Disks that are full or broken: what is said meanwhile, that nothing is corrupted, and that the store works again
//! within a second of the fault's end, by itself.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use redb::StorageBackend;
use tollgate::clock::Clock;
use tollgate::domain::record::ApiKey;
use tollgate::resolve::api_key::Digester;
use tollgate::resolve::cache::Sizes;
use tollgate::resolve::pepper::Pepper;
use tollgate::resolve::{ResolveError, Resolver};
use tollgate::store::embedded::Embedded;
use tollgate::store::{Store, StoreError, Write};
use tollgate_core::credential::PresentedKey;
use tollgate_guard::stamps::Stamps;
use zeroize::Zeroizing;

use crate::signed;
use crate::support::{every_key, id, key, lock, minted, revoked};

pub const RECOVERY: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// ENOSPC: nothing can be written.
    Full,
    /// EIO: nothing can be read, written or synced.
    Broken,
    /// EIO, but what is in the page cache can be read.
    Unwritable,
}

impl Fault {
    fn error(self) -> io::Error {
        io::Error::from_raw_os_error(match self {
            Self::Full => 28,
            Self::Broken | Self::Unwritable => 5,
        })
    }
}

#[derive(Debug, Default)]
struct Disk {
    bytes: Vec<u8>,
    /// Acts so far.
    acts: u64,
    /// The fault, and the first act and the one behind the last act that meet it.
    fault: Option<(Fault, u64, u64)>,
    /// Acts that met it.
    hits: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Faulty(Arc<Mutex<Disk>>);

impl Faulty {
    pub fn with(bytes: &[u8]) -> Self {
        Self(Arc::new(Mutex::new(Disk { bytes: bytes.to_vec(), ..Disk::default() })))
    }

    pub fn open(&self) -> Result<Embedded, StoreError> {
        let disk = self.clone();
        let store = Embedded::open_with(Arc::new(move || Ok(Box::new(disk.clone()) as Box<dyn StorageBackend>)));
        store.map(|store| store.with_signers(signed::signers_of(7)))
    }

    fn begin(&self, fault: Fault) {
        lock(&self.0).fault = Some((fault, 0, u64::MAX));
    }

    /// From the `after`th act from now on, `count` acts fail.
    pub fn fail(&self, fault: Fault, after: u64, count: u64) {
        let mut disk = lock(&self.0);
        let first = disk.acts + after;
        disk.fault = Some((fault, first, first.saturating_add(count)));
        disk.hits = 0;
    }

    pub fn end(&self) -> Instant {
        lock(&self.0).fault = None;
        Instant::now()
    }

    /// Whether an act has met the fault.
    pub fn was_hit(&self) -> bool {
        lock(&self.0).hits > 0
    }

    fn act(&self, writes: bool) -> io::Result<std::sync::MutexGuard<'_, Disk>> {
        let mut disk = lock(&self.0);
        disk.acts += 1;
        match disk.fault {
            Some((fault, first, end))
                if (first..end).contains(&(disk.acts - 1)) && (writes || fault == Fault::Broken) =>
            {
                disk.hits += 1;
                Err(fault.error())
            }
            _ => Ok(disk),
        }
    }
}

impl StorageBackend for Faulty {
    fn len(&self) -> io::Result<u64> {
        Ok(self.act(false)?.bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let disk = self.act(false)?;
        let at = offset as usize;
        out.copy_from_slice(disk.bytes.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.act(true)?.bytes.resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.act(true).map(|_| ())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = offset as usize;
        self.act(true)?.bytes[at..at + data.len()].copy_from_slice(data);
        Ok(())
    }
}

/// A disk with a store of `keys` keys, which is closed.
pub fn prepared(keys: u64) -> Vec<u8> {
    let disk = Faulty::default();
    let store = disk.open().unwrap();
    store.apply(&(0..keys).map(|n| Write::CreateKey(key(n))).collect::<Vec<_>>()).unwrap();
    drop(store);
    std::mem::take(&mut lock(&disk.0).bytes)
}

/// Tries until it works; the time since the fault's end must be less than a second.
#[track_caller]
fn recovers<T>(ended: Instant, mut act: impl FnMut() -> Result<T, StoreError>) -> T {
    loop {
        match act() {
            Ok(done) => {
                assert!(ended.elapsed() < RECOVERY, "{:?}", ended.elapsed());
                return done;
            }
            Err(error) => {
                assert!(error.is_transient(), "{error}");
                assert!(ended.elapsed() < RECOVERY, "{error}");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

#[track_caller]
fn assert_unavailable<T: std::fmt::Debug>(result: Result<T, StoreError>, word: &str) {
    match result {
        Err(StoreError::Unavailable(reason)) => assert!(reason.contains(word), "{reason}"),
        other => panic!("{other:?}"),
    }
}

/// Tries until it fails for this reason; it never works, and the reason comes within a second.
#[track_caller]
fn becomes_unavailable<T: std::fmt::Debug>(mut act: impl FnMut() -> Result<T, StoreError>, word: &str) {
    let begun = Instant::now();
    loop {
        match act() {
            Err(StoreError::Unavailable(reason)) if reason.contains(word) => return,
            Err(StoreError::Unavailable(_)) if begun.elapsed() < RECOVERY => {}
            other => panic!("{other:?}"),
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_full_disk_refuses_writes_and_loses_nothing() {
    let disk = Faulty::with(&prepared(2000));
    let store = disk.open().unwrap();
    let sequence = store.apply(&[Write::CreateKey(key(5000))]).unwrap();
    disk.begin(Fault::Full);
    for n in 0..20 {
        assert_unavailable(store.apply(&[Write::CreateKey(key(6000 + n))]), "No space left on device");
        assert_unavailable(store.note_use(&[(id(1), crate::support::at(1))]), "No space left on device");
        std::thread::sleep(Duration::from_millis(15));
    }
    let ended = disk.end();
    assert!(recovers(ended, || store.apply(&[Write::CreateKey(key(7000))])) > sequence);
    let all = every_key(&store);
    assert_eq!(all.len(), 2002, "what was refused is not there");
    assert!(all.contains(&key(5000)) && all.contains(&key(7000)));
}

#[test]
fn a_broken_disk_is_unavailable_and_never_says_unknown() {
    let disk = Faulty::with(&prepared(2000));
    let store = disk.open().unwrap();
    disk.begin(Fault::Broken);
    // Pages that are in memory may still answer, and rightly, until the fault is noticed.
    for n in 0..200 {
        match store.key_by_digest(&[key(n * 10).digest]) {
            Ok(found) => assert_eq!(found, Some(key(n * 10))),
            refused => assert_unavailable(refused, "Input/output error"),
        }
    }
    assert_unavailable(store.apply(&[Write::CreateKey(key(6000))]), "Input/output error");
    for n in 0..200 {
        assert_unavailable(store.key_by_digest(&[key(n).digest]), "Input/output error");
    }
    assert_unavailable(store.has_no_keys(), "Input/output error");
    let ended = disk.end();
    assert_eq!(recovers(ended, || store.key_by_digest(&[key(77).digest])), Some(key(77)));
    store.apply(&[Write::UpdateKey(revoked(&key(77)))]).unwrap();
    assert_eq!(every_key(&store).len(), 2000);
    drop(store);
    assert_eq!(disk.open().unwrap().key(id(77)).unwrap(), Some(revoked(&key(77))));
}

/// Every single act of redb fails once, in its turn, while a key is made; and so does everything after it.
#[test]
fn no_fault_at_any_moment_corrupts_or_loses_anything() {
    let bytes = prepared(300);
    let mut faults = 0;
    for (fault, count) in [
        (Fault::Broken, 1),
        (Fault::Broken, u64::MAX),
        (Fault::Full, 1),
        (Fault::Full, u64::MAX),
        (Fault::Unwritable, 1),
    ] {
        for after in 0.. {
            let disk = Faulty::with(&bytes);
            let store = disk.open().unwrap();
            disk.fail(fault, after, count);
            let made = store.apply(&[Write::CreateKey(key(1000)), Write::UpdateKey(revoked(&key(7)))]);
            let was_hit = disk.was_hit();
            let ended = disk.end();
            if let Err(error) = &made {
                assert!(error.is_transient(), "{fault:?} {after}: {error}");
                assert!(!error.to_string().contains("panicked"), "{fault:?} {after}: {error}");
            }
            let found = recovers(ended, || store.key(id(1000)));
            let other = store.key(id(7)).unwrap().unwrap();
            assert!(made.is_err() || found.is_some(), "{fault:?} {after}: an acknowledged key is lost");
            assert_eq!(found.is_some(), other.revoked_at.is_some(), "{fault:?} {after}: a batch was torn");
            recovers(Instant::now(), || store.apply(&[Write::CreateKey(key(1001))]));
            let all = every_key(&store);
            drop(store);
            assert_eq!(every_key(&disk.open().unwrap()), all, "{fault:?} {after}");
            assert_eq!(all.len(), 301 + usize::from(found.is_some()), "{fault:?} {after}");
            if !was_hit {
                break;
            }
            faults += 1;
        }
    }
    println!("{faults} faults, 0 lost");
    assert!(faults > 50);
}

/// The same while the store is opened after a crash, and while it is opened again after a fault.
#[test]
fn no_fault_while_it_opens_corrupts_anything() {
    let crashed = Faulty::with(&prepared(300));
    let store = crashed.open().unwrap();
    store.apply(&[Write::CreateKey(key(1000))]).unwrap();
    let bytes = lock(&crashed.0).bytes.clone();
    drop(store);
    for (fault, count) in [(Fault::Broken, 1), (Fault::Full, u64::MAX)] {
        for after in 0.. {
            let disk = Faulty::with(&bytes);
            disk.fail(fault, after, count);
            let opened = disk.open();
            let was_hit = disk.was_hit();
            disk.end();
            if let Err(error) = &opened {
                assert!(error.is_transient(), "{fault:?} {after}: {error}");
                assert!(!error.to_string().contains("panicked"), "{fault:?} {after}: {error}");
            }
            drop(opened);
            assert_eq!(every_key(&disk.open().unwrap()).len(), 301, "{fault:?} {after}");
            if !was_hit {
                break;
            }
        }
    }
}

#[test]
fn a_disk_that_forgot_what_was_acknowledged_is_not_believed() {
    let disk = Faulty::with(&prepared(10));
    let store = disk.open().unwrap();
    let old = lock(&disk.0).bytes.clone();
    store.apply(&[Write::UpdateKey(revoked(&key(1)))]).unwrap();
    disk.begin(Fault::Broken);
    assert_unavailable(store.apply(&[]), "Input/output");
    lock(&disk.0).bytes = old;
    disk.end();
    becomes_unavailable(|| store.key_by_digest(&[key(1).digest]), "changes that were acknowledged are gone");
    lock(&disk.0).bytes.clear();
    becomes_unavailable(|| store.key_by_digest(&[key(1).digest]), "the given storage is gone");
}

#[test]
fn a_file_that_vanished_is_not_made_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let store = signed::embedded(&path, Duration::ZERO).unwrap();
    store.apply(&[Write::CreateKey(key(1))]).unwrap();
    drop(store);

    let gone = Arc::new(Mutex::new(false));
    let factory = {
        let gone = Arc::clone(&gone);
        move || -> io::Result<Box<dyn StorageBackend>> {
            if *lock(&gone) {
                return Err(io::Error::from_raw_os_error(2));
            }
            let file = std::fs::OpenOptions::new().read(true).write(true).open(&path)?;
            Ok(Box::new(Dying(redb::backends::FileBackend::new(file).unwrap(), Arc::clone(&gone))))
        }
    };
    let store = Embedded::open_with(Arc::new(factory)).unwrap().with_signers(signed::signers_of(7));
    *lock(&gone) = true;
    assert_unavailable(store.apply(&[]), "Input/output");
    becomes_unavailable(|| store.key(id(1)), "No such file");
    let ended = Instant::now();
    *lock(&gone) = false;
    assert_eq!(recovers(ended, || store.key(id(1))), Some(key(1)), "the lock was let go");
}

/// A real file, with its lock, on a device that can be pulled out.
#[derive(Debug)]
struct Dying(redb::backends::FileBackend, Arc<Mutex<bool>>);

impl Dying {
    fn act(&self) -> io::Result<&redb::backends::FileBackend> {
        if *lock(&self.1) { Err(io::Error::from_raw_os_error(5)) } else { Ok(&self.0) }
    }
}

impl StorageBackend for Dying {
    fn len(&self) -> io::Result<u64> {
        self.act()?.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.act()?.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.act()?.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.act()?.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.act()?.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }

    fn try_lock_range(
        &self,
        start: std::ops::Bound<u64>,
        end: std::ops::Bound<u64>,
    ) -> Result<bool, redb::BackendError> {
        self.0.try_lock_range(start, end)
    }

    fn unlock_range(&self, start: std::ops::Bound<u64>, end: std::ops::Bound<u64>) -> Result<(), redb::BackendError> {
        self.0.unlock_range(start, end)
    }
}

/// A backend that panics: the store says that it is not available, and goes on afterwards.
#[test]
fn a_panic_below_is_a_fault_like_any_other() {
    let quiet = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let disk = Faulty::with(&prepared(10));
    let bad = Arc::new(Mutex::new(false));
    let store = {
        let bad = Arc::clone(&bad);
        Embedded::open_with(Arc::new(move || {
            Ok(Box::new(Panicking(disk.clone(), Arc::clone(&bad))) as Box<dyn StorageBackend>)
        }))
        .unwrap()
        .with_signers(signed::signers_of(7))
    };
    *lock(&bad) = true;
    assert_unavailable(store.apply(&[Write::CreateKey(key(50))]), "panicked");
    assert!(store.key(id(1)).is_err());
    *lock(&bad) = false;
    let ended = Instant::now();
    recovers(ended, || store.apply(&[Write::CreateKey(key(51))]));
    let all = every_key(&store);
    assert!(all.contains(&key(51)) && all.len() >= 11);
    std::panic::set_hook(quiet);
}

#[derive(Debug)]
struct Panicking(Faulty, Arc<Mutex<bool>>);

impl StorageBackend for Panicking {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        assert!(!*lock(&self.1), "a forced panic");
        self.0.write(offset, data)
    }
}

#[tokio::test]
async fn cached_keys_pass_while_the_disk_is_broken() {
    let digester = Arc::new(Digester::new(&Pepper::new(1, Zeroizing::new([7; 32])), &[]));
    let secrets = [minted(1), minted(2)];
    let [cached, cold] = secrets.each_ref().map(|secret| PresentedKey::parse(secret.expose(), "ik_live").unwrap());
    let disk = Faulty::with(&prepared(2000));
    let store = Arc::new(disk.open().unwrap());
    let record = |key: &PresentedKey<'_>, n| {
        Write::CreateKey(ApiKey { id: key.id(), digest: digester.current(key), ..crate::support::key(n) })
    };
    store.apply(&[record(&cached, 5000), record(&cold, 5001)]).unwrap();
    drop(store);
    let store = Arc::new(disk.open().unwrap());
    let sizes = Sizes { known: 100, unknown: 100, loads: 10 };
    let resolver = Resolver::new(
        Store::Embedded(Arc::clone(&store)),
        digester,
        Arc::new(Stamps::sole(Clock::System)),
        Arc::default(),
        sizes,
        None,
    );
    assert_eq!(
        resolver.principal(&cached, Duration::ZERO).await.unwrap().value.as_ref().unwrap().key_id(),
        Some(cached.id().as_str())
    );

    disk.begin(Fault::Broken);
    // A page of it may be in memory still; it is not once the fault was noticed.
    assert!(store.apply(&[]).is_err());
    for _ in 0..10 {
        assert!(resolver.principal(&cached, Duration::ZERO).await.unwrap().value.is_some());
        assert_eq!(resolver.principal(&cold, Duration::ZERO).await.unwrap_err(), ResolveError::Unavailable);
    }
    let ended = disk.end();
    while resolver.principal(&cold, Duration::ZERO).await.is_err() {
        assert!(ended.elapsed() < RECOVERY);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(
        resolver.principal(&cold, Duration::ZERO).await.unwrap().value.as_ref().unwrap().key_id(),
        Some(cold.id().as_str())
    );
}
