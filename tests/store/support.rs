//! Records and random numbers for the tests. Never random in a way that cannot be repeated.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tempfile::TempDir;
use tollgate::domain::change::Event;
use tollgate::domain::record::{ApiKey, AuditEntry, Outcome, Project, ProjectState, User};
use tollgate::store::embedded::Embedded;
use tollgate::store::redis::Redis;
use tollgate::store::redis::connect::Connector;
use tollgate::store::redis::location::{Address, Location, Login, Topology};
use tollgate::store::{KeyQuery, Store, StoreError, Write};
use tollgate_core::credential::{KeyId, MintedKey};
use tollgate_core::resource::Resource;
use tollgate_guard::digest::Digest;
use tollgate_guard::time::Timestamp;

use crate::redis_server::RedisServer;
use crate::servers::{Cluster, Sentinel};
use crate::signed;

/// Writes of which nobody needs to hear.
pub trait Apply {
    async fn apply(&self, batch: Vec<Write>) -> Result<u64, StoreError>;
}

impl Apply for Store {
    async fn apply(&self, batch: Vec<Write>) -> Result<u64, StoreError> {
        self.commit(batch, Event::touching(&[])).await
    }
}

pub fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(millis)
}

/// The id of key `n`; ids are in the order of their numbers.
pub fn id(n: u64) -> KeyId {
    KeyId::parse(&format!("{n:012}")).unwrap()
}

/// Key `n` of project acme on the data plane.
pub fn key(n: u64) -> ApiKey {
    let mut random = Random(n ^ 0x5eed_0000_0000);
    let mut digest = [0; 32];
    for chunk in digest.chunks_exact_mut(8) {
        chunk.copy_from_slice(&random.next().to_le_bytes());
    }
    ApiKey {
        id: id(n),
        digest: Digest(digest),
        pepper_version: 1,
        name: format!("Key number {n}"),
        plane: "data".to_owned(),
        project: "acme".to_owned(),
        project_id: None,
        workloads: vec!["chat".to_owned()],
        permissions: vec!["run_inference".to_owned()],
        created_at: at(n),
        created_by: "operator".to_owned(),
        expires_at: None,
        retires_at: None,
        revoked_at: None,
        replaces: None,
        replaced_by: None,
        version: 1,
    }
}

pub fn key_of(n: u64, plane: &str, project: &str) -> ApiKey {
    ApiKey { plane: plane.to_owned(), project: project.to_owned(), ..key(n) }
}

/// The next version of a key, revoked.
pub fn revoked(key: &ApiKey) -> ApiKey {
    ApiKey { revoked_at: Some(at(9_000)), version: key.version + 1, ..key.clone() }
}

pub fn resource(kind: &str, id: &str, project: &str) -> Resource {
    Resource {
        kind: kind.to_owned(),
        id: id.to_owned(),
        slug: id.to_owned(),
        project: project.to_owned(),
        project_id: None,
        owner: None,
        created_at: at(1),
        version: 1,
    }
}

/// The first thing that was said of a project.
pub fn project(name: &str, state: ProjectState) -> Project {
    Project { name: name.to_owned(), id: None, state, changed_at: at(1), changed_by: "operator".to_owned(), version: 1 }
}

/// A user of project acme.
pub fn user(name: &str) -> User {
    User {
        id: None,
        name: name.to_owned(),
        password_hash: "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA".to_owned(),
        project: "acme".to_owned(),
        project_id: None,
        permissions: vec!["run_inference".to_owned()],
        disabled: false,
        deleted: false,
        freed: false,
        sessions: 1,
        created_at: at(1),
        created_by: "operator".to_owned(),
        changed_at: at(1),
        version: 1,
    }
}

/// A row of the audit log about a thing of project acme.
pub fn row(target: &str) -> AuditEntry {
    AuditEntry {
        sequence: 0,
        at: at(1),
        actor: "operator".to_owned(),
        actor_id: None,
        act: "key.create".to_owned(),
        target: target.to_owned(),
        project: Some("acme".to_owned()),
        outcome: Outcome::Done,
        reason: None,
        peer: "127.0.0.1".to_owned(),
        request_id: "r-1".to_owned(),
    }
}

/// A store in a file of its own, and the folder that it stands in.
pub fn in_file() -> (Store, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let store = signed::embedded(&folder.path().join("store.redb"), Duration::ZERO).unwrap();
    (Store::Embedded(Arc::new(store)), folder)
}

/// A new store on a Redis server of its own.
pub async fn in_redis() -> (Store, Arc<Redis>, RedisServer) {
    let server = RedisServer::start().await;
    let redis = on_server(&server);
    redis.init().await.unwrap();
    (Store::Redis(Arc::clone(&redis)), redis, server)
}

/// What a process would use that has just been started.
pub fn on_server(server: &RedisServer) -> Arc<Redis> {
    Arc::new(signed::redis(Connector::single(&server.address()).unwrap()))
}

/// Servers that are several, and the place of the store in them.
pub struct InRedis {
    place: Location,
    primaries: Vec<String>,
    _servers: (Option<Sentinel>, Option<Cluster>),
}

impl InRedis {
    /// A primary and two replicas that confirm each write, with three sentinels.
    pub fn behind_sentinels() -> Self {
        let fleet = Sentinel::start(2, 3, 6_000, &["min-replicas-to-write 2", "min-replicas-max-lag 2"]);
        let sentinels = fleet.addresses().iter().map(|address| Address::tcp(address, 0).unwrap()).collect();
        let topology = Topology::Sentinel { sentinels, master: Sentinel::MASTER.to_owned(), login: Login::default() };
        let place = Location { topology, replicas: 2, ..Location::single(Address::Unix("unused".into())) };
        Self { place, primaries: vec![fleet.servers[0].address()], _servers: (Some(fleet), None) }
    }

    /// Three primaries.
    pub fn in_a_cluster() -> Self {
        let cluster = Cluster::start(3, &[]);
        let primaries = cluster.addresses();
        let seeds = primaries.iter().map(|address| Address::tcp(address, 0).unwrap()).collect();
        let place = Location { topology: Topology::Cluster(seeds), ..Location::single(Address::Unix("unused".into())) };
        Self { place, primaries, _servers: (None, Some(cluster)) }
    }

    /// A new store in the place of whatever was there.
    pub async fn empty(&self) -> Store {
        for primary in &self.primaries {
            let mut connection = Connector::single(primary).unwrap().primary().await.unwrap();
            let () = redis::cmd("FLUSHALL").query_async(&mut connection).await.unwrap();
        }
        let redis = signed::redis(Connector::open(self.place.clone()).unwrap());
        redis.init().await.unwrap();
        Store::Redis(Arc::new(redis))
    }
}

/// Every record that the store lists, each found by its id and by its digest, too.
pub fn every_key(store: &Embedded) -> Vec<ApiKey> {
    let all = store.keys(&KeyQuery { limit: usize::MAX, ..KeyQuery::default() }).unwrap();
    for key in &all {
        assert_eq!(store.key(key.id).unwrap().as_ref(), Some(key));
        assert_eq!(store.key_by_digest(&[key.digest]).unwrap().as_ref(), Some(key));
    }
    for query in [
        KeyQuery { project: Some("acme".to_owned()), limit: usize::MAX, ..KeyQuery::default() },
        KeyQuery { plane: Some("data".to_owned()), limit: usize::MAX, ..KeyQuery::default() },
    ] {
        assert_eq!(store.keys(&query).unwrap(), all, "every index holds the same");
    }
    all
}

/// A key as its owner has it, on the prefix `ik_live`.
pub fn minted(seed: u8) -> MintedKey {
    let mut next = seed;
    MintedKey::generate("ik_live", |buffer: &mut [u8]| {
        for byte in buffer {
            next = next.wrapping_mul(181).wrapping_add(59);
            *byte = next;
        }
        Ok::<_, std::convert::Infallible>(())
    })
    .unwrap()
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Locks also after another test thread has panicked, so that the first failure is the one that is seen.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
