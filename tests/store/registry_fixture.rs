//! A registry at work: a policy, a clock set by hand, actors of every reach. Never needs a file or a network.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tollgate::clock::Clock;
use tollgate::config;
use tollgate::domain::record::{AuditEntry, User};
use tollgate::registry::{Actor, ActorPermissions, KeySpec, NewKey, Registry, RegistryError, UserSpec};
use tollgate::resolve::api_key::Digester;
use tollgate::resolve::last_used::LastUsed;
use tollgate::resolve::pepper::Pepper;
use tollgate::store::embedded::Embedded;
use tollgate::store::{AuditQuery, Store};
use tollgate_core::login::Login;
use tollgate_core::named::named;
use tollgate_core::policy::Policy;
use tollgate_guard::slots::Slots;
use tollgate_guard::stamps::Stamps;
use tollgate_guard::time::Timestamp;
use zeroize::Zeroizing;

pub const CONFIG: &str = "
version: 1
store: {embedded: {path: s}}
pepper: {current: 1, keys: {1: {file: p}}}
listen: {check: {unix: {path: c}}, admin: {unix: {path: a}}, ops: {http: 127.0.0.1:0}}
permissions: [run, read]
hosts: [{match: [api.test], routes: [{name: open, match: [GET /open], public: true}]}]
";

pub const HASH: &str = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA";

pub struct RegistryFixture {
    pub store: Store,
    pub registry: Registry,
    pub policy: Policy,
    pub stamps: Arc<Stamps>,
    pub digester: Arc<Digester>,
    pub last_used: Arc<LastUsed>,
    clock: Arc<AtomicU64>,
}

impl RegistryFixture {
    pub fn new() -> Self {
        Self::on(Store::Embedded(Arc::new(Embedded::in_memory().unwrap())))
    }

    pub fn on(store: Store) -> Self {
        let digester = Arc::new(Digester::new(&Pepper::new(1, Zeroizing::new([7; 32])), &[]));
        let (stamps, last_used) = (Arc::new(Stamps::sole(Clock::System)), Arc::new(LastUsed::default()));
        let clock = Arc::new(AtomicU64::new(1_800_000_000_000));
        let manual = Clock::Manual(Arc::clone(&clock));
        let registry =
            Registry::new(store.clone(), Arc::clone(&digester), Arc::clone(&stamps), Arc::clone(&last_used), manual);
        let policy = config::parse(CONFIG).unwrap_or_else(|problems| panic!("{problems}")).policy;
        let mut fixture = Self { store, registry, policy, stamps, digester, last_used, clock };
        fixture.users_stand_on(Some("admin"));
        fixture
    }

    /// The plane of users; `None`: nobody can log in.
    pub fn users_stand_on(&mut self, plane: Option<&str>) {
        self.policy.login = plane.map(|plane| Login {
            issuer: "https://api.test".into(),
            plane: plane.into(),
            lifetime: Duration::from_secs(3600),
        });
    }

    pub fn pass(&self, time: Duration) {
        self.clock.fetch_add(u64::try_from(time.as_millis()).unwrap(), Ordering::Relaxed);
    }

    pub fn set(&self, now: Timestamp) {
        self.clock.store(now.as_millis(), Ordering::Relaxed);
    }

    pub fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.clock.load(Ordering::Relaxed))
    }

    pub async fn key(&self, plane: &str, project: &str, permissions: &[&str]) -> NewKey {
        self.registry
            .create_key(&self.policy, &Actor::operator(), spec(plane, project, permissions), None)
            .await
            .unwrap()
    }

    pub async fn user(&self, name: &str, project: &str, permissions: &[&str]) -> User {
        self.try_user(&Actor::operator(), name, project, permissions).await.unwrap()
    }

    pub async fn try_user(
        &self,
        actor: &Actor,
        name: &str,
        project: &str,
        permissions: &[&str],
    ) -> Result<User, RegistryError> {
        self.registry.create_user(&self.policy, actor, user_spec(name, project, permissions), None).await
    }

    /// The whole log, the newest row first.
    pub async fn log(&self) -> Vec<AuditEntry> {
        self.store.audit(AuditQuery { limit: usize::MAX, ..AuditQuery::default() }).await.unwrap().rows
    }

    /// What is cached under a name, such as `user` and `ann`.
    pub fn slots(&self, kind: &str, name: &str) -> Slots {
        Slots::of_digests(&[named(kind, name)])
    }
}

pub fn spec(plane: &str, project: &str, permissions: &[&str]) -> KeySpec {
    KeySpec {
        name: "A key".to_owned(),
        plane: plane.to_owned(),
        project: project.to_owned(),
        workloads: vec!["*".to_owned()],
        permissions: names(permissions),
        expires_in: None,
    }
}

pub fn user_spec(name: &str, project: &str, permissions: &[&str]) -> UserSpec {
    UserSpec {
        name: name.to_owned(),
        password_hash: HASH.to_owned(),
        project: project.to_owned(),
        permissions: names(permissions),
    }
}

/// An actor with a key; `*` reaches every project.
pub fn actor(name: &str, project: &str, held: &[&str]) -> Actor {
    Actor {
        subject: format!("key:{name}"),
        id: None,
        project: (project != "*").then(|| project.to_owned()),
        held: ActorPermissions::Only(names(held)),
        peer: "10.0.0.9:4711".to_owned(),
        request_id: format!("request-of-{name}"),
    }
}

pub fn names(list: &[&str]) -> Vec<String> {
    list.iter().map(|&name| name.to_owned()).collect()
}
