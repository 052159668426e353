//! How often somebody may try to log in: for each user and from each address. Never remembers a password, and never grows
//! without bound.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::domain::time::Timestamp;

/// Failed attempts in a row, and how long each takes to be forgotten.
#[derive(Clone, Copy)]
struct Allowance {
    burst: u32,
    each: Duration,
}

/// For one user, from wherever.
const USER: Allowance = Allowance { burst: 10, each: Duration::from_secs(6) };
/// From one address, for whomever: many users may share it.
const ADDRESS: Allowance = Allowance { burst: 50, each: Duration::from_secs(1) };
/// Users and addresses that are remembered.
const CAPACITY: u64 = 100_000;
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);

/// Attempts of late.
pub struct Throttle(moka::sync::Cache<String, Arc<Bucket>>);

/// When all attempts will be forgotten, by the generic cell rate algorithm.
#[derive(Default)]
struct Bucket(Mutex<Timestamp>);

/// An attempt that may be made. It counts as failed until it is said to have succeeded.
pub struct Attempt(Vec<(Arc<Bucket>, Allowance)>);

impl Default for Throttle {
    fn default() -> Self {
        Self(moka::sync::Cache::builder().max_capacity(CAPACITY).time_to_idle(FORGOTTEN_AFTER).build())
    }
}

impl Throttle {
    /// Whether an attempt may be made now; if not, when.
    pub fn attempt(&self, user: &str, address: Option<&str>, now: Timestamp) -> Result<Attempt, Duration> {
        let mut attempt = Attempt(Vec::new());
        let address = address.map(|address| (format!("address {address}"), ADDRESS));
        // Names that are too long for a user are one.
        let user: String = user.chars().take(64).collect();
        for (name, allowance) in address.into_iter().chain([(format!("user {user}"), USER)]) {
            let bucket = self.0.get_with(name, Arc::default);
            if let Err(wait) = bucket.take(allowance, now) {
                attempt.succeeded();
                return Err(wait);
            }
            attempt.0.push((bucket, allowance));
        }
        Ok(attempt)
    }
}

impl Attempt {
    /// Takes it back.
    pub fn succeeded(self) {
        for (bucket, allowance) in self.0 {
            bucket.put_back(allowance);
        }
    }
}

impl Bucket {
    fn take(&self, allowance: Allowance, now: Timestamp) -> Result<(), Duration> {
        let mut forgotten = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = (*forgotten).max(now).plus(allowance.each);
        let latest = now.plus(allowance.each * allowance.burst);
        if next > latest {
            return Err(Duration::from_millis(next.as_millis() - latest.as_millis()));
        }
        *forgotten = next;
        Ok(())
    }

    fn put_back(&self, allowance: Allowance) {
        let mut forgotten = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let each = u64::try_from(allowance.each.as_millis()).unwrap_or(u64::MAX);
        *forgotten = Timestamp::from_millis(forgotten.as_millis().saturating_sub(each));
    }
}

impl fmt::Debug for Throttle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Throttle")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_000_000);

    fn at(seconds: u64) -> Timestamp {
        NOW.plus(Duration::from_secs(seconds))
    }

    #[test]
    fn a_user_is_tried_ten_times_and_then_once_in_six_seconds() {
        let throttle = Throttle::default();
        for _ in 0..10 {
            assert!(throttle.attempt("ada", None, NOW).is_ok());
        }
        assert_eq!(throttle.attempt("ada", None, NOW).err(), Some(Duration::from_secs(6)));
        assert!(throttle.attempt("bob", None, NOW).is_ok(), "another user");
        assert_eq!(throttle.attempt("ada", None, at(5)).err(), Some(Duration::from_secs(1)));
        assert!(throttle.attempt("ada", None, at(6)).is_ok());
        assert!(throttle.attempt("ada", None, at(6)).is_err());
        for _ in 0..10 {
            assert!(throttle.attempt("ada", None, at(600)).is_ok());
        }
        assert!(throttle.attempt("ada", None, at(600)).is_err());
    }

    #[test]
    fn what_succeeded_is_not_counted() {
        let throttle = Throttle::default();
        for _ in 0..1000 {
            throttle.attempt("ada", Some("192.0.2.1"), NOW).unwrap().succeeded();
        }
        for n in 0..50 {
            assert!(throttle.attempt(&format!("user-{n}"), Some("192.0.2.1"), NOW).is_ok());
        }
        // The address is full; the user is not charged for that.
        for _ in 0..100 {
            assert!(throttle.attempt("ada", Some("192.0.2.1"), NOW).is_err());
        }
        for _ in 0..10 {
            assert!(throttle.attempt("ada", Some("192.0.2.2"), NOW).is_ok());
        }
        // And here the user is, for which the address is not charged.
        for _ in 0..100 {
            assert!(throttle.attempt("ada", Some("192.0.2.3"), NOW).is_err());
        }
        assert!(throttle.attempt("bob", Some("192.0.2.3"), NOW).is_ok());
    }

    #[test]
    fn long_names_are_one_user() {
        let throttle = Throttle::default();
        for n in 0..10 {
            assert!(throttle.attempt(&format!("{}{n}", "x".repeat(64)), None, NOW).is_ok());
        }
        assert!(throttle.attempt(&"x".repeat(65), None, NOW).is_err());
    }
}
