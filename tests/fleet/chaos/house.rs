//! A fleet on one store: replicas in this process, each with a thread, connections and caches of its own, and real processes
//! beside them. Ends with its test.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tollgate::config::{Compiled, StoreSettings};
use tollgate::domain::change::Event;
use tollgate::fleet::handle::Fleet;
use tollgate::fleet::report::Waited;
use tollgate::registry::{Actor, Expected, KeySpec, RegistryError};
use tollgate::resolve::api_key::Digester;
use tollgate::resolve::cache::Sizes;
use tollgate::run::Core;
use tollgate::run::store::{Opened, open};
use tollgate::store::redis::connect::Connector;
use tollgate::store::redis::{Init, Redis};
use tollgate::tasks::Tasks;
use tollgate::{config, pepper};
use tollgate_core::attributes::{Attributes, Header};
use tollgate_core::policy::Policy;
use tollgate_core::respond::Decision;
use tollgate_guard::slots::Touched;

use super::load::{Answer, Key, PROMISED};
use super::process::Process;
use super::servers::{self, free_port};

pub const HOST: &str = "api.example.com";
pub const TARGET: &str = "/v1/chat/completions";

/// How long Envoy waits for an answer.
const ENVOY: Duration = Duration::from_millis(200);
/// How long anything may take that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(60);

const PEPPER: &str = "000102030405060708090a0b0c0d0e0ff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";
/// The one that the keys of `tests/store/earlier` were made with.
const EARLIER_PEPPER: &str = "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a";

const CONFIG: &str = r#"
version: 1
store: {redis: {STORE}}
pepper: {current: 1, keys: {1: {file: FOLDER/pepper.1}}}
listen:
  check: {unix: {path: FOLDER/check.sock, mode: "0600"}}
  admin: {unix: {path: FOLDER/admin.sock, mode: "0600"}}
  ops: {http: "127.0.0.1:OPS"}
planes:
  data: {prefix: ik_live, revoked: 401}
permissions: [run_inference]
hosts:
  - match: [api.example.com]
    routes:
      - {name: chat, match: [POST /v1/chat/completions], plane: data, all_of: [run_inference], in: {project: key}}
log: {level: warn, decisions: none}
workers: 1
"#;

/// Somebody who answers checks. Cheap to clone.
#[derive(Clone, Debug)]
pub enum Replica {
    Here(Here),
    Process(Arc<Process>),
}

impl Replica {
    pub async fn ask(&self, key: &str) -> Answer {
        let answer = async {
            match self {
                Self::Here(here) => here.decide(key).await,
                Self::Process(process) => process.check(key).await,
            }
        };
        tokio::time::timeout(ENVOY, answer).await.unwrap_or(Answer::Unavailable)
    }
}

/// A replica in this process.
#[derive(Clone, Debug)]
pub struct Here {
    pub core: Core,
    pub fleet: Fleet,
    pub policy: Arc<Policy>,
}

impl Here {
    async fn decide(&self, key: &str) -> Answer {
        let value = format!("Bearer {key}");
        let headers = vec![Header::new("authorization", value.as_bytes())];
        let request = Attributes { method: "POST", target: TARGET, host: HOST, headers, ..Attributes::default() };
        match self.core.pipeline.decide(&self.policy, &request).await {
            Decision::Allow(_) => Answer::Allowed,
            Decision::Deny(denied) if denied.status == 503 => Answer::Unavailable,
            Decision::Deny(denied) => Answer::Denied(denied.status),
        }
    }

    pub async fn make_key(&self, expires_in: Option<Duration>) -> Arc<Key> {
        let spec = KeySpec {
            name: "chaos".to_owned(),
            plane: "data".to_owned(),
            project: "acme".to_owned(),
            workloads: vec!["*".to_owned()],
            permissions: vec!["run_inference".to_owned()],
            expires_in,
        };
        let made = self.core.registry.create_key(&self.policy, &Actor::operator(), spec, None).await.unwrap();
        Arc::new(Key::new(made.record.id, made.secret.expose().to_owned()))
    }

    pub async fn make_keys(&self, count: usize) -> Vec<Arc<Key>> {
        stream::iter(0..count).map(|_| self.make_key(None)).buffered(8).collect().await
    }

    /// Gives the moment of the acknowledgement. Nobody may be allowed with the key from `PROMISED` after it.
    pub async fn revoke(&self, key: &Key) -> Result<Instant, RegistryError> {
        self.revoke_numbered(key).await.map(|(acknowledged, _)| acknowledged)
    }

    async fn revoke_numbered(&self, key: &Key) -> Result<(Instant, u64), RegistryError> {
        key.begin_to_end();
        let made = self.core.registry.revoke_key(&Actor::operator(), key.id, Expected::Any).await?;
        let acknowledged = Instant::now();
        key.bar_from(acknowledged + PROMISED);
        Ok((acknowledged, made.sequence.unwrap()))
    }

    /// Revokes and waits; gives the moment of the acknowledgement, and how many could still allow when the wait was over.
    pub async fn revoke_and_wait(&self, key: &Key) -> Result<(Instant, usize), RegistryError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let lineages = self.fleet.lineages();
            let (acknowledged, sequence) = self.revoke_numbered(key).await?;
            match self.fleet.wait(sequence, lineages, Duration::from_secs(5)).await? {
                Waited::Done(report) if report.lagging.is_empty() => {
                    key.bar_from(Instant::now());
                    return Ok((acknowledged, 0));
                }
                Waited::Done(report) => return Ok((acknowledged, report.lagging.len())),
                Waited::StartOver => assert!(Instant::now() < deadline, "the wait starts over without an end"),
            }
        }
    }
}

/// A store and what its replicas are configured with.
#[derive(Debug)]
pub struct House {
    pub server: servers::Server,
    folder: TempDir,
    pepper: &'static str,
    /// What the one route demands.
    permission: &'static str,
}

impl House {
    /// On a server with these settings beside its own.
    pub async fn with(settings: &[&str]) -> Self {
        let server = tokio::task::block_in_place(|| servers::Server::with(settings));
        let folder = tempfile::tempdir().unwrap();
        let house = Self { server, folder, pepper: PEPPER, permission: "run_inference" };
        write_pepper(&house.folder);
        assert!(matches!(house.init().await, Init::Made { .. }));
        house
    }

    /// On the store that the release before format 3 has left behind.
    pub fn of_an_earlier_release() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dump = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/store/earlier/dump.rdb");
        fs::copy(dump, folder.path().join("dump.rdb")).unwrap();
        let dir = format!("dir {}", folder.path().display());
        let server = tokio::task::block_in_place(|| servers::Server::with(&[&dir, "appendonly no"]));
        write_this_pepper(&folder, EARLIER_PEPPER);
        Self { server, folder, pepper: EARLIER_PEPPER, permission: "run" }
    }

    /// What `tollgate store init` does.
    pub async fn init(&self) -> Init {
        init(&self.store(), &self.folder).await
    }

    /// A change after which nobody believes anything that is cached.
    pub async fn touch_all(&self) {
        let settings = compiled(&self.configured(&self.store(), &self.folder)).settings;
        let redis = Redis::new(Connector::single(&self.server.address()).unwrap(), Handle::current())
            .with_signers(pepper::read_signers(&settings.pepper).unwrap());
        redis.commit(&[], &Event { touched: Touched::All, ended: Vec::new() }).await.unwrap();
    }

    fn store(&self) -> String {
        format!("url: 'redis://{}'", self.server.address())
    }

    pub async fn replica(&self) -> Here {
        self.replica_through(&self.server.address()).await
    }

    /// One that reaches the store at another address.
    pub async fn replica_through(&self, address: &str) -> Here {
        join_with(&self.configured(&format!("url: 'redis://{address}'"), &self.folder)).await
    }

    pub async fn replicas(&self, count: usize) -> Vec<Here> {
        stream::iter(0..count).map(|_| self.replica()).buffered(8).collect().await
    }

    pub fn process(&self) -> Process {
        self.process_of(Path::new(env!("CARGO_BIN_EXE_tollgate")))
    }

    /// Another Tollgate than this one.
    pub fn process_of(&self, program: &Path) -> Process {
        let folder = tempfile::tempdir().unwrap();
        write_this_pepper(&folder, self.pepper);
        let config = self.configured(&self.store(), &folder);
        Process::of(program, folder, &config)
    }

    fn configured(&self, store: &str, folder: &TempDir) -> String {
        configured(store, folder).replace("run_inference", self.permission)
    }
}

/// What `tollgate store init` does.
pub async fn init(store: &str, folder: &TempDir) -> Init {
    let StoreSettings::Redis(settings) = compiled(&configured(store, folder)).settings.store else {
        panic!("a fleet's store")
    };
    Redis::new(Connector::open(settings.location).unwrap(), Handle::current()).init().await.unwrap()
}

fn compiled(config: &str) -> Compiled {
    config::parse(config).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Joins the fleet on a store, as the process does at its start.
pub async fn join(store: &str, folder: &TempDir) -> Here {
    join_with(&configured(store, folder)).await
}

async fn join_with(config: &str) -> Here {
    let compiled = compiled(config);
    let opened = open(&compiled.settings.store, PATIENCE, &Tasks::default()).await.unwrap();
    let (current, older) = pepper::load(&compiled.settings.pepper, &opened.store()).await.unwrap();
    let Opened::Joined(joined) = opened else { panic!("a fleet's store") };
    let sizes = Sizes { known: 100_000, unknown: 10_000, loads: 256 };
    let (core, fleet) =
        Core::join(*joined, Duration::ZERO, Digester::new(&current, &older), sizes, Tasks::default()).unwrap();
    Here { core, fleet, policy: Arc::new(compiled.policy) }
}

pub fn write_pepper(folder: &TempDir) {
    write_this_pepper(folder, PEPPER);
}

fn write_this_pepper(folder: &TempDir, pepper: &str) {
    let file = folder.path().join("pepper.1");
    fs::write(&file, pepper).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
}

fn configured(store: &str, folder: &TempDir) -> String {
    CONFIG
        .replace("STORE", store)
        .replace("FOLDER", folder.path().to_str().unwrap())
        .replace("OPS", &free_port().to_string())
}

/// Until every replica allows a key.
pub async fn all_allow(replicas: &[Replica], key: &Key) {
    all_answer(replicas, key, Answer::Allowed).await;
}

/// Until every replica refuses a revoked key.
pub async fn all_deny(replicas: &[Replica], key: &Key) {
    all_answer(replicas, key, Answer::Denied(401)).await;
}

/// Until every replica answers so.
pub async fn all_answer(replicas: &[Replica], key: &Key, answer: Answer) {
    for replica in replicas {
        wait_for(&format!("{answer:?} everywhere"), async || replica.ask(&key.text).await == answer).await;
    }
}

/// Waits until a condition holds; panics when patience is over.
pub async fn wait_for(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < PATIENCE, "waited for {what} in vain");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
