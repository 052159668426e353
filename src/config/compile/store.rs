//! The store: a file, or the location of a Redis. Opens and reads nothing, and never repeats a URL, which may hold a password.

use std::collections::HashSet;
use std::path::PathBuf;
use std::time::Duration;

use tollgate_core::name::{NAME_RULE, is_name};

use super::super::file;
use super::super::problems::{Findings, Path};
use super::super::{RedisSettings, StoreSettings};
use super::paths::{MAX_SOCKET_PATH, path_given};
use crate::domain::duration;
use crate::store::redis::location::{Address, Location, Login, TlsFiles, Topology};

const REDIS_PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26379;
const MAX_ADDRESSES: usize = 64;
/// A key that was revoked while the store could not be reached must not live on for longer.
const LONGEST_GRACE: Duration = Duration::from_secs(3600);

/// The store; `None` if it cannot be told which.
pub(super) fn store(file: &file::File, findings: &mut Findings) -> Option<StoreSettings> {
    let (store, path) = (&file.store, Path::of("store"));
    let position = file.fleet.as_ref().and_then(|fleet| fleet.position.as_ref());
    if let Some(position) = position {
        let path = Path::of("fleet").key("position");
        path_given(position, &path, findings);
        if store.redis.is_none() && store.embedded.is_some() {
            findings.add(&path, "has a meaning only with `store.redis`");
        }
    }
    match (&store.embedded, &store.redis) {
        (Some(embedded), None) => {
            path_given(&embedded.path, &path.key("embedded").key("path"), findings);
            Some(StoreSettings::Embedded(embedded.path.clone()))
        }
        (None, Some(redis)) => {
            let settings = self::redis(redis, &path.key("redis"), findings);
            settings.map(|redis| StoreSettings::Redis(Box::new(RedisSettings { position: position.cloned(), ..redis })))
        }
        (Some(_), Some(_)) => {
            findings.add(&path, "must have only one of `embedded` and `redis`");
            None
        }
        (None, None) => {
            findings.add(&path, "must have one of `embedded` and `redis`");
            None
        }
    }
}

/// How long the cached keys of a plane stay valid when the store cannot be reached.
pub(super) fn grace(plane: &file::Plane, store: &file::Store, path: &Path, findings: &mut Findings) -> Duration {
    let Some(text) = &plane.grace else { return Duration::ZERO };
    let grace = match duration::parse(text) {
        Ok(grace) => grace,
        Err(problem) => {
            findings.add(path, problem);
            return Duration::ZERO;
        }
    };
    if grace > LONGEST_GRACE {
        let problem = format!("must be at most {} minutes", LONGEST_GRACE.as_secs() / 60);
        findings.suggest(path, problem, Some("a key that is revoked meanwhile goes on for as long".to_owned()));
    } else if plane.admin && !grace.is_zero() {
        findings.add(path, "is not possible on an admin plane: its keys end when the store cannot be asked");
    } else if store.redis.is_none() && store.embedded.is_some() && !grace.is_zero() {
        findings.add(path, "has a meaning only with `store.redis`");
    }
    grace
}

fn redis(redis: &file::Redis, path: &Path, findings: &mut Findings) -> Option<RedisSettings> {
    let location = match (&redis.url, &redis.sentinel, &redis.cluster) {
        (Some(url), None, None) => self::url(url, redis.tls.is_some(), &path.key("url"), findings)
            .map(|(address, is_secure)| (Topology::Single(address), is_secure)),
        (None, Some(sentinel), None) => {
            self::sentinel(sentinel, &path.key("sentinel"), findings).map(|topology| (topology, redis.tls.is_some()))
        }
        (None, None, Some(cluster)) => {
            let addresses = addresses(&cluster.addresses, REDIS_PORT, &path.key("cluster").key("addresses"), findings);
            addresses.map(|addresses| (Topology::Cluster(addresses), redis.tls.is_some()))
        }
        (None, None, None) => {
            findings.add(path, "must have one of `url`, `sentinel` and `cluster`");
            None
        }
        _ => {
            findings.add(path, "must have only one of `url`, `sentinel` and `cluster`");
            None
        }
    };
    let login = login(redis.username.as_deref(), redis.password.as_ref(), path, findings);
    let tls = redis.tls.as_ref().map(|tls| self::tls(tls, &path.key("tls"), findings));
    if let Some(name) = redis.name.as_deref().filter(|name| !is_name(name)) {
        findings.add(&path.key("name"), format!("`{name}` is not possible: it is {NAME_RULE}"));
    }
    if redis.failover.is_some() && redis.url.is_none() {
        findings.add(
            &path.key("failover"),
            "has a meaning only with `url`: Sentinel and a Cluster tell of their failovers",
        );
    }
    let (topology, is_secure) = location?;
    let tls = is_secure.then(|| tls.unwrap_or_default());
    let is_managed = redis.failover == Some(file::Failovers::Managed);
    let location = Location { topology, login, tls, replicas: redis.replicas, is_managed };
    Some(RedisSettings { location, name: redis.name.clone(), position: None })
}

/// The address, and whether it is spoken to over TLS.
fn url(url: &str, tls_given: bool, path: &Path, findings: &mut Findings) -> Option<(Address, bool)> {
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    if scheme == "unix" {
        if tls_given {
            findings.add(path, "is a Unix socket, over which there is no TLS: leave out `tls`");
        }
        if !rest.starts_with('/') || rest.contains(['?', '#']) {
            findings.add(path, "must name a socket by its whole path, such as `unix:///run/redis.sock`");
            return None;
        }
        if rest.len() > MAX_SOCKET_PATH {
            findings.add(path, format!("a socket's path has at most {MAX_SOCKET_PATH} bytes"));
        }
        return Some((Address::Unix(PathBuf::from(rest)), false));
    }
    if !matches!(scheme, "redis" | "rediss") {
        findings.add(path, "must begin with `redis://`, `rediss://` or `unix://`");
        return None;
    }
    if rest.contains('@') {
        let suggestion = "give `username`, and `password: {file: …}`, beside it";
        findings.suggest(path, "must not hold a user or a password", Some(suggestion.to_owned()));
        return None;
    }
    let (authority, behind) = rest.split_once(['/', '?', '#']).unwrap_or((rest, ""));
    if !matches!(behind, "" | "0") {
        findings
            .add(path, "must end with the port: records are always in database 0, and settings have keys of their own");
    }
    if tls_given && scheme == "redis" {
        findings.suggest(path, "contradicts `tls`", Some("write `rediss://`".to_owned()));
    }
    let address = Address::tcp(authority, REDIS_PORT);
    if address.is_none() {
        findings.add(path, "must name a host, such as `redis://redis.example.com:6379`");
    }
    address.map(|address| (address, scheme == "rediss"))
}

fn sentinel(sentinel: &file::Sentinel, path: &Path, findings: &mut Findings) -> Option<Topology> {
    if sentinel.master.is_empty() || sentinel.master.contains(|c: char| c.is_whitespace() || c.is_control()) {
        findings.add(&path.key("master"), "must be the name in `sentinel monitor`, without blanks");
    }
    let login = login(sentinel.username.as_deref(), sentinel.password.as_ref(), path, findings);
    let sentinels = addresses(&sentinel.addresses, SENTINEL_PORT, &path.key("addresses"), findings)?;
    Some(Topology::Sentinel { sentinels, master: sentinel.master.clone(), login })
}

/// Every one of them, or `None`.
fn addresses(given: &[String], port: u16, path: &Path, findings: &mut Findings) -> Option<Vec<Address>> {
    if given.len() > MAX_ADDRESSES {
        findings.add(path, format!("has {} entries, and at most {MAX_ADDRESSES} are possible", given.len()));
    }
    let mut seen = HashSet::new();
    let mut found = Vec::new();
    for (at, text) in given.iter().enumerate() {
        let path = path.index(at);
        // It may hold a password if it was meant as a URL.
        match Address::tcp(text, port) {
            None => findings.add(&path, format!("must be a host and a port, such as `redis-1.example.com:{port}`")),
            Some(address) if !seen.insert(address.clone()) => findings.add(&path, format!("`{address}` stands twice")),
            Some(address) => found.push(address),
        }
    }
    (!given.is_empty() && found.len() == given.len()).then_some(found)
}

fn login(username: Option<&str>, password: Option<&file::SecretFile>, path: &Path, findings: &mut Findings) -> Login {
    if let Some(password) = password {
        path_given(&password.file, &path.key("password").key("file"), findings);
    }
    if let Some(username) = username {
        if username.is_empty() || username.contains(|c: char| c.is_whitespace() || c.is_control()) {
            findings.add(&path.key("username"), "must be the name of a user, without blanks");
        }
        if password.is_none() {
            findings.add(&path.key("password"), "is missing: a user has one");
        }
    }
    Login { username: username.map(str::to_owned), password: password.map(|password| password.file.clone()) }
}

fn tls(tls: &file::ClientTls, path: &Path, findings: &mut Findings) -> TlsFiles {
    for (key, file) in [("ca", &tls.ca), ("certificate", &tls.certificate), ("key", &tls.key)] {
        if let Some(file) = file {
            path_given(file, &path.key(key), findings);
        }
    }
    let identity = match (&tls.certificate, &tls.key) {
        (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
        (Some(_), None) => {
            findings.add(&path.key("key"), "is missing: a certificate needs its key");
            None
        }
        (None, Some(_)) => {
            findings.add(&path.key("certificate"), "is missing: a key needs its certificate");
            None
        }
        (None, None) => None,
    };
    TlsFiles { ca: tls.ca.clone(), identity }
}
