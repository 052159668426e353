//! Users. Never brings a deleted user back with sessions that were open before.

use prost::Message;
use redb::TableDefinition;
use tollgate_core::credential::{ProjectId, UserId};
use tollgate_core::name::split_login_name;
use tollgate_core::resource::EVERY;
use tollgate_guard::time::Timestamp;

use super::super::format::Format;
use super::super::keyspace::redis as names;
use super::super::keyspace::{self, Bytes, is_part, scoped};
use super::super::kind::Kind;
use super::super::rules::{check_parts, check_version, project_id_after};
use super::super::{Counted, Store, StoreError};
use super::listing::{InFile, Listing};
use super::noun::{Entry, Index, List, Noun, Tables, at_its_place, damaged, refused, replace, text_key};
use super::project;
use crate::domain::record::User;

/// Somebody who logs in with a password.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct StoredUser {
    /// What the user logs in with. Format 3: "<project>/<name>", but for users of every project and those of before.
    #[prost(string, tag = "1")]
    name: String,
    /// Argon2id, as a PHC string. Empty once the user is deleted.
    #[prost(string, tag = "2")]
    password_hash: String,
    /// One project, or "*" for every one.
    #[prost(string, tag = "3")]
    project: String,
    /// Sorted, without duplicates. Empty: none.
    #[prost(string, repeated, tag = "4")]
    permissions: Vec<String>,
    #[prost(bool, tag = "5")]
    disabled: bool,
    /// A tombstone: the name is free for another user; from format 3 on, only once it is freed.
    #[prost(bool, tag = "6")]
    deleted: bool,
    /// Tokens of another generation are refused. It never falls.
    #[prost(uint64, tag = "7")]
    sessions: u64,
    #[prost(uint64, tag = "8")]
    created_at_ms: u64,
    /// As the actor of an audit entry.
    #[prost(string, tag = "9")]
    created_by: String,
    #[prost(uint64, tag = "10")]
    changed_at_ms: u64,
    /// Counts the writes of this record, from 1.
    #[prost(uint64, tag = "11")]
    version: u64,
    /// Format 3: 16 base62 characters that nobody else was or will be given.
    #[prost(string, optional, tag = "12")]
    id: Option<String>,
    /// Format 3.
    #[prost(bool, tag = "13")]
    freed: bool,
    /// Format 3: the id of the project. Absent: every project.
    #[prost(string, optional, tag = "14")]
    project_id: Option<String>,
}

/// A page of users, by name, without deleted ones.
#[derive(Clone, Debug, Default)]
pub struct UserQuery {
    pub project: Option<String>,
    /// Users behind this name.
    pub after: Option<String>,
    /// At most this many.
    pub limit: usize,
}

impl Noun for User {
    type Key = &'static str;
    const KIND: Kind = Kind::Users;
    const TABLE: TableDefinition<'static, &'static str, Bytes> = keyspace::USERS;
    const PREFIX: &'static str = names::USERS;
    const HAS_PROJECT_IN_FRONT: bool = true;
    const INDEXES: &'static [Index] = &[
        Index::Text(keyspace::LISTED_USERS),
        Index::Bytes(keyspace::USERS_BY_PROJECT),
        Index::Bytes(keyspace::USERS_BY_PLAIN_NAME),
    ];

    fn name(&self) -> String {
        format!("user {}", self.name)
    }

    fn version(&self) -> Option<u64> {
        Some(self.version)
    }

    fn place(&self) -> Vec<u8> {
        self.name.clone().into_bytes()
    }

    fn key(place: &[u8]) -> Option<&str> {
        text_key(place)
    }

    fn encode(&self, format: Format) -> Vec<u8> {
        let message = StoredUser {
            name: self.name.clone(),
            password_hash: self.password_hash.clone(),
            project: self.project.clone(),
            permissions: self.permissions.clone(),
            disabled: self.disabled,
            deleted: self.deleted,
            sessions: self.sessions,
            created_at_ms: self.created_at.as_millis(),
            created_by: self.created_by.clone(),
            changed_at_ms: self.changed_at.as_millis(),
            version: self.version,
            id: self.id.filter(|_| format.has_three()).map(|id| id.to_string()),
            freed: self.freed && format.has_three(),
            project_id: self.project_id.filter(|_| format.has_three()).map(|id| id.to_string()),
        };
        message.encode_to_vec()
    }

    fn decode(place: &[u8], bytes: &[u8]) -> Result<Self, StoreError> {
        let message = StoredUser::decode(bytes).map_err(|_| damaged("a user"))?;
        let user = Self {
            id: message.id.map(|id| UserId::parse(&id).ok_or_else(|| damaged("a user"))).transpose()?,
            name: message.name,
            password_hash: message.password_hash,
            project: message.project,
            project_id: project::id_of(message.project_id).ok_or_else(|| damaged("a user"))?,
            permissions: message.permissions,
            disabled: message.disabled,
            deleted: message.deleted,
            freed: message.freed,
            sessions: message.sessions,
            created_at: Timestamp::from_millis(message.created_at_ms),
            created_by: message.created_by,
            changed_at: Timestamp::from_millis(message.changed_at_ms),
            version: message.version,
        };
        at_its_place(user, place)
    }

    fn project(&self) -> Option<&str> {
        Some(&self.project)
    }

    /// A deleted one is on no list but one that is there to be counted.
    fn lists(&self, format: Format) -> Vec<List> {
        let (name, plain) = (&*self.name, self.plain_name());
        if self.deleted {
            let deleted = || List::in_redis(names::deleted_users_of_project(&self.project), name);
            return format.has_three().then(deleted).into_iter().collect();
        }
        let mut lists = vec![
            List::in_redis(names::USER_LIST, name),
            List::in_both(
                (names::users_of_project(&self.project), name),
                (keyspace::USERS_BY_PROJECT, scoped(&self.project, name.as_bytes())),
            ),
        ];
        if format.has_three() {
            lists.push(List::in_file(Entry::Text(keyspace::LISTED_USERS, name.to_owned())));
        }
        if plain != name {
            let key = scoped(plain, name.as_bytes());
            lists.push(List::in_both((names::users_of_plain_name(plain), name), (keyspace::USERS_BY_PLAIN_NAME, key)));
        }
        lists
    }
}

/// By name, without deleted ones; `None`: nobody can be on it.
pub(in crate::store) fn listing(query: &UserQuery) -> Option<Listing<User>> {
    let (list, in_file) = match &query.project {
        Some(project) if !is_part(project) => return None,
        Some(project) => (names::users_of_project(project), InFile::Scope(keyspace::USERS_BY_PROJECT, project.clone())),
        None => (names::USER_LIST.to_owned(), InFile::Names(keyspace::LISTED_USERS)),
    };
    let listing = Listing::of(list, in_file, query.limit).after(query.after.as_deref().map(str::as_bytes));
    Some(Listing { is_on: |user: &User| !user.deleted, ..listing })
}

/// As [`super::super::Store::users_of_plain_name`]; `None`: nobody can have it.
pub(in crate::store) fn of_plain_name(plain: &str, limit: usize) -> Option<Listing<User>> {
    let in_file = InFile::Scope(keyspace::USERS_BY_PLAIN_NAME, plain.to_owned());
    is_part(plain).then(|| Listing::of(names::users_of_plain_name(plain), in_file, limit))
}

impl Store {
    /// The user of this name, also a deleted one.
    pub async fn user(&self, name: String) -> Result<Option<User>, StoreError> {
        self.find(name.into_bytes()).await
    }

    /// Users of one project each who have this name in it, by project; without those who have no project in front of their name.
    pub async fn users_of_plain_name(&self, plain: String, limit: usize) -> Result<Vec<User>, StoreError> {
        self.list(of_plain_name(&plain, limit)).await
    }

    pub async fn users(&self, query: UserQuery) -> Result<Vec<User>, StoreError> {
        self.list(listing(&query)).await
    }
}

pub(in crate::store) fn create<T: Tables>(tables: &mut T, user: &User) -> Result<(), T::Halt> {
    check_parts([&user.name, &user.project])?;
    tables.count(Counted::Users, None, Some(&user.project));
    // Both are asked for before either is judged, so that one reading is enough.
    let (stored, namesake) = (tables.value::<User>(&user.place()), namesake_of(tables, user));
    let (stored, namesake) = (stored?, namesake?);
    if stored.is_some() {
        return refused(format!("the user name {} is taken", user.name));
    }
    check_namesake(namesake.as_ref(), user)?;
    replace(tables, None, user)
}

pub(in crate::store) fn update<T: Tables>(tables: &mut T, user: &User) -> Result<(), T::Halt> {
    check_parts([&user.name, &user.project])?;
    let Some(stored) = tables.find::<User>(&user.place())? else {
        return refused(format!("there is no user {}", user.name));
    };
    check_update(&stored, user)?;
    if stored.deleted || stored.project != user.project {
        check_namesake(namesake_of(tables, user)?.as_ref(), user)?;
    }
    tables.count(Counted::Users, Some(&stored.project), Some(&user.project));
    let after = User { id: id_after(&stored, user), project_id: project_id_of(&stored, user), ..user.clone() };
    replace(tables, Some(&stored), &after)
}

/// Gives an id to a user who has none.
pub(in crate::store) fn give_id<T: Tables>(tables: &mut T, name: &str, id: UserId) -> Result<(), T::Halt> {
    match tables.find::<User>(name.as_bytes())? {
        Some(stored) if stored.id.is_none() => replace(tables, Some(&stored), &User { id: Some(id), ..stored.clone() }),
        _ => Ok(()),
    }
}

/// Of one who was made before projects had ids, and is still of this project.
pub(super) fn give_project_id<T: Tables>(
    tables: &mut T,
    name: &str,
    (project, project_id): (&str, ProjectId),
) -> Result<(), T::Halt> {
    match tables.find::<User>(name.as_bytes())? {
        Some(stored) if stored.project_id.is_none() && stored.project == project => {
            replace(tables, Some(&stored), &User { project_id: Some(project_id), ..stored.clone() })
        }
        _ => Ok(()),
    }
}

/// What stands under the [`namesake`].
fn namesake_of<T: Tables>(tables: &mut T, user: &User) -> Result<Option<User>, T::Halt> {
    match namesake(user) {
        Some(name) => tables.find::<User>(name.as_bytes()),
        None => Ok(None),
    }
}

/// # Errors
/// [`StoreError::Conflict`] if another user has the name in the project. `found` is what stands under the [`namesake`].
fn check_namesake(found: Option<&User>, user: &User) -> Result<(), StoreError> {
    if found.is_some_and(|found| !found.deleted && found.project == user.project) {
        return refused(format!("the user name {} is taken in project {}", user.plain_name(), user.project));
    }
    Ok(())
}

/// The name of the record that would be of the same user in the same project, if there may be one: users whose names have no
/// project in front are of one all the same.
fn namesake(user: &User) -> Option<String> {
    match split_login_name(&user.name) {
        _ if user.deleted || user.project == EVERY => None,
        (Some(_), plain) => Some(plain.to_owned()),
        (None, plain) => Some(User::name_in(&user.project, plain)),
    }
}

fn check_update(stored: &User, new: &User) -> Result<(), StoreError> {
    check_version(&format!("user {}", new.name), stored.version, new.version)?;
    if new.sessions < stored.sessions || (stored.deleted && !new.deleted && new.sessions == stored.sessions) {
        return refused(format!("sessions of user {} that have ended would be open again", new.name));
    }
    Ok(())
}

/// What a user's record has after a change: an id is set once, and whoever is made in the place of a deleted user is somebody else.
fn id_after(stored: &User, new: &User) -> Option<UserId> {
    if stored.deleted && !new.deleted { new.id } else { stored.id.or(new.id) }
}

/// Whoever is made in the place of a deleted user carries what is said of them.
fn project_id_of(stored: &User, new: &User) -> Option<ProjectId> {
    if stored.deleted && !new.deleted {
        return new.project_id;
    }
    project_id_after((&stored.project, stored.project_id), (&new.project, new.project_id))
}
