//! Every kind of record, one in each file: what it is written as, where it stands, its lists, how it is found, and what may take whose
//! place. Never panics on what it reads: bytes that are no record are a damaged store.
//!
//! Each is a message of Protocol Buffers, and grows: a field is added under a new number, and neither its number nor its meaning ever
//! changes. Each field that is added comes with a new [`Format`](super::format::Format), which is said beside it; those without one are
//! of format 2. A reader drops fields it does not know when it writes the record again, and one that takes rights away must be known to
//! all: so a field is written only where the store names its format, and a store that names one that is not known is refused.
//!
//! From format 4 on each ends with a [signature](super::signature): field 100, bytes: the version of the pepper (4, big-endian) and an
//! HMAC-SHA-256. No message has a field of that number. Rows of the audit log, entries of the log of changes and what is noted where rows
//! are removed end with one, too.
//!
//! A release reads format n, n-1 and n-2, and writes the one that the store names. A new store is made at n. An older one rises by
//! `tollgate store upgrade` alone, once every replica can write n: from "n, under way" on everybody writes n and reads both, and "n"
//! means that nothing of n-1 is left.

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

use tollgate_core::credential::{KeyId, ProjectId, UserId};
use tollgate_core::resource::Resource;
use tollgate_guard::time::Timestamp;

use super::Quota;
use super::rules::check_parts;
use crate::domain::record::{ApiKey, AuditEntry, EndedSession, OpenSession, Project, ProjectState, SigningKey, User};
use noun::Tables;
use once::OnceRecord;

/// One step of an atomic write. A batch is applied wholly or not at all.
#[derive(Clone, Debug)]
pub enum Write {
    /// Conflict if the id or the digest is taken.
    CreateKey(ApiKey),
    /// Replaces the record of this id. Conflict unless the stored version is one less than the new one, or if the
    /// stored record is revoked and the new one is not.
    UpdateKey(ApiKey),
    /// Removes what is left of a key. Conflict unless it is there with this version and [`ApiKey::is_over_before`] this time.
    PurgeKey { id: KeyId, version: u64, before: Timestamp },
    /// Conflict if a key on this plane is active at this time. Writes nothing.
    NoActiveKey { plane: String, now: Timestamp },
    /// Over quota if the project has as many already, before the steps of this batch. Writes nothing.
    Quota(Quota),
    /// Conflict if the kind and id are taken.
    CreateResource(Resource),
    /// Conflict unless the stored version is one less than the new one.
    UpdateResource(Resource),
    /// Conflict unless it is there with this version.
    DeleteResource { kind: String, id: String, version: u64 },
    /// Conflict unless the stored version is one less than the new one (none counts as 0), or if the project is deleted and
    /// would not be any more, or if it has another id, or is given one where the store's format knows none.
    PutProject(Project),
    /// Conflict if the project is deleted or has not this id; also for `None` where the store's format knows ids, as whatever is
    /// made in it then has to carry one. Writes nothing.
    InProject { name: String, id: Option<ProjectId> },
    /// Gives what carries none, and still belongs to this project, the project's id. Conflict unless that is its id.
    GiveProjectId { to: ProjectItem, project: String, id: ProjectId },
    /// Conflict if the name is taken, be it by a tombstone, or if another user has it in the project.
    CreateUser(User),
    /// Conflict unless the stored version is one less than the new one, if `sessions` would fall, if the stored user is
    /// deleted and the new one neither is nor has more `sessions`, or if another user has the name in a project that this one comes to.
    UpdateUser(User),
    /// Gives a user an id who has none; also a deleted one.
    GiveUserId { name: String, id: UserId },
    /// Puts a session on the list of its user, and takes those off whose tokens have expired, and the oldest beyond
    /// [`UserSessions::MOST`](crate::domain::record::UserSessions::MOST). Nothing in a store that keeps no list yet.
    BeginSession { user: String, session: OpenSession },
    /// Remembers the first end of a session, and takes it off the list of its user. Forgets a few whose token expired more than a day before.
    EndSession(EndedSession),
    /// Conflict if the id is taken.
    CreateSigningKey(SigningKey),
    /// Conflict if it is not there.
    DeleteSigningKey { id: String },
    /// Appends a row; its `sequence` is given by the store.
    Audit(AuditEntry),
    /// Conflict if the digest was used less than a day ago. Forgets a few that are older.
    Once(OnceRecord),
}

/// Something that belongs to a project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProjectItem {
    Key(KeyId),
    /// By name.
    User(String),
    Resource {
        kind: String,
        id: String,
    },
}

impl Write {
    /// Whether it makes something, or gives somebody more than they had. What only takes away, and a mere row, does not.
    pub fn makes(&self) -> bool {
        match self {
            Self::UpdateKey(key) => key.revoked_at.is_none(),
            Self::PutProject(project) => project.state == ProjectState::Active,
            Self::UpdateUser(user) => !user.deleted && !user.disabled,
            Self::PurgeKey { .. }
            | Self::DeleteResource { .. }
            // Its user logs in with a password, at a pace; in a full store, too: who else could make room?
            | Self::BeginSession { .. }
            | Self::EndSession(_)
            | Self::DeleteSigningKey { .. }
            | Self::Audit(_)
            | Self::InProject { .. }
            | Self::Quota(_) => false,
            _ => true,
        }
    }
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
