//! The binary from outside: a server, the commands that reach it, their exit codes and what they print. Every server is
//! ended by its id.
#![cfg(test)]

mod audit;
mod backup;
mod held;
mod help;
mod limits;
mod login;
mod memory;
mod migrate;
mod moved;
mod projects;
mod restart;
mod server;
#[path = "../support/servers.rs"]
mod servers;
mod sessions;
#[path = "../support/shipped.rs"]
mod shipped;
#[path = "../support/signed.rs"]
mod signed;
mod signed_records;
mod start;
mod store;
#[path = "../support/strangers.rs"]
mod strangers;
mod users;

use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use server::Server;

/// What a command left behind.
struct Done {
    code: i32,
    out: String,
    err: String,
}

impl Done {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}\n{}", self.out, self.err))
    }

    #[track_caller]
    fn ends(self, code: i32) -> Self {
        assert_eq!(self.code, code, "out: {}\nerr: {}", self.out, self.err);
        self
    }
}

impl From<Output> for Done {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().expect("the command was not killed"),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The binary, in an environment that says nothing.
fn tollgate() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.env_clear().stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Done {
    tollgate().args(arguments).output().unwrap().into()
}

/// As [`run`], with something on standard input.
fn run_with(command: &mut Command, input: &str) -> Done {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap().into()
}

#[test]
fn keys_from_the_first_to_the_last() {
    let mut server = Server::start();
    let socket = server.socket();
    let on = |arguments: &[&str]| run(&[arguments, &["--socket", &socket]].concat());

    let first = on(&["keys", "bootstrap"]).ends(0);
    let admin_key = first.out.split_whitespace().find(|word| word.starts_with("ik_adm_")).unwrap().to_owned();
    assert!(first.err.contains("only time"), "{}", first.err);
    on(&["keys", "bootstrap"]).ends(5);

    let create = ["keys", "create", "--name", "chat", "--plane", "data", "--project", "acme", "--workloads", "*"];
    let create = [&create[..], &["--permissions", "run_inference", "--expires-in", "30d"]].concat();
    let quiet = on(&[&create[..], &["-q"]].concat()).ends(0);
    let key = quiet.out.trim();
    assert_eq!(quiet.out, format!("{key}\n"));
    assert!(key.starts_with("ik_live_") && quiet.err.is_empty());
    let id = &key["ik_live_".len()..][..12];
    let made = on(&[&create[..], &["-o", "json"]].concat()).ends(0).json();
    assert!(made["key"].as_str().unwrap().starts_with("ik_live_"));

    let list = on(&["keys", "list"]).ends(0);
    assert_eq!(list.out.lines().count(), 4, "{}", list.out);
    assert!(list.out.starts_with("ID ") && list.out.contains(id) && !list.out.contains('\u{1b}'));
    let page = on(&["keys", "list", "--project", "acme", "--limit", "1", "-o", "json"]).ends(0).json();
    assert_eq!(page["keys"].as_array().unwrap().len(), 1);
    assert!(page["next"].is_string());
    assert!(on(&["keys", "list", "--limit", "1"]).ends(0).err.contains("--after"));

    let shown = on(&["keys", "show", id, "-o", "json"]).ends(0);
    assert_eq!((shown.json()["state"].as_str(), shown.json()["id"].as_str()), (Some("active"), Some(id)));
    let renamed = on(&["keys", "update", id, "--name", "chat (EU)", "--never-expires", "-o", "json"]).ends(0).json();
    assert_eq!((renamed["name"].as_str(), renamed["expires_at"].as_str()), (Some("chat (EU)"), None));
    assert_eq!(renamed["permissions"], made["permissions"]);
    on(&["keys", "update", id, "--workloads", "w1", "--if-version", "1"]).ends(5);
    on(&["keys", "update", id, "--workloads", "w1", "--if-version", "2"]).ends(0);
    on(&["keys", "update", id]).ends(2);
    let rotated = on(&["keys", "rotate", id, "--grace", "24h", "-o", "json"]).ends(0).json();
    assert_eq!(rotated["replaces"], id);
    assert!(on(&["keys", "show", id]).ends(0).out.contains("retiring"));
    on(&["keys", "rotate", id]).ends(5);
    let new_id = rotated["id"].as_str().unwrap();
    assert_eq!(on(&["keys", "revoke", new_id, "-o", "json"]).ends(0).json()["state"], "revoked");
    on(&["keys", "revoke", new_id]).ends(0);
    on(&["keys", "revoke", "abcdefghijkl"]).ends(5);
    let refused =
        on(&["keys", "create", "--name", "n", "--permissions", "fly", "--plane", "data", "--project", "acme"]);
    assert!(refused.ends(5).err.contains("workloads"));

    let log = server.stop();
    for secret in [&admin_key, key, made["key"].as_str().unwrap(), rotated["key"].as_str().unwrap()] {
        assert!(!log.contains(&secret[secret.len() - 40..]), "a key stands in the log");
    }
    assert!(log.contains("key.create") && log.contains("key.revoke") && log.contains(id), "{log}");
}

#[test]
fn resources_from_the_first_to_the_last() {
    let server = Server::start();
    let socket = server.socket();
    let on = |arguments: &[&str]| run(&[&["resources"], arguments, &["--socket", &socket]].concat());
    let put = on(&["put", "workload:w-42", "--project", "acme", "--slug", "chat", "-o", "json"]).ends(0).json();
    assert_eq!((put["project"].as_str(), put["slug"].as_str()), (Some("acme"), Some("chat")));
    on(&["put", "workload:w-42", "--project", "beta"]).ends(5);
    assert!(on(&["put", "workload:w-42", "--project", "beta", "--move"]).ends(0).out.contains("beta"));
    assert!(on(&["list", "--kind", "workload"]).ends(0).out.contains("workload:w-42"));
    assert!(on(&["show", "workload:w-42"]).ends(0).out.contains("Project"));
    on(&["delete", "workload:w-42"]).ends(0);
    on(&["show", "workload:w-42"]).ends(5);
    assert!(on(&["list"]).ends(0).err.contains("No resources"));
    on(&["put", "w-42", "--project", "acme"]).ends(2);
}

#[test]
fn a_flag_wins_over_the_environment_and_that_over_the_file() {
    let server = Server::start();
    let (socket, config) = (server.socket(), server.config());
    let empty = server.file("empty.yaml", "listen: {admin: {unix: {path: /nowhere/admin.sock}}}");
    let code = |flag: Option<&str>, env: Option<&str>, file: &str| {
        let mut command = tollgate();
        command.args(["keys", "list"]).env("TOLLGATE_CONFIG", file);
        flag.map(|path| command.args(["--socket", path]));
        env.map(|path| command.env("TOLLGATE_SOCKET", path));
        Done::from(command.output().unwrap()).code
    };
    let nowhere = Some("/nowhere/other.sock");
    assert_eq!(code(None, None, &config), 0);
    assert_eq!(code(None, None, &empty), 4);
    assert_eq!(code(None, Some(&socket), &empty), 0);
    assert_eq!(code(None, nowhere, &config), 4);
    assert_eq!(code(Some(&socket), nowhere, &empty), 0);
    assert_eq!(code(nowhere, Some(&socket), &config), 4);
    // The file by its flag, over the file by its variable.
    let mut command = tollgate();
    command.args(["keys", "list", "--config", &config]).env("TOLLGATE_CONFIG", &empty);
    Done::from(command.output().unwrap()).ends(0);
}

#[test]
fn the_http_door_takes_a_key_from_the_environment() {
    let server = Server::start();
    let key = run(&["keys", "bootstrap", "-q", "--socket", &server.socket()]).ends(0).out;
    let url = server.admin_url();
    let list = |key: Option<&str>, arguments: &[&str]| {
        let mut command = tollgate();
        command.args(["keys", "list"]).args(arguments);
        key.map(|key| command.env("TOLLGATE_ADMIN_KEY", key));
        Done::from(command.output().unwrap())
    };
    assert!(list(Some(key.trim()), &["--url", &url]).ends(0).out.contains("bootstrap"));
    list(None, &["--url", &url]).ends(2);
    let refused = list(Some("ik_adm_wrong"), &["--url", &url]).ends(5);
    assert!(refused.err.contains("AUTHENTICATION_FAILED") && !refused.err.contains("ik_adm_wrong"));
    list(Some(key.trim()), &["--url", "http://192.0.2.1:9181"]).ends(2);
    list(Some(key.trim()), &["--url", "http://127.0.0.1:1"]).ends(4);
}

#[test]
fn a_denial_is_explained_beside_a_running_server() {
    let mut server = Server::start();
    let (socket, config) = (server.socket(), server.config());
    let create = ["keys", "create", "--name", "n", "--plane", "data", "--project", "acme", "--workloads", "*"];
    let create = [&create[..], &["--permissions", "run_inference", "-o", "json", "--socket", &socket]].concat();
    let made = run(&create).ends(0).json();
    let id = made["id"].as_str().unwrap();
    let record = run(&["keys", "show", id, "-o", "json", "--socket", &socket]).ends(0).out;
    let record = server.file("key.json", &record);

    let explain = |arguments: &[&str]| run(&[&["explain", "--config", &config], arguments].concat());
    let post =
        |path: &str| ["--method".to_owned(), "POST".into(), "--url".into(), format!("https://api.example.com{path}")];
    let request = post("/endpoint/acme/w1/chat");
    let request: Vec<&str> = request.iter().map(String::as_str).collect();
    let allowed = explain(&[&request[..], &["--key", &record]].concat()).ends(0);
    assert!(
        allowed.out.contains("ALLOWED") && allowed.out.contains(&format!("x-tollgate-subject: key:{id}")),
        "{}",
        allowed.out
    );
    let foreign = post("/endpoint/beta/w1/chat");
    let foreign: Vec<&str> = foreign.iter().map(String::as_str).collect();
    let denied = explain(&[&foreign[..], &["--key", &record, "-o", "json"]].concat()).ends(10).json();
    assert_eq!((denied["reason"].as_str(), denied["status"].as_u64()), (Some("project_out_of_scope"), Some(403)));

    // With the credential itself, the store would have to be asked, and the server holds it.
    let header = format!("x-api-key: {}", made["key"].as_str().unwrap());
    let locked = explain(&[&request[..], &["-H", &header]].concat()).ends(4);
    assert!(locked.err.contains("--key") && !locked.err.contains(&header[20..]), "{}", locked.err);
    server.stop();
    explain(&[&request[..], &["-H", &header]].concat()).ends(0);
}

#[test]
fn each_failure_has_its_exit_code() {
    run(&["keys", "list", "--socket", "/nowhere/admin.sock"]).ends(4);
    run(&["keys"]).ends(2);
    run(&["keys", "list", "--socket", "/a", "--url", "http://localhost"]).ends(2);
    run(&["check-config", "--config", "/nowhere.yaml"]).ends(3);
    run(&["serve", "--config", "/nowhere.yaml"]).ends(3);
    run(&["explain", "--config", "/nowhere.yaml", "--url", "https://a/"]).ends(3);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("bad.yaml");
    std::fs::write(&file, "version: 1\nroutes: []\n").unwrap();
    let file = file.to_str().unwrap();
    let told = run(&["check-config", "--config", file]).ends(3);
    assert!(told.err.contains("routes") && told.out.is_empty(), "{}", told.err);
    let report = run(&["check-config", "--config", file, "-o", "json"]).ends(3).json();
    assert_eq!(report["valid"], false);
    assert!(!report["problems"].as_array().unwrap().is_empty());
}

#[test]
fn the_server_tells_why_it_cannot_start() {
    let server = Server::start();
    let config = server.file(
        "twice.yaml",
        &std::fs::read_to_string(server.config()).unwrap().replace("store.redb", "no/such/store.redb"),
    );
    let failed = run(&["serve", "--config", &config]).ends(1);
    assert!(failed.err.starts_with("tollgate: "), "{}", failed.err);
}

#[test]
fn a_reader_that_goes_away_is_no_panic() {
    for arguments in
        [&["completion", "bash"][..], &["check-config", "--schema"], &["--help"], &["keys", "create", "--help"]]
    {
        let mut child = tollgate().args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let done = child.wait_with_output().unwrap();
        assert_eq!(done.status.code(), Some(0), "{arguments:?}");
        assert!(done.stderr.is_empty(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

#[test]
fn what_is_generated_is_what_is_committed() {
    for (file, command) in
        [("schema/config.schema.json", &["check-config", "--schema"][..]), ("openapi.json", &["openapi"])]
    {
        let committed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(file);
        let printed = run(command).ends(0).out;
        // Text and not values: the order counts for whoever reads a change.
        assert!(printed == std::fs::read_to_string(committed).unwrap(), "{file} is not up to date: run `make schema`");
    }
}
