//! How an act on the database ends. Never says what the act was.

use super::super::StoreError;

/// Why an act was not done.
pub(super) enum Failure {
    /// The answer is no, and the database is sound.
    Refused(StoreError),
    /// The database can no longer be used.
    Broken(String),
}

pub(super) type Act<T> = Result<T, Failure>;

pub(super) fn conflict<T>(reason: String) -> Act<T> {
    Err(Failure::Refused(StoreError::Conflict(reason)))
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

impl From<redb::StorageError> for Failure {
    fn from(error: redb::StorageError) -> Self {
        match error {
            redb::StorageError::Corrupted(reason) => Self::Refused(StoreError::Damaged(reason)),
            redb::StorageError::ValueTooLarge(len) => {
                Self::Refused(StoreError::Conflict(format!("a record of {len} bytes is too large")))
            }
            error => Self::Broken(error.to_string()),
        }
    }
}

impl From<redb::TableError> for Failure {
    fn from(error: redb::TableError) -> Self {
        match error {
            redb::TableError::Storage(error) => error.into(),
            error => Self::Refused(StoreError::Damaged(error.to_string())),
        }
    }
}

impl From<redb::TransactionError> for Failure {
    fn from(error: redb::TransactionError) -> Self {
        match error {
            redb::TransactionError::Storage(error) => error.into(),
            error => Self::Broken(error.to_string()),
        }
    }
}

impl From<redb::CommitError> for Failure {
    fn from(error: redb::CommitError) -> Self {
        // Whatever it was, what is in memory may no longer be what is in the file.
        Self::Broken(error.to_string())
    }
}
