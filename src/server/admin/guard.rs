//! Who may use the admin API: on HTTP, whoever the pipeline allows with an administrative permission. Believes no
//! identity header, takes no key from a browser, and lets nothing through that its table of routes does not name.

use std::net::IpAddr;
use std::sync::Arc;

use arc_swap::ArcSwapOption;
use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::http::header::{CONTENT_TYPE, HOST};
use axum::http::request::Parts;
use axum::http::uri::Authority;
use axum::http::{Extensions, HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use data_encoding::HEXLOWER;
use tollgate_core::attributes::{Attributes, Header};
use tollgate_core::denial::Denial;
use tollgate_core::error_body::ErrorShape;
use tollgate_core::extract::Kinds;
use tollgate_core::name::login_name_in_path;
use tollgate_core::pattern::PathPattern;
use tollgate_core::plane::{Plane, PlaneId};
use tollgate_core::policy::Policy;
use tollgate_core::principal::Principal;
use tollgate_core::redact;
use tollgate_core::resource::EVERY;
use tollgate_core::respond::{Decision, Deny};
use tollgate_core::route::{self, HostRules, ProjectOf, Requirement, Route, RouteTable, Scope, WorkloadOf};
use tollgate_guard::time::Timestamp;

use super::AdminState;
use super::operations::{Access, OPERATIONS, Operation};
use super::reply::ApiError;
use super::serve::Peer;
use crate::registry::{Actor, ActorPermissions};
use crate::server::places::PeerState;
use crate::telemetry::AUDIT;

/// The rules of the admin API, made from the planes and credentials of the live policy; made anew when that changes.
#[derive(Debug, Default)]
pub struct Rules(ArcSwapOption<Compiled>);

#[derive(Debug)]
struct Compiled {
    /// What these were made from. Held, so that its address cannot be another policy's.
    source: Arc<Policy>,
    /// One for each admin plane, and then one for the plane of users if it is none of those.
    by_plane: Vec<PlaneRules>,
}

#[derive(Debug)]
struct PlaneRules {
    /// On another plane there is but what anyone may do.
    admin: bool,
    rules: Policy,
    /// The same without permissions: tells who was refused for the lack of one.
    anyone: Policy,
}

impl Rules {
    fn of(&self, live: &Arc<Policy>) -> Result<Arc<Compiled>, ApiError> {
        if let Some(compiled) = self.0.load_full()
            && Arc::ptr_eq(&compiled.source, live)
        {
            return Ok(compiled);
        }
        let planes = || (0u8..).zip(&live.planes);
        let of_users = |plane: &Plane| live.login.as_ref().is_some_and(|login| login.plane == plane.name);
        let admins = planes().filter(|(_, plane)| plane.admin);
        let users = planes().filter(|(_, plane)| !plane.admin && of_users(plane));
        let rules = |(id, plane): (u8, &Plane)| {
            let id = PlaneId(id);
            let (rules, anyone) = (rules_of_plane(live, id, true)?, rules_of_plane(live, id, false)?);
            Ok(PlaneRules { admin: plane.admin, rules, anyone })
        };
        let by_plane: Result<Vec<PlaneRules>, String> = admins.chain(users).map(rules).collect();
        let by_plane = by_plane.map_err(|problem| {
            tracing::error!(%problem, "the rules of the admin API do not hold together");
            ApiError::internal()
        })?;
        let compiled = Arc::new(Compiled { source: Arc::clone(live), by_plane });
        self.0.store(Some(Arc::clone(&compiled)));
        Ok(compiled)
    }
}

fn rules_of_plane(live: &Policy, plane: PlaneId, with_permissions: bool) -> Result<Policy, String> {
    let mut routes = Vec::new();
    for operation in &OPERATIONS {
        let permission = match operation.access {
            Access::Permission(permission) => Some(permission.into()).filter(|_| with_permissions),
            Access::Anyone => None,
            Access::Public | Access::Operator => continue,
        };
        let route = Route {
            name: operation.name.into(),
            access: route::Access::Guarded(Requirement {
                plane,
                all_of: permission.into_iter().collect(),
                any_of: Vec::new(),
                scope: Scope::Project { project: ProjectOf::Key, workload: WorkloadOf::Whole },
                browsers: false,
                kinds: Kinds::ALL,
            }),
            errors: ErrorShape::Tollgate,
            keep_credential: true,
        };
        let pattern = PathPattern::parse(operation.path)?;
        let methods = operation.methods().iter();
        routes.push((route, methods.map(|&method| (method.to_owned(), pattern.clone())).collect()));
    }
    let host = HostRules { patterns: vec!["*".to_owned()], errors: ErrorShape::Tollgate, routes };
    let routes = RouteTable::build(vec![host]).map_err(|conflicts| format!("{conflicts:?}"))?;
    Ok(live.for_own_api(routes))
}

/// Who makes a request, once that was found out.
#[derive(Clone, Debug)]
pub struct Caller {
    pub actor: Actor,
    /// When the credential expires.
    pub expires_at: Option<Timestamp>,
    operation: &'static Operation,
}

impl Caller {
    fn new(
        operation: &'static Operation,
        actor: Actor,
        expires_at: Option<Timestamp>,
        extensions: &Extensions,
    ) -> Self {
        let request_id = extensions.get::<RequestId>().cloned().unwrap_or_default();
        let peer = extensions.get::<Peer>().cloned().unwrap_or_default();
        Self { actor: Actor { peer: peer.0, request_id: request_id.0, ..actor }, expires_at, operation }
    }

    fn of(operation: &'static Operation, principal: &Principal, extensions: &Extensions) -> Self {
        let held = principal.permissions().split(',').filter(|held| !held.is_empty()).map(str::to_owned);
        let actor = Actor {
            subject: principal.subject().into_owned(),
            id: principal.user_id().map(str::to_owned),
            project: (!principal.reaches_every_project()).then(|| principal.project().to_owned()),
            held: ActorPermissions::Only(held.collect()),
            peer: String::new(),
            request_id: String::new(),
        };
        Self::new(operation, actor, principal.expires_at, extensions)
    }

    /// A log line of a change that was made.
    pub fn changed(&self, state: &AdminState, target_id: &str, project: &str) {
        let Actor { subject, peer, request_id, .. } = &self.actor;
        let act = self.operation.name;
        let (subject, target_id) = (&*state.registry.logged(subject), &*state.registry.logged(target_id));
        tracing::info!(target: AUDIT, act, target_id, project, subject, peer, request_id, "admin change");
    }
}

/// Taken from what the guard of the door left; a route without a guard serves nobody.
impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(ApiError::internal)
    }
}

/// Whoever may open the admin socket is the operator.
pub(super) async fn operator(
    State(operation): State<&'static Operation>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = Caller::new(operation, Actor::operator(), None, request.extensions());
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// Whoever the pipeline allows.
pub(super) async fn authenticate(
    State((state, operation)): State<(AdminState, &'static Operation)>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    match judge(&state, operation, &mut parts).await {
        Ok(caller) => {
            if let Some(peer_state) = parts.extensions.get::<Arc<PeerState>>() {
                peer_state.trust();
            }
            parts.extensions.insert(caller);
            next.run(Request::from_parts(parts, body)).await
        }
        Err(response) => response,
    }
}

async fn judge(state: &AdminState, operation: &'static Operation, parts: &mut Parts) -> Result<Caller, Response> {
    let target = target(operation, parts).await;
    let live = state.live.load_full();
    let rules = state.rules.of(&live).map_err(IntoResponse::into_response)?;
    let peer = parts.extensions.get::<Peer>().cloned().unwrap_or_default();
    let request = attributes(parts, &peer);
    // The plane that the credential stands on; one that stands on no admin plane is refused by any of them.
    let mut planes = rules.by_plane.iter().filter(|of| of.admin || operation.access == Access::Anyone);
    let Some(mut of_plane) = planes.next() else {
        let problem = "No plane is marked `admin: true`, so no credential can administer.";
        return Err(ApiError::forbidden(problem).into_response());
    };
    let mut decision = state.pipeline.decide(&of_plane.rules, &request).await;
    while matches!(&decision, Decision::Deny(deny) if deny.denial == Denial::WrongPlane) {
        let Some(next) = planes.next() else { break };
        of_plane = next;
        decision = state.pipeline.decide(&of_plane.rules, &request).await;
    }
    match decision {
        Decision::Allow(allow) => match allow.permit().principal() {
            Some(principal) => Ok(Caller::of(operation, principal, &parts.extensions)),
            None => Err(ApiError::internal().into_response()),
        },
        Decision::Deny(deny) => {
            let key_id = deny.metadata().find(|(name, _)| *name == "key_id").map(|(_, id)| id);
            let (reason, method) = (deny.denial.as_str(), request.method);
            tracing::warn!(reason, key_id, peer = peer.0, method, "admin request denied");
            if deny.denial == Denial::PermissionMissing
                && let Decision::Allow(allow) = state.pipeline.decide(&of_plane.anyone, &request).await
                && let Some(principal) = allow.permit().principal()
            {
                let Caller { actor, .. } = Caller::of(operation, principal, &parts.extensions);
                write_down(state, operation, &actor, target).await;
            }
            Err(refusal(&deny))
        }
    }
}

/// Writes into the audit log that a known caller lacks the permission.
async fn write_down(state: &AdminState, operation: &Operation, actor: &Actor, target: Option<String>) {
    let Access::Permission(permission) = operation.access else { return };
    let project = actor.project.as_deref();
    let target = target.unwrap_or_else(|| format!("project:{}", project.unwrap_or(EVERY)));
    let reason = format!("the permission `{permission}` is missing");
    state.registry.refused(actor, operation.name, &target, project, &reason).await;
}

/// What the request is about, if its path names it.
async fn target(operation: &Operation, parts: &mut Parts) -> Option<String> {
    operation.path_names?;
    let names = RawPathParams::from_request_parts(parts, &()).await.ok()?;
    // Nothing is repeated that could not be a name of ours.
    let filled = |text: String, (name, value): (&str, &str)| {
        let value = login_name_in_path(value);
        text.replace(&format!("{{{name}}}"), value.as_deref().unwrap_or("?"))
    };
    Some(names.iter().fold(operation.target.to_owned(), filled))
}

/// A request to the admin API, as the pipeline sees one.
pub(super) fn attributes<'a>(parts: &'a Parts, peer: &'a Peer) -> Attributes<'a> {
    // Without the content type, which would let a client choose the shape of an error.
    let headers = parts.headers.iter().filter(|(name, _)| *name != CONTENT_TYPE);
    let headers = headers.map(|(name, value)| Header::new(name.as_str(), value.as_bytes()));
    Attributes {
        method: parts.method.as_str(),
        target: parts.uri.path_and_query().map_or("/", |target| target.as_str()),
        host: parts.headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or_default(),
        scheme: "http",
        protocol: "HTTP/1.1",
        headers_withheld: false,
        headers: headers.collect(),
        body: &[],
        peer_address: &peer.0,
        peer_principal: "",
    }
}

fn refusal(deny: &Deny<'_>) -> Response {
    let status = StatusCode::from_u16(deny.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, deny.body.clone()).into_response();
    for (name, value) in &deny.headers {
        if let Ok(value) = HeaderValue::from_str(value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}

/// Refuses a request that did not pass the check, where others than Envoy may reach the door.
pub(super) async fn demand_proof(State(state): State<AdminState>, mut request: Request, next: Next) -> Response {
    // Nobody behind this has use for it.
    let name = state.live.load().identity.proof();
    let proof = name.and_then(|name| request.headers_mut().remove(name));
    if state.settings.demands_proof {
        let proof = proof.as_ref().and_then(|proof| proof.to_str().ok()).unwrap_or_default();
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        if !state.pipeline.check_proofs().holds(proof, state.clock.now(), request.method().as_str(), target) {
            let problem = "Send this request through Envoy: this listener answers only what has passed the check.";
            return ApiError::forbidden(problem).into_response();
        }
    }
    next.run(request).await
}

/// Refuses a request with one of our keys in its URL, also where there is nothing: it may have been seen on its way.
pub(super) async fn refuse_key_in_url(State(state): State<AdminState>, request: Request, next: Next) -> Response {
    if !redact::holds_key(&state.live.load().planes, &request.uri().to_string()) {
        return next.run(request).await;
    }
    let peer = request.extensions().get::<Peer>().cloned().unwrap_or_default();
    let (reason, method) = (Denial::CredentialInTarget.as_str(), redact::method(request.method().as_str()));
    tracing::warn!(reason, peer = peer.0, method, "admin request denied");
    ApiError::invalid(Denial::CredentialInTarget.answer().message).into_response()
}

/// Refuses a request for another host: a name that was rebound to our address in somebody's browser, or a mistake.
pub(super) async fn check_host(State(state): State<AdminState>, request: Request, next: Next) -> Response {
    let mut named = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (named.next(), named.next()) else {
        return ApiError::invalid("The request must have exactly one Host header.").into_response();
    };
    let allowed = &state.settings.allowed_hosts;
    let absolute = request.uri().authority().is_none_or(|authority| is_expected(authority.as_str(), allowed));
    if absolute && host.to_str().is_ok_and(|host| is_expected(host, allowed)) {
        return next.run(request).await;
    }
    ApiError::forbidden(
        "The admin API does not answer to this Host: use localhost, a loopback address, or one of \
         listen.admin.allowed_hosts.",
    )
    .into_response()
}

/// `localhost`, a loopback address or a host that the configuration allows, on any port.
fn is_expected(authority: &str, allowed: &[String]) -> bool {
    if authority.contains('@') || allowed.iter().any(|host| host.eq_ignore_ascii_case(authority)) {
        return !authority.contains('@');
    }
    let Ok(authority) = authority.parse::<Authority>() else { return false };
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost")
        || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        || allowed.iter().any(|known| known.eq_ignore_ascii_case(host))
}

/// The name of one request in logs and answers.
#[derive(Clone, Debug, Default)]
pub(super) struct RequestId(pub(super) String);

impl RequestId {
    /// The one that came, if it is safe to repeat, and does not look like a secret; else a new one.
    pub(super) fn of(planes: &[Plane], request: &Request) -> Self {
        let sent = request.headers().get("x-request-id").and_then(|id| id.to_str().ok());
        let safe = |id: &&str| matches!(id.len(), 1..=128) && id.bytes().all(|byte| byte.is_ascii_graphic());
        if let Some(id) = sent.filter(safe).filter(|id| redact::text(planes, id) == *id) {
            return Self(id.to_owned());
        }
        let mut bytes = [0u8; 16];
        // Without random bytes the request is served all the same, with a name that says nothing.
        let _ = getrandom::fill(&mut bytes);
        Self(HEXLOWER.encode(&bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_are_ours() {
        let allowed = ["api.example.com".to_owned(), "tollgate:9181".to_owned()];
        for good in [
            "localhost",
            "LOCALHOST:9181",
            "127.0.0.1:9181",
            "127.8.9.1",
            "[::1]:9181",
            "[::1]",
            "API.example.com",
            "api.example.com:8443",
            "tollgate:9181",
        ] {
            assert!(is_expected(good, &allowed), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil@localhost",
            "localhost@evil.example",
            "10.0.0.1",
            "0.0.0.0:9181",
            "tollgate",
            "xapi.example.com",
            "localhost,evil",
            "localhost evil",
        ] {
            assert!(!is_expected(bad, &allowed), "{bad}");
        }
    }
}
