//! Every kind of record, one in each file: where it stands, its lists, its bytes, and what may take whose place. Never panics on what
//! it reads: bytes that are no record are a damaged store. Fields it does not know are passed over, so that a record can grow.

pub(super) mod audit;
pub(super) mod event;
pub(super) mod key;
pub(super) mod noun;
pub(super) mod once;
pub(super) mod project;
pub(super) mod resource;
pub(super) mod session;
pub(super) mod signing_key;
pub(super) mod user;

use tollgate_core::credential::{KeyId, ProjectId};

use super::ProjectItem;
use crate::domain::record::Project;
use noun::Tables;

#[allow(missing_debug_implementations)]
mod wire {
    include!(concat!(env!("OUT_DIR"), "/tollgate.v1.rs"));
}

/// Gives what carries none, and still belongs to the project, the project's id; keys by `give_key`.
pub(super) fn give_project_id<T: Tables>(
    tables: &mut T,
    to: &ProjectItem,
    (name, id): (&str, ProjectId),
    give_key: impl FnOnce(&mut T, &KeyId) -> Result<(), T::Halt>,
) -> Result<(), T::Halt> {
    // Asked for before anything is judged, so that one reading is enough.
    let home = tables.find::<Project>(name.as_bytes());
    match to {
        ProjectItem::Key(key) => give_key(tables, key)?,
        ProjectItem::User(user) => user::give_project_id(tables, user, (name, id))?,
        ProjectItem::Resource { kind, id: resource } => {
            resource::give_project_id(tables, (kind, resource), (name, id))?;
        }
    }
    Ok(project::check_id(home?.as_ref(), name, id)?)
}

#[cfg(test)]
mod tests;
