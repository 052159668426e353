//! What the server that is configured really guarantees: findings with their remedies, and the level of the contract. Judges facts
//! only; what it cannot know it does not assume.

mod facts;

use std::fmt;

use tollgate_guard::protocol::Term;

use super::connect::Connector;
use super::memory::Memory;
use crate::store::StoreError;
use facts::{Facts, Failover, Replay, Settings};

pub use facts::{Engine, Version, WRITES};

/// The oldest Redis with scripts that say what they may do.
const OLDEST: Version = Version(7, 0, 0);
/// Above the time after which a silent replica of Tollgate cannot hold a lease, with room for clocks and pauses.
const SHORTEST_FAILOVER_MS: u64 = 6_000;
const LONGEST_LAG_SECONDS: u64 = 2;

/// What a server guarantees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    pub engine: Engine,
    pub version: Version,
    pub findings: Vec<Finding>,
    pub level: Level,
}

/// One thing that an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub severity: Severity,
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Tollgate does not start.
    Refuse,
    /// It works, and promises less.
    Warn,
    Note,
}

impl Severity {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Warn => "warn",
            Self::Note => "note",
        }
    }
}

/// How firm the promise is that a revoked key is refused everywhere within a second.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Level {
    Bounded,
    /// A failover may take an acknowledged revocation back, for these reasons.
    ExceptFailover(String),
    /// The server does not say what would decide it.
    Unknown(String),
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bounded => f.write_str("bounded (1 s)"),
            Self::ExceptFailover(why) => write!(f, "bounded except failover ({why})"),
            Self::Unknown(why) => write!(f, "unknown ({why})"),
        }
    }
}

impl Survey {
    /// Asks the primary, and the sentinels if there are any.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if it cannot be reached or does not say who it is.
    pub async fn of(connector: &Connector) -> Result<Self, StoreError> {
        Ok(judged(&facts::gather(connector).await?))
    }

    /// What keeps Tollgate from starting.
    pub fn refusals(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.severity == Severity::Refuse)
    }
}

/// What is to be said of these facts, the gravest first.
fn judged(facts: &Facts) -> Survey {
    let mut findings = Vec::new();
    identity(facts, &mut findings);
    memory(facts, &mut findings);
    persistence(facts, &mut findings);
    replay(facts, &mut findings);
    let reasons = fencing(facts, &mut findings);
    let level = match (&facts.settings, reasons) {
        (None, _) => {
            let note = "the server does not permit CONFIG: what it guarantees is known in part";
            let remedy = "allow `CONFIG GET` to this user, or see to `appendfsync` and `min-replicas-*` yourself";
            findings.push(finding(Severity::Note, note, remedy));
            Level::Unknown("CONFIG not permitted".to_owned())
        }
        (Some(_), reasons) if reasons.is_empty() => Level::Bounded,
        (Some(_), reasons) => Level::ExceptFailover(reasons.join("; ")),
    };
    findings.sort_by_key(|finding| finding.severity);
    Survey { engine: facts.engine, version: facts.version, findings, level }
}

fn finding(severity: Severity, what: impl Into<String>, remedy: impl Into<String>) -> Finding {
    Finding { severity, what: what.into(), remedy: remedy.into() }
}

fn identity(facts: &Facts, findings: &mut Vec<Finding>) {
    if facts.engine == Engine::Redis && facts.version < OLDEST {
        let what = format!("the server is Redis {}, and its scripts cannot be relied upon", facts.version);
        findings.push(finding(Severity::Refuse, what, format!("use Redis {OLDEST} or later, or Valkey")));
    }
    if facts.cluster_enabled && !matches!(facts.failover, Failover::Cluster) {
        let remedy = "give some of its nodes under `store.redis.cluster.addresses` instead";
        findings.push(finding(Severity::Refuse, "the server is a node of a Cluster", remedy));
    }
    if !facts.is_private {
        let what =
            "what Tollgate and the server say to each other, a password included, crosses the network unencrypted";
        findings.push(finding(
            Severity::Note,
            what,
            "use TLS (`rediss://`, or `tls: {}`) unless the network is trusted",
        ));
    }
}

fn memory(facts: &Facts, findings: &mut Vec<Finding>) {
    match facts.maxmemory_policy.as_deref() {
        Some("noeviction") => {}
        Some(policy) => {
            let what = format!("`maxmemory-policy` is {policy}: the server may throw away keys and their revocations");
            findings.push(finding(Severity::Refuse, what, "set `maxmemory-policy noeviction`"));
        }
        None => {
            let what = "the server does not say whether it may throw keys away";
            findings.push(finding(Severity::Warn, what, "make sure that `maxmemory-policy` is `noeviction`"));
        }
    }
    let without = match facts.memory {
        Some(Memory { limit: 0, .. }) => "`maxmemory` is not set",
        Some(_) => return,
        None => "the server does not say what `maxmemory` is",
    };
    let what = format!(
        "{without}: whoever may make keys can fill all of the machine's memory, and then nothing can be revoked"
    );
    findings.push(finding(
        Severity::Warn,
        what,
        "set `maxmemory`: creations are refused at 90 % of it, revocations never",
    ));
}

fn persistence(facts: &Facts, findings: &mut Vec<Finding>) {
    let snapshots = facts.settings.as_ref().map(|settings| settings.snapshots);
    match (facts.appendonly, snapshots) {
        (true, _) => {}
        (false, Some(true)) => {
            let what =
                "`appendonly` is no: a restart goes back to the last snapshot, and forgets what was acknowledged since";
            findings.push(finding(Severity::Warn, what, "set `appendonly yes` and `appendfsync always`"));
        }
        (false, _) => {
            let what = "`appendonly` is no: a restart may lose every key, and then everything is refused";
            findings.push(finding(Severity::Warn, what, "set `appendonly yes` and `appendfsync always`"));
        }
    }
    let fsync = facts.settings.as_ref().and_then(|settings| settings.appendfsync.as_deref());
    if let Some(fsync) = fsync.filter(|fsync| facts.appendonly && *fsync != "always") {
        let lost = if fsync == "everysec" { "about a second" } else { "some time" };
        let what = format!("`appendfsync` is {fsync}: a power cut may lose the writes of {lost}");
        findings.push(finding(Severity::Note, what, "set `appendfsync always`"));
    }
}

const MEND_DEFAULT: &str = "give the default user `off resetpass ~* &* +@all`, in the file of users or with `ACL SETUSER` and `ACL \
                            SAVE`, before the server is restarted: see \"The default user\" in docs/fleet.md";

fn replay(facts: &Facts, findings: &mut Vec<Finding>) {
    match &facts.replay {
        _ if !facts.appendonly => {}
        Replay::Allowed => {}
        Replay::Refused(command, name) => {
            let what = format!(
                "a restart loses the keys: the server replays its append-only file as the default user, who may not do {command} \
                 on {name}"
            );
            findings.push(finding(Severity::Warn, what, MEND_DEFAULT));
        }
        Replay::Unknown => {
            let what = "it cannot be known whether a restart replays every change: `ACL DRYRUN` is not permitted";
            let remedy =
                "add `+acl|dryrun` to the rules of this user, or see to it that the default user has `~* &* +@all`";
            findings.push(finding(Severity::Warn, what, remedy));
        }
    }
}

/// Why a failover could take back what was acknowledged; empty if it could not.
fn fencing(facts: &Facts, findings: &mut Vec<Finding>) -> Vec<String> {
    let mut reasons = Vec::new();
    let (wanted, connected) = (facts.replicas_wanted, facts.replicas_connected);
    if connected < wanted {
        let what = format!("{connected} of {wanted} replicas are connected: until they are, no write is acknowledged");
        findings.push(finding(Severity::Warn, what, "start the replicas, or lower `store.redis.replicas`"));
    }
    let sole = match facts.failover {
        Failover::Single | Failover::Cluster => wanted == 0 && connected == 0,
        // It could promote a replica that is away at the moment.
        Failover::Sentinel { .. } => false,
    };
    if !sole {
        let all = wanted.max(connected).max(1);
        if wanted < all {
            let what = format!("{connected} replicas are connected, and a write waits for {wanted} of them");
            let what = if connected == 0 { "writes wait for no replica".to_owned() } else { what };
            findings.push(finding(Severity::Warn, what.as_str(), format!("set `store.redis.replicas: {all}`")));
            reasons.push(what);
        }
        if let Some(settings) = &facts.settings {
            isolation(settings, all, findings, &mut reasons);
        }
        timing(facts, findings, &mut reasons);
    }
    match (facts.term, &facts.failover) {
        (Term::Managed, _) => {
            let what = "`failover: managed`: where the store goes back, nobody can tell a failover from a loss";
            findings.push(finding(Severity::Warn, what, "use Sentinel, a Cluster, or one server without failovers"));
            reasons.push("`failover: managed`".to_owned());
        }
        (Term::Fixed, Failover::Sentinel { .. } | Failover::Cluster) => {
            let what = "nobody tells whether there was a failover: after one that loses a change everything is refused";
            let remedy =
                "allow `SENTINEL MASTER` to this user at the sentinels, or `CLUSTER INFO` at the Cluster's nodes";
            findings.push(finding(Severity::Warn, what, remedy));
        }
        (Term::Fixed, Failover::Single) if !sole && !reasons.is_empty() => {
            let what = "nobody tells whether there was a failover behind this `url`: after one that loses a change everything is refused";
            let remedy = "if a service makes another server the primary by itself, set `store.redis.failover: managed`";
            findings.push(finding(Severity::Warn, what, remedy));
        }
        _ => {}
    }
    if !facts.appendonly && facts.settings.as_ref().is_some_and(|settings| settings.snapshots) {
        reasons.push("a restart goes back to the last snapshot".to_owned());
    }
    if facts.appendonly && matches!(facts.replay, Replay::Refused(..)) {
        reasons.push("a restart forgets what the default user may not do".to_owned());
    }
    reasons
}

/// A primary that was cut off must stop by itself.
fn isolation(settings: &Settings, all: u32, findings: &mut Vec<Finding>, reasons: &mut Vec<String>) {
    let (to_write, lag) = (settings.min_replicas_to_write, settings.min_replicas_max_lag);
    if to_write < all {
        let what = format!("`min-replicas-to-write` is {to_write} of {all}");
        let gone = format!("{what}: a primary that was cut off from its replicas goes on");
        findings.push(finding(Severity::Warn, gone, format!("set `min-replicas-to-write {all}` on every server")));
        reasons.push(what);
    }
    // Zero switches the whole rule off.
    if to_write > 0 && !(1..=LONGEST_LAG_SECONDS).contains(&lag) {
        let what = format!("`min-replicas-max-lag` is {lag}");
        let late = format!("{what}: a primary that was cut off goes on for too long");
        let remedy = format!("set `min-replicas-max-lag {LONGEST_LAG_SECONDS}` on every server");
        findings.push(finding(Severity::Warn, late, remedy));
        reasons.push(what);
    }
}

/// A failover must come later than the old primary's end.
fn timing(facts: &Facts, findings: &mut Vec<Finding>, reasons: &mut Vec<String>) {
    let (setting, time) = match &facts.failover {
        Failover::Single => return,
        Failover::Sentinel { down_after } => ("down-after-milliseconds", *down_after),
        Failover::Cluster => {
            let settings = facts.settings.as_ref();
            ("cluster-node-timeout", settings.and_then(|settings| settings.cluster_node_timeout))
        }
    };
    match time {
        Some(time) if time >= SHORTEST_FAILOVER_MS => {}
        Some(time) => {
            let what = format!("`{setting}` is {time}");
            let early = format!("{what}: a replica may be promoted while the old primary still answers");
            findings.push(finding(Severity::Warn, early, format!("set `{setting} {SHORTEST_FAILOVER_MS}` or more")));
            reasons.push(what);
        }
        // Said once already where CONFIG is not permitted.
        None if matches!(facts.failover, Failover::Cluster) => {}
        None => {
            let what = format!("`{setting}` is not known");
            let remedy = "allow `SENTINEL MASTER` to this user at the sentinels";
            findings.push(finding(Severity::Warn, what.as_str(), remedy));
            reasons.push(what);
        }
    }
}

#[cfg(test)]
mod tests;
