//! Which door is held in which way, and where that would mean nothing.

/// Where strangers can knock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The ext_authz service over TCP, without TLS.
    Check,
    /// Live, ready and metrics.
    Ops,
    /// The whole admin API.
    Admin,
    /// What Envoy forwards to the admin API: logins.
    Login,
}

impl Door {
    pub fn name(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Ops => "ops",
            Self::Admin => "admin",
            Self::Login => "through-envoy",
        }
    }
}

/// What the strangers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Silent,
    /// Half of HTTP/2's preface.
    NoHandshake,
    HalfHeader,
    HalfBody,
    /// They ask and never read.
    Unread,
    /// They ask, and take it back at once.
    RapidReset,
    /// Signed by somebody else, in the name of a known key of this algorithm.
    Forged(&'static str),
    UnknownKeys,
    WrongPasswords,
}

pub struct Cell {
    pub door: Door,
    /// For the table.
    pub flood: &'static str,
    /// `None`: it would mean nothing.
    pub way: Option<Way>,
    pub why: &'static str,
}

impl Cell {
    pub fn name(&self) -> String {
        format!("{} {}", self.door.name(), self.flood)
    }
}

const fn cell(door: Door, flood: &'static str, way: Way) -> Cell {
    Cell { door, flood, way: Some(way), why: "" }
}

const fn nothing(door: Door, flood: &'static str, why: &'static str) -> Cell {
    Cell { door, flood, way: None, why }
}

const NO_PREFACE: &str = "HTTP/1.1 has no handshake but TLS, and this door has none";
const ONLY_HTTP_2: &str = "only HTTP/2 can take a request back";
const NO_BODIES: &str = "nothing here takes a body";
const NO_CREDENTIALS: &str = "nothing here takes a credential";
const NO_PASSWORDS: &str = "passwords are taken at the logins' door";
const AT_THE_CHECK: &str = "judged by what also answers checks: see check";

pub const CELLS: [Cell; 32] = [
    cell(Door::Check, "silent", Way::Silent),
    cell(Door::Check, "no handshake", Way::NoHandshake),
    cell(Door::Check, "half a header", Way::HalfHeader),
    cell(Door::Check, "half a body", Way::HalfBody),
    cell(Door::Check, "unread answers", Way::Unread),
    cell(Door::Check, "rapid reset", Way::RapidReset),
    cell(Door::Check, "forged RS256", Way::Forged("RS256")),
    cell(Door::Check, "forged PS256", Way::Forged("PS256")),
    cell(Door::Check, "forged ES256", Way::Forged("ES256")),
    cell(Door::Check, "forged ES384", Way::Forged("ES384")),
    cell(Door::Check, "forged EdDSA", Way::Forged("EdDSA")),
    cell(Door::Check, "unknown keys", Way::UnknownKeys),
    nothing(Door::Check, "wrong passwords", NO_PASSWORDS),
    cell(Door::Ops, "silent", Way::Silent),
    nothing(Door::Ops, "no handshake", NO_PREFACE),
    cell(Door::Ops, "half a header", Way::HalfHeader),
    nothing(Door::Ops, "half a body", NO_BODIES),
    cell(Door::Ops, "unread answers", Way::Unread),
    nothing(Door::Ops, "rapid reset", ONLY_HTTP_2),
    nothing(Door::Ops, "unknown keys", NO_CREDENTIALS),
    cell(Door::Admin, "silent", Way::Silent),
    cell(Door::Admin, "half a header", Way::HalfHeader),
    cell(Door::Admin, "half a body", Way::HalfBody),
    cell(Door::Admin, "unread answers", Way::Unread),
    cell(Door::Admin, "unknown keys", Way::UnknownKeys),
    nothing(Door::Admin, "forged tokens", AT_THE_CHECK),
    cell(Door::Login, "silent", Way::Silent),
    cell(Door::Login, "half a header", Way::HalfHeader),
    cell(Door::Login, "half a body", Way::HalfBody),
    cell(Door::Login, "unread answers", Way::Unread),
    cell(Door::Login, "wrong passwords", Way::WrongPasswords),
    nothing(Door::Login, "unknown keys", AT_THE_CHECK),
];
