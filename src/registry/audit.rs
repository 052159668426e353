//! The audit log: a row for every change that was made, and for every one that somebody had no right to. Never holds a
//! secret, never changes a row.

use std::sync::PoisonError;

use tollgate_core::credential::KeyId;
use tollgate_core::name::is_name;
use tollgate_core::redact;
use tollgate_core::resource::{EVERY, ResourceRef};
use tollgate_guard::time::Timestamp;

use super::actor::Actor;
use super::{Registry, RegistryError, Result};
use crate::domain::change::Event;
use crate::domain::record::{AUDIT_TRIM, AuditEntry, Outcome};
use crate::store::{AuditQuery, AuditRows, Write};

/// How many rows are removed in one transaction, and in one call.
const TRIMMED_AT_ONCE: usize = 1_000;
const MOST_TRIMMED: usize = 20_000;

/// The longest text in a row, in characters.
const MAX_TEXT: usize = 256;

/// Somebody about to do something, in the words of the log.
#[derive(Clone, Debug)]
pub(super) struct Attempt<'a> {
    pub(super) actor: &'a Actor,
    pub(super) act: &'a str,
    pub(super) target: String,
}

impl<'a> Attempt<'a> {
    pub(super) fn on_key(actor: &'a Actor, act: &'a str, id: KeyId) -> Self {
        Self { actor, act, target: format!("key:{id}") }
    }

    pub(super) fn on_user(actor: &'a Actor, act: &'a str, name: &str) -> Self {
        Self { actor, act, target: format!("user:{name}") }
    }

    pub(super) fn on_session(actor: &'a Actor, act: &'a str, id: &str) -> Self {
        Self { actor, act, target: format!("session:{id}") }
    }

    pub(super) fn on_resource(actor: &'a Actor, act: &'a str, kind: &str, id: &str) -> Self {
        Self { actor, act, target: ResourceRef { kind, id }.to_string() }
    }

    pub(super) fn on_fleet(actor: &'a Actor, act: &'a str) -> Self {
        Self { actor, act, target: "fleet".to_owned() }
    }

    pub(super) fn on_project(actor: &'a Actor, act: &'a str, project: &str) -> Self {
        // What was asked for need not be a name, and then it is not repeated.
        let target = if is_project(project) { format!("project:{project}") } else { "project".to_owned() };
        Self { actor, act, target }
    }
}

impl Registry {
    /// The audit log within the actor's reach, the newest row first.
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`] for another project than the actor's own.
    pub async fn audit(&self, actor: &Actor, mut query: AuditQuery) -> Result<AuditRows> {
        query.project = self.narrowed(actor, "audit.list", query.project).await?;
        Ok(self.store.audit(query).await?)
    }

    /// Removes rows that are older than this, from the oldest on; the newest row always stays. Gives how many are gone, and
    /// whether there may be more.
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`] to all but the operator. [`RegistryError::Unavailable`] says how many are gone all the same.
    pub async fn trim_audit(&self, actor: &Actor, before: Timestamp) -> Result<(usize, bool)> {
        let attempt = Attempt { actor, act: AUDIT_TRIM, target: "audit".to_owned() };
        if !actor.is_operator() {
            let reason = "only the operator removes rows";
            return self.refuse(&attempt, None, reason, RegistryError::Forbidden(reason.to_owned())).await;
        }
        self.trim(&attempt, before, self.clock.now()).await
    }

    async fn trim(&self, attempt: &Attempt<'_>, before: Timestamp, now: Timestamp) -> Result<(usize, bool)> {
        let (mut removed, mut more, mut failed) = (0, true, None);
        while more && failed.is_none() && removed < MOST_TRIMMED {
            match self.store.trim_audit(before, TRIMMED_AT_ONCE).await {
                Ok(gone) => (removed, more) = (removed + gone, gone == TRIMMED_AT_ONCE),
                Err(error) => failed = Some(RegistryError::from(error)),
            }
        }
        if removed > 0 {
            let told = format!("{removed} rows were removed");
            let row = AuditEntry { at: now, ..self.row(attempt, None, Outcome::Done, Some(&told)) };
            let written = self.apply(vec![Write::Audit(row)], Event::touching(&[])).await.err();
            // They are gone, whatever else can be said.
            let unwritten = written.map(|error| format!("{told}, and it is not certain that a row says so: {error}"));
            let cut_off = || failed.as_ref().map(|error| format!("{told}, and then no more could be: {error}"));
            if let Some(reason) = unwritten.or_else(cut_off) {
                return Err(RegistryError::Unavailable(reason));
            }
        }
        failed.map_or(Ok(()), Err)?;
        Ok((removed, more))
    }

    /// Removes the rows that are older than the configuration has them kept.
    ///
    /// # Errors
    /// [`RegistryError::Unavailable`]
    pub async fn trim_old_rows(&self) -> Result<()> {
        let Some(keep) = self.limits.load().audit_kept else { return Ok(()) };
        let Some(now) = self.time_to_remove().await? else { return Ok(()) };
        let actor = Actor::tollgate();
        let attempt = Attempt { actor: &actor, act: AUDIT_TRIM, target: "audit".to_owned() };
        while self.trim(&attempt, now.minus(keep), now).await?.1 {}
        Ok(())
    }

    /// The time by which something is old enough to be removed; `None`: the log is empty. A clock that was set forward takes nothing
    /// away, be it this process's, the store's, or that of whoever has written last.
    pub(super) async fn time_to_remove(&self) -> Result<Option<Timestamp>> {
        let newest = self.store.audit(AuditQuery { limit: 1, ..AuditQuery::default() }).await?;
        let Some(newest) = newest.rows.first() else { return Ok(None) };
        let now = self.clock.now().min(newest.at);
        Ok(Some(self.store.time().await?.map_or(now, |shared| now.min(shared))))
    }

    /// Lets through who may see every replica, and what is common to all projects.
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`] to whoever is bound to a project.
    pub async fn admit_to_fleet(&self, actor: &Actor) -> Result<()> {
        self.demand_unbound(&Attempt::on_fleet(actor, "fleet.show"), None, "sees the fleet").await
    }

    /// Writes down that somebody was refused. If the store fails, or one actor or one project is refused too often, the log of
    /// the process says so instead. Neither repeats what looks like a secret: the client may have named it.
    pub async fn refused(&self, actor: &Actor, act: &str, target: &str, project: Option<&str>, reason: &str) {
        let target = &*redact::target(target);
        let is_shown = |name: &&str| actor.project.as_deref() == Some(*name) || redact::echo(name) == *name;
        let (project, reason) = (project.filter(is_shown), &*redact::sentence(reason));
        if !self.admits_refusal_of(actor) {
            let (actor, target_id) = (&*self.logged(&actor.subject), &*self.logged(target));
            tracing::warn!(actor, act, target_id, "refused again: not in the audit log");
            return;
        }
        let attempt = Attempt { actor, act, target: target.to_owned() };
        let row = self.row(&attempt, project, Outcome::Refused, Some(reason));
        if let Err(error) = self.apply(vec![Write::Audit(row)], Event::touching(&[])).await {
            let (actor, target_id) = (&*self.logged(&actor.subject), &*self.logged(target));
            tracing::error!(%error, actor, act, target_id, "a refusal could not be written down");
        }
    }

    pub(super) fn admits_refusal_of(&self, actor: &Actor) -> bool {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        refusals.admit(&actor.identity(), actor.project.as_deref(), self.clock.moment())
    }

    /// Refuses, and writes down why.
    pub(super) async fn refuse<T>(
        &self,
        attempt: &Attempt<'_>,
        project: Option<&str>,
        reason: &str,
        answer: RegistryError,
    ) -> Result<T> {
        self.refused(attempt.actor, attempt.act, &attempt.target, project, reason).await;
        Err(answer)
    }

    /// Hides what is beyond the actor's reach. To whoever is bound to a project, what is elsewhere and what is nowhere
    /// look the same, also in the log that they may read and in the time it takes.
    pub(super) async fn hide<T>(&self, attempt: &Attempt<'_>, project: Option<&str>, what: &str) -> Result<T> {
        let answer = RegistryError::NotFound(format!("there is no {}", redact::name(what)));
        let what = &*redact::target(what);
        match project {
            Some(project) => {
                let reason = format!("{what} belongs to project {project}, beyond the actor's reach");
                self.refuse(attempt, Some(project), &reason, answer).await
            }
            None if attempt.actor.project.is_some() => {
                self.refuse(attempt, None, &format!("there is no {what}"), answer).await
            }
            None => Err(answer),
        }
    }

    /// The project that a list is narrowed to by the actor's reach.
    pub(super) async fn narrowed(&self, actor: &Actor, act: &str, asked: Option<String>) -> Result<Option<String>> {
        match &asked {
            Some(project) => {
                self.demand_reach(&Attempt::on_project(actor, act, project), project).await?;
                Ok(asked)
            }
            None => Ok(actor.project.clone()),
        }
    }

    /// # Errors
    /// [`RegistryError::Forbidden`] if the project is beyond the actor's reach.
    pub(super) async fn demand_reach(&self, attempt: &Attempt<'_>, project: &str) -> Result<()> {
        if attempt.actor.reaches(project) {
            return Ok(());
        }
        let reason = match project {
            EVERY => "you do not reach every project".to_owned(),
            one => format!("you do not reach project {}", redact::echo(one)),
        };
        self.refuse(attempt, Some(project), &reason, RegistryError::Forbidden(reason.clone())).await
    }

    /// Nobody gives what they do not hold.
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`] if the actor does not hold each of the permissions.
    pub(super) async fn demand_held(&self, attempt: &Attempt<'_>, project: &str, permissions: &[String]) -> Result<()> {
        let Some(lacking) = attempt.actor.lacks(permissions) else { return Ok(()) };
        let reason = format!("you do not hold `{lacking}` yourself, so you cannot pass it on");
        self.refuse(attempt, Some(project), &reason, RegistryError::Forbidden(reason.clone())).await
    }

    /// # Errors
    /// [`RegistryError::Forbidden`] if the actor is bound to a project: it could otherwise take what is not its own.
    pub(super) async fn demand_unbound(&self, attempt: &Attempt<'_>, project: Option<&str>, act: &str) -> Result<()> {
        if attempt.actor.project.is_none() {
            return Ok(());
        }
        let reason = format!("only an administrator of every project {act}");
        self.refuse(attempt, project, &reason, RegistryError::Forbidden(reason.clone())).await
    }

    pub(super) fn row(
        &self,
        attempt: &Attempt<'_>,
        project: Option<&str>,
        outcome: Outcome,
        reason: Option<&str>,
    ) -> AuditEntry {
        AuditEntry {
            sequence: 0,
            at: self.clock.now(),
            actor: plain(&attempt.actor.subject),
            actor_id: attempt.actor.id.as_deref().map(plain),
            act: plain(attempt.act),
            target: plain(&attempt.target),
            project: project.filter(|project| is_project(project)).map(str::to_owned),
            outcome,
            reason: reason.map(plain),
            peer: plain(&attempt.actor.peer),
            request_id: plain(&attempt.actor.request_id),
        }
    }
}

fn is_project(text: &str) -> bool {
    is_name(text) || text == EVERY
}

/// A text that cannot pass for another line, or fill the log.
fn plain(text: &str) -> String {
    let visible = |c: char| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c };
    text.chars().take(MAX_TEXT).map(visible).collect()
}
