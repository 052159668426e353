//! One YAML file to a compiled policy and the settings of the process. Reports every problem at once, each with its path;
//! never guesses what an unknown key meant.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::policy::Policy;
use crate::resolve::cache::Sizes;

/// A configuration file that holds together.
#[derive(Debug)]
pub struct Compiled {
    /// Takes effect on reload.
    pub policy: Policy,
    pub settings: Settings,
}

/// What the process is built from. Takes effect at start, but for `log`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub store: PathBuf,
    pub pepper: PepperSettings,
    pub check: CheckAddress,
    pub admin: Admin,
    pub ops: SocketAddr,
    pub reflection: bool,
    pub cache: Sizes,
    pub log: Log,
    /// How long calls in flight may take to finish after the signal to stop.
    pub drain: Duration,
    /// Threads that answer checks.
    pub workers: usize,
}

/// Where the peppers are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PepperSettings {
    /// The version that new keys are digested with.
    pub current: u32,
    pub files: Vec<(u32, PathBuf)>,
}

/// Where Envoy finds the ext_authz service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckAddress {
    Unix(UnixAddress),
    Tcp {
        address: SocketAddr,
        /// `None`: plaintext, which off loopback had to be said explicitly.
        tls: Option<Tls>,
    },
}

/// A Unix socket and who may open it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnixAddress {
    pub path: PathBuf,
    /// Permission bits, such as `0o660`.
    pub mode: u32,
    /// The name of the group the socket is given to.
    pub group: Option<String>,
}

/// Mutual TLS: our certificate and key, and the authority of our clients. PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub client_ca: PathBuf,
}

/// The doors of the admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admin {
    /// Whoever may open it is the operator.
    pub unix: UnixAddress,
    /// The whole API, authenticated.
    pub http: Option<SocketAddr>,
    /// The public-facing routes alone, authenticated.
    pub through_envoy: Option<SocketAddr>,
    /// Host names accepted besides `localhost` and loopback addresses.
    pub allowed_hosts: Vec<String>,
    pub key_defaults: KeyDefaults,
}

/// What a request for a key may leave out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyDefaults {
    pub plane: Option<String>,
    pub project: Option<String>,
    pub workloads: Option<Vec<String>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    pub level: LogLevel,
    pub decisions: LoggedDecisions,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
}

/// Which decisions get a log line of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoggedDecisions {
    None,
    Denied,
    All,
}
