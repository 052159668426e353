//! Projects over HTTP: list, create, show, suspend, let go on, delete. Never brings a deleted one back.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use tollgate_core::name::is_name;

use super::fleet::{self, FleetWait};
use super::guard::Caller;
use super::reply::{self, ApiError};
use super::request::{IdempotencyKey, IfMatch, JsonBody, PathOf, QueryOf, name_filter};
use super::wire::PROJECTS;
use super::wire::fleet::{Changed, WaitBody};
use super::wire::projects::{
    CreateProject, ListProjects, ProjectBody, ProjectPage, ProjectPath, ProjectStateChange, UpdateProject,
};
use super::{AdminState, page_size};
use crate::domain::record::Project;

pub async fn list(
    State(state): State<AdminState>,
    caller: Caller,
    QueryOf(asked): QueryOf<ListProjects>,
) -> Result<Response, ApiError> {
    let limit = page_size(asked.limit)?;
    let after = name_filter("after", asked.after)?;
    let mut found = state.registry.projects(&caller.actor, after, limit + 1).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().filter(|_| more).map(|project| project.name.clone());
    reply::record(StatusCode::OK, &ProjectPage { projects: found.iter().map(ProjectBody::from).collect(), next })
}

pub async fn show(
    State(state): State<AdminState>,
    caller: Caller,
    PathOf(path): PathOf<ProjectPath>,
) -> Result<Response, ApiError> {
    answer(&state.registry.project(&caller.actor, possible(&path)?).await?, None)
}

pub async fn create(
    State(state): State<AdminState>,
    caller: Caller,
    IdempotencyKey(once): IdempotencyKey,
    JsonBody(asked): JsonBody<CreateProject>,
) -> Result<Response, ApiError> {
    let project = state.registry.create_project(&caller.actor, &asked.name, once).await?;
    caller.changed(&state, &project.name, &project.name);
    reply::created(&format!("{PROJECTS}/{}", project.name), &ProjectBody::from(&project), project.version)
}

pub async fn update(
    State(state): State<AdminState>,
    caller: Caller,
    PathOf(path): PathOf<ProjectPath>,
    patience: FleetWait,
    if_match: IfMatch,
    JsonBody(asked): JsonBody<UpdateProject>,
) -> Result<Response, ApiError> {
    let (name, expected) = (possible(&path)?, if_match.required()?);
    let (registry, actor) = (&state.registry, &caller.actor);
    let turn = |expected| async move {
        match asked.state {
            ProjectStateChange::Active => registry.resume_project(actor, name, expected).await,
            ProjectStateChange::Suspended => registry.suspend_project(actor, name, expected).await,
        }
    };
    let (project, fleet) = patience.repeat(&state, &caller, expected, turn).await?;
    caller.changed(&state, &project.name, &project.name);
    answer(&project, fleet)
}

pub async fn delete(
    State(state): State<AdminState>,
    caller: Caller,
    PathOf(path): PathOf<ProjectPath>,
    patience: FleetWait,
    if_match: IfMatch,
) -> Result<Response, ApiError> {
    let (name, expected) = (possible(&path)?, if_match.optional()?);
    let delete = |expected| state.registry.delete_project(&caller.actor, name, expected);
    let (project, fleet) = patience.repeat(&state, &caller, expected, delete).await?;
    caller.changed(&state, &project.name, &project.name);
    answer(&project, fleet)
}

fn answer(project: &Project, fleet: Option<WaitBody>) -> Result<Response, ApiError> {
    let status = fleet::status(StatusCode::OK, fleet.as_ref());
    reply::versioned(status, &Changed { record: ProjectBody::from(project), fleet }, project.version)
}

/// Whatever cannot be the name of a project is not there.
fn possible(path: &ProjectPath) -> Result<&str, ApiError> {
    let name = path.name.as_str();
    if is_name(name) { Ok(name) } else { Err(ApiError::not_found("there is no such project")) }
}
