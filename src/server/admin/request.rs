//! What a handler is given of a request: the JSON body, the names in the path, the query, and the headers that make a change
//! conditional. Never echoes a value that was sent, nor a name that looks like a secret, and wipes the bytes of every body, since some hold passwords.

use std::time::Duration;

use axum::body::Body;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, IF_MATCH};
use axum::http::request::Parts;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use tollgate_core::name::{NAME_RULE, is_name};
use tollgate_core::resource::EVERY;
use zeroize::Zeroizing;

use super::reply::{self, ApiError};
use crate::registry::{Expected, Once};

const MAX_BODY: usize = 64 * 1024;
/// From the head of a request to the end of its body. Nothing else is done for it, and nothing held, until it is here.
const BODY_TIME: Duration = Duration::from_secs(5);

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
    let bytes = timeout(BODY_TIME, read(&parts.headers, body)).await.unwrap_or_else(|_| Err(ApiError::too_slow()))?;
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
            Err(problem) => Err(ApiError::invalid(reply::without_values(&problem.body_text()))),
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
            Err(problem) => Err(ApiError::invalid(reply::without_values(&problem.body_text()))),
        }
    }
}

/// A filter that is a name; nothing else could find anything.
pub fn name_filter(field: &str, text: Option<String>) -> Result<Option<String>, ApiError> {
    match text {
        Some(text) if !is_name(&text) => Err(ApiError::invalid_field(field, &format!("must be {NAME_RULE}"))),
        text => Ok(text),
    }
}

/// A filter that is a project, or `*` for what belongs to every one.
pub fn project_filter(text: Option<String>) -> Result<Option<String>, ApiError> {
    if text.as_deref() == Some(EVERY) { Ok(text) } else { name_filter("project", text) }
}

/// The version that a change is meant for, if the client said one.
pub struct IfMatch(Option<Expected>);

impl IfMatch {
    /// For a change that does not hurt if nobody knows what it changes.
    pub fn optional(self) -> Result<Expected, ApiError> {
        Ok(self.0.unwrap_or(Expected::Any))
    }

    /// For a change that depends on what was there.
    pub fn required(self) -> Result<Expected, ApiError> {
        self.0.ok_or_else(ApiError::precondition_required)
    }
}

impl<S: Sync> FromRequestParts<S> for IfMatch {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let wrong = || ApiError::invalid_field("If-Match", "must be `*` or one ETag, such as \"3\"");
        let Some(text) = only(&parts.headers, IF_MATCH.as_str(), wrong)? else { return Ok(Self(None)) };
        expected(text).map(|expected| Self(Some(expected))).ok_or_else(wrong)
    }
}

fn expected(text: &str) -> Option<Expected> {
    if text == "*" {
        return Some(Expected::Any);
    }
    let tag = text.strip_prefix("W/").unwrap_or(text).strip_prefix('"')?.strip_suffix('"')?;
    if tag.contains('"') {
        return None;
    }
    // A tag that is none of ours, or a weak one, is that of no version; 0 is that of what was never said.
    let version = tag.parse().ok().filter(|version: &u64| !text.starts_with("W/") && version.to_string() == tag);
    Some(Expected::Version(version.unwrap_or(u64::MAX)))
}

/// What the client calls this creation, if it wants to be able to repeat it.
pub struct IdempotencyKey(pub Option<Once>);

impl<S: Sync> FromRequestParts<S> for IdempotencyKey {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let wrong = || ApiError::invalid_field("Idempotency-Key", "must be 1 to 255 visible ASCII characters");
        let Some(text) = only(&parts.headers, "idempotency-key", wrong)? else { return Ok(Self(None)) };
        let visible = matches!(text.len(), 1..=255) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if visible { Ok(Self(Some(Once { key: text.to_owned() }))) } else { Err(wrong()) }
    }
}

/// The value of a header that may stand there once.
fn only<'h>(headers: &'h HeaderMap, name: &str, wrong: impl Fn() -> ApiError) -> Result<Option<&'h str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| wrong()),
        (Some(_), Some(_)) => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_etag_is_one_of_ours_or_of_no_version() {
        assert_eq!(expected("*"), Some(Expected::Any));
        assert_eq!(expected("\"3\""), Some(Expected::Version(3)));
        assert_eq!(expected("\"0\""), Some(Expected::Version(0)));
        for strange in ["\"\"", "\"abc\"", "W/\"3\"", "W/\"0\"", "\"03\"", "\"+3\"", "\"99999999999999999999\""] {
            assert_eq!(expected(strange), Some(Expected::Version(u64::MAX)), "{strange}");
        }
        for bad in ["", "3", "\"3", "3\"", "\"1\", \"2\"", "**", "\""] {
            assert_eq!(expected(bad), None, "{bad}");
        }
    }
}
