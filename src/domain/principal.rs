//! Who asks and what they may do: the compact form that the cache holds. Never holds a secret or a verdict.

use super::credential::KeyId;
use super::name::is_name;
use super::record::{ApiKey, EVERY};
use super::time::Timestamp;

/// An authenticated caller. The lists are kept joined by commas, sorted: compact at a million entries, and already the
/// value of the identity header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub key_id: KeyId,
    pub plane: Box<str>,
    pub project: Box<str>,
    workloads: Box<str>,
    permissions: Box<str>,
    pub expires_at: Option<Timestamp>,
    pub retires_at: Option<Timestamp>,
    pub revoked: bool,
}

/// A stored key has a value that no rule would have let in, so nothing can be concluded from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidRecord;

impl Principal {
    /// # Errors
    /// [`InvalidRecord`] if a name in the record could not be a header value or would read as another list.
    pub fn of(key: &ApiKey) -> Result<Self, InvalidRecord> {
        let names = |list: &[String]| list.iter().all(|name| is_name(name));
        let every = |list: &[String]| matches!(list, [one] if one == EVERY);
        let sound = is_name(&key.plane)
            && (is_name(&key.project) || key.project == EVERY)
            && (names(&key.workloads) || every(&key.workloads))
            && names(&key.permissions);
        if !sound {
            return Err(InvalidRecord);
        }
        Ok(Self {
            key_id: key.id,
            plane: key.plane.as_str().into(),
            project: key.project.as_str().into(),
            workloads: key.workloads.join(",").into(),
            permissions: key.permissions.join(",").into(),
            expires_at: key.expires_at,
            retires_at: key.retires_at,
            revoked: key.revoked_at.is_some(),
        })
    }

    pub fn holds(&self, permission: &str) -> bool {
        self.permissions.split(',').any(|held| held == permission)
    }

    /// Whether the workload is in scope. The name must follow [`super::name::is_name`], which excludes `*`.
    pub fn reaches_workload(&self, workload: &str) -> bool {
        self.reaches_every_workload() || self.workloads.split(',').any(|held| held == workload)
    }

    pub fn reaches_every_workload(&self) -> bool {
        &*self.workloads == EVERY
    }

    /// Whether the project is in scope. The name must follow [`super::name::is_name`], which excludes `*`.
    pub fn reaches_project(&self, project: &str) -> bool {
        self.reaches_every_project() || *self.project == *project
    }

    pub fn reaches_every_project(&self) -> bool {
        &*self.project == EVERY
    }

    /// Sorted and joined by commas; empty if there are none.
    pub fn permissions(&self) -> &str {
        &self.permissions
    }

    /// The one workload the key is bound to, if it is bound to exactly one.
    pub fn only_workload(&self) -> Option<&str> {
        let one = !self.workloads.is_empty() && !self.reaches_every_workload() && !self.workloads.contains(',');
        one.then_some(&*self.workloads)
    }
}
