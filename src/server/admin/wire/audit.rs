//! The audit log as JSON. Never holds a secret.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rfc3339;
use crate::domain::record::AuditEntry;
use crate::server::admin::grammar::{NameOrEvery, Time};

/// Which rows are listed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListAudit {
    /// About this project alone; `*` for what belongs to every one.
    #[schemars(with = "NameOrEvery")]
    pub project: Option<String>,
    /// By this one alone: `key:<id>`, `user:<name>`, `<issuer>:<subject>` or `operator`.
    #[schemars(with = "String")]
    pub actor: Option<String>,
    /// Of this kind alone, such as `key.create`.
    #[schemars(with = "String")]
    pub act: Option<String>,
    /// About this thing alone, such as `key:<id>`, `user:<name>` or `workload:w-1`.
    #[schemars(with = "String")]
    pub target: Option<String>,
    /// From this time on.
    #[schemars(with = "Time")]
    pub since: Option<String>,
    /// Before this time.
    #[schemars(with = "Time")]
    pub until: Option<String>,
    /// Only what is older than the row of this number: the `next` of the page before.
    #[schemars(with = "u64", range(min = 1, max = 9_007_199_254_740_991_u64))]
    pub before: Option<u64>,
    /// At most this many; 100 if it is left out.
    #[schemars(with = "usize", range(min = 1, max = 1000))]
    pub limit: Option<usize>,
}

/// Which rows are removed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrimAudit {
    /// Those from before this time.
    #[schemars(with = "Time")]
    pub before: String,
}

/// What was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AuditTrimmed")]
pub struct TrimmedBody {
    /// How many rows.
    pub removed: usize,
    /// Whether there may be more of them: ask again.
    pub more: bool,
}

/// An administrative act, or the attempt of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "AuditEntry")]
pub struct AuditBody {
    /// Counts the rows, from 1.
    pub sequence: u64,
    #[schemars(with = "Time")]
    pub at: String,
    /// `key:<id>`, `user:<name>`, `<issuer>:<subject>`, or `operator` for whoever holds the admin socket.
    pub actor: String,
    /// The `id` of the user or of the subject of a token, which nobody else ever has; null if the actor has none, or had none then.
    pub actor_id: Option<String>,
    /// The name of the operation, such as `key.create`.
    pub act: String,
    /// Such as `key:<id>`, `user:<name>` or `workload:w-1`.
    pub target: String,
    pub project: Option<String>,
    #[schemars(extend("enum" = ["done", "refused"]))]
    pub outcome: String,
    /// Why it was refused.
    pub reason: Option<String>,
    /// Where the request came from: an address, or `uid:` and the user at the other end of the admin socket.
    pub peer: String,
    pub request_id: String,
}

impl From<&AuditEntry> for AuditBody {
    fn from(entry: &AuditEntry) -> Self {
        Self {
            sequence: entry.sequence,
            at: rfc3339(entry.at),
            actor: entry.actor.clone(),
            actor_id: entry.actor_id.clone(),
            act: entry.act.clone(),
            target: entry.target.clone(),
            project: entry.project.clone(),
            outcome: entry.outcome.as_str().to_owned(),
            reason: entry.reason.clone(),
            peer: entry.peer.clone(),
            request_id: entry.request_id.clone(),
        }
    }
}

/// A page of the audit log, newest first.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AuditPage {
    /// It may be fewer than were asked for, even none, with more to come: a page passes over 5,000 rows that are not asked for at most.
    pub entries: Vec<AuditBody>,
    /// The `before` of the next page; null on the last one, and there alone.
    pub next: Option<u64>,
}
