//! Explanations, from the arguments on. Never needs a server or a store.

use clap::Parser;
use serde_json::{Value, json};

use super::{ExplainArgs, explain};
use crate::cli::Exit;

const CONFIG: &str = r#"
version: 1
store: {embedded: {path: STORE}}
pepper: {current: 1, keys: {1: {file: STORE.pepper}}}
listen: {check: {unix: {path: /run/tollgate/check.sock}}, admin: {unix: {path: /run/tollgate/admin.sock}}, ops: {http: "127.0.0.1:9182"}}
planes:
  data: {prefix: ik_live, revoked: 401}
  control: {prefix: ik_sdk, revoked: 403}
  admin: {prefix: ik_adm, revoked: 401, admin: true}
permissions: [run_inference, update_workloads]
credentials:
  - {header: authorization, scheme: Bearer}
  - {header: x-api-key}
hosts:
  - match: [api.example.com]
    routes:
      - {name: health, match: [GET /healthz], public: true}
      - {name: infer, match: ["POST /endpoint/{project}/{workload}/{rest*}"], plane: data,
         all_of: [run_inference], in: {project: "{project}", workload: "{workload}"}}
      - {name: update, match: ["PATCH /api/workloads/{id}"], plane: control, all_of: [update_workloads],
         in: {resource: "workload:{id}"}}
"#;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    explain: ExplainArgs,
}

struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = folder.path().join("store.redb");
        std::fs::write(folder.path().join("tollgate.yaml"), CONFIG.replace("STORE", store.to_str().unwrap())).unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Writes a key's record and gives the path of its file.
    fn key(&self, plane: &str, change: &Value) -> String {
        let permission = if plane == "data" { "run_inference" } else { "update_workloads" };
        let mut record = json!({"id": "Ab3dEf6hIj9l", "name": "n", "state": "active", "plane": plane,
            "project": "acme", "workloads": ["*"], "permissions": [permission],
            "created_at": "2026-11-18T11:06:40Z", "created_by": "operator", "expires_at": null, "retires_at": null,
            "revoked_at": null, "replaces": null, "replaced_by": null, "last_used_at": null, "version": 1});
        record.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let path = self.path("key.json");
        std::fs::write(&path, record.to_string()).unwrap();
        path
    }

    async fn explain(&self, arguments: &[&str]) -> Result<Value, Exit> {
        let config = self.path("tollgate.yaml");
        let line = ["explain", "--config", &config].into_iter().chain(arguments.iter().copied());
        let report = explain(&Line::try_parse_from(line).unwrap().explain).await.map_err(|failure| {
            eprintln!("{failure}");
            failure.exit
        })?;
        let (value, text) = (report.as_json(), report.as_text(false));
        assert_eq!(report.is_allowed(), text.contains("ALLOWED"));
        assert!(!value.to_string().contains("ik_live_") && !text.contains("ik_live_"), "{text}");
        Ok(value)
    }
}

const INFER: [&str; 4] = ["--method", "POST", "--url", "https://api.example.com/endpoint/acme/w1/v1/chat"];

fn results(report: &Value) -> Vec<&str> {
    report["steps"].as_array().unwrap().iter().map(|step| step["result"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn an_allowed_request_shows_what_the_back_end_gets() {
    let bench = Bench::new();
    let key = bench.key("data", &json!({}));
    let spoof = ["-H", "X-Tollgate-Project: beta", "--key", &key];
    let report = bench.explain(&[&INFER[..], &spoof].concat()).await.unwrap();
    assert_eq!(report["decision"], "allow", "{report:#}");
    assert_eq!(results(&report), ["ok"; 5]);
    let [route, extract, resolve, authorize, respond] = report["steps"].as_array().unwrap().as_slice() else {
        panic!("{report}")
    };
    assert_eq!((&route["route"], &route["plane"]), (&json!("infer"), &json!("data")));
    assert_eq!(extract["key_id"], "Ab3dEf6hIj9l");
    assert_eq!(resolve["key"]["state"], "active");
    assert_eq!((&authorize["project"], &authorize["workload"]), (&json!("acme"), &json!("w1")));
    assert_eq!(respond["set"]["x-tollgate-subject"], "key:Ab3dEf6hIj9l");
    assert_eq!(respond["set"]["x-tollgate-project"], "acme");
    let removed = respond["remove"].as_array().unwrap();
    assert!(removed.contains(&json!("authorization")) && removed.contains(&json!("x-api-key")), "{removed:?}");
}

#[tokio::test]
async fn each_refusal_names_its_step_and_its_reason() {
    let bench = Bench::new();
    for (change, url, step, reason, status) in [
        (json!({}), "https://other.example.com/", 0, "host_unknown", 403),
        (json!({}), "https://api.example.com/nowhere", 0, "route_unknown", 403),
        (json!({}), "https://api.example.com/endpoint/../acme", 0, "path_not_canonical", 400),
        (json!({"revoked_at": "2026-11-19T00:00:00Z"}), INFER[3], 3, "revoked", 401),
        (json!({"expires_at": "2026-11-19T00:00:00Z"}), INFER[3], 3, "expired", 401),
        (json!({"retires_at": "2026-11-19T00:00:00Z"}), INFER[3], 3, "retired", 401),
        (json!({"permissions": ["update_workloads"]}), INFER[3], 3, "permission_missing", 403),
        (json!({"project": "beta"}), INFER[3], 3, "project_out_of_scope", 403),
        (json!({"workloads": ["w2"]}), INFER[3], 3, "workload_out_of_scope", 403),
        (json!({"plane": "control"}), INFER[3], 1, "wrong_plane", 403),
    ] {
        let key = bench.key("data", &change);
        let line = ["--method", "POST", "--url", url, "--key", &key, "--at", "2026-12-01T00:00:00Z"];
        let report = bench.explain(&line).await.unwrap();
        assert_eq!((&report["reason"], &report["status"]), (&json!(reason), &json!(status)), "{report:#}");
        let mut expected = vec!["ok"; step];
        expected.push("refused");
        expected.resize(4, "not reached");
        expected.push("ok");
        assert_eq!(results(&report), expected, "{report:#}");
        assert!(report["steps"][step]["why"].is_string() && report["steps"][step]["help"].is_string());
        assert!(report["steps"][4]["body"].as_str().unwrap().contains("\"error\""));
    }
}

#[tokio::test]
async fn the_clock_can_be_set() {
    let bench = Bench::new();
    let key = bench.key("data", &json!({"expires_at": "2026-11-19T00:00:00Z"}));
    for (time, decision) in [("2026-11-18T23:59:59.999Z", "allow"), ("2026-11-19T00:00:00Z", "deny")] {
        let report = bench.explain(&[&INFER[..], &["--key", &key, "--at", time]].concat()).await.unwrap();
        assert_eq!(report["decision"], decision);
    }
    let failed = bench.explain(&[&INFER[..], &["--key", &key, "--at", "noon"]].concat()).await;
    assert_eq!(failed, Err(Exit::Usage));
}

#[tokio::test]
async fn resources_are_looked_up_among_those_given() {
    let bench = Bench::new();
    let key = bench.key("control", &json!({}));
    let line = ["--method", "PATCH", "--url", "https://api.example.com/api/workloads/w-42", "--key", &key];
    for (resource, decision) in
        [("workload:w-42=acme/chat", "allow"), ("workload:w-42=beta", "deny"), ("run:w-42=acme", "deny")]
    {
        let report = bench.explain(&[&line[..], &["--resource", resource]].concat()).await.unwrap();
        assert_eq!(report["decision"], decision, "{report:#}");
    }
    let report = bench.explain(&line).await.unwrap();
    assert_eq!(report["reason"], "resource_out_of_scope");
    assert_eq!(report["steps"][2]["resource"], "workload:w-42 is not registered");
    let twice = ["--resource", "workload:w=acme", "--resource", "workload:w=beta"];
    assert_eq!(bench.explain(&[&line[..], &twice].concat()).await, Err(Exit::Usage));
}

#[tokio::test]
async fn a_recorded_check_is_read_as_the_server_reads_it() {
    let bench = Bench::new();
    let key = bench.key("data", &json!({}));
    let path = bench.path("check");
    let recorded = |headers: Value| {
        let http = json!({"method": "POST", "path": "/endpoint/acme/w1/v1/chat", "host": "api.example.com", "headers": headers});
        std::fs::write(&path, json!({"attributes": {"request": {"http": http}}}).to_string()).unwrap();
    };
    let line = ["--check", &path, "--key", &key];
    recorded(json!({":method": "POST", ":path": "/endpoint/acme/w1/v1/chat", "x-tollgate-project": "beta"}));
    let report = bench.explain(&line).await.unwrap();
    assert_eq!(report["decision"], "allow", "{report:#}");
    assert_eq!(report["steps"][0]["route"], "infer");
    // Envoy held headers back: that, too, is in the recording alone.
    recorded(json!({}));
    assert_eq!(bench.explain(&line).await.unwrap()["reason"], "headers_withheld");
    std::fs::write(&path, "no check").unwrap();
    assert_eq!(bench.explain(&line).await, Err(Exit::Usage));
    let with_url = ["explain", "--check", &path, "--url", "https://a/"];
    assert!(Line::try_parse_from(with_url).is_err(), "one of the two");
}

#[tokio::test]
async fn a_public_route_and_a_missing_credential_need_no_record() {
    let bench = Bench::new();
    let report = bench.explain(&["--url", "https://api.example.com/healthz"]).await.unwrap();
    assert_eq!(report["decision"], "allow");
    assert_eq!(results(&report), ["ok", "skipped", "skipped", "skipped", "ok"]);
    let report = bench.explain(&INFER).await.unwrap();
    assert_eq!((&report["reason"], &report["status"]), (&json!("credential_missing"), &json!(401)));
    assert!(!std::path::Path::new(&bench.path("store.redb")).exists(), "an explanation makes no store");
}

#[tokio::test]
async fn a_presented_credential_is_taken_for_its_record_and_never_printed() {
    let bench = Bench::new();
    let minted = tollgate_core::credential::MintedKey::generate("ik_live", getrandom::fill).unwrap();
    let header = format!("Authorization: Bearer {}", minted.expose());
    let line = [&INFER[..], &["-H", &header]].concat();
    // No store: no key is known.
    assert_eq!(bench.explain(&line).await.unwrap()["reason"], "credential_unknown");
    let key = bench.key("data", &json!({"id": minted.id().as_str()}));
    assert_eq!(bench.explain(&[&line[..], &["--key", &key]].concat()).await.unwrap()["decision"], "allow");
    let key = bench.key("data", &json!({}));
    assert_eq!(bench.explain(&[&line[..], &["--key", &key]].concat()).await.unwrap()["reason"], "credential_unknown");
    let second = [&line[..], &["-H", "X-Api-Key: x", "--key", &key]].concat();
    assert_eq!(bench.explain(&second).await.unwrap()["reason"], "credential_ambiguous");
}

#[tokio::test]
async fn the_configured_store_is_read_if_it_is_free() {
    use std::sync::Arc;
    use std::time::Duration;

    use crate::clock::Clock;
    use crate::registry::{Actor, KeySpec, Registry};
    use crate::resolve::api_key::Digester;
    use tollgate_guard::stamps::Stamps;

    let bench = Bench::new();
    let compiled = crate::config::load(std::path::Path::new(&bench.path("tollgate.yaml"))).unwrap();
    let crate::config::StoreSettings::Embedded(path) = &compiled.settings.store else { panic!() };
    let store = crate::store::embedded::Embedded::open(path, Duration::ZERO).unwrap();
    let store = crate::store::Store::Embedded(Arc::new(store));
    let (pepper, _) = crate::pepper::load(&compiled.settings.pepper, &store).await.unwrap();
    let digester = Arc::new(Digester::new(&pepper, &[]));
    let registry =
        Registry::new(store.clone(), digester, Arc::new(Stamps::sole(Clock::System)), Arc::default(), Clock::System);
    let spec = KeySpec {
        name: "n".to_owned(),
        plane: "data".to_owned(),
        project: "acme".to_owned(),
        workloads: vec!["*".to_owned()],
        permissions: vec!["run_inference".to_owned()],
        expires_in: None,
    };
    let new = registry.create_key(&compiled.policy, &Actor::operator(), spec, None).await.unwrap();
    let header = format!("x-api-key: {}", new.secret.expose());
    let line = [&INFER[..], &["-H", &header]].concat();
    assert_eq!(bench.explain(&line).await, Err(Exit::Unreachable), "the store is in use");
    drop((registry, store));
    let report = bench.explain(&line).await.unwrap();
    assert_eq!((&report["decision"], &report["steps"][2]["key"]["name"]), (&json!("allow"), &json!("n")));
}

#[tokio::test]
async fn what_cannot_be_read_is_told() {
    let bench = Bench::new();
    let key = bench.key("lunar", &json!({}));
    assert_eq!(bench.explain(&[&INFER[..], &["--key", &key]].concat()).await, Err(Exit::Usage));
    let key = bench.key("data", &json!({"id": "short"}));
    assert_eq!(bench.explain(&[&INFER[..], &["--key", &key]].concat()).await, Err(Exit::Usage));
    assert_eq!(bench.explain(&[&INFER[..], &["--key", "/none"]].concat()).await, Err(Exit::Usage));
    assert_eq!(bench.explain(&[]).await, Err(Exit::Usage));
    std::fs::write(bench.path("tollgate.yaml"), "version: 2\n").unwrap();
    assert_eq!(bench.explain(&INFER).await, Err(Exit::Configuration));
}
