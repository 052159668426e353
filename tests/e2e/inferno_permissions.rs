//! Inferno, F4: eleven permissions, each of which opens its routes and no other, for keys and for users alike.

use std::collections::BTreeSet;

use serde_json::json;

use super::cases::headers;
use super::client::Sent;
use super::deployment::Deployment;

/// Everything that `envoy/inferno/tollgate.yaml` has the inference server do, and the permission that it takes.
const TABLE: [(&str, &str, &str); 19] = [
    ("read_models", "GET", "/v1/models"),
    ("read_models", "GET", "/v1/models/llama-3-8b"),
    ("write_models", "POST", "/v1/models"),
    ("write_models", "PUT", "/v1/models/llama-3-8b"),
    ("delete_models", "DELETE", "/v1/models/llama-3-8b"),
    ("run_inference", "POST", "/v1/chat/completions"),
    ("run_inference", "POST", "/v1/completions"),
    ("use_streaming", "POST", "/v1/completions/stream"),
    ("manage_cache", "GET", "/v1/cache"),
    ("manage_cache", "DELETE", "/v1/cache"),
    ("manage_queue", "GET", "/v1/queue"),
    ("manage_queue", "POST", "/v1/queue/job-1"),
    ("manage_queue", "DELETE", "/v1/queue/job-1"),
    ("read_metrics", "GET", "/metrics"),
    ("write_config", "PUT", "/v1/config"),
    ("manage_users", "GET", "/v1/users"),
    ("view_audit_logs", "GET", "/v1/audit"),
    // Tollgate's own, which is no permission of Inferno's.
    ("manage_keys", "GET", "/api/v1/auth/api-keys"),
    ("manage_keys", "GET", "/api/v1/auth/api-keys?limit=1"),
];

/// What Inferno's list has.
const ELEVEN: [&str; 11] = [
    "read_models",
    "write_models",
    "delete_models",
    "run_inference",
    "manage_cache",
    "read_metrics",
    "write_config",
    "manage_users",
    "view_audit_logs",
    "use_streaming",
    "manage_queue",
];

/// The header that a credential is sent in.
type Presented = (&'static str, String);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f4_each_permission_opens_its_routes_and_no_other() {
    let inferno = Deployment::start().await;
    let guarded: BTreeSet<&str> = TABLE.iter().map(|(permission, ..)| *permission).collect();
    assert!(ELEVEN.iter().all(|permission| guarded.contains(permission)), "each permission has a route");

    let mut wrong = Vec::new();
    for held in ELEVEN {
        let token = inferno.token_of_new(held, "acme", &[held]).await;
        let asked = json!({"name": held, "permissions": [held], "expires_in_days": 1});
        let key = inferno.key(&inferno.root.text, &asked).await;
        let callers: [Presented; 2] = [("authorization", format!("Bearer {token}")), ("x-api-key", key.text)];
        for (header, credential) in &callers {
            for (needed, method, path) in TABLE {
                let reply = inferno.stack.send(&Sent::new(method, path).header(header, credential)).await;
                let seen = inferno.stack.take_seen();
                let permissions = seen.first().and_then(|seen| headers(seen).get("x-tollgate-permissions").cloned());
                let expected = if needed == held { (200, Some(held.to_owned())) } else { (403, None) };
                if (reply.status, permissions.clone()) != expected {
                    let found = format!("{} {permissions:?}", reply.status);
                    wrong.push(format!("{held} in {header}: {method} {path}: {found}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f4_all_of_them_open_everything_and_none_opens_nothing() {
    let inferno = Deployment::start().await;
    let administrator = inferno.token_of_new("ada", "*", &[&ELEVEN[..], &["manage_keys"]].concat()).await;
    for (_, method, path) in TABLE {
        let status = inferno.status(Sent::new(method, path).bearer(&administrator)).await;
        assert_eq!(status, 200, "{method} {path}");
        assert_eq!(inferno.status(Sent::new(method, path)).await, 401, "{method} {path}");
    }
    for (method, path) in [
        ("GET", "/"),
        ("GET", "/v1"),
        ("DELETE", "/v1/models"),
        ("POST", "/v1/models/llama-3-8b"),
        ("PUT", "/v1/models/llama-3-8b/files"),
        ("GET", "/v1/chat/completions"),
        ("POST", "/v1/completions/batch"),
        ("POST", "/metrics"),
        ("POST", "/api/v1/users"),
        ("GET", "/api/v1/audit"),
        ("POST", "/api/v1/auth/bootstrap"),
    ] {
        assert_eq!(inferno.status(Sent::new(method, path).bearer(&administrator)).await, 403, "{method} {path}");
    }
    // A change of permissions is in force with the next request of a token that is out already.
    inferno.change_user("ada", &json!({"permissions": ["read_metrics"]})).await;
    for (needed, method, path) in TABLE {
        let expected = if needed == "read_metrics" { 200 } else { 403 };
        assert_eq!(inferno.status(Sent::new(method, path).bearer(&administrator)).await, expected, "{method} {path}");
    }
}
