//! The Inferno example as it runs: its users, their tokens and their keys. Goes through Envoy for all that the example shows
//! there; only users and the audit log are behind the admin API's own door.

use serde_json::{Value, json};

use super::client::{Reply, Sent, http1};
use super::harness::{Key, Setup, Stack};
use super::idp::Idp;

pub const PASSWORD: &str = "correct horse battery";
pub const LOGIN: &str = "/api/v1/auth/login";
pub const LOGOUT: &str = "/api/v1/auth/logout";
pub const WHOAMI: &str = "/api/v1/auth/whoami";
pub const KEYS: &str = "/api/v1/auth/api-keys";
pub const CHAT: &str = "/v1/chat/completions";

pub struct Deployment {
    pub stack: Stack,
    /// The bootstrapped key, which may do everything.
    pub root: Key,
}

impl Deployment {
    /// As it is shipped.
    pub async fn start() -> Self {
        Self::with(Setup::default()).await
    }

    /// With the identity provider that the example offers.
    pub async fn beside(idp: &Idp) -> Self {
        Self::with(Setup { identity_provider: Some(idp.url()), ..Setup::default() }).await
    }

    pub async fn with(setup: Setup) -> Self {
        let stack = Stack::start_with(Setup { folder: "inferno", ..setup }).await;
        let root = stack.bootstrap();
        Self { stack, root }
    }

    /// Asks the admin API at its own door, with the key that may do everything.
    pub async fn administer(&self, request: Sent) -> Reply {
        http1(self.stack.admin, &request.bearer(&self.root.text)).await
    }

    /// Makes a user, whose password is [`PASSWORD`].
    pub async fn user(&self, name: &str, project: &str, permissions: &[&str]) {
        let user = json!({"name": name, "password": PASSWORD, "project": project, "permissions": permissions});
        let reply = self.administer(Sent::new("POST", "/api/v1/users").json(&user)).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
    }

    pub async fn change_user(&self, name: &str, change: &Value) {
        let request = Sent::new("PATCH", &format!("/api/v1/users/{name}")).header("if-match", "*").json(change);
        let reply = self.administer(request).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
    }

    /// The rows of the audit log that a filter finds, newest first.
    pub async fn audit(&self, filter: &str) -> Vec<Value> {
        let reply = self.administer(Sent::new("GET", &format!("/api/v1/audit?{filter}"))).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["entries"].as_array().unwrap().clone()
    }

    pub async fn login(&self, name: &str, password: &str) -> Reply {
        self.stack.send(&login(name, password)).await
    }

    /// A new token of a user.
    pub async fn token(&self, name: &str) -> String {
        let reply = self.login(name, PASSWORD).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        reply.json()["token"].as_str().unwrap().to_owned()
    }

    /// Makes a user and logs in.
    pub async fn token_of_new(&self, name: &str, project: &str, permissions: &[&str]) -> String {
        self.user(name, project, permissions).await;
        self.token(name).await
    }

    /// Makes a key as the holder of a token; the answer must show it.
    pub async fn key(&self, token: &str, asked: &Value) -> Key {
        let reply = self.stack.send(&Sent::new("POST", KEYS).bearer(token).json(asked)).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        Key::of(&reply.json())
    }

    pub async fn status(&self, request: Sent) -> u16 {
        self.stack.send(&request).await.status
    }

    /// What the credential is told when it calls inference.
    pub async fn call(&self, bearer: &str) -> u16 {
        self.status(Sent::new("POST", CHAT).bearer(bearer)).await
    }
}

pub fn login(name: &str, password: &str) -> Sent {
    Sent::new("POST", LOGIN).json(&json!({"username": name, "password": password}))
}

/// The status and the `code` of an answer whose body must be the one shape of errors.
pub fn refusal(reply: &Reply) -> (u16, String) {
    let body = reply.json();
    let error = body["error"].as_object().unwrap_or_else(|| panic!("no error: {reply:?}"));
    assert_eq!(error.keys().collect::<Vec<_>>(), ["code", "message", "details"]);
    (reply.status, error["code"].as_str().unwrap_or_default().to_owned())
}
