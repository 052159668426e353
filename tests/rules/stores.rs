//! The store in the configuration: where it is, what it compiles to, and what is said about a bad one.

use std::path::PathBuf;
use std::time::Duration;

use tollgate::config::{self, RedisSettings, StoreSettings};
use tollgate::store::redis::location::{Address, Location, Login, TlsFiles, Topology};

const GOOD: &str = include_str!("tollgate.yaml");
const STORE: &str = "{embedded: {path: /var/lib/tollgate/store.redb}}";

/// The good file with this store.
fn with(store: &str) -> String {
    assert_eq!(GOOD.matches(STORE).count(), 1);
    GOOD.replacen(STORE, store, 1)
}

fn redis(store: &str) -> RedisSettings {
    match config::parse(&with(&format!("{{redis: {store}}}"))).map(|compiled| compiled.settings.store) {
        Ok(StoreSettings::Redis(redis)) => *redis,
        other => panic!("{store}: {other:?}"),
    }
}

fn tcp(host: &str, port: u16) -> Address {
    Address::Tcp { host: host.to_owned(), port }
}

#[test]
fn one_server() {
    for (text, address, tls) in [
        ("{url: 'redis://redis.internal:7000'}", tcp("redis.internal", 7000), None),
        ("{url: 'redis://10.0.0.1/'}", tcp("10.0.0.1", 6379), None),
        ("{url: 'redis://[::1]:7000/0'}", tcp("::1", 7000), None),
        ("{url: 'rediss://redis.internal'}", tcp("redis.internal", 6379), Some(TlsFiles::default())),
        ("{url: 'rediss://redis.internal', tls: {}}", tcp("redis.internal", 6379), Some(TlsFiles::default())),
        ("{url: 'unix:///run/redis.sock'}", Address::Unix("/run/redis.sock".into()), None),
    ] {
        let expected = Location { tls, ..Location::single(address) };
        assert_eq!(redis(text), RedisSettings { location: expected, name: None, position: None }, "{text}");
    }
}

#[test]
fn a_whole_block() {
    let found = redis(
        "{url: 'rediss://a:1', username: tollgate, password: {file: /p}, tls: {ca: /a, certificate: /c, key: /k}, replicas: 2, \
         name: pod-1, failover: managed}",
    );
    let location = Location {
        topology: Topology::Single(tcp("a", 1)),
        login: Login { username: Some("tollgate".to_owned()), password: Some(PathBuf::from("/p")) },
        tls: Some(TlsFiles { ca: Some("/a".into()), identity: Some(("/c".into(), "/k".into())) }),
        replicas: 2,
        is_managed: true,
    };
    assert_eq!(found, RedisSettings { location, name: Some("pod-1".to_owned()), position: None });
}

#[test]
fn sentinel_and_cluster() {
    let found = redis("{sentinel: {addresses: [a, 'b:1'], master: tollgate, password: {file: /s}}, tls: {}}").location;
    let login = Login { username: None, password: Some("/s".into()) };
    let sentinels = vec![tcp("a", 26379), tcp("b", 1)];
    assert_eq!(found.topology, Topology::Sentinel { sentinels, master: "tollgate".to_owned(), login });
    assert_eq!((found.login, found.tls), (Login::default(), Some(TlsFiles::default())));
    let found = redis("{cluster: {addresses: [a, 'b:1']}}").location;
    assert_eq!((found.topology, found.tls), (Topology::Cluster(vec![tcp("a", 6379), tcp("b", 1)]), None));
}

#[test]
fn what_is_wrong_is_said_where_it_stands() {
    let each: &[(&str, &str, &str)] = &[
        ("{}", "store", "must have one of `embedded` and `redis`"),
        ("{embedded: {path: a}, redis: {url: 'redis://a'}}", "store", "must have only one of"),
        ("{redis: {}}", "store.redis", "must have one of `url`, `sentinel` and `cluster`"),
        (
            "{redis: {cluster: {addresses: [a]}, failover: managed}}",
            "store.redis.failover",
            "has a meaning only with `url`",
        ),
        ("{redis: {url: 'redis://a', cluster: {addresses: [a]}}}", "store.redis", "only one of `url`, `sentinel`"),
        ("{redis: {uri: 'redis://a'}}", "store.redis.uri", "did you mean `url`?"),
        ("{redis: {url: 'redis://a', passwort: {file: a}}}", "store.redis.passwort", "did you mean `password`?"),
        ("{redis: {url: 'http://a'}}", "store.redis.url", "must begin with `redis://`"),
        ("{redis: {url: 'a:6379'}}", "store.redis.url", "must begin with `redis://`"),
        (
            "{redis: {url: 'redis://:hunter2@a'}}",
            "store.redis.url",
            "must not hold a user or a password; give `username`",
        ),
        ("{redis: {url: 'redis://a/1'}}", "store.redis.url", "always in database 0"),
        ("{redis: {url: 'redis://a/?db=1'}}", "store.redis.url", "must end with the port"),
        ("{redis: {url: 'rediss://a#insecure'}}", "store.redis.url", "must end with the port"),
        ("{redis: {url: 'redis://'}}", "store.redis.url", "must name a host"),
        ("{redis: {url: 'redis://a:0'}}", "store.redis.url", "must name a host"),
        ("{redis: {url: 'redis://a', tls: {}}}", "store.redis.url", "contradicts `tls`; write `rediss://`"),
        ("{redis: {url: 'unix://redis.sock'}}", "store.redis.url", "by its whole path"),
        ("{redis: {url: 'unix:///a', tls: {}}}", "store.redis.url", "there is no TLS"),
        ("{redis: {url: 'redis://a', username: b}}", "store.redis.password", "is missing: a user has one"),
        ("{redis: {url: 'redis://a', password: hunter2}}", "store.redis.password", "must be a map, not text"),
        ("{redis: {url: 'redis://a', password: {file: ''}}}", "store.redis.password.file", "must not be empty"),
        ("{redis: {url: 'redis://a', username: 'b c', password: {file: a}}}", "store.redis.username", "without blanks"),
        ("{redis: {url: 'rediss://a', tls: {certificate: a}}}", "store.redis.tls.key", "is missing"),
        ("{redis: {url: 'rediss://a', tls: {key: a}}}", "store.redis.tls.certificate", "is missing"),
        ("{redis: {url: 'rediss://a', tls: {ca: ''}}}", "store.redis.tls.ca", "must not be empty"),
        ("{redis: {url: 'redis://a', replicas: 17}}", "store.redis.replicas", "must be at most 16"),
        ("{redis: {url: 'redis://a', replicas: -1}}", "store.redis.replicas", "must be at least 0"),
        ("{redis: {url: 'redis://a', name: 'a b'}}", "store.redis.name", "is 1 to 64 characters"),
        ("{redis: {cluster: {addresses: []}}}", "store.redis.cluster.addresses", "needs at least 1 entry"),
        (
            "{redis: {cluster: {addresses: [a, 'b:x']}}}",
            "store.redis.cluster.addresses[1]",
            "must be a host and a port",
        ),
        (
            "{redis: {cluster: {addresses: ['redis://:hunter2@a']}}}",
            "store.redis.cluster.addresses[0]",
            "must be a host and a port",
        ),
        ("{redis: {cluster: {addresses: [a, 'a:6379']}}}", "store.redis.cluster.addresses[1]", "stands twice"),
        ("{redis: {sentinel: {addresses: [a]}}}", "store.redis.sentinel.master", "is missing"),
        ("{redis: {sentinel: {addresses: [a], master: ''}}}", "store.redis.sentinel.master", "must be the name"),
        (
            "{redis: {sentinel: {addresses: [a], master: m, username: u}}}",
            "store.redis.sentinel.password",
            "is missing",
        ),
    ];
    let mut wrong = Vec::new();
    for (store, path, phrase) in each {
        let problems =
            config::parse(&with(store)).err().map(|problems| problems.problems().to_vec()).unwrap_or_default();
        let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let fits = matches!(&*problems, [one] if one.path == *path && lines[0].contains(phrase));
        if !fits || lines.concat().contains("hunter2") {
            wrong.push(format!("{store}: {path}: ... {phrase} ... expected, found {lines:#?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn grace_is_for_data_planes_of_a_fleet() {
    const PLANE: &str = "data: {prefix: ik_live, revoked: 401";
    const ADMIN: &str = "admin: {prefix: ik_adm, revoked: 401, admin: true";
    let fleet = with("{redis: {url: 'redis://a'}}");
    assert!(fleet.contains(PLANE) && fleet.contains(ADMIN));
    let parsed = |text: &str| config::parse(text).map(|compiled| compiled.policy.planes[0].grace);
    assert_eq!(parsed(&fleet).unwrap(), Duration::ZERO);
    for (text, seconds) in [("30s", 30), ("60m", 3600), ("\"0\"", 0)] {
        let file = fleet.replacen(PLANE, &format!("{PLANE}, grace: {text}"), 1);
        assert_eq!(parsed(&file).unwrap(), Duration::from_secs(seconds), "{text}");
    }
    for (text, grace, phrase) in [
        (&*fleet, "61m", "must be at most 60 minutes"),
        (&*fleet, "soon", "is no duration"),
        (GOOD, "30s", "has a meaning only with `store.redis`"),
    ] {
        let found = parsed(&text.replacen(PLANE, &format!("{PLANE}, grace: {grace}"), 1)).unwrap_err();
        let [problem] = found.problems() else { panic!("{found}") };
        assert!(problem.path == "planes.data.grace" && problem.message.contains(phrase), "{found}");
    }
    let found = parsed(&fleet.replacen(ADMIN, &format!("{ADMIN}, grace: 1s"), 1)).unwrap_err();
    assert!(found.problems()[0].path == "planes.admin.grace" && found.to_string().contains("admin plane"), "{found}");
}
