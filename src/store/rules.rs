//! What a record must be to take another one's place, the same in every store. Never reads anything itself.

use tollgate_core::credential::{ProjectId, UserId};
use tollgate_core::name::split_login_name;
use tollgate_core::resource::{EVERY, Resource};
use tollgate_guard::time::Timestamp;

use super::format::Format;
use super::keyspace::is_part;
use super::{OnceRecord, StoreError, Write};
use crate::domain::record::{AUDIT_TRIM, ApiKey, OpenSession, Outcome, Project, ProjectState, User, UserSessions};

pub(super) fn conflict<T>(reason: String) -> Result<T, StoreError> {
    Err(StoreError::Conflict(reason))
}

fn check_version(what: &str, stored: u64, new: u64) -> Result<(), StoreError> {
    if stored.checked_add(1) == Some(new) {
        return Ok(());
    }
    conflict(format!("{what} has been changed meanwhile (it has version {stored})"))
}

/// Names stand beside each other in keys, with a NUL in between.
pub(super) fn check_parts<const N: usize>(parts: [&str; N]) -> Result<(), StoreError> {
    if parts.into_iter().all(is_part) {
        return Ok(());
    }
    conflict("a name holds a NUL character".to_owned())
}

/// What the steps of a batch do. What only ends something may use the room that is kept for that, in every store.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Purpose {
    ends: bool,
    makes: bool,
    has_rows: bool,
}

impl Purpose {
    /// `stored`: the user whom the step is about, if it is about one.
    pub(super) fn note(&mut self, step: &Write, stored: Option<&User>) {
        let ends = match step {
            Write::UpdateUser(user) if stored.is_some_and(|stored| logs_out(stored, user)) => true,
            Write::Quota(_) | Write::InProject { .. } => return,
            // In place of at least as much.
            Write::Audit(row) if row.act == AUDIT_TRIM && row.outcome == Outcome::Done => true,
            Write::Audit(_) => {
                self.has_rows = true;
                return;
            }
            step => !step.makes(),
        };
        self.ends |= ends;
        self.makes |= !ends;
    }

    /// Notes that something is made which is no step.
    pub(super) fn note_making(&mut self) {
        self.makes = true;
    }

    /// Whether it makes nothing, and is no mere row of the audit log. What takes a number alone is needed to end things.
    pub(super) fn only_ends(self) -> bool {
        !self.makes && (self.ends || !self.has_rows)
    }
}

/// Whether every session of a user ends, and the name is not given to somebody new.
fn logs_out(stored: &User, new: &User) -> bool {
    new.sessions > stored.sessions && !stored.deleted
}

pub(super) fn check_key_update(stored: &ApiKey, new: &ApiKey) -> Result<(), StoreError> {
    check_version(&format!("key {}", new.id), stored.version, new.version)?;
    if stored.revoked_at.is_some() && new.revoked_at.is_none() {
        return conflict(format!("key {} is revoked, and stays so", new.id));
    }
    Ok(())
}

pub(super) fn check_key_purge(stored: &ApiKey, version: u64, before: Timestamp) -> Result<(), StoreError> {
    if stored.version != version {
        return conflict(format!("key {} has been changed meanwhile (it has version {})", stored.id, stored.version));
    }
    if stored.is_over_before(before) {
        return Ok(());
    }
    conflict(format!("key {} is not over for so long", stored.id))
}

pub(super) fn check_resource_update(stored: &Resource, new: &Resource) -> Result<(), StoreError> {
    check_version(&new.reference().to_string(), stored.version, new.version)
}

pub(super) fn check_resource_deletion(stored: &Resource, version: u64) -> Result<(), StoreError> {
    if stored.version == version {
        return Ok(());
    }
    conflict(format!("{} has been changed meanwhile (it has version {})", stored.reference(), stored.version))
}

pub(super) fn check_project_put(stored: Option<&Project>, new: &Project, format: Format) -> Result<(), StoreError> {
    check_parts([&new.name])?;
    if new.id.is_some() && !format.has_three() {
        return conflict(format!("project {} would have an id, which this store does not know", new.name));
    }
    check_version(&format!("project {}", new.name), stored.map_or(0, |stored| stored.version), new.version)?;
    if stored.is_some_and(|stored| stored.state == ProjectState::Deleted) && new.state != ProjectState::Deleted {
        return conflict(format!("project {} is deleted, and stays so", new.name));
    }
    if stored.is_some_and(|stored| stored.id.is_some() && stored.id != new.id) {
        return conflict(format!("project {} has another id", new.name));
    }
    Ok(())
}

pub(super) fn check_in_project(
    stored: Option<&Project>,
    name: &str,
    id: Option<ProjectId>,
    format: Format,
) -> Result<(), StoreError> {
    if stored.is_some_and(|stored| stored.state == ProjectState::Deleted) {
        return conflict(format!("project {name} is deleted"));
    }
    let is_same = if format.has_three() { id.is_some() } else { id.is_none() };
    if is_same && stored.and_then(|stored| stored.id) == id {
        return Ok(());
    }
    conflict(format!("the project {name} was changed or made anew meanwhile: try again"))
}

/// Of what was made before projects had ids.
pub(super) fn check_project_id(stored: Option<&Project>, name: &str, id: ProjectId) -> Result<(), StoreError> {
    match stored {
        Some(stored) if stored.id == Some(id) => Ok(()),
        _ => conflict(format!("the project {name} was changed or made anew meanwhile: try again")),
    }
}

/// What a record carries after a change, as `(project, its id)`: an id is set once, and goes only with its project.
pub(super) fn project_id_after(stored: (&str, Option<ProjectId>), new: (&str, Option<ProjectId>)) -> Option<ProjectId> {
    if stored.0 == new.0 { stored.1.or(new.1) } else { new.1 }
}

pub(super) fn check_user_update(stored: &User, new: &User) -> Result<(), StoreError> {
    check_version(&format!("user {}", new.name), stored.version, new.version)?;
    if new.sessions < stored.sessions || (stored.deleted && !new.deleted && new.sessions == stored.sessions) {
        return conflict(format!("sessions of user {} that have ended would be open again", new.name));
    }
    Ok(())
}

/// The name of the record that would be of the same user in the same project, if there may be one: users whose names have no
/// project in front are of one all the same.
pub(super) fn namesake(user: &User) -> Option<String> {
    match split_login_name(&user.name) {
        _ if user.deleted || user.project == EVERY => None,
        (Some(_), plain) => Some(plain.to_owned()),
        (None, plain) => Some(User::name_in(&user.project, plain)),
    }
}

/// # Errors
/// [`StoreError::Conflict`] if another user has the name in the project. `found` is what stands under the [`namesake`].
pub(super) fn check_namesake(found: Option<&User>, user: &User) -> Result<(), StoreError> {
    if found.is_some_and(|found| !found.deleted && found.project == user.project) {
        return conflict(format!("the user name {} is taken in project {}", user.plain_name(), user.project));
    }
    Ok(())
}

/// What a user's record has after a change: an id is set once, and whoever is made in the place of a deleted user is somebody else.
pub(super) fn user_id_after(stored: &User, new: &User) -> Option<UserId> {
    if stored.deleted && !new.deleted { new.id } else { stored.id.or(new.id) }
}

/// As [`project_id_after`], for a user: whoever is made in the place of a deleted one carries what is said of them.
pub(super) fn user_project_id_after(stored: &User, new: &User) -> Option<ProjectId> {
    if stored.deleted && !new.deleted {
        return new.project_id;
    }
    project_id_after((&stored.project, stored.project_id), (&new.project, new.project_id))
}

/// The sessions of a user once another one has begun. Those of a generation before it have ended with that.
///
/// # Errors
/// [`StoreError::Conflict`] if there are as many as there may be: none goes on that is not listed.
pub(super) fn sessions_with(
    known: Option<UserSessions>,
    user: &str,
    session: &OpenSession,
) -> Result<UserSessions, StoreError> {
    let mut sessions = known.map_or_else(Vec::new, |known| known.sessions);
    sessions.retain(|known| {
        session.began_at < known.expires_at && known.generation >= session.generation && known.id != session.id
    });
    if sessions.len() >= UserSessions::MOST {
        return conflict(format!("user {user} has as many sessions as there may be"));
    }
    sessions.push(session.clone());
    Ok(UserSessions { user: user.to_owned(), sessions })
}

/// The sessions of a user once one of them was ended; `None`: there are no others.
pub(super) fn sessions_without(mut known: UserSessions, id: &str) -> Option<UserSessions> {
    known.sessions.retain(|session| session.id != id);
    Some(known).filter(|known| !known.sessions.is_empty())
}

pub(super) fn check_once(earlier: &OnceRecord, new: &OnceRecord) -> Result<(), StoreError> {
    if earlier.holds(new.at) {
        return conflict(format!("this idempotency key made {} already", earlier.target));
    }
    Ok(())
}
