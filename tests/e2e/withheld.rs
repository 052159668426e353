//! An Envoy that shows the check a part of the request headers alone, as `headersToExtAuth` of Envoy Gateway makes it do: what
//! Tollgate cannot see it cannot remove, so nothing passes.

use super::client::Sent;
use super::harness::{Edit, Setup, Stack};
use super::operate::metric;

const RAW: &str = "encode_raw_headers: true";
const RAW_AND_SOME: Edit =
    (RAW, "encode_raw_headers: true\n                      allowed_headers: {patterns: [{exact: authorization}]}");
const SOME: Edit = (RAW, "allowed_headers: {patterns: [{exact: authorization}, {prefix: x-}, {exact: \":path\"}]}");
const JOINED: Edit = (RAW, "encode_raw_headers: false");
const ACCEPT: Edit = ("identity: {", "envoy: {withheld_headers: accept}\nidentity: {");

fn spoofed(key: &str) -> [Sent; 2] {
    let sent = |target| Sent::new("GET", target).header("x-tollgate-other", "evil");
    [sent("/v1/models").bearer(key), sent("/healthz")]
}

#[tokio::test]
async fn nothing_passes_where_envoy_withholds_headers_and_the_log_says_why() {
    for edit in [RAW_AND_SOME, SOME] {
        let stack = Stack::start_with(Setup { envoy_edits: vec![edit], ..Setup::default() }).await;
        let key = stack.data_key().text;
        for _ in 0..20 {
            for sent in spoofed(&key) {
                let reply = stack.send(&sent).await;
                assert!(reply.status == 503 && reply.text().contains("withholds"), "{edit:?}: {}", reply.text());
            }
        }
        assert_eq!(stack.take_seen().len(), 0, "{edit:?}");
        let log = std::fs::read_to_string(stack.dir.path().join("tollgate.log")).unwrap();
        let told = log.lines().filter(|line| line.contains("`headersToExtAuth`")).count();
        assert!((1..=3).contains(&told), "{told} lines say what to remove: {log}");
        let series = "tollgate_checks_total{decision=\"deny\",reason=\"headers_withheld\",route=\"models\"}";
        assert_eq!(metric(&stack, series).await, 20);
    }
}

#[tokio::test]
async fn who_has_understood_it_may_accept_it() {
    let setup = Setup { envoy_edits: vec![RAW_AND_SOME], tollgate_edits: vec![ACCEPT], ..Setup::default() };
    let stack = Stack::start_with(setup).await;
    for sent in spoofed(&stack.data_key().text) {
        assert_eq!(stack.send(&sent).await.status, 200);
    }
}

#[tokio::test]
async fn headers_that_come_joined_are_whole() {
    let stack = Stack::start_with(Setup { envoy_edits: vec![JOINED], ..Setup::default() }).await;
    for sent in spoofed(&stack.data_key().text) {
        assert_eq!(stack.send(&sent).await.status, 200);
        assert!(!stack.take_seen()[0].headers.iter().any(|(_, value)| value == "evil"));
    }
}
