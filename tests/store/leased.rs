//! What a replica of a fleet finds under a lease, without one, and in a grace: only what was valid goes on, and what the store
//! says itself is no contradiction to it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tollgate::clock::Clock;
use tollgate::domain::change::{Ended, Endings, Event};
use tollgate::domain::record::{ApiKey, ProjectState};
use tollgate::resolve::Resolver;
use tollgate::resolve::api_key::Digester;
use tollgate::resolve::cache::Sizes;
use tollgate::resolve::pepper::Pepper;
use tollgate::resolve::signing::SigningKeys;
use tollgate::store::embedded::Embedded;
use tollgate::store::{Store, Write};
use tollgate_core::credential::{MintedKey, PresentedKey};
use tollgate_core::decision::Tier;
use tollgate_core::resource::{Resource, ResourceRef};
use tollgate_guard::slots::Touched;
use tollgate_guard::stamps::Stamps;
use tollgate_guard::time::Moment;
use zeroize::Zeroizing;

use crate::support::{Apply, at, in_redis, key, minted, project, resource};

const GRACE: Duration = Duration::from_secs(30);

struct Replica {
    store: Store,
    digester: Arc<Digester>,
    stamps: Arc<Stamps>,
    endings: Arc<Endings>,
    resolver: Resolver,
    now: Arc<AtomicU64>,
}

impl Replica {
    fn new() -> Self {
        Self::on(Store::Embedded(Arc::new(Embedded::in_memory().unwrap())))
    }

    /// At 10,000, under a lease until 10,800.
    fn on(store: Store) -> Self {
        let digester = Arc::new(Digester::new(&Pepper::new(1, Zeroizing::new([7; 32])), &[]));
        let now = Arc::new(AtomicU64::new(10_000));
        let stamps = Arc::new(Stamps::leased(Clock::Manual(Arc::clone(&now))));
        stamps.grant(Moment::from_millis(10_800));
        let (endings, sizes) = (Arc::new(Endings::default()), Sizes { known: 100, unknown: 100, loads: 10 });
        let (own, heard) = (Arc::clone(&stamps), Arc::clone(&endings));
        let resolver = Resolver::new(store.clone(), Arc::clone(&digester), own, heard, sizes, None);
        Self { store, digester, stamps, endings, resolver, now }
    }

    /// Stores the key that the secret opens.
    async fn keep(&self, secret: &MintedKey, n: u64, revoked: bool) -> ApiKey {
        let (digest, revoked_at) = (self.digester.current(&presented(secret)), revoked.then(|| at(5)));
        let record = ApiKey { id: secret.id(), digest, revoked_at, ..key(n) };
        self.store.apply(vec![Write::CreateKey(record.clone())]).await.unwrap();
        record
    }

    /// Whether it opens anything, and who said so.
    async fn look(&self, secret: &MintedKey) -> (bool, Tier) {
        let found = self.resolver.principal(&presented(secret), GRACE).await.unwrap();
        (found.value.as_ref().is_some_and(|principal| !principal.revoked), found.tier())
    }
}

fn presented(secret: &MintedKey) -> PresentedKey<'_> {
    PresentedKey::parse(secret.expose(), "ik_live").unwrap()
}

/// As after a failover to a server that lags.
#[tokio::test]
async fn a_store_that_has_heard_less_than_the_replica_is_not_believed() {
    let (store, _redis, _server) = in_redis().await;
    let replica = Replica::on(store);
    let secret = minted(1);
    replica.keep(&secret, 1, false).await;
    replica.store.apply(vec![Write::CreateResource(resource("workload", "w", "acme"))]).await.unwrap();
    let reference = ResourceRef { kind: "workload", id: "w" };
    for (heard, is_believed) in [(2, true), (3, false)] {
        // What is cached is no longer good.
        replica.stamps.apply(heard, &Touched::All);
        let found = replica.resolver.principal(&presented(&secret), Duration::ZERO).await;
        assert_eq!(found.is_ok_and(|found| found.value.is_some()), is_believed, "a key, with {heard}");
        let found = replica.resolver.resource(reference, Duration::ZERO).await;
        assert_eq!(found.is_ok_and(|found| found.value.is_some()), is_believed, "a resource, with {heard}");
    }
}

#[tokio::test]
async fn in_a_grace_only_what_was_valid_goes_on() {
    let replica = Replica::new();
    let (valid, revoked, absent) = (minted(1), minted(2), minted(3));
    replica.keep(&valid, 1, false).await;
    replica.keep(&revoked, 2, true).await;
    for (secret, is_valid) in [(&valid, true), (&revoked, false), (&absent, false)] {
        assert_eq!(replica.look(secret).await, (is_valid, Tier::Store));
    }
    assert_eq!(replica.look(&valid).await, (true, Tier::Cache));
    assert_eq!(replica.look(&revoked).await, (false, Tier::Cache));
    assert_eq!(replica.look(&absent).await, (false, Tier::NegativeCache));
    // The lease is over, and so is what a load is good for by itself.
    replica.now.store(10_800, Ordering::SeqCst);
    assert_eq!(replica.look(&valid).await, (true, Tier::Cache));
    for refused in [&revoked, &absent] {
        assert_eq!(
            replica.look(refused).await,
            (false, Tier::Store),
            "no refusal is given that may not be true any more"
        );
    }
}

#[tokio::test]
async fn only_a_store_that_says_otherwise_is_contradicted() {
    let replica = Replica::new();
    let (revoked, lost) = (minted(1), minted(2));
    let ended = |key: ApiKey| Ended::Key { digest: key.digest, at: at(5) };
    let known = [ended(replica.keep(&revoked, 1, true).await), ended(replica.keep(&lost, 2, false).await)];
    replica.endings.write_down(&known);
    assert_eq!(replica.look(&revoked).await, (false, Tier::Store));
    assert_eq!((replica.endings.contradictions(), replica.endings.take_suspects(usize::MAX)), (0, vec![]));
    assert_eq!(replica.look(&lost).await, (false, Tier::Store));
    assert_eq!(
        (replica.endings.contradictions(), replica.endings.take_suspects(usize::MAX)),
        (1, vec![known[1].clone()])
    );
}

#[tokio::test]
async fn what_belonged_to_what_was_ended_is_gone_though_the_store_has_lost_it() {
    let replica = Replica::new();
    let (valid, barred) = (minted(1), minted(2));
    replica.keep(&valid, 1, false).await;
    replica.keep(&barred, 2, false).await;
    let (old, new) =
        (resource("workload", "old", "acme"), Resource { created_at: at(2), ..resource("workload", "new", "acme") });
    replica.store.apply(vec![Write::CreateResource(old.clone()), Write::CreateResource(new.clone())]).await.unwrap();
    assert_eq!(replica.look(&valid).await, (true, Tier::Store));
    let project = Ended::of_project(&project("acme", ProjectState::Deleted));
    // Of the new one that was deleted which was there before.
    let deleted = |resource| Ended::of_resource(&Resource { created_at: at(1), ..resource });
    replica.endings.write_down(&[project, deleted(old), deleted(new)]);
    assert_eq!(replica.look(&barred).await, (false, Tier::Store));
    for (id, is_there) in [("old", false), ("new", true)] {
        let found = replica.resolver.resource(ResourceRef { kind: "workload", id }, Duration::ZERO).await.unwrap();
        assert_eq!(found.value.is_some(), is_there, "{id}");
    }
    assert_eq!((replica.endings.contradictions(), replica.endings.take_suspects(usize::MAX).len()), (2, 2));
}

#[tokio::test]
async fn a_signing_key_that_was_not_heard_of_is_looked_for_once_a_second() {
    let replica = Replica::new();
    let keys = || SigningKeys::new(replica.store.clone(), Arc::clone(&replica.digester), Arc::clone(&replica.stamps));
    let (own, others) = (keys(), keys());
    own.load(at(1)).await.unwrap();
    let made = others.due(at(1)).unwrap();
    let store = replica.store.commit(vec![Write::CreateSigningKey(made)], Event::touching(&[]));
    store.await.unwrap();
    let known = || own.jwks()["keys"].as_array().unwrap().len();
    assert_eq!((own.refresh(at(1)).await, known()), (Ok(false), 0), "it has just been read");
    replica.stamps.grant(Moment::from_millis(20_000));
    replica.now.store(11_000, Ordering::SeqCst);
    assert_eq!((own.refresh(at(1)).await, known()), (Ok(true), 1));
    assert_eq!(own.refresh(at(1)).await, Ok(false));
}
