//! The public keys of an issuer, each pinned to one algorithm. Never takes a key that is secret, meant for something else,
//! of a family that the issuer was not given, or known to be weak.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::DecodingKey;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use tollgate_core::issuer::{Algorithm, Claims, Header};

use super::weak;
use crate::domain::json::parse_object;

/// A JWK Set, fetched or read, is at most this long.
pub const MAX_BYTES: usize = 256 * 1024;
const MAX_KEYS: usize = 100;
/// Keys that are tried for one token, be they of the name that it gives or of any.
const MAX_TRIED: usize = 4;
/// Characters of a key's name in a log.
const MAX_CALLED: usize = 128;

/// The keys of one issuer. Cheap to look into, made once per fetch.
pub struct KeySet {
    keys: Vec<PinnedKey>,
    fingerprint: [u8; 32],
    /// What was refused, and why, in sentences for the log.
    refused: Vec<String>,
}

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
        let mut set = Self::empty();
        for key in keys.iter().filter_map(|key| pinned(key.as_object()?, allowed)) {
            match key.weakness() {
                None => set.keys.push(key),
                Some(reason) => set.refused.push(format!("{}: {reason}", key.called())),
            }
        }
        if set.keys.is_empty() && !is_empty {
            let mut problem = "it has no key that signs with an accepted algorithm".to_owned();
            for refused in &set.refused {
                problem.push_str("; refused: ");
                problem.push_str(refused);
            }
            return Err(problem);
        }
        set.fingerprint = fingerprint(&set.keys);
        Ok(set)
    }

    /// One Ed25519 key, by its 32 bytes, for EdDSA.
    pub fn push_ed25519(&mut self, id: String, public: &[u8]) {
        let (key, material) = (DecodingKey::from_ed_der(public), vec![public.to_vec()]);
        self.keys.push(PinnedKey { id: Some(id), algorithm: Algorithm::EdDsa, key, material });
        self.fingerprint = fingerprint(&self.keys);
    }

    pub fn empty() -> Self {
        Self { keys: Vec::new(), fingerprint: fingerprint(&[]), refused: Vec::new() }
    }

    /// The keys that were refused because whoever knows them can sign with them, each with its reason.
    pub fn refused(&self) -> &[String] {
        &self.refused
    }

    /// Over every key: two sets with the same one verify the same tokens.
    pub fn fingerprint(&self) -> [u8; 32] {
        self.fingerprint
    }

    /// Whether every key of another set is in this one too, under its name.
    pub fn has_all_of(&self, other: &Self) -> bool {
        let has = |key: &PinnedKey| {
            let same = |own: &&PinnedKey| own.id == key.id && own.algorithm == key.algorithm;
            self.keys.iter().filter(same).any(|own| own.material == key.material)
        };
        other.keys.iter().all(has)
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Those that may have signed a token with this header. Without a name it may be any of its algorithm.
    fn candidates(&self, header: &Header) -> impl Iterator<Item = &PinnedKey> {
        let may_be = move |key: &&PinnedKey| {
            key.algorithm == header.algorithm && (header.key_id.is_none() || key.id == header.key_id)
        };
        self.keys.iter().filter(may_be).take(MAX_TRIED)
    }

    /// Whether a signature would have to be verified to know.
    pub fn has_key_for(&self, header: &Header) -> bool {
        self.candidates(header).next().is_some()
    }

    /// Whether one of these keys made the signature, with the algorithm that it is pinned to.
    ///
    /// # Errors
    /// [`NotSigned`]
    pub fn verify(&self, header: &Header, signed: &[u8], signature: &str) -> Result<(), NotSigned> {
        if !self.has_key_for(header) {
            return Err(NotSigned::UnknownKey);
        }
        let is_good = |candidate: &PinnedKey| {
            jsonwebtoken::crypto::verify(signature, signed, &candidate.key, library(candidate.algorithm))
        };
        // An unreadable signature is a wrong one.
        if self.candidates(header).any(|candidate| is_good(candidate).unwrap_or(false)) {
            Ok(())
        } else {
            Err(NotSigned::WrongSignature)
        }
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeySet({} keys)", self.keys.len())
    }
}

impl PinnedKey {
    fn weakness(&self) -> Option<&'static str> {
        match (self.algorithm, &self.material[..]) {
            (Algorithm::EdDsa, [public]) => weak::ed25519(public),
            (algorithm, [modulus, exponent]) if algorithm.is_rsa() => weak::rsa(modulus, exponent),
            _ => None,
        }
    }

    /// What it is called in a log, whatever its issuer calls it.
    fn called(&self) -> String {
        match &self.id {
            Some(id) => format!("key {:?}", id.chars().take(MAX_CALLED).collect::<String>()),
            None => format!("a key for {} without a name", self.algorithm.as_str()),
        }
    }
}

/// Over every key, under its name.
fn fingerprint(keys: &[PinnedKey]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for key in keys {
        let id = key.id.as_deref().unwrap_or_default();
        for part in
            [id.as_bytes(), key.algorithm.as_str().as_bytes()].into_iter().chain(key.material.iter().map(Vec::as_slice))
        {
            hash.update((part.len() as u64).to_be_bytes());
            hash.update(part);
        }
    }
    hash.finalize().into()
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
            let number = |name| Some(without_leading_zeros(bytes(name)?));
            let (n, e) = (number("n")?, number("e")?);
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

/// Some issuers write more than RFC 7518 section 6.3.1 asks for.
fn without_leading_zeros(number: Vec<u8>) -> Vec<u8> {
    number.into_iter().skip_while(|byte| *byte == 0).collect()
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
