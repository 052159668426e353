//! Who comes in by which door, and how far.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Api, KEYS, policy};
use crate::config::UnixAddress;
use crate::server::admin::Door;
use crate::server::admin::operations::{Access, OPERATIONS};
use crate::server::admin::router;
use crate::server::admin::serve::start_unix;
use crate::server::socket;

#[tokio::test]
async fn http_takes_an_admin_key_with_the_permission_and_nothing_else() {
    let api = Api::new();
    let (all, _) = api.mint("admin", "*", &["manage_keys", "manage_resources"]).await;
    let (keys_only, keys_id) = api.mint("admin", "*", &["manage_keys"]).await;
    let (support, _) = api.mint("support", "*", &["manage_resources"]).await;
    let (data, _) = api.mint("data", "acme", &["run_inference"]).await;
    for door in [Door::Http, Door::ThroughEnvoy] {
        let api = api.at(door);
        let missing = api.call("GET", KEYS, "", Value::Null).await;
        missing.is(401, "AUTHENTICATION_FAILED");
        assert_eq!(missing.headers["www-authenticate"], "Bearer realm=\"tollgate\"");
        api.call("GET", KEYS, "junk", Value::Null).await.is(401, "AUTHENTICATION_FAILED");
        api.call("GET", KEYS, &data, Value::Null).await.is(403, "PERMISSION_DENIED");
        api.call("GET", KEYS, &support, Value::Null).await.is(403, "PERMISSION_DENIED");
        for key in [&all, &keys_only] {
            assert_eq!(api.call("GET", KEYS, key, Value::Null).await.status, StatusCode::OK);
            assert_eq!(api.call("HEAD", KEYS, key, Value::Null).await.status, StatusCode::OK);
        }
    }
    let http = api.at(Door::Http);
    http.call("GET", "/api/v1/resources", &keys_only, Value::Null).await.is(403, "PERMISSION_DENIED");
    for key in [&all, &support] {
        assert_eq!(http.call("GET", "/api/v1/resources", key, Value::Null).await.status, StatusCode::OK);
    }
    let envoy = api.at(Door::ThroughEnvoy);
    for path in ["/api/v1/resources", "/api/v1/resources/workload/w"] {
        envoy.call("GET", path, &all, Value::Null).await.is(404, "NOT_FOUND");
    }
    // A revoked key is refused from the very next request on.
    api.operate("DELETE", &format!("{KEYS}/{keys_id}"), Value::Null).await;
    http.call("GET", KEYS, &keys_only, Value::Null).await.is(401, "AUTHENTICATION_FAILED");
}

#[tokio::test]
async fn every_authenticated_route_is_reached_over_http() {
    let api = Api::new();
    let (admin, _) = api.mint("admin", "*", &["manage_keys", "manage_resources", "run_inference"]).await;
    let (_, id) = api.mint("data", "acme", &["run_inference"]).await;
    let http = api.at(Door::Http);
    let key = json!({"name": "n", "permissions": ["run_inference"], "plane": "data", "project": "acme",
        "workloads": ["*"]});
    for (method, path, body, status) in [
        ("POST", KEYS.to_owned(), key, 201),
        ("GET", format!("{KEYS}?limit=1"), Value::Null, 200),
        ("GET", format!("{KEYS}/{id}"), Value::Null, 200),
        ("POST", format!("{KEYS}/{id}/rotate"), json!({"grace_seconds": 1}), 201),
        ("DELETE", format!("{KEYS}/{id}"), Value::Null, 200),
        ("PUT", "/api/v1/resources/workload/w".to_owned(), json!({"project": "acme"}), 200),
        ("GET", "/api/v1/resources?kind=workload".to_owned(), Value::Null, 200),
        ("GET", "/api/v1/resources/workload/w".to_owned(), Value::Null, 200),
        ("DELETE", "/api/v1/resources/workload/w".to_owned(), Value::Null, 200),
    ] {
        http.call(method, &path, "", body.clone()).await.is(401, "AUTHENTICATION_FAILED");
        let answer = http.call(method, &path, &admin, body).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path}: {}", answer.body);
    }
}

#[tokio::test]
async fn an_administrator_of_one_project_stays_in_it() {
    let api = Api::new();
    let (acme, acme_id) = api.mint("admin", "acme", &["manage_keys", "manage_resources", "run_inference"]).await;
    let (_, beta_id) = api.mint("data", "beta", &["run_inference"]).await;
    api.operate("PUT", "/api/v1/resources/workload/b", json!({"project": "beta"})).await;
    let http = api.at(Door::Http);
    let key = |plane: &str, project: &str, permission: &str| json!({"name": "n", "permissions": [permission], "plane": plane, "project": project, "workloads": ["*"]});
    http.call("POST", KEYS, &acme, key("data", "acme", "run_inference")).await.key_and_id();
    http.call("POST", KEYS, &acme, key("data", "beta", "run_inference")).await.is(403, "PERMISSION_DENIED");
    http.call("POST", KEYS, &acme, key("admin", "acme", "manage_keys")).await.key_and_id();
    http.call("POST", KEYS, &acme, key("admin", "acme", "manage_users")).await.is(403, "PERMISSION_DENIED");
    http.call("POST", KEYS, &acme, key("data", "acme", "read_workloads")).await.is(403, "PERMISSION_DENIED");
    http.call("POST", KEYS, &acme, key("admin", "*", "manage_keys")).await.is(403, "PERMISSION_DENIED");
    for (method, path) in [("GET", ""), ("DELETE", ""), ("POST", "/rotate")] {
        http.call(method, &format!("{KEYS}/{beta_id}{path}"), &acme, Value::Null).await.is(404, "NOT_FOUND");
    }
    http.call("GET", &format!("{KEYS}?project=beta"), &acme, Value::Null).await.is(403, "PERMISSION_DENIED");
    let list = http.call("GET", KEYS, &acme, Value::Null).await;
    assert!(list.body["keys"].as_array().unwrap().iter().all(|key| key["project"] == "acme"), "{}", list.body);
    let at = "/api/v1/resources/workload/b";
    http.call("GET", at, &acme, Value::Null).await.is(404, "NOT_FOUND");
    http.call("DELETE", at, &acme, Value::Null).await.is(403, "PERMISSION_DENIED");
    // Not even in its own project: who registers an id first would take it from the others.
    for project in ["acme", "beta"] {
        http.call("PUT", at, &acme, json!({"project": project, "move": true})).await.is(403, "PERMISSION_DENIED");
    }
    // Another administrative key of the project holds more than this one: it cannot be taken over by rotating it.
    let (_, other_id) = api.mint("admin", "acme", &["manage_keys", "manage_users"]).await;
    http.call("POST", &format!("{KEYS}/{other_id}/rotate"), &acme, Value::Null).await.is(403, "PERMISSION_DENIED");
    // Its own key is within its reach.
    http.call("POST", &format!("{KEYS}/{acme_id}/rotate"), &acme, Value::Null).await.key_and_id();
}

#[tokio::test]
async fn an_administrator_needs_every_workload() {
    let api = Api::new();
    let body = json!({"name": "n", "plane": "admin", "project": "acme", "workloads": ["w"],
        "permissions": ["manage_keys"]});
    let (narrow, _) = api.operate("POST", KEYS, body).await.key_and_id();
    api.at(Door::Http).call("GET", KEYS, &narrow, Value::Null).await.is(403, "PERMISSION_DENIED");
}

#[tokio::test]
async fn foreign_hosts_browsers_and_identity_headers_get_nowhere() {
    let api = Api::new();
    let (admin, _) = api.mint("admin", "*", &["manage_keys"]).await;
    let http = api.at(Door::Http);
    let request =
        |host: &str| Request::get(KEYS).header("host", host).header("authorization", format!("Bearer {admin}"));
    for host in ["localhost", "127.0.0.1:9181", "[::1]:9181", "api.example.com", "API.EXAMPLE.COM:443"] {
        let answer = http.send(request(host).body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::OK, "{host}: {}", answer.body);
    }
    for host in ["evil.example", "10.1.2.3:9181", "localhost.evil.example"] {
        http.send(request(host).body(Body::empty()).unwrap()).await.is(403, "PERMISSION_DENIED");
    }
    let twice = request("localhost").header("host", "localhost").body(Body::empty()).unwrap();
    http.send(twice).await.is(400, "VALIDATION_ERROR");
    http.send(Request::get(KEYS).body(Body::empty()).unwrap()).await.is(400, "VALIDATION_ERROR");
    let absolute = Request::get(format!("http://evil.example{KEYS}"))
        .header("host", "localhost")
        .header("authorization", format!("Bearer {admin}"));
    http.send(absolute.body(Body::empty()).unwrap()).await.is(403, "PERMISSION_DENIED");
    let browser = request("localhost").header("origin", "http://localhost:9181").body(Body::empty()).unwrap();
    http.send(browser).await.is(403, "PERMISSION_DENIED");
    let spoofed = Request::get(KEYS)
        .header("host", "localhost")
        .header("x-tollgate-subject", "operator")
        .header("x-tollgate-permissions", "manage_keys");
    http.send(spoofed.body(Body::empty()).unwrap()).await.is(401, "AUTHENTICATION_FAILED");
    let two = request("localhost").header("x-api-key", &admin).body(Body::empty()).unwrap();
    http.send(two).await.is(400, "VALIDATION_ERROR");
    let other = Request::get(KEYS).header("host", "localhost").header("x-api-key", &admin);
    assert_eq!(http.send(other.body(Body::empty()).unwrap()).await.status, StatusCode::OK);
}

#[tokio::test]
async fn paths_with_two_readings_get_nowhere() {
    let api = Api::new();
    let (admin, id) = api.mint("admin", "*", &["manage_keys"]).await;
    let http = api.at(Door::Http);
    let (first, rest) = id.split_at(1);
    let encoded = format!("{KEYS}/%{:02x}{rest}", first.as_bytes()[0]);
    for path in
        [encoded, format!("{KEYS}/"), format!("/{KEYS}"), format!("{KEYS}/../api-keys"), format!("{KEYS}/{id}/")]
    {
        let answer = http.call("GET", &path, &admin, Value::Null).await;
        assert!(matches!(answer.status.as_u16(), 400 | 403 | 404), "{path}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_key_in_a_url_is_refused_also_where_there_is_nothing() {
    let api = Api::new();
    let (admin, id) = api.mint("admin", "*", &["manage_keys"]).await;
    let (data, _) = api.mint("data", "acme", &["run_inference"]).await;
    let secret = |key: &str| key[key.len() - 30..].to_owned();
    for door in [Door::Socket, Door::Http, Door::ThroughEnvoy] {
        let api = api.at(door);
        for key in [&admin, &data] {
            for path in [
                format!("/{key}"),
                format!("/nowhere/{key}/more"),
                format!("/nowhere?key={key}"),
                format!("/nowhere;key={}", key.replace('_', "%5F")),
                format!("/api/v1/auth/login?key={key}"),
                format!("{KEYS}/{}", &key[..key.len() - 30]),
                format!("{KEYS}?after={key}"),
            ] {
                for method in ["GET", "POST", "DELETE"] {
                    for with in ["", &admin] {
                        let answer = api.call(method, &path, with, Value::Null).await;
                        answer.is(400, "VALIDATION_ERROR");
                        let text = format!("{} {:?}", answer.body, answer.headers);
                        assert!(text.contains("A key stands in the URL") && !text.contains(&secret(key)), "{text}");
                        assert!(!text.contains(&key[..key.len() - 30]), "{text}");
                    }
                }
            }
        }
        api.call("GET", "/nowhere", &admin, Value::Null).await.is(404, "NOT_FOUND");
        assert_eq!(api.call("GET", &format!("{KEYS}/{id}"), &admin, Value::Null).await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn the_rules_follow_the_live_policy() {
    let api = Api::new();
    let (admin, _) = api.mint("admin", "*", &["manage_keys"]).await;
    let http = api.at(Door::Http);
    assert_eq!(http.call("GET", KEYS, &admin, Value::Null).await.status, StatusCode::OK);
    let mut stricter = policy();
    stricter.planes[2].admin = false;
    api.state.live.store(Arc::new(stricter));
    http.call("GET", KEYS, &admin, Value::Null).await.is(403, "PERMISSION_DENIED");
    let mut without = policy();
    without.planes.truncate(2);
    api.state.live.store(Arc::new(without));
    http.call("GET", KEYS, &admin, Value::Null).await.is(403, "PERMISSION_DENIED");
    api.operate("POST", "/api/v1/auth/bootstrap", Value::Null).await.is(400, "VALIDATION_ERROR");
}

#[tokio::test]
async fn an_expired_admin_key_is_refused() {
    let api = Api::new();
    let body = json!({"name": "n", "plane": "admin", "project": "*", "workloads": ["*"],
        "permissions": ["manage_keys"], "expires_in_seconds": 60});
    let (key, id) = api.operate("POST", KEYS, body).await.key_and_id();
    let http = api.at(Door::Http);
    assert_eq!(http.call("GET", KEYS, &key, Value::Null).await.status, StatusCode::OK);
    let shown = api.operate("GET", &format!("{KEYS}/{id}"), Value::Null).await;
    assert_eq!(shown.text("last_used_at"), "2026-11-18T11:06:40Z");
    api.clock.fetch_add(60_000, Ordering::Relaxed);
    http.call("GET", KEYS, &key, Value::Null).await.is(401, "AUTHENTICATION_FAILED");
}

#[tokio::test]
async fn every_operation_demands_what_the_table_says() {
    let api = Api::new();
    let (without, id) = api.mint("admin", "acme", &["run_inference"]).await;
    let (data, _) = api.mint("data", "acme", &["run_inference"]).await;
    for operation in &OPERATIONS {
        let names = [("{id}", "abcdefghijkl"), ("{name}", "bob"), ("{kind}", "workload")];
        let path = names.iter().fold(operation.path.to_owned(), |path, (name, value)| path.replace(name, value));
        for door in [Door::Http, Door::ThroughEnvoy] {
            let call = async |key: &str| api.at(door).call(operation.method, &path, key, Value::Null).await;
            let anonymous = call("").await;
            if !operation.doors.contains(&door) {
                assert!(matches!(anonymous.status.as_u16(), 404 | 405), "{} {door:?}", operation.name);
                continue;
            }
            match operation.access {
                Access::Public => assert!(!matches!(anonymous.status.as_u16(), 403..=405), "{}", operation.name),
                Access::Anyone => anonymous.is(401, "AUTHENTICATION_FAILED"),
                Access::Permission(permission) => {
                    anonymous.is(401, "AUTHENTICATION_FAILED");
                    call(&data).await.is(403, "PERMISSION_DENIED");
                    let refused = call(&without).await;
                    refused.is(403, "PERMISSION_DENIED");
                    assert_eq!(refused.body["error"]["details"]["all_of"], json!([permission]), "{}", operation.name);
                    let log = api.operate("GET", "/api/v1/audit?limit=1", Value::Null).await;
                    let row = &log.body["entries"][0];
                    assert_eq!(
                        (&row["act"], &row["actor"], &row["outcome"]),
                        (&json!(operation.name), &json!(format!("key:{id}")), &json!("refused"))
                    );
                }
                Access::Operator => panic!("{} is for the socket alone", operation.name),
            }
        }
    }
}

#[test]
fn the_operators_door_has_blocking_threads_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(1).max_blocking_threads(1).enable_all().build().unwrap();
    let (hold, held) = std::sync::mpsc::channel::<()>();
    runtime.block_on(async {
        let (listener, file) = socket::bind(&UnixAddress { path: path.clone(), mode: 0o600, group: None }).unwrap();
        let router = router(&Api::new().state, Door::Socket);
        let _end = start_unix(listener, file, router, std::future::pending()).unwrap();
        let (begun, begins) = tokio::sync::oneshot::channel();
        tokio::task::spawn_blocking(move || {
            let _ = begun.send(());
            let _ = held.recv();
        });
        begins.await.unwrap();
        let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
        let request = format!("GET {KEYS} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = stream.read_to_string(&mut answer);
        tokio::time::timeout(Duration::from_secs(5), read).await.unwrap().unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    });
    drop(hold);
}

#[tokio::test]
async fn where_others_than_envoy_may_come_only_what_passed_the_check_is_answered() {
    let mut api = Api::new().at(Door::ThroughEnvoy);
    let path = "/.well-known/jwks.json";
    assert_eq!(api.call("GET", path, "", Value::Null).await.status, StatusCode::OK);
    api.parts().settings.demands_proof = true;
    api.call("GET", path, "", Value::Null).await.is(403, "PERMISSION_DENIED");
    let proof = api.state.pipeline.check_proofs().make(api.state.clock.now(), "GET", path).unwrap();
    let headers = [("x-tollgate-proof", &*proof)];
    assert_eq!(api.call_with("GET", path, "", &headers, Value::Null).await.status, StatusCode::OK);
    let other = "/api/v1/auth/whoami";
    api.call_with("GET", other, "", &headers, Value::Null).await.is(403, "PERMISSION_DENIED");
    api.clock.fetch_add(11_000, Ordering::Relaxed);
    api.call_with("GET", path, "", &headers, Value::Null).await.is(403, "PERMISSION_DENIED");
}
