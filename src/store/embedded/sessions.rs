//! Sessions, their ends and the keys that sign tokens, in the embedded store. Never takes a damaged record for none.

use super::super::StoreError;
use super::{Embedded, records};
use crate::domain::record::{EndedSession, OpenSession, SigningKey, UserSessions};

impl Embedded {
    pub fn ended_session(&self, id: &str) -> Result<bool, StoreError> {
        self.engine.read(|read| Ok(records::read::<EndedSession>(read, id.as_bytes())?.is_some()))
    }

    /// As [`super::super::Store::sessions`].
    pub fn sessions(&self, user: &str) -> Result<Vec<OpenSession>, StoreError> {
        let known = self.engine.read(|read| records::read::<UserSessions>(read, user.as_bytes()))?;
        Ok(known.map_or_else(Vec::new, |known| known.sessions))
    }

    pub fn signing_keys(&self) -> Result<Vec<SigningKey>, StoreError> {
        let mut keys: Vec<SigningKey> = self.engine.read(|read| records::page(read, None, usize::MAX))?;
        keys.sort_by_key(|key| key.created_at);
        Ok(keys)
    }
}
