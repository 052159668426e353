//! Projects. Never brings a deleted one back.

use prost::Message;
use redb::TableDefinition;
use tollgate_core::credential::ProjectId;
use tollgate_guard::time::Timestamp;

use super::super::StoreError;
use super::super::format::Format;
use super::super::keyspace::redis as names;
use super::super::keyspace::{self, Bytes};
use super::super::kind::Kind;
use super::super::rules::{check_parts, check_version};
use super::listing::{InFile, Listing};
use super::noun::{List, Noun, Tables, at_its_place, damaged, refused, replace, text_key};
use super::wire;
use crate::domain::record::{Project, ProjectState};

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
        let wire = wire::Project {
            name: self.name.clone(),
            state: encode_state(self.state),
            changed_at_ms: self.changed_at.as_millis(),
            changed_by: self.changed_by.clone(),
            version: self.version,
            id: self.id.map(|id| id.to_string()),
        };
        wire.encode_to_vec()
    }

    fn decode(place: &[u8], bytes: &[u8]) -> Result<Self, StoreError> {
        let wire = wire::Project::decode(bytes).map_err(|_| damaged("a project"))?;
        let project = Self {
            state: decode_state(wire.state)?,
            name: wire.name,
            id: id_of(wire.id).ok_or_else(|| damaged("a project"))?,
            changed_at: Timestamp::from_millis(wire.changed_at_ms),
            changed_by: wire.changed_by,
            version: wire.version,
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
pub(super) fn id_of(wire: Option<String>) -> Option<Option<ProjectId>> {
    match wire {
        Some(id) => ProjectId::parse(&id).map(Some),
        None => Some(None),
    }
}

pub(super) fn encode_state(state: ProjectState) -> i32 {
    match state {
        ProjectState::Active => wire::project::State::Active,
        ProjectState::Suspended => wire::project::State::Suspended,
        ProjectState::Deleted => wire::project::State::Deleted,
    }
    .into()
}

pub(super) fn decode_state(state: i32) -> Result<ProjectState, StoreError> {
    // One that is not known lets nobody in.
    match wire::project::State::try_from(state).map_err(|_| damaged("a project"))? {
        wire::project::State::Active => Ok(ProjectState::Active),
        wire::project::State::Suspended => Ok(ProjectState::Suspended),
        wire::project::State::Deleted => Ok(ProjectState::Deleted),
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
