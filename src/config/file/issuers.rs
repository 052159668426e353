//! Whose tokens are accepted, as serde reads it: other issuers, and users who log in here. No logic.

use std::path::PathBuf;

use indexmap::IndexMap;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Somebody whose JSON Web Tokens are accepted.
///
/// In `project`, `workloads` and `permissions` a word stands for itself and `"{claim}"` for what the token says: the path to
/// a claim, names joined by dots (`"{realm_access.roles}"`), or a JSON Pointer (`"{/https:~1~1example.com~1project}"`).
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// What its subjects are told apart by: the caller is `<name>:<subject>`. Not `key`, `user`, `operator` or `customer`.
    pub name: String,
    /// The `iss` of its tokens, byte by byte.
    pub issuer: String,
    /// A token must be meant for one of these (`aud`).
    #[schemars(length(min = 1))]
    pub audience: Vec<String>,
    /// Where its public keys are.
    pub jwks: Jwks,
    /// What its keys may sign with. A key whose JWK names no algorithm signs with the first of its family. By default RS256,
    /// PS256, ES256, ES384 and EdDSA.
    #[serde(default = "default_algorithms")]
    #[schemars(length(min = 1))]
    pub algorithms: Vec<SigningAlgorithm>,
    /// The plane that its tokens stand on. Without one they reach no route.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub plane: Option<String>,
    /// How far its clock may be off ours.
    #[serde(default = "default_leeway")]
    #[schemars(range(min = 0, max = 300))]
    pub leeway_seconds: u64,
    /// Who the token speaks of: one claim.
    #[serde(default = "default_subject")]
    pub subject: String,
    /// The project that its tokens reach: a name, or a claim with one. `"*"` is every project, on an admin plane.
    pub project: String,
    /// What becomes of a token for a project of which no record was made: `refuse` it, which is the default, or `allow` it, where projects
    /// are the issuer's matter. Then a suspended project whose record somebody removes from the store is open to its tokens again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "UnknownProjects")]
    pub unknown_projects: Option<UnknownProjects>,
    /// The workloads that its tokens reach: names, claims with names, or `"*"` alone for all of the project.
    pub workloads: Vec<String>,
    /// The permissions that its tokens have: names, or claims with names (a list, or one text with spaces). In a claim only
    /// names of `permissions` mean anything: built-in ones, which administer, are named here or in `roles`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub permissions: Vec<String>,
    /// The claim that names roles.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub role_claim: Option<String>,
    /// The permissions of each role, added to `permissions`.
    #[serde(default, skip_serializing_if = "IndexMap::is_empty")]
    pub roles: IndexMap<String, Vec<String>>,
}

/// What becomes of a token for a project of which no record was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnknownProjects {
    Allow,
    Refuse,
}

/// The public keys of an issuer, a JWK Set: exactly one of `url` and `file`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Jwks {
    /// Fetched in the background, and again before it grows old or when a token names an unknown key. https, or http to this
    /// machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub url: Option<String>,
    /// Certificates (PEM) that the url is checked against, instead of the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PathBuf")]
    pub ca: Option<PathBuf>,
    /// Read again every minute.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "PathBuf")]
    pub file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[schemars(inline)]
pub enum SigningAlgorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

/// Users with passwords, and the tokens that Tollgate signs for them.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Login {
    /// The `iss` and `aud` of the tokens: a URL that names this Tollgate.
    pub issuer: String,
    /// The plane that users stand on.
    pub plane: String,
    /// How long a token lives.
    #[serde(default = "default_lifetime")]
    #[schemars(range(min = 60, max = 86400))]
    pub lifetime_seconds: u64,
}

fn default_algorithms() -> Vec<SigningAlgorithm> {
    use SigningAlgorithm::{ES256, ES384, EdDSA, PS256, RS256};
    vec![RS256, PS256, ES256, ES384, EdDSA]
}

fn default_leeway() -> u64 {
    5
}

fn default_subject() -> String {
    "{sub}".to_owned()
}

fn default_lifetime() -> u64 {
    3600
}
