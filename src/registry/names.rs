//! Names of users: whom one means, and those that come back. A user of one project is known by `<project>/<name>`, or by the name alone
//! if the store was older when the user was made; so a name of one project says nothing about another one. A name stays with
//! whoever had it, also deleted, until an operator gives it free: what named them would name whoever has the name next. Never
//! decides what becomes of that, only tells of it.

use tollgate_core::credential::{KeyId, UserId};
use tollgate_core::name::split_login_name;
use tollgate_core::resource::EVERY;

use super::actor::Actor;
use super::audit::Attempt;
use super::{Change, Made, Registry, RegistryError, Result};
use crate::domain::record::User;
use crate::store::{AuditQuery, KeyQuery, ResourceQuery, SessionLoad, Store, StoreError, UserQuery};

/// How much is read at once.
const PAGE: usize = 500;
/// How much of each kind is told.
const TOLD: usize = 100;
/// So many rows of the audit log are counted.
const ROWS: usize = 1_000;

/// A name that is free, and what still says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Freed {
    pub name: String,
    /// Of whoever had it.
    pub id: Option<UserId>,
    /// Keys that were made by it.
    pub keys: Vec<KeyId>,
    /// Resources that it owns, as `<kind>:<id>`.
    pub resources: Vec<String>,
    /// Users that were made by it.
    pub users: Vec<String>,
    /// Projects that it was the last to change, or made.
    pub projects: Vec<String>,
    /// Whether there are more of any.
    pub more: bool,
    /// How many rows of the audit log are of what it did, up to [`ROWS`].
    pub audit_rows: usize,
    /// Whether there may be more of these.
    pub more_audit_rows: bool,
}

/// So many of one name are told to whoever has to choose among them.
const CHOICES: usize = 5;

/// Whom a login name means to somebody who logs in, with their project, and so what would be found of their session: `<project>/<name>` is
/// one user; a name alone is that of whoever stands under it alone, or else of the only one who has it. `None`: nobody, or more than one.
/// Asks the store as often and for as much whoever there is.
///
/// # Errors
/// [`StoreError`]
pub async fn whoever_logs_in(store: &Store, name: &str) -> std::result::Result<Option<SessionLoad>, StoreError> {
    // No session has this id. One look-up tells the user and the project, so that both take the time of one.
    let load = async |name: &str| {
        let found = store.load_session(name.to_owned(), String::new()).await?.believed()?;
        Ok::<_, StoreError>(Some(found).filter(|found| found.user.as_ref().is_some_and(|user| !user.deleted)))
    };
    let is_of = |found: &SessionLoad, project: &str| found.user.as_ref().is_some_and(|user| user.project == project);
    let (project, plain) = split_login_name(name);
    let Some(project) = project else {
        let others = store.users_of_plain_name(plain.to_owned(), 2).await?;
        let alone = load(plain).await?;
        let other = load(others.first().map_or(plain, |other| &*other.name)).await?;
        return Ok(match (alone, &*others) {
            (Some(alone), _) => Some(alone),
            (None, [_]) => other,
            (None, _) => None,
        });
    };
    let (named, alone) = (load(name).await?, load(plain).await?);
    Ok(named.or(alone.filter(|alone| is_of(alone, project))))
}

impl Registry {
    /// The name under which the user stands whom the actor calls this; where there is none, under which one would. A name alone is one
    /// of the actor's project; to an administrator of every project that of a user of every project, or else of the only one who has it,
    /// unless whoever had the name alone was deleted.
    ///
    /// # Errors
    /// [`RegistryError::Conflict`] if it could be several.
    pub(super) async fn full_name(&self, actor: &Actor, name: &str) -> Result<String> {
        let (project, plain) = split_login_name(name);
        if project.is_some_and(|project| !actor.reaches(project)) {
            // Whoever is there is called the same as who is not.
            return Ok(name.to_owned());
        }
        if let Some(project) = project.or(actor.project.as_deref()) {
            return self.name_in_project(project, plain).await;
        }
        let alone = self.store.user(plain.to_owned()).await?.filter(|user| !user.freed);
        if alone.as_ref().is_some_and(|alone| alone.deleted) {
            // The name is kept: it means whoever had it, and nobody who is called alike elsewhere.
            return Ok(plain.to_owned());
        }
        let mut found = self.store.users_of_plain_name(plain.to_owned(), CHOICES).await?;
        match (alone, &*found) {
            (Some(alone), _) if alone.project == EVERY => return Ok(alone.name),
            (None, [one]) => return Ok(one.name.clone()),
            (_, []) => return Ok(plain.to_owned()),
            (alone, _) => found.extend(alone),
        }
        let names: Vec<String> = found.iter().map(|user| User::name_in(&user.project, plain)).collect();
        Err(RegistryError::Conflict(format!("several users have the name {plain}: say which of {}", names.join(", "))))
    }

    async fn name_in_project(&self, project: &str, plain: &str) -> Result<String> {
        let named = self.store.user(User::name_in(project, plain)).await?;
        let alone = self.store.user(plain.to_owned()).await?.filter(|user| user.project == project);
        let is_there = |user: &Option<User>| user.as_ref().is_some_and(|user| !user.deleted);
        let found = if is_there(&named) || !is_there(&alone) { named.or(alone) } else { alone };
        match found {
            Some(user) => Ok(user.name),
            None if self.store.format().await?.has_three() => Ok(User::name_in(project, plain)),
            None => Ok(plain.to_owned()),
        }
    }

    /// # Errors
    /// [`RegistryError::Conflict`] if a user who is not this one has the plain name in the project, or had it and the name is kept.
    pub(super) async fn demand_free_name(&self, user: &str, project: &str, plain: &str) -> Result<()> {
        for name in [User::name_in(project, plain), plain.to_owned()] {
            match self.store.user(name).await?.filter(|known| known.project == project && known.name != user) {
                Some(known) if !known.deleted => return Err(taken(plain)),
                Some(known) if !known.freed => return Err(kept(&known.name)),
                _ => {}
            }
        }
        Ok(())
    }

    /// Gives the name of a deleted user free, so that another one can be made under it. Doing it again is no error.
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`] to whoever is bound to a project, [`RegistryError::NotFound`] if there was no such user,
    /// [`RegistryError::Conflict`] while there is one, or in a store that does not keep names yet.
    pub async fn free_user_name(&self, actor: &Actor, name: &str) -> Result<Made<Freed>> {
        let name = &*self.full_name(actor, name).await?;
        let attempt = Attempt::on_user(actor, "user.free", name);
        self.demand_unbound(&attempt, None, "gives the names of users free").await?;
        if !self.store.format().await?.has_three() {
            let reason =
                "in a store that was not upgraded the name of a deleted user is free: `tollgate store upgrade`";
            return Err(RegistryError::Conflict(reason.to_owned()));
        }
        let told = self.naming(name).await?;
        let made = self
            .make(&attempt, || async {
                let user = match self.store.user(name.to_owned()).await? {
                    Some(user) if user.deleted => user,
                    Some(_) => return Err(RegistryError::Conflict(format!("user {name} is not deleted"))),
                    None => return Err(RegistryError::NotFound(format!("there was no user {name}"))),
                };
                Ok(if user.freed {
                    Change::none(user)
                } else {
                    self.next_version(user.sessions, User { freed: true, ..user })
                })
            })
            .await?;
        Ok(Made { result: Freed { id: made.result.id, ..told }, sequence: made.sequence })
    }

    /// What says the name of a user.
    async fn naming(&self, name: &str) -> Result<Freed> {
        let (store, subject, limit) = (&self.store, format!("user:{name}"), PAGE);
        let (mut keys, mut resources, mut users, mut projects) =
            (Mentions::default(), Mentions::default(), Mentions::default(), Mentions::default());
        let mut after = None;
        while !keys.is_told {
            let page = store.keys(KeyQuery { after, limit, ..KeyQuery::default() }).await?;
            after = page.last().map(|key| key.id);
            keys.take(&page, |key| (key.created_by == subject).then_some(key.id));
        }
        let mut after = None;
        while !resources.is_told {
            let page = store.resources(ResourceQuery { after, limit, ..ResourceQuery::default() }).await?;
            after = page.last().map(|resource| (resource.kind.clone(), resource.id.clone()));
            resources.take(&page, |resource| {
                let owner = resource.owner.as_deref();
                (owner == Some(name) || owner == Some(&*subject)).then(|| resource.reference().to_string())
            });
        }
        let mut after = None;
        while !users.is_told {
            let page = store.users(UserQuery { after, limit, ..UserQuery::default() }).await?;
            after = page.last().map(|user| user.name.clone());
            users.take(&page, |user| (user.created_by == subject).then(|| user.name.clone()));
        }
        let mut after = None;
        while !projects.is_told {
            let page = store.projects(after, limit).await?;
            after = page.last().map(|project| project.name.clone());
            projects.take(&page, |project| (project.changed_by == subject).then(|| project.name.clone()));
        }
        let by_it = AuditQuery { actor: Some(subject), limit: ROWS + 1, ..AuditQuery::default() };
        let rows = store.audit(by_it).await?;
        let audit_rows = rows.rows.len().min(ROWS);
        let more_audit_rows = rows.rows.len() > ROWS || rows.goes_on_before.is_some();
        let more = keys.more || resources.more || users.more || projects.more;
        let (keys, resources, users, projects) = (keys.told, resources.told, users.told, projects.told);
        let name = name.to_owned();
        Ok(Freed { name, id: None, keys, resources, users, projects, more, audit_rows, more_audit_rows })
    }
}

/// What says a name, of one kind of record.
struct Mentions<T> {
    told: Vec<T>,
    /// Whether there is more than [`TOLD`].
    more: bool,
    /// Whether no other page is to be read.
    is_told: bool,
}

impl<T> Default for Mentions<T> {
    fn default() -> Self {
        Self { told: Vec::new(), more: false, is_told: false }
    }
}

impl<T> Mentions<T> {
    /// The next page.
    fn take<Record>(&mut self, page: &[Record], said: impl Fn(&Record) -> Option<T>) {
        self.told.extend(page.iter().filter_map(said));
        self.more = self.told.len() > TOLD;
        self.told.truncate(TOLD);
        self.is_told = self.more || page.len() < PAGE;
    }
}

pub(super) fn taken(name: &str) -> RegistryError {
    RegistryError::Conflict(format!("the user name {name} is taken"))
}

pub(super) fn kept(name: &str) -> RegistryError {
    RegistryError::Conflict(format!(
        "the name {name} was that of a user who is deleted, and records may still contain it: choose another one, or have an \
         operator release it with `tollgate users free {name}`"
    ))
}
