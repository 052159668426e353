//! How often somebody may try to log in: for each user, from each address, and for each user from each address. Whoever has
//! logged in from an address before is known there, and what strangers do elsewhere does not keep them out. Never remembers
//! a password, never grows without bound, and never asks what the wall clock says: somebody may set it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::sync::Cache;
use tollgate_core::name::{MAX_LOGIN_NAME, split_login_name};
use tollgate_guard::time::Moment;

/// Attempts in a row, and how long each takes to be forgotten.
#[derive(Clone, Copy)]
struct Allowance {
    burst: u32,
    each: Duration,
}

/// Failures for one user from one address.
const PAIR: Allowance = Allowance { burst: 10, each: Duration::from_secs(6) };
/// Failures for one user from wherever they are not known: far more than one address may have, so that nobody can lock a user
/// out by themselves.
const USER: Allowance = Allowance { burst: 100, each: Duration::from_secs(6) };
/// Failures from one address for whomever: many users may share it.
const ADDRESS: Allowance = Allowance { burst: 50, each: Duration::from_secs(1) };
/// Successes of one user: a program that logs in for each request is told so.
const SUCCESSES: Allowance = Allowance { burst: 60, each: Duration::from_secs(1) };
/// Users and addresses that are remembered, and pairs of them.
const CAPACITY: u64 = 100_000;
const FORGOTTEN_AFTER: Duration = Duration::from_secs(3600);
const KNOWN_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// Of a name, however long it is.
const MAX_NAME: usize = MAX_LOGIN_NAME;

/// Attempts of late.
pub struct Throttle {
    buckets: Cache<String, Arc<Bucket>>,
    /// Users, each with an address that they have logged in from and their generation of sessions then.
    known: Cache<(String, IpAddr), u64>,
}

/// When all attempts will be forgotten, by the generic cell rate algorithm.
#[derive(Default)]
struct Bucket(Mutex<Moment>);

/// An attempt that may be made. It counts for nothing unless it is said to have failed or succeeded.
pub struct Attempt {
    pair: (String, Option<IpAddr>),
    known: Option<u64>,
    /// For failures.
    charged: Vec<Charge>,
    /// For successes.
    success: Option<Charge>,
}

/// Given back when it is dropped.
struct Charge {
    bucket: Arc<Bucket>,
    allowance: Allowance,
    counts: bool,
}

impl Default for Throttle {
    fn default() -> Self {
        let buckets = Cache::builder().max_capacity(CAPACITY).time_to_idle(FORGOTTEN_AFTER).build();
        Self { buckets, known: Cache::builder().max_capacity(CAPACITY).time_to_live(KNOWN_FOR).build() }
    }
}

impl Throttle {
    /// Whether an attempt may be made now; if not, when.
    pub fn attempt(&self, user: &str, address: Option<IpAddr>, now: Moment) -> Result<Attempt, Duration> {
        let user: String = user.chars().take(MAX_NAME).collect();
        // With the project and without: who has two names has what is allowed once. Whether the two are one user nobody learns here.
        let (_, plain) = split_login_name(&user);
        let address = address.map(network_of);
        let known = address.and_then(|address| self.known.get(&(user.clone(), address)));
        let charges = match (address, known) {
            (Some(address), Some(_)) => vec![(format!("known {address} {plain}"), PAIR)],
            (Some(address), None) => vec![
                (format!("address {address}"), ADDRESS),
                (format!("pair {address} {plain}"), PAIR),
                (format!("user {plain}"), USER),
            ],
            (None, _) => vec![(format!("user {plain}"), PAIR)],
        };
        // What was charged before a refusal is given back by itself.
        let charged: Result<Vec<Charge>, Duration> =
            charges.into_iter().map(|(name, allowance)| self.charge(name, allowance, now)).collect();
        let (charged, success) = (charged?, self.charge(format!("success {user}"), SUCCESSES, now)?);
        Ok(Attempt { pair: (user, address), known, charged, success: Some(success) })
    }

    fn charge(&self, name: String, allowance: Allowance, now: Moment) -> Result<Charge, Duration> {
        let bucket = self.buckets.get_with(name, Arc::default);
        bucket.take(allowance, now)?;
        Ok(Charge { bucket, allowance, counts: false })
    }

    /// The user is known from now on where the attempt came from, while their generation of sessions is this one.
    pub fn succeeded(&self, mut attempt: Attempt, generation: u64) {
        if let Some(success) = &mut attempt.success {
            success.counts = true;
        }
        if let (user, Some(address)) = &attempt.pair {
            self.known.insert((user.clone(), *address), generation);
        }
    }
}

impl Attempt {
    /// Whether this user has logged in from this address before, and nothing has ended their sessions since.
    pub fn is_known(&self, generation: u64) -> bool {
        self.known == Some(generation)
    }

    pub fn failed(mut self) {
        self.charged.iter_mut().for_each(|charge| charge.counts = true);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        if !self.counts {
            self.bucket.put_back(self.allowance);
        }
    }
}

/// What one client has of addresses: of IPv6 a whole /64.
pub fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
        address => address,
    }
}

impl Bucket {
    fn take(&self, allowance: Allowance, now: Moment) -> Result<(), Duration> {
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
        *forgotten = Moment::from_millis(forgotten.as_millis().saturating_sub(each));
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

    const NOW: Moment = Moment::from_millis(1_000_000_000);

    fn at(seconds: u64) -> Moment {
        NOW.plus(Duration::from_secs(seconds))
    }

    fn home() -> Option<IpAddr> {
        "192.0.2.1".parse().ok()
    }

    fn elsewhere(n: u8) -> Option<IpAddr> {
        Some(IpAddr::from([198, 51, 100, n]))
    }

    fn fail(throttle: &Throttle, user: &str, address: Option<IpAddr>, now: Moment) -> Result<(), Duration> {
        throttle.attempt(user, address, now).map(Attempt::failed)
    }

    #[test]
    fn a_user_is_tried_ten_times_from_one_place_and_then_once_in_six_seconds() {
        for address in [None, home()] {
            let throttle = Throttle::default();
            let fail = |user: &str, now| fail(&throttle, user, address, now);
            for _ in 0..10 {
                assert_eq!(fail("ada", NOW), Ok(()));
            }
            assert_eq!(fail("ada", NOW), Err(Duration::from_secs(6)));
            assert_eq!(fail("bob", NOW), Ok(()), "another user");
            assert_eq!(fail("ada", at(5)), Err(Duration::from_secs(1)));
            assert_eq!(fail("ada", at(6)), Ok(()));
            assert!(fail("ada", at(6)).is_err());
            for _ in 0..10 {
                assert_eq!(fail("ada", at(600)), Ok(()));
            }
            assert!(fail("ada", at(600)).is_err());
        }
    }

    #[test]
    fn who_has_two_names_is_tried_as_one() {
        for address in [None, home()] {
            let throttle = Throttle::default();
            for n in 0..10 {
                assert_eq!(fail(&throttle, if n % 2 == 0 { "acme/ada" } else { "ada" }, address, NOW), Ok(()));
            }
            assert!(
                fail(&throttle, "ada", address, NOW).is_err() && fail(&throttle, "acme/ada", address, NOW).is_err()
            );
        }
        // Of two users of one plain name, one is not known where the other is.
        let throttle = Throttle::default();
        throttle.succeeded(throttle.attempt("acme/ada", home(), NOW).unwrap(), 1);
        assert!(!throttle.attempt("beta/ada", home(), NOW).unwrap().is_known(1));
    }

    #[test]
    fn what_neither_failed_nor_succeeded_counts_for_nothing() {
        let throttle = Throttle::default();
        for _ in 0..1000 {
            drop(throttle.attempt("ada", home(), NOW).unwrap());
        }
        for n in 0..50 {
            assert_eq!(fail(&throttle, &format!("user-{n}"), home(), NOW), Ok(()));
        }
        // The address is full; the user is not charged for that.
        for _ in 0..1000 {
            assert!(fail(&throttle, "ada", home(), NOW).is_err());
        }
        assert_eq!(fail(&throttle, "ada", elsewhere(1), NOW), Ok(()));
    }

    #[test]
    fn nobody_locks_a_user_out_alone() {
        let throttle = Throttle::default();
        for _ in 0..1000 {
            let _ = fail(&throttle, "ada", elsewhere(1), NOW);
        }
        assert_eq!(fail(&throttle, "ada", home(), NOW), Ok(()));
        // Many can, but for where the user is known.
        throttle.succeeded(throttle.attempt("ada", home(), NOW).unwrap(), 1);
        for n in 0..200 {
            let _ = fail(&throttle, "ada", elsewhere(n), NOW);
            let _ = fail(&throttle, &format!("user-{n}"), home(), NOW);
        }
        assert!(fail(&throttle, "ada", elsewhere(250), NOW).is_err());
        let known = throttle.attempt("ada", home(), NOW).unwrap();
        assert!(known.is_known(1) && !known.is_known(2), "not after their sessions were ended");
        known.failed();
        for _ in 0..9 {
            assert_eq!(fail(&throttle, "ada", home(), NOW), Ok(()));
        }
        assert!(fail(&throttle, "ada", home(), NOW).is_err(), "not without end there either");
    }

    #[test]
    fn successes_have_a_bound_too() {
        let throttle = Throttle::default();
        for _ in 0..60 {
            throttle.succeeded(throttle.attempt("ci", home(), NOW).unwrap(), 1);
        }
        assert_eq!(throttle.attempt("ci", home(), NOW).err(), Some(Duration::from_secs(1)));
        assert!(throttle.attempt("ci", home(), at(1)).is_ok());
    }

    #[test]
    fn long_names_are_one_user_and_a_network_is_one_address() {
        let throttle = Throttle::default();
        for n in 0..10 {
            assert_eq!(fail(&throttle, &format!("{}{n}", "x".repeat(MAX_NAME)), None, NOW), Ok(()));
        }
        assert!(fail(&throttle, &"x".repeat(MAX_NAME + 1), None, NOW).is_err());
        let address = |n: u16| Some(IpAddr::from([0x2001, 0xdb8, 0, 0, n, n, n, n]));
        for n in 0..10 {
            assert_eq!(fail(&throttle, "ada", address(n), NOW), Ok(()));
        }
        assert!(fail(&throttle, "ada", address(11), NOW).is_err());
        let mapped = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(network_of(mapped), "192.0.2.1".parse::<IpAddr>().unwrap());
    }
}
