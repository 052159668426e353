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
    /// they had not been yet. Gives those that may stand still: ask again for them.
    pub async fn end_again(&self, ended: &[Ended]) -> Vec<Ended> {
        let mut left = Vec::new();
        for (at, one) in ended.iter().enumerate() {
            let key = match self.store.key_by_digest(vec![one.digest]).await {
                // Nothing more can be found out now.
                Err(error) if error.is_transient() => {
                    tracing::warn!(%error, "what the store may have lost cannot be ended again yet");
                    left.extend_from_slice(ended.get(at..).unwrap_or_default());
                    break;
                }
                found => found.map_err(Into::into),
            };
            // One that fails keeps no other one valid.
            if let Err(error) = self.revoke_again(key, one).await {
                tracing::warn!(%error, "the revocation of a key that the store had lost is tried again");
                left.push(*one);
            }
        }
        left
    }

    async fn revoke_again(&self, key: Result<Option<ApiKey>>, ended: &Ended) -> Result<()> {
        // What is no key is a session, and its token says when it ends by itself.
        let Some(key) = key?.filter(|key| key.revoked_at.is_none()) else { return Ok(()) };
        tracing::error!(key_id = %key.id, "the store had lost the revocation of a key: it is revoked again");
        let actor = Actor::tollgate();
        let attempt = Attempt::on_key(&actor, "key.revoke", key.id);
        let revoked = ApiKey { revoked_at: Some(ended.at), version: key.version + 1, ..key };
        let change: Change<ApiKey> = key_change(vec![Write::UpdateKey(revoked.clone())], &[revoked.digest], revoked);
        self.commit(&attempt, change).await.map(drop)
    }
}
