//! What a check finds in a store. Never says what it means.

use tollgate_guard::protocol::Position;

use super::StoreError;
use crate::domain::record::{ApiKey, Project, User};

/// What a check needs to know of a key, of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyLoad {
    pub key: ApiKey,
    /// See [`Project::lets_in`].
    pub project: Option<Project>,
}

/// What a check needs to know of a session, of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionLoad {
    /// Also a deleted one.
    pub user: Option<User>,
    /// Whether it is on the list of its user.
    pub open: bool,
    pub ended: bool,
    pub project: Option<Project>,
}

/// What was loaded, with the place of the newest change that the store had made then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AsOf<T> {
    pub found: T,
    /// `None`: the store cannot go back.
    pub position: Option<Position>,
    /// Why this is not to be believed: it is another one than a change has left there, as this process has heard.
    pub set_back: Option<StoreError>,
}

impl<T> AsOf<T> {
    pub(super) fn ever(found: T) -> Self {
        Self { found, position: None, set_back: None }
    }

    /// # Errors
    /// [`StoreError::Damaged`] if it is not to be believed.
    pub fn believed(self) -> Result<T, StoreError> {
        self.set_back.map_or(Ok(self.found), Err)
    }
}
