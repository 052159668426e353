//! Checks at a steady rate, and the oracle that judges each answer. Knows when each key was revoked; never asks the store.

use std::sync::Arc;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tollgate_core::credential::KeyId;

use super::house::Replica;

/// How soon after its acknowledgement a revocation counts everywhere: the `D` of the contract.
pub const PROMISED: Duration = Duration::from_secs(1);

/// What came back from a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Allowed,
    /// With this status.
    Denied(u16),
    /// 503, or nothing in the time that Envoy waits.
    Unavailable,
}

/// A key, and what is known of its end.
#[derive(Debug)]
pub struct Key {
    pub id: KeyId,
    pub text: String,
    /// Somebody has begun to revoke it, so that a refusal may be right.
    ending: AtomicBool,
    /// No allow may begin after this.
    barred: OnceLock<Instant>,
}

impl Key {
    pub fn new(id: KeyId, text: String) -> Self {
        Self { id, text, ending: AtomicBool::new(false), barred: OnceLock::new() }
    }

    pub fn begin_to_end(&self) {
        self.ending.store(true, Ordering::SeqCst);
    }

    pub fn is_ending(&self) -> bool {
        self.ending.load(Ordering::SeqCst)
    }

    /// The first one counts.
    pub fn bar_from(&self, moment: Instant) {
        let _ = self.barred.set(moment);
    }

    fn is_barred_at(&self, moment: Instant) -> bool {
        self.barred.get().is_some_and(|barred| moment > *barred)
    }
}

#[derive(Debug, Default)]
pub struct Tally {
    pub tried: u64,
    pub wrong_allows: u64,
    pub wrong_denials: u64,
    pub unavailable: u64,
    /// Of allowed checks of keys that nobody revoked.
    pub times: Vec<Duration>,
    /// The longest time without an allow of such a key in which one was asked for in vain, at one replica.
    pub longest_loss: Duration,
    last_allow: Option<Instant>,
    in_vain: bool,
}

impl Tally {
    /// Asks, and judges the answer.
    pub async fn check(&mut self, replica: &Replica, key: &Key) -> Answer {
        // Before the check begins: a revocation may begin while it is under way.
        let was_ending = key.is_ending();
        let began = Instant::now();
        let answer = replica.ask(&key.text).await;
        self.judge(key, began, answer);
        if !was_ending && !key.is_ending() {
            self.time(began, answer);
        }
        answer
    }

    /// Asks everybody for one key, again and again until a moment.
    pub async fn check_until(&mut self, moment: Instant, replicas: &[Replica], key: &Key) {
        while Instant::now() < moment {
            for replica in replicas {
                self.check(replica, key).await;
            }
            sleep(Duration::from_millis(2)).await;
        }
    }

    /// Judges an answer to a check that began at a moment.
    pub fn judge(&mut self, key: &Key, began: Instant, answer: Answer) {
        self.tried += 1;
        match answer {
            Answer::Allowed => self.wrong_allows += u64::from(key.is_barred_at(began)),
            Answer::Denied(_) => self.wrong_denials += u64::from(!key.is_ending()),
            Answer::Unavailable => self.unavailable += 1,
        }
    }

    fn time(&mut self, began: Instant, answer: Answer) {
        let now = Instant::now();
        if answer != Answer::Allowed {
            self.in_vain = true;
            return;
        }
        self.times.push(now - began);
        if std::mem::take(&mut self.in_vain)
            && let Some(last) = self.last_allow
        {
            self.longest_loss = self.longest_loss.max(now - last);
        }
        self.last_allow = Some(now);
    }

    /// A loss that has not ended yet.
    fn end(&mut self) {
        if let (true, Some(last)) = (self.in_vain, self.last_allow) {
            self.longest_loss = self.longest_loss.max(last.elapsed());
        }
    }

    pub fn merge(&mut self, other: Self) {
        self.tried += other.tried;
        self.wrong_allows += other.wrong_allows;
        self.wrong_denials += other.wrong_denials;
        self.unavailable += other.unavailable;
        self.times.extend(other.times);
        self.longest_loss = self.longest_loss.max(other.longest_loss);
    }
}

/// Checks that go on until they are ended, of one replica each.
#[derive(Debug)]
pub struct Load {
    stop: CancellationToken,
    tasks: Vec<JoinHandle<Tally>>,
    asked: Arc<AtomicU64>,
}

impl Load {
    /// So many checks a second in all, of keys in turn. Half of them are of the first `steady` keys.
    pub fn begin(replicas: &[Replica], keys: &[Arc<Key>], steady: usize, rate: u32) -> Self {
        let (stop, asked) = (CancellationToken::new(), Arc::default());
        let every = Duration::from_secs(1) * u32::try_from(replicas.len()).unwrap() / rate;
        let tasks = replicas
            .iter()
            .enumerate()
            .map(|(place, replica)| {
                let (keys, stop) = (keys.to_vec(), stop.clone());
                let (replica, asked) = (replica.clone(), Arc::clone(&asked));
                tokio::spawn(async move { check_on(replica, keys, steady, place, every, stop, asked).await })
            })
            .collect();
        Self { stop, tasks, asked }
    }

    pub async fn end(self) -> Tally {
        self.stop.cancel();
        let mut sum = Tally::default();
        for task in self.tasks {
            sum.merge(task.await.unwrap());
        }
        sum
    }

    /// Until so many more checks have been answered.
    pub async fn goes_on(&self, checks: u64) {
        let until = self.asked.load(Ordering::Relaxed) + checks;
        super::house::wait_for("checks to be answered", async || self.asked.load(Ordering::Relaxed) >= until).await;
    }
}

async fn check_on(
    replica: Replica,
    keys: Vec<Arc<Key>>,
    steady: usize,
    place: usize,
    every: Duration,
    stop: CancellationToken,
    asked: Arc<AtomicU64>,
) -> Tally {
    let mut tally = Tally::default();
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Each replica begins at another key, and none of them goes through the keys in the order of their ends.
    let mut turn = place * 31;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        turn = turn.wrapping_add(7919);
        let key = if turn.is_multiple_of(2) { &keys[turn / 2 % steady] } else { &keys[turn / 2 % keys.len()] };
        tally.check(&replica, key).await;
        asked.fetch_add(1, Ordering::Relaxed);
    }
    tally.end();
    tally
}
