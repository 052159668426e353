//! Proof that a request passed the check, for Tollgate's own door behind Envoy: whoever reaches that door directly has none. Never
//! good for longer than a few seconds, nor for another method or target.

use std::fmt;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use tollgate_guard::time::Timestamp;

/// How long a proof is good: from the allow to the door, with clocks that differ a little.
const LIFE_S: u64 = 10;

/// Makes and judges proofs. Every replica with the same peppers can.
pub struct CheckProofs {
    /// The first one makes them.
    keys: Vec<Hmac<Sha256>>,
}

impl CheckProofs {
    pub(super) fn new(keys: Vec<Hmac<Sha256>>) -> Self {
        Self { keys }
    }

    /// The proof for one request: when it was made, and a MAC over that, the method and the target.
    pub fn make(&self, now: Timestamp, method: &str, target: &str) -> Option<String> {
        let made = now.as_secs();
        let mac = over(self.keys.first()?, made, method, target).finalize().into_bytes();
        Some(format!("{made}.{}", BASE64_URL_SAFE_NO_PAD.encode(mac)))
    }

    /// Whether this proof was made for this request, just now.
    pub fn holds(&self, proof: &str, now: Timestamp, method: &str, target: &str) -> bool {
        let Some((made, mac)) = proof.split_once('.') else { return false };
        let (Ok(made), Ok(mac)) = (made.parse::<u64>(), BASE64_URL_SAFE_NO_PAD.decode(mac)) else { return false };
        let is_fresh = now.as_secs().abs_diff(made) <= LIFE_S;
        is_fresh && self.keys.iter().any(|key| over(key, made, method, target).verify_slice(&mac).is_ok())
    }
}

impl fmt::Debug for CheckProofs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CheckProofs")
    }
}

fn over(key: &Hmac<Sha256>, made: u64, method: &str, target: &str) -> Hmac<Sha256> {
    // Neither a number nor a method has a blank in it.
    key.clone().chain_update(format!("{made} {method} ")).chain_update(target)
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::super::api_key::Digester;
    use super::super::pepper::Pepper;
    use super::*;

    #[test]
    fn a_proof_is_good_for_one_request_and_a_few_seconds() {
        let pepper = |version: u8| Pepper::new(version.into(), Zeroizing::new([version; 32]));
        let (old, new, other) =
            (Digester::new(&pepper(1), &[]), Digester::new(&pepper(2), &[pepper(1)]), Digester::new(&pepper(3), &[]));
        let at = Timestamp::from_secs;
        let proof = old.check_proofs().make(at(1_000), "GET", "/a?b").unwrap();
        for digester in [&old, &new] {
            assert!(digester.check_proofs().holds(&proof, at(1_009), "GET", "/a?b"));
            assert!(digester.check_proofs().holds(&proof, at(995), "GET", "/a?b"));
        }
        for (proof, now, method, target) in [
            (&*proof, 1_011, "GET", "/a?b"),
            (&proof, 989, "GET", "/a?b"),
            (&proof, 1_000, "POST", "/a?b"),
            (&proof, 1_000, "GET", "/a?c"),
            (&proof.replace("1000", "1001"), 1_000, "GET", "/a?b"),
            (&proof[..proof.len() - 4], 1_000, "GET", "/a?b"),
            ("1000.", 1_000, "GET", "/a?b"),
            ("", 1_000, "GET", "/a?b"),
        ] {
            assert!(!old.check_proofs().holds(proof, at(now), method, target), "{proof} {now} {method} {target}");
        }
        assert!(!other.check_proofs().holds(&proof, at(1_000), "GET", "/a?b"));
    }
}
