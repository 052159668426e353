//! A batch as it is being judged: what the server held, and what the batch would put over it. Never writes a record whose
//! place it has not seen.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use data_encoding::HEXLOWER;
use redb::TableDefinition;
use redis::ScriptInvocation;
use tollgate_core::credential::KeyId;
use tollgate_guard::digest::Digest;
use tollgate_guard::protocol::Position;
use tollgate_guard::time::Timestamp;

use super::values::{name_of, record_of, value_of};
use crate::domain::record::AuditEntry;
use crate::store::chain::NewRow;
use crate::store::format::Format;
use crate::store::heard::Heard;
use crate::store::keyspace::redis as names;
use crate::store::keyspace::{Bytes, id_key};
use crate::store::kind::Kind;
use crate::store::records::audit;
use crate::store::records::noun::{List, Noun, Tables};
use crate::store::records::written::{Left, Written};
use crate::store::rules::Purpose;
use crate::store::signature::{Mac, Verifier};
use crate::store::{Counted, Quota, StoreError};

/// What the server held when it was read. Has no `Debug`: what stands in records has no place in a log.
pub(super) struct Seen {
    /// How the server laid it out; a guess until something was read.
    pub(super) format: Format,
    /// What it is believed by, and what is written is signed by.
    pub(super) verifier: Verifier,
    pub(super) records: HashMap<String, Option<Vec<u8>>>,
    pub(super) lists: HashMap<String, Vec<String>>,
    /// The newest change by which records were read, and what was heard by then; none where they are of several moments.
    pub(super) moment: Option<(Arc<Heard>, Position)>,
}

impl Seen {
    pub(super) fn new(format: Format, verifier: Verifier) -> Self {
        Self { format, verifier, records: HashMap::new(), lists: HashMap::new(), moment: None }
    }

    /// Whether this record is another one than this process has heard that there is.
    fn is_set_back<N: Noun>(&self, record: &N, value: &[u8]) -> bool {
        let (Some((heard, position)), Some(mac)) = (&self.moment, Mac::of(value)) else { return false };
        let (place, as_of) = (record.listed_place(), (position.sequence, Some(&*position.chain)));
        heard.contradicts((N::KIND, &place), (record.version(), mac), as_of).is_some()
    }
}

/// What must be read before a batch can be judged.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) records: BTreeSet<String>,
    pub(super) lists: BTreeSet<String>,
}

impl Wanted {
    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty() && self.lists.is_empty()
    }
}

/// Why a step was not taken.
#[derive(Debug)]
pub(super) enum Halt {
    /// Something must be read first; the set of writes knows what.
    Unseen,
    Refused(StoreError),
}

impl From<StoreError> for Halt {
    fn from(error: StoreError) -> Self {
        Self::Refused(error)
    }
}

pub(super) type Step<T> = Result<T, Halt>;

enum Change {
    Value(Vec<u8>),
    /// Gone by itself after this time.
    Kept(Vec<u8>, Duration),
    /// Gone by itself when what stood there would have gone.
    Again(Vec<u8>),
    Nothing,
}

/// What a batch puts, by which one can tell afterwards whether it did.
pub(super) struct Put {
    pub(super) records: HashMap<String, Option<Vec<u8>>>,
    pub(super) written: Written,
    /// Those of a batch that only removes: whoever else has removed the same leaves the same.
    rows: Rows,
}

impl Put {
    pub(super) fn rows(&self) -> &[NewRow] {
        &self.rows.rows
    }

    /// Adds to a script what may have been written by somebody else, with the bytes of its rows.
    pub(super) fn add_to(&self, rows: &[Vec<u8>], script: &mut ScriptInvocation<'_>) {
        self.rows.add_to(rows, script);
    }
}

/// Rows that are to be added to the audit log, each with the lists that it stands on.
#[derive(Clone, Default)]
struct Rows {
    rows: Vec<NewRow>,
    lists: Vec<Vec<String>>,
}

impl Rows {
    fn add_to(&self, rows: &[Vec<u8>], script: &mut ScriptInvocation<'_>) {
        for (lists, row) in self.lists.iter().zip(rows) {
            script.arg("ROW").arg(lists.len()).arg(row);
            for list in lists {
                script.arg(list);
            }
        }
    }
}

pub(super) struct WriteSet<'s> {
    seen: &'s Seen,
    wanted: Wanted,
    records: BTreeMap<String, Change>,
    /// The same records, as the log names them.
    written: Written,
    /// Whether a member of a list is on it.
    lists: BTreeMap<(String, String), bool>,
    rows: Rows,
    purpose: Purpose,
    /// Each with the lists whose members count together.
    quotas: Vec<(Vec<String>, Quota)>,
}

impl<'s> WriteSet<'s> {
    pub(super) fn new(seen: &'s Seen) -> Self {
        let (wanted, records, written, lists, rows) = Default::default();
        Self { seen, wanted, records, written, lists, rows, purpose: Purpose::default(), quotas: Vec::new() }
    }

    pub(super) fn wanted(self) -> Wanted {
        self.wanted
    }

    pub(super) fn is_complete(&self) -> bool {
        self.wanted.is_empty()
    }

    /// In the order that the script names them in.
    pub(super) fn quotas(&self) -> Vec<Quota> {
        self.quotas.iter().map(|(_, quota)| quota.clone()).collect()
    }

    pub(super) fn purpose(&mut self) -> &mut Purpose {
        &mut self.purpose
    }

    /// As [`Purpose::only_ends`].
    pub(super) fn only_ends(&self) -> bool {
        self.purpose.only_ends()
    }

    /// What stands under a name, with what the batch has put there.
    pub(super) fn named(&mut self, name: &str) -> Step<Option<Vec<u8>>> {
        match self.records.get(name) {
            Some(Change::Value(value) | Change::Kept(value, _) | Change::Again(value)) => {
                return Ok(Some(value.clone()));
            }
            Some(Change::Nothing) => return Ok(None),
            None => {}
        }
        match self.seen.records.get(name) {
            Some(value) => Ok(value.clone()),
            None => {
                self.wanted.records.insert(name.to_owned());
                Err(Halt::Unseen)
            }
        }
    }

    /// The members of a list, with what the batch has done to it.
    pub(super) fn list(&mut self, name: &str) -> Step<BTreeSet<String>> {
        let Some(members) = self.seen.lists.get(name) else {
            self.wanted.lists.insert(name.to_owned());
            return Err(Halt::Unseen);
        };
        let mut members: BTreeSet<String> = members.iter().cloned().collect();
        for ((_, member), listed) in self.lists.iter().filter(|((list, _), _)| list == name) {
            if *listed {
                members.insert(member.clone());
            } else {
                members.remove(member);
            }
        }
        Ok(members)
    }

    pub(super) fn set(&mut self, name: String, value: Vec<u8>) {
        self.records.insert(name, Change::Value(value));
    }

    pub(super) fn set_for(&mut self, name: String, value: Vec<u8>, time: Duration) {
        self.records.insert(name, Change::Kept(value, time));
    }

    /// Puts a record where it stands already, for as long as it stands there.
    pub(super) fn put_again<N: Noun>(&mut self, record: &N) -> Step<()> {
        let value = value_of(&self.seen.verifier, record, self.seen.format)?;
        self.note_put(record, &value);
        self.records.insert(name_of::<N>(&record.place()), Change::Again(value));
        Ok(())
    }

    pub(super) fn delete(&mut self, name: String) {
        self.records.insert(name, Change::Nothing);
    }

    pub(super) fn add_member(&mut self, list: impl Into<String>, member: impl Into<String>) {
        self.lists.insert((list.into(), member.into()), true);
    }

    pub(super) fn remove_member(&mut self, list: impl Into<String>, member: impl Into<String>) {
        self.lists.insert((list.into(), member.into()), false);
    }

    /// The names of the records that the batch would put.
    pub(super) fn names(&self) -> impl Iterator<Item = &String> {
        self.records.keys()
    }

    /// What it puts or removes, for the log.
    pub(super) fn written(&self) -> &Written {
        &self.written
    }

    /// Of what has no signature.
    pub(super) fn note_written(&mut self, kind: Kind, place: &[u8]) {
        self.written.note(kind, place, Left::Unsaid);
    }

    fn note_put<N: Noun>(&mut self, record: &N, value: &[u8]) {
        let mac = Mac::of(value).filter(|_| self.format().has_signatures());
        let left = mac.map_or(Left::Unsaid, |mac| Left::Record { version: record.version(), mac });
        self.written.note(N::KIND, &record.listed_place(), left);
    }

    pub(super) fn rows(&self) -> &[NewRow] {
        &self.rows.rows
    }

    pub(super) fn put_by_it(&self) -> Put {
        let put = |change: &Change| match change {
            Change::Value(value) | Change::Kept(value, _) | Change::Again(value) => Some(value.clone()),
            Change::Nothing => None,
        };
        let records: HashMap<_, _> = self.records.iter().map(|(name, change)| (name.clone(), put(change))).collect();
        let only_removes = records.values().all(Option::is_none);
        Put {
            records,
            written: self.written.clone(),
            rows: if only_removes { self.rows.clone() } else { Rows::default() },
        }
    }

    /// Adds what is to be written to a script that has its [`guards`], with the bytes of its rows.
    pub(super) fn add_to(&self, rows: &[Vec<u8>], script: &mut ScriptInvocation<'_>) {
        // They count what is there before anything is written.
        for (at, (lists, quota)) in self.quotas.iter().enumerate() {
            script.arg("MOST").arg(at).arg(quota.most).arg(lists.len()).arg(lists);
        }
        for (name, change) in &self.records {
            match change {
                Change::Value(value) => script.arg("SET").arg(name).arg(value),
                Change::Kept(value, time) => script.arg("KEEP").arg(name).arg(value).arg(millis(*time)),
                Change::Again(value) => script.arg("AGAIN").arg(name).arg(value),
                Change::Nothing => script.arg("DEL").arg(name),
            };
        }
        for ((list, member), listed) in &self.lists {
            script.arg(if *listed { "LIST" } else { "UNLIST" }).arg(list).arg(member);
        }
        self.rows.add_to(rows, script);
    }
}

impl Tables for WriteSet<'_> {
    type Halt = Halt;
    const FILLS_LISTS: bool = true;

    fn format(&self) -> Format {
        self.seen.format
    }

    fn value<N: Noun>(&mut self, place: &[u8]) -> Step<Option<Vec<u8>>> {
        self.named(&name_of::<N>(place))
    }

    fn read<N: Noun>(&self, place: &[u8], value: &[u8]) -> Result<N, StoreError> {
        let record = record_of(&self.seen.verifier, place, value)?;
        // What is ended may be an older record; a list that goes on must not be, or what was ended would be on it again.
        if N::KIND == Kind::Sessions && self.seen.is_set_back::<N>(&record, value) {
            return Err(StoreError::Damaged(
                "the list of a user's sessions is older than what was heard of it".to_owned(),
            ));
        }
        Ok(record)
    }

    fn put<N: Noun>(&mut self, record: &N, kept: Option<Duration>) -> Step<()> {
        let name = name_of::<N>(&record.place());
        let value = value_of(&self.seen.verifier, record, self.format())?;
        self.note_put(record, &value);
        match kept {
            Some(time) => self.set_for(name, value, time),
            None => self.set(name, value),
        }
        Ok(())
    }

    fn remove<N: Noun>(&mut self, place: &[u8]) -> Step<()> {
        self.delete(name_of::<N>(place));
        // Of a key its pointer says it.
        if N::KIND != Kind::Keys {
            self.written.note(N::KIND, place, Left::Nothing);
        }
        Ok(())
    }

    fn enlist<N: Noun>(&mut self, _record: &N, list: &List) -> Step<()> {
        if let Some((list, member)) = &list.in_redis {
            self.add_member(list, member);
        }
        Ok(())
    }

    fn unlist(&mut self, list: &List) -> Step<()> {
        if let Some((list, member)) = &list.in_redis {
            self.remove_member(list, member);
        }
        Ok(())
    }

    fn members(&mut self, in_redis: &str, _: (TableDefinition<'static, Bytes, ()>, &str)) -> Step<Vec<Vec<u8>>> {
        Ok(self.list(in_redis)?.into_iter().map(String::into_bytes).collect())
    }

    fn pointer(&mut self, id: &KeyId) -> Step<Option<Digest>> {
        let Some(digest) = self.named(&names::key_id(id))? else { return Ok(None) };
        match HEXLOWER.decode(&digest).ok().and_then(|digest| Digest::from_slice(&digest)) {
            Some(digest) => Ok(Some(digest)),
            None => Err(StoreError::Damaged(format!("key {id} points to no record")).into()),
        }
    }

    fn point(&mut self, id: &KeyId, to: Option<&Digest>) -> Step<()> {
        match to {
            Some(_) => self.written.note_touched(Kind::Keys, &id_key(id)),
            None => self.written.note(Kind::Keys, &id_key(id), Left::Nothing),
        }
        match to {
            Some(digest) => self.set(names::key_id(id), HEXLOWER.encode(&digest.0).into_bytes()),
            None => self.delete(names::key_id(id)),
        }
        Ok(())
    }

    fn append(&mut self, row: &AuditEntry) -> Step<()> {
        self.rows.lists.push(audit::lists(row, self.format()));
        // The number of a row is where it stands, so it is given when it is written.
        let entry = AuditEntry { sequence: 0, ..row.clone() };
        self.rows.rows.push(NewRow { entry, written: self.written.take_unnamed() });
        Ok(())
    }

    /// The script counts the members of the lists.
    fn check_quota(&mut self, quota: &Quota) -> Step<()> {
        let project = &*quota.project;
        if !self.format().has_three() {
            return Ok(());
        }
        let lists = match quota.counted {
            Counted::Keys => vec![names::keys_of_project(project)],
            Counted::Users => vec![names::users_of_project(project), names::deleted_users_of_project(project)],
            Counted::Resources => vec![names::resources_of_project(project)],
        };
        self.quotas.push((lists, quota.clone()));
        Ok(())
    }

    /// A server forgets by itself.
    fn forget<N: Noun>(&mut self, _now: Timestamp) -> Step<()> {
        Ok(())
    }

    /// A script counts the members of lists.
    fn count(&mut self, _counted: Counted, _from: Option<&str>, _to: Option<&str>) {}
}

/// Adds to a script that all is as it was seen. A list that has as many members, while none of the records it named has
/// changed, is as it was.
pub(super) fn guards(seen: &Seen, script: &mut ScriptInvocation<'_>) {
    for (name, value) in &seen.records {
        match value {
            Some(value) => script.arg("IS").arg(name).arg(value),
            None => script.arg("NONE").arg(name),
        };
    }
    for (name, members) in &seen.lists {
        script.arg("COUNT").arg(name).arg(members.len());
    }
}

/// At least one, as a time of zero is refused.
fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).clamp(1, 1 << 52)
}
