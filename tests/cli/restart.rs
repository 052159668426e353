//! The shipped files of a fleet over restarts of its Redis: nothing that was acknowledged is missing afterwards.

use std::fs;
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
        let mut child = tollgate();
        child.args(["serve", "--config", &config_in(&folder, shipped)]).stdout(Stdio::null()).stderr(Stdio::null());
        let replica = Self { child: child.spawn().unwrap(), folder };
        wait_for("a replica", || replica.run(&["keys", "list"]).code == 0);
        replica
    }

    fn run(&self, arguments: &[&str]) -> Done {
        let mut command = tollgate();
        command.args(arguments).arg("--socket").arg(self.folder.path().join("admin.sock"));
        command.output().unwrap().into()
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
