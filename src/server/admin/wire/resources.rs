//! Registered resources as JSON.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tollgate_core::resource::Resource;

use super::rfc3339;
use crate::server::admin::grammar::{Label, Name, Time};

/// Where a resource belongs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = PutResource::example())]
pub struct PutResource {
    #[schemars(with = "Name")]
    pub project: Option<String>,
    /// The name that keys are scoped by; by default the id.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Name>")]
    pub slug: Option<String>,
    /// Who made it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Label>")]
    pub owner: Option<String>,
    /// Whether it may be changed if it is registered otherwise already.
    #[serde(rename = "move", default)]
    pub may_move: bool,
}

impl PutResource {
    fn example() -> Self {
        Self { project: Some("acme".to_owned()), slug: Some("llama".to_owned()), owner: None, may_move: false }
    }
}

/// Which resource is meant.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct ResourcePath {
    /// What it is, such as `workload`.
    #[schemars(with = "Name")]
    pub kind: String,
    #[schemars(with = "Name")]
    pub id: String,
}

/// Which resources are listed.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListResources {
    /// Of this kind alone.
    #[schemars(with = "Name")]
    pub kind: Option<String>,
    /// Of this project alone.
    #[schemars(with = "Name")]
    pub project: Option<String>,
    /// Only what comes behind this one, as `kind:id`: the `next` of the page before.
    #[schemars(with = "String", regex(pattern = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}:[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"))]
    pub after: Option<String>,
    /// At most this many; 100 if it is left out.
    #[schemars(with = "usize", range(min = 1, max = 1000))]
    pub limit: Option<usize>,
}

/// A registered resource.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Resource")]
pub struct ResourceBody {
    #[schemars(with = "Name")]
    pub kind: String,
    #[schemars(with = "Name")]
    pub id: String,
    #[schemars(with = "Name")]
    pub project: String,
    /// The `id` of the project; null until the store is upgraded.
    pub project_id: Option<String>,
    #[schemars(with = "Name")]
    pub slug: String,
    pub owner: Option<String>,
    #[schemars(with = "Time")]
    pub created_at: String,
    /// Counts the changes of the record; the `ETag` is made of it.
    pub version: u64,
}

impl From<&Resource> for ResourceBody {
    fn from(resource: &Resource) -> Self {
        Self {
            kind: resource.kind.clone(),
            id: resource.id.clone(),
            project: resource.project.clone(),
            project_id: resource.project_id.map(|id| id.to_string()),
            slug: resource.slug.clone(),
            owner: resource.owner.clone(),
            created_at: rfc3339(resource.created_at),
            version: resource.version,
        }
    }
}

/// A page of resources, by kind and id.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ResourcePage {
    pub resources: Vec<ResourceBody>,
    /// The `after` of the next page, as `kind:id`; null on the last one.
    pub next: Option<String>,
}
