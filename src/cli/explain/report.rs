//! A decision's trace for a person or a program: each step with what it found. Shows names, ids and rules, never the value
//! of a header that was sent.

use serde_json::{Map, Value, json};
use tollgate_core::admit::{Admission, admit};
use tollgate_core::attributes::Attributes;
use tollgate_core::decision::{Step, Trace};
use tollgate_core::denial::Denial;
use tollgate_core::policy::Policy;
use tollgate_core::resource::Resource;
use tollgate_core::respond::Decision;
use tollgate_core::route::{Access, ProjectOf, Requirement, Scope, Source, WorkloadOf};
use tollgate_guard::time::Timestamp;

use super::store_failed;
use crate::cli::Failure;
use crate::cli::output::{Colour, painted, printable};
use crate::domain::record::ApiKey;
use crate::server::admin::wire::keys::KeyBody;
use crate::store::Store;

struct ReportedStep {
    step: Step,
    /// `ok`, `refused`, `skipped` or `not reached`.
    result: &'static str,
    facts: Map<String, Value>,
}

/// Everything that `explain` says.
pub struct Report {
    request: Map<String, Value>,
    denied: Option<Denial>,
    status: Option<u16>,
    stages: Vec<ReportedStep>,
}

impl Report {
    pub async fn of(
        policy: &Policy,
        request: &Attributes<'_>,
        decision: &Decision<'_>,
        store: &Store,
        now: Timestamp,
    ) -> Result<Self, Failure> {
        let trace = *decision.trace();
        let denied = match decision {
            Decision::Allow(_) => None,
            Decision::Deny(deny) => Some(deny.denial),
        };
        let failed = denied.map(|_| trace.step);
        let public = trace.route.is_some_and(|id| policy.routes.route(id).access == Access::Public);
        let found = Found::look_up(policy, request, &trace, store).await?;
        let stage = |step| {
            let result = match failed {
                Some(at) if at == step => "refused",
                Some(at) if at < step && step != Step::Respond => "not reached",
                _ if public && matches!(step, Step::Extract | Step::Resolve | Step::Authorize) => "skipped",
                _ => "ok",
            };
            let mut facts = match (step, result) {
                (_, "not reached" | "skipped") => Map::new(),
                (Step::Route, _) => route_facts(policy, &trace),
                (Step::Extract, _) => extract_facts(policy, request, &trace),
                (Step::Resolve, _) => found.facts(&trace, now),
                (Step::Authorize, _) => authorize_facts(decision),
                (Step::Respond, _) => respond_facts(decision),
            };
            if let (Some(denial), "refused") = (denied, result) {
                facts.insert("reason".to_owned(), json!(denial.as_str()));
                facts.insert("why".to_owned(), json!(denial.why()));
                facts.insert("help".to_owned(), json!(denial.help()));
            }
            ReportedStep { step, result, facts }
        };
        let status = match decision {
            Decision::Allow(_) => None,
            Decision::Deny(deny) => Some(deny.status),
        };
        let said = object([
            ("method", json!(request.method)),
            ("host", json!(request.host)),
            ("path", json!(request.path())),
            ("client_ip", json!(policy.client_ip.of(request))),
        ]);
        Ok(Self { request: said, denied, status, stages: Step::ALL.into_iter().map(stage).collect() })
    }

    pub fn is_allowed(&self) -> bool {
        self.denied.is_none()
    }

    pub fn as_json(&self) -> Value {
        let steps: Vec<Value> = self
            .stages
            .iter()
            .map(|stage| {
                let mut map = object([("step", json!(stage.step.as_str())), ("result", json!(stage.result))]);
                map.extend(stage.facts.clone());
                Value::Object(map)
            })
            .collect();
        json!({
            "decision": if self.denied.is_none() { "allow" } else { "deny" },
            "reason": self.denied.map(Denial::as_str),
            "status": self.status,
            "request": self.request,
            "steps": steps,
        })
    }

    pub fn as_text(&self, colourful: bool) -> String {
        let of = |name: &str| printable(self.request.get(name).and_then(Value::as_str).unwrap_or_default());
        let answer = match (self.denied, self.status) {
            (Some(denial), Some(status)) => {
                painted(&format!("DENIED {status} {}", denial.as_str()), Colour::Red, colourful)
            }
            _ => painted("ALLOWED", Colour::Green, colourful),
        };
        let mut text = format!("{} {}{}\n{answer}\n\n", of("method"), of("host"), of("path"));
        for stage in &self.stages {
            text.push_str(&format!("{:<11}{}\n", stage.step.as_str(), stage.result));
            for (name, value) in &stage.facts {
                for line in lines_of(name, value) {
                    text.push_str(&format!("           {}\n", printable(&line)));
                }
            }
        }
        text
    }
}

/// A fact in lines; what is unknown takes none.
fn lines_of(name: &str, value: &Value) -> Vec<String> {
    let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match value {
        Value::Null => Vec::new(),
        Value::Array(list) => vec![format!("{name}: {}", list.iter().map(plain).collect::<Vec<_>>().join(", "))],
        Value::Object(map) => map.iter().flat_map(|(part, value)| lines_of(&format!("{name} {part}"), value)).collect(),
        other => vec![format!("{name}: {}", plain(other))],
    }
}

fn object<const N: usize>(pairs: [(&str, Value); N]) -> Map<String, Value> {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn route_facts(policy: &Policy, trace: &Trace) -> Map<String, Value> {
    let Some(id) = trace.route else { return Map::new() };
    let route = policy.routes.route(id);
    let mut facts = object([("route", json!(route.name))]);
    match &route.access {
        Access::Public => {
            facts.insert("public".to_owned(), json!(true));
        }
        Access::Guarded(requirement) => {
            facts.insert("plane".to_owned(), json!(policy.plane(requirement.plane).name));
            for (name, list) in [("all_of", &requirement.all_of), ("any_of", &requirement.any_of)] {
                if !list.is_empty() {
                    facts.insert(name.to_owned(), json!(list));
                }
            }
            facts.insert("in".to_owned(), json!(scope(requirement)));
        }
    }
    facts
}

fn scope(requirement: &Requirement) -> String {
    let named = |source: &Source| match source {
        Source::Literal(text) => format!("`{text}`"),
        Source::Param(at) => format!("named by parameter {} of the path", at + 1),
        Source::HostLabel(at) => format!("named by label {} of the host", at + 1),
    };
    match &requirement.scope {
        Scope::Resource { kind, id } => format!("the {kind} {}", named(id)),
        Scope::Project { project, workload } => {
            let project = match project {
                ProjectOf::Key => "the key's own project".to_owned(),
                ProjectOf::Named(source) => format!("the project {}", named(source)),
            };
            match workload {
                WorkloadOf::Whole => format!("{project} as a whole"),
                WorkloadOf::Key => format!("{project}, the key's own workload"),
                WorkloadOf::Named(source) => format!("{project}, the workload {}", named(source)),
            }
        }
    }
}

fn extract_facts(policy: &Policy, request: &Attributes<'_>, trace: &Trace) -> Map<String, Value> {
    let said = |name: &str| request.values(name).any(|value| !value.trim_ascii().is_empty());
    let headers: Vec<&str> = policy.credentials.iter().map(|source| &*source.name).filter(|name| said(name)).collect();
    let mut facts = object([("credential_headers", json!(headers))]);
    if let Some(id) = &trace.key_id {
        facts.insert("key_id".to_owned(), json!(id.as_str()));
    }
    facts
}

/// What the store knows of the key and the resource of a request.
struct Found {
    key: Option<ApiKey>,
    resource: Option<(String, Option<Resource>)>,
}

impl Found {
    async fn look_up(policy: &Policy, request: &Attributes<'_>, trace: &Trace, store: &Store) -> Result<Self, Failure> {
        let mut found = Self { key: None, resource: None };
        let (Some(id), Ok(Admission::Guarded(ask))) = (trace.key_id, admit(policy, request, &mut Trace::begin()))
        else {
            return Ok(found);
        };
        found.key = store.key(id).await.map_err(|error| store_failed(&error))?;
        if let Some(reference) = ask.resource() {
            let resource = store.resource(reference.kind.to_owned(), reference.id.to_owned()).await;
            found.resource = Some((reference.to_string(), resource.map_err(|error| store_failed(&error))?));
        }
        Ok(found)
    }

    fn facts(&self, trace: &Trace, now: Timestamp) -> Map<String, Value> {
        let mut facts = Map::new();
        if let Some(tier) = trace.principal {
            facts.insert("from".to_owned(), json!(tier.as_str()));
        }
        if let Some(key) = &self.key {
            let body = KeyBody::of(key, None, now);
            let record = object([
                ("id", json!(body.id)),
                ("name", json!(body.name)),
                ("state", json!(body.state)),
                ("plane", json!(body.plane)),
                ("project", json!(body.project)),
                ("workloads", json!(body.workloads)),
                ("permissions", json!(body.permissions)),
                ("expires_at", json!(body.expires_at)),
                ("retires_at", json!(body.retires_at)),
            ]);
            facts.insert("key".to_owned(), Value::Object(record));
        }
        if let Some((reference, resource)) = &self.resource {
            let place = match resource {
                Some(resource) => format!("{reference} is {}/{}", resource.project, resource.slug),
                None => format!("{reference} is not registered"),
            };
            facts.insert("resource".to_owned(), json!(place));
        }
        facts
    }
}

fn authorize_facts(decision: &Decision<'_>) -> Map<String, Value> {
    match decision {
        Decision::Allow(allow) => {
            let permit = allow.permit();
            object([("project", json!(permit.project())), ("workload", json!(permit.workload()))])
        }
        Decision::Deny(_) => Map::new(),
    }
}

fn respond_facts(decision: &Decision<'_>) -> Map<String, Value> {
    match decision {
        Decision::Allow(allow) => {
            let set = allow.headers_to_set().map(|(name, value)| (name.to_owned(), json!(value)));
            let mut removed: Vec<&str> = allow.headers_to_remove().collect();
            removed.sort_unstable();
            removed.dedup();
            object([("set", Value::Object(set.collect())), ("remove", json!(removed))])
        }
        Decision::Deny(deny) => {
            let headers = deny.headers.iter().map(|(name, value)| ((*name).to_owned(), json!(value)));
            object([
                ("status", json!(deny.status)),
                ("header", Value::Object(headers.collect())),
                ("body", json!(deny.body)),
            ])
        }
    }
}
