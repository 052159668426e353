//! Keys over the API, from the first to the last.

use axum::http::StatusCode;
use serde_json::{Value, json};

use super::{Answer, Api, KEYS};
use crate::config::KeyDefaults;
use crate::server::admin::Door;

#[tokio::test]
async fn a_key_from_its_making_to_its_end() {
    let api = Api::new();
    let body = json!({"name": "chat", "plane": "data", "project": "acme", "workloads": ["w-2", "w-1"],
        "permissions": ["run_inference"], "expires_in_days": 30});
    let made = api.operate("POST", KEYS, body).await;
    let (key, id) = made.key_and_id();
    assert!(key.starts_with(&format!("ik_live_{id}_")));
    assert_eq!(made.headers["location"], format!("{KEYS}/{id}"));
    assert_eq!(made.body["workloads"], json!(["w-1", "w-2"]));
    assert_eq!(made.body["created_at"], "2026-11-18T11:06:40Z");
    assert_eq!(made.body["expires_at"], "2026-12-18T11:06:40Z");
    assert_eq!(made.body["created_by"], "operator");

    let shown = api.operate("GET", &format!("{KEYS}/{id}"), Value::Null).await;
    assert_eq!((shown.status.as_u16(), shown.text("state")), (200, "active".to_owned()));
    assert_eq!((&shown.body["last_used_at"], &shown.body["version"]), (&Value::Null, &json!(1)));
    assert!(shown.body.get("key").is_none());

    for _ in 0..2 {
        let revoked = api.operate("DELETE", &format!("{KEYS}/{id}"), Value::Null).await;
        assert_eq!((revoked.status.as_u16(), revoked.text("state")), (200, "revoked".to_owned()));
        assert_eq!(revoked.text("revoked_at"), "2026-11-18T11:06:40Z");
    }
    let list = api.operate("GET", KEYS, Value::Null).await;
    assert_eq!(list.body["keys"][0]["state"], "revoked");
    assert!(!list.body.to_string().contains(&key[20..]));
}

#[tokio::test]
async fn a_rotation_replaces_and_lets_the_old_key_live_for_its_grace() {
    let api = Api::new();
    let (_, id) = api.mint("data", "acme", &["run_inference"]).await;
    let rotate = format!("{KEYS}/{id}/rotate");
    api.operate("POST", &rotate, json!({"grace_seconds": u64::MAX})).await.is(400, "VALIDATION_ERROR");
    let new = api.operate("POST", &rotate, json!({"grace_seconds": 3600})).await;
    let (_, new_id) = new.key_and_id();
    assert_eq!(new.text("replaces"), id);
    let old = api.operate("GET", &format!("{KEYS}/{id}"), Value::Null).await;
    assert_eq!((old.text("state"), old.text("replaced_by")), ("retiring".to_owned(), new_id.clone()));
    assert_eq!(old.text("retires_at"), "2026-11-18T12:06:40Z");
    api.operate("POST", &rotate, Value::Null).await.is(409, "CONFLICT");
    // Without a word of grace, the old key ends at once.
    api.operate("POST", &format!("{KEYS}/{new_id}/rotate"), Value::Null).await.key_and_id();
    let old = api.operate("GET", &format!("{KEYS}/{new_id}"), Value::Null).await;
    assert_eq!(old.text("state"), "revoked");
}

#[tokio::test]
async fn what_a_request_leaves_out_comes_from_the_defaults_or_is_named() {
    let api = Api::new();
    let asked = json!({"name": "n", "permissions": ["run_inference"], "expires_in_days": 1});
    let full = json!({"name": "n", "permissions": ["run_inference"], "plane": "data", "project": "acme",
        "workloads": ["*"]});
    for field in ["name", "permissions", "plane", "project", "workloads"] {
        let mut without = full.clone();
        without.as_object_mut().unwrap().remove(field);
        let refused = api.operate("POST", KEYS, without).await;
        refused.is(400, "VALIDATION_ERROR");
        assert_eq!(refused.body["error"]["details"]["field"], field);
    }
    let api = Api::with_defaults(KeyDefaults {
        plane: Some("data".to_owned()),
        project: Some("acme".to_owned()),
        workloads: Some(vec!["*".to_owned()]),
    });
    let made = api.operate("POST", KEYS, asked.clone()).await;
    assert_eq!((made.text("plane"), made.text("project")), ("data".to_owned(), "acme".to_owned()));
    // Whoever is bound to a project means that one.
    let (beta, _) = api.mint("admin", "beta", &["manage_keys", "run_inference"]).await;
    let made = api.at(Door::Http).call("POST", KEYS, &beta, asked).await;
    assert_eq!((made.text("project"), made.text("created_by")), ("beta".to_owned(), format!("key:{}", &beta[7..19])));
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_its_field() {
    let api = Api::new();
    let good = json!({"name": "n", "permissions": ["run_inference"], "plane": "data", "project": "acme",
        "workloads": ["*"]});
    for (field, value) in [
        ("name", json!("")),
        ("plane", json!("lunar")),
        ("project", json!("*")),
        ("project", json!("a/b")),
        ("workloads", json!([])),
        ("workloads", json!(["*", "a"])),
        ("permissions", json!([])),
        ("permissions", json!(["fly"])),
        ("permissions", json!(["manage_keys"])),
        ("expires_in_days", json!(0)),
        ("expires_in_seconds", json!(u64::MAX)),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        let refused = api.operate("POST", KEYS, bad).await;
        refused.is(400, "VALIDATION_ERROR");
        assert_eq!(refused.body["error"]["details"]["field"], field);
    }
    for (field, value) in [("nmae", json!("n")), ("expires_in_days", json!("ik_live_oops")), ("workloads", json!("*"))]
    {
        let mut bad = good.clone();
        bad[field] = value;
        let refused = api.operate("POST", KEYS, bad).await;
        refused.is(400, "VALIDATION_ERROR");
        assert!(!refused.body.to_string().contains("ik_live_oops"));
    }
    for path in ["?limit=0", "?limit=1001", "?limit=x", "?after=x", "?colour=red"] {
        api.operate("GET", &format!("{KEYS}{path}"), Value::Null).await.is(400, "VALIDATION_ERROR");
    }
    for path in ["/short", "/abcdefghijkl", "/abcdef%2Fhijk", "/%ff"] {
        let answer = api.operate("GET", &format!("{KEYS}{path}"), Value::Null).await;
        assert!(matches!(answer.status.as_u16(), 400 | 404), "{path}: {}", answer.body);
    }
    api.operate("DELETE", &format!("{KEYS}/abcdefghijkl"), Value::Null).await.is(404, "NOT_FOUND");
}

#[tokio::test]
async fn lists_come_in_pages_and_by_project_and_plane() {
    let api = Api::new();
    for (plane, project) in [("data", "acme"), ("data", "acme"), ("data", "beta"), ("control", "acme")] {
        let permission = if plane == "data" { "run_inference" } else { "read_workloads" };
        api.mint(plane, project, &[permission]).await;
    }
    let count = |answer: &Answer| answer.body["keys"].as_array().unwrap().len();
    for (query, expected) in
        [("", 4), ("?project=acme", 3), ("?plane=data", 3), ("?project=acme&plane=data", 2), ("?project=none", 0)]
    {
        let list = api.operate("GET", &format!("{KEYS}{query}"), Value::Null).await;
        assert_eq!((count(&list), &list.body["next"]), (expected, &Value::Null), "{query}");
    }
    let first = api.operate("GET", &format!("{KEYS}?limit=3"), Value::Null).await;
    let next = first.text("next");
    assert_eq!((count(&first), first.body["keys"][2]["id"].as_str()), (3, Some(&*next)));
    let rest = api.operate("GET", &format!("{KEYS}?limit=3&after={next}"), Value::Null).await;
    assert_eq!((count(&rest), &rest.body["next"]), (1, &Value::Null));
}

#[tokio::test]
async fn the_first_key_is_made_once_and_by_the_operator_alone() {
    let api = Api::new();
    let (key, id) = api.operate("POST", "/api/v1/auth/bootstrap", Value::Null).await.key_and_id();
    api.operate("POST", "/api/v1/auth/bootstrap", Value::Null).await.is(409, "CONFLICT");
    for door in [Door::Http, Door::ThroughEnvoy] {
        api.at(door).call("POST", "/api/v1/auth/bootstrap", &key, Value::Null).await.is(404, "NOT_FOUND");
    }
    assert_eq!(api.at(Door::Http).call("GET", KEYS, &key, Value::Null).await.status, StatusCode::OK);
    api.operate("DELETE", &format!("{KEYS}/{id}"), Value::Null).await;
    api.operate("POST", "/api/v1/auth/bootstrap", Value::Null).await.key_and_id();
}
