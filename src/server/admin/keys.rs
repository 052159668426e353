//! API keys over HTTP: create, list, show, change, revoke, rotate, bootstrap. A key's text leaves here once, when it is made.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use tollgate_core::credential::KeyId;

use super::fleet::{self, FleetWait};
use super::guard::Caller;
use super::reply::{self, ApiError};
use super::request::{IdempotencyKey, IfMatch, JsonBody, OptionalBody, PathOf, QueryOf, name_filter, project_filter};
use super::wire::fleet::{Changed, WaitBody};
use super::wire::keys::{CreateKey, KeyBody, KeyPage, KeyPath, ListKeys, NewKeyBody, RotateKey, UpdateKey};
use super::wire::{KEYS, timestamp};
use super::{AdminState, page_size};
use crate::domain::record::ApiKey;
use crate::registry::{KeyChange, KeySpec, NewKey};
use crate::store::KeyQuery;

/// A life longer than this is meant to have no end: then the expiry is left out.
const MAX_LIFE: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
const MAX_GRACE: Duration = Duration::from_secs(366 * 24 * 3600);

pub async fn create(
    State(state): State<AdminState>,
    caller: Caller,
    IdempotencyKey(once): IdempotencyKey,
    JsonBody(asked): JsonBody<CreateKey>,
) -> Result<Response, ApiError> {
    let spec = spec_of(&state, &caller, asked)?;
    let new = state.registry.create_key(&state.live.load_full(), &caller.actor, spec, once).await?;
    caller.changed(&state, new.record.id.as_str(), &new.record.project);
    shown_once(&state, &new, None)
}

/// What is asked for, completed by the caller's own project and then by the configured defaults.
fn spec_of(state: &AdminState, caller: &Caller, asked: CreateKey) -> Result<KeySpec, ApiError> {
    let defaults = &state.settings.key_defaults;
    let missing = |field| ApiError::invalid_field(field, "is missing");
    Ok(KeySpec {
        name: asked.name.ok_or_else(|| missing("name"))?,
        plane: asked.plane.or_else(|| defaults.plane.clone()).ok_or_else(|| missing("plane"))?,
        project: asked
            .project
            .or_else(|| caller.actor.project.clone())
            .or_else(|| defaults.project.clone())
            .ok_or_else(|| missing("project"))?,
        workloads: asked.workloads.or_else(|| defaults.workloads.clone()).ok_or_else(|| missing("workloads"))?,
        permissions: asked.permissions.ok_or_else(|| missing("permissions"))?,
        expires_in: life_of(asked.expires_in_days, asked.expires_in_seconds)?,
    })
}

fn life_of(days: Option<u64>, seconds: Option<u64>) -> Result<Option<Duration>, ApiError> {
    let (field, seconds) = match (days, seconds) {
        (None, None) => return Ok(None),
        (Some(days), None) => ("expires_in_days", days.saturating_mul(24 * 3600)),
        (None, Some(seconds)) => ("expires_in_seconds", seconds),
        (Some(_), Some(_)) => {
            return Err(ApiError::invalid_field("expires_in_days", "stands beside `expires_in_seconds`: say one"));
        }
    };
    let life = Duration::from_secs(seconds);
    if life.is_zero() || life > MAX_LIFE {
        return Err(ApiError::invalid_field(field, "must be more than nothing and at most 100 years"));
    }
    Ok(Some(life))
}

pub async fn list(
    State(state): State<AdminState>,
    caller: Caller,
    QueryOf(asked): QueryOf<ListKeys>,
) -> Result<Response, ApiError> {
    let limit = page_size(asked.limit)?;
    let after = match asked.after.as_deref() {
        None => None,
        Some(text) => {
            Some(KeyId::parse(text).ok_or_else(|| ApiError::invalid_field("after", "must be the id of a key"))?)
        }
    };
    let (project, plane) = (project_filter(asked.project)?, name_filter("plane", asked.plane)?);
    let query = KeyQuery { project, plane, after, limit: limit + 1 };
    let mut views = state.registry.keys(&caller.actor, query).await?;
    let more = views.len() > limit;
    views.truncate(limit);
    let next = views.last().filter(|_| more).map(|view| view.key.id.to_string());
    let now = state.clock.now();
    let keys = views.iter().map(|view| KeyBody::of(&view.key, view.last_used_at, now)).collect();
    reply::record(StatusCode::OK, &KeyPage { keys, next })
}

pub async fn show(
    State(state): State<AdminState>,
    caller: Caller,
    PathOf(path): PathOf<KeyPath>,
) -> Result<Response, ApiError> {
    let view = state.registry.key(&caller.actor, key_id(&path)?).await?;
    let record = KeyBody::of(&view.key, view.last_used_at, state.clock.now());
    reply::versioned(StatusCode::OK, &record, view.key.version)
}

pub async fn update(
    State(state): State<AdminState>,
    caller: Caller,
    PathOf(path): PathOf<KeyPath>,
    patience: FleetWait,
    if_match: IfMatch,
    JsonBody(asked): JsonBody<UpdateKey>,
) -> Result<Response, ApiError> {
    let (id, expected) = (key_id(&path)?, if_match.required()?);
    let wrong = || ApiError::invalid_field("expires_at", "must be null or a time by RFC 3339");
    let expires_at = match asked.expires_at {
        None => None,
        Some(None) => Some(None),
        Some(Some(text)) => Some(Some(timestamp(&text).ok_or_else(wrong)?)),
    };
    let UpdateKey { name, permissions, workloads, .. } = asked;
    let change = KeyChange { name, permissions, workloads, expires_at };
    let policy = state.live.load_full();
    let update = |expected| state.registry.update_key(&policy, &caller.actor, id, change.clone(), expected);
    let (key, fleet) = patience.repeat(&state, &caller, expected, update).await?;
    changed(&state, &caller, &key, fleet).await
}

pub async fn revoke(
    State(state): State<AdminState>,
    caller: Caller,
    PathOf(path): PathOf<KeyPath>,
    patience: FleetWait,
    if_match: IfMatch,
) -> Result<Response, ApiError> {
    let (id, expected) = (key_id(&path)?, if_match.optional()?);
    let revoke = |expected| state.registry.revoke_key(&caller.actor, id, expected);
    let (revoked, fleet) = patience.repeat(&state, &caller, expected, revoke).await?;
    changed(&state, &caller, &revoked, fleet).await
}

/// The answer to a change of a key.
async fn changed(
    state: &AdminState,
    caller: &Caller,
    key: &ApiKey,
    fleet: Option<WaitBody>,
) -> Result<Response, ApiError> {
    caller.changed(state, key.id.as_str(), &key.project);
    // The change stands: an answer without the last use is better than none.
    let last_used_at = state.registry.key(&caller.actor, key.id).await.ok().and_then(|view| view.last_used_at);
    let record = KeyBody::of(key, last_used_at, state.clock.now());
    reply::versioned(fleet::status(StatusCode::OK, fleet.as_ref()), &Changed { record, fleet }, key.version)
}

pub async fn rotate(
    State(state): State<AdminState>,
    caller: Caller,
    PathOf(path): PathOf<KeyPath>,
    patience: FleetWait,
    if_match: IfMatch,
    OptionalBody(asked): OptionalBody<RotateKey>,
) -> Result<Response, ApiError> {
    let (id, expected) = (key_id(&path)?, if_match.optional()?);
    let grace = Duration::from_secs(asked.grace_seconds.unwrap_or_default());
    if grace > MAX_GRACE {
        return Err(ApiError::invalid_field("grace_seconds", "must be at most 366 days"));
    }
    let policy = state.live.load_full();
    let rotate = state.registry.rotate_key(&policy, &caller.actor, id, grace, expected);
    let (new, fleet) = patience.once(&state, &caller, rotate).await?;
    caller.changed(&state, id.as_str(), &new.record.project);
    shown_once(&state, &new, fleet)
}

pub async fn bootstrap(State(state): State<AdminState>, caller: Caller) -> Result<Response, ApiError> {
    let new = state.registry.bootstrap(&state.live.load_full(), &caller.actor).await?;
    caller.changed(&state, new.record.id.as_str(), &new.record.project);
    shown_once(&state, &new, None)
}

fn key_id(path: &KeyPath) -> Result<KeyId, ApiError> {
    KeyId::parse(&path.id).ok_or_else(|| ApiError::not_found("there is no such key: an id has 12 letters and digits"))
}

fn shown_once(state: &AdminState, new: &NewKey, fleet: Option<WaitBody>) -> Result<Response, ApiError> {
    let record = KeyBody::of(&new.record, None, state.clock.now());
    let (location, version) = (format!("{KEYS}/{}", record.id), new.record.version);
    let plain = serde_json::to_vec(&Changed { record: &record, fleet: fleet.clone() });
    let room = plain.map_err(|_| ApiError::internal())?.len() + new.secret.expose().len() + 64;
    let status = fleet::status(StatusCode::CREATED, fleet.as_ref());
    let body = Changed { record: NewKeyBody { record, key: new.secret.expose() }, fleet };
    reply::secret_record(status, &location, &body, version, room)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_life_is_said_once_and_has_an_end() {
        assert_eq!(life_of(None, None).unwrap(), None);
        assert_eq!(life_of(Some(2), None).unwrap(), Some(Duration::from_secs(172_800)));
        assert_eq!(life_of(None, Some(5)).unwrap(), Some(Duration::from_secs(5)));
        for (days, seconds) in
            [(Some(1), Some(1)), (Some(0), None), (None, Some(0)), (Some(u64::MAX), None), (None, Some(u64::MAX))]
        {
            assert!(life_of(days, seconds).is_err(), "{days:?} {seconds:?}");
        }
    }
}
