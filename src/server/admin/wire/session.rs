//! Who somebody is and what they log in with, as JSON. Never holds a secret but the password just sent and the token just
//! made.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::rfc3339;
use super::users::Password;
use crate::domain::record::OpenSession;
use crate::server::admin::grammar::{LoginName, LoginNameInPath, Name, NameOrEvery, PasswordText, Time};

/// Who the credential of a request belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Whoami")]
pub struct WhoamiBody {
    /// `key:<id>`, `user:<name>`, `<issuer>:<subject>`, or `operator` for whoever holds the admin socket.
    pub subject: String,
    /// The one project within reach, or `*` for every one.
    #[schemars(with = "NameOrEvery")]
    pub project: String,
    pub permissions: Vec<String>,
    #[schemars(with = "Option<Time>")]
    pub expires_at: Option<String>,
}

/// A name and its password.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoginRequest {
    #[schemars(with = "LoginName")]
    pub username: String,
    #[schemars(with = "PasswordText")]
    pub password: Password,
}

/// A token for the header `Authorization: Bearer TOKEN`.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "Issued")]
pub struct IssuedBody<'a> {
    /// A JSON Web Token; its keys are at `/.well-known/jwks.json`.
    pub token: &'a str,
    #[schemars(with = "Time")]
    pub expires_at: String,
}

impl std::fmt::Debug for IssuedBody<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IssuedBody(…, {})", self.expires_at)
    }
}

/// Whose session was ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Logout")]
pub struct LogoutBody {
    pub subject: String,
}

/// Which of your sessions is meant.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct OwnSessionPath {
    #[schemars(with = "Name")]
    pub id: String,
}

/// Which session of a user is meant.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct SessionPath {
    #[schemars(with = "LoginNameInPath")]
    pub name: String,
    #[schemars(with = "Name")]
    pub id: String,
}

/// A session that goes on. Its token is known to its owner alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Session")]
pub struct SessionBody {
    /// The `jti` of its token.
    pub id: String,
    #[schemars(with = "Time")]
    pub began_at: String,
    #[schemars(with = "Time")]
    pub expires_at: String,
    /// Where it was logged in from; null if that was not known.
    pub address: Option<String>,
}

impl From<&OpenSession> for SessionBody {
    fn from(session: &OpenSession) -> Self {
        Self {
            id: session.id.clone(),
            began_at: rfc3339(session.began_at),
            expires_at: rfc3339(session.expires_at),
            address: session.address.clone(),
        }
    }
}

/// The sessions of one user that go on, the newest first; at most 256.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Sessions")]
pub struct SessionsBody {
    pub sessions: Vec<SessionBody>,
}

/// The session that was ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "EndedSession")]
pub struct EndedBody {
    pub id: String,
}
