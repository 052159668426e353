//! From a credential to a principal, by the cache or the store. Caches who someone is, never whether a request may pass.

pub mod api_key;
pub mod cache;
mod grants;
pub mod last_used;
pub mod revocation;

use std::sync::Arc;

use crate::domain::credential::PresentedKey;
use crate::domain::decision::Tier;
use crate::domain::name::is_name;
use crate::domain::principal::{Grant, Principal};
use crate::domain::record::{Resource, ResourceRef};
use crate::store::Store;
use api_key::Digester;
use cache::{Cache, CacheStats, Loaded, Resolved, Sizes};
use grants::Grants;
use revocation::{Slots, Stamps};

/// Finds principals and resources.
#[derive(Debug)]
pub struct Resolver {
    store: Store,
    digester: Arc<Digester>,
    stamps: Arc<Stamps>,
    keys: Cache<Principal>,
    resources: Cache<Resource>,
    grants: Arc<Grants>,
}

/// Nothing can be said about who asks: the store failed, a record is damaged, or too many look-ups are under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolveError {
    Unavailable,
    Damaged,
}

impl Resolver {
    pub fn new(store: Store, digester: Arc<Digester>, stamps: Arc<Stamps>, sizes: Sizes) -> Self {
        let keys = Cache::new(Arc::clone(&stamps), sizes);
        let resources = Cache::new(Arc::clone(&stamps), sizes);
        Self { store, digester, stamps, keys, resources, grants: Arc::default() }
    }

    /// Who holds this key; `None` if nobody does.
    ///
    /// # Errors
    /// [`ResolveError`], and then nothing is known: neither yes nor no.
    pub async fn principal(&self, key: &PresentedKey<'_>) -> Result<Resolved<Principal>, ResolveError> {
        let digest = self.digester.current(key);
        if let Some(hit) = self.keys.get(&digest) {
            return Ok(hit);
        }
        let digests = self.digester.all(key);
        let load = || {
            let (store, digests, grants) = (self.store.clone(), digests.clone(), Arc::clone(&self.grants));
            async move {
                let slots = Slots::of_digests(&digests);
                let Some(record) = store.key_by_digest(digests).await? else {
                    return Ok(Loaded { value: None, slots });
                };
                let grant = Grant::of_key(&record).map_err(|_| ResolveError::Damaged)?;
                let principal = Principal::of_key(&record, grants.share(&grant));
                let slots = Slots::of_key(&record.digest, &record.project);
                Ok(Loaded { value: Some(Arc::new(principal)), slots })
            }
        };
        self.keys.load(digest, load).await
    }

    /// The registered resource; `None` if it is not registered.
    ///
    /// # Errors
    /// As [`Resolver::principal`].
    pub async fn resource(&self, reference: ResourceRef<'_>) -> Result<Resolved<Resource>, ResolveError> {
        let digest = self.digester.of_resource(reference);
        if let Some(hit) = self.resources.get(&digest) {
            return Ok(hit);
        }
        let load = || {
            let (store, kind, id) = (self.store.clone(), reference.kind.to_owned(), reference.id.to_owned());
            async move {
                let value = match store.resource(kind, id).await? {
                    Some(found) if !is_name(&found.project) || !is_name(&found.slug) => {
                        return Err(ResolveError::Damaged);
                    }
                    found => found.map(Arc::new),
                };
                Ok(Loaded { value, slots: Slots::of_digests(&[digest]) })
            }
        };
        self.resources.load(digest, load).await
    }

    /// Whether nothing has changed since this was found that could make it untrue.
    pub fn is_current<T>(&self, resolved: &Resolved<T>) -> bool {
        self.stamps.allow(resolved.stamp, &resolved.slots)
    }

    pub fn key_stats(&self) -> CacheStats {
        self.keys.stats()
    }

    pub fn resource_stats(&self) -> CacheStats {
        self.resources.stats()
    }
}

/// The word for a trace.
impl<T> Resolved<T> {
    pub fn tier(&self) -> Tier {
        self.tier
    }
}

impl From<crate::store::StoreError> for ResolveError {
    fn from(error: crate::store::StoreError) -> Self {
        match error {
            crate::store::StoreError::Damaged(_) => Self::Damaged,
            crate::store::StoreError::Unavailable(_) | crate::store::StoreError::Conflict(_) => Self::Unavailable,
        }
    }
}
