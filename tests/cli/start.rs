//! The files that a server starts with, and what becomes of it when somebody takes them away.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use super::server::{House, Server, write_secret};
use super::servers::wait_for;
use super::{Done, tollgate};

const PEPPER: &str = "000102030405060708090a0b0c0d0e0ff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";
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
}
