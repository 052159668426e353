//! Projects as JSON.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rfc3339;
use crate::domain::record::Project;
use crate::server::admin::grammar::{Name, Time};

/// What becomes of a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ProjectStateChange {
    /// It goes on.
    Active,
    /// Every key, session and token of it is refused, until it goes on.
    Suspended,
}

/// What changes of a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = UpdateProject { state: ProjectStateChange::Suspended })]
pub struct UpdateProject {
    pub state: ProjectStateChange,
}

/// A project that is made before anything is made in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = CreateProject { name: "acme".to_owned() })]
pub struct CreateProject {
    #[schemars(with = "Name")]
    pub name: String,
}

/// Which project is meant.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct ProjectPath {
    #[schemars(with = "Name")]
    pub name: String,
}

/// Which projects are listed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListProjects {
    /// Only what comes behind this name: the `next` of the page before.
    #[schemars(with = "Name")]
    pub after: Option<String>,
    /// At most this many; 100 if it is left out.
    #[schemars(with = "usize", range(min = 1, max = 1000))]
    pub limit: Option<usize>,
}

/// A project as a whole. One that was never made is active and has version 0.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Project")]
pub struct ProjectBody {
    #[schemars(with = "Name")]
    pub name: String,
    /// What everything in it carries, given when it is made, by itself or with the first thing in it; null before that, and until the store is upgraded.
    pub id: Option<String>,
    /// `active`, `suspended` (every key, session and token of it is refused) or `deleted` (the same, for good).
    #[schemars(extend("enum" = ["active", "suspended", "deleted"]))]
    pub state: String,
    /// Since when it has been in this state; null if it was never made.
    #[schemars(with = "Option<Time>")]
    pub changed_at: Option<String>,
    /// `key:<id>`, `user:<name>`, `operator` for whoever holds the admin socket, or `tollgate` for the server itself; null if it was never made.
    pub changed_by: Option<String>,
    /// Counts the changes of the record; the `ETag` is made of it.
    pub version: u64,
}

impl From<&Project> for ProjectBody {
    fn from(project: &Project) -> Self {
        let was_said = project.version > 0;
        Self {
            name: project.name.clone(),
            id: project.id.map(|id| id.to_string()),
            state: project.state.as_str().to_owned(),
            changed_at: was_said.then(|| rfc3339(project.changed_at)),
            changed_by: was_said.then(|| project.changed_by.clone()),
            version: project.version,
        }
    }
}

/// A page of the projects, by name. Until the store is upgraded, of those alone that were suspended,
/// resumed or deleted.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ProjectPage {
    pub projects: Vec<ProjectBody>,
    /// The `after` of the next page; null on the last one.
    #[schemars(with = "Option<Name>")]
    pub next: Option<String>,
}
