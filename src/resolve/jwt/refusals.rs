//! Tokens with a good signature that were refused for what they say: presented again, they cost no other signature. Remembers none that
//! time may make right, and none for longer than the rules that refused it are in force.

use std::fmt;

use super::key_set::KeySet;
use super::lane::{MAX_REFUSED, REFUSED_FOR, name};
use crate::domain::credential::Digest;
use crate::domain::decision::Denial;
use crate::domain::time::Timestamp;

/// Of the issuers of one policy.
pub struct Refusals(moka::sync::Cache<[u8; 32], Refusal>);

#[derive(Clone, Copy)]
struct Refusal {
    denial: Denial,
    /// By a clock that somebody may set back.
    at: Timestamp,
}

impl Default for Refusals {
    fn default() -> Self {
        Self(moka::sync::Cache::builder().max_capacity(MAX_REFUSED).time_to_live(REFUSED_FOR).build())
    }
}

impl Refusals {
    /// # Errors
    /// Why the token was refused that one of these keys has signed.
    pub fn check(&self, token: Digest, keys: &KeySet, now: Timestamp) -> Result<(), Denial> {
        match self.0.get(&name(token, keys).0) {
            Some(Refusal { denial, at }) if at <= now => Err(denial),
            _ => Ok(()),
        }
    }

    /// Remembers why a token was refused that one of these keys has signed, where it will always be.
    pub fn note(&self, token: Digest, keys: &KeySet, denial: Denial, now: Timestamp) {
        use Denial::{Expired, TokenAudience, TokenClaims, TokenIssuer, WrongPlane};
        if matches!(denial, Expired | TokenAudience | TokenClaims | TokenIssuer | WrongPlane) {
            self.0.insert(name(token, keys).0, Refusal { denial, at: now });
        }
    }
}

impl fmt::Debug for Refusals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Refusals")
    }
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
