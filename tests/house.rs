//! The shape of the house: imports go down only, the pure rooms stay pure, and every file says what it does.

#![cfg(test)]

use std::fs;
use std::path::{Path, PathBuf};

/// Each room and its floor.
const FLOORS: [(&str, u8); 21] = [
    ("lib", 7),
    ("main", 6),
    ("cli", 5),
    ("run", 5),
    ("server", 4),
    ("telemetry", 4),
    ("pipeline", 3),
    ("config", 3),
    ("pepper", 3),
    ("login", 3),
    ("registry", 2),
    ("fleet", 2),
    ("password", 2),
    ("resolve", 2),
    ("clock", 1),
    ("policy", 1),
    ("revocation", 1),
    ("secret_file", 1),
    ("store", 1),
    ("tasks", 1),
    ("domain", 0),
];

/// Rooms without a clock, a socket, a log or a lock.
const PURE: [&str; 2] = ["domain", "policy"];

const BANNED_IN_PURE: [&str; 13] = [
    "tokio",
    "tonic",
    "hyper",
    "axum",
    "redb",
    "tracing",
    "prometheus",
    "getrandom",
    "std::fs",
    "TcpStream",
    "Mutex",
    "SystemTime",
    "Instant",
];

/// Servers speak to the floors below, never to each other.
const DOORS: [&str; 3] = ["server::ext_authz", "server::admin", "server::ops"];

struct Source {
    module: String,
    path: PathBuf,
    /// Without its `mod tests`.
    text: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                let relative = path.strip_prefix(&root).unwrap().with_extension("");
                let module = relative.to_str().unwrap().replace('/', "::");
                let module = module.strip_suffix("::mod").unwrap_or(&module).to_owned();
                let text = fs::read_to_string(&path).unwrap();
                let text = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
                found.push(Source { module, path, text });
            }
        }
    }
    assert!(found.len() > 20, "the sources were not found");
    found
}

fn room(module: &str) -> &str {
    module.split("::").next().unwrap_or(module)
}

fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == room(module)).map(|(_, floor)| *floor)
}

/// The modules that a file imports from this crate.
fn imports(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("crate::").filter(|(at, _)| !text[..*at].ends_with("in ")).map(|(at, word)| {
        let rest = &text[at + word.len()..];
        let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
        rest[..end].trim_end_matches(':')
    })
}

#[test]
fn imports_go_down_only() {
    let mut wrong = Vec::new();
    for source in sources() {
        let own = floor(&source.module).unwrap_or_else(|| panic!("{} is in no room: add it to FLOORS", source.module));
        assert!(!source.text.contains("crate::{"), "{}: one line an import", source.path.display());
        for import in imports(&source.text) {
            let Some(other) = floor(import) else { continue };
            let sees_configuration = room(&source.module) == "pipeline" && room(import) == "config";
            if other > own || sees_configuration {
                wrong.push(format!("{} imports crate::{import}", source.path.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "imports that go up:\n{}", wrong.join("\n"));
}

#[test]
fn the_doors_do_not_know_each_other() {
    for source in sources() {
        let Some(own) = DOORS.iter().find(|door| source.module.starts_with(**door)) else { continue };
        for other in DOORS.iter().filter(|door| *door != own) {
            let knows = imports(&source.text).any(|import| import.starts_with(*other));
            assert!(!knows, "{} imports {other}", source.module);
        }
    }
}

#[test]
fn the_pure_rooms_stay_pure() {
    for source in sources().iter().filter(|source| PURE.contains(&room(&source.module))) {
        for banned in BANNED_IN_PURE {
            assert!(!source.text.contains(banned), "{} speaks of {banned}", source.path.display());
        }
    }
}

#[test]
fn every_file_opens_by_saying_what_it_does() {
    for source in sources() {
        assert!(source.text.starts_with("//! "), "{} has no opening line", source.path.display());
    }
}

#[test]
fn files_stay_readable() {
    for source in sources() {
        let lines = source.text.lines().count();
        assert!(lines <= 600, "{} has {lines} lines: is it one room?", source.path.display());
    }
}

/// A log line has these by itself, and a second one of the same name hides it from whoever reads the JSON.
#[test]
fn no_field_of_a_log_line_hides_another() {
    const TAKEN: [&str; 4] = ["level", "message", "target", "timestamp"];
    let mut lines = 0;
    for source in sources() {
        for event in source.text.split("tracing::").skip(1) {
            let Some((name, rest)) = event.split_once("!(") else { continue };
            if !["error", "warn", "info", "debug", "trace"].contains(&name) {
                continue;
            }
            lines += 1;
            // Up to the message.
            let fields = rest.split('"').next().unwrap_or_default();
            for field in fields.split(',').map(|field| field.trim_start_matches(['%', '?', ' ', '\n'])) {
                let name = field.split('=').next().unwrap_or_default().trim();
                assert!(!TAKEN.contains(&name), "{}: a field named {name}: call it otherwise", source.path.display());
            }
        }
    }
    assert!(lines > 30, "{lines}");
}

#[test]
fn nothing_that_becomes_a_response_has_a_default() {
    for source in sources() {
        for name in ["Decision", "Allow", "Deny", "Permit", "Admission", "Denial"] {
            assert!(!source.text.contains(&format!("Default for {name}")), "{}: {name}", source.path.display());
            for (at, _) in source.text.match_indices(&format!(" {name}")) {
                let before = &source.text[..at];
                let attributes = before.lines().rev().skip(1).take_while(|line| line.trim_start().starts_with('#'));
                let declares = before.ends_with("struct") || before.ends_with("enum");
                let has_default = declares && attributes.into_iter().any(|line| line.contains("Default"));
                assert!(!has_default, "{}: {name}", source.path.display());
            }
        }
    }
}
