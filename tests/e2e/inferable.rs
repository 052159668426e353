//! Inferable, I1 and I2: cluster keys with permissions of their own, for trusted back ends and not for browsers.

use super::client::Sent;
use super::harness::{Key, Setup, Stack};

async fn status(stack: &Stack, request: Sent, key: &Key) -> u16 {
    stack.send(&request.bearer(&key.text)).await.status
}

fn endpoint(project: &str) -> Sent {
    Sent::new("POST", &format!("/endpoint/{project}/chat/run"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i1_a_key_belongs_to_one_cluster_and_has_its_own_permissions() {
    let stack = Stack::start().await;
    let caller = stack.create_key("data", "cluster-1", "*", "run_inference", &[]);
    let reader = stack.create_key("data", "cluster-1", "*", "read_models", &[]);
    assert_eq!(status(&stack, endpoint("cluster-1"), &caller).await, 200);
    assert_eq!(status(&stack, endpoint("cluster-2"), &caller).await, 403);
    assert_eq!(status(&stack, endpoint("cluster-1"), &reader).await, 403);
    assert_eq!(status(&stack, Sent::new("GET", "/v1/models"), &reader).await, 200);
    // What a key may do is fixed when it is made: a permission that nobody declared cannot be given.
    let arguments = ["keys", "create", "--name", "x", "--plane", "data", "--project", "cluster-1", "--workloads", "*"];
    let output = stack.tollgate(&[&arguments[..], &["--permissions", "run_inferense"]].concat());
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("run_inferense"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i2_keys_are_not_for_browsers_unless_the_route_says_so() {
    const ALLOW: (&str, &str) =
        ("{name: models, match: [GET /v1/models],", "{name: models, match: [GET /v1/models], origin: allow,");
    let stack = Stack::start_with(Setup { tollgate_edits: vec![ALLOW], ..Setup::default() }).await;
    let key = stack.data_key();
    for origin in ["https://app.example", "null", ""] {
        let from_browser = |request: Sent| request.header("Origin", origin);
        assert_eq!(status(&stack, from_browser(endpoint("acme")), &key).await, 403, "{origin}");
        assert_eq!(status(&stack, from_browser(Sent::new("GET", "/v1/models")), &key).await, 200, "{origin}");
    }
    assert_eq!(stack.take_seen().len(), 3);
    assert_eq!(status(&stack, endpoint("acme"), &key).await, 200, "a back end sends no Origin");
    stack.revoke(&key);
    assert_eq!(status(&stack, endpoint("acme"), &key).await, 401);
}
