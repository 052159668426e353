//! The sessions of a user over HTTP: which go on, and the end of one. Never shows a token: nobody but its owner has it.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use tollgate_core::name::is_name;

use super::AdminState;
use super::fleet::{self, FleetWait};
use super::guard::Caller;
use super::reply::{self, ApiError};
use super::request::PathOf;
use super::users::possible;
use super::wire::fleet::Changed;
use super::wire::session::{EndedBody, OwnSessionPath, SessionBody, SessionPath, SessionsBody};
use super::wire::users::UserPath;

pub async fn list_own(State(state): State<AdminState>, caller: Caller) -> Result<Response, ApiError> {
    listed(&state, &caller, own(&caller)?).await
}

pub async fn list(
    State(state): State<AdminState>,
    caller: Caller,
    PathOf(path): PathOf<UserPath>,
) -> Result<Response, ApiError> {
    listed(&state, &caller, &possible(&path.name)?).await
}

pub async fn end_own(
    State(state): State<AdminState>,
    caller: Caller,
    PathOf(path): PathOf<OwnSessionPath>,
    patience: FleetWait,
) -> Result<Response, ApiError> {
    ended(&state, &caller, own(&caller)?, path.id, patience).await
}

pub async fn end(
    State(state): State<AdminState>,
    caller: Caller,
    PathOf(path): PathOf<SessionPath>,
    patience: FleetWait,
) -> Result<Response, ApiError> {
    ended(&state, &caller, &possible(&path.name)?, path.id, patience).await
}

async fn listed(state: &AdminState, caller: &Caller, user: &str) -> Result<Response, ApiError> {
    let open = state.registry.sessions(&caller.actor, user).await?;
    let sessions = open.iter().rev().map(SessionBody::from).collect();
    reply::record(StatusCode::OK, &SessionsBody { sessions })
}

async fn ended(
    state: &AdminState,
    caller: &Caller,
    user: &str,
    id: String,
    patience: FleetWait,
) -> Result<Response, ApiError> {
    // Whatever cannot be the id of a session is not there.
    if !is_name(&id) {
        return Err(ApiError::not_found("there is no such session"));
    }
    let end = state.registry.end_listed_session(&caller.actor, user, &id);
    let ((), fleet) = patience.once(state, caller, end).await?;
    caller.changed(state, &format!("session:{id}"), caller.actor.project.as_deref().unwrap_or_default());
    let status = fleet::status(StatusCode::OK, fleet.as_ref());
    reply::record(status, &Changed { record: EndedBody { id }, fleet })
}

/// The user that the caller is.
fn own(caller: &Caller) -> Result<&str, ApiError> {
    let problem = "Only whoever has logged in has sessions: to see those of a user, name the user.";
    caller.actor.user().ok_or_else(|| ApiError::conflict(problem))
}
