//! The configuration file as serde reads it, and the words its JSON Schema explains it with. No logic: what a value must
//! fulfil beyond its shape is judged in `compile`.

mod envoy;
mod issuers;
mod limits;
mod listen;
mod store;

use std::borrow::Cow;
use std::path::PathBuf;

use indexmap::IndexMap;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

pub use envoy::{Envoy, WithheldHeaders};
pub use issuers::{Issuer, Jwks, Login, SigningAlgorithm, UnknownProjects};
pub use limits::{Audit, Backup, ProjectQuotas, Quotas, Rate, Rates};
pub use listen::{AdminDoors, Check, Listen, Tcp, UnixSocket};
pub use store::{ClientTls, Failovers, Fleet, Redis, SecretFile, Sentinel, Signed, Store};

/// The configuration of Tollgate: one YAML file.
///
/// `client_ip`, `realm`, `errors`, `planes`, `permissions`, `credentials`, `issuers`, `login`, `identity`, `envoy`, `hosts`, `rates`, `quotas`, `audit`, `backup` and `log`
/// take effect when the file changes or on SIGHUP. `store`, `fleet`, `pepper`, `listen`, `cache`, `admin`, `drain` and `workers` need a restart. A file with
/// a problem changes nothing: the last good one stays in force.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "Tollgate configuration")]
pub struct File {
    /// The version of this format: 1.
    pub version: Version,
    /// Where keys, users and resources are kept. Needs a restart.
    pub store: Store,
    /// What a replica keeps on its own machine, with `store.redis`. Needs a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Fleet")]
    pub fleet: Option<Fleet>,
    /// The secrets that the digests of keys are keyed with. Needs a restart.
    pub pepper: Pepper,
    /// Where Tollgate listens. Needs a restart.
    pub listen: Listen,
    /// Where the client's address in logs and metadata comes from. By default the TCP peer of Envoy. Takes effect on reload.
    #[serde(default)]
    pub client_ip: ClientIp,
    /// The protection space named in `WWW-Authenticate`. Takes effect on reload.
    #[serde(default = "default_realm")]
    pub realm: String,
    /// The shape of error bodies where neither host nor route says another. Takes effect on reload.
    #[serde(default)]
    pub errors: Errors,
    /// The kinds of API key by name, told apart by their prefix. By default data (`ik_live`), control (`ik_sdk`) and admin
    /// (`ik_adm`). A stored key whose plane is gone reaches no route. Takes effect on reload.
    #[serde(default = "default_planes")]
    pub planes: IndexMap<String, Plane>,
    /// Every permission that routes ask for and keys can be given, declared once. `manage_keys`, `manage_resources`,
    /// `manage_secrets`, `manage_users` and `view_audit_logs` are built in. Takes effect on reload.
    #[serde(default)]
    pub permissions: Vec<String>,
    /// The request headers that may carry a credential. A request with more than one is refused, and the back end sees none of
    /// these headers. Takes effect on reload.
    #[serde(default = "default_credentials")]
    #[schemars(length(min = 1))]
    pub credentials: Vec<Credential>,
    /// Whose JSON Web Tokens are accepted, and what they are good for. Takes effect on reload.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<Issuer>,
    /// Users with passwords, and the tokens that Tollgate signs for them. Without it nobody can log in. Takes effect on reload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Login")]
    pub login: Option<Login>,
    /// The headers that tell the back end who asks. Takes effect on reload.
    #[serde(default)]
    pub identity: Identity,
    /// How the Envoy in front treats request headers. Takes effect on reload.
    #[serde(default)]
    pub envoy: Envoy,
    /// What may be asked for, host by host. A request that no route matches is denied. Takes effect on reload.
    pub hosts: Vec<Host>,
    /// How fast things may be made and changed through the admin API. Takes effect on reload.
    #[serde(default)]
    pub rates: Rates,
    /// How many keys, users and resources each project may have. Takes effect on reload.
    #[serde(default)]
    pub quotas: Quotas,
    /// How long the audit log is kept. Takes effect on reload.
    #[serde(default)]
    pub audit: Audit,
    /// How long copies of the store are good for. Takes effect on reload.
    #[serde(default)]
    pub backup: Backup,
    /// How much is kept in memory. Needs a restart.
    #[serde(default)]
    pub cache: Cache,
    /// What is logged. Takes effect on reload.
    #[serde(default)]
    pub log: Log,
    /// Settings of the admin API. Needs a restart.
    #[serde(default)]
    pub admin: AdminApi,
    /// How the process ends. Needs a restart.
    #[serde(default)]
    pub drain: Drain,
    /// Threads that answer checks. By default the number of cores. Needs a restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "usize", range(min = 1, max = 64))]
    pub workers: Option<usize>,
}

/// 1, the only version there is.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Version(pub u32);

impl JsonSchema for Version {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Version".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "enum": [1]})
    }
}

/// The peppers, at most four versions of them.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Pepper {
    /// The version that new keys are digested with. It must be one of `keys`.
    #[schemars(range(min = 1))]
    pub current: u32,
    /// The peppers by version, a number from 1. An old version stays until no key is digested with it.
    pub keys: IndexMap<String, PepperKey>,
}

/// One pepper.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PepperKey {
    /// A file that holds 32 bytes as 64 hexadecimal digits. It is made for an empty embedded store, and never otherwise.
    pub file: PathBuf,
}

/// Where the client's address comes from.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientIp {
    /// `peer`: the TCP peer of Envoy. `x-envoy-external-address`: only where Envoy has `use_remote_address: true`.
    /// `x-forwarded-for`: counted from the right, see `trusted_hops`.
    pub from: ClientIpSource,
    /// How many proxies in front append to `x-forwarded-for`, Envoy included: 1 takes the last address. Only for
    /// `from: x-forwarded-for`, which needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "u8", range(min = 1))]
    pub trusted_hops: Option<u8>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(inline)]
pub enum ClientIpSource {
    #[default]
    Peer,
    XEnvoyExternalAddress,
    XForwardedFor,
}

/// The shape of an error body: `tollgate` is `{"error":{"code","message","details"}}`, `openai` and `anthropic` are as those
/// APIs have it, `grpc` is the bare message. A gRPC request always gets the last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Errors {
    #[default]
    Tollgate,
    OpenAi,
    Anthropic,
    Grpc,
}

/// A kind of API key.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Plane {
    /// What its keys begin with, before an `_`: `[a-z][a-z0-9_]{0,23}`. No prefix may begin another.
    pub prefix: String,
    /// What a revoked key is answered with: 401, as if it were unknown, or 403.
    #[serde(default)]
    pub revoked: Revoked,
    /// Whether its keys may be given power over Tollgate itself: `manage_keys`, `manage_resources`, `manage_secrets`,
    /// `manage_users` and `view_audit_logs`.
    #[serde(default)]
    pub admin: bool,
    /// How long its keys that are cached stay valid when the fleet's store cannot be reached, such as `30s`; at most `60m`. A key
    /// that is revoked meanwhile goes on for as long. By default not at all. Not on an admin plane.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub grace: Option<String>,
}

/// 401 or 403.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(transparent)]
pub struct Revoked(pub u16);

impl Revoked {
    pub const FORBIDDEN: Self = Self(403);
}

impl Default for Revoked {
    fn default() -> Self {
        Self(401)
    }
}

impl JsonSchema for Revoked {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Revoked".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({"type": "integer", "enum": [401, 403]})
    }
}

/// A request header that may carry a credential.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// Its name, in lower case.
    pub header: String,
    /// The scheme before the credential, such as `Bearer`; its case does not matter. Without one the header is the bare
    /// credential.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub scheme: Option<String>,
    /// What it may carry. What begins with the prefix of a plane is an API key, and never tried as a token.
    #[serde(default = "api_keys_alone")]
    #[schemars(length(min = 1))]
    pub kinds: Vec<CredentialKind>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum CredentialKind {
    ApiKey,
    Jwt,
}

/// What the back end is told, and what no client may say.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// The names of the identity headers. On every allowed request each is either set or removed.
    #[serde(default)]
    pub headers: IdentityHeaders,
    /// Whatever a client sends under one of these prefixes is removed, in any case and with any character but letters and
    /// digits for `-`. Each identity header must be under one of them.
    #[serde(default)]
    pub reserved_prefixes: ReservedPrefixes,
    /// What the subject header says of a user or the holder of a token: `name` (`user:<name>`, `<issuer>:<subject>`), or `id`,
    /// as in the `user_id` header. A store that was not upgraded gives no ids to users, and the header is removed then.
    #[serde(default)]
    pub subject: SubjectKind,
}

/// What a caller is called at the back end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum SubjectKind {
    #[default]
    Name,
    Id,
}

/// The prefixes that no client may use.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(transparent)]
#[schemars(inline)]
pub struct ReservedPrefixes(pub Vec<String>);

impl Default for ReservedPrefixes {
    fn default() -> Self {
        Self(vec!["x-tollgate-".to_owned()])
    }
}

/// The names of the identity headers; null turns one off.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IdentityHeaders {
    /// Who asks, as `key:<id>`.
    pub subject: Option<String>,
    /// What tells a user, or the holder of a token, from whoever else has or had the name.
    pub user_id: Option<String>,
    /// The project that the request belongs to.
    pub project: Option<String>,
    /// The workload that the request is for.
    pub workload: Option<String>,
    /// The public id of the API key.
    pub key_id: Option<String>,
    /// The plane of the API key.
    pub plane: Option<String>,
    /// The permissions of the API key, sorted and joined by commas.
    pub permissions: Option<String>,
    /// The request id that Envoy gave.
    pub request_id: Option<String>,
}

impl Default for IdentityHeaders {
    fn default() -> Self {
        let named = |what: &str| Some(format!("x-tollgate-{what}"));
        Self {
            subject: named("subject"),
            user_id: named("user-id"),
            project: named("project"),
            workload: named("workload"),
            key_id: named("key-id"),
            plane: named("plane"),
            permissions: named("permissions"),
            request_id: named("request-id"),
        }
    }
}

/// Hosts that share their routes.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// Host names without port: `api.example.com`, `*.example.com` (any depth) or `*`. The most specific one decides.
    #[serde(rename = "match")]
    #[schemars(length(min = 1))]
    pub patterns: Vec<String>,
    /// The shape of error bodies on this host. By default that of the whole file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Errors")]
    pub errors: Option<Errors>,
    /// What may be asked for.
    pub routes: Vec<Route>,
}

/// One kind of request, and who may send it: everybody (`public: true`), or keys of one plane with permissions and a scope.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// For metrics, logs and people; unique in the file.
    pub name: String,
    /// Method and path, such as `GET /v1/models/{model}`. A parameter is a whole segment; `{rest*}` at the end takes all
    /// that is left. The most specific path decides. HEAD is not GET.
    #[serde(rename = "match")]
    #[schemars(length(min = 1))]
    pub patterns: Vec<String>,
    /// Whether anybody may send it. No credential is read then.
    #[serde(default)]
    pub public: bool,
    /// The plane whose callers are taken. Every route needs it that is not public.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub plane: Option<String>,
    /// Permissions that a key must have, all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub all_of: Vec<String>,
    /// Permissions of which a key must have at least one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub any_of: Vec<String>,
    /// What the request is for, and so which keys reach it. Every route needs it that is not public.
    #[serde(rename = "in", default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Scope")]
    pub scope: Option<Scope>,
    /// `keep` leaves the credential in the request; only for routes of an admin plane, which lead to Tollgate's own admin API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "KeepCredential")]
    pub credential: Option<KeepCredential>,
    /// The kinds of credential that are taken. By default all that the request headers may carry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<CredentialKind>", length(min = 1))]
    pub credentials: Option<Vec<CredentialKind>>,
    /// `allow` takes API keys in requests with an `Origin` header, which browsers send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "AllowOrigin")]
    pub origin: Option<AllowOrigin>,
    /// The shape of error bodies on this route. By default that of its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Errors")]
    pub errors: Option<Errors>,
}

/// What a request is for: a project and perhaps a workload in it, or a registered resource.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Scope {
    /// `key` (the caller's own), a name, `{parameter}` of the path, or `{host.N}`: label N of the host, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub project: Option<String>,
    /// `key` (the one that the caller is bound to), a name, `{parameter}` or `{host.N}`. Left out: the project as a whole,
    /// which only keys for all of its workloads reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub workload: Option<String>,
    /// `kind:{parameter}`: a resource whose project is looked up in the registry. Instead of `project` and `workload`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub resource: Option<String>,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum KeepCredential {
    Keep,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum AllowOrigin {
    Allow,
}

/// How much is kept in memory.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cache {
    /// Keys and resources that exist.
    #[schemars(range(min = 1))]
    pub known: u64,
    /// Keys and resources that do not exist.
    #[schemars(range(min = 1))]
    pub unknown: u64,
    /// Look-ups in the store at a time; more are answered with 503.
    #[schemars(range(min = 1))]
    pub loads: usize,
}

impl Default for Cache {
    fn default() -> Self {
        Self { known: 1_000_000, unknown: 20_000, loads: 256 }
    }
}

/// What is logged.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// The least level that is logged.
    pub level: LogLevel,
    /// Which decisions get a log line of their own.
    pub decisions: LoggedDecisions,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
}

#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum LoggedDecisions {
    None,
    #[default]
    Denied,
    All,
}

/// Settings of the admin API.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AdminApi {
    /// What a request for a new key may leave out.
    pub key_defaults: KeyDefaults,
}

/// What a request for a new key may leave out.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyDefaults {
    /// The plane of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub plane: Option<String>,
    /// The project of the key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub project: Option<String>,
    /// The workloads that the key reaches: names, or `["*"]` for all of the project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Vec<String>")]
    pub workloads: Option<Vec<String>>,
}

/// How the process ends.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Drain {
    /// How long calls in flight may take to finish after the signal to stop.
    #[schemars(range(min = 0, max = 300))]
    pub seconds: u64,
}

impl Default for Drain {
    fn default() -> Self {
        Self { seconds: 15 }
    }
}

fn default_realm() -> String {
    "tollgate".to_owned()
}

fn default_planes() -> IndexMap<String, Plane> {
    let plane = |name: &str, prefix: &str, revoked: u16, admin: bool| {
        (name.to_owned(), Plane { prefix: prefix.to_owned(), revoked: Revoked(revoked), admin, grace: None })
    };
    IndexMap::from([
        plane("data", "ik_live", 401, false),
        plane("control", "ik_sdk", 403, false),
        plane("admin", "ik_adm", 401, true),
    ])
}

fn default_credentials() -> Vec<Credential> {
    vec![
        Credential {
            header: "authorization".to_owned(),
            scheme: Some("Bearer".to_owned()),
            kinds: vec![CredentialKind::ApiKey, CredentialKind::Jwt],
        },
        Credential { header: "x-api-key".to_owned(), scheme: None, kinds: api_keys_alone() },
    ]
}

fn api_keys_alone() -> Vec<CredentialKind> {
    vec![CredentialKind::ApiKey]
}
