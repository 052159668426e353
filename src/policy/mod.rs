//! The rules: what a request needs, who may have it, and how the answer reads. Synchronous and pure: no clock, socket,
//! log or lock, so that the same core runs in a server, a command line or a fuzzer.

pub mod authorize;
pub mod carriage;
pub mod case;
pub mod error_body;
pub mod extract;
pub mod issuer;
pub mod login;
pub mod path;
mod path_table;
pub mod redact;
pub mod respond;
pub mod route;

use std::time::Duration;

use crate::domain::attributes::Attributes;
use crate::domain::decision::{Step, Trace};
use crate::domain::denial::Denial;
use authorize::Permit;
use carriage::Carriage;
use error_body::ErrorShape;
use extract::{Credential, CredentialHeader, Extracted};
use issuer::Issuer;
use login::Login;
use route::{Access, Matched, Requirement, RouteTable};

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
    pub client_ip: ClientIp,
    pub carriage: Carriage,
    /// The protection space named in `WWW-Authenticate`.
    pub realm: Box<str>,
    /// For requests that match no host.
    pub errors: ErrorShape,
    pub routes: RouteTable,
}

/// Index of a plane in [`Policy::planes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlaneId(pub u8);

/// A kind of key, told by its prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plane {
    pub name: Box<str>,
    /// Without the `_` that ends it in a key. No prefix begins another.
    pub prefix: Box<str>,
    pub revoked: RevokedStatus,
    /// Only on such a plane do administrative permissions exist.
    pub admin: bool,
    /// How long what is cached stays good after a fleet's store has fallen silent, beyond what is certain.
    pub grace: Duration,
}

/// What a revoked or retired key of a plane is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevokedStatus {
    /// 401, as if it were unknown.
    Unauthenticated,
    /// 403.
    Forbidden,
}

/// Permissions over Tollgate itself. They exist only on planes marked `admin`.
pub const ADMIN_PERMISSIONS: [&str; 5] =
    ["manage_keys", "manage_resources", "manage_secrets", "manage_users", "view_audit_logs"];

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
    pub fn reserves(&self, name: &str) -> bool {
        self.reserved_prefixes.iter().any(|prefix| {
            name.len() >= prefix.len() && same_header(&name.as_bytes()[..prefix.len()], prefix.as_bytes())
        }) || self.names().any(|own| same_header(own.as_bytes(), name.as_bytes()))
    }
}

/// Header names that some back end takes for the same: neither case counts, nor which character that is no letter or digit
/// stands in a place. CGI and WSGI make `_` of a dash, PHP of a dot, Apache's CGI of everything.
pub fn same_header(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(&x, &y)| FOLDED[usize::from(x)] == FOLDED[usize::from(y)])
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
                .filter(|header| header.name.eq_ignore_ascii_case("x-forwarded-for"))
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
    pub fn plane(&self, id: PlaneId) -> &Plane {
        &self.planes[usize::from(id.0)]
    }

    pub fn plane_named(&self, name: &str) -> Option<PlaneId> {
        let at = self.planes.iter().position(|plane| &*plane.name == name)?;
        u8::try_from(at).ok().map(PlaneId)
    }
}

/// What a request turns out to be before anybody was asked who sent it.
#[derive(Debug)]
pub enum Admission<'r> {
    /// The route is public: nothing is extracted, nothing asked.
    Public(Permit<'r>),
    Guarded(Ask<'r>),
}

/// A guarded request with one well-formed credential of the right plane.
#[derive(Clone, Debug)]
pub struct Ask<'r> {
    pub credential: Credential<'r>,
    pub(in crate::policy) request: Matched<'r>,
    pub(in crate::policy) requirement: &'r Requirement,
    pub(in crate::policy) plane: &'r Plane,
}

impl Ask<'_> {
    /// How long what is cached of who asks stays good after the store has fallen silent.
    pub fn grace(&self) -> Duration {
        self.plane.grace
    }
}

/// Steps 1 and 2: which route this is, and the one credential it carries, judged by all that needs no look-up.
///
/// # Errors
/// The [`Denial`] that a look-up could not change: no such host or route, a path that is not canonical, no credential
/// or more than one, a malformed one, one of another kind or plane, one sent from a browser.
pub fn admit<'r>(policy: &'r Policy, request: &'r Attributes<'r>, trace: &mut Trace) -> Result<Admission<'r>, Denial> {
    if redact::holds_key(&policy.planes, request.target) {
        return Err(Denial::CredentialInTarget);
    }
    let matched = policy.routes.find(request, trace)?;
    trace.step = Step::Extract;
    policy.carriage.admit(request)?;
    let requirement = match &matched.route.access {
        Access::Public => return Ok(Admission::Public(Permit::public(&matched))),
        Access::Guarded(requirement) => requirement,
    };
    #[cfg(feature = "test-panic")]
    panic_if_asked(request);
    let credential = match extract::one_credential(policy, request)? {
        Extracted::ApiKey(plane, key) => {
            trace.key_id = Some(key.id());
            if plane != requirement.plane {
                return Err(Denial::WrongPlane);
            }
            if !requirement.browsers && request.values("origin").next().is_some() {
                return Err(Denial::BrowserOrigin);
            }
            Credential::ApiKey(key)
        }
        // Which plane it stands on, its issuer says.
        Extracted::Jwt(token) => Credential::Jwt(token),
    };
    let taken = match credential {
        Credential::ApiKey(_) => requirement.kinds.api_key,
        Credential::Jwt(_) => requirement.kinds.jwt,
    };
    if !taken {
        return Err(Denial::CredentialKind);
    }
    Ok(Admission::Guarded(Ask { credential, request: matched, requirement, plane: policy.plane(requirement.plane) }))
}

/// A bug on demand: the proof that a panic in a rule is a 500 to that one request. Not in any release.
#[cfg(feature = "test-panic")]
#[expect(clippy::panic, reason = "it is what the feature is for")]
fn panic_if_asked(request: &Attributes<'_>) {
    if request.values("x-test-panic").next().is_some() {
        panic!("a rule panicked, as the test asked");
    }
}
