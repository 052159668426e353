//! The store in Redis as one end of a migration, over one connection to the primary. Never overwrites a record, and never works
//! on a store that a replica answers checks from.
//!
//! What is read here is not proved to come from the primary while it is read. So a migration ends with a script that a server
//! runs only if it still is, and each import only if what was read is still so.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use redis::{Cmd, FromRedisValue, ScriptInvocation, Value};
use tollgate_core::credential::KeyId;
use tollgate_guard::protocol::Term;
use tollgate_guard::slots::Touched;
use tollgate_guard::time::Timestamp;

use super::Redis;
use super::channel::raw_row;
use super::connection::Connection;
use super::live_replica::live_replica;
use super::scripts::{Answer, BEGIN_MIGRATION, END_MIGRATION, IMPORT, ScriptError, explained, lost, run, unreadable};
use super::store_state::StoreState;
use super::values::{key_of, name_of, record_of};
use super::write_set::{Halt, Seen, Step, WriteSet};
use crate::domain::change::Event;
use crate::domain::record::AuditEntry;
use crate::store::chain::{Chains, NewRow, RemovedRows, demand_row};
use crate::store::format::{Format, UNFINISHED};
use crate::store::keyspace::redis as names;
use crate::store::kind::Kind;
use crate::store::migration::{Begun, History};
use crate::store::page::Page;
use crate::store::record::{Record, by_kind};
use crate::store::records::audit::{self, decode_audit};
use crate::store::records::noun::{FORGOTTEN_EARLIER, Noun, Tables};
use crate::store::signature::Verifier;
use crate::store::{PepperCheck, StoreError};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How many names a server looks through at once.
const SCANNED_AT_ONCE: usize = 1000;

const MOST_PEPPERS: usize = 10_000;

/// A store whose records are carried elsewhere, or that is filled.
pub(in crate::store) struct Migrant {
    pub(super) redis: Arc<Redis>,
    pub(super) connection: Connection,
    lineage: String,
    /// Where the records come from that are put here.
    origin: Mutex<String>,
    /// The places of records that are on no list.
    scanned: Mutex<HashMap<Kind, Arc<[Vec<u8>]>>>,
    chains: Box<Mutex<Chains>>,
}

impl Migrant {
    /// # Errors
    /// [`StoreError::Conflict`] while a replica is heard of.
    pub(in crate::store) async fn open(redis: Arc<Redis>) -> Result<Self, StoreError> {
        let migrant = Self::beside_replicas(redis).await?;
        migrant.refuse_if_used().await?;
        Ok(migrant)
    }

    /// One that is read while others use it.
    pub(super) async fn beside_replicas(redis: Arc<Redis>) -> Result<Self, StoreError> {
        let mut connection = redis.connector().primary().await?;
        connection.set_response_timeout(LIMIT);
        let (origin, scanned) = Default::default();
        let chains = Box::new(Mutex::new(Chains::begin()?));
        let mut migrant = Self { redis, connection, lineage: String::new(), origin, scanned, chains };
        let [lineage, ..] = migrant.read_head().await?;
        migrant.lineage = lineage;
        Ok(migrant)
    }

    pub(in crate::store) fn lineage(&self) -> &str {
        &self.lineage
    }

    /// Of a store that is whole. Nobody would know in another one that something is missing.
    pub(in crate::store) async fn head(&self) -> Result<String, StoreError> {
        // Only a primary runs this, and it is whole.
        let StoreState { lineage, sequence, chain, log, missed, witnesses, .. } = self.redis.standing().await?;
        // A store that has gone on from where it went back has the numbers that they know.
        if log != sequence || missed > 0 || !witnesses.is_empty() {
            return refused(
                "the source has lost changes, and its replicas refuse it: restore it, or look at it with `tollgate store accept` and \
                 take it as it is, and migrate it then",
            );
        }
        Ok(format!("{lineage} {sequence} {chain}"))
    }

    /// Of a store that is whole.
    pub(in crate::store) async fn format(&self) -> Result<Format, StoreError> {
        self.redis.format().await
    }

    async fn read_head(&self) -> Result<[String; 4], StoreError> {
        let mut command = redis::cmd("HMGET");
        command.arg(names::HEAD).arg(&["id", "seq", "h", "format"]);
        let [lineage, rest @ ..]: [Option<String>; 4] = self.ask(&command).await?;
        let [sequence, chain, format] = rest.map(Option::unwrap_or_default);
        Ok([lineage.ok_or_else(lost)?, sequence, chain, format])
    }

    pub(in crate::store) async fn refuse_if_used(&self) -> Result<(), StoreError> {
        match live_replica(&mut self.connection.clone()).await? {
            Some(name) => refused(&format!(
                "the store in Redis is in use by the replica {name}: stop every Tollgate that uses it, and try again"
            )),
            None => Ok(()),
        }
    }

    pub(in crate::store) async fn begin(&self, origin: &str) -> Result<Begun, StoreError> {
        let mut script = BEGIN_MIGRATION.prepare_invoke();
        script.key(names::HEAD).key(names::MIGRATION).arg(origin).arg(UNFINISHED);
        script.arg(&[Format::Two, Format::Three, Format::Four].map(Format::in_head)[..]);
        let mut answer = self.run(&script).await?;
        let begun = match &*answer.word {
            "OPEN" => Begun::Open,
            "ENDED" => Begun::Ended,
            "OTHER" => {
                return refused(&format!(
                    "another migration fills the target, from {}: end that one, or use another target",
                    answer.text()?
                ));
            }
            "USED" => return refused("the target holds records already: use an empty one"),
            _ => {
                let format = Format::of_head(answer.number()?)?;
                return refused(&format!("the target has format {format}: end its upgrade, or use another target"));
            }
        };
        origin.clone_into(&mut self.origin.lock().unwrap_or_else(PoisonError::into_inner));
        // One that came before the store was closed; none comes after it.
        self.refuse_if_used().await?;
        Ok(begun)
    }

    /// The lineages of what is in it, in one text: what a store that it is carried to has as its former ones.
    pub(in crate::store) async fn former(&self) -> Result<String, StoreError> {
        Ok(self.redis.standing().await?.former())
    }

    /// Opens it, laid out like this.
    pub(in crate::store) async fn end(
        &self,
        format: Format,
        history: &History,
        row: Option<&AuditEntry>,
    ) -> Result<(), StoreError> {
        if format.has_signatures() {
            self.note_removed_rows().await?;
        }
        let everything = Event { touched: Touched::All, ended: Vec::new() };
        let rows: Vec<_> = row.iter().map(|row| NewRow { entry: (*row).clone(), written: Vec::new() }).collect();
        let told = self.chains().tell(&self.verifier(), format, (&everything, None), &rows)?;
        let mut script = END_MIGRATION.prepare_invoke();
        script.key(names::HEAD).key(names::MIGRATION).key(names::LOG).key(names::AUDIT);
        script.arg(&self.lineage).arg(self.origin()).arg(format.in_head()).arg(UNFINISHED).arg(told.event);
        match history {
            History::After(was) => script.arg(was).arg("").arg("").arg("").arg(""),
            History::Same { lineage, sequence, chain, was } => {
                // What failovers there were before this explains nothing that is missing in it.
                let epoch = match self.redis.connector().term().await? {
                    Term::Epoch(epoch) => epoch.to_string(),
                    _ => String::new(),
                };
                script.arg(was).arg(lineage).arg(sequence).arg(chain).arg(epoch)
            }
        };
        if let Some(row) = row {
            script.arg(told.rows).arg(audit::lists(row, format));
        }
        done(&self.run(&script).await?)?;
        self.redis.writer.confirm(&mut self.connection.clone()).await
    }

    /// Puts records where none are, as a store of this format has them.
    pub(in crate::store) async fn import(
        &self,
        records: &[Record],
        format: Format,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let uses: Vec<_> = records.iter().filter_map(last_use).collect();
        if !uses.is_empty() {
            return self.redis.note_use(&uses).await;
        }
        let seen = Seen::new(format, self.verifier());
        let mut write_set = WriteSet::new(&seen);
        for record in records {
            match put(&mut write_set, record, now) {
                Ok(()) => {}
                Err(Halt::Refused(error)) => return Err(error),
                Err(Halt::Unseen) => return refused("a record cannot be carried over without looking at others"),
            }
        }
        let rows = records.iter().find_map(|record| match record {
            Record::Audit(row) => Some(row.sequence.saturating_sub(1)),
            _ => None,
        });
        let mut script = IMPORT.prepare_invoke();
        script.key(names::HEAD).key(names::MIGRATION).key(names::AUDIT);
        script.arg(&self.lineage).arg(self.origin()).arg(UNFINISHED).arg(rows.map_or(String::new(), |n| n.to_string()));
        for name in write_set.names() {
            script.arg("NONE").arg(name);
        }
        let mut chains = self.chains().clone();
        let before = chains.clone();
        let told = chains.tell_rows(&seen.verifier, format, write_set.rows())?;
        write_set.add_to(&told, &mut script);
        *self.chains() = before.perhaps(&chains);
        done(&self.run(&script).await?)?;
        *self.chains() = chains;
        Ok(())
    }

    fn chains(&self) -> MutexGuard<'_, Chains> {
        self.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes which rows the source had lost, in a target that nobody else writes to.
    async fn note_removed_rows(&self) -> Result<(), StoreError> {
        let mut command = redis::cmd("XRANGE");
        command.arg(names::AUDIT).arg("-").arg("+").arg("COUNT").arg(1);
        let oldest: Vec<Value> = self.ask(&command).await?;
        let oldest = oldest.into_iter().next().map(raw_row).transpose()?;
        if let Some((oldest @ 2.., _)) = oldest {
            let removed = RemovedRows { last: oldest - 1, ..RemovedRows::default() };
            let mut command = redis::cmd("SET");
            command.arg(names::REMOVED_ROWS).arg(removed.write(&self.verifier())?);
            let _: Value = self.ask(&command).await?;
        }
        Ok(())
    }

    pub(in crate::store) fn believe_signed(&self) {
        self.redis.trust.demand();
    }

    pub(in crate::store) fn demand_of(&self, format: Format) -> Result<(), StoreError> {
        self.redis.trust.demand_of(format)
    }

    /// What believes the records of the format that was seen last.
    pub(super) fn verifier(&self) -> Verifier {
        self.redis.trust.verifier()
    }

    fn origin(&self) -> String {
        self.origin.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Records of one kind behind a place.
    pub(in crate::store) async fn page(
        &self,
        kind: Kind,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        by_kind!(kind, N => self.every::<N>(kind, after, limit).await,
            Kind::Keys => self.keys(after, limit).await,
            Kind::Peppers => self.peppers(after, limit).await,
            Kind::LastUses => self.last_uses(after, limit).await,
            Kind::Audit => self.rows(after, limit).await,
        )
    }

    async fn every<N: Noun + Into<Record>>(
        &self,
        kind: Kind,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        match N::ALL {
            Some(list) => self.listed::<N>(list, after, limit).await,
            None => self.found::<N>(kind, after, limit).await,
        }
    }

    /// The members of a list behind one of them.
    async fn members(&self, list: &str, after: Option<&[u8]>, limit: usize) -> Result<Vec<String>, StoreError> {
        let first = after.map_or(b"-".to_vec(), |after| [b"(", after].concat());
        let mut command = redis::cmd("ZRANGEBYLEX");
        command.arg(list).arg(first).arg("+").arg("LIMIT").arg(0).arg(limit);
        self.ask(&command).await
    }

    /// Records by the names that a list has.
    async fn listed<N: Noun + Into<Record>>(
        &self,
        list: &str,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let members = self.members(list, after, limit).await?;
        let values = self.values(members.iter().map(|member| name_of::<N>(member.as_bytes()))).await?;
        let verifier = self.verifier();
        let record = |(member, value): (&String, _)| {
            Ok(record_of::<N>(&verifier, member.as_bytes(), &there(member, value)?)?.into())
        };
        Ok(Page::of(members.iter().zip(values).map(record).collect::<Result<_, StoreError>>()?, limit))
    }

    async fn keys(&self, after: Option<&[u8]>, limit: usize) -> Result<Page, StoreError> {
        let ids = self.members(names::KEY_LIST, after, limit).await?;
        let digests = self.values(ids.iter().map(|id| format!("{}{id}", names::KEY_IDS))).await?;
        let pointed = ids
            .iter()
            .zip(digests)
            .map(|(id, digest)| Ok(format!("{}{}", names::KEYS, String::from_utf8_lossy(&there(id, digest)?))));
        let values = self.values(pointed.collect::<Result<Vec<_>, StoreError>>()?.into_iter()).await?;
        let verifier = self.verifier();
        let records = ids.iter().zip(values).map(|(id, value)| {
            let key = key_of(&verifier, &there(id, value)?)?;
            if key.id.as_str() == id { Ok(Record::Key(key)) } else { misplaced(&format!("key {}", key.id)) }
        });
        Ok(Page::of(records.collect::<Result<_, _>>()?, limit))
    }

    /// They are few, and their list is not in the order of numbers.
    async fn peppers(&self, after: Option<&[u8]>, limit: usize) -> Result<Page, StoreError> {
        let mut records = self.pepper_checks().await?;
        records.sort_by_key(Record::place);
        records.retain(|record| after.is_none_or(|after| &*record.place() > after));
        records.truncate(limit);
        Ok(Page::of(records, limit))
    }

    pub(super) async fn pepper_checks(&self) -> Result<Vec<Record>, StoreError> {
        let versions = self.members(names::PEPPER_LIST, None, MOST_PEPPERS).await?;
        let values = self.values(versions.iter().map(|version| format!("{}{version}", names::PEPPERS))).await?;
        let check = |(version, value): (&String, Option<Vec<u8>>)| {
            let check = value.and_then(|value| value.try_into().ok());
            match (version.parse(), check) {
                (Ok(version), Some(check)) => Ok(Record::Pepper(PepperCheck { version, check })),
                _ => Err(unreadable("the check value of a pepper")),
            }
        };
        versions.iter().zip(values).map(check).collect()
    }

    /// Keys that were never used have none.
    async fn last_uses(&self, after: Option<&[u8]>, limit: usize) -> Result<Page, StoreError> {
        let ids = self.members(names::KEY_LIST, after, limit).await?;
        let next = if ids.len() < limit { None } else { ids.last().map(|id| id.clone().into_bytes()) };
        let ids: Option<Vec<KeyId>> = ids.iter().map(|id| KeyId::parse(id)).collect();
        let ids = ids.ok_or_else(|| unreadable("an id"))?;
        let times = self.redis.last_used(&ids).await?;
        let records = ids.into_iter().zip(times).filter_map(|(id, at)| Some(Record::LastUse(id, at?))).collect();
        Ok(Page { records, next })
    }

    async fn rows(&self, after: Option<&[u8]>, limit: usize) -> Result<Page, StoreError> {
        let last = after.and_then(|after| after.try_into().ok()).map_or(0, u64::from_be_bytes);
        let mut command = redis::cmd("XRANGE");
        command.arg(names::AUDIT).arg(format!("{}-0", last + 1)).arg("+").arg("COUNT").arg(limit);
        let entries: Vec<Value> = self.ask(&command).await?;
        let verifier = self.verifier();
        let noted = self.values(std::iter::once(names::REMOVED_ROWS.to_owned())).await?.pop().flatten();
        let noted = noted.and_then(|bytes| RemovedRows::read(&verifier, &bytes));
        let unsigned = noted.map_or(0, |noted| noted.unsigned_rows);
        let row = |entry: Value| {
            let (sequence, bytes) = raw_row(entry)?;
            demand_row(&verifier, sequence, &bytes, unsigned)?;
            Ok(Record::Audit(AuditEntry { sequence, ..decode_audit(&bytes)? }))
        };
        Ok(Page::of(entries.into_iter().map(row).collect::<Result<_, StoreError>>()?, limit))
    }

    /// Records that are on no list, some of which the server forgets by itself.
    async fn found<N: Noun + Into<Record>>(
        &self,
        kind: Kind,
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Page, StoreError> {
        let all = match (after, self.scanned.lock().unwrap_or_else(PoisonError::into_inner).get(&kind)) {
            (Some(_), Some(known)) => Some(Arc::clone(known)),
            _ => None,
        };
        let all = match all {
            Some(all) => all,
            None => self.scan::<N>(kind).await?,
        };
        let first = after.map_or(0, |after| all.partition_point(|place| &**place <= after));
        let page: Vec<&Vec<u8>> = all.iter().skip(first).take(limit).collect();
        let values = self.values(page.iter().map(|place| name_of::<N>(place))).await?;
        let next = if page.len() < limit { None } else { page.last().map(|place| (*place).clone()) };
        let there = page.into_iter().zip(values).filter_map(|(place, value)| Some((place, value?)));
        let verifier = self.verifier();
        let records = there.map(|(place, value)| Ok(record_of::<N>(&verifier, place, &value)?.into()));
        Ok(Page { records: records.collect::<Result<_, StoreError>>()?, next })
    }

    /// Every place of this kind on the server that has all records, in order.
    async fn scan<N: Noun>(&self, kind: Kind) -> Result<Arc<[Vec<u8>]>, StoreError> {
        let mut places = Vec::new();
        let mut cursor: u64 = 0;
        loop {
            let mut command = redis::cmd("SCAN");
            command.arg(cursor).arg("MATCH").arg(format!("{}*", N::PREFIX)).arg("COUNT").arg(SCANNED_AT_ONCE);
            let (next, found): (u64, Vec<String>) = self.ask(&command).await?;
            for name in found.iter().filter_map(|name| name.strip_prefix(N::PREFIX)) {
                places.push(N::place_of(name).ok_or_else(|| unreadable("the name of a record"))?);
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        places.sort_unstable();
        // A scan may give a name twice.
        places.dedup();
        let places: Arc<[Vec<u8>]> = places.into();
        self.scanned.lock().unwrap_or_else(PoisonError::into_inner).insert(kind, Arc::clone(&places));
        Ok(places)
    }

    pub(super) async fn values(&self, names: impl Iterator<Item = String>) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
        let names: Vec<String> = names.collect();
        if names.is_empty() {
            return Ok(Vec::new());
        }
        self.ask(redis::cmd("MGET").arg(names)).await
    }

    pub(super) async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let value: Value = command
            .query_async(&mut self.connection.clone())
            .await
            .map_err(|error| StoreError::Unavailable(explained(&error)))?;
        T::from_redis_value(value).map_err(|_| unreadable("an answer"))
    }

    async fn run(&self, script: &ScriptInvocation<'_>) -> Result<Answer, StoreError> {
        run(&mut self.connection.clone(), script).await.map_err(ScriptError::into_error)?.found()
    }
}

impl fmt::Debug for Migrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Migrant({:?})", self.redis)
    }
}

/// Puts a record into a set of writes with everything that leads to it.
fn put(write_set: &mut WriteSet<'_>, record: &Record, now: Timestamp) -> Step<()> {
    // A server forgets later than a migration does.
    if record.put(write_set, now.minus(FORGOTTEN_EARLIER))? {
        return Ok(());
    }
    match record {
        Record::Pepper(pepper) => {
            write_set.set(names::pepper(pepper.version), pepper.check.to_vec());
            write_set.add_member(names::PEPPER_LIST, pepper.version.to_string());
        }
        Record::Audit(row) => write_set.append(row)?,
        // Last uses are no records here; they are noted apart.
        _ => {}
    }
    Ok(())
}

fn last_use(record: &Record) -> Option<(KeyId, Timestamp)> {
    match record {
        Record::LastUse(id, at) => Some((*id, *at)),
        _ => None,
    }
}

fn there(name: &str, value: Option<Vec<u8>>) -> Result<Vec<u8>, StoreError> {
    value.ok_or_else(|| StoreError::Damaged(format!("{} is listed and not there", name.replace('\0', ":"))))
}

fn misplaced<T>(what: &str) -> Result<T, StoreError> {
    Err(StoreError::Damaged(format!("the record of {what} stands in the wrong place")))
}

fn refused<T>(reason: &str) -> Result<T, StoreError> {
    Err(StoreError::Conflict(reason.to_owned()))
}

fn done(answer: &Answer) -> Result<(), StoreError> {
    match &*answer.word {
        "DONE" => Ok(()),
        _ => refused("the target was changed meanwhile: see that nothing else writes to it, and run this again"),
    }
}
