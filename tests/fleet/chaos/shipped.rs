//! The shipped files while their Redis, and everything, is started again, and while it comes back with less than it had. No key may
//! be gone, and no acknowledged revocation, unless everything is refused and it is said what is missing.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::block_in_place;
use tollgate_core::credential::KeyId;

use super::crash::crash_in;
use super::house::{Replica, all_answer, all_deny, init};
use super::load::{Answer, Key, PROMISED, Tally};
use super::process::Process;
use super::row::{Row, Scale};
use super::servers::{free_port, wait_for};
use super::shipped_files::{Shipped, copy_folder};

const REPLICAS: usize = 2;
/// Keys that are made before each restart of everything; the first of them is revoked.
const PER_ROUND: usize = 3;
/// How long everything is asked for while it is refused.
const REFUSED: Duration = Duration::from_secs(1);

fn signal(round: usize) -> Signal {
    if round.is_multiple_of(2) { Signal::TERM } else { Signal::KILL }
}

/// Under load, while keys are revoked.
pub async fn redis_restarted(scale: Scale) -> Row {
    let mut shipped = block_in_place(Shipped::start);
    let store = shipped.store();
    let restart = async |round| block_in_place(|| shipped.restart_redis(signal(round)));
    crash_in("shipped-redis-restarted", &store, scale.of(2, 20), restart).await
}

/// Redis and every replica at once.
pub async fn everything_restarted(scale: Scale) -> Row {
    let rounds = scale.of(2, 20);
    let mut fleet = Fleet::start().await;
    let (mut kept, mut revoked, mut tally) = (Vec::new(), Vec::new(), Tally::default());
    for round in 0..rounds {
        let made = fleet.make_keys(PER_ROUND).await;
        fleet.revoke(&made[0]);
        revoked.push(Arc::clone(&made[0]));
        kept.extend_from_slice(&made[1..]);
        block_in_place(|| {
            fleet.shipped.end_redis(signal(round));
            fleet.shipped.start_redis();
        });
        fleet.restart(signal(round));
        fleet.serves(&mut tally, &kept, &revoked).await;
        tally.check_until(Instant::now() + PROMISED / 4, &fleet.replicas(), &revoked[round]).await;
    }
    let (kept, revoked) = (kept.len(), revoked.len());
    Row::of("shipped-everything-restarted", &tally).note(format!("{rounds} times; {kept} keys kept, {revoked} revoked"))
}

/// The end of the append-only file is gone, as after a power cut. Started twice: the first start makes the file end where it does.
pub async fn tail_lost(scale: Scale) -> Row {
    loses("shipped-tail-lost", scale, |fleet, before| {
        let file = fleet.shipped.append_only_file();
        // Within what came next.
        File::options().write(true).open(file).unwrap().set_len(before.length + 7).unwrap();
        fleet.shipped.start_redis();
        fleet.shipped.restart_redis(Signal::TERM);
    })
    .await
}

/// There is nothing but a snapshot.
pub async fn snapshot_only(scale: Scale) -> Row {
    loses("shipped-snapshot-only", scale, |fleet, before| {
        let snapshot = snapshot_of(before.copy.path());
        let folder = fleet.shipped.data_folder();
        fs::remove_dir_all(&folder).unwrap();
        fs::create_dir(&folder).unwrap();
        // As an operator does it who has nothing else.
        fs::copy(snapshot.path().join("dump.rdb"), folder.join("appendonly.aof.1.base.rdb")).unwrap();
        fs::write(folder.join("appendonly.aof.1.incr.aof"), "").unwrap();
        let list = "file appendonly.aof.1.base.rdb seq 1 type b\nfile appendonly.aof.1.incr.aof seq 1 type i\n";
        fs::write(folder.join("appendonly.aof.manifest"), list).unwrap();
        fleet.shipped.start_redis();
    })
    .await
}

/// Somebody puts an older copy back.
pub async fn older_copy(scale: Scale) -> Row {
    loses("shipped-older-copy", scale, |fleet, before| {
        replace(&fleet.shipped.data_folder(), before.copy.path());
        fleet.shipped.start_redis();
    })
    .await
}

/// A second server is started from a copy of the folder, and goes on by itself; then it takes the place of the first.
pub async fn two_from_one_folder(scale: Scale) -> Row {
    loses("shipped-two-from-one-folder", scale, |fleet, before| {
        let mut second = before.second.take().unwrap();
        let process = process(&second);
        // As many changes as the first one has made since.
        let made = [make_key(&process), make_key(&process)];
        assert_ne!(made[0].id, made[1].id);
        drop(process);
        second.end_redis(Signal::TERM);
        replace(&fleet.shipped.data_folder(), &second.data_folder());
        fleet.shipped.start_redis();
    })
    .await
}

/// As it was before what is then lost.
struct Before {
    /// Of the append-only file.
    length: u64,
    /// Of the folder of the data.
    copy: TempDir,
    second: Option<Shipped>,
}

/// Redis comes back without a revocation and a new key that were acknowledged. In turn the replicas go on all the while, and the
/// store is accepted as it is; and they are killed, too, and what was lost is put back.
async fn loses(name: &'static str, scale: Scale, harm: impl Fn(&mut Fleet, &mut Before)) -> Row {
    let rounds: usize = scale.of(2, 10);
    let mut fleet = Fleet::start().await;
    let (mut kept, mut revoked, mut tally) = (Vec::new(), Vec::new(), Tally::default());
    let (mut answered, mut named) = (0, 0);
    for round in 0..rounds {
        let made = fleet.make_keys(PER_ROUND).await;
        kept.extend_from_slice(&made[1..]);
        let mut before = block_in_place(|| fleet.before());
        fleet.revoke(&made[0]);
        revoked.push(Arc::clone(&made[0]));
        let late = fleet.make_keys(1).await.remove(0);
        all_deny(&fleet.replicas(), &made[0]).await;
        fleet.has_noted().await;

        let are_killed = !round.is_multiple_of(2);
        let whole = block_in_place(|| {
            fleet.shipped.end_redis(Signal::KILL);
            let whole = copy_of(&fleet.shipped.data_folder());
            harm(&mut fleet, &mut before);
            whole
        });
        if are_killed {
            fleet.restart(Signal::KILL);
        }
        answered += fleet.refuses(&mut tally, &kept, &revoked).await;
        named += fleet.names_what_is_missing();
        if are_killed {
            block_in_place(|| {
                fleet.shipped.end_redis(Signal::TERM);
                replace(&fleet.shipped.data_folder(), whole.path());
                fleet.shipped.start_redis();
            });
            kept.push(late);
        } else {
            fleet.accept_what_is_shown();
        }
        fleet.serves(&mut tally, &kept, &revoked).await;
    }
    Row::of(name, &tally)
        .demand(answered == 0, format!("{answered} checks were answered by what the store had left"))
        .demand(named == rounds, format!("{named} of {rounds} times it was said what is missing"))
        .note(format!(
            "{rounds} times; sealed and named each time; {} keys kept, {} revoked",
            kept.len(),
            revoked.len()
        ))
}

struct Fleet {
    processes: Vec<Arc<Process>>,
    shipped: Shipped,
}

impl Fleet {
    async fn start() -> Self {
        let shipped = block_in_place(Shipped::start);
        init(&shipped.store(), &tempfile::tempdir().unwrap()).await;
        let processes = block_in_place(|| (0..REPLICAS).map(|_| Arc::new(process(&shipped))).collect());
        Self { processes, shipped }
    }

    fn replicas(&self) -> Vec<Replica> {
        self.processes.iter().cloned().map(Replica::Process).collect()
    }

    /// Each of them, on what it leaves behind.
    fn restart(&mut self, signal: Signal) {
        block_in_place(|| {
            let ended: Vec<_> = self.processes.drain(..).collect();
            let again = |process| Arc::into_inner(process).map(|process: Process| Arc::new(process.restart(signal)));
            self.processes =
                ended.into_iter().map(|process| again(process).expect("nobody asks it any more")).collect();
        });
    }

    /// Keys that every replica allows.
    async fn make_keys(&self, count: usize) -> Vec<Arc<Key>> {
        let made: Vec<Arc<Key>> = block_in_place(|| (0..count).map(|_| make_key(&self.processes[0])).collect());
        for key in &made {
            all_answer(&self.replicas(), key, Answer::Allowed).await;
        }
        made
    }

    fn revoke(&self, key: &Key) {
        key.begin_to_end();
        let revoke = || command(&self.processes[1], &["keys", "revoke", key.id.as_str()]).output().unwrap();
        let revoked = block_in_place(revoke);
        assert!(revoked.status.success(), "{revoked:?}");
        key.bar_from(Instant::now() + PROMISED);
    }

    fn before(&self) -> Before {
        let length = fs::metadata(self.shipped.append_only_file()).unwrap().len();
        Before { length, copy: copy_of(&self.shipped.data_folder()), second: Some(self.shipped.copy()) }
    }

    /// Until each replica has written down how far it has come.
    async fn has_noted(&self) {
        let head: u64 = block_in_place(|| self.shipped.command(&["HGET", "tg:{tg}:head", "seq"]));
        for process in &self.processes {
            let file = process.config().with_file_name("position");
            wait_for("a position that was noted", || {
                let noted: Value = serde_json::from_slice(&fs::read(&file).unwrap_or_default()).unwrap_or_default();
                noted["seq"].as_u64() >= Some(head)
            });
        }
    }

    /// Waits until every replica says that it is sealed. Gives how many checks are answered otherwise than with 503 from then on.
    async fn refuses(&self, tally: &mut Tally, kept: &[Arc<Key>], revoked: &[Arc<Key>]) -> usize {
        let (mut answered, all) = (0, self.replicas());
        block_in_place(|| {
            for process in &self.processes {
                wait_for("a replica that is sealed", || process.probe("/ready").contains("sealed"));
            }
        });
        let end = Instant::now() + REFUSED;
        while Instant::now() < end {
            for key in kept.iter().chain(revoked) {
                for replica in &all {
                    answered += usize::from(tally.check(replica, key).await != Answer::Unavailable);
                }
            }
        }
        answered
    }

    /// Whether an operator is told that something is missing, and by whom.
    fn names_what_is_missing(&self) -> usize {
        block_in_place(|| {
            wait_for("a replica that says what it misses", || {
                let look = self.accept(&[]);
                look["missing"].is_string() && !look["replicas"].as_array().unwrap().is_empty()
            });
        });
        1
    }

    /// Replicas tell one after the other what they miss: what was shown may be less than what is missing then.
    fn accept_what_is_shown(&self) {
        block_in_place(|| {
            wait_for("an acceptance of what was shown", || {
                let shown = self.accept(&[]);
                let accepted = self.accept(&["--yes", shown["loss"].as_str().unwrap()]);
                !accepted["accepted"].is_null()
            });
        });
    }

    fn accept(&self, how: &[&str]) -> Value {
        let config = self.processes[0].config();
        let mut accept = Command::new(env!("CARGO_BIN_EXE_tollgate"));
        accept.env_clear().args(["store", "accept", "-o", "json", "--config"]).arg(config).args(how);
        let done = accept.stdin(Stdio::null()).output().unwrap();
        serde_json::from_slice(&done.stdout).unwrap_or_else(|_| panic!("{done:?}"))
    }

    /// Every key that is kept is allowed, and every other one refused, once the replicas answer again.
    async fn serves(&self, tally: &mut Tally, kept: &[Arc<Key>], revoked: &[Arc<Key>]) {
        let all = self.replicas();
        for key in kept {
            all_answer(&all, key, Answer::Allowed).await;
        }
        for key in revoked {
            all_deny(&all, key).await;
        }
        // The replicas that remember what was lost may be killed next: they have it ended in the store, too, within a second or so.
        block_in_place(|| {
            for key in revoked {
                let show =
                    || command(&self.processes[0], &["keys", "show", key.id.as_str(), "-o", "json"]).output().unwrap();
                let state = || serde_json::from_slice::<Value>(&show().stdout).unwrap_or_default()["state"].clone();
                wait_for("a key that is revoked in the store", || state() == "revoked");
            }
        });
        for key in kept.iter().chain(revoked) {
            for replica in &all {
                tally.check(replica, key).await;
            }
        }
    }
}

fn process(shipped: &Shipped) -> Process {
    let folder = tempfile::tempdir().unwrap();
    let config = shipped.tollgate(folder.path());
    Process::start(folder, &config)
}

fn make_key(process: &Process) -> Arc<Key> {
    let words = ["keys", "create", "--name", "chaos", "--plane", "data", "--project", "acme", "--workloads", "*"];
    let made = command(process, &words).args(["--permissions", "run_inference", "-o", "json"]).output().unwrap();
    let made: Value = serde_json::from_slice(&made.stdout).unwrap_or_else(|_| panic!("{made:?}"));
    let id = KeyId::parse(made["id"].as_str().unwrap()).unwrap();
    Arc::new(Key::new(id, made["key"].as_str().unwrap().to_owned()))
}

fn command(process: &Process, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.env_clear().args(arguments).arg("--socket").arg(process.admin()).stdin(Stdio::null());
    command
}

fn copy_of(folder: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(folder, copy.path());
    copy
}

fn replace(folder: &Path, with: &Path) {
    fs::remove_dir_all(folder).unwrap();
    copy_folder(with, folder);
}

/// A folder with a snapshot of what this copy of a folder of data holds.
fn snapshot_of(data: &Path) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    copy_folder(data, &folder.path().join("appendonlydir"));
    let port = free_port();
    let mut server = Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--appendonly", "yes", "--save", "", "--dir"])
        .arg(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
    let save = || redis::cmd("SAVE").query::<()>(&mut client.get_connection()?);
    wait_for("a snapshot", || save().is_ok());
    server.kill().unwrap();
    server.wait().unwrap();
    folder
}

/// Two listeners of one server on one port do not start.
#[test]
fn no_port_is_given_twice() {
    let ports: std::collections::BTreeSet<u16> = (0..2_000).map(|_| free_port()).collect();
    assert_eq!(ports.len(), 2_000);
}
