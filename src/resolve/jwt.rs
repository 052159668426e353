//! From a token to a principal: which issuer, which key, is it genuine, what does it say. A verified token is remembered
//! until it ends, so that its next check costs what an API key costs. Which thread verifies a signature is for `signatures.rs` to say.

pub mod inline;
pub mod key_set;
mod refusals;
pub mod signatures;
pub mod source;
mod weak;

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use tollgate_core::denial::Denial;
use tollgate_core::issuer::{Claims, Granted, Header, Issuer, claimed_issuer, read_header, validity};
use tollgate_core::login::{Login, Session};
use tollgate_core::named::named;
use tollgate_core::policy::Policy;
use tollgate_core::principal::{Grant, Principal};
use tollgate_core::token::PresentedToken;
use tollgate_guard::digest::Digest;
use tollgate_guard::stamps::Stamps;
use tollgate_guard::time::Timestamp;

use super::ResolveError;
use super::cache::{Cache, Sizes};
use super::l2::{Known, L2};
use crate::domain::json::parse_object;
use crate::store::redis::shared::SharedKey;
use crate::tasks::Tasks;
use key_set::{KeySet, NotSigned};
use refusals::Refusals;
use signatures::{Busy, Signatures};
use source::{Freshness, IssuerKeys, Withdrawals};

/// The issuers of one policy, and what their tokens were found to be.
#[derive(Debug)]
pub struct Issuers {
    others: Vec<Follows>,
    login: Option<Login>,
    withdrawals: Withdrawals,
    l2: Option<L2>,
    signatures: Arc<Signatures>,
    refusals: Refusals,
    pub(super) cache: Cache<Principal>,
}

/// A verified token is verified again after this time, however long it says that it lives.
const REMEMBERED_FOR: Duration = Duration::from_secs(3600);

/// An issuer and its keys.
#[derive(Clone, Debug)]
struct Follows {
    rules: Issuer,
    digest: Digest,
    keys: Arc<IssuerKeys>,
}

/// What a genuine token stands for.
#[derive(Debug)]
pub enum Genuine {
    /// Somebody that another issuer speaks for.
    Other {
        /// The digest of the issuer's name.
        issuer: Digest,
        subject: String,
        /// As [`Issuer::grant`] gives it.
        id: Box<str>,
        grant: Grant,
        expires_at: Timestamp,
        /// See [`Issuer::allows_unknown_projects`].
        allows_unknown_project: bool,
    },
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
            signatures: Arc::default(),
            refusals: Refusals::default(),
            cache: Cache::for_a_while(stamps, sizes, REMEMBERED_FOR),
        }
    }

    /// The issuers of a policy, with the keys that are followed already where their source is the same.
    pub fn of(policy: &Policy, before: &Self, stamps: Arc<Stamps>, sizes: Sizes, tasks: &Tasks) -> Self {
        let followed = |rules: &Issuer| {
            let same = |old: &&Follows| {
                old.rules.keys == rules.keys && old.rules.algorithms == rules.algorithms && old.rules.name == rules.name
            };
            let keys = before.others.iter().find(same).map(|old| Arc::clone(&old.keys));
            let task = || tasks.task("issuer_keys");
            let follow = || Arc::new(IssuerKeys::follow(rules, &before.withdrawals, before.l2.clone(), task()));
            Follows { rules: rules.clone(), digest: named("issuer", &rules.name), keys: keys.unwrap_or_else(follow) }
        };
        let others = policy.issuers.iter().map(followed).collect();
        Self {
            others,
            login: policy.login.clone(),
            withdrawals: before.withdrawals.clone(),
            l2: before.l2.clone(),
            signatures: Arc::clone(&before.signatures),
            // What other rules refused, these may not.
            refusals: Refusals::default(),
            cache: Cache::for_a_while(stamps, sizes, REMEMBERED_FOR),
        }
    }

    pub(super) fn l2(&self) -> Option<&L2> {
        self.l2.as_ref()
    }

    /// How long ago the newest key set of each was fetched, of those that have one.
    pub(super) fn key_ages(&self) -> impl Iterator<Item = (&str, Duration)> {
        self.others.iter().filter_map(|follows| Some((&*follows.rules.name, follows.keys.age()?)))
    }

    /// Where their signatures are verified.
    pub(super) fn signatures(&self) -> &Arc<Signatures> {
        &self.signatures
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
    /// [`ResolveError::Refused`] if it is not; [`ResolveError::Unavailable`] if its issuer's keys cannot be had now, or too
    /// many signatures wait.
    pub async fn verify(
        &self,
        token: &PresentedToken<'_>,
        digest: Digest,
        own: &Arc<KeySet>,
        now: Timestamp,
    ) -> Result<Genuine, ResolveError> {
        let header = read_header(&part(token.header(), Denial::TokenHeader)?)?;
        let claims = part(token.payload(), Denial::TokenClaims)?;
        // Nobody vouches for the claims yet: this only says whose keys to try.
        let Some(issuer) = claimed_issuer(&claims) else { return Err(Denial::TokenIssuer.into()) };
        if let Some(login) = self.login.as_ref().filter(|login| *login.issuer == *issuer) {
            self.refusals.check(digest, own, now)?;
            self.signatures.verify(digest, own, &header, token).await?.map_err(denial)?;
            let session = login.session(&claims, now);
            let session = session.inspect_err(|denial| self.refusals.note(digest, own, *denial, now))?;
            return Ok(Genuine::Session(session, login.plane.clone()));
        }
        let Some(follows) = self.others.iter().find(|follows| *follows.rules.issuer == *issuer) else {
            return Err(Denial::TokenIssuer.into());
        };
        if !follows.rules.algorithms.contains(&header.algorithm) {
            return Err(Denial::TokenHeader.into());
        }
        let keys = follows.keys.keys();
        if let Some(keys) = &keys {
            self.refusals.check(digest, keys, now)?;
        }
        let candidate = Candidate { header: &header, token, digest, signatures: &self.signatures };
        follows.verify(&candidate, self.l2.as_ref()).await?;
        let genuine = follows.genuine(&claims, now);
        // Others than these may have signed it, if there are newer ones by now.
        if let (Err(denial), Some(keys)) = (&genuine, keys.filter(|keys| follows.has(keys))) {
            self.refusals.note(digest, &keys, *denial, now);
        }
        Ok(genuine?)
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

/// A token of which only the signature is of interest.
struct Candidate<'c> {
    header: &'c Header,
    token: &'c PresentedToken<'c>,
    digest: Digest,
    signatures: &'c Signatures,
}

impl Follows {
    /// Verifies here, or learns that another replica has: only that a signature is good under these very keys is shared, and
    /// all that a token says is judged here.
    async fn verify(&self, candidate: &Candidate<'_>, l2: Option<&L2>) -> Result<(), ResolveError> {
        let (Some(l2), Some(keys)) = (l2.filter(|_| candidate.header.algorithm.is_slow()), self.keys.keys()) else {
            return self.verify_here(candidate).await;
        };
        // What nobody in the fleet can have verified is not asked about, and a flood of forgeries asks little.
        let is_hopeless =
            !keys.has_key_for(candidate.header) || candidate.signatures.has_refused(candidate.digest, &keys);
        let Some(right) = candidate.signatures.look().filter(|_| !is_hopeless) else {
            return self.verify_here(candidate).await;
        };
        let key = l2.signature(&self.rules.name, candidate.digest, &keys.fingerprint());
        let known = l2.look(key).await;
        drop(right);
        match known {
            Known::Value(..) => Ok(()),
            Known::Unreachable => self.verify_here(candidate).await,
            Known::Nothing(ticket) => {
                self.verify_here(candidate).await?;
                // It may have taken newer keys than those that this is for.
                if self.has(&keys) {
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

    async fn verify_here(&self, candidate: &Candidate<'_>) -> Result<(), ResolveError> {
        let before = self.keys.keys();
        let found = self.attempt(candidate).await?;
        // A token that names no key may be of one that is not among these.
        let may_be_of_another = candidate.header.key_id.is_none();
        match found {
            Ok(()) => return Ok(()),
            Err(NotSigned::WrongSignature) if !may_be_of_another => return Err(Denial::TokenSignature.into()),
            Err(NotSigned::WrongSignature | NotSigned::UnknownKey) => {}
        }
        // The issuer may have a new key.
        let freshness = self.keys.refresh().await;
        let is_same = |now: &Arc<KeySet>| before.as_ref().is_some_and(|before| Arc::ptr_eq(before, now));
        let found =
            if self.keys.keys().is_some_and(|now| is_same(&now)) { found } else { self.attempt(candidate).await? };
        match (found, freshness) {
            // It may be in the set that could not be had.
            (Err(NotSigned::UnknownKey), Freshness::Unknown) => Err(ResolveError::Unavailable),
            (found, Freshness::Fresh | Freshness::Unknown) => found.map_err(|not_signed| denial(not_signed).into()),
        }
    }

    /// Whether these are still its keys.
    fn has(&self, keys: &Arc<KeySet>) -> bool {
        self.keys.keys().is_some_and(|now| Arc::ptr_eq(&now, keys))
    }

    /// Under the keys that there are now.
    async fn attempt(&self, candidate: &Candidate<'_>) -> Result<Result<(), NotSigned>, ResolveError> {
        let Some(keys) = self.keys.keys() else { return Ok(Err(NotSigned::UnknownKey)) };
        Ok(candidate.signatures.verify(candidate.digest, &keys, candidate.header, candidate.token).await?)
    }

    fn genuine(&self, claims: &Claims, now: Timestamp) -> Result<Genuine, Denial> {
        let rules = &self.rules;
        let expires_at = validity(claims, &rules.issuer, &rules.audiences, rules.leeway, now)?;
        let Granted { subject, id, grant } = rules.grant(claims)?;
        let allows_unknown_project = rules.allows_unknown_projects();
        Ok(Genuine::Other { issuer: self.digest, subject, id, grant, expires_at, allows_unknown_project })
    }
}

impl From<Busy> for ResolveError {
    fn from(_: Busy) -> Self {
        Self::Unavailable
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
