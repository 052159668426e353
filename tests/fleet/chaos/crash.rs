//! The store's primary crashes while keys are revoked: alone, under Sentinel, in a Cluster. No revocation that was acknowledged may
//! be lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::task::block_in_place;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::house::{Here, Replica, all_allow, init, join, wait_for, write_pepper};
use super::load::{Answer, Key, Load, PROMISED};
use super::row::{Row, Scale};
use super::servers::{Cluster, Sentinel, Server};

const REPLICAS: usize = 3;
const STEADY: usize = 20;
const RATE: u32 = 200;
/// Keys that are revoked around one crash; it comes before the last of them.
const PER_ROUND: usize = 60;
const BETWEEN: Duration = Duration::from_millis(10);
const BEFORE: Duration = Duration::from_millis(200);

/// As the contract wants it where there are replicas.
const FENCED: [&str; 2] = ["min-replicas-to-write 1", "min-replicas-max-lag 2"];
const DOWN_AFTER_MS: u64 = 6_000;
/// After this time a hand-over is asked for anew.
const ASKED_AGAIN: Duration = Duration::from_secs(15);

pub async fn redis_killed(scale: Scale) -> Row {
    let mut server = block_in_place(Server::start);
    let store = format!("url: 'redis://{}'", server.address());
    crash_in("redis-killed", &store, scale.of(1, 10), async |round| {
        server.kill();
        // In turn for less than a lease, and for longer.
        sleep(if round % 2 == 0 { BEFORE } else { 2 * PROMISED }).await;
        block_in_place(|| server.restart());
    })
    .await
}

pub async fn sentinel_failover(scale: Scale) -> Row {
    let mut fleet = block_in_place(|| Sentinel::start(1, 3, DOWN_AFTER_MS, &FENCED));
    let store = format!(
        "sentinel: {{addresses: ['{}'], master: {}}}, replicas: 1",
        fleet.addresses().join("', '"),
        Sentinel::MASTER
    );
    crash_in("sentinel-failover", &store, scale.of(1, 20), async |round| {
        let old = primary(&fleet);
        // In turn an operator has it hand over, and it crashes, which takes much longer.
        let crashes = round % 2 == 1;
        if crashes {
            fleet.servers[old].kill();
        }
        let mut asked: Option<Instant> = None;
        wait_for("another primary", async || {
            // A sentinel that has not heard of it yet may undo it.
            if !crashes && asked.is_none_or(|asked| asked.elapsed() > ASKED_AGAIN) {
                let _: Result<(), _> = fleet.sentinels[0].try_command(&["SENTINEL", "FAILOVER", Sentinel::MASTER]);
                asked = Some(Instant::now());
            }
            primary(&fleet) != old
        })
        .await;
        if crashes {
            // Without a replica the new one takes no write: that is what fences the old one.
            block_in_place(|| fleet.servers[old].restart());
        }
    })
    .await
}

/// The place of the server that the first sentinel takes for the primary.
fn primary(fleet: &Sentinel) -> usize {
    let address: Vec<String> = fleet.sentinels[0].command(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", Sentinel::MASTER]);
    fleet.servers.iter().position(|server| server.port.to_string() == address[1]).unwrap()
}

pub async fn cluster_master_killed(scale: Scale) -> Row {
    let mut cluster = block_in_place(|| Cluster::start(3, &[]));
    let store = format!("cluster: {{addresses: ['{}']}}", cluster.addresses().join("', '"));
    let port = cluster.owner_of("tg:{tg}:head").port;
    let owner = cluster.nodes.iter().position(|node| node.port == port).unwrap();
    crash_in("cluster-master-killed", &store, scale.of(1, 10), async |_| {
        cluster.nodes[owner].kill();
        sleep(BEFORE).await;
        block_in_place(|| cluster.nodes[owner].restart());
    })
    .await
}

pub async fn cluster_failover(scale: Scale) -> Row {
    let mut cluster = block_in_place(|| Cluster::start(3, &[]));
    let pair = block_in_place(|| cluster.add_replica("tg:{tg}:head", &FENCED));
    let store = format!("cluster: {{addresses: ['{}']}}, replicas: 1", cluster.addresses().join("', '"));
    crash_in("cluster-failover", &store, scale.of(1, 6), async |round| {
        let is_primary = |node: usize, cluster: &Cluster| cluster.nodes[node].info("role").as_deref() == Some("master");
        let [old, new] = if is_primary(pair[0], &cluster) { pair } else { [pair[1], pair[0]] };
        // In turn an operator has it hand over, and it crashes.
        let crashes = round % 2 == 1;
        if crashes {
            cluster.nodes[old].kill();
        }
        let mut asked: Option<Instant> = None;
        wait_for("another primary", async || {
            // Each asking begins anew, and the others vote for one that they have just voted for only after a while.
            if !crashes && asked.is_none_or(|asked| asked.elapsed() > ASKED_AGAIN) {
                let _: Result<(), _> = cluster.nodes[new].try_command(&["CLUSTER", "FAILOVER"]);
                asked = Some(Instant::now());
            }
            is_primary(new, &cluster)
        })
        .await;
        if crashes {
            block_in_place(|| cluster.nodes[old].restart());
        }
    })
    .await
}

/// Revokes keys all the while the primary goes, and looks for every revocation that was acknowledged when one is back.
pub async fn crash_in(name: &'static str, store: &str, rounds: usize, mut crash: impl AsyncFnMut(usize)) -> Row {
    let folder = tempfile::tempdir().unwrap();
    write_pepper(&folder);
    init(store, &folder).await;
    let here = joined(store, &folder).await;
    let all: Vec<Replica> = here.iter().cloned().map(Replica::Here).collect();
    let keys = here[0].make_keys(STEADY + rounds * PER_ROUND).await;
    for key in &keys {
        all_allow(&all, key).await;
    }
    let load = Load::begin(&all, &keys, STEADY, RATE);
    let (mut acknowledged, mut refused) = (Vec::new(), 0);
    for (round, doomed) in keys[STEADY..].chunks(PER_ROUND).enumerate() {
        let is_over = CancellationToken::new();
        let revoking = tokio::spawn(revoke_on(here.clone(), doomed.to_vec(), is_over.clone()));
        sleep(BEFORE).await;
        crash(round).await;
        is_over.cancel();
        let (done, failed) = revoking.await.unwrap();
        // One that was not acknowledged is tried again until the store is back.
        let last = failed.last().unwrap_or(&doomed[0]);
        wait_for("a revocation after the crash", async || here[0].revoke(last).await.is_ok()).await;
        all_allow(&all, &keys[0]).await;
        acknowledged.extend(done);
        acknowledged.push(Arc::clone(last));
        refused += failed.len();
    }
    // Somebody who has heard of none of them.
    let newcomer = Replica::Here(join(store, &folder).await);
    let mut lost = 0;
    for key in &acknowledged {
        lost += usize::from(answer(&newcomer, key).await == Answer::Allowed);
    }
    // What was revoked last must have been checked later than is promised, too.
    sleep(PROMISED).await;
    load.goes_on(u64::from(RATE)).await;
    let known = acknowledged.len();
    Row::of(name, &load.end().await)
        .demand(lost == 0, format!("{lost} acknowledged revocations were lost"))
        .demand(known >= rounds, "too little was acknowledged")
        .note(format!("{rounds} times; {known} acknowledged revocations, {lost} lost; {refused} not acknowledged"))
}

async fn joined(store: &str, folder: &TempDir) -> Vec<Here> {
    let mut joined = Vec::new();
    for _ in 0..REPLICAS {
        joined.push(join(store, folder).await);
    }
    joined
}

/// Those that were acknowledged, and those that were not.
async fn revoke_on(
    makers: Vec<Here>,
    keys: Vec<Arc<Key>>,
    is_over: CancellationToken,
) -> (Vec<Arc<Key>>, Vec<Arc<Key>>) {
    let (mut acknowledged, mut refused) = (Vec::new(), Vec::new());
    for (turn, key) in keys.into_iter().enumerate() {
        if is_over.is_cancelled() {
            break;
        }
        match makers[turn % makers.len()].revoke(&key).await {
            Ok(_) => acknowledged.push(key),
            Err(_) => refused.push(key),
        }
        sleep(BETWEEN).await;
    }
    (acknowledged, refused)
}

/// The first one that is not 503.
async fn answer(replica: &Replica, key: &Key) -> Answer {
    let mut answer = Answer::Unavailable;
    wait_for("an answer", async || {
        answer = replica.ask(&key.text).await;
        answer != Answer::Unavailable
    })
    .await;
    answer
}
