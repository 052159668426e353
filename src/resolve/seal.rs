//! Secrets at rest: sealed with keys that come from the peppers, so that who has the store alone can neither read nor replace
//! them. Never opens what was sealed under another name.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use zeroize::Zeroizing;

use super::pepper::Pepper;

const PURPOSE: &str = "sealing";
const NONCE: usize = 12;
const VERSION: usize = 4;

/// Seals with the current pepper, and opens what any configured one sealed.
pub struct Sealer {
    current: u32,
    keys: Vec<(u32, RandomizedNonceKey)>,
}

/// What was sealed cannot be opened: it was changed, it has another name, or its pepper is not configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotOpened;

impl Sealer {
    pub fn new(current: &Pepper, older: &[Pepper]) -> Self {
        let key = |pepper: &Pepper| {
            // It fails for another length than that of the algorithm's keys, which this is.
            RandomizedNonceKey::new(&AES_256_GCM, &*pepper.derive(PURPOSE)).ok().map(|key| (pepper.version, key))
        };
        Self { current: current.version, keys: std::iter::once(current).chain(older).filter_map(key).collect() }
    }

    /// Version of the pepper, nonce, ciphertext and tag (AES-256-GCM). `name` must be said again to open it.
    ///
    /// # Errors
    /// [`NotOpened`] if the system gives no random bytes.
    pub fn seal(&self, name: &str, secret: &[u8]) -> Result<Vec<u8>, NotOpened> {
        let (_, key) = self.keys.iter().find(|(version, _)| *version == self.current).ok_or(NotOpened)?;
        let mut bytes = Zeroizing::new(secret.to_vec());
        let mut sealed = std::mem::take(&mut *bytes);
        let nonce = key.seal_in_place_append_tag(Aad::from(name), &mut sealed).map_err(|_| NotOpened)?;
        Ok([&self.current.to_be_bytes(), &nonce.as_ref()[..], &sealed].concat())
    }

    /// # Errors
    /// [`NotOpened`]
    pub fn open(&self, name: &str, sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, NotOpened> {
        let (version, rest) = sealed.split_first_chunk::<VERSION>().ok_or(NotOpened)?;
        let (nonce, rest) = rest.split_first_chunk::<NONCE>().ok_or(NotOpened)?;
        let version = u32::from_be_bytes(*version);
        let (_, key) = self.keys.iter().find(|(known, _)| *known == version).ok_or(NotOpened)?;
        let mut bytes = Zeroizing::new(rest.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = key.open_in_place(nonce, Aad::from(name), &mut bytes).map_err(|_| NotOpened)?.len();
        bytes.truncate(length);
        Ok(bytes)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({} keys)", self.keys.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pepper(version: u32) -> Pepper {
        Pepper::new(version, Zeroizing::new([version as u8; 32]))
    }

    #[test]
    fn what_is_sealed_opens_under_its_name_and_with_its_pepper_alone() {
        let old = Sealer::new(&pepper(1), &[]);
        let sealed = old.seal("signing_key:a", b"secret").unwrap();
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_ne!(sealed, old.seal("signing_key:a", b"secret").unwrap(), "each with a nonce of its own");
        assert_eq!(&**old.open("signing_key:a", &sealed).unwrap(), b"secret");
        let new = Sealer::new(&pepper(2), &[pepper(1)]);
        assert_eq!(&**new.open("signing_key:a", &sealed).unwrap(), b"secret");
        assert_eq!(Sealer::new(&pepper(2), &[]).open("signing_key:a", &sealed), Err(NotOpened));
        assert_eq!(old.open("signing_key:b", &sealed), Err(NotOpened));
        for at in 0..sealed.len() {
            let mut twisted = sealed.clone();
            twisted[at] ^= 1;
            assert_eq!(old.open("signing_key:a", &twisted), Err(NotOpened), "{at}");
            assert_eq!(old.open("signing_key:a", &sealed[..at]), Err(NotOpened), "{at}");
        }
    }
}
