//! A Tollgate on a Redis, behind the shipped Envoy: keys work at once, a revoked one never again, and without the store nobody
//! is taken for a stranger.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::runtime::Handle;
use tollgate::store::redis::Redis;
use tollgate::store::redis::connect::Connector;

use super::client::Sent;
use super::harness::{Edit, PATIENCE, Setup, Stack};
use super::servers::{Cluster, Sentinel, Server};

const STORE: &str = "{embedded: {path: /var/lib/tollgate/store.redb}, signed: required}";
const PEPPER: &str = "/var/lib/tollgate/pepper.1";
const DIGITS: &str = "000102030405060708090a0b0c0d0e0ff0f1f2f3f4f5f6f7f8f9fafbfcfdfeff";

/// For an edit, which lives as long as the tests.
fn kept(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

/// A new store on this server.
async fn edits(redis: &Server) -> Vec<Edit> {
    edits_of(redis, &format!("{{url: 'redis://{}'}}", redis.address())).await
}

/// A new store on the primary of these servers, and what a configuration says of them.
async fn edits_of(primary: &Server, place: &str) -> Vec<Edit> {
    let connector = Connector::single(&primary.address()).unwrap();
    Redis::new(connector, Handle::current()).init().await.unwrap();
    let pepper = primary.folder().join("pepper.1");
    fs::write(&pepper, DIGITS).unwrap();
    fs::set_permissions(&pepper, fs::Permissions::from_mode(0o600)).unwrap();
    vec![(STORE, kept(format!("{{redis: {place}, signed: required}}"))), (PEPPER, kept(pepper.display().to_string()))]
}

async fn status(stack: &Stack, request: &Sent) -> u16 {
    stack.send(request).await.status
}

/// Asks until the answer is this one; every answer before must be one of `meanwhile`. When the last of them came.
async fn becomes(stack: &Stack, request: &Sent, wanted: u16, meanwhile: &[u16]) -> Duration {
    let start = Instant::now();
    let mut last = Duration::ZERO;
    loop {
        let status = status(stack, request).await;
        if status == wanted {
            return last;
        }
        last = start.elapsed();
        assert!(meanwhile.contains(&status), "{status} while {wanted} was waited for");
        assert!(start.elapsed() < PATIENCE, "waited for {wanted} in vain");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_fleet() {
    let redis = Server::start();
    let stack = Stack::start_with(Setup { tollgate_edits: edits(&redis).await, ..Setup::default() }).await;
    let (key, other) = (stack.data_key(), stack.data_key());
    let asked = |key: &str| Sent::new("GET", "/v1/models").bearer(key);
    let (mine, others, strangers) = (asked(&key.text), asked(&other.text), asked("ik_live_nobody"));
    becomes(&stack, &mine, 200, &[503]).await;
    assert_eq!(status(&stack, &others).await, 200);
    assert_eq!(status(&stack, &strangers).await, 401);

    stack.revoke(&key);
    assert_eq!(status(&stack, &mine).await, 401, "once it was acknowledged here, it holds here");
    assert_eq!(status(&stack, &others).await, 200);

    // The server hangs: within a second nobody is let in, and nobody is told that the key is wrong.
    redis.signal(Signal::STOP);
    let allowed = becomes(&stack, &others, 503, &[200]).await;
    assert!(allowed < Duration::from_secs(1), "{allowed:?}");
    for _ in 0..3 {
        assert_eq!((status(&stack, &others).await, status(&stack, &mine).await), (503, 503));
    }
    redis.signal(Signal::CONT);
    becomes(&stack, &others, 200, &[503]).await;
    becomes(&stack, &mine, 401, &[503]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashed_and_one_that_was_emptied() {
    let mut redis = Server::start();
    let stack = Stack::start_with(Setup { tollgate_edits: edits(&redis).await, ..Setup::default() }).await;
    let key = stack.data_key();
    let mine = Sent::new("GET", "/v1/models").bearer(&key.text);
    becomes(&stack, &mine, 200, &[503]).await;

    redis.restart();
    becomes(&stack, &mine, 200, &[503]).await;

    let () = redis.command(&["FLUSHALL"]);
    becomes(&stack, &mine, 503, &[200]).await;
    for _ in 0..50 {
        assert_eq!(status(&stack, &mine).await, 503, "an emptied store is not one without keys");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_by_sentinels() {
    let mut fleet = Sentinel::start(2, 3, 1_000, &["min-replicas-to-write 1", "min-replicas-max-lag 2"]);
    let (addresses, master) = (fleet.addresses().join(", "), Sentinel::MASTER);
    let place = format!("{{sentinel: {{addresses: [{addresses}], master: {master}}}, replicas: 1}}");
    let edits = edits_of(&fleet.servers[0], &place).await;
    let stack = Stack::start_with(Setup { tollgate_edits: edits, ..Setup::default() }).await;
    let (key, revoked) = (stack.data_key(), stack.data_key());
    let asked = |key: &str| Sent::new("GET", "/v1/models").bearer(key);
    let (mine, ended) = (asked(&key.text), asked(&revoked.text));
    becomes(&stack, &mine, 200, &[503]).await;
    stack.revoke(&revoked);

    fleet.servers[0].kill();
    let allowed = becomes(&stack, &mine, 503, &[200]).await;
    assert!(allowed < Duration::from_secs(1), "{allowed:?}");
    becomes(&stack, &mine, 200, &[503]).await;
    assert_eq!(status(&stack, &ended).await, 401, "what was revoked before is revoked on the new primary");
    let another = stack.data_key();
    becomes(&stack, &asked(&another.text), 200, &[503]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_cluster() {
    let cluster = Cluster::start(3, &[]);
    let place = format!("{{cluster: {{addresses: [{}]}}}}", cluster.addresses().join(", "));
    let edits = edits_of(cluster.owner_of("{tg}"), &place).await;
    let stack = Stack::start_with(Setup { tollgate_edits: edits, ..Setup::default() }).await;
    let key = stack.data_key();
    let mine = Sent::new("GET", "/v1/models").bearer(&key.text);
    becomes(&stack, &mine, 200, &[503]).await;
    stack.revoke(&key);
    assert_eq!(status(&stack, &mine).await, 401);
}
