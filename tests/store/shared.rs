//! The cache that a fleet shares: what one replica says another one finds, and nobody finds what was not said by a replica.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use redis::AsyncCommands;
use tokio::sync::watch;
use tollgate::clock::Clock;
use tollgate::config;
use tollgate::registry::Actor;
use tollgate::resolve::api_key::Digester;
use tollgate::resolve::l2::{Known, L2, Ticket};
use tollgate::resolve::pepper::Pepper;
use tollgate::store::redis::connect::Connector;
use tollgate::store::redis::shared::{SharedCache, SharedKey};
use tollgate_guard::digest::Digest;
use tollgate_guard::time::Timestamp;
use zeroize::Zeroizing;

use crate::redis_server::RedisServer;
use crate::registry_fixture::{CONFIG, RegistryFixture};

const LIFE: Duration = Duration::from_secs(60);

struct Fleet {
    server: RedisServer,
    now: Arc<AtomicU64>,
}

impl Fleet {
    async fn new() -> Self {
        Self { server: RedisServer::start().await, now: Arc::new(AtomicU64::new(1_000)) }
    }

    fn replica(&self, pepper: u8) -> L2 {
        let digester = Arc::new(Digester::new(&Pepper::new(1, Zeroizing::new([pepper; 32])), &[]));
        let connector = Connector::single(&self.server.address()).unwrap();
        L2::new(
            SharedCache::new(connector, tokio::runtime::Handle::current()),
            digester,
            Clock::Manual(Arc::clone(&self.now)),
        )
    }

    async fn values(&self) -> Vec<String> {
        let mut connection = self.server.connection().await;
        let keys: Vec<String> = connection.keys("tg:l2:*").await.unwrap();
        keys.into_iter().filter(|key| !key.ends_with(":purges") && !key.ends_with(":flight")).collect()
    }
}

async fn ticket(l2: &L2, key: SharedKey<'_>) -> Ticket {
    match l2.look(key).await {
        Known::Nothing(ticket) | Known::Value(_, _, ticket) => ticket,
        Known::Unreachable => panic!("it cannot be reached"),
    }
}

async fn value(l2: &L2, key: SharedKey<'_>) -> Option<(Vec<u8>, Timestamp)> {
    match l2.look(key).await {
        Known::Value(value, at, _) => Some((value.to_vec(), at)),
        Known::Nothing(_) => None,
        Known::Unreachable => panic!("it cannot be reached"),
    }
}

#[tokio::test]
async fn what_one_says_another_finds() {
    let fleet = Fleet::new().await;
    let (one, two) = (fleet.replica(7), fleet.replica(7));
    let key = one.key_set("sso", "https://idp.test/jwks");
    assert_eq!(value(&two, key).await, None);
    one.tell(key, b"the keys", LIFE, ticket(&one, key).await).await;
    assert_eq!(value(&two, key).await, Some((b"the keys".to_vec(), Timestamp::from_millis(1_000))));
    assert_eq!(value(&two, two.key_set("other", "https://idp.test/jwks")).await, None);
    assert_eq!(value(&two, two.key_set("sso", "https://idp.test/others")).await, None);
    assert_eq!((two.stats().hits, two.stats().misses), (1, 3));
    // What lies there tells nothing.
    let mut connection = fleet.server.connection().await;
    for key in fleet.values().await {
        let bytes: Vec<u8> = connection.get(&key).await.unwrap();
        assert!(!String::from_utf8_lossy(&bytes).contains("the keys"));
        let ttl: i64 = connection.pttl(&key).await.unwrap();
        assert!((1..=60_000).contains(&ttl), "{ttl}");
    }
}

#[tokio::test]
async fn what_no_replica_has_said_is_not_found() {
    let fleet = Fleet::new().await;
    let (own, stranger) = (fleet.replica(7), fleet.replica(8));
    let (key, other) = (own.key_set("sso", "a"), own.key_set("sso", "b"));
    own.tell(key, b"honest", LIFE, ticket(&own, key).await).await;
    let [stored] = &fleet.values().await[..] else { panic!("one value") };
    let mut connection = fleet.server.connection().await;
    let honest: Vec<u8> = connection.get(stored).await.unwrap();

    // Under another name, with another date, with each byte changed, cut, and sealed by somebody without the pepper.
    own.tell(other, b"other", LIFE, ticket(&own, other).await).await;
    let moved = fleet.values().await.into_iter().find(|key| key != stored).unwrap();
    let _: () = connection.set(&moved, &honest).await.unwrap();
    assert_eq!(value(&own, other).await, None);
    let mut tried = 0;
    for at in 0..honest.len() {
        let mut changed = honest.clone();
        changed[at] ^= 1;
        for bytes in [&changed[..], &honest[..at]] {
            let _: () = connection.set(stored, bytes).await.unwrap();
            assert_eq!(value(&own, key).await, None, "byte {at}");
            tried += 1;
        }
    }
    let _: () = connection.del(stored).await.unwrap();
    let forged = SharedKey { ..key };
    stranger.tell(forged, b"forged", LIFE, ticket(&stranger, forged).await).await;
    assert_eq!(fleet.values().await.len(), 2);
    assert_eq!(value(&own, key).await, None);
    println!("{tried} forged values tried, 0 taken");
}

#[tokio::test]
async fn a_purge_forgets_the_tenant_and_what_was_being_found_out() {
    let fleet = Fleet::new().await;
    let l2 = fleet.replica(7);
    let (key, fresh, other) = (l2.key_set("sso", "a"), l2.key_set("sso", "b"), l2.key_set("else", "a"));
    for key in [key, other] {
        l2.tell(key, b"old", LIFE, ticket(&l2, key).await).await;
    }
    let begun = ticket(&l2, fresh).await;
    assert_eq!(l2.purge("sso").await.unwrap(), 1);
    assert_eq!(value(&l2, key).await, None);
    assert!(value(&l2, other).await.is_some(), "of another tenant nothing is forgotten");
    l2.tell(fresh, b"late", LIFE, begun).await;
    assert_eq!(value(&l2, fresh).await, None, "it was begun before the purge");
    l2.tell(fresh, b"new", LIFE, ticket(&l2, fresh).await).await;
    assert!(value(&l2, fresh).await.is_some());
}

#[tokio::test]
async fn what_the_fleet_has_verified_is_verified_anew_once_its_issuer_is_forgotten() {
    const ISSUERS: &str = "
issuers:
  - {name: sso, issuer: https://sso.test, audience: [tollgate], jwks: {url: https://sso.test/jwks}, plane: data,
     algorithms: [ES384], project: \"{tenant}\", workloads: [\"*\"], permissions: [\"{scope}\"]}
";
    let policy = config::parse(&format!("{CONFIG}{ISSUERS}")).unwrap_or_else(|problems| panic!("{problems}")).policy;
    let fleet = Fleet::new().await;
    let (one, two) = (fleet.replica(7), fleet.replica(7));
    let [own, other] = ["sso", "else"].map(|issuer| one.signature(issuer, Digest([1; 32]), &[2; 32]));
    let set = one.key_set("sso", "https://sso.test/jwks");
    for key in [own, other, set] {
        one.tell(key, b"found", LIFE, ticket(&one, key).await).await;
    }
    // One that is being verified.
    let late = one.signature("sso", Digest([3; 32]), &[2; 32]);
    let begun = ticket(&one, late).await;

    let (_heard, hears) = watch::channel(u64::MAX);
    let registry = RegistryFixture::new().registry.in_fleet(hears, Arc::default(), Some(two));
    registry.forget_issuer(&policy, &Actor::operator(), "sso").await.unwrap();
    one.tell(late, b"found", LIFE, begun).await;
    for (key, is_known) in [(own, false), (set, false), (late, false), (other, true)] {
        assert_eq!(value(&one, key).await.is_some(), is_known, "{} of {}", key.kind, key.tenant);
    }
}

#[tokio::test]
async fn a_later_version_is_not_replaced_by_an_earlier_one() {
    let fleet = Fleet::new().await;
    let l2 = fleet.replica(7);
    let key = l2.key_set("sso", "a");
    for (now, text, expected) in [(5_000, "five", "five"), (4_999, "four", "five"), (50_000, "fifty", "fifty")] {
        fleet.now.store(now, Ordering::SeqCst);
        l2.tell(key, text.as_bytes(), LIFE, ticket(&l2, key).await).await;
        assert_eq!(value(&l2, key).await.unwrap().0, expected.as_bytes());
    }
}

#[tokio::test]
async fn one_of_the_fleet_finds_out() {
    let fleet = Fleet::new().await;
    let replicas: Vec<L2> = (0..20).map(|_| fleet.replica(7)).collect();
    let key = replicas[0].key_set("sso", "a");
    let mut began = Vec::new();
    for replica in &replicas {
        began.push(replica.begin(key, LIFE).await);
    }
    assert_eq!(began.iter().filter(|began| **began).count(), 1);
    replicas[0].tell(key, b"found", LIFE, ticket(&replicas[0], key).await).await;
    assert!(replicas[1].begin(key, LIFE).await, "what was found out ends the flight");
}

#[tokio::test]
async fn a_cache_that_is_gone_costs_nothing_but_itself() {
    let mut fleet = Fleet::new().await;
    let l2 = fleet.replica(7);
    let key = l2.key_set("sso", "a");
    l2.tell(key, b"found", LIFE, ticket(&l2, key).await).await;
    fleet.server.kill();
    for _ in 0..100 {
        assert!(matches!(l2.look(key).await, Known::Unreachable));
        assert!(l2.begin(key, LIFE).await, "everybody is on their own");
    }
    assert_eq!(l2.stats().failures, 100);
    fleet.server.restart().await;
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    while !matches!(l2.look(key).await, Known::Value(..)) {
        assert!(std::time::Instant::now() < deadline, "it is not used again");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_server_that_takes_connections_and_says_nothing_holds_nobody_up() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let digester = Arc::new(Digester::new(&Pepper::new(1, Zeroizing::new([7; 32])), &[]));
    let connector = Connector::single(&silent.local_addr().unwrap().to_string()).unwrap();
    let l2 = L2::new(SharedCache::new(connector, tokio::runtime::Handle::current()), digester, Clock::System);
    let begun = std::time::Instant::now();
    // As many as would take 16 s, one after the other.
    let asked = (0..16).map(|_| {
        let l2 = l2.clone();
        tokio::spawn(async move { l2.look(l2.key_set("sso", "a")).await })
    });
    for look in asked.collect::<Vec<_>>() {
        assert!(matches!(look.await.unwrap(), Known::Unreachable));
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}
