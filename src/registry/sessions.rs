//! Sessions: which go on, their end, and the keys that sign them. Never opens a session again that was ended, and never shows
//! those of a user beyond the actor's reach.

use std::time::Duration;

use tollgate_core::credential::UserId;
use tollgate_core::name::{USER_NAME_RULE, is_login_name};
use tollgate_core::named::named;
use tollgate_core::resource::EVERY;
use tollgate_guard::slots::Slots;

use super::actor::{Actor, ActorPermissions, identity};
use super::audit::Attempt;
use super::rules::{check_name, invalid};
use super::{ATTEMPTS, Change, Made, Registry, RegistryError, Result};
use crate::domain::change::{Ended, Event, SIGNING_KEYS};
use crate::domain::record::{EndedSession, OpenSession, Outcome, SigningKey, User, UserSessions};
use crate::store::{StoreError, Write};

impl Registry {
    /// Whether one more session of this user may begin: each leaves rows that stay, whoever ends it. Counted by the rates of what is
    /// made, and apart from it, so that whoever makes too much keeps nobody from logging in.
    ///
    /// # Errors
    /// How long it has to wait.
    pub fn admit_session(&self, user: &User) -> std::result::Result<(), Duration> {
        let rates = &self.limits.load().rates;
        let who = identity(user.id.as_ref().map(UserId::as_str), &user.name);
        let admitted = self.paces.begun.admit(rates, &who, Some(&user.project), self.clock.moment());
        admitted.map_err(|(retry_after, _)| retry_after)
    }

    /// Puts a session that begins now on the list of its user; `false`: the store keeps no such lists yet. When the user has as many
    /// as there may be, the oldest is ended, so that none goes on without being listed.
    ///
    /// # Errors
    /// [`StoreError`]; then it may be on no list.
    pub async fn begin_session(&self, user: &User, session: OpenSession) -> std::result::Result<bool, StoreError> {
        if !self.store.format().await?.has_three() {
            return Ok(false);
        }
        let mut attempts = 0;
        loop {
            attempts += 1;
            // Whoever else logs in meanwhile takes the last place, or ends the same session.
            match self.list_session(user, session.clone()).await {
                Err(StoreError::Conflict(_)) if attempts < ATTEMPTS => {}
                // It stands there. Should it be lost with its server, its user logs in again.
                Err(StoreError::Unreplicated(_)) => return Ok(true),
                result => return result.map(|()| true),
            }
        }
    }

    async fn list_session(&self, user: &User, session: OpenSession) -> std::result::Result<(), StoreError> {
        self.settle().await?;
        let open = match self.going_on(user).await {
            // Nobody is kept out by a list that no check reads.
            Err(StoreError::Damaged(_)) => Vec::new(),
            open => open?,
        };
        let surplus = (open.len() + 1).saturating_sub(UserSessions::MOST);
        let actor = Actor::tollgate();
        let (mut writes, mut ended) = (Vec::new(), Vec::new());
        for oldest in open.into_iter().take(surplus) {
            let attempt = Attempt::on_session(&actor, "session.end", &oldest.id);
            let reason = format!("{} has as many sessions as one user may have", user.name);
            let end = self.end_of(&user.name, oldest);
            writes.push(Write::EndSession(end.clone()));
            writes.push(Write::Audit(self.row(&attempt, Some(&user.project), Outcome::Done, Some(&reason))));
            ended.push(Ended::Session(end));
        }
        writes.push(Write::BeginSession { user: user.name.clone(), session });
        self.write(writes, Event::ending(ended)).await.map(|_| ())
    }

    /// The sessions of a user that go on, the oldest first: the actor's own, or those of a user within the actor's reach.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] if the user is beyond the actor's reach, [`RegistryError::Conflict`] in a store that keeps no
    /// list yet.
    pub async fn sessions(&self, actor: &Actor, user: &str) -> Result<Vec<OpenSession>> {
        let name = &*self.owner_name(actor, user).await?;
        let user = self.owner(&Attempt::on_user(actor, "session.list", name), name).await?;
        self.demand_sessions().await?;
        Ok(self.going_on(&user).await?)
    }

    /// Ends one of the sessions that are listed. Ending it again is no error. When this returns, no check that begins afterwards is
    /// allowed with it.
    ///
    /// # Errors
    /// As [`Registry::sessions`]; [`RegistryError::NotFound`] also if the user has no such session.
    pub async fn end_listed_session(&self, actor: &Actor, user: &str, id: &str) -> Result<Made<()>> {
        check_name("session", id)?;
        let attempt = Attempt::on_session(actor, "session.end", id);
        let user = &*self.owner_name(actor, user).await?;
        self.make(&attempt, || async {
            let owner = self.owner(&attempt, user).await?;
            self.demand_sessions().await?;
            match self.going_on(&owner).await?.into_iter().find(|session| session.id == id) {
                Some(session) => Ok(session_end(Some(owner.project), self.end_of(&owner.name, session))),
                None if self.store.ended_session(id.to_owned()).await? => {
                    // It ends nothing any more, and takes a number all the same.
                    self.demand_pace(&attempt, Some(&owner.project))?;
                    Ok(Change::none(()))
                }
                None => Err(RegistryError::NotFound(format!("{user} has no session {id}"))),
            }
        })
        .await
    }

    async fn owner_name(&self, actor: &Actor, name: &str) -> Result<String> {
        if actor.user() == Some(name) { Ok(name.to_owned()) } else { self.full_name(actor, name).await }
    }

    /// The user whose sessions are asked for.
    async fn owner(&self, attempt: &Attempt<'_>, name: &str) -> Result<User> {
        if attempt.actor.user() == Some(name)
            && let Some(user) =
                self.store.user(name.to_owned()).await?.filter(|user| !user.deleted && attempt.actor.is(user))
        {
            return Ok(user);
        }
        self.reachable_user(attempt, name).await
    }

    async fn going_on(&self, user: &User) -> std::result::Result<Vec<OpenSession>, StoreError> {
        let mut open = self.store.sessions(user.name.clone()).await?;
        let now = self.clock.now();
        open.retain(|session| session.goes_on(user, now));
        Ok(open)
    }

    fn end_of(&self, user: &str, session: OpenSession) -> EndedSession {
        let ended_at = self.clock.now();
        EndedSession { id: session.id, user: user.to_owned(), ended_at, expires_at: session.expires_at }
    }

    async fn demand_sessions(&self) -> Result<()> {
        if self.store.format().await?.has_three() {
            return Ok(());
        }
        let reason = "a store that was not upgraded keeps no list of sessions: `tollgate store upgrade`";
        Err(RegistryError::Conflict(reason.to_owned()))
    }

    /// Ends a session: the actor's own, or one of a user within the actor's reach. Ending it again is no error. When this
    /// returns, no check that begins afterwards is allowed with it.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] if the user is beyond the actor's reach.
    pub async fn end_session(&self, actor: &Actor, session: EndedSession) -> Result<Made<()>> {
        check_name("session", &session.id)?;
        if !is_login_name(&session.user) {
            return invalid("user", format!("must be {USER_NAME_RULE}"));
        }
        let attempt = Attempt::on_session(actor, "session.end", &session.id);
        self.make(&attempt, || async {
            let project = if actor.user() == Some(&*session.user) {
                self.store.user(session.user.clone()).await?.map(|user| user.project)
            } else {
                Some(self.reachable_user(&attempt, &session.user).await?.project)
            };
            Ok(session_end(project, session.clone()))
        })
        .await
    }

    /// Keeps another key that session tokens are signed with.
    ///
    /// # Errors
    /// [`RegistryError::Conflict`] if its id is taken, [`RegistryError::Forbidden`] to all but the operator.
    pub async fn create_signing_key(&self, actor: &Actor, key: SigningKey) -> Result<()> {
        check_name("id", &key.id)?;
        self.change_signing_keys(actor, "signing_key.create", &key.id, Write::CreateSigningKey(key.clone())).await
    }

    /// Removes a key that session tokens were signed with.
    ///
    /// # Errors
    /// [`RegistryError::Conflict`] if it is not there, [`RegistryError::Forbidden`] to all but the operator.
    pub async fn delete_signing_key(&self, actor: &Actor, id: &str) -> Result<()> {
        self.change_signing_keys(actor, "signing_key.delete", id, Write::DeleteSigningKey { id: id.to_owned() }).await
    }

    async fn change_signing_keys(&self, actor: &Actor, act: &str, id: &str, write: Write) -> Result<()> {
        let attempt = Attempt { actor, act, target: format!("signing_key:{id}") };
        if actor.held != ActorPermissions::Everything {
            let reason = "only the operator changes signing keys";
            return self.refuse(&attempt, Some(EVERY), reason, RegistryError::Forbidden(reason.to_owned())).await;
        }
        let event = Event::touching(&[Slots::of_digests(&[named(SIGNING_KEYS.0, SIGNING_KEYS.1)])]);
        let project = Some(EVERY.to_owned());
        self.commit(&attempt, Change { project, writes: vec![write], event, result: () }).await.map(|made| made.result)
    }
}

pub(super) fn session_end(project: Option<String>, session: EndedSession) -> Change<()> {
    let event = Event::ending(vec![Ended::Session(session.clone())]);
    Change { project, writes: vec![Write::EndSession(session)], event, result: () }
}
