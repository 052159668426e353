//! What a change does to what is cached: everything that it overtakes is gone when it is acknowledged, also one that was
//! said to have failed, and nothing else is.

use std::sync::Arc;
use std::time::Duration;

use tollgate::clock::Clock;
use tollgate::domain::record::ApiKey;
use tollgate::registry::{Actor, Expected, Registry, RegistryError, ResourceSpec};
use tollgate::resolve::Resolver;
use tollgate::resolve::api_key::Digester;
use tollgate::resolve::cache::Sizes;
use tollgate::resolve::last_used::LastUsed;
use tollgate::resolve::pepper::Pepper;
use tollgate::store::embedded::Embedded;
use tollgate::store::{Store, Write};
use tollgate_core::credential::{MintedKey, PresentedKey};
use tollgate_core::decision::Tier;
use tollgate_core::resource::ResourceRef;
use tollgate_guard::stamps::Stamps;
use zeroize::Zeroizing;

use crate::faults::{Fault, Faulty, RECOVERY, prepared};
use crate::support::{Apply, key, minted};

struct House {
    store: Store,
    digester: Arc<Digester>,
    resolver: Resolver,
    registry: Registry,
}

impl House {
    fn on(store: Embedded) -> Self {
        let store = Store::Embedded(Arc::new(store));
        let digester = Arc::new(Digester::new(&Pepper::new(1, Zeroizing::new([7; 32])), &[]));
        let (stamps, last_used) = (Arc::new(Stamps::sole(Clock::System)), Arc::new(LastUsed::default()));
        let sizes = Sizes { known: 100, unknown: 100, loads: 10 };
        let resolver =
            Resolver::new(store.clone(), Arc::clone(&digester), Arc::clone(&stamps), Arc::default(), sizes, None);
        let registry = Registry::new(store.clone(), Arc::clone(&digester), stamps, last_used, Clock::System);
        Self { store, digester, resolver, registry }
    }

    /// Stores a key of project acme that the secret opens.
    async fn keep(&self, secret: &MintedKey, n: u64) {
        let presented = presented(secret);
        let record = ApiKey { id: secret.id(), digest: self.digester.current(&presented), ..key(n) };
        self.store.apply(vec![Write::CreateKey(record)]).await.unwrap();
    }

    async fn tier(&self, secret: &MintedKey) -> Tier {
        self.resolver.principal(&presented(secret), Duration::ZERO).await.unwrap().tier()
    }
}

fn presented(secret: &MintedKey) -> PresentedKey<'_> {
    PresentedKey::parse(secret.expose(), "ik_live").unwrap()
}

#[tokio::test]
async fn a_revocation_is_seen_at_once_and_leaves_other_keys_cached() {
    let house = House::on(Embedded::in_memory().unwrap());
    let (revoked, other) = (minted(1), minted(2));
    house.keep(&revoked, 1).await;
    house.keep(&other, 2).await;
    for secret in [&revoked, &other] {
        assert_eq!(house.tier(secret).await, Tier::Store);
        assert_eq!(house.tier(secret).await, Tier::Cache);
    }
    house.registry.revoke_key(&Actor::operator(), revoked.id(), Expected::Any).await.unwrap();
    let found = house.resolver.principal(&presented(&revoked), Duration::ZERO).await.unwrap();
    assert!(found.value.as_ref().unwrap().revoked);
    assert_eq!(house.tier(&other).await, Tier::Cache, "a change of one key costs the others of its project nothing");
}

/// A write that fails at its last sync may be in the file. Then its retry finds nothing to do, and nothing old may be
/// cached all the same. Tried with a fault at every act of the write.
#[tokio::test]
async fn a_write_that_failed_and_was_done_leaves_nothing_old_in_the_cache() {
    let bytes = prepared(10);
    let moved_to = |project: &str| ResourceSpec {
        kind: "workload".to_owned(),
        id: "w".to_owned(),
        project: project.to_owned(),
        ..ResourceSpec::default()
    };
    let (operator, workload) = (Actor::operator(), ResourceRef { kind: "workload", id: "w" });
    let mut faults = 0;
    for after in 0.. {
        let disk = Faulty::with(&bytes);
        let house = House::on(disk.open().unwrap());
        house.registry.put_resource(&operator, moved_to("acme"), false, Expected::Any).await.unwrap();
        let cached = house.resolver.resource(workload, Duration::ZERO).await.unwrap();
        assert_eq!(cached.value.as_ref().unwrap().project, "acme");

        disk.fail(Fault::Unwritable, after, 1);
        let first = house.registry.put_resource(&operator, moved_to("beta"), true, Expected::Any).await;
        let was_hit = disk.was_hit();
        let ended = disk.end();
        if let Err(error) = first {
            assert!(matches!(error, RegistryError::Unavailable(_)), "{error}");
            while let Err(error) = house.registry.put_resource(&operator, moved_to("beta"), true, Expected::Any).await {
                assert!(ended.elapsed() < RECOVERY, "{error}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let found = house.resolver.resource(workload, Duration::ZERO).await.unwrap();
        assert_eq!(found.value.as_ref().unwrap().project, "beta", "with a fault at act {after}");
        if !was_hit {
            break;
        }
        faults += 1;
    }
    assert!(faults > 3);
}
