//! Keys as JSON. Never holds a secret but the key just made, which `Debug` hides.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tollgate_core::credential::KeyId;
use tollgate_guard::time::Timestamp;

use super::{present, rfc3339, whole};
use crate::domain::record::ApiKey;
use crate::server::admin::grammar::{KeyIdText, Label, Name, NameOrEvery, Names, Scopes, Time};

/// What a key is asked for with. What is left out may come from the configuration's `key_defaults`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = CreateKey::example())]
pub struct CreateKey {
    /// What people will know the key by.
    #[schemars(with = "Label")]
    pub name: Option<String>,
    /// What it may do: permissions that the configuration declares, or administrative ones on an admin plane. You can
    /// grant only what you hold.
    #[schemars(with = "Names")]
    pub permissions: Option<Vec<String>>,
    /// The plane it is for; it says the prefix.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Name>")]
    pub plane: Option<String>,
    /// The project it belongs to; `*`, for every project, on an admin plane alone. By default your own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<NameOrEvery>")]
    pub project: Option<String>,
    /// The workloads it reaches.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<Scopes>")]
    pub workloads: Option<Vec<String>>,
    /// When it expires, in days from now. Say this or `expires_in_seconds`; without either it does not expire.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    #[schemars(range(min = 1, max = 36_500))]
    pub expires_in_days: Option<u64>,
    /// When it expires, in seconds from now.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    #[schemars(range(min = 1, max = 3_153_600_000_u64))]
    pub expires_in_seconds: Option<u64>,
}

impl CreateKey {
    fn example() -> Self {
        Self {
            name: Some("chat front end".to_owned()),
            permissions: Some(vec!["run_inference".to_owned()]),
            plane: Some("data".to_owned()),
            project: Some("acme".to_owned()),
            workloads: Some(vec!["*".to_owned()]),
            expires_in_days: Some(90),
            expires_in_seconds: None,
        }
    }
}

/// What changes of a key; what is left out stays. Its plane and project stay for good.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(example = UpdateKey::example())]
pub struct UpdateKey {
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schemars(with = "Label")]
    pub name: Option<String>,
    /// What it may do from now on. You must hold all of these, and all that it had.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schemars(with = "Names")]
    pub permissions: Option<Vec<String>>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schemars(with = "Scopes")]
    pub workloads: Option<Vec<String>>,
    /// When it expires; null: it does not.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schemars(with = "Option<Time>")]
    pub expires_at: Option<Option<String>>,
}

impl UpdateKey {
    fn example() -> Self {
        Self { name: Some("chat front end (EU)".to_owned()), expires_at: Some(None), ..Self::default() }
    }
}

/// How a key is replaced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateKey {
    /// How long the old key goes on; 0 or absent: it ends at once.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "whole")]
    #[schemars(range(max = 31_622_400))]
    pub grace_seconds: Option<u64>,
}

/// Which key is meant.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct KeyPath {
    /// The public id of the key.
    #[schemars(with = "KeyIdText")]
    pub id: String,
}

/// Which keys are listed.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListKeys {
    /// Of this project alone.
    #[schemars(with = "NameOrEvery")]
    pub project: Option<String>,
    /// Of this plane alone.
    #[schemars(with = "Name")]
    pub plane: Option<String>,
    /// Only what comes behind this id: the `next` of the page before.
    #[schemars(with = "KeyIdText")]
    pub after: Option<String>,
    /// At most this many; 100 if it is left out.
    #[schemars(with = "usize", range(min = 1, max = 1000))]
    pub limit: Option<usize>,
}

/// A key's record; never the key itself. Times are RFC 3339, in UTC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Key")]
pub struct KeyBody {
    #[schemars(with = "KeyIdText")]
    pub id: String,
    pub name: String,
    /// `active`, `retiring` (rotated, valid until its grace ends), `retired`, `expired` or `revoked`.
    #[schemars(extend("enum" = ["active", "retiring", "retired", "expired", "revoked"]))]
    pub state: String,
    #[schemars(with = "Name")]
    pub plane: String,
    #[schemars(with = "NameOrEvery")]
    pub project: String,
    /// The `id` of the project; null for every project, and until the store is upgraded.
    pub project_id: Option<String>,
    pub workloads: Vec<String>,
    pub permissions: Vec<String>,
    #[schemars(with = "Time")]
    pub created_at: String,
    /// `key:<id>`, `user:<name>`, or `operator` for whoever holds the admin socket.
    pub created_by: String,
    #[schemars(with = "Option<Time>")]
    pub expires_at: Option<String>,
    /// When the grace of its rotation ends.
    #[schemars(with = "Option<Time>")]
    pub retires_at: Option<String>,
    #[schemars(with = "Option<Time>")]
    pub revoked_at: Option<String>,
    /// The key that this one took the place of.
    #[schemars(with = "Option<KeyIdText>")]
    pub replaces: Option<String>,
    /// The key that took this one's place.
    #[schemars(with = "Option<KeyIdText>")]
    pub replaced_by: Option<String>,
    /// To the minute.
    #[schemars(with = "Option<Time>")]
    pub last_used_at: Option<String>,
    /// Counts the changes of the record; the `ETag` is made of it.
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
            project_id: key.project_id.map(|id| id.to_string()),
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

/// The record of a key that was just made, with the key itself.
#[derive(Clone, Serialize, JsonSchema)]
#[schemars(rename = "NewKey")]
pub struct NewKeyBody<'a> {
    #[serde(flatten)]
    pub record: KeyBody,
    /// The key. It is shown this once and cannot be read back.
    pub key: &'a str,
}

impl fmt::Debug for NewKeyBody<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NewKeyBody({}, …)", self.record.id)
    }
}

/// A page of keys, by id.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct KeyPage {
    pub keys: Vec<KeyBody>,
    /// The `after` of the next page; null on the last one.
    #[schemars(with = "Option<KeyIdText>")]
    pub next: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_of_a_new_key_hides_it() {
        let key = ApiKey {
            id: KeyId::parse("abcdefghijkl").unwrap(),
            digest: tollgate_guard::digest::Digest([0; 32]),
            pepper_version: 1,
            name: "n".to_owned(),
            plane: "data".to_owned(),
            project: "acme".to_owned(),
            project_id: None,
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
