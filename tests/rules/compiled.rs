//! Good files: the settings and defaults they compile to, and that the compiled rules are those that were written.

use std::path::PathBuf;
use std::time::Duration;

use tollgate::config::{
    self, Admin, CheckAddress, KeyDefaults, Log, LogLevel, LoggedDecisions, PepperSettings, Settings, StoreSettings,
    Tls, UnixAddress,
};
use tollgate::registry::{Limits, Tombstones};
use tollgate::resolve::cache::Sizes;
use tollgate_core::denial::Denial;
use tollgate_core::error_body::ErrorShape;
use tollgate_core::extract::{CredentialHeader, Kinds};
use tollgate_core::plane::RevokedStatus;
use tollgate_core::policy::ClientIp;

use crate::world::{GOOD, HEAD, NOW, Request, compiled, decide, holder, resource, workloads};

fn unix(path: &str, mode: u32, group: Option<&str>) -> UnixAddress {
    UnixAddress { path: PathBuf::from(path), mode, group: group.map(str::to_owned) }
}

#[test]
fn the_settings_of_the_example() {
    let settings = config::parse(GOOD).unwrap().settings;
    let expected = Settings {
        store: StoreSettings::Embedded(PathBuf::from("/var/lib/tollgate/store.redb")),
        demands_signatures: false,
        pepper: PepperSettings { current: 1, files: vec![(1, PathBuf::from("/var/lib/tollgate/pepper.1"))] },
        check: CheckAddress::Unix(unix("/run/tollgate/check.sock", 0o660, Some("envoy"))),
        admin: Admin {
            unix: unix("/run/tollgate/admin.sock", 0o600, None),
            http: Some("127.0.0.1:9181".parse().unwrap()),
            through_envoy: Some("127.0.0.1:9183".parse().unwrap()),
            demands_proof: false,
            allowed_hosts: vec!["api.example.com".to_owned()],
            key_defaults: KeyDefaults {
                plane: Some("data".to_owned()),
                project: Some("acme".to_owned()),
                workloads: Some(vec!["*".to_owned()]),
            },
        },
        ops: "127.0.0.1:9182".parse().unwrap(),
        reflection: false,
        cache: Sizes { known: 1_000_000, unknown: 20_000, loads: 256 },
        log: Log { level: LogLevel::Info, decisions: LoggedDecisions::Denied },
        limits: Limits {
            tombstones: Some(Tombstones {
                backups_kept: Duration::from_secs(90 * 24 * 3600),
                planes: ["admin", "data"].map(str::to_owned).into(),
            }),
            ..Limits::default()
        },
        drain: Duration::from_secs(15),
        workers: 2,
    };
    assert_eq!(settings, expected);
}

#[test]
fn what_is_left_out_has_the_values_of_the_example() {
    let full = config::parse(GOOD).unwrap();
    let least = config::parse(&format!("{HEAD}hosts: []\n")).unwrap();
    let (a, b) = (&full.policy, &least.policy);
    assert_eq!((&a.planes, &a.credentials, &a.identity), (&b.planes, &b.credentials, &b.identity));
    assert_eq!((a.client_ip, &a.realm, a.errors), (b.client_ip, &b.realm, b.errors));
    let (a, b) = (&full.settings, &least.settings);
    assert_eq!((a.cache, &a.log, a.drain, a.reflection), (b.cache, &b.log, b.drain, b.reflection));
    assert_eq!(b.check, CheckAddress::Unix(unix("c", 0o660, None)));
    assert_eq!(b.admin.unix, unix("a", 0o600, None));
    assert_eq!((b.admin.http, b.admin.through_envoy), (None, None));
    assert_eq!(b.admin.key_defaults, KeyDefaults::default());
    assert!((1..=64).contains(&b.workers));
}

#[test]
fn a_door_for_envoy_that_others_may_reach_asks_for_a_proof() {
    let demands = |address: &str, more: &str| {
        let door = format!("through_envoy: \"{address}\"{more}");
        config::parse(&GOOD.replace("through_envoy: 127.0.0.1:9183", &door)).unwrap().settings.admin.demands_proof
    };
    let said = "\n    demand_proof: true";
    for open in ["0.0.0.0:9183", "[::]:9183", "10.0.0.7:9183", "[fd00::7]:9183"] {
        assert!(demands(open, "") && demands(open, said), "{open}");
    }
    for own in ["127.0.0.1:9183", "127.8.9.1:9183", "[::1]:9183"] {
        assert!(!demands(own, "") && demands(own, said), "{own}");
    }
}

#[test]
fn the_planes_keep_their_order_and_meaning() {
    let policy = compiled(&GOOD.replace("revoked: 401, admin: true", "admin: true"));
    let planes: Vec<(&str, &str, RevokedStatus, bool)> =
        policy.planes.iter().map(|plane| (&*plane.name, &*plane.prefix, plane.revoked, plane.admin)).collect();
    assert_eq!(
        planes,
        [
            ("data", "ik_live", RevokedStatus::Unauthenticated, false),
            ("control", "ik_sdk", RevokedStatus::Forbidden, false),
            ("admin", "ik_adm", RevokedStatus::Unauthenticated, true),
        ]
    );
    let text = "planes: {zeta: {prefix: z}, alpha: {prefix: a}, mid: {prefix: m}}\nhosts: []\n";
    let policy = compiled(&format!("{HEAD}{text}"));
    assert_eq!(policy.planes.iter().map(|plane| &*plane.name).collect::<Vec<_>>(), ["zeta", "alpha", "mid"]);
}

#[test]
fn listeners_with_tls_and_without() {
    let check = |tcp: &str| {
        let text = format!("{HEAD}hosts: []\n").replace("{unix: {path: c}}", &format!("{{tcp: {tcp}}}"));
        config::parse(&text).unwrap().settings.check
    };
    let tls = |name: &str| PathBuf::from(name);
    assert_eq!(
        check("{address: 0.0.0.0:9180, tls: {cert: c, key: k, client_ca: a}}"),
        CheckAddress::Tcp {
            address: "0.0.0.0:9180".parse().unwrap(),
            tls: Some(Tls { cert: tls("c"), key: tls("k"), client_ca: tls("a") }),
        }
    );
    for plain in ["{address: 127.0.0.1:1}", "{address: \"[::1]:1\"}", "{address: 10.0.0.1:1, plaintext: true}"] {
        assert!(matches!(check(plain), CheckAddress::Tcp { tls: None, .. }), "{plain}");
    }
}

#[test]
fn other_words_of_the_file() {
    let text = format!(
        "{HEAD}
client_ip: {{from: x-forwarded-for, trusted_hops: 2}}
realm: Inference at ACME
errors: anthropic
credentials: [{{header: api-key}}, {{header: authorization, scheme: Token}}]
log: {{level: debug, decisions: all}}
drain: {{seconds: 0}}
hosts: []
"
    );
    let compiled = config::parse(&text).unwrap();
    let policy = &compiled.policy;
    assert_eq!(policy.client_ip, ClientIp::ForwardedFor { trusted_hops: 2 });
    assert_eq!((&*policy.realm, policy.errors), ("Inference at ACME", ErrorShape::Anthropic));
    let credential = |name: &str, scheme: Option<&str>| CredentialHeader {
        name: name.into(),
        scheme: scheme.map(Into::into),
        kinds: Kinds { api_key: true, jwt: false },
    };
    assert_eq!(policy.credentials, [credential("api-key", None), credential("authorization", Some("Token"))]);
    assert_eq!(compiled.settings.log, Log { level: LogLevel::Debug, decisions: LoggedDecisions::All });
    assert_eq!(compiled.settings.drain, Duration::ZERO);
}

#[test]
fn errors_of_file_host_and_route() {
    let text = format!(
        "{HEAD}
errors: grpc
hosts:
  - match: [a.test]
    routes: [{{name: a, match: [GET /a], public: true}}, {{name: b, match: [GET /b], public: true, errors: openai}}]
  - match: [b.test]
    errors: anthropic
    routes: [{{name: c, match: [GET /a], public: true}}, {{name: d, match: [GET /b], public: true, errors: tollgate}}]
"
    );
    let shapes: Vec<ErrorShape> = compiled(&text).routes.routes().iter().map(|route| route.errors).collect();
    assert_eq!(shapes, [ErrorShape::Grpc, ErrorShape::OpenAi, ErrorShape::Anthropic, ErrorShape::Tollgate]);
}

#[test]
fn the_example_decides_as_it_reads() {
    let policy = compiled(GOOD);
    let data = workloads(holder("data", &["run_inference"]), &["chat"]);
    let control = holder("control", &["create_workloads", "update_workloads"]);
    let admin = holder("admin", &["manage_keys"]);
    let found = resource("w-1", "chat", "acme");
    for (method, target, prefix, holder, expected) in [
        ("GET", "/healthz", "ik_live", &data, None),
        ("POST", "/endpoint/acme/chat/v1/models", "ik_live", &data, None),
        ("POST", "/endpoint/acme/rank/v1/models", "ik_live", &data, Some(Denial::WorkloadOutOfScope)),
        ("POST", "/endpoint/beta/chat/v1/models", "ik_live", &data, Some(Denial::ProjectOutOfScope)),
        ("POST", "/endpoint/acme/chat/x", "ik_sdk", &control, Some(Denial::WrongPlane)),
        ("POST", "/v1/chat/completions", "ik_live", &data, None),
        ("POST", "/api/projects/acme/workloads", "ik_sdk", &control, None),
        ("POST", "/api/projects/beta/workloads", "ik_sdk", &control, Some(Denial::ProjectOutOfScope)),
        ("POST", "/api/projects/acme/workloads", "ik_live", &data, Some(Denial::WrongPlane)),
        ("PATCH", "/api/workloads/w-1", "ik_sdk", &control, None),
        ("PATCH", "/api/workloads/w-2", "ik_sdk", &control, Some(Denial::ResourceOutOfScope)),
        ("DELETE", "/api/workloads/w-1", "ik_sdk", &control, Some(Denial::RouteUnknown)),
        ("POST", "/api/v1/auth/api-keys", "ik_adm", &admin, None),
        ("POST", "/api/v1/auth/api-keys", "ik_sdk", &control, Some(Denial::WrongPlane)),
    ] {
        let request = Request::new(method, target).on("api.example.com").bearing(prefix);
        let denial = decide(&policy, &request, Some(holder), Some(&found), NOW).denial();
        assert_eq!(denial, expected, "{method} {target}");
    }
}

/// Parameters are found by their place, which is each pattern's own.
#[test]
fn patterns_that_place_a_parameter_differently() {
    let text = format!(
        "{HEAD}
hosts:
  - match: [api.test]
    routes:
      - {{name: run, match: [\"POST /p/{{project}}/w/{{workload}}\", \"POST /w/{{workload}}/of/{{project}}\",
         \"PUT /p/{{project}}/w/{{workload}}\", \"POST /v/{{version}}/{{project}}/{{workload}}\"],
         plane: data, all_of: [run], in: {{project: \"{{project}}\", workload: \"{{workload}}\"}}}}
      - {{name: change, match: [\"PATCH /r/{{id}}\", \"PATCH /p/{{project}}/r/{{id}}\"],
         plane: control, all_of: [write], in: {{resource: \"workload:{{id}}\"}}}}
"
    );
    let policy = compiled(&text);
    let names: Vec<&str> = policy.routes.routes().iter().map(|route| &*route.name).collect();
    assert_eq!(names, ["run", "run", "run", "change", "change"]);
    let data = workloads(holder("data", &["run"]), &["chat"]);
    for (method, target, expected) in [
        ("POST", "/p/acme/w/chat", None),
        ("PUT", "/p/acme/w/chat", None),
        ("POST", "/w/chat/of/acme", None),
        ("POST", "/v/acme/acme/chat", None),
        ("POST", "/v/1/acme/chat", None),
        ("POST", "/p/chat/w/acme", Some(Denial::ProjectOutOfScope)),
        ("POST", "/w/acme/of/chat", Some(Denial::ProjectOutOfScope)),
        ("POST", "/w/rank/of/acme", Some(Denial::WorkloadOutOfScope)),
        ("POST", "/v/acme/chat/x", Some(Denial::ProjectOutOfScope)),
        ("POST", "/v/acme/chat/acme", Some(Denial::ProjectOutOfScope)),
    ] {
        let request = Request::new(method, target).bearing("ik_live");
        assert_eq!(decide(&policy, &request, Some(&data), None, NOW).denial(), expected, "{method} {target}");
    }
    let control = holder("control", &["write"]);
    let found = resource("w-1", "chat", "acme");
    for (target, expected) in [("/r/w-1", None), ("/p/x/r/w-1", None), ("/p/w-1/r/x", Some(Denial::ResourceOutOfScope))]
    {
        let request = Request::new("PATCH", target).bearing("ik_sdk");
        assert_eq!(decide(&policy, &request, Some(&control), Some(&found), NOW).denial(), expected, "{target}");
    }
}

#[test]
fn hosts_of_every_kind() {
    let text = format!(
        "{HEAD}
hosts:
  - {{match: [a.test, \"*.a.test\"], routes: [{{name: one, match: [GET /], public: true}}]}}
  - {{match: [\"*.b.a.test\"], routes: [{{name: two, match: [GET /], public: true}}]}}
  - {{match: [\"*\"], routes: [{{name: rest, match: [GET /], public: true}}]}}
"
    );
    let policy = compiled(&text);
    for (host, route) in [
        ("a.test", "one"),
        ("A.TEST:80", "one"),
        ("x.a.test", "one"),
        ("b.a.test", "one"),
        ("x.y.a.test", "one"),
        ("x.b.a.test", "two"),
        ("xa.test", "rest"),
        ("127.0.0.1:8080", "rest"),
        ("[::1]", "rest"),
    ] {
        let answer = decide(&policy, &Request::new("GET", "/").on(host), None, None, NOW);
        let crate::world::Answer::Allow { metadata, .. } = answer else { panic!("{host} denied") };
        assert!(metadata.contains(&("route".to_owned(), route.to_owned())), "{host}: {metadata:?}");
    }
}
