//! The listeners, as serde reads them. No logic.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The listeners.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// The ext_authz service that Envoy asks: exactly one of `unix` and `tcp`.
    pub check: Check,
    /// The admin API.
    pub admin: AdminDoors,
    /// Liveness, readiness and metrics.
    pub ops: Ops,
    /// Whether the ext_authz listener answers gRPC reflection.
    #[serde(default)]
    pub reflection: bool,
}

/// Where Envoy finds the ext_authz service.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// A Unix socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "UnixSocket")]
    pub unix: Option<UnixSocket>,
    /// A TCP address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Tcp")]
    pub tcp: Option<Tcp>,
}

/// A Unix socket and who may open it.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct UnixSocket {
    /// The socket; a stale one is replaced.
    pub path: PathBuf,
    /// Its permission bits in octal, in quotes. By default "0660" for `check` and "0600" for `admin`, which can never be wider
    /// than "0660".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub mode: Option<String>,
    /// The group it is given to. By default that of the process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub group: Option<String>,
}

/// A TCP address. Off loopback it needs `tls`, or `plaintext: true` said explicitly.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tcp {
    /// IP address and port, such as `127.0.0.1:9180`.
    pub address: String,
    /// Mutual TLS.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Tls")]
    pub tls: Option<Tls>,
    /// Whether API keys may cross the network unencrypted.
    #[serde(default)]
    pub plaintext: bool,
}

/// Mutual TLS, in PEM files.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Our certificate and its chain.
    pub cert: PathBuf,
    /// Our private key.
    pub key: PathBuf,
    /// The authority that signs the certificates of our clients.
    pub client_ca: PathBuf,
}

/// The doors of the admin API.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminDoors {
    /// For the command line. Whoever may open it is the operator.
    pub unix: UnixSocket,
    /// The whole API, authenticated: a loopback address and a port. By default there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub http: Option<String>,
    /// The public-facing routes alone, authenticated, for an Envoy cluster: IP address and port. By default there is none. Off
    /// loopback it answers what passed the check alone, which a header proves that Tollgate sets when it allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub through_envoy: Option<String>,
    /// Whether `through_envoy` asks for that proof. By default where it is not on loopback, and always there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "bool")]
    pub demand_proof: Option<bool>,
    /// Host headers that are accepted besides `localhost` and loopback addresses.
    #[serde(default)]
    pub allowed_hosts: Vec<String>,
}

/// Liveness, readiness and metrics: `/live`, `/ready`, `/metrics`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Ops {
    /// IP address and port, such as `127.0.0.1:9182`.
    pub http: String,
}
