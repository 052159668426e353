//! The fleet as JSON: its replicas, and which of them have confirmed a change.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rfc3339;
use crate::fleet::report::{FleetView, Replica, ReplicaView, WaitReport};
use crate::server::admin::grammar::{Seconds, Time};
use crate::store::format::Format;
use crate::store::redis::survey::Finding;

/// Whether the answer waits until every replica has confirmed the change.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Waiting {
    /// `fleet`: the answer comes when no replica can act any more on what was before, and says `fleet`.
    #[schemars(with = "WaitFor")]
    pub wait: Option<WaitFor>,
    /// With `wait`: how long at most; `5s` if it is left out.
    #[schemars(with = "Seconds")]
    pub limit: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum WaitFor {
    Fleet,
}

/// What stands after a change.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Changed{Record}")]
pub struct Changed<Record> {
    #[serde(flatten)]
    pub record: Record,
    /// Who has confirmed the change; only where that was waited for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "WaitBody")]
    pub fleet: Option<WaitBody>,
}

/// Which replicas have confirmed a change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Wait")]
pub struct WaitBody {
    /// How soon a change counts everywhere, as the store's configuration really gives it, such as `bounded (1 s)`; `sole`
    /// where one process owns the store.
    pub level: String,
    /// The number of the change.
    pub sequence: u64,
    /// How many have applied it.
    pub confirmed: usize,
    /// Those that were silent for so long that they cannot allow anything any more.
    pub fenced: Vec<ReplicaName>,
    /// Those that may still act on what was before.
    pub lagging: Vec<ReplicaName>,
    /// Why it could not be found out who has confirmed the change; null if it was.
    pub unknown: Option<String>,
}

impl WaitBody {
    /// Whether nobody can act any more on what was before.
    pub fn is_everywhere(&self) -> bool {
        self.lagging.is_empty() && self.unknown.is_none()
    }

    pub fn unknown(sequence: u64, why: &str) -> Self {
        let (level, unknown) = ("unknown".to_owned(), Some(why.to_owned()));
        Self { level, sequence, confirmed: 0, fenced: Vec::new(), lagging: Vec::new(), unknown }
    }

    /// `names`: whether the reader may know the hosts.
    pub fn of(report: &WaitReport, names: bool) -> Self {
        let named = |replicas: &[Replica]| replicas.iter().map(|replica| ReplicaName::of(replica, names)).collect();
        Self {
            level: report.level.clone(),
            sequence: report.sequence,
            confirmed: report.confirmed,
            fenced: named(&report.fenced),
            lagging: named(&report.lagging),
            unknown: None,
        }
    }
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ReplicaName {
    /// Another one for each process.
    pub id: String,
    /// Of its host; null for an administrator of one project.
    pub name: Option<String>,
    /// How many seconds it goes on, at most, when it cannot reach the store.
    pub grace_seconds: u64,
}

impl ReplicaName {
    fn of(replica: &Replica, names: bool) -> Self {
        Self {
            id: replica.id.clone(),
            name: names.then(|| replica.name.clone()),
            grace_seconds: replica.grace.as_millis().div_ceil(1000).try_into().unwrap_or(u64::MAX),
        }
    }
}

/// Everybody who answers checks from this store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Fleet")]
pub struct FleetBody {
    /// How soon a change counts everywhere, as the store's configuration really gives it, such as `bounded (1 s)`; `sole`
    /// where one process owns the store.
    pub level: String,
    /// What an operator should know of the store's server, the gravest first.
    pub findings: Vec<FindingBody>,
    /// The number of the newest change.
    pub head: u64,
    /// How the store is laid out, such as `3`; `3, under way` while it is upgraded.
    pub format: String,
    /// By name, and then by id.
    pub replicas: Vec<ReplicaBody>,
}

impl FleetBody {
    pub fn of(view: &FleetView, format: Format) -> Self {
        let replicas = view.replicas.iter().map(|replica| ReplicaBody::of(replica, view.head)).collect();
        let findings = view.findings.iter().map(FindingBody::of).collect();
        Self { level: view.level.clone(), findings, head: view.head, format: format.to_string(), replicas }
    }
}

/// One thing that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Finding")]
pub struct FindingBody {
    /// `refuse` (Tollgate does not start with it), `warn` or `note`.
    #[schemars(extend("enum" = ["refuse", "warn", "note"]))]
    pub severity: String,
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl FindingBody {
    fn of(finding: &Finding) -> Self {
        let severity = finding.severity.as_str().to_owned();
        Self { severity, what: finding.what.clone(), remedy: finding.remedy.clone() }
    }
}

/// One process that answers checks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Replica")]
pub struct ReplicaBody {
    #[serde(flatten)]
    pub replica: ReplicaName,
    /// Whether it is the one that answers here.
    pub is_asked: bool,
    pub version: String,
    /// `attached` (at the head, under a lease), `syncing`, `detached`, `sealed`, `fenced` (silent for so long that it cannot
    /// allow anything any more), or `sole` where one process owns the store.
    #[schemars(extend("enum" = ["sole", "detached", "syncing", "attached", "sealed", "fenced"]))]
    pub state: String,
    #[schemars(with = "Time")]
    pub since: String,
    /// The number of the newest change that it has applied.
    pub position: u64,
    /// How many changes it is behind.
    pub lag: u64,
    /// How many milliseconds its lease goes on, at most; null if it has none or needs none.
    pub lease_ms: Option<u64>,
    /// The highest format of the store that it can write.
    pub format: u64,
}

impl ReplicaBody {
    fn of(view: &ReplicaView, head: u64) -> Self {
        let millis = |lease: Duration| u64::try_from(lease.as_millis()).unwrap_or(u64::MAX);
        Self {
            replica: ReplicaName::of(&view.replica, true),
            is_asked: view.is_asked,
            version: view.version.clone(),
            state: view.standing.as_str().to_owned(),
            since: rfc3339(view.since),
            position: view.position,
            lag: head.saturating_sub(view.position),
            lease_ms: view.lease.map(millis),
            format: view.format,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::report::ReplicaStatus;

    #[test]
    fn the_description_names_every_standing() {
        let described = schemars::schema_for!(ReplicaBody).to_value();
        let described = described["properties"]["state"]["enum"].as_array().unwrap();
        let all: Vec<_> = ReplicaStatus::ALL.iter().map(|standing| serde_json::json!(standing.as_str())).collect();
        assert_eq!(*described, all);
    }

    #[test]
    fn a_host_is_named_to_whom_it_concerns() {
        let replica = Replica { id: "1".to_owned(), name: "gpu-7".to_owned(), grace: Duration::from_millis(1500) };
        let report = WaitReport {
            level: "bounded (1 s)".to_owned(),
            sequence: 7,
            confirmed: 2,
            fenced: vec![],
            lagging: vec![replica],
        };
        let name = |names| WaitBody::of(&report, names).lagging.remove(0);
        assert_eq!((name(true).name.as_deref(), name(true).grace_seconds), (Some("gpu-7"), 2));
        assert_eq!((name(false).name, name(false).id), (None, "1".to_owned()));
    }
}
