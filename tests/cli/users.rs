//! Users and the audit log from outside: passwords come from standard input or a terminal, and stay there.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use super::server::Server;
use super::{run, run_with, tollgate};

const PASSWORD: &str = "correct horse battery staple";

#[test]
fn users_from_the_first_to_the_last() {
    let mut server = Server::start();
    let socket = server.socket();
    let on = |arguments: &[&str]| run(&[arguments, &["--socket", &socket]].concat());
    let with_password = |arguments: &[&str], password: &str| {
        run_with(tollgate().args(arguments).args(["--password-stdin", "--socket", &socket]), &format!("{password}\n"))
    };
    let create = ["users", "create", "alice@example.com", "--project", "acme", "--permissions", "run_inference"];
    let made = with_password(&[&create[..], &["-o", "json"]].concat(), PASSWORD).ends(0);
    assert_eq!(made.json()["name"], "acme/alice@example.com");
    with_password(&create, PASSWORD).ends(5);
    let short =
        with_password(&["users", "create", "bob", "--project", "acme", "--permissions", "run_inference"], "abc");
    assert!(short.ends(5).err.contains("password"));
    // Without a terminal and without the flag there is nobody to ask.
    let nobody = on(&create).ends(2);
    assert!(nobody.err.contains("--password-stdin"), "{}", nobody.err);

    assert!(on(&["users", "list"]).ends(0).out.contains("acme/alice@example.com  enabled"));
    assert!(on(&["users", "disable", "acme/alice@example.com"]).ends(0).out.contains("disabled"));
    assert!(on(&["users", "enable", "alice@example.com"]).ends(0).out.contains("enabled"));
    let changed = on(&["users", "update", "alice@example.com", "--permissions", "update_workloads", "-o", "json"]);
    assert_eq!(changed.ends(0).json()["permissions"][0], "update_workloads");
    on(&["users", "update", "alice@example.com"]).ends(2);
    let other = "another long password";
    let set = with_password(&["users", "passwd", "alice@example.com"], other).ends(0);
    on(&["users", "delete", "alice@example.com"]).ends(0);
    on(&["users", "show", "alice@example.com"]).ends(5);
    assert!(on(&["users", "list"]).ends(0).err.contains("No users"));

    let log = on(&["audit", "list", "--target", "user:acme/alice@example.com", "-o", "json"]).ends(0).json();
    let acts: Vec<&str> = log["entries"].as_array().unwrap().iter().map(|row| row["act"].as_str().unwrap()).collect();
    let expected = ["user.delete", "user.password", "user.update", "user.enable", "user.disable", "user.create"];
    assert_eq!(acts, expected);
    let one =
        on(&["audit", "list", "--act", "user.delete", "--since", "1h", "--target", "user:acme/alice@example.com"]);
    assert_eq!(one.ends(0).out.lines().count(), 2);
    assert!(on(&["audit", "list", "--until", "1h"]).ends(0).err.contains("No rows"));
    assert!(on(&["audit", "list", "--limit", "1"]).ends(0).err.contains("--before"));
    on(&["audit", "list", "--since", "soon"]).ends(2);

    let freed = on(&["users", "free", "acme/alice@example.com"]).ends(0).out;
    assert!(freed.lines().any(|line| line.starts_with("Audit rows by it") && line.ends_with(" 0")), "{freed}");

    let logged = server.stop();
    for text in [&logged, &made.out, &set.out, &log.to_string()] {
        assert!(!text.contains(PASSWORD) && !text.contains(other) && !text.contains("argon2"), "{text}");
    }
}

/// Types on a terminal: waits for each question, then answers it. What the terminal showed, and the exit code.
fn typed(command: &str, answers: &[(&str, &str)]) -> (String, i32) {
    let mut terminal = Command::new("script")
        .args(["--quiet", "--return", "--command", command, "/dev/null"])
        .env("TERM", "dumb")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script(1) of util-linux is there");
    let (mut keyboard, mut screen) = (terminal.stdin.take().unwrap(), terminal.stdout.take().unwrap());
    let mut shown = Vec::new();
    for (question, answer) in answers {
        let seen = shown.len();
        while !String::from_utf8_lossy(&shown[seen..]).contains(question) {
            let mut byte = [0];
            assert_eq!(screen.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&shown));
            shown.extend(byte);
        }
        keyboard.write_all(answer.as_bytes()).unwrap();
    }
    screen.read_to_end(&mut shown).unwrap();
    let code = terminal.wait().unwrap().code().unwrap();
    (String::from_utf8_lossy(&shown).into_owned(), code)
}

#[test]
fn a_password_is_typed_twice_and_not_shown() {
    let server = Server::start();
    let create = |name: &str| {
        let tollgate = env!("CARGO_BIN_EXE_tollgate");
        let socket = server.socket();
        format!("{tollgate} users create {name} --project acme --permissions run_inference --socket {socket}")
    };
    let line = format!("{PASSWORD}\n");
    let (shown, code) = typed(&create("alice"), &[("New password: ", &line), ("The same again: ", &line)]);
    assert!(code == 0 && shown.contains("alice") && !shown.contains(PASSWORD), "{code}: {shown}");
    let (shown, code) = typed(&create("bob"), &[("New password: ", &line), ("The same again: ", "something else\n")]);
    assert!(code == 2 && shown.contains("differ") && !shown.contains("something else"), "{code}: {shown}");
    let (shown, code) = typed(&create("bob"), &[("New password: ", "half\x03")]);
    assert!(code == 1 && shown.contains("interrupted") && !shown.contains("half"), "{code}: {shown}");
    run(&["users", "show", "bob", "--socket", &server.socket()]).ends(5);
}
