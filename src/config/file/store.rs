//! The store, as serde reads it. No logic.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The store: exactly one of `embedded` and `redis`.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Store {
    /// One file, owned by this process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Embedded")]
    pub embedded: Option<Embedded>,
    /// Redis 7.0 or Valkey, shared by a fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Redis")]
    pub redis: Option<Redis>,
    /// Whether every record in the store must carry a signature by a key from the pepper: `required`, or `optional` for a store that
    /// an earlier release made, until `tollgate store upgrade` has signed it. A store that is made now is signed from the start.
    #[serde(default)]
    pub signed: Signed,
}

/// Whether records must be signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Signed {
    Required,
    #[default]
    Optional,
}

/// The store in one file.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Embedded {
    /// The file; it is made if it is not there.
    pub path: PathBuf,
}

/// The store of a fleet: exactly one of `url`, `sentinel` and `cluster` says where it is. `tollgate store init` prepares it once.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    /// One server: `redis://host:6379`, `rediss://host:6379` over TLS, or `unix:///path/of/the.sock`. Without user and password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub url: Option<String>,
    /// A primary that sentinels watch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Sentinel")]
    pub sentinel: Option<Sentinel>,
    /// A Cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Cluster")]
    pub cluster: Option<Cluster>,
    /// The user of the server's ACL. By default the default user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub username: Option<String>,
    /// The user's password. By default there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SecretFile")]
    pub password: Option<SecretFile>,
    /// TLS to every server, sentinels included; `{}` trusts the authorities of the system. By default there is none, but with
    /// `rediss://`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "ClientTls")]
    pub tls: Option<ClientTls>,
    /// How many replicas must confirm each write before it is acknowledged.
    #[serde(default)]
    #[schemars(range(max = 16))]
    pub replicas: u32,
    /// `managed`: a service behind `url` may make another server the primary without telling, so that a store which goes back is
    /// not taken for one that was lost. By default nobody does, and such a store is refused until an operator has accepted it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Failovers")]
    pub failover: Option<Failovers>,
    /// What `tollgate fleet` calls this process. By default the name of its host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub name: Option<String>,
}

/// Who makes another server the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Failovers {
    Managed,
}

/// What a replica of a fleet keeps on its own machine.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Fleet {
    /// A file, each process's own, in a folder that outlasts it: how far it has followed the store. With it a store that went back
    /// while every replica was stopped is noticed; without it, it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub position: Option<PathBuf>,
}

/// A primary that sentinels watch.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Sentinel {
    /// The sentinels: `host:26379`.
    #[schemars(length(min = 1))]
    pub addresses: Vec<String>,
    /// The name that they know the primary by.
    pub master: String,
    /// The user at the sentinels themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub username: Option<String>,
    /// The password at the sentinels themselves. By default there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "SecretFile")]
    pub password: Option<SecretFile>,
}

/// A Cluster.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Some of its nodes, from which the others are learnt: `host:6379`.
    #[schemars(length(min = 1))]
    pub addresses: Vec<String>,
}

/// A secret in a file of its own.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretFile {
    /// The file: one line, with mode 0600 or 0400.
    pub file: PathBuf,
}

/// TLS as a client, in PEM files.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientTls {
    /// The authority that signs the certificates of the servers. By default those of the system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub ca: Option<PathBuf>,
    /// Our certificate and its chain, for servers that ask for one. It needs `key`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub certificate: Option<PathBuf>,
    /// Our private key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "String")]
    pub key: Option<PathBuf>,
}
