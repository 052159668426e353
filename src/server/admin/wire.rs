//! The JSON of the admin API, for the server and for the command line. Never holds a secret but the key just made.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::domain::credential::KeyId;
use crate::domain::record::{ApiKey, Resource};
use crate::domain::time::Timestamp;

pub const KEYS: &str = "/api/v1/auth/api-keys";
pub const BOOTSTRAP: &str = "/api/v1/auth/bootstrap";
pub const RESOURCES: &str = "/api/v1/resources";

/// What a key is asked for with. What is left out may come from the configuration's `key_defaults`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CreateKey {
    pub name: Option<String>,
    pub permissions: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plane: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workloads: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in_days: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_in_seconds: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RotateKey {
    /// How long the old key goes on; 0 or absent: it ends at once.
    pub grace_seconds: Option<u64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct PutResource {
    pub project: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slug: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(rename = "move")]
    pub may_move: bool,
}

/// A key's record. Times are RFC 3339, in UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyBody {
    pub id: String,
    pub name: String,
    pub state: String,
    pub plane: String,
    pub project: String,
    pub workloads: Vec<String>,
    pub permissions: Vec<String>,
    pub created_at: String,
    pub created_by: String,
    pub expires_at: Option<String>,
    pub retires_at: Option<String>,
    pub revoked_at: Option<String>,
    pub replaces: Option<String>,
    pub replaced_by: Option<String>,
    pub last_used_at: Option<String>,
    pub version: u64,
}

impl KeyBody {
    pub fn of(key: &ApiKey, last_used_at: Option<Timestamp>, now: Timestamp) -> Self {
        let id = |id: &KeyId| id.to_string();
        Self {
            id: key.id.to_string(),
            name: key.name.clone(),
            state: key.state(now).as_str().to_owned(),
            plane: key.plane.clone(),
            project: key.project.clone(),
            workloads: key.workloads.clone(),
            permissions: key.permissions.clone(),
            created_at: rfc3339(key.created_at),
            created_by: key.created_by.clone(),
            expires_at: key.expires_at.map(rfc3339),
            retires_at: key.retires_at.map(rfc3339),
            revoked_at: key.revoked_at.map(rfc3339),
            replaces: key.replaces.as_ref().map(id),
            replaced_by: key.replaced_by.as_ref().map(id),
            last_used_at: last_used_at.map(rfc3339),
            version: key.version,
        }
    }
}

/// The record of a key that was just made, with its text.
#[derive(Clone, Serialize)]
pub struct NewKeyBody<'a> {
    #[serde(flatten)]
    pub record: KeyBody,
    pub key: &'a str,
}

impl fmt::Debug for NewKeyBody<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewKeyBody({}, …)", self.record.id)
    }
}

/// A page of keys; `next` is the `after` of the next one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct KeyPage {
    pub keys: Vec<KeyBody>,
    pub next: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceBody {
    pub kind: String,
    pub id: String,
    pub project: String,
    pub slug: String,
    pub owner: Option<String>,
    pub created_at: String,
    pub version: u64,
}

impl From<&Resource> for ResourceBody {
    fn from(resource: &Resource) -> Self {
        Self {
            kind: resource.kind.clone(),
            id: resource.id.clone(),
            project: resource.project.clone(),
            slug: resource.slug.clone(),
            owner: resource.owner.clone(),
            created_at: rfc3339(resource.created_at),
            version: resource.version,
        }
    }
}

/// A page of resources; `next` is the `after` of the next one: `kind:id`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ResourcePage {
    pub resources: Vec<ResourceBody>,
    pub next: Option<String>,
}

/// A point in time for people and programs. A time beyond the calendar reads as the last that it has.
pub fn rfc3339(time: Timestamp) -> String {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(millis).unwrap_or(jiff::Timestamp::MAX).to_string()
}

/// Reads RFC 3339; `None` before 1970 or if it is none.
pub fn timestamp(text: &str) -> Option<Timestamp> {
    let time: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(time.as_millisecond()).ok().map(Timestamp::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_there_and_back() {
        let time = Timestamp::from_millis(1_795_000_000_250);
        assert_eq!(rfc3339(time), "2026-11-18T11:06:40.25Z");
        assert_eq!(timestamp(&rfc3339(time)), Some(time));
        assert_eq!(timestamp("2026-11-18T12:06:40.250+01:00"), Some(time));
        assert!(rfc3339(Timestamp::from_millis(u64::MAX)).starts_with("9999-"));
        assert_eq!(timestamp("tomorrow"), None);
    }

    #[test]
    fn debug_of_a_new_key_hides_it() {
        let key = ApiKey {
            id: KeyId::parse("abcdefghijkl").unwrap(),
            digest: crate::domain::credential::Digest([0; 32]),
            pepper_version: 1,
            name: "n".to_owned(),
            plane: "data".to_owned(),
            project: "acme".to_owned(),
            workloads: vec!["*".to_owned()],
            permissions: vec![],
            created_at: Timestamp::default(),
            created_by: "operator".to_owned(),
            expires_at: None,
            retires_at: None,
            revoked_at: None,
            replaces: None,
            replaced_by: None,
            version: 1,
        };
        let body = NewKeyBody { record: KeyBody::of(&key, None, Timestamp::default()), key: "ik_live_secret" };
        assert!(!format!("{body:?}").contains("ik_live_secret"));
    }
}
