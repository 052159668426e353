//! Restarts under load: SIGTERM, drain, and a new process that waits for the store. Not one request may fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use super::client::{Http1, Sent};
use super::harness::{Setup, Stack, is_full, wait_for};

/// Requests a second over all connections, and how many connections.
const RATE: u32 = 500;
const CONNECTIONS: u32 = 25;

#[derive(Default)]
struct Tally {
    sent: AtomicUsize,
    failed: std::sync::Mutex<Vec<String>>,
    slowest_ms: AtomicUsize,
    over: AtomicBool,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_under_load_fails_no_request() {
    let restarts = if is_full() { 20 } else { 5 };
    let mut stack = Stack::start_with(Setup { record: false, ..Setup::default() }).await;
    let key = stack.data_key();
    let request = Sent::new("GET", "/v1/models").bearer(&key.text);
    let tally = Arc::new(Tally::default());
    let workers: Vec<_> =
        (0..CONNECTIONS).map(|_| tokio::spawn(load(stack.envoy, request.clone(), Arc::clone(&tally)))).collect();
    let began = Instant::now();
    for round in 0..restarts {
        // Some load on the new process before the next one, and some while both are there.
        let enough = tally.sent.load(Ordering::Relaxed) + RATE as usize / 2;
        wait_for("load", async || tally.sent.load(Ordering::Relaxed) >= enough).await;
        stack.terminate_tollgate();
        let mut old = stack.start_next_tollgate().unwrap();
        wait_for("the end of the old process", async || old.exit_code().is_some()).await;
        assert_eq!(old.exit_code(), Some(0), "round {round}: it drained and ended well");
        stack.ready().await;
    }
    let enough = tally.sent.load(Ordering::Relaxed) + RATE as usize;
    wait_for("load", async || tally.sent.load(Ordering::Relaxed) >= enough).await;
    tally.over.store(true, Ordering::Relaxed);
    for worker in workers {
        worker.await.unwrap();
    }
    let (sent, failed) = (tally.sent.load(Ordering::Relaxed), tally.failed.lock().unwrap());
    println!(
        "{restarts} restarts in {:.1} s: {sent} requests ({:.0}/s), {} failed, the slowest took {} ms",
        began.elapsed().as_secs_f64(),
        sent as f64 / began.elapsed().as_secs_f64(),
        failed.len(),
        tally.slowest_ms.load(Ordering::Relaxed),
    );
    assert!(failed.is_empty(), "{:#?}", &failed[..failed.len().min(10)]);
}

/// One connection's share of the load, each request at its time or as soon as the one before it is answered.
async fn load(envoy: std::net::SocketAddr, request: Sent, tally: Arc<Tally>) {
    let mut connection = Http1::connect(envoy).await.unwrap();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) * CONNECTIONS / RATE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    while !tally.over.load(Ordering::Relaxed) {
        ticks.tick().await;
        let start = Instant::now();
        let problem = match connection.send(&request).await {
            Ok(reply) if reply.status == 200 => None,
            Ok(reply) => Some(format!("{} {}", reply.status, reply.text())),
            Err(error) => {
                connection = Http1::connect(envoy).await.unwrap();
                Some(error.to_string())
            }
        };
        let took = usize::try_from(start.elapsed().as_millis()).unwrap_or(usize::MAX);
        tally.slowest_ms.fetch_max(took, Ordering::Relaxed);
        tally.sent.fetch_add(1, Ordering::Relaxed);
        if let Some(problem) = problem {
            tally.failed.lock().unwrap().push(problem);
        }
    }
}
