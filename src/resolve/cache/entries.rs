//! Where the entries of a cache lie: bounded in number, found by digest, with or without an end of their own. Knows nothing
//! of what makes an entry true.

use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use quick_cache::UnitWeighter;
use quick_cache::sync::DefaultLifecycle;
use tollgate_guard::digest::Digest;

type Hashing = BuildHasherDefault<NameHasher>;
type Lasting<E> = quick_cache::sync::Cache<Name, E, UnitWeighter, Hashing>;
type Passing<E> = moka::sync::Cache<Name, E, Hashing>;

/// The entries. Cheap to clone: the clones are one.
#[derive(Clone)]
pub(super) enum Entries<E> {
    /// Kept until others need the place. An entry lies in one place, where moka spreads it over seven: among a million keys a
    /// look-up is a matter of memory that is not in the processor's caches (`docs/adr/0002-caches.md`).
    Lasting(Arc<Lasting<E>>),
    /// Forgotten after a time.
    Passing(Passing<E>),
}

impl<E: Clone + Send + Sync + 'static> Entries<E> {
    pub(super) fn lasting(capacity: u64) -> Self {
        let estimate = usize::try_from(capacity).unwrap_or(usize::MAX);
        let (hashing, lifecycle) = (Hashing::default(), DefaultLifecycle::default());
        Self::Lasting(Arc::new(Lasting::with(estimate, capacity, UnitWeighter, hashing, lifecycle)))
    }

    pub(super) fn passing(capacity: u64, life: Duration) -> Self {
        let builder = moka::sync::Cache::builder().max_capacity(capacity).time_to_live(life);
        Self::Passing(builder.build_with_hasher(Hashing::default()))
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<E> {
        match self {
            Self::Lasting(entries) => entries.get(&Name(*digest)),
            Self::Passing(entries) => entries.get(&Name(*digest)),
        }
    }

    pub(super) fn insert(&self, digest: Digest, entry: E) {
        match self {
            Self::Lasting(entries) => entries.insert(Name(digest), entry),
            Self::Passing(entries) => entries.insert(Name(digest), entry),
        }
    }

    pub(super) fn remove(&self, digest: &Digest) {
        match self {
            Self::Lasting(entries) => drop(entries.remove(&Name(*digest))),
            Self::Passing(entries) => entries.invalidate(&Name(*digest)),
        }
    }

    /// About how many there are.
    pub(super) fn count(&self) -> u64 {
        match self {
            Self::Lasting(entries) => entries.len() as u64,
            Self::Passing(entries) => entries.entry_count(),
        }
    }
}

/// A digest as a key of a hash table: its first eight bytes are uniform, and keyed, already.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Name(Digest);

impl Hash for Name {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let Digest([a, b, c, d, e, f, g, h, ..]) = self.0;
        state.write_u64(u64::from_le_bytes([a, b, c, d, e, f, g, h]));
    }
}

/// Passes on the one number that [`Name`] writes.
#[derive(Default)]
pub(super) struct NameHasher(u64);

impl Hasher for NameHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, number: u64) {
        self.0 = number;
    }
}
