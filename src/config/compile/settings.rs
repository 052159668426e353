//! Listeners, files and sizes: what the process is built from. Opens and reads nothing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tollgate_core::name::{NAME_RULE, is_name};
use tollgate_core::route::host_name;

use super::super::file;
use super::super::problems::{Findings, Path};
use super::super::{
    Admin, CheckAddress, KeyDefaults, Log, LogLevel, LoggedDecisions, PepperSettings, Settings, Tls, UnixAddress,
};
use super::paths::{MAX_SOCKET_PATH, path_given};
use crate::domain::duration;
use crate::registry::{Limits, ProjectQuotas, Quotas, Rate, Rates, Tombstones};
use crate::resolve::cache::Sizes;

/// Of the audit log: a day that somebody mistyped is bad enough.
const SHORTEST_KEPT: Duration = Duration::from_secs(24 * 3600);
const MAX_PEPPERS: usize = 4;
const MAX_WORKERS: usize = 64;

/// The settings; `None` if something is wrong with a listener.
pub(super) fn settings(file: &file::File, key_defaults: KeyDefaults, findings: &mut Findings) -> Option<Settings> {
    let listen = Path::of("listen");
    let store = super::store::store(file, findings);
    let pepper = pepper(&file.pepper, findings);
    let check = check(&file.listen.check, &listen.key("check"), findings);
    let admin = admin(&file.listen.admin, &listen.key("admin"), key_defaults, findings);
    let ops = address(&file.listen.ops.http, &listen.key("ops").key("http"), findings);
    let workers = file.workers.unwrap_or_else(|| {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        cores.min(MAX_WORKERS)
    });
    let settings = Settings {
        store: store?,
        demands_signatures: file.store.signed == file::Signed::Required,
        pepper,
        check: check?,
        admin: admin?,
        ops: ops?,
        reflection: file.listen.reflection,
        cache: Sizes { known: file.cache.known, unknown: file.cache.unknown, loads: file.cache.loads },
        log: log(&file.log),
        limits: limits(file, findings),
        drain: Duration::from_secs(file.drain.seconds),
        workers,
    };
    doors_apart(&settings, findings);
    Some(settings)
}

fn limits(file: &file::File, findings: &mut Findings) -> Limits {
    let file::Quotas { keys, users, resources, projects } = &file.quotas;
    let each = ProjectQuotas { keys: *keys, users: *users, resources: *resources };
    let path = Path::of("quotas").key("projects");
    for name in projects.keys().filter(|name| !is_name(name)) {
        findings.add(&path.key(name), format!("a project is {NAME_RULE}"));
    }
    let of = |(name, own): (&String, &file::ProjectQuotas)| {
        let (keys, users) = (own.keys.unwrap_or(each.keys), own.users.unwrap_or(each.users));
        (name.clone(), ProjectQuotas { keys, users, resources: own.resources.unwrap_or(each.resources) })
    };
    let quotas = Quotas { each, projects: projects.iter().map(of).collect() };
    let rate = |rate: file::Rate| Rate { burst: rate.burst, per_second: rate.per_second };
    Limits {
        rates: Rates { actor: rate(file.rates.actor), project: rate(file.rates.project) },
        quotas,
        audit_kept: audit_kept(file, findings),
        tombstones: tombstones(file, findings),
    }
}

fn tombstones(file: &file::File, findings: &mut Findings) -> Option<Tombstones> {
    let kept = Some(&*file.backup.keep).filter(|keep| *keep != "off")?;
    let backups_kept = kept_for(kept, &Path::of("backup").key("keep"), findings)?;
    let unknown = |plane: &file::Plane| plane.revoked != file::Revoked::FORBIDDEN;
    let planes = file.planes.iter().filter(|(_, plane)| unknown(plane)).map(|(name, _)| name.clone()).collect();
    Some(Tombstones { backups_kept, planes })
}

fn audit_kept(file: &file::File, findings: &mut Findings) -> Option<Duration> {
    kept_for(file.audit.keep.as_deref()?, &Path::of("audit").key("keep"), findings)
}

fn kept_for(text: &str, path: &Path, findings: &mut Findings) -> Option<Duration> {
    match duration::parse(text) {
        Ok(kept) if kept >= SHORTEST_KEPT => return Some(kept),
        Ok(_) => findings.add(path, "must be at least 1d"),
        Err(problem) => findings.add(path, problem),
    }
    None
}

fn pepper(pepper: &file::Pepper, findings: &mut Findings) -> PepperSettings {
    let path = Path::of("pepper");
    let keys = path.key("keys");
    match pepper.keys.len() {
        0 => findings.add(&keys, "needs at least one version"),
        1..=MAX_PEPPERS => {}
        count => findings.add(&keys, format!("has {count} versions, and at most {MAX_PEPPERS} are possible")),
    }
    let mut files: Vec<(u32, PathBuf)> = Vec::new();
    for (version, key) in &pepper.keys {
        let path = keys.key(version);
        match version.parse::<u32>().ok().filter(|number| *number >= 1 && number.to_string() == *version) {
            Some(number) => files.push((number, key.file.clone())),
            None => findings.add(&path, "a version is a whole number from 1"),
        }
        path_given(&key.file, &path.key("file"), findings);
        if files.iter().filter(|(_, file)| *file == key.file).count() > 1 {
            findings.add(&path.key("file"), "is the file of another version already");
        }
    }
    if !files.is_empty() && files.iter().all(|(version, _)| *version != pepper.current) {
        findings.add(&path.key("current"), format!("`{}` is no version in `pepper.keys`", pepper.current));
    }
    PepperSettings { current: pepper.current, files }
}

fn check(check: &file::Check, path: &Path, findings: &mut Findings) -> Option<CheckAddress> {
    match (&check.unix, &check.tcp) {
        (Some(socket), None) => unix(socket, 0o660, &path.key("unix"), findings).map(CheckAddress::Unix),
        (None, Some(given)) => tcp(given, &path.key("tcp"), findings),
        (Some(_), Some(_)) => {
            findings.add(path, "must have only one of `unix` and `tcp`");
            None
        }
        (None, None) => {
            findings.add(path, "must have one of `unix` and `tcp`");
            None
        }
    }
}

fn tcp(given: &file::Tcp, path: &Path, findings: &mut Findings) -> Option<CheckAddress> {
    let address = address(&given.address, &path.key("address"), findings);
    if let Some(tls) = &given.tls {
        for (key, file) in [("cert", &tls.cert), ("key", &tls.key), ("client_ca", &tls.client_ca)] {
            path_given(file, &path.key("tls").key(key), findings);
        }
        if given.plaintext {
            findings.add(&path.key("plaintext"), "contradicts `tls`");
        }
    }
    let address = address?;
    if !address.ip().is_loopback() && given.tls.is_none() && !given.plaintext {
        let problem = format!("`{address}` is not loopback, and API keys would cross the network unencrypted");
        findings.suggest(path, problem, Some("add `tls`, or say `plaintext: true`".to_owned()));
    }
    let tls = given.tls.as_ref().map(|tls| Tls {
        cert: tls.cert.clone(),
        key: tls.key.clone(),
        client_ca: tls.client_ca.clone(),
    });
    Some(CheckAddress::Tcp { address, tls })
}

fn unix(socket: &file::UnixSocket, mode: u32, path: &Path, findings: &mut Findings) -> Option<UnixAddress> {
    path_given(&socket.path, &path.key("path"), findings);
    if socket.path.as_os_str().len() > MAX_SOCKET_PATH {
        findings.add(&path.key("path"), format!("a socket's path has at most {MAX_SOCKET_PATH} bytes"));
    }
    if socket.group.as_ref().is_some_and(String::is_empty) {
        findings.add(&path.key("group"), "must not be empty");
    }
    let mode = match &socket.mode {
        None => Some(mode),
        Some(text) => {
            let octal = text.len() == 4 && text.starts_with('0') && text.bytes().all(|b| matches!(b, b'0'..=b'7'));
            let mode = u32::from_str_radix(text, 8).ok().filter(|_| octal);
            if mode.is_none() {
                findings.add(&path.key("mode"), "must be four octal digits in quotes, such as \"0660\"");
            }
            mode
        }
    };
    Some(UnixAddress { path: socket.path.clone(), mode: mode?, group: socket.group.clone() })
}

fn admin(doors: &file::AdminDoors, path: &Path, key_defaults: KeyDefaults, findings: &mut Findings) -> Option<Admin> {
    let unix = unix(&doors.unix, 0o600, &path.key("unix"), findings);
    if unix.as_ref().is_some_and(|unix| unix.mode & !0o660 != 0) {
        let problem = "must not be wider than \"0660\": whoever may open this socket is the operator";
        findings.add(&path.key("unix").key("mode"), problem);
    }
    let http = doors.http.as_deref().map(|text| address(text, &path.key("http"), findings));
    if let Some(Some(address)) = http.filter(|address| address.is_some_and(|address| !address.ip().is_loopback())) {
        let problem = format!("`{address}` is not loopback, and the whole admin API must not be exposed");
        let suggestion = "listen on 127.0.0.1; `through_envoy` is for what the public may reach";
        findings.suggest(&path.key("http"), problem, Some(suggestion.to_owned()));
    }
    let through_envoy = doors.through_envoy.as_deref();
    let through_envoy = through_envoy.map(|text| address(text, &path.key("through_envoy"), findings));
    for (at, host) in doors.allowed_hosts.iter().enumerate() {
        if host_name(host) != Some(host) || host.contains(char::is_uppercase) {
            let problem = format!("`{host}` is no host: write `api.example.com`, in lower case, without a port");
            findings.add(&path.key("allowed_hosts").index(at), problem);
        }
    }
    let through_envoy = given(through_envoy)?;
    let is_open = through_envoy.is_some_and(|address| !address.ip().is_loopback());
    if is_open && doors.demand_proof == Some(false) {
        let problem = "must be true where `through_envoy` is not on loopback: whoever reached it would be answered";
        findings.add(&path.key("demand_proof"), problem);
    }
    Some(Admin {
        unix: unix?,
        http: given(http)?,
        through_envoy,
        demands_proof: is_open || doors.demand_proof.unwrap_or_default(),
        allowed_hosts: doors.allowed_hosts.clone(),
        key_defaults,
    })
}

/// `None` if it was given and is wrong.
fn given(address: Option<Option<SocketAddr>>) -> Option<Option<SocketAddr>> {
    match address {
        None => Some(None),
        Some(address) => address.map(Some),
    }
}

fn address(text: &str, path: &Path, findings: &mut Findings) -> Option<SocketAddr> {
    let address = text.parse().ok();
    if address.is_none() {
        findings.add(path, format!("`{text}` is no IP address and port, such as `127.0.0.1:9180`"));
    }
    address
}

/// Two listeners cannot share an address; port 0 is any free one.
fn doors_apart(settings: &Settings, findings: &mut Findings) {
    let listen = Path::of("listen");
    let check = match &settings.check {
        CheckAddress::Unix(check) => {
            if check.path == settings.admin.unix.path {
                let path = listen.key("admin").key("unix").key("path");
                findings.add(&path, "is the socket of `listen.check` already");
            }
            None
        }
        CheckAddress::Tcp { address, .. } => Some(*address),
    };
    let doors = [
        ("listen.check.tcp", check, listen.key("check").key("tcp").key("address")),
        ("listen.admin.http", settings.admin.http, listen.key("admin").key("http")),
        ("listen.admin.through_envoy", settings.admin.through_envoy, listen.key("admin").key("through_envoy")),
        ("listen.ops.http", Some(settings.ops), listen.key("ops").key("http")),
    ];
    for (at, (_, address, path)) in doors.iter().enumerate() {
        let Some(address) = address.filter(|address| address.port() != 0) else { continue };
        let same = |other: SocketAddr| {
            other.port() == address.port()
                && (other.ip() == address.ip() || other.ip().is_unspecified() || address.ip().is_unspecified())
        };
        if let Some((other, ..)) = doors[..at].iter().find(|(_, other, _)| other.is_some_and(same)) {
            findings.add(path, format!("`{address}` is taken by `{other}`"));
        }
    }
}

pub(super) fn log(log: &file::Log) -> Log {
    Log {
        level: match log.level {
            file::LogLevel::Error => LogLevel::Error,
            file::LogLevel::Warn => LogLevel::Warn,
            file::LogLevel::Info => LogLevel::Info,
            file::LogLevel::Debug => LogLevel::Debug,
        },
        decisions: match log.decisions {
            file::LoggedDecisions::None => LoggedDecisions::None,
            file::LoggedDecisions::Denied => LoggedDecisions::Denied,
            file::LoggedDecisions::All => LoggedDecisions::All,
        },
    }
}
