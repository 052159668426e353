//! Users in the embedded store, as people and checks read them. Never skips one that is listed and not there.

use std::ops::Bound;

use redb::ReadableTable;

use super::super::keyspace::{self, Bytes, is_part, rest_of, scope_end, scoped};
use super::super::records::noun::Noun;
use super::super::{StoreError, UserQuery};
use super::act::Act;
use super::{Embedded, damaged, has_indexes, records};
use crate::domain::record::User;

impl Embedded {
    pub fn user(&self, name: &str) -> Result<Option<User>, StoreError> {
        self.engine.read(|read| records::read(read, name.as_bytes()))
    }

    pub fn users(&self, query: &UserQuery) -> Result<Vec<User>, StoreError> {
        self.engine.read(|read| {
            let users = read.open_table(keyspace::USERS)?;
            match &query.project {
                Some(project) => {
                    let index = read.open_table(keyspace::USERS_BY_PROJECT)?;
                    users_of_project(&users, &index, project, query)
                }
                None if has_indexes(read)? => {
                    let index = read.open_table(keyspace::LISTED_USERS)?;
                    let start = query.after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
                    let mut page = Vec::new();
                    for entry in index.range::<&str>((start, Bound::Unbounded))?.take(query.limit) {
                        self.look_at_one();
                        page.push(listed(&users, entry?.0.value())?);
                    }
                    Ok(page)
                }
                None => {
                    let start = query.after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
                    let mut page = Vec::new();
                    for entry in users.range::<&str>((start, Bound::Unbounded))? {
                        if page.len() == query.limit {
                            break;
                        }
                        self.look_at_one();
                        let (name, bytes) = entry?;
                        let user = User::decode(name.value().as_bytes(), bytes.value())?;
                        if !user.deleted {
                            page.push(user);
                        }
                    }
                    Ok(page)
                }
            }
        })
    }
}

impl Embedded {
    /// As [`super::super::Store::users_of_plain_name`].
    pub fn users_of_plain_name(&self, plain: &str, limit: usize) -> Result<Vec<User>, StoreError> {
        if !is_part(plain) {
            return Ok(Vec::new());
        }
        self.engine.read(|read| {
            let users = read.open_table(keyspace::USERS)?;
            let index = read.open_table(keyspace::USERS_BY_PLAIN_NAME)?;
            let (first, end) = (scoped(plain, b""), scope_end(plain));
            let mut found = Vec::new();
            for entry in index.range::<&[u8]>((Bound::Included(&*first), Bound::Excluded(&*end)))?.take(limit) {
                self.look_at_one();
                found.push(listed(&users, name_in(entry?.0.value()))?);
            }
            Ok(found)
        })
    }
}

/// The name in a key of an index.
fn name_in(key: &[u8]) -> &str {
    rest_of(key).and_then(|name| std::str::from_utf8(name).ok()).unwrap_or_default()
}

fn users_of_project(
    users: &impl ReadableTable<&'static str, Bytes>,
    index: &impl ReadableTable<Bytes, ()>,
    project: &str,
    query: &UserQuery,
) -> Act<Vec<User>> {
    if !is_part(project) {
        return Ok(Vec::new());
    }
    let (first, end) = (scoped(project, b""), scope_end(project));
    let after = query.after.as_ref().map(|name| scoped(project, name.as_bytes()));
    let start = after.as_deref().map_or(Bound::Included(&*first), Bound::Excluded);
    let mut page = Vec::new();
    for entry in index.range::<&[u8]>((start, Bound::Excluded(&*end)))?.take(query.limit) {
        page.push(listed(users, name_in(entry?.0.value()))?);
    }
    Ok(page)
}

/// The user that an index names.
fn listed(users: &impl ReadableTable<&'static str, Bytes>, name: &str) -> Act<User> {
    match records::stored(users, name.as_bytes())? {
        Some(user) => Ok(user),
        None => damaged("a user is listed and not there".to_owned()),
    }
}
