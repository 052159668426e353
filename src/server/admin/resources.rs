//! Registered resources over HTTP: which project an id belongs to. Never moves one unless that was said.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::guard::Caller;
use super::reply::{self, ApiError};
use super::request::{JsonBody, PathOf, QueryOf};
use super::wire::resources::{ListResources, PutResource, ResourceBody, ResourcePage, ResourcePath};
use super::{AdminState, page_size};
use crate::domain::name::is_name;
use crate::registry::{Expected, ResourceSpec};
use crate::store::ResourceQuery;

pub async fn list(
    State(state): State<AdminState>,
    caller: Caller,
    QueryOf(asked): QueryOf<ListResources>,
) -> Result<Response, ApiError> {
    let limit = page_size(asked.limit)?;
    let after = match asked.after.as_deref().map(|text| text.split_once(':')) {
        None => None,
        Some(Some((kind, id))) => Some((kind.to_owned(), id.to_owned())),
        Some(None) => return Err(ApiError::invalid_field("after", "must be `kind:id`")),
    };
    let query = ResourceQuery { kind: asked.kind, project: asked.project, after, limit: limit + 1 };
    let mut found = state.registry.resources(&caller.actor, query).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|resource| resource.reference().to_string());
    let resources = found.iter().map(ResourceBody::from).collect();
    reply::record(StatusCode::OK, &ResourcePage { resources, next })
}

pub async fn show(
    State(state): State<AdminState>,
    caller: Caller,
    PathOf(path): PathOf<ResourcePath>,
) -> Result<Response, ApiError> {
    registrable(&path)?;
    let resource = state.registry.resource(&caller.actor, &path.kind, &path.id).await?;
    reply::record(StatusCode::OK, &ResourceBody::from(&resource))
}

pub async fn put(
    State(state): State<AdminState>,
    caller: Caller,
    PathOf(path): PathOf<ResourcePath>,
    JsonBody(asked): JsonBody<PutResource>,
) -> Result<Response, ApiError> {
    let project = asked.project.ok_or_else(|| ApiError::invalid_field("project", "is missing"))?;
    let spec = ResourceSpec { kind: path.kind, id: path.id, project, slug: asked.slug, owner: asked.owner };
    let resource = state.registry.put_resource(&caller.actor, spec, asked.may_move, Expected::Any).await?;
    caller.changed(&resource.reference().to_string(), &resource.project);
    reply::record(StatusCode::OK, &ResourceBody::from(&resource))
}

pub async fn delete(
    State(state): State<AdminState>,
    caller: Caller,
    PathOf(path): PathOf<ResourcePath>,
) -> Result<Response, ApiError> {
    registrable(&path)?;
    let resource = state.registry.delete_resource(&caller.actor, &path.kind, &path.id, Expected::Any).await?;
    caller.changed(&resource.reference().to_string(), &resource.project);
    reply::record(StatusCode::OK, &ResourceBody::from(&resource))
}

/// Whatever cannot be registered is not there.
fn registrable(path: &ResourcePath) -> Result<(), ApiError> {
    let can_be = is_name(&path.kind) && is_name(&path.id);
    if can_be { Ok(()) } else { Err(ApiError::not_found("there is no such resource")) }
}
