//! The header names of the configuration against the rules of the Envoy file: a name that stands in one alone is an error
//! that is seen, and never a header that reaches the back end.

use std::path::Path;

use serde_json::Value;

use super::cases::headers;
use super::client::Sent;
use super::harness::{Setup, Stack, clean_command, edited, shipped, wait_for};

const IDENTITY: &str = "identity: {reserved_prefixes: [x-tollgate-]}";
const BEARER: &str = "{header: authorization, scheme: Bearer}";
const API_KEY: &str = "{header: x-api-key}";

/// Each header that has a name in the configuration, under another one.
const RENAMES: [(&str, &str); 11] = [
    (BEARER, "{header: x-org-token, scheme: Bearer}"),
    (API_KEY, "{header: x-org-key}"),
    (IDENTITY, "identity: {reserved_prefixes: [x-tollgate-, x-org-], headers: {subject: x-org-subject}}"),
    (IDENTITY, "identity: {reserved_prefixes: [x-tollgate-, x-org-], headers: {project: x-org-project}}"),
    (IDENTITY, "identity: {reserved_prefixes: [x-tollgate-, x-org-], headers: {workload: x-org-workload}}"),
    (IDENTITY, "identity: {reserved_prefixes: [x-tollgate-, x-org-], headers: {key_id: x-org-key-id}}"),
    (IDENTITY, "identity: {reserved_prefixes: [x-tollgate-, x-org-], headers: {plane: x-org-plane}}"),
    (IDENTITY, "identity: {reserved_prefixes: [x-tollgate-, x-org-], headers: {permissions: x-org-permissions}}"),
    (IDENTITY, "identity: {reserved_prefixes: [x-tollgate-, x-org-], headers: {request_id: x-org-request-id}}"),
    (IDENTITY, "identity: {reserved_prefixes: [x-tollgate-, x-org-], headers: {user_id: x-org-user-id}}"),
    // What a client sends under it must be removed, though none of ours stands there.
    (IDENTITY, "identity: {reserved_prefixes: [x-tollgate-, x-org-]}"),
];

/// All of them at once.
const RENAMED: [(&str, &str); 3] = [
    (BEARER, "{header: x-org-token, scheme: Bearer}"),
    (API_KEY, "{header: x-org-key}"),
    (
        IDENTITY,
        "identity: {reserved_prefixes: [x-my.org-], headers: {subject: x-my.org-subject, project: x-my.org-project,
  workload: x-my.org-workload, key_id: x-my.org-key-id, plane: x-my.org-plane, permissions: x-my.org-permissions,
  request_id: x-my.org-request-id, user_id: x-my.org-user-id}}",
    ),
];

/// With a credential in every header that may carry one, one after the other, and a spoofed one under the new prefix.
fn request(key: &str) -> Sent {
    Sent::new("GET", "/v1/models").header("x-org-other", "evil").header("x-api-key", key)
}

#[tokio::test]
async fn a_renamed_header_that_the_rules_lack_is_an_error_and_reaches_nobody() {
    let stack = Stack::start().await;
    let key = stack.data_key().text;
    let shipped_file = std::fs::read_to_string(stack.config()).unwrap();
    let sent = |(_, to): (&str, &str)| match to {
        to if to.contains("x-org-token") => {
            Sent::new("GET", "/v1/models").header("x-org-token", &format!("Bearer {key}"))
        }
        to if to.contains("x-org-key}") => Sent::new("GET", "/v1/models").header("x-org-key", &key),
        _ => request(&key),
    };
    for rename in RENAMES {
        rewrite(&stack.config(), &edited(&shipped_file, &[rename]));
        wait_for(rename.1, async || stack.send(&sent(rename)).await.status == 500).await;
        stack.take_seen();
        assert_eq!(stack.send(&sent(rename)).await.status, 500);
        assert_eq!(stack.take_seen().len(), 0, "{rename:?}");
        let (fits, told) = compared(&stack.config(), &stack.dir.path().join("envoy.yaml"));
        assert!(!fits && told.to_string().contains("x-org-"), "{rename:?}: {told}");
        rewrite(&stack.config(), &shipped_file);
        wait_for("the shipped file", async || stack.send(&request(&key)).await.status == 200).await;
    }
}

#[tokio::test]
async fn with_the_expression_that_check_config_prints_every_header_may_be_renamed() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("tollgate.yaml");
    let text = std::fs::read_to_string(shipped().join("tollgate.yaml")).unwrap();
    rewrite(&config, &edited(&text, &RENAMED));
    let (fits, told) = compared(&config, &shipped().join("envoy.yaml"));
    assert!(!fits, "{told}");
    let expression = told["envoy"]["allow_expression"].as_str().unwrap().to_owned();
    let envoy = std::fs::read_to_string(shipped().join("envoy.yaml")).unwrap();
    let start = envoy.find("regex: \"authorization").unwrap();
    let end = start + envoy[start..].find("\"\n").unwrap() + 1;
    let edit = (&*envoy[start..end].to_owned().leak(), &*format!("regex: \"{expression}\"").leak());

    let setup = Setup { envoy_edits: vec![edit], tollgate_edits: RENAMED.to_vec(), ..Setup::default() };
    let stack = Stack::start_with(setup).await;
    let (fits, told) = compared(&stack.config(), &stack.dir.path().join("envoy.yaml"));
    assert!(fits, "{told}");
    let key = stack.data_key();
    for credential in [("x-org-key", key.text.clone()), ("x-org-token", format!("Bearer {}", key.text))] {
        let spoofed = ["x-my.org-subject", "x-my-org-plane", "X.MY.ORG.key.id", "x-my-org-other", "x!org!key"];
        let spoofed = if credential.0 == "x-org-key" { &spoofed[..4] } else { &spoofed[..] };
        let sent = Sent::new("GET", "/v1/models").header(credential.0, &credential.1);
        let sent = spoofed.iter().fold(sent, |sent, name| sent.header(name, "evil"));
        assert_eq!(stack.send(&sent).await.status, 200);
        let seen = stack.take_seen();
        let found = headers(&seen[0]);
        assert!(!found.values().any(|value| value.contains("evil") || value.contains(&key.text)), "{found:?}");
        assert_eq!(found.get("x-my.org-subject"), Some(&format!("key:{}", key.id)));
        assert_eq!(found.keys().filter(|name| name.starts_with("x-my")).count(), 6, "{found:?}");
    }
}

/// Whether `tollgate check-config --envoy` is content, and what it says.
fn compared(config: &Path, envoy: &Path) -> (bool, Value) {
    let output = clean_command(env!("CARGO_BIN_EXE_tollgate"))
        .args(["check-config", "-o", "json", "--config"])
        .arg(config)
        .arg("--envoy")
        .arg(envoy)
        .output()
        .unwrap();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{output:?}"));
    assert_eq!(output.status.code(), Some(if told["envoy"]["valid"] == true { 0 } else { 3 }), "{told}");
    (output.status.success(), told)
}

/// As an operator's tool does it: the file is whole at every moment.
fn rewrite(file: &Path, text: &str) {
    let next = file.with_extension("next");
    std::fs::write(&next, text).unwrap();
    std::fs::rename(next, file).unwrap();
}
