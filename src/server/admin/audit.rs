//! The audit log over HTTP. Reads it, and removes its oldest rows for the operator.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use tollgate_guard::time::Timestamp;

use super::guard::Caller;
use super::reply::{self, ApiError};
use super::request::{QueryOf, project_filter};
use super::wire::audit::{AuditBody, AuditPage, ListAudit, TrimAudit, TrimmedBody};
use super::wire::timestamp;
use super::{AdminState, page_size};
use crate::store::AuditQuery;

/// What every reader of JSON takes for a whole number: 2^53 - 1. No log gets there.
const MAX_ROW: u64 = 9_007_199_254_740_991;

pub async fn list(
    State(state): State<AdminState>,
    caller: Caller,
    QueryOf(asked): QueryOf<ListAudit>,
) -> Result<Response, ApiError> {
    let limit = page_size(asked.limit)?;
    if asked.before.is_some_and(|number| !(1..=MAX_ROW).contains(&number)) {
        return Err(ApiError::invalid_field("before", "must be the number of a row, from 1"));
    }
    let query = AuditQuery {
        project: project_filter(asked.project)?,
        actor: asked.actor,
        act: asked.act,
        target: asked.target,
        since: time("since", asked.since.as_deref())?,
        until: time("until", asked.until.as_deref())?,
        before: asked.before,
        limit: limit + 1,
    };
    let mut found = state.registry.audit(&caller.actor, query).await?;
    let more = found.rows.len() > limit;
    found.rows.truncate(limit);
    let last = found.rows.last().filter(|_| more).map(|entry| entry.sequence);
    let page =
        AuditPage { entries: found.rows.iter().map(AuditBody::from).collect(), next: last.or(found.goes_on_before) };
    reply::record(StatusCode::OK, &page)
}

pub async fn trim(
    State(state): State<AdminState>,
    caller: Caller,
    QueryOf(asked): QueryOf<TrimAudit>,
) -> Result<Response, ApiError> {
    let before = time("before", Some(&asked.before))?.unwrap_or_default();
    let (removed, more) = state.registry.trim_audit(&caller.actor, before).await?;
    reply::record(StatusCode::OK, &TrimmedBody { removed, more })
}

fn time(field: &str, text: Option<&str>) -> Result<Option<Timestamp>, ApiError> {
    let wrong = || ApiError::invalid_field(field, "must be a time by RFC 3339, such as 2027-01-31T12:00:00Z");
    // Nothing is older than the log, so a time before 1970 is as good as its beginning.
    let read = |text: &str| text.parse::<jiff::Timestamp>().ok().map(|_| timestamp(text).unwrap_or_default());
    text.map(|text| read(text).ok_or_else(wrong)).transpose()
}
