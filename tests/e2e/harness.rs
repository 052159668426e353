//! A real Envoy, the real Tollgate binary and an inference server, started from the shipped files. Takes free ports and a
//! temporary folder, waits for conditions, and ends what it started by its process id.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::backend::{Backend, Recorder, Seen};
use super::client::{Http2, Reply, Sent, http1};
use super::router::Reading;

/// How long anything may take that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A replacement in a shipped file. What it replaces must be there.
pub type Edit = (&'static str, &'static str);

/// What to start.
#[derive(Clone, Debug)]
pub struct Setup {
    /// A folder under `envoy/`; empty: the folder itself.
    pub folder: &'static str,
    pub envoy_edits: Vec<Edit>,
    pub tollgate_edits: Vec<Edit>,
    pub reading: Reading,
    /// Whether the back end writes down what it saw.
    pub record: bool,
    /// The JWK Set of the identity provider that the shipped file offers behind `#`; without one it stays a comment.
    pub identity_provider: Option<String>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            folder: "",
            envoy_edits: Vec::new(),
            tollgate_edits: Vec::new(),
            reading: Reading::Literal,
            record: true,
            identity_provider: None,
        }
    }
}

/// Makes the cluster for plain HTTP speak HTTP/2 to the back end.
pub const H2_BACKEND: Edit =
    ("explicit_http_config: {http_protocol_options: {}}", "explicit_http_config: {http2_protocol_options: {}}");

/// Everything that runs for one test.
pub struct Stack {
    pub envoy: SocketAddr,
    /// The whole admin API, which wants a credential.
    pub admin: SocketAddr,
    pub ops: SocketAddr,
    /// `through_envoy`, which is for Envoy alone.
    pub door: SocketAddr,
    recorder: Recorder,
    tollgate: Option<Process>,
    _envoy: Process,
    _backend: tokio::task::JoinHandle<()>,
    /// Dropped last: a process that ends shows its log, which is in there.
    pub dir: tempfile::TempDir,
}

/// A key that was minted for a test.
#[derive(Clone, Debug)]
pub struct Key {
    pub id: String,
    pub text: String,
}

impl Stack {
    /// The shipped configuration with the demo's resources registered.
    pub async fn start() -> Self {
        Self::start_with(Setup::default()).await
    }

    pub async fn start_with(setup: Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [envoy, envoy_admin, admin, door, ops] = free_addresses();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = listener.local_addr().unwrap();
        let recorder = Recorder::default();
        let server = Backend::new(setup.reading, setup.record.then(|| Arc::clone(&recorder)));
        let served = tokio::spawn(async move { drop(server.serve(listener).await) });

        let folder = shipped().join(setup.folder);
        let state = dir.path().display().to_string();
        let config = fs::read_to_string(folder.join("tollgate.yaml")).unwrap();
        let config = edited(&config, &setup.tollgate_edits);
        let config = match &setup.identity_provider {
            Some(url) => with_identity_provider(&config, url),
            None => config,
        };
        let config = config.replace("/var/lib/tollgate", &state).replace("/run/tollgate", &state);
        let config = config
            .replace("127.0.0.1:9181", &admin.to_string())
            .replace("127.0.0.1:9183", &door.to_string())
            .replace("127.0.0.1:9182", &ops.to_string());
        fs::write(dir.path().join("tollgate.yaml"), config).unwrap();

        let config = fs::read_to_string(folder.join("envoy.yaml")).unwrap();
        let config = edited(&config, &setup.envoy_edits);
        let mut config = config.replace("/run/tollgate", &state).replace("address: 0.0.0.0", "address: 127.0.0.1");
        for (shipped, ours) in [(10000, envoy), (9901, envoy_admin), (8000, backend), (9183, door)] {
            config = config.replace(&format!("port_value: {shipped}}}"), &format!("port_value: {}}}", ours.port()));
        }
        fs::write(dir.path().join("envoy.yaml"), config).unwrap();

        let tollgate = start_tollgate(dir.path());
        let envoy_process = start_envoy(dir.path());
        let mut stack = Self {
            envoy,
            admin,
            ops,
            door,
            recorder,
            tollgate: Some(tollgate),
            _envoy: envoy_process,
            _backend: served,
            dir,
        };
        stack.ready().await;
        wait_for("Envoy", async || get(envoy_admin, "/ready").await.is_some_and(|reply| reply.status == 200)).await;
        stack
    }

    /// Waits until Tollgate says that it is ready.
    pub async fn ready(&mut self) {
        let ops = self.ops;
        wait_for("Tollgate", async || {
            if let Some(tollgate) = &mut self.tollgate {
                assert!(tollgate.exit_code().is_none(), "Tollgate ended at its start: see its log below");
            }
            get(ops, "/ready").await.is_some_and(|reply| reply.status == 200)
        })
        .await;
    }

    /// Sends SIGTERM to Tollgate; it goes on running until it has drained.
    pub fn terminate_tollgate(&self) {
        self.signal_tollgate(Signal::TERM);
    }

    pub fn signal_tollgate(&self, signal: Signal) {
        self.tollgate.as_ref().unwrap().signal(signal);
    }

    /// Waits for the end of a Tollgate that was told to stop.
    pub async fn tollgate_ended(&mut self) -> Option<i32> {
        let mut process = self.tollgate.take().unwrap();
        let mut code = None;
        wait_for("the end of Tollgate", async || {
            code = process.exit_code();
            code.is_some()
        })
        .await;
        code
    }

    /// Starts a Tollgate beside one that may still be draining, which is returned.
    pub fn start_next_tollgate(&mut self) -> Option<Process> {
        self.tollgate.replace(start_tollgate(self.dir.path()))
    }

    pub fn config(&self) -> PathBuf {
        self.dir.path().join("tollgate.yaml")
    }

    /// Sends a request through Envoy on a connection of its own.
    pub async fn send(&self, request: &Sent) -> Reply {
        http1(self.envoy, request).await
    }

    /// The same over HTTP/2.
    pub async fn send_h2(&self, request: &Sent) -> Reply {
        Http2::connect(self.envoy).await.send(request).await.unwrap()
    }

    /// What the back end received since this was last asked.
    pub fn take_seen(&self) -> Vec<Seen> {
        std::mem::take(&mut *self.recorder.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Runs the command line against the running server.
    pub fn tollgate(&self, arguments: &[&str]) -> Output {
        self.tollgate_command(arguments).output().unwrap()
    }

    pub fn tollgate_command(&self, arguments: &[&str]) -> Command {
        let mut command = clean_command(env!("CARGO_BIN_EXE_tollgate"));
        command.args(arguments).arg("--config").arg(self.config());
        command
    }

    /// Runs the command line, which must succeed and print JSON.
    pub fn tollgate_json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        let output = self.tollgate(&all);
        let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "tollgate {arguments:?}: {out} {error}");
        serde_json::from_str(&out).unwrap_or_else(|problem| panic!("tollgate {arguments:?}: {problem}: {out}"))
    }

    pub fn bootstrap(&self) -> Key {
        Key::of(&self.tollgate_json(&["keys", "bootstrap"]))
    }

    /// Makes a key with permissions divided by commas; workloads likewise.
    pub fn create_key(&self, plane: &str, project: &str, workloads: &str, permissions: &str, more: &[&str]) -> Key {
        let mut arguments = vec!["keys", "create", "--name", "test", "--plane", plane, "--project", project];
        arguments.extend(["--workloads", workloads, "--permissions", permissions]);
        arguments.extend(more);
        Key::of(&self.tollgate_json(&arguments))
    }

    /// A data key for all of `acme`.
    pub fn data_key(&self) -> Key {
        self.create_key("data", "acme", "*", "run_inference", &[])
    }

    /// A control key for `acme` with every control permission.
    pub fn control_key(&self) -> Key {
        let all = "read_workloads,create_workloads,update_workloads,delete_workloads";
        self.create_key("control", "acme", "*", all, &[])
    }

    pub fn put_resource(&self, id: &str, project: &str, slug: &str) {
        self.tollgate_json(&["resources", "put", &format!("workload:{id}"), "--project", project, "--slug", slug]);
    }

    pub fn revoke(&self, key: &Key) {
        self.tollgate_json(&["keys", "revoke", &key.id]);
    }

    pub fn rotate(&self, key: &Key, grace: &str) -> Key {
        Key::of(&self.tollgate_json(&["keys", "rotate", &key.id, "--grace", grace]))
    }
}

impl Key {
    pub fn of(answer: &Value) -> Self {
        let text = |field: &str| answer[field].as_str().unwrap_or_else(|| panic!("no {field} in {answer}")).to_owned();
        Self { id: text("id"), text: text("key") }
    }
}

/// A child that is ended, and waited for, when this is dropped. Its output is shown if the test fails.
pub struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    pub fn start(dir: &Path, name: &'static str, command: &mut Command) -> Self {
        let log = dir.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|problem| panic!("{name} could not be started: {problem}"));
        Self { name, child, log }
    }

    pub fn exit_code(&mut self) -> Option<i32> {
        self.child.try_wait().unwrap().map(|status| status.code().unwrap_or(-1))
    }

    pub fn signal(&self, signal: Signal) {
        // It may have ended already.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the end of the log of {} ---\n{}", self.name, tail(&self.log));
        }
    }
}

fn tail(path: &Path) -> String {
    let mut text = Vec::new();
    if let Ok(mut file) = File::open(path) {
        let length = file.metadata().map_or(0, |data| data.len());
        let _ = file.seek(SeekFrom::Start(length.saturating_sub(6000)));
        let _ = file.read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn start_tollgate(dir: &Path) -> Process {
    Process::start(
        dir,
        "tollgate",
        clean_command(env!("CARGO_BIN_EXE_tollgate")).arg("serve").arg("--config").arg(dir.join("tollgate.yaml")),
    )
}

/// A command without the variables of whoever runs the tests that Tollgate would listen to.
pub fn clean_command(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TOLLGATE_") {
            command.env_remove(name);
        }
    }
    command
}

/// Waits until a condition holds; panics when patience is over.
pub async fn wait_for(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !condition().await {
        assert!(start.elapsed() < PATIENCE, "waited for {what} in vain");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A GET that may fail.
pub async fn get(address: SocketAddr, path: &str) -> Option<Reply> {
    let mut connection = super::client::Http1::connect(address).await.ok()?;
    connection.send(&Sent::new("GET", path)).await.ok()
}

/// The folder with the shipped Envoy and Tollgate files.
pub fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy")
}

/// Envoy with the `envoy.yaml` of a folder.
pub fn start_envoy(folder: &Path) -> Process {
    let mut command = Command::new(envoy_binary());
    command.arg("-c").arg(folder.join("envoy.yaml"));
    Process::start(
        folder,
        "envoy",
        command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warning"]),
    )
}

/// The Envoy to test with: `TOLLGATE_ENVOY`, that of `make test`, or one on `PATH`.
pub fn envoy_binary() -> PathBuf {
    let local = Path::new(env!("CARGO_MANIFEST_DIR")).join(".venv/bin/envoy");
    match std::env::var_os("TOLLGATE_ENVOY") {
        Some(path) => path.into(),
        None if local.exists() => local,
        None => "envoy".into(),
    }
}

/// Whether the long forms were asked for: `TOLLGATE_TEST_FULL=1`.
pub fn is_full() -> bool {
    std::env::var_os("TOLLGATE_TEST_FULL").is_some_and(|value| value == "1")
}

pub fn edited(text: &str, edits: &[(&str, &str)]) -> String {
    edits.iter().fold(text.to_owned(), |text, (from, to)| {
        assert!(text.contains(from), "the shipped file no longer has `{from}`");
        text.replace(from, to)
    })
}

/// The file with the issuer that it offers, whose keys are at this URL.
fn with_identity_provider(text: &str, url: &str) -> String {
    const OFFER: &str = "\n#issuers:";
    let start = text.find(OFFER).expect("the shipped file no longer offers an issuer");
    let end = start + text[start..].find("\n\n").unwrap();
    let issuer = text[start..end].replace("\n#", "\n");
    let issuer = edited(&issuer, &[("https://sso.example.com/realms/inferno/jwks.json", url)]);
    format!("{}{issuer}{}", &text[..start], &text[end..])
}

/// Loopback addresses that were free a moment ago. Below the ports that the system gives to connections (`ip_local_port_range`),
/// which come and go with every request of the tests beside this one.
pub fn free_addresses<const N: usize>() -> [SocketAddr; N] {
    let held = [(); N].map(|()| {
        let free = || TcpListener::bind(("127.0.0.1", random_port())).ok();
        std::iter::repeat_with(free).take(1000).find_map(|listener| listener).unwrap()
    });
    held.map(|listener| listener.local_addr().unwrap())
}

fn random_port() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(std::process::id());
    10_000 + u16::try_from(random % 22_000).unwrap()
}
