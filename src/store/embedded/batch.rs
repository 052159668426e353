//! The steps of an atomic write on the embedded store: checked against what is stored, and every index kept in step.
//! Never takes back a revocation, and never writes a record over one that its writer had not seen.

use redb::{ReadableTable, Table, WriteTransaction};
use tollgate_core::credential::{KeyId, ProjectId};
use tollgate_core::resource::Resource;
use tollgate_guard::time::Timestamp;

use super::super::format::Format;
use super::super::keyspace::{self, Bytes, DigestKey, IdKey, META_SEQUENCE, id_key, scoped, within};
use super::super::records::{decode_resource, encode_key, encode_resource};
use super::super::rules::{
    check_key_purge, check_key_update, check_parts, check_resource_deletion, check_resource_update, project_id_after,
};
use super::super::{Counted, ProjectItem, Quota, Write};
use super::act::{Act, conflict};
use super::counts::{Counts, in_scope};
use super::keys::{indexed_key, key_ids_in};
use super::{journal, projects, sessions, users};
use crate::domain::record::{ApiKey, KeyState};

/// A batch under way, with the tables of keys and resources, which many steps of one batch may write to.
pub(super) struct Batch<'t> {
    transaction: &'t WriteTransaction,
    keys: Table<'t, DigestKey, Bytes>,
    key_ids: Table<'t, IdKey, DigestKey>,
    keys_by_project: Table<'t, Bytes, Bytes>,
    keys_by_plane: Table<'t, Bytes, ()>,
    keys_by_both: Table<'t, Bytes, ()>,
    keys_in_projects: Table<'t, Bytes, Bytes>,
    resources: Table<'t, Bytes, Bytes>,
    resources_by_project: Table<'t, Bytes, ()>,
    meta: Table<'t, &'static str, u64>,
    /// What the records of the batch are encoded for.
    format: Format,
}

impl<'t> Batch<'t> {
    /// In a store that is laid out like this.
    pub(super) fn begin(transaction: &'t WriteTransaction, format: Format) -> Act<Self> {
        Ok(Self {
            transaction,
            keys: transaction.open_table(keyspace::KEYS)?,
            key_ids: transaction.open_table(keyspace::KEY_IDS)?,
            keys_by_project: transaction.open_table(keyspace::KEYS_BY_PROJECT)?,
            keys_by_plane: transaction.open_table(keyspace::KEYS_BY_PLANE)?,
            keys_by_both: transaction.open_table(keyspace::KEYS_BY_BOTH)?,
            keys_in_projects: transaction.open_table(keyspace::KEYS_IN_PROJECTS)?,
            resources: transaction.open_table(keyspace::RESOURCES)?,
            resources_by_project: transaction.open_table(keyspace::RESOURCES_BY_PROJECT)?,
            meta: transaction.open_table(keyspace::META)?,
            format,
        })
    }

    /// `counts` follows what the step does; after an error it is of no use any more.
    pub(super) fn step(&mut self, step: &Write, counts: &mut Counts) -> Act<()> {
        match step {
            Write::CreateKey(key) => self.create_key(key, counts),
            Write::UpdateKey(key) => self.update_key(key, counts),
            Write::PurgeKey { id, version, before } => self.purge_key(id, *version, *before, counts),
            Write::Quota(quota) => self.check_quota(quota, counts),
            Write::NoActiveKey { plane, now } => self.no_active_key(plane, *now),
            Write::CreateResource(resource) => self.create_resource(resource, counts),
            Write::UpdateResource(resource) => self.update_resource(resource, counts),
            Write::DeleteResource { kind, id, version } => self.delete_resource(kind, id, *version, counts),
            Write::PutProject(project) => projects::put(self.transaction, project, self.format),
            Write::InProject { name, id } => projects::demand(self.transaction, name, *id, self.format),
            Write::GiveProjectId { to, project, id } => self.give_project_id(to, project, *id),
            Write::CreateUser(user) => {
                counts.more(Counted::Users, &user.project);
                users::create(self.transaction, user, self.format)
            }
            Write::UpdateUser(user) => {
                let before = users::update(self.transaction, user, self.format)?;
                counts.moved(Counted::Users, &before.project, &user.project);
                Ok(())
            }
            Write::GiveUserId { name, id } => users::give_id(self.transaction, name, *id, self.format),
            Write::BeginSession { user, session } => sessions::begin(self.transaction, user, session, self.format),
            Write::EndSession(session) => sessions::end(self.transaction, session),
            Write::CreateSigningKey(key) => sessions::create_signing_key(self.transaction, key),
            Write::DeleteSigningKey { id } => sessions::delete_signing_key(self.transaction, id),
            Write::Audit(entry) => journal::append(self.transaction, entry, self.format),
            Write::Once(once) => journal::once(self.transaction, once),
        }
    }

    /// Takes the next sequence number.
    pub(super) fn number(mut self) -> Act<u64> {
        let last = self.meta.get(META_SEQUENCE)?.map_or(0, |value| value.value());
        self.meta.insert(META_SEQUENCE, last + 1)?;
        Ok(last + 1)
    }

    fn check_quota(&self, quota: &Quota, counts: &mut Counts) -> Act<()> {
        check_parts([&quota.project])?;
        if !self.format.has_three() {
            return Ok(());
        }
        counts.check(quota, |counts| match quota.counted {
            Counted::Keys => in_scope(&self.keys_by_project, &quota.project),
            Counted::Users => counts.count_users(self.transaction, &quota.project),
            Counted::Resources => in_scope(&self.resources_by_project, &quota.project),
        })
    }

    fn create_key(&mut self, key: &ApiKey, counts: &mut Counts) -> Act<()> {
        counts.more(Counted::Keys, &key.project);
        if self.key_ids.get(&id_key(&key.id))?.is_some() {
            return conflict(format!("the key id {} is taken", key.id));
        }
        self.put_new_digest(key)?;
        self.put_indexes(key)
    }

    fn update_key(&mut self, key: &ApiKey, counts: &mut Counts) -> Act<()> {
        let Some(stored) = self.stored_key(&key.id)? else {
            return conflict(format!("there is no key {}", key.id));
        };
        check_key_update(&stored, key)?;
        counts.moved(Counted::Keys, &stored.project, &key.project);
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

    fn purge_key(&mut self, id: &KeyId, version: u64, before: Timestamp, counts: &mut Counts) -> Act<()> {
        let Some(stored) = self.stored_key(id)? else {
            return conflict(format!("there is no key {id}"));
        };
        check_key_purge(&stored, version, before)?;
        counts.fewer(Counted::Keys, &stored.project);
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
        let record = encode_key(key);
        if self.format.has_three() {
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
        if self.format.has_three() {
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

    fn create_resource(&mut self, resource: &Resource, counts: &mut Counts) -> Act<()> {
        counts.more(Counted::Resources, &resource.project);
        check_parts([&resource.kind, &resource.id, &resource.project])?;
        let key = scoped(&resource.kind, resource.id.as_bytes());
        if self.resources.insert(&*key, &*encode_resource(resource))?.is_some() {
            return conflict(format!("{} is registered already", resource.reference()));
        }
        self.resources_by_project.insert(&*scoped(&resource.project, &key), ())?;
        Ok(())
    }

    fn update_resource(&mut self, resource: &Resource, counts: &mut Counts) -> Act<()> {
        check_parts([&resource.kind, &resource.id, &resource.project])?;
        let key = scoped(&resource.kind, resource.id.as_bytes());
        let Some(stored) = self.stored_resource(&key)? else {
            return conflict(format!("there is no resource {}", resource.reference()));
        };
        check_resource_update(&stored, resource)?;
        counts.moved(Counted::Resources, &stored.project, &resource.project);
        let new = (&*resource.project, resource.project_id);
        let project_id = project_id_after((&stored.project, stored.project_id), new);
        self.resources.insert(&*key, &*encode_resource(&Resource { project_id, ..resource.clone() }))?;
        self.resources_by_project.remove(&*scoped(&stored.project, &key))?;
        self.resources_by_project.insert(&*scoped(&resource.project, &key), ())?;
        Ok(())
    }

    fn delete_resource(&mut self, kind: &str, id: &str, version: u64, counts: &mut Counts) -> Act<()> {
        check_parts([kind, id])?;
        let key = scoped(kind, id.as_bytes());
        let Some(stored) = self.stored_resource(&key)? else {
            return conflict(format!("there is no resource {kind}:{id}"));
        };
        check_resource_deletion(&stored, version)?;
        counts.fewer(Counted::Resources, &stored.project);
        self.resources.remove(&*key)?;
        self.resources_by_project.remove(&*scoped(&stored.project, &key))?;
        Ok(())
    }

    fn give_project_id(&mut self, to: &ProjectItem, project: &str, id: ProjectId) -> Act<()> {
        projects::demand_id(self.transaction, project, id)?;
        let project_id = Some(id);
        let lacks = |carried: Option<ProjectId>, name: &str| carried.is_none() && name == project;
        match to {
            ProjectItem::Key(key) => {
                if let Some(key) = self.stored_key(key)?.filter(|key| lacks(key.project_id, &key.project)) {
                    self.put_record(&ApiKey { project_id, ..key })?;
                }
            }
            ProjectItem::User(name) => users::give_project_id(self.transaction, name, (project, id), self.format)?,
            ProjectItem::Resource { kind, id } => {
                let place = scoped(kind, id.as_bytes());
                let resource = self.stored_resource(&place)?;
                if let Some(resource) = resource.filter(|resource| lacks(resource.project_id, &resource.project)) {
                    self.resources.insert(&*place, &*encode_resource(&Resource { project_id, ..resource }))?;
                }
            }
        }
        Ok(())
    }

    fn stored_resource(&self, key: &[u8]) -> Act<Option<Resource>> {
        let Some(bytes) = self.resources.get(key)? else { return Ok(None) };
        Ok(Some(decode_resource(bytes.value())?))
    }
}
