//! A copy of the store, for whoever holds the admin socket. Knows nothing of what is in it.

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use futures_util::stream;

use super::AdminState;
use super::guard::Caller;
use super::reply::ApiError;
use crate::backup::BackupError;

impl From<BackupError> for ApiError {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::Busy | BackupError::Shared => Self::conflict(error.to_string()),
            BackupError::NoThread(_) => Self::unavailable(error.to_string()),
        }
    }
}

pub async fn make(State(state): State<AdminState>, caller: Caller) -> Result<Response, ApiError> {
    let turn = state.backups.turn()?;
    state.registry.note_backup(&caller.actor).await?;
    let chunks = state.backups.begin(turn, state.clock.now())?;
    caller.changed(&state, "store", "");
    let body = stream::unfold(chunks, async |mut chunks| Some((chunks.next().await?, chunks)));
    let mut response = Response::new(Body::from_stream(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}
