//! What a record must be to take another one's place, the same in every store. Never reads anything itself.

use tollgate_core::credential::ProjectId;

use super::keyspace::is_part;
use super::{StoreError, Write};
use crate::domain::record::{AUDIT_TRIM, Outcome, STORE_BACKUP, User};

pub(super) fn conflict<T>(reason: String) -> Result<T, StoreError> {
    Err(StoreError::Conflict(reason))
}

pub(super) fn check_version(what: &str, stored: u64, new: u64) -> Result<(), StoreError> {
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
            // A full store is one to take a copy of.
            Write::Audit(row) if row.act == STORE_BACKUP && row.outcome == Outcome::Done => true,
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

/// What a record carries after a change, as `(project, its id)`: an id is set once, and goes only with its project.
pub(super) fn project_id_after(stored: (&str, Option<ProjectId>), new: (&str, Option<ProjectId>)) -> Option<ProjectId> {
    if stored.0 == new.0 { stored.1.or(new.1) } else { new.1 }
}
