//! What a request asks for by an id, as it was registered: to which project it belongs. Never says who may have it.

use std::fmt;

use tollgate_guard::time::Timestamp;

use crate::credential::ProjectId;

/// The word that stands for every project or every workload in a grant.
pub const EVERY: &str = "*";

/// Which project a thing belongs to, by its kind and id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Such as `workload`.
    pub kind: String,
    pub id: String,
    /// The name that keys are scoped by; the id where it was given none.
    pub slug: String,
    pub project: String,
    /// What tells the project from another one that has had its name; `None`: whichever has the name.
    pub project_id: Option<ProjectId>,
    /// Who made it (`key:<id>`, a subject), if that was said.
    pub owner: Option<String>,
    pub created_at: Timestamp,
    pub version: u64,
}

/// Names one resource. Both parts are names, so `kind:id` is unambiguous.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ResourceRef<'a> {
    pub kind: &'a str,
    pub id: &'a str,
}

impl fmt::Display for ResourceRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.kind, self.id)
    }
}

impl Resource {
    pub fn reference(&self) -> ResourceRef<'_> {
        ResourceRef { kind: &self.kind, id: &self.id }
    }
}
