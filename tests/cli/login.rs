//! A login from outside: where its token is kept, which commands use it, and how it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::server::Server;
use super::{Done, run, run_with, tollgate};

const PASSWORD: &str = "correct horse battery staple";

/// The binary, for somebody with a home.
fn at_home(home: &Path, arguments: &[&str]) -> Command {
    let mut command = tollgate();
    command.args(arguments).env("HOME", home);
    command
}

#[test]
fn a_login_from_the_password_to_the_logout() {
    let mut server = Server::start();
    let (socket, url) = (server.socket(), server.admin_url());
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let create = ["users", "create", "alice", "--project", "acme", "--permissions", "manage_keys,run_inference"];
    let create = [&create[..], &["--password-stdin", "--socket", &socket]].concat();
    run_with(tollgate().args(&create), PASSWORD).ends(0);

    let login = |password: &str| {
        let arguments = ["login", "--url", &url, "--username", "alice", "--password-stdin"];
        run_with(&mut at_home(home, &arguments), password)
    };
    let refused = login("a wrong long password").ends(5);
    assert!(refused.err.contains("AUTHENTICATION_FAILED") && !refused.err.contains("a wrong"), "{}", refused.err);
    let file = home.join(".config/tollgate/session.json");
    assert!(!file.exists());
    let done = login(PASSWORD).ends(0);
    assert!(done.err.contains("logged in until"), "{}", done.err);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let kept = fs::read_to_string(&file).unwrap();
    let kept: serde_json::Value = serde_json::from_str(&kept).unwrap();
    let token = kept["token"].as_str().unwrap();

    let on = |arguments: &[&str]| -> Done { at_home(home, arguments).output().unwrap().into() };
    let me = on(&["whoami", "-o", "json"]).ends(0).json();
    assert_eq!((me["subject"].as_str(), me["project"].as_str()), (Some("user:acme/alice"), Some("acme")));
    let key =
        ["keys", "create", "--name", "n", "--plane", "data", "--workloads", "*", "--permissions", "run_inference"];
    assert_eq!(on(&[&key[..], &["-o", "json"]].concat()).ends(0).json()["created_by"], "user:acme/alice");
    // Another server gets no token of this one.
    on(&["whoami", "--url", "http://127.0.0.1:1"]).ends(2);

    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(on(&["whoami"]).ends(1).err.contains("others can read"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();

    assert!(on(&["logout"]).ends(0).err.contains("logged out"));
    assert!(!file.exists());
    assert!(on(&["logout"]).ends(0).err.contains("not logged in"));
    // A copy of the token is worth nothing any more.
    let stale = at_home(home, &["whoami", "--url", &url]).env("TOLLGATE_ADMIN_KEY", token).output().unwrap();
    Done::from(stale).ends(5);

    login(PASSWORD).ends(0);
    run(&["users", "disable", "alice", "--socket", &socket]).ends(0);
    assert!(on(&["whoami"]).ends(5).err.contains("run `tollgate login`"));
    assert!(on(&["logout"]).ends(0).err.contains("logged out"), "a login that is over already can be left");
    let log = server.stop();
    assert!(!log.contains(token) && !log.contains(PASSWORD), "{log}");
}

#[test]
fn a_login_that_has_expired_says_so() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join(".config/tollgate");
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("session.json");
    let session = serde_json::json!({"url": "http://127.0.0.1:1", "token": "t", "expires_at": "2026-01-01T00:00:00Z",
        "username": "alice", "ca": null, "plaintext": false});
    fs::write(&file, session.to_string()).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let on = |arguments: &[&str]| -> Done { at_home(home.path(), arguments).output().unwrap().into() };
    assert!(on(&["keys", "list"]).ends(5).err.contains("run `tollgate login`"));
    on(&["keys", "list", "--socket", "/nowhere/admin.sock"]).ends(4);
    on(&["logout"]).ends(0);
    assert!(!file.exists());
}

#[test]
fn a_login_needs_a_place_and_a_safe_way() {
    let home = tempfile::tempdir().unwrap();
    let login = |arguments: &[&str]| {
        let all = [&["login", "--username", "a", "--password-stdin"], arguments].concat();
        run_with(&mut at_home(home.path(), &all), PASSWORD)
    };
    assert!(login(&[]).ends(2).err.contains("--url"));
    assert!(login(&["--url", "http://192.0.2.1"]).ends(2).err.contains("in clear"));
    login(&["--url", "http://127.0.0.1:1"]).ends(4);
    run(&["login", "--password", PASSWORD]).ends(2);
}
