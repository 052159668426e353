//! From a token to a principal: which issuer, which key, is it genuine, what does it say. A verified token is remembered
//! until it ends, so that its next check costs what an API key costs; one that was refused is not.

pub mod key_set;
pub mod source;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::ResolveError;
use super::cache::{Cache, Sizes};
use super::l2::{Known, L2};
use crate::domain::credential::Digest;
use crate::domain::decision::Denial;
use crate::domain::json::parse_object;
use crate::domain::principal::{Grant, Principal};
use crate::domain::time::Timestamp;
use crate::domain::token::PresentedToken;
use crate::policy::Policy;
use crate::policy::issuer::{Claims, Header, Issuer, claimed_issuer, read_header, validity};
use crate::policy::login::{Login, Session};
use crate::revocation::stamps::Stamps;
use crate::store::redis::shared::SharedKey;
use key_set::{KeySet, NotSigned};
use source::{Freshness, IssuerKeys, Withdrawals};

/// The issuers of one policy, and what their tokens were found to be.
#[derive(Debug)]
pub struct Issuers {
    others: Vec<Follows>,
    login: Option<Login>,
    withdrawals: Withdrawals,
    l2: Option<L2>,
    pub(super) cache: Cache<Principal>,
}

/// A verified token is verified again after this time, however long it says that it lives.
const REMEMBERED_FOR: Duration = Duration::from_secs(3600);

/// An issuer and its keys.
#[derive(Clone, Debug)]
struct Follows {
    rules: Issuer,
    keys: Arc<IssuerKeys>,
}

/// What a genuine token stands for.
#[derive(Debug)]
pub enum Genuine {
    /// Somebody that another issuer speaks for.
    Other { issuer: Box<str>, subject: String, grant: Grant, expires_at: Timestamp },
    /// A user of our own, on this plane, if the session still stands.
    Session(Session, Box<str>),
}

impl Issuers {
    pub fn none(stamps: Arc<Stamps>, sizes: Sizes, l2: Option<L2>) -> Self {
        Self {
            others: Vec::new(),
            login: None,
            withdrawals: Withdrawals::default(),
            l2,
            cache: Cache::for_a_while(stamps, sizes, REMEMBERED_FOR),
        }
    }

    /// The issuers of a policy, with the keys that are followed already where their source is the same.
    pub fn of(policy: &Policy, before: &Self, stamps: Arc<Stamps>, sizes: Sizes) -> Self {
        let followed = |rules: &Issuer| {
            let same = |old: &&Follows| {
                old.rules.keys == rules.keys && old.rules.algorithms == rules.algorithms && old.rules.name == rules.name
            };
            let keys = before.others.iter().find(same).map(|old| Arc::clone(&old.keys));
            let follow = || Arc::new(IssuerKeys::follow(rules, &before.withdrawals, before.l2.clone()));
            Follows { rules: rules.clone(), keys: keys.unwrap_or_else(follow) }
        };
        let others = policy.issuers.iter().map(followed).collect();
        Self {
            others,
            login: policy.login.clone(),
            withdrawals: before.withdrawals.clone(),
            l2: before.l2.clone(),
            cache: Cache::for_a_while(stamps, sizes, REMEMBERED_FOR),
        }
    }

    pub(super) fn l2(&self) -> Option<&L2> {
        self.l2.as_ref()
    }

    /// The name under which a token is remembered, until the next withdrawal of a key.
    pub(super) fn name(&self, token: Digest) -> Digest {
        let number = self.withdrawals.number().to_be_bytes();
        let mut name = token;
        for (byte, mixed) in name.0.iter_mut().zip(number) {
            *byte ^= mixed;
        }
        name
    }

    /// Whether nothing has to be done to follow this policy.
    pub fn suit(&self, policy: &Policy) -> bool {
        self.login == policy.login && self.others.iter().map(|follows| &follows.rules).eq(&policy.issuers)
    }

    /// Whether the token is genuine and valid now, and what it stands for. `digest` is that of the token; `own` are the keys
    /// that our own tokens are signed with.
    ///
    /// # Errors
    /// [`ResolveError::Refused`] if it is not; [`ResolveError::Unavailable`] if its issuer's keys cannot be had now.
    pub async fn verify(
        &self,
        token: &PresentedToken<'_>,
        digest: Digest,
        own: &KeySet,
        now: Timestamp,
    ) -> Result<Genuine, ResolveError> {
        let header = read_header(&part(token.header(), Denial::TokenHeader)?)?;
        let claims = part(token.payload(), Denial::TokenClaims)?;
        // Nobody vouches for the claims yet: this only says whose keys to try.
        let Some(issuer) = claimed_issuer(&claims) else { return Err(Denial::TokenIssuer.into()) };
        if let Some(login) = self.login.as_ref().filter(|login| *login.issuer == *issuer) {
            own.verify(&header, token.signed(), token.signature()).map_err(denial)?;
            return Ok(Genuine::Session(login.session(&claims, now)?, login.plane.clone()));
        }
        let Some(follows) = self.others.iter().find(|follows| *follows.rules.issuer == *issuer) else {
            return Err(Denial::TokenIssuer.into());
        };
        if !follows.rules.algorithms.contains(&header.algorithm) {
            return Err(Denial::TokenHeader.into());
        }
        follows.verify(&header, token, digest, self.l2.as_ref()).await?;
        follows.genuine(&claims, now)
    }
}

/// The session of a token of our own, whether it still stands or not.
///
/// # Errors
/// The [`Denial`] if it is not genuine or not valid now.
pub fn own_session(
    login: Option<&Login>,
    token: &PresentedToken<'_>,
    own: &KeySet,
    now: Timestamp,
) -> Result<Session, Denial> {
    let header = read_header(&part(token.header(), Denial::TokenHeader)?)?;
    own.verify(&header, token.signed(), token.signature()).map_err(denial)?;
    login.ok_or(Denial::TokenIssuer)?.session(&part(token.payload(), Denial::TokenClaims)?, now)
}

impl Follows {
    /// Verifies here, or learns that another replica has: only that a signature is good under these very keys is shared, and
    /// all that a token says is judged here.
    async fn verify(
        &self,
        header: &Header,
        token: &PresentedToken<'_>,
        digest: Digest,
        l2: Option<&L2>,
    ) -> Result<(), ResolveError> {
        let (Some(l2), Some(keys)) = (l2.filter(|_| header.algorithm.is_slow()), self.keys.keys()) else {
            return self.verify_here(header, token).await;
        };
        let key = l2.signature(&self.rules.name, digest, &keys.fingerprint());
        match l2.look(key).await {
            Known::Value(..) => Ok(()),
            Known::Unreachable => self.verify_here(header, token).await,
            Known::Nothing(ticket) => {
                self.verify_here(header, token).await?;
                // It may have taken newer keys than those that this is for.
                if self.keys.keys().is_some_and(|now| Arc::ptr_eq(&now, &keys)) {
                    let (l2, tenant) = (l2.clone(), self.rules.name.clone());
                    let (kind, name) = (key.kind, key.name);
                    tokio::spawn(async move {
                        l2.tell(SharedKey { tenant: &tenant, kind, name }, b"", REMEMBERED_FOR, ticket).await;
                    });
                }
                Ok(())
            }
        }
    }

    async fn verify_here(&self, header: &Header, token: &PresentedToken<'_>) -> Result<(), ResolveError> {
        let attempt = || match self.keys.keys() {
            Some(keys) => keys.verify(header, token.signed(), token.signature()),
            None => Err(NotSigned::UnknownKey),
        };
        match attempt() {
            Ok(()) => return Ok(()),
            Err(NotSigned::WrongSignature) => return Err(Denial::TokenSignature.into()),
            Err(NotSigned::UnknownKey) => {}
        }
        // The issuer may have a new key.
        match self.keys.refresh().await {
            Freshness::Fresh => attempt().map_err(|not_signed| denial(not_signed).into()),
            // It may be in the set that could not be had.
            Freshness::Unknown => attempt().map_err(|not_signed| match not_signed {
                NotSigned::UnknownKey => ResolveError::Unavailable,
                NotSigned::WrongSignature => Denial::TokenSignature.into(),
            }),
        }
    }

    fn genuine(&self, claims: &Claims, now: Timestamp) -> Result<Genuine, ResolveError> {
        let rules = &self.rules;
        let expires_at = validity(claims, &rules.issuer, &rules.audiences, rules.leeway, now)?;
        let (subject, grant) = rules.grant(claims)?;
        Ok(Genuine::Other { issuer: rules.name.clone(), subject, grant, expires_at })
    }
}

fn denial(not_signed: NotSigned) -> Denial {
    match not_signed {
        NotSigned::UnknownKey => Denial::TokenKey,
        NotSigned::WrongSignature => Denial::TokenSignature,
    }
}

/// A part of a token: base64url without padding (RFC 7515 section 2) of one JSON object.
fn part(text: &str, otherwise: Denial) -> Result<Claims, Denial> {
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| otherwise)?;
    parse_object(&bytes).map_err(|_| otherwise)
}
