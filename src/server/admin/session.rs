//! Logging in and out over HTTP, and the public keys of the tokens that are given. A password is wiped when it has been
//! checked; a token leaves here once.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use tollgate_core::extract::bearer_token;

use super::AdminState;
use super::client::ClientAddress;
use super::fleet::{self, FleetWait};
use super::guard::Caller;
use super::reply::{self, ApiError};
use super::request::JsonBody;
use super::wire::fleet::Changed;
use super::wire::rfc3339;
use super::wire::session::{IssuedBody, LoginRequest, LogoutBody};
use super::wire::users::Password;
use crate::login::LoginError;
use crate::registry::RegistryError;
use crate::server::places::PeerState;
use crate::telemetry::AUDIT;

/// How long others may go on with a set of keys; a token of a newer key has them look again.
const JWKS_AGE: HeaderValue = HeaderValue::from_static("public, max-age=300");

pub async fn login(
    State(state): State<AdminState>,
    ClientAddress(address): ClientAddress,
    peer_state: Option<Extension<Arc<PeerState>>>,
    JsonBody(asked): JsonBody<LoginRequest>,
) -> Result<Response, ApiError> {
    let LoginRequest { username, password: Password(password) } = asked;
    let outcome = state.logins.login(&state.live.load_full(), &username, password, address).await;
    let address = address.map(tracing::field::display);
    match outcome {
        Ok(issued) => {
            if let Some(Extension(peer_state)) = peer_state {
                peer_state.trust();
            }
            let subject = format!("user:{}", issued.user);
            let subject = &*state.registry.logged(&subject);
            tracing::info!(target: AUDIT, act = "session.login", subject, address, "logged in");
            let body = IssuedBody { token: &issued.token, expires_at: rfc3339(issued.expires_at) };
            reply::secret(StatusCode::OK, &body, issued.token.len() + 128)
        }
        Err(error) => {
            // The name is whatever somebody typed: perhaps a password.
            tracing::warn!(reason = reason(&error), address, "a login was refused");
            Err(refusal(&error))
        }
    }
}

fn reason(error: &LoginError) -> &'static str {
    match error {
        LoginError::NotConfigured => "not_configured",
        LoginError::Refused => "refused",
        LoginError::Throttled { .. } => "throttled",
        LoginError::Busy => "busy",
        LoginError::Unavailable => "unavailable",
    }
}

fn refusal(error: &LoginError) -> ApiError {
    match error {
        LoginError::NotConfigured => ApiError::conflict("Nobody can log in here: the configuration has no `login`."),
        LoginError::Refused => ApiError::unauthenticated("The user name or the password is not right."),
        LoginError::Throttled { retry_after } => ApiError::too_many("Too many attempts: wait a moment.", *retry_after),
        LoginError::Busy => ApiError::unavailable("Too many are logging in at the moment: try again."),
        LoginError::Unavailable => ApiError::unavailable("The store cannot be reached: try again."),
    }
}

pub async fn logout(
    State(state): State<AdminState>,
    caller: Caller,
    patience: FleetWait,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let policy = state.live.load_full();
    let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let token = bearer_token(&policy.credentials, headers).unwrap_or_default();
    let logout = async {
        state.logins.logout(&policy, &caller.actor, token).await.map_err(|error| match error {
            // The request is in order; there is no session behind its credential.
            RegistryError::Invalid { problem, .. } => RegistryError::Conflict(problem),
            other => other,
        })
    };
    let ((), fleet) = patience.once(&state, &caller, logout).await?;
    caller.changed(&state, &caller.actor.subject, caller.actor.project.as_deref().unwrap_or_default());
    let status = fleet::status(StatusCode::OK, fleet.as_ref());
    reply::record(status, &Changed { record: LogoutBody { subject: caller.actor.subject }, fleet })
}

pub async fn jwks(State(state): State<AdminState>) -> Response {
    let body = state.logins.jwks().await.to_string();
    let mut response = reply::json_response(StatusCode::OK, body.into()).into_response();
    response.headers_mut().insert(CACHE_CONTROL, JWKS_AGE);
    response
}
