//! Projects. Never brings a deleted one back.

use prost::{Enumeration, Message};
use redb::TableDefinition;
use tollgate_core::credential::ProjectId;
use tollgate_guard::time::Timestamp;

use super::super::format::Format;
use super::super::keyspace::redis as names;
use super::super::keyspace::{self, Bytes};
use super::super::kind::Kind;
use super::super::rules::{check_parts, check_version};
use super::super::{Store, StoreError};
use super::listing::{InFile, Listing};
use super::noun::{List, Noun, Tables, at_its_place, damaged, refused, replace, text_key};
use crate::domain::record::{Project, ProjectState};

/// A project as a whole. Format 3: with a record from the first thing on that is made in it; before, one without is active.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct StoredProject {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(enumeration = "StoredState", tag = "2")]
    state: i32,
    /// Milliseconds since the Unix epoch.
    #[prost(uint64, tag = "3")]
    changed_at_ms: u64,
    /// Who changed it last.
    #[prost(string, tag = "4")]
    changed_by: String,
    /// Counts the writes of this record, from 1.
    #[prost(uint64, tag = "5")]
    version: u64,
    /// Format 3: 16 base62 characters that no other project was or will be given.
    #[prost(string, optional, tag = "6")]
    id: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(super) enum StoredState {
    Active = 0,
    /// Nobody of it is let in until it is active again.
    Suspended = 1,
    /// Nobody of it is let in, for good.
    Deleted = 2,
}

impl Noun for Project {
    type Key = &'static str;
    const KIND: Kind = Kind::Projects;
    const TABLE: TableDefinition<'static, &'static str, Bytes> = keyspace::PROJECTS;
    const PREFIX: &'static str = names::PROJECTS;
    const ALL: Option<&'static str> = Some(names::PROJECT_LIST);

    fn name(&self) -> String {
        format!("project {}", self.name)
    }

    fn version(&self) -> Option<u64> {
        Some(self.version)
    }

    fn place(&self) -> Vec<u8> {
        self.name.clone().into_bytes()
    }

    fn key(place: &[u8]) -> Option<&str> {
        text_key(place)
    }

    fn encode(&self, _format: Format) -> Vec<u8> {
        let message = StoredProject {
            name: self.name.clone(),
            state: encode_state(self.state),
            changed_at_ms: self.changed_at.as_millis(),
            changed_by: self.changed_by.clone(),
            version: self.version,
            id: self.id.map(|id| id.to_string()),
        };
        message.encode_to_vec()
    }

    fn decode(place: &[u8], bytes: &[u8]) -> Result<Self, StoreError> {
        let message = StoredProject::decode(bytes).map_err(|_| damaged("a project"))?;
        let project = Self {
            state: decode_state(message.state)?,
            name: message.name,
            id: id_of(message.id).ok_or_else(|| damaged("a project"))?,
            changed_at: Timestamp::from_millis(message.changed_at_ms),
            changed_by: message.changed_by,
            version: message.version,
        };
        at_its_place(project, place)
    }

    fn lists(&self, _format: Format) -> Vec<List> {
        vec![List::in_redis(names::PROJECT_LIST, &*self.name)]
    }
}

/// By name.
pub(in crate::store) fn listing(after: Option<&str>, limit: usize) -> Listing<Project> {
    Listing::of(names::PROJECT_LIST, InFile::Table, limit).after(after.map(str::as_bytes))
}

/// The id of a project as a record carries it; `None` for what is no id.
pub(super) fn id_of(id: Option<String>) -> Option<Option<ProjectId>> {
    match id {
        Some(id) => ProjectId::parse(&id).map(Some),
        None => Some(None),
    }
}

pub(super) fn encode_state(state: ProjectState) -> i32 {
    match state {
        ProjectState::Active => StoredState::Active,
        ProjectState::Suspended => StoredState::Suspended,
        ProjectState::Deleted => StoredState::Deleted,
    }
    .into()
}

pub(super) fn decode_state(state: i32) -> Result<ProjectState, StoreError> {
    // One that is not known lets nobody in.
    match StoredState::try_from(state).map_err(|_| damaged("a project"))? {
        StoredState::Active => Ok(ProjectState::Active),
        StoredState::Suspended => Ok(ProjectState::Suspended),
        StoredState::Deleted => Ok(ProjectState::Deleted),
    }
}

impl Store {
    /// What was said of a project, if anything.
    pub async fn project(&self, name: String) -> Result<Option<Project>, StoreError> {
        self.find(name.into_bytes()).await
    }

    /// The projects of which something was said, by name.
    pub async fn projects(&self, after: Option<String>, limit: usize) -> Result<Vec<Project>, StoreError> {
        self.list(Some(listing(after.as_deref(), limit))).await
    }
}

pub(in crate::store) fn put<T: Tables>(tables: &mut T, project: &Project) -> Result<(), T::Halt> {
    check_parts([&project.name])?;
    let stored = tables.find::<Project>(&project.place())?;
    check_put(stored.as_ref(), project, tables.format())?;
    replace(tables, stored.as_ref(), project)
}

/// # Errors
/// [`StoreError::Conflict`] if it is deleted or has not this id, or if what is made in it must carry one and does not.
pub(in crate::store) fn demand<T: Tables>(tables: &mut T, name: &str, id: Option<ProjectId>) -> Result<(), T::Halt> {
    let stored = tables.find::<Project>(name.as_bytes())?;
    if stored.as_ref().is_some_and(|stored| stored.state == ProjectState::Deleted) {
        return refused(format!("project {name} is deleted"));
    }
    let is_same = if tables.format().has_three() { id.is_some() } else { id.is_none() };
    if is_same && stored.and_then(|stored| stored.id) == id {
        return Ok(());
    }
    refused(format!("the project {name} was changed or made anew meanwhile: try again"))
}

/// Of what was made before projects had ids.
pub(super) fn check_id(stored: Option<&Project>, name: &str, id: ProjectId) -> Result<(), StoreError> {
    match stored {
        Some(stored) if stored.id == Some(id) => Ok(()),
        _ => refused(format!("the project {name} was changed or made anew meanwhile: try again")),
    }
}

fn check_put(stored: Option<&Project>, new: &Project, format: Format) -> Result<(), StoreError> {
    if new.id.is_some() && !format.has_three() {
        return refused(format!("project {} would have an id, which this store does not know", new.name));
    }
    check_version(&format!("project {}", new.name), stored.map_or(0, |stored| stored.version), new.version)?;
    if stored.is_some_and(|stored| stored.state == ProjectState::Deleted) && new.state != ProjectState::Deleted {
        return refused(format!("project {} is deleted, and stays so", new.name));
    }
    if stored.is_some_and(|stored| stored.id.is_some() && stored.id != new.id) {
        return refused(format!("project {} has another id", new.name));
    }
    Ok(())
}
