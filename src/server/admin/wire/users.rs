//! Users as JSON. Never shows a password or its hash, and wipes a password that was read.

use std::borrow::Cow;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::{present, rfc3339};
use crate::domain::record::User;
use crate::registry::Freed;
use crate::server::admin::grammar::{LoginName, LoginNameInPath, NameOrEvery, Names, PasswordText, Time, UserName};

/// A password on its way: wiped when it is dropped.
#[derive(Clone, Default)]
pub struct Password(pub Zeroizing<String>);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

impl Serialize for Password {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Password {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        Ok(Self(Zeroizing::new(text.into_owned())))
    }
}

/// A user to be made.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(example = CreateUser::example())]
pub struct CreateUser {
    /// What the user is called in the project: others may have the name in other projects. The user logs in as `<project>/<name>`. It
    /// cannot be changed.
    #[schemars(with = "UserName")]
    pub name: String,
    #[schemars(with = "PasswordText")]
    pub password: Password,
    /// The project that the user belongs to, or `*` for every project. By default your own.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<NameOrEvery>")]
    pub project: Option<String>,
    /// What the user may do. You can grant only what you hold.
    #[schemars(with = "Names")]
    pub permissions: Vec<String>,
}

impl CreateUser {
    fn example() -> Self {
        Self {
            name: "alice@example.com".to_owned(),
            password: Password(Zeroizing::new("correct horse battery staple".to_owned())),
            project: Some("acme".to_owned()),
            permissions: vec!["run_inference".to_owned()],
        }
    }
}

/// What changes of a user; what is left out stays.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(example = UpdateUser::example())]
pub struct UpdateUser {
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schemars(with = "NameOrEvery")]
    pub project: Option<String>,
    /// What the user may do from now on. You must hold all of these, and all that the user had.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schemars(with = "Names")]
    pub permissions: Option<Vec<String>>,
    /// True ends every session of the user at once and lets no new one begin.
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    #[schemars(with = "bool")]
    pub disabled: Option<bool>,
}

impl UpdateUser {
    fn example() -> Self {
        Self { disabled: Some(true), ..Self::default() }
    }
}

/// A new password.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SetPassword {
    #[schemars(with = "PasswordText")]
    pub password: Password,
}

/// Which user is meant.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct UserPath {
    #[schemars(with = "LoginNameInPath")]
    pub name: String,
}

/// Which users are listed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ListUsers {
    /// Of this project alone.
    #[schemars(with = "NameOrEvery")]
    pub project: Option<String>,
    /// Only what comes behind this name: the `next` of the page before.
    #[schemars(with = "LoginName")]
    pub after: Option<String>,
    /// At most this many; 100 if it is left out.
    #[schemars(with = "usize", range(min = 1, max = 1000))]
    pub limit: Option<usize>,
}

/// A user.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "User")]
pub struct UserBody {
    /// What tells the user from whoever else has or had the name; null until the store is upgraded.
    pub id: Option<String>,
    /// `<project>/<name>`; the name alone for users of every project, and for those made before the store had its format.
    #[schemars(with = "LoginName")]
    pub name: String,
    #[schemars(with = "NameOrEvery")]
    pub project: String,
    /// The `id` of the project; null for every project, and until the store is upgraded.
    pub project_id: Option<String>,
    pub permissions: Vec<String>,
    /// A disabled user cannot log in and has no session.
    pub disabled: bool,
    #[schemars(with = "Time")]
    pub created_at: String,
    /// `key:<id>`, `user:<name>`, or `operator` for whoever holds the admin socket.
    pub created_by: String,
    #[schemars(with = "Time")]
    pub changed_at: String,
    /// Counts the changes of the record; the `ETag` is made of it.
    pub version: u64,
}

impl From<&User> for UserBody {
    fn from(user: &User) -> Self {
        Self {
            id: user.id.map(|id| id.to_string()),
            name: user.name.clone(),
            project: user.project.clone(),
            project_id: user.project_id.map(|id| id.to_string()),
            permissions: user.permissions.clone(),
            disabled: user.disabled,
            created_at: rfc3339(user.created_at),
            created_by: user.created_by.clone(),
            changed_at: rfc3339(user.changed_at),
            version: user.version,
        }
    }
}

/// A name that is free, and what still says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "FreedName")]
pub struct FreedBody {
    #[schemars(with = "LoginName")]
    pub name: String,
    /// The id of whoever had it.
    pub id: Option<String>,
    /// The ids of keys that were made by it.
    pub keys: Vec<String>,
    /// Resources that it owns, as `<kind>:<id>`.
    pub resources: Vec<String>,
    /// Users that were made by it.
    pub users: Vec<String>,
    /// Projects that it made, or was the last to change.
    pub projects: Vec<String>,
    /// Whether there are more of any than are listed.
    pub more: bool,
    /// How many rows of the audit log are of what it did, up to 1,000: `actor=user:<name>` lists them. From now on those of
    /// whoever has the name next come among them; the row `user.free` stands in between.
    pub audit_rows: usize,
    /// Whether there may be more such rows.
    pub more_audit_rows: bool,
}

impl From<&Freed> for FreedBody {
    fn from(freed: &Freed) -> Self {
        Self {
            name: freed.name.clone(),
            id: freed.id.map(|id| id.to_string()),
            keys: freed.keys.iter().map(|id| id.to_string()).collect(),
            resources: freed.resources.clone(),
            users: freed.users.clone(),
            projects: freed.projects.clone(),
            more: freed.more,
            audit_rows: freed.audit_rows,
            more_audit_rows: freed.more_audit_rows,
        }
    }
}

/// A page of users, by name.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub struct UserPage {
    pub users: Vec<UserBody>,
    /// The `after` of the next page; null on the last one.
    #[schemars(with = "Option<LoginName>")]
    pub next: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_read_and_not_shown() {
        let user: CreateUser =
            serde_json::from_str(r#"{"name":"a","password":"tell no\u0062ody","permissions":["p"]}"#).unwrap();
        assert_eq!(&*user.password.0, "tell nobody");
        assert!(!format!("{user:?}").contains("nobody"));
    }

    #[test]
    fn null_is_no_change_that_was_left_out() {
        let change: UpdateUser = serde_json::from_str("{}").unwrap();
        assert_eq!(change, UpdateUser::default());
        assert!(serde_json::from_str::<UpdateUser>(r#"{"project":null}"#).is_err());
    }
}
