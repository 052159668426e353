//! How the admin API answers: JSON bodies and the one shape of its errors. Never puts a secret into an answer but the key
//! that was just made, never echoes a value that was sent, and of names and fields none that looks like a secret.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::header::{CONNECTION, CONTENT_TYPE, ETAG, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use tollgate_core::redact;
use zeroize::Zeroizing;

use crate::registry::RegistryError;

/// Why a request to the admin API failed.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    status: StatusCode,
    /// Seconds.
    retry_after: Option<u64>,
    error: ErrorDetail,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
#[schemars(rename = "Error")]
pub struct ErrorBody {
    error: ErrorDetail,
}

#[derive(Clone, Debug, PartialEq, Serialize, JsonSchema)]
struct ErrorDetail {
    /// For programs.
    code: &'static str,
    /// For people: what is wrong and what to do.
    message: String,
    /// What would help, such as the field at fault or the permission that is missing; null if there is nothing to add.
    details: Option<Box<Map<String, Value>>>,
}

impl ApiError {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let message = redact::sentence(&message.into()).into_owned();
        Self { status, retry_after: None, error: ErrorDetail { code, message, details: None } }
    }

    fn with_detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.error.details.get_or_insert_default().insert(name.to_owned(), value.into());
        self
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "VALIDATION_ERROR", message)
    }

    /// A field and what to write there.
    pub fn invalid_field(field: &str, problem: &str) -> Self {
        Self::invalid(format!("{field}: {problem}")).with_detail("field", field)
    }

    pub fn too_large() -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "VALIDATION_ERROR", "The body is larger than 64 KiB.")
    }

    pub fn too_slow() -> Self {
        let message = "The body did not arrive within 5 seconds of the head: send the request again.";
        Self::new(StatusCode::REQUEST_TIMEOUT, "VALIDATION_ERROR", message)
    }

    pub fn unsupported_media_type() -> Self {
        let message = "Send the body as JSON, with `content-type: application/json`.";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UNSUPPORTED_MEDIA_TYPE", message)
    }

    pub fn wrong_method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "VALIDATION_ERROR", "This path does not take this method.")
    }

    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "CONFLICT", message)
    }

    pub fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "AUTHENTICATION_FAILED", message)
    }

    pub fn too_many(message: impl Into<String>, retry_after: Duration) -> Self {
        let seconds = retry_after.as_millis().div_ceil(1000).max(1);
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "RATE_LIMITED", message);
        Self { retry_after: Some(u64::try_from(seconds).unwrap_or(u64::MAX)), ..error }
    }

    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "PERMISSION_DENIED", message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "NOT_FOUND", message)
    }

    pub fn precondition_required() -> Self {
        let message = "Say which version you change: send its ETag as If-Match, or `If-Match: *` if you do not mind.";
        Self::new(StatusCode::PRECONDITION_REQUIRED, "PRECONDITION_REQUIRED", message)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self { retry_after: Some(1), ..Self::new(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message) }
    }

    pub fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "INTERNAL_ERROR",
            "The request could not be served: this is our fault.",
        )
    }
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Invalid { field, problem } => Self::invalid_field(field, &problem),
            RegistryError::NotFound(message) => Self::not_found(message),
            RegistryError::Conflict(message) => Self::conflict(message),
            RegistryError::Forbidden(message) | RegistryError::OverQuota(message) => Self::forbidden(message),
            RegistryError::TooFast { message, retry_after } => Self::too_many(message, retry_after),
            RegistryError::Stale(message) => Self::new(StatusCode::PRECONDITION_FAILED, "PRECONDITION_FAILED", message),
            RegistryError::Repeated { target } => {
                let message =
                    "This idempotency key made it already, and its secret is shown once: rotate it if it is lost.";
                Self::new(StatusCode::CONFLICT, "CONFLICT", message).with_detail("target", target)
            }
            RegistryError::Mismatch(message) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "IDEMPOTENCY_KEY_REUSED", message)
            }
            RegistryError::Unavailable(message) => Self::unavailable(message),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let Self { status, retry_after, error } = self;
        let body = json!(ErrorBody { error }).to_string();
        let mut response = json_response(status, body.into());
        if let Some(seconds) = retry_after {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        if status == StatusCode::REQUEST_TIMEOUT {
            // What is left of the body is not waited for.
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"tollgate\""));
        }
        response
    }
}

/// JSON as it is.
pub fn json_response(status: StatusCode, body: Body) -> Response {
    (status, [(CONTENT_TYPE, HeaderValue::from_static("application/json"))], body).into_response()
}

/// A record as the answer.
pub fn record<T: Serialize>(status: StatusCode, value: &T) -> Result<Response, ApiError> {
    let body = serde_json::to_vec(value).map_err(|_| ApiError::internal())?;
    Ok(json_response(status, body.into()))
}

/// A single record, with its version as the ETag.
pub fn versioned<T: Serialize>(status: StatusCode, value: &T, version: u64) -> Result<Response, ApiError> {
    let mut response = record(status, value)?;
    name(&mut response, ETAG, &etag(version));
    Ok(response)
}

/// A record that was just made.
pub fn created<T: Serialize>(location: &str, value: &T, version: u64) -> Result<Response, ApiError> {
    let mut response = versioned(StatusCode::CREATED, value, version)?;
    name(&mut response, LOCATION, location);
    Ok(response)
}

/// An answer with a secret in it: the buffer is wiped when it has been sent. `room` is at least the length of the answer, so
/// that no copy is left behind by growing.
pub fn secret<T: Serialize>(status: StatusCode, value: &T, room: usize) -> Result<Response, ApiError> {
    let mut body = Zeroizing::new(Vec::with_capacity(room));
    serde_json::to_writer(&mut *body, value).map_err(|_| ApiError::internal())?;
    Ok(json_response(status, Bytes::from_owner(body).into()))
}

/// A record that was just made, with a secret in it, as [`secret`].
pub fn secret_record<T: Serialize>(
    status: StatusCode,
    location: &str,
    value: &T,
    version: u64,
    room: usize,
) -> Result<Response, ApiError> {
    let mut response = secret(status, value, room)?;
    name(&mut response, LOCATION, location);
    name(&mut response, ETAG, &etag(version));
    Ok(response)
}

fn etag(version: u64) -> String {
    format!("\"{version}\"")
}

fn name(response: &mut Response, header: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(header, value);
    }
}

/// Reads a JSON object; an array of its values in their order is none.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    if body.trim_ascii_start().first() == Some(&b'[') {
        return Err(ApiError::invalid("The body does not fit: it must be a JSON object."));
    }
    serde_json::from_slice(body).map_err(|error| ApiError::invalid(unreadable(&error)))
}

/// What is wrong with a body.
fn unreadable(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if error.is_data() {
        format!("The body does not fit: {}", without_values(&text))
    } else {
        format!("The body is not JSON: {text}")
    }
}

/// What serde has to say: of a value that has the wrong type only the expectation, and an unknown name unless it looks like a
/// secret. Both are quoted as they were sent, so only the end of the text is certain to be serde's own.
pub fn without_values(text: &str) -> String {
    let end = text.rfind(", expected ").or_else(|| text.rfind(", there are no "));
    let Some((said, expectation)) = end.map(|end| text.split_at(end)) else { return text.to_owned() };
    let unknown = said.strip_suffix('`').and_then(|said| {
        ["unknown field", "unknown variant"]
            .iter()
            .find_map(|what| Some((what, said.split_once(&format!("{what} `"))?.1)))
    });
    match (unknown, said.find("invalid ")) {
        // What stands before it is the name once more.
        (Some((what, name)), _) => format!("{what} `{}`{expectation}", redact::echo(name)),
        (None, Some(at)) => format!("{}{}", &said[..at], expectation.trim_start_matches(", ")),
        (None, None) => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        days: Option<u32>,
    }

    #[test]
    fn a_wrong_value_is_not_echoed() {
        let problem = parse::<Sample>(br#"{"days":"ik_live_secret"}"#).unwrap_err();
        assert!(!problem.error.message.contains("ik_live"), "{}", problem.error.message);
        assert!(problem.error.message.contains("expected u32"), "{}", problem.error.message);
    }

    #[test]
    fn what_looks_like_a_secret_is_not_echoed() {
        let cut = "sk-proj-4fK2mZ81QxYb";
        for body in [
            format!(r#"{{"{cut}":1}}"#),
            format!(r#"{{"password: {cut}":1}}"#),
            format!(r#"{{"x`, expected {cut}":1}}"#),
            format!(r#"{{"password:{cut} invalid x":1}}"#),
            format!(r#"{{"days":"x, expected {cut}"}}"#),
            format!(r#"{{"days":"invalid, expected x y {cut}"}}"#),
        ] {
            let ApiError { error, .. } = parse::<Sample>(body.as_bytes()).unwrap_err();
            assert!(!error.message.contains("4fK2"), "{}", error.message);
            assert!(error.message.contains("expected `days`") || error.message.contains("expected u32"), "{body}");
        }
        for (given, told) in [
            ("query: limt: unknown field `limt`, expected `limit`", "unknown field `limt`, expected `limit`"),
            (
                "query: a@b.example: unknown field `a@b.example`, expected `limit`",
                "unknown field `…`, expected `limit`",
            ),
            ("query: wait: unknown variant `flet`, expected `fleet`", "unknown variant `flet`, expected `fleet`"),
            ("query: limit: invalid digit found in string", "query: limit: invalid digit found in string"),
            ("limit: invalid type: character `x`, expected u32", "limit: expected u32"),
        ] {
            assert_eq!(without_values(given), told);
        }
    }

    #[test]
    fn unknown_and_doubled_fields_are_refused() {
        assert_eq!(parse::<Sample>(br#"{"days":1}"#).unwrap().days, Some(1));
        assert!(parse::<Sample>(br#"{"day":1}"#).unwrap_err().error.message.contains("unknown field `day`"));
        assert!(parse::<Sample>(br#"{"days":1,"days":2}"#).unwrap_err().error.message.contains("duplicate field"));
        assert!(parse::<Sample>(b"{").unwrap_err().error.message.contains("not JSON"));
        assert!(parse::<Sample>(b"").is_err());
    }
}
