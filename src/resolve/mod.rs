//! From a credential to a principal, by the cache or the store. Caches who someone is, never whether a request may pass.

pub mod api_key;
pub mod cache;
pub mod check_proof;
mod grants;
pub mod jwt;
pub mod l2;
pub mod last_used;
pub mod mismatch;
pub mod pepper;
pub mod seal;
pub mod signing;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use tollgate_core::credential::{PresentedKey, ProjectId};
use tollgate_core::denial::Denial;
use tollgate_core::login::Session;
use tollgate_core::name::is_name;
use tollgate_core::named::named;
use tollgate_core::policy::Policy;
use tollgate_core::principal::{Grant, Principal, SubjectDetails};
use tollgate_core::resource::{EVERY, Resource, ResourceRef};
use tollgate_core::token::PresentedToken;
use tollgate_guard::digest::Digest;
use tollgate_guard::slots::Slots;
use tollgate_guard::stamps::{Proof, Stamps};
use tollgate_guard::time::Timestamp;

use crate::domain::change::Endings;
use crate::domain::change::Stored;
use crate::domain::record::Project;
use crate::store::{AsOf, KeyLoad, SessionLoad, Store, StoreError};
use crate::tasks::Tasks;
use api_key::Digester;
use cache::{Cache, CacheStats, Loaded, Resolved, Sizes};
use check_proof::CheckProofs;
use grants::Grants;
use jwt::signatures::Signatures;
use jwt::{Genuine, Issuers};
use l2::L2;
use mismatch::MismatchLog;
use signing::SigningKeys;

/// Finds principals and resources.
#[derive(Debug)]
pub struct Resolver {
    store: Store,
    digester: Arc<Digester>,
    stamps: Arc<Stamps>,
    endings: Arc<Endings>,
    keys: Cache<Principal>,
    resources: Cache<Resource>,
    barred: Cache<Barred>,
    grants: Arc<Grants>,
    mismatches: Arc<MismatchLog>,
    issuers: ArcSwap<Issuers>,
    signing: Arc<SigningKeys>,
    sizes: Sizes,
    tasks: Tasks,
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
    pub fn new(
        store: Store,
        digester: Arc<Digester>,
        stamps: Arc<Stamps>,
        endings: Arc<Endings>,
        sizes: Sizes,
        l2: Option<L2>,
    ) -> Self {
        let keys = Cache::new(Arc::clone(&stamps), sizes);
        let resources = Cache::new(Arc::clone(&stamps), sizes);
        let barred = Cache::new(Arc::clone(&stamps), sizes);
        let signing = Arc::new(SigningKeys::new(store.clone(), Arc::clone(&digester), Arc::clone(&stamps)));
        let issuers = ArcSwap::from_pointee(Issuers::none(Arc::clone(&stamps), sizes, l2));
        Self {
            store,
            digester,
            stamps,
            endings,
            keys,
            resources,
            barred,
            grants: Arc::default(),
            mismatches: Arc::default(),
            issuers,
            signing,
            sizes,
            tasks: Tasks::default(),
        }
    }

    /// What proves that a request passed the check.
    pub fn check_proofs(&self) -> &CheckProofs {
        self.digester.check_proofs()
    }

    /// With its long tasks among these.
    pub fn among(self, tasks: Tasks) -> Self {
        self.signatures().count_panics(tasks.task("signatures"));
        Self { tasks, ..self }
    }

    /// The long tasks of this process.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Whether every record of the store must carry a signature.
    pub fn is_store_signed(&self) -> bool {
        self.store.trust().is_signed()
    }

    /// How many entries of the store's log were not believed.
    pub fn distrusted_entries(&self) -> u64 {
        self.store.distrusted_entries()
    }

    /// The keys that our own tokens are signed with.
    pub fn signing(&self) -> &Arc<SigningKeys> {
        &self.signing
    }

    /// What was heard to be ended.
    pub fn endings(&self) -> &Arc<Endings> {
        &self.endings
    }

    /// What the fleet finds out once, if there is a fleet.
    pub fn l2(&self) -> Option<L2> {
        self.issuers.load().l2().cloned()
    }

    /// Whether what is cached may be answered from, as far as the store's log is concerned.
    pub fn is_leased(&self) -> bool {
        self.stamps.is_leased()
    }

    /// Whether the store has lost its records, until an operator says what happened.
    pub fn is_sealed(&self) -> bool {
        self.stamps.is_sealed()
    }

    /// Whether a check can be answered now, as far as the store's log is concerned.
    pub fn can_serve(&self) -> bool {
        self.stamps.can_serve()
    }

    /// Who holds this key, as far as it is cached.
    pub fn cached_principal(&self, key: &PresentedKey<'_>, grace: Duration) -> Option<Resolved<Principal>> {
        self.cached(&self.keys, &self.digester.current(key), grace)
    }

    /// Whom this token was issued to, likewise; its principal says when it expires.
    pub fn cached_token(&self, token: &PresentedToken<'_>, grace: Duration) -> Option<Resolved<Principal>> {
        let issuers = self.issuers.load();
        self.cached(&issuers.cache, &issuers.name(self.digester.of_token(token)), grace)
    }

    /// The registered resource, likewise.
    pub fn cached_resource(&self, reference: ResourceRef<'_>, grace: Duration) -> Option<Resolved<Resource>> {
        self.resources.get(&self.digester.of_resource(reference), grace)
    }

    /// Who holds this key; `None` if nobody does.
    ///
    /// # Errors
    /// [`ResolveError`], and then nothing is known: neither yes nor no.
    pub async fn principal(
        &self,
        key: &PresentedKey<'_>,
        grace: Duration,
    ) -> Result<Resolved<Principal>, ResolveError> {
        let digest = self.digester.current(key);
        if let Some(hit) = self.cached(&self.keys, &digest, grace) {
            return Ok(hit);
        }
        self.demand_service()?;
        let digests = self.digester.all(key);
        let load = || {
            let (reader, digests, grants) = (self.reader(), digests.clone(), Arc::clone(&self.grants));
            async move {
                let slots = Slots::of_digests(&digests);
                let (found, set_back) = reader.truth(reader.store.load_key(digests).await?)?;
                let Some(KeyLoad { key, project }) = found else {
                    return Ok(Loaded { value: None, slots });
                };
                let grant = key.grant().map_err(|_| ResolveError::Damaged)?;
                let mut principal = key.principal(grants.share(&grant));
                let who = || format!("key:{}", key.id);
                reader.mismatches.note(&key.project, key.project_id, project.as_ref(), who);
                let said = Stored::Key { digest: &key.digest, revoked: principal.revoked };
                principal.revoked = principal.revoked
                    || reader.is_barred(&key.project, key.project_id, project.as_ref())
                    || reader.endings.contradicts(&said);
                refuse_unless(principal.revoked, set_back)?;
                let slots = Slots::of_digests(&[key.digest, named("project", &key.project)]);
                Ok(Loaded { value: Some(Arc::new(principal)), slots })
            }
        };
        // Large, as in `token`.
        Box::pin(self.keys.load(digest, load)).await
    }

    /// Follows the issuers of a policy from now on. What their tokens were found to be under another one is forgotten. Must be
    /// called on a runtime that outlives this.
    pub fn adopt(&self, policy: &Policy) {
        let before = self.issuers.load_full();
        if !before.suit(policy) {
            let issuers = Issuers::of(policy, &before, Arc::clone(&self.stamps), self.sizes, &self.tasks);
            self.issuers.store(Arc::new(issuers));
        }
    }

    /// Whom this token was issued to. It is valid now; an entry of the cache may have expired, which its principal says.
    ///
    /// # Errors
    /// [`ResolveError::Refused`] if it is not genuine or not valid.
    pub async fn token(
        &self,
        token: &PresentedToken<'_>,
        now: Timestamp,
        grace: Duration,
    ) -> Result<Resolved<Principal>, ResolveError> {
        let digest = self.digester.of_token(token);
        let issuers = self.issuers.load();
        // Before the keys are looked at: see `Withdrawals`.
        let name = issuers.name(digest);
        if let Some(hit) = self.cached(&issuers.cache, &name, grace) {
            return Ok(hit);
        }
        self.demand_service()?;
        // Large, where every check makes room for the whole of what it may wait for.
        Box::pin(self.verified(Guard::into_inner(issuers), token, digest, name, now)).await
    }

    /// Whom a token was issued to that is not cached. `name` is what it will be remembered under.
    async fn verified(
        &self,
        issuers: Arc<Issuers>,
        token: &PresentedToken<'_>,
        digest: Digest,
        name: Digest,
        now: Timestamp,
    ) -> Result<Resolved<Principal>, ResolveError> {
        let stamp = self.stamps.take();
        let mut verified = issuers.verify(token, digest, &self.signing.verifying(), now).await;
        // Another replica may have signed it, with a key that it has just made.
        let is_unknown = matches!(verified, Err(ResolveError::Refused(Denial::TokenKey)));
        if is_unknown && self.signing.refresh(now).await? {
            verified = issuers.verify(token, digest, &self.signing.verifying(), now).await;
        }
        match verified? {
            Genuine::Other { issuer, subject, id, grant, expires_at, allows_unknown_project } => {
                let project = named("project", grant.project());
                let barred = self.barred(grant.project(), project).await?;
                let logged = self.digester.logged(&subject).map(String::into_boxed_str);
                let beside = SubjectDetails { logged, id: Some(id) };
                let mut principal = Principal::of_subject(&subject, beside, self.grants.share(&grant), expires_at);
                principal.revoked = match barred.value.as_deref() {
                    None => false,
                    Some(Barred::Ended) => true,
                    Some(Barred::Unknown) => {
                        if !allows_unknown_project {
                            self.mismatches.note_unknown(grant.project());
                        }
                        !allows_unknown_project
                    }
                };
                // The project was found to be as it is after the stamp was taken, by whichever load.
                let proof =
                    Proof { stamp, slots: Slots::of_digests(&[digest, project, issuer]), sent: barred.proof.sent };
                Ok(issuers.cache.put(name, Arc::new(principal), proof))
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
        let (reader, grants) = (self.reader(), Arc::clone(&self.grants));
        let (session, plane) = (session.clone(), plane.to_owned());
        let subject = format!("user:{}", session.user);
        let logged = self.digester.logged(&subject).map(String::into_boxed_str);
        let who = logged.as_deref().unwrap_or(&subject).to_owned();
        async move {
            let own = named("session", &session.id);
            let digests = [named("user", &session.user), own];
            let load = reader.store.load_session(session.user.clone(), session.id.clone()).await?;
            let (SessionLoad { user, open, ended, project }, set_back) = reader.truth(load)?;
            let Some(user) = user.filter(|user| !user.deleted) else {
                return Ok(Loaded { value: None, slots: Slots::of_digests(&digests) });
            };
            let every_workload = [EVERY.to_owned()];
            let grant = Grant::new(&plane, &user.project, &every_workload, &user.permissions);
            let grant = grant.map_err(|_| ResolveError::Damaged)?.in_project(user.project_id);
            let grant = grants.share(&grant);
            let beside = SubjectDetails { logged, id: user.id.map(|id| id.as_str().into()) };
            let mut principal = Principal::of_subject(&subject, beside, grant, session.expires_at);
            reader.mismatches.note(&user.project, user.project_id, project.as_ref(), || who);
            principal.revoked = user.disabled
                || user.sessions != session.generation
                || ended
                || (session.recorded && !open)
                || reader.is_barred(&user.project, user.project_id, project.as_ref())
                || reader.endings.contradicts(&Stored::User(&user))
                || reader.endings.contradicts(&Stored::Session { id: &session.id, ended });
            refuse_unless(principal.revoked, set_back)?;
            let [user_slot, own] = digests;
            let slots = Slots::of_digests(&[user_slot, own, named("project", &user.project)]);
            Ok(Loaded { value: Some(Arc::new(principal)), slots })
        }
    }

    /// The registered resource; `None` if it is not registered.
    ///
    /// # Errors
    /// As [`Resolver::principal`].
    pub async fn resource(
        &self,
        reference: ResourceRef<'_>,
        grace: Duration,
    ) -> Result<Resolved<Resource>, ResolveError> {
        let digest = self.digester.of_resource(reference);
        if let Some(hit) = self.resources.get(&digest, grace) {
            return Ok(hit);
        }
        self.demand_service()?;
        let load = || {
            let (reader, kind, id) = (self.reader(), reference.kind.to_owned(), reference.id.to_owned());
            let slots = Slots::of_digests(&[named("resource", &reference.to_string())]);
            async move {
                let (found, set_back) = reader.truth(reader.store.load_resource(kind, id).await?)?;
                let found = found.filter(|found| !reader.endings.contradicts(&Stored::Resource(found)));
                refuse_unless(found.is_none(), set_back)?;
                let value = match found {
                    Some(found) if !is_name(&found.project) || !is_name(&found.slug) => {
                        return Err(ResolveError::Damaged);
                    }
                    found => found.map(Arc::new),
                };
                Ok(Loaded { value, slots })
            }
        };
        Box::pin(self.resources.load(digest, load)).await
    }

    /// Why nobody of a project is let in, if that is so. `digest` is that of the project.
    async fn barred(&self, project: &str, digest: Digest) -> Result<Resolved<Barred>, ResolveError> {
        if let Some(hit) = self.barred.get(&digest, Duration::ZERO) {
            return Ok(hit);
        }
        let load = || {
            let (reader, name) = (self.reader(), project.to_owned());
            async move {
                let (found, set_back) = reader.truth(reader.store.load_project(name.clone()).await?)?;
                let is_unknown = found.is_none() && name != EVERY && reader.store.trust().is_signed();
                let value = match reader.is_barred(&name, None, found.as_ref()) {
                    true => Some(Barred::Ended),
                    false => is_unknown.then_some(Barred::Unknown),
                };
                refuse_unless(value == Some(Barred::Ended), set_back)?;
                Ok(Loaded { value: value.map(Arc::new), slots: Slots::of_digests(&[digest]) })
            }
        };
        self.barred.load(digest, load).await
    }

    /// Who is cached and still the same. A grace is for those who were let in: who was not may be by now.
    fn cached(&self, cache: &Cache<Principal>, digest: &Digest, grace: Duration) -> Option<Resolved<Principal>> {
        let hit = cache.get(digest, grace)?;
        let is_barred = hit.value.as_ref().is_some_and(|principal| principal.revoked);
        (grace.is_zero() || !is_barred || self.is_current(&hit, Duration::ZERO)).then_some(hit)
    }

    /// What could not be served is not looked up either.
    fn demand_service(&self) -> Result<(), ResolveError> {
        if self.can_serve() { Ok(()) } else { Err(ResolveError::Unavailable) }
    }

    fn reader(&self) -> Reader {
        let (endings, mismatches) = (Arc::clone(&self.endings), Arc::clone(&self.mismatches));
        Reader { store: self.store.clone(), endings, mismatches, position: self.stamps.position() }
    }

    /// Whether nothing has changed since this was found that could make it untrue.
    fn is_current<T>(&self, resolved: &Resolved<T>, grace: Duration) -> bool {
        self.stamps.stand(&resolved.proof, grace)
    }

    /// What says whether something that was found still stands.
    pub fn stamps(&self) -> &Stamps {
        &self.stamps
    }

    pub fn key_stats(&self) -> CacheStats {
        self.keys.stats()
    }

    pub fn resource_stats(&self) -> CacheStats {
        self.resources.stats()
    }

    /// Each issuer of the policy that has a key set, with how long ago that was fetched.
    pub fn issuer_key_ages(&self) -> Vec<(String, Duration)> {
        self.issuers.load().key_ages().map(|(name, age)| (name.to_owned(), age)).collect()
    }

    /// Where the signatures of tokens are verified.
    pub fn signatures(&self) -> Arc<Signatures> {
        Arc::clone(self.issuers.load().signatures())
    }
}

/// What a load is made with; made before the load is sent.
struct Reader {
    store: Store,
    endings: Arc<Endings>,
    mismatches: Arc<MismatchLog>,
    /// Up to which change this replica had heard then.
    position: u64,
}

impl Reader {
    /// What was loaded, unless it comes from a store that has not heard what this replica has; and why it is not to be believed, for
    /// [`refuse_unless`].
    fn truth<T>(&self, load: AsOf<T>) -> Result<(T, Option<StoreError>), ResolveError> {
        match load.position {
            Some(position) if position.sequence < self.position => Err(ResolveError::Unavailable),
            _ => Ok((load.found, load.set_back)),
        }
    }

    /// Whether whoever carries this id is kept out of a project.
    fn is_barred(&self, name: &str, carried: Option<ProjectId>, project: Option<&Project>) -> bool {
        !Project::lets_in(project, carried) || self.endings.contradicts(&Stored::Project(name, project))
    }
}

/// Refuses what somebody has set back; who was barred since is refused for that, which the store is told again.
fn refuse_unless(barred: bool, set_back: Option<StoreError>) -> Result<(), ResolveError> {
    set_back.filter(|_| !barred).map_or(Ok(()), |error| Err(error.into()))
}

/// Why nobody of a project is let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Barred {
    /// It is suspended or deleted.
    Ended,
    /// It has no record, in a store in which each project must have one.
    Unknown,
}

impl From<StoreError> for ResolveError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Damaged(_) => Self::Damaged,
            StoreError::Unavailable(_)
            | StoreError::Full(_)
            | StoreError::OverQuota(_)
            | StoreError::Unreplicated(_)
            | StoreError::Conflict(_) => Self::Unavailable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::embedded::Embedded;
    use tollgate_guard::protocol::Position;

    #[test]
    fn a_store_that_knows_less_than_this_replica_is_not_believed() {
        let store = Store::Embedded(Arc::new(Embedded::in_memory().unwrap()));
        let reader = Reader { store, endings: Arc::default(), mismatches: Arc::default(), position: 5 };
        let said = |sequence: Option<u64>| {
            let position = sequence.map(|sequence| Position { sequence, chain: String::new() });
            reader.truth(AsOf { found: (), position, set_back: None }).is_ok()
        };
        assert_eq!([Some(4), Some(5), Some(6), None].map(said), [false, true, true, true]);
    }
}
