//! Every kind of record, one in each file: where it stands, its lists, its bytes, and what may take whose place. Never panics on what
//! it reads: bytes that are no record are a damaged store. Fields it does not know are passed over, so that a record can grow.

pub(super) mod audit;
pub(super) mod event;
pub(super) mod key;
pub(super) mod listing;
pub(super) mod noun;
pub(super) mod once;
pub(super) mod project;
pub(super) mod resource;
pub(super) mod session;
pub(super) mod signing_key;
pub(super) mod user;
pub(super) mod written;

use tollgate_core::credential::ProjectId;

use super::rules::check_parts;
use super::{ProjectItem, Write};
use crate::domain::record::Project;
use noun::Tables;

#[allow(missing_debug_implementations)]
pub(super) mod wire {
    include!(concat!(env!("OUT_DIR"), "/tollgate.v1.rs"));
}

/// One step of a batch.
pub(super) fn step<T: Tables>(tables: &mut T, write: &Write) -> Result<(), T::Halt> {
    match write {
        Write::CreateKey(key) => key::create(tables, key),
        Write::UpdateKey(key) => key::update(tables, key),
        Write::PurgeKey { id, version, before } => key::purge(tables, id, *version, *before),
        Write::NoActiveKey { plane, now } => key::demand_none_active(tables, plane, *now),
        Write::CreateResource(resource) => resource::create(tables, resource),
        Write::UpdateResource(resource) => resource::update(tables, resource),
        Write::DeleteResource { kind, id, version } => resource::delete(tables, kind, id, *version),
        Write::PutProject(project) => project::put(tables, project),
        Write::InProject { name, id } => project::demand(tables, name, *id),
        Write::GiveProjectId { to, project, id } => give_project_id(tables, to, (project, *id)),
        Write::CreateUser(user) => user::create(tables, user),
        Write::UpdateUser(user) => user::update(tables, user),
        Write::GiveUserId { name, id } => user::give_id(tables, name, *id),
        Write::BeginSession { user, session } => session::begin(tables, user, session),
        Write::EndSession(session) => session::end(tables, session),
        Write::CreateSigningKey(key) => signing_key::create(tables, key),
        Write::DeleteSigningKey { id } => signing_key::delete(tables, id),
        Write::Once(once) => once::note(tables, once),
        Write::Audit(entry) => audit::append(tables, entry),
        Write::Quota(quota) => {
            check_parts([&quota.project])?;
            tables.check_quota(quota)
        }
    }
}

/// Gives what carries none, and still belongs to the project, the project's id.
fn give_project_id<T: Tables>(tables: &mut T, to: &ProjectItem, (name, id): (&str, ProjectId)) -> Result<(), T::Halt> {
    // Asked for before anything is judged, so that one reading is enough.
    let home = tables.find::<Project>(name.as_bytes());
    match to {
        ProjectItem::Key(key) => key::give_project_id(tables, key, (name, id))?,
        ProjectItem::User(user) => user::give_project_id(tables, user, (name, id))?,
        ProjectItem::Resource { kind, id: resource } => {
            resource::give_project_id(tables, (kind, resource), (name, id))?;
        }
    }
    Ok(project::check_id(home?.as_ref(), name, id)?)
}

#[cfg(test)]
mod tests;
