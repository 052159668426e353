//! What operators do to a running Tollgate: change its file, send it a signal, read its metrics.

use rustix::process::Signal;

use super::client::Sent;
use super::harness::{Stack, get, wait_for};

const LAST_RELOAD: &str = "tollgate_config_last_reload_successful";
const RELOADED: &str = "tollgate_config_reloads_total{result=\"ok\"}";

/// The value of a metric, by its name with its labels; absent metrics are 0.
pub async fn metric(stack: &Stack, series: &str) -> u64 {
    let Some(reply) = get(stack.ops, "/metrics").await else { return 0 };
    let text = reply.text();
    let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0, |value| value.parse().unwrap())
}

#[tokio::test]
async fn a_changed_file_takes_effect_and_a_bad_one_changes_nothing() {
    let stack = Stack::start().await;
    let key = stack.data_key();
    let models = Sent::new("GET", "/v1/models").bearer(&key.text);
    let status = async || stack.send(&models).await.status;
    let shipped = std::fs::read_to_string(stack.config()).unwrap();
    let write = |text: &str| {
        // As an operator's tool does it: the file is whole at every moment.
        let next = stack.dir.path().join("tollgate.yaml.next");
        std::fs::write(&next, text).unwrap();
        std::fs::rename(next, stack.config()).unwrap();
    };
    assert_eq!(status().await, 200);
    let without = shipped.replace("match: [GET /v1/models]", "match: [GET /v1/other-models]");
    assert_ne!(without, shipped);
    write(&without);
    wait_for("the route to be gone", async || status().await == 403).await;
    write(&shipped);
    wait_for("the route to be back", async || status().await == 200).await;
    assert_eq!(metric(&stack, LAST_RELOAD).await, 1);

    // Every one of these would take the route away, if only a part of it were used.
    for bad in [
        without.replace("realm: tollgate", "reamlt: tollgate"),
        without.replace("all_of: [run_inference]", "all_of: [run_inferense]"),
        "version: [".to_owned(),
        String::new(),
    ] {
        write(&bad);
        wait_for("the bad file to be told", async || metric(&stack, LAST_RELOAD).await == 0).await;
        assert_eq!(status().await, 200, "{bad}");
        assert_eq!(get(stack.ops, "/ready").await.unwrap().status, 200);
        write(&shipped);
        wait_for("the good file to be told", async || metric(&stack, LAST_RELOAD).await == 1).await;
    }
    let log = std::fs::read_to_string(stack.dir.path().join("tollgate.log")).unwrap();
    assert!(log.contains("the last good one stays in force"), "{log}");
    assert_eq!(status().await, 200);

    // The file is the same, so nothing but the signal can make it be read again.
    let before = metric(&stack, RELOADED).await;
    stack.signal_tollgate(Signal::HUP);
    wait_for("a reload by SIGHUP", async || metric(&stack, RELOADED).await == before + 1).await;
    assert_eq!(status().await, 200);
}
