//! How a denial reads, in the shape that the client's library understands. Never echoes what the client sent.

use std::borrow::Cow;

use serde::Serialize;
use serde_json::Value;

/// The dialect of an error body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorShape {
    /// `{"error":{"code","message","details"}}`.
    Tollgate,
    /// `{"error":{"message","type","param","code"}}`, as the OpenAI API.
    OpenAi,
    /// `{"type":"error","error":{"type","message"}}`, as the Anthropic API.
    Anthropic,
    /// The bare message, which Envoy turns into `grpc-message` (its status follows from the HTTP status).
    Grpc,
}

/// What a denial says, before it is put into a shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorText {
    pub status: u16,
    /// Such as `PERMISSION_DENIED`.
    pub code: &'static str,
    pub message: &'static str,
    /// What would help; `Null` if nothing would.
    pub details: Value,
}

impl ErrorShape {
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Tollgate | Self::OpenAi | Self::Anthropic => "application/json",
            Self::Grpc => "text/plain",
        }
    }

    pub fn render(self, text: &ErrorText) -> String {
        let ErrorText { status, code, message, details } = text;
        match self {
            Self::Tollgate => json(&TollgateBody { error: TollgateError { code, message, details } }),
            Self::OpenAi => {
                let (kind, code) = openai(*status);
                json(&OpenAiBody { error: OpenAiError { message: &sentence(message, details), kind, param: (), code } })
            }
            Self::Anthropic => {
                let error = AnthropicError { kind: anthropic(*status), message: &sentence(message, details) };
                json(&AnthropicBody { kind: "error", error })
            }
            Self::Grpc => sentence(message, details).into_owned(),
        }
    }
}

#[derive(Serialize)]
struct TollgateBody<'t> {
    error: TollgateError<'t>,
}

#[derive(Serialize)]
struct TollgateError<'t> {
    code: &'t str,
    message: &'t str,
    details: &'t Value,
}

#[derive(Serialize)]
struct OpenAiBody<'t> {
    error: OpenAiError<'t>,
}

#[derive(Serialize)]
struct OpenAiError<'t> {
    message: &'t str,
    #[serde(rename = "type")]
    kind: &'t str,
    /// Always `null`.
    param: (),
    code: &'t str,
}

#[derive(Serialize)]
struct AnthropicBody<'t> {
    #[serde(rename = "type")]
    kind: &'t str,
    error: AnthropicError<'t>,
}

#[derive(Serialize)]
struct AnthropicError<'t> {
    #[serde(rename = "type")]
    kind: &'t str,
    message: &'t str,
}

/// Nothing of these can fail to be written.
fn json(body: &impl Serialize) -> String {
    serde_json::to_string(body).unwrap_or_default()
}

/// Shapes without a place for details carry them in the sentence.
fn sentence<'t>(message: &'t str, details: &Value) -> Cow<'t, str> {
    let Value::Object(details) = details else { return Cow::Borrowed(message) };
    let parts: Vec<String> =
        details.iter().map(|(name, value)| format!("{}: {}", name.replace('_', " "), words(value))).collect();
    Cow::Owned(format!("{} ({}).", message.trim_end_matches('.'), parts.join("; ")))
}

fn words(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(words).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    }
}

/// `type` and `code` as OpenAI's API uses them for a status.
fn openai(status: u16) -> (&'static str, &'static str) {
    match status {
        400 => ("invalid_request_error", "invalid_request"),
        401 => ("invalid_request_error", "invalid_api_key"),
        403 => ("invalid_request_error", "insufficient_permissions"),
        431 => ("invalid_request_error", "request_headers_too_large"),
        503 => ("server_error", "service_unavailable"),
        _ => ("server_error", "internal_error"),
    }
}

/// `type` as Anthropic's API uses it for a status.
fn anthropic(status: u16) -> &'static str {
    match status {
        400 => "invalid_request_error",
        401 => "authentication_error",
        403 => "permission_error",
        431 => "request_too_large",
        503 => "overloaded_error",
        _ => "api_error",
    }
}
