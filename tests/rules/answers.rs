//! How refusals read: every denial in every shape, the challenges of RFC 6750, and what a client cannot tell apart.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use tollgate::domain::record::ApiKey;
use tollgate_core::decision::{RouteId, Trace};
use tollgate_core::denial::Denial;
use tollgate_core::policy::Policy;
use tollgate_core::respond;
use tollgate_guard::time::Timestamp;

use crate::world::{Answer, HEAD, NOW, Request, compiled, decide, holder, mint, owned, policy, resource, workloads};

/// The answer to a denial on a route, however it came about.
fn refusal(route: &str, denial: Denial) -> Answer {
    let policy = policy();
    let at = policy.routes.routes().iter().position(|known| *known.name == *route).unwrap();
    let route = Some(RouteId(u32::try_from(at).unwrap()));
    let route = route.filter(|_| !matches!(denial, Denial::HostUnknown | Denial::RouteUnknown));
    let request = Request::new("POST", "/data").with("x-request-id", "r-1");
    let attributes = request.attributes();
    owned(&respond::deny(policy, &attributes, denial, Trace { route, ..Trace::begin() }, None))
}

/// Every answer, byte by byte. Review a change of this file as a change of the contract with clients.
#[test]
fn every_denial_in_every_shape() {
    let mut text = String::new();
    for &denial in Denial::ALL {
        text += &format!("\n{denial:?} ({})\n", denial.as_str());
        for route in ["both", "openai", "anthropic", "grpc"] {
            let Answer::Deny { status, headers, body, .. } = refusal(route, denial) else {
                panic!("{denial:?} allowed")
            };
            text += &format!("  {route}: {status}\n");
            for (name, value) in headers {
                text += &format!("    {name}: {value}\n");
            }
            text += &format!("    {body}\n");
        }
    }
    insta::assert_snapshot!(text);
}

/// `make schema` writes the table anew.
#[test]
fn the_document_on_troubleshooting_has_a_row_of_each_denial() {
    let mut rows: Vec<(&str, String)> = Vec::new();
    for denial in Denial::ALL {
        let answer = denial.answer();
        let answer = format!("{} {}", answer.status, answer.message);
        match rows.last_mut() {
            // The plane chooses.
            Some((word, row)) if *word == denial.as_str() => *row = row.replacen(" | ", &format!(" or {answer} | "), 1),
            _ => rows.push((denial.as_str(), format!("{answer} | {} | {}", denial.why(), denial.help()))),
        }
    }
    let rows: String = rows.iter().map(|(word, row)| format!("| `{word}` | {row} |\n")).collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/troubleshooting.md");
    let text = fs::read_to_string(&path).unwrap();
    let (head, _) = text.split_once("\n| `").unwrap();
    let expected = format!("{head}\n{rows}");
    if std::env::var_os("TOLLGATE_WRITE_DOCS").is_some() {
        fs::write(&path, &expected).unwrap();
    } else {
        assert_eq!(text, expected, "`make schema` writes it");
    }
}

#[test]
fn every_denial_of_the_rules_is_reached() {
    let past = Some(Timestamp::from_secs(1));
    let data = holder("data", &["run"]);
    let control = holder("control", &["write"]);
    let post = |target: &str| Request::new("POST", target);
    let with = |target: &str, key: ApiKey| decide(policy(), &post(target).bearing("ik_live"), Some(&key), None, NOW);
    let on = |target: &str, key: ApiKey| decide(policy(), &post(target).bearing("ik_sdk"), Some(&key), None, NOW);
    let bare = |request: Request| decide(policy(), &request, None, None, NOW);
    let answers = [
        bare(post("/data").on("other.test")),
        bare(post("/a//b")),
        bare(post("/nowhere")),
        bare(post(&format!("/data?key={}", mint("ik_live", 1).expose()))),
        bare(post("/data")),
        bare(post("/data").bearing("ik_live").with("x-api-key", "x")),
        bare(post("/data").with("x-api-key", "\u{1}")),
        bare(post("/data").with("x-api-key", "ik_live_x")),
        bare(post("/data").bearing("ik_live")),
        bare(post("/data").bearing("ik_sdk")),
        bare(post("/tokens").bearing("ik_live")),
        bare(post("/data").bearing("ik_live").with("origin", "https://a.test")),
        with("/data", ApiKey { revoked_at: past, ..data.clone() }),
        on("/control", ApiKey { revoked_at: past, ..control.clone() }),
        with("/data", ApiKey { retires_at: past, ..data.clone() }),
        on("/control", ApiKey { retires_at: past, ..control }),
        with("/data", ApiKey { expires_at: past, ..data.clone() }),
        with("/data", ApiKey { permissions: Vec::new(), ..data.clone() }),
        with("/p/beta", data.clone()),
        with("/own", workloads(data.clone(), &[])),
        decide(
            policy(),
            &Request::new("PATCH", "/r/w").bearing("ik_sdk"),
            Some(&holder("control", &["write"])),
            None,
            NOW,
        ),
        with("/data", ApiKey { project: String::new(), ..data }),
        bare((0..101).fold(post("/data"), |request, at| request.with(&format!("x-{at}"), ""))),
    ];
    let reached: HashSet<Denial> = answers.iter().filter_map(Answer::denial).collect();
    // The message that cannot be read, the store that cannot be reached and the token that is not genuine are met outside the
    // rules.
    let outside = [
        Denial::CheckUnreadable,
        Denial::TokenHeader,
        Denial::TokenIssuer,
        Denial::TokenKey,
        Denial::TokenSignature,
        Denial::TokenClaims,
        Denial::TokenAudience,
        Denial::TokenNotYetValid,
        Denial::HeadersWithheld,
        Denial::Unavailable,
    ];
    let left: Vec<Denial> = Denial::ALL.iter().copied().filter(|denial| !reached.contains(denial)).collect();
    assert_eq!((left, reached.len()), (outside.to_vec(), answers.len()));
}

#[test]
fn headers_of_too_many_bytes_are_refused_as_such_in_our_shape() {
    let of_bytes = |bytes: usize| {
        let (target, name) = ("/data", "x-large");
        let rest = target.len() + "api.test".len() + name.len();
        decide(policy(), &Request::new("POST", target).with(name, "v".repeat(bytes - rest)), None, None, NOW)
    };
    assert_eq!(of_bytes(60 << 10).denial(), Some(Denial::CredentialMissing));
    let refused = of_bytes((60 << 10) + 1);
    assert_eq!(refused.status(), 431);
    let body: serde_json::Value = serde_json::from_str(refused.body()).unwrap();
    assert_eq!(body["error"]["code"], "VALIDATION_ERROR", "{body}");
    assert!(body["error"]["message"].as_str().is_some_and(|message| message.contains("too large")), "{body}");
}

#[test]
fn no_host_path_or_method_is_matched_by_accident() {
    for (method, host, target, expected) in [
        ("POST", "api.test", "/data", Denial::CredentialMissing),
        ("POST", "API.test:443", "/data?x=/../y", Denial::CredentialMissing),
        ("GET", "api.test", "/data", Denial::RouteUnknown),
        ("post", "api.test", "/data", Denial::RouteUnknown),
        ("HEAD", "api.test", "/open", Denial::RouteUnknown),
        ("POST", "api.test", "/data/", Denial::RouteUnknown),
        ("POST", "api.test", "/Data", Denial::RouteUnknown),
        ("POST", "api.test", "/p/acme/", Denial::RouteUnknown),
        ("POST", "api.test", "/p/", Denial::RouteUnknown),
        ("POST", "api.test", "/", Denial::RouteUnknown),
        ("POST", "api.test", "", Denial::PathNotCanonical),
        ("POST", "api.test", "*", Denial::PathNotCanonical),
        ("POST", "api.test", "http://api.test/data", Denial::PathNotCanonical),
        ("POST", "api.test", "/open/../data", Denial::PathNotCanonical),
        ("POST", "api.test", "/~open//data", Denial::PathNotCanonical),
        ("POST", "api.test", "/data#x", Denial::PathNotCanonical),
        ("POST", "api.test", "/data?a#x", Denial::PathNotCanonical),
        ("POST", "api.test.", "/data", Denial::HostUnknown),
        ("POST", "", "/data", Denial::HostUnknown),
        ("POST", "api.test,api.test", "/data", Denial::HostUnknown),
        ("POST", "user@api.test", "/data", Denial::HostUnknown),
        ("POST", "x.api.test", "/data", Denial::HostUnknown),
    ] {
        let request = Request::new(method, target).on(host);
        assert_eq!(decide(policy(), &request, None, None, NOW).denial(), Some(expected), "{method} {host} {target}");
    }
}

#[test]
fn a_client_cannot_tell_one_invalid_key_from_another() {
    let past = Some(Timestamp::from_secs(1));
    let key = holder("data", &["run"]);
    let request = Request::new("POST", "/data").bearing("ik_live").with("x-request-id", "r-1");
    let answers: HashSet<String> = [
        None,
        Some(ApiKey { revoked_at: past, ..key.clone() }),
        Some(ApiKey { expires_at: past, ..key.clone() }),
        Some(ApiKey { retires_at: past, ..key }),
    ]
    .iter()
    .map(|holder| decide(policy(), &request, holder.as_ref(), None, NOW).bytes())
    .collect();
    assert_eq!(answers.len(), 1, "{answers:#?}");
    assert!(answers.iter().all(|answer| answer.starts_with("401")));
}

#[test]
fn a_client_cannot_tell_an_unknown_resource_from_a_foreign_one() {
    let request = Request::new("PATCH", "/r/w1").bearing("ik_sdk").with("x-request-id", "r-1");
    let key = workloads(holder("control", &["write"]), &["chat"]);
    let found = [None, Some(resource("w1", "chat", "beta")), Some(resource("w1", "rank", "acme"))];
    let answers: HashSet<String> =
        found.iter().map(|found| decide(policy(), &request, Some(&key), found.as_ref(), NOW).bytes()).collect();
    assert_eq!(answers.len(), 1, "{answers:#?}");
    assert!(answers.iter().all(|answer| answer.starts_with("403")));
}

#[test]
fn challenges_of_rfc_6750() {
    let realm = "Bearer realm=\"tollgate\"";
    for &denial in Denial::ALL {
        let answer = refusal("both", denial);
        let expected = match (answer.status(), denial) {
            (401, Denial::CredentialMissing) => Some(realm.to_owned()),
            (401, _) => Some(format!("{realm}, error=\"invalid_token\"")),
            (
                403,
                Denial::PermissionMissing
                | Denial::ProjectOutOfScope
                | Denial::WorkloadOutOfScope
                | Denial::ResourceOutOfScope,
            ) => Some(format!("{realm}, error=\"insufficient_scope\", scope=\"run read write tune\"")),
            _ => None,
        };
        assert_eq!(answer.header("www-authenticate"), expected.as_deref(), "{denial:?}");
        assert_eq!(answer.header("retry-after").is_some(), answer.status() == 503, "{denial:?}");
        assert_eq!(answer.header("x-request-id"), Some("r-1"));
    }
}

#[test]
fn the_shape_of_a_refusal_without_a_route_is_that_of_its_host() {
    let code = |request: &Request| decide(policy(), request, None, None, NOW).body().to_owned();
    let openai = "\"type\":\"invalid_request_error\"";
    assert!(code(&Request::new("POST", "/nowhere").on("a.tenants.test")).contains(openai));
    assert!(code(&Request::new("POST", "/a//b").on("a.tenants.test")).contains(openai));
    assert!(code(&Request::new("POST", "/nowhere")).contains("PERMISSION_DENIED"));
    assert!(code(&Request::new("POST", "/").on("other.test")).contains("PERMISSION_DENIED"));
}

#[test]
fn grpc_clients_get_a_bare_sentence_everywhere() {
    for kind in ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8"] {
        let request = Request::new("POST", "/openai").with("content-type", kind);
        let answer = decide(policy(), &request, None, None, NOW);
        assert_eq!(answer.header("content-type"), Some("text/plain"));
        assert!(
            answer.body().starts_with("No credential was presented (accepted: authorization: Bearer KEY, "),
            "{}",
            answer.body()
        );
    }
    for kind in ["application/json", "application/grpcx", "text/application/grpc"] {
        let request = Request::new("POST", "/openai").with("content-type", kind);
        assert!(decide(policy(), &request, None, None, NOW).body().starts_with('{'), "{kind}");
    }
}

#[test]
fn nothing_that_the_client_sent_comes_back() {
    let canary = "c4n4ry";
    let policy = policy();
    let request = Request::new("POST", &format!("/p/{canary}?k={canary}"))
        .with("authorization", format!("Bearer ik_live_{canary}"))
        .with("origin", canary)
        .with("user-agent", canary);
    for &denial in Denial::ALL {
        let attributes = request.attributes();
        for route in 0..policy.routes.routes().len() {
            let trace = Trace { route: u32::try_from(route).ok().map(RouteId), ..Trace::begin() };
            let decision = respond::deny(policy, &attributes, denial, trace, None);
            assert!(!owned(&decision).bytes().contains(canary), "{denial:?}");
        }
    }
}

fn client_ip(from: &str) -> Policy {
    compiled(&format!("{HEAD}client_ip: {from}\nhosts: [{{match: ['*'], routes: []}}]\n"))
}

#[test]
fn the_address_of_the_client() {
    let hops = |count: u8| format!("{{from: x-forwarded-for, trusted_hops: {count}}}");
    let forwarded = "x-forwarded-for";
    for (from, headers, expected) in [
        ("{from: peer}".to_owned(), vec![(forwarded, "1.1.1.1")], Some("192.0.2.7")),
        ("{from: x-envoy-external-address}".to_owned(), vec![("x-envoy-external-address", "2.2.2.2")], Some("2.2.2.2")),
        ("{from: x-envoy-external-address}".to_owned(), vec![(forwarded, "1.1.1.1")], None),
        (hops(1), vec![(forwarded, "1.1.1.1, 2.2.2.2,3.3.3.3")], Some("3.3.3.3")),
        (hops(2), vec![(forwarded, "1.1.1.1, 2.2.2.2,3.3.3.3")], Some("2.2.2.2")),
        (hops(3), vec![(forwarded, "1.1.1.1, 2.2.2.2,3.3.3.3")], Some("1.1.1.1")),
        (hops(4), vec![(forwarded, "1.1.1.1, 2.2.2.2,3.3.3.3")], None),
        (hops(1), vec![(forwarded, "1.1.1.1"), (forwarded, "2.2.2.2, 3.3.3.3")], Some("3.3.3.3")),
        (hops(3), vec![(forwarded, "1.1.1.1"), (forwarded, "2.2.2.2, 3.3.3.3")], Some("1.1.1.1")),
        (hops(1), vec![], None),
        // What is no address was made up by somebody, and could be anything.
        (hops(1), vec![(forwarded, "1.1.1.1, someone@example.test")], None),
        ("{from: x-envoy-external-address}".to_owned(), vec![("x-envoy-external-address", "a secret")], None),
    ] {
        let policy = client_ip(&from);
        let request = headers.iter().fold(Request::new("GET", "/"), |request, (name, value)| request.with(name, value));
        let attributes = request.attributes();
        let decision = respond::deny(&policy, &attributes, Denial::RouteUnknown, Trace::begin(), None);
        let respond::Decision::Deny(deny) = &decision else { panic!("allowed") };
        let told = deny.metadata().find(|(name, _)| *name == "client_ip").map(|(_, value)| value.to_owned());
        assert_eq!(told.as_deref(), expected, "{from} {headers:?}");
    }
}
