//! Logging in and out: a password for a token that we sign, and its end. Never says whether it was the name or the password
//! that was wrong, and takes the same time for both.

mod throttle;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use serde_json::Value;
use tokio::sync::Mutex;
use tollgate_core::denial::Denial;
use tollgate_core::login::{Login, Session};
use tollgate_core::name::is_login_name;
use tollgate_core::policy::Policy;
use tollgate_core::token::PresentedToken;
use tollgate_guard::time::Timestamp;
use zeroize::Zeroizing;

use crate::clock::Clock;
use crate::domain::record::{EndedSession, OpenSession, Project, SigningKey, User};
use crate::password::{LoginPriority, Passwords};
use crate::registry::{Actor, Made, Registry, RegistryError, whoever_logs_in};
use crate::resolve::jwt::own_session;
use crate::resolve::mismatch::MismatchLog;
use crate::resolve::signing::SigningKeys;
use crate::store::{SessionLoad, Store, StoreError};
use throttle::Throttle;

pub use throttle::network_of;

/// Logs users in and out. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Logins {
    store: Store,
    registry: Registry,
    signing: Arc<SigningKeys>,
    passwords: Passwords,
    throttle: Arc<Throttle>,
    mismatches: Arc<MismatchLog>,
    /// Held while signing keys are made, so that none is lost.
    renewing: Arc<Mutex<()>>,
    clock: Clock,
}

/// A token that was just made: shown once.
#[derive(Debug)]
pub struct Issued {
    /// What the user is known by.
    pub user: String,
    pub token: Zeroizing<String>,
    pub expires_at: Timestamp,
}

/// Why nobody was logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LoginError {
    /// The configuration has no `login`.
    NotConfigured,
    /// The name, the password or both are wrong, or the user is disabled.
    Refused,
    /// Too many attempts for this user or from this address, or too many sessions of this user or of their project began of late.
    Throttled { retry_after: Duration },
    /// Too many passwords wait to be checked.
    Busy,
    /// The store cannot be reached.
    Unavailable,
}

impl From<StoreError> for LoginError {
    fn from(_: StoreError) -> Self {
        Self::Unavailable
    }
}

/// A signing key is tried to be stored this often, while others store theirs.
const ATTEMPTS: usize = 3;

impl Logins {
    pub fn new(
        store: Store,
        registry: Registry,
        signing: Arc<SigningKeys>,
        passwords: Passwords,
        clock: Clock,
    ) -> Self {
        let (throttle, mismatches, renewing) = Default::default();
        Self { store, registry, signing, passwords, throttle, mismatches, renewing, clock }
    }

    /// Who hashes passwords.
    pub fn passwords(&self) -> &Passwords {
        &self.passwords
    }

    /// A token for whoever knows the password. `address`: the client's, if it is known.
    ///
    /// # Errors
    /// [`LoginError`]
    pub async fn login(
        &self,
        policy: &Policy,
        name: &str,
        password: Zeroizing<String>,
        address: Option<IpAddr>,
    ) -> Result<Issued, LoginError> {
        let login = policy.login.as_ref().ok_or(LoginError::NotConfigured)?;
        let now = self.clock.now();
        let attempt = self.throttle.attempt(name, address, self.clock.moment());
        let attempt = attempt.map_err(|retry_after| LoginError::Throttled { retry_after })?;
        let user = match is_login_name(name) {
            true => self.whoever_may_log_in(name).await?,
            false => None,
        };
        let hash = user.as_ref().map(|user| user.password_hash.clone());
        let is_known = user.as_ref().is_some_and(|user| attempt.is_known(user.sessions));
        let priority = if is_known { LoginPriority::Known } else { LoginPriority::Anyone(address.map(network_of)) };
        let is_right = self.passwords.verify(priority, password, hash).await.map_err(|_| LoginError::Busy)?;
        let Some(user) = user.filter(|_| is_right) else {
            attempt.failed();
            return Err(LoginError::Refused);
        };
        self.throttle.succeeded(attempt, user.sessions);
        self.issue(login, &user, now, address).await
    }

    /// Whom this name means, unless they or their project are kept out.
    async fn whoever_may_log_in(&self, name: &str) -> Result<Option<User>, LoginError> {
        let SessionLoad { user, project, .. } = whoever_logs_in(&self.store, name).await?.unwrap_or_default();
        if let Some(user) = &user {
            let who = || self.registry.logged(&format!("user:{}", user.name)).into_owned();
            self.mismatches.note(&user.project, user.project_id, project.as_ref(), who);
        }
        let lets_in = |user: &User| Project::lets_in(project.as_ref(), user.project_id);
        Ok(user.filter(|user| user.may_log_in() && lets_in(user)))
    }

    async fn issue(
        &self,
        login: &Login,
        user: &User,
        now: Timestamp,
        address: Option<IpAddr>,
    ) -> Result<Issued, LoginError> {
        self.registry.admit_session(user).map_err(|retry_after| LoginError::Throttled { retry_after })?;
        self.renew_keys().await?;
        let id = random_id().ok_or(LoginError::Unavailable)?;
        // Tokens say whole seconds.
        let expires_at = Timestamp::from_secs(now.plus(login.lifetime).as_secs());
        let generation = user.sessions;
        let address = address.map(|address| address.to_canonical().to_string());
        let open = OpenSession { id: id.clone(), generation, began_at: now, expires_at, address };
        // A token whose session has no record would be refused.
        let recorded = self.registry.begin_session(user, open).await?;
        let session = Session { id, user: user.name.clone(), generation, expires_at, recorded };
        let token = self.signing.sign(login.claims(&session, now)).map_err(|_| LoginError::Unavailable)?;
        Ok(Issued { user: session.user, token, expires_at })
    }

    /// Ends the session of a token, whoever may be asked for another user's by `actor`.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`] if it is no token of ours that is valid now.
    pub async fn logout(&self, policy: &Policy, actor: &Actor, token: &str) -> Result<Made<()>, RegistryError> {
        let invalid = |_| RegistryError::Invalid {
            field: "authorization",
            problem: "only a token that `login` gave can be ended by logging out: keys are revoked".to_owned(),
        };
        let now = self.clock.now();
        let token = PresentedToken::parse(token).map_err(|_| Denial::CredentialMalformed).map_err(invalid)?;
        self.signing.refresh(now).await.map_err(RegistryError::from)?;
        let session = own_session(policy.login.as_ref(), &token, &self.signing.verifying(), now).map_err(invalid)?;
        let Session { id, user, expires_at, .. } = session;
        self.registry.end_session(actor, EndedSession { id, user, ended_at: now, expires_at }).await
    }

    /// Our public keys, for whoever verifies our tokens without asking us.
    pub async fn jwks(&self) -> Value {
        // Those that are known are right, even if there may be more.
        let _ = self.signing.refresh(self.clock.now()).await;
        self.signing.jwks()
    }

    /// Makes a key if there is none or the newest has signed for long enough, and takes those away that no token needs.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; what was known stays in force.
    pub async fn renew_keys(&self) -> Result<(), StoreError> {
        let _alone = self.renewing.lock().await;
        for _ in 0..ATTEMPTS {
            let now = self.clock.now();
            let Some(key) = self.signing.due(now) else { break };
            self.store_key(key).await?;
            self.signing.load(now).await?;
        }
        for id in self.signing.over() {
            // Another replica may have been faster.
            let _ = self.registry.delete_signing_key(&Actor::tollgate(), &id).await;
        }
        Ok(())
    }

    async fn store_key(&self, key: SigningKey) -> Result<(), StoreError> {
        match self.registry.create_signing_key(&Actor::tollgate(), key).await {
            Ok(()) | Err(RegistryError::Conflict(_)) => Ok(()),
            Err(error) => Err(StoreError::Unavailable(error.to_string())),
        }
    }
}

/// 128 random bits.
fn random_id() -> Option<String> {
    let mut bytes = [0u8; 16];
    getrandom::fill(&mut bytes).ok()?;
    Some(HEXLOWER.encode(&bytes))
}
