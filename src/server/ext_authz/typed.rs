//! What prost and envoy-types make of a check, as the reference that the walk is compared with. For tests alone.

use bytes::{Buf, BufMut};
use envoy_types::pb::envoy::config::core::v3::{Address, HeaderMap, HeaderValue, Pipe, SocketAddress, address};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use proptest::prelude::*;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field};
use tollgate_core::attributes::{Attributes, Header};

use super::wire::{self, Unreadable};

/// The attributes of a decoded check, by the same rules as the walk.
fn attributes(check: &CheckRequest) -> Attributes<'_> {
    let mut out = Attributes { headers_withheld: true, ..Attributes::default() };
    let Some(context) = &check.attributes else { return out };
    if let Some(source) = &context.source {
        out.peer_principal = &source.principal;
        out.peer_address = match source.address.as_ref().and_then(|address| address.address.as_ref()) {
            Some(address::Address::SocketAddress(socket)) => &socket.address,
            Some(address::Address::Pipe(pipe)) => &pipe.path,
            Some(address::Address::EnvoyInternalAddress(_)) | None => "",
        };
    }
    let Some(http) = context.request.as_ref().and_then(|request| request.http.as_ref()) else { return out };
    (out.method, out.target, out.host) = (&http.method, &http.path, &http.host);
    (out.scheme, out.protocol) = (&http.scheme, &http.protocol);
    out.body = if http.raw_body.is_empty() { http.body.as_bytes() } else { &http.raw_body };
    for HeaderValue { key, value, raw_value } in http.header_map.iter().flat_map(|map| &map.headers) {
        if !raw_value.is_empty() {
            out.headers.push(Header::new(key, raw_value));
        }
        if raw_value.is_empty() || !value.is_empty() {
            out.headers.push(Header::new(key, value.as_bytes()));
        }
    }
    let listed = http.header_map.iter().flat_map(|map| &map.headers).map(|header| &header.key);
    let names: Vec<&String> = listed.chain(http.headers.keys()).collect();
    out.headers_withheld = ![":method", ":path"].into_iter().all(|pseudo| names.iter().any(|name| *name == pseudo));
    out.headers.extend(http.headers.iter().map(|(name, value)| Header::new(name, value.as_bytes())));
    out.headers.retain(|header| !header.name.starts_with(b":"));
    out
}

/// Everything that can be compared. Entries of a map have no order; those of a header map keep theirs.
fn comparable<'a>(found: &Attributes<'a>) -> impl PartialEq + 'a {
    let mut headers: Vec<_> = found.headers.iter().map(|header| (header.name, header.value)).collect();
    headers.sort_by_key(|(name, _)| *name);
    let text = [found.method, found.target, found.host, found.scheme, found.protocol];
    (text, headers, found.headers_withheld, found.body, found.peer_address, found.peer_principal)
}

fn same(one: &Attributes<'_>, other: &Attributes<'_>) -> bool {
    comparable(one) == comparable(other)
}

/// A message of the schema whose fields are looked at one by one.
#[derive(Clone, Copy)]
enum Level {
    Check,
    Context,
    Source,
    Address,
    Request,
    Http,
}

enum Child {
    Enter(Level),
    Unread,
    UnreadMap,
    Map,
    Other,
}

fn child(level: Level, tag: u32) -> Child {
    match (level, tag) {
        (Level::Check, 1) => Child::Enter(Level::Context),
        (Level::Context, 1) => Child::Enter(Level::Source),
        (Level::Context, 4) => Child::Enter(Level::Request),
        (Level::Context, 2 | 11 | 12 | 13) | (Level::Address, 3) | (Level::Request, 1) => Child::Unread,
        (Level::Context, 10) | (Level::Source, 3) => Child::UnreadMap,
        (Level::Source, 1) => Child::Enter(Level::Address),
        (Level::Request, 2) => Child::Enter(Level::Http),
        (Level::Http, 3) => Child::Map,
        _ => Child::Other,
    }
}

/// The message with every sub-message emptied that the walk does not look into.
struct Blanked {
    bytes: Vec<u8>,
    /// A map entry has a wire type that is not a message's.
    odd_map: bool,
}

impl Blanked {
    fn of(message: &[u8]) -> Option<Self> {
        let mut out = Self { bytes: Vec::new(), odd_map: false };
        out.bytes = out.level(Level::Check, message)?;
        Some(out)
    }

    fn level(&mut self, level: Level, mut from: &[u8]) -> Option<Vec<u8>> {
        let mut to = Vec::new();
        while from.has_remaining() {
            let (tag, wire) = decode_key(&mut from).ok()?;
            let kind = child(level, tag);
            if matches!(kind, Child::Map | Child::UnreadMap) && wire != WireType::LengthDelimited {
                self.odd_map = true;
            }
            encode_key(tag, wire, &mut to);
            if let Child::Other = kind {
                let before = from;
                skip_field(wire, tag, &mut from, DecodeContext::default()).ok()?;
                to.put_slice(&before[..before.len() - from.len()]);
                continue;
            }
            let length = usize::try_from(decode_varint(&mut from).ok()?).ok()?;
            let (inner, rest) = from.split_at_checked(length)?;
            from = rest;
            let inner = match kind {
                Child::Enter(level) => self.level(level, inner)?,
                Child::Map => inner.to_vec(),
                Child::Unread | Child::UnreadMap | Child::Other => Vec::new(),
            };
            encode_varint(inner.len() as u64, &mut to);
            to.put_slice(&inner);
        }
        Some(to)
    }
}

/// The walk and prost agree on these bytes, but for the differences that `wire.rs` names.
fn agree(bytes: &[u8]) -> Result<(), TestCaseError> {
    match (wire::read(bytes), CheckRequest::decode(bytes)) {
        (Ok(walked), Ok(decoded)) => prop_assert!(same(&walked, &attributes(&decoded))),
        (Err(Unreadable), Err(_)) => {}
        (Ok(walked), Err(error)) => {
            let blanked = Blanked::of(bytes).map(|blanked| blanked.bytes);
            let decoded = blanked.map(|bytes| CheckRequest::decode(&*bytes));
            let Some(Ok(decoded)) = decoded else {
                return Err(TestCaseError::fail(format!("only prost refuses: {error}")));
            };
            prop_assert!(same(&walked, &attributes(&decoded)));
        }
        (Err(Unreadable), Ok(_)) => {
            let odd_map = Blanked::of(bytes).is_some_and(|blanked| blanked.odd_map);
            prop_assert!(odd_map, "only the walk refuses");
        }
    }
    Ok(())
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop::sample::select(vec![
            "", "a", ":path", ":method", ":", "x-api-key", "authorization", "Bearer k", "GET", "/a?b=c", "10.0.0.1", "é", "\u{10ffff}",
        ])
        .prop_map(str::to_owned),
        1 => prop::collection::vec(any::<char>(), 0..70).prop_map(String::from_iter),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..6)
}

fn peer_address() -> impl Strategy<Value = address::Address> {
    let socket = |(address, resolver_name, ipv4_compat)| {
        address::Address::SocketAddress(SocketAddress { address, resolver_name, ipv4_compat, ..Default::default() })
    };
    prop_oneof![
        (text(), text(), any::<bool>()).prop_map(socket),
        (text(), any::<u32>()).prop_map(|(path, mode)| address::Address::Pipe(Pipe { path, mode })),
        Just(address::Address::EnvoyInternalAddress(Default::default())),
    ]
}

prop_compose! {
    fn peer()(
        address in prop::option::of(prop::option::of(peer_address())),
        service in text(),
        principal in text(),
        labels in prop::collection::hash_map(text(), text(), 0..2),
    ) -> Peer {
        Peer { address: address.map(|address| Address { address }), service, labels, principal, certificate: String::new() }
    }
}

prop_compose! {
    fn http()(
        texts in prop::collection::vec(text(), 8),
        headers in prop::collection::hash_map(text(), text(), 0..6),
        header_map in prop::option::of(prop::collection::vec((text(), text(), bytes()), 0..6)),
        raw_body in bytes(),
        size in any::<i64>(),
    ) -> HttpRequest {
        let [id, method, path, host, scheme, query, protocol, body] = <[String; 8]>::try_from(texts).unwrap();
        let entry = |(key, value, raw_value)| HeaderValue { key, value, raw_value };
        let header_map = header_map.map(|list| HeaderMap { headers: list.into_iter().map(entry).collect() });
        let fragment = String::new();
        HttpRequest {
            id, method, headers, header_map, path, host, scheme, query, fragment, size, protocol, body, raw_body,
        }
    }
}

prop_compose! {
    fn check()(
        source in prop::option::of(peer()),
        destination in prop::option::of(peer()),
        request in prop::option::of(prop::option::of(http())),
        context_extensions in prop::collection::hash_map(text(), text(), 0..2),
    ) -> CheckRequest {
        let request = request.map(|http| Request { http, time: Some(Default::default()) });
        let context = AttributeContext { source, destination, request, context_extensions, ..Default::default() };
        CheckRequest { attributes: Some(context) }
    }
}

/// Where and how a message is changed; cheap to make, as most of the cases are mutants.
struct Mutator(u64);

impl Mutator {
    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end.max(1) as u64).unwrap()
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        match self.below(8) {
            _ if bytes.is_empty() => bytes.push(0x0a),
            0 => bytes.truncate(at),
            1 | 2 => drop(bytes.remove(at)),
            3 => bytes.insert(at, 0x0a),
            // A nudge keeps most lengths and keys plausible.
            4 | 5 => bytes[at] = bytes[at].wrapping_add(1),
            6 => bytes[at] ^= 1 << self.below(8),
            _ => bytes[at] = self.below(256) as u8,
        }
    }
}

/// One field of any kind, known or not.
#[derive(Clone, Debug)]
enum Field {
    Number(u32, u64),
    Text(u32, String),
    Bytes(u32, Vec<u8>),
    Entry(u32, String, String),
    Fixed(u32, bool),
    Group(u32, usize),
    Raw(Vec<u8>),
}

fn field() -> impl Strategy<Value = Field> {
    let known = || 1..=14u32;
    let unknown = || prop_oneof![9 => 15..40u32, 2 => (1 << 20)..1u32 << 29, 1 => known()];
    let texts = || prop_oneof![8 => prop::sample::select(vec![1, 2, 4, 5, 6, 7, 8, 10, 11, 12]), 1 => known()];
    let numbers = || prop_oneof![4 => Just(9), 4 => unknown(), 1 => known()];
    prop_oneof![
        3 => (numbers(), any::<u64>()).prop_map(|(tag, number)| Field::Number(tag, number)),
        12 => (texts(), text()).prop_map(|(tag, text)| Field::Text(tag, text)),
        2 => (Just(12), bytes()).prop_map(|(tag, bytes)| Field::Bytes(tag, bytes)),
        6 => (prop::sample::select(vec![1, 3, 10, 13]), text(), text())
            .prop_map(|(tag, name, value)| Field::Entry(tag, name, value)),
        2 => (unknown(), any::<bool>()).prop_map(|(tag, wide)| Field::Fixed(tag, wide)),
        2 => (unknown(), 0..105usize).prop_map(|(tag, levels)| Field::Group(tag, levels)),
        1 => bytes().prop_map(Field::Raw),
    ]
}

fn write(field: &Field, to: &mut Vec<u8>) {
    let delimited = |tag: u32, payload: &[u8], to: &mut Vec<u8>| {
        encode_key(tag, WireType::LengthDelimited, to);
        encode_varint(payload.len() as u64, to);
        to.extend_from_slice(payload);
    };
    match field {
        Field::Number(tag, number) => {
            encode_key(*tag, WireType::Varint, to);
            encode_varint(*number, to);
        }
        Field::Text(tag, text) => delimited(*tag, text.as_bytes(), to),
        Field::Bytes(tag, bytes) => delimited(*tag, bytes, to),
        Field::Entry(tag, name, value) => {
            let mut entry = Vec::new();
            delimited(1, name.as_bytes(), &mut entry);
            delimited(2, value.as_bytes(), &mut entry);
            delimited(*tag, &entry, to);
        }
        Field::Fixed(tag, wide) => {
            encode_key(*tag, if *wide { WireType::SixtyFourBit } else { WireType::ThirtyTwoBit }, to);
            to.extend_from_slice(&[7; 8][..if *wide { 8 } else { 4 }]);
        }
        Field::Group(tag, levels) => {
            (0..*levels).for_each(|_| encode_key(*tag, WireType::StartGroup, to));
            (0..*levels).for_each(|_| encode_key(*tag, WireType::EndGroup, to));
        }
        Field::Raw(bytes) => to.extend_from_slice(bytes),
    }
}

/// The ways to every message that the walk enters.
const PATHS: [&[u32]; 11] = [
    &[],
    &[1],
    &[1, 1],
    &[1, 1, 1],
    &[1, 1, 1, 1],
    &[1, 1, 1, 2],
    &[1, 4],
    &[1, 4, 2],
    &[1, 4, 2, 3],
    &[1, 4, 2, 13],
    &[1, 4, 2, 13, 1],
];

/// Pieces of a message, each at a path; together they merge.
fn pieces() -> impl Strategy<Value = Vec<u8>> {
    let piece = (prop::sample::select(PATHS.to_vec()), prop::collection::vec(field(), 0..3));
    prop::collection::vec(piece, 0..3).prop_map(|pieces| {
        let mut message = Vec::new();
        for (path, fields) in pieces {
            let mut payload = Vec::new();
            fields.iter().for_each(|field| write(field, &mut payload));
            for tag in path.iter().rev() {
                let mut outer = Vec::new();
                write(&Field::Bytes(*tag, payload), &mut outer);
                payload = outer;
            }
            message.extend_from_slice(&payload);
        }
        message
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_walk_agrees_with_prost_on_messages_and_mutants(
        first in check(),
        second in prop::option::of(check()),
        seed in 1..u64::MAX,
    ) {
        let mut bytes = first.encode_to_vec();
        bytes.extend(second.iter().flat_map(CheckRequest::encode_to_vec));
        let mut mutator = Mutator(seed);
        agree(&bytes)?;
        for _ in 0..8 {
            let mut mutant = bytes.clone();
            for _ in 0..2 {
                mutator.change(&mut mutant);
                agree(&mutant)?;
            }
        }
    }

    #[test]
    fn the_walk_agrees_with_prost_on_pieces(pieces in prop::collection::vec(pieces(), 4)) {
        // Each alone, and each merged into what came before.
        let mut merged = Vec::new();
        for piece in &pieces {
            agree(piece)?;
            merged.extend_from_slice(piece);
            agree(&merged)?;
        }
    }
}

fn of_http(http: HttpRequest) -> Vec<u8> {
    let request = Some(Request { http: Some(http), time: None });
    CheckRequest { attributes: Some(AttributeContext { request, ..Default::default() }) }.encode_to_vec()
}

#[test]
fn a_header_in_either_place_is_seen() {
    let value =
        |value: &str, raw: &str| HeaderValue { key: "x-api-key".into(), value: value.into(), raw_value: raw.into() };
    let header_map = Some(HeaderMap { headers: vec![value("one", ""), value("", "two"), value("three", "four")] });
    let headers = [("x-api-key".to_owned(), "five".to_owned())].into();
    let bytes = of_http(HttpRequest { headers, header_map, ..Default::default() });
    let found = wire::read(&bytes).unwrap();
    let values: Vec<&[u8]> = found.values("x-api-key").collect();
    assert_eq!(values, [b"one" as &[u8], b"two", b"four", b"three", b"five"]);
}

#[test]
fn many_map_entries_keep_the_last_of_each_name() {
    let mut entries = Vec::new();
    for round in 0..3 {
        for name in 0..5_000 {
            write(&Field::Entry(3, format!("x-{name}"), format!("{round}")), &mut entries);
        }
    }
    let mut message = entries;
    for tag in [2, 4, 1] {
        let mut outer = Vec::new();
        write(&Field::Bytes(tag, message), &mut outer);
        message = outer;
    }
    let found = wire::read(&message).unwrap();
    assert_eq!(found.headers.len(), 5_000);
    assert!(found.headers.iter().all(|header| header.value == b"2"));
}
