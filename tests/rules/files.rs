//! Bad files: where the problem is, and what is said about it.

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

/// What is replaced, by what, the path of the problem, and a part of the line that reports it.
type Row = (&'static str, &'static str, &'static str, &'static str);

fn each_is_the_only_problem(rows: &[Row]) {
    let mut wrong = Vec::new();
    for (from, to, path, phrase) in rows {
        let found = problems(&with(from, to));
        let lines: Vec<String> = found.iter().map(ToString::to_string).collect();
        if !matches!(&*found, [one] if one.path == *path && lines[0].contains(phrase)) {
            wrong.push(format!("`{to}` instead of `{from}`: {path}: ... {phrase} ... expected, found {lines:#?}"));
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
    each_is_the_only_problem(&[
        ("version: 1", "version: 2", "version", "it may be: 1"),
        ("version: 1\n", "", "version", "is missing"),
        ("version: 1", "version: \"1\"", "version", "must be a whole number, not text"),
        ("realm: tollgate", "relm: tollgate", "relm", "did you mean `realm`?"),
        ("realm: tollgate", "zebra: 1", "zebra", "unknown key; the keys here are: version, store"),
        ("realm: tollgate", "realm: 7", "realm", "must be text, not a number; put it in quotes"),
        ("realm: tollgate", "realm: {}", "realm", "must be text, not a map"),
        ("realm: tollgate", "realm:", "realm", "must be text, not empty"),
        ("reflection: false", "reflection: no", "listen.reflection", "must be true or false, not text"),
        ("  ops: {http: 127.0.0.1:9182}", "  ops: 9182", "listen.ops", "must be a map, not a number"),
        ("  ops: {http: 127.0.0.1:9182}\n", "", "listen.ops", "is missing"),
        ("{http: 127.0.0.1:9182}", "{http: 127.0.0.1:9182, tls: 1}", "listen.ops.tls", "the keys here are: http"),
        ("errors: tollgate\nplanes", "errors: opnai\nplanes", "errors", "did you mean `openai`?"),
        (
            "errors: openai}",
            "errors: xml}",
            "hosts[0].routes[2].errors",
            "it may be: tollgate, openai, anthropic, grpc",
        ),
        ("from: peer", "from: xff", "client_ip.from", "it may be: peer, x-envoy-external-address, x-forwarded-for"),
        ("revoked: 403", "revoked: 404", "planes.control.revoked", "it may be: 401, 403"),
        ("level: info", "level: verbose", "log.level", "it may be: error, warn, info, debug"),
        ("decisions: denied", "decisions: deny", "log.decisions", "it may be"),
        ("credential: keep", "credential: kep", "hosts[0].routes[5].credential", "did you mean `keep`?"),
        ("seconds: 15", "seconds: 301", "drain.seconds", "must be at most 300"),
        ("seconds: 15", "seconds: -1", "drain.seconds", "must be at least 0"),
        ("seconds: 15", "seconds: 1.5", "drain.seconds", "must be a whole number, not a number"),
        ("workers: 2", "workers: 0", "workers", "must be at least 1"),
        ("workers: 2", "workers: 65", "workers", "must be at most 64"),
        ("known: 1000000", "known: 0", "cache.known", "must be at least 1"),
        ("unknown: 20000", "unknown: 0", "cache.unknown", "must be at least 1"),
        ("loads: 256", "loads: 0", "cache.loads", "must be at least 1"),
        ("match: [GET /healthz]", "match: GET /healthz", "hosts[0].routes[0].match", "must be a list, not text"),
        ("match: [GET /healthz]", "match: []", "hosts[0].routes[0].match", "needs at least 1 entry"),
        ("match: [api.example.com]", "match: []", "hosts[0].match", "needs at least 1 entry"),
        (
            "plane: control, all_of: [create",
            "plan: control, all_of: [create",
            "hosts[0].routes[3].plan",
            "did you mean `plane`?",
        ),
        (
            "in: {project: \"{pid}\"}",
            "in: {projct: \"{pid}\"}",
            "hosts[0].routes[3].in.projct",
            "did you mean `project`?",
        ),
    ]);
}

#[test]
fn a_misspelt_key_that_is_required_is_both() {
    let found = problems(&with("ops: {http", "ops: {htp"));
    let paths: Vec<&str> = found.iter().map(|problem| &*problem.path).collect();
    assert!(paths.contains(&"listen.ops.http") && paths.contains(&"listen.ops.htp"), "{found:#?}");
}

#[test]
fn listeners_and_files() {
    const CHECK: &str = "{unix: {path: /run/tollgate/check.sock, mode: \"0660\", group: envoy}}";
    each_is_the_only_problem(&[
        (CHECK, "{}", "listen.check", "must have one of `unix` and `tcp`"),
        (CHECK, "{unix: {path: a}, tcp: {address: 127.0.0.1:1}}", "listen.check", "only one of"),
        (CHECK, "{tcp: {address: 0.0.0.0:9180}}", "listen.check.tcp", "add `tls`, or say `plaintext: true`"),
        (CHECK, "{tcp: {address: localhost:9180}}", "listen.check.tcp.address", "no IP address and port"),
        (
            CHECK,
            "{tcp: {address: 127.0.0.1:1, plaintext: true, tls: {cert: c, key: k, client_ca: a}}}",
            "listen.check.tcp.plaintext",
            "contradicts `tls`",
        ),
        (
            CHECK,
            "{tcp: {address: 127.0.0.1:1, tls: {cert: c, key: \"\", client_ca: a}}}",
            "listen.check.tcp.tls.key",
            "must not be empty",
        ),
        (
            CHECK,
            "{tcp: {address: 127.0.0.1:1, tls: {cert: c, key: k}}}",
            "listen.check.tcp.tls.client_ca",
            "is missing",
        ),
        (
            CHECK,
            "{unix: {path: /run/tollgate/admin.sock}}",
            "listen.admin.unix.path",
            "is the socket of `listen.check`",
        ),
        (CHECK, "{tcp: {address: 127.0.0.1:9182}}", "listen.ops.http", "is taken by `listen.check.tcp`"),
        ("\"0660\", group: envoy", "0660, group: envoy", "listen.check.unix.mode", "put it in quotes"),
        ("mode: \"0660\"", "mode: \"rw\"", "listen.check.unix.mode", "four octal digits"),
        ("mode: \"0660\"", "mode: \"0680\"", "listen.check.unix.mode", "four octal digits"),
        ("mode: \"0660\"", "mode: \"4660\"", "listen.check.unix.mode", "four octal digits"),
        ("group: envoy", "group: \"\"", "listen.check.unix.group", "must not be empty"),
        ("mode: \"0600\"", "mode: \"0666\"", "listen.admin.unix.mode", "must not be wider than \"0660\""),
        ("mode: \"0600\"", "mode: \"0770\"", "listen.admin.unix.mode", "must not be wider"),
        ("http: 127.0.0.1:9181", "http: 0.0.0.0:9181", "listen.admin.http", "must not be exposed"),
        ("http: 127.0.0.1:9181", "http: 127.0.0.1:9182", "listen.ops.http", "is taken by `listen.admin.http`"),
        ("through_envoy: 127.0.0.1:9183", "through_envoy: \":9183\"", "listen.admin.through_envoy", "no IP address"),
        (
            "through_envoy: 127.0.0.1:9183",
            "through_envoy: 0.0.0.0:9183\n    demand_proof: false",
            "listen.admin.demand_proof",
            "must be true where `through_envoy` is not on loopback",
        ),
        (
            "through_envoy: 127.0.0.1:9183",
            "through_envoy: \"[::]:9183\"\n    demand_proof: false",
            "listen.admin.demand_proof",
            "must be true where `through_envoy` is not on loopback",
        ),
        ("allowed_hosts: [api.example.com]", "allowed_hosts: [a.b:80]", "listen.admin.allowed_hosts[0]", "is no host"),
        ("{http: 127.0.0.1:9182}", "{http: \"9182\"}", "listen.ops.http", "no IP address and port"),
        ("path: /var/lib/tollgate/store.redb", "path: \"\"", "store.embedded.path", "must not be empty"),
        ("current: 1", "current: 2", "pepper.current", "`2` is no version in `pepper.keys`"),
        ("current: 1", "current: 0", "pepper.current", "must be at least 1"),
        ("keys: {1: {file: /var/lib/tollgate/pepper.1}}", "keys: {}", "pepper.keys", "at least one version"),
        (
            "{1: {file: /var/lib/tollgate/pepper.1}}",
            "{1: {file: a}, two: {file: b}}",
            "pepper.keys.two",
            "whole number",
        ),
        ("{1: {file: /var/lib/tollgate/pepper.1}}", "{1: {file: a}, 01: {file: b}}", "pepper.keys.01", "whole number"),
        (
            "{1: {file: /var/lib/tollgate/pepper.1}}",
            "{1: {file: a}, 2: {file: a}}",
            "pepper.keys.2.file",
            "another version",
        ),
        (
            "{1: {file: /var/lib/tollgate/pepper.1}}",
            "{1: {file: a}, 2: {file: b}, 3: {file: c}, 4: {file: d}, 5: {file: e}}",
            "pepper.keys",
            "at most 4",
        ),
    ]);
}

#[test]
fn a_socket_whose_path_the_system_could_not_hold() {
    let long = format!("path: /{}", "x".repeat(107));
    let found = problems(&with("path: /run/tollgate/check.sock", &long));
    assert_eq!((found.len(), &*found[0].path), (1, "listen.check.unix.path"));
}

#[test]
fn planes_and_permissions() {
    each_is_the_only_problem(&[
        ("prefix: ik_sdk", "prefix: IK_SDK", "planes.control.prefix", "begins with a letter"),
        ("prefix: ik_sdk", "prefix: ik_sdk_", "planes.control.prefix", "does not end with `_`"),
        ("prefix: ik_sdk", "prefix: \"\"", "planes.control.prefix", "1 to 24 characters"),
        ("prefix: ik_sdk", "prefix: a23456789012345678901234x", "planes.control.prefix", "1 to 24 characters"),
        ("prefix: ik_sdk", "prefix: ik_live", "planes.control.prefix", "could not be told from those of `data`"),
        ("prefix: ik_sdk", "prefix: ik_live_sdk", "planes.control.prefix", "could not be told from those of `data`"),
        ("read_workloads,", "manage_keys,", "permissions[1]", "is built in and must not be declared"),
        ("read_workloads,", "run_inference,", "permissions[1]", "is declared twice"),
        ("read_workloads,", "\"read workloads\",", "permissions[1]", "a permission is 1 to 64"),
        ("read_workloads,", "\"*\",", "permissions[1]", "a permission is 1 to 64"),
        (
            "{plane: data, project: acme",
            "{plane: dta, project: acme",
            "admin.key_defaults.plane",
            "did you mean `data`?",
        ),
        ("project: acme", "project: \"*\"", "admin.key_defaults.project", "admin plane"),
        ("project: acme", "project: \"a/b\"", "admin.key_defaults.project", "a project is"),
        ("workloads: [\"*\"]", "workloads: [\"*\", a]", "admin.key_defaults.workloads[0]", "must stand alone"),
        ("workloads: [\"*\"]", "workloads: [a, a]", "admin.key_defaults.workloads[1]", "stands twice"),
        ("workloads: [\"*\"]", "workloads: [\"a*\"]", "admin.key_defaults.workloads[0]", "a workload is"),
        ("realm: tollgate", "realm: 'a\"b'", "realm", "without quotes"),
        ("realm: tollgate", "realm: \"a\\nb\"", "realm", "printable"),
        ("realm: tollgate", "realm: \"\"", "realm", "1 to 128"),
        ("{from: peer}", "{from: x-forwarded-for}", "client_ip.trusted_hops", "is missing"),
        (
            "{from: peer}",
            "{from: peer, trusted_hops: 1}",
            "client_ip.trusted_hops",
            "only with `from: x-forwarded-for`",
        ),
        ("{from: peer}", "{from: x-forwarded-for, trusted_hops: 0}", "client_ip.trusted_hops", "must be at least 1"),
    ]);
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
    each_is_the_only_problem(&[
        ("header: x-api-key", "header: \"\"", "credentials[1].header", "needs a name"),
        ("header: x-api-key", "header: \":path\"", "credentials[1].header", "pseudo-header"),
        ("header: x-api-key", "header: X-API-Key", "credentials[1].header", "in lower case"),
        ("header: x-api-key", "header: \"x api key\"", "credentials[1].header", "is no header name"),
        ("header: x-api-key", "header: host", "credentials[1].header", "has a meaning of its own"),
        ("header: x-api-key", "header: transfer-encoding", "credentials[1].header", "has a meaning of its own"),
        ("header: x-api-key", "header: content-length", "credentials[1].header", "has a meaning of its own"),
        ("header: x-api-key", "header: x-envoy-key", "credentials[1].header", "has a meaning of its own"),
        ("header: x-api-key", "header: x_request_id", "credentials[1].header", "has a meaning of its own"),
        ("header: x-api-key", "header: authorization", "credentials[1].header", "stands twice"),
        ("header: x-api-key", "header: x-tollgate-key", "credentials[1].header", "reserved prefix `x-tollgate-`"),
        ("scheme: Bearer", "scheme: \"Bearer \"", "credentials[0].scheme", "must be one word"),
        ("scheme: Bearer", "scheme: \"\"", "credentials[0].scheme", "must be one word"),
        ("subject: x-tollgate-subject", "subject: x-user", "identity.headers.subject", "reserve `x-`"),
        ("subject: x-tollgate-subject", "subject: authorization", "identity.headers.subject", "carries credentials"),
        ("subject: x-tollgate-subject", "subject: x_api_key", "identity.headers.subject", "carries credentials"),
        ("subject: x-tollgate-subject", "subject: \":authority\"", "identity.headers.subject", "pseudo-header"),
        (
            "subject: x-tollgate-subject",
            "subject: x-original-url",
            "identity.headers.subject",
            "removed from every request",
        ),
        ("subject: x-tollgate-subject", "subject: connection", "identity.headers.subject", "a meaning of its own"),
        ("subject: x-tollgate-subject", "subject: X-Tollgate-S", "identity.headers.subject", "in lower case"),
        ("subject: x-tollgate-subject", "subject: x-envoy-subject", "identity.headers.subject", "a meaning of its own"),
        (
            "project: x-tollgate-project",
            "project: x-tollgate_subject",
            "identity.headers.project",
            "is the name of `subject` already",
        ),
        ("[x-tollgate-]", "[x-tollgate-, x-id]", "identity.reserved_prefixes[1]", "ends with `-`"),
        ("[x-tollgate-]", "[x-tollgate-, \"\"]", "identity.reserved_prefixes[1]", "ends with `-`"),
        (
            "[x-tollgate-]",
            "[x-tollgate-, content-]",
            "identity.reserved_prefixes[1]",
            "would take `content-length` away",
        ),
        (
            "[x-tollgate-]",
            "[x-tollgate-, x-envoy-peer-]",
            "identity.reserved_prefixes[1]",
            "would take `x-envoy-` away",
        ),
    ]);
    assert_eq!(problems(&with("subject: x-tollgate-subject", "subject: null")), []);
    assert_eq!(problems(&with("[x-tollgate-]", "[]")).len(), 8);
    let broad: Vec<String> = problems(&with("[x-tollgate-]", "[x-]")).into_iter().map(|problem| problem.path).collect();
    assert_eq!(broad, ["credentials[1].header", "identity.reserved_prefixes[0]"]);
}

#[test]
fn hosts_and_routes() {
    each_is_the_only_problem(&[
        ("match: [api.example.com]", "match: [API.example.com]", "hosts[0].match[0]", "in lower case"),
        ("match: [api.example.com]", "match: [\"a.com:80\"]", "hosts[0].match[0]", "without a port"),
        ("match: [api.example.com]", "match: [a.com, \"*.\"]", "hosts[0].match[1]", "is no host"),
        ("match: [api.example.com]", "match: [a.com, b.com, a.com]", "hosts[0].match[2]", "stands twice"),
        ("name: create", "name: \"\"", "hosts[0].routes[3].name", "the name of a route is"),
        ("name: create", "name: infer", "hosts[0].routes[3].name", "is the name of another route already"),
        ("[GET /healthz]", "[/healthz]", "hosts[0].routes[0].match[0]", "must be a method and a path"),
        ("[GET /healthz]", "[get /healthz]", "hosts[0].routes[0].match[0]", "write it in upper case"),
        ("[GET /healthz]", "[\" /healthz\"]", "hosts[0].routes[0].match[0]", "is no method"),
        ("[GET /healthz]", "[CONNECT /healthz]", "hosts[0].routes[0].match[0]", "cannot be matched"),
        ("[GET /healthz]", "[GET healthz]", "hosts[0].routes[0].match[0]", "must begin with `/`"),
        ("[GET /healthz]", "[GET  /healthz]", "hosts[0].routes[0].match[0]", "must begin with `/`"),
        ("[GET /healthz]", "[GET /a//b]", "hosts[0].routes[0].match[0]", "not canonical"),
        ("[GET /healthz]", "[\"GET /{a*}/b\"]", "hosts[0].routes[0].match[0]", "at the end"),
        ("[GET /healthz]", "[\"GET /{host.1}\"]", "hosts[0].routes[0].match[0]", "a label of the host"),
        (
            "[GET /healthz]",
            "[\"GET /api/workloads/{rest*}\"]",
            "hosts[0].routes[4].match",
            "cannot stand beside the path of `health`",
        ),
        ("[GET /healthz]", "[GET /a, GET /a]", "hosts[0].routes[0].match", "`GET` stands twice on this path"),
        ("[GET /healthz]", "[POST /v1/chat/completions]", "hosts[0].routes[2].match", "matched by `health` already"),
        ("[GET /healthz]", "[\"PATCH /api/workloads/{x}\"]", "hosts[0].routes[4].match", "matched by `health` already"),
        (
            "plane: control, all_of: [create",
            "plane: contrl, all_of: [create",
            "hosts[0].routes[3].plane",
            "did you mean `control`?",
        ),
        ("plane: control, all_of: [create", "all_of: [create", "hosts[0].routes[3].plane", "is missing"),
        (
            "all_of: [create_workloads]",
            "all_of: [create_workload]",
            "hosts[0].routes[3].all_of[0]",
            "did you mean `create_workloads`?",
        ),
        (
            "all_of: [create_workloads]",
            "any_of: [zebra]",
            "hosts[0].routes[3].any_of[0]",
            "not declared in `permissions`",
        ),
        (
            "all_of: [create_workloads]",
            "all_of: [manage_keys]",
            "hosts[0].routes[3].all_of[0]",
            "only on planes marked",
        ),
        ("all_of: [create_workloads]", "all_of: []", "hosts[0].routes[3].all_of", "needs `all_of` or `any_of`"),
        (
            "all_of: [manage_keys]",
            "all_of: [manage_kes]",
            "hosts[0].routes[5].all_of[0]",
            "did you mean `manage_keys`?",
        ),
        (
            "all_of: [create_workloads]",
            "all_of: [create_workloads, create_workloads]",
            "hosts[0].routes[3].all_of[1]",
            "stands twice",
        ),
        (
            "all_of: [create_workloads]",
            "all_of: [create_workloads], any_of: [create_workloads, run_inference]",
            "hosts[0].routes[3].any_of[0]",
            "would ask for nothing",
        ),
        (", in: {project: \"{pid}\"}", "", "hosts[0].routes[3].in", "is missing"),
        ("in: {project: \"{pid}\"}", "in: {}", "hosts[0].routes[3].in.project", "is missing"),
        ("in: {project: \"{pid}\"}", "in: {workload: key}", "hosts[0].routes[3].in.project", "is missing"),
        (
            "in: {project: \"{pid}\"}",
            "in: {project: \"{pd}\"}",
            "hosts[0].routes[3].in.project",
            "did you mean `{pid}`?",
        ),
        ("in: {project: \"{pid}\"}", "in: {project: pid}", "hosts[0].routes[3].in.project", "did you mean `{pid}`?"),
        ("in: {project: \"{pid}\"}", "in: {project: \"*\"}", "hosts[0].routes[3].in.project", "neither `key`"),
        ("in: {project: \"{pid}\"}", "in: {project: \"a-{pid}\"}", "hosts[0].routes[3].in.project", "neither `key`"),
        ("in: {project: \"{pid}\"}", "in: {project: \"{host.0}\"}", "hosts[0].routes[3].in.project", "counted from 1"),
        ("in: {project: \"{pid}\"}", "in: {project: \"{host.4}\"}", "hosts[0].routes[3].in.project", "has no label 4"),
        (
            "workload: \"{workload}\"",
            "workload: \"{rest}\"",
            "hosts[0].routes[1].in.workload",
            "takes several segments",
        ),
        (
            "resource: \"workload:{id}\"",
            "resource: \"{id}\"",
            "hosts[0].routes[4].in.resource",
            "a kind and a parameter",
        ),
        (
            "resource: \"workload:{id}\"",
            "resource: \"workload:w1\"",
            "hosts[0].routes[4].in.resource",
            "a parameter of the path",
        ),
        (
            "resource: \"workload:{id}\"",
            "resource: \"workload:key\"",
            "hosts[0].routes[4].in.resource",
            "a parameter of the path",
        ),
        (
            "resource: \"workload:{id}\"",
            "resource: \"workload:{di}\"",
            "hosts[0].routes[4].in.resource",
            "did you mean `{id}`?",
        ),
        (
            "resource: \"workload:{id}\"",
            "resource: \"workload:{id}\", workload: key",
            "hosts[0].routes[4].in.workload",
            "cannot stand beside `resource`",
        ),
        ("public: true", "public: true, plane: data", "hosts[0].routes[0].plane", "no meaning on a public route"),
        (
            "public: true",
            "public: true, all_of: [run_inference]",
            "hosts[0].routes[0].all_of",
            "no meaning on a public",
        ),
        (
            "public: true",
            "public: true, any_of: [run_inference]",
            "hosts[0].routes[0].any_of",
            "no meaning on a public",
        ),
        ("public: true", "public: true, in: {project: key}", "hosts[0].routes[0].in", "no meaning on a public route"),
        (
            "public: true",
            "public: true, credential: keep",
            "hosts[0].routes[0].credential",
            "no meaning on a public route",
        ),
        ("public: true", "public: true, origin: allow", "hosts[0].routes[0].origin", "no meaning on a public route"),
        ("errors: openai}", "credential: keep}", "hosts[0].routes[2].credential", "only routes of an admin plane"),
    ]);
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
