//! What is said of which facts.

use super::*;

/// One server as it should be.
fn sound() -> Facts {
    Facts {
        engine: Engine::Redis,
        version: Version(7, 0, 15),
        cluster_enabled: false,
        is_private: true,
        replicas_wanted: 0,
        replicas_connected: 0,
        failover: Failover::Single,
        term: Term::Fixed,
        maxmemory_policy: Some("noeviction".to_owned()),
        memory: Some(Memory { used: 1, limit: 1 << 30 }),
        appendonly: true,
        replay: Replay::Allowed,
        settings: Some(Settings {
            snapshots: false,
            appendfsync: Some("always".to_owned()),
            min_replicas_to_write: 0,
            min_replicas_max_lag: 10,
            cluster_node_timeout: Some(15_000),
        }),
    }
}

/// Two replicas and Sentinel, as they should be.
fn watched() -> Facts {
    let mut facts = sound();
    facts.failover = Failover::Sentinel { down_after: Some(6_000) };
    facts.term = Term::Epoch(1);
    (facts.replicas_wanted, facts.replicas_connected) = (2, 2);
    set(&mut facts).min_replicas_to_write = 2;
    set(&mut facts).min_replicas_max_lag = 2;
    facts
}

fn spread() -> Facts {
    Facts { failover: Failover::Cluster, cluster_enabled: true, ..watched() }
}

fn set(facts: &mut Facts) -> &mut Settings {
    facts.settings.as_mut().unwrap()
}

type Row = (&'static str, fn() -> Facts, fn(&mut Facts), &'static [(Severity, &'static str)], &'static str);

const BOUNDED: &str = "bounded (1 s)";

#[test]
fn findings_and_levels() {
    use Severity::{Note, Refuse, Warn};
    let rows: &[Row] = &[
        ("one server", sound, |_| {}, &[], BOUNDED),
        ("Sentinel", watched, |_| {}, &[], BOUNDED),
        ("Cluster", spread, |_| {}, &[], BOUNDED),
        ("old", sound, |f| f.version = Version(6, 2, 14), &[(Refuse, "Redis 6.2.14")], BOUNDED),
        ("Valkey", sound, |f| (f.engine, f.version) = (Engine::Valkey, Version(8, 0, 0)), &[], BOUNDED),
        ("evicts", sound, |f| f.maxmemory_policy = Some("allkeys-lru".into()), &[(Refuse, "allkeys-lru")], BOUNDED),
        ("does not say", sound, |f| f.maxmemory_policy = None, &[(Warn, "throw keys away")], BOUNDED),
        ("no limit", sound, |f| f.memory = Some(Memory { used: 1, limit: 0 }), &[(Warn, "is not set")], BOUNDED),
        ("hides it", sound, |f| f.memory = None, &[(Warn, "does not say what `maxmemory` is")], BOUNDED),
        ("node", sound, |f| f.cluster_enabled = true, &[(Refuse, "node of a Cluster")], BOUNDED),
        ("network", sound, |f| f.is_private = false, &[(Note, "unencrypted")], BOUNDED),
        ("nothing kept", sound, |f| f.appendonly = false, &[(Warn, "lose every key")], BOUNDED),
        (
            "snapshots",
            sound,
            |f| (f.appendonly, set(f).snapshots) = (false, true),
            &[(Warn, "last snapshot")],
            "bounded except failover (a restart goes back to the last snapshot)",
        ),
        (
            "replays nothing",
            sound,
            |f| f.replay = Replay::Refused("SET", "x".to_owned()),
            &[(Warn, "may not do SET")],
            "bounded except failover (a restart forgets what the default user may not do)",
        ),
        ("replays who knows what", sound, |f| f.replay = Replay::Unknown, &[(Warn, "cannot be known")], BOUNDED),
        (
            "replays nothing, and has nothing to replay",
            sound,
            |f| (f.appendonly, f.replay) = (false, Replay::Refused("SET", "x".to_owned())),
            &[(Warn, "lose every key")],
            BOUNDED,
        ),
        ("second", sound, |f| set(f).appendfsync = Some("everysec".into()), &[(Note, "about a second")], BOUNDED),
        (
            "forbids CONFIG",
            sound,
            |f| f.settings = None,
            &[(Note, "does not permit CONFIG")],
            "unknown (CONFIG not permitted)",
        ),
        (
            "forbids CONFIG and evicts",
            watched,
            |f| (f.settings, f.maxmemory_policy) = (None, Some("volatile-lru".into())),
            &[(Refuse, "volatile-lru"), (Note, "does not permit CONFIG")],
            "unknown (CONFIG not permitted)",
        ),
        (
            "managed",
            sound,
            |f| f.term = Term::Managed,
            &[(Warn, "nobody can tell a failover from a loss")],
            "bounded except failover (`failover: managed`)",
        ),
        ("does not count", watched, |f| f.term = Term::Fixed, &[(Warn, "nobody tells whether")], BOUNDED),
        ("replica away", watched, |f| f.replicas_connected = 1, &[(Warn, "1 of 2 replicas are connected")], BOUNDED),
        (
            "waits for one of two",
            watched,
            |f| f.replicas_wanted = 1,
            &[(Warn, "a write waits for 1 of them")],
            "bounded except failover (2 replicas are connected, and a write waits for 1 of them)",
        ),
        (
            "waits for none",
            watched,
            |f| (f.replicas_wanted, f.replicas_connected) = (0, 0),
            &[(Warn, "writes wait for no replica")],
            "bounded except failover (writes wait for no replica)",
        ),
        (
            "by hand",
            sound,
            |f| f.replicas_connected = 1,
            &[
                (Warn, "waits for 0 of them"),
                (Warn, "`min-replicas-to-write` is 0 of 1"),
                (Warn, "a failover behind this `url`"),
            ],
            "bounded except failover (1 replicas are connected, and a write waits for 0 of them; `min-replicas-to-write` is 0 \
             of 1)",
        ),
        (
            "not fenced",
            watched,
            |f| set(f).min_replicas_to_write = 1,
            &[(Warn, "was cut off from its replicas goes on")],
            "bounded except failover (`min-replicas-to-write` is 1 of 2)",
        ),
        (
            "lags",
            watched,
            |f| set(f).min_replicas_max_lag = 10,
            &[(Warn, "goes on for too long")],
            "bounded except failover (`min-replicas-max-lag` is 10)",
        ),
        (
            "the lag counts for nothing",
            watched,
            |f| set(f).min_replicas_max_lag = 0,
            &[(Warn, "goes on for too long")],
            "bounded except failover (`min-replicas-max-lag` is 0)",
        ),
        (
            "hasty",
            watched,
            |f| f.failover = Failover::Sentinel { down_after: Some(5_999) },
            &[(Warn, "still answers")],
            "bounded except failover (`down-after-milliseconds` is 5999)",
        ),
        (
            "silent sentinels",
            watched,
            |f| f.failover = Failover::Sentinel { down_after: None },
            &[(Warn, "`down-after-milliseconds` is not known")],
            "bounded except failover (`down-after-milliseconds` is not known)",
        ),
        (
            "hasty Cluster",
            spread,
            |f| set(f).cluster_node_timeout = Some(2_000),
            &[(Warn, "still answers")],
            "bounded except failover (`cluster-node-timeout` is 2000)",
        ),
        ("Cluster of primaries alone", spread, |f| (f.replicas_wanted, f.replicas_connected) = (0, 0), &[], BOUNDED),
    ];
    for (name, base, change, expected, level) in rows {
        let mut facts = base();
        change(&mut facts);
        let survey = judged(&facts);
        let found: Vec<_> = survey.findings.iter().map(|finding| (finding.severity, finding.what.as_str())).collect();
        let fits = found.len() == expected.len()
            && found.iter().zip(*expected).all(|((a, what), (b, part))| a == b && what.contains(part));
        assert!(fits, "{name}: {found:#?}");
        assert!(survey.findings.iter().all(|finding| !finding.remedy.is_empty()), "{name}");
        assert_eq!(survey.level.to_string(), *level, "{name}");
    }
}

#[test]
fn the_gravest_comes_first_and_alone_refuses() {
    let mut facts = sound();
    facts.is_private = false;
    facts.appendonly = false;
    facts.maxmemory_policy = Some("allkeys-lru".to_owned());
    let survey = judged(&facts);
    let order: Vec<Severity> = survey.findings.iter().map(|finding| finding.severity).collect();
    assert_eq!(order, [Severity::Refuse, Severity::Warn, Severity::Note]);
    assert_eq!(survey.refusals().count(), 1);
}
