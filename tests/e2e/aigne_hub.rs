//! AIGNE Hub, A1 and A3, on `envoy/aigne-hub/`: bearer keys on an OpenAI-style API, one per application.

use super::cases::headers;
use super::client::Sent;
use super::harness::{Key, Setup, Stack};

async fn start() -> Stack {
    Stack::start_with(Setup { folder: "aigne-hub", ..Setup::default() }).await
}

fn app_key(stack: &Stack, name: &str) -> Key {
    let more = ["--name", name];
    let arguments = ["keys", "create", "--plane", "apps", "--project", "hub", "--workloads", "*", "--permissions"];
    Key::of(&stack.tollgate_json(&[&arguments[..], &["run_inference,read_models"], &more].concat()))
}

fn chat(key: &Key) -> Sent {
    Sent::new("POST", "/api/v1/chat/completions")
        .bearer(&key.text)
        .header("content-type", "application/json")
        .body(r#"{"model":"aignehub/gpt-3.5-turbo","messages":[{"role":"user","content":"Hello"}]}"#)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a1_a_bearer_key_calls_an_openai_style_api() {
    let stack = start().await;
    let key = app_key(&stack, "chat widget");
    let reply = stack.send(&chat(&key)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    assert_eq!(reply.json()["model"], "aignehub/gpt-3.5-turbo");
    let seen = headers(&stack.take_seen()[0]);
    assert_eq!(seen["x-tollgate-subject"], format!("key:{}", key.id));
    assert!(!seen.contains_key("authorization"));

    let stream = chat(&key).body(r#"{"model":"aignehub/gpt-3.5-turbo","stream":true}"#);
    let reply = stack.send_h2(&stream).await;
    assert_eq!((reply.status, reply.header("content-type").as_deref()), (200, Some("text/event-stream")));
    assert!(reply.text().ends_with("data: [DONE]\n\n"));

    let models = stack.send(&Sent::new("GET", "/api/v1/models").bearer(&key.text)).await;
    assert_eq!(models.json()["data"][0]["id"], "aignehub/gpt-3.5-turbo");

    // Refusals are what OpenAI's clients understand, on unknown routes too.
    stack.take_seen();
    let reply = stack.send(&Sent::new("POST", "/api/v1/chat/completions")).await;
    let error = &reply.json()["error"];
    assert_eq!((reply.status, error["code"].as_str()), (401, Some("invalid_api_key")), "{}", reply.text());
    assert!(["message", "type", "param", "code"].iter().all(|field| error.get(field).is_some()));
    let reply = stack.send(&Sent::new("POST", "/api/v1/images").bearer(&key.text)).await;
    assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (403, Some("insufficient_permissions")));
    let infer = Sent::grpc("/inference.GRPCInferenceService/ModelInfer", b"\x0a\x01m");
    let reply = stack.send_h2(&infer).await;
    assert_eq!(reply.header("grpc-status").as_deref(), Some("16"));
    assert!(reply.header("grpc-message").is_some_and(|text| text.starts_with("No credential was presented")));
    assert!(stack.take_seen().is_empty());
    let reply = stack.send_h2(&infer.bearer(&key.text)).await;
    assert_eq!(reply.header("grpc-status").as_deref(), Some("0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a3_each_application_has_its_key_and_loses_only_that() {
    let stack = start().await;
    let (widget, batch) = (app_key(&stack, "chat widget"), app_key(&stack, "batch job"));
    let status = async |key: &Key| stack.send(&chat(key)).await.status;
    let new = stack.rotate(&widget, "1h");
    assert_eq!((status(&widget).await, status(&new).await, status(&batch).await), (200, 200, 200));
    stack.revoke(&widget);
    assert_eq!((status(&widget).await, status(&new).await, status(&batch).await), (401, 200, 200));
    stack.revoke(&new);
    assert_eq!((status(&new).await, status(&batch).await), (401, 200));
    let list = stack.tollgate_json(&["keys", "list"]);
    let states: Vec<_> = list["keys"].as_array().unwrap().iter().map(|key| key["state"].as_str().unwrap()).collect();
    assert_eq!(states.iter().filter(|state| **state == "revoked").count(), 2);
    assert_eq!(states.iter().filter(|state| **state == "active").count(), 1);
}
