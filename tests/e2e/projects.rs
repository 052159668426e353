//! A project that is suspended, goes on and is deleted, through Envoy: keys, sessions and tokens of an identity provider.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::client::Sent;
use super::deployment::{CHAT, Deployment};
use super::idp::{Answer, Idp};
use super::mint::{SigningKey, jwks};

/// A token of the provider for somebody of a project.
fn token_of(key: &SigningKey, project: &str) -> String {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    key.token(&json!({"iss": "https://sso.example.com/realms/inferno", "aud": ["inferno"], "sub": "7f3a", "iat": now,
        "exp": now + 300, "tenant": project, "realm_access": {"roles": ["user"]}}))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everybody_of_a_project_is_refused_with_the_next_request_and_comes_back_with_it() {
    let signing = SigningKey::generate("k", "EdDSA");
    let idp = Idp::start(Answer::Keys(jwks([&signing]))).await;
    let inferno = Deployment::beside(&idp).await;
    let session = inferno.token_of_new("ada@example.com", "acme", &["run_inference", "manage_keys"]).await;
    let key = inferno.key(&session, &json!({"name": "app", "permissions": ["run_inference"]})).await;
    let (provided, foreign) = (token_of(&signing, "acme"), token_of(&signing, "beta"));
    let statuses = async || {
        let mut statuses = Vec::new();
        for credential in [&key.text, &session, &provided, &foreign] {
            // Twice, so that what is remembered is asked as well.
            let first = inferno.status(Sent::new("POST", CHAT).bearer(credential)).await;
            assert_eq!(inferno.status(Sent::new("POST", CHAT).bearer(credential)).await, first);
            statuses.push(first);
        }
        statuses
    };
    let turn = |verb: &str| -> Value { inferno.stack.tollgate_json(&["projects", verb, "acme", "--wait"]) };
    for round in 0..3 {
        assert_eq!(statuses().await, [200, 200, 200, 200], "{round}");
        let suspended = turn("suspend");
        assert_eq!((&suspended["state"], &suspended["fleet"]["confirmed"]), (&json!("suspended"), &json!(1)));
        inferno.stack.take_seen();
        assert_eq!(statuses().await, [401, 401, 401, 200], "{round}");
        assert_eq!(inferno.stack.take_seen().len(), 2, "the back end sees the other project alone");
        assert_eq!(turn("resume")["state"], "active");
    }
    assert_eq!(turn("delete")["state"], "deleted");
    assert_eq!(statuses().await, [401, 401, 401, 200]);
    let resumed = inferno.stack.tollgate(&["projects", "resume", "acme"]);
    assert_eq!(resumed.status.code(), Some(5));
    assert_eq!(statuses().await, [401, 401, 401, 200]);
}
