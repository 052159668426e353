//! From a presented key to the digest it is looked up by, with the peppers in use. Never keeps a key.

use std::fmt;

use hmac::{Hmac, Mac};
use sha2::Sha256;
use tollgate_core::credential::PresentedKey;
use tollgate_core::resource::ResourceRef;
use tollgate_core::token::PresentedToken;
use tollgate_guard::digest::Digest;

use super::check_proof::CheckProofs;
use super::pepper::{Pepper, keyed};
use super::seal::Sealer;
use crate::store::snapshot::Signer;

/// Digests keys with every pepper in use; new keys with the current one.
pub struct Digester {
    sealer: Sealer,
    proofs: CheckProofs,
    current_version: u32,
    current: Hmac<Sha256>,
    older: Vec<Hmac<Sha256>>,
    snapshots: Signer,
}

impl Digester {
    pub fn new(current: &Pepper, older: &[Pepper]) -> Self {
        Self {
            sealer: Sealer::new(current, older),
            proofs: CheckProofs::new(std::iter::once(current).chain(older).map(proof_key).collect()),
            current_version: current.version,
            current: current.digests(),
            older: older.iter().map(|pepper| pepper.digests()).collect(),
            snapshots: current.snapshot_signer(),
        }
    }

    /// Seals what the store must not be able to read.
    pub fn sealer(&self) -> &Sealer {
        &self.sealer
    }

    /// CheckProofs that a request passed the check.
    pub fn check_proofs(&self) -> &CheckProofs {
        &self.proofs
    }

    /// What signs copies of the store.
    pub fn snapshot_signer(&self) -> Signer {
        self.snapshots.clone()
    }

    /// The version that [`Digester::current`] digests with.
    pub fn current_version(&self) -> u32 {
        self.current_version
    }

    pub fn current(&self, key: &PresentedKey<'_>) -> Digest {
        digest(&self.current, key.expose())
    }

    /// The digests the key may be stored under, the current one first.
    pub fn all(&self, key: &PresentedKey<'_>) -> Vec<Digest> {
        std::iter::once(&self.current).chain(&self.older).map(|mac| digest(mac, key.expose())).collect()
    }

    /// The cache's name for a token. Keyed and tagged, as for a resource.
    pub fn of_token(&self, token: &PresentedToken<'_>) -> Digest {
        let mac = self.current.clone().chain_update(b"token ").chain_update(token.expose());
        Digest(mac.finalize().into_bytes().into())
    }

    /// The cache's name for a resource.
    pub fn of_resource(&self, reference: ResourceRef<'_>) -> Digest {
        self.named(&["resource ", reference.kind, ":", reference.id])
    }

    /// The name of something that is not a key, such as a user or a session. `kind` is one word of ours.
    pub fn of_name(&self, kind: &str, name: &str) -> Digest {
        self.named(&[kind, " ", name])
    }

    /// What stands in a log for a subject that has an e-mail address: `user:#` and 16 hexadecimal digits. `None`: the subject
    /// may stand there itself.
    pub fn logged(&self, subject: &str) -> Option<String> {
        if !subject.contains('@') {
            return None;
        }
        let issuer = subject.split_once(':').map_or("", |(issuer, _)| issuer);
        let Digest([a, b, c, d, e, f, g, h, ..]) = self.of_name("logged", subject);
        Some(format!("{issuer}:#{:016x}", u64::from_be_bytes([a, b, c, d, e, f, g, h])))
    }

    /// Keyed, so that a client cannot choose names that collide; the kind before the blank keeps it apart from keys.
    fn named(&self, parts: &[&str]) -> Digest {
        let mac = parts.iter().fold(self.current.clone(), |mac, part| mac.chain_update(part));
        Digest(mac.finalize().into_bytes().into())
    }
}

impl fmt::Debug for Digester {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digester(version {}, {} older)", self.current_version, self.older.len())
    }
}

fn proof_key(pepper: &Pepper) -> Hmac<Sha256> {
    keyed(&pepper.derive("proofs that a request passed the check"))
}

fn digest(mac: &Hmac<Sha256>, text: &[u8]) -> Digest {
    Digest(mac.clone().chain_update(text).finalize().into_bytes().into())
}

#[cfg(test)]
mod tests {
    use hmac::KeyInit;
    use zeroize::Zeroizing;

    use super::*;
    use tollgate_core::credential::MintedKey;

    fn pepper(version: u32, byte: u8) -> Pepper {
        Pepper::new(version, Zeroizing::new([byte; 32]))
    }

    /// HMAC-SHA-256 over the key as it is presented, in every release: keys that were stored by one are found by the next.
    #[test]
    fn a_key_has_one_digest_a_pepper() {
        let minted = MintedKey::generate("ik_live", |buffer: &mut [u8]| {
            buffer.fill(7);
            Ok::<_, std::convert::Infallible>(())
        })
        .unwrap();
        let key = PresentedKey::parse(minted.expose(), "ik_live").unwrap();
        let expected = |byte: u8| {
            let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(&[byte; 32]).unwrap().chain_update(minted.expose());
            Digest(mac.finalize().into_bytes().into())
        };
        let digester = Digester::new(&pepper(3, 3), &[pepper(2, 2), pepper(1, 1)]);
        assert_eq!(digester.current(&key), expected(3));
        assert_eq!(digester.all(&key), [expected(3), expected(2), expected(1)]);
    }
}
