//! A fleet whose store is raised to a newer format while it answers: nobody is refused who was let in, whoever is ended meanwhile
//! is refused, and nothing begins before every replica can write the new format.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use tokio::runtime::Handle;
use tollgate::registry::{Actor, Expected};
use tollgate::store::format::Format;
use tollgate::store::redis::Redis;
use tollgate::store::redis::connect::Connector;
use tollgate::store::upgrade::upgrade;
use tollgate::store::{Store, StoreError};

use crate::chaos::house::{House, Replica, wait_for};
use crate::chaos::load::Answer;

/// A machine that stands still for longer than a lease refuses whatever the store does.
const TRIES: usize = 3;
/// How many checks each asker has had answered before, while and after something is done.
const CHECKS: usize = 50;

fn operator(house: &House) -> Store {
    let connector = Connector::single(&house.server.address()).unwrap();
    Store::Redis(Arc::new(Redis::new(connector, Handle::current())))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_are_rolled_and_then_the_store_is_upgraded_under_load() {
    let mut refused = usize::MAX;
    for _ in 0..TRIES {
        refused = refused_during_an_upgrade().await;
        if refused == 0 {
            break;
        }
    }
    assert_eq!(refused, 0);
}

/// Gives how many checks of good keys were answered with 503.
async fn refused_during_an_upgrade() -> usize {
    let house = House::with(&[]).await;
    // As an older Tollgate made it, one of which is still there.
    let old = r#"{"name":"old-one","seq":0,"h":"","beat":1,"state":"attached","since":1,"version":"0.1.0"}"#;
    house.server.command::<u64>(&["HSET", "tg:{tg}:head", "format", "1"]);
    let (operator, replicas) = (operator(&house), house.replicas(2).await);
    let keys = replicas[0].make_keys(8).await;
    let both: Vec<Replica> = replicas.iter().cloned().map(Replica::Here).collect();
    for replica in &both {
        wait_for("a first allow", async || replica.ask(&keys[0].text).await == Answer::Allowed).await;
    }
    house.server.command::<u64>(&["HSET", "tg:{tg}:members", "x", old]);
    let error = upgrade(&operator).await.unwrap_err();
    assert!(matches!(&error, StoreError::Conflict(reason) if reason.contains("old-one (x)")), "{error}");
    assert_eq!(operator.format().await.unwrap(), Format::Two);
    house.server.command::<u64>(&["HDEL", "tg:{tg}:members", "x"]);

    let (over, checks, refused) =
        (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let askers: Vec<_> = both
        .iter()
        .map(|replica| {
            let (replica, keys) = (replica.clone(), keys.clone());
            let (over, checks, refused) = (Arc::clone(&over), Arc::clone(&checks), Arc::clone(&refused));
            tokio::spawn(async move {
                while !over.load(Ordering::SeqCst) {
                    for key in &keys[1..] {
                        match replica.ask(&key.text).await {
                            Answer::Allowed => {}
                            Answer::Unavailable => drop(refused.fetch_add(1, Ordering::SeqCst)),
                            answer @ Answer::Denied(_) => panic!("a good key: {answer:?}"),
                        }
                    }
                    checks.fetch_add(1, Ordering::SeqCst);
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    let some_checks = async || {
        let so_far = checks.load(Ordering::SeqCst);
        wait_for("checks", async || checks.load(Ordering::SeqCst) >= so_far + CHECKS).await;
    };
    some_checks().await;
    let upgraded = upgrade(&operator).await.unwrap();
    assert_eq!(upgraded.was, Format::Two);
    some_checks().await;
    // What is ended from now on is ended everywhere, by whichever replica.
    let (actor, registry) = (Actor::operator(), &replicas[1].core.registry);
    let revoked = registry.revoke_key(&actor, keys[0].id, Expected::Any).await.unwrap();
    let sequence = revoked.sequence.unwrap();
    for here in &replicas {
        here.fleet.position().wait_for(|applied| *applied >= sequence).await.unwrap();
    }
    for replica in &both {
        assert_eq!(replica.ask(&keys[0].text).await, Answer::Denied(401));
    }
    over.store(true, Ordering::SeqCst);
    for asker in askers {
        asker.await.unwrap();
    }
    assert_eq!(operator.format().await.unwrap(), Format::Three);
    refused.load(Ordering::SeqCst)
}
