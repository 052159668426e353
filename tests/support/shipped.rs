//! The shipped fleet without Envoy: `secrets.sh`, `redis.conf` and `tollgate.yaml` as they are, but for folders and ports. Ended by
//! its id; its folder goes last.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use redis::{FromRedisValue, RedisResult};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::servers::{free_port, wait_for};

/// The line that a deployment before this release has in its list of users.
pub const OLD_DEFAULT: &str = "user default off";
/// What the user of Tollgate may do that it could not in an older release.
pub const NEW_RIGHTS: &str = " +cluster|info +acl|dryrun";

/// The shipped Redis, and what its Tollgates share.
#[derive(Debug)]
pub struct Shipped {
    /// `None`: it was told to end.
    redis: Option<Child>,
    port: u16,
    folder: TempDir,
}

impl Shipped {
    /// As `docker compose up` does: the secrets, and then Redis.
    pub fn start() -> Self {
        Self::start_with(|_| {})
    }

    /// After something was done to the folder of Redis, where its list of users is.
    pub fn start_with(prepare: impl Fn(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["tollgate", "redis"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        let mut shipped = Self { redis: None, port: free_port(), folder };
        shipped.run_secrets();
        prepare(&shipped.redis_folder());
        shipped.start_redis();
        shipped
    }

    /// Another fleet on a copy of everything that this Redis has on its disk, and with the same secrets.
    pub fn copy(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy_folder(self.folder.path(), folder.path());
        let mut copy = Self { redis: None, port: free_port(), folder };
        copy.start_redis();
        copy
    }

    pub fn run_secrets(&self) {
        let script = shipped().join("secrets.sh");
        let made = Command::new("sh")
            .arg(script)
            .args(["tollgate", "redis"])
            .current_dir(self.folder.path())
            .output()
            .unwrap();
        assert!(made.status.success(), "{made:?}");
        give_to_us(&self.folder.path().join("tollgate"));
    }

    pub fn redis_folder(&self) -> PathBuf {
        self.folder.path().join("redis")
    }

    pub fn users(&self) -> PathBuf {
        self.redis_folder().join("users.acl")
    }

    /// With the list of users of an older release.
    pub fn age_users(redis_folder: &Path) {
        let file = redis_folder.join("users.acl");
        let text = fs::read_to_string(&file).unwrap();
        let rest: Vec<&str> = text.lines().filter(|line| !line.starts_with("user default")).collect();
        rewrite(&file, &format!("{OLD_DEFAULT}\n{}\n", rest.join("\n").replace(NEW_RIGHTS, "")));
    }

    /// Starts Redis on its port and its files, and waits until it has read them.
    pub fn start_redis(&mut self) {
        let folder = self.redis_folder();
        let text = edited("redis.conf", &[("/data", &folder), ("/run/secrets/redis", &folder)]);
        fs::write(folder.join("redis.conf"), text).unwrap();
        for _ in 0..10 {
            let log = File::options().create(true).append(true).open(folder.join("log")).unwrap();
            let mut child = Command::new("redis-server")
                .arg(folder.join("redis.conf"))
                .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
                .stdin(Stdio::null())
                .stderr(log.try_clone().unwrap())
                .stdout(log)
                .spawn()
                .expect("redis-server is on PATH");
            let own = format!("process_id:{}", child.id());
            let mut ended = false;
            wait_for("the shipped Redis", || {
                ended = child.try_wait().unwrap().is_some();
                let ready = || {
                    let info: String = self.try_command(&["INFO"]).ok()?;
                    (info.contains(&own) && info.contains("\nloading:0")).then_some(())
                };
                ended || ready().is_some()
            });
            if !ended {
                self.redis = Some(child);
                return;
            }
            // Before anybody knows the port it may be another one.
            self.port = free_port();
        }
        panic!("redis-server does not start: {}", self.log());
    }

    /// Ends Redis with this signal.
    pub fn end_redis(&mut self, signal: Signal) {
        if let Some(mut child) = self.redis.take() {
            // It may have ended by itself.
            let _ = kill_process(Pid::from_child(&child), signal);
            child.wait().unwrap();
        }
    }

    /// Redis is there, and answers nothing any more.
    pub fn hold_redis(&self) {
        let child = self.redis.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), Signal::STOP).unwrap();
    }

    pub fn restart_redis(&mut self, signal: Signal) {
        let port = self.port;
        self.end_redis(signal);
        self.start_redis();
        assert_eq!(self.port, port, "the port was taken meanwhile");
    }

    /// One command, as Tollgate's user.
    pub fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_command(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    pub fn try_command<T: FromRedisValue>(&self, words: &[&str]) -> RedisResult<T> {
        let password = fs::read_to_string(self.password()).unwrap();
        let mut connection = redis::Client::open(format!("redis://127.0.0.1:{}", self.port))?.get_connection()?;
        let () = redis::cmd("AUTH").arg("tollgate").arg(password).query(&mut connection)?;
        let (name, arguments) = words.split_first().unwrap();
        redis::cmd(name).arg(arguments).query(&mut connection)
    }

    pub fn is_valkey(&self) -> bool {
        self.command::<String>(&["INFO"]).contains("valkey_version:")
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn password(&self) -> PathBuf {
        self.folder.path().join("tollgate/redis")
    }

    /// What stands under `store.redis` of the shipped file.
    pub fn store(&self) -> String {
        format!(
            "url: 'redis://{}', username: tollgate, password: {{file: '{}'}}",
            self.address(),
            self.password().display()
        )
    }

    /// The shipped configuration of a Tollgate whose sockets are in this folder.
    pub fn tollgate(&self, sockets: &Path) -> String {
        let text = edited(
            "tollgate.yaml",
            &[
                ("/run/secrets/tollgate", &self.folder.path().join("tollgate")),
                ("/run/tollgate", sockets),
                ("/var/lib/tollgate", sockets),
            ],
        );
        text.replace("redis://redis:6379", &format!("redis://{}", self.address()))
            .replace("127.0.0.1:9181", &format!("127.0.0.1:{}", free_port()))
            .replace("127.0.0.1:9182", &format!("127.0.0.1:{}", free_port()))
    }

    /// The folder that Redis keeps its data in.
    pub fn data_folder(&self) -> PathBuf {
        self.redis_folder().join("appendonlydir")
    }

    /// The files in it, the newest last.
    pub fn data_files(&self) -> Vec<PathBuf> {
        let folder = self.data_folder();
        let mut files: Vec<PathBuf> =
            fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    /// The file that it adds each change to.
    pub fn append_only_file(&self) -> PathBuf {
        let is_one = |file: &PathBuf| file.to_str().unwrap().ends_with(".incr.aof");
        self.data_files().into_iter().rfind(is_one).expect("it has an append-only file")
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.redis_folder().join("log")).unwrap_or_default()
    }
}

impl Drop for Shipped {
    fn drop(&mut self) {
        self.end_redis(Signal::KILL);
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(4096);
            let end = log.get(from..).unwrap_or(&log);
            eprintln!("--- the shipped Redis on port {}, the end of its log ---\n{end}", self.port);
        }
    }
}

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("envoy/fleet")
}

fn edited(name: &str, edits: &[(&str, &Path)]) -> String {
    let text = fs::read_to_string(shipped().join(name)).unwrap();
    edits.iter().fold(text, |text, (old, new)| {
        assert!(text.contains(old), "the shipped file no longer has `{old}`");
        text.replace(old, new.to_str().unwrap())
    })
}

/// Writes a file that its owner may only read.
pub fn rewrite(file: &Path, text: &str) {
    fs::set_permissions(file, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(file, text).unwrap();
    fs::set_permissions(file, fs::Permissions::from_mode(0o400)).unwrap();
}

pub fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else if entry.file_type().unwrap().is_file() {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The script gives these files to the user of the image; here Tollgate runs as whoever runs the tests.
fn give_to_us(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        chown(entry.unwrap().path(), Some(rustix::process::geteuid().as_raw()), None).unwrap();
    }
}
