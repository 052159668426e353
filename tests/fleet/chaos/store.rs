//! The store's server fails in each of the ways that it can, while keys are checked and revoked.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tollgate::store::redis::Init;
use tollgate_guard::GUARD;

use super::house::{Here, House, PATIENCE, Replica, all_allow, all_answer, all_deny, wait_for};
use super::load::{Answer, Key, Load, PROMISED, Tally};
use super::row::{Row, Scale};

const REPLICAS: usize = 4;
const STEADY: usize = 20;
const RATE: u32 = 200;

/// A fleet that is asked all the time.
struct Scene {
    house: House,
    here: Vec<Here>,
    all: Vec<Replica>,
    steady: Arc<Key>,
    doomed: Vec<Arc<Key>>,
    load: Load,
}

impl Scene {
    /// With so many keys that may be revoked, which every replica has in its cache.
    async fn begin(doomed: usize) -> Self {
        let house = House::with(&[]).await;
        let here = house.replicas(REPLICAS).await;
        let all: Vec<Replica> = here.iter().cloned().map(Replica::Here).collect();
        let keys = here[0].make_keys(STEADY + doomed).await;
        for key in &keys {
            all_allow(&all, key).await;
        }
        let load = Load::begin(&all, &keys, STEADY, RATE);
        load.goes_on(u64::from(RATE / 4)).await;
        Self { house, here, all, steady: Arc::clone(&keys[0]), doomed: keys[STEADY..].to_vec(), load }
    }

    /// Until every replica allows again, and a revocation has reached each of them.
    async fn recovers(&self, last: &Key) {
        all_allow(&self.all, &self.steady).await;
        revoke(&self.here[0], last).await;
        for replica in &self.all {
            let refuses = async || matches!(replica.ask(&last.text).await, Answer::Denied(_));
            wait_for("a revocation after the fault", refuses).await;
        }
        self.load.goes_on(u64::from(RATE / 4)).await;
    }
}

/// Revokes until it is acknowledged, as whoever is told to try again does.
async fn revoke(maker: &Here, key: &Key) {
    let start = Instant::now();
    while let Err(error) = maker.revoke(key).await {
        assert!(start.elapsed() < PATIENCE, "a revocation is not acknowledged: {error}");
        sleep(Duration::from_millis(5)).await;
    }
}

pub async fn channel_killed(scale: Scale) -> Row {
    let kills = scale.of(20, 1000);
    let scene = Scene::begin(scale.of(8, 200)).await;
    let done = CancellationToken::new();
    let revoking = {
        let (makers, keys, done) = (scene.here.clone(), scene.doomed.clone(), done.clone());
        tokio::spawn(async move {
            let mut revoked = 0;
            for (key, maker) in keys[1..].iter().zip(makers.iter().cycle()) {
                if done.is_cancelled() {
                    break;
                }
                revoke(maker, key).await;
                revoked += 1;
                sleep(Duration::from_millis(100)).await;
            }
            revoked
        })
    };
    let mut killed = 0;
    for turn in 0..kills {
        // In turn the connections that listen, and all of them.
        killed += if turn % 2 == 0 { kill_listeners(&scene.house) } else { kill_all(&scene.house) };
        sleep(Duration::from_millis(100)).await;
    }
    done.cancel();
    let revoked = revoking.await.unwrap();
    scene.recovers(&scene.doomed[0]).await;
    // What was revoked last must have been checked later than is promised, too.
    sleep(PROMISED).await;
    Row::of("channel-killed", &scene.load.end().await)
        .demand(killed > kills && revoked > 0, "no connection was killed, or nothing was revoked")
        .note(format!("{kills} times, {killed} connections in all, {revoked} revocations meanwhile"))
}

fn kill_listeners(house: &House) -> u64 {
    let clients: String = house.server.command(&["CLIENT", "LIST", "TYPE", "NORMAL"]);
    let listeners = clients.lines().filter(|line| line.contains(" cmd=xread "));
    let ids = listeners.filter_map(|line| line.strip_prefix("id=")?.split(' ').next());
    ids.map(|id| house.server.command::<u64>(&["CLIENT", "KILL", "ID", id])).sum()
}

fn kill_all(house: &House) -> u64 {
    house.server.command(&["CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "yes"])
}

pub async fn redis_stopped(scale: Scale) -> Row {
    let stopped = scale.of(Duration::from_secs(3), Duration::from_secs(60));
    let scene = Scene::begin(3).await;
    revoke(&scene.here[0], &scene.doomed[0]).await;
    scene.house.server.signal(Signal::STOP);
    let begun = Instant::now();
    // It may be done when the server goes on, and is not acknowledged before.
    let refused = scene.here[1].revoke(&scene.doomed[1]).await.is_err();
    // Once no lease is left nobody is told anything: neither yes nor no.
    let mut tally = Tally::default();
    tally.check_until(begun + 2 * PROMISED, &scene.all, &scene.doomed[0]).await;
    all_answer(&scene.all, &scene.steady, Answer::Unavailable).await;
    sleep(stopped.saturating_sub(begun.elapsed())).await;
    scene.house.server.signal(Signal::CONT);
    let continued = Instant::now();
    all_allow(&scene.all, &scene.steady).await;
    let back = continued.elapsed();
    revoke(&scene.here[1], &scene.doomed[1]).await;
    scene.recovers(&scene.doomed[2]).await;
    tally.merge(scene.load.end().await);
    Row::of("redis-stopped", &tally)
        .demand(refused, "a revocation was acknowledged by a server that was stopped")
        .note(format!("stopped for {} s, served again {} ms later", stopped.as_secs(), back.as_millis()))
}

pub async fn flushall(scale: Scale) -> Row {
    let scene = Scene::begin(1).await;
    revoke(&scene.here[0], &scene.doomed[0]).await;
    let () = scene.house.server.command(&["FLUSHALL"]);
    let flushed = Instant::now();
    all_answer(&scene.all, &scene.steady, Answer::Unavailable).await;
    let sealed = flushed.elapsed();
    let mut strict = Tally::default();
    while flushed.elapsed() < scale.of(Duration::from_secs(2), Duration::from_secs(20)) {
        for replica in &scene.all {
            let answer = strict.check(replica, &scene.steady).await;
            strict.wrong_allows += u64::from(answer == Answer::Allowed);
        }
        sleep(Duration::from_millis(5)).await;
    }
    // In a new store nobody has a key any more, and 401 is right.
    let mut tally = scene.load.end().await;
    tally.merge(strict);
    let is_new = matches!(scene.house.init().await, Init::Made { .. });
    let follows = |replica: &Here| replica.core.resolver.can_serve() && replica.fleet.lineages() > 1;
    wait_for("the new store", async || scene.here.iter().all(follows)).await;
    let key = scene.here[0].make_key(None).await;
    all_allow(&scene.all, &key).await;
    let revived = Replica::Here(scene.here[1].clone()).ask(&scene.doomed[0].text).await;
    Row::of("flushall", &tally)
        .demand(sealed <= PROMISED, format!("it took {} ms until nothing was allowed any more", sealed.as_millis()))
        .demand(is_new, "the head survived")
        .demand(revived != Answer::Allowed, "a revoked key was allowed in the new store")
        .note(format!("everything was 503 after {} ms, until `store init`", sealed.as_millis()))
}

pub async fn memory_full(scale: Scale) -> Row {
    let scene = Scene::begin(scale.of(10, 200) + 1).await;
    let () = scene.house.server.command(&["CONFIG", "SET", "maxmemory", "1"]);
    let mut refused = 0;
    for (key, maker) in scene.doomed[1..].iter().zip(scene.here.iter().cycle()) {
        refused += usize::from(maker.revoke(key).await.is_err());
        for replica in &scene.all {
            wait_for("a refusal", async || matches!(replica.ask(&key.text).await, Answer::Denied(_))).await;
        }
    }
    // Longer than a lease: it is renewed all the time.
    sleep(scale.of(2 * GUARD, Duration::from_secs(10))).await;
    let tally = scene.load.end().await;
    let () = scene.house.server.command(&["CONFIG", "SET", "maxmemory", "0"]);
    let revocations = scene.doomed.len() - 1;
    Row::of("memory-full", &tally)
        .demand(refused == 0, format!("{refused} revocations were refused"))
        .demand(tally.longest_loss <= PROMISED, "cached keys were not served")
        .note(format!("{revocations} revocations while `maxmemory` was reached"))
}

/// Puts every record of a key aside.
const SET_ASIDE: &str = "
for _, name in ipairs(redis.call('KEYS', 'tg:{tg}:k:*')) do redis.call('COPY', name, 'aside:{tg}:' .. name, 'REPLACE') end";

/// Brings back what was put aside, and says how many records were others meanwhile.
const BRING_BACK: &str = "
local count = 0
for _, name in ipairs(redis.call('KEYS', 'tg:{tg}:k:*')) do
  local old = redis.call('GET', 'aside:{tg}:' .. name)
  if old and old ~= redis.call('GET', name) then
    redis.call('SET', name, old)
    count = count + 1
  end
end
return count";

/// The store forgets a revocation that everybody has heard of, and makes everybody look again.
pub async fn revocation_undone(scale: Scale) -> Row {
    let rounds = scale.of(2, 20);
    let scene = Scene::begin(rounds + 1).await;
    let maker = &scene.here[0];
    let mut tally = Tally::default();
    let mut undone = 0;
    for key in &scene.doomed[1..] {
        let () = scene.house.server.command(&["EVAL", SET_ASIDE, "0"]);
        revoke(maker, key).await;
        all_deny(&scene.all, key).await;
        key.bar_from(Instant::now());
        undone += scene.house.server.command::<usize>(&["EVAL", BRING_BACK, "0"]);
        scene.house.touch_all().await;
        // Nobody who has heard of it believes the store.
        tally.check_until(Instant::now() + PROMISED / 2, &scene.all, key).await;
        // Who has not heard of it finds that the store was set right.
        let newcomer = scene.house.replica().await;
        all_deny(&[Replica::Here(newcomer)], key).await;
    }
    scene.recovers(&scene.doomed[0]).await;
    tally.merge(scene.load.end().await);
    Row::of("revocation-undone", &tally)
        .demand(undone == rounds, format!("{undone} records were brought back"))
        .note(format!("{rounds} times, and set right again each time"))
}
