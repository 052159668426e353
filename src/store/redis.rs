//! The store of a fleet: Redis or Valkey, shared by every replica. Never believes a server that is not the primary, and never
//! takes one that was emptied for a store without records.

mod access;
mod acknowledged;
mod batch;
mod channel;
pub mod check;
pub mod connect;
pub mod connection;
mod headroom;
mod indexes;
mod lists;
mod live_replica;
mod loads;
pub mod location;
mod memory;
mod migration;
mod read_connections;
mod scripts;
pub mod shared;
mod signing;
pub mod snapshot;
pub mod store_state;
pub mod survey;
mod trim;
mod upgrade;
mod usage;
mod values;
mod write_set;
mod writer;

use std::fmt;
use std::iter;
use std::sync::Arc;

use redis::{ScriptInvocation, Value};
use tokio::runtime::Handle;
use tollgate_guard::protocol::{Head, Position};

use super::format::Format;
use super::heard::Heard;
use super::signature::{Signers, Trust, Verifier};
use super::{PepperCheck, StoreError, Write};
use crate::domain::change::Event;
use crate::store::keyspace::redis as names;
use acknowledged::Acknowledged;
use connect::Connector;
use read_connections::ReadConnections;
use scripts::{Answer, AsOf, KNOWN, READ, list};
use usage::Usage;
use writer::Writer;

pub use channel::{Channel, ReplicaAhead};
pub(in crate::store) use migration::Migrant;

/// How many changes the log holds at least.
const LOG_LENGTH: usize = 100_000;

/// The store in Redis. Opens its connections when they are needed, and anew after each fault.
pub struct Redis {
    connector: Connector,
    reads: ReadConnections,
    writer: Writer,
    usage: Usage,
    acknowledged: Arc<Acknowledged>,
    trust: Arc<Trust>,
    heard: Arc<Heard>,
}

/// Whether a head was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Init {
    Made { lineage: String },
    WasThere { lineage: String, sequence: u64 },
}

impl Redis {
    /// Connects to nothing yet. Connections live on this runtime.
    pub fn new(connector: Connector, runtime: Handle) -> Self {
        let (acknowledged, trust) = (Arc::<Acknowledged>::default(), Arc::<Trust>::default());
        let reads = ReadConnections::new(connector.clone(), runtime.clone(), Arc::clone(&acknowledged));
        let heard = Arc::<Heard>::default();
        let known = (Arc::clone(&acknowledged), Arc::clone(&trust), Arc::clone(&heard));
        let writer = Writer::new(connector.clone(), runtime.clone(), LOG_LENGTH, known);
        let usage = Usage::new(connector.clone(), runtime);
        Self { reads, writer, usage, connector, acknowledged, trust, heard }
    }

    /// Gives it the keys that sign what is in it. Without them nothing of it is read or written that is signed.
    #[must_use]
    pub fn with_signers(self, signers: Signers) -> Self {
        self.trust.set_signers(signers);
        self
    }

    /// What its records are believed by.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// How many entries of its log were not believed.
    pub fn distrusted_entries(&self) -> u64 {
        self.heard.distrusted()
    }

    /// Where the server is.
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// With a log that holds about so many changes.
    pub fn with_log_length(mut self, entries: usize) -> Self {
        self.writer.log_length = entries;
        self
    }

    /// With so many replicas that must confirm each write, whatever the configuration says.
    pub fn with_replicas(mut self, replicas: u32) -> Self {
        self.writer.replicas = replicas;
        self
    }

    /// Makes the head of a new store, unless there is one. Nothing else ever makes it.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if there is a store that this Tollgate cannot read.
    pub async fn init(&self) -> Result<Init, StoreError> {
        self.writer.init().await
    }

    /// As [`Redis::init`], of a store that is closed to all but the migration from there; one that is there stays as it is.
    pub(super) async fn init_closed(&self, origin: &str) -> Result<(), StoreError> {
        self.writer.init_closed(origin).await
    }

    /// As [`super::Store::commit`].
    pub async fn commit(&self, batch: &[Write], event: &Event) -> Result<u64, StoreError> {
        let histories = self.acknowledged.histories();
        let sequence = self.writer.commit(batch, event).await?;
        for write in batch {
            if let Write::Audit(row) = write {
                self.acknowledged.tell(histories, sequence, row.to_string());
            }
        }
        Ok(sequence)
    }

    pub async fn put_pepper_check(&self, check: PepperCheck) -> Result<(), StoreError> {
        self.writer.put_pepper_check(check).await
    }

    /// A connection of its own for who follows the log. It lives on the runtime that this is called on.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]
    pub async fn channel(&self) -> Result<Channel, StoreError> {
        let connection = self.connector.primary().await?;
        Ok(Channel::new(connection, self.writer.replicas, Arc::clone(&self.trust), Arc::clone(&self.heard)))
    }

    /// As [`super::Store::newest_known`].
    pub async fn newest_known(&self, joined: &Position, places: &[Position]) -> Result<Option<u64>, StoreError> {
        let mut script = KNOWN.prepare_invoke();
        script.key(names::HEAD).key(names::LOG);
        for place in iter::once(joined).chain(places) {
            script.arg(place.sequence).arg(&place.chain);
        }
        let mut answer = self.reads.ask(&script).await?;
        answer.as_of()?;
        match &*answer.word {
            "KNOWN" => answer.number().map(Some),
            "UNKNOWN" => Ok(None),
            _ => Err(StoreError::Unavailable(
                "it was replaced, or has failed over, and this replica has not followed it yet".to_owned(),
            )),
        }
    }

    /// As [`super::Store::format`].
    pub async fn format(&self) -> Result<Format, StoreError> {
        Ok(self.read(&[], 0).await?.format)
    }

    /// The newest change of this lineage that the store has acknowledged to this process.
    pub fn acknowledged(&self, lineage: &str) -> Option<Position> {
        self.acknowledged.newest(lineage)
    }

    /// What the last changes behind this number did that were made through this process, in words, the last one first.
    pub fn made_behind(&self, sequence: u64, most: usize) -> Vec<String> {
        self.acknowledged.told_behind(sequence, most)
    }

    /// Follows this history from now on, in which what was acknowledged before may be missing. Nothing is loaded from another one:
    /// whoever waits there for a change to arrive everywhere does not know of this process.
    pub fn join(&self, lineage: &str) {
        self.acknowledged.join(lineage);
    }

    /// From now on neither reads nor writes, for this reason; or does again.
    pub fn refuse(&self, reason: Option<String>) {
        self.acknowledged.refuse(reason);
    }

    /// The lineage that the store has, and whether this place is in it as far as its log can tell.
    ///
    /// # Errors
    /// [`StoreError`] also if the head is lost.
    pub async fn has(&self, place: &Position) -> Result<(Head, bool), StoreError> {
        let mut script = KNOWN.prepare_invoke();
        script.key(names::HEAD).key(names::LOG).arg(place.sequence).arg(&place.chain);
        let mut answer = self.reads.ask(&script).await?;
        let AsOf { lineage, sequence, .. } = answer.as_of()?;
        let head = Head { lineage, position: Position { sequence, chain: String::new() } };
        Ok((head, answer.word != "STALE"))
    }

    /// Has the connections made anew before they are used again.
    pub fn drop_loads(&self) {
        self.reads.drop_all();
        self.writer.drop_line();
    }

    /// Records and, with `naming`, the project that the first found among so many of the first ones names.
    async fn read(&self, wanted: &[String], naming: usize) -> Result<Read, StoreError> {
        let joined = self.acknowledged.joined();
        let mut answer = self.reads.ask(&read_script(wanted, naming)).await?;
        let read = Read::of(&mut answer, &self.trust)?;
        match joined {
            Some(joined) if *joined != read.lineage => Err(StoreError::Unavailable(
                "it was replaced, or has failed over, and this replica has not followed it yet".to_owned(),
            )),
            _ => Ok(read),
        }
    }
}

fn read_script(wanted: &[String], naming: usize) -> ScriptInvocation<'static> {
    let mut script = READ.prepare_invoke();
    script.key(names::HEAD);
    for name in wanted {
        script.key(name);
    }
    script.arg(naming).arg(names::PROJECTS);
    script
}

/// Records of one moment.
struct Read {
    lineage: String,
    position: Position,
    format: Format,
    verifier: Verifier,
    values: Vec<Option<Vec<u8>>>,
    project: Option<Vec<u8>>,
}

impl Read {
    fn of(answer: &mut Answer, trust: &Trust) -> Result<Self, StoreError> {
        let AsOf { lineage, sequence, format } = answer.as_of()?;
        let verifier = trust.of(format);
        let values = answer.list()?.into_iter().map(scripts::bytes).collect::<Result<_, _>>()?;
        let project = answer.bytes()?;
        let position = Position { sequence, chain: answer.text()? };
        Ok(Self { lineage, position, format, verifier, values, project })
    }
}

/// A list of texts in an answer.
fn texts(value: Value) -> Result<Vec<String>, StoreError> {
    list(value)?.into_iter().map(scripts::text).collect()
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redis({:?})", self.connector)
    }
}
