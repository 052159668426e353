//! Idempotency keys: a creation that is asked for twice is made once. Never keeps the key itself or what was asked for.

use serde_json::Value;

use super::audit::Attempt;
use super::rules::invalid;
use super::{Registry, RegistryError, Result};
use crate::store::{OnceRecord, Write};

/// What a client calls one creation, so that it can ask for it again (`Idempotency-Key`): 1 to 255 visible ASCII
/// characters. Each actor has names of its own for each act.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    pub key: String,
}

/// An idempotency key and what was asked for under it, as the store knows them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    digest: [u8; 32],
    fingerprint: [u8; 32],
}

impl Registry {
    /// # Errors
    /// [`RegistryError::Invalid`] if the key is not one.
    pub(super) fn ticket(&self, attempt: &Attempt<'_>, once: Option<&Once>, asked: &Value) -> Result<Option<Ticket>> {
        let Some(Once { key }) = once else { return Ok(None) };
        if !matches!(key.len(), 1..=255) || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return invalid("Idempotency-Key", "must be 1 to 255 visible ASCII characters");
        }
        // Neither the act nor the key holds a line break, so that no two can be taken for one.
        let name = format!("{}\n{key}\n{}", attempt.act, attempt.actor.identity());
        let digest = self.digester.of_name("once", &name).0;
        Ok(Some(Ticket { digest, fingerprint: self.digester.of_name("asked", &asked.to_string()).0 }))
    }

    /// What was made under this key already.
    ///
    /// # Errors
    /// [`RegistryError::Mismatch`] if something else was asked for.
    pub(super) async fn made_before(&self, ticket: Option<Ticket>) -> Result<Option<String>> {
        let Some(ticket) = ticket else { return Ok(None) };
        match self.store.once(ticket.digest).await? {
            Some(known) if !known.holds(self.clock.now()) => Ok(None),
            Some(known) if known.fingerprint == ticket.fingerprint => Ok(Some(known.target)),
            Some(_) => Err(RegistryError::Mismatch(
                "this idempotency key was used for something else: use a new one".to_owned(),
            )),
            None => Ok(None),
        }
    }

    /// Notes, with the creation, that the key was used for it.
    pub(super) fn used(&self, ticket: Option<Ticket>, target: &str) -> Option<Write> {
        let Ticket { digest, fingerprint } = ticket?;
        Some(Write::Once(OnceRecord { digest, fingerprint, target: target.to_owned(), at: self.clock.now() }))
    }
}
