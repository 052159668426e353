//! What a change ended, as all who cache hear of it. Never says more of what the change was.

use std::fmt;

use tollgate_core::named::named;
use tollgate_core::resource::{Resource, ResourceRef};
use tollgate_guard::digest::Digest;
use tollgate_guard::ending::Ending;
use tollgate_guard::slots::Slots;
use tollgate_guard::time::Timestamp;
use tollgate_guard::{channel, protocol};

use super::record::{EndedSession, Project, ProjectState, User};

/// The name of the keys that sessions are signed with, which change as one.
pub const SIGNING_KEYS: (&str, &str) = ("signing_keys", "all");

/// What was ended, and must be so in every history that the store goes over to. The newest one of a thing counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// A key, for good.
    Key { digest: Digest, at: Timestamp },
    /// A session, for good.
    Session(EndedSession),
    /// Every session of an earlier generation of whoever has this name; and what became of the user then.
    User { name: String, created_at: Timestamp, sessions: u64, disabled: bool, deleted: bool },
    /// What was said of a project as a whole; also that it goes on, as this ends what was said before.
    Project { name: String, state: ProjectState, changed_at: Timestamp, version: u64 },
    /// A resource that was made at this time, for good. Another one may be made in its place.
    Resource { kind: String, id: String, created_at: Timestamp },
}

impl Ended {
    pub fn of_user(user: &User) -> Self {
        let User { created_at, sessions, disabled, deleted, .. } = *user;
        Self::User { name: user.name.clone(), created_at, sessions, disabled, deleted }
    }

    pub fn of_project(project: &Project) -> Self {
        let Project { state, changed_at, version, .. } = *project;
        Self::Project { name: project.name.clone(), state, changed_at, version }
    }

    pub fn of_resource(resource: &Resource) -> Self {
        Self::Resource { kind: resource.kind.clone(), id: resource.id.clone(), created_at: resource.created_at }
    }
}

impl Ending for Ended {
    type Stored<'s> = Stored<'s>;

    /// What it is known by: the digest of a key, a [`named`] one of everything else.
    fn digest(&self) -> Digest {
        match self {
            Self::Key { digest, .. } => *digest,
            Self::Session(session) => named("session", &session.id),
            Self::User { name, .. } => named("user", name),
            Self::Project { name, .. } => named("project", name),
            Self::Resource { kind, id, created_at } => named_resource(ResourceRef { kind, id }, *created_at),
        }
    }

    fn digest_of(stored: &Stored<'_>) -> Digest {
        match stored {
            Stored::Key { digest, .. } => **digest,
            Stored::Session { id, .. } => named("session", id),
            Stored::User(user) => named("user", &user.name),
            Stored::Project(name, _) => named("project", name),
            Stored::Resource(resource) => named_resource(resource.reference(), resource.created_at),
        }
    }

    fn slots(&self) -> Slots {
        let digest = match self {
            // Of whatever stands in its place, too.
            Self::Resource { kind, id, .. } => named("resource", &ResourceRef { kind, id }.to_string()),
            _ => self.digest(),
        };
        Slots::of_digests(&[digest])
    }

    /// Whether a store that says this of the same thing has lost that it was ended. What was changed since is no loss: in one
    /// history generations and versions only rise. Times tell histories apart, since each of them may use the same numbers.
    fn is_lost_in(&self, stored: &Stored<'_>) -> bool {
        match (self, stored) {
            (Self::Key { .. }, Stored::Key { revoked, .. }) => !revoked,
            (Self::Session(_), Stored::Session { ended, .. }) => !ended,
            (Self::User { created_at, sessions, disabled, deleted, .. }, Stored::User(user)) => {
                let is_another = user.created_at != *created_at;
                let is_spared = (*disabled && !user.disabled) || (*deleted && !user.deleted);
                user.sessions < *sessions || (user.sessions == *sessions && (is_another || is_spared))
            }
            (Self::Project { state, changed_at, version, .. }, Stored::Project(_, project)) => {
                let nothing = (ProjectState::Active, Timestamp::default(), 0);
                // Somebody may have made something in it before the loss was found: that says nothing of the project.
                let (now, since, number) = project
                    .filter(|project| !project.is_merely_there())
                    .map_or(nothing, |project| (project.state, project.changed_at, project.version));
                match state {
                    ProjectState::Active => false,
                    ProjectState::Suspended => now == ProjectState::Active && number <= *version && since < *changed_at,
                    ProjectState::Deleted => now != ProjectState::Deleted,
                }
            }
            (Self::Resource { created_at, .. }, Stored::Resource(resource)) => resource.created_at == *created_at,
            _ => false,
        }
    }

    fn is_newer_than(&self, known: &Self) -> bool {
        match (self, known) {
            (Self::User { sessions, .. }, Self::User { sessions: before, .. }) => sessions > before,
            (
                Self::Project { state, changed_at, version, .. },
                Self::Project { state: known, changed_at: since, version: before, .. },
            ) => match known {
                ProjectState::Deleted => *state == ProjectState::Deleted,
                _ => version > before || changed_at > since,
            },
            _ => true,
        }
    }
}

/// In words, for people. A key is known by its digest here.
impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key { digest: Digest([a, b, c, d, ..]), .. } => {
                write!(f, "key with digest {a:02x}{b:02x}{c:02x}{d:02x}… revoked")
            }
            Self::Session(session) => write!(f, "session {} ended", session.id),
            Self::User { name, deleted: true, .. } => write!(f, "user {name} deleted"),
            Self::User { name, disabled: true, .. } => write!(f, "user {name} disabled"),
            Self::User { name, .. } => write!(f, "sessions of user {name} ended"),
            Self::Project { name, state: ProjectState::Active, .. } => write!(f, "project {name} active again"),
            Self::Project { name, state: ProjectState::Suspended, .. } => write!(f, "project {name} suspended"),
            Self::Project { name, state: ProjectState::Deleted, .. } => write!(f, "project {name} deleted"),
            Self::Resource { kind, id, .. } => write!(f, "resource {kind}/{id} deleted"),
        }
    }
}

fn named_resource(resource: ResourceRef<'_>, created_at: Timestamp) -> Digest {
    named("resource", &format!("{resource} {}", created_at.as_millis()))
}

/// What a store has of something that can be ended.
#[derive(Clone, Copy, Debug)]
pub enum Stored<'r> {
    Key {
        digest: &'r Digest,
        revoked: bool,
    },
    Session {
        id: &'r str,
        ended: bool,
    },
    User(&'r User),
    /// A project by its name, and its record if there is one.
    Project(&'r str, Option<&'r Project>),
    Resource(&'r Resource),
}

/// What the log tells of a change.
pub type Event = protocol::Event<Ended>;
/// One entry of the log.
pub type LogEntry = protocol::LogEntry<Ended>;
/// What the store answers to a renewal.
pub type Renewal = protocol::Renewal<Ended>;
/// What happened to a replica.
pub type Input = channel::Input<Ended>;
/// What a replica is to do.
pub type Action = channel::Action<Ended>;
/// What was heard to be ended.
pub type Endings = tollgate_guard::endings::Endings<Ended>;

#[cfg(test)]
mod tests;
