//! What was found out about the tokens of an issuer, forgotten everywhere. Changes no record.

use tollgate_core::named::named;
use tollgate_core::policy::Policy;
use tollgate_core::redact;
use tollgate_guard::slots::Slots;

use super::actor::Actor;
use super::audit::Attempt;
use super::{Made, Registry, RegistryError, Result};
use crate::domain::change::Event;
use crate::domain::record::Outcome;
use crate::store::Write;

impl Registry {
    /// Has every token of an issuer verified anew, and its keys fetched anew by whoever needs them. When this returns, no check
    /// that begins afterwards goes by what was found out before.
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`] to whoever is bound to a project, [`RegistryError::NotFound`] if there is no such issuer,
    /// [`RegistryError::Unavailable`] if the fleet could not be told.
    pub async fn forget_issuer(&self, policy: &Policy, actor: &Actor, name: &str) -> Result<Made<()>> {
        let shown = redact::echo(name);
        let attempt = Attempt { actor, act: "issuer.forget", target: format!("issuer:{shown}") };
        self.demand_unbound(&attempt, None, "has tokens verified anew").await?;
        if policy.issuers.iter().all(|issuer| *issuer.name != *name) {
            return Err(RegistryError::NotFound(format!("there is no issuer {shown} in the configuration")));
        }
        if let Some(l2) = &self.l2 {
            // First, so that nobody finds there what they have just forgotten.
            l2.purge(name).await?;
        }
        let event = Event::touching(&[Slots::of_digests(&[named("issuer", name)])]);
        let row = Write::Audit(self.row(&attempt, None, Outcome::Done, None));
        let sequence = Some(self.apply(vec![row], event).await?);
        Ok(Made { result: (), sequence })
    }
}
