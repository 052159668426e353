//! A server in a folder of its own. Ends with the test, by its id.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use super::{servers, tollgate};

const EMBEDDED: &str = "{embedded: {path: FOLDER/store.redb}}";

const ON_A_SOCKET: &str = "{unix: {path: FOLDER/check.sock, mode: \"0600\"}}";

const CONFIG: &str = r#"
version: 1
store: STORE
pepper: {current: 1, keys: {1: {file: FOLDER/pepper.1}}}
listen:
  check: CHECK
  admin: {unix: {path: FOLDER/admin.sock, mode: "0600"}, http: "127.0.0.1:ADMIN"}
  ops: {http: "127.0.0.1:OPS"}
planes:
  data: {prefix: ik_live, revoked: 401}
  control: {prefix: ik_sdk, revoked: 403}
  admin: {prefix: ik_adm, revoked: 401, admin: true}
login: {issuer: "https://tollgate.test", plane: admin}
permissions: [run_inference, update_workloads]
credentials:
  - {header: authorization, scheme: Bearer, kinds: [api_key, jwt]}
  - {header: x-api-key}
hosts:
  - match: [api.example.com]
    routes:
      - {name: infer, match: ["POST /endpoint/{project}/{workload}/{rest*}"], plane: data,
         all_of: [run_inference], in: {project: "{project}", workload: "{workload}"}}
log: {level: info, decisions: all}
workers: 1
"#;

pub struct Server {
    folder: tempfile::TempDir,
    child: Child,
    admin_port: u16,
    log: Option<JoinHandle<String>>,
}

/// Writes the configuration with this store into a folder.
pub fn write_config(folder: &Path, store: &str, admin_port: u16) -> PathBuf {
    write_config_with(folder, store, admin_port, (ON_A_SOCKET, ""))
}

/// With this check listener, and these lines more.
fn write_config_with(folder: &Path, store: &str, admin_port: u16, (check, more): (&str, &str)) -> PathBuf {
    // One that was free may be given again at once.
    let ops = std::iter::repeat_with(free_port).find(|port| *port != admin_port).unwrap();
    let config = format!("{CONFIG}{more}")
        .replace("CHECK", check)
        .replace("STORE", store)
        .replace("FOLDER", folder.to_str().unwrap())
        .replace("ADMIN", &admin_port.to_string())
        .replace("OPS", &ops.to_string());
    let file = folder.join("tollgate.yaml");
    std::fs::write(&file, config).unwrap();
    file
}

/// A configuration file in a folder of its own, and no server.
pub struct House {
    pub folder: tempfile::TempDir,
    pub config: PathBuf,
}

impl House {
    /// With this as its `store`.
    pub fn with(store: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = write_config(folder.path(), store, free_port());
        Self { folder, config }
    }

    /// On a Redis.
    pub fn on(redis: &servers::Server) -> Self {
        Self::with(&in_redis(redis))
    }
}

/// The `store` that is in this Redis.
pub fn in_redis(redis: &servers::Server) -> String {
    format!("{{redis: {{url: 'redis://{}'}}}}", redis.address())
}

/// Writes a file for its owner alone.
pub fn write_secret(file: &Path, text: &str) {
    std::fs::write(file, text).unwrap();
    std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).unwrap();
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    /// Starts one and waits until it answers.
    pub fn start() -> Self {
        // A port that was free may be taken when the server wants it.
        (0..5).find_map(|_| Self::try_start(EMBEDDED, None, (ON_A_SOCKET, ""))).expect("the server starts")
    }

    /// Starts one whose configuration has these lines, too.
    pub fn start_with(more: &str) -> Self {
        (0..5).find_map(|_| Self::try_start(EMBEDDED, None, (ON_A_SOCKET, more))).expect("the server starts")
    }

    /// Starts one whose check listener is on TCP; where that is.
    pub fn start_on_tcp() -> (Self, SocketAddr) {
        let start = || {
            let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
            let check = format!("{{tcp: {{address: '{address}'}}}}");
            Some((Self::try_start(EMBEDDED, None, (&check, ""))?, address))
        };
        (0..5).find_map(|_| start()).expect("the server starts")
    }

    pub fn resident_bytes(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.split_whitespace().next().unwrap().parse::<usize>().unwrap() << 10
    }

    /// Starts one on a store that is there, with this pepper.
    pub fn start_on(store: &str, pepper: &str) -> Self {
        (0..5).find_map(|_| Self::try_start(store, Some(pepper), (ON_A_SOCKET, ""))).expect("the server starts")
    }

    fn try_start(store: &str, pepper: Option<&str>, rules: (&str, &str)) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let admin_port = free_port();
        let file = write_config_with(folder.path(), store, admin_port, rules);
        if let Some(pepper) = pepper {
            write_secret(&folder.path().join("pepper.1"), pepper);
        }
        let mut child = tollgate()
            .args(["serve", "--config", file.to_str().unwrap()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let log = std::thread::spawn(move || {
            let mut text = String::new();
            out.read_to_string(&mut text).unwrap();
            err.read_to_string(&mut text).unwrap();
            text
        });
        let mut server = Self { folder, child, admin_port, log: Some(log) };
        let deadline = Instant::now() + Duration::from_secs(60);
        let (socket, ops) = (server.socket(), server.ops());
        while Instant::now() < deadline {
            // The one is opened before the other.
            if UnixStream::connect(&socket).is_ok() && TcpStream::connect(ops).is_ok() {
                return Some(server);
            }
            if server.child.try_wait().unwrap().is_some() {
                eprintln!("{}", server.log.take().unwrap().join().unwrap());
                return None;
            }
            sleep(Duration::from_millis(10));
        }
        None
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ended at once, as by a power cut.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn socket(&self) -> String {
        self.path("admin.sock").to_str().unwrap().to_owned()
    }

    pub fn config(&self) -> String {
        self.path("tollgate.yaml").to_str().unwrap().to_owned()
    }

    pub fn admin_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.admin_port)
    }

    pub fn check_socket(&self) -> PathBuf {
        self.path("check.sock")
    }

    pub fn admin(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.admin_port).into()
    }

    /// As its configuration says.
    pub fn ops(&self) -> SocketAddr {
        let config = std::fs::read_to_string(self.path("tollgate.yaml")).unwrap();
        let (_, address) = config.split_once("ops: {http: \"").unwrap();
        address.split('"').next().unwrap().parse().unwrap()
    }

    /// Writes a file beside the others and gives its path.
    pub fn file(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Ends it in order; everything that it logged. Its folder stays until the test ends.
    pub fn stop(&mut self) -> String {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
        assert!(self.child.wait().unwrap().success());
        self.log.take().unwrap().join().unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
