//! Secrets where clients put them by mistake: none may be found in any log, metric, audit row or error.

use super::client::{Http2, Reply, Sent};
use super::deployment::{Deployment, LOGIN};
use super::harness::get;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_canary_is_found_in_a_log_a_metric_an_audit_row_or_an_error() {
    let inferno = Deployment::start().await;
    let stack = &inferno.stack;
    let mut over_h2 = Http2::connect(stack.envoy).await;
    let canaries = canaries();
    let (mut sent, mut errors) = (0, Vec::new());
    for canary in &canaries {
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
    let (metrics, audit) = (get(stack.ops, "/metrics").await.unwrap().text(), inferno.audit("limit=500").await);
    let audit = audit.into_iter().map(|row| row.to_string()).collect::<Vec<_>>().join("\n");
    let (ours, envoys) = (file("tollgate.log"), file("envoy.log"));
    for (place, text) in [("our log", ours), ("Envoy's log", envoys), ("a metric", metrics), ("the audit log", audit)] {
        assert!(text.lines().count() > 1, "{place} is empty");
        let lines = text.lines().filter(|line| canaries.iter().any(|canary| line.contains(&canary.marker)));
        found.extend(lines.map(|line| format!("{place}: {line}")));
    }
    println!("{} canaries, {sent} requests, {} found", canaries.len(), found.len());
    assert!(found.is_empty(), "{:#?}", &found[..found.len().min(12)]);
}

/// Notes an answer that repeats a canary, unless it is the back end's, which says what it saw.
fn told(canaries: &[Canary], reply: &Reply, request: &Sent, found: &mut Vec<String>) {
    let text = reply.text();
    if !text.contains("\"seen\"") && canaries.iter().any(|canary| text.contains(&canary.marker)) {
        found.push(format!("an error: {} {}: {text}", request.method, request.target));
    }
}
