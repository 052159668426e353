//! The fleet over HTTP: who answers checks from this store, and changes that are answered when every replica has confirmed
//! them. Never makes a change itself; names no host to whoever is bound to one project.

use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use axum::extract::{FromRequestParts, State};
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::Response;

use super::AdminState;
use super::guard::Caller;
use super::reply::{self, ApiError};
use super::request::QueryOf;
use super::wire::fleet::{FleetBody, WaitBody, WaitFor, Waiting};
use crate::fleet::replicas::Acknowledged;
use crate::fleet::report::Waited;
use crate::registry::{Expected, Made, RegistryError};

/// How long a change is waited for where nothing else is said.
const LIMIT: Duration = Duration::from_secs(5);
/// In seconds: long enough to tell who is silent from who lags, and less than an answer may take.
const LIMITS: RangeInclusive<u64> = 2..=8;
/// How often a change is made again because the store went over to another history.
const ATTEMPTS: usize = 3;

pub async fn show(State(state): State<AdminState>, caller: Caller) -> Result<Response, ApiError> {
    state.registry.admit_to_fleet(&caller.actor).await?;
    let view = state.replicas.view().await.map_err(RegistryError::from)?;
    let format = state.registry.format().await?;
    reply::record(StatusCode::OK, &FleetBody::of(&view, format))
}

/// How long the answer to a change waits for the fleet; `None`: not at all.
#[derive(Clone, Copy, Debug)]
pub struct FleetWait(Option<Duration>);

impl<S: Send + Sync> FromRequestParts<S> for FleetWait {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let QueryOf(Waiting { wait, limit }) = QueryOf::from_request_parts(parts, state).await?;
        let limit = limit.map(|text| limit_of(&text)).transpose()?;
        match (wait, limit) {
            (Some(WaitFor::Fleet), limit) => Ok(Self(Some(limit.unwrap_or(LIMIT)))),
            (None, None) => Ok(Self(None)),
            (None, Some(_)) => Err(ApiError::invalid_field("limit", "says for how long to wait: add `wait=fleet`")),
        }
    }
}

fn limit_of(text: &str) -> Result<Duration, ApiError> {
    let seconds = text.strip_suffix('s').filter(|digits| digits.len() == 1).and_then(|digits| digits.parse().ok());
    let seconds = seconds.filter(|seconds| LIMITS.contains(seconds));
    let wrong = || ApiError::invalid_field("limit", "must be whole seconds from 2s to 8s");
    seconds.map(Duration::from_secs).ok_or_else(wrong)
}

impl FleetWait {
    /// Makes a change and waits for the fleet, if that was asked for. Where the store went over to another history meanwhile,
    /// the change is made again.
    pub async fn repeat<T, Change>(
        self,
        state: &AdminState,
        caller: &Caller,
        mut expected: Expected,
        change: impl Fn(Expected) -> Change,
    ) -> Result<(T, Option<WaitBody>), ApiError>
    where
        Change: Future<Output = Result<Made<T>, RegistryError>>,
    {
        let Some(limit) = self.0 else { return Ok((change(expected).await?.result, None)) };
        let begun = Instant::now();
        for _ in 0..ATTEMPTS {
            let lineages = state.replicas.lineages();
            let made = change(expected).await?;
            let rest = limit.saturating_sub(begun.elapsed());
            if let Some(fleet) = confirmed(state, caller, (made.sequence, lineages), rest).await? {
                return Ok((made.result, Some(fleet)));
            }
            // What was expected was judged, and what is there now is either that or what was made of it.
            expected = Expected::Any;
        }
        Err(ApiError::unavailable(GONE))
    }

    /// As [`FleetWait::repeat`], for a change that is made once. What it gave is answered whatever becomes of the wait: it may be a
    /// key that is shown this once.
    pub async fn once<T>(
        self,
        state: &AdminState,
        caller: &Caller,
        change: impl Future<Output = Result<Made<T>, RegistryError>>,
    ) -> Result<(T, Option<WaitBody>), ApiError> {
        let lineages = state.replicas.lineages();
        let made = change.await?;
        let Some(limit) = self.0 else { return Ok((made.result, None)) };
        let fleet = confirmed(state, caller, (made.sequence, lineages), limit).await?;
        let fleet = fleet.unwrap_or_else(|| WaitBody::unknown(made.sequence.unwrap_or_default(), GONE));
        Ok((made.result, Some(fleet)))
    }
}

/// Who has confirmed a change, when nobody is waited for any more; `None` if its history is gone.
async fn confirmed(
    state: &AdminState,
    caller: &Caller,
    (sequence, lineages): (Option<u64>, u64),
    limit: Duration,
) -> Result<Option<WaitBody>, ApiError> {
    let sequence = match sequence {
        Some(sequence) => sequence,
        // Nothing had to be changed, and whoever did it before may not have waited.
        None => state.registry.mark().await?,
    };
    Ok(match state.replicas.wait(Acknowledged { sequence, lineages }, limit).await {
        Ok(Waited::Done(report)) => Some(WaitBody::of(&report, caller.actor.project.is_none())),
        Ok(Waited::StartOver) => None,
        Err(error) => Some(WaitBody::unknown(sequence, &format!("Nobody could be asked: {error}."))),
    })
}

const GONE: &str = "The store went over to another history while the replicas were waited for, and the change may be missing in \
                    it: look, and make it again if it is.";

/// The status of a change that is made: 202 where a replica may still act on what was before.
pub fn status(made: StatusCode, fleet: Option<&WaitBody>) -> StatusCode {
    if fleet.is_none_or(WaitBody::is_everywhere) { made } else { StatusCode::ACCEPTED }
}
