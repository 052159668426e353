//! A server whose answer is lost on the way: what is sent again, and what nobody knows of.

use std::sync::Arc;
use std::time::Duration;

use tollgate::clock::Clock;
use tollgate::domain::record::{AuditEntry, EndedSession, OpenSession};
use tollgate::registry::{Actor, Expected, Registry, RegistryError, UserChange};
use tollgate::resolve::api_key::Digester;
use tollgate::resolve::pepper::Pepper;
use tollgate::store::redis::Redis;
use tollgate::store::redis::connect::Connector;
use tollgate::store::{AuditQuery, Store, StoreError, Write};
use tollgate_guard::stamps::Stamps;
use zeroize::Zeroizing;

use super::proxy::Proxy;
use super::{assert_unavailable, write};
use crate::redis_server::RedisServer;
use crate::registry_fixture::{HASH, RegistryFixture};
use crate::signed;
use crate::support::{Apply, at, in_redis, key, resource, revoked, row};

/// The answers to what holds these words are lost on the way.
async fn through_a_proxy(server: &RedisServer, words: &str) -> (Redis, Proxy) {
    let proxy = Proxy::start(server.port(), words).await;
    let connector = Connector::single(&proxy.address.to_string()).unwrap();
    (signed::redis(connector), proxy)
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_may_have_been_made() {
    let (_, direct, server) = in_redis().await;
    // From here on the server knows the script.
    assert_eq!(write(&direct, vec![Write::Audit(row("x"))]).await, Ok(1));
    let (redis, proxy) = through_a_proxy(&server, "key.create").await;
    let batch = vec![Write::CreateKey(key(1)), Write::Audit(row("key:1"))];
    assert_unavailable(write(&redis, batch.clone()).await, "may have been made");
    assert_eq!(proxy.lost(), 1);
    // A write of which nobody knows is not sent twice.
    assert_eq!(direct.load_key(&[key(1).digest]).await.unwrap().position.unwrap().sequence, 2);
    assert!(matches!(write(&redis, batch).await, Err(StoreError::Conflict(_))), "trying again is safe");
    assert_eq!(write(&redis, vec![]).await, Ok(3));
}

/// From here on the server knows the script of what ends something.
async fn ends_something(direct: &Redis) -> u64 {
    let session = EndedSession { id: "r".to_owned(), user: "ann".to_owned(), ended_at: at(1), expires_at: at(2) };
    write(direct, vec![Write::EndSession(session)]).await.unwrap()
}

async fn rows_of(store: &Redis) -> Vec<String> {
    let query = AuditQuery { limit: 99, ..AuditQuery::default() };
    store.audit(&query).await.unwrap().rows.into_iter().map(|row| row.act).collect()
}

#[tokio::test]
async fn an_end_that_was_made_and_whose_answer_is_lost_is_said_again() {
    let (_, direct, server) = in_redis().await;
    assert_eq!(write(&direct, vec![Write::CreateKey(key(1))]).await, Ok(1));
    assert_eq!(ends_something(&direct).await, 2);
    let (redis, proxy) = through_a_proxy(&server, "key.revoke").await;
    let told = AuditEntry { act: "key.revoke".to_owned(), ..row("key:1") };
    let revocation = vec![Write::UpdateKey(revoked(&key(1))), Write::Audit(told)];
    // Made, and then said once more in the log alone.
    assert_eq!(write(&redis, revocation.clone()).await, Ok(4));
    assert_eq!((proxy.lost(), rows_of(&direct).await), (1, vec!["key.revoke".to_owned()]));
    assert!(direct.load_key(&[key(1).digest]).await.unwrap().found.unwrap().key.revoked_at.is_some());
    // Somebody else's is none of one's own.
    assert!(matches!(write(&redis, revocation).await, Err(StoreError::Conflict(_))));
}

/// Everything that ends something, as an operator asks for it.
#[tokio::test]
async fn whatever_ends_something_is_made_though_its_answer_is_lost() {
    let acts = [
        "key.revoke",
        "user.disable",
        "user.password",
        "user.delete",
        "project.suspend",
        "project.delete",
        "resource.delete",
        "session.end",
    ];
    for act in acts {
        let (store, direct, server) = in_redis().await;
        let fixture = RegistryFixture::on(store);
        ends_something(&direct).await;
        let (redis, proxy) = through_a_proxy(&server, act).await;
        let made = fixture.key("data", "acme", &["run"]).await;
        let ann = fixture.user("ann", "acme", &["run"]).await;
        fixture.store.apply(vec![Write::CreateResource(resource("workload", "w-1", "acme"))]).await.unwrap();
        let session = OpenSession {
            id: "s".to_owned(),
            generation: ann.sessions,
            began_at: fixture.now(),
            expires_at: fixture.now().plus(Duration::from_secs(60)),
            address: None,
        };
        fixture.registry.begin_session(&ann, session).await.unwrap();
        let before = rows_of(&direct).await.len();
        let registry = registry_on(redis);
        let (operator, any) = (Actor::operator(), Expected::Any);
        let disabled = UserChange { disabled: Some(true), ..UserChange::default() };
        let ended: Result<(), RegistryError> = match act {
            "key.revoke" => registry.revoke_key(&operator, made.record.id, any).await.map(drop),
            "user.disable" => {
                registry.update_user(&fixture.policy, &operator, &ann.name, disabled, any).await.map(drop)
            }
            "user.password" => {
                registry.set_password(&fixture.policy, &operator, &ann.name, HASH.to_owned(), any).await.map(drop)
            }
            "user.delete" => registry.delete_user(&operator, &ann.name, any).await.map(drop),
            "project.suspend" => registry.suspend_project(&operator, "acme", any).await.map(drop),
            "project.delete" => registry.delete_project(&operator, "acme", any).await.map(drop),
            "resource.delete" => registry.delete_resource(&operator, "workload", "w-1", any).await.map(drop),
            _ => registry.end_listed_session(&operator, &ann.name, "s").await.map(drop),
        };
        assert_eq!((ended, proxy.lost()), (Ok(()), if act == "resource.delete" { 2 } else { 1 }), "{act}");
        let rows = rows_of(&direct).await;
        assert!(rows.len() > before && rows[0] == act, "{act}: {rows:?}");
    }
}

fn registry_on(redis: Redis) -> Registry {
    let digester = Arc::new(Digester::new(&Pepper::new(1, Zeroizing::new([7; 32])), &[]));
    let store = Store::Redis(Arc::new(redis));
    Registry::new(store, digester, Arc::new(Stamps::sole(Clock::System)), Arc::default(), Clock::System)
}

#[tokio::test]
async fn rows_that_are_removed_are_gone_though_the_answer_is_lost() {
    let (store, direct, server) = in_redis().await;
    for n in 1..=4 {
        write(&direct, vec![Write::Audit(AuditEntry { at: at(n), ..row("x") })]).await.unwrap();
    }
    // From here on the server knows the script.
    assert_eq!(store.trim_audit(at(2), 9).await, Ok(1));
    let (redis, proxy) = through_a_proxy(&server, "tg:{tg}:audit:project:acme").await;
    assert_eq!(redis.trim_audit(at(4), 9).await, Ok(2));
    assert_eq!((proxy.lost(), rows_of(&direct).await.len()), (2, 1));
}

#[tokio::test]
async fn a_confirmation_that_is_lost_is_none() {
    let (_, direct, server) = in_redis().await;
    let (redis, proxy) = through_a_proxy(&server, "WAIT").await;
    let result = write(&redis.with_replicas(1), vec![Write::CreateKey(key(1))]).await;
    assert!(matches!(result, Err(StoreError::Unreplicated(_))), "{result:?}");
    assert_eq!(proxy.lost(), 1);
    assert!(direct.load_key(&[key(1).digest]).await.unwrap().found.is_some());
}
