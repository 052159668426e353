//! The files that a server starts with, and what becomes of it when somebody takes them away.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::held::get;
use super::server::{House, Server, write_secret};
use super::servers::wait_for;
use super::signed::PEPPER;
use super::{Done, tollgate};

const STORE: &str = "{embedded: {path: FOLDER/store.redb}}";

fn run(house: &House, arguments: &[&str]) -> Done {
    tollgate().args(arguments).arg("--config").arg(&house.config).output().unwrap().into()
}

fn make_key(server: &Server) -> Done {
    let key = ["keys", "create", "--name", "chat", "--plane", "data", "--project", "acme", "--workloads", "*"];
    let mut command = tollgate();
    command.args(key).args(["--permissions", "run_inference", "--socket", &server.socket()]);
    command.output().unwrap().into()
}

#[test]
fn a_pepper_without_its_store_is_no_first_start() {
    let house = House::with(STORE);
    let (store, pepper) = (house.folder.path().join("store.redb"), house.folder.path().join("pepper.1"));
    write_secret(&pepper, PEPPER);
    let refused = run(&house, &["serve"]).ends(1).err;
    assert!(refused.contains("store.redb is missing") && refused.contains("tollgate store init"), "{refused}");
    assert!(!store.exists());

    let made = run(&house, &["store", "init", "-o", "json"]).ends(0).json();
    assert_eq!((made["made"].as_bool(), made["sequence"].as_u64()), (Some(true), Some(0)));
    assert!(run(&house, &["store", "init"]).ends(0).out.contains("there already"));
    let mut child = tollgate();
    child.args(["serve", "--config"]).arg(&house.config).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = child.spawn().unwrap();
    wait_for("the server", || UnixStream::connect(house.folder.path().join("admin.sock")).is_ok());
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(fs::read_to_string(pepper).unwrap(), PEPPER);
}

#[test]
fn a_secret_that_others_could_change_is_refused() {
    let house = House::with(STORE);
    let (pepper, elsewhere) = (house.folder.path().join("pepper.1"), tempfile::tempdir().unwrap());
    run(&house, &["store", "init"]).ends(0);
    write_secret(&elsewhere.path().join("pepper"), PEPPER);
    std::os::unix::fs::symlink(elsewhere.path().join("pepper"), &pepper).unwrap();
    let refused = run(&house, &["serve"]).ends(1).err;
    assert!(refused.contains("link out of its folder") && !refused.contains(PEPPER), "{refused}");
}

#[test]
fn a_second_server_says_what_it_waits_for() {
    let server = Server::start();
    let mut second = tollgate();
    second.args(["serve", "--config", &server.config()]).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut second = second.spawn().unwrap();
    let lines = BufReader::new(second.stdout.take().unwrap()).lines();
    let said = lines.map_while(Result::ok).find(|line| line.contains("another process has the store open"));
    second.kill().unwrap();
    second.wait().unwrap();
    assert!(said.is_some_and(|line| line.contains("store.redb") && line.contains("60 s")));
}

#[test]
fn sockets_that_were_removed_are_made_anew() {
    let server = Server::start();
    for name in ["check.sock", "admin.sock"] {
        let socket = std::path::Path::new(&server.socket()).with_file_name(name);
        fs::remove_file(&socket).unwrap();
        wait_for(name, || UnixStream::connect(&socket).is_ok());
    }
    make_key(&server).ends(0);
}

#[test]
fn no_key_is_made_into_a_store_that_was_removed() {
    let server = Server::start();
    make_key(&server).ends(0);
    fs::remove_file(std::path::Path::new(&server.socket()).with_file_name("store.redb")).unwrap();
    let refused = make_key(&server);
    assert!(refused.code != 0 && refused.err.contains("removed or replaced"), "{}", refused.err);
    let ready = get(server.ops(), "/ready");
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("store_unavailable"), "{ready}");
}

#[test]
fn a_store_that_was_removed_ends_readiness_without_a_write() {
    let server = Server::start();
    // All doors are open once one answers.
    make_key(&server).ends(0);
    let ready = || get(server.ops(), "/ready");
    wait_for("readiness", || ready().starts_with("HTTP/1.1 200"));
    fs::remove_file(std::path::Path::new(&server.socket()).with_file_name("store.redb")).unwrap();
    let ready = ready();
    assert!(ready.starts_with("HTTP/1.1 503") && ready.contains("store_unavailable"), "{ready}");
}

#[test]
fn a_check_socket_that_something_else_replaced_is_told_until_it_is_back() {
    let server = Server::start();
    let socket = server.check_socket();
    let is_ready = || get(server.ops(), "/ready").starts_with("HTTP/1.1 200");
    wait_for("readiness", is_ready);
    // Put there at once, so that none is made anew in between.
    let other = socket.with_file_name("other");
    fs::write(&other, "not a socket").unwrap();
    fs::rename(&other, &socket).unwrap();
    wait_for("the reason", || {
        let ready = get(server.ops(), "/ready");
        ready.starts_with("HTTP/1.1 503") && ready.contains("task_down") && ready.contains("check_socket")
    });
    assert_eq!(fs::read_to_string(&socket).unwrap(), "not a socket", "it is left alone");
    fs::remove_file(&socket).unwrap();
    wait_for("the socket", || UnixStream::connect(&socket).is_ok());
    wait_for("readiness again", is_ready);
}

/// Whether the system would write down what is in the memory of the process, `None` before it is known or after its end.
fn may_dump(process: u32) -> Option<bool> {
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).ok()?;
    let core = limits.lines().find(|line| line.starts_with("Max core file size"))?;
    Some(core.split_whitespace().nth(4)? != "0")
}

#[test]
fn no_command_lets_the_system_write_down_what_is_in_its_memory() {
    // Where the system lets nobody have any, there is nothing to forbid.
    let allowed = Rlimit { current: getrlimit(Resource::Core).maximum, ..getrlimit(Resource::Core) };
    setrlimit(Resource::Core, allowed).unwrap();
    let house = House::with(STORE);
    let config = house.config.to_str().unwrap();
    // Each waits for something: a server for its end, the others for a password that does not come.
    let create = ["users", "create", "ann", "--project", "acme", "--permissions", "run_inference"];
    let create = [&create[..], &["--password-stdin", "--config", config]].concat();
    let login = ["login", "--url", "http://127.0.0.1:9", "--username", "ann", "--password-stdin"];
    for (arguments, is_open) in [
        (&["serve", "--config", config][..], false),
        (&create, false),
        (&login, false),
        (&["serve", "--core-dumps", "--config", config], true),
    ] {
        let mut command = tollgate();
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        if is_open {
            wait_for("the server", || UnixStream::connect(house.folder.path().join("admin.sock")).is_ok());
            assert_eq!(may_dump(child.id()), Some(allowed.current != Some(0)), "{arguments:?}");
        } else {
            wait_for(&arguments.join(" "), || may_dump(child.id()) == Some(false));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
