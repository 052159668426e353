//! What a check needs to know, in one round trip. Never says "not found" where the head is lost.

use tollgate_core::resource::Resource;
use tollgate_guard::digest::Digest;

use super::Redis;
use super::values::{key_of, user_of};
use crate::domain::record::{ApiKey, Project, User};
use crate::store::keyspace::is_part;
use crate::store::keyspace::redis as names;
use crate::store::records::{decode_ended_session, decode_project, decode_resource};
use crate::store::{AsOf, KeyLoad, SessionLoad, StoreError};

impl Redis {
    /// The key with one of these digests and what is said of its project, of one moment.
    pub async fn load_key(&self, digests: &[Digest]) -> Result<AsOf<Option<KeyLoad>>, StoreError> {
        let wanted: Vec<String> = digests.iter().map(names::key).collect();
        let read = self.read(&wanted, wanted.len()).await?;
        let stood = digests.iter().zip(read.values).find_map(|(digest, value)| Some((digest, value?)));
        let found = match stood {
            Some((digest, value)) => {
                let key = checked_key(&value, digest)?;
                let project = project_named(read.project.as_deref(), &key.project)?;
                Some(KeyLoad { key, project })
            }
            None => None,
        };
        Ok(AsOf { found, position: Some(read.position) })
    }

    /// A user, whether one of their sessions was ended, and what is said of their project, of one moment.
    pub async fn load_session(&self, user: &str, session: &str) -> Result<AsOf<SessionLoad>, StoreError> {
        let read = self.read(&[names::user(user), names::ended_session(session)], 1).await?;
        let mut values = read.values.into_iter();
        let user = values.next().flatten().map(|value| checked_user(&value, user)).transpose()?;
        let ended = is_end(values.next().flatten().as_deref(), session)?;
        let project = match &user {
            Some(user) => project_named(read.project.as_deref(), &user.project)?,
            None => None,
        };
        Ok(AsOf { found: SessionLoad { user, ended, project }, position: Some(read.position) })
    }

    pub async fn load_resource(&self, kind: &str, id: &str) -> Result<AsOf<Option<Resource>>, StoreError> {
        let mut read = self.read(&[names::resource(kind, id)], 0).await?;
        let found = match read.values.pop().flatten() {
            Some(value) if is_part(kind) && is_part(id) => Some(checked_resource(&value, kind, id)?),
            _ => None,
        };
        Ok(AsOf { found, position: Some(read.position) })
    }

    pub async fn load_project(&self, name: &str) -> Result<AsOf<Option<Project>>, StoreError> {
        let mut read = self.read(&[names::project(name)], 0).await?;
        let found = project_named(read.values.pop().flatten().as_deref(), name)?;
        Ok(AsOf { found, position: Some(read.position) })
    }

    pub async fn ended_session(&self, id: &str) -> Result<bool, StoreError> {
        is_end(self.record(names::ended_session(id)).await?.as_deref(), id)
    }

    /// Whether a load would succeed.
    pub async fn is_available(&self) -> bool {
        self.read(&[], 0).await.is_ok()
    }
}

fn checked_key(value: &[u8], digest: &Digest) -> Result<ApiKey, StoreError> {
    let key = key_of(value)?;
    if key.digest.matches(digest) { Ok(key) } else { misplaced(&format!("key {}", key.id)) }
}

pub(super) fn checked_user(value: &[u8], name: &str) -> Result<User, StoreError> {
    let user = user_of(value)?;
    if user.name == name { Ok(user) } else { misplaced(&format!("user {}", user.name)) }
}

pub(super) fn checked_resource(value: &[u8], kind: &str, id: &str) -> Result<Resource, StoreError> {
    let resource = decode_resource(value)?;
    if resource.kind == kind && resource.id == id { Ok(resource) } else { misplaced(&resource.reference().to_string()) }
}

fn project_named(value: Option<&[u8]>, name: &str) -> Result<Option<Project>, StoreError> {
    let Some(value) = value else { return Ok(None) };
    let project = decode_project(value)?;
    if project.name == name { Ok(Some(project)) } else { misplaced(&format!("project {}", project.name)) }
}

fn is_end(value: Option<&[u8]>, id: &str) -> Result<bool, StoreError> {
    let Some(value) = value else { return Ok(false) };
    if decode_ended_session(value)?.id == id { Ok(true) } else { misplaced(&format!("the end of session {id}")) }
}

fn misplaced<T>(what: &str) -> Result<T, StoreError> {
    Err(StoreError::Damaged(format!("the record of {what} stands in the wrong place")))
}
