//! The admin API, door by door and route by route, in process on a store in memory. Never sends a key anywhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{HeaderMap, Request, StatusCode};
use axum::routing::get;
use serde_json::{Value, json};
use tower::ServiceExt;
use zeroize::Zeroizing;

use super::guard::Caller;
use super::{AdminState, Door, finished, router};
use crate::clock::Clock;
use crate::config::{Admin, KeyDefaults, UnixAddress};
use crate::pipeline::Pipeline;
use crate::policy::error_body::ErrorShape;
use crate::policy::extract::CredentialHeader;
use crate::policy::route::RouteTable;
use crate::policy::{ClientIp, IdentityHeaders, Plane, Policy, RevokedStatus};
use crate::registry::Registry;
use crate::resolve::Resolver;
use crate::resolve::api_key::{Digester, Pepper};
use crate::resolve::cache::Sizes;
use crate::resolve::last_used::LastUsed;
use crate::resolve::revocation::Stamps;
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
    };
    let credential =
        |name: &str, scheme: Option<&str>| CredentialHeader { name: name.into(), scheme: scheme.map(Into::into) };
    Policy {
        planes: vec![
            plane("data", "ik_live", false),
            plane("control", "ik_sdk", false),
            plane("admin", "ik_adm", true),
            plane("support", "ik_sup", true),
        ],
        permissions: vec!["run_inference".into(), "read_workloads".into()],
        login_plane: None,
        credentials: vec![credential("authorization", Some("Bearer")), credential("x-api-key", None)],
        identity: IdentityHeaders {
            subject: Some("x-tollgate-subject".into()),
            project: None,
            workload: None,
            key_id: None,
            plane: None,
            permissions: None,
            request_id: None,
            reserved_prefixes: vec!["x-tollgate-".into()],
        },
        client_ip: ClientIp::Peer,
        realm: "tollgate".into(),
        errors: ErrorShape::Tollgate,
        routes: RouteTable::build(Vec::new()).unwrap(),
    }
}

impl Api {
    fn with_defaults(key_defaults: KeyDefaults) -> Self {
        let time = Arc::new(AtomicU64::new(START));
        let clock = Clock::Manual(Arc::clone(&time));
        let store = Store::Embedded(Arc::new(Embedded::in_memory().unwrap()));
        let pepper = Pepper::new(1, Zeroizing::new([7; 32]));
        let digester = Arc::new(Digester::new(&pepper, &[]));
        let (stamps, last_used) = (Arc::new(Stamps::default()), Arc::new(LastUsed::default()));
        let sizes = Sizes { known: 1000, unknown: 100, loads: 16 };
        let resolver = Resolver::new(store.clone(), Arc::clone(&digester), Arc::clone(&stamps), sizes);
        let pipeline = Pipeline::new(Arc::new(resolver), Arc::clone(&last_used), clock.clone());
        let registry = Registry::new(store, digester, stamps, last_used, clock.clone());
        let settings = Admin {
            unix: UnixAddress { path: "/none".into(), mode: 0o600, group: None },
            http: None,
            through_envoy: None,
            allowed_hosts: vec!["api.example.com".to_owned()],
            key_defaults,
        };
        let live = Arc::new(ArcSwap::from_pointee(policy()));
        let state = AdminState::new(live, registry, pipeline, clock, Arc::new(settings));
        Self { state, clock: time, door: Door::Socket }
    }

    fn new() -> Self {
        Self::with_defaults(KeyDefaults::default())
    }

    fn at(&self, door: Door) -> Self {
        Self { state: self.state.clone(), clock: Arc::clone(&self.clock), door }
    }

    async fn send(&self, request: Request<Body>) -> Answer {
        answer(router(&self.state, self.door), request).await
    }

    /// With a key, a body and nothing unusual.
    async fn call(&self, method: &str, path: &str, key: &str, body: Value) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost:9181");
        if !key.is_empty() {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        if body.is_null() {
            return self.send(request.body(Body::empty()).unwrap()).await;
        }
        let request = request.header("content-type", "application/json").body(Body::from(body.to_string()));
        self.send(request.unwrap()).await
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
    let response = router.oneshot(request).await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = to_bytes(response.into_body(), 1 << 24).await.unwrap();
    assert_eq!(headers["cache-control"], "no-store");
    assert!(!headers["x-request-id"].is_empty());
    let body = if bytes.is_empty() { Value::Null } else { serde_json::from_slice(&bytes).unwrap() };
    Answer { status, headers, body }
}

#[tokio::test]
async fn a_key_from_its_making_to_its_end() {
    let api = Api::new();
    let body = json!({"name": "chat", "plane": "data", "project": "acme", "workloads": ["w-2", "w-1"],
        "permissions": ["run_inference"], "expires_in_days": 30});
    let made = api.operate("POST", KEYS, body).await;
    let (key, id) = made.key_and_id();
    assert!(key.starts_with(&format!("ik_live_{id}_")));
    assert_eq!(made.headers["location"], format!("{KEYS}/{id}"));
    assert_eq!(made.body["workloads"], json!(["w-1", "w-2"]));
    assert_eq!(made.body["created_at"], "2026-11-18T11:06:40Z");
    assert_eq!(made.body["expires_at"], "2026-12-18T11:06:40Z");
    assert_eq!(made.body["created_by"], "operator");

    let shown = api.operate("GET", &format!("{KEYS}/{id}"), Value::Null).await;
    assert_eq!((shown.status.as_u16(), shown.text("state")), (200, "active".to_owned()));
    assert_eq!((&shown.body["last_used_at"], &shown.body["version"]), (&Value::Null, &json!(1)));
    assert!(shown.body.get("key").is_none());

    for _ in 0..2 {
        let revoked = api.operate("DELETE", &format!("{KEYS}/{id}"), Value::Null).await;
        assert_eq!((revoked.status.as_u16(), revoked.text("state")), (200, "revoked".to_owned()));
        assert_eq!(revoked.text("revoked_at"), "2026-11-18T11:06:40Z");
    }
    let list = api.operate("GET", KEYS, Value::Null).await;
    assert_eq!(list.body["keys"][0]["state"], "revoked");
    assert!(!list.body.to_string().contains(&key[20..]));
}

#[tokio::test]
async fn a_rotation_replaces_and_lets_the_old_key_live_for_its_grace() {
    let api = Api::new();
    let (_, id) = api.mint("data", "acme", &["run_inference"]).await;
    let rotate = format!("{KEYS}/{id}/rotate");
    api.operate("POST", &rotate, json!({"grace_seconds": u64::MAX})).await.is(400, "VALIDATION_ERROR");
    let new = api.operate("POST", &rotate, json!({"grace_seconds": 3600})).await;
    let (_, new_id) = new.key_and_id();
    assert_eq!(new.text("replaces"), id);
    let old = api.operate("GET", &format!("{KEYS}/{id}"), Value::Null).await;
    assert_eq!((old.text("state"), old.text("replaced_by")), ("retiring".to_owned(), new_id.clone()));
    assert_eq!(old.text("retires_at"), "2026-11-18T12:06:40Z");
    api.operate("POST", &rotate, Value::Null).await.is(409, "CONFLICT");
    // Without a word of grace, the old key ends at once.
    api.operate("POST", &format!("{KEYS}/{new_id}/rotate"), Value::Null).await.key_and_id();
    let old = api.operate("GET", &format!("{KEYS}/{new_id}"), Value::Null).await;
    assert_eq!(old.text("state"), "revoked");
}

#[tokio::test]
async fn what_a_request_leaves_out_comes_from_the_defaults_or_is_named() {
    let api = Api::new();
    let asked = json!({"name": "n", "permissions": ["run_inference"], "expires_in_days": 1});
    let full = json!({"name": "n", "permissions": ["run_inference"], "plane": "data", "project": "acme",
        "workloads": ["*"]});
    for field in ["name", "permissions", "plane", "project", "workloads"] {
        let mut without = full.clone();
        without.as_object_mut().unwrap().remove(field);
        let refused = api.operate("POST", KEYS, without).await;
        refused.is(400, "VALIDATION_ERROR");
        assert_eq!(refused.body["error"]["details"]["field"], field);
    }
    let api = Api::with_defaults(KeyDefaults {
        plane: Some("data".to_owned()),
        project: Some("acme".to_owned()),
        workloads: Some(vec!["*".to_owned()]),
    });
    let made = api.operate("POST", KEYS, asked.clone()).await;
    assert_eq!((made.text("plane"), made.text("project")), ("data".to_owned(), "acme".to_owned()));
    // Whoever is bound to a project means that one.
    let (beta, _) = api.mint("admin", "beta", &["manage_keys", "run_inference"]).await;
    let made = api.at(Door::Http).call("POST", KEYS, &beta, asked).await;
    assert_eq!((made.text("project"), made.text("created_by")), ("beta".to_owned(), format!("key:{}", &beta[7..19])));
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_its_field() {
    let api = Api::new();
    let good = json!({"name": "n", "permissions": ["run_inference"], "plane": "data", "project": "acme",
        "workloads": ["*"]});
    for (field, value) in [
        ("name", json!("")),
        ("plane", json!("lunar")),
        ("project", json!("*")),
        ("project", json!("a/b")),
        ("workloads", json!([])),
        ("workloads", json!(["*", "a"])),
        ("permissions", json!([])),
        ("permissions", json!(["fly"])),
        ("permissions", json!(["manage_keys"])),
        ("expires_in_days", json!(0)),
        ("expires_in_seconds", json!(u64::MAX)),
    ] {
        let mut bad = good.clone();
        bad[field] = value;
        let refused = api.operate("POST", KEYS, bad).await;
        refused.is(400, "VALIDATION_ERROR");
        assert_eq!(refused.body["error"]["details"]["field"], field);
    }
    for (field, value) in [("nmae", json!("n")), ("expires_in_days", json!("ik_live_oops")), ("workloads", json!("*"))]
    {
        let mut bad = good.clone();
        bad[field] = value;
        let refused = api.operate("POST", KEYS, bad).await;
        refused.is(400, "VALIDATION_ERROR");
        assert!(!refused.body.to_string().contains("ik_live_oops"));
    }
    for path in ["?limit=0", "?limit=1001", "?limit=x", "?after=x", "?colour=red"] {
        api.operate("GET", &format!("{KEYS}{path}"), Value::Null).await.is(400, "VALIDATION_ERROR");
    }
    for path in ["/short", "/abcdefghijkl", "/abcdef%2Fhijk", "/%ff"] {
        let answer = api.operate("GET", &format!("{KEYS}{path}"), Value::Null).await;
        assert!(matches!(answer.status.as_u16(), 400 | 404), "{path}: {}", answer.body);
    }
    api.operate("DELETE", &format!("{KEYS}/abcdefghijkl"), Value::Null).await.is(404, "NOT_FOUND");
}

#[tokio::test]
async fn lists_come_in_pages_and_by_project_and_plane() {
    let api = Api::new();
    for (plane, project) in [("data", "acme"), ("data", "acme"), ("data", "beta"), ("control", "acme")] {
        let permission = if plane == "data" { "run_inference" } else { "read_workloads" };
        api.mint(plane, project, &[permission]).await;
    }
    let count = |answer: &Answer| answer.body["keys"].as_array().unwrap().len();
    for (query, expected) in
        [("", 4), ("?project=acme", 3), ("?plane=data", 3), ("?project=acme&plane=data", 2), ("?project=none", 0)]
    {
        let list = api.operate("GET", &format!("{KEYS}{query}"), Value::Null).await;
        assert_eq!((count(&list), &list.body["next"]), (expected, &Value::Null), "{query}");
    }
    let first = api.operate("GET", &format!("{KEYS}?limit=3"), Value::Null).await;
    let next = first.text("next");
    assert_eq!((count(&first), first.body["keys"][2]["id"].as_str()), (3, Some(&*next)));
    let rest = api.operate("GET", &format!("{KEYS}?limit=3&after={next}"), Value::Null).await;
    assert_eq!((count(&rest), &rest.body["next"]), (1, &Value::Null));
}

#[tokio::test]
async fn the_first_key_is_made_once_and_by_the_operator_alone() {
    let api = Api::new();
    let (key, id) = api.operate("POST", "/api/v1/auth/bootstrap", Value::Null).await.key_and_id();
    api.operate("POST", "/api/v1/auth/bootstrap", Value::Null).await.is(409, "CONFLICT");
    for door in [Door::Http, Door::ThroughEnvoy] {
        api.at(door).call("POST", "/api/v1/auth/bootstrap", &key, Value::Null).await.is(404, "NOT_FOUND");
    }
    assert_eq!(api.at(Door::Http).call("GET", KEYS, &key, Value::Null).await.status, StatusCode::OK);
    api.operate("DELETE", &format!("{KEYS}/{id}"), Value::Null).await;
    api.operate("POST", "/api/v1/auth/bootstrap", Value::Null).await.key_and_id();
}

#[tokio::test]
async fn resources_are_registered_shown_moved_and_deleted() {
    let api = Api::new();
    let at = "/api/v1/resources/workload/w-1";
    let put = api.operate("PUT", at, json!({"project": "acme", "slug": "chat", "owner": "key:x"})).await;
    assert_eq!((put.status.as_u16(), put.text("slug"), put.text("project")), (200, "chat".into(), "acme".into()));
    assert_eq!(api.operate("GET", at, Value::Null).await.body, put.body);
    let again = api.operate("PUT", at, json!({"project": "acme", "slug": "chat", "owner": "key:x"})).await;
    assert_eq!(again.body, put.body);
    api.operate("PUT", at, json!({"project": "beta"})).await.is(409, "CONFLICT");
    let moved = api.operate("PUT", at, json!({"project": "beta", "move": true})).await;
    assert_eq!(
        (moved.text("project"), moved.text("slug"), &moved.body["version"]),
        ("beta".into(), "w-1".into(), &json!(2))
    );
    api.operate("PUT", "/api/v1/resources/workload/w-2", json!({"project": "acme"})).await;
    api.operate("PUT", "/api/v1/resources/run/r-1", json!({"project": "acme"})).await;
    for (query, expected) in [("", 3), ("?kind=workload", 2), ("?project=acme", 2), ("?kind=run&project=beta", 0)] {
        let list = api.operate("GET", &format!("/api/v1/resources{query}"), Value::Null).await;
        assert_eq!(list.body["resources"].as_array().unwrap().len(), expected, "{query}");
    }
    let first = api.operate("GET", "/api/v1/resources?limit=1", Value::Null).await;
    assert_eq!(first.text("next"), "run:r-1");
    let second = api.operate("GET", "/api/v1/resources?limit=1&after=run:r-1", Value::Null).await;
    assert_eq!(second.text("next"), "workload:w-1");
    let deleted = api.operate("DELETE", at, Value::Null).await;
    assert_eq!((deleted.status.as_u16(), deleted.body), (200, moved.body));
    for method in ["GET", "DELETE"] {
        api.operate(method, at, Value::Null).await.is(404, "NOT_FOUND");
    }
    for (body, field) in
        [(json!({}), "project"), (json!({"project": "*"}), "project"), (json!({"project": "a", "slug": "*"}), "slug")]
    {
        let refused = api.operate("PUT", at, body).await;
        refused.is(400, "VALIDATION_ERROR");
        assert_eq!(refused.body["error"]["details"]["field"], field);
    }
    api.operate("PUT", at, json!({"project": "a", "force": true})).await.is(400, "VALIDATION_ERROR");
    api.operate("GET", "/api/v1/resources?after=w", Value::Null).await.is(400, "VALIDATION_ERROR");
    api.operate("PUT", "/api/v1/resources/work%20load/a", json!({"project": "a"})).await.is(400, "VALIDATION_ERROR");
}

#[tokio::test]
async fn http_takes_an_admin_key_with_the_permission_and_nothing_else() {
    let api = Api::new();
    let (all, _) = api.mint("admin", "*", &["manage_keys", "manage_resources"]).await;
    let (keys_only, keys_id) = api.mint("admin", "*", &["manage_keys"]).await;
    let (support, _) = api.mint("support", "*", &["manage_resources"]).await;
    let (data, _) = api.mint("data", "acme", &["run_inference"]).await;
    for door in [Door::Http, Door::ThroughEnvoy] {
        let api = api.at(door);
        let missing = api.call("GET", KEYS, "", Value::Null).await;
        missing.is(401, "AUTHENTICATION_FAILED");
        assert_eq!(missing.headers["www-authenticate"], "Bearer realm=\"tollgate\"");
        api.call("GET", KEYS, "junk", Value::Null).await.is(401, "AUTHENTICATION_FAILED");
        api.call("GET", KEYS, &data, Value::Null).await.is(403, "PERMISSION_DENIED");
        api.call("GET", KEYS, &support, Value::Null).await.is(403, "PERMISSION_DENIED");
        for key in [&all, &keys_only] {
            assert_eq!(api.call("GET", KEYS, key, Value::Null).await.status, StatusCode::OK);
            assert_eq!(api.call("HEAD", KEYS, key, Value::Null).await.status, StatusCode::OK);
        }
    }
    let http = api.at(Door::Http);
    http.call("GET", "/api/v1/resources", &keys_only, Value::Null).await.is(403, "PERMISSION_DENIED");
    for key in [&all, &support] {
        assert_eq!(http.call("GET", "/api/v1/resources", key, Value::Null).await.status, StatusCode::OK);
    }
    let envoy = api.at(Door::ThroughEnvoy);
    for path in ["/api/v1/resources", "/api/v1/resources/workload/w"] {
        envoy.call("GET", path, &all, Value::Null).await.is(404, "NOT_FOUND");
    }
    // A revoked key is refused from the very next request on.
    api.operate("DELETE", &format!("{KEYS}/{keys_id}"), Value::Null).await;
    http.call("GET", KEYS, &keys_only, Value::Null).await.is(401, "AUTHENTICATION_FAILED");
}

#[tokio::test]
async fn every_authenticated_route_is_reached_over_http() {
    let api = Api::new();
    let (admin, _) = api.mint("admin", "*", &["manage_keys", "manage_resources", "run_inference"]).await;
    let (_, id) = api.mint("data", "acme", &["run_inference"]).await;
    let http = api.at(Door::Http);
    let key = json!({"name": "n", "permissions": ["run_inference"], "plane": "data", "project": "acme",
        "workloads": ["*"]});
    for (method, path, body, status) in [
        ("POST", KEYS.to_owned(), key, 201),
        ("GET", format!("{KEYS}?limit=1"), Value::Null, 200),
        ("GET", format!("{KEYS}/{id}"), Value::Null, 200),
        ("POST", format!("{KEYS}/{id}/rotate"), json!({"grace_seconds": 1}), 201),
        ("DELETE", format!("{KEYS}/{id}"), Value::Null, 200),
        ("PUT", "/api/v1/resources/workload/w".to_owned(), json!({"project": "acme"}), 200),
        ("GET", "/api/v1/resources?kind=workload".to_owned(), Value::Null, 200),
        ("GET", "/api/v1/resources/workload/w".to_owned(), Value::Null, 200),
        ("DELETE", "/api/v1/resources/workload/w".to_owned(), Value::Null, 200),
    ] {
        http.call(method, &path, "", body.clone()).await.is(401, "AUTHENTICATION_FAILED");
        let answer = http.call(method, &path, &admin, body).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {path}: {}", answer.body);
    }
}

#[tokio::test]
async fn an_administrator_of_one_project_stays_in_it() {
    let api = Api::new();
    let (acme, acme_id) = api.mint("admin", "acme", &["manage_keys", "manage_resources", "run_inference"]).await;
    let (_, beta_id) = api.mint("data", "beta", &["run_inference"]).await;
    api.operate("PUT", "/api/v1/resources/workload/b", json!({"project": "beta"})).await;
    let http = api.at(Door::Http);
    let key = |plane: &str, project: &str, permission: &str| json!({"name": "n", "permissions": [permission], "plane": plane, "project": project, "workloads": ["*"]});
    http.call("POST", KEYS, &acme, key("data", "acme", "run_inference")).await.key_and_id();
    http.call("POST", KEYS, &acme, key("data", "beta", "run_inference")).await.is(403, "PERMISSION_DENIED");
    http.call("POST", KEYS, &acme, key("admin", "acme", "manage_keys")).await.key_and_id();
    http.call("POST", KEYS, &acme, key("admin", "acme", "manage_users")).await.is(403, "PERMISSION_DENIED");
    http.call("POST", KEYS, &acme, key("data", "acme", "read_workloads")).await.is(403, "PERMISSION_DENIED");
    http.call("POST", KEYS, &acme, key("admin", "*", "manage_keys")).await.is(403, "PERMISSION_DENIED");
    for (method, path) in [("GET", ""), ("DELETE", ""), ("POST", "/rotate")] {
        http.call(method, &format!("{KEYS}/{beta_id}{path}"), &acme, Value::Null).await.is(404, "NOT_FOUND");
    }
    http.call("GET", &format!("{KEYS}?project=beta"), &acme, Value::Null).await.is(403, "PERMISSION_DENIED");
    let list = http.call("GET", KEYS, &acme, Value::Null).await;
    assert!(list.body["keys"].as_array().unwrap().iter().all(|key| key["project"] == "acme"), "{}", list.body);
    let at = "/api/v1/resources/workload/b";
    http.call("GET", at, &acme, Value::Null).await.is(404, "NOT_FOUND");
    http.call("DELETE", at, &acme, Value::Null).await.is(403, "PERMISSION_DENIED");
    // Not even in its own project: who registers an id first would take it from the others.
    for project in ["acme", "beta"] {
        http.call("PUT", at, &acme, json!({"project": project, "move": true})).await.is(403, "PERMISSION_DENIED");
    }
    // Another administrative key of the project holds more than this one: it cannot be taken over by rotating it.
    let (_, other_id) = api.mint("admin", "acme", &["manage_keys", "manage_users"]).await;
    http.call("POST", &format!("{KEYS}/{other_id}/rotate"), &acme, Value::Null).await.is(403, "PERMISSION_DENIED");
    // Its own key is within its reach.
    http.call("POST", &format!("{KEYS}/{acme_id}/rotate"), &acme, Value::Null).await.key_and_id();
}

#[tokio::test]
async fn an_administrator_needs_every_workload() {
    let api = Api::new();
    let body = json!({"name": "n", "plane": "admin", "project": "acme", "workloads": ["w"],
        "permissions": ["manage_keys"]});
    let (narrow, _) = api.operate("POST", KEYS, body).await.key_and_id();
    api.at(Door::Http).call("GET", KEYS, &narrow, Value::Null).await.is(403, "PERMISSION_DENIED");
}

#[tokio::test]
async fn foreign_hosts_browsers_and_identity_headers_get_nowhere() {
    let api = Api::new();
    let (admin, _) = api.mint("admin", "*", &["manage_keys"]).await;
    let http = api.at(Door::Http);
    let request =
        |host: &str| Request::get(KEYS).header("host", host).header("authorization", format!("Bearer {admin}"));
    for host in ["localhost", "127.0.0.1:9181", "[::1]:9181", "api.example.com", "API.EXAMPLE.COM:443"] {
        let answer = http.send(request(host).body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status, StatusCode::OK, "{host}: {}", answer.body);
    }
    for host in ["evil.example", "10.1.2.3:9181", "localhost.evil.example"] {
        http.send(request(host).body(Body::empty()).unwrap()).await.is(403, "PERMISSION_DENIED");
    }
    let twice = request("localhost").header("host", "localhost").body(Body::empty()).unwrap();
    http.send(twice).await.is(400, "VALIDATION_ERROR");
    http.send(Request::get(KEYS).body(Body::empty()).unwrap()).await.is(400, "VALIDATION_ERROR");
    let absolute = Request::get(format!("http://evil.example{KEYS}"))
        .header("host", "localhost")
        .header("authorization", format!("Bearer {admin}"));
    http.send(absolute.body(Body::empty()).unwrap()).await.is(403, "PERMISSION_DENIED");
    let browser = request("localhost").header("origin", "http://localhost:9181").body(Body::empty()).unwrap();
    http.send(browser).await.is(403, "PERMISSION_DENIED");
    let spoofed = Request::get(KEYS)
        .header("host", "localhost")
        .header("x-tollgate-subject", "operator")
        .header("x-tollgate-permissions", "manage_keys");
    http.send(spoofed.body(Body::empty()).unwrap()).await.is(401, "AUTHENTICATION_FAILED");
    let two = request("localhost").header("x-api-key", &admin).body(Body::empty()).unwrap();
    http.send(two).await.is(400, "VALIDATION_ERROR");
    let other = Request::get(KEYS).header("host", "localhost").header("x-api-key", &admin);
    assert_eq!(http.send(other.body(Body::empty()).unwrap()).await.status, StatusCode::OK);
}

#[tokio::test]
async fn paths_with_two_readings_get_nowhere() {
    let api = Api::new();
    let (admin, id) = api.mint("admin", "*", &["manage_keys"]).await;
    let http = api.at(Door::Http);
    let (first, rest) = id.split_at(1);
    let encoded = format!("{KEYS}/%{:02x}{rest}", first.as_bytes()[0]);
    for path in
        [encoded, format!("{KEYS}/"), format!("/{KEYS}"), format!("{KEYS}/../api-keys"), format!("{KEYS}/{id}/")]
    {
        let answer = http.call("GET", &path, &admin, Value::Null).await;
        assert!(matches!(answer.status.as_u16(), 400 | 403 | 404), "{path}: {}", answer.body);
    }
}

#[tokio::test]
async fn every_failure_has_the_one_shape() {
    let api = Api::new();
    for door in [Door::Socket, Door::Http, Door::ThroughEnvoy] {
        let api = api.at(door);
        api.call("GET", "/nowhere", "", Value::Null).await.is(404, "NOT_FOUND");
        let wrong = api.call("PATCH", KEYS, "", Value::Null).await;
        wrong.is(405, "VALIDATION_ERROR");
        assert_eq!(wrong.headers["allow"], "GET,HEAD,POST");
    }
    let json = || Request::post(KEYS).header("content-type", "application/json; charset=utf-8");
    let big = json().body(Body::from(vec![b' '; 64 * 1024 + 1])).unwrap();
    api.send(big).await.is(413, "VALIDATION_ERROR");
    for text in ["{", "[]", "\"a\"", ""] {
        api.send(json().body(Body::from(text)).unwrap()).await.is(400, "VALIDATION_ERROR");
    }
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/jsonp", ""] {
        let other = Request::post(KEYS).header("content-type", kind).body(Body::from("{}")).unwrap();
        api.send(other).await.is(415, "UNSUPPORTED_MEDIA_TYPE");
    }
    let named = Request::get("/nowhere").header("x-request-id", "req-7").body(Body::empty()).unwrap();
    assert_eq!(api.send(named).await.headers["x-request-id"], "req-7");
    let unsafe_id = Request::get("/nowhere").header("x-request-id", "a b").body(Body::empty()).unwrap();
    assert_ne!(api.send(unsafe_id).await.headers["x-request-id"], "a b");
}

#[tokio::test]
async fn the_description_is_public_and_not_for_everybody() {
    let api = Api::new();
    for door in [Door::Socket, Door::Http] {
        let described = api.at(door).call("GET", "/openapi.json", "", Value::Null).await;
        assert_eq!(described.status, StatusCode::OK);
        assert_eq!(described.text("openapi"), "3.1.0");
    }
    api.at(Door::ThroughEnvoy).call("GET", "/openapi.json", "", Value::Null).await.is(404, "NOT_FOUND");
}

#[tokio::test]
async fn a_panic_and_a_missing_guard_are_our_fault() {
    async fn panics() {
        panic!("forced");
    }
    async fn unguarded(_: Caller) {}
    let api = Api::new();
    let routes = [("/panics", get(panics)), ("/unguarded", get(unguarded))];
    let router = finished(routes.into_iter(), api.state.clone(), Door::Socket);
    for path in ["/panics", "/unguarded"] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        answer(router.clone(), request).await.is(500, "INTERNAL_ERROR");
    }
}

#[tokio::test]
async fn the_rules_follow_the_live_policy() {
    let api = Api::new();
    let (admin, _) = api.mint("admin", "*", &["manage_keys"]).await;
    let http = api.at(Door::Http);
    assert_eq!(http.call("GET", KEYS, &admin, Value::Null).await.status, StatusCode::OK);
    let mut stricter = policy();
    stricter.planes[2].admin = false;
    api.state.live.store(Arc::new(stricter));
    http.call("GET", KEYS, &admin, Value::Null).await.is(403, "PERMISSION_DENIED");
    let mut without = policy();
    without.planes.truncate(2);
    api.state.live.store(Arc::new(without));
    http.call("GET", KEYS, &admin, Value::Null).await.is(403, "PERMISSION_DENIED");
    api.operate("POST", "/api/v1/auth/bootstrap", Value::Null).await.is(400, "VALIDATION_ERROR");
}

#[tokio::test]
async fn an_expired_admin_key_is_refused() {
    let api = Api::new();
    let body = json!({"name": "n", "plane": "admin", "project": "*", "workloads": ["*"],
        "permissions": ["manage_keys"], "expires_in_seconds": 60});
    let (key, id) = api.operate("POST", KEYS, body).await.key_and_id();
    let http = api.at(Door::Http);
    assert_eq!(http.call("GET", KEYS, &key, Value::Null).await.status, StatusCode::OK);
    let shown = api.operate("GET", &format!("{KEYS}/{id}"), Value::Null).await;
    assert_eq!(shown.text("last_used_at"), "2026-11-18T11:06:40Z");
    api.clock.fetch_add(60_000, Ordering::Relaxed);
    http.call("GET", KEYS, &key, Value::Null).await.is(401, "AUTHENTICATION_FAILED");
}
