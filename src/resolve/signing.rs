//! The keys that our own tokens are signed with: Ed25519, sealed in the store, the newest signs and the older ones still
//! verify. Never shows a private key, and never believes a public one that was not sealed with it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::time::timeout;
use tollgate_core::issuer::{Algorithm, Claims};
use tollgate_core::named::named;
use tollgate_guard::slots::Slots;
use tollgate_guard::stamps::{Proof, Stamps};
use tollgate_guard::time::Timestamp;
use zeroize::Zeroizing;

use super::api_key::Digester;
use super::jwt::key_set::KeySet;
use crate::domain::change::SIGNING_KEYS;
use crate::domain::record::SigningKey;
use crate::store::{Store, StoreError};

/// A key signs for this long; then another takes its place.
const SIGNS_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// A key verifies this long after another took its place: longer than any token lives.
pub const VERIFIES_FOR: Duration = Duration::from_secs(2 * 24 * 3600);

/// The keys may be read anew for an unknown one after this time, though nothing was heard of another: its maker may have been
/// faster than the log.
const READ_AGAIN: Duration = Duration::from_secs(1);
/// How long a token with an unknown key waits for those before it.
const PATIENCE: Duration = Duration::from_millis(500);

/// The keys that are in the store.
pub struct SigningKeys {
    store: Store,
    digester: Arc<Digester>,
    stamps: Arc<Stamps>,
    opened: ArcSwap<Opened>,
    /// Who reads them anew, for whoever needs it at the same time.
    reading: Mutex<()>,
}

/// They, opened.
struct Opened {
    /// What they were read after; before the first time, nothing.
    proof: Option<Proof>,
    newest: Option<Newest>,
    verifying: Arc<KeySet>,
    jwks: Value,
    /// Those that may go.
    over: Vec<String>,
}

struct Newest {
    id: String,
    pair: Ed25519KeyPair,
    created_at: Timestamp,
}

/// There is no key to sign with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoKey;

impl SigningKeys {
    /// None yet: see [`SigningKeys::load`].
    pub fn new(store: Store, digester: Arc<Digester>, stamps: Arc<Stamps>) -> Self {
        let (opened, reading) = (ArcSwap::from_pointee(Opened::of(&[], &[])), Mutex::default());
        Self { store, digester, stamps, opened, reading }
    }

    /// Reads them from the store. A key that cannot be opened is passed over, and said so in the log.
    ///
    /// # Errors
    /// As any read of the store; what was known before stays in force.
    pub async fn load(&self, now: Timestamp) -> Result<(), StoreError> {
        let slots = Slots::of_digests(&[named(SIGNING_KEYS.0, SIGNING_KEYS.1)]);
        let proof = Proof { stamp: self.stamps.take(), slots, sent: self.stamps.now() };
        let mut pairs = Vec::new();
        let mut over = Vec::new();
        let stored = self.store.signing_keys().await?;
        let created: Vec<Timestamp> = stored.iter().map(|key| key.created_at).collect();
        for (at, key) in stored.into_iter().enumerate() {
            if created.get(at + 1).is_some_and(|next| next.plus(VERIFIES_FOR) <= now) {
                over.push(key.id);
                continue;
            }
            let secret = self.digester.sealer().open(&sealed_name(&key.id), &key.sealed).ok();
            match secret.and_then(|secret| Ed25519KeyPair::from_seed_unchecked(&secret).ok()) {
                Some(pair) => pairs.push(Newest { id: key.id, pair, created_at: key.created_at }),
                None => tracing::error!(
                    signing_key = key.id,
                    "a key that tokens are signed with cannot be opened: is its pepper configured?"
                ),
            }
        }
        let mut opened = Opened::of(&pairs, &over);
        opened.newest = pairs.pop();
        opened.proof = Some(proof);
        self.opened.store(Arc::new(opened));
        Ok(())
    }

    /// Reads them anew if another replica may have changed them since, or they were not read in the last second. Whether it
    /// had to.
    ///
    /// # Errors
    /// As [`SigningKeys::load`].
    pub async fn refresh(&self, now: Timestamp) -> Result<bool, StoreError> {
        let is_current = || {
            let read = self.opened.load().proof;
            let is_new = |proof: &Proof| self.stamps.now() < proof.sent.plus(READ_AGAIN);
            read.is_some_and(|proof| is_new(&proof) && self.stamps.stand(&proof, Duration::ZERO))
        };
        if is_current() {
            return Ok(false);
        }
        // While a server hangs, tokens with keys that nobody knows do not queue.
        let Ok(_alone) = timeout(PATIENCE, self.reading.lock()).await else {
            return Err(StoreError::Unavailable("the signing keys could not be read in time".to_owned()));
        };
        if !is_current() {
            self.load(now).await?;
        }
        Ok(true)
    }

    /// A new key to be stored, if there is none or the newest has signed for long enough.
    pub fn due(&self, now: Timestamp) -> Option<SigningKey> {
        match &self.opened.load().newest {
            Some(newest) if now < newest.created_at.plus(SIGNS_FOR) => None,
            _ => self.generate(now),
        }
    }

    /// Those that no token needs any more.
    pub fn over(&self) -> Vec<String> {
        self.opened.load().over.clone()
    }

    fn generate(&self, now: Timestamp) -> Option<SigningKey> {
        let mut seed = Zeroizing::new([0u8; 32]);
        let mut name = [0u8; 8];
        getrandom::fill(seed.as_mut()).and_then(|()| getrandom::fill(&mut name)).ok()?;
        let id = HEXLOWER.encode(&name);
        let sealed = self.digester.sealer().seal(&sealed_name(&id), &*seed).ok()?;
        Some(SigningKey { id, sealed, created_at: now })
    }

    /// A token (RFC 7515) with these claims.
    ///
    /// # Errors
    /// [`NoKey`]
    pub fn sign(&self, claims: Claims) -> Result<Zeroizing<String>, NoKey> {
        let opened = self.opened.load();
        let newest = opened.newest.as_ref().ok_or(NoKey)?;
        let header = json!({"typ": "JWT", "alg": Algorithm::EdDsa.as_str(), "kid": newest.id});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let mut token = Zeroizing::new(format!("{}.{}", part(&header), part(&Value::Object(claims))));
        let signature = newest.pair.try_sign(token.as_bytes()).map_err(|_| NoKey)?;
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature.as_ref()));
        Ok(token)
    }

    /// What verifies our own tokens.
    pub fn verifying(&self) -> Arc<KeySet> {
        Arc::clone(&self.opened.load().verifying)
    }

    /// The public halves as a JWK Set (RFC 7517, RFC 8037).
    pub fn jwks(&self) -> Value {
        self.opened.load().jwks.clone()
    }
}

fn sealed_name(id: &str) -> String {
    format!("signing_key:{id}")
}

impl Opened {
    fn of(pairs: &[Newest], over: &[String]) -> Self {
        let mut verifying = KeySet::empty();
        let mut keys = Vec::new();
        for Newest { id, pair, .. } in pairs {
            let public = pair.public_key().as_ref();
            verifying.push_ed25519(id.clone(), public);
            let x = URL_SAFE_NO_PAD.encode(public);
            keys.push(json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": id, "x": x}));
        }
        let jwks = json!({ "keys": keys });
        Self { proof: None, newest: None, verifying: Arc::new(verifying), jwks, over: over.to_vec() }
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKeys({:?})", self.opened.load().verifying)
    }
}
