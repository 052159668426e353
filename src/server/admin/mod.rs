//! The admin API: keys, users, projects, sessions, resources, the fleet and the audit log as JSON over HTTP/1.1, behind three doors. Never trusts
//! what its listener did not prove: the socket's file mode, or a credential that the pipeline allows.

mod audit;
mod backup;
mod client;
mod fleet;
mod grammar;
mod guard;
mod issuers;
mod keys;
pub mod openapi;
mod operations;
mod projects;
mod reply;
mod request;
mod resources;
pub mod serve;
mod session;
mod sessions;
mod users;
mod whoami;
pub mod wire;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;
use tollgate_core::policy::Policy;

use crate::backup::Backups;
use crate::clock::Clock;
use crate::config;
use crate::fleet::replicas::Replicas;
use crate::login::Logins;
use crate::pipeline::Pipeline;
use crate::registry::Registry;
use guard::{RequestId, Rules};
use operations::{Access, OPERATIONS, Operation};
use reply::ApiError;

/// How a request came in, and so what it must prove and what it may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// `admin.sock`: the whole API and the bootstrap; whoever may open it is the operator.
    Socket,
    /// The whole API, authenticated.
    Http,
    /// The public-facing routes alone, authenticated; Envoy forwards them.
    ThroughEnvoy,
}

/// What the admin API works with. Cheap to clone, as each layer that a request passes has its own.
#[derive(Clone, Debug)]
pub struct AdminState {
    parts: Arc<Parts>,
    rules: Arc<Rules>,
}

/// What an [`AdminState`] is made of.
#[derive(Clone, Debug)]
pub struct Parts {
    pub live: Arc<ArcSwap<Policy>>,
    pub registry: Registry,
    pub replicas: Replicas,
    pub pipeline: Pipeline,
    pub logins: Logins,
    pub backups: Backups,
    pub clock: Clock,
    pub settings: config::Admin,
}

impl AdminState {
    pub fn new(parts: Parts) -> Self {
        Self { parts: Arc::new(parts), rules: Arc::default() }
    }
}

impl Deref for AdminState {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.parts
    }
}

/// From the head of a request to its answer. A change under way is finished even then.
const MAX_TIME: Duration = Duration::from_secs(10);
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

/// The API as one door shows it.
pub fn router(state: &AdminState, door: Door) -> Router {
    let shown = OPERATIONS.iter().filter(|operation| operation.doors.contains(&door));
    finished(shown.map(|operation| (operation.path, guarded(operation, state, door))), state.clone(), door)
}

fn guarded(operation: &'static Operation, state: &AdminState, door: Door) -> MethodRouter<AdminState> {
    let handler = (operation.handler)();
    match (operation.access, door) {
        (Access::Public, _) => handler,
        (_, Door::Socket) => handler.route_layer(from_fn_with_state(operation, guard::operator)),
        (_, Door::Http | Door::ThroughEnvoy) => {
            handler.route_layer(from_fn_with_state((state.clone(), operation), guard::authenticate))
        }
    }
}

fn finished(
    routes: impl Iterator<Item = (&'static str, MethodRouter<AdminState>)>,
    state: AdminState,
    door: Door,
) -> Router {
    let router = routes.fold(Router::new(), |router, (path, methods)| router.route(path, methods));
    let router = router
        .fallback(|| async { ApiError::not_found("There is nothing at this path.") })
        .method_not_allowed_fallback(|| async { ApiError::wrong_method() })
        .with_state(state.clone());
    let router = match door {
        Door::Socket => router,
        Door::Http => router.layer(from_fn_with_state(state.clone(), guard::check_host)),
        Door::ThroughEnvoy => router
            // Nobody is taken for whom they name before the proof is there.
            .layer(from_fn_with_state(state.clone(), client::tell_apart))
            .layer(from_fn_with_state(state.clone(), guard::demand_proof))
            .layer(from_fn_with_state(state.clone(), guard::check_host)),
    };
    let router = router.layer(from_fn_with_state(state.clone(), guard::refuse_key_in_url));
    router.layer(Extension(door)).layer(from_fn_with_state(state, finish))
}

/// What holds for every answer: it comes in time, a panic is its own request's fault, it names the request, and nobody
/// stores it.
async fn finish(State(state): State<AdminState>, mut request: Request, next: Next) -> Response {
    let id = RequestId::of(&state.live.load().planes, &request);
    request.extensions_mut().insert(id.clone());
    // A task of its own: a client that hangs up does not keep a change from being made and written down.
    let mut response = match tokio::time::timeout(MAX_TIME, tokio::spawn(next.run(request))).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => {
            tracing::error!(request_id = id.0, "an admin request panicked");
            ApiError::internal().into_response()
        }
        Err(_) => ApiError::unavailable(
            "The request took too long. A change may have been made all the same: look before you try again.",
        )
        .into_response(),
    };
    let headers = response.headers_mut();
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(id) = HeaderValue::from_str(&id.0) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
    response
}

fn page_size(asked: Option<usize>) -> Result<usize, ApiError> {
    match asked.unwrap_or(PAGE) {
        limit @ 1..=MAX_PAGE => Ok(limit),
        _ => Err(ApiError::invalid_field("limit", "must be 1 to 1000")),
    }
}

#[cfg(test)]
mod tests;
