//! The bytes of an `envoy.service.auth.v3.CheckRequest` to [`Attributes`], in one walk that borrows. Never copies a value,
//! never guesses at a message that is cut or malformed.
//!
//! What is accepted and what it means is what prost and envoy-types make of it (`typed.rs` compares the two): the last
//! of several scalars counts, messages that stand twice are merged, unknown fields are skipped. Two differences are
//! wanted:
//! - sub-messages without anything that is used (destination, metadata, TLS session, time, labels, context extensions)
//!   are skipped by their length, and what is in them is not looked at;
//! - a map entry with another wire type than a message is refused, while prost reads it.

use std::collections::HashMap;

use tollgate_core::attributes::{Attributes, Header};

/// The message is cut, or malformed where it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unreadable;

/// Reads a check.
///
/// Where `headers` and `header_map` both have content, and where an entry has both `value` and `raw_value`, every one of
/// them is a header of its own: a credential or an identity that hides in either is seen. Envoy sends one of each.
/// `raw_body` counts before `body`. The peer is the socket address without its port, or the path of a pipe.
///
/// # Errors
/// [`Unreadable`].
pub fn read(message: &[u8]) -> Result<Attributes<'_>, Unreadable> {
    let mut walk = Walk::default();
    walk.check_request(Reader { rest: message, depth: RECURSION_LIMIT })?;
    Ok(walk.finish())
}

/// How deep groups may nest, counted from the message; as in every implementation of protobuf.
const RECURSION_LIMIT: u32 = 100;

/// Room for the headers of a usual request, so that the list does not grow while it is filled.
const USUAL_HEADERS: usize = 32;

/// Beyond this many map entries, duplicates are looked for by hash.
const FEW_ENTRIES: usize = 64;

/// What has been seen of a message. Repeated sub-messages merge by writing to the same place.
#[derive(Default)]
struct Walk<'a> {
    attributes: Attributes<'a>,
    peer: PeerAddress<'a>,
    text_body: &'a [u8],
    entries: Entries<'a>,
    pseudo: Pseudo,
}

/// Which pseudo-headers stand among the request headers. Envoy sends them all, unless it sends a part of the headers alone.
#[derive(Default)]
struct Pseudo {
    method: bool,
    path: bool,
}

impl Pseudo {
    fn note(&mut self, name: &[u8]) {
        self.method |= name == b":method";
        self.path |= name == b":path";
    }
}

/// The oneof of `envoy.config.core.v3.Address`.
#[derive(Default)]
enum PeerAddress<'a> {
    #[default]
    Unset,
    Socket(&'a str),
    Pipe(&'a str),
    Internal,
}

impl<'a> Walk<'a> {
    fn finish(self) -> Attributes<'a> {
        let Self { mut attributes, peer, text_body, entries, pseudo } = self;
        attributes.headers_withheld = !(pseudo.method && pseudo.path);
        attributes.peer_address = match peer {
            PeerAddress::Socket(address) | PeerAddress::Pipe(address) => address,
            PeerAddress::Unset | PeerAddress::Internal => "",
        };
        if attributes.body.is_empty() {
            attributes.body = text_body;
        }
        if attributes.headers.is_empty() {
            attributes.headers = entries.list;
        } else {
            attributes.headers.extend(entries.list);
        }
        attributes
    }

    fn check_request(&mut self, mut at: Reader<'a>) -> Result<(), Unreadable> {
        while !at.is_empty() {
            let key = at.key()?;
            match key.tag() {
                1 => self.attribute_context(at.message(key)?)?,
                _ => at.skip(key)?,
            }
        }
        Ok(())
    }

    fn attribute_context(&mut self, mut at: Reader<'a>) -> Result<(), Unreadable> {
        while !at.is_empty() {
            let key = at.key()?;
            match key.tag() {
                1 => self.source(at.message(key)?)?,
                4 => self.request(at.message(key)?)?,
                // destination, context_extensions, metadata_context, tls_session, route_metadata_context
                2 | 10..=13 => at.unread(key)?,
                _ => at.skip(key)?,
            }
        }
        Ok(())
    }

    fn source(&mut self, mut at: Reader<'a>) -> Result<(), Unreadable> {
        while !at.is_empty() {
            let key = at.key()?;
            match key.tag() {
                1 => self.address(at.message(key)?)?,
                // labels
                3 => at.unread(key)?,
                4 => self.attributes.peer_principal = at.text(key)?,
                // service, certificate
                2 | 5 => at.utf8(key).map(drop)?,
                _ => at.skip(key)?,
            }
        }
        Ok(())
    }

    fn address(&mut self, mut at: Reader<'a>) -> Result<(), Unreadable> {
        while !at.is_empty() {
            let key = at.key()?;
            match key.tag() {
                1 => {
                    let before = if let PeerAddress::Socket(address) = self.peer { address } else { "" };
                    self.peer = PeerAddress::Socket(socket_address(at.message(key)?, before)?);
                }
                2 => {
                    let before = if let PeerAddress::Pipe(path) = self.peer { path } else { "" };
                    self.peer = PeerAddress::Pipe(pipe(at.message(key)?, before)?);
                }
                3 => {
                    at.unread(key)?;
                    self.peer = PeerAddress::Internal;
                }
                _ => at.skip(key)?,
            }
        }
        Ok(())
    }

    fn request(&mut self, mut at: Reader<'a>) -> Result<(), Unreadable> {
        while !at.is_empty() {
            let key = at.key()?;
            match key.tag() {
                2 => self.http(at.message(key)?)?,
                // time
                1 => at.unread(key)?,
                _ => at.skip(key)?,
            }
        }
        Ok(())
    }

    fn http(&mut self, mut at: Reader<'a>) -> Result<(), Unreadable> {
        while !at.is_empty() {
            let key = at.key()?;
            match key.tag() {
                2 => self.attributes.method = at.text(key)?,
                3 => self.entries.read(at.message(key)?, &mut self.pseudo)?,
                4 => self.attributes.target = at.text(key)?,
                5 => self.attributes.host = at.text(key)?,
                6 => self.attributes.scheme = at.text(key)?,
                10 => self.attributes.protocol = at.text(key)?,
                11 => self.text_body = at.utf8(key)?,
                12 => self.attributes.body = at.bytes(key)?,
                13 => self.header_map(at.message(key)?)?,
                // id, query, fragment
                1 | 7 | 8 => at.utf8(key).map(drop)?,
                // size
                9 => at.number(key)?,
                _ => at.skip(key)?,
            }
        }
        Ok(())
    }

    fn header_map(&mut self, mut at: Reader<'a>) -> Result<(), Unreadable> {
        while !at.is_empty() {
            let key = at.key()?;
            match key.tag() {
                1 => self.header_value(at.message(key)?)?,
                _ => at.skip(key)?,
            }
        }
        Ok(())
    }

    fn header_value(&mut self, mut at: Reader<'a>) -> Result<(), Unreadable> {
        let [mut name, mut value, mut raw] = [&[] as &[u8]; 3];
        while !at.is_empty() {
            let key = at.key()?;
            match key.tag() {
                1 => name = at.utf8(key)?,
                2 => value = at.utf8(key)?,
                3 => raw = at.bytes(key)?,
                _ => at.skip(key)?,
            }
        }
        if is_pseudo(name) {
            self.pseudo.note(name);
            return Ok(());
        }
        let headers = &mut self.attributes.headers;
        if headers.capacity() == 0 {
            headers.reserve_exact(USUAL_HEADERS);
        }
        if !raw.is_empty() {
            headers.push(Header { name, value: raw });
        }
        if raw.is_empty() || !value.is_empty() {
            headers.push(Header { name, value });
        }
        Ok(())
    }
}

fn socket_address<'a>(mut at: Reader<'a>, before: &'a str) -> Result<&'a str, Unreadable> {
    let mut address = before;
    while !at.is_empty() {
        let key = at.key()?;
        match key.tag() {
            2 => address = at.text(key)?,
            // resolver_name, named_port, network_namespace_filepath
            4 | 5 | 7 => at.utf8(key).map(drop)?,
            // protocol, port_value, ipv4_compat
            1 | 3 | 6 => at.number(key)?,
            _ => at.skip(key)?,
        }
    }
    Ok(address)
}

fn pipe<'a>(mut at: Reader<'a>, before: &'a str) -> Result<&'a str, Unreadable> {
    let mut path = before;
    while !at.is_empty() {
        let key = at.key()?;
        match key.tag() {
            1 => path = at.text(key)?,
            // mode
            2 => at.number(key)?,
            _ => at.skip(key)?,
        }
    }
    Ok(path)
}

fn is_pseudo(name: &[u8]) -> bool {
    name.first() == Some(&b':')
}

/// `map<string, string> headers`: the last entry of a name counts.
#[derive(Default)]
struct Entries<'a> {
    list: Vec<Header<'a>>,
    /// One bit for each kind of name that has been seen, to tell at once that a name is new.
    kinds: u64,
    /// Where each name stands in the list, once there are many.
    index: HashMap<&'a [u8], usize>,
}

impl<'a> Entries<'a> {
    fn read(&mut self, mut at: Reader<'a>, pseudo: &mut Pseudo) -> Result<(), Unreadable> {
        let [mut name, mut value] = [&[] as &[u8]; 2];
        while !at.is_empty() {
            let key = at.key()?;
            match key.tag() {
                1 => name = at.utf8(key)?,
                2 => value = at.utf8(key)?,
                _ => at.skip(key)?,
            }
        }
        if is_pseudo(name) {
            pseudo.note(name);
        } else {
            self.put(name, value);
        }
        Ok(())
    }

    fn put(&mut self, name: &'a [u8], value: &'a [u8]) {
        if let Some(at) = self.find(name) {
            self.list[at].value = value;
            return;
        }
        if self.list.capacity() == 0 {
            self.list.reserve_exact(USUAL_HEADERS);
        }
        self.list.push(Header { name, value });
        match self.list.len() {
            0..=FEW_ENTRIES => {}
            many if self.index.is_empty() => {
                self.index = self.list.iter().map(|header| header.name).zip(0..many).collect();
            }
            many => {
                self.index.insert(name, many - 1);
            }
        }
    }

    fn find(&mut self, name: &[u8]) -> Option<usize> {
        let ends = name.first().copied().unwrap_or_default() ^ name.last().copied().unwrap_or_default();
        let kind = 1 << ((name.len() ^ usize::from(ends)) % 64);
        let is_new = self.kinds & kind == 0;
        self.kinds |= kind;
        if is_new {
            None
        } else if self.index.is_empty() {
            self.list.iter().position(|header| header.name == name)
        } else {
            self.index.get(name).copied()
        }
    }
}

/// What stands before a field: its number and its wire type.
#[derive(Clone, Copy)]
struct Key(u32);

impl Key {
    #[inline]
    fn tag(self) -> u32 {
        self.0 >> 3
    }

    #[inline]
    fn wire(self) -> u32 {
        self.0 & 7
    }
}

/// The wire types.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const DELIMITED: u32 = 2;
const START_GROUP: u32 = 3;
const END_GROUP: u32 = 4;
const FIXED32: u32 = 5;

/// The rest of one message.
struct Reader<'a> {
    rest: &'a [u8],
    /// How many more levels may open inside.
    depth: u32,
}

impl<'a> Reader<'a> {
    #[inline]
    fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    fn key(&mut self) -> Result<Key, Unreadable> {
        match u32::try_from(self.varint()?) {
            Ok(key @ 8..) => Ok(Key(key)),
            // Number 0, or one that is too large.
            _ => Err(Unreadable),
        }
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, Unreadable> {
        match self.rest {
            [byte @ ..0x80, rest @ ..] => {
                self.rest = rest;
                Ok(u64::from(*byte))
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, Unreadable> {
        let mut value = 0;
        for (at, byte) in self.rest.iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * at);
            if *byte < 0x80 {
                // The tenth byte has room for one bit.
                if at == 9 && *byte > 1 {
                    return Err(Unreadable);
                }
                self.rest = &self.rest[at + 1..];
                return Ok(value);
            }
        }
        Err(Unreadable)
    }

    #[inline]
    fn take(&mut self, length: u64) -> Result<&'a [u8], Unreadable> {
        let length = usize::try_from(length).map_err(|_| Unreadable)?;
        let (taken, rest) = self.rest.split_at_checked(length).ok_or(Unreadable)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn bytes(&mut self, key: Key) -> Result<&'a [u8], Unreadable> {
        if key.wire() != DELIMITED {
            return Err(Unreadable);
        }
        let length = self.varint()?;
        self.take(length)
    }

    #[inline]
    fn text(&mut self, key: Key) -> Result<&'a str, Unreadable> {
        std::str::from_utf8(self.bytes(key)?).map_err(|_| Unreadable)
    }

    /// Text that is used as bytes, if at all.
    #[inline]
    fn utf8(&mut self, key: Key) -> Result<&'a [u8], Unreadable> {
        let bytes = self.bytes(key)?;
        if bytes.is_ascii() || std::str::from_utf8(bytes).is_ok() { Ok(bytes) } else { Err(Unreadable) }
    }

    fn number(&mut self, key: Key) -> Result<(), Unreadable> {
        if key.wire() != VARINT {
            return Err(Unreadable);
        }
        self.varint().map(drop)
    }

    #[inline]
    fn message(&mut self, key: Key) -> Result<Self, Unreadable> {
        let rest = self.bytes(key)?;
        Ok(Self { rest, depth: self.depth.checked_sub(1).ok_or(Unreadable)? })
    }

    /// Steps over a known sub-message that nothing is read of.
    fn unread(&mut self, key: Key) -> Result<(), Unreadable> {
        self.bytes(key).map(drop)
    }

    /// Steps over an unknown field.
    fn skip(&mut self, key: Key) -> Result<(), Unreadable> {
        self.skip_within(key, self.depth)
    }

    fn skip_within(&mut self, key: Key, depth: u32) -> Result<(), Unreadable> {
        let deeper = depth.checked_sub(1).ok_or(Unreadable)?;
        let length = match key.wire() {
            VARINT => {
                self.varint()?;
                0
            }
            FIXED64 => 8,
            FIXED32 => 4,
            DELIMITED => self.varint()?,
            START_GROUP => loop {
                let inner = self.key()?;
                match inner.wire() {
                    END_GROUP if inner.tag() == key.tag() => break 0,
                    END_GROUP => return Err(Unreadable),
                    _ => self.skip_within(inner, deeper)?,
                }
            },
            _ => return Err(Unreadable),
        };
        self.take(length).map(drop)
    }
}
