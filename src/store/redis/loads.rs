//! What a check needs to know, in one round trip. Never says "not found" where the head is lost.

use tollgate_core::resource::Resource;
use tollgate_guard::digest::Digest;

use super::Redis;
use super::values::{key_of, record_of};
use crate::domain::record::{ApiKey, EndedSession, Project, User};
use crate::store::keyspace::is_part;
use crate::store::keyspace::redis as names;
use crate::store::records::noun::Noun;
use crate::store::records::resource;
use crate::store::signature::Verifier;
use crate::store::{AsOf, KeyLoad, SessionLoad, StoreError};

impl Redis {
    /// The key with one of these digests and what is said of its project, of one moment.
    pub async fn load_key(&self, digests: &[Digest]) -> Result<AsOf<Option<KeyLoad>>, StoreError> {
        let wanted: Vec<String> = digests.iter().map(names::key).collect();
        let read = self.read(&wanted, wanted.len()).await?;
        let verifier = &read.verifier;
        let stood = digests.iter().zip(read.values).find_map(|(digest, value)| Some((digest, value?)));
        let found = match stood {
            Some((digest, value)) => {
                let key = checked_key(verifier, &value, digest)?;
                let project = found(verifier, read.project.as_deref(), key.project.as_bytes())?;
                Some(KeyLoad { key, project })
            }
            None => None,
        };
        Ok(AsOf { found, position: Some(read.position) })
    }

    /// A user, whether one of their sessions was ended, and what is said of their project, of one moment.
    pub async fn load_session(&self, user: &str, session: &str) -> Result<AsOf<SessionLoad>, StoreError> {
        let read = self.read(&[names::user(user), names::ended_session(session)], 1).await?;
        let verifier = &read.verifier;
        let mut values = read.values.into_iter();
        let user: Option<User> = found(verifier, values.next().flatten().as_deref(), user.as_bytes())?;
        let ended = found::<EndedSession>(verifier, values.next().flatten().as_deref(), session.as_bytes())?.is_some();
        let project = match &user {
            Some(user) => found(verifier, read.project.as_deref(), user.project.as_bytes())?,
            None => None,
        };
        Ok(AsOf { found: SessionLoad { user, ended, project }, position: Some(read.position) })
    }

    pub async fn load_resource(&self, kind: &str, id: &str) -> Result<AsOf<Option<Resource>>, StoreError> {
        let mut read = self.read(&[names::resource(kind, id)], 0).await?;
        let value = read.values.pop().flatten().filter(|_| is_part(kind) && is_part(id));
        let found = found(&read.verifier, value.as_deref(), &resource::place(kind, id))?;
        Ok(AsOf { found, position: Some(read.position) })
    }

    pub async fn load_project(&self, name: &str) -> Result<AsOf<Option<Project>>, StoreError> {
        let mut read = self.read(&[names::project(name)], 0).await?;
        let found = found(&read.verifier, read.values.pop().flatten().as_deref(), name.as_bytes())?;
        Ok(AsOf { found, position: Some(read.position) })
    }

    /// Whether a load would succeed.
    pub async fn is_available(&self) -> bool {
        self.read(&[], 0).await.is_ok()
    }
}

fn checked_key(verifier: &Verifier, value: &[u8], digest: &Digest) -> Result<ApiKey, StoreError> {
    let key = key_of(verifier, value)?;
    if key.digest.matches(digest) { Ok(key) } else { misplaced(&format!("key {}", key.id)) }
}

/// A record that was asked for by its place.
pub(super) fn found<N: Noun>(verifier: &Verifier, value: Option<&[u8]>, place: &[u8]) -> Result<Option<N>, StoreError> {
    value.map(|value| record_of(verifier, place, value)).transpose()
}

fn misplaced<T>(what: &str) -> Result<T, StoreError> {
    Err(StoreError::Damaged(format!("the record of {what} stands in the wrong place")))
}
