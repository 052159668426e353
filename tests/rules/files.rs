//! Bad files: where the problem is, and what is said about it.

use serde::Deserialize;
use tollgate::config::{self, Problem};

const GOOD: &str = include_str!("tollgate.yaml");

fn problems(text: &str) -> Vec<Problem> {
    config::parse(text).err().map(|problems| problems.problems().to_vec()).unwrap_or_default()
}

/// The good file with one thing replaced.
fn with(from: &str, to: &str) -> String {
    assert_eq!(GOOD.matches(from).count(), 1, "`{from}` must stand once in the good file");
    GOOD.replacen(from, to, 1)
}

/// One change of the good file, and the problem that it makes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    replace: String,
    by: String,
    path: String,
    /// A part of the line that reports it.
    says: String,
}

fn each_is_the_only_problem(rows: &str) {
    let rows: Vec<Row> = serde_saphyr::from_str(rows).unwrap();
    assert!(!rows.is_empty());
    let mut wrong = Vec::new();
    for Row { replace, by, path, says } in rows {
        let found = problems(&with(&replace, &by));
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        if !matches!(&*found, [one] if one.path == path && lines[0].contains(&says)) {
            wrong.push(format!("`{by}` instead of `{replace}`: {path}: ... {says} ... expected, found {lines:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_good_file_is_good() {
    assert_eq!(problems(GOOD), []);
}

#[test]
fn shapes() {
    each_is_the_only_problem(include_str!("files/shapes.yaml"));
}

#[test]
fn a_misspelt_key_that_is_required_is_both() {
    let found = problems(&with("ops: {http", "ops: {htp"));
    let paths: Vec<&str> = found.iter().map(|problem| &*problem.path).collect();
    assert!(paths.contains(&"listen.ops.http") && paths.contains(&"listen.ops.htp"), "{found:#?}");
}

#[test]
fn listeners_and_files() {
    each_is_the_only_problem(include_str!("files/listeners_and_files.yaml"));
}

#[test]
fn a_socket_whose_path_the_system_could_not_hold() {
    let long = format!("path: /{}", "x".repeat(107));
    let found = problems(&with("path: /run/tollgate/check.sock", &long));
    assert_eq!((found.len(), &*found[0].path), (1, "listen.check.unix.path"));
}

#[test]
fn planes_and_permissions() {
    each_is_the_only_problem(include_str!("files/planes_and_permissions.yaml"));
}

#[test]
fn a_prefix_may_begin_like_another_up_to_its_end() {
    assert_eq!(problems(&with("prefix: ik_sdk", "prefix: ik_live2")), []);
}

#[test]
fn too_many_planes_and_none() {
    let many: String = (0..17).map(|n| format!("  p{n}: {{prefix: p{n}}}\n")).collect();
    let text = with("  data: {prefix: ik_live, revoked: 401}\n", &many);
    assert!(problems(&text).iter().any(|problem| problem.path == "planes" && problem.message.contains("at most 16")));
    let text = GOOD.split("planes:").next().unwrap().to_owned() + "planes: {}\nhosts: []\n";
    assert_eq!(problems(&text)[0].path, "planes");
}

#[test]
fn header_names() {
    each_is_the_only_problem(include_str!("files/header_names.yaml"));
    assert_eq!(problems(&with("subject: x-tollgate-subject", "subject: null")), []);
    assert_eq!(problems(&with("[x-tollgate-]", "[]")).len(), 8);
    let broad: Vec<String> = problems(&with("[x-tollgate-]", "[x-]")).into_iter().map(|problem| problem.path).collect();
    assert_eq!(broad, ["credentials[1].header", "identity.reserved_prefixes[0]"]);
}

#[test]
fn hosts_and_routes() {
    each_is_the_only_problem(include_str!("files/hosts_and_routes.yaml"));
}

#[test]
fn nothing_is_public_by_omission() {
    for left in ["{name: health, match: [GET /healthz]}", "{name: health, match: [GET /healthz], public: false}"] {
        let found = problems(&with("{name: health, match: [GET /healthz], public: true}", left));
        let paths: Vec<&str> = found.iter().map(|problem| &*problem.path).collect();
        assert_eq!(paths, ["hosts[0].routes[0].plane", "hosts[0].routes[0].all_of", "hosts[0].routes[0].in"]);
    }
}

#[test]
fn a_parameter_must_be_in_every_pattern() {
    let found = problems(&with("\"PATCH /api/workloads/{id}\"", "\"PATCH /api/workloads/{id}\", \"PUT /w/{wid}\""));
    assert_eq!(found.len(), 1);
    assert_eq!(
        found[0].to_string(),
        "hosts[0].routes[4].in.resource: `{id}` is no parameter of `PUT /w/{wid}`; did you mean `{wid}`?"
    );
}

#[test]
fn all_problems_at_once_each_with_its_line() {
    let text = GOOD
        .replace("realm: tollgate", "relm: tollgate")
        .replace("plane: control, all_of: [create", "plan: control, all_of: [create")
        .replace("seconds: 15", "seconds: soon")
        .replace("errors: openai", "errors: opnai");
    let found = config::parse(&text).unwrap_err().to_string();
    let mut lines: Vec<&str> = found.lines().collect();
    assert_eq!(lines.pop(), Some("4 problems"));
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "drain.seconds: must be a whole number, not text",
            "hosts[0].routes[2].errors: `opnai` is not possible here; did you mean `openai`?",
            "hosts[0].routes[3].plan: unknown key; did you mean `plane`?",
            "relm: unknown key; did you mean `realm`?",
        ]
    );
}

#[test]
fn meaning_is_checked_beside_an_unknown_key() {
    let text = GOOD.replace("{known: 1000000", "{kown: 1").replace("all_of: [create_workloads]", "all_of: [create]");
    let found = problems(&text);
    let paths: Vec<&str> = found.iter().map(|problem| &*problem.path).collect();
    assert_eq!(paths, ["cache.kown", "hosts[0].routes[3].all_of[0]"]);
}

#[test]
fn all_problems_of_meaning_at_once() {
    let text = GOOD
        .replace("prefix: ik_sdk", "prefix: IK")
        .replace("realm: tollgate", "realm: \"\"")
        .replace("mode: \"0600\"", "mode: \"0666\"")
        .replace("all_of: [create_workloads]", "all_of: [create]")
        .replace("resource: \"workload:{id}\"", "resource: \"workload:{x}\"")
        .replace("[GET /healthz]", "[POST /v1/chat/completions]");
    let paths: Vec<String> = problems(&text).into_iter().map(|problem| problem.path).collect();
    assert_eq!(
        paths,
        [
            "planes.control.prefix",
            "realm",
            "listen.admin.unix.mode",
            "hosts[0].routes[3].all_of[0]",
            "hosts[0].routes[4].in.resource",
            "hosts[0].routes[2].match",
        ]
    );
}

#[test]
fn yaml_that_is_none() {
    for (text, phrase) in [
        ("", "the file is empty"),
        ("version: 1\nrealm: [a\n", "line "),
        ("version: 1\nversion: 1\n", "line 2"),
        ("log: {level: info, level: warn}", "level"),
        ("pepper: {keys: {1: {}, \"1\": {}}}", "the key `1` stands twice"),
        ("version: 1\n---\nversion: 1\n", ""),
        ("version: 1\n\trealm: a\n", "found a tab at line 1"),
        ("realm: !secret x\n", "line 1"),
        ("realm: *nowhere\n", "line 1"),
        ("seconds: .inf\n", ""),
    ] {
        let found = problems(text);
        assert_eq!(found.len(), 1, "{text:?}: {found:?}");
        assert!(found[0].path.is_empty() && found[0].message.contains(phrase), "{text:?}: {found:?}");
    }
    assert!(problems("[]")[0].message.contains("must be a map, not a list"));
}

#[test]
fn bombs_and_huge_files_end_soon() {
    let mut laughs = "a: &a [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (name, before) in ('b'..='k').zip('a'..) {
        laughs += &format!("{name}: &{name} [{}]\n", vec![format!("*{before}"); 10].join(", "));
    }
    let deep = format!("a: {}{}", "[".repeat(5_000), "]".repeat(5_000));
    let flat = format!("hosts: [{}]", "a, ".repeat(500_000));
    let huge = format!("# {}\n{GOOD}", "x".repeat(5 << 20));
    for text in [laughs, deep, flat, huge] {
        let begun = std::time::Instant::now();
        assert_eq!(problems(&text).len(), 1);
        assert!(begun.elapsed() < std::time::Duration::from_secs(20));
    }
}

#[test]
fn anchors_are_for_honest_repetition_too() {
    let text = with("in: {project: key, workload: key}", "in: &own {project: key, workload: key}");
    let text = text.replace("in: {project: key}, credential: keep", "in: *own, credential: keep");
    assert_eq!(problems(&text), []);
}

#[test]
fn a_file_that_cannot_be_read() {
    let folder = tempfile::tempdir().unwrap();
    let missing = config::load(&folder.path().join("none.yaml")).unwrap_err().to_string();
    assert!(missing.contains("cannot read") && missing.contains("none.yaml"), "{missing}");
    let binary = folder.path().join("binary.yaml");
    std::fs::write(&binary, [0xff, 0xfe]).unwrap();
    assert!(config::load(&binary).unwrap_err().to_string().contains("is not UTF-8"));
}

#[test]
fn no_text_makes_it_panic() {
    let runner = proptest::prelude::ProptestConfig::with_cases(300);
    proptest::proptest!(runner, |(at in 0..GOOD.len(), cut in 0usize..40, junk in "[ -~\n]{0,6}")| {
        let end = (at + cut).min(GOOD.len());
        let text = format!("{}{junk}{}", &GOOD[..at], &GOOD[end..]);
        let _ = config::parse(&text);
    });
}

#[test]
fn the_committed_schema_is_that_of_the_types() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schema/config.schema.json");
    let generated = serde_json::to_string_pretty(&config::schema()).unwrap() + "\n";
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        committed == generated,
        "schema/config.schema.json is stale: tollgate check-config --schema > schema/config.schema.json"
    );
}

#[test]
fn every_key_of_the_schema_is_explained() {
    fn look(schema: &serde_json::Value, place: &str, bare: &mut Vec<String>) {
        for (key, property) in schema["properties"].as_object().into_iter().flatten() {
            if property["description"].as_str().is_none_or(|text| !text.ends_with('.')) {
                bare.push(format!("{place}.{key}"));
            }
        }
    }
    let (schema, mut bare) = (config::schema(), Vec::new());
    look(&schema, "", &mut bare);
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        look(definition, name, &mut bare);
        if definition["type"] == "object" {
            assert_eq!(definition["additionalProperties"], false, "{name} lets unknown keys pass");
        }
    }
    assert!(bare.is_empty(), "without a description: {bare:?}");
}
