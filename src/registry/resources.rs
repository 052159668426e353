//! Registered resources: which project a thing belongs to. Never moves one unless that was said.

use tollgate_core::named::named;
use tollgate_core::resource::Resource;
use tollgate_guard::slots::Slots;

use super::actor::Actor;
use super::audit::Attempt;
use super::rules::{check_label, check_name};
use super::{Change, Expected, Made, Registry, RegistryError, Result};
use crate::domain::change::{Ended, Event};
use crate::store::{Counted, ResourceQuery, Write};

/// A resource to be registered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ResourceSpec {
    pub kind: String,
    pub id: String,
    pub project: String,
    /// `None`: the id.
    pub slug: Option<String>,
    pub owner: Option<String>,
}

impl Registry {
    /// Registers a resource, or moves it if `may_move`. Registering it again in the same place changes nothing.
    ///
    /// # Errors
    /// [`RegistryError::Conflict`] if it stands elsewhere and may not be moved, [`RegistryError::Forbidden`] to whoever is
    /// bound to a project.
    pub async fn put_resource(
        &self,
        actor: &Actor,
        spec: ResourceSpec,
        may_move: bool,
        expected: Expected,
    ) -> Result<Made<Resource>> {
        check_resource(&spec)?;
        let attempt = Attempt::on_resource(actor, "resource.put", &spec.kind, &spec.id);
        self.demand_unbound(&attempt, Some(&spec.project), "registers resources").await?;
        self.make(&attempt, || self.plan_put(&attempt, &spec, may_move, expected)).await
    }

    async fn plan_put(
        &self,
        attempt: &Attempt<'_>,
        spec: &ResourceSpec,
        may_move: bool,
        expected: Expected,
    ) -> Result<Change<Resource>> {
        let slug = spec.slug.clone().unwrap_or_else(|| spec.id.clone());
        let known = self.store.resource(spec.kind.clone(), spec.id.clone()).await?;
        let reference = || format!("{}:{}", spec.kind, spec.id);
        expected.check(reference, known.as_ref().map_or(0, |known| known.version))?;
        let is_more = known.as_ref().is_none_or(|known| known.project != spec.project);
        let mut resource = match known {
            None => Resource {
                kind: spec.kind.clone(),
                id: spec.id.clone(),
                slug,
                project: spec.project.clone(),
                project_id: None,
                owner: spec.owner.clone(),
                created_at: self.clock.now(),
                version: 1,
            },
            Some(known) if known.project == spec.project && known.slug == slug && known.owner == spec.owner => {
                return Ok(Change::none(known));
            }
            Some(known) if !may_move => {
                return Err(RegistryError::Conflict(format!(
                    "{} is registered already, in project {} as {}: say so if it is to be moved",
                    known.reference(),
                    known.project,
                    known.slug
                )));
            }
            Some(known) => {
                let (project, owner, version) = (spec.project.clone(), spec.owner.clone(), known.version + 1);
                Resource { slug, project, owner, version, ..known }
            }
        };
        let mut before = Vec::new();
        if is_more {
            let home = self.home(attempt, &spec.project).await?;
            resource.project_id = home.id;
            before = home.writes;
            before.push(self.within_quota(Counted::Resources, &spec.project));
        }
        let write = match resource.version {
            1 => Write::CreateResource(resource.clone()),
            _ => Write::UpdateResource(resource.clone()),
        };
        let mut change = self.resource_change(write, resource);
        change.writes.splice(0..0, before);
        Ok(change)
    }

    /// # Errors
    /// [`RegistryError::NotFound`] if there is none within the actor's reach.
    pub async fn resource(&self, actor: &Actor, kind: &str, id: &str) -> Result<Resource> {
        let attempt = Attempt::on_resource(actor, "resource.show", kind, id);
        let what = format!("resource {kind}:{id}");
        match self.store.resource(kind.to_owned(), id.to_owned()).await? {
            Some(resource) if actor.reaches(&resource.project) => Ok(resource),
            Some(foreign) => self.hide(&attempt, Some(&foreign.project), &what).await,
            None => self.hide(&attempt, None, &what).await,
        }
    }

    /// # Errors
    /// [`RegistryError::NotFound`] if there is none, [`RegistryError::Forbidden`] to whoever is bound to a project.
    pub async fn delete_resource(
        &self,
        actor: &Actor,
        kind: &str,
        id: &str,
        expected: Expected,
    ) -> Result<Made<Resource>> {
        let attempt = Attempt::on_resource(actor, "resource.delete", kind, id);
        self.make(&attempt, || async {
            let known = self.store.resource(kind.to_owned(), id.to_owned()).await?;
            let project = known.as_ref().map(|known| &*known.project);
            self.demand_unbound(&attempt, project, "removes resources").await?;
            let Some(known) = known else { return self.hide(&attempt, None, &format!("resource {kind}:{id}")).await };
            expected.check(|| known.reference().to_string(), known.version)?;
            Ok(resource_deletion(known))
        })
        .await
    }

    /// The resources within the actor's reach, by kind and id.
    pub async fn resources(&self, actor: &Actor, mut query: ResourceQuery) -> Result<Vec<Resource>> {
        query.project = self.narrowed(actor, "resource.list", query.project).await?;
        Ok(self.store.resources(query).await?)
    }

    fn resource_change(&self, write: Write, resource: Resource) -> Change<Resource> {
        let touched = Slots::of_digests(&[named("resource", &resource.reference().to_string())]);
        let event = Event::touching(&[touched]);
        Change { project: Some(resource.project.clone()), writes: vec![write], event, result: resource }
    }
}

/// Takes away the resource that this is.
pub(super) fn resource_deletion(resource: Resource) -> Change<Resource> {
    let (kind, id) = (resource.kind.clone(), resource.id.clone());
    let writes = vec![Write::DeleteResource { kind, id, version: resource.version }];
    let event = Event::ending(vec![Ended::of_resource(&resource)]);
    Change { project: Some(resource.project.clone()), writes, event, result: resource }
}

fn check_resource(spec: &ResourceSpec) -> Result<()> {
    check_name("kind", &spec.kind)?;
    check_name("id", &spec.id)?;
    check_name("project", &spec.project)?;
    check_name("slug", spec.slug.as_deref().unwrap_or(&spec.id))?;
    match &spec.owner {
        Some(owner) => check_label("owner", owner),
        None => Ok(()),
    }
}
