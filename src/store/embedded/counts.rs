//! How many keys, users and resources each project has in the embedded store. Counted once, when it is first asked for, and then
//! kept in step: one process owns the file. Never trusted after a write that failed.

use std::collections::HashMap;

use redb::{ReadableTable, WriteTransaction};

use super::super::keyspace::{self, Bytes, scope_end, scoped};
use super::super::records::noun::Noun;
use super::super::{Counted, Quota, StoreError};
use super::act::{Act, Failure};
use crate::domain::record::User;

/// So many counts are kept; beyond that all are taken anew.
const MOST_KEPT: usize = 30_000;

/// What is known of the projects that were asked for.
#[derive(Debug, Default)]
pub(super) struct Counts {
    known: HashMap<(Counted, String), u64>,
    /// Whether the users of every project are known; who has none is not in `known`.
    has_users: bool,
}

impl Counts {
    /// Notes that a project has one more.
    pub(super) fn more(&mut self, counted: Counted, project: &str) {
        if self.knows_all(counted) {
            *self.known.entry((counted, project.to_owned())).or_default() += 1;
        } else if let Some(count) = self.known.get_mut(&(counted, project.to_owned())) {
            *count += 1;
        }
    }

    /// Notes that a project has one less.
    pub(super) fn fewer(&mut self, counted: Counted, project: &str) {
        if let Some(count) = self.known.get_mut(&(counted, project.to_owned())) {
            *count = count.saturating_sub(1);
        }
    }

    pub(super) fn moved(&mut self, counted: Counted, from: &str, to: &str) {
        if from != to {
            self.fewer(counted, from);
            self.more(counted, to);
        }
    }

    /// # Errors
    /// [`StoreError::OverQuota`] if the project has as many already.
    pub(super) fn check(&mut self, quota: &Quota, count: impl FnOnce(&mut Self) -> Act<u64>) -> Act<()> {
        let known = self.known.get(&(quota.counted, quota.project.clone())).copied();
        let has = match known {
            Some(count) => count,
            None if self.knows_all(quota.counted) => 0,
            None => {
                if self.known.len() >= MOST_KEPT {
                    *self = Self::default();
                }
                let has = count(self)?;
                self.known.insert((quota.counted, quota.project.clone()), has);
                has
            }
        };
        if has < quota.most { Ok(()) } else { Err(Failure::Refused(StoreError::OverQuota(quota.clone()))) }
    }

    /// Counts the users of every project, and gives those of one.
    pub(super) fn count_users(&mut self, transaction: &WriteTransaction, project: &str) -> Act<u64> {
        for entry in transaction.open_table(keyspace::USERS)?.iter()? {
            let (name, bytes) = entry?;
            let user = User::decode(name.value().as_bytes(), bytes.value())?;
            *self.known.entry((Counted::Users, user.project)).or_default() += 1;
        }
        self.has_users = true;
        Ok(self.known.get(&(Counted::Users, project.to_owned())).copied().unwrap_or_default())
    }

    fn knows_all(&self, counted: Counted) -> bool {
        counted == Counted::Users && self.has_users
    }
}

/// How many there are in one scope of an index.
pub(super) fn in_scope<V: redb::Value + 'static>(index: &impl ReadableTable<Bytes, V>, scope: &str) -> Act<u64> {
    let mut count = 0;
    for entry in index.range::<&[u8]>(&*scoped(scope, b"")..&*scope_end(scope))? {
        entry?;
        count += 1;
    }
    Ok(count)
}
