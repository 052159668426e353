//! A pepper, and the keys that come from it. No pepper ever leaves this file.

use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use crate::store::PepperCheck;
use crate::store::snapshot::Signer;

/// 256 bits that are kept outside the store, so that who can write the store cannot mint a key.
pub struct Pepper {
    pub version: u32,
    secret: Zeroizing<[u8; 32]>,
}

impl Pepper {
    pub fn new(version: u32, secret: Zeroizing<[u8; 32]>) -> Self {
        Self { version, secret }
    }

    /// What digests keys with this pepper.
    pub(super) fn digests(&self) -> Hmac<Sha256> {
        keyed(&self.secret)
    }

    /// What the store keeps to tell a wrong pepper from the right one.
    pub fn check(&self) -> PepperCheck {
        let mac = keyed(&self.secret).chain_update(b"tollgate pepper check v1");
        PepperCheck { version: self.version, check: mac.finalize().into_bytes().into() }
    }

    /// What signs copies of a store.
    pub fn snapshot_signer(&self) -> Signer {
        Signer::new(self.check(), keyed(&self.derive("signatures of snapshots")))
    }

    /// What signs records, by its version.
    pub fn record_signer(&self) -> (u32, Hmac<Sha256>) {
        (self.version, keyed(&self.derive("signatures of records")))
    }

    /// A key for another purpose, from which neither the pepper nor another key can be told.
    pub(super) fn derive(&self, purpose: &str) -> Zeroizing<[u8; 32]> {
        let mac = keyed(&self.secret).chain_update(b"tollgate key v1 for ").chain_update(purpose);
        Zeroizing::new(mac.finalize().into_bytes().into())
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pepper(version {})", self.version)
    }
}

/// A MAC that is keyed with this.
pub(super) fn keyed(secret: &[u8; 32]) -> Hmac<Sha256> {
    let mut block = Zeroizing::new([0u8; 64]);
    block[..32].copy_from_slice(secret);
    Hmac::new((&*block).into())
}
