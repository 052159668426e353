//! The admin API, door by door and route by route, in process on a store in memory. Never sends a key anywhere.

mod audit;
mod conventions;
mod doors;
mod fleet;
mod keys;
mod limits;
mod projects;
mod resources;
mod sessions;
mod users;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};
use tollgate_core::envoy_limits::EnvoyLimits;
use tollgate_core::error_body::ErrorShape;
use tollgate_core::extract::{CredentialHeader, Kinds};
use tollgate_core::login::Login;
use tollgate_core::plane::{Plane, RevokedStatus};
use tollgate_core::policy::{ClientIp, IdentityHeaders, OwnHeaders, Policy};
use tollgate_core::route::RouteTable;
use tollgate_guard::stamps::Stamps;
use tower::ServiceExt;
use zeroize::Zeroizing;

use super::{AdminState, Door, Parts, router};
use crate::backup::Backups;
use crate::clock::Clock;
use crate::config::{Admin, KeyDefaults, UnixAddress};
use crate::fleet::replicas::Replicas;
use crate::login::Logins;
use crate::password::Passwords;
use crate::pipeline::Pipeline;
use crate::registry::Registry;
use crate::resolve::Resolver;
use crate::resolve::api_key::Digester;
use crate::resolve::cache::Sizes;
use crate::resolve::last_used::LastUsed;
use crate::resolve::pepper::Pepper;
use crate::store::Store;
use crate::store::embedded::Embedded;

const KEYS: &str = "/api/v1/auth/api-keys";
const START: u64 = 1_795_000_000_000;

struct Api {
    state: AdminState,
    clock: Arc<AtomicU64>,
    door: Door,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Answer {
    fn code(&self) -> &str {
        self.body["error"]["code"].as_str().unwrap_or_default()
    }

    fn text(&self, field: &str) -> String {
        self.body[field].as_str().unwrap_or_else(|| panic!("no {field} in {}", self.body)).to_owned()
    }

    fn key_and_id(&self) -> (String, String) {
        assert_eq!(self.status, StatusCode::CREATED, "{}", self.body);
        (self.text("key"), self.text("id"))
    }

    #[track_caller]
    fn is(&self, status: u16, code: &str) {
        assert_eq!((self.status.as_u16(), self.code()), (status, code), "{}", self.body);
        assert!(self.body["error"]["message"].is_string() && self.body["error"].get("details").is_some());
    }
}

fn policy() -> Policy {
    let plane = |name: &str, prefix: &str, admin| Plane {
        name: name.into(),
        prefix: prefix.into(),
        revoked: RevokedStatus::Unauthenticated,
        admin,
        grace: Duration::ZERO,
    };
    let credential = |name: &str, scheme: Option<&str>| CredentialHeader {
        name: name.into(),
        scheme: scheme.map(Into::into),
        kinds: Kinds::ALL,
    };
    let credentials = vec![credential("authorization", Some("Bearer")), credential("x-api-key", None)];
    let identity = IdentityHeaders {
        subject: Some("x-tollgate-subject".into()),
        reserved_prefixes: vec!["x-tollgate-".into()],
        ..IdentityHeaders::none()
    };
    Policy {
        planes: vec![
            plane("data", "ik_live", false),
            plane("control", "ik_sdk", false),
            plane("admin", "ik_adm", true),
            plane("support", "ik_sup", true),
        ],
        permissions: vec!["run_inference".into(), "read_workloads".into()],
        issuers: Vec::new(),
        login: Some(Login {
            issuer: "https://api.test".into(),
            plane: "admin".into(),
            lifetime: Duration::from_secs(3600),
        }),
        own_headers: OwnHeaders::of(&credentials, &identity),
        credentials,
        identity,
        client_ip: ClientIp::Peer,
        envoy_limits: EnvoyLimits::SHIPPED,
        realm: "tollgate".into(),
        errors: ErrorShape::Tollgate,
        routes: RouteTable::build(Vec::new()).unwrap(),
    }
}

impl Api {
    fn with_defaults(key_defaults: KeyDefaults) -> Self {
        Self::of(policy(), key_defaults)
    }

    fn of(policy: Policy, key_defaults: KeyDefaults) -> Self {
        let time = Arc::new(AtomicU64::new(START));
        Self::at_time(policy, key_defaults, &time, Clock::Manual(Arc::clone(&time)))
    }

    fn at_time(policy: Policy, key_defaults: KeyDefaults, time: &Arc<AtomicU64>, clock: Clock) -> Self {
        let embedded = Arc::new(Embedded::in_memory().unwrap());
        let store = Store::Embedded(Arc::clone(&embedded));
        let pepper = Pepper::new(1, Zeroizing::new([7; 32]));
        let digester = Arc::new(Digester::new(&pepper, &[]));
        let (stamps, last_used) = (Arc::new(Stamps::sole(Clock::System)), Arc::new(LastUsed::default()));
        let sizes = Sizes { known: 1000, unknown: 100, loads: 16 };
        let resolver =
            Resolver::new(store.clone(), Arc::clone(&digester), Arc::clone(&stamps), Arc::default(), sizes, None);
        resolver.adopt(&policy);
        let signing = Arc::clone(resolver.signing());
        let pipeline = Pipeline::new(Arc::new(resolver), Arc::clone(&last_used), clock.clone());
        let backups = Backups::new(store.clone(), digester.snapshot_signer());
        let registry = Registry::new(store.clone(), digester, stamps, last_used, clock.clone());
        let replicas = Replicas::sole(embedded, clock.now());
        let logins = Logins::new(store, registry.clone(), signing, Passwords::start().unwrap(), clock.clone());
        let settings = Admin {
            unix: UnixAddress { path: "/none".into(), mode: 0o600, group: None },
            http: None,
            through_envoy: None,
            demands_proof: false,
            allowed_hosts: vec!["api.example.com".to_owned()],
            key_defaults,
        };
        let live = Arc::new(ArcSwap::from_pointee(policy));
        let state = AdminState::new(Parts { live, registry, replicas, pipeline, logins, backups, clock, settings });
        Self { state, clock: Arc::clone(time), door: Door::Socket }
    }

    fn new() -> Self {
        Self::with_defaults(KeyDefaults::default())
    }

    /// The parts of its state, to set another one in.
    fn parts(&mut self) -> &mut Parts {
        Arc::make_mut(&mut self.state.parts)
    }

    fn at(&self, door: Door) -> Self {
        Self { state: self.state.clone(), clock: Arc::clone(&self.clock), door }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        answer(router(&self.state, self.door), request).await
    }

    /// With a key, a body and nothing unusual.
    async fn call(&self, method: &str, path: &str, key: &str, body: Value) -> Answer {
        self.call_with(method, path, key, &[], body).await
    }

    async fn call_with(&self, method: &str, path: &str, key: &str, headers: &[(&str, &str)], body: Value) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost:9181");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !key.is_empty() {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        if body.is_null() {
            return self.send(request.body(Body::empty()).unwrap()).await;
        }
        let request = request.header("content-type", "application/json").body(Body::from(body.to_string()));
        self.send(request.unwrap()).await
    }

    /// As the operator, with one more header.
    async fn operate_with(&self, method: &str, path: &str, header: (&str, &str), body: Value) -> Answer {
        self.at(Door::Socket).call_with(method, path, "", &[header], body).await
    }

    /// As the operator, without a key.
    async fn operate(&self, method: &str, path: &str, body: Value) -> Answer {
        self.at(Door::Socket).call(method, path, "", body).await
    }

    async fn mint(&self, plane: &str, project: &str, permissions: &[&str]) -> (String, String) {
        let body = json!({"name": "test", "plane": plane, "project": project, "workloads": ["*"],
            "permissions": permissions});
        self.operate("POST", KEYS, body).await.key_and_id()
    }
}

async fn answer(router: Router, request: Request<Body>) -> Answer {
    let is_for_everybody = request.uri().path() == "/.well-known/jwks.json";
    let response = router.oneshot(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = to_bytes(response.into_body(), 1 << 24).await.unwrap();
    assert!(is_for_everybody || headers["cache-control"] == "no-store");
    assert!(!headers["x-request-id"].is_empty());
    let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
    Answer { status, headers, body }
}
