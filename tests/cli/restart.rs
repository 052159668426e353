//! The shipped files of a fleet over restarts of its Redis: nothing that was acknowledged is missing afterwards.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::servers::wait_for;
use super::shipped::{NEW_RIGHTS, OLD_DEFAULT, Shipped, rewrite};
use super::{Done, run, tollgate};

/// The line of this release.
const DEFAULT: &str = "user default off resetpass ~* &* +@all";

/// A `tollgate serve` with the shipped configuration. Ended by its id.
struct Replica {
    child: Child,
    /// What outlasts the process.
    folder: Option<TempDir>,
}

impl Replica {
    fn start(shipped: &Shipped) -> Self {
        Self::start_in(shipped, tempfile::tempdir().unwrap())
    }

    fn start_in(shipped: &Shipped, folder: TempDir) -> Self {
        let replica = Self::launch_in(shipped, folder);
        wait_for("a replica", || replica.run(&["keys", "list"]).code == 0);
        replica
    }

    fn launch_in(shipped: &Shipped, folder: TempDir) -> Self {
        let log = File::create(folder.path().join("log")).unwrap();
        let mut child = tollgate();
        child.args(["serve", "--config", &config_in(&folder, shipped)]).stdout(log).stderr(Stdio::null());
        Self { child: child.spawn().unwrap(), folder: Some(folder) }
    }

    fn run(&self, arguments: &[&str]) -> Done {
        let mut command = tollgate();
        command.args(arguments).arg("--socket").arg(self.folder().path().join("admin.sock"));
        command.output().unwrap().into()
    }

    fn is_ready(&self) -> bool {
        self.probe("/ready").starts_with("HTTP/1.1 200")
    }

    /// What the operator's door answers.
    fn probe(&self, path: &str) -> String {
        let config = fs::read_to_string(self.folder().path().join("tollgate.yaml")).unwrap();
        let ops = config.split("ops: {http: ").nth(1).unwrap().split('}').next().unwrap();
        let Ok(mut connection) = TcpStream::connect(ops) else { return String::new() };
        let asked = format!("GET {path} HTTP/1.1\r\nhost: ops\r\nconnection: close\r\n\r\n");
        let mut answer = String::new();
        let answered = connection.write_all(asked.as_bytes()).and_then(|()| connection.read_to_string(&mut answer));
        answered.map(|_| answer).unwrap_or_default()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder().path().join("log")).unwrap()
    }

    fn folder(&self) -> &TempDir {
        self.folder.as_ref().unwrap()
    }

    /// Ends it, and gives what it leaves behind.
    fn stop(mut self) -> TempDir {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.folder.take().unwrap()
    }

    /// The id of a key that was just made.
    fn make_key(&self) -> String {
        self.try_key().expect("a key is made")
    }

    fn try_key(&self) -> Option<String> {
        let key = ["keys", "create", "--name", "chat", "--plane", "data", "--project", "acme", "--workloads", "*"];
        let made = self.run(&[&key[..], &["--permissions", "run_inference", "-o", "json"]].concat());
        (made.code == 0).then(|| made.json()["id"].as_str().unwrap().to_owned())
    }

    /// The keys that are listed, once there is an answer.
    fn keys(&self) -> Vec<String> {
        let mut keys = Vec::new();
        wait_for("a list of keys", || {
            let list = self.run(&["keys", "list", "-o", "json"]);
            if list.code == 0 {
                let list = list.json();
                let ids = list["keys"].as_array().unwrap().iter().map(|key| key["id"].as_str().unwrap().to_owned());
                keys = ids.collect();
                keys.sort();
                return true;
            }
            false
        });
        keys
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A configuration of this Redis in a folder.
fn config_in(folder: &TempDir, shipped: &Shipped) -> String {
    let config = folder.path().join("tollgate.yaml");
    fs::write(&config, shipped.tollgate(folder.path())).unwrap();
    config.to_str().unwrap().to_owned()
}

fn init(shipped: &Shipped) {
    let folder = tempfile::tempdir().unwrap();
    run(&["store", "init", "--config", &config_in(&folder, shipped)]).ends(0);
}

fn with_keys(shipped: &Shipped) -> (Replica, Vec<String>) {
    init(shipped);
    let replica = Replica::start(shipped);
    let mut keys: Vec<String> = (0..3).map(|_| replica.make_key()).collect();
    keys.sort();
    (replica, keys)
}

/// As an operator does: what was shown, and nothing else.
fn accept(config: &str) {
    let look = |how: &[&str]| run(&[&["store", "accept", "--config", config, "-o", "json"], how].concat());
    let other = look(&["--yes", "0123456789ab"]).ends(1);
    assert!(other.err.contains("not what was shown") && other.json()["accepted"].is_null(), "{}", other.err);
    let mut shown = other.json();
    // Replicas tell one after the other what they miss.
    wait_for("a loss that stays the same", || {
        let done = look(&["--yes", shown["loss"].as_str().unwrap()]);
        shown = done.json();
        done.code == 0
    });
    assert!(shown["accepted"]["lineage"].is_string(), "{shown}");
}

/// Tollgate's user may do all that it takes.
#[test]
fn a_replica_with_a_grace_that_is_not_listed_any_more_is_named() {
    let shipped = Shipped::start();
    init(&shipped);
    let folder = tempfile::tempdir().unwrap();
    let config = config_in(&folder, &shipped);
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replacen("revoked: 401", "revoked: 401, grace: 60s", 1)).unwrap();
    let log = File::create(folder.path().join("log")).unwrap();
    let child = tollgate().args(["serve", "--config", &config]).stdout(log).stderr(Stdio::null()).spawn().unwrap();
    let replica = Replica { child, folder: Some(folder) };
    wait_for("a replica", || replica.run(&["keys", "list"]).code == 0);
    let revoke = |id: &str| replica.run(&["keys", "revoke", id, "--wait", "-o", "json"]);
    let [first, second] = [replica.make_key(), replica.make_key()];
    revoke(&first).ends(0);
    assert_eq!(shipped.command::<u64>(&["DEL", "tg:{tg}:members"]), 1);
    let done = revoke(&second);
    assert!(
        done.code != 0 && format!("{}{}", done.out, done.err).contains("the store lists no more"),
        "{} {}",
        done.out,
        done.err
    );
}

#[test]
fn a_restart_of_redis_keeps_every_key() {
    let mut shipped = Shipped::start();
    let (replica, mut keys) = with_keys(&shipped);
    for signal in [Signal::TERM, Signal::KILL, Signal::TERM] {
        shipped.restart_redis(signal);
        // The first call that comes after it is ready is answered.
        wait_for("readiness", || replica.is_ready());
        assert_eq!(
            replica.run(&["keys", "list", "-o", "json"]).ends(0).json()["keys"].as_array().map(Vec::len),
            Some(keys.len())
        );
        assert_eq!(replica.keys(), keys, "{signal:?}");
        assert_eq!(Replica::start(&shipped).keys(), keys, "{signal:?}, for a replica that has just started");
        keys.push(replica.make_key());
        keys.sort();
    }
}

#[test]
fn no_store_is_made_in_the_place_of_one_that_was_lost() {
    let shipped = Shipped::start();
    let (replica, keys) = with_keys(&shipped);
    let folder = replica.stop();
    let config = config_in(&folder, &shipped);
    let init = |how: &[&str]| run(&[&["store", "init", "--config", &config, "-o", "json"], how].concat());
    // It is there, and stays as it is.
    assert_eq!(init(&[]).ends(0).json()["made"], false);
    assert_eq!(shipped.command::<u64>(&["DEL", "tg:{tg}:head"]), 1);
    let refused = init(&[]).ends(1);
    assert!(refused.err.contains("remembers one with") && refused.err.contains("--anew"), "{}", refused.err);
    assert_eq!(shipped.command::<u64>(&["EXISTS", "tg:{tg}:head"]), 0, "nothing is made");
    assert_eq!(init(&["--anew"]).ends(0).json()["made"], true);
    assert_eq!(keys.len(), 3);
}

#[test]
fn nobody_logs_in_as_the_user_that_replays() {
    let shipped = Shipped::start();
    let mut connection =
        redis::Client::open(format!("redis://{}", shipped.address())).unwrap().get_connection().unwrap();
    for words in [
        &["GET", "tg:{tg}:head"][..],
        &["AUTH", ""],
        &["AUTH", "default", ""],
        &["AUTH", "default", "default"],
        &["HELLO", "3"],
        &["HELLO", "3", "AUTH", "default", ""],
        &["PING"],
    ] {
        let answer: redis::RedisResult<redis::Value> = redis::cmd(words[0]).arg(&words[1..]).query(&mut connection);
        let refused = answer.unwrap_err();
        assert!(matches!(refused.code(), Some("NOAUTH" | "WRONGPASS" | "ERR")), "{words:?}: {refused}");
    }
}

#[test]
fn the_list_of_users_of_an_older_release_is_mended_and_nothing_else() {
    let shipped = Shipped::start();
    let fresh = fs::read_to_string(shipped.users()).unwrap();
    assert_eq!(fresh.lines().next(), Some(DEFAULT));
    let others = "# ours\nuser default off nopass\nuser default offline\n user default off\nuser mine on nopass +cluster|slots +cluster|shards";
    let tail = fresh.lines().skip(1).collect::<Vec<_>>().join("\n");
    let old_tail = tail.replace(NEW_RIGHTS, "");
    assert_ne!(tail, old_tail);
    rewrite(&shipped.users(), &format!("{others}\n{OLD_DEFAULT}\n{old_tail}\n"));
    for _ in 0..2 {
        shipped.run_secrets();
        assert_eq!(fs::read_to_string(shipped.users()).unwrap(), format!("{others}\n{DEFAULT}\n{tail}\n"));
        assert_eq!(fs::metadata(shipped.users()).unwrap().permissions().mode() & 0o777, 0o400);
    }
    let folder: Vec<_> =
        fs::read_dir(shipped.redis_folder()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!folder.iter().any(|name| name == "users.acl.new"), "{folder:?}");
}

#[test]
fn what_was_replayed_empty_comes_back() {
    let mut shipped = Shipped::start_with(Shipped::age_users);
    let (replica, keys) = with_keys(&shipped);
    drop(replica);
    shipped.restart_redis(Signal::TERM);
    assert_eq!(shipped.command::<u64>(&["EXISTS", "tg:{tg}:head"]), 1);
    let left: Vec<String> = shipped.command(&["ZRANGE", "tg:{tg}:list:keys", "0", "-1"]);
    // Valkey 9 replays all of it, whatever the default user may do.
    assert!(left.is_empty() || shipped.is_valkey(), "{left:?}");
    // As docs/fleet.md says.
    shipped.run_secrets();
    shipped.restart_redis(Signal::TERM);
    assert_eq!(Replica::start(&shipped).keys(), keys);
}

#[test]
fn a_store_that_was_replayed_empty_is_refused_by_whoever_knew_it() {
    let mut shipped = Shipped::start_with(Shipped::age_users);
    if shipped.is_valkey() {
        return;
    }
    let (replica, keys) = with_keys(&shipped);
    let config = config_in(replica.folder(), &shipped);
    shipped.restart_redis(Signal::TERM);
    wait_for("a list that is refused", || replica.run(&["keys", "list"]).err.contains("went back without a failover"));
    assert!(replica.try_key().is_none());
    let look = || run(&["store", "accept", "--config", &config, "-o", "json"]).json();
    wait_for("a replica that says what it misses", || !look()["replicas"].as_array().unwrap().is_empty());
    let seen = look();
    assert!(
        seen["accepted"].is_null() && seen["known"].as_u64().unwrap() > seen["sequence"].as_u64().unwrap(),
        "{seen}"
    );
    let missed = seen["replicas"][0]["missed"].to_string();
    assert!(keys.iter().all(|key| missed.contains(&format!("key.create key:{key} by operator in acme"))), "{missed}");
    // The same configuration, with what it has remembered: it starts, and refuses everything.
    let replica = Replica::launch_in(&shipped, replica.stop());
    wait_for("a replica that is alive", || replica.probe("/live").contains("200 OK"));
    wait_for("its reason", || replica.probe("/ready").contains("sealed") && !replica.is_ready());
    let metrics = replica.probe("/metrics");
    assert!(metrics.contains("tollgate_task_restarts{task=\"fleet_log\"} 0"), "{metrics}");
    wait_for("a list that is refused", || replica.run(&["keys", "list"]).err.contains("`tollgate store accept`"));
    assert!(replica.try_key().is_none());
    wait_for("a replica that says what it misses", || !look()["replicas"].as_array().unwrap().is_empty());

    // What it misses is back: it goes on by itself.
    shipped.run_secrets();
    shipped.restart_redis(Signal::TERM);
    assert_eq!(replica.keys(), keys);
    wait_for("a replica that is ready", || replica.is_ready());
}

#[test]
fn a_replica_that_starts_on_a_store_that_went_back_goes_on_once_that_is_accepted() {
    let mut shipped = Shipped::start_with(Shipped::age_users);
    if shipped.is_valkey() {
        return;
    }
    let (replica, keys) = with_keys(&shipped);
    let folder = replica.stop();
    shipped.restart_redis(Signal::KILL);
    let mut replica = Replica::launch_in(&shipped, folder);
    wait_for("its reason", || replica.probe("/ready").contains("sealed"));
    let config = replica.folder().path().join("tollgate.yaml");
    accept(config.to_str().unwrap());
    wait_for("a replica that is ready", || replica.is_ready());
    let rows = replica.run(&["audit", "list", "-o", "json"]).ends(0).json().to_string();
    assert!(rows.contains("store.accept") && rows.contains("missing: changes"), "{rows}");
    assert_eq!((replica.keys(), keys.is_empty()), (Vec::new(), false));
    replica.make_key();
    // Also who is told to end while it refuses everything ends.
    let folder = replica.stop();
    shipped.restart_redis(Signal::KILL);
    replica = Replica::launch_in(&shipped, folder);
    wait_for("its reason", || replica.probe("/ready").contains("sealed"));
    kill_process(Pid::from_child(&replica.child), Signal::TERM).unwrap();
    wait_for("its end", || replica.child.try_wait().unwrap().is_some());
}

#[test]
fn who_is_told_to_end_while_the_store_is_opened_again_ends() {
    let mut shipped = Shipped::start_with(Shipped::age_users);
    if shipped.is_valkey() {
        return;
    }
    let (replica, _) = with_keys(&shipped);
    let folder = replica.stop();
    shipped.restart_redis(Signal::KILL);
    let mut replica = Replica::launch_in(&shipped, folder);
    wait_for("its reason", || replica.probe("/ready").contains("sealed"));
    let config = replica.folder().path().join("tollgate.yaml");
    accept(config.to_str().unwrap());
    wait_for("the end of its refusals", || replica.log().contains("draining"));
    shipped.hold_redis();
    kill_process(Pid::from_child(&replica.child), Signal::TERM).unwrap();
    wait_for("its end", || replica.child.try_wait().unwrap().is_some());
}

#[test]
fn what_was_changed_in_the_empty_store_is_kept_with_the_rest() {
    let mut shipped = Shipped::start_with(Shipped::age_users);
    if shipped.is_valkey() {
        return;
    }
    let (replica, mut keys) = with_keys(&shipped);
    drop(replica);
    shipped.restart_redis(Signal::TERM);
    // It has known nothing of the store.
    let newcomer = Replica::start(&shipped);
    wait_for("a change in the empty store", || newcomer.try_key().is_some());
    drop(newcomer);
    shipped.run_secrets();
    shipped.restart_redis(Signal::TERM);
    // Numbers were given twice: nobody believes it before the operator does.
    let folder = tempfile::tempdir().unwrap();
    let config = config_in(&folder, &shipped);
    accept(&config);
    let replica = Replica::start(&shipped);
    let all = replica.keys();
    keys.retain(|key| !all.contains(key));
    assert!(keys.is_empty() && all.len() == 4, "{keys:?} of {all:?}");
    replica.make_key();
}

/// What a script uses its user may do, and what it leaves behind is asked of the one that replays it.
#[test]
fn every_command_of_a_script_is_allowed_and_known() {
    let shipped = Shipped::start();
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/store/redis/scripts");
    let mut commands = BTreeSet::new();
    for file in fs::read_dir(folder).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        let calls = text.split("call('").skip(1).map(|call| call.split('\'').next().unwrap().to_owned());
        commands.extend(calls);
    }
    assert!(commands.len() > 20, "{commands:?}");
    let known: BTreeSet<&str> = tollgate::store::redis::survey::WRITES.iter().map(|(command, ..)| *command).collect();
    for command in &commands {
        let mut told: Vec<(String, i64, Vec<String>)> = shipped
            .command::<Vec<Vec<redis::Value>>>(&["COMMAND", "INFO", command])
            .into_iter()
            .map(|info| redis::FromRedisValue::from_redis_value(redis::Value::Array(info[..3].to_vec())).unwrap())
            .collect();
        let (_, arity, flags) = told.pop().unwrap();
        let is_write = flags.iter().any(|flag| flag == "write");
        assert!(!is_write || known.contains(&**command), "{command} is not asked of the default user");
        let words = usize::try_from(arity.abs()).unwrap() - 1;
        let asked = [&["ACL", "DRYRUN", "tollgate", command][..], &vec!["tg:{tg}:head"; words]].concat();
        assert_eq!(shipped.command::<String>(&asked), "OK", "{command}");
    }
}

fn check(shipped: &Shipped, how: &[&str]) -> Done {
    let folder = tempfile::tempdir().unwrap();
    run(&[&["store", "check", "--config", &config_in(&folder, shipped)], how].concat())
}

#[test]
fn whether_a_restart_replays_everything_is_said_wherever_one_looks() {
    let mut shipped = Shipped::start();
    let missing = check(&shipped, &[]).ends(8);
    assert!(missing.out.contains("not there") && missing.out.contains("tollgate store init"), "{}", missing.out);
    let (replica, _) = with_keys(&shipped);
    let well = check(&shipped, &["-o", "json"]).ends(0).json();
    assert_eq!((well["findings"].as_array().map(Vec::len), well["replicas"].as_u64()), (Some(0), Some(1)), "{well}");
    assert!(check(&shipped, &[]).ends(0).out.contains("Nothing was found."));
    drop(replica);

    // As an older release has left it: nobody can ask, which is no yes.
    shipped.end_redis(Signal::TERM);
    Shipped::age_users(&shipped.redis_folder());
    shipped.start_redis();
    let warned = check(&shipped, &[]).ends(7);
    assert!(warned.out.contains("it cannot be known whether a restart replays"), "{}", warned.out);
    shipped.run_secrets();
    shipped.restart_redis(Signal::TERM);
    check(&shipped, &[]).ends(0);

    shipped.end_redis(Signal::TERM);
    let mended = fs::read_to_string(shipped.users()).unwrap();
    rewrite(&shipped.users(), &mended.replace(DEFAULT, OLD_DEFAULT));
    shipped.start_redis();
    let warned = check(&shipped, &[]).ends(7);
    assert!(warned.out.contains("may not do SET") && warned.out.contains("bounded except failover"), "{}", warned.out);
    let replica = Replica::start(&shipped);
    assert!(replica.log().contains("may not do SET"), "{}", replica.log());
    wait_for("the fleet to say so", || replica.run(&["fleet"]).out.contains("warn: a restart loses the keys"));
}

/// What is asked of the default user is everything that stands in the file.
#[test]
fn nothing_is_replayed_that_was_not_asked_for() {
    let shipped = Shipped::start();
    let (replica, keys) = with_keys(&shipped);
    replica.run(&["keys", "revoke", &keys[0]]).ends(0);
    drop(replica);
    // `*3`, `$3`, `SET`, …: the word after each count of words.
    let text = fs::read(shipped.append_only_file()).unwrap();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let is_count = |line: &str| line.strip_prefix('*').is_some_and(|rest| rest.parse::<u32>().is_ok());
    let begins = lines.windows(3).filter(|lines| is_count(lines[0]) && lines[1].starts_with('$'));
    let found: BTreeSet<String> = begins.map(|lines| lines[2].to_uppercase()).collect();
    let mut known: BTreeSet<String> =
        tollgate::store::redis::survey::WRITES.iter().map(|(command, ..)| (*command).to_owned()).collect();
    known.extend(["SELECT", "MULTI", "EXEC"].map(str::to_owned));
    let unknown: Vec<_> = found.difference(&known).collect();
    assert!(found.contains("XADD") && unknown.is_empty(), "{unknown:?}");
}
