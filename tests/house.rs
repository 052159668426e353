//! The shape of the house: imports go down only, the pure rooms stay pure, and every file says what it does.

#![cfg(test)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Each room and its floor.
const FLOORS: [(&str, u8); 20] = [
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
    ("backup", 3),
    ("registry", 2),
    ("fleet", 2),
    ("password", 2),
    ("resolve", 2),
    ("clock", 1),
    ("secret_file", 1),
    ("store", 1),
    ("tasks", 1),
    ("domain", 0),
];

/// The crates beside the root one, each with all that it may depend on, itself included: nothing that waits, listens, stores or logs.
const CRATES: [(&str, &[&str]); 2] = [
    ("guard", &["subtle", "tollgate-guard"]),
    (
        "core",
        &[
            "block-buffer",
            "cfg-if",
            "const-oid",
            "cpufeatures",
            "crc32fast",
            "crypto-common",
            "data-encoding",
            "digest",
            "equivalent",
            "foldhash",
            "hashbrown",
            "hybrid-array",
            "indexmap",
            "itoa",
            "matchit",
            "memchr",
            "proc-macro2",
            "quote",
            "serde",
            "serde_core",
            "serde_derive",
            "serde_json",
            "sha2",
            "subtle",
            "syn",
            "tollgate-core",
            "tollgate-guard",
            "typenum",
            "unicode-ident",
            "zeroize",
            "zmij",
        ],
    ),
];

/// On other machines there are others for the same.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What a pure room does not speak of; the guard alone may hold a lock.
const IMPURE: [&str; 29] = [
    "tokio::",
    "tonic::",
    "hyper::",
    "axum::",
    "redb::",
    "tracing::",
    "prometheus::",
    "getrandom::",
    "std::{",
    "std::env",
    "std::fs",
    "std::io",
    "std::os",
    "std::path",
    "std::process",
    "std::thread",
    "println!",
    "TcpListener",
    "TcpStream",
    "UdpSocket",
    "UnixListener",
    "UnixStream",
    "SystemTime",
    "Instant",
    "Condvar",
    "LazyLock",
    "Mutex",
    "OnceLock",
    "RwLock",
];
const MAY_LOCK: (&str, &str) = ("crates/guard/src", "Mutex");
/// The pure rooms: the crates, and the records.
const PURE: [&str; 3] = ["crates/core/src", "crates/guard/src", "src/domain"];

/// Servers speak to the floors below, never to each other.
const DOORS: [&str; 3] = ["server::ext_authz", "server::admin", "server::ops"];

struct Source {
    module: String,
    path: PathBuf,
    /// Without its `mod tests`.
    text: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file of Rust in a folder and below.
fn files(folder: &str) -> Vec<PathBuf> {
    let mut folders = vec![root().join(folder)];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|kind| kind == "rs") {
                found.push(path);
            }
        }
    }
    assert!(found.len() > 2, "the files were not found");
    found
}

/// Those of the root package.
fn sources() -> Vec<Source> {
    sources_of("src")
}

/// Those of every package but the bench.
fn all_sources() -> Vec<Source> {
    let of_crates = CRATES.iter().flat_map(|(name, _)| sources_of(&format!("crates/{name}/src")));
    sources().into_iter().chain(of_crates).collect()
}

fn sources_of(folder: &str) -> Vec<Source> {
    let source = |path: PathBuf| {
        let relative = path.strip_prefix(root().join(folder)).unwrap().with_extension("");
        let module = relative.to_str().unwrap().replace('/', "::");
        let module = module.strip_suffix("::mod").unwrap_or(&module).to_owned();
        let text = fs::read_to_string(&path).unwrap();
        let text = text.split("#[cfg(test)]\nmod tests").next().unwrap().to_owned();
        Source { module, path, text }
    };
    files(folder).into_iter().map(source).collect()
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
fn the_crates_depend_on_nothing_that_waits_listens_stores_or_logs() {
    for (name, allowed) in CRATES {
        let package = format!("tollgate-{name}");
        let arguments = [
            "tree",
            "--locked",
            "--offline",
            "-e",
            "normal",
            "--target",
            TARGET,
            "--prefix",
            "none",
            "-f",
            "{p}",
            "-p",
            &package,
        ];
        let tree = Command::new(env!("CARGO")).args(arguments).current_dir(root()).output().unwrap();
        assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
        let tree = String::from_utf8(tree.stdout).unwrap();
        let found: BTreeSet<&str> =
            tree.lines().filter_map(|line| line.split(' ').next()).filter(|name| !name.is_empty()).collect();
        assert_eq!(found, allowed.iter().copied().collect(), "{package}: say in CRATES why it needs another one");
    }
}

#[test]
fn the_pure_rooms_stay_pure() {
    let mut seen = 0;
    for folder in PURE {
        for source in sources_of(folder) {
            let is_test = source.module == "testing" || source.module.ends_with("tests");
            for banned in IMPURE.iter().filter(|banned| !is_test && (folder, **banned) != MAY_LOCK) {
                assert!(!source.text.contains(banned), "{} speaks of {banned}", source.path.display());
            }
            seen += usize::from(!is_test);
        }
    }
    assert!(seen > 35, "{seen}");
}

/// The paths of a text that begin with `crate` or `super`; of a list in braces each one.
fn paths(text: &str) -> Vec<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    let mut found = Vec::new();
    for word in ["crate::", "super::"] {
        for (at, _) in code.match_indices(word) {
            let begins = !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':');
            let rest = &code[at..];
            let end = rest.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(rest.len());
            let path = &rest[..end];
            match rest[end..].strip_prefix('{').and_then(|list| list.split_once('}')) {
                _ if !begins => {}
                Some((list, _)) if path.ends_with("::") => {
                    found.extend(list.split(',').map(|item| format!("{path}{}", item.trim())));
                }
                _ => found.push(path.to_owned()),
            }
        }
    }
    found
}

/// The file that a path of a module leads to.
fn target(module: &str, path: &str, files: &BTreeSet<&str>) -> Option<String> {
    let mut base: Vec<&str> = module.split("::").collect();
    let mut parts = path.split("::").peekable();
    if parts.next_if_eq(&"crate").is_some() {
        base.clear();
    }
    while parts.next_if_eq(&"super").is_some() {
        base.pop();
    }
    base.extend(parts);
    (1..=base.len()).rev().map(|length| base[..length].join("::")).find(|path| files.contains(&**path))
}

/// A folder's face and what is in the folder may know each other; otherwise one of two files is above the other.
#[test]
fn no_two_files_import_each_other() {
    let folders = std::iter::once("src".to_owned()).chain(CRATES.iter().map(|(name, _)| format!("crates/{name}/src")));
    for folder in folders {
        let sources = sources_of(&folder);
        let files: BTreeSet<&str> = sources.iter().map(|source| &*source.module).collect();
        let links: BTreeSet<(&str, String)> = sources
            .iter()
            .flat_map(|Source { module, text, .. }| {
                let targets = paths(text).into_iter().filter_map(|path| target(module, &path, &files));
                targets.map(|target| (&**module, target)).collect::<Vec<_>>()
            })
            .collect();
        assert!(links.len() > 10, "{folder}: the imports were not found");
        for (from, to) in &links {
            let is_inside = to.starts_with(&format!("{from}::")) || from.starts_with(&format!("{to}::"));
            let is_mutual = from != to && links.contains(&(&**to, (*from).to_owned()));
            assert!(is_inside || !is_mutual, "{folder}: {from} and {to} import each other");
        }
    }
}

/// The libraries that carry the product, as code names them.
const CARRYING: [&str; 7] =
    ["envoy_types::", "jsonwebtoken::", "moka::", "prometheus::", "redis::", "tokio::", "tonic::"];

/// The modules that are built for tests alone.
fn test_modules(sources: &[Source]) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for source in sources {
        for (at, mark) in source.text.match_indices("#[cfg(test)]\n") {
            let line = source.text[at + mark.len()..].lines().next().unwrap_or_default();
            let name = line.strip_suffix(';').and_then(|line| line.split("mod ").nth(1));
            found.extend(name.map(|name| match &*source.module {
                "lib" | "main" => name.to_owned(),
                module => format!("{module}::{name}"),
            }));
        }
    }
    found
}

#[test]
fn the_libraries_that_are_named_carry_the_product_and_not_its_tests_alone() {
    let sources = sources();
    let for_tests = test_modules(&sources);
    assert!(for_tests.contains("server::ext_authz::typed"), "the modules for tests were not found: {for_tests:?}");
    for library in CARRYING {
        let uses = |source: &&Source| {
            let is_test = source.module.split("::").any(|part| part == "tests")
                || for_tests
                    .iter()
                    .any(|module| source.module == *module || source.module.starts_with(&format!("{module}::")));
            !is_test && source.text.lines().any(|line| !line.trim_start().starts_with("//") && line.contains(library))
        };
        assert!(sources.iter().any(|source| uses(&source)), "nothing but tests uses {library}");
    }
}

#[test]
fn every_file_opens_by_saying_what_it_does() {
    for source in all_sources() {
        assert!(source.text.starts_with("//! "), "{} has no opening line", source.path.display());
    }
}

#[test]
fn files_stay_readable() {
    for source in all_sources() {
        let lines = source.text.lines().count();
        assert!(lines <= 600, "{} has {lines} lines: is it one room?", source.path.display());
    }
}

/// A log line has these by itself, and a second one of the same name hides it from whoever reads the JSON.
#[test]
fn no_field_of_a_log_line_hides_another() {
    const TAKEN: [&str; 4] = ["level", "message", "target", "timestamp"];
    let mut lines = 0;
    for source in all_sources() {
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
    for source in all_sources() {
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

/// What runs beside its caller and is not begun again after a panic: how often a file begins such a thing, and what it is. All else
/// that runs for long is kept by `tasks`.
const UNKEPT: [(&str, usize, &str); 18] = [
    ("backup", 1, "one copy, whose end is told in any case"),
    ("fleet::driver", 2, "the thread whose loop is kept; one wait for the bell"),
    ("fleet::driver::losses", 2, "one question to the servers each"),
    ("registry", 1, "one write"),
    ("resolve::cache", 1, "one look-up"),
    ("resolve::jwt", 1, "one entry for the fleet's cache"),
    (
        "resolve::jwt::signatures",
        3,
        "threads that catch each panic; a crowd that is told; what fills the queue in tests",
    ),
    ("server::admin", 1, "one request"),
    ("server::http", 1, "one connection"),
    ("server::listen", 1, "one connection"),
    ("server::listen::connection", 1, "one call"),
    ("server::runtime", 1, "a door: its end is the end of the process"),
    ("server::turns", 1, "the end of a turn"),
    ("store::redis::connection", 1, "one connection, whose end is noticed"),
    ("store::redis::read_connections", 1, "one connecting"),
    ("store::redis::shared", 1, "one connecting"),
    ("store::redis::usage", 1, "one connecting"),
    ("store::redis::writer", 1, "one connecting"),
];

#[test]
fn what_runs_for_long_is_begun_again_after_a_panic() {
    let is_kept = |rest: &str| {
        let begins: String = rest.chars().take(160).collect();
        [".keep(", ".keep_blocking(", "(keep)"].iter().any(|kept| begins.contains(kept))
    };
    for Source { module, path, text } in sources() {
        let is_test = module.contains("::tests") || module.ends_with("::testing");
        let begun = text.match_indices("spawn(").map(|(at, word)| &text[at + word.len() - 1..]);
        let unkept = begun.filter(|rest| !rest.starts_with("()") && !is_kept(rest)).count();
        let allowed = UNKEPT.iter().find(|(file, ..)| *file == module).map_or(0, |(_, count, _)| *count);
        assert!(
            is_test || unkept == allowed,
            "{} begins {unkept} things that are not kept, and may begin {allowed}: use `tasks`, or say in UNKEPT what they are",
            path.display()
        );
    }
}

/// What proves a defence would be missed by nobody if it were renamed or removed.
#[test]
fn the_tests_that_the_documents_name_are_there() {
    let all = [files("src"), files("crates"), files("tests")].concat();
    let code: String = all.iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let mut named = 0;
    for document in ["docs/threats.md", "docs/mutants.md"] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        for quoted in text.split('`').skip(1).step_by(2) {
            let name = quoted.rsplit([':', ' ']).next().unwrap();
            // Tests have sentences for names; a star stands for several.
            if name.matches('_').count() >= 3 {
                named += 1;
                assert!(
                    code.contains(name.trim_end_matches('*')),
                    "{document} names {quoted}, and there is no such test"
                );
            }
        }
    }
    assert!(named > 300, "{named} tests were found in the documents");
}
