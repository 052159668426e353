//! Everything that decides, compiled from one configuration file. Never changes once it is made.

use crate::attributes::Attributes;
use crate::envoy_limits::EnvoyLimits;
use crate::error_body::ErrorShape;
use crate::extract::CredentialHeader;
use crate::issuer::Issuer;
use crate::login::Login;
use crate::plane::{Plane, PlaneId};
use crate::route::RouteTable;

/// Everything that decides, compiled from one configuration file. Immutable; a reload makes a new one.
#[derive(Debug)]
pub struct Policy {
    pub planes: Vec<Plane>,
    /// Every permission that a key can be given, administrative ones apart.
    pub permissions: Vec<Box<str>>,
    /// Where credentials are looked for. All of these headers are kept from the back end.
    pub credentials: Vec<CredentialHeader>,
    /// Whose tokens are accepted.
    pub issuers: Vec<Issuer>,
    /// `None`: there are no users, and nobody can log in.
    pub login: Option<Login>,
    pub identity: IdentityHeaders,
    /// Of the two before.
    pub own_headers: OwnHeaders,
    pub client_ip: ClientIp,
    pub envoy_limits: EnvoyLimits,
    /// The protection space named in `WWW-Authenticate`.
    pub realm: Box<str>,
    /// For requests that match no host.
    pub errors: ErrorShape,
    pub routes: RouteTable,
}

/// The names of the headers that tell the back end who asks; `None`: this one is not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityHeaders {
    pub subject: Option<Box<str>>,
    pub user_id: Option<Box<str>>,
    pub project: Option<Box<str>>,
    pub workload: Option<Box<str>>,
    pub key_id: Option<Box<str>>,
    pub plane: Option<Box<str>>,
    pub permissions: Option<Box<str>>,
    pub request_id: Option<Box<str>>,
    /// Whether the subject of a user or a token is their id, which nobody else is ever given, instead of a name.
    pub subject_is_id: bool,
    /// Whatever a client sends under one of these prefixes is removed, by whichever name of [`same_header`].
    pub reserved_prefixes: Vec<Box<str>>,
}

impl IdentityHeaders {
    /// None of them.
    pub fn none() -> Self {
        Self {
            subject: None,
            user_id: None,
            project: None,
            workload: None,
            key_id: None,
            plane: None,
            permissions: None,
            request_id: None,
            subject_is_id: false,
            reserved_prefixes: Vec::new(),
        }
    }

    /// The names in use, in a fixed order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        [
            &self.subject,
            &self.user_id,
            &self.project,
            &self.workload,
            &self.key_id,
            &self.plane,
            &self.permissions,
            &self.request_id,
        ]
        .into_iter()
        .filter_map(Option::as_deref)
    }

    /// The header of the proof that our own API asks for, under the first reserved prefix.
    pub fn proof(&self) -> Option<String> {
        self.reserved_prefixes.first().map(|prefix| format!("{prefix}proof"))
    }

    /// Whether a client's header could pass for an identity header at a back end that folds names.
    pub fn reserves(&self, name: &[u8]) -> bool {
        self.has_reserved_prefix(name) || self.names().any(|own| same_header(own.as_bytes(), name))
    }

    fn has_reserved_prefix(&self, name: &[u8]) -> bool {
        let begins_with =
            |prefix: &str| name.get(..prefix.len()).is_some_and(|part| same_header(part, prefix.as_bytes()));
        self.reserved_prefixes.iter().any(|prefix| begins_with(prefix))
    }
}

/// Headers that make some back ends see another method or path than the one that was judged.
pub const OVERRIDES: [&str; 5] =
    ["x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"];

/// The names of our headers by their first byte and length, so that it is seen at once of nearly every header of a client that it is
/// none of them.
#[derive(Clone, Debug)]
pub struct OwnHeaders {
    /// By the first byte as [`same_header`] compares it: a bit for each length, and [`RESERVED`].
    lengths: Box<[u64; 128]>,
}

/// Whether a reserved prefix begins with the byte.
const RESERVED: u64 = 1 << 63;

impl OwnHeaders {
    pub fn of(credentials: &[CredentialHeader], identity: &IdentityHeaders) -> Self {
        let mut lengths = Box::new([0; 128]);
        let credentials = credentials.iter().map(|source| &*source.name);
        let names = credentials.chain(OVERRIDES).chain(identity.names()).map(|name| (name, length_of(name.as_bytes())));
        let prefixes = identity.reserved_prefixes.iter().map(|prefix| (&**prefix, RESERVED));
        for (text, bit) in names.chain(prefixes) {
            if let Some(first) = text.bytes().next() {
                lengths[folded(first)] |= bit;
            }
        }
        Self { lengths }
    }

    /// Never `false` of what [`same_header`] takes for one of them, nor of what has a reserved prefix.
    #[inline]
    pub(crate) fn may_have(&self, name: &[u8], identity: &IdentityHeaders) -> bool {
        let Some(first) = name.first() else { return false };
        let known = self.lengths[folded(*first)] & (length_of(name) | RESERVED);
        known != 0 && (known != RESERVED || identity.has_reserved_prefix(name))
    }
}

/// One bit for the length of a name; the last one stands for all that are as long or longer.
#[inline]
fn length_of(name: &[u8]) -> u64 {
    1 << name.len().min(62)
}

/// Header names that some back end takes for the same: neither case counts, nor which character that is no letter or digit
/// stands in a place. CGI and WSGI make `_` of a dash, PHP of a dot, Apache's CGI of everything.
pub fn same_header(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(&x, &y)| folded(x) == folded(y))
}

/// Below 128.
fn folded(byte: u8) -> usize {
    usize::from(FOLDED[usize::from(byte)])
}

/// What each byte of a header name is compared as: a letter in lower case, a digit, or `-`.
const FOLDED: [u8; 256] = {
    let mut folded = [b'-'; 256];
    let mut byte = 0;
    while byte < 128 {
        if (byte as u8).is_ascii_alphanumeric() {
            folded[byte] = (byte as u8).to_ascii_lowercase();
        }
        byte += 1;
    }
    folded
};

/// Where the address of the client comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientIp {
    /// The TCP peer of Envoy.
    Peer,
    /// `x-envoy-external-address`, which Envoy sets where `use_remote_address` is on.
    EnvoyExternalAddress,
    /// `x-forwarded-for`, counted from the right: 1 is what the nearest proxy appended.
    ForwardedFor { trusted_hops: u8 },
}

impl ClientIp {
    /// The client's address as text; empty if the source has none. Only for logs and metadata.
    pub fn of<'a>(self, request: &Attributes<'a>) -> &'a str {
        let address = match self {
            Self::Peer => request.peer_address,
            Self::EnvoyExternalAddress => request.text("x-envoy-external-address").unwrap_or_default(),
            Self::ForwardedFor { trusted_hops } => request
                .headers
                .iter()
                .rev()
                .filter(|header| header.name.eq_ignore_ascii_case(b"x-forwarded-for"))
                .filter_map(|header| std::str::from_utf8(header.value).ok())
                .flat_map(|list| list.rsplit(','))
                .map(str::trim)
                .nth(usize::from(trusted_hops.saturating_sub(1)))
                .unwrap_or_default(),
        };
        // A pipe has a path. What else is no address was made up by somebody, and could be anything.
        let is_address = |byte: u8| byte.is_ascii_hexdigit() || matches!(byte, b'.' | b':' | b'[' | b']' | b'%');
        if self == Self::Peer || address.bytes().all(is_address) { address } else { "" }
    }
}

impl Policy {
    /// One for routes of our own, behind which is no back end: with these planes and credentials, without issuers and users.
    pub fn for_own_api(&self, routes: RouteTable) -> Self {
        Self {
            planes: self.planes.clone(),
            permissions: self.permissions.clone(),
            credentials: self.credentials.clone(),
            issuers: Vec::new(),
            login: None,
            own_headers: OwnHeaders::of(&self.credentials, &IdentityHeaders::none()),
            identity: IdentityHeaders::none(),
            client_ip: ClientIp::Peer,
            envoy_limits: self.envoy_limits,
            realm: self.realm.clone(),
            errors: ErrorShape::Tollgate,
            routes,
        }
    }

    pub fn plane(&self, id: PlaneId) -> &Plane {
        &self.planes[usize::from(id.0)]
    }

    pub fn plane_named(&self, name: &str) -> Option<PlaneId> {
        let at = self.planes.iter().position(|plane| &*plane.name == name)?;
        u8::try_from(at).ok().map(PlaneId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extract::Kinds;

    #[test]
    fn nothing_that_could_be_taken_for_one_of_ours_is_passed_over() {
        let credential = |name: &str| CredentialHeader { name: name.into(), scheme: None, kinds: Kinds::ALL };
        let credentials = [credential("authorization"), credential("x-api-key")];
        let identity = IdentityHeaders {
            subject: Some(format!("x-tollgate-{}", "long-".repeat(30)).into()),
            plane: Some("z-plane".into()),
            reserved_prefixes: vec!["x-tollgate-".into(), "-odd-".into()],
            ..IdentityHeaders::none()
        };
        let own = OwnHeaders::of(&credentials, &identity);
        let names = credentials.iter().map(|source| &*source.name).chain(OVERRIDES).chain(identity.names());
        let names: Vec<String> = names.map(str::to_owned).chain(["x-tollgate-a".into(), "-odd-b".into()]).collect();
        let mut tried = 0;
        for name in &names {
            // Every byte that is folded to the one that stands there, in each place.
            for (at, byte) in name.bytes().enumerate() {
                for other in (0..=255).filter(|other| folded(*other) == folded(byte)) {
                    let mut client = name.clone().into_bytes();
                    client[at] = other;
                    assert!(own.may_have(&client, &identity), "{name} with {other} at {at}");
                    tried += 1;
                }
            }
        }
        assert!(tried > 9_000, "{tried}");
        for other in ["", "accept", "content-length", "x-forwarded-for", "x-request-id", "a", "z"] {
            assert!(!own.may_have(other.as_bytes(), &identity), "{other}");
        }
    }
}
