//! How much may be made, and how fast, as serde reads it. No logic.

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::registry;

/// How fast keys, users, resources and projects may be made and changed. What is beyond it is answered with 429 and
/// `Retry-After`. What ends something, imports, and the operator at the admin socket are never held back.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rates {
    /// By one key, user or token.
    pub actor: Rate,
    /// By everybody in one project together.
    pub project: Rate,
}

/// So many at once, and then so many a second.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// How many may be made at once.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub burst: u32,
    /// How many more may be made with each second that passes.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub per_second: u32,
}

impl Default for Rates {
    fn default() -> Self {
        let registry::Rates { actor, project } = registry::Rates::default();
        let rate = |rate: registry::Rate| Rate { burst: rate.burst, per_second: rate.per_second };
        Self { actor: rate(actor), project: rate(project) }
    }
}

/// How many keys, users and resources each project may have, in a store of format 3. What is beyond it is answered with 403.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Quotas {
    /// Keys of a project, revoked and expired ones included.
    pub keys: u64,
    /// Users of a project, deleted ones included.
    pub users: u64,
    /// Registered resources of a project.
    pub resources: u64,
    /// Other numbers for some projects, by their names. What is left out is as for everybody.
    #[serde(skip_serializing_if = "IndexMap::is_empty")]
    pub projects: IndexMap<String, ProjectQuotas>,
}

/// The quotas of one project.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ProjectQuotas {
    /// Keys, revoked and expired ones included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    pub keys: Option<u64>,
    /// Users, deleted ones included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    pub users: Option<u64>,
    /// Registered resources.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u64")]
    pub resources: Option<u64>,
}

impl Default for Quotas {
    fn default() -> Self {
        let registry::ProjectQuotas { keys, users, resources } = registry::ProjectQuotas::default();
        Self { keys, users, resources, projects: IndexMap::new() }
    }
}

/// How long the audit log is kept.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Audit {
    /// Rows older than this are removed within the hour, such as `400d`; at least `1d`. The newest row always stays. By default
    /// all of them are kept, until `tollgate audit trim`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub keep: Option<String>,
}

/// Copies of the store.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Backup {
    /// How old a copy may be that is ever put back, such as `90d`; at least `1d`. A revoked key that has expired, too, leaves nothing
    /// behind once both are longer ago, unless its plane answers revoked keys with 403. `off`: every revoked key stays for good.
    pub keep: String,
}

impl Default for Backup {
    fn default() -> Self {
        Self { keep: "90d".to_owned() }
    }
}
