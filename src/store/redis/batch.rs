//! The steps of a batch, judged by what the server held and put into a set of writes. Never takes back a revocation, and never puts a
//! record over one that its writer had not seen.

use data_encoding::HEXLOWER;
use tollgate_core::credential::KeyId;
use tollgate_guard::time::Timestamp;

use super::values::{key_of, key_value};
use super::write_set::{Halt, Seen, Step, WriteSet};
use crate::domain::record::{ApiKey, AuditEntry, KeyState, User};
use crate::store::keyspace::is_part;
use crate::store::keyspace::redis as names;
use crate::store::records::audit::encode_audit;
use crate::store::records::noun::Tables;
use crate::store::records::{give_project_id, key, once, project, resource, session, signing_key, user};
use crate::store::rules::{check_parts, project_id_after};
use crate::store::{Counted, PepperCheck, Quota, StoreError, Write};

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
        Write::UpdateUser(user) => write_set.find::<User>(user.name.as_bytes())?,
        _ => None,
    };
    write_set.purpose().note(write, user.as_ref());
    match write {
        Write::CreateKey(key) => create_key(write_set, key),
        Write::UpdateKey(key) => update_key(write_set, key),
        Write::PurgeKey { id, version, before } => purge_key(write_set, id, *version, *before),
        Write::Quota(quota) => limit(write_set, quota),
        Write::NoActiveKey { plane, now } => no_active_key(write_set, plane, *now),
        Write::CreateResource(resource) => resource::create(write_set, resource),
        Write::UpdateResource(resource) => resource::update(write_set, resource),
        Write::DeleteResource { kind, id, version } => resource::delete(write_set, kind, id, *version),
        Write::PutProject(project) => project::put(write_set, project),
        Write::InProject { name, id } => project::demand(write_set, name, *id),
        Write::GiveProjectId { to, project, id } => give_project_id(write_set, to, (project, *id), |write_set, key| {
            match stored_key(write_set, key)? {
                Some(key) if key.project_id.is_none() && key.project == *project => {
                    put_key(write_set, &ApiKey { project_id: Some(*id), ..key });
                }
                _ => {}
            }
            Ok(())
        }),
        Write::CreateUser(user) => user::create(write_set, user),
        Write::UpdateUser(user) => user::update(write_set, user),
        Write::GiveUserId { name, id } => user::give_id(write_set, name, *id),
        Write::BeginSession { user, session } => session::begin(write_set, user, session),
        Write::EndSession(session) => session::end(write_set, session),
        Write::CreateSigningKey(key) => signing_key::create(write_set, key),
        Write::DeleteSigningKey { id } => signing_key::delete(write_set, id),
        Write::Audit(entry) => append(write_set, entry),
        Write::Once(once) => once::note(write_set, once),
    }
}

fn create_key(write_set: &mut WriteSet<'_>, key: &ApiKey) -> Step<()> {
    check_parts([&key.project, &key.plane])?;
    // Both are asked for before either is judged, so that one reading is enough.
    let (id, digest) = (write_set.named(&names::key_id(&key.id)), write_set.named(&names::key(&key.digest)));
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
    key::check_update(&stored, key)?;
    if stored.digest != key.digest {
        if write_set.named(&names::key(&key.digest))?.is_some() {
            return digest_taken(key);
        }
        write_set.delete(names::key(&stored.digest));
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
    key::check_purge(&stored, version, before)?;
    write_set.delete(names::key_id(id));
    write_set.delete(names::key(&stored.digest));
    write_set.remove_member(names::KEY_LIST, id.as_str());
    unlist_key(write_set, &stored);
    Ok(())
}

/// Where it is found by what may change.
fn unlist_key(write_set: &mut WriteSet<'_>, key: &ApiKey) {
    let id = key.id.as_str();
    write_set.remove_member(names::keys_of_project(&key.project), id);
    write_set.remove_member(names::keys_of_plane(&key.plane), id);
    write_set.remove_member(names::keys_of_both(&key.project, &key.plane), id);
}

fn digest_taken(key: &ApiKey) -> Step<()> {
    refused(format!("the digest of key {} is taken by another key", key.id))
}

pub(super) fn put_key(write_set: &mut WriteSet<'_>, key: &ApiKey) {
    write_set.set(names::key_id(&key.id), HEXLOWER.encode(&key.digest.0).into_bytes());
    write_set.set(names::key(&key.digest), key_value(key));
}

pub(super) fn list_key(write_set: &mut WriteSet<'_>, key: &ApiKey) {
    let id = key.id.as_str();
    write_set.add_member(names::KEY_LIST, id);
    write_set.add_member(names::keys_of_project(&key.project), id);
    write_set.add_member(names::keys_of_plane(&key.plane), id);
    write_set.add_member(names::keys_of_both(&key.project, &key.plane), id);
}

fn stored_key(write_set: &mut WriteSet<'_>, id: &KeyId) -> Step<Option<ApiKey>> {
    let Some(digest) = write_set.named(&names::key_id(id))? else { return Ok(None) };
    let digest = String::from_utf8_lossy(&digest);
    let Some(value) = write_set.named(&format!("{}{digest}", names::KEYS))? else {
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

/// Keeps the check value of a pepper version, unless it is kept already.
///
/// # Errors
/// [`StoreError::Conflict`] if the version has another one.
pub(super) fn judge_pepper<'s>(check: &PepperCheck, seen: &'s Seen) -> Result<WriteSet<'s>, StoreError> {
    let mut write_set = WriteSet::new(seen);
    let name = names::pepper(check.version);
    match write_set.named(&name) {
        Ok(Some(known)) if known != check.check => {
            return Err(StoreError::Conflict(format!("pepper version {} is known with another value", check.version)));
        }
        Ok(known) => {
            // At each start: one that is known needs no room.
            if known.is_none() {
                write_set.purpose().note_making();
            }
            write_set.set(name, check.check.to_vec());
            write_set.add_member(names::PEPPER_LIST, check.version.to_string());
        }
        Err(Halt::Unseen) => {}
        Err(Halt::Refused(error)) => return Err(error),
    }
    Ok(write_set)
}

fn refused<T>(reason: String) -> Step<T> {
    Err(StoreError::Conflict(reason).into())
}
