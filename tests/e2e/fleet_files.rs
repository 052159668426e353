//! The shipped fleet as docker-compose.yml starts it: the secrets, one Redis, the store made once, two Tollgates, and an Envoy over
//! both. Shows that it goes on when a replica is killed, that what was revoked is so at each, and
//! that Envoy knows who has a lease.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

use super::backend::Backend;
use super::client::{Http1, Sent, http1};
use super::harness::{Key, Process, clean_command, free_addresses, get, shipped, start_envoy, wait_for};
use super::router::Reading;

/// Longer than this nobody may be without an answer when one of two replicas is gone.
const LONGEST_LOSS: Duration = Duration::from_secs(1);

struct Replica {
    name: &'static str,
    ops: SocketAddr,
    process: Option<Process>,
}

/// What is dropped first is ended first; the folder last.
struct Fleet {
    envoy: SocketAddr,
    envoy_admin: SocketAddr,
    _envoy: Process,
    replicas: [Replica; 2],
    redis: Process,
    _backend: tokio::task::JoinHandle<()>,
    dir: TempDir,
}

impl Fleet {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let [envoy, envoy_admin, redis, first_admin, second_admin, first, second] = free_addresses();
        for folder in ["a", "b", "secrets", "redis"] {
            fs::create_dir(dir.path().join(folder)).unwrap();
        }
        let script = shipped().join("fleet/secrets.sh");
        let made = Command::new("sh").arg(script).args(["secrets", "redis"]).current_dir(dir.path()).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        // The script gives them to the user of the image; here Tollgate runs as whoever runs the tests.
        for secret in fs::read_dir(dir.path().join("secrets")).unwrap() {
            let own = rustix::process::geteuid().as_raw();
            std::os::unix::fs::chown(secret.unwrap().path(), Some(own), None).unwrap();
        }

        let server = redis_server(dir.path(), redis);
        wait_for("Redis", async || tokio::net::TcpStream::connect(redis).await.is_ok()).await;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let backend = listener.local_addr().unwrap();
        let served = tokio::spawn(async move { drop(Backend::new(Reading::Literal, None).serve(listener).await) });

        let replicas = [("a", first_admin, first), ("b", second_admin, second)].map(|(name, admin, ops)| {
            let edits = [
                ("redis://redis:6379", format!("redis://{redis}")),
                ("/run/secrets/tollgate", dir.path().join("secrets").display().to_string()),
                ("/run/tollgate", dir.path().join(name).display().to_string()),
                ("/var/lib/tollgate", dir.path().join(name).display().to_string()),
                ("127.0.0.1:9181", admin.to_string()),
                ("127.0.0.1:9182", ops.to_string()),
            ];
            write_edited("fleet/tollgate.yaml", &dir.path().join(name).join("tollgate.yaml"), &edits);
            Replica { name, ops, process: None }
        });
        let edits = [
            ("/run/tollgate", dir.path().display().to_string()),
            ("address: 0.0.0.0", "address: 127.0.0.1".to_owned()),
            ("port_value: 10000", format!("port_value: {}", envoy.port())),
            ("port_value: 9901", format!("port_value: {}", envoy_admin.port())),
            ("port_value: 8000", format!("port_value: {}", backend.port())),
        ];
        write_edited("fleet/envoy.yaml", &dir.path().join("envoy.yaml"), &edits);

        let made = command(dir.path(), "a", &["store", "init"]).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        let [mut first, mut second] = replicas;
        first.start(dir.path());
        second.start(dir.path());
        first.ready().await;
        second.ready().await;
        let process = start_envoy(dir.path());
        wait_for("Envoy", async || get(envoy_admin, "/ready").await.is_some_and(|reply| reply.status == 200)).await;
        Self { envoy, envoy_admin, _envoy: process, replicas: [first, second], redis: server, _backend: served, dir }
    }

    /// Runs the command line beside the first replica.
    fn tollgate(&self, arguments: &[&str]) -> Output {
        command(self.dir.path(), "a", arguments).output().unwrap()
    }

    fn data_key(&self) -> Key {
        let made = self.tollgate(&[
            "keys",
            "create",
            "--name",
            "test",
            "--plane",
            "data",
            "--project",
            "acme",
            "--workloads",
            "*",
            "--permissions",
            "run_inference",
            "-o",
            "json",
        ]);
        let answer: Value = serde_json::from_slice(&made.stdout).unwrap_or_else(|_| panic!("{made:?}"));
        Key::of(&answer)
    }

    async fn status(&self, key: &Key) -> u16 {
        http1(self.envoy, &models(key)).await.status
    }

    /// Waits until Envoy finds so many of the replicas well.
    async fn are_well(&self, wanted: usize) {
        wait_for("Envoy's view of the replicas", async || {
            let clusters = get(self.envoy_admin, "/clusters?format=json").await.unwrap().json();
            let clusters = clusters["cluster_statuses"].as_array().unwrap();
            let tollgate = clusters.iter().find(|cluster| cluster["name"] == "tollgate").unwrap();
            let hosts = tollgate["host_statuses"].as_array().unwrap();
            hosts.iter().filter(|host| host["health_status"]["failed_active_health_check"] != true).count() == wanted
        })
        .await;
    }

    /// Asks through Envoy until each replica has answered, always alike.
    async fn each_answers(&self, key: &Key, wanted: u16, decision: &str) {
        let before = [self.replicas[0].counted(decision).await, self.replicas[1].counted(decision).await];
        wait_for("an answer of each replica", async || {
            assert_eq!(self.status(key).await, wanted);
            let now = [self.replicas[0].counted(decision).await, self.replicas[1].counted(decision).await];
            now[0] > before[0] && now[1] > before[1]
        })
        .await;
    }
}

impl Replica {
    fn start(&mut self, dir: &Path) {
        self.process = Some(Process::start(dir, self.name, &mut command(dir, self.name, &["serve"])));
    }

    async fn ready(&mut self) {
        let ops = self.ops;
        wait_for("a replica", async || {
            let process = self.process.as_mut().unwrap();
            assert!(process.exit_code().is_none(), "a replica ended at its start: see its log below");
            get(ops, "/ready").await.is_some_and(|reply| reply.status == 200)
        })
        .await;
    }

    /// How many checks it has allowed (`allow`) or refused (`deny`).
    async fn counted(&self, decision: &str) -> f64 {
        let metrics = get(self.ops, "/metrics").await.unwrap().text();
        let wanted = format!("tollgate_checks_total{{decision=\"{decision}\"");
        let counts = metrics.lines().filter(|line| line.starts_with(&wanted));
        counts.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
    }
}

fn redis_server(dir: &Path, address: SocketAddr) -> Process {
    let folder = dir.join("redis");
    let edits = [("/data", folder.display().to_string()), ("/run/secrets/redis", folder.display().to_string())];
    write_edited("fleet/redis.conf", &folder.join("redis.conf"), &edits);
    let port = address.port().to_string();
    Process::start(
        dir,
        "redis-server",
        Command::new("redis-server").arg(folder.join("redis.conf")).args(["--bind", "127.0.0.1", "--port", &port]),
    )
}

fn write_edited(from: &str, to: &Path, edits: &[(&str, String)]) {
    let text = fs::read_to_string(shipped().join(from)).unwrap();
    let text = edits.iter().fold(text, |text, (old, new)| {
        assert!(text.contains(old), "the shipped file no longer has `{old}`");
        text.replace(old, new)
    });
    fs::write(to, text).unwrap();
}

fn command(dir: &Path, replica: &str, arguments: &[&str]) -> Command {
    let mut command = clean_command(env!("CARGO_BIN_EXE_tollgate"));
    command.args(arguments).arg("--config").arg(dir.join(replica).join("tollgate.yaml"));
    command
}

fn models(key: &Key) -> Sent {
    Sent::new("GET", "/v1/models").bearer(&key.text)
}

/// What clients saw who never stopped asking.
#[derive(Default)]
struct Load {
    allowed: usize,
    others: Vec<u16>,
    longest_loss: Duration,
}

/// Asks without a pause, until it is told to stop.
async fn load(envoy: SocketAddr, key: Key, stop: Arc<AtomicBool>) -> Load {
    let mut connection = Http1::connect(envoy).await.unwrap();
    let (mut seen, mut last) = (Load::default(), Instant::now());
    while !stop.load(Ordering::Relaxed) {
        match connection.send(&models(&key)).await.map(|reply| reply.status) {
            Ok(200) => seen.allowed += 1,
            Ok(503) => {
                seen.others.push(503);
                continue;
            }
            other => {
                seen.others.push(other.unwrap_or(0));
                break;
            }
        }
        seen.longest_loss = seen.longest_loss.max(last.elapsed());
        last = Instant::now();
    }
    seen.longest_loss = seen.longest_loss.max(last.elapsed());
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shipped_fleet() {
    let mut fleet = Fleet::start().await;
    let (key, kept) = (fleet.data_key(), fleet.data_key());
    fleet.are_well(2).await;
    fleet.each_answers(&key, 200, "allow").await;
    fleet.each_answers(&kept, 200, "allow").await;

    let stop = Arc::new(AtomicBool::new(false));
    let clients = [(); 4].map(|()| tokio::spawn(load(fleet.envoy, kept.clone(), Arc::clone(&stop))));
    let answered = async |fleet: &Fleet, more: f64| {
        let before = fleet.replicas[0].counted("allow").await;
        wait_for("answers under load", async || fleet.replicas[0].counted("allow").await >= before + more).await;
    };
    answered(&fleet, 100.0).await;
    drop(fleet.replicas[1].process.take());
    answered(&fleet, 500.0).await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        let seen = client.await.unwrap();
        assert!(seen.allowed > 100 && seen.others.iter().all(|status| *status == 503), "{:?}", seen.others);
        assert!(seen.longest_loss < LONGEST_LOSS, "{:?}", seen.longest_loss);
    }

    fleet.are_well(1).await;
    let dir = fleet.dir.path().to_owned();
    fleet.replicas[1].start(&dir);
    fleet.replicas[1].ready().await;
    fleet.are_well(2).await;
    fleet.each_answers(&key, 200, "allow").await;
    let revoked = fleet.tollgate(&["keys", "revoke", &key.id, "--wait"]);
    assert!(revoked.status.success(), "{revoked:?}");
    fleet.each_answers(&key, 401, "deny").await;
    fleet.each_answers(&kept, 200, "allow").await;

    // Neither has a lease without Redis; both are asked all the same, and say that it is not the key's fault.
    fleet.redis.signal(Signal::STOP);
    fleet.are_well(0).await;
    for _ in 0..4 {
        let reply = http1(fleet.envoy, &models(&kept)).await;
        assert_eq!(reply.status, 503);
    }
    fleet.redis.signal(Signal::CONT);
    fleet.are_well(2).await;
    fleet.each_answers(&kept, 200, "allow").await;
}

/// What was there before is asked for anew: a replica that has just come is asked as if it had never been away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_restarted_one_after_the_other_and_nobody_is_refused() {
    let mut fleet = Fleet::start().await;
    let key = fleet.data_key();
    fleet.are_well(2).await;
    fleet.each_answers(&key, 200, "allow").await;

    let stop = Arc::new(AtomicBool::new(false));
    let clients = [(); 4].map(|()| tokio::spawn(load(fleet.envoy, key.clone(), Arc::clone(&stop))));
    let dir = fleet.dir.path().to_owned();
    for _ in 0..3 {
        for replica in &mut fleet.replicas {
            let process = replica.process.as_mut().unwrap();
            process.signal(Signal::TERM);
            wait_for("the end of a replica", async || process.exit_code().is_some()).await;
            replica.start(&dir);
            replica.ready().await;
            let before = replica.counted("allow").await;
            wait_for("its answers", async || replica.counted("allow").await >= before + 100.0).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        let seen = client.await.unwrap();
        assert!(seen.allowed > 100 && seen.others.is_empty(), "{} answers, {:?}", seen.allowed, seen.others);
    }
}
