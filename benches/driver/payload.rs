//! The messages that are sent: what Envoy makes of a chat completion with 17 headers and one API key. Never holds a key
//! of anybody.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::address::Address as AnyAddress;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{Address, HeaderMap, HeaderValue, SocketAddress};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use envoy_types::pb::google::protobuf::Timestamp;
use prost::Message;

pub const HOST: &str = "api.example.com";
pub const PATH: &str = "/v1/chat/completions";

/// The headers besides the key, as clients of such an API send them and Envoy adds to them.
pub const HEADERS: [(&str, &str); 12] = [
    ("accept", "application/json"),
    ("accept-encoding", "gzip, deflate"),
    ("content-length", "612"),
    ("content-type", "application/json"),
    ("user-agent", "OpenAI/Python 2.8.1"),
    ("x-forwarded-proto", "https"),
    ("x-request-id", "3f1c7a52-9a0e-4f0c-8c7d-5b1e2a6d9f40"),
    ("x-stainless-arch", "x64"),
    ("x-stainless-lang", "python"),
    ("x-stainless-os", "Linux"),
    ("x-stainless-retry-count", "0"),
    ("x-stainless-runtime-version", "3.12.3"),
];

/// How Envoy puts the headers into the message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `headers`, its default.
    Map,
    /// `header_map`, with `encode_raw_headers: true`.
    List,
}

/// One length-prefixed gRPC message, and where the key stands in it.
pub struct Payload {
    pub bytes: Vec<u8>,
    pub key_at: usize,
}

impl Payload {
    pub fn new(form: Form, method: &str, key: &str, body: usize) -> Self {
        let message = check(form, method, key, &chat(body)).encode_to_vec();
        let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
        let mut bytes = vec![0];
        bytes.extend(length.to_be_bytes());
        bytes.extend(message);
        let key_at = bytes.windows(key.len()).position(|window| window == key.as_bytes()).unwrap_or_default();
        Self { bytes, key_at }
    }
}

fn check(form: Form, method: &str, key: &str, body: &[u8]) -> CheckRequest {
    let bearer = format!("Bearer {key}");
    let pseudo = [(":authority", HOST), (":method", method), (":path", PATH), (":scheme", "http")];
    let headers = pseudo.into_iter().chain(HEADERS).chain([("authorization", &*bearer)]);
    let mut http = HttpRequest {
        id: "6150364389267416353".to_owned(),
        method: method.to_owned(),
        path: PATH.to_owned(),
        host: HOST.to_owned(),
        scheme: "http".to_owned(),
        protocol: "HTTP/1.1".to_owned(),
        size: i64::try_from(body.len()).unwrap_or(-1),
        ..HttpRequest::default()
    };
    match form {
        Form::Map => {
            http.headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            http.body = String::from_utf8_lossy(body).into_owned();
        }
        Form::List => {
            let header = |(name, value): (&str, &str)| HeaderValue {
                key: name.to_owned(),
                raw_value: value.as_bytes().to_vec(),
                ..HeaderValue::default()
            };
            http.header_map = Some(HeaderMap { headers: headers.map(header).collect() });
            http.raw_body = body.to_vec();
        }
    }
    let time = Some(Timestamp { seconds: 1_760_000_000, nanos: 123_456_789 });
    CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(peer("10.1.2.3", 52_341)),
            destination: Some(peer("10.1.0.9", 8_443)),
            request: Some(Request { time, http: Some(http) }),
            context_extensions: HashMap::new(),
            ..AttributeContext::default()
        }),
    }
}

fn peer(address: &str, port: u32) -> Peer {
    let socket = SocketAddress {
        address: address.to_owned(),
        port_specifier: Some(PortSpecifier::PortValue(port)),
        ..SocketAddress::default()
    };
    Peer { address: Some(Address { address: Some(AnyAddress::SocketAddress(socket)) }), ..Peer::default() }
}

/// A chat of about this many bytes; none for 0.
fn chat(length: usize) -> Vec<u8> {
    if length == 0 {
        return Vec::new();
    }
    let head = r#"{"model":"llama-3.3-70b","stream":true,"messages":[{"role":"user","content":""#;
    let tail = r#""}]}"#;
    let words = "Why do the tides follow the moon? ".bytes().cycle();
    let text = words.take(length.saturating_sub(head.len() + tail.len()));
    head.bytes().chain(text).chain(tail.bytes()).collect()
}

/// Whether Envoy would let the request pass on this answer (the message, without its prefix).
///
/// `Some(true)` with an `ok_response`, as Tollgate sends it with its header edits; `Some(false)` without.
pub fn allows(message: &[u8]) -> Option<bool> {
    let (mut rest, mut edited) = (message, false);
    while !rest.is_empty() {
        match varint(&mut rest)? {
            // status: a code that is not 0 is a denial
            0x0a => {
                let status = chunk(&mut rest)?;
                if status.first() == Some(&0x08) && status.get(1) != Some(&0) {
                    return None;
                }
            }
            // ok_response
            0x1a => edited |= !chunk(&mut rest)?.is_empty(),
            // dynamic_metadata
            0x22 => drop(chunk(&mut rest)?),
            _ => return None,
        }
    }
    Some(edited)
}

fn chunk<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(varint(rest)?).ok()?;
    let (chunk, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(chunk)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, after) = rest.split_first()?;
        *rest = after;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
