//! Ends again what a store has lost the end of. Never ends anything else.

use super::actor::Actor;
use super::audit::Attempt;
use super::keys::key_change;
use super::{Change, Registry, RegistryError, Result};
use crate::domain::change::Ended;
use crate::domain::record::ApiKey;
use crate::store::Write;

impl Registry {
    /// Revokes the keys that were heard to be revoked and that the store says are not: it went over to a history in which
    /// they had not been yet. Gives how many there were.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`] if the store cannot be asked; those before are done.
    pub async fn end_again(&self, ended: &[Ended]) -> Result<usize> {
        let mut count = 0;
        for one in ended {
            // What is no key is a session, and its token says when it ends by itself.
            let Some(key) = self.store.key_by_digest(vec![one.digest]).await? else { continue };
            if key.revoked_at.is_none() {
                self.revoke_again(key, one).await?;
                count += 1;
            }
        }
        Ok(count)
    }

    async fn revoke_again(&self, key: ApiKey, ended: &Ended) -> Result<()> {
        tracing::error!(key_id = %key.id, "the store had lost the revocation of a key: it is revoked again");
        let actor = Actor::tollgate();
        let attempt = Attempt::on_key(&actor, "key.revoke", key.id);
        let revoked = ApiKey { revoked_at: Some(ended.at), version: key.version + 1, ..key };
        let change: Change<ApiKey> = key_change(vec![Write::UpdateKey(revoked.clone())], &[revoked.digest], revoked);
        match self.commit(&attempt, change).await {
            // Another replica was faster.
            Ok(_) | Err(RegistryError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}
