//! Tokens that were refused, so that they cost no other signature when they are presented again: those that no key has signed, and those
//! with a good signature for what they say. Of the latter it remembers none that time may make right, and none for longer than the rules
//! that refused it are in force.

use std::fmt;
use std::time::Duration;

use tollgate_core::denial::Denial;
use tollgate_guard::digest::Digest;
use tollgate_guard::time::Timestamp;

use super::key_set::KeySet;

const REMEMBERED_FOR: Duration = Duration::from_secs(60);
const MOST: u64 = 16_384;

/// What was refused in the last minute, by name. While nothing was, a look costs next to nothing.
pub struct Refused<V>(moka::sync::Cache<[u8; 32], V>);

impl<V: Clone + Send + Sync + 'static> Refused<V> {
    pub fn new() -> Self {
        Self(moka::sync::Cache::builder().max_capacity(MOST).time_to_live(REMEMBERED_FOR).build())
    }

    pub fn get(&self, name: &Digest) -> Option<V> {
        if self.0.entry_count() == 0 { None } else { self.0.get(&name.0) }
    }

    pub fn insert(&self, name: &Digest, value: V) {
        self.0.insert(name.0, value);
        // Else it is not counted yet.
        self.0.run_pending_tasks();
    }
}

/// Of the issuers of one policy.
pub struct Refusals(Refused<Refusal>);

#[derive(Clone, Copy)]
struct Refusal {
    denial: Denial,
    /// By a clock that somebody may set back.
    at: Timestamp,
}

impl Default for Refusals {
    fn default() -> Self {
        Self(Refused::new())
    }
}

impl Refusals {
    /// # Errors
    /// Why the token was refused that one of these keys has signed.
    pub fn check(&self, token: Digest, keys: &KeySet, now: Timestamp) -> Result<(), Denial> {
        match self.0.get(&name(token, keys)) {
            Some(Refusal { denial, at }) if at <= now => Err(denial),
            _ => Ok(()),
        }
    }

    /// Remembers why a token was refused that one of these keys has signed, where it will always be.
    pub fn note(&self, token: Digest, keys: &KeySet, denial: Denial, now: Timestamp) {
        use Denial::{Expired, TokenAudience, TokenClaims, TokenIssuer, WrongPlane};
        if matches!(denial, Expired | TokenAudience | TokenClaims | TokenIssuer | WrongPlane) {
            self.0.insert(&name(token, keys), Refusal { denial, at: now });
        }
    }
}

impl fmt::Debug for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Refusals")
    }
}

/// Under which a token is remembered as refused: of the token and of the very keys, so that no other set is spoken for.
pub(super) fn name(token: Digest, keys: &KeySet) -> Digest {
    let mut name = token;
    for (byte, mixed) in name.0.iter_mut().zip(keys.fingerprint()) {
        *byte ^= mixed;
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_remembered_of_these_keys_alone_and_of_nothing_that_time_makes_right() {
        let (refusals, now) = (Refusals::default(), Timestamp::from_secs(1_000));
        let [over, early] = [1, 2].map(|number| Digest([number; 32]));
        let (keys, mut others) = (KeySet::empty(), KeySet::empty());
        others.push_ed25519("k".to_owned(), &[7; 32]);
        refusals.note(over, &keys, Denial::Expired, now);
        refusals.note(early, &keys, Denial::TokenNotYetValid, now);
        assert_eq!(refusals.check(over, &keys, now), Err(Denial::Expired));
        assert_eq!(refusals.check(over, &others, now), Ok(()));
        assert_eq!(refusals.check(early, &keys, now), Ok(()));
        assert_eq!(refusals.check(over, &keys, Timestamp::from_secs(999)), Ok(()), "the clock was set back");
    }
}
