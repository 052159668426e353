//! How often somebody may try to log in: for each user and from each address. Whoever has logged in from an address before is
//! known there, and what strangers do elsewhere does not keep them out. Never remembers a password, and never grows without
//! bound.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::sync::Cache;

use crate::domain::time::Timestamp;

/// Failed attempts in a row, and how long each takes to be forgotten.
#[derive(Clone, Copy)]
struct Allowance {
    burst: u32,
    each: Duration,
}

/// For one user, from wherever; and for one user from an address where they are known.
const USER: Allowance = Allowance { burst: 10, each: Duration::from_secs(6) };
/// From one address, for whomever: many users may share it.
const ADDRESS: Allowance = Allowance { burst: 50, each: Duration::from_secs(1) };
/// Users and addresses that are remembered, and pairs of them.
const CAPACITY: u64 = 100_000;
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);
const KNOWN_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// Of a name, however long it is.
const MAX_NAME: usize = 64;

/// Attempts of late.
pub struct Throttle {
    buckets: Cache<String, Arc<Bucket>>,
    /// Users, each with an address that they have logged in from.
    known: Cache<(String, String), ()>,
}

/// When all attempts will be forgotten, by the generic cell rate algorithm.
#[derive(Default)]
struct Bucket(Mutex<Timestamp>);

/// An attempt that may be made. It counts as failed until it is said to have succeeded.
pub struct Attempt {
    user: String,
    address: Option<String>,
    is_known: bool,
    charged: Vec<(Arc<Bucket>, Allowance)>,
}

impl Default for Throttle {
    fn default() -> Self {
        let buckets = Cache::builder().max_capacity(CAPACITY).time_to_idle(FORGOTTEN_AFTER).build();
        Self { buckets, known: Cache::builder().max_capacity(CAPACITY).time_to_live(KNOWN_FOR).build() }
    }
}

impl Throttle {
    /// Whether an attempt may be made now; if not, when.
    pub fn attempt(&self, user: &str, address: Option<&str>, now: Timestamp) -> Result<Attempt, Duration> {
        let user: String = user.chars().take(MAX_NAME).collect();
        let pair = address.map(|address| (user.clone(), address.to_owned()));
        let is_known = pair.as_ref().is_some_and(|pair| self.known.contains_key(pair));
        let charges = match (&pair, is_known) {
            (Some((user, address)), true) => vec![(format!("known {user} {address}"), USER)],
            (Some((user, address)), false) => {
                vec![(format!("address {address}"), ADDRESS), (format!("user {user}"), USER)]
            }
            (None, _) => vec![(format!("user {user}"), USER)],
        };
        let mut attempt = Attempt { user, address: pair.map(|(_, address)| address), is_known, charged: Vec::new() };
        for (name, allowance) in charges {
            let bucket = self.buckets.get_with(name, Arc::default);
            if let Err(wait) = bucket.take(allowance, now) {
                attempt.take_back();
                return Err(wait);
            }
            attempt.charged.push((bucket, allowance));
        }
        Ok(attempt)
    }

    /// The attempt does not count, and the user is known where it came from.
    pub fn succeeded(&self, attempt: Attempt) {
        attempt.take_back();
        if let Some(address) = attempt.address {
            self.known.insert((attempt.user, address), ());
        }
    }
}

impl Attempt {
    /// Whether this user has logged in from this address before.
    pub fn is_known(&self) -> bool {
        self.is_known
    }

    fn take_back(&self) {
        for (bucket, allowance) in &self.charged {
            bucket.put_back(*allowance);
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
            throttle.succeeded(throttle.attempt("ada", None, NOW).unwrap());
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

    #[test]
    fn whoever_is_known_at_an_address_is_not_kept_out_by_strangers() {
        let throttle = Throttle::default();
        throttle.succeeded(throttle.attempt("ada", Some("192.0.2.1"), NOW).unwrap());
        for n in 0..200 {
            let _ = throttle.attempt("ada", Some(&format!("198.51.100.{n}")), NOW);
            let _ = throttle.attempt(&format!("user-{n}"), Some("192.0.2.1"), NOW);
        }
        assert!(throttle.attempt("ada", Some("198.51.100.250"), NOW).is_err());
        let known = throttle.attempt("ada", Some("192.0.2.1"), NOW).unwrap();
        assert!(known.is_known());
        // But not without end either.
        for _ in 0..9 {
            assert!(throttle.attempt("ada", Some("192.0.2.1"), NOW).is_ok());
        }
        assert!(throttle.attempt("ada", Some("192.0.2.1"), NOW).is_err());
    }
}
