//! Users: made, changed, disabled, deleted. Never sees a password, only its hash; never gives a user what its maker does not
//! hold, and never leaves a session open that a change should end.

use std::fmt;

use serde_json::json;
use tollgate_core::credential::UserId;
use tollgate_core::name::{USER_NAME_RULE, is_user_name};
use tollgate_core::named::named;
use tollgate_core::policy::Policy;
use tollgate_core::resource::EVERY;
use tollgate_guard::slots::Slots;

use super::actor::Actor;
use super::audit::Attempt;
use super::names::{kept, taken};
use super::once::Once;
use super::projects::Home;
use super::rules::{check_permissions, check_project, invalid, login_plane, sorted};
use super::{Change, Expected, Made, Registry, RegistryError, Result};
use crate::domain::change::{Ended, Event};
use crate::domain::record::User;
use crate::store::{Counted, UserQuery, Write};

/// A user to be made.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct UserSpec {
    pub name: String,
    /// Argon2id, as a PHC string.
    pub password_hash: String,
    pub project: String,
    pub permissions: Vec<String>,
}

impl fmt::Debug for UserSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserSpec")
            .field("name", &self.name)
            .field("project", &self.project)
            .field("permissions", &self.permissions)
            .finish_non_exhaustive()
    }
}

/// What is to be another about a user; `None`: it stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserChange {
    pub project: Option<String>,
    pub permissions: Option<Vec<String>>,
    pub disabled: Option<bool>,
}

impl UserChange {
    fn act(&self) -> &'static str {
        match self {
            Self { project: None, permissions: None, disabled: Some(true) } => "user.disable",
            Self { project: None, permissions: None, disabled: Some(false) } => "user.enable",
            _ => "user.update",
        }
    }

    /// Whether nothing is given by it.
    fn only_takes(&self) -> bool {
        matches!(self, Self { project: None, permissions: None, disabled: Some(true) | None })
    }
}

impl Registry {
    /// Makes a user, known by `<project>/<name>` where the store tells names of projects apart. A name that was another's, who is
    /// deleted, can be used again once it is freed; their sessions stay ended.
    ///
    /// # Errors
    /// [`RegistryError::Invalid`] for a field that does not fit the policy, [`RegistryError::Conflict`] if the name is taken
    /// or login is not configured, [`RegistryError::Forbidden`] beyond the actor's reach or for a permission that the
    /// actor does not hold. What was made before under this idempotency key is given again, with the password it had.
    pub async fn create_user(
        &self,
        policy: &Policy,
        actor: &Actor,
        spec: UserSpec,
        once: Option<Once>,
    ) -> Result<User> {
        let spec = checked(policy, spec)?;
        // In an older store neither id nor name is kept. Should that be upgraded at this very moment, the id is not said here.
        let is_new = self.store.format().await?.has_three();
        let name = if is_new { User::name_in(&spec.project, &spec.name) } else { spec.name.clone() };
        let attempt = Attempt::on_user(actor, "user.create", &name);
        self.demand_reach(&attempt, &spec.project).await?;
        self.demand_held(&attempt, &spec.project, &spec.permissions).await?;
        let asked = json!([spec.name, spec.project, spec.permissions]);
        let ticket = self.ticket(&attempt, once.as_ref(), &asked)?;
        self.make(&attempt, || async {
            let known = self.store.user(name.clone()).await?;
            if let Some(target) = self.made_before(ticket).await? {
                let made = known.filter(|user| !user.deleted && actor.reaches(&user.project));
                return made.map(Change::none).ok_or(RegistryError::Repeated { target });
            }
            let Home { id: project_id, mut writes } = self.home(&attempt, &spec.project).await?;
            if is_new && spec.project != EVERY {
                self.demand_free_name(&name, &spec.project, &spec.name).await?;
            }
            let user = User { project_id, ..self.user_of(&name, &spec, actor, known.as_ref())? };
            // A new name has no sessions that could have ended.
            let known_sessions = known.as_ref().map_or(user.sessions, |known| known.sessions);
            let is_more = known.as_ref().is_none_or(|known| known.project != spec.project);
            let write = match known {
                None => Write::CreateUser(user.clone()),
                // Also the name of one who is deleted: what they had must not become another project's.
                Some(known) if !actor.reaches(&known.project) => {
                    let reason = format!("the user name is that of project {}", known.project);
                    return self.refuse(&attempt, Some(&known.project), &reason, taken(&name)).await;
                }
                Some(known) if known.deleted && is_new && !known.freed => return Err(kept(&name)),
                Some(known) if known.deleted => Write::UpdateUser(user.clone()),
                Some(_) => return Err(taken(&name)),
            };
            let quota = is_more.then(|| self.within_quota(Counted::Users, &spec.project));
            writes.extend(quota.into_iter().chain([write]).chain(self.used(ticket, &attempt.target)));
            let made = user_change(writes, known_sessions, user);
            Ok(Change { result: User { id: made.result.id.filter(|_| is_new), ..made.result }, ..made })
        })
        .await
        .map(|made| made.result)
    }

    fn user_of(&self, name: &str, spec: &UserSpec, actor: &Actor, before: Option<&User>) -> Result<User> {
        let now = self.clock.now();
        let id = UserId::generate(getrandom::fill)
            .map_err(|error| RegistryError::Unavailable(format!("the system gives no random bytes: {error}")))?;
        Ok(User {
            id: Some(id),
            name: name.to_owned(),
            password_hash: spec.password_hash.clone(),
            project: spec.project.clone(),
            project_id: None,
            permissions: spec.permissions.clone(),
            disabled: false,
            deleted: false,
            freed: false,
            sessions: before.map_or(1, |before| before.sessions + 1),
            created_at: before.map_or(now, |before| self.time_after(before.created_at)),
            created_by: actor.subject.clone(),
            changed_at: now,
            version: before.map_or(1, |before| before.version + 1),
        })
    }

    /// Changes a user. To disable one ends every session at once, for good.
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`] unless the actor reaches and holds all that the user may do before and after; only the
    /// reach is needed to disable. [`RegistryError::Stale`] if the user is not what was expected.
    pub async fn update_user(
        &self,
        policy: &Policy,
        actor: &Actor,
        name: &str,
        change: UserChange,
        expected: Expected,
    ) -> Result<Made<User>> {
        let name = &*self.full_name(actor, name).await?;
        let attempt = Attempt::on_user(actor, change.act(), name);
        self.make(&attempt, || async {
            let old = self.reachable_user(&attempt, name).await?;
            let mut new = changed(&old, &change);
            if !change.only_takes() {
                self.demand_held(&attempt, &old.project, &old.permissions).await?;
                check_change(policy, &new, &change)?;
                self.demand_reach(&attempt, &new.project).await?;
                self.demand_held(&attempt, &new.project, &new.permissions).await?;
            }
            expected.check(|| format!("user {name}"), old.version)?;
            if new == old {
                return Ok(Change::none(old));
            }
            let mut before = Vec::new();
            if new.project != old.project {
                let home = self.home(&attempt, &new.project).await?;
                self.demand_movable(&new).await?;
                new.project_id = home.id;
                before = home.writes;
                before.push(self.within_quota(Counted::Users, &new.project));
            }
            new.sessions += u64::from(new.disabled != old.disabled);
            let mut change = self.next_version(old.sessions, new);
            change.writes.splice(0..0, before);
            Ok(change)
        })
        .await
    }

    /// Gives a user another password, and ends every session of theirs at once.
    ///
    /// # Errors
    /// [`RegistryError::Forbidden`] unless the actor reaches and holds all that the user may do: whoever knows a password
    /// can log in with it.
    pub async fn set_password(
        &self,
        policy: &Policy,
        actor: &Actor,
        name: &str,
        password_hash: String,
        expected: Expected,
    ) -> Result<Made<User>> {
        login_plane(policy)?;
        check_hash(&password_hash)?;
        let name = &*self.full_name(actor, name).await?;
        let attempt = Attempt::on_user(actor, "user.password", name);
        self.make(&attempt, || async {
            let old = self.reachable_user(&attempt, name).await?;
            self.demand_held(&attempt, &old.project, &old.permissions).await?;
            expected.check(|| format!("user {name}"), old.version)?;
            let sessions = old.sessions + 1;
            Ok(self.next_version(old.sessions, User { password_hash: password_hash.clone(), sessions, ..old }))
        })
        .await
    }

    /// Deletes a user, and ends every session of theirs at once. The name is kept until it is freed.
    ///
    /// # Errors
    /// [`RegistryError::NotFound`] if there is none within the actor's reach, [`RegistryError::Stale`] if the user is not
    /// what was expected.
    pub async fn delete_user(&self, actor: &Actor, name: &str, expected: Expected) -> Result<Made<User>> {
        let name = &*self.full_name(actor, name).await?;
        let attempt = Attempt::on_user(actor, "user.delete", name);
        self.make(&attempt, || async {
            let old = self.reachable_user(&attempt, name).await?;
            expected.check(|| format!("user {name}"), old.version)?;
            let user = User { password_hash: String::new(), deleted: true, sessions: old.sessions + 1, ..old };
            Ok(self.next_version(old.sessions, user))
        })
        .await
    }

    /// # Errors
    /// [`RegistryError::NotFound`] if there is none within the actor's reach.
    pub async fn user(&self, actor: &Actor, name: &str) -> Result<User> {
        let name = &*self.full_name(actor, name).await?;
        self.reachable_user(&Attempt::on_user(actor, "user.show", name), name).await
    }

    /// The users within the actor's reach, by name.
    pub async fn users(&self, actor: &Actor, mut query: UserQuery) -> Result<Vec<User>> {
        query.project = self.narrowed(actor, "user.list", query.project).await?;
        Ok(self.store.users(query).await?)
    }

    /// A user whose name has a project in front is of that project for good: elsewhere they would be somebody else.
    async fn demand_movable(&self, user: &User) -> Result<()> {
        let plain = user.plain_name();
        if plain != user.name {
            return Err(RegistryError::Conflict(format!(
                "user {} stays in its project: make another one in {}, and delete this one",
                user.name, user.project
            )));
        }
        if user.project == EVERY { Ok(()) } else { self.demand_free_name(&user.name, &user.project, plain).await }
    }

    pub(super) async fn reachable_user(&self, attempt: &Attempt<'_>, name: &str) -> Result<User> {
        let what = format!("user {name}");
        match self.store.user(name.to_owned()).await? {
            Some(user) if !user.deleted && attempt.actor.reaches(&user.project) => Ok(user),
            Some(foreign) if !foreign.deleted => self.hide(attempt, Some(&foreign.project), &what).await,
            _ => self.hide(attempt, None, &what).await,
        }
    }

    /// The change of a user, whose sessions were of this generation.
    pub(super) fn next_version(&self, sessions: u64, user: User) -> Change<User> {
        let user = User { changed_at: self.clock.now(), version: user.version + 1, ..user };
        user_change(vec![Write::UpdateUser(user.clone())], sessions, user)
    }
}

fn user_change(writes: Vec<Write>, sessions: u64, user: User) -> Change<User> {
    let event = if sessions < user.sessions {
        Event::ending(vec![Ended::of_user(&user)])
    } else {
        Event::touching(&[Slots::of_digests(&[named("user", &user.name)])])
    };
    Change { project: Some(user.project.clone()), writes, event, result: user }
}

fn changed(old: &User, change: &UserChange) -> User {
    let mut new = old.clone();
    if let Some(project) = &change.project {
        new.project.clone_from(project);
    }
    if let Some(permissions) = &change.permissions {
        new.permissions = sorted(permissions.clone());
    }
    if let Some(disabled) = change.disabled {
        new.disabled = disabled;
    }
    new
}

/// Only what changes is judged: the rest was right when it was said.
fn check_change(policy: &Policy, new: &User, change: &UserChange) -> Result<()> {
    let plane = login_plane(policy)?;
    if change.project.is_some() {
        check_project(plane, &new.project)?;
    }
    if change.permissions.is_some() {
        check_permissions(policy, plane, &new.permissions)?;
    }
    Ok(())
}

/// What was asked for, in the order that a record has, if such a user may exist under this policy.
fn checked(policy: &Policy, spec: UserSpec) -> Result<UserSpec> {
    let plane = login_plane(policy)?;
    if !is_user_name(&spec.name) {
        return invalid("name", format!("must be {USER_NAME_RULE}"));
    }
    check_hash(&spec.password_hash)?;
    check_project(plane, &spec.project)?;
    check_permissions(policy, plane, &spec.permissions)?;
    Ok(UserSpec { permissions: sorted(spec.permissions), ..spec })
}

/// Keeps a password out of the store that somebody forgot to hash.
fn check_hash(hash: &str) -> Result<()> {
    if hash.starts_with("$argon2id$") { Ok(()) } else { invalid("password", "must be hashed with argon2id first") }
}
