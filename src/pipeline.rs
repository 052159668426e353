//! THE PAGE: the whole decision, from a request to an answer. Its order is the security argument; it never permits by
//! itself, and everything before the permit that goes wrong is a denial.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Clock;
use crate::domain::attributes::Attributes;
use crate::domain::decision::{Denial, Tier, Trace};
use crate::domain::principal::Principal;
use crate::domain::record::Resource;
use crate::policy::authorize::{Permit, authorize, qualify};
use crate::policy::extract::Credential;
use crate::policy::respond::{self, Decision};
use crate::policy::{Admission, Ask, Policy, admit};
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

/// A change that keeps arriving between look-up and answer is given this many chances before the answer is 503.
const ATTEMPTS: usize = 3;

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
        let mut trace = Trace::begin();
        match self.judge(policy, request, &mut trace).await {
            Ok(permit) => {
                if trace.principal != Some(Tier::Verified) {
                    spare::somebody_was_let_in();
                }
                let proof = leads_to_us(&permit, request).then(|| self.proof(request)).flatten();
                respond::allow(policy, request, permit, trace).with_proof(proof)
            }
            Err(denial) => respond::deny(policy, request, denial, trace),
        }
    }

    async fn judge<'r>(
        &self,
        policy: &'r Policy,
        request: &'r Attributes<'r>,
        trace: &mut Trace,
    ) -> Result<Permit<'r>, Denial> {
        // Route and extract: what is asked for, and with which credential. Junk and the wrong plane end here.
        let ask = match admit(policy, request, trace)? {
            Admission::Public(permit) => return Ok(permit),
            Admission::Guarded(ask) => ask,
        };
        let grace = ask.grace();
        for _ in 0..ATTEMPTS {
            // Resolve: who holds the credential, and to whom the thing asked for belongs.
            let found = match &ask.credential {
                Credential::ApiKey(key) => self.resolver.principal(key, grace).await?,
                Credential::Jwt(token) => self.resolver.token(token, self.clock.now(), grace).await?,
            };
            trace.principal = Some(found.tier());
            let principal = found.value.clone().ok_or(Denial::CredentialUnknown)?;
            let resource = self.resource(&ask, &principal, grace, trace).await?;
            let thing = resource.as_ref().and_then(|found| found.value.clone());
            // Authorize, on a clock read after the look-ups.
            let now = self.clock.now();
            let permit = authorize(&ask, principal, thing, now)?;
            // What was looked up must still be true now that it has been judged.
            if self.resolver.is_current(&found, grace)
                && resource.as_ref().is_none_or(|found| self.resolver.is_current(found, grace))
            {
                if let Credential::ApiKey(key) = &ask.credential {
                    self.last_used.note(key.id(), now);
                }
                return Ok(permit);
            }
        }
        Err(Denial::Unavailable)
    }

    /// The registered resource of the request, if its route names one. Nothing is looked up for a caller who could not have
    /// it anyway.
    async fn resource(
        &self,
        ask: &Ask<'_>,
        principal: &Principal,
        grace: Duration,
        trace: &mut Trace,
    ) -> Result<Option<Resolved<Resource>>, Denial> {
        let Some(reference) = ask.resource() else { return Ok(None) };
        qualify(ask, principal, self.clock.now())?;
        let found = self.resolver.resource(reference, grace).await?;
        trace.resource = Some(found.tier());
        Ok(Some(found))
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
