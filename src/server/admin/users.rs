//! Users over HTTP: create, list, show, change, delete, and their passwords. Never keeps or shows a password: it goes to be
//! hashed and is wiped.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use tollgate_core::name::{is_login_name, login_name_for_path, login_name_in_path};
use tollgate_core::resource::EVERY;

use super::fleet::{self, FleetWait};
use super::guard::Caller;
use super::reply::{self, ApiError};
use super::request::{IdempotencyKey, IfMatch, JsonBody, PathOf, QueryOf, project_filter};
use super::wire::USERS;
use super::wire::fleet::{Changed, WaitBody};
use super::wire::users::{
    CreateUser, FreedBody, ListUsers, Password, SetPassword, UpdateUser, UserBody, UserPage, UserPath,
};
use super::{AdminState, page_size};
use crate::domain::record::User;
use crate::password::Passwords;
use crate::registry::{UserChange, UserSpec};
use crate::store::UserQuery;

pub async fn create(
    State(state): State<AdminState>,
    caller: Caller,
    IdempotencyKey(once): IdempotencyKey,
    JsonBody(asked): JsonBody<CreateUser>,
) -> Result<Response, ApiError> {
    let CreateUser { name, password, project, permissions } = asked;
    let project = project.or_else(|| caller.actor.project.clone());
    let project = project.ok_or_else(|| ApiError::invalid_field("project", "is missing"))?;
    let password_hash = hashed(&state, password).await?;
    let spec = UserSpec { name, password_hash, project, permissions };
    let user = state.registry.create_user(&state.live.load_full(), &caller.actor, spec, once).await?;
    caller.changed(&state, &user.name, &user.project);
    reply::created(&format!("{USERS}/{}", login_name_for_path(&user.name)), &UserBody::from(&user), user.version)
}

pub async fn list(
    State(state): State<AdminState>,
    caller: Caller,
    QueryOf(asked): QueryOf<ListUsers>,
) -> Result<Response, ApiError> {
    let limit = page_size(asked.limit)?;
    if asked.after.as_deref().is_some_and(|name| !is_login_name(name)) {
        return Err(ApiError::invalid_field("after", "must be the name of a user"));
    }
    let query = UserQuery { project: project_filter(asked.project)?, after: asked.after, limit: limit + 1 };
    let mut found = state.registry.users(&caller.actor, query).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|user| user.name.clone());
    let users = found.iter().map(UserBody::from).collect();
    reply::record(StatusCode::OK, &UserPage { users, next })
}

pub async fn show(
    State(state): State<AdminState>,
    caller: Caller,
    PathOf(path): PathOf<UserPath>,
) -> Result<Response, ApiError> {
    answer(&state.registry.user(&caller.actor, &possible(&path.name)?).await?, None)
}

pub async fn update(
    State(state): State<AdminState>,
    caller: Caller,
    PathOf(path): PathOf<UserPath>,
    patience: FleetWait,
    if_match: IfMatch,
    JsonBody(asked): JsonBody<UpdateUser>,
) -> Result<Response, ApiError> {
    let (name, expected) = (possible(&path.name)?, if_match.required()?);
    let UpdateUser { project, permissions, disabled } = asked;
    let change = UserChange { project, permissions, disabled };
    let policy = state.live.load_full();
    let update = |expected| state.registry.update_user(&policy, &caller.actor, &name, change.clone(), expected);
    let (user, fleet) = patience.repeat(&state, &caller, expected, update).await?;
    caller.changed(&state, &user.name, &user.project);
    answer(&user, fleet)
}

pub async fn set_password(
    State(state): State<AdminState>,
    caller: Caller,
    PathOf(path): PathOf<UserPath>,
    patience: FleetWait,
    if_match: IfMatch,
    JsonBody(asked): JsonBody<SetPassword>,
) -> Result<Response, ApiError> {
    let (name, expected) = (possible(&path.name)?, if_match.optional()?);
    let hash = hashed(&state, asked.password).await?;
    let policy = state.live.load_full();
    let set = |expected| state.registry.set_password(&policy, &caller.actor, &name, hash.clone(), expected);
    let (user, fleet) = patience.repeat(&state, &caller, expected, set).await?;
    caller.changed(&state, &user.name, &user.project);
    answer(&user, fleet)
}

pub async fn delete(
    State(state): State<AdminState>,
    caller: Caller,
    PathOf(path): PathOf<UserPath>,
    patience: FleetWait,
    if_match: IfMatch,
) -> Result<Response, ApiError> {
    let (name, expected) = (possible(&path.name)?, if_match.optional()?);
    let delete = state.registry.delete_user(&caller.actor, &name, expected);
    let (user, fleet) = patience.once(&state, &caller, delete).await?;
    caller.changed(&state, &user.name, &user.project);
    answer(&user, fleet)
}

pub async fn free(
    State(state): State<AdminState>,
    caller: Caller,
    PathOf(path): PathOf<UserPath>,
) -> Result<Response, ApiError> {
    let freed = state.registry.free_user_name(&caller.actor, &possible(&path.name)?).await?;
    caller.changed(&state, &freed.name, EVERY);
    reply::record(StatusCode::OK, &FreedBody::from(&freed.result))
}

fn answer(user: &User, fleet: Option<WaitBody>) -> Result<Response, ApiError> {
    let status = fleet::status(StatusCode::OK, fleet.as_ref());
    reply::versioned(status, &Changed { record: UserBody::from(user), fleet }, user.version)
}

/// Whatever cannot be the name of a user is not there.
pub(super) fn possible(segment: &str) -> Result<String, ApiError> {
    login_name_in_path(segment).ok_or_else(|| ApiError::not_found("there is no such user"))
}

async fn hashed(state: &AdminState, Password(text): Password) -> Result<String, ApiError> {
    Passwords::check_rules(&text).map_err(|rule| ApiError::invalid_field("password", &format!("must have {rule}")))?;
    let busy = |_| ApiError::unavailable("Too many passwords are being hashed: try again.");
    state.logins.passwords().hash(text).await.map_err(busy)
}
