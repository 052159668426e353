//! That a copy of everything was taken. Makes none.

use super::actor::Actor;
use super::audit::Attempt;
use super::{Registry, RegistryError, Result};
use crate::domain::change::Event;
use crate::domain::record::{Outcome, STORE_BACKUP};
use crate::store::Write;
use crate::store::snapshot::Signer;

impl Registry {
    /// What signs copies of the store.
    pub fn snapshot_signer(&self) -> Signer {
        self.digester.snapshot_signer()
    }

    /// Writes down that somebody takes a copy of the store, before they get it.
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`] to all but the operator, [`RegistryError::Unavailable`] if it could not be written down.
    pub async fn note_backup(&self, actor: &Actor) -> Result<()> {
        let attempt = Attempt { actor, act: STORE_BACKUP, target: "store".to_owned() };
        if !actor.is_operator() {
            let reason = "only the operator takes a copy of the store";
            return self.refuse(&attempt, None, reason, RegistryError::Forbidden(reason.to_owned())).await;
        }
        let row = Write::Audit(self.row(&attempt, None, Outcome::Done, None));
        self.apply(vec![row], Event::touching(&[])).await.map(|_| ())
    }
}
