//! The steps of a batch, judged by what the server held and put into a set of writes. Never takes back a revocation, and never puts a
//! record over one that its writer had not seen.

use std::time::Duration;

use data_encoding::HEXLOWER;
use tollgate_core::credential::{KeyId, ProjectId, UserId};
use tollgate_core::resource::Resource;
use tollgate_guard::time::Timestamp;

use super::values::{key_of, key_value, user_of, user_value};
use super::write_set::{Halt, Seen, Step, WriteSet};
use crate::domain::record::{
    ApiKey, AuditEntry, EndedSession, KeyState, OpenSession, Project, SigningKey, User, UserSessions,
};
use crate::store::keyspace::is_part;
use crate::store::keyspace::redis as names;
use crate::store::records::{
    decode_once, decode_project, decode_resource, encode_audit, encode_ended_session, encode_once, encode_project,
    encode_resource, encode_sessions, encode_signing_key, readable_sessions,
};
use crate::store::rules::{
    check_in_project, check_key_purge, check_key_update, check_namesake, check_once, check_parts, check_project_id,
    check_project_put, check_resource_deletion, check_resource_update, check_user_update, namesake, project_id_after,
    sessions_with, sessions_without, user_id_after, user_project_id_after,
};
use crate::store::{Counted, ONCE_KEPT, OnceRecord, PepperCheck, ProjectItem, Quota, SESSION_KEPT, StoreError, Write};

/// How much longer an idempotency key is there than it counts.
pub(super) const ONCE_SPARE: Duration = Duration::from_secs(3600);

/// Takes each step. With something left to be read, the set of writes says what, and nothing else of it counts.
///
/// # Errors
/// The first step that does not fit.
pub(super) fn judge<'s>(batch: &[Write], seen: &'s Seen) -> Result<WriteSet<'s>, StoreError> {
    let mut write_set = WriteSet::new(seen);
    for write in batch {
        match step(&mut write_set, write) {
            Ok(()) | Err(Halt::Unseen) => {}
            Err(Halt::Refused(error)) if write_set.is_complete() => return Err(error),
            // It may fit once everything is known.
            Err(Halt::Refused(_)) => break,
        }
    }
    Ok(write_set)
}

fn step(write_set: &mut WriteSet<'_>, write: &Write) -> Step<()> {
    let user = match write {
        Write::UpdateUser(user) => {
            write_set.record(&names::user(&user.name))?.map(|value| user_of(&value)).transpose()?
        }
        _ => None,
    };
    write_set.purpose().note(write, user.as_ref());
    match write {
        Write::CreateKey(key) => create_key(write_set, key),
        Write::UpdateKey(key) => update_key(write_set, key),
        Write::PurgeKey { id, version, before } => purge_key(write_set, id, *version, *before),
        Write::Quota(quota) => limit(write_set, quota),
        Write::NoActiveKey { plane, now } => no_active_key(write_set, plane, *now),
        Write::CreateResource(resource) => create_resource(write_set, resource),
        Write::UpdateResource(resource) => update_resource(write_set, resource),
        Write::DeleteResource { kind, id, version } => delete_resource(write_set, kind, id, *version),
        Write::PutProject(project) => put_project(write_set, project),
        Write::InProject { name, id } => in_project(write_set, name, *id),
        Write::GiveProjectId { to, project, id } => give_project_id(write_set, to, project, *id),
        Write::CreateUser(user) => create_user(write_set, user),
        Write::UpdateUser(user) => update_user(write_set, user),
        Write::GiveUserId { name, id } => give_user_id(write_set, name, *id),
        Write::BeginSession { user, session } => begin_session(write_set, user, session),
        Write::EndSession(session) => end_session(write_set, session),
        Write::CreateSigningKey(key) => create_signing_key(write_set, key),
        Write::DeleteSigningKey { id } => delete_signing_key(write_set, id),
        Write::Audit(entry) => append(write_set, entry),
        Write::Once(once) => note_once(write_set, once),
    }
}

fn create_key(write_set: &mut WriteSet<'_>, key: &ApiKey) -> Step<()> {
    check_parts([&key.project, &key.plane])?;
    // Both are asked for before either is judged, so that one reading is enough.
    let (id, digest) = (write_set.record(&names::key_id(&key.id)), write_set.record(&names::key(&key.digest)));
    if id?.is_some() {
        return refused(format!("the key id {} is taken", key.id));
    }
    if digest?.is_some() {
        return digest_taken(key);
    }
    put_key(write_set, key);
    list_key(write_set, key);
    Ok(())
}

fn update_key(write_set: &mut WriteSet<'_>, key: &ApiKey) -> Step<()> {
    check_parts([&key.project, &key.plane])?;
    let Some(stored) = stored_key(write_set, &key.id)? else {
        return refused(format!("there is no key {}", key.id));
    };
    check_key_update(&stored, key)?;
    if stored.digest != key.digest {
        if write_set.record(&names::key(&key.digest))?.is_some() {
            return digest_taken(key);
        }
        write_set.remove(names::key(&stored.digest));
    }
    unlist_key(write_set, &stored);
    let project_id = project_id_after((&stored.project, stored.project_id), (&key.project, key.project_id));
    put_key(write_set, &ApiKey { project_id, ..key.clone() });
    list_key(write_set, key);
    Ok(())
}

fn purge_key(write_set: &mut WriteSet<'_>, id: &KeyId, version: u64, before: Timestamp) -> Step<()> {
    let Some(stored) = stored_key(write_set, id)? else {
        return refused(format!("there is no key {id}"));
    };
    check_key_purge(&stored, version, before)?;
    write_set.remove(names::key_id(id));
    write_set.remove(names::key(&stored.digest));
    write_set.unlist(names::KEY_LIST, id.as_str());
    unlist_key(write_set, &stored);
    Ok(())
}

/// Where it is found by what may change.
fn unlist_key(write_set: &mut WriteSet<'_>, key: &ApiKey) {
    let id = key.id.as_str();
    write_set.unlist(names::keys_of_project(&key.project), id);
    write_set.unlist(names::keys_of_plane(&key.plane), id);
    write_set.unlist(names::keys_of_both(&key.project, &key.plane), id);
}

fn digest_taken(key: &ApiKey) -> Step<()> {
    refused(format!("the digest of key {} is taken by another key", key.id))
}

pub(super) fn put_key(write_set: &mut WriteSet<'_>, key: &ApiKey) {
    write_set.put(names::key_id(&key.id), HEXLOWER.encode(&key.digest.0).into_bytes());
    write_set.put(names::key(&key.digest), key_value(key));
}

pub(super) fn list_key(write_set: &mut WriteSet<'_>, key: &ApiKey) {
    let id = key.id.as_str();
    write_set.enlist(names::KEY_LIST, id);
    write_set.enlist(names::keys_of_project(&key.project), id);
    write_set.enlist(names::keys_of_plane(&key.plane), id);
    write_set.enlist(names::keys_of_both(&key.project, &key.plane), id);
}

fn stored_key(write_set: &mut WriteSet<'_>, id: &KeyId) -> Step<Option<ApiKey>> {
    let Some(digest) = write_set.record(&names::key_id(id))? else { return Ok(None) };
    let digest = String::from_utf8_lossy(&digest);
    let Some(value) = write_set.record(&format!("{}{digest}", names::KEYS))? else {
        return Err(StoreError::Damaged(format!("key {id} points to no record")).into());
    };
    let key = key_of(&value)?;
    if key.id != *id {
        return Err(StoreError::Damaged(format!("key {id} points to the record of key {}", key.id)).into());
    }
    Ok(Some(key))
}

fn no_active_key(write_set: &mut WriteSet<'_>, plane: &str, now: Timestamp) -> Step<()> {
    check_parts([plane])?;
    let mut unseen = false;
    for id in write_set.list(&names::keys_of_plane(plane))? {
        let Some(id) = KeyId::parse(&id) else {
            return Err(StoreError::Damaged("a list holds what is no id".to_owned()).into());
        };
        let stored = match stored_key(write_set, &id) {
            Err(Halt::Unseen) => {
                unseen = true;
                continue;
            }
            stored => stored?,
        };
        let is_active = |key: &ApiKey| matches!(key.state(now), KeyState::Active | KeyState::Retiring);
        if stored.as_ref().is_some_and(is_active) {
            return refused(format!("there is an active key on plane {plane} already: {id}"));
        }
    }
    if unseen { Err(Halt::Unseen) } else { Ok(()) }
}

fn limit(write_set: &mut WriteSet<'_>, quota: &Quota) -> Step<()> {
    let project = &*quota.project;
    check_parts([project])?;
    if !write_set.format().has_three() {
        return Ok(());
    }
    let lists = match quota.counted {
        Counted::Keys => vec![names::keys_of_project(project)],
        Counted::Users => vec![names::users_of_project(project), names::deleted_users_of_project(project)],
        Counted::Resources => vec![names::resources_of_project(project)],
    };
    write_set.limit(lists, quota.clone());
    Ok(())
}

fn create_resource(write_set: &mut WriteSet<'_>, resource: &Resource) -> Step<()> {
    check_parts([&resource.kind, &resource.id, &resource.project])?;
    if write_set.record(&names::resource(&resource.kind, &resource.id))?.is_some() {
        return refused(format!("{} is registered already", resource.reference()));
    }
    put_resource(write_set, resource);
    Ok(())
}

fn update_resource(write_set: &mut WriteSet<'_>, resource: &Resource) -> Step<()> {
    check_parts([&resource.kind, &resource.id, &resource.project])?;
    let Some(stored) = stored_resource(write_set, &resource.kind, &resource.id)? else {
        return refused(format!("there is no resource {}", resource.reference()));
    };
    check_resource_update(&stored, resource)?;
    write_set.unlist(names::resources_of_project(&stored.project), resource_member(&stored));
    let new = (&*resource.project, resource.project_id);
    let project_id = project_id_after((&stored.project, stored.project_id), new);
    put_resource(write_set, &Resource { project_id, ..resource.clone() });
    Ok(())
}

fn delete_resource(write_set: &mut WriteSet<'_>, kind: &str, id: &str, version: u64) -> Step<()> {
    check_parts([kind, id])?;
    let Some(stored) = stored_resource(write_set, kind, id)? else {
        return refused(format!("there is no resource {kind}:{id}"));
    };
    check_resource_deletion(&stored, version)?;
    write_set.remove(names::resource(kind, id));
    write_set.unlist(names::RESOURCE_LIST, resource_member(&stored));
    write_set.unlist(names::resources_of_project(&stored.project), resource_member(&stored));
    Ok(())
}

pub(super) fn put_resource(write_set: &mut WriteSet<'_>, resource: &Resource) {
    write_set.put(names::resource(&resource.kind, &resource.id), encode_resource(resource));
    write_set.enlist(names::RESOURCE_LIST, resource_member(resource));
    write_set.enlist(names::resources_of_project(&resource.project), resource_member(resource));
}

fn resource_member(resource: &Resource) -> String {
    format!("{}\0{}", resource.kind, resource.id)
}

fn stored_resource(write_set: &mut WriteSet<'_>, kind: &str, id: &str) -> Step<Option<Resource>> {
    let value = write_set.record(&names::resource(kind, id))?;
    Ok(value.map(|value| decode_resource(&value)).transpose()?)
}

fn put_project(write_set: &mut WriteSet<'_>, project: &Project) -> Step<()> {
    let stored = stored_project(write_set, &project.name)?;
    check_project_put(stored.as_ref(), project, write_set.format())?;
    write_set.put(names::project(&project.name), encode_project(project));
    write_set.enlist(names::PROJECT_LIST, &*project.name);
    Ok(())
}

fn in_project(write_set: &mut WriteSet<'_>, name: &str, id: Option<ProjectId>) -> Step<()> {
    let stored = stored_project(write_set, name)?;
    Ok(check_in_project(stored.as_ref(), name, id, write_set.format())?)
}

fn stored_project(write_set: &mut WriteSet<'_>, name: &str) -> Step<Option<Project>> {
    Ok(write_set.record(&names::project(name))?.map(|value| decode_project(&value)).transpose()?)
}

fn give_project_id(write_set: &mut WriteSet<'_>, to: &ProjectItem, project: &str, id: ProjectId) -> Step<()> {
    let (project_id, home) = (Some(id), stored_project(write_set, project));
    let lacks = |carried: Option<ProjectId>, name: &str| carried.is_none() && name == project;
    match to {
        ProjectItem::Key(key) => {
            if let Some(key) = stored_key(write_set, key)?.filter(|key| lacks(key.project_id, &key.project)) {
                put_key(write_set, &ApiKey { project_id, ..key });
            }
        }
        ProjectItem::User(name) => {
            let user = write_set.record(&names::user(name))?.map(|value| user_of(&value)).transpose()?;
            if let Some(user) = user.filter(|user| lacks(user.project_id, &user.project)) {
                put_user(write_set, &User { project_id, ..user });
            }
        }
        ProjectItem::Resource { kind, id } => {
            let resource = stored_resource(write_set, kind, id)?;
            if let Some(resource) = resource.filter(|resource| lacks(resource.project_id, &resource.project)) {
                put_resource(write_set, &Resource { project_id, ..resource });
            }
        }
    }
    Ok(check_project_id(home?.as_ref(), project, id)?)
}

fn create_user(write_set: &mut WriteSet<'_>, user: &User) -> Step<()> {
    check_parts([&user.name, &user.project])?;
    // Both are asked for before either is judged, so that one reading is enough.
    let (stored, named) = (write_set.record(&names::user(&user.name)), demand_name(write_set, user));
    if stored?.is_some() {
        return refused(format!("the user name {} is taken", user.name));
    }
    named?;
    put_user(write_set, user);
    Ok(())
}

fn update_user(write_set: &mut WriteSet<'_>, user: &User) -> Step<()> {
    check_parts([&user.name, &user.project])?;
    let Some(stored) = write_set.record(&names::user(&user.name))? else {
        return refused(format!("there is no user {}", user.name));
    };
    let stored = user_of(&stored)?;
    check_user_update(&stored, user)?;
    if stored.deleted || stored.project != user.project {
        demand_name(write_set, user)?;
    }
    write_set.unlist(names::USER_LIST, &*user.name);
    write_set.unlist(names::users_of_plain_name(user.plain_name()), &*user.name);
    write_set.unlist(names::users_of_project(&stored.project), &*user.name);
    if write_set.format().has_three() {
        write_set.unlist(names::deleted_users_of_project(&stored.project), &*user.name);
    }
    let project_id = user_project_id_after(&stored, user);
    put_user(write_set, &User { id: user_id_after(&stored, user), project_id, ..user.clone() });
    Ok(())
}

fn demand_name(write_set: &mut WriteSet<'_>, user: &User) -> Step<()> {
    let Some(name) = namesake(user) else { return Ok(()) };
    let found = write_set.record(&names::user(&name))?.map(|value| user_of(&value)).transpose()?;
    Ok(check_namesake(found.as_ref(), user)?)
}

fn give_user_id(write_set: &mut WriteSet<'_>, name: &str, id: UserId) -> Step<()> {
    if let Some(stored) = write_set.record(&names::user(name))? {
        let stored = user_of(&stored)?;
        if stored.id.is_none() {
            put_user(write_set, &User { id: Some(id), ..stored });
        }
    }
    Ok(())
}

/// A deleted one is on no list but one that is there to be counted.
pub(super) fn put_user(write_set: &mut WriteSet<'_>, user: &User) {
    write_set.put(names::user(&user.name), user_value(user, write_set.format()));
    if !user.deleted {
        write_set.enlist(names::USER_LIST, &*user.name);
        write_set.enlist(names::users_of_project(&user.project), &*user.name);
        if user.plain_name() != user.name {
            write_set.enlist(names::users_of_plain_name(user.plain_name()), &*user.name);
        }
    } else if write_set.format().has_three() {
        write_set.enlist(names::deleted_users_of_project(&user.project), &*user.name);
    }
}

fn begin_session(write_set: &mut WriteSet<'_>, user: &str, session: &OpenSession) -> Step<()> {
    check_parts([user, &session.id])?;
    // Read in any case, as that tells the format.
    let known = known_sessions(write_set, user)?;
    if write_set.format().has_three() {
        put_sessions(write_set, &sessions_with(known, user, session)?, session.began_at);
    }
    Ok(())
}

/// A list that cannot be read counts as none: it keeps no session from being begun or ended.
fn known_sessions(write_set: &mut WriteSet<'_>, user: &str) -> Step<Option<UserSessions>> {
    let value = write_set.record(&names::sessions(user))?;
    Ok(value.and_then(|value| readable_sessions(&value, user)))
}

pub(super) fn put_sessions(write_set: &mut WriteSet<'_>, sessions: &UserSessions, now: Timestamp) {
    let kept = until(sessions.last_expiry(), now).saturating_add(SESSION_KEPT);
    write_set.keep(names::sessions(&sessions.user), encode_sessions(sessions), kept);
}

fn until(end: Timestamp, now: Timestamp) -> Duration {
    Duration::from_millis(end.as_millis().saturating_sub(now.as_millis()))
}

/// The first end counts.
fn end_session(write_set: &mut WriteSet<'_>, session: &EndedSession) -> Step<()> {
    check_parts([&session.id])?;
    // Both are asked for before either is judged, so that one reading is enough.
    let name = names::ended_session(&session.id);
    let (ended, known) = (write_set.record(&name), known_sessions(write_set, &session.user));
    if ended?.is_none() {
        let kept = until(session.expires_at, session.ended_at).saturating_add(SESSION_KEPT);
        write_set.keep(name, encode_ended_session(session), kept);
    }
    if let Some(known) = known?.filter(|known| known.sessions.iter().any(|open| open.id == session.id)) {
        match sessions_without(known, &session.id) {
            Some(left) => put_sessions(write_set, &left, session.ended_at),
            None => write_set.remove(names::sessions(&session.user)),
        }
    }
    Ok(())
}

fn create_signing_key(write_set: &mut WriteSet<'_>, key: &SigningKey) -> Step<()> {
    let name = names::signing_key(&key.id);
    if write_set.record(&name)?.is_some() {
        return refused(format!("the id {} of a signing key is taken", key.id));
    }
    write_set.put(name, encode_signing_key(key));
    write_set.enlist(names::SIGNING_KEY_LIST, &*key.id);
    Ok(())
}

fn delete_signing_key(write_set: &mut WriteSet<'_>, id: &str) -> Step<()> {
    let name = names::signing_key(id);
    if write_set.record(&name)?.is_none() {
        return refused(format!("there is no signing key {id}"));
    }
    write_set.remove(name);
    write_set.unlist(names::SIGNING_KEY_LIST, id);
    Ok(())
}

/// Those that a row stands on because of who did it.
pub(super) fn lists_of_actor(entry: &AuditEntry) -> impl Iterator<Item = String> {
    let actor = Some(&entry.actor).filter(|actor| is_part(actor));
    let of_project = entry.project.iter().map(|project| names::audit_of_actor_in(&entry.actor, project));
    actor.into_iter().flat_map(move |actor| of_project.clone().chain([names::audit_of_actor(actor)]))
}

/// The number of a row is where it stands, so it is given when it is written.
fn append(write_set: &mut WriteSet<'_>, entry: &AuditEntry) -> Step<()> {
    if let Some(project) = &entry.project {
        check_parts([project])?;
    }
    put_row(write_set, entry);
    Ok(())
}

pub(super) fn put_row(write_set: &mut WriteSet<'_>, entry: &AuditEntry) {
    let mut lists: Vec<String> = entry.project.iter().map(|project| names::audit_of_project(project)).collect();
    if write_set.format().has_three() {
        lists.extend(lists_of_actor(entry));
    }
    write_set.append(lists, encode_audit(&AuditEntry { sequence: 0, ..entry.clone() }));
}

fn note_once(write_set: &mut WriteSet<'_>, once: &OnceRecord) -> Step<()> {
    let name = names::once(&once.digest);
    if let Some(earlier) = write_set.record(&name)? {
        check_once(&decode_once(once.digest, &earlier)?, once)?;
    }
    write_set.keep(name, encode_once(once), ONCE_KEPT + ONCE_SPARE);
    Ok(())
}

/// Keeps the check value of a pepper version, unless it is kept already.
///
/// # Errors
/// [`StoreError::Conflict`] if the version has another one.
pub(super) fn judge_pepper<'s>(check: &PepperCheck, seen: &'s Seen) -> Result<WriteSet<'s>, StoreError> {
    let mut write_set = WriteSet::new(seen);
    let name = names::pepper(check.version);
    match write_set.record(&name) {
        Ok(Some(known)) if known != check.check => {
            return Err(StoreError::Conflict(format!("pepper version {} is known with another value", check.version)));
        }
        Ok(known) => {
            // At each start: one that is known needs no room.
            if known.is_none() {
                write_set.purpose().note_making();
            }
            write_set.put(name, check.check.to_vec());
            write_set.enlist(names::PEPPER_LIST, check.version.to_string());
        }
        Err(Halt::Unseen) => {}
        Err(Halt::Refused(error)) => return Err(error),
    }
    Ok(write_set)
}

fn refused<T>(reason: String) -> Step<T> {
    Err(StoreError::Conflict(reason).into())
}
