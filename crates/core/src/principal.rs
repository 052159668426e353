//! Who asks and what they may do: the compact form that the cache holds. Never holds a secret or a verdict.

use std::borrow::Cow;
use std::sync::Arc;

use tollgate_guard::time::Timestamp;

use crate::credential::{KeyId, ProjectId};
use crate::name::is_name;
use crate::resource::{EVERY, Resource};

/// An authenticated caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub identity: Identity,
    /// Shared by all who have the same one: few of a million keys differ in it.
    grant: Arc<Grant>,
    pub expires_at: Option<Timestamp>,
    pub retires_at: Option<Timestamp>,
    pub revoked: bool,
}

/// Until when a key is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub expires_at: Option<Timestamp>,
    /// End of the overlap that a rotation granted.
    pub retires_at: Option<Timestamp>,
    pub revoked: bool,
}

/// The name of a caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Identity {
    /// An API key, by its public id.
    Key(KeyId),
    /// Whoever a token was issued to.
    Subject {
        /// `<name of the issuer>:<subject>`.
        name: Box<str>,
        /// Few callers have neither, and a million keys must not pay for it.
        details: Box<SubjectDetails>,
    },
}

/// What is known of the holder of a token beside the name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubjectDetails {
    /// What stands in logs instead, where the name has an e-mail address.
    pub logged: Option<Box<str>>,
    /// What tells the caller from whoever else has or had the name: the id of a user, or a digest over issuer and subject of a
    /// token. `None`: a user of a store that gives no ids yet.
    pub id: Option<Box<str>>,
}

/// What a caller may do, and where. The lists are kept joined by commas, sorted: compact, and already the value of the
/// identity header.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    plane: Box<str>,
    project: Box<str>,
    /// See [`Grant::in_project`].
    project_id: Option<ProjectId>,
    workloads: Box<str>,
    permissions: Box<str>,
}

/// A grant would have a value that no rule lets in, so nothing can be concluded from what it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidRecord;

impl Grant {
    /// `project` is a name or [`EVERY`]; `workloads` are names or [`EVERY`] alone; an empty list means none. The lists are
    /// kept in the order that they have.
    ///
    /// # Errors
    /// [`InvalidRecord`] if a name could not be a header value or would read as another list.
    pub fn new(
        plane: &str,
        project: &str,
        workloads: &[String],
        permissions: &[String],
    ) -> Result<Self, InvalidRecord> {
        let names = |list: &[String]| list.iter().all(|name| is_name(name));
        let every = |list: &[String]| matches!(list, [one] if one == EVERY);
        let sound = is_name(plane)
            && (is_name(project) || project == EVERY)
            && (names(workloads) || every(workloads))
            && names(permissions);
        if !sound {
            return Err(InvalidRecord);
        }
        Ok(Self {
            plane: plane.into(),
            project: project.into(),
            project_id: None,
            workloads: workloads.join(",").into(),
            permissions: permissions.join(",").into(),
        })
    }

    /// One project, or [`EVERY`].
    pub fn project(&self) -> &str {
        &self.project
    }

    /// In the project with this id; by its name alone if there is none.
    pub fn in_project(self, id: Option<ProjectId>) -> Self {
        Self { project_id: id, ..self }
    }
}

impl Principal {
    /// The holder of a key.
    pub fn of_key(id: KeyId, grant: Arc<Grant>, validity: Validity) -> Self {
        let Validity { expires_at, retires_at, revoked } = validity;
        Self { identity: Identity::Key(id), grant, expires_at, retires_at, revoked }
    }

    /// Whoever a token was issued to, until it expires.
    pub fn of_subject(subject: &str, details: SubjectDetails, grant: Arc<Grant>, expires_at: Timestamp) -> Self {
        Self {
            identity: Identity::Subject { name: subject.into(), details: Box::new(details) },
            grant,
            expires_at: Some(expires_at),
            retires_at: None,
            revoked: false,
        }
    }

    /// What the caller may do, and where.
    pub fn grant(&self) -> &Arc<Grant> {
        &self.grant
    }

    /// `key:<id>`, or `<name of the issuer>:<subject>`.
    pub fn subject(&self) -> Cow<'_, str> {
        match &self.identity {
            Identity::Key(id) => Cow::Owned(["key:", id.as_str()].concat()),
            Identity::Subject { name, .. } => Cow::Borrowed(name),
        }
    }

    /// What stands in logs instead of the subject, if that must not.
    pub fn logged_instead(&self) -> Option<&str> {
        match &self.identity {
            Identity::Subject { details, .. } => details.logged.as_deref(),
            Identity::Key(_) => None,
        }
    }

    /// See [`SubjectDetails::id`]; a key has none.
    pub fn user_id(&self) -> Option<&str> {
        match &self.identity {
            Identity::Subject { details, .. } => details.id.as_deref(),
            Identity::Key(_) => None,
        }
    }

    /// The public id, if the caller is an API key.
    pub fn key_id(&self) -> Option<&str> {
        match &self.identity {
            Identity::Key(id) => Some(id.as_str()),
            Identity::Subject { .. } => None,
        }
    }

    pub fn plane(&self) -> &str {
        &self.grant.plane
    }

    /// One project, or [`EVERY`].
    pub fn project(&self) -> &str {
        &self.grant.project
    }

    pub fn holds(&self, permission: &str) -> bool {
        self.permissions().split(',').any(|held| held == permission)
    }

    /// Whether the workload is in scope. The name must follow [`crate::name::is_name`], which excludes `*`.
    pub fn reaches_workload(&self, workload: &str) -> bool {
        self.reaches_every_workload() || self.grant.workloads.split(',').any(|held| held == workload)
    }

    pub fn reaches_every_workload(&self) -> bool {
        &*self.grant.workloads == EVERY
    }

    /// Whether the project is in scope. The name must follow [`crate::name::is_name`], which excludes `*`.
    pub fn reaches_project(&self, project: &str) -> bool {
        self.reaches_every_project() || *self.grant.project == *project
    }

    /// Whether the project that the resource belongs to is in scope: the very one, where both say its id.
    pub fn reaches_resource(&self, resource: &Resource) -> bool {
        let ids = self.grant.project_id.zip(resource.project_id);
        self.reaches_project(&resource.project) && ids.is_none_or(|(own, its)| own == its)
    }

    pub fn reaches_every_project(&self) -> bool {
        &*self.grant.project == EVERY
    }

    /// Sorted and joined by commas; empty if there are none.
    pub fn permissions(&self) -> &str {
        &self.grant.permissions
    }

    /// The one workload the caller is bound to, if it is bound to exactly one.
    pub fn only_workload(&self) -> Option<&str> {
        let workloads = &*self.grant.workloads;
        let one = !workloads.is_empty() && !self.reaches_every_workload() && !workloads.contains(',');
        one.then_some(workloads)
    }
}
