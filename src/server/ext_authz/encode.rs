//! A [`Decision`] to the bytes of an `envoy.service.auth.v3.CheckResponse`, written once and without a message in between.
//! Never writes an empty response, which Envoy takes for an allow, and never a denial with the status of an allow.

use std::cell::RefCell;
use std::sync::Arc;

use tollgate_core::decision::RouteId;
use tollgate_core::policy::Policy;
use tollgate_core::principal::Grant;
use tollgate_core::respond::{Allow, Decision};

/// A denial with status 500 and nothing else, for when no other can be made.
pub const LAST_RESORT: &[u8] = &[0x0a, 2, 0x08, 13, 0x12, 5, 0x0a, 3, 0x08, 0xf4, 0x03];

/// Room for a usual answer.
pub const USUAL_LENGTH: usize = 1024;

/// Appends the response to `to`. `policy` is the one that decided.
pub fn response(policy: &Arc<Policy>, decision: &Decision<'_>, to: &mut Vec<u8>) {
    match decision {
        Decision::Allow(allow) => KNOWN.with_borrow_mut(|known| {
            let own = allow.own();
            let own = (own.headers_to_set(), own.headers_to_remove(), own.metadata());
            match known.common(policy, allow) {
                Some(common) => {
                    let edits = |to: &mut Vec<u8>| to.extend_from_slice(&common.edits);
                    allowed(edits, |to| to.extend_from_slice(&common.metadata), own, to);
                }
                None => {
                    let common = allow.common();
                    let edits = |to: &mut Vec<u8>| edits(common.headers_to_set(), common.headers_to_remove(), to);
                    allowed(edits, |to| fields(common.metadata(), to), own, to);
                }
            }
        }),
        Decision::Deny(deny) => {
            let headers = deny.headers.iter().map(|(name, value)| (*name, &**value));
            denied(deny.status, headers, &deny.body, deny.metadata(), to);
        }
    }
}

thread_local! {
    static KNOWN: RefCell<KnownCommon> = const { RefCell::new(KnownCommon { policy: None, written: Vec::new() }) };
}

/// So many routes and grants are remembered.
const KNOWN_COMMON: usize = 256;

/// What allows of one policy have in common, by route and grant, as this thread has written it.
struct KnownCommon {
    policy: Option<Arc<Policy>>,
    written: Vec<Slot>,
}

#[derive(Default)]
struct Slot {
    common: Option<Common>,
    /// The route, and the address of the grant, of the last allow that found another one here: only what comes twice is written.
    asked: Option<(RouteId, usize)>,
}

/// What all allows of one policy, route and grant say.
struct Common {
    route: RouteId,
    /// Kept, so that no other one comes to stand at its address.
    grant: Option<Arc<Grant>>,
    /// Within the `OkHttpResponse`.
    edits: Vec<u8>,
    metadata: Vec<u8>,
}

impl KnownCommon {
    /// `None`: it is not worth writing apart.
    fn common(&mut self, policy: &Arc<Policy>, allow: &Allow<'_>) -> Option<&Common> {
        if !self.policy.as_ref().is_some_and(|known| Arc::ptr_eq(known, policy)) {
            self.policy = Some(Arc::clone(policy));
            self.written.clear();
            self.written.resize_with(KNOWN_COMMON, Slot::default);
        }
        let (route, grant) = (allow.permit().route_id(), allow.grant());
        let address = grant.map_or(0, |grant| Arc::as_ptr(grant).addr());
        // No two grants stand nearer to each other.
        let number = address / size_of::<Grant>();
        let Slot { common, asked } = &mut self.written[(number ^ route.0 as usize) % KNOWN_COMMON];
        if !common.as_ref().is_some_and(|common| common.is_of(route, grant)) {
            if asked.replace((route, address)) != Some((route, address)) {
                return None;
            }
            *common = Some(Common::write(route, allow));
        }
        common.as_ref()
    }
}

impl Common {
    fn write(route: RouteId, allow: &Allow<'_>) -> Self {
        let (common, mut to, mut metadata) = (allow.common(), Vec::new(), Vec::new());
        edits(common.headers_to_set(), common.headers_to_remove(), &mut to);
        fields(common.metadata(), &mut metadata);
        Self { route, grant: allow.grant().cloned(), edits: to, metadata }
    }

    fn is_of(&self, route: RouteId, grant: Option<&Arc<Grant>>) -> bool {
        self.route == route && self.grant.as_ref().map(Arc::as_ptr) == grant.map(Arc::as_ptr)
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

/// What is [`Common`], and then what is to be set, to be removed and to be told beside it.
fn allowed<'a, 'n>(
    common_edits: impl FnOnce(&mut Vec<u8>),
    common_metadata: impl FnOnce(&mut Vec<u8>),
    (set, remove, metadata): (
        impl Iterator<Item = (&'a str, &'a str)>,
        impl Iterator<Item = &'a str>,
        impl Iterator<Item = (&'n str, &'a str)>,
    ),
    to: &mut Vec<u8>,
) {
    // Code 0 is the default, and so is written as a status with nothing in it.
    message(field::STATUS, to, |_| {});
    message(field::OK_RESPONSE, to, |to| {
        common_edits(to);
        edits(set, remove, to);
    });
    message(field::DYNAMIC_METADATA, to, |to| {
        common_metadata(to);
        fields(metadata, to);
    });
}

/// Within an `OkHttpResponse`.
fn edits<'a>(set: impl Iterator<Item = (&'a str, &'a str)>, remove: impl Iterator<Item = &'a str>, to: &mut Vec<u8>) {
    headers(set, to);
    remove.for_each(|name| text(field::HEADERS_TO_REMOVE, name, to));
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
    message(field::DYNAMIC_METADATA, to, |to| fields(metadata, to));
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

/// The fields of a `google.protobuf.Struct` of strings.
fn fields<'a, 'n>(metadata: impl Iterator<Item = (&'n str, &'a str)>, to: &mut Vec<u8>) {
    for (name, value) in metadata {
        let string = length_of(value.len());
        begin(field::FIELDS, length_of(name.len()) + length_of(string), to);
        text(field::KEY, name, to);
        begin(field::VALUE, string, to);
        text(field::STRING_VALUE, value, to);
    }
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

    fn borrowed(pairs: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
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
            let ((set_1, set_2), (told_1, told_2)) = (set.split_at(set.len() / 2), metadata.split_at(metadata.len() / 2));
            let common = |to: &mut Vec<u8>| edits(borrowed(set_1), std::iter::empty(), to);
            let own = (borrowed(set_2), remove.iter().map(String::as_str), borrowed(told_2));
            allowed(common, |to| fields(borrowed(told_1), to), own, &mut bytes);
            let headers_to_remove = remove;
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
