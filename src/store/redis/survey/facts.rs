//! What a server says of itself, gathered: INFO, CONFIG where it is permitted, the sentinels' view. Judges nothing.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use redis::{ErrorKind, RedisError, RedisResult, cmd};
use tollgate_guard::protocol::Term;

use crate::domain::record::ApiKey;
use crate::store::StoreError;
use crate::store::keyspace::redis as names;
use crate::store::kind::Kind;
use crate::store::record::by_kind;
use crate::store::records::noun::Noun;
use crate::store::redis::connect::Connector;
use crate::store::redis::connection::Connection;
use crate::store::redis::location::Topology;
use crate::store::redis::memory::{Memory, memory_of, number, parsed};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Redis,
    Valkey,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redis => "Redis",
            Self::Valkey => "Valkey",
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl FromStr for Version {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut parts = text.trim().splitn(3, '.').map(|part| {
            let digits = part.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
            digits.parse().map_err(|_| ())
        });
        let mut next = || parts.next().unwrap_or(Ok(0));
        Ok(Self(next()?, next()?, next()?))
    }
}

/// Everything that a judgement of a server needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) engine: Engine,
    pub(super) version: Version,
    pub(super) cluster_enabled: bool,
    /// Whether nobody on the way can listen.
    pub(super) is_private: bool,
    /// How many replicas each write waits for.
    pub(super) replicas_wanted: u32,
    pub(super) replicas_connected: u32,
    pub(super) failover: Failover,
    /// Whether somebody may tell afterwards that there was a failover.
    pub(super) term: Term,
    /// `None`: the server does not say.
    pub(super) maxmemory_policy: Option<String>,
    /// `None`: the server does not say.
    pub(super) memory: Option<Memory>,
    pub(super) appendonly: bool,
    pub(super) replay: Replay,
    /// `None`: CONFIG is not permitted.
    pub(super) settings: Option<Settings>,
}

/// Whether the server may do what it reads in its append-only file when it starts: it replays it as the default user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Replay {
    Allowed,
    /// Not this command on this name.
    Refused(&'static str, String),
    /// The server does not say: `ACL DRYRUN` is not permitted.
    Unknown,
}

/// Who may make another server the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failover {
    /// People alone.
    Single,
    Sentinel {
        /// In milliseconds; `None`: the sentinels do not say.
        down_after: Option<u64>,
    },
    Cluster,
}

/// What only CONFIG tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    /// Whether there are snapshots (`save`).
    pub(super) snapshots: bool,
    pub(super) appendfsync: Option<String>,
    pub(super) min_replicas_to_write: u32,
    /// In seconds.
    pub(super) min_replicas_max_lag: u64,
    /// In milliseconds.
    pub(super) cluster_node_timeout: Option<u64>,
}

pub(super) async fn gather(connector: &Connector) -> Result<Facts, StoreError> {
    let failed = |error: RedisError| {
        // These commands carry no secret, and so does what is said of them.
        StoreError::Unavailable(format!("the server does not say what it is: {error}"))
    };
    let mut primary = connector.primary().await?;
    let info: String = cmd("INFO").query_async(&mut primary).await.map_err(failed)?;
    let memory = memory_of(&info);
    let info = parsed(&info);
    if info.get("loading") == Some(&"1") {
        return Err(StoreError::Unavailable("the server is still loading what it has on its disk".to_owned()));
    }
    let (engine, version) = version(&info).ok_or_else(|| {
        StoreError::Unavailable("the server does not say its version: is it Redis or Valkey?".to_owned())
    })?;
    let settings = Config::read(&mut primary).await.map_err(failed)?;
    let failover = match (&connector.location().topology, connector.sentinel_view().await) {
        (_, Some(view)) => Failover::Sentinel { down_after: view.ok().and_then(|view| down_after(&view)) },
        (Topology::Cluster(_), None) => Failover::Cluster,
        (Topology::Single(_) | Topology::Sentinel { .. }, None) => Failover::Single,
    };
    let replay = Replay::ask(&mut primary).await.map_err(failed)?;
    // Whoever needs it and does not get it asks again; here it is a matter of permission.
    let term = connector.term().await.unwrap_or_default();
    let policy = settings.as_ref().and_then(|settings| settings.get("maxmemory-policy"));
    Ok(Facts {
        engine,
        version,
        cluster_enabled: info.get("cluster_enabled") == Some(&"1"),
        is_private: connector.location().is_private(),
        replicas_wanted: connector.replicas(),
        replicas_connected: number(&info, "connected_slaves").unwrap_or_default(),
        failover,
        term,
        maxmemory_policy: policy.or_else(|| info.get("maxmemory_policy").copied()).map(str::to_owned),
        memory,
        appendonly: info.get("aof_enabled") == Some(&"1"),
        replay,
        settings: settings.as_ref().map(Config::settings),
    })
}

/// What a script of Tollgate, or the end of what it keeps for a time, leaves in the append-only file: each command, a name that it is
/// used on, and what follows.
pub const WRITES: [(&str, &str, &[&str]); 15] = [
    ("SET", names::KEYS, &["x"]),
    ("DEL", names::SESSIONS, &[]),
    ("UNLINK", names::ONCE, &[]),
    ("INCR", SHARED, &[]),
    ("PEXPIREAT", SHARED, &["1"]),
    ("HSET", names::HEAD, &["x", "x"]),
    ("HDEL", names::MEMBERS, &["x"]),
    ("HINCRBY", names::HEAD, &["x", "1"]),
    ("ZADD", names::KEY_LIST, &["0", "x"]),
    ("ZREM", names::KEY_LIST, &["x"]),
    ("ZREMRANGEBYSCORE", names::AUDIT, &["0", "1"]),
    ("ZINCRBY", names::USER_LIST, &["1", "x"]),
    ("XADD", names::LOG, &["1-0", "x", "x"]),
    ("XDEL", names::LOG, &["1-0"]),
    ("XTRIM", names::AUDIT, &["MAXLEN", "1"]),
];

/// Names of what may spread over a Cluster; see [`names::last_used`].
const SHARED: &str = "tg:l2:{x}";
const USED: &str = "tg:use:{x}";

/// Where everything stands of which a rule may let some be written, and some not.
fn places() -> Vec<&'static str> {
    let mut places = vec![
        names::HEAD,
        names::LOG,
        names::MEMBERS,
        names::CLOCK,
        names::MIGRATION,
        names::AUDIT,
        names::KEY_IDS,
        names::PEPPERS,
        names::KEY_LIST,
        names::USER_LIST,
        SHARED,
        USED,
    ];
    places.extend(Kind::ALL.into_iter().filter_map(|kind| {
        by_kind!(kind, N => Some(N::PREFIX),
            Kind::Keys => Some(ApiKey::PREFIX),
            Kind::Peppers | Kind::LastUses | Kind::Audit => None,
        )
    }));
    places
}

impl Replay {
    /// Runs nothing: it asks what the default user might.
    async fn ask(connection: &mut Connection) -> RedisResult<Self> {
        let places = places().into_iter().map(|name| ("SET", name, &["x"][..]));
        let asked: Vec<_> = WRITES.into_iter().chain(places).collect();
        let mut pipe = redis::pipe();
        for (command, name, rest) in &asked {
            pipe.cmd("ACL").arg("DRYRUN").arg("default").arg(*command).arg(*name).arg(*rest);
        }
        match pipe.query_async::<Vec<String>>(connection).await {
            Ok(answers) => {
                let refused = asked.into_iter().zip(answers).find(|(_, answer)| answer != "OK");
                Ok(refused.map_or(Self::Allowed, |((command, name, _), _)| Self::Refused(command, name.to_owned())))
            }
            // NOPERM, an unknown command, or what a managed server says instead.
            Err(error) if error.code().is_some() || error.kind() == ErrorKind::Extension => Ok(Self::Unknown),
            Err(error) => Err(error),
        }
    }
}

/// `name:value`, one a line.
/// Valkey also says which Redis it is compatible with.
fn version(info: &HashMap<&str, &str>) -> Option<(Engine, Version)> {
    let of = |name: &str, engine| Some((engine, info.get(name)?.parse().ok()?));
    of("valkey_version", Engine::Valkey).or_else(|| of("redis_version", Engine::Redis))
}

fn down_after(view: &[(String, String)]) -> Option<u64> {
    let (_, value) = view.iter().find(|(name, _)| name == "down-after-milliseconds")?;
    value.parse().ok()
}

/// What CONFIG says.
struct Config(HashMap<&'static str, String>);

impl Config {
    const NAMES: [&'static str; 6] = [
        "maxmemory-policy",
        "save",
        "appendfsync",
        "min-replicas-to-write",
        "min-replicas-max-lag",
        "cluster-node-timeout",
    ];

    /// `None` if it is not permitted.
    async fn read(connection: &mut Connection) -> RedisResult<Option<Self>> {
        let mut settings = HashMap::new();
        for name in Self::NAMES {
            let answer: RedisResult<Vec<(String, String)>> =
                cmd("CONFIG").arg("GET").arg(name).query_async(connection).await;
            match answer {
                Ok(found) => settings.extend(found.into_iter().next().map(|(_, value)| (name, value))),
                // NOPERM, an unknown command, or what a managed server says instead.
                Err(error) if error.code().is_some() => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        // A server that answers with nothing forbids it as well.
        Ok((!settings.is_empty()).then_some(Self(settings)))
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn settings(&self) -> Settings {
        let number = |name: &str| self.get(name).and_then(|value| value.parse::<u64>().ok());
        Settings {
            snapshots: self.get("save").is_some_and(|save| !save.trim().is_empty()),
            appendfsync: self.get("appendfsync").map(str::to_owned),
            min_replicas_to_write: number("min-replicas-to-write")
                .map_or(0, |count| u32::try_from(count).unwrap_or(u32::MAX)),
            min_replicas_max_lag: number("min-replicas-max-lag").unwrap_or_default(),
            cluster_node_timeout: number("cluster-node-timeout"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_both_engines() {
        let of = |info: &str| version(&parsed(info));
        assert_eq!(of("# Server\r\nredis_version:7.0.15\r\n"), Some((Engine::Redis, Version(7, 0, 15))));
        let valkey = "redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.0-rc1\r\n";
        assert_eq!(of(valkey), Some((Engine::Valkey, Version(8, 1, 0))));
        assert_eq!(of("redis_version:8"), Some((Engine::Redis, Version(8, 0, 0))));
        assert_eq!(of("redis_version:\r\n"), None);
        assert_eq!(of(""), None);
        assert!(Version(6, 2, 14) < Version(7, 0, 0));
    }
}
