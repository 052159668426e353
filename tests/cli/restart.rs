//! The shipped files of a fleet over restarts of its Redis: nothing that was acknowledged is missing afterwards.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Stdio};

use rustix::process::Signal;
use tempfile::TempDir;

use super::servers::wait_for;
use super::shipped::{OLD_DEFAULT, Shipped, rewrite};
use super::{Done, run, tollgate};

/// The line of this release.
const DEFAULT: &str = "user default off resetpass ~* &* +@all";

/// A `tollgate serve` with the shipped configuration. Ended by its id.
struct Replica {
    child: Child,
    folder: TempDir,
}

impl Replica {
    fn start(shipped: &Shipped) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let mut child = tollgate();
        child.args(["serve", "--config", &config_in(&folder, shipped)]).stdout(log).stderr(Stdio::null());
        let replica = Self { child: child.spawn().unwrap(), folder };
        wait_for("a replica", || replica.run(&["keys", "list"]).code == 0);
        replica
    }

    fn run(&self, arguments: &[&str]) -> Done {
        let mut command = tollgate();
        command.args(arguments).arg("--socket").arg(self.folder.path().join("admin.sock"));
        command.output().unwrap().into()
    }

    fn is_ready(&self) -> bool {
        let config = fs::read_to_string(self.folder.path().join("tollgate.yaml")).unwrap();
        let ops = config.split("ops: {http: ").nth(1).unwrap().split('}').next().unwrap();
        let Ok(mut connection) = TcpStream::connect(ops) else { return false };
        connection.write_all(b"GET /ready HTTP/1.1\r\nhost: ops\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200")
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap()
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
    let others = "# ours\nuser default off nopass\nuser default offline\n user default off\nuser mine on nopass";
    let tail = fresh.lines().skip(1).collect::<Vec<_>>().join("\n");
    rewrite(&shipped.users(), &format!("{others}\n{OLD_DEFAULT}\n{tail}\n"));
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
fn what_was_changed_in_the_empty_store_is_carried_over_with_the_rest() {
    let mut shipped = Shipped::start_with(Shipped::age_users);
    if shipped.is_valkey() {
        return;
    }
    let (replica, mut keys) = with_keys(&shipped);
    shipped.restart_redis(Signal::TERM);
    wait_for("a change in the empty store", || replica.try_key().is_some());
    drop(replica);
    shipped.run_secrets();
    shipped.restart_redis(Signal::TERM);
    let replica = Replica::start(&shipped);
    let all = replica.keys();
    keys.retain(|key| !all.contains(key));
    assert!(keys.is_empty() && all.len() == 4, "{keys:?} of {all:?}");
    assert!(replica.try_key().is_none(), "numbers were given twice");
    drop(replica);

    let folder = tempfile::tempdir().unwrap();
    let from = config_in(&folder, &shipped);
    let file = format!("store: {{embedded: {{path: {}}}}}", folder.path().join("store.redb").display());
    let text = fs::read_to_string(&from).unwrap();
    let (head, rest) = (text.find("store:").unwrap(), text.find("pepper:").unwrap());
    let to = folder.path().join("file.yaml");
    fs::write(&to, format!("{}{file}\n{}", &text[..head], &text[rest..])).unwrap();
    let carry = || run(&["store", "migrate", "--from", &from, "--to", to.to_str().unwrap(), "-o", "json"]);
    let mut carried = None;
    wait_for("a replica that was killed to be silent", || {
        let done = carry();
        let is_done = done.code == 0;
        carried = Some(done);
        is_done
    });
    let records = carried.unwrap().json()["records"].as_array().unwrap().clone();
    let keys = records.iter().find(|record| record["kind"] == "keys").unwrap();
    assert_eq!(keys["verified"], 4, "{keys}");
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

    shipped.end_redis(Signal::TERM);
    Shipped::age_users(&shipped.redis_folder());
    shipped.start_redis();
    let warned = check(&shipped, &[]).ends(7);
    assert!(warned.out.contains("may not do SET") && warned.out.contains("bounded except failover"), "{}", warned.out);
    let replica = Replica::start(&shipped);
    assert!(replica.log().contains("may not do SET"), "{}", replica.log());
    wait_for("the fleet to say so", || replica.run(&["fleet"]).out.contains("warn: a restart loses the keys"));

    let silent = Shipped::start_with(|folder| {
        let file = folder.join("users.acl");
        let text = fs::read_to_string(&file).unwrap();
        rewrite(&file, &text.replace(" +acl|dryrun", ""));
    });
    init(&silent);
    assert!(check(&silent, &[]).ends(0).out.contains("it cannot be known whether a restart replays"));
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
        tollgate::store::redis::survey::WRITES.iter().map(|words| words[0].to_owned()).collect();
    known.extend(["SELECT", "MULTI", "EXEC"].map(str::to_owned));
    let unknown: Vec<_> = found.difference(&known).collect();
    assert!(found.contains("XADD") && unknown.is_empty(), "{unknown:?}");
}
