//! The connection over which a replica follows the log: it says where it stands, and is told what follows. Never decides what
//! that means for what is cached.

use std::sync::Arc;
use std::time::Duration;

use redis::Value;
use serde_json::json;
use tollgate_guard::FENCE;
use tollgate_guard::protocol::{Listing, Member, MemberState, Position, Refused, Unlisted};
use tollgate_guard::slots::Touched;
use tollgate_guard::time::Timestamp;

use super::connection::Connection;
use super::scripts::{
    LEAVE, MEMBERS, PRUNE, RECOUNT, RENEW, ScriptError, bytes, explained, list, run, text, unreadable,
};
use crate::domain::change::{Event, LogEntry, Renewal};
use crate::store::StoreError;
use crate::store::chain::RemovedRows;
use crate::store::format::Format;
use crate::store::heard::{Belief, Heard};
use crate::store::keyspace::redis as names;
use crate::store::records::event::decode_event;
use crate::store::signature::{Mac, Trust};

/// How long an answer may take, beyond what it was asked to wait.
const LIMIT: Duration = Duration::from_millis(400);
/// How long the replicas of the server may take: less than the connection waits for an answer.
const SETTLE: Duration = Duration::from_millis(300);
/// How many changes one renewal tells of.
const MOST_ENTRIES: usize = 256;

/// One connection to the primary, for one reader. After an error it is to be dropped.
#[derive(Debug)]
pub struct Channel {
    connection: Connection,
    /// How many replicas of the server must have what is said with [`Channel::settle`].
    replicas: u32,
    missed: Vec<String>,
    acknowledged: Position,
    refused: Option<Refused>,
    trust: Arc<Trust>,
    heard: Arc<Heard>,
    /// The number of the last entry that was written before entries had signatures, once it was asked for.
    unsigned: Option<u64>,
}

/// A replica that has seen the store with more than it has now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaAhead {
    pub id: String,
    pub name: String,
    /// The newest change that it knows.
    pub known: u64,
    /// Some of what it knows to be ended and may be missing, in words.
    pub missed: Vec<String>,
}

impl Channel {
    pub(super) fn new(mut connection: Connection, replicas: u32, trust: Arc<Trust>, heard: Arc<Heard>) -> Self {
        connection.set_response_timeout(LIMIT);
        Self {
            connection,
            replicas,
            missed: Vec::new(),
            acknowledged: Position::default(),
            refused: None,
            trust,
            heard,
            unsigned: None,
        }
    }

    /// What is written down beside the position of a replica that misses it in the store; and what all the others are told of.
    pub fn misses(&mut self, missed: Vec<String>, refused: Option<Refused>) {
        (self.missed, self.refused) = (missed, refused);
    }

    /// The newest change that was acknowledged to this replica, which the store must have.
    pub fn expects(&mut self, acknowledged: Option<Position>) {
        self.acknowledged = acknowledged.unwrap_or_default();
    }

    /// Says where this replica stands, and hears what follows.
    ///
    /// # Errors
    /// [`StoreError`], after which nothing is known of where the replica stands.
    pub async fn renew(&mut self, member: &Member) -> Result<Renewal, StoreError> {
        let mut script = RENEW.prepare_invoke();
        script.key(names::HEAD).key(names::LOG).key(names::MEMBERS).key(names::CLOCK).arg(&member.id);
        script.arg(encode_member(member)).arg(self.encode_nowhere(member));
        script.arg(member.position.sequence).arg(&member.position.chain).arg(MOST_ENTRIES);
        script.arg(self.acknowledged.sequence).arg(&self.acknowledged.chain);
        let lineages = self.refused.as_ref().map(|refused| (&*refused.known.lineage, &*refused.lineage));
        let (known, refused) = lineages.unwrap_or_default();
        script.arg(known).arg(refused).arg(millis(member.grace)).arg(millis(FENCE));
        let mut answer = run(&mut self.connection, &script).await.map_err(ScriptError::into_error)?;
        if matches!(&*answer.word, "RESYNC" | "GONE") {
            self.heard.forget();
        }
        match &*answer.word {
            "LOST" => Ok(Renewal::Lost),
            "SHORT" => Ok(Renewal::Short { head: answer.head()?, log: answer.number()? }),
            "RESYNC" => Ok(Renewal::Resync(answer.head()?)),
            "GONE" => Ok(Renewal::Gone(answer.head()?)),
            "MISSED" => Ok(Renewal::Missed { head: answer.head()?, known: answer.number()? }),
            "AHEAD" => {
                let head = answer.head()?;
                let entries = answer.list()?.into_iter().map(raw_entry).collect::<Result<Vec<_>, _>>()?;
                if self.trust.is_signed() && entries.iter().any(|(_, event)| Mac::of(event).is_none()) {
                    self.ask_for_unsigned().await?;
                }
                let entry = |(position, event): (Position, Vec<u8>)| self.log_entry(&head.lineage, position, &event);
                let entries = entries.into_iter().map(entry).collect::<Result<_, _>>()?;
                Ok(Renewal::Ahead { head, entries })
            }
            _ => Err(unreadable("an answer to a renewal")),
        }
    }

    fn log_entry(&self, lineage: &str, position: Position, event: &[u8]) -> Result<LogEntry, StoreError> {
        let needs_none = !self.trust.is_signed() || self.unsigned.is_some_and(|last| position.sequence <= last);
        let belief = match needs_none {
            true => Belief::Whole,
            false => self.heard.hear(&self.trust.verifier(), (lineage, &position), event),
        };
        // Nobody knows what else was to be told.
        let event = match belief {
            Belief::Whole => decode_event(event)?,
            Belief::AfterAGap => Event { touched: Touched::All, ..decode_event(event)? },
            Belief::Nothing => Event { touched: Touched::All, ended: Vec::new() },
        };
        Ok(LogEntry { position, event })
    }

    async fn ask_for_unsigned(&mut self) -> Result<(), StoreError> {
        if self.unsigned.is_none() {
            let noted: Result<Option<Vec<u8>>, _> =
                redis::cmd("GET").arg(names::REMOVED_ROWS).query_async(&mut self.connection).await;
            let noted = noted.map_err(|error| StoreError::Unavailable(explained(&error)))?;
            let removed = noted.and_then(|noted| RemovedRows::read(&self.trust.verifier(), &noted));
            self.unsigned = Some(removed.map_or(0, |removed| removed.unsigned_entries));
        }
        Ok(())
    }

    /// One that stands nowhere in this store, with what it knows of a better one.
    fn encode_nowhere(&self, member: &Member) -> String {
        let nowhere = Member { position: Position { sequence: 0, chain: String::new() }, ..member.clone() };
        let mut value = as_json(&nowhere);
        if member.state == MemberState::Sealed
            && let Some(fields) = value.as_object_mut()
        {
            fields.insert("known".to_owned(), json!(member.position.sequence));
            fields.insert("missed".to_owned(), json!(self.missed));
        }
        value.to_string()
    }

    /// Waits until the replicas of the server have what was said over this connection, so that none of them becomes the primary
    /// without knowing of it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if too few of them answer in time.
    pub async fn settle(&mut self) -> Result<(), StoreError> {
        if self.replicas == 0 {
            return Ok(());
        }
        let mut command = redis::cmd("WAIT");
        command.arg(self.replicas).arg(SETTLE.as_millis().to_string());
        let have: Result<u32, _> = command.query_async(&mut self.connection).await;
        match have {
            Ok(have) if have >= self.replicas => Ok(()),
            Ok(have) => Err(StoreError::Unavailable(format!("{have} of {} replicas of Redis answer", self.replicas))),
            Err(error) => Err(StoreError::Unavailable(explained(&error))),
        }
    }

    /// Returns when there is a change behind this one, or after this time.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]
    pub async fn bell(&mut self, after: u64, wait: Duration) -> Result<(), StoreError> {
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(1).arg("BLOCK").arg(wait.as_millis().max(1).to_string());
        command.arg("STREAMS").arg(names::LOG).arg(format!("{after}-0"));
        self.connection.set_response_timeout(wait.saturating_add(LIMIT));
        let rung: Result<Value, _> = command.query_async(&mut self.connection).await;
        self.connection.set_response_timeout(LIMIT);
        rung.map(|_| ()).map_err(|error| StoreError::Unavailable(explained(&error)))
    }

    /// Every replica that has not been forgotten. One whose words cannot be read has confirmed nothing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] also if the head is lost.
    pub async fn members(&mut self) -> Result<Vec<Member>, StoreError> {
        Ok(self.list().await?.members)
    }

    /// As [`Channel::members`], and what is known of those that are not listed any more.
    ///
    /// # Errors
    /// As [`Channel::members`].
    pub async fn list(&mut self) -> Result<Listing, StoreError> {
        let mut script = MEMBERS.prepare_invoke();
        script.key(names::HEAD).key(names::MEMBERS).key(names::CLOCK);
        let mut answer = run(&mut self.connection, &script).await.map_err(ScriptError::into_error)?.found()?;
        answer.as_of()?;
        let mut members = Vec::new();
        let mut values = answer.list()?.into_iter();
        while let (Some(id), Some(member)) = (values.next(), values.next()) {
            members.push(decode_member(text(id)?, &bytes(member)?.unwrap_or_default()));
        }
        members.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
        let count = answer.number()?;
        let (still, grace) = (Duration::from_millis(answer.number()?), Duration::from_millis(answer.number()?));
        let unlisted = (count > 0).then_some(Unlisted { count, still, grace });
        Ok(Listing { members, unlisted })
    }

    /// Forgets a replica that has ended.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]
    pub async fn leave(&mut self, id: &str) -> Result<(), StoreError> {
        let mut script = LEAVE.prepare_invoke();
        script.key(names::HEAD).key(names::MEMBERS).arg(id);
        run(&mut self.connection, &script).await.map(|_| ()).map_err(ScriptError::into_error)
    }

    /// Takes the list of replicas for whole, of which so many are missing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]
    pub async fn recount(&mut self, missing: u64) -> Result<(), StoreError> {
        let mut script = RECOUNT.prepare_invoke();
        script.key(names::HEAD).key(names::MEMBERS).key(names::CLOCK).arg(missing);
        run(&mut self.connection, &script).await.map(|_| ()).map_err(ScriptError::into_error)
    }

    /// Forgets a replica if its beat is still this one.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]
    pub async fn prune(&mut self, id: &str, beat: u64) -> Result<(), StoreError> {
        let mut script = PRUNE.prepare_invoke();
        script.key(names::HEAD).key(names::MEMBERS).arg(id).arg(beat);
        run(&mut self.connection, &script).await.map(|_| ()).map_err(ScriptError::into_error)
    }
}

/// `[id, [h, …, p, …]]`: an entry of the log, and the bytes of its event.
pub(super) fn raw_entry(value: Value) -> Result<(Position, Vec<u8>), StoreError> {
    match raw(value)? {
        (sequence, mut fields) if fields.len() >= 4 => {
            let event = bytes(fields.swap_remove(3))?.unwrap_or_default();
            Ok((Position { sequence, chain: text(fields.swap_remove(1))? }, event))
        }
        _ => Err(unreadable("an entry of the log")),
    }
}

/// `[id, [p, …]]`: the number of a row of the audit log, and its bytes.
pub(super) fn raw_row(value: Value) -> Result<(u64, Vec<u8>), StoreError> {
    match raw(value)? {
        (number, mut fields) if fields.len() >= 2 => Ok((number, bytes(fields.swap_remove(1))?.unwrap_or_default())),
        _ => Err(unreadable("a row of the audit log")),
    }
}

/// What a stream has of something: its number, and its fields.
fn raw(value: Value) -> Result<(u64, Vec<Value>), StoreError> {
    let mut parts = list(value)?.into_iter();
    let (Some(id), Some(fields)) = (parts.next(), parts.next()) else { return Err(unreadable("an entry of a log")) };
    let number = text(id)?.split('-').next().and_then(|number| number.parse().ok());
    Ok((number.ok_or_else(|| unreadable("the number of an entry"))?, list(fields)?))
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn encode_member(member: &Member) -> String {
    as_json(member).to_string()
}

fn as_json(member: &Member) -> serde_json::Value {
    json!({
        "name": member.name,
        "seq": member.position.sequence,
        "h": member.position.chain,
        "beat": member.beat,
        "state": member.state.as_str(),
        "since": member.since.as_millis(),
        "grace_ms": millis(member.grace),
        "version": member.version,
        "format": member.format,
    })
}

impl ReplicaAhead {
    /// `None` of a replica that misses nothing.
    pub(super) fn decode(id: String, bytes: &[u8]) -> Option<Self> {
        let value: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
        let known = value.get("known")?.as_u64()?;
        let missed = value.get("missed").and_then(serde_json::Value::as_array).into_iter().flatten();
        let missed = missed.filter_map(|one| one.as_str().map(str::to_owned)).collect();
        Some(Self { name: decode_member(id.clone(), bytes).name, id, known, missed })
    }
}

/// Passes over what another version has added, and takes for the least what is not there.
pub(super) fn decode_member(id: String, bytes: &[u8]) -> Member {
    let value: serde_json::Value = serde_json::from_slice(bytes).unwrap_or_default();
    let text = |field: &str| value.get(field).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
    let number = |field: &str| value.get(field).and_then(serde_json::Value::as_u64).unwrap_or_default();
    let state = text("state");
    Member {
        id,
        name: text("name"),
        position: Position { sequence: number("seq"), chain: text("h") },
        beat: number("beat"),
        state: MemberState::ALL.into_iter().find(|known| known.as_str() == state).unwrap_or(MemberState::Detached),
        since: Timestamp::from_millis(number("since")),
        grace: Duration::from_millis(number("grace_ms")),
        version: text("version"),
        format: number("format").max(Format::OLDEST),
    }
}
