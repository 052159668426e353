//! The sidecar's host of a decision: finds out what [the page](crate::policy::case) has to know, and notes what came of it. Decides
//! nothing.

use std::sync::Arc;

use crate::clock::Clock;
use crate::domain::attributes::Attributes;
use crate::domain::decision::{Tier, Trace};
use crate::domain::denial::Denial;
use crate::policy::Policy;
use crate::policy::authorize::Permit;
use crate::policy::case::{Case, Next, Opened};
use crate::policy::extract::Credential;
use crate::policy::respond::Decision;
use crate::resolve::cache::Resolved;
use crate::resolve::check_proof::CheckProofs;
use crate::resolve::jwt::spare;
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
        let decision = match Case::open(policy, request) {
            Opened::Decided(decision) => decision,
            Opened::Case(mut case) => self.drive(&mut case).await,
        };
        let Decision::Allow(allow) = &decision else { return decision };
        self.note(allow.trace());
        let proof = leads_to_us(allow.permit(), request).then(|| self.proof(request)).flatten();
        decision.with_proof(proof)
    }

    /// Finds out whatever the case has to know.
    async fn drive<'r>(&self, case: &mut Case<'r>) -> Decision<'r> {
        let grace = case.grace();
        let mut next = Next::Principal;
        loop {
            next = match next {
                Next::Principal => {
                    let found = match case.credential() {
                        Credential::ApiKey(key) => self.resolver.principal(key, grace).await,
                        Credential::Jwt(token) => self.resolver.token(token, self.clock.now(), grace).await,
                    };
                    match found.map(Resolved::into_found) {
                        Ok((found, tier)) => case.principal(found, tier, self.clock.now()),
                        Err(error) => case.failed(error.into()),
                    }
                }
                Next::Resource(reference) => {
                    match self.resolver.resource(reference, grace).await.map(Resolved::into_found) {
                        Ok((found, tier)) => case.resource(found, tier, self.clock.now()),
                        Err(error) => case.failed(error.into()),
                    }
                }
                Next::Confirm => case.confirm(self.resolver.stamps()),
                Next::Decided(decision) => return decision,
            }
        }
    }

    /// What an allow leaves behind.
    fn note(&self, trace: &Trace) {
        if trace.principal != Some(Tier::Verified) {
            spare::somebody_was_let_in();
        }
        if let Some(key) = trace.key_id {
            self.last_used.note(key, self.clock.now());
        }
    }
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
