//! InferenceKey, K1 to K7, on `envoy/inferencekey/`: one kind of token per plane.

use std::process::Output;

use super::backend::Seen;
use super::cases::headers;
use super::client::{Reply, Sent};
use super::harness::{Key, Setup, Stack, clean_command, wait_for};

async fn start() -> Stack {
    let stack = Stack::start_with(Setup { folder: "inferencekey", ..Setup::default() }).await;
    stack.put_resource("w-chat", "acme", "chat");
    stack.put_resource("w-embed", "acme", "embed");
    stack.put_resource("w-beta", "beta", "llama");
    stack
}

async fn status(stack: &Stack, method: &str, path: &str, key: &Key) -> u16 {
    stack.send(&Sent::new(method, path).bearer(&key.text)).await.status
}

/// The only request that the back end saw, with a header of it.
fn saw(seen: &[Seen], header: &str) -> Option<String> {
    let [seen] = seen else { panic!("the back end saw {seen:?}") };
    headers(seen).get(header).cloned()
}

fn infer() -> Sent {
    Sent::grpc("/inference.GRPCInferenceService/ModelInfer", b"\x0a\x05llama")
}

fn grpc_status(reply: &Reply) -> Option<String> {
    assert_eq!(reply.status, 200, "gRPC errors are HTTP 200");
    reply.header("grpc-status")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k1_the_prefix_tells_the_plane() {
    let stack = start().await;
    let (data, control) = (stack.data_key(), stack.control_key());
    assert!(data.text.starts_with("ik_live_") && control.text.starts_with("ik_sdk_"));
    assert_eq!(status(&stack, "POST", "/endpoint/acme/chat/run", &data).await, 200);
    assert_eq!(saw(&stack.take_seen(), "x-tollgate-plane").as_deref(), Some("data"));
    assert_eq!(status(&stack, "POST", "/api/projects/acme/workloads", &control).await, 201);
    assert_eq!(saw(&stack.take_seen(), "x-tollgate-plane").as_deref(), Some("control"));
    // A prefix that was exchanged by hand is no key at all.
    for (from, to, path) in
        [("ik_live", "ik_sdk", "/api/projects/acme/workloads"), ("ik_sdk", "ik_live", "/endpoint/acme/chat/run")]
    {
        let key = if from == "ik_live" { &data } else { &control };
        let swapped = Key { text: key.text.replace(from, to), ..key.clone() };
        assert_eq!(status(&stack, "POST", path, &swapped).await, 401);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k2_no_plane_does_the_other_ones_work() {
    let stack = start().await;
    let (data, control) = (stack.data_key(), stack.control_key());
    for (method, path, key) in [
        ("POST", "/api/projects/acme/workloads", &data),
        ("GET", "/api/projects/acme/workloads", &data),
        ("GET", "/api/workloads/w-chat", &data),
        ("PATCH", "/api/workloads/w-chat", &data),
        ("DELETE", "/api/workloads/w-chat", &data),
        ("POST", "/endpoint/acme/chat/run", &control),
        ("POST", "/endpoint/acme/chat/v1/chat/completions", &control),
    ] {
        assert_eq!(status(&stack, method, path, key).await, 403, "{method} {path}");
    }
    let reply = stack.send_h2(&infer().bearer(&control.text)).await;
    assert_eq!(grpc_status(&reply).as_deref(), Some("7"));
    assert!(stack.take_seen().is_empty(), "none of it reached the back end");
    // It is not a matter of what a key is given: a data key cannot be minted with more than its plane's routes take.
    let greedy = stack.create_key("data", "acme", "*", "run_inference,delete_workloads", &[]);
    assert_eq!(status(&stack, "DELETE", "/api/workloads/w-chat", &greedy).await, 403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k2_prompts_are_read_with_a_data_key_alone() {
    let stack = start().await;
    let (data, control) = (stack.data_key(), stack.control_key());
    assert_eq!(status(&stack, "GET", "/endpoint/acme/chat/prompts", &data).await, 200);
    let seen = stack.take_seen();
    assert_eq!(saw(&seen, "x-tollgate-workload").as_deref(), Some("chat"));
    let foreign = stack.create_key("data", "acme", "embed", "run_inference", &[]);
    for (path, key) in [
        ("/endpoint/acme/chat/prompts", &control),
        ("/endpoint/acme/embed/prompts", &control),
        ("/endpoint/beta/llama/prompts", &control),
        ("/endpoint/acme/chat/prompts", &foreign),
        ("/endpoint/beta/llama/prompts", &data),
    ] {
        assert_eq!(status(&stack, "GET", path, key).await, 403, "{path}");
    }
    assert!(stack.take_seen().is_empty(), "none of it reached the back end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k3_a_data_key_is_for_one_workload_or_the_whole_project() {
    let stack = start().await;
    let all = stack.data_key();
    let one = stack.create_key("data", "acme", "chat", "run_inference", &[]);
    for (path, by_all, by_one) in [
        ("/endpoint/acme/chat/run", 200, 200),
        ("/endpoint/acme/embed/run", 200, 403),
        ("/endpoint/acme/not-yet-there/run", 200, 403),
        ("/endpoint/beta/llama/run", 403, 403),
        ("/endpoint/beta/chat/run", 403, 403),
    ] {
        assert_eq!(status(&stack, "POST", path, &all).await, by_all, "{path}");
        assert_eq!(status(&stack, "POST", path, &one).await, by_one, "{path}");
    }
    stack.take_seen();
    let reply = stack.send_h2(&infer().bearer(&one.text)).await;
    assert_eq!(grpc_status(&reply).as_deref(), Some("0"));
    assert_eq!(saw(&stack.take_seen(), "x-tollgate-workload").as_deref(), Some("chat"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k4_a_control_key_provisions_in_one_project() {
    let stack = start().await;
    let control = stack.control_key();
    for (method, path, expected) in [
        ("POST", "/api/projects/acme/workloads", 201),
        ("GET", "/api/projects/acme/workloads", 200),
        ("GET", "/api/workloads/w-chat", 200),
        ("PATCH", "/api/workloads/w-chat", 200),
        ("DELETE", "/api/workloads/w-embed", 200),
    ] {
        assert_eq!(status(&stack, method, path, &control).await, expected, "{method} {path}");
        assert_eq!(saw(&stack.take_seen(), "x-tollgate-project").as_deref(), Some("acme"));
    }
    // Another project, by its name and by an id that only the registry knows to be elsewhere.
    let mut refusals = Vec::new();
    for (method, path) in [
        ("POST", "/api/projects/beta/workloads"),
        ("GET", "/api/projects/beta/workloads"),
        ("GET", "/api/workloads/w-beta"),
        ("PATCH", "/api/workloads/w-beta"),
        ("DELETE", "/api/workloads/w-beta"),
        ("DELETE", "/api/workloads/w-nowhere"),
    ] {
        let reply = stack.send(&Sent::new(method, path).bearer(&control.text)).await;
        assert_eq!(reply.status, 403, "{method} {path}");
        refusals.push(reply.text());
    }
    assert!(stack.take_seen().is_empty());
    assert_eq!(refusals[4], refusals[5], "a foreign id reads like an unknown one");
    // A workload that changes hands changes who may touch it, with the next request.
    stack.tollgate_json(&["resources", "put", "workload:w-chat", "--project", "beta", "--slug", "chat", "--move"]);
    assert_eq!(status(&stack, "PATCH", "/api/workloads/w-chat", &control).await, 403);
    stack.tollgate_json(&["resources", "put", "workload:w-beta", "--project", "acme", "--slug", "llama", "--move"]);
    assert_eq!(status(&stack, "PATCH", "/api/workloads/w-beta", &control).await, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k5_a_secret_is_shown_once_and_kept_nowhere() {
    let stack = start().await;
    let (data, control) = (stack.data_key(), stack.control_key());
    assert_eq!(status(&stack, "POST", "/endpoint/acme/chat/run", &data).await, 200);
    assert_eq!(status(&stack, "POST", "/endpoint/acme/chat/run", &control).await, 403);
    let shown = [&["keys", "show", &data.id][..], &["keys", "list"], &["keys", "show", &control.id, "-o", "json"]]
        .map(|arguments| stack.tollgate(arguments));
    // A lost key is rotated: the answer has the new one, and not the old one.
    let new = stack.rotate(&data, "1h");
    assert_ne!(new.text, data.text);
    assert_eq!(status(&stack, "POST", "/endpoint/acme/chat/run", &new).await, 200);
    wait_for("the access log", async || {
        let log = std::fs::read_to_string(stack.dir.path().join("envoy.log")).unwrap();
        log.matches("\"decision\"").count() >= 3
    })
    .await;

    let mut places: Vec<(String, Vec<u8>)> = shown
        .into_iter()
        .map(|Output { stdout, stderr, .. }| ("the command line".to_owned(), [stdout, stderr].concat()))
        .collect();
    for file in std::fs::read_dir(stack.dir.path()).unwrap() {
        let path = file.unwrap().path();
        if path.is_file() {
            places.push((path.display().to_string(), std::fs::read(path).unwrap()));
        }
    }
    assert!(places.len() >= 7, "store, pepper, two configurations and two logs are there: {}", places.len());
    for key in [&data, &control, &new] {
        // The 43 characters of secret, without prefix and id.
        let secret = key.text.rsplit('_').next().unwrap().as_bytes();
        for (place, bytes) in &places {
            assert!(!bytes.windows(20).any(|window| window == &secret[..20]), "{place} has a part of a secret");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k6_rotation_overlaps_and_revocation_is_at_once() {
    let stack = start().await;
    let (data_path, control_path) = ("/endpoint/acme/chat/run", "/api/projects/acme/workloads");
    for (key, path, works, over) in
        [(stack.data_key(), data_path, 200, 401), (stack.control_key(), control_path, 201, 403)]
    {
        assert_eq!(status(&stack, "POST", path, &key).await, works);
        // The replacement is there first, and both work.
        let new = stack.rotate(&key, "24h");
        assert_eq!(status(&stack, "POST", path, &new).await, works);
        assert_eq!(status(&stack, "POST", path, &key).await, works);
        // Then the old one is revoked: the very next request is refused, and the new key goes on.
        stack.revoke(&key);
        assert_eq!(status(&stack, "POST", path, &key).await, over);
        assert_eq!(status(&stack, "POST", path, &new).await, works);
        stack.revoke(&new);
        assert_eq!(status(&stack, "POST", path, &new).await, over);
    }
    let gone = stack.data_key();
    stack.revoke(&gone);
    let reply = stack.send_h2(&infer().bearer(&gone.text)).await;
    assert_eq!(grpc_status(&reply).as_deref(), Some("16"));
    assert_eq!(reply.header("grpc-message").as_deref(), Some("The credential is not valid."));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn k7_a_flag_wins_over_the_environment_and_that_over_the_file() {
    let stack = start().await;
    let right = stack.dir.path().join("admin.sock");
    let wrong = stack.dir.path().join("nobody.sock");
    let wrong_file = stack.dir.path().join("wrong.yaml");
    let text = std::fs::read_to_string(stack.config()).unwrap();
    std::fs::write(&wrong_file, text.replace("admin.sock", "nobody.sock")).unwrap();
    let run = |flag: Option<&std::path::Path>, variable: Option<&std::path::Path>, file: &std::path::Path| {
        let mut command = clean_command(env!("CARGO_BIN_EXE_tollgate"));
        command.args(["keys", "list", "-o", "json"]).env("TOLLGATE_CONFIG", file);
        flag.map(|path| command.arg("--socket").arg(path));
        variable.map(|path| command.env("TOLLGATE_SOCKET", path));
        command.output().unwrap().status.success()
    };
    assert!(run(None, None, &stack.config()), "the file alone");
    assert!(!run(None, None, &wrong_file));
    assert!(run(None, Some(&right), &wrong_file), "the environment wins over the file");
    assert!(!run(None, Some(&wrong), &stack.config()));
    assert!(run(Some(&right), Some(&wrong), &wrong_file), "the flag wins over both");
    assert!(!run(Some(&wrong), Some(&right), &stack.config()));
}
