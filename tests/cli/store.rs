//! The store of a fleet from outside: made once, shown, refused with a reason, and shared by two processes.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::server::{self, House, in_redis, write_secret};
use super::signed::PEPPER;
use super::{Done, run, servers, tollgate};

impl House {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = tollgate();
        command.args(arguments).arg("--config").arg(&self.config);
        command
    }

    fn run(&self, arguments: &[&str]) -> Done {
        self.command(arguments).output().unwrap().into()
    }

    fn give_pepper(&self) {
        write_secret(&self.folder.path().join("pepper.1"), PEPPER);
    }
}

#[test]
fn a_store_is_made_once() {
    let redis = servers::Server::start();
    let house = House::on(&redis);
    let first = house.run(&["store", "init"]).ends(0);
    assert!(first.out.contains("made now") && first.out.contains("bounded (1 s)"), "{}", first.out);
    let lineage: String = redis.command(&["HGET", "tg:{tg}:head", "id"]);
    let again = house.run(&["store", "init", "-o", "json"]).ends(0).json();
    assert_eq!((again["made"].as_bool(), again["lineage"].as_str()), (Some(false), Some(&*lineage)));
    assert_eq!((again["level"].as_str(), again["sequence"].as_u64()), (Some("bounded (1 s)"), Some(0)));
    assert_eq!(again["findings"].as_array().map(Vec::len), Some(0), "{again}");
    assert!(house.run(&["store", "init"]).ends(0).out.contains("there already"));
}

#[test]
fn findings_are_shown_with_their_remedies() {
    let redis = servers::Server::with(&["appendonly no"]);
    let house = House::on(&redis);
    let shown = house.run(&["store", "init"]).ends(0).out;
    assert!(shown.contains("warn") && shown.contains("set `appendonly yes`"), "{shown}");
    let finding = &house.run(&["store", "init", "-o", "json"]).ends(0).json()["findings"][0];
    assert_eq!(finding["severity"].as_str(), Some("warn"));
}

#[test]
fn no_store_is_made_where_it_would_not_last() {
    let redis = servers::Server::with(&["maxmemory-policy allkeys-lru"]);
    let house = House::on(&redis);
    assert!(house.run(&["store", "init"]).ends(1).err.contains("set `maxmemory-policy noeviction`"));
    assert!(house.run(&["serve"]).ends(1).err.contains("set `maxmemory-policy noeviction`"));
    assert_eq!(redis.command::<u64>(&["DBSIZE"]), 0);

    let unreachable = House::with(&format!("{{redis: {{url: 'redis://127.0.0.1:{}'}}}}", servers::free_port()));
    assert!(unreachable.run(&["store", "init"]).ends(4).err.contains("cannot be reached"));
    let closed = House::with("{redis: {url: 'redis://a', password: {file: FOLDER/missing}}}");
    assert!(closed.run(&["store", "init"]).ends(4).err.contains("missing"));
}

#[test]
fn what_is_missing_at_the_start_is_said() {
    let redis = servers::Server::start();
    let house = House::on(&redis);
    assert!(house.run(&["serve"]).ends(1).err.contains("tollgate store init"));
    assert_eq!(redis.command::<u64>(&["DBSIZE"]), 0, "nothing but `store init` makes a store");
    house.run(&["store", "init"]).ends(0);
    let refused = house.run(&["serve"]).ends(1).err;
    assert!(refused.contains("a fleet shares its pepper") && refused.contains("openssl rand -hex 32"), "{refused}");
    assert!(!house.folder.path().join("pepper.1").exists());
}

/// Makes a key through a server; with `how`, the answer.
fn create_key(server: &server::Server, how: &[&str]) -> Done {
    let socket = server.socket();
    let key = ["keys", "create", "--name", "chat", "--plane", "data", "--project", "acme", "--workloads", "*"];
    run(&[&key[..], &["--permissions", "run_inference", "--socket", &socket], how].concat()).ends(0)
}

#[test]
fn a_server_that_comes_late_is_waited_for() {
    let mut redis = servers::Server::start();
    let house = House::on(&redis);
    house.run(&["store", "init"]).ends(0);
    house.give_pepper();
    redis.kill();
    let mut child = Running(house.command(&["serve"]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let log = BufReader::new(child.0.stdout.take().unwrap());
    let mut lines = log.lines().map(Result::unwrap);
    let warned = lines.find(|line| line.contains("cannot be reached yet")).expect("it goes on trying");
    assert!(warned.contains(&redis.address()), "{warned}");
    redis.restart();
    lines.find(|line| line.contains("\"serving\"")).expect("it serves");
}

#[test]
fn who_is_told_to_end_while_the_store_is_waited_for_ends() {
    let mut redis = servers::Server::start();
    let house = House::on(&redis);
    house.run(&["store", "init"]).ends(0);
    house.give_pepper();
    // It hangs first, and then is gone.
    redis.signal(Signal::STOP);
    for signal in [Signal::TERM, Signal::INT] {
        let mut command = house.command(&["serve"]);
        let mut child = Running(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map(Result::unwrap);
        lines.find(|line| line.contains("cannot be reached yet")).expect("it goes on trying");
        let told = Instant::now();
        kill_process(Pid::from_child(&child.0), signal).unwrap();
        let status = child.0.wait().unwrap();
        assert!(
            status.success() && told.elapsed() < Duration::from_secs(10),
            "{signal:?}: {status} {:?}",
            told.elapsed()
        );
        assert!(lines.any(|line| line.contains("told to end before the store was open")), "{signal:?}");
        redis.kill();
    }
    // Nor does whoever waits for a file.
    let server = server::Server::start();
    let started = Instant::now();
    let mut second =
        Running(tollgate().args(["serve", "--config", &server.config()]).stdout(Stdio::piped()).spawn().unwrap());
    let mut lines = BufReader::new(second.0.stdout.take().unwrap()).lines().map(Result::unwrap);
    lines.find(|line| line.contains("another process has the store open")).expect("it waits");
    // It goes on waiting for a minute.
    assert!(started.elapsed() < Duration::from_secs(5), "it said so after {:?}", started.elapsed());
    let told = Instant::now();
    kill_process(Pid::from_child(&second.0), Signal::TERM).unwrap();
    assert!(second.0.wait().unwrap().success() && told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
}

/// Ended by its id with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn two_processes_share_a_store_and_no_third_with_another_pepper() {
    let redis = servers::Server::start();
    House::on(&redis).run(&["store", "init"]).ends(0);
    let (one, two) =
        (server::Server::start_on(&in_redis(&redis), PEPPER), server::Server::start_on(&in_redis(&redis), PEPPER));
    let id = create_key(&one, &["-o", "json"]).json()["id"].as_str().unwrap().to_owned();
    let on_two = |arguments: &[&str]| run(&[arguments, &["--socket", &two.socket()]].concat());
    servers::wait_for("both to follow the log", || {
        let fleet = on_two(&["fleet", "-o", "json"]).ends(0).json();
        let replicas = fleet["replicas"].as_array().unwrap();
        replicas.len() == 2 && replicas.iter().all(|replica| replica["state"] == "attached")
    });
    assert!(on_two(&["fleet"]).ends(0).out.contains("bounded (1 s)"));
    assert!(on_two(&["keys", "show", &id]).ends(0).out.contains("active"));
    on_two(&["keys", "revoke", &id, "--wait"]).ends(0);
    assert!(run(&["keys", "show", &id, "--socket", &one.socket()]).ends(0).out.contains("revoked"));

    let stranger = House::on(&redis);
    write_secret(&stranger.folder.path().join("pepper.1"), &PEPPER.replace("00", "11"));
    assert!(stranger.run(&["serve"]).ends(1).err.contains("is not the one that this store knows"));
}

#[test]
fn a_request_is_explained_from_the_store_of_a_fleet() {
    let redis = servers::Server::start();
    let house = House::on(&redis);
    house.run(&["store", "init"]).ends(0);
    house.give_pepper();
    let server = server::Server::start_on(&in_redis(&redis), PEPPER);
    let key = create_key(&server, &["-q"]).out;
    let request = format!(
        "method: POST\nurl: https://api.example.com/endpoint/acme/chat/x\nheaders: {{x-api-key: {}}}\n",
        key.trim()
    );
    let file = house.folder.path().join("request.yaml");
    std::fs::write(&file, request).unwrap();
    let explained = house.run(&["explain", "--request", file.to_str().unwrap()]).ends(0).out;
    assert!(explained.contains("acme"), "{explained}");
}

#[test]
fn an_older_store_is_upgraded_by_its_operator() {
    let redis = servers::Server::start();
    let house = House::on(&redis).with_pepper();
    house.run(&["store", "init"]).ends(0);
    redis.command::<u64>(&["HSET", "tg:{tg}:head", "format", "1"]);
    let server = server::Server::start_on(&in_redis(&redis), PEPPER);
    let fleet = || run(&["fleet", "-o", "json", "--socket", &server.socket()]).ends(0).json();
    assert_eq!((fleet()["format"].as_str(), fleet()["replicas"][0]["format"].as_u64()), (Some("2"), Some(4)));
    // The key that its server signs tokens with.
    let done = house.run(&["store", "upgrade", "-o", "json"]).ends(0).json();
    assert_eq!(
        (done["was"].as_str(), done["format"].as_str(), done["rewritten"].as_u64()),
        (Some("2"), Some("4"), Some(1))
    );
    assert_eq!(fleet()["format"].as_str(), Some("4"));
    assert!(house.run(&["store", "upgrade"]).ends(0).out.contains("It was"));

    let file = House::with("{embedded: {path: FOLDER/store.redb}}");
    assert!(file.run(&["store", "upgrade"]).ends(1).err.contains("there is no store at"));
}
