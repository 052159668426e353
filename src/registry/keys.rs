//! API keys: made, changed, rotated, revoked. Never keeps, logs or returns a secret but the one it has just made, and never
//! gives a key what its maker does not hold.

use std::time::Duration;

use serde_json::json;
use tollgate_core::credential::{KeyId, MintedKey, PresentedKey};
use tollgate_core::plane::{ADMIN_PERMISSIONS, Plane};
use tollgate_core::policy::Policy;
use tollgate_core::resource::EVERY;
use tollgate_guard::digest::Digest;
use tollgate_guard::slots::Slots;
use tollgate_guard::time::Timestamp;

use super::actor::Actor;
use super::audit::Attempt;
use super::once::Once;
use super::projects::Home;
use super::rules::{check_label, check_permissions, check_project, check_workloads, invalid, plane, sorted};
use super::{Change, Expected, Made, Registry, RegistryError, Result};
use crate::domain::change::{Ended, Event};
use crate::domain::record::{ApiKey, KeyState, Outcome};
use crate::store::{Counted, KeyQuery, Write};

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

/// What is to be another about a key; `None`: it stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyChange {
    pub name: Option<String>,
    pub workloads: Option<Vec<String>>,
    pub permissions: Option<Vec<String>>,
    /// `Some(None)`: it does not expire.
    pub expires_at: Option<Option<Timestamp>>,
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

impl Registry {
    /// Makes a key.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`] for a field that does not fit the policy, [`RegistryError::Forbidden`] beyond the
    /// actor's reach or for a permission that the actor does not hold, [`RegistryError::Repeated`] if it was made before
    /// under this idempotency key, [`RegistryError::Unavailable`] if it could not be stored; then nobody holds its secret.
    pub async fn create_key(
        &self,
        policy: &Policy,
        actor: &Actor,
        spec: KeySpec,
        once: Option<Once>,
    ) -> Result<NewKey> {
        let spec = checked(policy, spec)?;
        let plane = plane(policy, &spec.plane)?;
        let mut attempt = Attempt::on_project(actor, "key.create", &spec.project);
        self.demand_reach(&attempt, &spec.project).await?;
        self.demand_held(&attempt, &spec.project, &spec.permissions).await?;
        let life = spec.expires_in.map(|life| life.as_millis());
        let asked = json!([spec.name, spec.plane, spec.project, spec.workloads, spec.permissions, life]);
        let ticket = self.ticket(&attempt, once.as_ref(), &asked)?;
        let new = self.mint(plane, |id, digest| self.key_of(&spec, actor, id, digest))?;
        attempt.target = format!("key:{}", new.record.id);
        let record = self
            .make(&attempt, || async {
                if let Some(target) = self.made_before(ticket).await? {
                    return Err(RegistryError::Repeated { target });
                }
                let Home { id: project_id, mut writes } = self.home(&attempt, &spec.project).await?;
                let record = ApiKey { project_id, ..new.record.clone() };
                writes.extend([self.within_quota(Counted::Keys, &spec.project), Write::CreateKey(record.clone())]);
                writes.extend(self.used(ticket, &attempt.target));
                Ok(key_change(writes, &[record.digest], record))
            })
            .await?
            .result;
        Ok(NewKey { record, secret: new.secret })
    }

    /// Makes the first key of an admin plane, with every permission there is over every project.
    ///
    /// # Errors
    /// [`RegistryError::Conflict`] if an active one exists, [`RegistryError::Forbidden`] to all but the operator.
    pub async fn bootstrap(&self, policy: &Policy, actor: &Actor) -> Result<NewKey> {
        let Some(plane) = policy.planes.iter().find(|plane| plane.admin) else {
            return invalid("plane", "no plane is marked `admin: true` in the configuration");
        };
        let built_in = ADMIN_PERMISSIONS.into_iter();
        let spec = KeySpec {
            name: "bootstrap".to_owned(),
            plane: plane.name.to_string(),
            project: EVERY.to_owned(),
            workloads: vec![EVERY.to_owned()],
            permissions: sorted(
                policy.permissions.iter().map(|name| &**name).chain(built_in).map(str::to_owned).collect(),
            ),
            expires_in: None,
        };
        let mut attempt = Attempt::on_project(actor, "key.bootstrap", EVERY);
        self.demand_reach(&attempt, EVERY).await?;
        self.demand_held(&attempt, EVERY, &spec.permissions).await?;
        let NewKey { record, secret } = self.mint(plane, |id, digest| self.key_of(&spec, actor, id, digest))?;
        attempt.target = format!("key:{}", record.id);
        let none = Write::NoActiveKey { plane: spec.plane, now: self.clock.now() };
        let writes = vec![none, Write::CreateKey(record.clone())];
        let record = self.commit(&attempt, key_change(writes, &[record.digest], record)).await?.result;
        Ok(NewKey { record, secret })
    }

    /// Changes what is said of a key. It stays the same key with the same secret.
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`] unless the actor holds all that the key may do before and after,
    /// [`RegistryError::Conflict`] if the key no longer works, [`RegistryError::Stale`] if it is not what was expected.
    pub async fn update_key(
        &self,
        policy: &Policy,
        actor: &Actor,
        id: KeyId,
        change: KeyChange,
        expected: Expected,
    ) -> Result<Made<ApiKey>> {
        let attempt = Attempt::on_key(actor, "key.update", id);
        self.make(&attempt, || async {
            let old = self.reachable_key(&attempt, id).await?;
            self.demand_held(&attempt, &old.project, &old.permissions).await?;
            let mut new = self.changed(policy, &old, &change)?;
            self.demand_held(&attempt, &new.project, &new.permissions).await?;
            expected.check(|| format!("key {id}"), old.version)?;
            if new == old {
                return Ok(Change::none(old));
            }
            new.version += 1;
            Ok(key_change(vec![Write::UpdateKey(new.clone())], &[new.digest], new))
        })
        .await
    }

    /// The key as it would be. Only what changes is judged: the rest was right when it was said.
    fn changed(&self, policy: &Policy, old: &ApiKey, change: &KeyChange) -> Result<ApiKey> {
        let now = self.clock.now();
        self.demand_working(old)?;
        let mut new = old.clone();
        if let Some(name) = &change.name {
            check_label("name", name)?;
            new.name.clone_from(name);
        }
        if let Some(workloads) = &change.workloads {
            check_workloads(workloads)?;
            new.workloads = sorted(workloads.clone());
        }
        if let Some(permissions) = &change.permissions {
            check_permissions(policy, plane(policy, &old.plane)?, permissions)?;
            new.permissions = sorted(permissions.clone());
        }
        if let Some(end) = change.expires_at {
            if end.is_some_and(|end| end <= now) {
                return invalid("expires_at", "must be in the future: to end a key now, revoke it");
            }
            new.expires_at = end;
        }
        Ok(new)
    }

    /// Makes a replacement with the same rights, then lets the old key live for `grace`. The replacement lives as long
    /// as the old key was meant to when it was made.
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`] unless the actor holds all that the key may do, [`RegistryError::Conflict`] if the key
    /// is revoked, expired or rotated already, [`RegistryError::Stale`] if it is not what was expected.
    pub async fn rotate_key(
        &self,
        policy: &Policy,
        actor: &Actor,
        id: KeyId,
        grace: Duration,
        expected: Expected,
    ) -> Result<Made<NewKey>> {
        let attempt = Attempt::on_key(actor, "key.rotate", id);
        self.make(&attempt, || async {
            let old = self.reachable_key(&attempt, id).await?;
            // Whoever rotates a key holds it afterwards.
            self.demand_held(&attempt, &old.project, &old.permissions).await?;
            expected.check(|| format!("key {id}"), old.version)?;
            if old.retires_at.is_some() || old.replaced_by.is_some() {
                return Err(RegistryError::Conflict(format!("key {id} has been rotated already")));
            }
            self.demand_working(&old)?;
            let Home { id: project_id, mut writes } = self.home(&attempt, &old.project).await?;
            if old.project_id.is_some() && old.project_id != project_id {
                return Err(RegistryError::Conflict(format!(
                    "key {id} belongs to another project that had this name: make a new one with `keys create`"
                )));
            }
            let mut new =
                self.mint(plane(policy, &old.plane)?, |id, digest| self.successor(&old, actor, id, digest))?;
            new.record.project_id = project_id;
            let retired = self.retired(old, new.record.id, grace);
            let also = Attempt::on_key(actor, attempt.act, new.record.id);
            let also = Write::Audit(self.row(&also, Some(&retired.project), Outcome::Done, None));
            let digests = [new.record.digest, retired.digest];
            let quota = self.within_quota(Counted::Keys, &retired.project);
            writes.extend([quota, Write::CreateKey(new.record.clone()), Write::UpdateKey(retired), also]);
            let Change { project, writes, event, result } = key_change(writes, &digests, new.record);
            Ok(Change { project, writes, event, result: NewKey { record: result, secret: new.secret } })
        })
        .await
    }

    fn retired(&self, old: ApiKey, replaced_by: KeyId, grace: Duration) -> ApiKey {
        let now = self.clock.now();
        let mut retired = ApiKey { replaced_by: Some(replaced_by), version: old.version + 1, ..old };
        if grace.is_zero() {
            // A tombstone and not an end in time, so that no clock can bring the key back.
            retired.revoked_at = Some(now);
        } else {
            retired.retires_at = Some(now.plus(grace));
        }
        retired
    }

    /// Revokes a key, for good. Revoking it again is no error. When this returns, no check that begins afterwards is
    /// allowed with it.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`], [`RegistryError::Stale`] if it is not what was expected, or
    /// [`RegistryError::Unavailable`] if it could not be stored.
    pub async fn revoke_key(&self, actor: &Actor, id: KeyId, expected: Expected) -> Result<Made<ApiKey>> {
        let attempt = Attempt::on_key(actor, "key.revoke", id);
        self.make(&attempt, || async {
            let old = self.reachable_key(&attempt, id).await?;
            expected.check(|| format!("key {id}"), old.version)?;
            // It is so already, and not everything that is said again is worth a row.
            if old.revoked_at.is_some() && !self.admits_refusal_of(actor) {
                return Ok(Change::none(old));
            }
            let revoked_at = Some(old.revoked_at.unwrap_or_else(|| self.clock.now()));
            let revoked = ApiKey { revoked_at, version: old.version + 1, ..old };
            Ok(key_change(vec![Write::UpdateKey(revoked.clone())], &[revoked.digest], revoked))
        })
        .await
    }

    /// # Errors
    /// [`RegistryError::NotFound`] if there is none within the actor's reach.
    pub async fn key(&self, actor: &Actor, id: KeyId) -> Result<KeyView> {
        let key = self.reachable_key(&Attempt::on_key(actor, "key.show", id), id).await?;
        let mut views = self.with_last_use(vec![key]).await?;
        views.pop().ok_or_else(|| RegistryError::NotFound(format!("there is no key {id}")))
    }

    /// The keys within the actor's reach, by id.
    pub async fn keys(&self, actor: &Actor, mut query: KeyQuery) -> Result<Vec<KeyView>> {
        query.project = self.narrowed(actor, "key.list", query.project).await?;
        let keys = self.store.keys(query).await?;
        self.with_last_use(keys).await
    }

    async fn reachable_key(&self, attempt: &Attempt<'_>, id: KeyId) -> Result<ApiKey> {
        let what = format!("key {id}");
        match self.store.key(id).await? {
            Some(key) if attempt.actor.reaches(&key.project) => Ok(key),
            Some(foreign) => self.hide(attempt, Some(&foreign.project), &what).await,
            None => self.hide(attempt, None, &what).await,
        }
    }

    fn demand_working(&self, key: &ApiKey) -> Result<()> {
        match key.state(self.clock.now()) {
            KeyState::Active | KeyState::Retiring => Ok(()),
            state => Err(RegistryError::Conflict(format!(
                "key {} is {}: make a new one with `keys create`",
                key.id,
                state.as_str()
            ))),
        }
    }

    async fn with_last_use(&self, keys: Vec<ApiKey>) -> Result<Vec<KeyView>> {
        let ids: Vec<KeyId> = keys.iter().map(|key| key.id).collect();
        let pending = self.last_used.pending(&ids);
        let stored = self.store.last_used(ids).await?;
        let view = |((key, stored), pending): ((ApiKey, Option<Timestamp>), Option<Timestamp>)| KeyView {
            key,
            last_used_at: stored.max(pending),
        };
        Ok(keys.into_iter().zip(stored).zip(pending).map(view).collect())
    }

    fn mint(&self, plane: &Plane, record: impl FnOnce(KeyId, Digest) -> ApiKey) -> Result<NewKey> {
        let secret = MintedKey::generate(&plane.prefix, getrandom::fill)
            .map_err(|error| RegistryError::Unavailable(format!("the system gives no random bytes: {error}")))?;
        let presented = PresentedKey::parse(secret.expose(), &plane.prefix)
            .map_err(|_| RegistryError::Unavailable("a new key does not follow its own grammar".to_owned()))?;
        let record = record(secret.id(), self.digester.current(&presented));
        Ok(NewKey { record, secret })
    }

    fn key_of(&self, spec: &KeySpec, actor: &Actor, id: KeyId, digest: Digest) -> ApiKey {
        let now = self.clock.now();
        ApiKey {
            id,
            digest,
            pepper_version: self.digester.current_version(),
            name: spec.name.clone(),
            plane: spec.plane.clone(),
            project: spec.project.clone(),
            project_id: None,
            workloads: spec.workloads.clone(),
            permissions: spec.permissions.clone(),
            created_at: now,
            created_by: actor.subject.clone(),
            expires_at: spec.expires_in.map(|life| now.plus(life)),
            retires_at: None,
            revoked_at: None,
            replaces: None,
            replaced_by: None,
            version: 1,
        }
    }

    fn successor(&self, old: &ApiKey, actor: &Actor, id: KeyId, digest: Digest) -> ApiKey {
        let now = self.clock.now();
        let life = old.expires_at.map(|end| end.as_millis().saturating_sub(old.created_at.as_millis()));
        ApiKey {
            id,
            digest,
            pepper_version: self.digester.current_version(),
            created_at: now,
            created_by: actor.subject.clone(),
            expires_at: life.map(|millis| now.plus(Duration::from_millis(millis))),
            replaces: Some(old.id),
            version: 1,
            ..old.clone()
        }
    }
}

pub(super) fn key_change(writes: Vec<Write>, digests: &[Digest], key: ApiKey) -> Change<ApiKey> {
    let ended = |write: &Write| match write {
        Write::UpdateKey(key) => Some(Ended::Key { digest: key.digest, at: key.revoked_at? }),
        _ => None,
    };
    let event =
        Event { ended: writes.iter().filter_map(ended).collect(), ..Event::touching(&[Slots::of_digests(digests)]) };
    Change { project: Some(key.project.clone()), writes, event, result: key }
}

/// What was asked for, in the order that a record has, if such a key may exist under this policy.
fn checked(policy: &Policy, spec: KeySpec) -> Result<KeySpec> {
    check_label("name", &spec.name)?;
    let plane = plane(policy, &spec.plane)?;
    check_project(plane, &spec.project)?;
    check_workloads(&spec.workloads)?;
    check_permissions(policy, plane, &spec.permissions)?;
    Ok(KeySpec { workloads: sorted(spec.workloads), permissions: sorted(spec.permissions), ..spec })
}
