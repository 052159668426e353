//! A policy with an issuer, the pipeline over an empty store, and what an honest token says.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tollgate::clock::Clock;
use tollgate::config;
use tollgate::resolve::api_key::Digester;
use tollgate::resolve::cache::Sizes;
use tollgate::resolve::pepper::Pepper;
use tollgate::run::Core;
use tollgate::store::Store;
use tollgate::store::embedded::Embedded;
use tollgate_core::attributes::{Attributes, Header};
use tollgate_core::denial::Denial;
use tollgate_core::policy::Policy;
use tollgate_core::respond::Decision;
use zeroize::Zeroizing;

/// The time in every test, in seconds.
pub const NOW: u64 = 1_795_000_000;
pub const ISSUER: &str = "https://sso.example.com/realms/inference";
pub const LEEWAY: u64 = 5;

const REST: &str = "
version: 1
store: {embedded: {path: s}}
pepper: {current: 1, keys: {1: {file: p}}}
listen: {check: {unix: {path: c}}, admin: {unix: {path: a}}, ops: {http: 127.0.0.1:0}}
permissions: [run, read, tune]
hosts:
  - match: [api.test]
    routes:
      - {name: data, match: [POST /data], plane: data, all_of: [run], in: {project: key}}
      - {name: admin, match: [POST /admin], plane: admin, all_of: [manage_keys], in: {project: key}, credential: keep}
      - {name: keys, match: [POST /keys], plane: data, all_of: [run], in: {project: key}, credentials: [api_key]}
";

/// What decides, and its clock.
pub struct World {
    pub policy: Policy,
    pub core: Core,
    now: Arc<AtomicU64>,
}

impl World {
    /// With one issuer, whose keys are at `jwks`, such as `{file: /keys}`; `more` are further settings of it.
    pub fn new(jwks: &str, more: &str) -> Self {
        let issuer = format!(
            "issuers:
  - name: sso
    issuer: {ISSUER}
    audience: [tollgate, inference]
    jwks: {jwks}
    algorithms: [RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA]
    plane: data
    leeway_seconds: {LEEWAY}
    project: \"{{tenant}}\"
    unknown_projects: allow
    workloads: [\"*\"]
    permissions: [\"{{scope}}\"]
{more}
"
        );
        Self::of(&issuer)
    }

    /// With the issuers that this part of a configuration says.
    pub fn of(issuers: &str) -> Self {
        let policy = config::parse(&format!("{REST}{issuers}")).unwrap().policy;
        let store = Store::Embedded(Arc::new(Embedded::in_memory().unwrap()));
        let digester = Digester::new(&Pepper::new(1, Zeroizing::new([7; 32])), &[]);
        let now = Arc::new(AtomicU64::new(NOW * 1000));
        let sizes = Sizes { known: 100_000, unknown: 100, loads: 16 };
        let core = Core::new(store, digester, sizes, Clock::Manual(Arc::clone(&now)));
        core.resolver.adopt(&policy);
        Self { policy, core, now }
    }

    /// With these keys in a file, which has been read.
    pub async fn with_keys(folder: &Path, keys: &Value, witness: &str) -> Self {
        let file = folder.join("jwks.json");
        std::fs::write(&file, keys.to_string()).unwrap();
        let world = Self::new(&format!("{{file: {}}}", file.display()), "");
        world.wait_for(witness, None).await;
        world
    }

    pub fn clock(&self) -> Clock {
        Clock::Manual(Arc::clone(&self.now))
    }

    pub fn set_now(&self, seconds: u64) {
        self.now.store(seconds * 1000, Ordering::SeqCst);
    }

    /// Whether the token may `POST /data`, and if not, why.
    pub async fn denial(&self, token: &str) -> Option<Denial> {
        self.denial_at("/data", token).await
    }

    pub async fn denial_at(&self, path: &str, token: &str) -> Option<Denial> {
        let bearer = format!("Bearer {token}");
        self.decide(path, &bearer, |decision| match decision {
            Decision::Allow(_) => None,
            Decision::Deny(deny) => Some(deny.denial),
        })
        .await
    }

    pub async fn decide<T>(&self, path: &str, authorization: &str, look: impl FnOnce(&Decision<'_>) -> T) -> T {
        let request = Attributes {
            method: "POST",
            target: path,
            host: "api.test",
            headers: vec![Header::new("authorization", authorization.as_bytes())],
            ..Attributes::default()
        };
        look(&self.core.pipeline.decide(&self.policy, &request).await)
    }

    /// Waits until the token is answered like this.
    pub async fn wait_for(&self, token: &str, denial: Option<Denial>) {
        let begun = std::time::Instant::now();
        loop {
            let found = self.denial(token).await;
            if found == denial {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{found:?} instead of {denial:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// What an honest token says.
pub fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": "tollgate", "sub": "ada", "iat": NOW - 10, "nbf": NOW - 10, "exp": NOW + 300,
        "tenant": "acme", "scope": "openid run read",
    })
}

/// The same, but for some claims; null takes one away.
pub fn claims_with(changes: &Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => claims.as_object_mut().unwrap().remove(name),
            value => claims.as_object_mut().unwrap().insert(name.clone(), value.clone()),
        };
    }
    claims
}
