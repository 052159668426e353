//! What the fleet finds out once: signatures that are slow to verify, and the key sets of issuers. Every value is sealed under
//! its own name, so that who can write the shared cache can make it forget, and nothing more. Never trusts what it cannot open.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use data_encoding::HEXLOWER;
use tollgate_guard::digest::Digest;
use tollgate_guard::time::Timestamp;
use zeroize::Zeroizing;

use super::api_key::Digester;
use crate::clock::Clock;
use crate::store::StoreError;
use crate::store::redis::shared::{SharedCache, SharedKey};

/// The cache that a fleet shares, as the resolver uses it. Cheap to clone.
#[derive(Clone)]
pub struct L2(Arc<Inner>);

struct Inner {
    cache: SharedCache,
    digester: Arc<Digester>,
    clock: Clock,
    hits: AtomicU64,
    misses: AtomicU64,
    failures: AtomicU64,
}

/// What the fleet knows of a thing.
pub enum Known {
    /// The value, when it was found, and the right to say something newer.
    Value(Zeroizing<Vec<u8>>, Timestamp, Ticket),
    /// Nothing. Who finds it out says so with the ticket.
    Nothing(Ticket),
    /// The cache cannot be reached: whoever asks is on their own.
    Unreachable,
}

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Value(..) => "Value",
            Self::Nothing(_) => "Nothing",
            Self::Unreachable => "Unreachable",
        })
    }
}

/// The right to say what was found out, unless it was to be forgotten meanwhile.
#[derive(Clone, Copy, Debug)]
pub struct Ticket {
    purges: u64,
}

/// Counts since the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct L2Stats {
    pub hits: u64,
    pub misses: u64,
    pub failures: u64,
}

impl L2 {
    pub fn new(cache: SharedCache, digester: Arc<Digester>, clock: Clock) -> Self {
        let (hits, misses, failures) = Default::default();
        Self(Arc::new(Inner { cache, digester, clock, hits, misses, failures }))
    }

    /// What is known at this key.
    pub async fn look(&self, key: SharedKey<'_>) -> Known {
        let Ok(found) = self.0.cache.look(key).await else {
            self.0.failures.fetch_add(1, Ordering::Relaxed);
            return Known::Unreachable;
        };
        if let Some((sealed, version)) = found.value
            && let Ok(value) = self.0.digester.sealer().open(&name(key, version), &sealed)
        {
            self.0.hits.fetch_add(1, Ordering::Relaxed);
            return Known::Value(value, Timestamp::from_millis(version), Ticket { purges: found.purges });
        }
        self.0.misses.fetch_add(1, Ordering::Relaxed);
        Known::Nothing(Ticket { purges: found.purges })
    }

    /// Says what was found out. Nothing depends on whether it is kept.
    pub async fn tell(&self, key: SharedKey<'_>, value: &[u8], life: Duration, ticket: Ticket) {
        let version = self.0.clock.now().as_millis();
        let Ok(sealed) = self.0.digester.sealer().seal(&name(key, version), value) else { return };
        if self.0.cache.fill(key, &sealed, version, life, ticket.purges).await.is_err() {
            self.0.failures.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether the caller is the one in the fleet to find this out; see [`SharedCache::begin`].
    pub async fn begin(&self, key: SharedKey<'_>, limit: Duration) -> bool {
        self.0.cache.begin(key, limit).await.unwrap_or(true)
    }

    /// Forgets everything of a tenant; see [`SharedCache::purge`].
    ///
    /// # Errors
    /// [`StoreError::Unavailable`](crate::store::StoreError::Unavailable)
    pub async fn purge(&self, tenant: &str) -> Result<u64, StoreError> {
        self.0.cache.purge(tenant).await
    }

    /// The key of a verified signature: of this token, under these very keys.
    pub fn signature<'t>(&self, tenant: &'t str, token: Digest, keys: &[u8; 32]) -> SharedKey<'t> {
        let text = HEXLOWER.encode(&[token.0, *keys].concat());
        SharedKey { tenant, kind: "signature", name: self.0.digester.of_name("signature", &text) }
    }

    /// The key of the key set of an issuer.
    pub fn key_set<'t>(&self, tenant: &'t str, url: &str) -> SharedKey<'t> {
        SharedKey { tenant, kind: "jwks", name: self.0.digester.of_name("jwks", url) }
    }

    /// The time that values are dated by.
    pub fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    pub fn stats(&self) -> L2Stats {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        L2Stats { hits: read(&self.0.hits), misses: read(&self.0.misses), failures: read(&self.0.failures) }
    }
}

impl fmt::Debug for L2 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("L2")
    }
}

/// What a value is sealed under: moved, or given another age, it does not open.
fn name(key: SharedKey<'_>, version: u64) -> String {
    let name = HEXLOWER.encode(&key.name.0);
    format!("l2:{}:{}:{name}:{version}", key.tenant, key.kind)
}
