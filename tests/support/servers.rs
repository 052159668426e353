//! Real `redis-server` processes: one, a primary with replicas, Sentinel, Cluster. Each has free ports and a temporary folder, is
//! waited for until it answers, and is ended by its id.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use redis::{FromRedisValue, RedisResult};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long anything may take that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A server and its folder.
#[derive(Debug)]
pub struct Server {
    folder: TempDir,
    child: Child,
    arguments: Vec<String>,
    pub port: u16,
}

impl Server {
    /// One that keeps what it acknowledged.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// One with further settings, each a line of `redis.conf`. `PORT` stands for its own port, `FREE` for another free one, and
    /// `FOLDER` for its folder.
    pub fn with(settings: &[&str]) -> Self {
        Self::started(settings, &[])
    }

    /// A replica of another one, which has told it everything.
    pub fn replica_of(primary: &Self, settings: &[&str]) -> Self {
        let follows = format!("replicaof 127.0.0.1 {}", primary.port);
        let replica = Self::with(&[&[&*follows, "repl-diskless-sync-delay 0"], settings].concat());
        wait_for("a replica", || replica.info("master_link_status").as_deref() == Some("up"));
        replica
    }

    fn started(settings: &[&str], flags: &[&str]) -> Self {
        // A port that was free may be taken when the server wants it.
        (0..10).find_map(|_| Self::try_started(settings, flags)).expect("redis-server starts")
    }

    fn try_started(settings: &[&str], flags: &[&str]) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let port = free_port();
        let own = ["port PORT", "bind 127.0.0.1", "dir FOLDER", "unixsocket FOLDER/redis.sock"];
        let kept = ["save \"\"", "appendonly yes", "appendfsync always", "maxmemory 1gb", "repl-diskless-sync-delay 0"];
        let kept = if flags.is_empty() { &kept[..] } else { &[] };
        let lines: Vec<String> = own
            .iter()
            .chain(kept)
            .chain(settings)
            .map(|line| {
                line.replace("PORT", &port.to_string())
                    .replace("FREE", &free_port().to_string())
                    .replace("FOLDER", folder.path().to_str().unwrap())
            })
            .collect();
        let file = folder.path().join("redis.conf");
        fs::write(&file, lines.join("\n") + "\n").unwrap();
        let arguments: Vec<String> =
            std::iter::once(file.to_str().unwrap()).chain(flags.iter().copied()).map(str::to_owned).collect();
        let child = spawn(folder.path(), &arguments);
        let mut server = Self { folder, child, arguments, port };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if server.child.try_wait().unwrap().is_some() {
                eprintln!("{}", server.log());
                return None;
            }
            if server.answers() {
                return Some(server);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("redis-server did not answer: {}", server.log());
    }

    /// Whether it answers at all, be it with a refusal.
    fn answers(&self) -> bool {
        match self.client().get_connection() {
            Ok(mut connection) => {
                let pong: RedisResult<String> = redis::cmd("PING").query(&mut connection);
                pong.is_ok() || pong.is_err_and(|error| error.code() == Some("NOAUTH"))
            }
            Err(_) => false,
        }
    }

    pub fn client(&self) -> redis::Client {
        redis::Client::open(format!("unix://{}", self.socket().display())).unwrap()
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// One command, over its socket.
    pub fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_command(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    pub fn try_command<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        let mut connection = self.client().get_connection()?;
        let (name, arguments) = words.split_first().unwrap();
        redis::cmd(name).arg(arguments).query(&mut connection)
    }

    /// A line of INFO.
    pub fn info(&self, name: &str) -> Option<String> {
        let info: String = self.try_command(&["INFO"]).ok()?;
        info.lines().find_map(|line| line.trim_end().strip_prefix(name)?.strip_prefix(':').map(str::to_owned))
    }

    pub fn signal(&self, signal: Signal) {
        // It may have ended already.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again on its port and its files.
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(self.folder.path(), &self.arguments);
        wait_for("redis-server to answer again", || self.answers());
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- redis-server on port {} ---\n{}", self.port, self.log());
        }
    }
}

fn spawn(folder: &Path, arguments: &[String]) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
    Command::new("redis-server")
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(log.try_clone().unwrap())
        .stdout(log)
        .spawn()
        .expect("redis-server is on PATH")
}

/// A primary with replicas, watched by sentinels.
#[derive(Debug)]
pub struct Sentinel {
    /// The first one is the primary at the beginning.
    pub servers: Vec<Server>,
    pub sentinels: Vec<Server>,
}

impl Sentinel {
    pub const MASTER: &str = "tollgate";

    /// `settings` are lines for each server that holds data.
    pub fn start(replicas: usize, sentinels: usize, down_after_ms: u64, settings: &[&str]) -> Self {
        let primary = Server::with(settings);
        let mut servers = vec![primary];
        servers.extend((0..replicas).map(|_| Server::replica_of(&servers[0], settings)).collect::<Vec<_>>());
        let (master, port, quorum) = (Self::MASTER, servers[0].port, sentinels / 2 + 1);
        let watched = [
            format!("sentinel monitor {master} 127.0.0.1 {port} {quorum}"),
            format!("sentinel down-after-milliseconds {master} {down_after_ms}"),
            format!("sentinel failover-timeout {master} 5000"),
        ];
        let watched: Vec<&str> = watched.iter().map(String::as_str).collect();
        let sentinels: Vec<Server> = (0..sentinels).map(|_| Server::started(&watched, &["--sentinel"])).collect();
        for sentinel in &sentinels {
            wait_for("a sentinel to know the others", || {
                let view: Vec<String> = sentinel.try_command(&["SENTINEL", "MASTER", master]).unwrap_or_default();
                let number = |name: &str| {
                    let at = view.iter().position(|word| word == name)?;
                    view.get(at + 1)?.parse::<usize>().ok()
                };
                number("num-slaves") == Some(replicas) && number("num-other-sentinels") == Some(sentinels.len() - 1)
            });
        }
        Self { servers, sentinels }
    }

    pub fn addresses(&self) -> Vec<String> {
        self.sentinels.iter().map(Server::address).collect()
    }
}

/// A Cluster whose primaries share the slots evenly.
#[derive(Debug)]
pub struct Cluster {
    pub nodes: Vec<Server>,
}

impl Cluster {
    const NODE: [&str; 3] = ["cluster-enabled yes", "cluster-port FREE", "cluster-node-timeout 6000"];

    pub fn start(primaries: u16, settings: &[&str]) -> Self {
        let nodes: Vec<Server> = (0..primaries).map(|_| Server::with(&[&Self::NODE, settings].concat())).collect();
        let width = 16384 / primaries;
        for (at, node) in (0..primaries).zip(&nodes) {
            let last = if at + 1 == primaries { 16383 } else { (at + 1) * width - 1 };
            let range = [(at * width).to_string(), last.to_string()];
            let () = node.command(&["CLUSTER", "ADDSLOTSRANGE", &range[0], &range[1]]);
            let () = node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]);
        }
        let cluster = Self { nodes };
        cluster.nodes[1..].iter().for_each(|node| cluster.meet(node));
        cluster.wait_until_whole();
        cluster
    }

    fn meet(&self, node: &Server) {
        let bus = node.command::<Vec<String>>(&["CONFIG", "GET", "cluster-port"]);
        let () = self.nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &node.port.to_string(), &bus[1]]);
    }

    fn wait_until_whole(&self) {
        let knows = format!("cluster_known_nodes:{}", self.nodes.len());
        for node in &self.nodes {
            wait_for("the Cluster to be whole", || {
                let state: String = node.command(&["CLUSTER", "INFO"]);
                state.contains("cluster_state:ok") && state.contains(&knows)
            });
        }
    }

    /// Gives the owner of this key a replica, and both of them further settings. Gives the places of the two.
    pub fn add_replica(&mut self, key: &str, settings: &[&str]) -> [usize; 2] {
        let port = self.owner_of(key).port;
        let owner = self.nodes.iter().position(|node| node.port == port).unwrap();
        let added = Server::with(&[&Self::NODE, settings].concat());
        self.meet(&added);
        self.nodes.push(added);
        self.wait_until_whole();
        let [owner, added] = [owner, self.nodes.len() - 1];
        let id: String = self.nodes[owner].command(&["CLUSTER", "MYID"]);
        let () = self.nodes[added].command(&["CLUSTER", "REPLICATE", &id]);
        wait_for("a replica", || self.nodes[added].info("master_link_status").as_deref() == Some("up"));
        for setting in settings {
            let (name, value) = setting.split_once(' ').unwrap();
            let () = self.nodes[owner].command(&["CONFIG", "SET", name, value]);
        }
        [owner, added]
    }

    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(Server::address).collect()
    }

    /// The node that has the slot of this key, as long as there are primaries alone.
    pub fn owner_of(&self, key: &str) -> &Server {
        let slot: u16 = self.nodes[0].command(&["CLUSTER", "KEYSLOT", key]);
        let width = 16384 / u16::try_from(self.nodes.len()).unwrap();
        &self.nodes[usize::from(slot / width).min(self.nodes.len() - 1)]
    }
}

/// Waits until a condition holds; panics when patience is over.
#[track_caller]
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited for {what} in vain");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A loopback port that was free a moment ago, below those that the system gives to connections, and another one for each call.
pub fn free_port() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    // Once a process: a number that is drawn for each call comes twice now and then.
    static START: LazyLock<u64> = LazyLock::new(|| RandomState::new().hash_one(std::process::id()) % 20_000);
    static CALLS: AtomicU64 = AtomicU64::new(0);
    (0..1000)
        .map(|_| 10_000 + u16::try_from((*START + CALLS.fetch_add(1, Ordering::Relaxed)) % 20_000).unwrap())
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a port is free")
}
