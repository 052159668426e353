//! A snapshot of the store in Redis while its replicas go on. Every record is read once; then whatever the log names since is read
//! again, until nothing has changed in between: so it is of one moment, that of the last entry.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::Arc;

use futures_util::future::try_join_all;
use redis::Value;
use tollgate_core::credential::KeyId;
use tollgate_guard::protocol::Position;
use tollgate_guard::time::Timestamp;

use super::Redis;
use super::channel::raw_entry;
use super::migration::Migrant;
use super::scripts::{lost, unreadable};
use super::store_state::{StoreState, look_over};
use super::values::{key_of, name_of, record_of};
use crate::store::StoreError;
use crate::store::keyspace::key_id;
use crate::store::keyspace::redis as names;
use crate::store::kind::Kind;
use crate::store::page::Page;
use crate::store::record::{Record, by_kind};
use crate::store::records::event::decode_written;
use crate::store::records::written::Place;
use crate::store::snapshot::{End, Header, Signer, SnapshotWriter};
use crate::store::upgrade::UPGRADE_FIRST;

/// How many records, or entries of the log, are read at once.
const AT_ONCE: usize = 500;
/// How often something is read again that changes while it is read.
const ATTEMPTS: usize = 8;
/// How often it is looked for changes that came while the last ones were read.
const ROUNDS: usize = 1_000;
const UNTOLD: &str = "a Tollgate of another release writes to this store, and does not say which records: move all of them to this \
                      release, or stop them meanwhile";
const WENT_BACK: &str = "the store went back, and has other changes under the same numbers";

/// What became of a copy.
#[derive(Debug)]
pub enum Copied<W> {
    Whole(W, End),
    /// What was changed meanwhile cannot be told any more, for this reason: it must be begun anew.
    Overtaken(&'static str),
}

/// What the log says of the changes behind one.
enum Since {
    /// The newest of some, and the records that they have put or removed.
    Written(Position, Vec<Place>),
    /// One of them does not say which records it was.
    Untold,
}

/// Why there is no copy yet.
enum Halt {
    Overtaken(&'static str),
    Failed(StoreError),
}

impl From<StoreError> for Halt {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// Of what is written to.
fn taken<T>(written: std::io::Result<T>) -> Result<T, StoreError> {
    written.map_err(|error| StoreError::Conflict(format!("the backup was cut off: {error}")))
}

impl Redis {
    /// Writes a snapshot, while others use the store. Tells every now and then how many records it has.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the store is being upgraded, has lost something, or `out` takes no more.
    pub async fn snapshot<W: Write>(
        self: &Arc<Self>,
        out: W,
        made_at: Timestamp,
        signer: &Signer,
        told: impl FnMut(u64),
    ) -> Result<Copied<W>, StoreError> {
        match self.copy(out, made_at, signer, told).await {
            Ok((out, end)) => Ok(Copied::Whole(out, end)),
            Err(Halt::Overtaken(reason)) => Ok(Copied::Overtaken(reason)),
            Err(Halt::Failed(error)) => Err(error),
        }
    }

    async fn copy<W: Write>(
        self: &Arc<Self>,
        out: W,
        made_at: Timestamp,
        signer: &Signer,
        mut told: impl FnMut(u64),
    ) -> Result<(W, End), Halt> {
        let store = Migrant::beside_replicas(Arc::clone(self)).await?;
        let first = store.whole().await?;
        let release = env!("CARGO_PKG_VERSION").to_owned();
        let header = Header {
            made_at,
            format: first.format,
            pepper: signer.pepper(),
            release,
            lineage: Some(first.lineage.clone()),
            was: first.was.join(" "),
        };
        let mut writer = taken(SnapshotWriter::begin(out, &header, signer))?;
        let mut rows = Rows::default();
        for kind in Kind::ALL.into_iter().filter(|kind| kind.is_in_snapshots()) {
            let mut after = None;
            loop {
                let page = store.settled_page(kind, after.as_deref()).await?;
                for record in &page.records {
                    rows.follow(record)?;
                    taken(writer.record(record))?;
                }
                told(writer.records());
                after = page.next;
                if after.is_none() {
                    break;
                }
            }
        }
        let mut changes: BTreeMap<Place, Option<Record>> = BTreeMap::new();
        let mut reached = Position { sequence: first.sequence, chain: first.chain.clone() };
        for _ in 0..ROUNDS {
            let (newest, written) = match store.written_since(&reached).await? {
                Since::Written(newest, written) => (newest, written),
                Since::Untold => {
                    store.still(&first).await?;
                    return Err(Halt::Failed(StoreError::Conflict(UNTOLD.to_owned())));
                }
            };
            // Over one connection, and so without a pause between them.
            let now = written.into_iter().map(async |(kind, place)| {
                let record = store.one(kind, &place).await?;
                Ok::<_, StoreError>(((kind, place), record))
            });
            changes.extend(try_join_all(now).await?);
            reached = newest;
            while let Some(page) = store.rows_behind(&rows).await? {
                for record in &page.records {
                    rows.follow(record)?;
                    taken(writer.record(record))?;
                }
            }
            let now = store.still(&first).await?;
            if now.sequence < reached.sequence || (now.sequence == reached.sequence && now.chain != reached.chain) {
                return Err(Halt::Overtaken(WENT_BACK));
            }
            if now.sequence == reached.sequence {
                for ((kind, place), record) in &changes {
                    taken(writer.changed(*kind, place, record.as_ref()))?;
                }
                return Ok(taken(writer.end(reached.sequence, &reached.chain))?);
            }
            told(writer.records());
        }
        Err(Halt::Overtaken("the store is changed faster than the changes can be read from here"))
    }
}

/// How far the audit log was read.
#[derive(Default)]
struct Rows {
    last: Option<u64>,
}

impl Rows {
    /// The oldest ones may be removed meanwhile, and so some that were not read yet.
    fn follow(&mut self, record: &Record) -> Result<(), Halt> {
        if let Record::Audit(row) = record {
            if self.last.is_some_and(|last| row.sequence != last + 1) {
                return Err(Halt::Overtaken("rows of the audit log were removed"));
            }
            self.last = Some(row.sequence);
        }
        Ok(())
    }
}

impl Migrant {
    /// What it has now, if nothing of it is known to be lost. Only a primary says so.
    async fn whole(&self) -> Result<StoreState, StoreError> {
        let state = look_over(&mut self.connection.clone()).await?.ok_or_else(lost)?;
        if state.log != state.sequence || state.missed > 0 || !state.witnesses.is_empty() {
            let reason = "the store has lost changes, and its replicas refuse it: see `tollgate store accept`";
            return Err(StoreError::Conflict(reason.to_owned()));
        }
        if state.format.is_under_way() {
            return Err(StoreError::Conflict(UPGRADE_FIRST.to_owned()));
        }
        self.redis.trust().demand_of(state.format)?;
        Ok(state)
    }

    /// As [`Migrant::whole`], if it is the store that it was.
    async fn still(&self, first: &StoreState) -> Result<StoreState, Halt> {
        let now = self.whole().await?;
        if now.lineage != first.lineage || now.format != first.format {
            return Err(Halt::Overtaken("the store has gone over to another lineage or format"));
        }
        Ok(now)
    }

    /// A page. What is changed between two looks at it does not hold together; what is damaged never does.
    async fn settled_page(&self, kind: Kind, after: Option<&[u8]>) -> Result<Page, StoreError> {
        for _ in 1..ATTEMPTS {
            match self.page(kind, after, AT_ONCE).await {
                Err(StoreError::Damaged(_)) => {}
                page => return page,
            }
        }
        self.page(kind, after, AT_ONCE).await
    }

    /// Rows that were added; `None`: there are none.
    async fn rows_behind(&self, rows: &Rows) -> Result<Option<Page>, StoreError> {
        let after = rows.last.map(u64::to_be_bytes);
        let page = self.page(Kind::Audit, after.as_ref().map(<[u8; 8]>::as_slice), AT_ONCE).await?;
        Ok((!page.records.is_empty()).then_some(page))
    }

    /// What some changes behind this one have written.
    async fn written_since(&self, reached: &Position) -> Result<Since, Halt> {
        let mut command = redis::cmd("XRANGE");
        command.arg(names::LOG).arg(format!("{}-0", reached.sequence)).arg("+").arg("COUNT").arg(AT_ONCE);
        let entries: Vec<Value> = self.ask(&command).await?;
        let (mut newest, mut all) = (reached.clone(), BTreeSet::new());
        for entry in entries {
            let (position, event) = raw_entry(entry)?;
            if position.sequence == reached.sequence {
                // A number alone says nothing of which history it is.
                if position.chain != reached.chain {
                    return Err(Halt::Overtaken(WENT_BACK));
                }
                continue;
            }
            if position.sequence != newest.sequence + 1 {
                return Err(Halt::Overtaken("entries of the log were removed that had not been read"));
            }
            match decode_written(&event)? {
                Some(written) => all.extend(written.into_iter().map(|(place, _)| place)),
                None => return Ok(Since::Untold),
            }
            newest = position;
        }
        Ok(Since::Written(newest, all.into_iter().collect()))
    }

    /// What stands in a place now.
    async fn one(&self, kind: Kind, place: &[u8]) -> Result<Option<Record>, StoreError> {
        by_kind!(kind, N => {
            let value = self.value(name_of::<N>(place)).await?;
            value.map(|value| Ok(record_of::<N>(&self.verifier(), place, &value)?.into())).transpose()
        },
            Kind::Keys => self.key_with(&key_id(place).ok_or_else(|| unreadable("an id"))?).await,
            Kind::Peppers => Ok(self.pepper_checks().await?.into_iter().find(|check| check.place() == place)),
            // No change names them.
            Kind::LastUses | Kind::Audit => Ok(None),
        )
    }

    /// Its record may get another digest between two looks, and so stand elsewhere.
    async fn key_with(&self, id: &KeyId) -> Result<Option<Record>, StoreError> {
        for _ in 0..ATTEMPTS {
            let Some(digest) = self.value(names::key_id(id)).await? else { return Ok(None) };
            let name = format!("{}{}", names::KEYS, String::from_utf8_lossy(&digest));
            if let Some(value) = self.value(name).await? {
                let key = key_of(&self.verifier(), &value)?;
                if key.id == *id {
                    return Ok(Some(Record::Key(key)));
                }
            }
        }
        Err(StoreError::Damaged(format!("key {id} points to no record of it")))
    }

    async fn value(&self, name: String) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.values(std::iter::once(name)).await?.pop().flatten())
    }
}
