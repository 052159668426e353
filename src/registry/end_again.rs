//! Ends again what a store has lost the end of: it went over to a history in which that had not happened yet. Never ends
//! anything else, and never gives anything back.

use std::cmp::Ordering;

use tollgate_core::resource::Resource;
use tollgate_guard::digest::Digest;
use tollgate_guard::ending::Ending;
use tollgate_guard::protocol::Position;
use tollgate_guard::time::Timestamp;

use super::actor::Actor;
use super::audit::Attempt;
use super::keys::key_change;
use super::projects::project_change;
use super::resources::resource_deletion;
use super::sessions::session_end;
use super::{Change, Registry, RegistryError};
use crate::domain::change::Endings;
use crate::domain::change::{Ended, Stored};
use crate::domain::record::{ApiKey, EndedSession, Project, ProjectState, User};
use crate::store::{AsOf, StoreError, Write};

/// How much is looked at before it is asked again whether the store has gone on to another history.
const AT_A_TIME: usize = 1_000;

/// What kept something from being ended.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Nothing can be found out now.
    #[error("{0}")]
    Unavailable(StoreError),
    /// Not repeated, as it may name a person.
    #[error("something could not be read, or not be written for now")]
    Of(RegistryError),
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        if error.is_transient() { Self::Unavailable(error) } else { Self::Of(error.into()) }
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self::Of(error)
    }
}

/// Where the store had kept something; `None`: it was ended again.
type Looked = Result<Option<Position>, Failure>;

impl Registry {
    /// Ends again what the store has lost, as far as it can be found out. What cannot is looked at the next time.
    ///
    /// # Errors
    /// A problem that kept something from being ended.
    pub async fn end_again(&self) -> Result<(), Failure> {
        let Some(heard) = &self.heard else { return Ok(()) };
        heard.ended.suspect_kept();
        let mut failed = Vec::new();
        let result = self.end_suspects(&heard.ended, &mut failed).await;
        failed.iter().for_each(|ended| heard.ended.suspect(ended));
        result
    }

    async fn end_suspects(&self, endings: &Endings, failed: &mut Vec<Ended>) -> Result<(), Failure> {
        let mut result = Ok(());
        loop {
            // Each time, since the store may go over to another history at any moment.
            self.look_for_losses(endings).await?;
            let mut suspects = endings.take_suspects(AT_A_TIME);
            // What becomes one meanwhile, such as what was just written and not heard of, has its turn the next time.
            let is_last = suspects.len() < AT_A_TIME;
            while let Some(ended) = suspects.pop() {
                match self.end_if_lost(&ended).await {
                    Ok(None) => {}
                    Ok(Some(position)) => endings.found_kept(&ended, position),
                    Err(failure) => {
                        failed.push(ended);
                        if matches!(failure, Failure::Unavailable(_)) {
                            failed.append(&mut suspects);
                            return Err(failure);
                        }
                        // It keeps nothing else valid.
                        result = Err(failure);
                    }
                }
            }
            if is_last {
                return result;
            }
        }
    }

    /// Where the store went over to another history, most of the one before is in it, too, and need not be looked at.
    async fn look_for_losses(&self, endings: &Endings) -> Result<(), Failure> {
        let Some(former) = endings.previous_history() else { return Ok(()) };
        match self.store.newest_known(&former.joined, &former.milestones).await {
            Ok(known) => endings.settle(&former, known),
            Err(error) if error.is_transient() => return Err(Failure::Unavailable(error)),
            Err(_) => endings.settle(&former, None),
        }
        Ok(())
    }

    async fn end_if_lost(&self, ended: &Ended) -> Looked {
        match ended {
            Ended::Key { digest, at } => self.revoke_again(ended, *digest, *at).await,
            Ended::Session(session) => self.end_session_again(ended, session).await,
            Ended::User { name, .. } => self.end_user_again(ended, name).await,
            Ended::Project { name, state, changed_at, .. } => {
                self.bar_project_again(ended, name, *state, *changed_at).await
            }
            Ended::Resource { kind, id, .. } => self.delete_resource_again(ended, kind, id).await,
        }
    }

    async fn revoke_again(&self, ended: &Ended, digest: Digest, at: Timestamp) -> Looked {
        let AsOf { found, position, .. } = self.store.load_key(vec![digest]).await?;
        let is_lost =
            |key: &ApiKey| ended.is_lost_in(&Stored::Key { digest: &digest, revoked: key.revoked_at.is_some() });
        let Some(key) = found.map(|load| load.key).filter(is_lost) else { return Ok(position) };
        let actor = Actor::tollgate();
        let attempt = Attempt::on_key(&actor, "key.revoke", key.id);
        let revoked = ApiKey { revoked_at: Some(at), version: key.version + 1, ..key };
        let change = key_change(vec![Write::UpdateKey(revoked.clone())], &[revoked.digest], revoked);
        self.commit_again(&attempt, change).await
    }

    async fn end_session_again(&self, ended: &Ended, session: &EndedSession) -> Looked {
        let AsOf { found, position, .. } = self.store.load_session(session.user.clone(), session.id.clone()).await?;
        // One whose token has expired needs no end any more.
        let is_over = session.expires_at <= self.clock.now();
        if is_over || !ended.is_lost_in(&Stored::Session { id: &session.id, ended: found.ended }) {
            return Ok(position);
        }
        let actor = Actor::tollgate();
        let attempt = Attempt::on_session(&actor, "session.end", &session.id);
        self.commit_again(&attempt, session_end(found.user.map(|user| user.project), session.clone())).await
    }

    async fn end_user_again(&self, ended: &Ended, name: &str) -> Looked {
        let AsOf { found, position, set_back } = self.store.load_session(name.to_owned(), String::new()).await?;
        let user = found.user.filter(|user| ended.is_lost_in(&Stored::User(user)));
        let (Some(user), &Ended::User { created_at, sessions, disabled, deleted, .. }) = (user, ended) else {
            return Ok(position);
        };
        let (disabled, deleted) = match user.created_at.cmp(&created_at) {
            // Whoever had the name before, and was deleted to make place.
            Ordering::Less => (user.disabled, true),
            Ordering::Equal => (user.disabled || disabled, user.deleted || deleted),
            // Whoever was given the name since: no token of the other one may pass for theirs.
            Ordering::Greater => (user.disabled, user.deleted),
        };
        // Somebody has put an older password in its place: nobody logs in with that.
        let disabled = disabled || set_back.is_some();
        let act = match (deleted, disabled) {
            (true, _) => "user.delete",
            (false, true) => "user.disable",
            (false, false) => "session.end",
        };
        let (before, is_kept) = (user.sessions, act == "session.end" && user.created_at == created_at);
        let has_password = !deleted && set_back.is_none();
        let password_hash = if has_password { user.password_hash.clone() } else { String::new() };
        let permissions = if set_back.is_none() { user.permissions.clone() } else { Vec::new() };
        // Behind everything that was told in either history.
        let sessions = sessions.max(user.sessions).saturating_add(1);
        let change =
            self.next_version(before, User { password_hash, permissions, disabled, deleted, sessions, ..user });
        let actor = Actor::tollgate();
        let attempt = Attempt::on_user(&actor, act, name);
        let done = self.commit_again(&attempt, change).await?;
        if is_kept {
            let target_id = &*self.logged(&attempt.target);
            tracing::error!(target_id, "the store may have gone back to an older password of this user: set it again");
        }
        Ok(done)
    }

    async fn bar_project_again(&self, ended: &Ended, name: &str, state: ProjectState, since: Timestamp) -> Looked {
        let AsOf { found, position, .. } = self.store.load_project(name.to_owned()).await?;
        if !ended.is_lost_in(&Stored::Project(name, found.as_ref())) {
            return Ok(position);
        }
        let actor = Actor::tollgate();
        let act = if state == ProjectState::Deleted { "project.delete" } else { "project.suspend" };
        let id = match found.as_ref().and_then(|found| found.id) {
            None => self.new_project_id().await?,
            known => known,
        };
        let (changed_at, version) = found.map_or((since, 0), |found| (found.changed_at.max(since), found.version));
        let barred = Project {
            name: name.to_owned(),
            id,
            state,
            changed_at: self.time_after(changed_at),
            changed_by: actor.subject.clone(),
            version: version + 1,
        };
        self.commit_again(&Attempt::on_project(&actor, act, name), project_change(barred)).await
    }

    async fn delete_resource_again(&self, ended: &Ended, kind: &str, id: &str) -> Looked {
        let AsOf { found, position, .. } = self.store.load_resource(kind.to_owned(), id.to_owned()).await?;
        let is_lost = |resource: &Resource| ended.is_lost_in(&Stored::Resource(resource));
        let Some(resource) = found.filter(is_lost) else { return Ok(position) };
        let actor = Actor::tollgate();
        let attempt = Attempt::on_resource(&actor, "resource.delete", kind, id);
        self.commit_again(&attempt, resource_deletion(resource)).await
    }

    async fn commit_again<T>(&self, attempt: &Attempt<'_>, change: Change<T>) -> Looked {
        self.commit(attempt, change).await?;
        let (act, target_id) = (attempt.act, &*self.logged(&attempt.target));
        tracing::error!(act, target_id, "the store had lost this: it was done again");
        Ok(None)
    }
}
