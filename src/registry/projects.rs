//! Projects as a whole: made by themselves or with the first thing in them, suspended, let go on, deleted. Never brings a deleted one
//! back, and never touches what it holds: its keys and users are what they were when it goes on.

use serde_json::json;
use tollgate_core::credential::ProjectId;
use tollgate_core::named::named;
use tollgate_core::redact;
use tollgate_core::resource::EVERY;
use tollgate_guard::slots::Slots;
use tollgate_guard::time::Timestamp;

use super::actor::Actor;
use super::audit::Attempt;
use super::once::Once;
use super::rules::check_name;
use super::{Change, Expected, Made, Registry, RegistryError, Result};
use crate::domain::change::{Ended, Event};
use crate::domain::record::{Project, ProjectState};
use crate::store::Write;

/// Where something new belongs.
#[derive(Debug, Default)]
pub(super) struct Home {
    /// `None`: it is of every project, or the store's format knows no ids.
    pub(super) id: Option<ProjectId>,
    /// What has to be written before it: that the project is there and stays, and the project itself for the first thing in it.
    pub(super) writes: Vec<Write>,
}

impl Registry {
    /// Makes a project before anything is made in it.
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`] to whoever is bound to a project, [`RegistryError::Conflict`] if it is there already or was
    /// deleted.
    pub async fn create_project(&self, actor: &Actor, name: &str, once: Option<Once>) -> Result<Project> {
        let attempt = Attempt::on_project(actor, "project.create", name);
        check_name("name", name)?;
        self.demand_unbound(&attempt, Some(name), "creates projects").await?;
        let ticket = self.ticket(&attempt, once.as_ref(), &json!(name))?;
        self.make(&attempt, || async {
            let known = self.known_project(name).await?;
            if let Some(target) = self.made_before(ticket).await? {
                let made = Some(known).filter(|known| known.version > 0 && known.state != ProjectState::Deleted);
                return made.map(Change::none).ok_or(RegistryError::Repeated { target });
            }
            if known.state == ProjectState::Deleted {
                let reason = format!("project {name} is deleted, and its name is not given again: name another one");
                return Err(RegistryError::Conflict(reason));
            }
            if known.version > 0 {
                return Err(RegistryError::Conflict(format!("project {name} is there already")));
            }
            let (id, changed_at) = (self.new_project_id().await?, self.clock.now());
            let project = Project { id, changed_at, changed_by: actor.subject.clone(), version: 1, ..known };
            let writes = [Write::PutProject(project.clone())].into_iter().chain(self.used(ticket, &attempt.target));
            // Ends nothing: what a lost suspension of this name had ended is not given back.
            let event = Event::touching(&[Slots::of_digests(&[named("project", name)])]);
            Ok(Change { project: Some(name.to_owned()), writes: writes.collect(), event, result: project })
        })
        .await
        .map(|made| made.result)
    }

    /// Refuses every key, session and token of a project, until it goes on. Suspending it again is no error. When this
    /// returns, no check that begins afterwards is allowed for it.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] beyond the actor's reach, [`RegistryError::Conflict`] if it is deleted,
    /// [`RegistryError::Stale`] if it is not what was expected.
    pub async fn suspend_project(&self, actor: &Actor, name: &str, expected: Expected) -> Result<Made<Project>> {
        let attempt = Attempt::on_project(actor, "project.suspend", name);
        self.demand_project(&attempt, name).await?;
        self.turn(&attempt, name, ProjectState::Suspended, expected).await
    }

    /// Lets a suspended project go on. One that is active stays as it is.
    ///
    /// # Errors
    /// As [`Registry::suspend_project`].
    pub async fn resume_project(&self, actor: &Actor, name: &str, expected: Expected) -> Result<Made<Project>> {
        let attempt = Attempt::on_project(actor, "project.resume", name);
        self.demand_project(&attempt, name).await?;
        self.turn(&attempt, name, ProjectState::Active, expected).await
    }

    /// Refuses every key, session and token of a project for good, and lets none be made in it any more. Deleting it again
    /// is no error.
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`] to whoever is bound to a project, [`RegistryError::Stale`] if it is not what was
    /// expected.
    pub async fn delete_project(&self, actor: &Actor, name: &str, expected: Expected) -> Result<Made<Project>> {
        let attempt = Attempt::on_project(actor, "project.delete", name);
        check_name("name", name)?;
        self.demand_unbound(&attempt, Some(name), "deletes projects").await?;
        self.turn(&attempt, name, ProjectState::Deleted, expected).await
    }

    async fn turn(
        &self,
        attempt: &Attempt<'_>,
        name: &str,
        state: ProjectState,
        expected: Expected,
    ) -> Result<Made<Project>> {
        self.make(attempt, || async {
            let old = self.known_project(name).await?;
            expected.check(|| format!("project {name}"), old.version)?;
            if old.state == ProjectState::Deleted && state != ProjectState::Deleted {
                return Err(RegistryError::Conflict(format!("project {name} is deleted, and stays so")));
            }
            if (old.state, state) == (ProjectState::Active, ProjectState::Active) {
                return Ok(Change::none(old));
            }
            // To take away is written again also where nothing changes: whoever repeats it wants every replica to hear.
            let id = if old.id.is_some() { old.id } else { self.new_project_id().await? };
            let mut new = Project { id, state, version: old.version + 1, ..old };
            if state != old.state {
                new.changed_at = self.time_after(new.changed_at);
                new.changed_by.clone_from(&attempt.actor.subject);
            }
            Ok(project_change(new))
        })
        .await
    }

    /// A project; one that was never made is active, and has version 0.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] beyond the actor's reach.
    pub async fn project(&self, actor: &Actor, name: &str) -> Result<Project> {
        self.demand_project(&Attempt::on_project(actor, "project.show", name), name).await?;
        self.known_project(name).await
    }

    /// The projects within the actor's reach that were made, by name.
    pub async fn projects(&self, actor: &Actor, after: Option<String>, limit: usize) -> Result<Vec<Project>> {
        let Some(own) = &actor.project else { return Ok(self.store.projects(after, limit).await?) };
        if limit == 0 || after.is_some_and(|after| *own <= after) {
            return Ok(Vec::new());
        }
        Ok(self.store.project(own.clone()).await?.into_iter().collect())
    }

    async fn known_project(&self, name: &str) -> Result<Project> {
        let active = || Project {
            name: name.to_owned(),
            id: None,
            state: ProjectState::Active,
            changed_at: Timestamp::default(),
            changed_by: String::new(),
            version: 0,
        };
        Ok(self.store.project(name.to_owned()).await?.unwrap_or_else(active))
    }

    /// Where something belongs that is made in a project now.
    ///
    /// # Errors
    /// [`RegistryError::Conflict`] if the project is deleted: nothing is made in it any more.
    pub(super) async fn home(&self, attempt: &Attempt<'_>, name: &str) -> Result<Home> {
        if name == EVERY {
            return Ok(Home::default());
        }
        let known = self.known_project(name).await?;
        if known.state == ProjectState::Deleted {
            return Err(RegistryError::Conflict(format!("project {name} is deleted: name another one")));
        }
        let mut writes = Vec::new();
        let id = if known.id.is_some() { known.id } else { self.new_project_id().await? };
        if known.id.is_none() && id.is_some() {
            let (mut changed_at, mut changed_by) = (known.changed_at, known.changed_by);
            if known.version == 0 {
                (changed_at, changed_by) = (self.clock.now(), attempt.actor.subject.clone());
            }
            writes.push(Write::PutProject(Project { id, changed_at, changed_by, version: known.version + 1, ..known }));
        }
        writes.push(Write::InProject { name: name.to_owned(), id });
        Ok(Home { id, writes })
    }

    /// `None`: the store's format knows no ids.
    pub(super) async fn new_project_id(&self) -> Result<Option<ProjectId>> {
        if !self.store.format().await?.has_three() {
            return Ok(None);
        }
        let id = ProjectId::generate(getrandom::fill)
            .map_err(|error| RegistryError::Unavailable(format!("the system gives no random bytes: {error}")))?;
        Ok(Some(id))
    }

    /// # Errors
    /// [`RegistryError::Invalid`] for what is no project, [`RegistryError::NotFound`] for one beyond the actor's reach.
    async fn demand_project(&self, attempt: &Attempt<'_>, name: &str) -> Result<()> {
        check_name("name", name)?;
        if attempt.actor.reaches(name) {
            return Ok(());
        }
        let shown = redact::echo(name);
        let reason = format!("you do not reach project {shown}");
        let answer = RegistryError::NotFound(format!("there is no project {shown}"));
        self.refuse(attempt, Some(name), &reason, answer).await
    }
}

pub(super) fn project_change(project: Project) -> Change<Project> {
    let event = Event::ending(vec![Ended::of_project(&project)]);
    Change {
        project: Some(project.name.clone()),
        writes: vec![Write::PutProject(project.clone())],
        event,
        result: project,
    }
}
