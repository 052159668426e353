//! Passwords: hashed with Argon2id on threads of their own, few and of low priority, so that a flood of logins cannot slow
//! checks; and in two queues, so that it cannot keep those out who are known. Never keeps a password longer than its hashing
//! takes, and never queues without bound.

use std::collections::VecDeque;
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

use crate::tasks::{self, Tasks};

/// Passwords that may wait in each queue.
const QUEUE: usize = 32;
const MAX_THREADS: usize = 4;
// In characters, as the description of the API counts.
const MIN_LENGTH: usize = 12;
const MAX_LENGTH: usize = 256;
/// What a person is told when a password does not fit.
pub const PASSWORD_RULE: &str = "12 to 256 characters";

/// What is compared with where there is no user, so that it takes the same time: nobody knows a password for it.
static NOBODY: LazyLock<Option<String>> = LazyLock::new(|| {
    let mut password = Zeroizing::new([0u8; 32]);
    getrandom::fill(password.as_mut()).ok()?;
    hash_of(password.as_ref())
});

/// Too many passwords wait already: try again in a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// Whose passwords are hashed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoginPriority {
    /// Of somebody who has been authenticated, by this address before or by the request itself.
    Known,
    /// From this network, if it is known where they are. Where all places are taken, the one with most of them gives one up.
    Anyone(Option<IpAddr>),
}

/// The threads that hash. Cheap to clone; they end with the last clone.
#[derive(Clone)]
pub struct Passwords {
    queue: Arc<Queue>,
    _open: Arc<Open>,
}

#[derive(Default)]
struct Queue {
    jobs: Mutex<Jobs>,
    changed: Condvar,
}

#[derive(Default)]
struct Jobs {
    known: VecDeque<Job>,
    /// Each with its network.
    anyone: VecDeque<(Option<IpAddr>, Job)>,
    /// Jobs of the known that were taken since one of anyone's was.
    streak: u32,
    closed: bool,
}

/// So many jobs of the known go before one of anyone's.
const STREAK: u32 = 3;

impl Jobs {
    fn take(&mut self) -> Option<Job> {
        if (self.streak < STREAK || self.anyone.is_empty())
            && let Some(job) = self.known.pop_front()
        {
            self.streak += 1;
            return Some(job);
        }
        self.streak = 0;
        self.anyone.pop_front().map(|(_, job)| job).or_else(|| self.known.pop_front())
    }

    /// Takes a place away for one more of this network: the last of the network that has most, and would still have no fewer. Whoever
    /// waited there is told that we are busy. Whether there was one.
    fn make_room_for(&mut self, network: Option<IpAddr>) -> bool {
        let places_of = |network| self.anyone.iter().filter(|(other, _)| *other == network).count();
        let places = self.anyone.iter().enumerate().map(|(at, (network, _))| (places_of(*network), at));
        match places.max() {
            Some((most, last)) if most > places_of(network) + 1 => self.anyone.remove(last).is_some(),
            _ => false,
        }
    }
}

/// Closes the queue when it is dropped.
struct Open(Arc<Queue>);

enum Job {
    Hash { password: Zeroizing<String>, done: oneshot::Sender<Option<String>> },
    Verify { password: Zeroizing<String>, hash: Option<String>, done: oneshot::Sender<bool> },
}

impl Passwords {
    /// One thread for every two cores, and at least one.
    ///
    /// # Errors
    /// If the system gives no thread.
    pub fn start() -> std::io::Result<Self> {
        Self::start_among(&Tasks::default())
    }

    /// The same, with its threads among the long tasks of the process.
    ///
    /// # Errors
    /// As [`Passwords::start`].
    pub fn start_among(tasks: &Tasks) -> std::io::Result<Self> {
        let queue = Arc::new(Queue::default());
        let open = Arc::new(Open(Arc::clone(&queue)));
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        for _ in 0..(cores / 2).clamp(1, MAX_THREADS) {
            let (queue, task) = (Arc::clone(&queue), tasks.task("passwords"));
            thread::Builder::new().name("passwords".to_owned()).spawn(move || task.keep_blocking(|| work(&queue)))?;
        }
        Ok(Self { queue, _open: open })
    }

    /// Whether this may become somebody's password.
    ///
    /// # Errors
    /// [`PASSWORD_RULE`]
    pub fn check_rules(password: &str) -> Result<(), &'static str> {
        if (MIN_LENGTH..=MAX_LENGTH).contains(&password.chars().count()) { Ok(()) } else { Err(PASSWORD_RULE) }
    }

    /// The hash of a new password, as a PHC string. Whoever asks has been authenticated.
    ///
    /// # Errors
    /// [`Busy`]
    pub async fn hash(&self, password: Zeroizing<String>) -> Result<String, Busy> {
        let (done, hash) = oneshot::channel();
        self.queue.push(LoginPriority::Known, Job::Hash { password, done })?;
        hash.await.ok().flatten().ok_or(Busy)
    }

    /// Whether this is the password that `hash` was made of. Without a hash it is not, and that takes the same time.
    ///
    /// # Errors
    /// [`Busy`]
    pub async fn verify(
        &self,
        priority: LoginPriority,
        password: Zeroizing<String>,
        hash: Option<String>,
    ) -> Result<bool, Busy> {
        let (done, is_right) = oneshot::channel();
        self.queue.push(priority, Job::Verify { password, hash, done })?;
        is_right.await.map_err(|_| Busy)
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passwords")
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, priority: LoginPriority, job: Job) -> Result<(), Busy> {
        let mut jobs = self.lock();
        match priority {
            LoginPriority::Known if jobs.known.len() < QUEUE => jobs.known.push_back(job),
            LoginPriority::Anyone(network) if jobs.anyone.len() < QUEUE || jobs.make_room_for(network) => {
                jobs.anyone.push_back((network, job));
            }
            LoginPriority::Known | LoginPriority::Anyone(_) => return Err(Busy),
        }
        drop(jobs);
        self.changed.notify_one();
        Ok(())
    }

    /// The next job, once there is one; `None` when nobody can send another.
    fn next(&self) -> Option<Job> {
        let mut jobs = self.lock();
        loop {
            let next = jobs.take();
            if next.is_some() || jobs.closed {
                return next;
            }
            jobs = self.changed.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.changed.notify_all();
    }
}

fn work(queue: &Queue) {
    tasks::stand_behind_checks(tasks::PASSWORDS, "passwords");
    while let Some(job) = queue.next() {
        // Whoever asked may have gone away: then there is nothing to do, or nobody to tell.
        match job {
            Job::Hash { done, .. } if done.is_closed() => {}
            Job::Verify { done, .. } if done.is_closed() => {}
            Job::Hash { password, done } => {
                let _ = done.send(hash_of(password.as_bytes()));
            }
            Job::Verify { password, hash, done } => {
                let is_right = is_of(password.as_bytes(), hash.as_deref().or(NOBODY.as_deref()));
                let _ = done.send(is_right && hash.is_some());
            }
        }
    }
}

/// Argon2id with 19 MiB, two passes and one lane (RFC 9106; the least that OWASP recommends).
fn argon2() -> Argon2<'static> {
    Argon2::new(Algorithm::Argon2id, Version::V0x13, Params::DEFAULT)
}

fn hash_of(password: &[u8]) -> Option<String> {
    let mut salt = [0; 16];
    getrandom::fill(&mut salt).ok()?;
    let hash: PasswordHash = argon2().hash_password_with_salt(password, &salt).ok()?;
    Some(hash.to_string())
}

fn is_of(password: &[u8], hash: Option<&str>) -> bool {
    let hash = hash.and_then(|hash| PasswordHash::new(hash).ok());
    hash.is_some_and(|hash| argon2().verify_password(password, &hash).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(text: &str) -> Zeroizing<String> {
        Zeroizing::new(text.to_owned())
    }

    #[tokio::test]
    async fn a_password_is_right_or_wrong() {
        let passwords = Passwords::start().unwrap();
        let hash = passwords.hash(secret("correct horse")).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        let other = passwords.hash(secret("correct horse")).await.unwrap();
        assert_ne!(hash, other, "each with a salt of its own");
        assert_eq!(
            passwords.verify(LoginPriority::Anyone(None), secret("correct horse"), Some(hash.clone())).await,
            Ok(true)
        );
        for wrong in ["", "Correct horse", "correct horse ", "correct"] {
            assert_eq!(
                passwords.verify(LoginPriority::Anyone(None), secret(wrong), Some(hash.clone())).await,
                Ok(false),
                "{wrong}"
            );
        }
        for broken in ["", "plain", "$argon2id$v=19$m=1,t=1,p=1$", "$2b$12$x"] {
            assert_eq!(
                passwords.verify(LoginPriority::Anyone(None), secret("correct horse"), Some(broken.to_owned())).await,
                Ok(false),
                "{broken}"
            );
        }
        assert_eq!(passwords.verify(LoginPriority::Anyone(None), secret("correct horse"), None).await, Ok(false));
    }

    #[tokio::test]
    async fn a_flood_is_turned_away_and_not_queued() {
        let passwords = Passwords::start().unwrap();
        let asked = (0..200).map(|_| passwords.verify(LoginPriority::Anyone(None), secret("x"), None));
        let answers = futures_util::future::join_all(asked).await;
        let busy = answers.iter().filter(|answer| **answer == Err(Busy)).count();
        assert!((100..200).contains(&busy), "{busy} of 200 were turned away");
        // Whoever is known has a queue of their own.
        let flood = (0..100).map(|_| passwords.verify(LoginPriority::Anyone(None), secret("x"), None));
        let (known, _) = tokio::join!(
            passwords.verify(LoginPriority::Known, secret("x"), None),
            futures_util::future::join_all(flood)
        );
        assert_eq!(known, Ok(false));
        assert_eq!(
            passwords.verify(LoginPriority::Anyone(None), secret("x"), None).await,
            Ok(false),
            "and the next one is served"
        );
    }

    #[test]
    fn no_network_holds_every_place_while_others_wait() {
        let queue = Queue::default();
        let network = |n: u8| Some(IpAddr::from([192, 0, 2, n]));
        let ask = |network| {
            let (done, answer) = oneshot::channel();
            queue
                .push(LoginPriority::Anyone(network), Job::Verify { password: secret("x"), hash: None, done })
                .map(|()| answer)
        };
        let waits = |asked: &mut [oneshot::Receiver<bool>]| {
            asked
                .iter_mut()
                .map(|one| usize::from(one.try_recv() == Err(oneshot::error::TryRecvError::Empty)))
                .sum::<usize>()
        };
        // Alone it may have them all, and no more.
        let mut crowd: Vec<_> = (0..QUEUE).map(|_| ask(network(0)).unwrap()).collect();
        assert_eq!(ask(network(0)).unwrap_err(), Busy);
        let mut others: Vec<_> =
            (1..4).flat_map(|n| (0..8).map(move |_| n)).map(|n| ask(network(n)).unwrap()).collect();
        assert_eq!((waits(&mut crowd), waits(&mut others)), (8, 24));
        assert_eq!(waits(&mut crowd[..8]), 8, "those that came first stay");
        // All have as many: one more of theirs has to wait, and a newcomer has not.
        for n in [None, network(0), network(1)] {
            let is_in = ask(n).is_ok();
            assert_eq!(is_in, n.is_none(), "{n:?}");
        }
        assert_eq!(queue.lock().anyone.len(), QUEUE);
        // Each with a place of their own: none is taken away.
        let queue = Queue::default();
        for n in 0..40 {
            let (done, _) = oneshot::channel();
            let job = Job::Verify { password: secret("x"), hash: None, done };
            assert_eq!(queue.push(LoginPriority::Anyone(network(n)), job).is_ok(), usize::from(n) < QUEUE, "{n}");
        }
    }

    #[test]
    fn lengths_are_bounded() {
        for (length, good) in [(0, false), (11, false), (12, true), (256, true), (257, false)] {
            for text in ["x", "ä"] {
                assert_eq!(Passwords::check_rules(&text.repeat(length)).is_ok(), good, "{length}");
            }
        }
    }
}
