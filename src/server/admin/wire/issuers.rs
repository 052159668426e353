//! Issuers as JSON.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::server::admin::grammar::Name;

/// Which issuer is meant.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
pub struct IssuerPath {
    #[schemars(with = "Name")]
    pub name: String,
}

/// What was forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Forgotten")]
pub struct ForgottenBody {
    /// The name that the configuration gives the issuer.
    #[schemars(with = "Name")]
    pub issuer: String,
}
