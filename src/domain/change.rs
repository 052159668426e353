//! A change as all who cache hear of it: what it touched, and what it ended. Never says more of what the change was.
//!
//! What is cached depends on a few of [`SLOTS`] slots, chosen by digests and names that every replica computes alike.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::credential::Digest;
use super::record::{EndedSession, Project, ProjectState, Resource, ResourceRef, User};
use super::time::Timestamp;

pub const SLOTS: usize = 16_384;

/// A change that touches more slots than this touches all.
const MANY: usize = SLOTS / 10;

/// The slots that an entry depends on, or that a change touches. At most four; unused ones repeat the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slots([u16; 4]);

impl Slots {
    /// The most digests that [`Slots::of_digests`] can hold.
    pub const MAX_DIGESTS: usize = 4;

    /// For what is known under any of these digests, or for its absence.
    pub fn of_digests(digests: &[Digest]) -> Self {
        let first = digests.first().map_or(0, slot);
        let mut slots = [first; 4];
        for (place, digest) in slots.iter_mut().zip(digests) {
            *place = slot(digest);
        }
        Self(slots)
    }

    pub fn numbers(&self) -> [u16; 4] {
        self.0
    }
}

fn slot(digest: &Digest) -> u16 {
    // Bytes 0-7 choose the bucket in a cache; these are others, so that slots and buckets do not coincide.
    u16::from_le_bytes([digest.0[8], digest.0[9]]) % (SLOTS as u16)
}

/// The digest of something that is not a key, such as a user, a session or a project. It has no pepper in it, so that it is
/// the same in every replica, also while a pepper is being replaced.
pub fn named(kind: &str, name: &str) -> Digest {
    Digest(Sha256::new().chain_update(kind).chain_update(" ").chain_update(name).finalize().into())
}

/// The name of the keys that sessions are signed with, which change as one.
pub const SIGNING_KEYS: (&str, &str) = ("signing_keys", "all");

/// What a change touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Touched {
    Slots(Vec<u16>),
    All,
}

impl Touched {
    pub fn of(touched: &[Slots]) -> Self {
        Self::new(touched.iter().flat_map(Slots::numbers).collect())
    }

    /// What any of these touched.
    pub fn all_of(several: &[Self]) -> Self {
        let mut numbers = Vec::new();
        for touched in several {
            match touched {
                Self::All => return Self::All,
                Self::Slots(slots) => numbers.extend(slots),
            }
        }
        Self::new(numbers)
    }

    fn new(mut numbers: Vec<u16>) -> Self {
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.len() > MANY { Self::All } else { Self::Slots(numbers) }
    }
}

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

    /// What it is known by: the digest of a key, a [`named`] one of everything else.
    pub fn digest(&self) -> Digest {
        match self {
            Self::Key { digest, .. } => *digest,
            Self::Session(session) => named("session", &session.id),
            Self::User { name, .. } => named("user", name),
            Self::Project { name, .. } => named("project", name),
            Self::Resource { kind, id, created_at } => named_resource(ResourceRef { kind, id }, *created_at),
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
    pub fn is_lost_in(&self, said: &Said<'_>) -> bool {
        match (self, said) {
            (Self::Key { .. }, Said::Key { revoked, .. }) => !revoked,
            (Self::Session(_), Said::Session { ended, .. }) => !ended,
            (Self::User { created_at, sessions, disabled, deleted, .. }, Said::User(user)) => {
                let is_another = user.created_at != *created_at;
                let is_spared = (*disabled && !user.disabled) || (*deleted && !user.deleted);
                user.sessions < *sessions || (user.sessions == *sessions && (is_another || is_spared))
            }
            (Self::Project { state, changed_at, version, .. }, Said::Project(_, project)) => {
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
            (Self::Resource { created_at, .. }, Said::Resource(resource)) => resource.created_at == *created_at,
            _ => false,
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

/// What a store says of something that can be ended.
#[derive(Clone, Copy, Debug)]
pub enum Said<'r> {
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

impl Said<'_> {
    /// As [`Ended::digest`].
    pub fn digest(&self) -> Digest {
        match self {
            Self::Key { digest, .. } => **digest,
            Self::Session { id, .. } => named("session", id),
            Self::User(user) => named("user", &user.name),
            Self::Project(name, _) => named("project", name),
            Self::Resource(resource) => named_resource(resource.reference(), resource.created_at),
        }
    }
}

/// One entry of the log that every replica follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub touched: Touched,
    pub ended: Vec<Ended>,
}

impl Event {
    pub fn touching(touched: &[Slots]) -> Self {
        Self { touched: Touched::of(touched), ended: Vec::new() }
    }

    /// Touches all that depends on what was ended.
    pub fn ending(ended: Vec<Ended>) -> Self {
        let touched: Vec<Slots> = ended.iter().map(Ended::slots).collect();
        Self { touched: Touched::of(&touched), ended }
    }
}

/// A place in the log: how many changes there were, and a hash over all of them, so that two histories with as many changes
/// are told apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Position {
    pub sequence: u64,
    /// SHA-1 in hexadecimal over the chain of changes, made by the store.
    pub chain: String,
}

/// The end of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Given when the store was made, and anew whenever it is made again.
    pub lineage: String,
    pub position: Position,
}
