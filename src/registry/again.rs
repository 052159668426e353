//! Ends again what a store has lost the end of. Never ends anything else.

use super::actor::Actor;
use super::audit::Attempt;
use super::keys::key_change;
use super::{Change, Registry, Result};
use crate::domain::change::Ended;
use crate::domain::record::ApiKey;
use crate::store::Write;

impl Registry {
    /// Revokes the keys that were heard to be revoked and that the store says are not: it went over to a history in which
    /// they had not been yet. Gives how many there were.
    ///
    /// # Errors
    /// [`super::RegistryError::Unavailable`] if the store cannot be asked, and then those before are done;
    /// [`super::RegistryError::Conflict`] or another one if some could not be revoked, and then all others are. Ask again.
    pub async fn end_again(&self, ended: &[Ended]) -> Result<usize> {
        let (mut count, mut failure) = (0, None);
        for one in ended {
            // What is no key is a session, and its token says when it ends by itself.
            let Some(key) = self.store.key_by_digest(vec![one.digest]).await? else { continue };
            if key.revoked_at.is_none() {
                // One that fails keeps no other one valid.
                match self.revoke_again(key, one).await {
                    Ok(()) => count += 1,
                    Err(error) => failure = Some(error),
                }
            }
        }
        failure.map_or(Ok(count), Err)
    }

    async fn revoke_again(&self, key: ApiKey, ended: &Ended) -> Result<()> {
        tracing::error!(key_id = %key.id, "the store had lost the revocation of a key: it is revoked again");
        let actor = Actor::tollgate();
        let attempt = Attempt::on_key(&actor, "key.revoke", key.id);
        let revoked = ApiKey { revoked_at: Some(ended.at), version: key.version + 1, ..key };
        let change: Change<ApiKey> = key_change(vec![Write::UpdateKey(revoked.clone())], &[revoked.digest], revoked);
        self.commit(&attempt, change).await.map(drop)
    }
}
