//! Every change to keys and resources: checked, durable, visible to the cache, and only then acknowledged. Never keeps,
//! logs or returns a secret but the one it has just made.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Mutex;

use crate::clock::Clock;
use crate::domain::credential::{KeyId, MintedKey, PresentedKey};
use crate::domain::name::{LABEL_RULE, NAME_RULE, is_label, is_name};
use crate::domain::record::{ApiKey, EVERY, Resource};
use crate::domain::time::Timestamp;
use crate::policy::{ADMIN_PERMISSIONS, Plane, Policy};
use crate::resolve::api_key::Digester;
use crate::resolve::last_used::LastUsed;
use crate::resolve::revocation::{Slots, Stamps};
use crate::store::{KeyQuery, ResourceQuery, Store, StoreError, Write};

/// Makes and changes records. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Registry {
    store: Store,
    digester: Arc<Digester>,
    stamps: Arc<Stamps>,
    last_used: Arc<LastUsed>,
    clock: Clock,
    /// What was touched by writes that failed: whether they were done is not known.
    unsettled: Arc<Mutex<Vec<Slots>>>,
}

/// Who makes a change, and how far their hand reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// `key:<id>`, or `operator` for whoever holds the admin socket.
    pub subject: String,
    /// The only project the actor may touch; `None`: every one.
    pub project: Option<String>,
}

impl Actor {
    /// Whoever may open the admin socket.
    pub fn operator() -> Self {
        Self { subject: "operator".to_owned(), project: None }
    }

    fn reaches(&self, project: &str) -> bool {
        self.project.as_deref().is_none_or(|own| own == project)
    }
}

/// A key to be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeySpec {
    pub name: String,
    pub plane: String,
    pub project: String,
    pub workloads: Vec<String>,
    pub permissions: Vec<String>,
    /// From now; `None`: it does not expire.
    pub expires_in: Option<Duration>,
}

/// A record with what is known of it beside the record.
#[derive(Clone, Debug)]
pub struct KeyView {
    pub key: ApiKey,
    /// To the minute.
    pub last_used_at: Option<Timestamp>,
}

/// A key that was just made, with its text: shown once.
#[derive(Debug)]
pub struct NewKey {
    pub record: ApiKey,
    pub secret: MintedKey,
}

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

/// Why a change was not made. Each sentence is for the person who asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegistryError {
    /// What was asked for cannot be: a field and what to write there.
    #[error("{field}: {problem}")]
    Invalid { field: &'static str, problem: String },
    #[error("{0}")]
    NotFound(String),
    #[error("{0}")]
    Conflict(String),
    /// The actor's reach ends before this.
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    Unavailable(String),
}

impl From<StoreError> for RegistryError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Conflict(message) => Self::Conflict(message),
            StoreError::Unavailable(_) | StoreError::Damaged(_) => Self::Unavailable(error.to_string()),
        }
    }
}

/// How often a revocation follows a record that others keep writing.
const REVOKE_ATTEMPTS: usize = 16;
/// The most workloads, or permissions, of one key.
const MAX_SCOPES: usize = 256;

type Result<T> = std::result::Result<T, RegistryError>;

impl Registry {
    pub fn new(
        store: Store,
        digester: Arc<Digester>,
        stamps: Arc<Stamps>,
        last_used: Arc<LastUsed>,
        clock: Clock,
    ) -> Self {
        Self { store, digester, stamps, last_used, clock, unsettled: Arc::default() }
    }

    /// Makes a key.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`] for a field that does not fit the policy, [`RegistryError::Forbidden`] beyond the
    /// actor's reach, [`RegistryError::Unavailable`] if it could not be stored; then nobody holds its secret.
    pub async fn create_key(&self, policy: &Policy, actor: &Actor, spec: KeySpec) -> Result<NewKey> {
        self.store_new_key(policy, actor, spec, Vec::new()).await
    }

    /// Makes the first key of an admin plane, with every administrative permission over every project.
    ///
    /// # Errors
    /// [`RegistryError::Conflict`] if an active one exists.
    pub async fn bootstrap(&self, policy: &Policy) -> Result<NewKey> {
        let plane = policy.planes.iter().find(|plane| plane.admin).ok_or_else(|| RegistryError::Invalid {
            field: "plane",
            problem: "no plane is marked `admin: true` in the configuration".to_owned(),
        })?;
        let spec = KeySpec {
            name: "bootstrap".to_owned(),
            plane: plane.name.to_string(),
            project: EVERY.to_owned(),
            workloads: vec![EVERY.to_owned()],
            permissions: ADMIN_PERMISSIONS.map(str::to_owned).to_vec(),
            expires_in: None,
        };
        let none = Write::NoActiveKey { plane: plane.name.to_string(), now: self.clock.now() };
        self.store_new_key(policy, &Actor::operator(), spec, vec![none]).await
    }

    async fn store_new_key(
        &self,
        policy: &Policy,
        actor: &Actor,
        spec: KeySpec,
        mut batch: Vec<Write>,
    ) -> Result<NewKey> {
        let plane = check_spec(policy, actor, &spec)?;
        let now = self.clock.now();
        let (secret, record) = self.mint(plane, |id, digest| ApiKey {
            id,
            digest,
            pepper_version: self.digester.current_version(),
            name: spec.name,
            plane: spec.plane,
            project: spec.project,
            workloads: sorted(spec.workloads),
            permissions: sorted(spec.permissions),
            created_at: now,
            created_by: actor.subject.clone(),
            expires_at: spec.expires_in.map(|life| now.plus(life)),
            retires_at: None,
            revoked_at: None,
            replaces: None,
            replaced_by: None,
            version: 1,
        })?;
        batch.push(Write::CreateKey(record.clone()));
        self.apply(batch, &[Slots::of_digests(&[record.digest])]).await?;
        Ok(NewKey { record, secret })
    }

    /// Makes a replacement with the same rights, then lets the old key live for `grace`. The replacement lives as long
    /// as the old key was meant to when it was made.
    ///
    /// # Errors
    /// [`RegistryError::Conflict`] if the key is revoked, expired or rotated already.
    pub async fn rotate_key(&self, policy: &Policy, actor: &Actor, id: KeyId, grace: Duration) -> Result<NewKey> {
        self.settle().await?;
        let old = self.reachable_key(actor, id).await?;
        let now = self.clock.now();
        if old.retires_at.is_some() || old.replaced_by.is_some() {
            return Err(RegistryError::Conflict(format!("key {id} has been rotated already")));
        }
        if old.revoked_at.is_some() || old.expires_at.is_some_and(|end| end <= now) {
            let state = old.state(now).as_str();
            return Err(RegistryError::Conflict(format!("key {id} is {state}: make a new one with `keys create`")));
        }
        let plane =
            policy.plane_named(&old.plane).map(|id| policy.plane(id)).ok_or_else(|| RegistryError::Invalid {
                field: "plane",
                problem: format!("the plane `{}` of this key is no longer configured", old.plane),
            })?;
        if plane.admin && actor.project.is_some() && actor.subject != format!("key:{id}") {
            // Whoever rotates a key holds it afterwards, and this one may hold more than the actor does.
            return Err(RegistryError::Forbidden(
                "only an administrator of every project rotates another administrative key".to_owned(),
            ));
        }
        let life = old.expires_at.map(|end| end.as_millis().saturating_sub(old.created_at.as_millis()));
        let (secret, record) = self.mint(plane, |new_id, digest| ApiKey {
            id: new_id,
            digest,
            pepper_version: self.digester.current_version(),
            created_at: now,
            created_by: actor.subject.clone(),
            expires_at: life.map(|millis| now.plus(Duration::from_millis(millis))),
            replaces: Some(id),
            version: 1,
            ..old.clone()
        })?;
        let mut retired = ApiKey { replaced_by: Some(record.id), version: old.version + 1, ..old };
        if grace.is_zero() {
            // A tombstone and not an end in time, so that no clock can bring the key back.
            retired.revoked_at = Some(now);
        } else {
            retired.retires_at = Some(now.plus(grace));
        }
        let slots = [Slots::of_digests(&[record.digest, retired.digest])];
        self.apply(vec![Write::CreateKey(record.clone()), Write::UpdateKey(retired)], &slots).await?;
        Ok(NewKey { record, secret })
    }

    /// Revokes a key, for good. Revoking it again changes nothing and is no error. When this returns, no check that
    /// begins afterwards is allowed with it.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], or [`RegistryError::Unavailable`] if it could not be stored.
    pub async fn revoke_key(&self, actor: &Actor, id: KeyId) -> Result<ApiKey> {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let old = self.reachable_key(actor, id).await?;
            let slots = [Slots::of_digests(&[old.digest])];
            let mut revoked = old.clone();
            revoked.revoked_at = Some(old.revoked_at.unwrap_or_else(|| self.clock.now()));
            revoked.version += 1;
            match self.apply(vec![Write::UpdateKey(revoked.clone())], &slots).await {
                // Somebody else wrote the record in between: revoke what it is now.
                Err(RegistryError::Conflict(_)) if attempts < REVOKE_ATTEMPTS => {}
                result => return result.map(|()| revoked),
            }
        }
    }

    /// # Errors
    /// [`RegistryError::NotFound`] if there is none within the actor's reach.
    pub async fn key(&self, actor: &Actor, id: KeyId) -> Result<KeyView> {
        let key = self.reachable_key(actor, id).await?;
        let mut views = self.with_last_use(vec![key]).await?;
        views.pop().ok_or_else(|| no_such_key(id))
    }

    /// The keys within the actor's reach, by id.
    pub async fn keys(&self, actor: &Actor, mut query: KeyQuery) -> Result<Vec<KeyView>> {
        query.project = narrowed(actor, query.project)?;
        let keys = self.store.keys(query).await?;
        self.with_last_use(keys).await
    }

    /// Registers a resource, or moves it if `may_move`. Registering it again in the same place changes nothing.
    ///
    /// # Errors
    /// [`RegistryError::Conflict`] if it stands elsewhere and may not be moved.
    pub async fn put_resource(&self, actor: &Actor, spec: ResourceSpec, may_move: bool) -> Result<Resource> {
        check_resource(&spec)?;
        unbound(actor, "registers resources")?;
        self.settle().await?;
        let slug = spec.slug.clone().unwrap_or_else(|| spec.id.clone());
        let known = self.store.resource(spec.kind.clone(), spec.id.clone()).await?;
        let (write, resource) = match known {
            None => {
                let resource = Resource {
                    kind: spec.kind,
                    id: spec.id,
                    slug,
                    project: spec.project,
                    owner: spec.owner,
                    created_at: self.clock.now(),
                    version: 1,
                };
                (Write::CreateResource(resource.clone()), resource)
            }
            Some(known) if known.project == spec.project && known.slug == slug && known.owner == spec.owner => {
                return Ok(known);
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
                let version = known.version + 1;
                let moved = Resource { slug, project: spec.project, owner: spec.owner, version, ..known };
                (Write::UpdateResource(moved.clone()), moved)
            }
        };
        self.apply(vec![write], &[self.resource_slots(&resource)]).await?;
        Ok(resource)
    }

    /// # Errors
    /// [`RegistryError::NotFound`] if there is none within the actor's reach.
    pub async fn resource(&self, actor: &Actor, kind: &str, id: &str) -> Result<Resource> {
        match self.store.resource(kind.to_owned(), id.to_owned()).await? {
            Some(resource) if actor.reaches(&resource.project) => Ok(resource),
            _ => Err(RegistryError::NotFound(format!("there is no resource {kind}:{id}"))),
        }
    }

    /// # Errors
    /// [`RegistryError::NotFound`] if there is none within the actor's reach.
    pub async fn delete_resource(&self, actor: &Actor, kind: &str, id: &str) -> Result<Resource> {
        unbound(actor, "removes resources")?;
        self.settle().await?;
        let resource = self.resource(actor, kind, id).await?;
        let (kind, id) = (resource.kind.clone(), resource.id.clone());
        let write = Write::DeleteResource { kind, id, version: resource.version };
        self.apply(vec![write], &[self.resource_slots(&resource)]).await?;
        Ok(resource)
    }

    /// The resources within the actor's reach, by kind and id.
    pub async fn resources(&self, actor: &Actor, mut query: ResourceQuery) -> Result<Vec<Resource>> {
        query.project = narrowed(actor, query.project)?;
        Ok(self.store.resources(query).await?)
    }

    /// Puts what was noted about the use of keys into the store.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; nothing noted is lost.
    pub async fn flush_last_used(&self) -> std::result::Result<(), StoreError> {
        self.settle().await?;
        let uses = self.last_used.take();
        if uses.is_empty() {
            return Ok(());
        }
        let result = self.store.note_use(uses.clone()).await;
        if result.is_err() {
            self.last_used.put_back(uses);
        }
        result
    }

    fn resource_slots(&self, resource: &Resource) -> Slots {
        Slots::of_digests(&[self.digester.of_resource(resource.reference())])
    }

    async fn reachable_key(&self, actor: &Actor, id: KeyId) -> Result<ApiKey> {
        match self.store.key(id).await? {
            Some(key) if actor.reaches(&key.project) => Ok(key),
            _ => Err(no_such_key(id)),
        }
    }

    async fn with_last_use(&self, keys: Vec<ApiKey>) -> Result<Vec<KeyView>> {
        let stored = self.store.last_used(keys.iter().map(|key| key.id).collect()).await?;
        let view = |(key, stored): (ApiKey, Option<Timestamp>)| {
            let last_used_at = stored.max(self.last_used.pending(key.id));
            KeyView { key, last_used_at }
        };
        Ok(keys.into_iter().zip(stored).map(view).collect())
    }

    fn mint(
        &self,
        plane: &Plane,
        record: impl FnOnce(KeyId, crate::domain::credential::Digest) -> ApiKey,
    ) -> Result<(MintedKey, ApiKey)> {
        let secret = MintedKey::generate(&plane.prefix, getrandom::fill)
            .map_err(|error| RegistryError::Unavailable(format!("the system gives no random bytes: {error}")))?;
        let presented = PresentedKey::parse(secret.expose(), &plane.prefix)
            .map_err(|_| RegistryError::Unavailable("a new key does not follow its own grammar".to_owned()))?;
        let record = record(secret.id(), self.digester.current(&presented));
        Ok((secret, record))
    }

    /// Durable first, then visible to the cache; the caller acknowledges after that. Runs to its end even if the caller
    /// is dropped, so that no durable change stays invisible.
    async fn apply(&self, batch: Vec<Write>, slots: &[Slots]) -> Result<()> {
        let (store, stamps, slots) = (self.store.clone(), Arc::clone(&self.stamps), slots.to_vec());
        let unsettled = Arc::clone(&self.unsettled);
        let task = tokio::spawn(async move {
            let result = store.apply(batch).await;
            match &result {
                Ok(sequence) => stamps.raise(*sequence, &slots),
                Err(StoreError::Conflict(_)) => {}
                Err(_) => unsettled.lock().await.extend(slots),
            }
            Ok(result.map(|_| ())?)
        });
        match task.await {
            Ok(result) => result,
            Err(error) => Err(RegistryError::Unavailable(format!("the write was interrupted: {error}"))),
        }
    }

    /// Makes what is cached forget what failed writes may have done all the same. An empty write takes a number behind
    /// theirs; once it is durable, every load that begins sees what became of them.
    async fn settle(&self) -> std::result::Result<(), StoreError> {
        let mut unsettled = self.unsettled.lock().await;
        if !unsettled.is_empty() {
            self.stamps.raise(self.store.apply(Vec::new()).await?, &unsettled);
            unsettled.clear();
        }
        Ok(())
    }
}

fn no_such_key(id: KeyId) -> RegistryError {
    RegistryError::NotFound(format!("there is no key {id}"))
}

/// The project that a list is narrowed to by the actor's reach.
fn narrowed(actor: &Actor, asked: Option<String>) -> Result<Option<String>> {
    match (&actor.project, asked) {
        (Some(own), Some(asked)) if *own != asked => Err(beyond_reach(&asked)),
        (Some(own), _) => Ok(Some(own.clone())),
        (None, asked) => Ok(asked),
    }
}

/// Whether the actor reaches every project; a project's administrator could otherwise take what is not its own.
fn unbound(actor: &Actor, act: &str) -> Result<()> {
    match actor.project {
        None => Ok(()),
        Some(_) => Err(RegistryError::Forbidden(format!("only an administrator of every project {act}"))),
    }
}

fn beyond_reach(project: &str) -> RegistryError {
    RegistryError::Forbidden(format!("your key does not reach project {project}"))
}

fn sorted(mut list: Vec<String>) -> Vec<String> {
    list.sort();
    list.dedup();
    list
}

/// Whether the key may exist under this policy, and the plane it will stand on.
fn check_spec<'p>(policy: &'p Policy, actor: &Actor, spec: &KeySpec) -> Result<&'p Plane> {
    let invalid = |field, problem| Err(RegistryError::Invalid { field, problem });
    if !is_label(&spec.name) {
        return invalid("name", format!("must be {LABEL_RULE}"));
    }
    let Some(plane) = policy.planes.iter().find(|plane| *plane.name == *spec.plane) else {
        let known = listed(policy.planes.iter().map(|plane| &*plane.name));
        return invalid("plane", format!("`{}` is not a plane; there are: {known}", spec.plane));
    };
    let every_project = spec.project == EVERY;
    if every_project && !plane.admin {
        return invalid("project", format!("a key on plane `{}` belongs to one project, not to `*`", plane.name));
    }
    if !every_project && !is_name(&spec.project) {
        return invalid("project", format!("`{}` must be {NAME_RULE}", spec.project));
    }
    if !actor.reaches(&spec.project) {
        return Err(beyond_reach(&spec.project));
    }
    if plane.admin {
        unbound(actor, "makes administrative keys")?;
    }
    for (field, list) in [("workloads", &spec.workloads), ("permissions", &spec.permissions)] {
        if list.len() > MAX_SCOPES {
            return invalid(field, format!("at most {MAX_SCOPES} can be named"));
        }
    }
    let every_workload = matches!(&*spec.workloads, [one] if one == EVERY);
    if spec.workloads.is_empty() {
        return invalid(
            "workloads",
            "name the workloads that the key reaches, or `*` for all of its project".to_owned(),
        );
    }
    if !every_workload && let Some(bad) = spec.workloads.iter().find(|name| !is_name(name)) {
        return invalid("workloads", format!("`{bad}` must be {NAME_RULE}, or `*` must stand alone"));
    }
    if spec.permissions.is_empty() {
        return invalid("permissions", "a key without permissions can do nothing: name at least one".to_owned());
    }
    for permission in &spec.permissions {
        let administrative = ADMIN_PERMISSIONS.contains(&&**permission);
        if administrative && !plane.admin {
            let problem = format!("`{permission}` exists only on a plane marked `admin: true`");
            return invalid("permissions", problem);
        }
        if !administrative && !policy.permissions.iter().any(|known| **known == **permission) {
            let known = policy.permissions.iter().map(|known| &**known);
            let all = if plane.admin { listed(known.chain(ADMIN_PERMISSIONS)) } else { listed(known) };
            return invalid("permissions", format!("`{permission}` is not declared; there are: {all}"));
        }
    }
    Ok(plane)
}

fn check_resource(spec: &ResourceSpec) -> Result<()> {
    let slug = spec.slug.as_deref().unwrap_or(&spec.id);
    for (field, text) in [("kind", &*spec.kind), ("id", &spec.id), ("project", &spec.project), ("slug", slug)] {
        if !is_name(text) {
            return Err(RegistryError::Invalid { field, problem: format!("`{text}` must be {NAME_RULE}") });
        }
    }
    if let Some(owner) = &spec.owner
        && !is_label(owner)
    {
        return Err(RegistryError::Invalid { field: "owner", problem: format!("must be {LABEL_RULE}") });
    }
    Ok(())
}

fn listed<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}
