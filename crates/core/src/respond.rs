//! Step 6, a permit to header edits and a denial to an error: the contract with back ends and clients. An [`Allow`]
//! needs a permit, and a [`Decision`] has no default.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::attributes::Attributes;
use crate::authorize::Permit;
use crate::decision::{RouteId, Step, Trace};
use crate::denial::{Challenge, Denial, Details};
use crate::error_body::{ErrorShape, ErrorText};
use crate::policy::{OVERRIDES, Policy, same_header};
use crate::principal::{Grant, Principal};
use crate::redact;
use crate::route::Access;

/// The answer to one request.
#[derive(Debug)]
pub enum Decision<'r> {
    Allow(Allow<'r>),
    Deny(Deny<'r>),
}

impl Decision<'_> {
    /// Gives an allow the proof that it was one.
    pub fn prove(&mut self, proof: String) {
        if let Self::Allow(allow) = self {
            allow.proof = allow.policy.identity.proof().map(|name| (name, proof));
        }
    }

    pub fn trace(&self) -> &Trace {
        match self {
            Self::Allow(allow) => &allow.trace,
            Self::Deny(deny) => &deny.trace,
        }
    }
}

/// A request that may pass, and what the back end is told about it.
#[derive(Debug)]
pub struct Allow<'r> {
    policy: &'r Policy,
    request: &'r Attributes<'r>,
    permit: Permit<'r>,
    subject: Option<String>,
    /// Instead of the subject, where logs may not have that.
    logged_subject: Option<String>,
    request_id: Option<&'r str>,
    endpoint: Cow<'r, str>,
    /// Header and value, for our own API behind Envoy.
    proof: Option<(String, String)>,
    trace: Trace,
}

/// Turns a permit into the answer: an allow, unless Envoy could not carry it out.
pub fn allow<'r>(
    policy: &'r Policy,
    request: &'r Attributes<'r>,
    permit: Permit<'r>,
    mut trace: Trace,
) -> Decision<'r> {
    trace.step = Step::Respond;
    let subject = permit.principal().map(|principal| principal.subject().into_owned());
    let logged_subject = permit.principal().and_then(Principal::logged_instead).map(str::to_owned);
    let path = request.path();
    let endpoint = if permit.is_literal() { Cow::Borrowed(path) } else { redact::path(&policy.planes, path) };
    let allow = Allow {
        policy,
        request,
        permit,
        subject,
        logged_subject,
        request_id: request.request_id(),
        endpoint,
        proof: None,
        trace: Trace { denied: None, ..trace },
    };
    if policy.envoy_limits.carries(request, allow.headers_to_set()) {
        Decision::Allow(allow)
    } else {
        deny(policy, request, Denial::HeadersTooLarge, trace, allow.permit.caller())
    }
}

impl<'r> Allow<'r> {
    pub fn permit(&self) -> &Permit<'r> {
        &self.permit
    }

    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// What its caller has in common with others; nobody on a public route.
    pub fn grant(&self) -> Option<&Arc<Grant>> {
        self.permit.principal().map(Principal::grant)
    }

    /// What every allow of this policy, route and [grant](Self::grant) says.
    pub fn common(&self) -> Common<'_, 'r> {
        Common(self)
    }

    /// What it says beside that.
    pub fn own(&self) -> Own<'_, 'r> {
        Own(self)
    }

    /// Who asks, as the back end is told.
    fn told_subject(&self) -> Option<&str> {
        match self.permit.principal() {
            Some(principal) if self.policy.identity.subject_is_id && principal.key_id().is_none() => {
                principal.user_id()
            }
            _ => self.subject.as_deref(),
        }
    }

    /// Headers to overwrite in the request, name and value. No value is empty.
    pub fn headers_to_set(&self) -> impl Iterator<Item = (&str, &str)> {
        self.common().headers_to_set().chain(self.own().headers_to_set())
    }

    /// Headers to remove from the request. None of them is also set, since Envoy lets a removal win.
    pub fn headers_to_remove(&self) -> impl Iterator<Item = &str> {
        self.common().headers_to_remove().chain(self.own().headers_to_remove())
    }

    /// Who was allowed, as it may stand in a log.
    pub fn logged_subject(&self) -> Option<&str> {
        self.logged_subject.as_deref().or(self.subject.as_deref())
    }

    /// The headers that carry credentials, unless the back end gets to see them.
    fn credentials(&self) -> impl Iterator<Item = &str> {
        let kept = self.permit.route().keep_credential;
        self.policy.credentials.iter().map(|source| &*source.name).filter(move |_| !kept)
    }

    /// The path, as it may stand in a log.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// For access logs and later filters: what was decided, without anything secret.
    pub fn metadata(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.common().metadata().chain(self.own().metadata())
    }
}

/// What an [`Allow`] says because of its policy, its route and the grant of its caller: the same for all that have these, so that a
/// host may write it once. See [`Allow`] for its parts.
#[derive(Clone, Copy, Debug)]
pub struct Common<'a, 'r>(&'a Allow<'r>);

impl<'a> Common<'a, '_> {
    fn identity(self) -> impl Iterator<Item = IdentityHeader<'a>> {
        let names = &self.0.policy.identity;
        let principal = self.0.permit.principal();
        in_use([
            (&names.plane, principal.map(Principal::plane)),
            (&names.permissions, principal.map(Principal::permissions)),
        ])
    }

    pub fn headers_to_set(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.identity().filter_map(|(name, value)| Some((name, value?)))
    }

    pub fn headers_to_remove(self) -> impl Iterator<Item = &'a str> {
        self.0.credentials().chain(OVERRIDES).chain(unset(self.identity()))
    }

    pub fn metadata(self) -> impl Iterator<Item = (&'static str, &'a str)> {
        let plane = self.0.permit.principal().map(Principal::plane);
        said([("decision", Some("allow")), ("route", Some(&*self.0.permit.route().name)), ("plane", plane)])
    }
}

/// What an [`Allow`] says beside what is [`Common`].
#[derive(Clone, Copy, Debug)]
pub struct Own<'a, 'r>(&'a Allow<'r>);

impl<'a> Own<'a, '_> {
    fn identity(self) -> impl Iterator<Item = IdentityHeader<'a>> {
        let Allow { policy, permit, request_id, .. } = self.0;
        let names = &policy.identity;
        let principal = permit.principal();
        in_use([
            (&names.subject, self.0.told_subject()),
            (&names.user_id, principal.and_then(Principal::user_id)),
            (&names.project, permit.project()),
            (&names.workload, permit.workload()),
            (&names.key_id, principal.and_then(Principal::key_id)),
            (&names.request_id, *request_id),
        ])
    }

    pub fn headers_to_set(self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let proof = self.0.proof.iter().map(|(name, value)| (&**name, &**value));
        self.identity().filter_map(|(name, value)| Some((name, value?))).chain(proof)
    }

    pub fn headers_to_remove(self) -> impl Iterator<Item = &'a str> {
        let Allow { policy, request, proof, .. } = self.0;
        let identity = &policy.identity;
        // What a back end that folds names would take for one of ours.
        let lookalike = move |name: &&[u8]| {
            if !policy.own_headers.may_have(name, identity) {
                return false;
            }
            let mut removed = self.0.credentials().chain(OVERRIDES);
            let proof = proof.as_ref().map(|(own, _)| &**own);
            let is_set = || identity.names().chain(proof).any(|own| own.as_bytes().eq_ignore_ascii_case(name));
            (identity.reserves(name) && !is_set())
                || removed.any(|own| !own.as_bytes().eq_ignore_ascii_case(name) && same_header(own.as_bytes(), name))
        };
        let lookalikes = request.headers.iter().map(|header| header.name).filter(lookalike);
        // Every name is UTF-8.
        unset(self.identity()).chain(lookalikes.filter_map(|name| std::str::from_utf8(name).ok()))
    }

    pub fn metadata(self) -> impl Iterator<Item = (&'static str, &'a str)> {
        let Allow { policy, permit, request, .. } = self.0;
        said([
            ("subject", self.0.logged_subject()),
            ("key_id", permit.principal().and_then(Principal::key_id)),
            ("project", permit.logged_project(&policy.planes)),
            ("workload", permit.logged_workload(&policy.planes)),
            ("client_ip", Some(policy.client_ip.of(request))),
            ("endpoint", Some(self.0.endpoint())),
        ])
    }
}

/// The name of an identity header, and its value; `None`: it must be removed.
type IdentityHeader<'a> = (&'a str, Option<&'a str>);

/// Those that have a name.
fn in_use<'a, const N: usize>(
    headers: [(&'a Option<Box<str>>, Option<&'a str>); N],
) -> impl Iterator<Item = IdentityHeader<'a>> {
    let headers = headers.into_iter();
    headers.filter_map(|(name, value)| Some((name.as_deref()?, value.filter(|value| !value.is_empty()))))
}

fn unset<'a>(identity: impl Iterator<Item = IdentityHeader<'a>>) -> impl Iterator<Item = &'a str> {
    identity.filter(|(_, value)| value.is_none()).map(|(name, _)| name)
}

/// Those that have a value.
fn said<'a, const N: usize>(
    metadata: [(&'static str, Option<&'a str>); N],
) -> impl Iterator<Item = (&'static str, &'a str)> {
    metadata.into_iter().filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_empty())?)))
}

/// A refusal, ready to be sent.
#[derive(Debug)]
pub struct Deny<'r> {
    pub status: u16,
    /// Response headers, name and value; the content type is among them.
    pub headers: Vec<(&'static str, Cow<'r, str>)>,
    pub body: String,
    pub denial: Denial,
    caller: Option<Arc<Principal>>,
    policy: &'r Policy,
    request: &'r Attributes<'r>,
    endpoint: Cow<'r, str>,
    trace: Trace,
}

impl Deny<'_> {
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// Who was refused, once a look-up has found the holder of the credential.
    pub fn caller(&self) -> Option<&Principal> {
        self.caller.as_deref()
    }

    /// The same, as it may stand in a log.
    pub fn logged_subject(&self) -> Option<Cow<'_, str>> {
        let caller = self.caller()?;
        Some(caller.logged_instead().map_or_else(|| caller.subject(), Cow::Borrowed))
    }

    /// The id of the key, likewise.
    pub fn known_key_id(&self) -> Option<&str> {
        self.caller()?.key_id()
    }

    /// The id in a key that nobody has looked up, or that nobody has: anybody can have made it up.
    pub fn presented_key_id(&self) -> Option<&str> {
        let known = self.known_key_id().is_some();
        self.trace.key_id.as_ref().filter(|_| !known).map(|id| id.as_str())
    }

    /// The path, as it may stand in a log.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// For access logs: what was decided and why, without anything secret.
    pub fn metadata(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let route = self.trace.route.map(|id| &*self.policy.routes.route(id).name);
        [
            ("decision", Some("deny")),
            ("reason", Some(self.denial.as_str())),
            ("route", route),
            ("key_id", self.known_key_id()),
            ("presented_key_id", self.presented_key_id()),
            ("client_ip", Some(self.policy.client_ip.of(self.request))),
            ("endpoint", Some(self.endpoint())),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.filter(|value| !value.is_empty())?)))
    }
}

/// Turns a denial into the answer. `caller`: as far as known.
pub fn deny<'r>(
    policy: &'r Policy,
    request: &'r Attributes<'r>,
    denial: Denial,
    mut trace: Trace,
    caller: Option<Arc<Principal>>,
) -> Decision<'r> {
    trace.denied = Some(denial);
    let answer = denial.answer();
    let details = details(policy, trace.route, answer.details);
    let text = ErrorText { status: answer.status, code: answer.code, message: answer.message, details };
    let shape = if request.is_grpc() {
        ErrorShape::Grpc
    } else {
        let host = || policy.routes.errors_of(request.host).unwrap_or(policy.errors);
        trace.route.map_or_else(host, |id| policy.routes.route(id).errors)
    };
    let mut headers = vec![("content-type", Cow::Borrowed(shape.content_type()))];
    if let Some(challenge) = challenge(policy, trace.route, answer.challenge) {
        headers.push(("www-authenticate", Cow::Owned(challenge)));
    }
    if answer.status == 503 {
        headers.push(("retry-after", Cow::Borrowed("1")));
    }
    if let Some(id) = request.request_id().filter(|id| redact::text(&policy.planes, id) == *id) {
        headers.push(("x-request-id", Cow::Borrowed(id)));
    }
    let body = shape.render(&text);
    let endpoint = redact::path(&policy.planes, request.path());
    Decision::Deny(Deny { status: answer.status, headers, body, denial, caller, policy, request, endpoint, trace })
}

/// What an answer adds from the configuration.
fn details(policy: &Policy, route: Option<RouteId>, details: Details) -> Value {
    match details {
        Details::None => Value::Null,
        Details::AcceptedCredentials => json!({"accepted": accepted(policy)}),
        Details::RequiredPlane => required_plane(policy, route),
        Details::RequiredPermissions => required_permissions(policy, route),
    }
}

fn accepted(policy: &Policy) -> Vec<String> {
    let form = |source: &crate::extract::CredentialHeader| {
        let scheme = source.scheme.as_deref().map(|scheme| format!("{scheme} ")).unwrap_or_default();
        let kinds = [("KEY", source.kinds.api_key), ("JWT", source.kinds.jwt)];
        let kinds: Vec<&str> = kinds.iter().filter(|(_, taken)| *taken).map(|(kind, _)| *kind).collect();
        format!("{}: {scheme}{}", source.name, kinds.join(" or "))
    };
    policy.credentials.iter().map(form).collect()
}

fn required_plane(policy: &Policy, route: Option<RouteId>) -> Value {
    match route.map(|id| &policy.routes.route(id).access) {
        Some(Access::Guarded(requirement)) => json!({"required_plane": policy.plane(requirement.plane).name}),
        Some(Access::Public) | None => Value::Null,
    }
}

fn required_permissions(policy: &Policy, route: Option<RouteId>) -> Value {
    match route.map(|id| &policy.routes.route(id).access) {
        Some(Access::Guarded(requirement)) => {
            let mut details = serde_json::Map::new();
            for (name, list) in [("all_of", &requirement.all_of), ("any_of", &requirement.any_of)] {
                if !list.is_empty() {
                    details.insert(name.to_owned(), json!(list));
                }
            }
            Value::Object(details)
        }
        Some(Access::Public) | None => Value::Null,
    }
}

/// `WWW-Authenticate`.
fn challenge(policy: &Policy, route: Option<RouteId>, challenge: Challenge) -> Option<String> {
    let realm = &policy.realm;
    match challenge {
        Challenge::None => None,
        Challenge::Bare => Some(format!("Bearer realm=\"{realm}\"")),
        Challenge::InvalidToken => Some(format!("Bearer realm=\"{realm}\", error=\"invalid_token\"")),
        Challenge::InsufficientScope => {
            let scope = match route.map(|id| &policy.routes.route(id).access) {
                Some(Access::Guarded(requirement)) => {
                    let names = requirement.all_of.iter().chain(&requirement.any_of);
                    names.map(|name| &**name).collect::<Vec<_>>().join(" ")
                }
                Some(Access::Public) | None => String::new(),
            };
            Some(format!("Bearer realm=\"{realm}\", error=\"insufficient_scope\", scope=\"{scope}\""))
        }
    }
}
