//! A check service over a store in memory, for the tests of this room.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};
use tollgate_core::envoy_limits::EnvoyLimits;
use tollgate_core::error_body::ErrorShape;
use tollgate_core::extract::{CredentialHeader, Kinds};
use tollgate_core::pattern::PathPattern;
use tollgate_core::plane::{Plane, PlaneId, RevokedStatus};
use tollgate_core::policy::{ClientIp, IdentityHeaders, OwnHeaders, Policy};
use tollgate_core::route::{Access, HostRules, ProjectOf, Requirement, Route, RouteTable, Scope, WorkloadOf};
use tollgate_guard::stamps::Stamps;
use zeroize::Zeroizing;

use super::ext_authz::CheckService;
use crate::clock::Clock;
use crate::pipeline::Pipeline;
use crate::registry::{Actor, KeySpec, Registry};
use crate::resolve::Resolver;
use crate::resolve::api_key::Digester;
use crate::resolve::cache::Sizes;
use crate::resolve::last_used::LastUsed;
use crate::resolve::pepper::Pepper;
use crate::store::Store;
use crate::store::embedded::Embedded;
use crate::telemetry::Telemetry;

/// The pieces that tests look at.
pub struct Fixture {
    pub service: CheckService,
    pub store: Store,
    pub resolver: Arc<Resolver>,
    pub stamps: Arc<Stamps>,
    pub telemetry: Arc<Telemetry>,
    /// Allowed on [`PATH`].
    pub key: String,
}

pub const PATH: &str = "/v1/chat/completions";
/// A guarded path of our own API, whose route keeps the credential.
pub const OUR_PATH: &str = "/api/v1/auth/ours";
/// A guarded path beside it whose route does not.
pub const NOT_OUR_PATH: &str = "/api/v1/auth/not-ours";
/// A guarded path whose rule is broken: judging a key there panics.
pub const BROKEN_PATH: &str = "/broken";

impl Fixture {
    pub async fn new() -> Self {
        let store = Store::Embedded(Arc::new(Embedded::in_memory().unwrap()));
        let digester = Arc::new(Digester::new(&Pepper::new(1, Zeroizing::new([7; 32])), &[]));
        let (stamps, last_used) = (Arc::new(Stamps::sole(Clock::System)), Arc::new(LastUsed::default()));
        let sizes = Sizes { known: 1000, unknown: 100, loads: 16 };
        let resolver = Arc::new(Resolver::new(
            store.clone(),
            Arc::clone(&digester),
            Arc::clone(&stamps),
            Arc::default(),
            sizes,
            None,
        ));
        let pipeline = Pipeline::new(Arc::clone(&resolver), Arc::clone(&last_used), Clock::System);
        let registry = Registry::new(store.clone(), digester, Arc::clone(&stamps), last_used, Clock::System);
        let telemetry = Arc::new(Telemetry::new(None).unwrap());
        let policy = policy();
        let spec = KeySpec {
            name: "test".into(),
            plane: "data".into(),
            project: "acme".into(),
            workloads: vec!["*".into()],
            permissions: vec!["run_inference".into()],
            expires_in: None,
        };
        let key = registry.create_key(&policy, &Actor::operator(), spec, None).await.unwrap();
        let live = Arc::new(ArcSwap::from_pointee(policy));
        telemetry.adopt(&live.load_full());
        let service = CheckService::new(live, pipeline, Arc::clone(&telemetry));
        Self { service, store, resolver, stamps, telemetry, key: key.secret.expose().to_owned() }
    }
}

fn policy() -> Policy {
    let credential = |name: &str, scheme: Option<&str>| CredentialHeader {
        name: name.into(),
        scheme: scheme.map(Into::into),
        kinds: Kinds::ALL,
    };
    let name = |name: &str| Some(format!("x-tollgate-{name}").into());
    let route = |name: &str, path: &str, plane, keep_credential| {
        let requirement = Requirement {
            plane,
            all_of: vec!["run_inference".into()],
            any_of: Vec::new(),
            scope: Scope::Project { project: ProjectOf::Key, workload: WorkloadOf::Key },
            browsers: false,
            kinds: Kinds::ALL,
        };
        let route = Route {
            name: name.into(),
            access: Access::Guarded(requirement),
            errors: ErrorShape::Tollgate,
            keep_credential,
        };
        (route, vec![("POST".to_owned(), PathPattern::parse(path).unwrap())])
    };
    let host = HostRules {
        patterns: vec!["api.example.com".into()],
        errors: ErrorShape::Tollgate,
        routes: vec![
            route("chat", PATH, PlaneId(0), false),
            route("ours", OUR_PATH, PlaneId(0), true),
            route("not ours", NOT_OUR_PATH, PlaneId(0), false),
            route("broken", BROKEN_PATH, PlaneId(9), false),
        ],
    };
    let credentials = vec![credential("authorization", Some("Bearer")), credential("x-api-key", None)];
    let identity = IdentityHeaders {
        subject: name("subject"),
        user_id: name("user-id"),
        project: name("project"),
        workload: name("workload"),
        key_id: name("key-id"),
        plane: name("plane"),
        permissions: name("permissions"),
        request_id: name("request-id"),
        subject_is_id: false,
        reserved_prefixes: vec!["x-tollgate-".into()],
    };
    Policy {
        planes: vec![Plane {
            name: "data".into(),
            prefix: "ik_live".into(),
            revoked: RevokedStatus::Unauthenticated,
            admin: false,
            grace: Duration::ZERO,
        }],
        permissions: vec!["run_inference".into()],
        issuers: Vec::new(),
        login: None,
        own_headers: OwnHeaders::of(&credentials, &identity),
        credentials,
        identity,
        client_ip: ClientIp::Peer,
        envoy_limits: EnvoyLimits::SHIPPED,
        realm: "tollgate".into(),
        errors: ErrorShape::Tollgate,
        routes: RouteTable::build(vec![host]).unwrap(),
    }
}

/// Connections from as many addresses of 127.0.0.0/8, each of which has said this and nothing more.
pub async fn strangers(address: SocketAddr, count: usize, opening: &[u8]) -> Vec<TcpStream> {
    let mut streams = Vec::with_capacity(count);
    for number in 0..count {
        streams.push(stranger(address, number, opening).await);
    }
    streams
}

/// The one of this number among [`strangers`].
pub async fn stranger(address: SocketAddr, number: usize, opening: &[u8]) -> TcpStream {
    let [.., high, low] = number.to_be_bytes();
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 1, high, low], 0).into()).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    // It may have been hung up on already.
    let _ = stream.write_all(opening).await;
    stream
}

/// The check that Envoy would send for `POST path` with this key.
pub fn check_of(path: &str, key: &str) -> CheckRequest {
    let headers = [
        (":method", "POST"),
        (":path", path),
        (":authority", "api.example.com"),
        ("authorization", &format!("Bearer {key}")),
        ("x-request-id", "3f0c1d9a-6a39-4e6f-9a57-8d1f0a1b2c3d"),
        ("x-tollgate-subject", "spoofed"),
        ("X_Tollgate_Other", "spoofed"),
        ("content-type", "application/json"),
    ];
    let headers: HashMap<_, _> = headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let http = HttpRequest {
        method: "POST".into(),
        path: path.into(),
        host: "api.example.com".into(),
        scheme: "https".into(),
        protocol: "HTTP/2".into(),
        headers,
        ..Default::default()
    };
    let request = Some(Request { http: Some(http), time: None });
    CheckRequest { attributes: Some(AttributeContext { request, ..Default::default() }) }
}
