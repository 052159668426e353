//! What the store keeps: keys and resources. Never holds a secret; an absent scope list means nothing, not everything.

use super::credential::{Digest, KeyId};
use super::time::Timestamp;

/// The word that stands for every project or every workload in a record.
pub const EVERY: &str = "*";

/// One API key. The secret itself is known to its owner alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    pub id: KeyId,
    pub digest: Digest,
    /// Which pepper the digest was made with.
    pub pepper_version: u32,
    /// For people; free text by [`super::name::is_label`].
    pub name: String,
    /// The plane its prefix was declared for when it was minted.
    pub plane: String,
    /// One project, or [`EVERY`] on an admin plane.
    pub project: String,
    /// Names of workloads, or [`EVERY`] alone. Empty: none.
    pub workloads: Vec<String>,
    /// Sorted, without duplicates.
    pub permissions: Vec<String>,
    pub created_at: Timestamp,
    /// `key:<id>`, or `operator` for whoever holds the admin socket.
    pub created_by: String,
    pub expires_at: Option<Timestamp>,
    /// End of the overlap that a rotation granted; kept apart from `expires_at`, as it is answered differently.
    pub retires_at: Option<Timestamp>,
    /// Set once and never cleared: a revoked record stays as a tombstone.
    pub revoked_at: Option<Timestamp>,
    /// The key that this one took the place of.
    pub replaces: Option<KeyId>,
    /// The key that took this one's place.
    pub replaced_by: Option<KeyId>,
    /// Counts the writes of this record, from 1.
    pub version: u64,
}

/// What happened to a key, for people and programs that list keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    Active,
    /// Rotated: valid until its grace ends.
    Retiring,
    Retired,
    Expired,
    Revoked,
}

impl KeyState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Retiring => "retiring",
            Self::Retired => "retired",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
        }
    }
}

impl ApiKey {
    pub fn state(&self, now: Timestamp) -> KeyState {
        if self.revoked_at.is_some() {
            KeyState::Revoked
        } else if self.retires_at.is_some_and(|end| end <= now) {
            KeyState::Retired
        } else if self.expires_at.is_some_and(|end| end <= now) {
            KeyState::Expired
        } else if self.retires_at.is_some() {
            KeyState::Retiring
        } else {
            KeyState::Active
        }
    }
}

/// Which project a thing belongs to, by its kind and id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Such as `workload`.
    pub kind: String,
    pub id: String,
    /// The name that keys are scoped by; the id where it was given none.
    pub slug: String,
    pub project: String,
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

impl std::fmt::Display for ResourceRef<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.kind, self.id)
    }
}

impl Resource {
    pub fn reference(&self) -> ResourceRef<'_> {
        ResourceRef { kind: &self.kind, id: &self.id }
    }
}
