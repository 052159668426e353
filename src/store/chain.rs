//! The rows of the audit log and the entries of the log of changes, each signed, and each naming the one before it of the same process. So
//! who can write the store, and has no pepper, can neither make one, nor change one, nor take one out from between others. That the
//! last ones of a process are gone cannot be seen here.

use std::collections::HashMap;

use prost::Message;

use super::StoreError;
use super::format::Format;
use super::records::audit::{self, encode_row};
use super::records::event::{self, decode_written, encode_event};
use super::records::written::{self, Left, Place, StoredLink, Written};
use super::signature::{Mac, Sealed, Signature, Verifier};
use crate::domain::change::Event;
use crate::domain::record::AuditEntry;

/// What is known of the rows that were removed from the beginning of the audit log. Format 4.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct StoredRemovedRows {
    /// The number of the last one of them.
    #[prost(uint64, tag = "1")]
    last: u64,
    /// The last one of each process that may have written others, behind them.
    #[prost(message, repeated, tag = "2")]
    chains: Vec<StoredChain>,
    /// Whether there may have been processes that are not among those.
    #[prost(bool, tag = "3")]
    others: bool,
    /// The number of the last entry of the log of changes that was written before entries had signatures.
    #[prost(uint64, tag = "4")]
    unsigned_entries: u64,
    /// The number of the last row that was written before rows had signatures.
    #[prost(uint64, tag = "5")]
    unsigned_rows: u64,
    /// The numbers of the last entry and the last row at the end of the last upgrade, when every process signed with the current pepper.
    #[prost(uint64, tag = "6")]
    older_entries: u64,
    #[prost(uint64, tag = "7")]
    older_rows: u64,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct StoredChain {
    /// As a [`StoredLink`] has it.
    #[prost(bytes = "vec", tag = "1")]
    writer: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    mac: Vec<u8>,
    /// As a [`StoredLink`] has it.
    #[prost(uint64, tag = "3")]
    count: u64,
}

/// Of a process, in one history of the store.
type Writer = [u8; 16];
/// So many that may have been written are named; then a process begins anew.
const MOST_UNHEARD: usize = 8;

/// Where the rows, or the entries, of this process have come to.
#[derive(Clone, Debug)]
pub(super) struct Chain {
    writer: Writer,
    sent: u64,
    last: Option<Mac>,
    /// Those behind it of which nobody knows whether they were written.
    unheard: Vec<Mac>,
}

impl Chain {
    pub(super) fn begin() -> Result<Self, StoreError> {
        let mut writer = Writer::default();
        getrandom::fill(&mut writer).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(Self { writer, sent: 0, last: None, unheard: Vec::new() })
    }

    /// Goes on behind one that stands in the store already, and is its process's last; `None`: it has no link.
    pub(super) fn behind(bytes: &[u8]) -> Option<Self> {
        let link = audit::link_of(bytes)?;
        let (writer, sent) = (link.writer.try_into().ok()?, link.count.checked_add(1)?);
        Some(Self { writer, sent, last: Some(Mac::of(bytes)?), unheard: Vec::new() })
    }

    fn link(&self, written: &[(Place, Left)]) -> StoredLink {
        StoredLink {
            writer: self.writer.to_vec(),
            count: self.sent,
            before: self.last.map(|last| last.to_vec()),
            unheard: self.unheard.iter().map(|mac| mac.to_vec()).collect(),
            written: written.iter().map(|(place, left)| written::message_of((place, left))).collect(),
        }
    }

    fn go_behind(&mut self, mac: Mac) {
        (self.sent, self.last) = (self.sent + 1, Some(mac));
        self.unheard.clear();
    }

    /// Adds the row that a change is told by, with what it has written.
    ///
    /// # Errors
    /// As [`Verifier::seal`].
    pub(super) fn row(
        &mut self,
        verifier: &Verifier,
        row: &AuditEntry,
        written: &[(Place, Left)],
    ) -> Result<Vec<u8>, StoreError> {
        let (bytes, mac) = verifier.seal(Sealed::Row, encode_row(row, Some(self.link(written))))?;
        self.go_behind(mac);
        Ok(bytes)
    }

    /// Adds the entry of a change, which names what it has written itself.
    ///
    /// # Errors
    /// As [`Verifier::seal`].
    pub(super) fn entry(
        &mut self,
        verifier: &Verifier,
        event: &Event,
        written: Option<&Written>,
    ) -> Result<Vec<u8>, StoreError> {
        let (bytes, mac) = verifier.seal(Sealed::Entry, encode_event(event, written, Some(self.link(&[]))))?;
        self.go_behind(mac);
        Ok(bytes)
    }

    /// What there was of this before `later`, which may have been written.
    fn perhaps(mut self, later: &Self) -> Self {
        if later.sent > self.sent {
            self.sent = later.sent;
            self.unheard.extend(later.last);
        }
        self
    }

    fn is_worn_out(&self) -> bool {
        self.unheard.len() >= MOST_UNHEARD
    }
}

/// A row that is to be added to the audit log.
#[derive(Clone, Debug)]
pub(super) struct NewRow {
    pub(super) entry: AuditEntry,
    pub(super) written: Vec<(Place, Left)>,
}

/// What a change adds to both logs.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) event: Vec<u8>,
    pub(super) rows: Vec<Vec<u8>>,
}

/// Both chains of this process, in one history of the store.
#[derive(Clone, Debug)]
pub(super) struct Chains {
    entries: Chain,
    rows: Chain,
}

impl Chains {
    pub(super) fn begin() -> Result<Self, StoreError> {
        Ok(Self { entries: Chain::begin()?, rows: Chain::begin()? })
    }

    /// What a store of this format is told of a change. Count it with [`Chains::perhaps`] unless it is known to have been written.
    ///
    /// # Errors
    /// As [`Verifier::seal`].
    pub(super) fn tell(
        &mut self,
        verifier: &Verifier,
        format: Format,
        (event, written): (&Event, Option<&Written>),
        rows: &[NewRow],
    ) -> Result<Told, StoreError> {
        if !format.has_signatures() {
            let rows = rows.iter().map(|row| encode_row(&row.entry, None)).collect();
            return Ok(Told { event: encode_event(event, written, None), rows });
        }
        for chain in [&mut self.entries, &mut self.rows] {
            if chain.is_worn_out() {
                *chain = Chain::begin()?;
            }
        }
        let event = self.entries.entry(verifier, event, written)?;
        let rows =
            rows.iter().map(|row| self.rows.row(verifier, &row.entry, &row.written)).collect::<Result<_, _>>()?;
        Ok(Told { event, rows })
    }

    /// Only rows.
    ///
    /// # Errors
    /// As [`Verifier::seal`].
    pub(super) fn tell_rows(
        &mut self,
        verifier: &Verifier,
        format: Format,
        rows: &[NewRow],
    ) -> Result<Vec<Vec<u8>>, StoreError> {
        if !format.has_signatures() {
            return Ok(rows.iter().map(|row| encode_row(&row.entry, None)).collect());
        }
        rows.iter().map(|row| self.rows.row(verifier, &row.entry, &row.written)).collect()
    }

    /// What there was before `later`, which may have been written.
    pub(super) fn perhaps(self, later: &Self) -> Self {
        Self { entries: self.entries.perhaps(&later.entries), rows: self.rows.perhaps(&later.rows) }
    }
}

/// What a row, or an entry, says that is believed.
#[derive(Clone, Debug)]
pub(super) struct Linked {
    writer: Writer,
    count: u64,
    before: Option<Mac>,
    unheard: Vec<Mac>,
    mac: Mac,
    /// `None`: that is not said.
    pub(super) written: Option<Vec<(Place, Left)>>,
}

impl Linked {
    /// What this row, or this entry, says.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] with what is wrong with it, to be said of it; [`StoreError::Unavailable`] if this process has not been given
    /// the pepper.
    pub(super) fn read(verifier: &Verifier, what: Sealed, bytes: &[u8]) -> Result<Self, StoreError> {
        believe(verifier, what, bytes)?;
        Self::unverified(what, bytes)
    }

    /// What it says, though nobody vouches for that.
    ///
    /// # Errors
    /// As [`Linked::read`].
    pub(super) fn unverified(what: Sealed, bytes: &[u8]) -> Result<Self, StoreError> {
        if what == Sealed::Entry {
            let link = event::link_of(bytes).ok_or_else(unlinked)?;
            return Self::of(link, decode_written(bytes)?, bytes);
        }
        let mut link = audit::link_of(bytes).ok_or_else(unlinked)?;
        let written = std::mem::take(&mut link.written).into_iter().filter_map(written::of_message).collect();
        Self::of(link, Some(written), bytes)
    }

    fn of(link: StoredLink, written: Option<Vec<(Place, Left)>>, bytes: &[u8]) -> Result<Self, StoreError> {
        let mac = |bytes: Vec<u8>| Mac::try_from(bytes).ok();
        let (Ok(writer), Some(own)) = (Writer::try_from(link.writer), Mac::of(bytes)) else { return Err(unlinked()) };
        let before = link.before.map(|before| mac(before).ok_or_else(unlinked)).transpose()?;
        let unheard = link.unheard.into_iter().filter_map(mac).collect();
        Ok(Self { writer, count: link.count, before, unheard, mac: own, written })
    }
}

/// # Errors
/// [`StoreError::Damaged`] if something else than Tollgate has written this row. One without a signature is believed up to the number
/// `unsigned`, and in a store that needs none; one of a pepper that is not configured is not looked at.
pub(super) fn demand_row(verifier: &Verifier, number: u64, bytes: &[u8], unsigned: u64) -> Result<(), StoreError> {
    let problem = match verifier.look_at_sealed(Sealed::Row, bytes)? {
        Signature::Right(_) | Signature::Unknown(_) => return Ok(()),
        Signature::Missing if number <= unsigned || !verifier.is_signed() => return Ok(()),
        Signature::Missing => "no signature",
        Signature::Wrong => "a wrong signature",
    };
    Err(StoreError::Damaged(format!(
        "row {number} of the audit log has {problem}: something else than Tollgate has written it, see `tollgate store check`"
    )))
}

fn believe(verifier: &Verifier, what: Sealed, bytes: &[u8]) -> Result<(), StoreError> {
    let problem = match verifier.look_at_sealed(what, bytes)? {
        Signature::Right(_) => return Ok(()),
        Signature::Missing => "has no signature".to_owned(),
        Signature::Wrong => "has a wrong signature".to_owned(),
        Signature::Unknown(version) => format!(
            "is signed with a key from pepper version {version}, which is not configured: add its file to `pepper.keys`"
        ),
    };
    Err(StoreError::Damaged(problem))
}

fn unlinked() -> StoreError {
    StoreError::Damaged("does not name the one before it".to_owned())
}

/// The last one of a process.
#[derive(Clone, Copy, Debug)]
struct Last {
    count: u64,
    mac: Mac,
}

/// The last one of each process, as they are read in their order.
#[derive(Clone, Debug, Default)]
pub(super) struct Follower {
    last: HashMap<Writer, Last>,
    /// Whether there may have been some of which it has not been told.
    others: bool,
}

impl Follower {
    /// Follows from somewhere in the middle.
    pub(super) fn from_anywhere() -> Self {
        Self { others: true, ..Self::default() }
    }

    /// Whether all that its process has written before it was there.
    pub(super) fn follow(&mut self, linked: &Linked) -> bool {
        match self.last.insert(linked.writer, Last { count: linked.count, mac: linked.mac }) {
            Some(Last { mac, .. }) => linked.before == Some(mac) || linked.unheard.contains(&mac),
            None => self.others || linked.before.is_none(),
        }
    }

    /// Whether its process has written another one since, so that somebody has put it here once more.
    pub(super) fn has_passed(&self, linked: &Linked) -> bool {
        self.last.get(&linked.writer).is_some_and(|last| linked.count <= last.count)
    }

    /// Of how many processes.
    pub(super) fn len(&self) -> usize {
        self.last.len()
    }
}

/// What is noted of the rows that were removed from the beginning of the audit log, and of what is older than signatures.
#[derive(Clone, Debug, Default)]
pub(super) struct RemovedRows {
    /// The number of the last one.
    pub(super) last: u64,
    pub(super) processes: Follower,
    /// The number of the last entry of the log of changes that was written before entries had signatures.
    pub(super) unsigned_entries: u64,
    /// The same of the rows.
    pub(super) unsigned_rows: u64,
    /// The numbers of the last entry and the last row by when every process signed with the current pepper.
    pub(super) older_entries: u64,
    pub(super) older_rows: u64,
}

/// So many processes are noted.
const MOST_NOTED: usize = 4_000;

impl RemovedRows {
    /// Adds a row, of this number.
    pub(super) fn add(&mut self, number: u64, bytes: &[u8]) {
        // Others may be removing the same ones.
        if number <= self.last {
            return;
        }
        self.last = number;
        if let Some(Chain { writer, sent, last: Some(mac), .. }) = Chain::behind(bytes) {
            if self.processes.len() >= MOST_NOTED && !self.processes.last.contains_key(&writer) {
                self.processes.last.clear();
                self.processes.others = true;
            }
            self.processes.last.insert(writer, Last { count: sent.saturating_sub(1), mac });
        }
    }

    /// `None`: it is none that this pepper has made.
    pub(super) fn read(verifier: &Verifier, bytes: &[u8]) -> Option<Self> {
        believe(verifier, Sealed::RemovedRows, bytes).ok()?;
        let message = StoredRemovedRows::decode(bytes).ok()?;
        let chains = message.chains.into_iter();
        let last = chains.filter_map(|chain| {
            let last = Last { count: chain.count, mac: Mac::try_from(chain.mac).ok()? };
            Some((chain.writer.try_into().ok()?, last))
        });
        let processes = Follower { last: last.collect(), others: message.others };
        Some(Self {
            last: message.last,
            processes,
            unsigned_entries: message.unsigned_entries,
            unsigned_rows: message.unsigned_rows,
            older_entries: message.older_entries,
            older_rows: message.older_rows,
        })
    }

    /// # Errors
    /// As [`Verifier::seal`].
    pub(super) fn write(&self, verifier: &Verifier) -> Result<Vec<u8>, StoreError> {
        let Follower { last, others } = &self.processes;
        let chain = |(writer, last): (&Writer, &Last)| StoredChain {
            writer: writer.to_vec(),
            mac: last.mac.to_vec(),
            count: last.count,
        };
        let chains = last.iter().map(chain).collect();
        let Self { last, unsigned_entries, unsigned_rows, older_entries, older_rows, .. } = *self;
        let others = *others;
        let message =
            StoredRemovedRows { last, chains, others, unsigned_entries, unsigned_rows, older_entries, older_rows };
        Ok(verifier.seal(Sealed::RemovedRows, message.encode_to_vec())?.0)
    }
}
