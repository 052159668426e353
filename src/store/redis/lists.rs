//! What people read: one record, and pages of them. Each page is of one moment. Never skips what is listed and not there.

use std::ops::Bound;

use redis::Value;
use tollgate_core::credential::KeyId;
use tollgate_guard::digest::Digest;

use super::loads::found;
use super::scripts::{AsOf, LIST, ROWS, bytes, text};
use super::values::{key_of, name_of, record_of};
use super::{Redis, texts};
use crate::domain::record::{ApiKey, AuditEntry};
use crate::store::format::Format;
use crate::store::keyspace::is_part;
use crate::store::keyspace::redis as names;
use crate::store::records::audit::decode_audit;
use crate::store::records::listing::Listing;
use crate::store::records::noun::{List, Noun};
use crate::store::search::{Beginning, ENOUGH, Search};
use crate::store::{AuditQuery, AuditRows, KeyQuery, PepperCheck, StoreError};

/// How much is read at once: a script must not hold everybody else up.
pub(super) const PAGE: usize = 500;
/// Numbers of rows are scores, which are exact up to here.
pub(super) const MOST_ROWS: u64 = 1 << 53;

/// A part of a list, by the order of its members' bytes.
struct Range {
    list: String,
    first: Vec<u8>,
    last: Vec<u8>,
    limit: usize,
}

/// Where the records that a list names are.
#[derive(Clone, Copy)]
struct RecordNames {
    records: &'static str,
    /// What points to them by the members of the list, if those are not their names.
    pointers: &'static str,
}

const KEYS: RecordNames = RecordNames { records: names::KEYS, pointers: names::KEY_IDS };

impl Range {
    fn all(list: impl Into<String>, limit: usize) -> Self {
        Self { list: list.into(), first: b"-".to_vec(), last: b"+".to_vec(), limit }
    }

    fn after(self, member: Option<&str>) -> Self {
        match member {
            Some(member) => Self { first: [b"(", member.as_bytes()].concat(), ..self },
            None => self,
        }
    }
}

impl Redis {
    pub async fn key_by_digest(&self, digests: &[Digest]) -> Result<Option<ApiKey>, StoreError> {
        Ok(self.load_key(digests).await?.found.map(|load| load.key))
    }

    pub async fn key(&self, id: KeyId) -> Result<Option<ApiKey>, StoreError> {
        let range = Range {
            first: [b"[", id.as_str().as_bytes()].concat(),
            last: [b"[", id.as_str().as_bytes()].concat(),
            ..Range::all(names::KEY_LIST, 1)
        };
        Ok(self.keys_in(range).await?.pop())
    }

    pub async fn keys(&self, query: &KeyQuery) -> Result<Vec<ApiKey>, StoreError> {
        let parts = [&query.project, &query.plane].into_iter().flatten();
        if !parts.into_iter().all(|part| is_part(part)) {
            return Ok(Vec::new());
        }
        let list = match (&query.project, &query.plane) {
            (Some(project), Some(plane)) => names::keys_of_both(project, plane),
            (Some(project), None) => names::keys_of_project(project),
            (None, Some(plane)) => names::keys_of_plane(plane),
            (None, None) => names::KEY_LIST.to_owned(),
        };
        self.keys_in(Range::all(list, query.limit).after(query.after.as_ref().map(KeyId::as_str))).await
    }

    async fn keys_in(&self, range: Range) -> Result<Vec<ApiKey>, StoreError> {
        let list = range.list.clone();
        let (as_of, entries) = self.listed(range, KEYS).await?;
        let verifier = self.trust.verifier();
        let key = |(id, value): (String, Vec<u8>)| {
            let key = key_of(&verifier, &value)?;
            if key.id.as_str() != id {
                return Err(StoreError::Damaged(format!("key {id} points to the record of key {}", key.id)));
            }
            demand_listed(&key, &list, &id)?;
            self.demand_newest(&verifier, &key, &value, (as_of, None))?;
            Ok(key)
        };
        entries.into_iter().map(key).collect()
    }

    pub async fn pepper_checks(&self) -> Result<Vec<PepperCheck>, StoreError> {
        let named = RecordNames { records: names::PEPPERS, pointers: "" };
        let damaged = || StoreError::Damaged("the check value of a pepper cannot be read".to_owned());
        let check = |(version, value): (String, Vec<u8>)| {
            let check = value.try_into().map_err(|_| damaged())?;
            Ok(PepperCheck { version: version.parse().map_err(|_| damaged())?, check })
        };
        let (_, entries) = self.listed(Range::all(names::PEPPER_LIST, usize::MAX), named).await?;
        let mut checks = entries.into_iter().map(check).collect::<Result<Vec<_>, StoreError>>()?;
        checks.sort_by_key(|check| check.version);
        Ok(checks)
    }

    /// The record in a place, of any kind.
    pub(in crate::store) async fn find<N: Noun>(&self, place: &[u8]) -> Result<Option<N>, StoreError> {
        let mut read = self.read(&[name_of::<N>(place)], 0).await?;
        let value = read.values.pop().flatten();
        let found: Option<N> = found(&read.verifier, value.as_deref(), place)?;
        if let (Some(record), Some(value)) = (&found, &value) {
            self.demand_newest(&read.verifier, record, value, (read.position.sequence, Some(&read.position.chain)))?;
        }
        Ok(found)
    }

    /// A page of a list, whose members are places.
    pub(in crate::store) async fn list<N: Noun>(&self, listing: &Listing<N>) -> Result<Vec<N>, StoreError> {
        let bound = |place: &Bound<Vec<u8>>, open: &[u8]| match place {
            Bound::Unbounded => open.to_vec(),
            Bound::Included(place) => [b"[", &**place].concat(),
            Bound::Excluded(place) => [b"(", &**place].concat(),
        };
        let (first, last) = (bound(&listing.start, b"-"), bound(&listing.end, b"+"));
        let range = Range { list: listing.list.clone(), first, last, limit: listing.limit };
        let (as_of, entries) = self.listed(range, RecordNames { records: N::PREFIX, pointers: "" }).await?;
        let verifier = self.trust.verifier();
        let record = |(member, value): &(String, Vec<u8>)| {
            let record: N = record_of(&verifier, member.as_bytes(), value)?;
            demand_listed(&record, &listing.list, member)?;
            self.demand_newest(&verifier, &record, value, (as_of, None))?;
            Ok(record)
        };
        entries.iter().filter_map(|entry| listing.listed(record(entry)).transpose()).collect()
    }

    pub async fn has_no_keys(&self) -> Result<bool, StoreError> {
        Ok(self.listed(Range::all(names::KEY_LIST, 1), KEYS).await?.1.is_empty())
    }

    /// Members of a list with their records, read a page at a time, behind the number of the newest change at the first page.
    async fn listed(&self, mut range: Range, named: RecordNames) -> Result<(u64, Vec<(String, Vec<u8>)>), StoreError> {
        let (mut found, mut first): (Vec<(String, Vec<u8>)>, Option<u64>) = (Vec::new(), None);
        while found.len() < range.limit {
            let most = PAGE.min(range.limit - found.len());
            let mut script = LIST.prepare_invoke();
            script.key(names::HEAD).key(&range.list).arg(&range.first).arg(&range.last).arg(most);
            script.arg(named.records).arg(named.pointers);
            let mut answer = self.reads.ask(&script).await?;
            let AsOf { sequence, format, .. } = answer.as_of()?;
            self.trust.of(format);
            first.get_or_insert(sequence);
            let (members, records) = (texts(answer.value()?)?, answer.list()?);
            let is_last = members.len() < most;
            for (member, record) in members.into_iter().zip(records) {
                match bytes(record)? {
                    Some(record) => found.push((member, record)),
                    None => return Err(not_there(&range.list)),
                }
            }
            if is_last {
                break;
            }
            if let Some((last, _)) = found.last() {
                range.first = [b"(", last.as_bytes()].concat();
            }
        }
        Ok((first.unwrap_or_default(), found))
    }

    /// As [`crate::store::Store::audit`].
    pub async fn audit(&self, query: &AuditQuery) -> Result<AuditRows, StoreError> {
        let parts = [&query.project, &query.actor].into_iter().flatten();
        if !parts.into_iter().all(|part| is_part(part)) {
            return Ok(AuditRows::default());
        }
        // A format never falls, so that a list that is whole stays so.
        let by_actor = query.actor.is_some() && self.format().await?.has_indexes_of_three();
        let list = match (query.actor.as_ref().filter(|_| by_actor), &query.project) {
            (Some(actor), Some(project)) => Some(names::audit_of_actor_in(actor, project)),
            (Some(actor), None) => Some(names::audit_of_actor(actor)),
            (None, Some(project)) => Some(names::audit_of_project(project)),
            (None, None) => None,
        };
        // What else a row must be is seen when it has been read: then a page may need many.
        let is_exact = AuditQuery { project: None, actor: None, before: None, limit: 0, ..query.clone() }
            == AuditQuery::default()
            && (by_actor || query.actor.is_none());
        let most = if is_exact { query.limit.min(PAGE) } else { PAGE };
        let mut before = self.beginning(query).await?;
        let mut search = Search::new(query);
        while search.goes_on() && before > 1 {
            let rows = self.rows(list.as_deref(), before - 1, most).await?;
            before = rows.last().filter(|_| rows.len() == most).map_or(0, |row| row.sequence);
            for row in rows {
                if search.goes_on() {
                    search.look_at(row);
                }
            }
        }
        Ok(search.end())
    }

    /// The number behind that of the first row that may be wanted.
    async fn beginning(&self, query: &AuditQuery) -> Result<u64, StoreError> {
        let before = query.before.unwrap_or(MOST_ROWS).min(MOST_ROWS);
        if query.until.is_none() {
            return Ok(before);
        }
        let number = |rows: Vec<AuditEntry>| rows.first().map_or(0, |row| row.sequence);
        let oldest = number(self.oldest_rows(1).await?.1);
        let newest = number(self.rows(None, before.saturating_sub(1), 1).await?);
        let Some(mut beginning) = Beginning::of(query, oldest, newest) else { return Ok(before) };
        while let Some(from) = beginning.asks_for() {
            beginning.show(&self.rows(None, from, ENOUGH).await?);
        }
        Ok(beginning.found())
    }

    /// A page of rows from this number downwards.
    pub(super) async fn rows(&self, list: Option<&str>, from: u64, most: usize) -> Result<Vec<AuditEntry>, StoreError> {
        let mut script = ROWS.prepare_invoke();
        script.key(names::HEAD).key(names::AUDIT);
        if let Some(list) = list {
            script.key(list);
        }
        script.arg(from).arg(most);
        let mut answer = self.reads.ask(&script).await?;
        answer.as_of()?;
        let (ids, rows) = (answer.list()?, answer.list()?);
        ids.into_iter().zip(rows).map(|(id, row)| numbered_row(id, row)).collect()
    }
}

pub(super) fn numbered_row(id: Value, row: Value) -> Result<AuditEntry, StoreError> {
    let id = text(id)?;
    let number = id.split('-').next().and_then(|number| number.parse().ok());
    match (number, bytes(row)?) {
        (Some(sequence), Some(row)) => Ok(AuditEntry { sequence, ..decode_audit(&row)? }),
        _ => Err(not_there(names::AUDIT)),
    }
}

/// Who can write the store can put anybody on a list.
fn demand_listed<N: Noun>(record: &N, list: &str, member: &str) -> Result<(), StoreError> {
    let is_it = |on: &List| on.in_redis.as_ref().is_some_and(|(name, of)| name == list && of == member);
    if N::ALL == Some(list) || record.lists(Format::NEWEST).iter().any(is_it) {
        return Ok(());
    }
    Err(StoreError::Damaged(format!(
        "{} is on the list {}, and does not belong there",
        record.name(),
        list.escape_debug()
    )))
}

fn not_there(list: &str) -> StoreError {
    StoreError::Damaged(format!("what {} lists is not there", list.escape_debug()))
}
