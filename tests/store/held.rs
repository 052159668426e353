//! A decision that is held between what it has looked up and its answer, while something ends and is acknowledged: what is
//! looked up must still be true when it is answered from. Needs no network, and no time passes in it.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tollgate::clock::{Ask, Clock};
use tollgate::config;
use tollgate::domain::attributes::{Attributes, Header};
use tollgate::domain::credential::KeyId;
use tollgate::domain::decision::Denial;
use tollgate::domain::time::Timestamp;
use tollgate::login::Logins;
use tollgate::password::Passwords;
use tollgate::policy::Policy;
use tollgate::policy::respond::Decision;
use tollgate::registry::{Actor, Expected, KeySpec, ResourceSpec, UserChange, UserSpec};
use tollgate::resolve::api_key::{Digester, Pepper};
use tollgate::resolve::cache::Sizes;
use tollgate::run::Core;
use tollgate::store::Store;
use tollgate::store::embedded::Embedded;
use zeroize::Zeroizing;

const CONFIG: &str = "
version: 1
store: {embedded: {path: s}}
pepper: {current: 1, keys: {1: {file: p}}}
listen: {check: {unix: {path: c}}, admin: {unix: {path: a}}, ops: {http: 127.0.0.1:0}}
login: {issuer: https://api.test, plane: admin}
permissions: [run]
hosts:
  - match: [api.test]
    routes:
      - {name: data, match: [POST /data], plane: data, all_of: [run], in: {project: key}}
      - {name: thing, match: [\"POST /w/{id}\"], plane: data, all_of: [run], in: {resource: \"workload:{id}\"}}
      - {name: admin, match: [POST /admin], plane: admin, all_of: [manage_keys], in: {project: key}, credential: keep}
";

const NOW: Timestamp = Timestamp::from_secs(1_800_000_000);
const PASSWORD: &str = "correct horse battery";

/// What happens at one of the next times that somebody asks for the time.
#[derive(Default)]
struct Pauses {
    asked: AtomicUsize,
    armed: Mutex<Option<Pause>>,
}

struct Pause {
    at: usize,
    reached: oneshot::Sender<()>,
    go_on: mpsc::Receiver<()>,
}

impl Pauses {
    fn time(&self) -> Timestamp {
        let now = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
        let due = {
            let mut armed = self.armed.lock().unwrap();
            if armed.as_ref().is_some_and(|pause| pause.at == now) { armed.take() } else { None }
        };
        if let Some(Pause { reached, go_on, .. }) = due {
            reached.send(()).unwrap();
            go_on.recv_timeout(Duration::from_secs(20)).unwrap();
        }
        NOW
    }
}

/// Who may do what, and who decides.
struct House {
    core: Core,
    logins: Logins,
    policy: Arc<Policy>,
    pauses: Arc<Pauses>,
    /// A key of `acme`.
    key: String,
    id: KeyId,
    /// A token of `ann` of `acme`.
    token: String,
}

impl House {
    async fn new() -> Self {
        let store = Store::Embedded(Arc::new(Embedded::in_memory().unwrap()));
        let digester = Digester::new(&Pepper::new(1, Zeroizing::new([7; 32])), &[]);
        let pauses = Arc::<Pauses>::default();
        let asked = Arc::clone(&pauses);
        let clock = Clock::Asked(Ask::new(move || asked.time()));
        let sizes = Sizes { known: 1000, unknown: 100, loads: 16 };
        let core = Core::new(store, digester, sizes, clock.clone());
        let policy = Arc::new(config::parse(CONFIG).unwrap_or_else(|problems| panic!("{problems}")).policy);
        core.resolver.adopt(&policy);
        let passwords = Passwords::start().unwrap();
        let hash = passwords.hash(Zeroizing::new(PASSWORD.to_owned())).await.unwrap();
        let signing = Arc::clone(core.resolver.signing());
        let logins = Logins::new(core.store.clone(), core.registry.clone(), signing, passwords, clock);
        let (operator, registry) = (Actor::operator(), &core.registry);
        let spec = KeySpec {
            name: "A key".to_owned(),
            plane: "data".to_owned(),
            project: "acme".to_owned(),
            workloads: vec!["*".to_owned()],
            permissions: vec!["run".to_owned()],
            expires_in: None,
        };
        let made = registry.create_key(&policy, &operator, spec, None).await.unwrap();
        let spec = UserSpec {
            name: "ann".to_owned(),
            password_hash: hash,
            project: "acme".to_owned(),
            permissions: vec!["manage_keys".to_owned()],
        };
        registry.create_user(&policy, &operator, spec, None).await.unwrap();
        registry.put_resource(&operator, workload("acme"), false, Expected::Any).await.unwrap();
        let password = Zeroizing::new(PASSWORD.to_owned());
        let token = logins.login(&policy, "ann", password, None).await.unwrap().token.to_string();
        let (key, id) = (made.secret.expose().to_owned(), made.record.id);
        Self { core, logins, policy, pauses, key, id, token }
    }

    fn decide(&self, path: &str, credential: &str) -> impl Future<Output = Option<Denial>> + use<> {
        let (pipeline, policy) = (self.core.pipeline.clone(), Arc::clone(&self.policy));
        let (path, bearer) = (path.to_owned(), format!("Bearer {credential}"));
        async move {
            let request = Attributes {
                method: "POST",
                target: &path,
                host: "api.test",
                headers: vec![Header { name: "authorization", value: bearer.as_bytes() }],
                ..Attributes::default()
            };
            match pipeline.decide(&policy, &request).await {
                Decision::Allow(_) => None,
                Decision::Deny(deny) => Some(deny.denial),
            }
        }
    }

    /// The decision of a request that is allowed, which is held when it has looked up everything until `meanwhile` is done.
    async fn held(&self, path: &str, credential: &str, meanwhile: impl Future<Output = ()>) -> Option<Denial> {
        let before = self.pauses.asked.load(Ordering::SeqCst);
        assert_eq!(self.decide(path, credential).await, None);
        // The first time it may have been loaded; from now on it is cached.
        let after = self.pauses.asked.load(Ordering::SeqCst);
        assert_eq!(self.decide(path, credential).await, None);
        let times = self.pauses.asked.load(Ordering::SeqCst) - after;
        assert!((1..=after - before).contains(&times));

        // The last thing that a decision wants to know before it judges is the time.
        let (reached, is_held) = oneshot::channel();
        let (release, go_on) = mpsc::channel();
        let at = self.pauses.asked.load(Ordering::SeqCst) + times;
        *self.pauses.armed.lock().unwrap() = Some(Pause { at, reached, go_on });
        let (decision, here) = (self.decide(path, credential), Handle::current());
        let decided = tokio::task::spawn_blocking(move || here.block_on(decision));
        is_held.await.unwrap();
        meanwhile.await;
        release.send(()).unwrap();
        decided.await.unwrap()
    }
}

fn workload(project: &str) -> ResourceSpec {
    ResourceSpec {
        kind: "workload".to_owned(),
        id: "w-1".to_owned(),
        project: project.to_owned(),
        slug: Some("chat".to_owned()),
        owner: None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_revoked_meanwhile() {
    let house = House::new().await;
    let revoke = async {
        house.core.registry.revoke_key(&Actor::operator(), house.id, Expected::Any).await.unwrap();
    };
    assert_eq!(house.held("/data", &house.key, revoke).await, Some(Denial::RevokedUnauthenticated));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resource_that_is_moved_or_deleted_meanwhile() {
    for is_moved in [true, false] {
        let house = House::new().await;
        let (registry, operator) = (&house.core.registry, Actor::operator());
        let change = async {
            if is_moved {
                registry.put_resource(&operator, workload("beta"), true, Expected::Any).await.unwrap();
            } else {
                registry.delete_resource(&operator, "workload", "w-1", Expected::Any).await.unwrap();
            }
        };
        assert_eq!(house.held("/w/w-1", &house.key, change).await, Some(Denial::ResourceOutOfScope), "{is_moved}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_is_revoked_while_its_resource_still_stands() {
    let house = House::new().await;
    let revoke = async {
        house.core.registry.revoke_key(&Actor::operator(), house.id, Expected::Any).await.unwrap();
    };
    assert_eq!(house.held("/w/w-1", &house.key, revoke).await, Some(Denial::RevokedUnauthenticated));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_ended_meanwhile() {
    let house = House::new().await;
    let logout = async {
        house.logins.logout(&house.policy, &Actor::operator(), &house.token).await.unwrap();
    };
    assert_eq!(house.held("/admin", &house.token, logout).await, Some(Denial::RevokedUnauthenticated));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_who_is_disabled_meanwhile() {
    let house = House::new().await;
    let disable = async {
        let change = UserChange { disabled: Some(true), ..UserChange::default() };
        let (registry, operator) = (&house.core.registry, Actor::operator());
        registry.update_user(&house.policy, &operator, "ann", change, Expected::Any).await.unwrap();
    };
    assert_eq!(house.held("/admin", &house.token, disable).await, Some(Denial::RevokedUnauthenticated));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_project_that_is_suspended_meanwhile() {
    for path in ["/data", "/w/w-1", "/admin"] {
        let house = House::new().await;
        let credential = if path == "/admin" { &house.token } else { &house.key };
        let suspend = async {
            house.core.registry.suspend_project(&Actor::operator(), "acme", Expected::Any).await.unwrap();
        };
        assert_eq!(house.held(path, credential, suspend).await, Some(Denial::RevokedUnauthenticated), "{path}");
    }
}

/// Another key that is revoked changes nothing for this one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_somebody_else_loses_meanwhile() {
    let house = House::new().await;
    let suspend = async {
        house.core.registry.suspend_project(&Actor::operator(), "beta", Expected::Any).await.unwrap();
    };
    assert_eq!(house.held("/data", &house.key, suspend).await, None);
}
