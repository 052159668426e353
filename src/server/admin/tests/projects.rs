//! Projects over the API: suspended, let go on and deleted, with everybody in them.

use serde_json::{Value, json};

use super::{Answer, Api, KEYS};
use crate::server::admin::Door;

const PROJECTS: &str = "/api/v1/projects";
const ACME: &str = "/api/v1/projects/acme";

fn state(answer: &Answer) -> (u16, &str, &str) {
    let etag = answer.headers.get("etag").map_or("", |etag| etag.to_str().unwrap());
    (answer.status.as_u16(), answer.body["state"].as_str().unwrap_or_default(), etag)
}

#[tokio::test]
async fn a_project_from_active_to_deleted() {
    let api = Api::new();
    let turn = async |if_match: &'static str, state: &str| {
        api.operate_with("PATCH", ACME, ("if-match", if_match), json!({"state": state})).await
    };
    let unsaid = api.operate("GET", ACME, Value::Null).await;
    assert_eq!(state(&unsaid), (200, "active", "\"0\""));
    assert_eq!((&unsaid.body["changed_at"], &unsaid.body["changed_by"]), (&Value::Null, &Value::Null));
    api.operate("PATCH", ACME, json!({"state": "suspended"})).await.is(428, "PRECONDITION_REQUIRED");
    for stale in ["\"1\"", "\"abc\"", "W/\"0\""] {
        turn(stale, "suspended").await.is(412, "PRECONDITION_FAILED");
    }
    let suspended = turn("\"0\"", "suspended").await;
    assert_eq!(state(&suspended), (200, "suspended", "\"1\""));
    assert_eq!(
        (suspended.text("changed_by"), suspended.text("changed_at")),
        ("operator".into(), "2026-11-18T11:06:40Z".into())
    );
    assert_eq!(suspended.body.get("fleet"), None);
    turn("\"0\"", "active").await.is(412, "PRECONDITION_FAILED");
    assert_eq!(state(&turn("*", "active").await), (200, "active", "\"2\""));
    for bad in ["deleted", "gone", ""] {
        turn("*", bad).await.is(400, "VALIDATION_ERROR");
    }
    api.operate_with("DELETE", ACME, ("if-match", "\"1\""), Value::Null).await.is(412, "PRECONDITION_FAILED");
    for version in ["\"3\"", "\"4\""] {
        let deleted = api.operate("DELETE", ACME, Value::Null).await;
        assert_eq!(state(&deleted), (200, "deleted", version));
    }
    turn("*", "active").await.is(409, "CONFLICT");
    turn("*", "suspended").await.is(409, "CONFLICT");
    assert_eq!(state(&api.operate("GET", ACME, Value::Null).await), (200, "deleted", "\"4\""));
    let key = json!({"name": "n", "plane": "data", "project": "acme", "workloads": ["*"],
        "permissions": ["run_inference"]});
    let refused = api.operate("POST", KEYS, key).await;
    refused.is(409, "CONFLICT");
    assert!(refused.body["error"]["message"].as_str().unwrap().contains("acme is deleted"), "{}", refused.body);
    for odd in ["*", "a%20b", "-a"] {
        api.operate("GET", &format!("{PROJECTS}/{odd}"), Value::Null).await.is(404, "NOT_FOUND");
    }
}

#[tokio::test]
async fn projects_come_in_pages() {
    let api = Api::new();
    let list = async |query: &str| api.operate("GET", &format!("{PROJECTS}{query}"), Value::Null).await;
    let names = |list: &Answer| {
        let projects = list.body["projects"].as_array().unwrap().iter();
        projects.map(|project| project["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(list("").await.body, json!({"projects": [], "next": null}));
    for name in ["b", "a", "c"] {
        let at = format!("{PROJECTS}/{name}");
        api.operate_with("PATCH", &at, ("if-match", "*"), json!({"state": "suspended"})).await;
    }
    let first = list("?limit=2").await;
    assert_eq!((names(&first), first.text("next")), (vec!["a".to_owned(), "b".to_owned()], "b".to_owned()));
    let rest = list("?limit=2&after=b").await;
    assert_eq!((names(&rest), &rest.body["next"]), (vec!["c".to_owned()], &Value::Null));
    for bad in ["?after=*", "?limit=0", "?colour=red", "?wait=fleet"] {
        list(bad).await.is(400, "VALIDATION_ERROR");
    }
}

#[tokio::test]
async fn whoever_is_in_a_suspended_project_is_refused_at_once() {
    let api = Api::new();
    let (acme, _) = api.mint("admin", "acme", &["manage_keys", "run_inference"]).await;
    let (root, _) = api.mint("admin", "*", &["manage_keys", "run_inference"]).await;
    let user = json!({"name": "ann", "password": "correct horse battery staple", "project": "acme",
        "permissions": ["manage_keys"]});
    api.operate("POST", "/api/v1/users", user).await;
    let login = json!({"username": "ann", "password": "correct horse battery staple"});
    let login = api.operate("POST", "/api/v1/auth/login", login).await;
    let session = login.text("token");
    let http = api.at(Door::Http);
    let statuses = async || {
        let mut statuses = Vec::new();
        for credential in [&acme, &session, &root] {
            statuses.push(http.call("GET", KEYS, credential, Value::Null).await.status.as_u16());
        }
        statuses
    };
    let turn = async |key: &str, state: &str| {
        http.call_with("PATCH", ACME, key, &[("if-match", "*")], json!({"state": state})).await
    };
    assert_eq!(statuses().await, [200, 200, 200]);
    // An administrator of the project may, and is the first to be refused.
    assert_eq!(turn(&acme, "suspended").await.status.as_u16(), 200);
    assert_eq!(statuses().await, [401, 401, 200]);
    turn(&acme, "active").await.is(401, "AUTHENTICATION_FAILED");
    turn(&session, "active").await.is(401, "AUTHENTICATION_FAILED");
    assert_eq!(turn(&root, "active").await.status.as_u16(), 200);
    assert_eq!(statuses().await, [200, 200, 200]);
    http.call("DELETE", ACME, &acme, Value::Null).await.is(403, "PERMISSION_DENIED");
    assert_eq!(http.call("DELETE", ACME, &root, Value::Null).await.status.as_u16(), 200);
    assert_eq!(statuses().await, [401, 401, 200]);
}

#[tokio::test]
async fn a_project_beyond_the_reach_is_not_there() {
    let api = Api::new();
    let (acme, id) = api.mint("admin", "acme", &["manage_keys"]).await;
    let http = api.at(Door::Http);
    let beta = format!("{PROJECTS}/beta");
    api.operate_with("PATCH", &beta, ("if-match", "*"), json!({"state": "suspended"})).await;
    http.call("GET", &beta, &acme, Value::Null).await.is(404, "NOT_FOUND");
    for state in ["active", "suspended"] {
        let foreign = http.call_with("PATCH", &beta, &acme, &[("if-match", "*")], json!({"state": state})).await;
        foreign.is(404, "NOT_FOUND");
    }
    http.call("DELETE", &beta, &acme, Value::Null).await.is(403, "PERMISSION_DENIED");
    let own = http.call("GET", PROJECTS, &acme, Value::Null).await.body["projects"].clone();
    let names: Vec<_> = own.as_array().unwrap().iter().map(|project| project["name"].clone()).collect();
    assert_eq!(names, ["acme"], "its own, which came with the key");
    assert_eq!(api.operate("GET", &beta, Value::Null).await.text("state"), "suspended");
    api.at(Door::ThroughEnvoy).call("GET", ACME, &acme, Value::Null).await.is(404, "NOT_FOUND");
    let log = api.operate("GET", &format!("/api/v1/audit?actor=key:{id}"), Value::Null).await;
    let acts: Vec<_> = log.body["entries"].as_array().unwrap().iter().map(|row| row["act"].clone()).collect();
    assert_eq!(acts, ["project.delete", "project.suspend", "project.resume", "project.show"]);
}
