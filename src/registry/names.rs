//! Names of users that come back. A name stays with whoever had it, also deleted, until an operator gives it free: what named them
//! would name whoever has the name next. Never decides what becomes of that, only tells of it.

use super::actor::Actor;
use super::audit::Attempt;
use super::{Change, Made, Registry, RegistryError, Result};
use crate::domain::credential::{KeyId, UserId};
use crate::domain::record::User;
use crate::store::{KeyQuery, ResourceQuery};

/// How much is read at once.
const PAGE: usize = 500;
/// How much of each kind is told.
const TOLD: usize = 100;

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
    /// Whether there are more of either.
    pub more: bool,
}

impl Registry {
    /// Gives the name of a deleted user free, so that another one can be made under it. Doing it again is no error.
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`] to whoever is bound to a project, [`RegistryError::NotFound`] if there was no such user,
    /// [`RegistryError::Conflict`] while there is one, or in a store that does not keep names yet.
    pub async fn free_user_name(&self, actor: &Actor, name: &str) -> Result<Made<Freed>> {
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
        let subject = format!("user:{name}");
        let mut freed = Freed { name: name.to_owned(), id: None, keys: vec![], resources: vec![], more: false };
        let mut query = KeyQuery { limit: PAGE, ..KeyQuery::default() };
        loop {
            let page = self.store.keys(query.clone()).await?;
            freed.keys.extend(page.iter().filter(|key| key.created_by == subject).map(|key| key.id));
            match page.last().filter(|_| page.len() == PAGE && freed.keys.len() <= TOLD) {
                Some(last) => query.after = Some(last.id),
                None => break,
            }
        }
        let mut query = ResourceQuery { limit: PAGE, ..ResourceQuery::default() };
        loop {
            let page = self.store.resources(query.clone()).await?;
            let is_owned =
                |owner: &Option<String>| owner.as_ref().is_some_and(|owner| *owner == name || *owner == subject);
            let owned = page.iter().filter(|resource| is_owned(&resource.owner));
            freed.resources.extend(owned.map(|resource| resource.reference().to_string()));
            match page.last().filter(|_| page.len() == PAGE && freed.resources.len() <= TOLD) {
                Some(last) => query.after = Some((last.kind.clone(), last.id.clone())),
                None => break,
            }
        }
        freed.more = freed.keys.len() > TOLD || freed.resources.len() > TOLD;
        freed.keys.truncate(TOLD);
        freed.resources.truncate(TOLD);
        Ok(freed)
    }
}
