//! The public keys of an issuer, each pinned to one algorithm. Never takes a key that is secret, meant for something else,
//! or of a family that the issuer was not given.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::domain::json::parse_object;
use crate::policy::issuer::{Algorithm, Claims, Header};

/// A JWK Set, fetched or read, is at most this long.
pub const MAX_BYTES: usize = 256 * 1024;
const MAX_KEYS: usize = 100;
/// Keys of one name that are tried for one token.
const MAX_TRIED: usize = 4;

/// The keys of one issuer. Cheap to look into, made once per fetch.
pub struct KeySet(Vec<PinnedKey>);

struct PinnedKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
    /// The public key, as a JWK has it.
    material: Vec<Vec<u8>>,
}

/// Why a token is not the issuer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotSigned {
    /// There is no key of this name and algorithm; a newer set may have one.
    UnknownKey,
    WrongSignature,
}

impl KeySet {
    /// Reads a JWK Set (RFC 7517 section 5). Keys that cannot verify one of `allowed` are passed over, as section 5 asks.
    ///
    /// # Errors
    /// A sentence for the log if it is no JWK Set at all, or has keys of which none is of use. Without any key it is a good
    /// set: an issuer in trouble says so.
    pub fn parse(bytes: &[u8], allowed: &[Algorithm]) -> Result<Self, String> {
        if bytes.len() > MAX_BYTES {
            return Err(format!("it is longer than {MAX_BYTES} bytes"));
        }
        let set = parse_object(bytes).map_err(|_| "it is not one JSON object".to_owned())?;
        let Some(Value::Array(keys)) = set.get("keys") else { return Err("it has no list `keys`".to_owned()) };
        if keys.len() > MAX_KEYS {
            return Err(format!("it has more than {MAX_KEYS} keys"));
        }
        let is_empty = keys.is_empty();
        let keys: Vec<PinnedKey> = keys.iter().filter_map(|key| pinned(key.as_object()?, allowed)).collect();
        if keys.is_empty() && !is_empty {
            return Err("it has no key that signs with an accepted algorithm".to_owned());
        }
        Ok(Self(keys))
    }

    /// One Ed25519 key, by its 32 bytes, for EdDSA.
    pub fn push_ed25519(&mut self, id: String, public: &[u8]) {
        let (key, material) = (DecodingKey::from_ed_der(public), vec![public.to_vec()]);
        self.0.push(PinnedKey { id: Some(id), algorithm: Algorithm::EdDsa, key, material });
    }

    pub fn empty() -> Self {
        Self(Vec::new())
    }

    /// Over every key: two sets with the same one verify the same tokens.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for key in &self.0 {
            let id = key.id.as_deref().unwrap_or_default();
            for part in [id.as_bytes(), key.algorithm.as_str().as_bytes()]
                .into_iter()
                .chain(key.material.iter().map(Vec::as_slice))
            {
                hash.update((part.len() as u64).to_be_bytes());
                hash.update(part);
            }
        }
        hash.finalize().into()
    }

    /// Whether every key of another set is in this one too, under its name.
    pub fn has_all_of(&self, other: &Self) -> bool {
        let has = |key: &PinnedKey| {
            let same = |own: &&PinnedKey| own.id == key.id && own.algorithm == key.algorithm;
            self.0.iter().filter(same).any(|own| own.material == key.material)
        };
        other.0.iter().all(has)
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of these keys made the signature, with the algorithm that it is pinned to.
    ///
    /// # Errors
    /// [`NotSigned`]
    pub fn verify(&self, header: &Header, signed: &[u8], signature: &str) -> Result<(), NotSigned> {
        let of_algorithm = || self.0.iter().filter(|key| key.algorithm == header.algorithm);
        let candidates: Vec<&PinnedKey> = match &header.key_id {
            Some(id) => of_algorithm().filter(|key| key.id.as_deref() == Some(id)).take(MAX_TRIED).collect(),
            // Without a name there must be no choice.
            None => match of_algorithm().collect::<Vec<_>>()[..] {
                [only] => vec![only],
                _ => Vec::new(),
            },
        };
        if candidates.is_empty() {
            return Err(NotSigned::UnknownKey);
        }
        let is_good = |candidate: &&PinnedKey| {
            jsonwebtoken::crypto::verify(signature, signed, &candidate.key, library(candidate.algorithm))
        };
        // An unreadable signature is a wrong one.
        if candidates.iter().any(|candidate| is_good(candidate).unwrap_or(false)) {
            Ok(())
        } else {
            Err(NotSigned::WrongSignature)
        }
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySet({} keys)", self.0.len())
    }
}

/// A key that may verify signatures, with the one algorithm that its type, its curve and its `alg` leave.
fn pinned(jwk: &Claims, allowed: &[Algorithm]) -> Option<PinnedKey> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let for_signatures = jwk.get("use").is_none_or(|purpose| purpose == "sig");
    let may_verify = jwk
        .get("key_ops")
        .is_none_or(|acts| acts.as_array().is_some_and(|acts| acts.iter().any(|act| act == "verify")));
    if !for_signatures || !may_verify {
        return None;
    }
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(text(name)?).ok();
    let said = match jwk.get("alg") {
        None => None,
        Some(name) => Some(Algorithm::parse(name.as_str()?)?),
    };
    let of_curve = |algorithm: Algorithm| said.is_none_or(|said| said == algorithm).then_some(algorithm);
    let (algorithm, key, material) = match (text("kty")?, text("crv")) {
        ("RSA", _) => {
            let first = || allowed.iter().copied().find(|algorithm| algorithm.is_rsa());
            let algorithm = said.or_else(first).filter(|algorithm| algorithm.is_rsa())?;
            let (n, e) = (bytes("n")?, bytes("e")?);
            (algorithm, DecodingKey::from_rsa_raw_components(&n, &e), vec![n, e])
        }
        ("EC", Some(curve @ ("P-256" | "P-384"))) => {
            let (algorithm, length) = if curve == "P-256" { (Algorithm::Es256, 32) } else { (Algorithm::Es384, 48) };
            let (x, y) = (bytes("x")?, bytes("y")?);
            (of_curve(algorithm)?, point(&x, &y, length)?, vec![x, y])
        }
        ("OKP", Some("Ed25519")) => {
            let key = bytes("x").filter(|key| key.len() == 32)?;
            (of_curve(Algorithm::EdDsa)?, DecodingKey::from_ed_der(&key), vec![key])
        }
        _ => return None,
    };
    let id = text("kid").map(str::to_owned);
    allowed.contains(&algorithm).then_some(PinnedKey { id, algorithm, key, material })
}

/// An uncompressed point (SEC 1 section 2.3.3), each coordinate of full length (RFC 7518 section 6.2.1.2).
fn point(x: &[u8], y: &[u8], length: usize) -> Option<DecodingKey> {
    let full = x.len() == length && y.len() == length;
    full.then(|| DecodingKey::from_ec_der(&[&[4], x, y].concat()))
}

fn library(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    match algorithm {
        Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::Rs384 => jsonwebtoken::Algorithm::RS384,
        Algorithm::Rs512 => jsonwebtoken::Algorithm::RS512,
        Algorithm::Ps256 => jsonwebtoken::Algorithm::PS256,
        Algorithm::Ps384 => jsonwebtoken::Algorithm::PS384,
        Algorithm::Ps512 => jsonwebtoken::Algorithm::PS512,
        Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::Es384 => jsonwebtoken::Algorithm::ES384,
        Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
    }
}
