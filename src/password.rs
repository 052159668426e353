//! Passwords: hashed with Argon2id on threads of their own, few and of low priority, so that a flood of logins cannot slow
//! checks. Never keeps a password longer than its hashing takes, and never queues without bound.

use std::fmt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::oneshot;
use zeroize::Zeroizing;

/// Passwords that may wait for a thread.
const QUEUE: usize = 32;
const MAX_THREADS: usize = 4;
/// The least priority that there is: 19 (`nice`).
const NICENESS: i32 = 19;
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

/// The threads that hash. Cheap to clone; they end with the last clone.
#[derive(Clone)]
pub struct Passwords {
    jobs: SyncSender<Job>,
}

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
        let (jobs, waiting) = sync_channel(QUEUE);
        let waiting = Arc::new(Mutex::new(waiting));
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        for _ in 0..(cores / 2).clamp(1, MAX_THREADS) {
            let waiting = Arc::clone(&waiting);
            thread::Builder::new().name("passwords".to_owned()).spawn(move || work(&waiting))?;
        }
        Ok(Self { jobs })
    }

    /// Whether this may become somebody's password.
    ///
    /// # Errors
    /// [`PASSWORD_RULE`]
    pub fn check_rules(password: &str) -> Result<(), &'static str> {
        if (MIN_LENGTH..=MAX_LENGTH).contains(&password.chars().count()) { Ok(()) } else { Err(PASSWORD_RULE) }
    }

    /// The hash of a new password, as a PHC string.
    ///
    /// # Errors
    /// [`Busy`]
    pub async fn hash(&self, password: Zeroizing<String>) -> Result<String, Busy> {
        let (done, hash) = oneshot::channel();
        self.jobs.try_send(Job::Hash { password, done }).map_err(|_| Busy)?;
        hash.await.ok().flatten().ok_or(Busy)
    }

    /// Whether this is the password that `hash` was made of. Without a hash it is not, and that takes the same time.
    ///
    /// # Errors
    /// [`Busy`]
    pub async fn verify(&self, password: Zeroizing<String>, hash: Option<String>) -> Result<bool, Busy> {
        let (done, is_right) = oneshot::channel();
        self.jobs.try_send(Job::Verify { password, hash, done }).map_err(|_| Busy)?;
        is_right.await.map_err(|_| Busy)
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passwords")
    }
}

fn work(jobs: &Mutex<Receiver<Job>>) {
    // Of this thread alone, as Linux has it. Where it is refused, passwords compete with checks.
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::warn!(%error, "passwords are hashed at the priority of checks");
    }
    loop {
        let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).recv();
        // Whoever asked may have gone away: then there is nobody to tell.
        match job {
            Ok(Job::Hash { password, done }) => {
                let _ = done.send(hash_of(password.as_bytes()));
            }
            Ok(Job::Verify { password, hash, done }) => {
                let is_right = is_of(password.as_bytes(), hash.as_deref().or(NOBODY.as_deref()));
                let _ = done.send(is_right && hash.is_some());
            }
            Err(_) => return,
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
        assert_eq!(passwords.verify(secret("correct horse"), Some(hash.clone())).await, Ok(true));
        for wrong in ["", "Correct horse", "correct horse ", "correct"] {
            assert_eq!(passwords.verify(secret(wrong), Some(hash.clone())).await, Ok(false), "{wrong}");
        }
        for broken in ["", "plain", "$argon2id$v=19$m=1,t=1,p=1$", "$2b$12$x"] {
            assert_eq!(passwords.verify(secret("correct horse"), Some(broken.to_owned())).await, Ok(false), "{broken}");
        }
        assert_eq!(passwords.verify(secret("correct horse"), None).await, Ok(false));
    }

    #[tokio::test]
    async fn a_flood_is_turned_away_and_not_queued() {
        let passwords = Passwords::start().unwrap();
        let asked = (0..200).map(|_| passwords.verify(secret("x"), None));
        let answers = futures_util::future::join_all(asked).await;
        let busy = answers.iter().filter(|answer| **answer == Err(Busy)).count();
        assert!((100..200).contains(&busy), "{busy} of 200 were turned away");
        assert_eq!(passwords.verify(secret("x"), None).await, Ok(false), "and the next one is served");
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
