//! The table of cases: `cases.yaml` is the data, this runs it. Knows no case by its name.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use super::backend::Seen;
use super::client::{Reply, Sent};
use super::harness::{Key, Stack, wait_for};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    resources: BTreeMap<String, String>,
    keys: BTreeMap<String, KeySpec>,
    steps: Vec<Step>,
}

#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeySpec {
    plane: String,
    project: String,
    workloads: String,
    permissions: String,
    #[serde(default)]
    expires_in: Option<String>,
}

/// A case, or one of the acts between them.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Step {
    case: Option<String>,
    over: Option<Vec<Over>>,
    request: String,
    key: Option<String>,
    /// Whose identity the back end must see where the credential stands in `headers`.
    #[serde(rename = "as")]
    acts_as: Option<String>,
    headers: Vec<(String, String)>,
    body: Option<String>,
    status: u16,
    code: Option<String>,
    challenge: Option<String>,
    grpc: Option<u8>,
    message: Option<String>,
    #[serde(rename = "type")]
    content_type: Option<String>,
    saw: Option<Saw>,
    door: bool,
    same_as: Option<String>,
    revoke: Option<String>,
    rotate: Option<String>,
    into: String,
    grace: String,
    wait_expired: Option<String>,
    wait_retired: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Saw {
    project: Option<String>,
    workload: Option<String>,
    anonymous: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Over {
    H1,
    H2,
    Grpc,
}

struct Run {
    stack: Stack,
    keys: HashMap<String, (Key, KeySpec)>,
    /// Answers that must be the same, byte by byte.
    bodies: HashMap<String, Vec<u8>>,
    failed: Vec<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_table_of_cases() {
    let table: Table = serde_saphyr::from_str(include_str!("cases.yaml")).unwrap();
    let count = table.steps.iter().filter(|step| step.case.is_some()).count();
    assert!(count >= 60, "{count} cases");
    let mut run = Run { stack: Stack::start().await, keys: HashMap::new(), bodies: HashMap::new(), failed: Vec::new() };
    for (id, place) in &table.resources {
        let (project, slug) = place.split_once('/').unwrap();
        run.stack.put_resource(id, project, slug);
    }
    for (name, spec) in &table.keys {
        let more: Vec<&str> = spec.expires_in.iter().flat_map(|end| ["--expires-in", end]).collect();
        let key = run.stack.create_key(&spec.plane, &spec.project, &spec.workloads, &spec.permissions, &more);
        run.keys.insert(name.clone(), (key, spec.clone()));
    }
    run.made_up_keys();
    let mut sent = 0;
    for step in &table.steps {
        match &step.case {
            Some(name) => sent += run.case(name, step).await,
            None => run.act(step).await,
        }
    }
    println!("{count} cases, {sent} requests");
    assert!(run.failed.is_empty(), "failed: {:#?}", run.failed);
}

impl Run {
    /// Texts that look like keys: one that was never minted, and a data key with the prefix of the control plane.
    fn made_up_keys(&mut self) {
        let (data, spec) = self.keys["data"].clone();
        let minted = tollgate_core::credential::MintedKey::generate("ik_live", getrandom::fill).unwrap();
        let unknown = Key { id: minted.id().to_string(), text: minted.expose().to_owned() };
        let swapped = Key { text: data.text.replace("ik_live", "ik_sdk"), ..data };
        self.keys.insert("unknown".to_owned(), (unknown, spec.clone()));
        self.keys.insert("swapped".to_owned(), (swapped, spec));
    }

    async fn act(&mut self, step: &Step) {
        let id = |name: &String| self.keys[name].0.id.clone();
        if let Some(name) = &step.revoke {
            self.stack.revoke(&self.keys[name].0);
        } else if let Some(name) = &step.rotate {
            let (old, spec) = self.keys[name].clone();
            let new = self.stack.rotate(&old, &step.grace);
            self.keys.insert(step.into.clone(), (new, spec));
        } else if let Some((name, state)) = (step.wait_expired.as_ref().map(|name| (name, "expired")))
            .or_else(|| step.wait_retired.as_ref().map(|name| (name, "retired")))
        {
            let id = id(name);
            wait_for(state, || std::future::ready(self.stack.tollgate_json(&["keys", "show", &id])["state"] == state))
                .await;
        } else {
            panic!("a step that is neither a case nor an act");
        }
    }

    async fn case(&mut self, name: &str, step: &Step) -> usize {
        let over = step.over.clone().unwrap_or_else(|| vec![Over::H1, Over::H2]);
        for protocol in &over {
            let request = self.request(step, *protocol);
            self.stack.take_seen();
            let reply = match protocol {
                Over::H1 => self.stack.send(&request).await,
                Over::H2 | Over::Grpc => self.stack.send_h2(&request).await,
            };
            let seen = self.stack.take_seen();
            let context = format!("{name} ({protocol:?}): {} {}, {seen:?}", reply.status, reply.text());
            // Every case is tried, so that one run tells them all.
            let checked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
                self.check_answer(step, &reply, *protocol, &context);
                self.check_back_end(step, &reply, &seen, &context);
            }));
            if checked.is_err() {
                self.failed.push(format!("{name} ({protocol:?})"));
            }
        }
        over.len()
    }

    fn request(&self, step: &Step, protocol: Over) -> Sent {
        let (method, target) = step.request.split_once(' ').unwrap();
        let mut request = if protocol == Over::Grpc {
            // inference.ModelInferRequest with model_name = "m".
            Sent::grpc(target, b"\x0a\x01m")
        } else {
            Sent::new(method, &self.filled(target)).body(step.body.clone().unwrap_or_default())
        };
        if let Some(key) = &step.key {
            request = request.bearer(&self.keys[key].0.text);
        }
        for (name, value) in &step.headers {
            request = request.header(name, &self.filled(value));
        }
        request
    }

    fn filled(&self, text: &str) -> String {
        let all = self.keys.iter();
        all.fold(text.to_owned(), |text, (name, (key, _))| text.replace(&format!("{{{name}}}"), &key.text))
    }

    fn check_answer(&mut self, step: &Step, reply: &Reply, protocol: Over, context: &str) {
        if let Some(status) = step.grpc {
            assert_eq!(reply.status, 200, "{context}");
            assert_eq!(reply.header("grpc-status"), Some(status.to_string()), "{context}: {reply:?}");
            let message = reply.header("grpc-message").unwrap_or_default();
            assert!(message.contains(step.message.as_deref().unwrap_or_default()), "{context}: {message}");
            return;
        }
        assert_eq!(reply.status, step.status, "{context}");
        assert_ne!(protocol, Over::Grpc, "{context}: a gRPC case names its grpc-status");
        let error = &reply.json()["error"];
        if let Some(code) = &step.code {
            assert_eq!(error["code"], **code, "{context}");
            assert_eq!(reply.header("content-type").as_deref(), Some("application/json"), "{context}");
            let id = reply.header("x-request-id").unwrap_or_default();
            assert!(!id.is_empty() && !id.contains('|'), "{context}: one request id, not `{id}`");
        }
        if let Some(message) = &step.message {
            assert!(error["message"].as_str().unwrap_or_default().contains(message), "{context}");
        }
        if let Some(challenge) = &step.challenge {
            assert_eq!(reply.header("www-authenticate").as_ref(), Some(challenge), "{context}");
        }
        if let Some(kind) = &step.content_type {
            assert_eq!(reply.header("content-type").as_ref(), Some(kind), "{context}");
        }
        if let Some(group) = &step.same_as {
            let known = self.bodies.entry(group.clone()).or_insert_with(|| reply.body.clone());
            assert_eq!(*known, reply.body, "{context}: must read like the others");
        }
    }

    fn check_back_end(&self, step: &Step, reply: &Reply, seen: &[Seen], context: &str) {
        let Some(saw) = &step.saw else {
            assert!(seen.is_empty(), "{context}: it was refused, or for the admin API, and reached the back end");
            assert_eq!(reply.status < 300 && step.grpc.is_none(), step.door, "{context}");
            return;
        };
        let [seen] = seen else { panic!("{context}: the back end saw {} requests", seen.len()) };
        let mut headers = headers(seen);
        for gone in ["authorization", "x-api-key", "x-http-method-override", "x-original-url"] {
            assert!(!headers.contains_key(gone), "{context}: {gone}");
        }
        let request_id = headers.remove("x-tollgate-request-id");
        assert_eq!(request_id, headers.get("x-request-id").cloned(), "{context}");
        let mut expected = BTreeMap::new();
        let who = step.acts_as.as_ref().or(step.key.as_ref()).filter(|_| !saw.anonymous);
        if let Some(name) = who {
            let (key, spec) = &self.keys[name];
            let mut permissions: Vec<&str> = spec.permissions.split(',').collect();
            permissions.sort_unstable();
            expected.insert("x-tollgate-subject", format!("key:{}", key.id));
            expected.insert("x-tollgate-key-id", key.id.clone());
            expected.insert("x-tollgate-plane", spec.plane.clone());
            expected.insert("x-tollgate-permissions", permissions.join(","));
        }
        expected.extend(saw.project.clone().map(|project| ("x-tollgate-project", project)));
        expected.extend(saw.workload.clone().map(|workload| ("x-tollgate-workload", workload)));
        let identity: BTreeMap<&str, String> = headers
            .iter()
            .filter(|(name, _)| name.contains("tollgate"))
            .map(|(name, value)| (name.as_str(), value.clone()))
            .collect();
        assert_eq!(identity, expected, "{context}");
    }
}

/// The headers of a request by name; duplicates are joined, so that they cannot pass for one.
pub fn headers(seen: &Seen) -> BTreeMap<String, String> {
    let mut map: BTreeMap<String, String> = BTreeMap::new();
    for (name, value) in &seen.headers {
        map.entry(name.clone()).and_modify(|known| *known = format!("{known} | {value}")).or_insert(value.clone());
    }
    map
}
