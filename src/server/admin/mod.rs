//! The admin API: keys and resources as JSON over HTTP/1.1, behind three doors. Never trusts what its listener did not
//! prove: the socket's file mode, or a key that the pipeline allows.

mod guard;
mod keys;
mod reply;
mod resources;
pub mod serve;
pub mod wire;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, Request};
use axum::http::header::{CACHE_CONTROL, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::MethodRouter;

use crate::clock::Clock;
use crate::config;
use crate::pipeline::Pipeline;
use crate::policy::Policy;
use crate::registry::Registry;
use guard::{RequestId, Rules};
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

/// What the admin API works with. Cheap to clone.
#[derive(Clone, Debug)]
pub struct AdminState {
    live: Arc<ArcSwap<Policy>>,
    registry: Registry,
    pipeline: Pipeline,
    clock: Clock,
    settings: Arc<config::Admin>,
    rules: Arc<Rules>,
}

impl AdminState {
    pub fn new(
        live: Arc<ArcSwap<Policy>>,
        registry: Registry,
        pipeline: Pipeline,
        clock: Clock,
        settings: Arc<config::Admin>,
    ) -> Self {
        Self { live, registry, pipeline, clock, settings, rules: Arc::default() }
    }
}

const MAX_BODY: usize = 64 * 1024;
/// From the head of a request to its answer. A change under way is finished even then.
const MAX_TIME: Duration = Duration::from_secs(10);
const PAGE: usize = 100;
const MAX_PAGE: usize = 1000;

/// The API as one door shows it.
pub fn router(state: &AdminState, door: Door) -> Router {
    let guarded = |methods: MethodRouter<AdminState>| match door {
        Door::Socket => methods.route_layer(from_fn(guard::operator)),
        Door::Http | Door::ThroughEnvoy => methods.route_layer(from_fn_with_state(state.clone(), guard::authenticate)),
    };
    let mut routes = Vec::from(keys::routes());
    match door {
        Door::Socket => routes.extend(resources::routes().into_iter().chain(keys::operator_routes())),
        Door::Http => routes.extend(resources::routes()),
        Door::ThroughEnvoy => {}
    }
    finished(routes.into_iter().map(|(path, methods)| (path, guarded(methods))), state.clone(), door)
}

fn finished(routes: impl Iterator<Item = (String, MethodRouter<AdminState>)>, state: AdminState, door: Door) -> Router {
    let router = routes.fold(Router::new(), |router, (path, methods)| router.route(&path, methods));
    let router = router
        .fallback(|| async { ApiError::not_found("There is nothing at this path.") })
        .method_not_allowed_fallback(|| async { ApiError::wrong_method() })
        .with_state(state.clone())
        .layer(DefaultBodyLimit::max(MAX_BODY));
    let router = match door {
        Door::Socket => router,
        Door::Http | Door::ThroughEnvoy => router.layer(from_fn_with_state(state, guard::check_host)),
    };
    router.layer(from_fn(finish))
}

/// What holds for every answer: it comes in time, a panic is its own request's fault, it names the request, and nobody
/// stores it.
async fn finish(mut request: Request, next: Next) -> Response {
    let id = RequestId::of(&request);
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
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if let Ok(id) = HeaderValue::from_str(&id.0) {
        headers.insert(HeaderName::from_static("x-request-id"), id);
    }
    response
}

fn body_of(body: Result<Bytes, BytesRejection>) -> Result<Bytes, ApiError> {
    body.map_err(|problem| match problem.status() {
        StatusCode::PAYLOAD_TOO_LARGE => ApiError::too_large(),
        _ => ApiError::invalid("The body could not be read."),
    })
}

fn page_size(asked: Option<usize>) -> Result<usize, ApiError> {
    match asked.unwrap_or(PAGE) {
        limit @ 1..=MAX_PAGE => Ok(limit),
        _ => Err(ApiError::invalid_field("limit", "must be 1 to 1000")),
    }
}

#[cfg(test)]
mod tests;
