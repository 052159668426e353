//! What a handler is given of a request: the JSON body, the names in the path, the query, and the headers that make a change
//! conditional. Never echoes a value that was sent, and wipes the bytes of every body, since some hold passwords.

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::request::Parts;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

use super::reply::{self, ApiError};

const MAX_BODY: usize = 64 * 1024;

/// A JSON object.
pub struct JsonBody<T>(pub T);

impl<S: Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let bytes = json_bytes(request).await?;
        reply::parse(&bytes).map(Self)
    }
}

/// A JSON object, or nothing.
pub struct OptionalBody<T>(pub T);

impl<S: Sync, T: DeserializeOwned + Default> FromRequest<S> for OptionalBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let bytes = json_bytes(request).await?;
        if bytes.trim_ascii().is_empty() { Ok(Self(T::default())) } else { reply::parse(&bytes).map(Self) }
    }
}

async fn json_bytes(request: Request) -> Result<Zeroizing<Vec<u8>>, ApiError> {
    let (parts, body) = request.into_parts();
    let bytes = read(&parts.headers, body).await?;
    if bytes.is_empty() || is_json(&parts.headers) { Ok(bytes) } else { Err(ApiError::unsupported_media_type()) }
}

/// The whole body, in a buffer that was large enough from the start: growing would leave copies behind.
async fn read(headers: &HeaderMap, mut body: Body) -> Result<Zeroizing<Vec<u8>>, ApiError> {
    let said = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if said.is_some_and(|length| length > MAX_BODY) {
        return Err(ApiError::too_large());
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(said.unwrap_or(MAX_BODY)));
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::invalid("The body could not be read."))?;
        let Some(data) = frame.data_ref() else { continue };
        if bytes.len() + data.len() > MAX_BODY {
            return Err(ApiError::too_large());
        }
        bytes.extend_from_slice(data);
    }
    Ok(bytes)
}

fn is_json(headers: &HeaderMap) -> bool {
    let named = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = named.split(';').next().unwrap_or_default().trim();
    kind.eq_ignore_ascii_case("application/json")
}

/// The names in the path.
pub struct PathOf<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for PathOf<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(names)) => Ok(Self(names)),
            Err(problem) => Err(ApiError::invalid(problem.body_text())),
        }
    }
}

/// The parameters of the query; one that is not known is refused.
pub struct QueryOf<T>(pub T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for QueryOf<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(asked)) => Ok(Self(asked)),
            Err(problem) => Err(ApiError::invalid(problem.body_text())),
        }
    }
}
