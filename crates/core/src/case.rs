//! THE PAGE: the whole decision about one request, from its route to its answer. Its order is the security argument. It says what it
//! has to know next, and its host finds that out; it never permits by itself, and whatever goes wrong before the permit is a denial.

use std::sync::Arc;
use std::time::Duration;

use tollgate_guard::found::Found;
use tollgate_guard::stamps::Stamps;
use tollgate_guard::time::Timestamp;

use crate::admit::{Admission, admit};
use crate::attributes::Attributes;
use crate::authorize::{Ask, Judged, Refused, authorize, qualify};
use crate::credential::PresentedKey;
use crate::decision::{Step, Tier, Trace};
use crate::denial::Denial;
use crate::extract::Credential;
use crate::policy::Policy;
use crate::principal::Principal;
use crate::resource::{Resource, ResourceRef};
use crate::respond::{Decision, allow, deny};
use crate::token::PresentedToken;

/// A change that keeps arriving between look-up and answer is given this many chances before the answer is 503.
const ATTEMPTS: u8 = 3;

/// A request that was looked at.
#[derive(Debug)]
pub enum Opened<'r> {
    /// Who sent it must be looked up: [`Case::need`].
    Case(Case<'r>),
    /// Nothing must: the route is public, or the request is refused whoever sent it.
    Decided(Decision<'r>),
}

/// What comes next.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "every case ends with the large one")]
pub enum Next<'r> {
    /// Something must be looked up.
    Need(Need<'r>),
    /// Does all that it was judged by [still stand](Case::confirm)?
    Confirm,
    Decided(Decision<'r>),
}

/// What a case has to know. One at a time: whether a resource is looked up depends on who asks.
#[derive(Clone, Copy, Debug)]
pub enum Need<'r> {
    /// [Who holds](Case::principal) the key with the digest of this, which the host makes.
    Key(PresentedKey<'r>),
    /// [Whom](Case::principal) this was issued to, if it is genuine.
    Token(PresentedToken<'r>),
    /// Whether this [is registered](Case::resource).
    Resource(ResourceRef<'r>),
}

/// A request that is being decided.
#[derive(Debug)]
pub struct Case<'r> {
    policy: &'r Policy,
    request: &'r Attributes<'r>,
    ask: Ask<'r>,
    /// Who asks, while the resource is looked up.
    principal: Option<Found<Arc<Principal>>>,
    /// What is to be confirmed.
    judged: Option<Found<Judged<'r>>>,
    /// Who was found to ask, when that did not stand.
    caller: Option<Arc<Principal>>,
    attempts: u8,
    trace: Trace,
}

impl<'r> Case<'r> {
    /// Route and extract: what is asked for, and with which credential. Junk and the wrong plane end here.
    pub fn open(policy: &'r Policy, request: &'r Attributes<'r>) -> Opened<'r> {
        let mut trace = Trace::begin();
        match admit(policy, request, &mut trace) {
            Ok(Admission::Guarded(ask)) => {
                trace.step = Step::Resolve;
                let (principal, judged, caller) = (None, None, None);
                Opened::Case(Self { policy, request, ask, principal, judged, caller, attempts: 0, trace })
            }
            Ok(Admission::Public(permit)) => Opened::Decided(allow(policy, request, permit, trace)),
            Err(denial) => Opened::Decided(deny(policy, request, denial, trace, None)),
        }
    }

    /// What has to be known first, and again once it has changed.
    pub fn need(&self) -> Need<'r> {
        match self.ask.credential {
            Credential::ApiKey(key) => Need::Key(key),
            Credential::Jwt(token) => Need::Token(token),
        }
    }

    /// How long what is cached of who asks stays good after the store has fallen silent.
    pub fn grace(&self) -> Duration {
        self.ask.grace()
    }

    /// Resolve: who holds the credential, `None` if nobody does. `now` was read after the look-up.
    pub fn principal(&mut self, found: Option<Found<Arc<Principal>>>, tier: Tier, now: Timestamp) -> Next<'r> {
        self.trace.principal = Some(tier);
        let Some(principal) = found else { return self.refuse(Step::Resolve, Denial::CredentialUnknown, None) };
        let Some(reference) = self.ask.resource() else { return self.authorize(principal, None, now) };
        // Nothing is looked up for a caller who could not have it anyway.
        match qualify(&self.ask, principal.get(), now) {
            Ok(()) => {
                self.principal = Some(principal);
                Next::Need(Need::Resource(reference))
            }
            Err(denial) => self.refuse(Step::Authorize, denial, Some(Arc::clone(principal.get()))),
        }
    }

    /// And to whom the thing asked for belongs, `None` if it is not registered. `now` was read after the look-up.
    pub fn resource(&mut self, found: Option<Found<Arc<Resource>>>, tier: Tier, now: Timestamp) -> Next<'r> {
        self.trace.resource = Some(tier);
        match self.principal.take() {
            Some(principal) => self.authorize(principal, found, now),
            None => self.refuse(Step::Resolve, Denial::Internal, None),
        }
    }

    /// Authorize.
    fn authorize(
        &mut self,
        principal: Found<Arc<Principal>>,
        resource: Option<Found<Arc<Resource>>>,
        now: Timestamp,
    ) -> Next<'r> {
        match authorize(&self.ask, principal, resource, now) {
            Ok(judged) => {
                self.judged = Some(judged);
                Next::Confirm
            }
            Err(Refused { denial, caller }) => self.refuse(Step::Authorize, denial, Some(caller)),
        }
    }

    /// What was looked up must still be true now that it has been judged. Otherwise it is looked up again.
    pub fn confirm(&mut self, stamps: &Stamps) -> Next<'r> {
        let Some(judged) = self.judged.take() else { return self.refuse(Step::Resolve, Denial::Internal, None) };
        match stamps.confirm(judged, self.grace()) {
            Ok(judged) => Next::Decided(allow(self.policy, self.request, judged.into(), self.trace)),
            Err(judged) => {
                self.attempts += 1;
                self.caller = judged.get().caller();
                if self.attempts < ATTEMPTS { Next::Need(self.need()) } else { self.failed(Denial::Unavailable) }
            }
        }
    }

    /// A look-up that gave no answer.
    pub fn failed(&mut self, denial: Denial) -> Next<'r> {
        let found = self.principal.as_ref().map(|principal| Arc::clone(principal.get()));
        self.refuse(Step::Resolve, denial, found.or_else(|| self.caller.clone()))
    }

    fn refuse(&self, step: Step, denial: Denial, caller: Option<Arc<Principal>>) -> Next<'r> {
        Next::Decided(deny(self.policy, self.request, denial, Trace { step, ..self.trace }, caller))
    }
}
