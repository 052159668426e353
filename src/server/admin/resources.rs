//! Registered resources over HTTP: which project an id belongs to. Never moves one unless that was said.

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, PathRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use serde::Deserialize;

use super::guard::Caller;
use super::reply::{self, ApiError};
use super::wire::{PutResource, RESOURCES, ResourceBody, ResourcePage};
use super::{AdminState, body_of, page_size};
use crate::domain::name::is_name;
use crate::registry::{Expected, ResourceSpec};
use crate::store::ResourceQuery;

pub(super) fn routes() -> [(String, MethodRouter<AdminState>); 2] {
    [(RESOURCES.to_owned(), get(list)), (format!("{RESOURCES}/{{kind}}/{{id}}"), get(show).put(put).delete(delete))]
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ListResources {
    kind: Option<String>,
    project: Option<String>,
    after: Option<String>,
    limit: Option<usize>,
}

async fn list(
    State(state): State<AdminState>,
    caller: Caller,
    query: Result<Query<ListResources>, QueryRejection>,
) -> Result<Response, ApiError> {
    let Query(asked) = query.map_err(|problem| ApiError::invalid(problem.body_text()))?;
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

type Reference = Result<Path<(String, String)>, PathRejection>;

async fn show(State(state): State<AdminState>, caller: Caller, path: Reference) -> Result<Response, ApiError> {
    let (kind, id) = reference(path)?;
    let resource = state.registry.resource(&caller.actor, &kind, &id).await?;
    reply::record(StatusCode::OK, &ResourceBody::from(&resource))
}

async fn put(
    State(state): State<AdminState>,
    caller: Caller,
    path: Reference,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let Path((kind, id)) = path.map_err(|problem| ApiError::invalid(problem.body_text()))?;
    let asked: PutResource = reply::parse(&body_of(body)?)?;
    let project = asked.project.ok_or_else(|| ApiError::invalid_field("project", "is missing"))?;
    let spec = ResourceSpec { kind, id, project, slug: asked.slug, owner: asked.owner };
    let resource = state.registry.put_resource(&caller.actor, spec, asked.may_move, Expected::Any).await?;
    caller.audit("resource.put", &resource.reference().to_string(), &resource.project);
    reply::record(StatusCode::OK, &ResourceBody::from(&resource))
}

async fn delete(State(state): State<AdminState>, caller: Caller, path: Reference) -> Result<Response, ApiError> {
    let (kind, id) = reference(path)?;
    let resource = state.registry.delete_resource(&caller.actor, &kind, &id, Expected::Any).await?;
    caller.audit("resource.delete", &resource.reference().to_string(), &resource.project);
    reply::record(StatusCode::OK, &ResourceBody::from(&resource))
}

/// The kind and id of a path; whatever cannot be registered is not there.
fn reference(path: Reference) -> Result<(String, String), ApiError> {
    let Path((kind, id)) = path.map_err(|problem| ApiError::invalid(problem.body_text()))?;
    if is_name(&kind) && is_name(&id) { Ok((kind, id)) } else { Err(ApiError::not_found("there is no such resource")) }
}
