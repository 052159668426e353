//! The end of sessions, and the keys that sign them. Never opens a session again that was ended.

use super::actor::{Actor, Held};
use super::audit::Attempt;
use super::rules::{check_name, invalid};
use super::{Change, Made, Registry, RegistryError, Result};
use crate::domain::change::{Ended, Event, SIGNING_KEYS, Slots, named};
use crate::domain::name::{USER_NAME_RULE, is_user_name};
use crate::domain::record::{EVERY, EndedSession, SigningKey};
use crate::store::Write;

impl Registry {
    /// Ends a session: the actor's own, or one of a user within the actor's reach. Ending it again is no error. When this
    /// returns, no check that begins afterwards is allowed with it.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] if the user is beyond the actor's reach.
    pub async fn end_session(&self, actor: &Actor, session: EndedSession) -> Result<Made<()>> {
        check_name("session", &session.id)?;
        if !is_user_name(&session.user) {
            return invalid("user", format!("must be {USER_NAME_RULE}"));
        }
        let attempt = Attempt::on_session(actor, "session.end", &session.id);
        self.make(&attempt, || async {
            let project = if actor.subject == format!("user:{}", session.user) {
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
        if actor.held != Held::Everything {
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
