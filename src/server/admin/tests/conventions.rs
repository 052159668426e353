//! What holds for every operation: the shape of errors, versions, retries, the description.

use axum::body::Body;
use axum::http::{Request, StatusCode};
use axum::routing::get;
use serde_json::{Value, json};

use super::{Api, KEYS, answer};
use crate::server::admin::guard::Caller;
use crate::server::admin::{Door, finished};

#[tokio::test]
async fn every_failure_has_the_one_shape() {
    let api = Api::new();
    for door in [Door::Socket, Door::Http, Door::ThroughEnvoy] {
        let api = api.at(door);
        api.call("GET", "/nowhere", "", Value::Null).await.is(404, "NOT_FOUND");
        let wrong = api.call("PATCH", KEYS, "", Value::Null).await;
        wrong.is(405, "VALIDATION_ERROR");
        assert_eq!(wrong.headers["allow"], "GET,HEAD,POST");
    }
    let json = || Request::post(KEYS).header("content-type", "application/json; charset=utf-8");
    let big = json().body(Body::from(vec![b' '; 64 * 1024 + 1])).unwrap();
    api.send(big).await.is(413, "VALIDATION_ERROR");
    for text in ["{", "[]", "\"a\"", ""] {
        api.send(json().body(Body::from(text)).unwrap()).await.is(400, "VALIDATION_ERROR");
    }
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
        let other = Request::post(KEYS).header("content-type", kind).body(Body::from("{}")).unwrap();
        api.send(other).await.is(415, "UNSUPPORTED_MEDIA_TYPE");
    }
    let named = Request::get("/nowhere").header("x-request-id", "req-7").body(Body::empty()).unwrap();
    assert_eq!(api.send(named).await.headers["x-request-id"], "req-7");
    let unsafe_id = Request::get("/nowhere").header("x-request-id", "a b").body(Body::empty()).unwrap();
    assert_ne!(api.send(unsafe_id).await.headers["x-request-id"], "a b");
}

#[tokio::test]
async fn a_request_id_that_looks_like_a_secret_is_not_repeated() {
    let api = Api::new();
    let (key, _) = api.mint("data", "acme", &["run_inference"]).await;
    for id in [&*key, "ada@example.test"] {
        let named = Request::get("/nowhere").header("x-request-id", id).body(Body::empty()).unwrap();
        assert_ne!(api.send(named).await.headers["x-request-id"], id);
    }
}

#[tokio::test]
async fn a_client_does_not_choose_the_shape_of_an_error() {
    let http = Api::new().at(Door::Http);
    for kind in ["application/grpc", "application/grpc+proto"] {
        let answer = http.call_with("GET", KEYS, "", &[("content-type", kind)], Value::Null).await;
        answer.is(401, "AUTHENTICATION_FAILED");
        assert_eq!(answer.headers["content-type"], "application/json");
    }
}

#[tokio::test]
async fn the_description_is_public_and_not_for_everybody() {
    let api = Api::new();
    for door in [Door::Socket, Door::Http] {
        let described = api.at(door).call("GET", "/openapi.json", "", Value::Null).await;
        assert_eq!(described.status, StatusCode::OK);
        assert_eq!(described.text("openapi"), "3.1.0");
    }
    api.at(Door::ThroughEnvoy).call("GET", "/openapi.json", "", Value::Null).await.is(404, "NOT_FOUND");
}

#[tokio::test]
async fn a_panic_and_a_missing_guard_are_our_fault() {
    async fn panics() {
        panic!("forced");
    }
    async fn unguarded(_: Caller) {}
    let api = Api::new();
    let routes = [("/panics", get(panics)), ("/unguarded", get(unguarded))];
    let router = finished(routes.into_iter(), api.state.clone(), Door::Socket);
    for path in ["/panics", "/unguarded"] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        answer(router.clone(), request).await.is(500, "INTERNAL_ERROR");
    }
}

#[tokio::test]
async fn a_lost_update_is_refused() {
    let api = Api::new();
    let (_, id) = api.mint("data", "acme", &["run_inference"]).await;
    let at = format!("{KEYS}/{id}");
    assert_eq!(api.operate("GET", &at, Value::Null).await.headers["etag"], "\"1\"");
    let rename = json!({"name": "renamed"});
    api.operate("PATCH", &at, rename.clone()).await.is(428, "PRECONDITION_REQUIRED");
    for stale in ["\"2\"", "\"abc\"", "W/\"1\""] {
        api.operate_with("PATCH", &at, ("if-match", stale), rename.clone()).await.is(412, "PRECONDITION_FAILED");
    }
    for bad in ["1", "\"1\", \"2\"", ""] {
        api.operate_with("PATCH", &at, ("if-match", bad), rename.clone()).await.is(400, "VALIDATION_ERROR");
    }
    let changed = api.operate_with("PATCH", &at, ("if-match", "\"1\""), rename).await;
    assert_eq!((changed.status.as_u16(), changed.text("name")), (200, "renamed".to_owned()));
    assert_eq!(
        (&changed.headers["etag"], &changed.body["permissions"]),
        (&"\"2\"".parse().unwrap(), &json!(["run_inference"]))
    );
    let rotate = format!("{at}/rotate");
    for (method, path) in [("DELETE", &at), ("POST", &rotate)] {
        api.operate_with(method, path, ("if-match", "\"1\""), Value::Null).await.is(412, "PRECONDITION_FAILED");
    }
    let revoked = api.operate_with("DELETE", &at, ("if-match", "\"2\""), Value::Null).await;
    assert_eq!((revoked.status.as_u16(), &revoked.headers["etag"]), (200, &"\"3\"".parse().unwrap()));

    let resource = "/api/v1/resources/workload/w";
    let put = api.operate("PUT", resource, json!({"project": "acme"})).await;
    assert_eq!(put.headers["etag"], "\"1\"");
    let moved = json!({"project": "beta", "move": true});
    api.operate_with("PUT", resource, ("if-match", "\"7\""), moved).await.is(412, "PRECONDITION_FAILED");
    api.operate_with("DELETE", resource, ("if-match", "\"7\""), Value::Null).await.is(412, "PRECONDITION_FAILED");
}

#[tokio::test]
async fn a_change_leaves_what_is_not_there_and_null_ends_an_expiry() {
    let api = Api::new();
    let body = json!({"name": "n", "plane": "data", "project": "acme", "workloads": ["*"],
        "permissions": ["run_inference"], "expires_in_days": 1});
    let (_, id) = api.operate("POST", KEYS, body).await.key_and_id();
    let at = format!("{KEYS}/{id}");
    let patch = async |body: Value| api.operate_with("PATCH", &at, ("if-match", "*"), body).await;
    let later = patch(json!({"expires_at": "2027-01-01T00:00:00+01:00", "workloads": ["w-2", "w-1"]})).await;
    assert_eq!(later.text("expires_at"), "2026-12-31T23:00:00Z");
    assert_eq!((&later.body["workloads"], later.text("name")), (&json!(["w-1", "w-2"]), "n".to_owned()));
    let never = patch(json!({"expires_at": null})).await;
    assert_eq!((&never.body["expires_at"], &never.body["workloads"]), (&Value::Null, &json!(["w-1", "w-2"])));
    for bad in [
        json!({"expires_at": "tomorrow"}),
        json!({"expires_at": 5}),
        json!({"name": null}),
        json!({"plane": "control"}),
        json!({"permissions": ["fly"]}),
        json!([]),
    ] {
        patch(bad).await.is(400, "VALIDATION_ERROR");
    }
}

#[tokio::test]
async fn a_creation_that_is_repeated_is_made_once() {
    let api = Api::new();
    let key = json!({"name": "n", "plane": "data", "project": "acme", "workloads": ["*"],
        "permissions": ["run_inference"]});
    let named = |name: &'static str, body: &Value| {
        let (api, body) = (&api, body.clone());
        async move { api.operate_with("POST", KEYS, ("idempotency-key", name), body).await }
    };
    let (_, id) = named("first", &key).await.key_and_id();
    let again = named("first", &key).await;
    again.is(409, "CONFLICT");
    assert_eq!(again.body["error"]["details"]["target"], format!("key:{id}"));
    assert!(!again.body.to_string().contains("ik_live_"));
    let mut other = key.clone();
    other["name"] = json!("other");
    named("first", &other).await.is(422, "IDEMPOTENCY_KEY_REUSED");
    named("second", &key).await.key_and_id();
    for bad in ["", "a b", &"x".repeat(256)] {
        api.operate_with("POST", KEYS, ("idempotency-key", bad), key.clone()).await.is(400, "VALIDATION_ERROR");
    }
    let user = json!({"name": "alice", "password": "correct horse battery staple", "project": "acme",
        "permissions": ["run_inference"]});
    let made = api.operate_with("POST", "/api/v1/users", ("idempotency-key", "u"), user.clone()).await;
    let again = api.operate_with("POST", "/api/v1/users", ("idempotency-key", "u"), user).await;
    assert_eq!((again.status.as_u16(), again.body), (201, made.body));
    let list = api.operate("GET", KEYS, Value::Null).await;
    assert_eq!(list.body["keys"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_filter_that_could_find_nothing_is_refused() {
    let api = Api::new();
    for path in [
        "/api/v1/auth/api-keys?project=",
        "/api/v1/auth/api-keys?plane=a/b",
        "/api/v1/users?project=a%20b",
        "/api/v1/audit?project=",
        "/api/v1/resources?kind=",
        "/api/v1/resources?project=*",
    ] {
        api.operate("GET", path, Value::Null).await.is(400, "VALIDATION_ERROR");
    }
}
