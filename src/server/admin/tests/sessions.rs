//! Logging in and out over the API, as a person and as somebody who guesses.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tollgate_core::policy::{ClientIp, Policy};

use super::{Api, START};
use crate::clock::Clock;
use crate::config::KeyDefaults;
use crate::server::admin::Door;

const LOGIN: &str = "/api/v1/auth/login";
const LOGOUT: &str = "/api/v1/auth/logout";
const WHOAMI: &str = "/api/v1/auth/whoami";
const PASSWORD: &str = "correct horse battery staple";

async fn api_with(name: &str) -> Api {
    let api = Api::new();
    let user = json!({"name": name, "password": PASSWORD, "project": "acme", "permissions": ["manage_keys"]});
    let made = api.operate("POST", "/api/v1/users", user).await;
    assert_eq!(made.status.as_u16(), 201, "{}", made.body);
    api
}

fn credentials(name: &str, password: &str) -> Value {
    json!({"username": name, "password": password})
}

#[tokio::test]
async fn a_session_from_login_to_logout() {
    for door in [Door::Http, Door::ThroughEnvoy] {
        let api = api_with("ada").await.at(door);
        let issued = api.call("POST", LOGIN, "", credentials("ada", PASSWORD)).await;
        assert_eq!(issued.status.as_u16(), 200, "{}", issued.body);
        assert_eq!(issued.body.as_object().unwrap().keys().collect::<Vec<_>>(), ["token", "expires_at"]);
        assert_eq!(issued.text("expires_at"), "2026-11-18T12:06:40Z");
        assert_eq!(issued.headers["cache-control"], "no-store");
        let token = issued.text("token");

        let who = api.call("GET", WHOAMI, &token, Value::Null).await;
        assert_eq!((who.text("subject"), who.text("project")), ("user:acme/ada".to_owned(), "acme".to_owned()));
        assert_eq!(who.text("expires_at"), issued.text("expires_at"));
        // A subset of what the user may do, for the user's project.
        let key = json!({"name": "n", "plane": "admin", "workloads": ["*"], "permissions": ["manage_keys"]});
        let made = api.call("POST", "/api/v1/auth/api-keys", &token, key.clone()).await;
        assert_eq!((made.status.as_u16(), made.text("created_by")), (201, "user:acme/ada".to_owned()), "{}", made.body);
        let mut more = key;
        more["permissions"] = json!(["manage_users"]);
        api.call("POST", "/api/v1/auth/api-keys", &token, more).await.is(403, "PERMISSION_DENIED");

        let ended = api.call("POST", LOGOUT, &token, Value::Null).await;
        assert_eq!((ended.status.as_u16(), ended.text("subject")), (200, "user:acme/ada".to_owned()));
        api.call("GET", WHOAMI, &token, Value::Null).await.is(401, "AUTHENTICATION_FAILED");
        let (key, _) = made.key_and_id();
        api.call("POST", LOGOUT, &key, Value::Null).await.is(409, "CONFLICT");
    }
}

#[tokio::test]
async fn whoever_guesses_learns_nothing_and_has_to_wait() {
    let api = api_with("ada").await.at(Door::Http);
    let wrong = api.call("POST", LOGIN, "", credentials("ada", "wrong horse battery")).await;
    wrong.is(401, "AUTHENTICATION_FAILED");
    assert!(wrong.headers.contains_key("www-authenticate"));
    let unknown = api.call("POST", LOGIN, "", credentials("nobody", PASSWORD)).await;
    assert_eq!(unknown.body, wrong.body);
    for body in [json!({}), json!({"username": "ada"}), json!({"username": "ada", "password": PASSWORD, "x": 1})] {
        api.call("POST", LOGIN, "", body).await.is(400, "VALIDATION_ERROR");
    }
    for _ in 0..9 {
        api.call("POST", LOGIN, "", credentials("ada", "wrong horse battery")).await.is(401, "AUTHENTICATION_FAILED");
    }
    let throttled = api.call("POST", LOGIN, "", credentials("ada", PASSWORD)).await;
    throttled.is(429, "RATE_LIMITED");
    assert_eq!(throttled.headers["retry-after"], "6");
    api.clock.store(START + 6000, Ordering::Relaxed);
    assert_eq!(api.call("POST", LOGIN, "", credentials("ada", PASSWORD)).await.status.as_u16(), 200);
}

#[tokio::test]
async fn a_wall_clock_that_is_set_back_keeps_nobody_out() {
    let (wall, moment) = (Arc::new(AtomicU64::new(START)), Arc::new(AtomicU64::new(7_000)));
    let clock = Clock::Apart { wall: Arc::clone(&wall), moment: Arc::clone(&moment) };
    let api = Api::at_time(super::policy(), KeyDefaults::default(), &wall, clock);
    let user = json!({"name": "ada", "password": PASSWORD, "project": "acme", "permissions": ["manage_keys"]});
    assert_eq!(api.operate("POST", "/api/v1/users", user).await.status.as_u16(), 201);
    let api = api.at(Door::Http);
    api.call("POST", LOGIN, "", credentials("ada", "wrong horse battery")).await.is(401, "AUTHENTICATION_FAILED");
    let hour = 3_600_000;
    for set in [START - hour, START, START + hour, START - hour] {
        wall.store(set, Ordering::Relaxed);
        assert_eq!(api.call("POST", LOGIN, "", credentials("ada", PASSWORD)).await.status.as_u16(), 200);
    }
    for _ in 0..9 {
        api.call("POST", LOGIN, "", credentials("ada", "wrong horse battery")).await.is(401, "AUTHENTICATION_FAILED");
    }
    // Nor does it let anybody guess on, once the address is known as any other.
    for set in [START + hour, START - hour] {
        wall.store(set, Ordering::Relaxed);
        let guess = api.call("POST", LOGIN, "", credentials("ada", "wrong horse battery")).await;
        assert!([401, 429].contains(&guess.status.as_u16()), "{}", guess.body);
    }
    api.call("POST", LOGIN, "", credentials("ada", PASSWORD)).await.is(429, "RATE_LIMITED");
}

#[tokio::test]
async fn the_keys_of_tokens_are_public() {
    let api = api_with("ada").await.at(Door::ThroughEnvoy);
    api.call("POST", LOGIN, "", credentials("ada", PASSWORD)).await;
    let keys = api.call("GET", "/.well-known/jwks.json", "", Value::Null).await;
    assert_eq!(keys.status.as_u16(), 200);
    assert_eq!(keys.headers["cache-control"], "public, max-age=300");
    let key = keys.body["keys"][0].as_object().unwrap();
    assert_eq!(key.keys().collect::<Vec<_>>(), ["kty", "crv", "use", "alg", "kid", "x"]);
    assert_eq!((key["crv"].as_str(), key["alg"].as_str()), (Some("Ed25519"), Some("EdDSA")));
}

#[tokio::test]
async fn whoever_stands_on_another_plane_can_log_out_and_do_nothing_else() {
    let mut policy = super::policy();
    if let Some(login) = &mut policy.login {
        login.plane = "data".into();
    }
    let api = Api::of(policy, crate::config::KeyDefaults::default());
    let user = json!({"name": "ada", "password": PASSWORD, "project": "acme", "permissions": ["run_inference"]});
    assert_eq!(api.operate("POST", "/api/v1/users", user).await.status.as_u16(), 201);
    let api = api.at(Door::Http);
    let token = api.call("POST", LOGIN, "", credentials("ada", PASSWORD)).await.text("token");
    assert_eq!(api.call("GET", WHOAMI, &token, Value::Null).await.text("subject"), "user:acme/ada");
    for path in ["/api/v1/auth/api-keys", "/api/v1/users", "/api/v1/audit", "/api/v1/resources"] {
        api.call("GET", path, &token, Value::Null).await.is(403, "PERMISSION_DENIED");
    }
    assert_eq!(api.call("POST", LOGOUT, &token, Value::Null).await.status.as_u16(), 200);
    api.call("GET", WHOAMI, &token, Value::Null).await.is(401, "AUTHENTICATION_FAILED");
}

/// The name is the same, and the person another one.
#[tokio::test]
async fn whoever_is_given_a_name_again_inherits_no_idempotency_key() {
    let api = Api::new();
    let http = api.at(Door::Http);
    let key = json!({"name": "n", "plane": "admin", "workloads": ["*"], "permissions": ["manage_keys"]});
    for _ in 0..2 {
        let user = json!({"name": "ada", "password": PASSWORD, "project": "acme", "permissions": ["manage_keys"]});
        let made = api.operate("POST", "/api/v1/users", user).await;
        assert_eq!(made.status.as_u16(), 201, "{}", made.body);
        let token = http.call("POST", LOGIN, "", credentials("acme/ada", PASSWORD)).await.text("token");
        let create = async || {
            http.call_with("POST", "/api/v1/auth/api-keys", &token, &[("idempotency-key", "first")], key.clone()).await
        };
        let (_, id) = create().await.key_and_id();
        let again = create().await;
        again.is(409, "CONFLICT");
        assert_eq!(again.body["error"]["details"]["target"], format!("key:{id}"));
        let gone = api.operate("DELETE", "/api/v1/users/acme:ada", Value::Null).await;
        assert_eq!(gone.status.as_u16(), 200, "{}", gone.body);
        let freed = api.operate("POST", "/api/v1/users/acme:ada/free", Value::Null).await;
        assert_eq!(freed.status.as_u16(), 200, "{}", freed.body);
    }
    let log = api.operate("GET", "/api/v1/audit?actor=user:acme/ada&act=key.create", Value::Null).await;
    let ids: HashSet<_> = log.body["entries"].as_array().unwrap().iter().map(|row| row["actor_id"].as_str()).collect();
    assert!(ids.len() == 2 && !ids.contains(&None), "the log tells the one from the other: {}", log.body);
}

#[tokio::test]
async fn a_plane_that_is_no_admin_plane_any_more_administers_nothing() {
    let policy_where = |admin| {
        let mut policy = super::policy();
        policy.planes[0].admin = admin;
        if let Some(login) = &mut policy.login {
            login.plane = "data".into();
        }
        policy
    };
    let api = Api::of(policy_where(true), KeyDefaults::default());
    let user = json!({"name": "ada", "password": PASSWORD, "project": "acme", "permissions": ["manage_keys"]});
    assert_eq!(api.operate("POST", "/api/v1/users", user).await.status.as_u16(), 201);
    let api = api.at(Door::Http);
    let token = api.call("POST", LOGIN, "", credentials("ada", PASSWORD)).await.text("token");
    let keys = "/api/v1/auth/api-keys";
    assert_eq!(api.call("GET", keys, &token, Value::Null).await.status.as_u16(), 200);
    api.state.live.store(Arc::new(policy_where(false)));
    api.call("GET", keys, &token, Value::Null).await.is(403, "PERMISSION_DENIED");
    assert_eq!(api.call("GET", WHOAMI, &token, Value::Null).await.text("subject"), "user:acme/ada");
}

#[tokio::test]
async fn only_envoy_is_believed_about_where_a_client_is() {
    let policy = Policy { client_ip: ClientIp::ForwardedFor { trusted_hops: 1 }, ..super::policy() };
    let api = Api::of(policy, KeyDefaults::default());
    let user = json!({"name": "ada", "password": PASSWORD, "project": "acme", "permissions": ["manage_keys"]});
    assert_eq!(api.operate("POST", "/api/v1/users", user).await.status.as_u16(), 201);
    let named = "203.0.113.9";
    for (door, address) in [(Door::Http, Value::Null), (Door::ThroughEnvoy, json!(named))] {
        let api = api.at(door);
        let headers = [("x-forwarded-for", named)];
        let issued = api.call_with("POST", LOGIN, "", &headers, credentials("ada", PASSWORD)).await;
        let listed = api.call("GET", SESSIONS, &issued.text("token"), Value::Null).await;
        assert_eq!(listed.body["sessions"][0]["address"], address, "{door:?}: {}", listed.body);
    }
}

const SESSIONS: &str = "/api/v1/auth/sessions";

fn ids(list: &super::Answer) -> Vec<String> {
    assert_eq!(list.status.as_u16(), 200, "{}", list.body);
    let sessions = list.body["sessions"].as_array().unwrap();
    sessions.iter().map(|session| session["id"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn whoever_has_logged_in_lists_and_ends_their_own_sessions() {
    for door in [Door::Http, Door::ThroughEnvoy] {
        let api = api_with("ada").await.at(door);
        let mut tokens = Vec::new();
        for n in 0..3 {
            api.clock.store(START + n * 1_000, Ordering::Relaxed);
            tokens.push(api.call("POST", LOGIN, "", credentials("ada", PASSWORD)).await.text("token"));
        }
        let listed = api.call("GET", SESSIONS, &tokens[0], Value::Null).await;
        let sessions = ids(&listed);
        assert_eq!(sessions.len(), 3);
        let newest = &listed.body["sessions"][0];
        assert_eq!(
            (&newest["began_at"], &newest["expires_at"]),
            (&json!("2026-11-18T11:06:42Z"), &json!("2026-11-18T12:06:42Z"))
        );
        let text = listed.body.to_string();
        assert!(
            tokens.iter().all(|token| !text.contains(&**token) && !text.contains(token.rsplit('.').next().unwrap()))
        );

        for _ in 0..2 {
            let ended = api.call("DELETE", &format!("{SESSIONS}/{}", sessions[0]), &tokens[0], Value::Null).await;
            assert_eq!((ended.status.as_u16(), ended.text("id")), (200, sessions[0].clone()), "{}", ended.body);
            api.call("GET", WHOAMI, &tokens[2], Value::Null).await.is(401, "AUTHENTICATION_FAILED");
        }
        assert_eq!(ids(&api.call("GET", SESSIONS, &tokens[1], Value::Null).await), sessions[1..]);
        api.call("DELETE", &format!("{SESSIONS}/nothing"), &tokens[0], Value::Null).await.is(404, "NOT_FOUND");
        api.call("DELETE", &format!("{SESSIONS}/a%20b"), &tokens[0], Value::Null).await.is(404, "NOT_FOUND");
        // Logging out is an end, too, and so is the end of its time.
        api.call("POST", LOGOUT, &tokens[0], Value::Null).await;
        assert_eq!(ids(&api.call("GET", SESSIONS, &tokens[1], Value::Null).await), sessions[1..2]);
        let (key, _) = api.at(Door::Socket).mint("admin", "acme", &["manage_keys"]).await;
        api.call("GET", SESSIONS, &key, Value::Null).await.is(409, "CONFLICT");
        api.clock.store(START + 3_601_000, Ordering::Relaxed);
        let last = api.call("POST", LOGIN, "", credentials("ada", PASSWORD)).await.text("token");
        assert_eq!(ids(&api.call("GET", SESSIONS, &last, Value::Null).await).len(), 1);
    }
}

#[tokio::test]
async fn the_sessions_of_a_user_are_for_who_administers_the_project() {
    let api = api_with("ada").await;
    let of_ada = "/api/v1/users/ada/sessions";
    assert_eq!(ids(&api.operate("GET", of_ada, Value::Null).await), [""; 0]);
    let http = api.at(Door::Http);
    let token = http.call("POST", LOGIN, "", credentials("ada", PASSWORD)).await.text("token");
    let (acme, _) = api.mint("admin", "acme", &["manage_users"]).await;
    let (beta, _) = api.mint("admin", "beta", &["manage_users"]).await;
    let (keys_only, _) = api.mint("admin", "acme", &["manage_keys"]).await;
    let [session] = &ids(&http.call("GET", of_ada, &acme, Value::Null).await)[..] else { panic!("one session") };
    let one = format!("{of_ada}/{session}");
    for (method, path) in [("GET", of_ada), ("DELETE", &*one)] {
        http.call(method, path, &beta, Value::Null).await.is(404, "NOT_FOUND");
        for other in [&keys_only, &token] {
            http.call(method, path, other, Value::Null).await.is(403, "PERMISSION_DENIED");
        }
        api.at(Door::ThroughEnvoy).call(method, path, &acme, Value::Null).await.is(404, "NOT_FOUND");
    }
    let nobody = api.operate("DELETE", &format!("/api/v1/users/nobody/sessions/{session}"), Value::Null).await;
    nobody.is(404, "NOT_FOUND");
    assert_eq!(http.call("GET", WHOAMI, &token, Value::Null).await.status.as_u16(), 200);
    let ended = http.call("DELETE", &one, &acme, Value::Null).await;
    assert_eq!(ended.status.as_u16(), 200, "{}", ended.body);
    http.call("GET", WHOAMI, &token, Value::Null).await.is(401, "AUTHENTICATION_FAILED");
    assert_eq!(ids(&api.operate("GET", of_ada, Value::Null).await), [""; 0]);
    let log = api.operate("GET", &format!("/api/v1/audit?target=session:{session}"), Value::Null).await;
    let outcomes: Vec<(&Value, &Value)> =
        log.body["entries"].as_array().unwrap().iter().map(|row| (&row["act"], &row["outcome"])).collect();
    let [done, refused] = [json!("done"), json!("refused")];
    assert!(outcomes.iter().all(|(act, _)| **act == "session.end"), "{outcomes:?}");
    assert_eq!(outcomes.iter().map(|(_, outcome)| *outcome).collect::<Vec<_>>(), [&done, &refused, &refused, &refused]);
    // Whatever ends every session takes them off the list.
    http.call("POST", LOGIN, "", credentials("ada", PASSWORD)).await;
    assert_eq!(ids(&api.operate("GET", of_ada, Value::Null).await).len(), 1);
    api.operate("PUT", "/api/v1/users/ada/password", json!({"password": "another long password"})).await;
    assert_eq!(ids(&api.operate("GET", of_ada, Value::Null).await), [""; 0]);
}
