//! A real Redis server on a free port of loopback, with a folder of its own. Never outlives its test, and never takes another
//! server for its own.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{Client, Cmd, FromRedisValue};
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_secs(20);

/// Below the ports that the system gives to connections.
const PORTS: std::ops::Range<u16> = 15_000..30_000;

/// Runs until it is dropped.
pub struct RedisServer {
    child: Child,
    port: u16,
    folder: TempDir,
    options: Vec<String>,
}

impl RedisServer {
    /// One that has every write on its disk before it answers.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With more options, as they stand on the command line.
    pub async fn start_with(options: &[&str]) -> Self {
        let always =
            ["--save", "", "--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0"];
        let options: Vec<String> = always.iter().chain(options).map(ToString::to_string).collect();
        let (folder, port) = (tempfile::tempdir().unwrap(), next_port());
        let mut server = Self { child: spawn(port, folder.path(), &options), port, folder, options };
        // Somebody else may have the port.
        while !server.answers().await {
            server.port = next_port();
            server.child = spawn(server.port, server.folder.path(), &server.options);
        }
        server
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again after [`RedisServer::kill`], with what it has on its disk.
    pub async fn restart(&mut self) {
        self.child = spawn(self.port, self.folder.path(), &self.options);
        assert!(self.answers().await, "port {} was taken meanwhile", self.port);
    }

    pub async fn connection(&self) -> MultiplexedConnection {
        self.client().get_multiplexed_async_connection().await.unwrap()
    }

    /// Sends a command over a new connection.
    pub async fn send<T: FromRedisValue>(&self, command: &str) -> T {
        let mut words = command.split(' ');
        let mut command = Cmd::new();
        command.arg(words.next());
        words.for_each(|word| {
            command.arg(word);
        });
        command.query_async(&mut self.connection().await).await.unwrap()
    }

    fn client(&self) -> Client {
        Client::open(format!("redis://{}", self.address())).unwrap()
    }

    /// Waits until this very process has read its data and answers; `false` if it ended, as when the port is taken.
    async fn answers(&mut self) -> bool {
        let deadline = Instant::now() + DEADLINE;
        let own = format!("process_id:{}\r\n", self.child.id());
        while Instant::now() < deadline {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if let Ok(mut connection) = self.client().get_multiplexed_async_connection().await {
                let info: Result<String, _> = redis::cmd("INFO").arg("server").query_async(&mut connection).await;
                let ready: Result<String, _> = redis::cmd("PING").query_async(&mut connection).await;
                if info.is_ok_and(|info| info.contains(&own)) && ready.is_ok() {
                    return true;
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("redis-server on port {} did not answer: {}", self.port, self.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(port: u16, folder: &Path, options: &[String]) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"])
        .arg(folder)
        .args(options)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server must be on PATH")
}

/// Another one for each call, and far from those of other processes.
fn next_port() -> u16 {
    static CALLS: AtomicU16 = AtomicU16::new(0);
    let seed = std::process::id().wrapping_mul(2_654_435_761) >> 16;
    let calls = u32::from(CALLS.fetch_add(1, Ordering::Relaxed));
    let width = u32::from(PORTS.end - PORTS.start);
    PORTS.start + u16::try_from(seed.wrapping_add(calls.wrapping_mul(7919)) % width).unwrap()
}
