//! The sidecar's host of a decision: finds out what [the page](tollgate_core::case) has to know, and notes what came of it. Decides
//! nothing.

use std::sync::Arc;

use tollgate_core::attributes::Attributes;
use tollgate_core::authorize::Permit;
use tollgate_core::case::{Case, Need, Next, Opened};
use tollgate_core::decision::{Tier, Trace};
use tollgate_core::denial::Denial;
use tollgate_core::policy::Policy;
use tollgate_core::principal::Principal;
use tollgate_core::resource::Resource;
use tollgate_core::respond::Decision;

use crate::clock::Clock;
use crate::resolve::cache::Resolved;
use crate::resolve::check_proof::CheckProofs;
use crate::resolve::jwt::inline;
use crate::resolve::last_used::LastUsed;
use crate::resolve::{ResolveError, Resolver};
use crate::tasks::Tasks;

/// What a decision is made with, apart from the policy.
#[derive(Clone, Debug)]
pub struct Pipeline {
    resolver: Arc<Resolver>,
    last_used: Arc<LastUsed>,
    clock: Clock,
}

impl Pipeline {
    pub fn new(resolver: Arc<Resolver>, last_used: Arc<LastUsed>, clock: Clock) -> Self {
        Self { resolver, last_used, clock }
    }

    /// Whether what is cached may be answered from.
    pub fn is_leased(&self) -> bool {
        self.resolver.is_leased()
    }

    /// What tells a request that was allowed from one that never came to be checked.
    pub fn check_proofs(&self) -> &CheckProofs {
        self.resolver.check_proofs()
    }

    fn proof(&self, request: &Attributes<'_>) -> Option<String> {
        self.check_proofs().make(self.clock.now(), request.method, request.target)
    }

    /// The long tasks of this process.
    pub fn tasks(&self) -> &Tasks {
        self.resolver.tasks()
    }

    /// May this request pass?
    pub async fn decide<'r>(&self, policy: &'r Policy, request: &'r Attributes<'r>) -> Decision<'r> {
        let mut decision = match Case::open(policy, request) {
            Opened::Decided(decision) => decision,
            Opened::Case(mut case) => {
                // Whoever waits has seldom found it cached.
                let mut need = case.need();
                loop {
                    let next = self.look_up(&mut case, need).await;
                    match self.drive(&mut case, next) {
                        Progress::Decided(decision) => break decision,
                        Progress::Missing(missing) => need = missing,
                    }
                }
            }
        };
        self.finish(&mut decision, request);
        decision
    }

    /// The same without waiting for anything; `None` if something that it takes is not cached.
    pub fn decide_cached<'r>(&self, policy: &'r Policy, request: &'r Attributes<'r>) -> Option<Decision<'r>> {
        let mut decision = match Case::open(policy, request) {
            Opened::Decided(decision) => decision,
            Opened::Case(mut case) => {
                let first = Next::Need(case.need());
                match self.drive(&mut case, first) {
                    Progress::Decided(decision) => decision,
                    Progress::Missing(_) => return None,
                }
            }
        };
        self.finish(&mut decision, request);
        Some(decision)
    }

    /// Tells the case whatever the caches know.
    fn drive<'r>(&self, case: &mut Case<'r>, mut next: Next<'r>) -> Progress<'r> {
        let grace = case.grace();
        loop {
            next = match next {
                Next::Need(need) => {
                    let cached = match need {
                        Need::Key(key) => self.resolver.cached_principal(&key, grace).map(Found::Principal),
                        Need::Token(token) => self.resolver.cached_token(&token, grace).map(Found::Principal),
                        Need::Resource(reference) => {
                            self.resolver.cached_resource(reference, grace).map(Found::Resource)
                        }
                    };
                    let Some(found) = cached else { return Progress::Missing(need) };
                    self.tell(case, found)
                }
                Next::Confirm => case.confirm(self.resolver.stamps()),
                Next::Decided(decision) => return Progress::Decided(decision),
            }
        }
    }

    /// Tells the case what has to be known, be it cached or not.
    async fn look_up<'r>(&self, case: &mut Case<'r>, need: Need<'r>) -> Next<'r> {
        let grace = case.grace();
        let found = match need {
            Need::Key(key) => self.resolver.principal(&key, grace).await.map(Found::Principal),
            Need::Token(token) => self.resolver.token(&token, self.clock.now(), grace).await.map(Found::Principal),
            Need::Resource(reference) => self.resolver.resource(reference, grace).await.map(Found::Resource),
        };
        match found {
            Ok(found) => self.tell(case, found),
            Err(error) => case.failed(error.into()),
        }
    }

    fn tell<'r>(&self, case: &mut Case<'r>, found: Found) -> Next<'r> {
        match found {
            Found::Principal(principal) => {
                let (found, tier) = principal.into_found();
                case.principal(found, tier, self.clock.now())
            }
            Found::Resource(resource) => {
                let (found, tier) = resource.into_found();
                case.resource(found, tier, self.clock.now())
            }
        }
    }

    fn finish(&self, decision: &mut Decision<'_>, request: &Attributes<'_>) {
        let Decision::Allow(allow) = decision else { return };
        self.note(allow.trace());
        if leads_to_us(allow.permit(), request)
            && let Some(proof) = self.proof(request)
        {
            decision.prove(proof);
        }
    }

    /// What an allow leaves behind.
    fn note(&self, trace: &Trace) {
        if trace.principal != Some(Tier::Verified) {
            inline::somebody_was_let_in();
        }
        if let Some(key) = trace.key_id {
            self.last_used.note(key, self.clock.now());
        }
    }
}

/// What a case had to know.
enum Found {
    Principal(Resolved<Principal>),
    Resource(Resolved<Resource>),
}

/// How far the caches have brought a case.
#[expect(clippy::large_enum_variant, reason = "nearly every case ends with the large one")]
enum Progress<'r> {
    Decided(Decision<'r>),
    /// This has to be looked up.
    Missing(Need<'r>),
}

/// Where the public-facing part of our own API is.
const OUR_PATHS: [&str; 2] = ["/api/v1/auth/", "/.well-known/jwks.json"];

/// Whether the request may be on its way to our own API, which wants a proof of this decision.
fn leads_to_us(permit: &Permit<'_>, request: &Attributes<'_>) -> bool {
    let is_public = permit.principal().is_none();
    permit.route().keep_credential || (is_public && OUR_PATHS.iter().any(|path| request.target.starts_with(path)))
}

impl From<ResolveError> for Denial {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::Unavailable => Self::Unavailable,
            ResolveError::Damaged => Self::Internal,
            ResolveError::Refused(denial) => denial,
        }
    }
}
