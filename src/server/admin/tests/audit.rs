//! The audit log over the API: what was done and what was refused, to whom, and who may read it.

use std::sync::atomic::Ordering;

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{Answer, Api, KEYS};
use crate::registry::Actor;
use crate::server::admin::Door;

const AUDIT: &str = "/api/v1/audit";

fn acts(log: &Answer) -> Vec<(&str, &str)> {
    assert_eq!(log.status, StatusCode::OK, "{}", log.body);
    fn text<'e>(entry: &'e Value, field: &str) -> &'e str {
        entry[field].as_str().unwrap()
    }
    log.body["entries"].as_array().unwrap().iter().map(|entry| (text(entry, "act"), text(entry, "outcome"))).collect()
}

#[tokio::test]
async fn changes_and_refusals_are_written_down_newest_first() {
    let api = Api::new();
    let (few, few_id) = api.mint("admin", "acme", &["manage_keys"]).await;
    let http = api.at(Door::Http);
    http.call("DELETE", "/api/v1/users/bob", &few, Value::Null).await.is(403, "PERMISSION_DENIED");
    let log = api.operate("GET", AUDIT, Value::Null).await;
    assert_eq!(acts(&log), [("user.delete", "refused"), ("key.create", "done")]);
    let refused = &log.body["entries"][0];
    assert_eq!(
        (&refused["actor"], &refused["target"], &refused["project"]),
        (&json!(format!("key:{few_id}")), &json!("user:bob"), &json!("acme"))
    );
    assert!(refused["reason"].as_str().unwrap().contains("manage_users"), "{refused}");
    assert!(!refused["request_id"].as_str().unwrap().is_empty());

    // What is not known to be anybody's, or is refused for another reason than a right, is no row.
    http.call("DELETE", "/api/v1/users/bob", "junk", Value::Null).await.is(401, "AUTHENTICATION_FAILED");
    http.call("GET", &format!("{KEYS}?limit=0"), &few, Value::Null).await.is(400, "VALIDATION_ERROR");
    assert_eq!(acts(&api.operate("GET", AUDIT, Value::Null).await).len(), 2);
}

#[tokio::test]
async fn a_target_that_is_no_name_is_not_repeated() {
    let api = Api::new();
    let (few, _) = api.mint("admin", "acme", &["manage_keys"]).await;
    let http = api.at(Door::Http);
    let at = format!("/api/v1/users/{}", "x".repeat(200));
    http.call("GET", &at, &few, Value::Null).await.is(403, "PERMISSION_DENIED");
    http.call("GET", "/api/v1/users", &few, Value::Null).await.is(403, "PERMISSION_DENIED");
    let log = api.operate("GET", AUDIT, Value::Null).await;
    let targets: Vec<&Value> = log.body["entries"].as_array().unwrap().iter().map(|entry| &entry["target"]).collect();
    assert_eq!(targets[..2], [&json!("project:acme"), &json!("user:?")]);
}

#[tokio::test]
async fn the_log_is_filtered_and_comes_in_pages() {
    let api = Api::new();
    let (_, acme_id) = api.mint("data", "acme", &["run_inference"]).await;
    api.mint("data", "beta", &["run_inference"]).await;
    api.operate("DELETE", &format!("{KEYS}/{acme_id}"), Value::Null).await;
    for (query, expected) in [
        ("", 3),
        ("?project=acme", 2),
        ("?act=key.create", 2),
        ("?actor=operator", 3),
        ("?actor=nobody", 0),
        (&format!("?target=key:{acme_id}"), 2),
        ("?since=2026-11-18T11:06:40Z", 3),
        ("?until=2026-11-18T11:06:40Z", 0),
        ("?since=0138-05-31T08:33:49Z", 3),
    ] {
        assert_eq!(acts(&api.operate("GET", &format!("{AUDIT}{query}"), Value::Null).await).len(), expected, "{query}");
    }
    let first = api.operate("GET", &format!("{AUDIT}?limit=2"), Value::Null).await;
    assert_eq!(acts(&first), [("key.revoke", "done"), ("key.create", "done")]);
    let next = first.body["next"].as_u64().unwrap();
    let rest = api.operate("GET", &format!("{AUDIT}?limit=2&before={next}"), Value::Null).await;
    assert_eq!((acts(&rest).len(), &rest.body["next"]), (1, &Value::Null));
    for bad in ["?since=yesterday", "?before=0", "?before=x", "?limit=1001", "?sort=asc"] {
        api.operate("GET", &format!("{AUDIT}{bad}"), Value::Null).await.is(400, "VALIDATION_ERROR");
    }
}

#[tokio::test]
async fn the_log_needs_its_permission_and_ends_at_the_project() {
    let api = Api::new();
    let (acme, _) = api.mint("admin", "acme", &["view_audit_logs"]).await;
    let (keys_only, _) = api.mint("admin", "*", &["manage_keys"]).await;
    api.mint("data", "beta", &["run_inference"]).await;
    let http = api.at(Door::Http);
    let log = http.call("GET", AUDIT, &acme, Value::Null).await;
    assert!(log.body["entries"].as_array().unwrap().iter().all(|entry| entry["project"] == "acme"), "{}", log.body);
    http.call("GET", &format!("{AUDIT}?project=beta"), &acme, Value::Null).await.is(403, "PERMISSION_DENIED");
    http.call("GET", AUDIT, &keys_only, Value::Null).await.is(403, "PERMISSION_DENIED");
    api.at(Door::ThroughEnvoy).call("GET", AUDIT, &acme, Value::Null).await.is(404, "NOT_FOUND");
    for method in ["POST", "PUT", "PATCH"] {
        api.operate(method, AUDIT, Value::Null).await.is(405, "VALIDATION_ERROR");
    }
}

#[tokio::test]
async fn whoever_frees_a_name_is_told_how_much_of_the_log_it_stands_in() {
    let api = Api::new();
    let user = json!({"name": "ada", "password": "correct horse battery staple", "project": "acme",
        "permissions": ["manage_keys"]});
    assert_eq!(api.operate("POST", "/api/v1/users", user).await.status, StatusCode::CREATED);
    let ada = Actor { subject: "user:acme/ada".to_owned(), ..Actor::operator() };
    let refuse = async |times: usize| {
        for _ in 0..times {
            // Each in another minute: no more are written down in one.
            api.clock.fetch_add(60_000, Ordering::Relaxed);
            api.state.registry.refused(&ada, "key.create", "project:beta", None, "not yours").await;
        }
    };
    let free = async || {
        api.operate("DELETE", "/api/v1/users/acme:ada", Value::Null).await;
        let freed = api.operate("POST", "/api/v1/users/acme:ada/free", Value::Null).await;
        assert_eq!(freed.status, StatusCode::OK, "{}", freed.body);
        (freed.body["audit_rows"].clone(), freed.body["more_audit_rows"].clone())
    };
    refuse(3).await;
    assert_eq!(free().await, (json!(3), json!(false)));
    refuse(1_000).await;
    assert_eq!(free().await, (json!(1_000), json!(true)));
}

#[tokio::test]
async fn the_operator_alone_removes_old_rows() {
    let api = Api::new();
    let (everywhere, _) = api.mint("admin", "*", &["view_audit_logs", "manage_keys"]).await;
    api.mint("data", "beta", &["run_inference"]).await;
    let trim = format!("{AUDIT}?before=2100-01-01T00:00:00Z");
    api.at(Door::Http).call("DELETE", &trim, &everywhere, Value::Null).await.is(405, "VALIDATION_ERROR");
    api.operate("DELETE", AUDIT, Value::Null).await.is(400, "VALIDATION_ERROR");
    let rows = acts(&api.operate("GET", AUDIT, Value::Null).await).len();
    let trimmed = api.operate("DELETE", &trim, Value::Null).await;
    assert_eq!((trimmed.status, &trimmed.body), (StatusCode::OK, &json!({"removed": rows - 1, "more": false})));
    let left = api.operate("GET", AUDIT, Value::Null).await;
    assert_eq!(acts(&left), [("audit.trim", "done"), ("key.create", "done")], "the newest row stays, and then its own");
}
