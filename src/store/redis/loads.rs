//! What a check needs to know, in one round trip. Never says "not found" where the head is lost.

use tollgate_core::resource::Resource;
use tollgate_guard::digest::Digest;

use super::values::{key_of, name_of, record_of};
use super::{Read, Redis};
use crate::domain::record::{ApiKey, EndedSession, Project, User, UserSessions};
use crate::store::keyspace::is_part;
use crate::store::keyspace::redis as names;
use crate::store::records::noun::Noun;
use crate::store::records::resource;
use crate::store::signature::{Mac, Verifier};
use crate::store::{AsOf, KeyLoad, SessionLoad, StoreError};

impl Redis {
    /// The key with one of these digests and what is said of its project, of one moment.
    pub async fn load_key(&self, digests: &[Digest]) -> Result<AsOf<Option<KeyLoad>>, StoreError> {
        let wanted: Vec<String> = digests.iter().map(names::key).collect();
        let mut read = self.read(&wanted, wanted.len()).await?;
        let values = std::mem::take(&mut read.values);
        let mut loading = Loading::of(self, &read);
        let stood = digests.iter().zip(values).find_map(|(digest, value)| Some((digest, value?)));
        let found = match stood {
            Some((digest, value)) => {
                let key = checked_key(&read.verifier, &value, digest)?;
                loading.compare(&key, &value);
                let project = loading.found(read.project.as_deref(), key.project.as_bytes())?;
                Some(KeyLoad { key, project })
            }
            None => None,
        };
        Ok(loading.end(found))
    }

    /// A user, what became of one of their sessions, and what is said of their project, of one moment.
    pub async fn load_session(&self, user: &str, session: &str) -> Result<AsOf<SessionLoad>, StoreError> {
        let wanted = [names::user(user), names::ended_session(session), name_of::<UserSessions>(user.as_bytes())];
        let mut read = self.read(&wanted, 1).await?;
        let mut values = std::mem::take(&mut read.values).into_iter();
        let mut value = || values.next().flatten();
        let mut loading = Loading::of(self, &read);
        let place = user.as_bytes();
        let user: Option<User> = loading.found(value().as_deref(), place)?;
        let ended = loading.found::<EndedSession>(value().as_deref(), session.as_bytes())?.is_some();
        let open = match loading.newest::<UserSessions>(value().as_deref(), place) {
            // It keeps nobody from logging in, which begins it anew.
            Err(StoreError::Damaged(_)) => false,
            open => open?.is_some_and(|open| open.has(session)),
        };
        let project = match &user {
            Some(user) => loading.found(read.project.as_deref(), user.project.as_bytes())?,
            None => None,
        };
        Ok(loading.end(SessionLoad { user, open, ended, project }))
    }

    pub async fn load_resource(&self, kind: &str, id: &str) -> Result<AsOf<Option<Resource>>, StoreError> {
        let mut read = self.read(&[names::resource(kind, id)], 0).await?;
        let value = read.values.pop().flatten().filter(|_| is_part(kind) && is_part(id));
        let mut loading = Loading::of(self, &read);
        let found = loading.found(value.as_deref(), &resource::place(kind, id))?;
        Ok(loading.end(found))
    }

    pub async fn load_project(&self, name: &str) -> Result<AsOf<Option<Project>>, StoreError> {
        let mut read = self.read(&[names::project(name)], 0).await?;
        let value = read.values.pop().flatten();
        let mut loading = Loading::of(self, &read);
        let found = loading.found(value.as_deref(), name.as_bytes())?;
        Ok(loading.end(found))
    }

    /// Whether a load would succeed.
    pub async fn is_available(&self) -> bool {
        self.read(&[], 0).await.is_ok()
    }
}

/// What was read, and whether one of the records is older than what this process has heard of.
struct Loading<'r> {
    redis: &'r Redis,
    read: &'r Read,
    set_back: Option<StoreError>,
}

impl<'r> Loading<'r> {
    fn of(redis: &'r Redis, read: &'r Read) -> Self {
        Self { redis, read, set_back: None }
    }

    /// A record that was asked for by its place.
    fn found<N: Noun>(&mut self, value: Option<&[u8]>, place: &[u8]) -> Result<Option<N>, StoreError> {
        let found = found(&self.read.verifier, value, place)?;
        if let (Some(record), Some(value)) = (&found, value) {
            self.compare(record, value);
        }
        Ok(found)
    }

    /// The same, unless it is older than what this process has heard of.
    fn newest<N: Noun>(&self, value: Option<&[u8]>, place: &[u8]) -> Result<Option<N>, StoreError> {
        let found = found(&self.read.verifier, value, place)?;
        if let (Some(record), Some(value)) = (&found, value) {
            self.demand_newest(record, value)?;
        }
        Ok(found)
    }

    fn compare<N: Noun>(&mut self, record: &N, value: &[u8]) {
        if let Err(error) = self.demand_newest(record, value) {
            self.set_back.get_or_insert(error);
        }
    }

    fn demand_newest<N: Noun>(&self, record: &N, value: &[u8]) -> Result<(), StoreError> {
        let Read { verifier, position, .. } = self.read;
        self.redis.demand_newest(verifier, record, value, (position.sequence, Some(&*position.chain)))
    }

    fn end<T>(self, found: T) -> AsOf<T> {
        AsOf { found, position: Some(self.read.position.clone()), set_back: self.set_back }
    }
}

impl Redis {
    /// # Errors
    /// [`StoreError::Damaged`] if this record, which was read then, is another one than this process has heard that there is.
    pub(super) fn demand_newest<N: Noun>(
        &self,
        verifier: &Verifier,
        record: &N,
        value: &[u8],
        as_of: (u64, Option<&str>),
    ) -> Result<(), StoreError> {
        let Some(mac) = Mac::of(value) else { return Ok(()) };
        let place = record.listed_place();
        match self.heard.contradicts((N::KIND, &place), (record.version(), mac), as_of) {
            Some(change) => Err(verifier.set_back(record, change)),
            None => Ok(()),
        }
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
