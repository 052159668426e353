//! An older store raised to the newest format, by its operator alone. Ended in the middle it is done again, and goes on where it
//! was. Never changes what a record means.

use std::collections::BTreeSet;

use tollgate_core::credential::{ProjectId, UserId};
use tollgate_guard::time::Timestamp;

use super::format::Format;
use super::{Store, StoreError, on_thread};
use crate::domain::record::{Project, ProjectState};

/// Why a store that is half of one format and half of another is not carried over.
pub(super) const UPGRADE_FIRST: &str =
    "the upgrade of the store has not ended: run `tollgate store upgrade` on it, and then this again";

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgraded {
    /// What the store was when this began.
    pub was: Format,
    /// How many records had to be written again.
    pub rewritten: u64,
    /// The replicas that cannot write the newest format and were not heard of, while no other was: they refuse the store from now
    /// on, should they come back.
    pub passed_over: Vec<String>,
}

/// Raises a store. The file of an embedded one is raised in one step; in Redis everybody writes the new format from the first
/// step on, and the last one says that nothing of the old is left.
///
/// # Errors
/// [`StoreError::Conflict`] while a replica cannot write the new format, with its name.
pub async fn upgrade(store: &Store) -> Result<Upgraded, StoreError> {
    upgrade_naming(store, BTreeSet::new()).await
}

/// As [`upgrade`]. In a store that was not signed before, each of these projects has a record then, so that its tokens are let in as before.
///
/// # Errors
/// As [`upgrade`].
pub async fn upgrade_naming(store: &Store, projects: BTreeSet<String>) -> Result<Upgraded, StoreError> {
    match store {
        Store::Embedded(store) => on_thread(store, move |store| store.upgrade(&projects)).await,
        Store::Redis(store) => store.upgrade(&projects).await,
    }
}

/// An id that nobody else was given.
pub(super) fn user_id() -> Result<UserId, StoreError> {
    UserId::generate(getrandom::fill).map_err(|error| StoreError::Unavailable(error.to_string()))
}

/// A project with an id that no other was given. One of which nothing was said has been active since something was made in it.
pub(super) fn with_id(
    known: Option<Project>,
    name: &str,
    since: Timestamp,
) -> Result<(Project, ProjectId), StoreError> {
    let id = ProjectId::generate(getrandom::fill).map_err(|error| StoreError::Unavailable(error.to_string()))?;
    let project = known.unwrap_or_else(|| Project {
        name: name.to_owned(),
        id: None,
        state: ProjectState::Active,
        changed_at: since,
        changed_by: "tollgate".to_owned(),
        version: 0,
    });
    Ok((Project { id: Some(id), version: project.version + 1, ..project }, id))
}
