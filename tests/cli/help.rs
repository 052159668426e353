//! Help of every command: it is there, it has an example, and it names the exit codes where people look first.

use super::run;

const COMMANDS: [&str; 52] = [
    "serve",
    "check-config",
    "explain",
    "openapi",
    "completion",
    "keys",
    "keys create",
    "keys list",
    "keys show",
    "keys revoke",
    "keys update",
    "keys rotate",
    "keys bootstrap",
    "projects",
    "projects list",
    "projects show",
    "projects create",
    "projects suspend",
    "projects resume",
    "projects delete",
    "fleet",
    "issuers",
    "issuers forget",
    "sessions",
    "sessions list",
    "sessions end",
    "users",
    "users create",
    "users list",
    "users show",
    "users update",
    "users disable",
    "users enable",
    "users passwd",
    "users delete",
    "users free",
    "store",
    "store init",
    "store migrate",
    "store upgrade",
    "backup",
    "restore",
    "audit",
    "audit list",
    "login",
    "logout",
    "whoami",
    "resources",
    "resources put",
    "resources list",
    "resources show",
    "resources delete",
];

#[test]
fn every_command_has_help_with_an_example() {
    for command in COMMANDS {
        let words: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let help = run(&words).ends(0);
        let is_group =
            matches!(command, "keys" | "issuers" | "users" | "sessions" | "projects" | "audit" | "store" | "resources");
        assert!(help.out.contains("Usage: tollgate"), "{command}");
        assert!(is_group || help.out.contains("Example"), "{command} has no example");
        assert!(help.err.is_empty());
    }
}

#[test]
fn the_first_help_names_the_commands_and_the_exit_codes() {
    let help = run(&["--help"]).ends(0).out;
    for word in ["serve", "keys", "explain", "Exit codes", "10  `explain`: denied"] {
        assert!(help.contains(word), "{word}");
    }
    assert!(run(&["--version"]).ends(0).out.starts_with("tollgate "));
}

#[test]
fn shells_can_complete() {
    for shell in ["bash", "zsh", "fish"] {
        let script = run(&["completion", shell]).ends(0).out;
        assert!(script.contains("check-config") && script.contains("bootstrap"), "{shell}");
    }
}
