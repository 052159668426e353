//! The first two steps of a decision: which route this is, and the one credential it carries. Never asks anybody who sent it.

use crate::attributes::Attributes;
use crate::authorize::{Ask, Permit};
use crate::decision::{Step, Trace};
use crate::denial::Denial;
use crate::extract::{self, Credential, Extracted};
use crate::policy::Policy;
use crate::redact;
use crate::route::Access;

/// What a request turns out to be before anybody was asked who sent it.
#[derive(Debug)]
pub enum Admission<'r> {
    /// The route is public: nothing is extracted, nothing asked.
    Public(Permit<'r>),
    Guarded(Ask<'r>),
}

/// Steps 1 and 2: which route this is, and the one credential it carries, judged by all that needs no look-up.
///
/// # Errors
/// The [`Denial`] that a look-up could not change: no such host or route, a path that is not canonical, no credential
/// or more than one, a malformed one, one of another kind or plane, one sent from a browser.
pub fn admit<'r>(policy: &'r Policy, request: &'r Attributes<'r>, trace: &mut Trace) -> Result<Admission<'r>, Denial> {
    if redact::holds_key(&policy.planes, request.target) {
        return Err(Denial::CredentialInTarget);
    }
    let matched = policy.routes.find(request, trace)?;
    trace.step = Step::Extract;
    policy.envoy_limits.admit(request)?;
    let requirement = match &matched.route.access {
        Access::Public => return Ok(Admission::Public(Permit::public(&matched))),
        Access::Guarded(requirement) => requirement,
    };
    #[cfg(feature = "test-panic")]
    panic_if_asked(request);
    let credential = match extract::one_credential(&policy.planes, &policy.credentials, request)? {
        Extracted::ApiKey(plane, key) => {
            trace.key_id = Some(key.id());
            if plane != requirement.plane {
                return Err(Denial::WrongPlane);
            }
            if !requirement.browsers && request.values("origin").next().is_some() {
                return Err(Denial::BrowserOrigin);
            }
            Credential::ApiKey(key)
        }
        // Which plane it stands on, its issuer says.
        Extracted::Jwt(token) => Credential::Jwt(token),
    };
    let taken = match credential {
        Credential::ApiKey(_) => requirement.kinds.api_key,
        Credential::Jwt(_) => requirement.kinds.jwt,
    };
    if !taken {
        return Err(Denial::CredentialKind);
    }
    Ok(Admission::Guarded(Ask { credential, request: matched, requirement, plane: policy.plane(requirement.plane) }))
}

/// A bug on demand: the proof that a panic in a rule is a 500 to that one request. Not in any release.
#[cfg(feature = "test-panic")]
#[expect(clippy::panic, reason = "it is what the feature is for")]
fn panic_if_asked(request: &Attributes<'_>) {
    if request.values("x-test-panic").next().is_some() {
        panic!("a rule panicked, as the test asked");
    }
}
