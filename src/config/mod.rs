//! One YAML file to a compiled policy and the settings of the process. Reports every problem at once, each with its path;
//! never guesses what an unknown key meant.

mod compile;
pub mod envoy;
mod file;
mod problems;
pub mod reload;
mod shape;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tollgate_core::policy::Policy;

use crate::registry::Limits;
use crate::resolve::cache::Sizes;
use crate::store::redis::location::Location;

pub use problems::{Problem, Problems};

/// Reads and compiles a configuration file. Opens nothing that it names.
///
/// # Errors
/// Every [`Problem`] of the file, or the one that it could not be read.
pub fn load(path: &Path) -> Result<Compiled, Problems> {
    parse(&read(path)?)
}

/// Compiles the text of a configuration file.
///
/// # Errors
/// Every [`Problem`] of the text.
pub fn parse(text: &str) -> Result<Compiled, Problems> {
    let shape::Shaped { file, mut findings, misread } = shape::read(text)?;
    let mut meaning = problems::Findings::default();
    let compiled = compile::compile(&file, &mut meaning);
    findings.merge(meaning, misread);
    match compiled {
        Some(compiled) if findings.is_empty() => Ok(compiled),
        _ => Err(findings.into_problems()),
    }
}

/// The JSON Schema of the configuration file.
pub fn schema() -> serde_json::Value {
    let mut schema = schemars::schema_for!(file::File).to_value();
    unwrap_lines(&mut schema);
    if let serde_json::Value::Object(map) = &mut schema {
        for key in ["description", "title", "$schema"] {
            if let Some(value) = map.shift_remove(key) {
                map.shift_insert(0, key.to_owned(), value);
            }
        }
    }
    schema
}

/// Descriptions come with the line breaks of our source; those between paragraphs stay.
fn unwrap_lines(schema: &mut serde_json::Value) {
    match schema {
        serde_json::Value::Object(map) => {
            if let Some(serde_json::Value::String(text)) = map.get_mut("description") {
                let paragraphs: Vec<String> = text.split("\n\n").map(|lines| lines.replace('\n', " ")).collect();
                *text = paragraphs.join("\n\n");
            }
            map.values_mut().for_each(unwrap_lines);
        }
        serde_json::Value::Array(list) => list.iter_mut().for_each(unwrap_lines),
        _ => {}
    }
}

fn read(path: &Path) -> Result<String, Problems> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let limit = u64::try_from(shape::MAX_BYTES).unwrap_or(u64::MAX).saturating_add(1);
    std::fs::File::open(path)
        .and_then(|file| file.take(limit).read_to_end(&mut bytes))
        .map_err(|error| Problems::one(format!("cannot read {}: {error}", path.display())))?;
    String::from_utf8(bytes).map_err(|_| Problems::one(format!("{} is not UTF-8 text", path.display())))
}

/// A configuration file that holds together.
#[derive(Debug)]
pub struct Compiled {
    /// Takes effect on reload.
    pub policy: Policy,
    pub settings: Settings,
}

/// What the process is built from. Takes effect at start, but for `log` and `limits`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub store: StoreSettings,
    /// Whether a store is refused whose records need no signature.
    pub demands_signatures: bool,
    pub pepper: PepperSettings,
    pub check: CheckAddress,
    pub admin: Admin,
    pub ops: SocketAddr,
    pub reflection: bool,
    pub cache: Sizes,
    pub log: Log,
    pub limits: Limits,
    /// How long calls in flight may take to finish after the signal to stop.
    pub drain: Duration,
    /// Threads that answer checks.
    pub workers: usize,
}

/// Where what is durable is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreSettings {
    /// The file.
    Embedded(PathBuf),
    Redis(Box<RedisSettings>),
}

/// The store of a fleet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisSettings {
    pub location: Location,
    /// What this process is called in lists; `None`: as its host.
    pub name: Option<String>,
    /// Where it keeps how far it has followed the store; `None`: nowhere.
    pub position: Option<PathBuf>,
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
    /// Whether what comes there must prove that it passed the check.
    pub demands_proof: bool,
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
