//! Who somebody is and what they log in with, as JSON.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::server::admin::grammar::{NameOrEvery, Time};

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
