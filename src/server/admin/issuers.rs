//! Issuers over HTTP: what was found out about their tokens can be forgotten. Who they are stands in the configuration.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::AdminState;
use super::fleet::{self, FleetWait};
use super::guard::Caller;
use super::reply::{self, ApiError};
use super::request::PathOf;
use super::wire::fleet::Changed;
use super::wire::issuers::{ForgottenBody, IssuerPath};
use crate::registry::Expected;

pub async fn forget(
    State(state): State<AdminState>,
    caller: Caller,
    PathOf(path): PathOf<IssuerPath>,
    patience: FleetWait,
) -> Result<Response, ApiError> {
    let policy = state.live.load_full();
    let (registry, actor, name) = (&state.registry, &caller.actor, &*path.name);
    let forget = |_| registry.forget_issuer(&policy, actor, name);
    let ((), fleet) = patience.repeat(&state, &caller, Expected::Any, forget).await?;
    caller.changed(&state, name, "");
    let status = fleet::status(StatusCode::OK, fleet.as_ref());
    reply::record(status, &Changed { record: ForgottenBody { issuer: name.to_owned() }, fleet })
}
