//! Resources. Never moves one to a project whose id it does not carry.

use std::ops::Bound;

use prost::Message;
use redb::TableDefinition;
use tollgate_core::credential::ProjectId;
use tollgate_core::resource::Resource;
use tollgate_guard::time::Timestamp;

use super::super::format::Format;
use super::super::keyspace::redis as names;
use super::super::keyspace::{self, Bytes, is_part, scope_end, scoped};
use super::super::kind::Kind;
use super::super::rules::{check_parts, check_version, project_id_after};
use super::super::{Counted, Store, StoreError};
use super::listing::{InFile, Listing};
use super::noun::{Index, List, Noun, Tables, at_its_place, damaged, erase, refused, replace};
use super::project;

/// Which project a thing belongs to.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct StoredResource {
    /// Such as "workload".
    #[prost(string, tag = "1")]
    kind: String,
    /// Unique within its kind.
    #[prost(string, tag = "2")]
    id: String,
    /// The name that keys are scoped by.
    #[prost(string, tag = "3")]
    slug: String,
    /// The project it belongs to.
    #[prost(string, tag = "4")]
    project: String,
    /// Who made it. Absent: that was not said.
    #[prost(string, optional, tag = "5")]
    owner: Option<String>,
    /// Milliseconds since the Unix epoch.
    #[prost(uint64, tag = "6")]
    created_at_ms: u64,
    /// Counts the writes of this record, from 1.
    #[prost(uint64, tag = "7")]
    version: u64,
    /// Format 3: the id of the project.
    #[prost(string, optional, tag = "8")]
    project_id: Option<String>,
}

/// A page of resources, by kind and id.
#[derive(Clone, Debug, Default)]
pub struct ResourceQuery {
    pub kind: Option<String>,
    pub project: Option<String>,
    /// Resources behind this kind and id.
    pub after: Option<(String, String)>,
    /// At most this many.
    pub limit: usize,
}

impl Noun for Resource {
    type Key = Bytes;
    const KIND: Kind = Kind::Resources;
    const TABLE: TableDefinition<'static, Bytes, Bytes> = keyspace::RESOURCES;
    const PREFIX: &'static str = names::RESOURCES;
    const ALL: Option<&'static str> = Some(names::RESOURCE_LIST);
    const INDEXES: &'static [Index] = &[Index::Bytes(keyspace::RESOURCES_BY_PROJECT)];

    fn name(&self) -> String {
        self.reference().to_string()
    }

    fn version(&self) -> Option<u64> {
        Some(self.version)
    }

    fn place(&self) -> Vec<u8> {
        place(&self.kind, &self.id)
    }

    fn key(place: &[u8]) -> Option<&[u8]> {
        Some(place)
    }

    fn encode(&self, _format: Format) -> Vec<u8> {
        let message = StoredResource {
            kind: self.kind.clone(),
            id: self.id.clone(),
            slug: self.slug.clone(),
            project: self.project.clone(),
            owner: self.owner.clone(),
            created_at_ms: self.created_at.as_millis(),
            version: self.version,
            project_id: self.project_id.map(|id| id.to_string()),
        };
        message.encode_to_vec()
    }

    fn decode(place: &[u8], bytes: &[u8]) -> Result<Self, StoreError> {
        let message = StoredResource::decode(bytes).map_err(|_| damaged("a resource"))?;
        let resource = Self {
            kind: message.kind,
            id: message.id,
            slug: message.slug,
            project: message.project,
            project_id: project::id_of(message.project_id).ok_or_else(|| damaged("a resource"))?,
            owner: message.owner,
            created_at: Timestamp::from_millis(message.created_at_ms),
            version: message.version,
        };
        at_its_place(resource, place)
    }

    fn lists(&self, _format: Format) -> Vec<List> {
        let (place, member) = (self.place(), format!("{}\0{}", self.kind, self.id));
        let of_project = (names::resources_of_project(&self.project), member.clone());
        vec![
            List::in_redis(names::RESOURCE_LIST, member),
            List::in_both(of_project, (keyspace::RESOURCES_BY_PROJECT, scoped(&self.project, &place))),
        ]
    }
}

/// By kind and id; `None`: none can be on it.
pub(in crate::store) fn listing(query: &ResourceQuery) -> Option<Listing<Resource>> {
    let ResourceQuery { kind, project, after, limit } = query;
    if ![kind, project].into_iter().flatten().all(|part| is_part(part)) {
        return None;
    }
    let (list, in_file) = match project {
        Some(project) => {
            let of_project = InFile::Scope(keyspace::RESOURCES_BY_PROJECT, project.clone());
            (names::resources_of_project(project), of_project)
        }
        None => (names::RESOURCE_LIST.to_owned(), InFile::Table),
    };
    let first = kind.as_ref().map_or_else(Vec::new, |kind| scoped(kind, b""));
    // Of the two lower bounds the one that is further on.
    let start = match after.as_ref().map(|(kind, id)| place(kind, id)) {
        Some(after) if after >= first => Bound::Excluded(after),
        _ if first.is_empty() => Bound::Unbounded,
        _ => Bound::Included(first),
    };
    let end = kind.as_ref().map_or(Bound::Unbounded, |kind| Bound::Excluded(scope_end(kind)));
    Some(Listing { start, end, ..Listing::of(list, in_file, *limit) })
}

pub(in crate::store) fn place(kind: &str, id: &str) -> Vec<u8> {
    scoped(kind, id.as_bytes())
}

impl Store {
    pub async fn resource(&self, kind: String, id: String) -> Result<Option<Resource>, StoreError> {
        if !is_part(&kind) || !is_part(&id) {
            return Ok(None);
        }
        self.find(place(&kind, &id)).await
    }

    pub async fn resources(&self, query: ResourceQuery) -> Result<Vec<Resource>, StoreError> {
        self.list(listing(&query)).await
    }
}

pub(in crate::store) fn create<T: Tables>(tables: &mut T, resource: &Resource) -> Result<(), T::Halt> {
    check_parts([&resource.kind, &resource.id, &resource.project])?;
    if tables.value::<Resource>(&resource.place())?.is_some() {
        return refused(format!("{} is registered already", resource.reference()));
    }
    tables.count(Counted::Resources, None, Some(&resource.project));
    replace(tables, None, resource)
}

pub(in crate::store) fn update<T: Tables>(tables: &mut T, resource: &Resource) -> Result<(), T::Halt> {
    check_parts([&resource.kind, &resource.id, &resource.project])?;
    let Some(stored) = tables.find::<Resource>(&resource.place())? else {
        return refused(format!("there is no resource {}", resource.reference()));
    };
    check_version(&resource.reference().to_string(), stored.version, resource.version)?;
    tables.count(Counted::Resources, Some(&stored.project), Some(&resource.project));
    let new = (&*resource.project, resource.project_id);
    let project_id = project_id_after((&stored.project, stored.project_id), new);
    replace(tables, Some(&stored), &Resource { project_id, ..resource.clone() })
}

pub(in crate::store) fn delete<T: Tables>(tables: &mut T, kind: &str, id: &str, version: u64) -> Result<(), T::Halt> {
    check_parts([kind, id])?;
    let Some(stored) = tables.find::<Resource>(&place(kind, id))? else {
        return refused(format!("there is no resource {kind}:{id}"));
    };
    if stored.version != version {
        let reference = stored.reference();
        return refused(format!("{reference} has been changed meanwhile (it has version {})", stored.version));
    }
    tables.count(Counted::Resources, Some(&stored.project), None);
    erase(tables, &stored)
}

/// Of what was made before projects had ids, and is still of this project.
pub(super) fn give_project_id<T: Tables>(
    tables: &mut T,
    (kind, id): (&str, &str),
    (project, project_id): (&str, ProjectId),
) -> Result<(), T::Halt> {
    match tables.find::<Resource>(&place(kind, id))? {
        Some(stored) if stored.project_id.is_none() && stored.project == project => {
            replace(tables, Some(&stored), &Resource { project_id: Some(project_id), ..stored.clone() })
        }
        _ => Ok(()),
    }
}
