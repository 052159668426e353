//! Secrets where clients put them by mistake: none may be found in any log, metric, audit row or error.

use serde_json::{Value, json};

use super::client::{Http2, Reply, Sent, http1};
use super::deployment::{Deployment, KEYS, LOGIN, PASSWORD};
use super::harness::{Edit, Setup, Stack, get, wait_for};
use super::mutants::Dice;

/// What a client took for something else, and the part of it that must be found nowhere.
struct Canary {
    text: String,
    marker: String,
    is_key: bool,
}

/// Ten of each kind: keys, keys that were cut, tokens, keys of others, addresses.
fn canaries() -> Vec<Canary> {
    let mut dice = Dice(7);
    let mut word = |length: usize| -> String {
        (0..length)
            .map(|_| char::from(*dice.pick(b"abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789")))
            .collect()
    };
    let mut all = Vec::new();
    for _ in 0..10 {
        let (id, secret, more) = (word(12), word(49), word(20));
        let key = |text: String, marker: &str| Canary { text, marker: marker.to_owned(), is_key: true };
        let other = |text: String, marker: &str| Canary { text, marker: marker.to_owned(), is_key: false };
        all.push(key(format!("inf_live_{id}_{secret}"), &secret));
        all.push(key(format!("inf_live_{id}_{}", &secret[20..]), &secret[20..]));
        all.push(other(format!("eyJ{}.eyJ{more}.{secret}", word(20)), &more));
        all.push(other(format!("sk-proj-{more}"), &more));
        all.push(other(format!("{more}@example.com"), &more));
    }
    all
}

/// The ways in which a client may send it. The last of them are no part of the target.
fn places(canary: &str, key: &str) -> Vec<Sent> {
    let get = |target: String| Sent::new("GET", &target).bearer(key);
    let encoded = canary.replace('@', "%40").replace('_', "%5F");
    let twice = encoded.replace('%', "%25");
    let plain = || get("/v1/models".to_owned());
    vec![
        get(format!("/{canary}")),
        get(format!("/v1/models/{canary}")),
        get(format!("/nowhere/{canary}/x")),
        get(format!("/v1/models;password={canary}")),
        get(format!("/v1;key={canary}/models")),
        get(format!("/nowhere/password={canary}")),
        get(format!("/nowhere/x&token={canary}")),
        get(format!("/nowhere/{encoded}")),
        get(format!("/nowhere/{twice}")),
        get(format!("/api/v1/auth/api-keys/{canary}")),
        get(format!("/v1/models?key={canary}")),
        get(format!("/v1/models?{canary}")),
        get(format!("/v1/models?a=b&password={encoded}")),
        get(format!("/v1/models?redirect=/x/{twice}")),
        plain().header("referer", &format!("https://example.com/{canary}?key={canary}")),
        plain().header("user-agent", canary),
        plain().header("cookie", &format!("session={canary}")),
        plain().header("x-request-id", canary),
        plain().header("x-forwarded-for", canary),
        plain().header("x-tollgate-subject", canary),
        plain().header("origin", &format!("https://{canary}.example.com")),
        plain().header("host", &format!("{canary}.example.com")),
        plain().header("x-api-key", canary),
        Sent::new("GET", "/v1/models").bearer(canary),
        Sent::new("GET", "/v1/models").header("authorization", &format!("Basic {canary}")),
        Sent::new("POST", LOGIN).json(&serde_json::json!({"username": canary, "password": canary})),
        Sent::new("POST", LOGIN).json(&serde_json::json!({"username": "nobody", "password": canary})),
    ]
}

const IN_TARGET: usize = 14;

/// The ways to send it to the door of the admin API, which is behind no Envoy. None of them makes anything.
fn places_at_the_door(canary: &str) -> Vec<Sent> {
    let get = |target: String| Sent::new("GET", &target);
    let key = |field: &str, value: Value| {
        let mut asked = json!({"name": "k", "plane": "inferno", "project": "acme-0", "workloads": ["*"], "permissions": ["manage_keys"]});
        asked[field] = value;
        Sent::new("POST", KEYS).json(&asked)
    };
    let nobody = || get("/api/v1/users/nobody".to_owned());
    let mut places = vec![
        nobody().header("x-request-id", canary),
        nobody().header("user-agent", canary),
        // The name of a user may be an address, and is one in the audit log, too.
        get(format!("/api/v1/users/{}", if canary.contains('@') { "nobody" } else { canary })),
        get(format!("/api/v1/users/nobody/sessions?x={canary}")),
        Sent::new("DELETE", &format!("/api/v1/users/nobody/sessions/{canary}")),
        get(format!("/api/v1/projects/{canary}")),
        Sent::new("PATCH", &format!("/api/v1/projects/{canary}"))
            .header("if-match", "*")
            .json(&json!({"state": "suspended"})),
        Sent::new("DELETE", &format!("/api/v1/projects/{canary}")),
        Sent::new("DELETE", &format!("/api/v1/projects/acme?wait={canary}")),
        Sent::new("DELETE", &format!("/api/v1/projects/acme?wait=fleet&limit={canary}")),
        Sent::new("DELETE", "/api/v1/projects/acme").header("if-match", canary),
        Sent::new("DELETE", &format!("/api/v1/issuers/{canary}/verdicts")),
        get(format!("/api/v1/users?project={canary}")),
        get(format!("/api/v1/users?after={canary}")),
        get(format!("{KEYS}?project={canary}")),
        get(format!("{KEYS}?{canary}=1")),
        get(format!("{KEYS}?limit={canary}")),
        get(format!("/api/v1/audit?project={canary}")),
        get(format!("/api/v1/audit?since={canary}")),
        Sent::new("PUT", &format!("/api/v1/resources/workload/{canary}")).json(&json!({"project": canary})),
        Sent::new("PUT", "/api/v1/resources/workload/w").json(&json!({"project": canary, "slug": canary})),
        key("project", json!(canary)),
        key("plane", json!(canary)),
        key("workloads", json!([format!("{canary}/")])),
        key("permissions", json!([canary])),
        key("permissions", json!(canary)),
        key("expires_in_days", json!(format!("x, expected {canary}"))),
        key(canary, json!(1)),
        key(&format!("password: {canary}"), json!(1)),
        key("name", json!(format!("{canary}\n"))),
        key("name", json!({canary: 1})),
        key("project", json!("acme")).header("idempotency-key", &format!("{canary} x")),
        Sent::new("POST", KEYS).header("content-type", "application/json").body(canary),
        Sent::new("POST", KEYS).header("content-type", canary).body(canary),
    ];
    // To hash a password takes a while, and no other canary gets as far.
    if canary.starts_with("sk-") {
        let user = json!({"name": "u", "password": PASSWORD, "project": canary, "permissions": ["manage_keys"]});
        places.push(Sent::new("POST", "/api/v1/users").json(&user));
    }
    places
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_canary_is_found_in_a_log_a_metric_an_audit_row_or_an_error() {
    let inferno = Deployment::start().await;
    let stack = &inferno.stack;
    let mut over_h2 = Http2::connect(stack.envoy).await;
    let canaries = canaries();
    let (mut sent, mut errors) = (0, Vec::new());
    // No more refusals of one administrator are written down in a minute than those of so many canaries.
    let bound: Vec<_> = (0..canaries.len().div_ceil(4))
        .map(|n| {
            let held = "manage_keys,manage_users,manage_resources,view_audit_logs";
            stack.create_key("inferno", &format!("acme-{n}"), "*", held, &[])
        })
        .collect();
    for (n, canary) in canaries.iter().enumerate() {
        for request in places_at_the_door(&canary.text) {
            let reply = http1(stack.admin, &request.clone().bearer(&bound[n / 4].text)).await;
            assert!(reply.status < 500 && reply.status != 201, "{request:?}: {reply:?}");
            told(&canaries, &reply, &request, &mut errors);
            sent += 1;
        }
        for (at, request) in places(&canary.text, &inferno.root.text).into_iter().enumerate() {
            let reply = stack.send(&request).await;
            assert!(reply.status != 500, "{request:?}");
            if at < IN_TARGET && canary.is_key {
                assert_eq!(reply.status, 400, "{request:?}");
            }
            sent += 1;
            told(&canaries, &reply, &request, &mut errors);
            // At the doors of the admin API, which are behind no Envoy.
            if request.target.starts_with("/api/v1/auth/api-keys/") {
                let users = Sent::new("DELETE", &format!("/api/v1/users/{}", canary.text));
                for request in [Sent { headers: Vec::new(), ..request }, users] {
                    told(&canaries, &inferno.administer(request.clone()).await, &request, &mut errors);
                    sent += 1;
                }
            }
        }
        let odd = Sent::new(&canary.marker, "/v1/models").bearer(&inferno.root.text);
        match over_h2.send(&odd).await {
            Ok(reply) => told(&canaries, &reply, &odd, &mut errors),
            Err(_) => over_h2 = Http2::connect(stack.envoy).await,
        }
        sent += 1;
    }
    let mut found = errors;
    let file = |name: &str| std::fs::read_to_string(stack.dir.path().join(name)).unwrap();
    let metrics = get(stack.ops, "/metrics").await.unwrap().text();
    let (mut audit, mut page) = (Vec::new(), "limit=1000".to_owned());
    loop {
        let rows = inferno.audit(&page).await;
        let Some(last) = rows.last() else { break };
        page = format!("limit=1000&before={}", last["sequence"]);
        audit.extend(rows.iter().map(Value::to_string));
    }
    println!("{} rows of the audit log", audit.len());
    let audit = audit.join("\n");
    let (ours, envoys) = (file("tollgate.log"), file("envoy.log"));
    for (place, text) in [("our log", ours), ("Envoy's log", envoys), ("a metric", metrics), ("the audit log", audit)] {
        assert!(text.lines().count() > 1, "{place} is empty");
        let lines = text.lines().filter(|line| canaries.iter().any(|canary| line.contains(&canary.marker)));
        found.extend(lines.map(|line| format!("{place}: {line}")));
    }
    println!("{} canaries, {sent} requests, {} found", canaries.len(), found.len());
    assert!(found.is_empty(), "{:#?}", &found[..found.len().min(12)]);
}

/// Logs every decision.
const ALL_DECISIONS: Edit = ("realm: inferencekey", "realm: inferencekey\nlog: {decisions: all}");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_canary_is_found_where_allowed_checks_are_logged_with_their_workload() {
    let setup = Setup { folder: "inferencekey", tollgate_edits: vec![ALL_DECISIONS], ..Setup::default() };
    let stack = Stack::start_with(setup).await;
    let key = stack.data_key();
    let canaries = canaries();
    let mut allowed = 0;
    for canary in &canaries {
        // As much of it as may be the name of a workload.
        let workload = &canary.text[..canary.text.len().min(64)].replace("inf_live", "ik_live");
        for target in [format!("/endpoint/acme/{workload}/run"), format!("/endpoint/{workload}/w-1/run")] {
            let reply = stack.send(&Sent::new("POST", &target).bearer(&key.text)).await;
            allowed += usize::from(reply.status == 200);
        }
    }
    assert!(allowed >= 10, "{allowed}");
    let file = |name: &str| std::fs::read_to_string(stack.dir.path().join(name)).unwrap();
    let checks = || file("tollgate.log").matches("\"message\":\"check\"").count();
    wait_for("a line of each check", async || checks() >= 2 * canaries.len()).await;
    let mut found = Vec::new();
    for (place, text) in [("our log", file("tollgate.log")), ("Envoy's log", file("envoy.log"))] {
        // What was cut is shorter than what would be looked for.
        let holds = |line: &str| canaries.iter().any(|canary| line.contains(&canary.marker[..20]));
        found.extend(text.lines().filter(|line| holds(line)).map(|line| format!("{place}: {line}")));
    }
    println!("{} canaries, {allowed} allowed, {} found", canaries.len(), found.len());
    assert!(found.is_empty(), "{:#?}", &found[..found.len().min(12)]);
}

/// Notes an answer that repeats a canary, unless it is the back end's, which says what it saw.
fn told(canaries: &[Canary], reply: &Reply, request: &Sent, found: &mut Vec<String>) {
    let text = format!("{} {:?}", reply.text(), reply.headers);
    if !reply.text().contains("\"seen\"") && canaries.iter().any(|canary| text.contains(&canary.marker)) {
        found.push(format!("an error: {} {}: {text}", request.method, request.target));
    }
}
