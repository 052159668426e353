//! What real servers are said to guarantee.

use tollgate::store::redis::connect::Connector;
use tollgate::store::redis::location::Location;
use tollgate::store::redis::survey::{Engine, Level, Severity, Survey, Version};

use crate::connect::{address, by_sentinel, in_cluster};
use crate::servers::{Cluster, Sentinel, Server, wait_for};

async fn survey_of(place: Location) -> Survey {
    Survey::of(&Connector::open(place).unwrap()).await.unwrap()
}

async fn of(server: &Server) -> Survey {
    survey_of(Location::single(address(&server.address()))).await
}

fn says(survey: &Survey, severity: Severity, part: &str) -> bool {
    survey.findings.iter().any(|finding| finding.severity == severity && finding.what.contains(part))
}

#[tokio::test]
async fn a_server_as_it_should_be() {
    let survey = of(&Server::start()).await;
    assert!(survey.version >= Version(7, 0, 0) && matches!(survey.engine, Engine::Redis | Engine::Valkey));
    assert_eq!((survey.findings.len(), &survey.level), (0, &Level::Bounded), "{survey:#?}");
}

#[tokio::test]
async fn a_server_that_may_evict_is_refused() {
    let survey = of(&Server::with(&["maxmemory 100mb", "maxmemory-policy allkeys-lru"])).await;
    let refused: Vec<_> = survey.refusals().collect();
    assert!(matches!(&*refused, [one] if one.what.contains("allkeys-lru") && one.remedy.contains("noeviction")));
}

#[tokio::test]
async fn what_a_restart_may_lose() {
    let survey = of(&Server::with(&["appendonly no", "save \"\""])).await;
    assert!(says(&survey, Severity::Warn, "lose every key"), "{survey:#?}");
    let survey = of(&Server::with(&["appendonly no", "save 900 1"])).await;
    assert!(says(&survey, Severity::Warn, "last snapshot"), "{survey:#?}");
    let survey = of(&Server::with(&["appendfsync everysec"])).await;
    assert!(says(&survey, Severity::Note, "everysec"), "{survey:#?}");
}

/// Whatever the default user may do, but not everything that is replayed.
#[tokio::test]
async fn a_default_user_who_may_not_write_everything_is_found() {
    for (rules, refused) in [
        ("~other:* +@all", "SET on tg:{tg}:k:"),
        ("~tg:{tg}:head +@all", "SET on tg:{tg}:k:"),
        ("~tg:{tg}:* +@all", "INCR on tg:l2:{x}"),
        ("~tg:{tg}:* ~tg:l2:* +@all", "SET on tg:use:{x}"),
        ("~tg:* +@all -xdel", "XDEL on tg:{tg}:log"),
        ("%R~* +@all", "SET on"),
        ("~* +@all -@stream", "XADD on tg:{tg}:log"),
        ("~* +@all -hincrby", "HINCRBY on"),
        ("~tg:* +@write +@read", ""),
        ("~* +@all", ""),
    ] {
        let asks = "+@connection +info +role +config|get +acl|dryrun";
        let server = Server::with(&[&format!("user default on nopass &* {rules} {asks}")]);
        let survey = of(&server).await;
        let found: Vec<_> = survey.findings.iter().filter(|finding| finding.what.contains("may not do")).collect();
        match (&*found, refused) {
            ([], "") => {}
            ([one], part) if !part.is_empty() => assert!(one.what.contains(part), "{rules}: {}", one.what),
            _ => panic!("{rules}: {survey:#?}"),
        }
    }
}

#[tokio::test]
async fn a_managed_server_forbids_config() {
    for settings in [&["rename-command CONFIG \"\""][..], &["user default on nopass ~* &* +@all -config"]] {
        let server = Server::with(settings);
        let survey = of(&server).await;
        assert_eq!(survey.level.to_string(), "unknown (CONFIG not permitted)");
        assert!(says(&survey, Severity::Note, "does not permit CONFIG"), "{survey:#?}");
        assert_eq!(survey.refusals().count(), 0, "{survey:#?}");
    }
    let server = Server::with(&["rename-command CONFIG \"\"", "maxmemory 100mb", "maxmemory-policy volatile-ttl"]);
    assert_eq!(of(&server).await.refusals().count(), 1, "INFO tells it");
}

#[tokio::test]
async fn replicas_and_what_fences_them() {
    let primary = Server::start();
    let replica = Server::replica_of(&primary, &[]);
    wait_for("the replica to be counted", || primary.info("connected_slaves").as_deref() == Some("1"));
    let survey = of(&primary).await;
    assert!(matches!(&survey.level, Level::ExceptFailover(why) if why.contains("waits for 0")), "{survey:#?}");

    let () = primary.command(&["CONFIG", "SET", "min-replicas-to-write", "1", "min-replicas-max-lag", "2"]);
    let place = Location { replicas: 1, ..Location::single(address(&primary.address())) };
    let survey = survey_of(place.clone()).await;
    assert_eq!((survey.findings.len(), &survey.level), (0, &Level::Bounded), "{survey:#?}");

    drop(replica);
    wait_for("the replica to be missed", || primary.info("connected_slaves").as_deref() == Some("0"));
    let survey = survey_of(place).await;
    assert!(says(&survey, Severity::Warn, "0 of 1 replicas"), "{survey:#?}");
}

#[tokio::test]
async fn sentinels_that_are_too_hasty() {
    let fenced = ["min-replicas-to-write 1", "min-replicas-max-lag 2"];
    let fleet = Sentinel::start(1, 1, 5_000, &fenced);
    let place = Location { replicas: 1, ..by_sentinel(&fleet.addresses(), Sentinel::MASTER) };
    let level = survey_of(place.clone()).await.level.to_string();
    assert_eq!(level, "bounded except failover (`down-after-milliseconds` is 5000)");
    let () = fleet.sentinels[0].command(&["SENTINEL", "SET", Sentinel::MASTER, "down-after-milliseconds", "6000"]);
    let survey = survey_of(place).await;
    assert_eq!((survey.findings.len(), &survey.level), (0, &Level::Bounded), "{survey:#?}");
}

#[tokio::test]
async fn a_cluster_and_one_of_its_nodes() {
    let cluster = Cluster::start(3, &[]);
    let survey = survey_of(in_cluster(&cluster.addresses())).await;
    assert_eq!((survey.findings.len(), &survey.level), (0, &Level::Bounded), "{survey:#?}");
    let survey = of(&cluster.nodes[0]).await;
    assert!(says(&survey, Severity::Refuse, "node of a Cluster"), "{survey:#?}");
}
