//! Projects in the embedded store. Never brings a deleted one back.

use redb::{ReadableTable, WriteTransaction};
use tollgate_core::credential::ProjectId;

use super::super::StoreError;
use super::super::format::Format;
use super::super::keyspace::{self, Bytes};
use super::super::records::{decode_project, encode_project};
use super::super::rules::{check_in_project, check_project_id, check_project_put};
use super::act::Act;
use super::{Embedded, damaged};
use crate::domain::record::Project;

impl Embedded {
    pub fn project(&self, name: &str) -> Result<Option<Project>, StoreError> {
        self.engine.read(|read| stored(&read.open_table(keyspace::PROJECTS)?, name))
    }

    pub fn projects(&self, after: Option<&str>, limit: usize) -> Result<Vec<Project>, StoreError> {
        use std::ops::Bound;
        self.engine.read(|read| {
            let projects = read.open_table(keyspace::PROJECTS)?;
            let start = after.map_or(Bound::Unbounded, Bound::Excluded);
            let page = projects.range::<&str>((start, Bound::Unbounded))?.take(limit);
            page.map(|entry| Ok(decode_project(entry?.1.value())?)).collect()
        })
    }
}

pub(super) fn stored(projects: &impl ReadableTable<&'static str, Bytes>, name: &str) -> Act<Option<Project>> {
    let Some(bytes) = projects.get(name)? else { return Ok(None) };
    let project = decode_project(bytes.value())?;
    if project.name != name {
        return damaged(format!("the record of project {} stands in the wrong place", project.name));
    }
    Ok(Some(project))
}

/// # Errors
/// See [`check_in_project`].
pub(super) fn demand(transaction: &WriteTransaction, name: &str, id: Option<ProjectId>, format: Format) -> Act<()> {
    let known = stored(&transaction.open_table(keyspace::PROJECTS)?, name)?;
    Ok(check_in_project(known.as_ref(), name, id, format)?)
}

/// # Errors
/// See [`check_project_id`].
pub(super) fn demand_id(transaction: &WriteTransaction, name: &str, id: ProjectId) -> Act<()> {
    let known = stored(&transaction.open_table(keyspace::PROJECTS)?, name)?;
    Ok(check_project_id(known.as_ref(), name, id)?)
}

pub(super) fn put(transaction: &WriteTransaction, project: &Project, format: Format) -> Act<()> {
    let mut projects = transaction.open_table(keyspace::PROJECTS)?;
    let known = stored(&projects, &project.name)?;
    check_project_put(known.as_ref(), project, format)?;
    projects.insert(&*project.name, &*encode_project(project))?;
    Ok(())
}
