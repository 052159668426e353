//! One replica is cut off from the store, or does not run for a while, and the others go on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rustix::process::Signal;
use tokio::time::sleep;

use super::house::{House, PATIENCE, Replica, all_allow, all_deny, wait_for};
use super::load::{Answer, Key, Load, PROMISED, Tally};
use super::proxy::{Mode, Proxy};
use super::row::{Row, Scale};

const STEADY: usize = 20;
const RATE: u32 = 200;
/// Checks that wait for a process that does not run.
const QUEUED: usize = 50;

pub async fn tollgate_stopped(scale: Scale) -> Row {
    let rounds = scale.of(2, 20);
    let house = House::with(&[]).await;
    let maker = house.replica().await;
    let process = Arc::new(house.process());
    let (other, stopped) = (Replica::Here(maker.clone()), Replica::Process(Arc::clone(&process)));
    let all = [other.clone(), stopped.clone()];
    let keys = maker.make_keys(STEADY + rounds).await;
    let load = Load::begin(&[other], &keys, STEADY, RATE);
    let (mut tally, mut longest) = (Tally::default(), Duration::ZERO);
    for (turn, key) in keys[STEADY..].iter().enumerate() {
        all_allow(&all, key).await;
        process.signal(Signal::STOP);
        let begun = Instant::now();
        // In turn whoever revokes waits for everybody, and does not.
        if turn % 2 == 0 {
            maker.revoke_and_wait(key).await.unwrap();
        } else {
            let acknowledged = maker.revoke(key).await.unwrap();
            sleep((acknowledged + PROMISED).saturating_duration_since(Instant::now()) + Duration::from_millis(1)).await;
        }
        // They lie in its socket when it goes on, and it answers them before it has heard of anything.
        let queued: Vec<_> =
            (0..QUEUED).map(|_| tokio::spawn(patient_check(Arc::clone(&process), Arc::clone(key)))).collect();
        sleep(scale.of(Duration::from_millis(100), Duration::from_secs(1))).await;
        process.signal(Signal::CONT);
        longest = longest.max(begun.elapsed());
        for checks in join_all(queued).await {
            tally.merge(checks.unwrap());
        }
        for _ in 0..QUEUED {
            tally.check(&stopped, key).await;
        }
        all_allow(&all, &keys[0]).await;
    }
    tally.merge(load.end().await);
    Row::of("tollgate-stopped", &tally).note(format!("{rounds} times, for {} ms at most", longest.as_millis()))
}

pub async fn both_stopped(scale: Scale) -> Row {
    let rounds = scale.of(2, 20);
    let house = House::with(&[]).await;
    let maker = house.replica().await;
    let process = Arc::new(house.process());
    let (other, stopped) = (Replica::Here(maker.clone()), Replica::Process(Arc::clone(&process)));
    let all = [other.clone(), stopped.clone()];
    let keys = maker.make_keys(STEADY + rounds).await;
    let load = Load::begin(std::slice::from_ref(&other), &keys, STEADY, RATE);
    let (mut tally, mut longest) = (Tally::default(), Duration::ZERO);
    for (turn, key) in keys[STEADY..].iter().enumerate() {
        all_allow(&all, key).await;
        process.signal(Signal::STOP);
        let begun = Instant::now();
        let barred = maker.revoke(key).await.unwrap() + PROMISED + Duration::from_millis(1);
        house.server.signal(Signal::STOP);
        tally.check_until(barred, std::slice::from_ref(&other), key).await;
        let queued: Vec<_> =
            (0..QUEUED).map(|_| tokio::spawn(patient_check(Arc::clone(&process), Arc::clone(key)))).collect();
        sleep(scale.of(Duration::from_millis(100), Duration::from_secs(1))).await;
        // In turn either of them goes on first, and has the other one to do without for a while.
        if turn % 2 == 0 {
            process.signal(Signal::CONT);
            tally.check_until(Instant::now() + PROMISED, &all, key).await;
            house.server.signal(Signal::CONT);
        } else {
            house.server.signal(Signal::CONT);
            all_allow(std::slice::from_ref(&other), &keys[0]).await;
            process.signal(Signal::CONT);
        }
        longest = longest.max(begun.elapsed());
        for checks in join_all(queued).await {
            tally.merge(checks.unwrap());
        }
        all_allow(&all, &keys[0]).await;
        all_deny(&all, key).await;
    }
    tally.merge(load.end().await);
    Row::of("both-stopped", &tally)
        .note(format!("{rounds} times, both for {} ms at most; in turn either went on first", longest.as_millis()))
}

/// When the last check began that a replica allowed, which is about to stop.
async fn last_allow(replica: &Replica, key: &Key) -> Instant {
    let mut last = Instant::now();
    wait_for("the end of its lease", async || {
        let began = Instant::now();
        match replica.ask(&key.text).await {
            Answer::Allowed => last = began,
            Answer::Unavailable => return true,
            Answer::Denied(_) => {}
        }
        false
    })
    .await;
    last
}

/// A check that waits for longer than Envoy would.
async fn patient_check(process: Arc<super::process::Process>, key: Arc<Key>) -> Tally {
    let (mut tally, began) = (Tally::default(), Instant::now());
    let answer = tokio::time::timeout(PATIENCE, process.check(&key.text)).await.unwrap_or(Answer::Unavailable);
    tally.judge(&key, began, answer);
    tally
}

pub async fn replica_cut_off(scale: Scale) -> Row {
    cut("replica-cut-off", Mode::Silent, scale).await
}

pub async fn replica_dropped(scale: Scale) -> Row {
    cut("replica-dropped", Mode::Drop, scale).await
}

async fn cut(name: &'static str, mode: Mode, scale: Scale) -> Row {
    let rounds = scale.of(2, 20);
    let house = House::with(&[]).await;
    let proxy = Proxy::before(house.server.address()).await;
    let others = house.replicas(3).await;
    let cut = Replica::Here(house.replica_through(&proxy.address).await);
    let well: Vec<Replica> = others.iter().cloned().map(Replica::Here).collect();
    let all = [&well[..], std::slice::from_ref(&cut)].concat();
    let keys = others[0].make_keys(STEADY + rounds).await;
    all_allow(&all, &keys[0]).await;
    let going_on = Load::begin(&well, &keys, STEADY, RATE);
    let cut_load = Load::begin(std::slice::from_ref(&cut), &keys, STEADY, RATE);
    let (mut tally, mut slowest) = (Tally::default(), Duration::ZERO);
    for (key, maker) in keys[STEADY..].iter().zip(others.iter().cycle()) {
        all_allow(&all, key).await;
        proxy.turn(mode);
        let begun = Instant::now();
        maker.revoke(key).await.unwrap();
        let barred = tally.check_until(begun + 2 * PROMISED, std::slice::from_ref(&cut), key);
        let (last, ()) = tokio::join!(last_allow(&cut, &keys[0]), barred);
        slowest = slowest.max(last.saturating_duration_since(begun));
        proxy.turn(Mode::Forward);
        wait_for("the one that was cut off", async || cut.ask(&keys[0].text).await == Answer::Allowed).await;
    }
    let well = going_on.end().await;
    let (unavailable, loss) = (well.unavailable, well.longest_loss);
    tally.merge(cut_load.end().await);
    // Only what was asked of the others says how cached keys fare.
    let times = well.times.clone();
    tally.merge(well);
    Row::of(name, &tally)
        .timed(times)
        .demand(slowest <= PROMISED, format!("it allowed for {} ms", slowest.as_millis()))
        .demand(loss <= PROMISED, format!("the others lost {} ms of service", loss.as_millis()))
        .note(format!("{rounds} times; the last allow began {} ms after the cut at most", slowest.as_millis()))
        .note(format!("the others: {unavailable} unavailable, longest loss {} ms", loss.as_millis()))
}
