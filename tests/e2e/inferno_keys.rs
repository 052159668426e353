//! Inferno, F3, and the API under a page of keys (A2, A3, K5), through Envoy with tokens of users: made, shown once, listed,
//! changed, rotated, deleted; and who may make which.

use serde_json::{Value, json};

use super::client::{Sent, http1_from};
use super::deployment::{CHAT, Deployment, KEYS, refusal};
use super::harness::Key;

fn one(key: &Key) -> String {
    format!("{KEYS}/{}", key.id)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f3_an_administrator_with_a_token_makes_and_deletes_a_key() {
    let inferno = Deployment::start().await;
    let token = inferno.token_of_new("ada", "*", &["manage_keys", "run_inference", "read_models"]).await;
    let wanted = json!({"name": "batch", "permissions": ["run_inference", "read_models"], "expires_in_days": 30});
    let reply = inferno.stack.send(&Sent::new("POST", KEYS).bearer(&token).json(&wanted)).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(reply.header("cache-control").as_deref(), Some("no-store"));
    let (made, key) = (reply.json(), Key::of(&reply.json()));
    assert!(key.text.starts_with(&format!("inf_live_{}_", key.id)), "the id is in the key");
    assert_eq!(reply.header("location"), Some(one(&key)));
    let time = |field: &str| made[field].as_str().unwrap().parse::<jiff::Timestamp>().unwrap().as_second();
    assert_eq!(time("expires_at") - time("created_at"), 30 * 24 * 3600);
    assert_eq!(
        (&made["name"], &made["project"], &made["created_by"]),
        (&json!("batch"), &json!("main"), &json!("user:ada"))
    );
    assert_eq!(made["permissions"], json!(["read_models", "run_inference"]));

    let calls =
        || [Sent::new("POST", CHAT).header("x-api-key", &key.text), Sent::new("GET", "/v1/models").bearer(&key.text)];
    for call in calls() {
        assert_eq!(inferno.status(call).await, 200);
    }
    assert_eq!(inferno.stack.take_seen().len(), 2, "the back end saw the calls, and nothing of the administration");
    let deleted = inferno.stack.send(&Sent::new("DELETE", &one(&key)).bearer(&token)).await;
    assert_eq!((deleted.status, &deleted.json()["state"]), (200, &json!("revoked")), "{}", deleted.text());
    for call in calls() {
        assert_eq!(refusal(&inferno.stack.send(&call).await), (401, "AUTHENTICATION_FAILED".to_owned()));
    }
    assert!(inferno.stack.take_seen().is_empty());
    // Who cannot make keys does not, whatever they hold: not a user, not the key, not nobody.
    let user = inferno.token_of_new("bob", "*", &["run_inference", "read_models"]).await;
    let other = inferno.key(&token, &wanted).await;
    let create = || Sent::new("POST", KEYS).json(&wanted);
    assert_eq!(refusal(&inferno.stack.send(&create().bearer(&user)).await), (403, "PERMISSION_DENIED".to_owned()));
    assert_eq!(inferno.status(create().header("x-api-key", &other.text)).await, 403);
    assert_eq!(inferno.status(create()).await, 401);
}

/// What a page for keys does: the whole key is there once, and never again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a2_k5_a_key_is_shown_once_under_its_name() {
    let inferno = Deployment::start().await;
    let token = inferno.token_of_new("ada", "acme", &["manage_keys", "run_inference"]).await;
    let key = inferno.key(&token, &json!({"name": "chat widget", "permissions": ["run_inference"]})).await;
    assert_eq!(inferno.call(&key.text).await, 200);
    let secret = key.text.rsplit('_').next().unwrap();
    let rename = json!({"name": "chat widget (EU)"});
    for (request, name) in [
        (Sent::new("GET", &one(&key)), "chat widget"),
        (Sent::new("GET", KEYS), "chat widget"),
        (Sent::new("PATCH", &one(&key)).header("if-match", "\"1\"").json(&rename), "chat widget (EU)"),
        (Sent::new("GET", &format!("{KEYS}?limit=1")), "chat widget (EU)"),
        (Sent::new("DELETE", &one(&key)), "chat widget (EU)"),
    ] {
        let reply = inferno.stack.send(&request.bearer(&token)).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        assert!(reply.text().contains(&format!("\"{name}\"")), "{}", reply.text());
        assert!(!reply.text().contains(&secret[..20]), "a part of the secret");
    }
    // A lost update is refused, and so is a page without a token.
    let stale = Sent::new("PATCH", &one(&key)).header("if-match", "\"1\"").json(&rename).bearer(&token);
    assert!(matches!(inferno.status(stale).await, 409 | 412));
    assert_eq!(inferno.status(Sent::new("GET", KEYS)).await, 401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a2_a_form_that_is_sent_twice_makes_one_key() {
    let inferno = Deployment::start().await;
    let token = inferno.token_of_new("ada", "acme", &["manage_keys", "run_inference"]).await;
    let wanted = json!({"name": "chat widget", "permissions": ["run_inference"]});
    let request = Sent::new("POST", KEYS).bearer(&token).header("idempotency-key", "form-1").json(&wanted);
    let first = inferno.stack.send(&request).await;
    assert_eq!(first.status, 201, "{}", first.text());
    let again = inferno.stack.send(&request).await;
    assert_eq!(refusal(&again), (409, "CONFLICT".to_owned()));
    assert_eq!(again.json()["error"]["details"]["target"], format!("key:{}", Key::of(&first.json()).id));
    let listed = inferno.stack.send(&Sent::new("GET", KEYS).bearer(&token)).await.json();
    assert_eq!(listed["keys"].as_array().unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a3_each_application_has_its_key_and_loses_only_that() {
    let inferno = Deployment::start().await;
    let token = inferno.token_of_new("ada", "acme", &["manage_keys", "run_inference"]).await;
    let make = async |name: &str| inferno.key(&token, &json!({"name": name, "permissions": ["run_inference"]})).await;
    let (widget, batch) = (make("chat widget").await, make("batch job").await);
    let rotate = async |key: &Key, grace: u64| {
        let request = Sent::new("POST", &format!("{}/rotate", one(key))).bearer(&token);
        let reply = inferno.stack.send(&request.json(&json!({"grace_seconds": grace}))).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        Key::of(&reply.json())
    };
    let delete = async |key: &Key| inferno.status(Sent::new("DELETE", &one(key)).bearer(&token)).await;
    // With a grace both work; without one the old one ends at once.
    let second = rotate(&widget, 3600).await;
    for (key, status) in [(&widget, 200), (&second, 200), (&batch, 200)] {
        assert_eq!(inferno.call(&key.text).await, status);
    }
    let third = rotate(&second, 0).await;
    assert_eq!(delete(&widget).await, 200);
    for (key, status) in [(&widget, 401), (&second, 401), (&third, 200), (&batch, 200)] {
        assert_eq!(inferno.call(&key.text).await, status);
    }
    assert_eq!(delete(&third).await, 200);
    assert_eq!((inferno.call(&third.text).await, inferno.call(&batch.text).await), (401, 200));
    // The user's own session has nothing to do with any of that.
    assert_eq!(inferno.call(&token).await, 200);
}

/// Nobody gives what they do not hold, nor beyond their project; and who tries stands in the audit log, with the address
/// that Envoy saw.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f3_an_administrator_of_one_project_stays_in_it() {
    let inferno = Deployment::start().await;
    let lead = inferno.token_of_new("lead", "acme", &["manage_keys", "run_inference"]).await;
    let make = |more: Value| {
        let mut asked = json!({"name": "app", "permissions": ["run_inference"]});
        asked.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        Sent::new("POST", KEYS).json(&asked)
    };
    let theirs = inferno.key(&lead, &json!({"name": "app", "permissions": ["run_inference"]})).await;
    assert_eq!(inferno.call(&theirs.text).await, 200);
    let root = |project: &str, permission: &str| json!({"name": "r", "project": project, "permissions": [permission]});
    let foreign = inferno.key(&inferno.root.text, &root("beta", "run_inference")).await;
    let stronger = inferno.key(&inferno.root.text, &root("acme", "delete_models")).await;
    let widen = json!({"permissions": ["run_inference", "write_config"]});
    let patch = |key: &Key, change: &Value| Sent::new("PATCH", &one(key)).header("if-match", "*").json(change);
    let rotate = |key: &Key| Sent::new("POST", &format!("{}/rotate", one(key)));

    let attempts = [
        ("key.create", make(json!({"project": "beta"})), 403),
        ("key.create", make(json!({"project": "*"})), 403),
        ("key.create", make(json!({"permissions": ["run_inference", "delete_models"]})), 403),
        ("key.create", make(json!({"permissions": ["manage_users"]})), 403),
        ("key.update", patch(&theirs, &widen), 403),
        ("key.update", patch(&stronger, &json!({"name": "mine"})), 403),
        ("key.rotate", rotate(&stronger), 403),
        ("key.show", Sent::new("GET", &one(&foreign)), 404),
        ("key.update", patch(&foreign, &json!({"name": "mine"})), 404),
        ("key.rotate", rotate(&foreign), 404),
        ("key.revoke", Sent::new("DELETE", &one(&foreign)), 404),
        ("key.list", Sent::new("GET", &format!("{KEYS}?project=beta")), 403),
    ];
    let client = "127.0.0.9".parse().unwrap();
    for (act, request, status) in &attempts {
        let reply = http1_from(client, inferno.stack.envoy, &request.clone().bearer(&lead)).await;
        assert_eq!(refusal(&reply).0, *status, "{act}: {}", reply.text());
        let rows = inferno.audit("actor=user:acme/lead&limit=1").await;
        let [row] = &rows[..] else { panic!("{rows:?}") };
        let told = (&row["act"], &row["outcome"], &row["peer"]);
        assert_eq!(told, (&json!(act), &json!("refused"), &json!("127.0.0.9")), "{row}");
        assert_eq!(row["request_id"].as_str(), reply.header("x-request-id").as_deref(), "{row}");
        assert!(row["reason"].is_string(), "{row}");
    }
    let refused = inferno.audit("actor=user:acme/lead").await;
    assert_eq!(refused.iter().filter(|row| row["outcome"] == "refused").count(), attempts.len());
    for key in [&foreign, &theirs] {
        assert_eq!(inferno.call(&key.text).await, 200, "nothing has changed");
    }
    // To take away, the reach is enough; and what was done stands in the log as well.
    assert_eq!(inferno.status(Sent::new("DELETE", &one(&stronger)).bearer(&lead)).await, 200);
    let [done] = &inferno.audit("actor=user:acme/lead&limit=1").await[..] else { panic!("no row") };
    assert_eq!((&done["act"], &done["outcome"]), (&json!("key.revoke"), &json!("done")));
    let log = json!(inferno.audit("limit=1000").await).to_string();
    for secret in [&theirs, &foreign, &stronger, &inferno.root] {
        assert!(!log.contains(secret.text.rsplit('_').next().unwrap()));
    }
    assert!(!log.contains(&lead) && !log.contains(super::deployment::PASSWORD));
}
