//! Registered resources over HTTP: which project an id belongs to. Never moves one unless that was said.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use tollgate_core::name::is_name;
use tollgate_core::resource::Resource;

use super::fleet::{self, FleetWait};
use super::guard::Caller;
use super::reply::{self, ApiError};
use super::request::{IfMatch, JsonBody, PathOf, QueryOf, name_filter};
use super::wire::fleet::{Changed, WaitBody};
use super::wire::resources::{ListResources, PutResource, ResourceBody, ResourcePage, ResourcePath};
use super::{AdminState, page_size};
use crate::registry::ResourceSpec;
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
    let (kind, project) = (name_filter("kind", asked.kind)?, name_filter("project", asked.project)?);
    let query = ResourceQuery { kind, project, after, limit: limit + 1 };
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
    answer(&resource, None)
}

pub async fn put(
    State(state): State<AdminState>,
    caller: Caller,
    PathOf(path): PathOf<ResourcePath>,
    patience: FleetWait,
    if_match: IfMatch,
    JsonBody(asked): JsonBody<PutResource>,
) -> Result<Response, ApiError> {
    let expected = if_match.optional()?;
    let project = asked.project.ok_or_else(|| ApiError::invalid_field("project", "is missing"))?;
    let spec = ResourceSpec { kind: path.kind, id: path.id, project, slug: asked.slug, owner: asked.owner };
    let put = |expected| state.registry.put_resource(&caller.actor, spec.clone(), asked.may_move, expected);
    let (resource, fleet) = patience.repeat(&state, &caller, expected, put).await?;
    caller.changed(&state, &resource.reference().to_string(), &resource.project);
    answer(&resource, fleet)
}

pub async fn delete(
    State(state): State<AdminState>,
    caller: Caller,
    PathOf(path): PathOf<ResourcePath>,
    patience: FleetWait,
    if_match: IfMatch,
) -> Result<Response, ApiError> {
    registrable(&path)?;
    let delete = state.registry.delete_resource(&caller.actor, &path.kind, &path.id, if_match.optional()?);
    let (resource, fleet) = patience.once(&state, &caller, delete).await?;
    caller.changed(&state, &resource.reference().to_string(), &resource.project);
    answer(&resource, fleet)
}

fn answer(resource: &Resource, fleet: Option<WaitBody>) -> Result<Response, ApiError> {
    let status = fleet::status(StatusCode::OK, fleet.as_ref());
    reply::versioned(status, &Changed { record: ResourceBody::from(resource), fleet }, resource.version)
}

/// Whatever cannot be registered is not there.
fn registrable(path: &ResourcePath) -> Result<(), ApiError> {
    let can_be = is_name(&path.kind) && is_name(&path.id);
    if can_be { Ok(()) } else { Err(ApiError::not_found("there is no such resource")) }
}
