//! API keys over HTTP: create, list, show, change, revoke, rotate, bootstrap. A key's text leaves here once, when it is made.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::guard::Caller;
use super::reply::{self, ApiError};
use super::request::{IdempotencyKey, IfMatch, JsonBody, OptionalBody, PathOf, QueryOf, name_filter, project_filter};
use super::wire::keys::{CreateKey, KeyBody, KeyPage, KeyPath, ListKeys, NewKeyBody, RotateKey, UpdateKey};
use super::wire::{KEYS, timestamp};
use super::{AdminState, page_size};
use crate::domain::credential::KeyId;
use crate::domain::record::ApiKey;
use crate::domain::time::Timestamp;
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
    shown_once(&state, &new)
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
    answer(&state, &view.key, view.last_used_at)
}

pub async fn update(
    State(state): State<AdminState>,
    caller: Caller,
    PathOf(path): PathOf<KeyPath>,
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
    let key = state.registry.update_key(&state.live.load_full(), &caller.actor, id, change, expected).await?;
    caller.changed(&state, id.as_str(), &key.project);
    let last_used_at = last_used(&state, &caller, id).await;
    answer(&state, &key, last_used_at)
}

pub async fn revoke(
    State(state): State<AdminState>,
    caller: Caller,
    PathOf(path): PathOf<KeyPath>,
    if_match: IfMatch,
) -> Result<Response, ApiError> {
    let (id, expected) = (key_id(&path)?, if_match.optional()?);
    let revoked = state.registry.revoke_key(&caller.actor, id, expected).await?;
    caller.changed(&state, id.as_str(), &revoked.project);
    let last_used_at = last_used(&state, &caller, id).await;
    answer(&state, &revoked, last_used_at)
}

/// When a key that was just changed was used. The change stands: an answer without this is better than none.
async fn last_used(state: &AdminState, caller: &Caller, id: KeyId) -> Option<Timestamp> {
    state.registry.key(&caller.actor, id).await.ok()?.last_used_at
}

fn answer(state: &AdminState, key: &ApiKey, last_used_at: Option<Timestamp>) -> Result<Response, ApiError> {
    reply::versioned(StatusCode::OK, &KeyBody::of(key, last_used_at, state.clock.now()), key.version)
}

pub async fn rotate(
    State(state): State<AdminState>,
    caller: Caller,
    PathOf(path): PathOf<KeyPath>,
    if_match: IfMatch,
    OptionalBody(asked): OptionalBody<RotateKey>,
) -> Result<Response, ApiError> {
    let (id, expected) = (key_id(&path)?, if_match.optional()?);
    let grace = Duration::from_secs(asked.grace_seconds.unwrap_or_default());
    if grace > MAX_GRACE {
        return Err(ApiError::invalid_field("grace_seconds", "must be at most 366 days"));
    }
    let new = state.registry.rotate_key(&state.live.load_full(), &caller.actor, id, grace, expected).await?;
    caller.changed(&state, id.as_str(), &new.record.project);
    shown_once(&state, &new)
}

pub async fn bootstrap(State(state): State<AdminState>, caller: Caller) -> Result<Response, ApiError> {
    let new = state.registry.bootstrap(&state.live.load_full(), &caller.actor).await?;
    caller.changed(&state, new.record.id.as_str(), &new.record.project);
    shown_once(&state, &new)
}

fn key_id(path: &KeyPath) -> Result<KeyId, ApiError> {
    KeyId::parse(&path.id).ok_or_else(|| ApiError::not_found("there is no such key: an id has 12 letters and digits"))
}

fn shown_once(state: &AdminState, new: &NewKey) -> Result<Response, ApiError> {
    let record = KeyBody::of(&new.record, None, state.clock.now());
    let plain = serde_json::to_vec(&record).map_err(|_| ApiError::internal())?;
    let room = plain.len() + new.secret.expose().len() + 64;
    let location = format!("{KEYS}/{}", record.id);
    reply::secret_record(&location, &NewKeyBody { record, key: new.secret.expose() }, new.record.version, room)
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
