//! Who the caller is, in the caller's own eyes. Tells nothing of anybody else.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use tollgate_core::plane::ADMIN_PERMISSIONS;
use tollgate_core::resource::EVERY;

use super::AdminState;
use super::guard::Caller;
use super::reply::{self, ApiError};
use super::wire::rfc3339;
use super::wire::session::WhoamiBody;
use crate::registry::ActorPermissions;

pub async fn show(State(state): State<AdminState>, caller: Caller) -> Result<Response, ApiError> {
    let policy = state.live.load_full();
    let every = || policy.permissions.iter().map(|known| &**known).chain(ADMIN_PERMISSIONS).map(str::to_owned);
    let body = WhoamiBody {
        subject: caller.actor.subject,
        project: caller.actor.project.unwrap_or_else(|| EVERY.to_owned()),
        permissions: match caller.actor.held {
            ActorPermissions::Everything => every().collect(),
            ActorPermissions::Only(held) => held,
        },
        expires_at: caller.expires_at.map(rfc3339),
    };
    reply::record(StatusCode::OK, &body)
}
