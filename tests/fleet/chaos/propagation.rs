//! How long after its acknowledgement a revocation has reached the last replica of a fleet that is busy.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;

use super::house::{House, Replica, all_allow};
use super::load::{Answer, Key, Load, PROMISED, Tally};
use super::row::{Row, Scale};

/// Keys that nobody revokes.
const STEADY: usize = 50;
const BAR: Duration = Duration::from_millis(50);

pub async fn run(scale: Scale) -> Row {
    let (replicas, processes) = (scale.of(7, 46), scale.of(1, 4));
    let house = House::with(&[]).await;
    let here = house.replicas(replicas).await;
    let mut all: Vec<Replica> = here.iter().cloned().map(Replica::Here).collect();
    all.extend((0..processes).map(|_| Replica::Process(Arc::new(house.process()))));
    let revocations = scale.of(40, 1000);
    let keys = here[0].make_keys(STEADY + revocations).await;
    all_allow(&all, &keys[0]).await;

    let load = Load::begin(&all, &keys, STEADY, scale.of(400, 2000));
    let (mut times, mut tally, mut lagging) = (Vec::new(), Tally::default(), 0);
    for (turn, key) in keys[STEADY..].iter().enumerate() {
        // So that each has it in its cache.
        all_allow(&all, key).await;
        let maker = &here[turn % here.len()];
        let acknowledged = if turn % 10 == 9 {
            let (acknowledged, behind) = maker.revoke_and_wait(key).await.unwrap();
            lagging += behind;
            acknowledged
        } else {
            maker.revoke(key).await.unwrap()
        };
        let refused = join_all(all.iter().map(|replica| refusal(replica, key))).await;
        let mut last = Duration::ZERO;
        for (at, checks) in refused {
            last = last.max(at - acknowledged);
            tally.merge(checks);
        }
        // Whoever waited asks later than the last refusal.
        if turn % 10 != 9 {
            times.push(last);
        }
    }
    tally.merge(load.end().await);
    let note = format!("{} replicas, {processes} of them processes; {revocations} revocations", all.len());
    let row = Row::of("propagation", &tally).timed(times).note(note);
    let bar = scale.of(PROMISED, BAR);
    let within = row.p99() <= bar;
    row.demand(within, format!("p99 is over {} ms", bar.as_millis()))
        .demand(lagging == 0, format!("{lagging} replicas lagged behind a wait"))
}

/// When a replica refused a key first, and the checks until then.
async fn refusal(replica: &Replica, key: &Key) -> (Instant, Tally) {
    let (mut tally, start) = (Tally::default(), Instant::now());
    loop {
        if let Answer::Denied(_) = tally.check(replica, key).await {
            return (Instant::now(), tally);
        }
        assert!(start.elapsed() < Duration::from_secs(10), "a revoked key is not refused");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
