//! A fleet whose store has moved to another server, and gone on there under another lineage: its replicas start with what they
//! remember of it. What they remember of any other store still keeps them from starting.

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::process::Child;
use std::time::{Duration, Instant};

use super::server::{House, in_redis, write_secret};
use super::servers::{Sentinel, Server, wait_for};
use super::signed::PEPPER;
use super::{Done, run, tollgate};

/// How long a replica that refuses is watched: several times as long as it takes to look again.
const STILL: Duration = Duration::from_secs(5);

/// What a replica keeps in its folder outlasts it, and follows its store to other servers.
pub struct Home(pub House);

/// Ended by its id.
pub struct Replica<'h> {
    child: Child,
    home: &'h Home,
}

impl Home {
    pub fn on(redis: &Server) -> Self {
        Self::of(House::on(redis))
    }

    fn of(house: House) -> Self {
        write_secret(&house.folder.path().join("pepper.1"), PEPPER);
        let text = fs::read_to_string(&house.config).unwrap();
        let position = format!("fleet: {{position: '{}'}}\n", house.folder.path().join("position").display());
        fs::write(&house.config, text + &position).unwrap();
        Self(house)
    }

    /// A replica's home that remembers a key's worth of this new store.
    fn with_a_past(redis: &Server) -> Self {
        let home = Self::on(redis);
        home.run(&["store", "init"]).ends(0);
        home.serve().make_key();
        home
    }

    /// Names another server from now on.
    fn move_from(&self, old: &Server, new: &Server) {
        let text = fs::read_to_string(&self.0.config).unwrap();
        fs::write(&self.0.config, text.replace(&in_redis(old), &in_redis(new))).unwrap();
    }

    fn config(&self) -> &str {
        self.0.config.to_str().unwrap()
    }

    pub fn run(&self, arguments: &[&str]) -> Done {
        run(&[arguments, &["--config", self.config()]].concat())
    }

    /// As an operator does: what was shown, and nothing else.
    fn accept(&self) {
        let shown = self.run(&["store", "accept", "-o", "json"]).ends(0).json();
        self.run(&["store", "accept", "--yes", shown["loss"].as_str().unwrap()]).ends(0);
    }

    pub fn serve(&self) -> Replica<'_> {
        let mut replica = self.start();
        wait_for("a replica that answers", || {
            assert!(replica.child.try_wait().unwrap().is_none(), "it has ended: {}", self.log());
            replica.try_run(&["keys", "list"]).is_some_and(|done| done.code == 0)
        });
        replica
    }

    /// A replica starts, refuses everything, as the store has less than it remembers, and does not think better of it.
    fn refuses(&self) {
        let sealed = self.start();
        let refused =
            || sealed.try_run(&["keys", "list"]).is_some_and(|done| done.err.contains("went back without a failover"));
        wait_for("a replica that refuses", refused);
        let begun = Instant::now();
        while begun.elapsed() < STILL {
            assert!(refused(), "it went on: {}", self.log());
        }
    }

    fn start(&self) -> Replica<'_> {
        let log = File::create(self.0.folder.path().join("log")).unwrap();
        let mut command = tollgate();
        command.args(["serve", "--config", self.config()]).stdout(log.try_clone().unwrap()).stderr(log);
        Replica { child: command.spawn().unwrap(), home: self }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.0.folder.path().join("log")).unwrap()
    }
}

impl Replica<'_> {
    pub fn try_run(&self, arguments: &[&str]) -> Option<Done> {
        let socket = self.home.0.folder.path().join("admin.sock");
        UnixStream::connect(&socket).ok()?;
        Some(run(&[arguments, &["--socket", socket.to_str().unwrap()]].concat()))
    }

    pub fn make_key(&self) {
        let key = ["keys", "create", "--name", "chat", "--plane", "data", "--project", "acme", "--workloads", "*"];
        self.try_run(&[&key[..], &["--permissions", "run_inference"]].concat()).unwrap().ends(0);
    }

    fn keys(&self) -> usize {
        let list = self.try_run(&["keys", "list", "-o", "json"]).unwrap().ends(0).json();
        list["keys"].as_array().unwrap().len()
    }
}

impl Drop for Replica<'_> {
    fn drop(&mut self) {
        // What it knows is written as it ends.
        let id = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        let _ = self.child.wait();
    }
}

/// Another server with everything that this one has.
fn copy(redis: &Server) -> Server {
    let copy = Server::replica_of(redis, &[]);
    copy.command::<String>(&["REPLICAOF", "NO", "ONE"]);
    copy
}

fn lineage(redis: &Server) -> String {
    redis.command(&["HGET", "tg:{tg}:head", "id"])
}

#[test]
fn a_store_that_was_accepted_elsewhere_is_known_by_its_former_lineages() {
    let first = Server::start();
    let home = Home::with_a_past(&first);
    let second = copy(&first);
    home.move_from(&first, &second);
    home.accept();
    home.accept();
    let replica = home.serve();
    assert_eq!(replica.keys(), 1);
    replica.make_key();
    drop(replica);
    // A copy of what was before that is older than what is remembered, wherever it is.
    let third = copy(&first);
    home.move_from(&second, &third);
    let refused = home.run(&["serve"]).ends(1).err;
    assert!(refused.contains("holds another one"), "{refused}");
    // And so is a store of somebody else.
    let fourth = Server::start();
    home.move_from(&third, &fourth);
    run(&["store", "init", "--anew", "--config", home.config()]).ends(0);
    assert!(home.run(&["serve"]).ends(1).err.contains("holds another one"));
}

#[test]
fn a_store_that_was_migrated_to_another_redis_is_known_by_its_former_lineages() {
    let (first, second) = (Server::start(), Server::start());
    let home = Home::with_a_past(&first);
    let target = Home::on(&second);
    target.run(&["store", "init"]).ends(0);
    run(&["store", "migrate", "--from", home.config(), "--to", target.config()]).ends(0);
    assert_eq!(second.command::<String>(&["HGET", "tg:{tg}:head", "was"]), lineage(&first));
    home.move_from(&first, &second);
    let replica = home.serve();
    assert_eq!(replica.keys(), 1);
    replica.make_key();
}

#[test]
fn a_store_that_went_back_is_not_migrated() {
    let first = Server::start();
    let home = Home::with_a_past(&first);
    let second = copy(&first);
    home.serve().make_key();
    // What is put in its place has one key less.
    home.move_from(&first, &second);
    let third = Server::start();
    let target = Home::on(&third);
    target.run(&["store", "init"]).ends(0);
    let migrate = || run(&["store", "migrate", "--from", home.config(), "--to", target.config()]);
    let refused = migrate().ends(1).err;
    assert!(refused.contains("went back without a failover") && refused.contains("position says"), "{refused}");
    home.accept();
    migrate().ends(0);
}

#[test]
fn former_lineages_are_bounded_and_begin_with_the_third_format() {
    let redis = Server::start();
    let home = Home::on(&redis);
    home.run(&["store", "init"]).ends(0);
    redis.command::<u64>(&["HSET", "tg:{tg}:head", "format", "1"]);
    home.accept();
    assert_eq!(redis.command::<u64>(&["HEXISTS", "tg:{tg}:head", "was"]), 0);
    redis.command::<u64>(&["HSET", "tg:{tg}:head", "format", "3"]);
    let before: Vec<String> = (0..20)
        .map(|_| {
            let left = lineage(&redis);
            home.accept();
            left
        })
        .collect();
    assert_eq!(redis.command::<String>(&["HGET", "tg:{tg}:head", "was"]), before[4..].join(" "));
}

#[test]
fn a_backup_that_is_older_than_what_a_replica_remembers_is_asked_about() {
    let (first, second) = (Server::start(), Server::start());
    let home = Home::with_a_past(&first);
    let folder = home.0.folder.path().to_owned();
    let (old, new) = (folder.join("old"), folder.join("new"));
    home.run(&["backup", old.to_str().unwrap()]).ends(0);
    let replica = home.serve();
    replica.make_key();
    drop(replica);
    home.run(&["backup", new.to_str().unwrap()]).ends(0);

    // With all that it remembers it goes on.
    home.move_from(&first, &second);
    home.run(&["restore", new.to_str().unwrap()]).ends(0);
    assert_eq!(home.serve().keys(), 2);
    let third = Server::start();
    home.move_from(&second, &third);
    let asked = home.run(&["restore", old.to_str().unwrap()]).ends(1).err;
    assert!(asked.contains("remembers what the backup has not: changes") && asked.contains("--older"), "{asked}");
    home.run(&["restore", old.to_str().unwrap(), "--older"]).ends(0);
    let shown = home.run(&["store", "accept"]).ends(0).out;
    assert!(shown.contains("as far as anybody knows"), "{shown}");
    home.refuses();
    home.accept();
    assert_eq!(home.serve().keys(), 1);
}

#[test]
fn a_failover_before_a_restore_explains_nothing_that_the_backup_lacks() {
    let fleet = Sentinel::start(1, 3, 2_000, &[]);
    let addresses = fleet.addresses().join("', '");
    let store = format!("{{redis: {{sentinel: {{addresses: ['{addresses}'], master: {}}}}}}}", Sentinel::MASTER);
    let home = Home::of(House::with(&store));
    home.run(&["store", "init"]).ends(0);
    home.serve().make_key();
    let old = home.0.folder.path().join("old");
    home.run(&["backup", old.to_str().unwrap()]).ends(0);
    home.serve().make_key();

    let primary =
        || -> Vec<String> { fleet.sentinels[0].command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Sentinel::MASTER]) };
    let before = primary();
    wait_for("another primary", || {
        // Refused while the one before is under way.
        let _: Result<(), _> = fleet.sentinels[0].try_command(&["SENTINEL", "FAILOVER", Sentinel::MASTER]);
        primary() != before
    });
    let now = || fleet.servers.iter().find(|server| server.port.to_string() == primary()[1]).unwrap();
    wait_for("a primary that says so", || now().info("role").as_deref() == Some("master"));
    now().command::<()>(&["FLUSHALL"]);
    home.run(&["restore", old.to_str().unwrap(), "--older"]).ends(0);
    home.refuses();
    home.accept();
    assert_eq!(home.serve().keys(), 1);
}
