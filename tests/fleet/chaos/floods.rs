//! Many keys at once: such as end in the same second, and such as nobody has.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream;
use tokio::time::sleep;
use tollgate::clock::Clock;
use tollgate_core::credential::MintedKey;
use tollgate_guard::time::Timestamp;

use super::house::{House, Replica, all_allow, wait_for};
use super::load::{Answer, Key, Tally};
use super::row::{Row, Scale};

/// Every key is asked for so often after it has expired.
const ROUNDS: usize = 3;
const AT_A_TIME: usize = 64;
const ALLOWED_GROWTH: u64 = 64 << 20;

pub async fn expiring_at_once(scale: Scale) -> Row {
    let count = scale.of(1_000, 10_000);
    let house = House::with(&[]).await;
    let maker = house.replica().await;
    let end = now().plus(scale.of(Duration::from_secs(8), Duration::from_secs(90)));
    let keys: Vec<Arc<Key>> =
        stream::iter(0..count).map(|_| maker.make_key(Some(until(end)))).buffered(16).collect().await;
    let here = house.replica().await;
    let replica = Replica::Here(here.clone());
    all_allow(std::slice::from_ref(&replica), &keys[0]).await;
    // All of them are cached, and asked for again and again until well after their end.
    let warm = ask_all(&replica, &keys).await;
    let ready = now() < end;
    // However fast they were made, this is the moment that the experiment is about.
    sleep(until(end).saturating_sub(Duration::from_millis(500))).await;
    // From now on a refusal may be right.
    keys.iter().for_each(|key| key.begin_to_end());
    let before = here.core.resolver.key_stats().loads;
    let mut tally = warm;
    while now() < end {
        tally.merge(ask_all(&replica, &keys).await);
    }
    // The lives of the keys are counted from the moment that each was made.
    wait_for("the end of the last one", async || now().as_millis() > end.as_millis() + 1_000).await;
    keys.iter().for_each(|key| key.bar_from(Instant::now()));
    for _ in 0..ROUNDS {
        tally.merge(ask_all(&replica, &keys).await);
    }
    let loads = here.core.resolver.key_stats().loads - before;
    Row::of("expiring-at-once", &tally)
        .demand(ready, "the keys expired before the experiment began")
        .demand(tally.unavailable == 0, "checks were answered with 503")
        .demand(loads <= count as u64, format!("{loads} loads for {count} keys"))
        .note(format!("{count} keys, {loads} loads at their end"))
}

async fn ask_all(replica: &Replica, keys: &[Arc<Key>]) -> Tally {
    let checks = stream::iter(keys).map(async |key| {
        let mut tally = Tally::default();
        tally.check(replica, key).await;
        tally
    });
    checks
        .buffer_unordered(AT_A_TIME)
        .fold(Tally::default(), async |mut sum, tally| {
            sum.merge(tally);
            sum
        })
        .await
}

fn now() -> Timestamp {
    Clock::System.now()
}

fn until(end: Timestamp) -> Duration {
    Duration::from_millis(end.as_millis().saturating_sub(now().as_millis()))
}

pub async fn random_keys(scale: Scale) -> Row {
    let count = scale.of(20_000, 1_000_000);
    let house = House::with(&[]).await;
    let maker = house.replica().await;
    let process = Arc::new(house.process());
    let replica = Replica::Process(Arc::clone(&process));
    let good = maker.make_keys(20).await;
    for key in &good {
        all_allow(std::slice::from_ref(&replica), key).await;
    }
    // As many checks a second, at first all of good keys.
    let (calm, _) = flood(&replica, &good, count / 10, |turn| good[turn % good.len()].text.clone()).await;
    let before = process.resident();
    let (busy, allowed) = flood(&replica, &good, count, |_| random_key()).await;
    let growth = process.resident().saturating_sub(before);
    let (calm, row) = (Row::of("random-keys", &calm).p99(), Row::of("random-keys", &busy));
    let p99 = row.p99();
    // A short run has too few of them to say more than that.
    let bar = scale.of(10 * calm + Duration::from_millis(50), 2 * calm);
    row.demand(growth <= ALLOWED_GROWTH, format!("resident memory grew by {} MB", growth >> 20))
        .demand(allowed == 0, format!("{allowed} random keys were allowed"))
        .demand(p99 <= bar, format!("p99 of good keys went from {calm:?} to {p99:?}"))
        .note(format!("{count} random keys; resident memory grew by {} MB", growth >> 20))
        .note(format!("p99 of good keys {} us under as many checks of good keys", calm.as_micros()))
}

/// Asks for so many keys as fast as they are answered, and for good ones all the while; gives what came of those, and how many of
/// the others were allowed.
async fn flood(replica: &Replica, good: &[Arc<Key>], count: usize, key: impl Fn(usize) -> String) -> (Tally, usize) {
    let is_over = tokio_util::sync::CancellationToken::new();
    let watched = async {
        let mut tally = Tally::default();
        for key in good.iter().cycle() {
            if is_over.is_cancelled() {
                break;
            }
            tally.check(replica, key).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        tally
    };
    let flooded = async {
        let asked = stream::iter(0..count).map(|turn| {
            let key = key(turn);
            async move { replica.ask(&key).await == Answer::Allowed }
        });
        let allowed = asked.buffer_unordered(AT_A_TIME).filter(|allowed| std::future::ready(*allowed)).count().await;
        is_over.cancel();
        allowed
    };
    let (mut tally, allowed) = tokio::join!(watched, flooded);
    tally.tried += count as u64;
    (tally, allowed)
}

fn random_key() -> String {
    MintedKey::generate("ik_live", |buffer: &mut [u8]| getrandom::fill(buffer)).unwrap().expose().to_owned()
}
