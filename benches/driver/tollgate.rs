//! Tollgate as an operator runs it: the release binary, a configuration file, metrics and logs on, one worker.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;

use crate::Outcome;
use crate::jwt::{ISSUER, JWKS};
use crate::keys::{Keys, PREFIX, PROJECT};
use crate::payload::{HOST, PATH};
use crate::process::{self, LOAD_CORE, Server, free_address, get, output_of};

/// A running Tollgate.
pub struct Tollgate {
    pub server: Server,
    /// `ADDRESS:PORT` or `unix:PATH`.
    pub check: String,
    /// From exec to ready.
    pub started_in: Duration,
    /// Where users log in, as Envoy forwards them.
    pub door: SocketAddr,
    /// The whole admin API.
    pub admin: SocketAddr,
    /// The admin socket.
    pub socket: PathBuf,
    pub ops: SocketAddr,
}

/// Where it listens besides its check listener.
struct Doors {
    ops: SocketAddr,
    login: SocketAddr,
    admin: SocketAddr,
    socket: PathBuf,
}

/// What was counted in its metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counted {
    pub allowed: f64,
    pub denied: f64,
    /// Among the denied, for want of the truth.
    pub unavailable: f64,
}

impl Tollgate {
    /// Starts `binary` on a core, with its check listener on a Unix socket in `folder` or on loopback.
    pub fn start(binary: &Path, folder: &Path, keys: &Keys, core: usize, unix: bool) -> Outcome<Self> {
        let store = format!("{{embedded: {{path: {}}}}}", keys.store.display());
        Self::start_on(&store, binary, folder, keys, core, unix)
    }

    /// The same with another store: what a configuration says of it.
    pub fn start_on(store: &str, binary: &Path, folder: &Path, keys: &Keys, core: usize, unix: bool) -> Outcome<Self> {
        let socket = folder.join("admin.sock");
        let doors = Doors { ops: free_address()?, login: free_address()?, admin: free_address()?, socket };
        let ops = doors.ops;
        let (check, listen) = if unix {
            let socket = folder.join("check.sock");
            (format!("unix:{}", socket.display()), format!("unix: {{path: {}, mode: \"0600\"}}", socket.display()))
        } else {
            let address = free_address()?;
            (address.to_string(), format!("tcp: {{address: {address}}}"))
        };
        let file = configuration(store, folder, keys, &listen, &doors)?;
        let mut command = process::pinned(core, binary);
        command.arg("serve").arg("--config").arg(file);
        let mut server = Server::start("tollgate", command, &folder.join("tollgate.log"))?;
        let started_in = server
            .wait_for(Duration::from_secs(60), || get(ops, "/ready").is_ok())
            .map_err(|error| format!("{error}; see {}", folder.join("tollgate.log").display()))?;
        let Doors { login: door, admin, socket, .. } = doors;
        Ok(Self { server, check, started_in, door, admin, socket, ops })
    }

    /// The decisions that its metrics count.
    pub fn counted(&self) -> Outcome<Counted> {
        let mut counted = Counted::default();
        for line in get(self.ops, "/metrics")?.lines().filter(|line| line.starts_with("tollgate_checks_total{")) {
            let (labels, value) = line.rsplit_once(' ').ok_or("an odd metric")?;
            let sum = if labels.contains(r#"decision="allow""#) { &mut counted.allowed } else { &mut counted.denied };
            *sum += value.parse::<f64>()?;
            if labels.contains(r#"reason="unavailable""#) {
                counted.unavailable += value.parse::<f64>()?;
            }
        }
        Ok(counted)
    }

    /// Runs the command line against the admin socket, and gives what it printed.
    pub fn cli(&self, binary: &Path, arguments: &[&str]) -> Outcome<String> {
        let mut command = process::pinned(LOAD_CORE, binary);
        output_of(command.args(arguments).arg("--socket").arg(&self.socket))
    }

    /// Makes a key of the project for every workload, and gives its text.
    pub fn create_key(&self, binary: &Path, name: &str, plane: &str, permissions: &str) -> Outcome<String> {
        let made = ["keys", "create", "-q", "--name", name, "--plane", plane, "--permissions", permissions];
        let text = self.cli(binary, &[&made[..], &["--project", PROJECT, "--workloads", "*"]].concat())?;
        Ok(text.trim().to_owned())
    }

    pub fn stop(self) -> Outcome<()> {
        self.server.stop(Signal::TERM)
    }
}

fn configuration(store: &str, folder: &Path, keys: &Keys, check: &str, doors: &Doors) -> Outcome<PathBuf> {
    let text = format!(
        "version: 1
store: {store}
pepper: {{current: 1, keys: {{1: {{file: {pepper}}}}}}}
listen:
  check: {{{check}}}
  admin: {{unix: {{path: {socket}, mode: \"0600\"}}, http: {admin}, through_envoy: {login}}}
  ops: {{http: {ops}}}
client_ip: {{from: x-envoy-external-address}}
planes:
  data: {{prefix: {PREFIX}, revoked: 401}}
  admin: {{prefix: ik_adm, revoked: 401, admin: true}}
login: {{issuer: \"https://tollgate.example.com\", plane: admin}}
issuers:
  - {{name: sso, issuer: \"{ISSUER}\", audience: [tollgate], jwks: {{file: {jwks}}}, plane: data, project: acme, unknown_projects: allow,
     workloads: [\"*\"], permissions: [run_inference],
     algorithms: [RS256, PS256, ES256, ES384, EdDSA]}}
permissions: [run_inference]
credentials:
  - {{header: authorization, scheme: Bearer, kinds: [api_key, jwt]}}
  - {{header: x-api-key}}
hosts:
  - match: [{HOST}]
    routes:
      - {{name: health, match: [GET /healthz], public: true}}
      - {{name: chat, match: [\"POST {PATH}\", \"GET {PATH}\"], plane: data, all_of: [run_inference],
         in: {{project: key, workload: key}}}}
quotas: {{keys: 2000000}}
cache: {{known: 1000000, unknown: 20000, loads: 256}}
log: {{level: info, decisions: denied}}
workers: 1
",
        pepper = keys.pepper.display(),
        jwks = folder.join(JWKS).display(),
        socket = doors.socket.display(),
        admin = doors.admin,
        login = doors.login,
        ops = doors.ops,
    );
    let file = folder.join("tollgate.yaml");
    std::fs::write(&file, text)?;
    Ok(file)
}
