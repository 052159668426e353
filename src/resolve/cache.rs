//! L1: what was found lately, in process, guarded by stamps. One flight a digest; a bounded number of flights. Never
//! caches a verdict, and never lets unknown digests push known ones out.

mod entries;

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tollgate_core::decision::Tier;
use tollgate_guard::digest::Digest;
use tollgate_guard::entry::Entry;
use tollgate_guard::found::Found;
use tollgate_guard::slots::Slots;
use tollgate_guard::stamps::{Proof, Stamps};

use super::ResolveError;
use entries::Entries;

/// How much is kept, and how many look-ups may be under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Entries of things that exist.
    pub known: u64,
    /// Entries of things that do not.
    pub unknown: u64,
    /// Look-ups at a time; more are refused as unavailable. As many again of what was known to exist.
    pub loads: usize,
}

/// A thing that does not exist is forgotten after this time, so that a flood leaves nothing behind.
const UNKNOWN_LIFE: Duration = Duration::from_secs(30);

/// A disk that hangs holds its loads, but nobody who waits for them.
const LOAD_TIME: Duration = Duration::from_secs(2);

/// What was found, and when it stops being true.
#[derive(Debug)]
pub struct Resolved<T> {
    /// `None`: it does not exist.
    pub value: Option<Arc<T>>,
    pub(super) tier: Tier,
    pub(super) proof: Proof,
}

impl<T> Resolved<T> {
    fn of(entry: Entry<T>, tier: Tier) -> Self {
        Self { value: entry.value, tier, proof: entry.proof }
    }

    /// The word for a trace.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// With its proof, and where it was found; `None`: it does not exist.
    pub fn into_found(self) -> (Option<Found<Arc<T>>>, Tier) {
        let proof = self.proof;
        (self.value.map(|value| Found::new(value, proof)), self.tier)
    }
}

/// What a load found.
#[derive(Debug)]
pub struct Loaded<T> {
    pub value: Option<Arc<T>>,
    pub slots: Slots,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheStats {
    pub entries: u64,
    pub unknown_entries: u64,
    pub loads: u64,
    pub refused_loads: u64,
}

type Outcome<T> = Result<Entry<T>, ResolveError>;
type Flights<T> = Arc<Mutex<HashMap<Digest, watch::Receiver<Option<Outcome<T>>>>>>;

/// A cache of one kind of thing, by digest.
pub struct Cache<T> {
    stamps: Arc<Stamps>,
    known: Entries<Entry<T>>,
    unknown: Entries<Entry<T>>,
    flights: Flights<T>,
    permits: Arc<Semaphore>,
    /// For what is known to exist, where the others have no place left for it.
    reserve: Arc<Semaphore>,
    loads: AtomicU64,
    refused_loads: AtomicU64,
}

impl<T> std::fmt::Debug for Cache<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cache")
    }
}

impl<T: Send + Sync + 'static> Cache<T> {
    pub fn new(stamps: Arc<Stamps>, sizes: Sizes) -> Self {
        Self::with(stamps, sizes, Entries::lasting(sizes.known))
    }

    /// Forgets everything after this time.
    pub fn for_a_while(stamps: Arc<Stamps>, sizes: Sizes, life: Duration) -> Self {
        Self::with(stamps, sizes, Entries::passing(sizes.known, life))
    }

    fn with(stamps: Arc<Stamps>, sizes: Sizes, known: Entries<Entry<T>>) -> Self {
        Self {
            stamps,
            known,
            unknown: Entries::passing(sizes.unknown, UNKNOWN_LIFE),
            flights: Arc::default(),
            permits: Arc::new(Semaphore::new(sizes.loads)),
            reserve: Arc::new(Semaphore::new(sizes.loads)),
            loads: AtomicU64::new(0),
            refused_loads: AtomicU64::new(0),
        }
    }

    /// What is cached and still true. `grace` extends the lease for what exists; see [`Stamps::stand`].
    pub fn get(&self, digest: &Digest, grace: Duration) -> Option<Resolved<T>> {
        let hit = |entries: &Entries<Entry<T>>, tier, grace| {
            let entry = entries.get(digest)?;
            self.stamps.stand(&entry.proof, grace).then(|| Resolved::of(entry, tier))
        };
        hit(&self.known, Tier::Cache, grace).or_else(|| hit(&self.unknown, Tier::NegativeCache, Duration::ZERO))
    }

    /// Keeps what was found without a load.
    pub fn put(&self, digest: Digest, value: Arc<T>, proof: Proof) -> Resolved<T> {
        let entry = Entry { value: Some(value), proof };
        self.known.insert(digest, entry.clone());
        Resolved::of(entry, Tier::Verified)
    }

    /// Loads it, or waits for a load that is under way. The load goes on if the caller is dropped.
    ///
    /// # Errors
    /// Those of the load; [`ResolveError::Unavailable`] if too many are under way.
    pub async fn load<F>(&self, digest: Digest, load: impl Fn() -> F) -> Result<Resolved<T>, ResolveError>
    where
        F: Future<Output = Result<Loaded<T>, ResolveError>> + Send + 'static,
    {
        let arrival = self.stamps.take();
        loop {
            let entry = wait(self.flight(digest, &load)?).await?;
            // A load that began before a change that was acknowledged before we arrived proves nothing to us. The next
            // flight, joined or started, began after this one ended, and so after we arrived.
            let Proof { stamp, slots, .. } = &entry.proof;
            if self.stamps.allow(*stamp, slots) || Stamps::began_after(*stamp, arrival) {
                return Ok(Resolved::of(entry, Tier::Store));
            }
        }
    }

    /// The flight of a digest, started if there is none.
    fn flight<F>(
        &self,
        digest: Digest,
        load: &impl Fn() -> F,
    ) -> Result<watch::Receiver<Option<Outcome<T>>>, ResolveError>
    where
        F: Future<Output = Result<Loaded<T>, ResolveError>> + Send + 'static,
    {
        let mut flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = flights.get(&digest) {
            return Ok(flight.clone());
        }
        // A flood of digests that nobody knows keeps those out that nobody knows.
        let reserved = |full| match self.known.get(&digest) {
            Some(_) => Arc::clone(&self.reserve).try_acquire_owned(),
            None => Err(full),
        };
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned().or_else(reserved) else {
            self.refused_loads.fetch_add(1, Ordering::Relaxed);
            return Err(ResolveError::Unavailable);
        };
        self.loads.fetch_add(1, Ordering::Relaxed);
        let (publish, flight) = watch::channel(None);
        flights.insert(digest, flight.clone());
        drop(flights);

        let guard = FlightGuard { flights: Arc::clone(&self.flights), digest };
        let (known, unknown) = (self.known.clone(), self.unknown.clone());
        let (stamp, sent) = (self.stamps.take(), self.stamps.now());
        let load = load();
        tokio::spawn(async move {
            let outcome =
                load.await.map(|Loaded { value, slots }| Entry { value, proof: Proof { stamp, slots, sent } });
            if let Ok(entry) = &outcome {
                match entry.value {
                    Some(_) => {
                        known.insert(digest, entry.clone());
                        unknown.remove(&digest);
                    }
                    None => {
                        unknown.insert(digest, entry.clone());
                        known.remove(&digest);
                    }
                }
            }
            drop(guard);
            drop(permit);
            // Nobody may be waiting any more.
            let _ = publish.send(Some(outcome));
        });
        Ok(flight)
    }

    pub fn stats(&self) -> CacheStats {
        CacheStats {
            entries: self.known.count(),
            unknown_entries: self.unknown.count(),
            loads: self.loads.load(Ordering::Relaxed),
            refused_loads: self.refused_loads.load(Ordering::Relaxed),
        }
    }
}

/// Waits for a flight; one that ended without an outcome (a panic), or does not end, says nothing.
async fn wait<T>(mut flight: watch::Receiver<Option<Outcome<T>>>) -> Outcome<T> {
    match timeout(LOAD_TIME, flight.wait_for(Option::is_some)).await {
        Ok(Ok(outcome)) => outcome.clone().unwrap_or(Err(ResolveError::Unavailable)),
        Ok(Err(_)) | Err(_) => Err(ResolveError::Unavailable),
    }
}

/// Takes a flight off the board, also when its load panics.
struct FlightGuard<T> {
    flights: Flights<T>,
    digest: Digest,
}

impl<T> Drop for FlightGuard<T> {
    fn drop(&mut self) {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.digest);
    }
}
