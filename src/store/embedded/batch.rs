//! The steps of an atomic write on the embedded store: checked against what is stored, and every index kept in step.
//! Never takes back a revocation, and never writes a record over one that its writer had not seen.

use redb::{ReadableTable, Table, WriteTransaction};
use tollgate_core::credential::{KeyId, ProjectId};
use tollgate_guard::time::Timestamp;

use super::super::format::Format;
use super::super::keyspace::{self, Bytes, DigestKey, IdKey, META_SEQUENCE, id_key, scoped, within};
use super::super::records::{give_project_id, key, once, project, resource, session, signing_key, user};
use super::super::rules::{check_parts, project_id_after};
use super::super::{Counted, ProjectItem, Quota, Write};
use super::act::{Act, conflict};
use super::counts::{Counts, in_scope};
use super::journal;
use super::keys::{indexed_key, key_ids_in};
use super::records::Records;
use crate::domain::record::{ApiKey, KeyState};

/// A batch under way, with the tables of keys, which many steps of one batch may write to.
pub(super) struct Batch<'t, 'c> {
    pub(super) records: Records<'t, 'c>,
    keys: Table<'t, DigestKey, Bytes>,
    key_ids: Table<'t, IdKey, DigestKey>,
    keys_by_project: Table<'t, Bytes, Bytes>,
    keys_by_plane: Table<'t, Bytes, ()>,
    keys_by_both: Table<'t, Bytes, ()>,
    keys_in_projects: Table<'t, Bytes, Bytes>,
    meta: Table<'t, &'static str, u64>,
}

impl<'t, 'c> Batch<'t, 'c> {
    /// In a store that is laid out like this. `counts` follows what the steps do; after an error it is of no use any more.
    pub(super) fn begin(transaction: &'t WriteTransaction, format: Format, counts: &'c mut Counts) -> Act<Self> {
        Ok(Self {
            records: Records { transaction, format, counts },
            keys: transaction.open_table(keyspace::KEYS)?,
            key_ids: transaction.open_table(keyspace::KEY_IDS)?,
            keys_by_project: transaction.open_table(keyspace::KEYS_BY_PROJECT)?,
            keys_by_plane: transaction.open_table(keyspace::KEYS_BY_PLANE)?,
            keys_by_both: transaction.open_table(keyspace::KEYS_BY_BOTH)?,
            keys_in_projects: transaction.open_table(keyspace::KEYS_IN_PROJECTS)?,
            meta: transaction.open_table(keyspace::META)?,
        })
    }

    pub(super) fn step(&mut self, step: &Write) -> Act<()> {
        let records = &mut self.records;
        match step {
            Write::CreateKey(key) => self.create_key(key),
            Write::UpdateKey(key) => self.update_key(key),
            Write::PurgeKey { id, version, before } => self.purge_key(id, *version, *before),
            Write::Quota(quota) => self.check_quota(quota),
            Write::NoActiveKey { plane, now } => self.no_active_key(plane, *now),
            Write::CreateResource(resource) => resource::create(records, resource),
            Write::UpdateResource(resource) => resource::update(records, resource),
            Write::DeleteResource { kind, id, version } => resource::delete(records, kind, id, *version),
            Write::PutProject(project) => project::put(records, project),
            Write::InProject { name, id } => project::demand(records, name, *id),
            Write::GiveProjectId { to: ProjectItem::Key(key), project, id } => {
                give_project_id(records, &ProjectItem::Key(*key), (project, *id), |_, _| Ok(()))?;
                self.give_key_project_id(key, project, *id)
            }
            Write::GiveProjectId { to, project, id } => give_project_id(records, to, (project, *id), |_, _| Ok(())),
            Write::CreateUser(user) => user::create(records, user),
            Write::UpdateUser(user) => user::update(records, user),
            Write::GiveUserId { name, id } => user::give_id(records, name, *id),
            Write::BeginSession { user, session } => session::begin(records, user, session),
            Write::EndSession(session) => session::end(records, session),
            Write::CreateSigningKey(key) => signing_key::create(records, key),
            Write::DeleteSigningKey { id } => signing_key::delete(records, id),
            Write::Audit(entry) => journal::append(records.transaction, entry, records.format),
            Write::Once(once) => once::note(records, once),
        }
    }

    /// Takes the next sequence number.
    pub(super) fn number(mut self) -> Act<u64> {
        let last = self.meta.get(META_SEQUENCE)?.map_or(0, |value| value.value());
        self.meta.insert(META_SEQUENCE, last + 1)?;
        Ok(last + 1)
    }

    fn check_quota(&mut self, quota: &Quota) -> Act<()> {
        check_parts([&quota.project])?;
        let Records { transaction, format, counts } = &mut self.records;
        if !format.has_three() {
            return Ok(());
        }
        counts.check(quota, |counts| match quota.counted {
            Counted::Keys => in_scope(&self.keys_by_project, &quota.project),
            Counted::Users => counts.count_users(transaction, &quota.project),
            Counted::Resources => in_scope(&transaction.open_table(keyspace::RESOURCES_BY_PROJECT)?, &quota.project),
        })
    }

    fn create_key(&mut self, key: &ApiKey) -> Act<()> {
        self.records.counts.more(Counted::Keys, &key.project);
        if self.key_ids.get(&id_key(&key.id))?.is_some() {
            return conflict(format!("the key id {} is taken", key.id));
        }
        self.put_new_digest(key)?;
        self.put_indexes(key)
    }

    fn update_key(&mut self, key: &ApiKey) -> Act<()> {
        let Some(stored) = self.stored_key(&key.id)? else {
            return conflict(format!("there is no key {}", key.id));
        };
        key::check_update(&stored, key)?;
        self.records.counts.moved(Counted::Keys, &stored.project, &key.project);
        let project_id = project_id_after((&stored.project, stored.project_id), (&key.project, key.project_id));
        let key = &ApiKey { project_id, ..key.clone() };
        if stored.digest != key.digest || stored.project != key.project || stored.plane != key.plane {
            self.remove_indexes(&stored)?;
            self.put_indexes(key)?;
        }
        if stored.digest == key.digest {
            self.put_record(key)?;
        } else {
            self.put_new_digest(key)?;
            self.keys.remove(&stored.digest.0)?;
        }
        Ok(())
    }

    fn purge_key(&mut self, id: &KeyId, version: u64, before: Timestamp) -> Act<()> {
        let Some(stored) = self.stored_key(id)? else {
            return conflict(format!("there is no key {id}"));
        };
        key::check_purge(&stored, version, before)?;
        self.records.counts.fewer(Counted::Keys, &stored.project);
        self.keys.remove(&stored.digest.0)?;
        self.key_ids.remove(&id_key(id))?;
        self.remove_indexes(&stored)
    }

    fn put_new_digest(&mut self, key: &ApiKey) -> Act<()> {
        if self.put_record(key)? {
            return conflict(format!("the digest of key {} is taken by another key", key.id));
        }
        Ok(())
    }

    /// Wherever it stands. Whether it took the place of another one.
    fn put_record(&mut self, key: &ApiKey) -> Act<bool> {
        let record = key::encode_key(key);
        if self.records.format.has_three() {
            self.keys_in_projects.insert(&*scoped(&key.project, &id_key(&key.id)), &*record)?;
        }
        Ok(self.keys.insert(&key.digest.0, &*record)?.is_some())
    }

    fn put_indexes(&mut self, key: &ApiKey) -> Act<()> {
        check_parts([&key.project, &key.plane])?;
        let id = id_key(&key.id);
        self.key_ids.insert(&id, &key.digest.0)?;
        self.keys_by_project.insert(&*scoped(&key.project, &id), key.plane.as_bytes())?;
        self.keys_by_plane.insert(&*scoped(&key.plane, &id), ())?;
        if self.records.format.has_three() {
            self.keys_by_both.insert(&*within([&key.project, &key.plane], &id), ())?;
        }
        Ok(())
    }

    fn remove_indexes(&mut self, key: &ApiKey) -> Act<()> {
        let id = id_key(&key.id);
        self.keys_by_project.remove(&*scoped(&key.project, &id))?;
        self.keys_by_plane.remove(&*scoped(&key.plane, &id))?;
        self.keys_by_both.remove(&*within([&key.project, &key.plane], &id))?;
        self.keys_in_projects.remove(&*scoped(&key.project, &id))?;
        Ok(())
    }

    fn stored_key(&self, id: &KeyId) -> Act<Option<ApiKey>> {
        let Some(digest) = self.key_ids.get(&id_key(id))? else { return Ok(None) };
        indexed_key(&self.keys, digest.value(), id).map(Some)
    }

    fn no_active_key(&self, plane: &str, now: Timestamp) -> Act<()> {
        check_parts([plane])?;
        for id in key_ids_in(&self.keys_by_plane, plane, None, usize::MAX, |()| true)? {
            let active = |key: &ApiKey| matches!(key.state(now), KeyState::Active | KeyState::Retiring);
            if self.stored_key(&id)?.as_ref().is_some_and(active) {
                return conflict(format!("there is an active key on plane {plane} already: {id}"));
            }
        }
        Ok(())
    }

    fn give_key_project_id(&mut self, id: &KeyId, project: &str, project_id: ProjectId) -> Act<()> {
        match self.stored_key(id)? {
            Some(key) if key.project_id.is_none() && key.project == project => {
                self.put_record(&ApiKey { project_id: Some(project_id), ..key }).map(|_| ())
            }
            _ => Ok(()),
        }
    }
}
