//! Inferno, as far as API keys go: the `X-API-Key` half of F1, the administration of keys (F3) and the shape of errors (F7).

use serde_json::{Value, json};

use super::client::{Reply, Sent};
use super::harness::{Key, Stack, wait_for};

const CALL: &str = "/endpoint/acme/chat/run";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f1_x_api_key_works_like_bearer() {
    let stack = Stack::start().await;
    let key = stack.data_key();
    for name in ["X-API-Key", "x-api-key", "X-Api-Key"] {
        assert_eq!(stack.send(&Sent::new("POST", CALL).header(name, &key.text)).await.status, 200, "{name}");
    }
    for seen in stack.take_seen() {
        let headers = super::cases::headers(&seen);
        assert_eq!(headers["x-tollgate-subject"], format!("key:{}", key.id));
        assert!(!headers.contains_key("x-api-key"));
    }
    let both = Sent::new("POST", CALL).header("x-api-key", &key.text).bearer(&key.text);
    assert_eq!(stack.send(&both).await.status, 400);
    stack.revoke(&key);
    assert_eq!(stack.send(&Sent::new("POST", CALL).header("X-API-Key", &key.text)).await.status, 401);
    assert!(stack.take_seen().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f3_an_administrator_makes_and_deletes_keys_through_envoy() {
    const KEYS: &str = "/api/v1/auth/api-keys";
    let stack = Stack::start().await;
    let admin = stack.bootstrap();
    assert!(admin.text.starts_with("ik_adm_"));
    let make = |key: &Key, body: &Value| {
        Sent::new("POST", KEYS).bearer(&key.text).header("content-type", "application/json").body(body.to_string())
    };
    let wanted = json!({"name": "chat front end", "permissions": ["run_inference"], "expires_in_days": 30});
    let reply = stack.send(&make(&admin, &wanted)).await;
    assert_eq!(reply.status, 201, "{}", reply.text());
    assert_eq!(reply.header("cache-control").as_deref(), Some("no-store"));
    let made = reply.json();
    let (key, id) = (made["key"].as_str().unwrap(), made["id"].as_str().unwrap());
    assert!(made["expires_at"].as_str().is_some_and(|end| end.ends_with('Z')), "{made}");
    let status = async |request: Sent| stack.send(&request).await.status;
    assert_eq!(status(Sent::new("POST", CALL).bearer(key)).await, 200);

    let show = Sent::new("GET", &format!("{KEYS}/{id}")).bearer(&admin.text);
    let shown = stack.send(&show).await;
    assert_eq!((shown.status, shown.json()["name"].as_str()), (200, Some("chat front end")));
    assert!(!shown.text().contains(key));

    // Nobody else, and nothing that the policy does not know.
    for other in [stack.data_key(), stack.control_key()] {
        assert_eq!(status(make(&other, &wanted)).await, 403);
    }
    assert_eq!(status(Sent::new("POST", KEYS).body(wanted.to_string())).await, 401);
    let unknown = stack.send(&make(&admin, &json!({"name": "x", "permissions": ["fly"]}))).await;
    assert_eq!((unknown.status, unknown.json()["error"]["code"].as_str()), (400, Some("VALIDATION_ERROR")));
    // Identity headers are believed by nobody here.
    let made_up = Sent::new("GET", KEYS).header("x-tollgate-subject", "key:evil").header("x-tollgate-plane", "admin");
    assert_eq!(status(made_up).await, 401);

    let delete = Sent::new("DELETE", &format!("{KEYS}/{id}")).bearer(&admin.text);
    assert_eq!(status(delete).await, 200);
    assert_eq!(status(Sent::new("POST", CALL).bearer(key)).await, 401);
    assert_eq!(stack.take_seen().len(), 1, "the back end saw the one call and nothing of the administration");
    stack.revoke(&admin);
    assert_eq!(status(make(&admin, &wanted)).await, 401);
}

/// The status and `error`, once the body has turned out to have exactly the shape it must have.
fn error(reply: &Reply) -> (u16, Value) {
    let body = reply.json();
    let object = body.as_object().unwrap_or_else(|| panic!("{reply:?}"));
    assert_eq!(object.keys().collect::<Vec<_>>(), ["error"]);
    let error = object["error"].as_object().unwrap();
    assert_eq!(error.keys().collect::<Vec<_>>(), ["code", "message", "details"]);
    assert!(error["message"].as_str().is_some_and(|text| text.ends_with(['.', '?'])), "{error:?}");
    (reply.status, body["error"].clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn f7_errors_have_one_shape() {
    let mut stack = Stack::start().await;
    let (data, reader) = (stack.data_key(), stack.create_key("data", "acme", "*", "read_models", &[]));
    let call = || Sent::new("POST", CALL);
    let (status, missing) = error(&stack.send(&call()).await);
    assert_eq!((status, &missing["code"]), (401, &json!("AUTHENTICATION_FAILED")));
    assert_eq!(missing["details"]["accepted"], json!(["authorization: Bearer KEY", "x-api-key: KEY"]));
    let unknown = tollgate_core::credential::MintedKey::generate("ik_live", getrandom::fill).unwrap();
    let (status, invalid) = error(&stack.send(&call().bearer(unknown.expose())).await);
    assert_eq!((status, &invalid["code"], &invalid["details"]), (401, &json!("AUTHENTICATION_FAILED"), &Value::Null));
    let (status, denied) = error(&stack.send(&call().bearer(&reader.text)).await);
    assert_eq!((status, &denied["code"]), (403, &json!("PERMISSION_DENIED")));
    assert_eq!(denied["details"], json!({"all_of": ["run_inference"]}));
    let (status, twice) = error(&stack.send(&call().bearer(&data.text).header("x-api-key", &data.text)).await);
    assert_eq!((status, &twice["code"], &twice["details"]), (400, &json!("VALIDATION_ERROR"), &Value::Null));
    let (status, route) = error(&stack.send(&Sent::new("GET", "/nowhere")).await);
    assert_eq!((status, &route["code"]), (403, &json!("PERMISSION_DENIED")));
    // A revoked key reads like one that never was.
    stack.revoke(&data);
    assert_eq!(error(&stack.send(&call().bearer(&data.text)).await), (401, invalid));

    // Without Tollgate nothing passes, public routes included, and it is never a 401 or a 403.
    stack.take_seen();
    stack.terminate_tollgate();
    stack.tollgate_ended().await;
    for request in [call(), call().bearer(&reader.text), Sent::new("GET", "/healthz")] {
        assert_eq!(stack.send(&request).await.status, 503);
    }
    assert!(stack.take_seen().is_empty());
    stack.start_next_tollgate();
    stack.ready().await;
    wait_for("service again", async || stack.send(&Sent::new("GET", "/healthz")).await.status == 200).await;
}

/// Envoy's access log says what was decided and why, and holds no credential.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_log_tells_decisions_and_no_secrets() {
    let stack = Stack::start().await;
    let key = stack.data_key();
    let allowed = stack.send(&Sent::new("POST", "/endpoint/acme/chat/run?token=in-the-query").bearer(&key.text)).await;
    let denied = stack.send(&Sent::new("POST", "/endpoint/beta/chat/run").header("x-api-key", &key.text)).await;
    let ids = [&allowed, &denied].map(|reply| reply.header("x-request-id").unwrap());
    let log = stack.dir.path().join("envoy.log");
    let mut lines = Vec::new();
    wait_for("the access log", async || {
        let text = std::fs::read_to_string(&log).unwrap();
        lines = ids
            .iter()
            .filter_map(|id| text.lines().find(|line| line.contains(id.as_str())).map(str::to_owned))
            .collect();
        lines.len() == ids.len()
    })
    .await;
    let parsed: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let expected = [
        json!({"decision": "allow", "rule": "infer", "status": 200, "path": CALL, "project": "acme"}),
        json!({"decision": "deny", "rule": "infer", "status": 403, "reason": "project_out_of_scope"}),
    ];
    for (line, expected) in parsed.iter().zip(&expected) {
        for (field, value) in expected.as_object().unwrap() {
            assert_eq!(&line[field], value, "{line}");
        }
        assert_eq!(line["key_id"], *key.id, "{line}");
        assert_eq!(line["client_ip"], "127.0.0.1");
    }
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(!text.contains(&key.text) && !text.contains("in-the-query"));
}
