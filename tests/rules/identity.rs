//! What the back end is told, and what no client can make it believe.

use proptest::prelude::*;
use tollgate::domain::record::ApiKey;
use tollgate_core::decision::Trace;
use tollgate_core::denial::Denial;
use tollgate_core::policy::IdentityHeaders;
use tollgate_core::respond::{self, Decision};

use crate::world::{Answer, HEAD, NOW, Request, compiled, decide, holder, mint, policy, resource, workloads};

const IDENTITY: [&str; 8] = [
    "x-tollgate-subject",
    "x-tollgate-user-id",
    "x-tollgate-project",
    "x-tollgate-workload",
    "x-tollgate-key-id",
    "x-tollgate-plane",
    "x-tollgate-permissions",
    "x-tollgate-request-id",
];

/// Each identity header is set or removed, never both; no value is empty; credentials and overrides go.
fn holds_the_contract(answer: &Answer, keeps: bool) {
    let Answer::Allow { set, remove, .. } = answer else { panic!("{answer:?}") };
    for name in IDENTITY {
        assert!(answer.told(name).is_some() != answer.removes(name), "{name}: {answer:?}");
    }
    for (name, value) in set {
        assert!(IDENTITY.contains(&&**name) && !value.is_empty());
        assert!(!remove.iter().any(|removed| removed.eq_ignore_ascii_case(name)), "{name} is set and removed");
    }
    for credential in ["authorization", "x-api-key"] {
        assert_eq!(answer.removes(credential), !keeps, "{credential}");
    }
    for name in ["x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"] {
        assert!(answer.removes(name), "{name}");
    }
}

fn told(answer: &Answer) -> [Option<&str>; 8] {
    IDENTITY.map(|name| answer.told(name))
}

#[test]
fn what_is_told_of_whom() {
    let (policy, data) = (policy(), holder("data", &["read", "run"]));
    let (id, subject) = (data.id.to_string(), format!("key:{}", data.id));
    let (id, subject) = (Some(&*id), Some(&*subject));
    let permissions = Some("read,run");
    let (acme, plane, request_id) = (Some("acme"), Some("data"), Some("r-1"));
    for (target, held, project, workload) in [
        ("/data", "*", acme, None),
        ("/own", "*", acme, None),
        ("/own", "chat", acme, Some("chat")),
        ("/p/acme", "*", acme, None),
        ("/p/acme/w/chat", "*", acme, Some("chat")),
        ("/p/acme/w/chat", "chat", acme, Some("chat")),
        ("/fixed", "*", acme, Some("chat")),
    ] {
        let request = Request::new("POST", target).bearing("ik_live").with("x-request-id", "r-1");
        let answer = decide(policy, &request, Some(&workloads(data.clone(), &[held])), None, NOW);
        holds_the_contract(&answer, false);
        assert_eq!(
            told(&answer),
            [subject, None, project, workload, id, plane, permissions, request_id],
            "{target} {held}"
        );
    }
    let request = Request::new("PATCH", "/r/w1").bearing("ik_sdk");
    let found = resource("w1", "chat", "acme");
    let answer = decide(policy, &request, Some(&holder("control", &["write"])), Some(&found), NOW);
    assert_eq!(told(&answer), [subject, None, acme, Some("chat"), id, Some("control"), Some("write"), None]);
    let answer = decide(policy, &Request::new("GET", "/open"), None, None, NOW);
    holds_the_contract(&answer, false);
    assert_eq!(told(&answer), [None; 8]);
    let every = ApiKey { project: "*".to_owned(), ..holder("admin", &["manage_keys"]) };
    let answer = decide(policy, &Request::new("POST", "/admin").bearing("ik_adm"), Some(&every), None, NOW);
    assert_eq!(told(&answer), [subject, None, None, None, id, Some("admin"), Some("manage_keys"), None]);
}

#[test]
fn the_admin_api_gets_to_see_the_credential() {
    let request = Request::new("POST", "/admin").bearing("ik_adm");
    let answer = decide(policy(), &request, Some(&holder("admin", &["manage_keys"])), None, NOW);
    holds_the_contract(&answer, true);
}

#[test]
fn a_request_id_that_is_not_safe_is_none() {
    for id in ["", "a b", "a\r\nb", "é", &"x".repeat(129)] {
        let request = Request::new("GET", "/open").with("x-request-id", id);
        let answer = decide(policy(), &request, None, None, NOW);
        assert!(answer.removes("x-tollgate-request-id"), "{id:?}");
    }
}

#[test]
fn metadata_has_what_was_decided_and_no_secret() {
    let request = Request::new("POST", "/own").bearing("ik_live");
    let bound = workloads(holder("data", &["run"]), &["chat"]);
    let Answer::Allow { metadata, .. } = decide(policy(), &request, Some(&bound), None, NOW) else { panic!("denied") };
    let (id, subject) = (bound.id.to_string(), format!("key:{}", bound.id));
    let expected = [
        ("decision", "allow"),
        ("route", "own"),
        ("plane", "data"),
        ("subject", &*subject),
        ("key_id", &*id),
        ("project", "acme"),
        ("workload", "chat"),
        ("client_ip", "192.0.2.7"),
        ("endpoint", "/own"),
    ];
    assert_eq!(metadata, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
}

/// As long as a secret, and a name all the same.
const LONG: &str = "abcdefghijklmnopqrstuvwxyz0123456789abcdefgh";

#[test]
fn metadata_repeats_no_name_of_a_client_that_looks_like_a_secret() {
    let shown = |target: &str, prefix: &str, holder: &ApiKey, name: &str| {
        let request = Request::new("POST", target).bearing(prefix);
        let Answer::Allow { metadata, .. } = decide(policy(), &request, Some(holder), None, NOW) else {
            panic!("{target} denied")
        };
        metadata.into_iter().find(|(known, _)| known == name).map(|(_, value)| value)
    };
    let (data, admin) = (holder("data", &["run"]), holder("admin", &["manage_keys"]));
    let every = ApiKey { project: "*".to_owned(), ..admin };
    let (project, workload) = (format!("/t/{LONG}"), format!("/p/acme/w/{LONG}"));
    assert_eq!(shown("/t/acme", "ik_adm", &every, "project").as_deref(), Some("acme"));
    assert_eq!(shown(&project, "ik_adm", &every, "project").as_deref(), Some("…"));
    assert_eq!(shown(&project, "ik_adm", &every, "endpoint").as_deref(), Some("/t/…"));
    assert_eq!(shown("/p/acme/w/chat", "ik_live", &data, "workload").as_deref(), Some("chat"));
    assert_eq!(shown(&workload, "ik_live", &data, "workload").as_deref(), Some("…"));
    assert_eq!(shown(&workload, "ik_live", &data, "endpoint").as_deref(), Some("/p/acme/w/…"));
    let request = Request::new("POST", &workload);
    let attributes = request.attributes();
    let decision = respond::deny(policy(), &attributes, Denial::CredentialMissing, Trace::begin(), None);
    let Decision::Deny(deny) = &decision else { panic!("allowed") };
    assert_eq!(deny.metadata().find(|(name, _)| *name == "endpoint").map(|(_, value)| value), Some("/p/acme/w/…"));
}

#[test]
fn a_refusal_repeats_no_request_id_that_looks_like_a_secret() {
    let key = mint("ik_live", 1);
    for (id, repeated) in [("r-1", Some("r-1")), (LONG, None), (key.expose(), None)] {
        let answer = decide(policy(), &Request::new("POST", "/data").with("x-request-id", id), None, None, NOW);
        assert_eq!((answer.status(), answer.header("x-request-id")), (401, repeated));
    }
}

#[test]
fn a_name_that_is_sent_is_kept_from_clients_whatever_the_prefixes_are() {
    let identity = IdentityHeaders { reserved_prefixes: Vec::new(), ..policy().identity.clone() };
    assert!(identity.reserves(b"X_Tollgate_Subject") && identity.reserves(b"x.tollgate.project"));
    assert!(!identity.reserves(b"x-tollgate-other"));
}

#[test]
fn one_header_can_be_turned_off_or_renamed_and_is_still_kept_from_clients() {
    let text = format!(
        "{HEAD}
identity:
  headers: {{subject: null, project: x-org-id}}
  reserved_prefixes: [x-tollgate-, x-org-]
hosts: [{{match: ['*'], routes: [{{name: open, match: [GET /], public: true}},
  {{name: data, match: [POST /], plane: data, all_of: [run], in: {{project: key}}}}]}}]
"
    );
    let policy = compiled(&text);
    let request = Request::new("POST", "/").bearing("ik_live").with("X-Tollgate-Subject", "root").with("x_org_id", "b");
    let answer = decide(&policy, &request, Some(&holder("data", &["run"])), None, NOW);
    assert_eq!((answer.told("x-tollgate-subject"), answer.told("x-org-id")), (None, Some("acme")));
    assert!(answer.removes("X-Tollgate-Subject") && answer.removes("x_org_id"));
}

#[test]
fn what_envoy_could_not_carry_on_is_refused() {
    let with_limits = |limits: &str| {
        compiled(&format!(
            "{HEAD}
envoy: {{{limits}}}
hosts: [{{match: ['*'], routes: [{{name: data, match: [POST /], plane: data, all_of: [run], in: {{project: key}}}}]}}]
"
        ))
    };
    let status = |policy: &tollgate_core::policy::Policy, count: usize, bytes: usize| {
        let many = (0..count).map(|at| format!("x-{at}"));
        let request = many.fold(Request::new("POST", "/").bearing("ik_live"), |request, name| request.with(&name, ""));
        let request = request.with("x-large", "v".repeat(bytes));
        decide(policy, &request, Some(&holder("data", &["run"])), None, NOW).status()
    };
    let (shipped, default) = (with_limits(""), with_limits("max_headers_count: 100, max_request_headers_kb: 60"));
    // The credential, and the large one; five identity headers come to them, and what Envoy counts besides.
    for (policy, count, bytes, expected) in [
        (&shipped, 98, 0, 200),
        (&shipped, 99, 0, 431),
        (&shipped, 0, 60_000, 200),
        (&shipped, 0, 62_000, 431),
        (&default, 85, 0, 200),
        (&default, 86, 0, 431),
        (&default, 0, 60_000, 200),
        (&default, 0, 61_000, 431),
    ] {
        assert_eq!(status(policy, count, bytes), expected, "{count} headers, {bytes} bytes");
    }
}

/// Every character that may stand in a header name and is neither letter nor digit.
const SEPARATORS: &[u8] = b"-_.!#$%&'*+^`|~";

/// What a back end that folds case and separators takes the name for.
fn folded(name: &str) -> String {
    name.to_ascii_lowercase().replace(|c: char| !c.is_ascii_alphanumeric(), "-")
}

fn spoofed_name() -> impl Strategy<Value = String> {
    let known = prop::sample::select(IDENTITY.to_vec()).prop_map(str::to_owned);
    let free = "[xX][-_.!+~][tT][oO]ll[gG]ate[-_.$%|][a-zA-Z_.-]{0,10}";
    let twisted = (known, any::<u64>()).prop_map(|(name, bits)| {
        let twist = |(at, c): (usize, char)| match (bits >> (at % 64) & 1, c) {
            (1, '-') => char::from(SEPARATORS[(bits.rotate_left(17) as usize + at) % SEPARATORS.len()]),
            (1, c) => c.to_ascii_uppercase(),
            (_, c) => c,
        };
        name.chars().enumerate().map(twist).collect()
    });
    prop_oneof![twisted, free]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nothing_that_a_client_sends_passes_for_identity(
        names in prop::collection::vec(spoofed_name(), 1..6),
        route in prop::sample::select(vec!["/open", "/data", "/own", "/admin"]),
    ) {
        let (method, plane, prefix) = match route {
            "/open" => ("GET", "data", "ik_live"),
            "/admin" => ("POST", "admin", "ik_adm"),
            _ => ("POST", "data", "ik_live"),
        };
        let request = names.iter().fold(Request::new(method, route), |request, name| request.with(name, "root"));
        let request = request.bearing(prefix);
        let answer = decide(policy(), &request, Some(&holder(plane, &["manage_keys", "run"])), None, NOW);
        holds_the_contract(&answer, route == "/admin");
        let Answer::Allow { set, remove, .. } = &answer else { panic!("{answer:?}") };
        for name in &names {
            prop_assert!(folded(name).starts_with("x-tollgate-"));
            // Envoy's names are in lower case and compare without regard to case.
            let overwritten = set.iter().any(|(own, _)| own.eq_ignore_ascii_case(name));
            let removed = remove.iter().any(|removed| removed.eq_ignore_ascii_case(name));
            prop_assert!(overwritten != removed, "{} survives or is lost: {:?}", name, answer);
        }
    }
}

#[test]
fn look_alikes_of_credentials_and_overrides_go_too() {
    let names =
        ["X_Api_Key", "x.api.key", "x_http_method_override", "X+Method!Override", "X-Original_URL", "Authorization"];
    let request = names.iter().fold(Request::new("GET", "/open"), |request, name| request.with(name, "x"));
    let answer = decide(policy(), &request, None, None, NOW);
    let Answer::Allow { remove, .. } = &answer else { panic!("{answer:?}") };
    for name in names {
        assert!(remove.iter().any(|removed| removed.eq_ignore_ascii_case(name)), "{name} passes: {remove:?}");
    }
}
