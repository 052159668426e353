//! Who is logged in, and the end of one login, from outside.

use std::path::Path;

use tempfile::TempDir;

use super::server::Server;
use super::{Done, run, run_with, tollgate};

const PASSWORD: &str = "correct horse battery staple";

/// A command of somebody with a home.
fn at_home(home: &TempDir, arguments: &[&str]) -> Done {
    tollgate().args(arguments).env("HOME", home.path()).output().unwrap().into()
}

/// Somebody who has logged in as alice, at a home of their own.
fn logged_in(url: &str) -> TempDir {
    let home = tempfile::tempdir().unwrap();
    let mut command = tollgate();
    command.args(["login", "--url", url, "--username", "alice", "--password-stdin"]).env("HOME", home.path());
    run_with(&mut command, PASSWORD).ends(0);
    home
}

fn token_at(home: &Path) -> String {
    let kept = std::fs::read_to_string(home.join(".config/tollgate/session.json")).unwrap();
    let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
    kept["token"].as_str().unwrap().to_owned()
}

/// The newest first.
fn ids(list: Done) -> Vec<String> {
    let list = list.ends(0).json();
    let id = |session: &serde_json::Value| session["id"].as_str().unwrap().to_owned();
    list["sessions"].as_array().unwrap().iter().map(id).collect()
}

#[test]
fn sessions_are_listed_and_ended_one_by_one() {
    let mut server = Server::start();
    let (socket, url) = (server.socket(), server.admin_url());
    let operate = |arguments: &[&str]| run(&[&["sessions"], arguments, &["--socket", &socket]].concat());
    let create = ["users", "create", "alice", "--project", "acme", "--permissions", "run_inference"];
    let create = [&create[..], &["--password-stdin", "--socket", &socket]].concat();
    run_with(tollgate().args(&create), PASSWORD).ends(0);
    assert!(operate(&["list", "acme/alice"]).ends(0).err.contains("No sessions."));
    // The operator has none of their own.
    assert!(operate(&["list"]).ends(5).err.contains("name the user"));
    operate(&["list", "acme/nobody"]).ends(5);

    let homes: Vec<TempDir> = (0..3).map(|_| logged_in(&url)).collect();
    let tokens: Vec<String> = homes.iter().map(|home| token_at(home.path())).collect();
    let of_alice = || ids(operate(&["list", "acme/alice", "-o", "json"]));
    let listed = of_alice();
    assert_eq!(listed.len(), 3);
    let mut own = ids(at_home(&homes[0], &["sessions", "list", "-o", "json"]));
    own.sort_unstable();
    assert!(listed.iter().all(|id| own.binary_search(id).is_ok()) && own.len() == 3, "{own:?}");
    let table = at_home(&homes[0], &["sessions", "list"]).ends(0).out;
    let first: Vec<&str> = table.lines().next().unwrap().split_whitespace().collect();
    assert_eq!((first, table.lines().count()), (vec!["ID", "BEGAN", "EXPIRES", "FROM"], 4));
    assert!(listed.iter().all(|id| table.contains(&**id)) && table.contains("127.0.0.1"), "{table}");

    // One is ended by the operator, and nobody else's login with it.
    let is_in = |home: &TempDir| at_home(home, &["whoami"]).code == 0;
    let ended = operate(&["end", &listed[0], "--user", "acme/alice", "--wait"]).ends(0);
    assert!(ended.out.contains(&listed[0]) && ended.err.contains("Confirmed by 1 replica."), "{}", ended.err);
    assert_eq!(of_alice(), listed[1..]);
    assert_eq!(homes.iter().filter(|home| is_in(home)).count(), 2);
    let left: Vec<&TempDir> = homes.iter().filter(|home| is_in(home)).collect();
    operate(&["end", &listed[0], "--user", "alice"]).ends(0);
    operate(&["end", "nothing", "--user", "alice"]).ends(5);
    operate(&["end", &listed[1], "--user", "acme/nobody"]).ends(5);
    assert!(left.iter().all(|home| is_in(home)), "what was refused ended nothing");

    // Another one by whoever it is of.
    let ended = at_home(left[0], &["sessions", "end", &listed[1], "-o", "json"]).ends(0);
    assert_eq!(ended.json()["id"], *listed[1]);
    assert_eq!((of_alice(), left.iter().filter(|home| is_in(home)).count()), (listed[2..].to_vec(), 1));
    let last = left.iter().find(|home| is_in(home)).unwrap();
    at_home(last, &["sessions", "end", &listed[2]]).ends(0);
    assert!(at_home(last, &["sessions", "list"]).ends(5).err.contains("run `tollgate login`"));
    assert!(operate(&["list", "alice"]).ends(0).err.contains("No sessions."));

    let log = server.stop();
    for shown in [&log, &table, &ended.out] {
        let shows = |token: &String| shown.contains(&**token) || shown.contains(token.rsplit('.').next().unwrap());
        assert!(!tokens.iter().any(shows), "a token is shown");
    }
}
