//! Users over the API: they come and go, and their passwords never do.

use serde_json::{Value, json};

use super::{Answer, Api};
use crate::server::admin::Door;

const USERS: &str = "/api/v1/users";
const PASSWORD: &str = "correct horse battery staple";

fn user(name: &str, project: &str, permissions: &[&str]) -> Value {
    json!({"name": name, "password": PASSWORD, "project": project, "permissions": permissions})
}

fn names(list: &Answer) -> Vec<&str> {
    list.body["users"].as_array().unwrap().iter().map(|user| user["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_user_from_the_making_to_the_end() {
    let api = Api::new();
    let at = format!("{USERS}/acme:alice@example.com");
    let made = api.operate("POST", USERS, user("alice@example.com", "acme", &["run_inference"])).await;
    assert_eq!(made.status.as_u16(), 201, "{}", made.body);
    assert_eq!((made.headers["location"].to_str().unwrap(), &made.headers["etag"]), (&*at, &"\"1\"".parse().unwrap()));
    assert_eq!((made.text("project"), &made.body["disabled"]), ("acme".to_owned(), &json!(false)));
    api.operate("POST", USERS, user("alice@example.com", "acme", &["run_inference"])).await.is(409, "CONFLICT");

    let shown = api.operate("GET", &at, Value::Null).await;
    assert_eq!((&shown.body, &shown.headers["etag"]), (&made.body, &made.headers["etag"]));
    let changed = api.operate_with("PATCH", &at, ("if-match", "\"1\""), json!({"disabled": true})).await;
    assert_eq!((changed.status.as_u16(), &changed.body["disabled"]), (200, &json!(true)), "{}", changed.body);
    assert_eq!(changed.body["permissions"], json!(["run_inference"]));
    api.operate_with("PATCH", &at, ("if-match", "\"1\""), json!({"disabled": false}))
        .await
        .is(412, "PRECONDITION_FAILED");
    let enabled = api.operate_with("PATCH", &at, ("if-match", "*"), json!({"disabled": false})).await;
    assert_eq!(enabled.body["disabled"], json!(false));
    let set = api.operate("PUT", &format!("{at}/password"), json!({"password": "another long password"})).await;
    assert_eq!(set.status.as_u16(), 200, "{}", set.body);

    let deleted = api.operate("DELETE", &at, Value::Null).await;
    assert_eq!(deleted.status.as_u16(), 200, "{}", deleted.body);
    for method in ["GET", "DELETE"] {
        for at in [&*at, "/api/v1/users/alice@example.com", "/api/v1/users/acme:alice:x"] {
            api.operate(method, at, Value::Null).await.is(404, "NOT_FOUND");
        }
    }
    for answer in [made, shown, changed, enabled, set, deleted] {
        let text = answer.body.to_string();
        assert!(!text.contains(PASSWORD) && !text.contains("argon2") && !text.contains("another"), "{text}");
    }
}

#[tokio::test]
async fn what_does_not_fit_is_refused_and_a_password_is_not_echoed() {
    let api = Api::new();
    for (field, value) in [
        ("name", json!("a b")),
        ("name", json!("@a")),
        ("password", json!("short")),
        ("password", json!("ä".repeat(11))),
        ("password", json!("x".repeat(257))),
        ("project", json!("a/b")),
        ("permissions", json!(["fly"])),
    ] {
        let mut bad = user("bob", "acme", &["run_inference"]);
        bad[field] = value;
        let refused = api.operate("POST", USERS, bad).await;
        refused.is(400, "VALIDATION_ERROR");
        assert_eq!(refused.body["error"]["details"]["field"], field);
    }
    for bad in [
        json!({"name": "bob", "password": 123_456_789_012_u64, "permissions": ["run_inference"]}),
        json!({"name": "bob", "permissions": ["run_inference"]}),
        json!({"name": "bob", "pasword": PASSWORD, "permissions": ["run_inference"]}),
    ] {
        let refused = api.operate("POST", USERS, bad).await;
        refused.is(400, "VALIDATION_ERROR");
        let text = refused.body.to_string();
        assert!(!text.contains(PASSWORD) && !text.contains("123456789012"), "{text}");
    }
    api.operate("PUT", &format!("{USERS}/nobody/password"), json!({"password": PASSWORD})).await.is(404, "NOT_FOUND");
    for path in ["?after=@", "?limit=0", "?colour=red"] {
        api.operate("GET", &format!("{USERS}{path}"), Value::Null).await.is(400, "VALIDATION_ERROR");
    }
}

#[tokio::test]
async fn lists_come_in_pages_and_by_project() {
    let api = Api::new();
    for (name, project) in [("a", "acme"), ("b", "beta"), ("c", "acme")] {
        api.operate("POST", USERS, user(name, project, &["run_inference"])).await;
    }
    assert_eq!(names(&api.operate("GET", USERS, Value::Null).await), ["acme/a", "acme/c", "beta/b"]);
    assert_eq!(names(&api.operate("GET", &format!("{USERS}?project=acme"), Value::Null).await), ["acme/a", "acme/c"]);
    let first = api.operate("GET", &format!("{USERS}?limit=2"), Value::Null).await;
    assert_eq!((names(&first), first.text("next")), (vec!["acme/a", "acme/c"], "acme/c".to_owned()));
    let rest = api.operate("GET", &format!("{USERS}?limit=2&after=acme/c"), Value::Null).await;
    assert_eq!((names(&rest), &rest.body["next"]), (vec!["beta/b"], &Value::Null));
}

#[tokio::test]
async fn users_need_their_permission_and_are_not_for_everybody() {
    let api = Api::new();
    let (keys_only, _) = api.mint("admin", "*", &["manage_keys", "run_inference"]).await;
    let (acme, _) = api.mint("admin", "acme", &["manage_users", "run_inference"]).await;
    let http = api.at(Door::Http);
    http.call("GET", USERS, &keys_only, Value::Null).await.is(403, "PERMISSION_DENIED");
    api.at(Door::ThroughEnvoy).call("GET", USERS, &acme, Value::Null).await.is(404, "NOT_FOUND");
    // Without a word of the project it is the caller's own.
    let own = json!({"name": "carol", "password": PASSWORD, "permissions": ["run_inference"]});
    let made = http.call("POST", USERS, &acme, own).await;
    assert_eq!((made.status.as_u16(), made.text("project")), (201, "acme".to_owned()));
    http.call("POST", USERS, &acme, user("dave", "beta", &["run_inference"])).await.is(403, "PERMISSION_DENIED");
    http.call("POST", USERS, &acme, user("dave", "acme", &["read_workloads"])).await.is(403, "PERMISSION_DENIED");
    api.operate("POST", USERS, user("erin", "beta", &["run_inference"])).await;
    http.call("GET", &format!("{USERS}/erin"), &acme, Value::Null).await.is(404, "NOT_FOUND");
}

#[tokio::test]
async fn everybody_learns_who_they_are() {
    let api = Api::new();
    let whoami = "/api/v1/auth/whoami";
    let (acme, id) = api.mint("admin", "acme", &["view_audit_logs"]).await;
    let (data, _) = api.mint("data", "acme", &["run_inference"]).await;
    for door in [Door::Http, Door::ThroughEnvoy] {
        let me = api.at(door).call("GET", whoami, &acme, Value::Null).await;
        let expected = json!({"subject": format!("key:{id}"), "project": "acme", "permissions": ["view_audit_logs"],
            "expires_at": null});
        assert_eq!(me.body, expected);
        api.at(door).call("GET", whoami, "", Value::Null).await.is(401, "AUTHENTICATION_FAILED");
        api.at(door).call("GET", whoami, &data, Value::Null).await.is(403, "PERMISSION_DENIED");
    }
    let operator = api.operate("GET", whoami, Value::Null).await;
    assert_eq!((operator.text("subject"), operator.text("project")), ("operator".to_owned(), "*".to_owned()));
    assert!(operator.body["permissions"].as_array().unwrap().contains(&json!("manage_users")));
}
