//! Users in the embedded store. Never brings a deleted user back with sessions that were open before.

use std::ops::Bound;

use redb::{ReadableTable, WriteTransaction};
use tollgate_core::credential::{ProjectId, UserId};

use super::super::format::Format;
use super::super::keyspace::{self, Bytes, is_part, rest_of, scope_end, scoped};
use super::super::records::{decode_user, encode_user};
use super::super::rules::{
    check_namesake, check_parts, check_user_update, namesake, user_id_after, user_project_id_after,
};
use super::super::{StoreError, UserQuery};
use super::act::Act;
use super::act::conflict;
use super::{Embedded, damaged, has_indexes};
use crate::domain::record::User;

impl Embedded {
    pub fn user(&self, name: &str) -> Result<Option<User>, StoreError> {
        self.engine.read(|read| stored(&read.open_table(keyspace::USERS)?, name))
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
                        let user = decode_user(entry?.1.value())?;
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
    match stored(users, name)? {
        Some(user) => Ok(user),
        None => damaged("a user is listed and not there".to_owned()),
    }
}

pub(super) fn stored(users: &impl ReadableTable<&'static str, Bytes>, name: &str) -> Act<Option<User>> {
    let Some(bytes) = users.get(name)? else { return Ok(None) };
    let user = decode_user(bytes.value())?;
    if user.name != name {
        return damaged(format!("the record of user {} stands in the wrong place", user.name));
    }
    Ok(Some(user))
}

pub(super) fn create(transaction: &WriteTransaction, user: &User, format: Format) -> Act<()> {
    check_parts([&user.name, &user.project])?;
    if transaction.open_table(keyspace::USERS)?.insert(&*user.name, &*encode_user(user, format))?.is_some() {
        return conflict(format!("the user name {} is taken", user.name));
    }
    demand_name(transaction, user)?;
    list(transaction, user, format)
}

/// Gives the user as it was before.
pub(super) fn update(transaction: &WriteTransaction, user: &User, format: Format) -> Act<User> {
    check_parts([&user.name, &user.project])?;
    let known = {
        let mut users = transaction.open_table(keyspace::USERS)?;
        let Some(known) = stored(&users, &user.name)? else {
            return conflict(format!("there is no user {}", user.name));
        };
        check_user_update(&known, user)?;
        let project_id = user_project_id_after(&known, user);
        let user = User { id: user_id_after(&known, user), project_id, ..user.clone() };
        users.insert(&*user.name, &*encode_user(&user, format))?;
        known
    };
    if known.deleted || known.project != user.project {
        demand_name(transaction, user)?;
    }
    transaction.open_table(keyspace::USERS_BY_PROJECT)?.remove(&*scoped(&known.project, known.name.as_bytes()))?;
    let mut by_plain_name = transaction.open_table(keyspace::USERS_BY_PLAIN_NAME)?;
    by_plain_name.remove(&*scoped(known.plain_name(), known.name.as_bytes()))?;
    drop(by_plain_name);
    transaction.open_table(keyspace::LISTED_USERS)?.remove(&*known.name)?;
    list(transaction, user, format)?;
    Ok(known)
}

/// # Errors
/// A conflict if another user has the name in the project.
fn demand_name(transaction: &WriteTransaction, user: &User) -> Act<()> {
    let Some(name) = namesake(user) else { return Ok(()) };
    let found = stored(&transaction.open_table(keyspace::USERS)?, &name)?;
    Ok(check_namesake(found.as_ref(), user)?)
}

/// Gives an id to a user who has none.
pub(super) fn give_id(transaction: &WriteTransaction, name: &str, id: UserId, format: Format) -> Act<()> {
    let mut users = transaction.open_table(keyspace::USERS)?;
    if let Some(known) = stored(&users, name)?.filter(|known| known.id.is_none()) {
        users.insert(name, &*encode_user(&User { id: Some(id), ..known }, format))?;
    }
    Ok(())
}

/// Gives the id of their project to a user who carries none, and is still of that project.
pub(super) fn give_project_id(
    transaction: &WriteTransaction,
    name: &str,
    (project, id): (&str, ProjectId),
    format: Format,
) -> Act<()> {
    let mut users = transaction.open_table(keyspace::USERS)?;
    let known = stored(&users, name)?.filter(|known| known.project_id.is_none() && known.project == project);
    if let Some(known) = known {
        users.insert(name, &*encode_user(&User { project_id: Some(id), ..known }, format))?;
    }
    Ok(())
}

/// Puts a user on the lists, if it is on any.
fn list(transaction: &WriteTransaction, user: &User, format: Format) -> Act<()> {
    if !user.deleted {
        if format.has_three() {
            transaction.open_table(keyspace::LISTED_USERS)?.insert(&*user.name, ())?;
        }
        let mut index = transaction.open_table(keyspace::USERS_BY_PROJECT)?;
        index.insert(&*scoped(&user.project, user.name.as_bytes()), ())?;
        if user.plain_name() != user.name {
            let mut index = transaction.open_table(keyspace::USERS_BY_PLAIN_NAME)?;
            index.insert(&*scoped(user.plain_name(), user.name.as_bytes()), ())?;
        }
    }
    Ok(())
}
