//! What is answered to whoever makes too much, and to whom nothing more is given.

use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::{Answer, Api, KEYS};
use crate::registry::{Limits, ProjectQuotas, Quotas, Rate, Rates};
use crate::server::admin::Door;

const RESOURCES: &str = "/api/v1/resources/workload";

fn key(project: &str) -> Value {
    json!({"name": "n", "plane": "data", "project": project, "workloads": ["*"], "permissions": ["run_inference"]})
}

fn rates(actor: u32, project: u32) -> Limits {
    let rate = |burst| Rate { burst, per_second: 1 };
    Limits { rates: Rates { actor: rate(actor), project: rate(project) }, ..Limits::default() }
}

#[track_caller]
fn assert_says(answer: &Answer, setting: &str) {
    let message = answer.body["error"]["message"].as_str().unwrap();
    assert!(message.contains(setting), "{message}");
}

#[tokio::test]
async fn whoever_makes_too_much_is_told_when_to_go_on() {
    for door in [Door::Http, Door::ThroughEnvoy] {
        let api = Api::new();
        let (acme, _) = api.mint("admin", "acme", &["manage_keys", "run_inference"]).await;
        let (other, _) = api.mint("admin", "acme", &["manage_keys", "run_inference"]).await;
        let door = api.at(door);
        let create = async |with: &str| door.call("POST", KEYS, with, key("acme")).await;
        api.state.registry.limit(rates(3, 5));
        let mut ids = Vec::new();
        for _ in 0..3 {
            ids.push(create(&acme).await.key_and_id().1);
        }
        for with in [&acme, &other] {
            while create(with).await.status.as_u16() == 201 {}
        }
        for (with, setting) in [(&acme, "rates.actor"), (&other, "rates.project")] {
            let refused = create(with).await;
            refused.is(429, "RATE_LIMITED");
            assert_eq!(refused.headers["retry-after"], "1");
            assert_says(&refused, setting);
        }
        let at = format!("{KEYS}/{}", ids[0]);
        let renamed = door.call_with("PATCH", &at, &acme, &[("if-match", "*")], json!({"name": "x"})).await;
        renamed.is(429, "RATE_LIMITED");
        assert_eq!(door.call("GET", &at, &acme, Value::Null).await.text("name"), "n");
        // Neither is whoever ends something held back, nor the operator.
        assert_eq!(door.call("DELETE", &at, &acme, Value::Null).await.status.as_u16(), 200);
        api.operate("POST", KEYS, key("acme")).await.key_and_id();
        api.clock.fetch_add(1_000, Ordering::Relaxed);
        create(&acme).await.key_and_id();
        create(&acme).await.is(429, "RATE_LIMITED");
    }
}

#[tokio::test]
async fn what_is_beyond_a_quota_is_refused_and_says_which_one() {
    let api = Api::new();
    let (acme, _) = api.mint("admin", "acme", &["manage_keys", "manage_users", "run_inference"]).await;
    let each = ProjectQuotas { keys: 3, users: 1, resources: 2 };
    api.state.registry.limit(Limits { quotas: Quotas { each, ..Quotas::default() }, ..Limits::default() });
    let http = api.at(Door::Http);
    for _ in 0..2 {
        let (_, id) = http.call("POST", KEYS, &acme, key("acme")).await.key_and_id();
        assert_eq!(http.call("DELETE", &format!("{KEYS}/{id}"), &acme, Value::Null).await.status.as_u16(), 200);
    }
    let refused = http.call("POST", KEYS, &acme, key("acme")).await;
    refused.is(403, "PERMISSION_DENIED");
    assert_says(&refused, "quotas.projects.acme.keys");
    let row = api.operate("GET", "/api/v1/audit?limit=1", Value::Null).await.body["entries"][0].clone();
    assert_eq!(
        (&row["act"], &row["outcome"], &row["project"]),
        (&json!("key.create"), &json!("refused"), &json!("acme"))
    );
    api.operate("POST", KEYS, key("acme")).await.is(403, "PERMISSION_DENIED");
    api.operate("POST", KEYS, key("beta")).await.key_and_id();

    let user = |name: &str| {
        json!({"name": name, "password": "correct horse battery staple", "project": "acme",
        "permissions": ["run_inference"]})
    };
    let make = async |name: &str| http.call("POST", "/api/v1/users", &acme, user(name)).await;
    assert_eq!(make("ann").await.status.as_u16(), 201);
    let refused = make("bob").await;
    refused.is(403, "PERMISSION_DENIED");
    assert_says(&refused, "quotas.projects.acme.users");

    let put = async |id: &str| api.operate("PUT", &format!("{RESOURCES}/{id}"), json!({"project": "acme"})).await;
    for id in ["w-1", "w-2", "w-1"] {
        assert_eq!(put(id).await.status.as_u16(), 200);
    }
    let refused = put("w-3").await;
    refused.is(403, "PERMISSION_DENIED");
    assert_says(&refused, "quotas.projects.acme.resources");
    api.operate("GET", &format!("{RESOURCES}/w-3"), Value::Null).await.is(404, "NOT_FOUND");
}
