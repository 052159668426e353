//! From a credential to a principal, by the cache or the store. Caches who someone is, never whether a request may pass.

pub mod api_key;
pub mod cache;
mod grants;
pub mod jwt;
pub mod last_used;
pub mod revocation;
pub mod seal;
pub mod signing;

use std::future::Future;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::domain::credential::PresentedKey;
use crate::domain::decision::{Denial, Tier};
use crate::domain::name::is_name;
use crate::domain::principal::{Grant, Principal};
use crate::domain::record::{EVERY, Resource, ResourceRef};
use crate::domain::time::Timestamp;
use crate::domain::token::PresentedToken;
use crate::policy::Policy;
use crate::policy::login::Session;
use crate::store::Store;
use api_key::Digester;
use cache::{Cache, CacheStats, Loaded, Resolved, Sizes};
use grants::Grants;
use jwt::{Genuine, Issuers};
use revocation::{Slots, Stamps};
use signing::SigningKeys;

/// Finds principals and resources.
#[derive(Debug)]
pub struct Resolver {
    store: Store,
    digester: Arc<Digester>,
    stamps: Arc<Stamps>,
    keys: Cache<Principal>,
    resources: Cache<Resource>,
    grants: Arc<Grants>,
    issuers: ArcSwap<Issuers>,
    signing: Arc<SigningKeys>,
    sizes: Sizes,
}

/// Why there is no principal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResolveError {
    /// Nothing can be said about who asks: the store or an issuer failed, or too many look-ups are under way.
    Unavailable,
    Damaged,
    /// The credential is not genuine, or not valid now.
    Refused(Denial),
}

impl From<Denial> for ResolveError {
    fn from(denial: Denial) -> Self {
        Self::Refused(denial)
    }
}

impl Resolver {
    pub fn new(store: Store, digester: Arc<Digester>, stamps: Arc<Stamps>, sizes: Sizes) -> Self {
        let keys = Cache::new(Arc::clone(&stamps), sizes);
        let resources = Cache::new(Arc::clone(&stamps), sizes);
        let signing = Arc::new(SigningKeys::new(store.clone(), Arc::clone(&digester)));
        let issuers = ArcSwap::from_pointee(Issuers::none(Arc::clone(&stamps), sizes));
        Self { store, digester, stamps, keys, resources, grants: Arc::default(), issuers, signing, sizes }
    }

    /// The keys that our own tokens are signed with.
    pub fn signing(&self) -> &Arc<SigningKeys> {
        &self.signing
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

    /// Follows the issuers of a policy from now on. What their tokens were found to be under another one is forgotten. Must be
    /// called on a runtime that outlives this.
    pub fn adopt(&self, policy: &Policy) {
        let before = self.issuers.load_full();
        if !before.suit(policy) {
            let issuers = Issuers::of(policy, &before, Arc::clone(&self.stamps), self.sizes);
            self.issuers.store(Arc::new(issuers));
        }
    }

    /// Whom this token was issued to. It is valid now; an entry of the cache may have expired, which its principal says.
    ///
    /// # Errors
    /// [`ResolveError::Refused`] if it is not genuine or not valid.
    pub async fn token(&self, token: &PresentedToken<'_>, now: Timestamp) -> Result<Resolved<Principal>, ResolveError> {
        let digest = self.digester.of_token(token);
        let issuers = self.issuers.load();
        // Before the keys are looked at: see `Withdrawals`.
        let name = issuers.name(digest);
        if let Some(hit) = issuers.cache.get(&name) {
            return Ok(hit);
        }
        let issuers = Arc::clone(&issuers);
        let stamp = self.stamps.take();
        match issuers.verify(token, &self.signing.verifying(), now).await? {
            Genuine::Other { subject, grant, expires_at } => {
                let principal = Principal::of_subject(
                    &subject,
                    self.digester.logged(&subject),
                    self.grants.share(&grant),
                    expires_at,
                );
                Ok(issuers.cache.put(name, Arc::new(principal), stamp, Slots::of_digests(&[digest])))
            }
            Genuine::Session(session, plane) => issuers.cache.load(name, || self.session(&session, &plane)).await,
        }
    }

    /// Looks up whether a session still stands, and what its user may do now. One that was ended is found as revoked.
    fn session(
        &self,
        session: &Session,
        plane: &str,
    ) -> impl Future<Output = Result<Loaded<Principal>, ResolveError>> + use<> {
        let digests = [self.digester.of_name("user", &session.user), self.digester.of_name("session", &session.id)];
        let (store, grants) = (self.store.clone(), Arc::clone(&self.grants));
        let (session, plane) = (session.clone(), plane.to_owned());
        let subject = format!("user:{}", session.user);
        let logged = self.digester.logged(&subject);
        async move {
            let slots = Slots::of_digests(&digests);
            let user = store.user(session.user.clone()).await?;
            let Some(user) = user.filter(|user| !user.deleted) else { return Ok(Loaded { value: None, slots }) };
            let every_workload = [EVERY.to_owned()];
            let grant = Grant::new(&plane, &user.project, &every_workload, &user.permissions);
            let grant = grants.share(&grant.map_err(|_| ResolveError::Damaged)?);
            let mut principal = Principal::of_subject(&subject, logged, grant, session.expires_at);
            principal.revoked =
                user.disabled || user.sessions != session.generation || store.ended_session(session.id.clone()).await?;
            Ok(Loaded { value: Some(Arc::new(principal)), slots })
        }
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
