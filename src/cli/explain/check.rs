//! A recorded `envoy.service.auth.v3.CheckRequest`: its bytes, with or without the frame that gRPC puts around them, or its JSON (with
//! either spelling of a field's name). Gives the bytes that the server would have read, and never shows what stands in them.

use std::collections::HashMap;
use std::path::Path;

use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use envoy_types::pb::envoy::config::core::v3::{
    Address, HeaderMap, HeaderValue, Pipe, SocketAddress, address::Address as Kind,
};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use prost::Message;
use serde::de::{Error as _, IgnoredAny};
use serde::{Deserialize, Deserializer};

use crate::cli::Failure;
use crate::cli::output::printable;
use crate::server::ext_authz::wire;

/// The bytes of the message in a file.
///
/// # Errors
/// A usage failure if it holds none; it says where, and no value.
pub fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let bytes = std::fs::read(path)
        .map_err(|error| Failure::usage(format!("the check in {} cannot be read: {error}", path.display())))?;
    message(&bytes).map_err(|problem| Failure::usage(format!("{} holds no CheckRequest: {problem}", path.display())))
}

fn message(bytes: &[u8]) -> Result<Vec<u8>, String> {
    // Before the bytes: they could begin as a JSON object does, and no whole JSON text is a message.
    let message = if serde_json::from_slice::<IgnoredAny>(bytes).is_ok() {
        let check: Check = serde_json::from_slice(bytes).map_err(|error| not_that_json(&error))?;
        CheckRequest::from(check).encode_to_vec()
    } else {
        without_frame(bytes).to_vec()
    };
    match wire::read(&message) {
        Ok(check) if check.method.is_empty() && check.target.is_empty() => Err("there is no request in it".to_owned()),
        Ok(_) => Ok(message),
        Err(_) => Err("it is neither JSON nor the bytes of one that the server can read".to_owned()),
    }
}

/// Where the JSON is another one. The text of an error can hold a value, and a value can be a secret; the name of a field is none.
fn not_that_json(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let field = text.strip_prefix("unknown field `").and_then(|rest| rest.split('`').next());
    let what = field.map_or_else(
        || "its JSON is not that of the message".to_owned(),
        |field| format!("the message has no field `{}` there", printable(field)),
    );
    format!("at line {}, column {}, {what}", error.line(), error.column())
}

/// A frame is a zero, which no message begins with, and the length in four bytes.
fn without_frame(bytes: &[u8]) -> &[u8] {
    match bytes.split_first_chunk::<5>() {
        Some(([0, length @ ..], rest)) if u32::from_be_bytes(*length) as usize == rest.len() => rest,
        _ => bytes,
    }
}

/// `null` is what is not there, as in all JSON of protobuf.
type Text = Option<String>;

/// What no decision reads.
type Unread = Option<IgnoredAny>;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Check {
    attributes: Option<Context>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Context {
    source: Option<Source>,
    request: Option<RequestJson>,
    #[serde(rename = "destination")]
    _destination: Unread,
    #[serde(rename = "contextExtensions", alias = "context_extensions")]
    _context_extensions: Unread,
    #[serde(rename = "metadataContext", alias = "metadata_context")]
    _metadata_context: Unread,
    #[serde(rename = "routeMetadataContext", alias = "route_metadata_context")]
    _route_metadata_context: Unread,
    #[serde(rename = "tlsSession", alias = "tls_session")]
    _tls_session: Unread,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Source {
    address: Option<AddressJson>,
    principal: Text,
    #[serde(rename = "service")]
    _service: Unread,
    #[serde(rename = "labels")]
    _labels: Unread,
    #[serde(rename = "certificate")]
    _certificate: Unread,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct AddressJson {
    #[serde(alias = "socket_address")]
    socket_address: Option<AtSocket>,
    pipe: Option<AtPath>,
    #[serde(rename = "envoyInternalAddress", alias = "envoy_internal_address")]
    _internal: Unread,
}

/// Its port and protocol count for nothing.
#[derive(Default, Deserialize)]
#[serde(default)]
struct AtSocket {
    address: Text,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AtPath {
    path: Text,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct RequestJson {
    http: Option<Http>,
    #[serde(rename = "time")]
    _time: Unread,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct Http {
    method: Text,
    headers: Option<HashMap<String, String>>,
    #[serde(alias = "header_map")]
    header_map: Option<Headers>,
    path: Text,
    host: Text,
    scheme: Text,
    protocol: Text,
    body: Text,
    #[serde(alias = "raw_body", deserialize_with = "base64")]
    raw_body: Vec<u8>,
    #[serde(rename = "id")]
    _id: Unread,
    #[serde(rename = "query")]
    _query: Unread,
    #[serde(rename = "fragment")]
    _fragment: Unread,
    #[serde(rename = "size")]
    _size: Unread,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Headers {
    headers: Option<Vec<HeaderJson>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HeaderJson {
    #[serde(default)]
    key: Text,
    #[serde(default)]
    value: Text,
    #[serde(default, alias = "raw_value", deserialize_with = "base64")]
    raw_value: Vec<u8>,
}

/// Of either alphabet, with its padding or without.
fn base64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u8>, D::Error> {
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let text = Text::deserialize(deserializer)?.unwrap_or_default().replace('-', "+").replace('_', "/");
    GeneralPurpose::new(&STANDARD, config).decode(text).map_err(|_| D::Error::custom("no base64"))
}

impl From<Check> for CheckRequest {
    fn from(check: Check) -> Self {
        let Context { source, request, .. } = check.attributes.unwrap_or_default();
        let source = source.map(|source| Peer {
            address: source.address.map(Address::from),
            principal: source.principal.unwrap_or_default(),
            ..Peer::default()
        });
        let request = request.map(|request| Request { http: request.http.map(HttpRequest::from), time: None });
        Self { attributes: Some(AttributeContext { source, request, ..AttributeContext::default() }) }
    }
}

impl From<AddressJson> for Address {
    fn from(address: AddressJson) -> Self {
        let AddressJson { socket_address, pipe, _internal: _ } = address;
        let at_socket = socket_address.map(|socket| {
            let address = socket.address.unwrap_or_default();
            Kind::SocketAddress(SocketAddress { address, ..SocketAddress::default() })
        });
        let at_path = pipe.map(|pipe| Kind::Pipe(Pipe { path: pipe.path.unwrap_or_default(), mode: 0 }));
        Self { address: at_socket.or(at_path) }
    }
}

impl From<Http> for HttpRequest {
    fn from(http: Http) -> Self {
        let header = |HeaderJson { key, value, raw_value }| HeaderValue {
            key: key.unwrap_or_default(),
            value: value.unwrap_or_default(),
            raw_value,
        };
        let header_map =
            http.header_map.map(|map| HeaderMap { headers: map.headers.into_iter().flatten().map(header).collect() });
        Self {
            method: http.method.unwrap_or_default(),
            headers: http.headers.unwrap_or_default(),
            header_map,
            path: http.path.unwrap_or_default(),
            host: http.host.unwrap_or_default(),
            scheme: http.scheme.unwrap_or_default(),
            protocol: http.protocol.unwrap_or_default(),
            body: http.body.unwrap_or_default(),
            raw_body: http.raw_body,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"attributes": {
        "source": {"address": {"socketAddress": {"address": "10.0.0.1", "portValue": 4711}}, "principal": "spiffe://a/b"},
        "destination": {"address": {"socketAddress": {"address": "10.0.0.2", "portValue": 80}}},
        "request": {"time": "2026-11-29T00:00:00Z", "http": {"id": "7", "method": "POST", "path": "/a?b=c", "host": "h", "scheme": "https",
            "size": "-1", "protocol": "HTTP/2", "body": null, "rawBody": "aGk",
            "headerMap": {"headers": [{"key": ":method", "value": "POST"}, {"key": "x-api-key", "rawValue": "_-8="}]}}},
        "metadataContext": {}, "routeMetadataContext": {}}}"#;

    fn recorded() -> CheckRequest {
        let address = SocketAddress { address: "10.0.0.1".to_owned(), ..SocketAddress::default() };
        let address = Some(Address { address: Some(Kind::SocketAddress(address)) });
        let header = |key: &str, value: &str, raw_value: &[u8]| HeaderValue {
            key: key.to_owned(),
            value: value.to_owned(),
            raw_value: raw_value.to_owned(),
        };
        let headers = vec![header(":method", "POST", b""), header("x-api-key", "", b"\xff\xef")];
        let http = HttpRequest {
            method: "POST".to_owned(),
            path: "/a?b=c".to_owned(),
            host: "h".to_owned(),
            scheme: "https".to_owned(),
            protocol: "HTTP/2".to_owned(),
            raw_body: b"hi".to_vec(),
            header_map: Some(HeaderMap { headers }),
            ..HttpRequest::default()
        };
        let source = Some(Peer { address, principal: "spiffe://a/b".to_owned(), ..Peer::default() });
        let request = Some(Request { http: Some(http), time: None });
        CheckRequest { attributes: Some(AttributeContext { source, request, ..AttributeContext::default() }) }
    }

    #[test]
    fn bytes_frames_and_json_are_the_same_check() {
        let bytes = recorded().encode_to_vec();
        let frame = [&[0], &u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], &bytes].concat();
        let snakes = ["socketAddress", "portValue", "rawBody", "headerMap", "rawValue", "metadataContext"];
        let snake = snakes.iter().fold(JSON.to_owned(), |text, name| {
            let spelled: String = name
                .chars()
                .map(|c| if c.is_uppercase() { format!("_{}", c.to_lowercase()) } else { c.to_string() })
                .collect();
            text.replace(name, &spelled)
        });
        assert!(snake.contains("socket_address"));
        for recording in [&*bytes, &frame, JSON.as_bytes(), snake.as_bytes()] {
            assert_eq!(message(recording).as_deref(), Ok(&*bytes));
        }
    }

    #[test]
    fn bytes_that_begin_as_json_does_are_read_as_bytes() {
        // The first byte of a message is that of a line feed, and its length can be that of a brace.
        let bytes = (0..200).map(|length| {
            let http = HttpRequest { path: "x".repeat(length), ..HttpRequest::default() };
            let request = Some(Request { http: Some(http), time: None });
            CheckRequest { attributes: Some(AttributeContext { request, ..AttributeContext::default() }) }
                .encode_to_vec()
        });
        let brace = bytes.into_iter().find(|bytes| bytes[1] == b'{').unwrap();
        assert_eq!(message(&brace).as_ref(), Ok(&brace));
    }

    #[test]
    fn what_is_none_is_refused_and_not_shown() {
        for (text, expected) in [
            ("", "no request"),
            ("\u{0}\u{0}\u{0}", "neither JSON nor"),
            ("{}", "no request"),
            (r#"{"attributes": null}"#, "no request"),
            (r#"{"attributes": 7}"#, "line 1"),
            (
                r#"{"attributes": {"request": {"http": {"header": {"x-api-key": "ik_live_secret"}}}}}"#,
                "no field `header`",
            ),
            (r#"{"attributes": {"request": {"http": {"headers": {"x-api-key": ["ik_live_secret"]}}}}}"#, "line 1"),
            (r#"{"attributes": {"request": {"http": {"rawBody": "ik_live_!"}}}}"#, "line 1"),
            (r#"{"attributes": {"request": {"http": {"method": "ik_live_"#, "neither JSON nor"),
        ] {
            let problem = message(text.as_bytes()).unwrap_err();
            assert!(problem.contains(expected) && !problem.contains("ik_live_"), "{text}: {problem}");
        }
        assert!(message(&CheckRequest::default().encode_to_vec()).is_err());
    }
}
