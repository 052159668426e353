//! `tollgate store migrate` from outside: both ways, ended by SIGKILL again and again, and refused with what to do.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tollgate::domain::record::{ApiKey, AuditEntry, Outcome};
use tollgate::store::{AuditQuery, KeyQuery, Write};
use tollgate_core::credential::KeyId;
use tollgate_guard::digest::Digest;
use tollgate_guard::time::Timestamp;

use super::server::{self, House, in_redis, write_secret};
use super::signed::PEPPER;
use super::{Done, run, servers, signed, tollgate};

const KEYS: u64 = 6_000;

/// A file with keys, their uses and their rows.
fn fill(path: &Path) {
    fill_keys(path);
    signed::of_server(path).put_pepper_check(signed::pepper().check()).unwrap();
}

/// The same, of a pepper that the store does not know yet.
pub fn fill_keys(path: &Path) {
    let store = signed::of_server(path);
    let numbers: Vec<u64> = (0..KEYS).collect();
    for some in numbers.chunks(500) {
        let writes = some.iter().flat_map(|n| [Write::CreateKey(key(*n)), Write::Audit(row(*n))]);
        store.apply(&writes.collect::<Vec<_>>()).unwrap();
        store.note_use(&some.iter().map(|n| (key(*n).id, Timestamp::from_millis(*n + 1))).collect::<Vec<_>>()).unwrap();
    }
}

pub fn key(n: u64) -> ApiKey {
    let mut digest = [7; 32];
    digest[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    ApiKey {
        id: KeyId::parse(&format!("{n:012}")).unwrap(),
        digest: Digest(digest),
        pepper_version: 1,
        name: format!("Key number {n}"),
        plane: "data".to_owned(),
        project: "acme".to_owned(),
        project_id: None,
        workloads: vec!["*".to_owned()],
        permissions: vec!["run_inference".to_owned()],
        created_at: Timestamp::from_millis(n),
        created_by: "operator".to_owned(),
        expires_at: None,
        retires_at: None,
        revoked_at: n.is_multiple_of(7).then(|| Timestamp::from_millis(n)),
        replaces: None,
        replaced_by: None,
        version: 3,
    }
}

fn row(n: u64) -> AuditEntry {
    AuditEntry {
        sequence: 0,
        at: Timestamp::from_millis(n),
        actor: "operator".to_owned(),
        actor_id: None,
        act: "key.create".to_owned(),
        target: format!("key:{n}"),
        project: Some("acme".to_owned()),
        outcome: Outcome::Done,
        reason: None,
        peer: "127.0.0.1".to_owned(),
        request_id: format!("r-{n}"),
    }
}

/// All that is in a file, as far as it was put there by [`fill`].
fn content(path: &Path) -> (Vec<ApiKey>, Vec<AuditEntry>, Vec<Option<Timestamp>>) {
    let store = signed::of_server(path);
    let keys = store.keys(&KeyQuery { limit: usize::MAX, ..KeyQuery::default() }).unwrap();
    let rows = store.audit(&AuditQuery { limit: usize::MAX, ..AuditQuery::default() }).unwrap().rows;
    let used = store.last_used(&keys.iter().map(|key| key.id).collect::<Vec<_>>()).unwrap();
    (keys, rows, used)
}

impl House {
    fn embedded() -> Self {
        Self::with("{embedded: {path: FOLDER/store.redb}}").with_pepper()
    }

    fn fleet(redis: &servers::Server) -> Self {
        let house = Self::on(redis).with_pepper();
        run(&["store", "init", "--config", house.config()]).ends(0);
        house
    }

    pub fn with_pepper(self) -> Self {
        write_secret(&self.folder.path().join("pepper.1"), PEPPER);
        self
    }

    fn config(&self) -> &str {
        self.config.to_str().unwrap()
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("store.redb")
    }
}

fn migrate(from: &House, to: &House, how: &[&str]) -> Done {
    run(&[&["store", "migrate", "--from", from.config(), "--to", to.config()], how].concat())
}

/// Kills each run once the target has grown by so much, until one ends before that. How many were killed, and a last run.
fn migrate_with_kills(from: &House, to: &House, size: impl Fn() -> u64, step: u64) -> (u32, Done) {
    let mut killed = 0;
    loop {
        let goal = size() + step;
        let mut child = tollgate()
            .args(["store", "migrate", "--from", from.config(), "--to", to.config(), "-o", "json"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut has_ended = false;
        servers::wait_for("the target to grow", || {
            has_ended = child.try_wait().unwrap().is_some();
            has_ended || size() >= goal
        });
        let _ = child.kill();
        child.wait().unwrap();
        if has_ended {
            return (killed, migrate(from, to, &["-o", "json"]));
        }
        killed += 1;
    }
}

#[test]
fn everything_goes_both_ways_though_runs_are_killed() {
    let (redis, there, back) = (servers::Server::start(), House::embedded(), House::embedded());
    let fleet = House::fleet(&redis);
    fill(&there.file());
    let size = || redis.command::<u64>(&["DBSIZE"]) + redis.command::<u64>(&["XLEN", "tg:{tg}:audit"]);
    let (killed, first) = migrate_with_kills(&there, &fleet, size, 2_500);
    assert!(killed >= 4, "{killed} were killed at work");
    let first = first.ends(0).json();
    let size = || std::fs::metadata(back.file()).map_or(1 << 20, |file| file.len());
    let (killed, second) = migrate_with_kills(&fleet, &back, size, 1 << 19);
    assert!(killed >= 2, "{killed} were killed at work");
    let second = second.ends(0).json();
    assert_eq!(first["digest"], second["digest"]);
    for records in first["records"].as_array().unwrap() {
        let expected = match records["kind"].as_str().unwrap() {
            "keys" | "audit_rows" | "last_uses" => KEYS,
            "peppers" => 1,
            _ => 0,
        };
        assert_eq!(records["verified"].as_u64(), Some(expected), "{records}");
    }
    assert!(content(&there.file()) == content(&back.file()), "the same came back");
    let table = migrate(&fleet, &back, &[]).ends(0).out;
    assert!(table.contains("COPIED NOW") && table.contains(first["digest"].as_str().unwrap()), "{table}");
}

#[test]
fn a_store_in_use_is_named_with_what_to_do() {
    let redis = servers::Server::start();
    let (fleet, other) = (House::fleet(&redis), House::embedded());
    let server = server::Server::start_on(&in_redis(&redis), PEPPER);
    servers::wait_for("the replica to join", || redis.command::<u64>(&["HLEN", "tg:{tg}:members"]) == 1);
    fill(&other.file());
    for (from, to) in [(&other, &fleet), (&fleet, &House::embedded())] {
        let refused = migrate(from, to, &[]).ends(1).err;
        assert!(refused.contains("in use by the replica") && refused.contains("stop every Tollgate"), "{refused}");
    }
    drop(server);
    let used = migrate(&other, &fleet, &[]).ends(1).err;
    assert!(used.contains("holds records already"), "{used}");

    let sole = server::Server::start();
    let target = House::embedded();
    let locked = run(&["store", "migrate", "--from", &sole.config(), "--to", target.config()]).ends(4).err;
    assert!(locked.contains("in use by another process"), "{locked}");
    assert!(!target.file().exists(), "nothing was made");
    migrate(&target, &target, &[]).ends(2);
    assert!(migrate(&target, &fleet, &[]).ends(4).err.contains("there is no store at"));
}

#[test]
fn a_target_that_is_not_whole_is_not_served_from() {
    let redis = servers::Server::start();
    let (fleet, source) = (House::fleet(&redis), House::embedded());
    fill(&source.file());
    migrate(&source, &fleet, &[]).ends(0);
    redis.command::<u64>(&["HSET", "tg:{tg}:head", "format", &u64::MAX.to_string()]);
    let refused = run(&["serve", "--config", fleet.config()]).ends(1).err;
    assert!(refused.contains("tollgate store migrate"), "{refused}");
    redis.command::<()>(&["SET", &format!("tg:{{tg}}:i:{}", key(9).id), &"00".repeat(32)]);
    let broken = migrate(&source, &fleet, &[]).ends(1).err;
    assert!(broken.contains(key(9).id.as_str()), "{broken}");
}
