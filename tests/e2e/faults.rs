//! What clients and operators see when something breaks: a panic, a Tollgate that is gone. Never an allow, never a 401 or 403
//! that would make a client throw its key away, and never a secret in a log.

use rustix::process::Signal;

use super::client::Sent;
use super::harness::{Key, Setup, Stack, get, wait_for};
use super::operate::metric;

/// Checks that panicked; what their route would have been is not known.
#[cfg(feature = "test-panic")]
const PANICS: &str = r#"tollgate_checks_total{decision="deny",reason="internal",route=""}"#;
const RUN: &str = "/endpoint/acme/chat/run";

#[cfg(feature = "test-panic")]
#[tokio::test]
async fn a_panic_in_a_rule_is_a_500_to_that_request_alone() {
    let stack = Stack::start().await;
    let key = stack.data_key();
    let good = Sent::new("POST", RUN).bearer(&key.text);
    let panics = metric(&stack, PANICS).await;
    for round in 0..20 {
        // With a key that is allowed everywhere, and with none: neither may pass.
        for request in [good.clone(), Sent::new("POST", RUN)] {
            stack.take_seen();
            let reply = stack.send(&request.header("x-test-panic", "1")).await;
            assert_eq!(reply.status, 500, "{round}: {reply:?}");
            assert_eq!(reply.json()["error"]["code"], "INTERNAL_ERROR", "{round}: {reply:?}");
            assert!(reply.json()["error"]["details"].is_null(), "{round}: {reply:?}");
            assert!(!reply.text().contains("panic"), "{round}: {reply:?}");
            assert!(stack.take_seen().is_empty(), "{round}: it reached the back end");
            assert_eq!(stack.send(&good).await.status, 200, "{round}");
        }
    }
    // Over one connection of Envoy's, at once: those beside it are served.
    stack.take_seen();
    let mut client = super::client::Http2::connect(stack.envoy).await;
    let mut waiting = Vec::new();
    for index in 0..40 {
        let request = if index % 4 == 0 { good.clone().header("x-test-panic", "1") } else { good.clone() };
        let (answer, _) = client.open(&request).await.unwrap();
        waiting.push((if index % 4 == 0 { 500 } else { 200 }, answer));
    }
    for (status, answer) in waiting {
        assert_eq!(answer.await.unwrap().status().as_u16(), status);
    }
    assert_eq!(stack.take_seen().len(), 30);
    assert_eq!(metric(&stack, PANICS).await, panics + 20 * 2 + 10);
}

#[tokio::test]
async fn without_tollgate_every_request_is_a_503() {
    let mut stack = Stack::start_with(Setup::default()).await;
    let key = stack.data_key();
    let good = Sent::new("POST", RUN).bearer(&key.text);
    let requests = [good.clone(), Sent::new("POST", RUN), Sent::new("GET", "/healthz"), good.clone().bearer("garbled")];
    assert_eq!(stack.send(&good).await.status, 200);
    stack.take_seen();

    stack.signal_tollgate(Signal::KILL);
    assert_ne!(stack.tollgate_ended().await, Some(0));
    let stacked = &stack;
    let answers = futures_util::future::join_all(requests.iter().map(|request| stacked.send(request))).await;
    for (request, reply) in requests.iter().zip(answers) {
        assert_eq!(reply.status, 503, "{} {}: {reply:?}", request.method, request.target);
        let pause: u64 = reply.header("retry-after").expect("no Retry-After").parse().unwrap();
        assert!(pause >= 1);
    }
    assert!(stack.take_seen().is_empty(), "a request reached the back end unjudged");

    // The sockets of the killed process are still there; the next one takes their place.
    assert!(stack.start_next_tollgate().is_none());
    stack.ready().await;
    wait_for("requests to be served again", async || stack.send(&good).await.status == 200).await;
    assert_eq!(stack.send(&Sent::new("POST", RUN)).await.status, 401);
}

#[tokio::test]
async fn counters_move_with_what_happens() {
    let stack = Stack::start().await;
    let key = stack.data_key();
    let good = Sent::new("POST", RUN).bearer(&key.text);
    let allowed = r#"tollgate_checks_total{decision="allow",reason="",route="infer"}"#;
    let (hits, checks) = (r#"tollgate_lookups_total{kind="key",tier="l1"}"#, "tollgate_check_duration_seconds_count");
    let read = async |series: &str| metric(&stack, series).await;
    let (allowed_before, hits_before, checks_before) = (read(allowed).await, read(hits).await, read(checks).await);
    for _ in 0..10 {
        assert_eq!(stack.send(&good).await.status, 200);
    }
    assert_eq!(stack.send(&Sent::new("POST", RUN)).await.status, 401);
    assert_eq!(stack.send(&Sent::new("POST", "/endpoint/beta/chat/run").bearer(&key.text)).await.status, 403);
    assert_eq!(stack.send(&Sent::new("POST", "/nowhere").bearer(&key.text)).await.status, 403);
    assert_eq!(read(allowed).await, allowed_before + 10);
    assert!(read(hits).await >= hits_before + 9);
    assert_eq!(read(checks).await, checks_before + 13);
    let text = get(stack.ops, "/metrics").await.unwrap().text();
    let denied: Vec<&str> =
        text.lines().filter(|line| line.starts_with("tollgate_checks_total{decision=\"deny\"")).collect();
    assert_eq!(denied.len(), 3, "{denied:#?}");
    assert!(denied.iter().all(|line| line.ends_with(" 1")), "{denied:#?}");
    assert!(!text.contains(&key.id), "a metric has the id of a key");
}

#[tokio::test]
async fn no_secret_is_ever_logged() {
    // As talkative as it can be.
    let loud = ("log: {level: info, decisions: denied}", "log: {level: debug, decisions: all}");
    let mut stack = Stack::start_with(Setup { tollgate_edits: vec![loud], ..Setup::default() }).await;
    let admin = stack.bootstrap();
    let (data, control) = (stack.data_key(), stack.control_key());
    let rotated = stack.rotate(&data, "1h");
    let mut canaries: Vec<String> = [&admin, &data, &control, &rotated].map(secret_of).into();
    // Credentials that are none of ours, wherever a client may put them.
    let made_up = "CANARY-6f1d0c5b2a";
    canaries.push(made_up.to_owned());
    let pepper = std::fs::read_to_string(stack.dir.path().join("pepper.1")).unwrap();
    canaries.push(pepper.trim().to_owned());

    let run = || Sent::new("POST", RUN);
    let cut = &data.text[..data.text.len() - 3];
    for request in [
        run().bearer(&data.text),
        run().bearer(&rotated.text),
        run().bearer(&control.text),
        run().bearer(cut),
        run().bearer(made_up),
        run().bearer(&format!("{} {}", data.text, made_up)),
        run().bearer(&data.text).header("x-api-key", &control.text),
        run().header("x-api-key", &data.text),
        run().header("x-api-key", made_up),
        run().header("authorization", &data.text),
        run().header("authorization", &format!("Basic {made_up}")),
        run().bearer(&data.text).header("origin", &format!("https://{made_up}")),
        run().bearer(&data.text).header("cookie", made_up),
        Sent::new("POST", &format!("{RUN}?api_key={}", data.text)).bearer(&data.text),
        Sent::new("GET", "/api/v1/auth/api-keys").bearer(&admin.text),
        Sent::new("POST", "/api/v1/auth/api-keys").bearer(&admin.text).body(format!("{{\"key\":\"{made_up}\"}}")),
    ] {
        stack.send(&request).await;
        stack.send_h2(&request).await;
    }
    stack.revoke(&data);
    assert_eq!(stack.send(&run().bearer(&data.text)).await.status, 401);
    // The log is complete once its writer has ended.
    stack.terminate_tollgate();
    assert_eq!(stack.tollgate_ended().await, Some(0));
    let log = std::fs::read_to_string(stack.dir.path().join("tollgate.log")).unwrap();
    assert!(log.lines().count() > 30 && log.contains(&data.id), "too quiet for a proof: {log}");
    for canary in &canaries {
        // A part of a secret is one as well.
        let part = &canary[..canary.len().min(16)];
        let line = log.lines().find(|line| line.contains(part));
        assert!(line.is_none(), "the log has a secret: {line:?}");
    }
}

/// What follows the public id in a key.
fn secret_of(key: &Key) -> String {
    let (_, secret) = key.text.split_once(&key.id).unwrap();
    let secret = secret.trim_start_matches('_').to_owned();
    assert!(secret.len() >= 20, "not a secret: {}", secret.len());
    secret
}
