//! A [`Decision`] to the bytes of an `envoy.service.auth.v3.CheckResponse`, written once and without a message in between.
//! Never writes an empty response, which Envoy takes for an allow, and never a denial with the status of an allow.

use std::sync::LazyLock;

use tollgate_core::respond::{Decision, OVERRIDES};

/// A denial with status 500 and nothing else, for when no other can be made.
pub const LAST_RESORT: &[u8] = &[0x0a, 2, 0x08, 13, 0x12, 5, 0x0a, 3, 0x08, 0xf4, 0x03];

/// Room for a usual answer.
pub const USUAL_LENGTH: usize = 1024;

/// Appends the response to `to`.
pub fn response(decision: &Decision<'_>, to: &mut Vec<u8>) {
    match decision {
        Decision::Allow(allow) => {
            allowed(allow.headers_to_set(), allow.headers_to_remove_beside_overrides(), allow.metadata(), to);
        }
        Decision::Deny(deny) => {
            let headers = deny.headers.iter().map(|(name, value)| (*name, &**value));
            denied(deny.status, headers, &deny.body, deny.metadata(), to);
        }
    }
}

/// Field numbers; all of them fit a key of one byte.
mod field {
    // envoy.service.auth.v3.CheckResponse
    pub const STATUS: u8 = 1;
    pub const DENIED_RESPONSE: u8 = 2;
    pub const OK_RESPONSE: u8 = 3;
    pub const DYNAMIC_METADATA: u8 = 4;
    // google.rpc.Status and envoy.type.v3.HttpStatus
    pub const CODE: u8 = 1;
    // envoy.service.auth.v3.DeniedHttpResponse
    pub const HTTP_STATUS: u8 = 1;
    pub const BODY: u8 = 3;
    // both responses
    pub const HEADERS: u8 = 2;
    // envoy.service.auth.v3.OkHttpResponse
    pub const HEADERS_TO_REMOVE: u8 = 5;
    // envoy.config.core.v3.HeaderValueOption
    pub const HEADER: u8 = 1;
    pub const APPEND_ACTION: u8 = 3;
    // google.protobuf.Struct
    pub const FIELDS: u8 = 1;
    // google.protobuf.Value
    pub const STRING_VALUE: u8 = 3;
    // envoy.config.core.v3.HeaderValue, and every map entry
    pub const KEY: u8 = 1;
    pub const VALUE: u8 = 2;
}

/// `HeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD`.
const OVERWRITE: u8 = 2;

/// The removal of every override, which is in every allow.
static REMOVED_OVERRIDES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut removed = Vec::new();
    OVERRIDES.iter().for_each(|name| text(field::HEADERS_TO_REMOVE, name, &mut removed));
    removed
});

fn allowed<'a, 'n>(
    set: impl Iterator<Item = (&'a str, &'a str)>,
    remove: impl Iterator<Item = &'a str>,
    metadata: impl Iterator<Item = (&'n str, &'a str)>,
    to: &mut Vec<u8>,
) {
    // Code 0 is the default, and so is written as a status with nothing in it.
    message(field::STATUS, to, |_| {});
    message(field::OK_RESPONSE, to, |to| {
        headers(set, to);
        remove.for_each(|name| text(field::HEADERS_TO_REMOVE, name, to));
        to.extend_from_slice(&REMOVED_OVERRIDES);
    });
    dynamic_metadata(metadata, to);
}

fn denied<'a, 'n>(
    status: u16,
    set: impl Iterator<Item = (&'n str, &'a str)>,
    body: &str,
    metadata: impl Iterator<Item = (&'n str, &'a str)>,
    to: &mut Vec<u8>,
) {
    message(field::STATUS, to, |to| number(field::CODE, rpc_code(status), to));
    message(field::DENIED_RESPONSE, to, |to| {
        message(field::HTTP_STATUS, to, |to| number(field::CODE, u64::from(status), to));
        headers(set, to);
        text(field::BODY, body, to);
    });
    dynamic_metadata(metadata, to);
}

/// The `google.rpc.Code` of a refusal; never 0, as that would allow.
fn rpc_code(status: u16) -> u64 {
    match status {
        400 | 413 => 3,
        401 => 16,
        403 => 7,
        429 | 431 => 8,
        503 => 14,
        _ => 13,
    }
}

fn headers<'a, 'n>(headers: impl Iterator<Item = (&'n str, &'a str)>, to: &mut Vec<u8>) {
    for (name, value) in headers {
        let header = length_of(name.len()) + length_of(value.len());
        begin(field::HEADERS, length_of(header) + 2, to);
        begin(field::HEADER, header, to);
        text(field::KEY, name, to);
        // Envoy ignores `raw_value` here.
        text(field::VALUE, value, to);
        to.extend_from_slice(&[field::APPEND_ACTION << 3, OVERWRITE]);
    }
}

/// A `google.protobuf.Struct` of strings.
fn dynamic_metadata<'a, 'n>(metadata: impl Iterator<Item = (&'n str, &'a str)>, to: &mut Vec<u8>) {
    message(field::DYNAMIC_METADATA, to, |to| {
        for (name, value) in metadata {
            let string = length_of(value.len());
            begin(field::FIELDS, length_of(name.len()) + length_of(string), to);
            text(field::KEY, name, to);
            begin(field::VALUE, string, to);
            text(field::STRING_VALUE, value, to);
        }
    });
}

/// How long a length-delimited field is with so much in it.
#[inline]
fn length_of(content: usize) -> usize {
    let width = if content < 0x80 { 1 } else { (usize::BITS - content.leading_zeros()).div_ceil(7) as usize };
    1 + width + content
}

/// What stands before the content of a length-delimited field.
#[inline]
fn begin(tag: u8, content: usize, to: &mut Vec<u8>) {
    if content < 0x80 {
        to.extend_from_slice(&[tag << 3 | 2, content as u8]);
    } else {
        to.push(tag << 3 | 2);
        varint(content as u64, to);
    }
}

/// A length-delimited field whose length is known once it is written: one byte is kept for it, and what is longer moves.
#[inline]
fn message(tag: u8, to: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    to.extend_from_slice(&[tag << 3 | 2, 0]);
    let start = to.len();
    write(to);
    let length = to.len() - start;
    if length < 0x80 {
        to[start - 1] = length as u8;
        return;
    }
    let width = (usize::BITS - length.leading_zeros()).div_ceil(7) as usize;
    to.resize(to.len() + width - 1, 0);
    to.copy_within(start..start + length, start + width - 1);
    let mut rest = length;
    for byte in &mut to[start - 1..start + width - 1] {
        *byte = rest as u8 | 0x80;
        rest >>= 7;
    }
    to[start + width - 2] &= 0x7f;
}

#[inline]
fn text(tag: u8, text: &str, to: &mut Vec<u8>) {
    begin(tag, text.len(), to);
    to.extend_from_slice(text.as_bytes());
}

fn number(tag: u8, number: u64, to: &mut Vec<u8>) {
    to.push(tag << 3);
    varint(number, to);
}

#[inline]
fn varint(mut number: u64, to: &mut Vec<u8>) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
    use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
    use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
    use envoy_types::pb::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
    use envoy_types::pb::envoy::r#type::v3::HttpStatus;
    use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
    use envoy_types::pb::google::rpc::Status;
    use proptest::prelude::*;
    use prost::Message;

    use super::*;

    type Pairs = Vec<(String, String)>;

    fn borrowed(pairs: &Pairs) -> impl Iterator<Item = (&str, &str)> {
        pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    fn options(pairs: &Pairs) -> Vec<HeaderValueOption> {
        let option = |(key, value): &(String, String)| HeaderValueOption {
            header: Some(HeaderValue { key: key.clone(), value: value.clone(), raw_value: Vec::new() }),
            append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
            ..Default::default()
        };
        pairs.iter().map(option).collect()
    }

    fn strings(pairs: &Pairs) -> Option<Struct> {
        let value = |text: &String| Value { kind: Some(Kind::StringValue(text.clone())) };
        Some(Struct { fields: pairs.iter().map(|(name, text)| (name.clone(), value(text))).collect() })
    }

    /// Names that differ and values that are not empty, some of them long enough for lengths of two and three bytes.
    fn pairs() -> impl Strategy<Value = Pairs> {
        let value = ("[ -~é]{1,20}", prop::sample::select(vec![1, 2, 9, 20, 1_000]));
        let value = value.prop_map(|(text, times)| text.repeat(times));
        prop::collection::btree_map("[a-z-]{1,20}", value, 0..8).prop_map(|pairs| pairs.into_iter().collect())
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn an_allow_is_what_envoy_types_would_write(
            set in pairs(),
            remove in prop::collection::vec("[a-z-]{1,40}", 0..40),
            metadata in pairs(),
        ) {
            let mut bytes = b"before".to_vec();
            allowed(borrowed(&set), remove.iter().map(String::as_str), borrowed(&metadata), &mut bytes);
            let overrides = OVERRIDES.iter().map(|name| (*name).to_owned());
            let headers_to_remove = remove.into_iter().chain(overrides).collect();
            let ok = OkHttpResponse { headers: options(&set), headers_to_remove, ..Default::default() };
            let typed = CheckResponse {
                status: Some(Status::default()),
                http_response: Some(HttpResponse::OkResponse(ok)),
                dynamic_metadata: strings(&metadata),
            };
            prop_assert_eq!(&bytes[..6], b"before");
            prop_assert_eq!(bytes.len() - 6, typed.encoded_len());
            prop_assert_eq!(CheckResponse::decode(&bytes[6..]).unwrap(), typed);
        }

        #[test]
        fn a_denial_is_what_envoy_types_would_write(
            status in prop::sample::select(vec![400u16, 401, 403, 413, 429, 500, 503]),
            set in pairs(),
            body in "[ -~é]{1,100}",
            metadata in pairs(),
        ) {
            let mut bytes = Vec::new();
            denied(status, borrowed(&set), &body, borrowed(&metadata), &mut bytes);
            let code = i32::try_from(rpc_code(status)).unwrap();
            prop_assert_ne!(code, 0);
            let refusal = DeniedHttpResponse {
                status: Some(HttpStatus { code: i32::from(status) }),
                headers: options(&set),
                body,
            };
            let typed = CheckResponse {
                status: Some(Status { code, ..Default::default() }),
                http_response: Some(HttpResponse::DeniedResponse(refusal)),
                dynamic_metadata: strings(&metadata),
            };
            prop_assert_eq!(bytes.len(), typed.encoded_len());
            prop_assert_eq!(CheckResponse::decode(&*bytes).unwrap(), typed);
        }
    }

    #[test]
    fn the_last_resort_denies() {
        let response = CheckResponse::decode(LAST_RESORT).unwrap();
        assert_eq!(response.status.unwrap().code, 13);
        let Some(HttpResponse::DeniedResponse(refusal)) = response.http_response else { panic!("not a denial") };
        assert_eq!(refusal.status.unwrap().code, 500);
    }

    #[test]
    fn no_status_becomes_an_allow() {
        assert!((0..=u16::MAX).all(|status| rpc_code(status) != 0));
    }
}
