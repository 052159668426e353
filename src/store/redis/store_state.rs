//! What a store has and what its replicas miss in it, for an operator who must say whether it is right; and their word that it is.

use super::Redis;
use super::channel::ReplicaAhead;
use super::connection::Connection;
use super::scripts::{AsOf, STANDING, ScriptError, bytes, lost, run, text};
use crate::domain::record::AuditEntry;
use crate::store::StoreError;
use crate::store::format::Format;
use crate::store::keyspace::redis as names;

/// How many lineages a head remembers to have had.
const MOST_FORMER: usize = 16;

/// What the store has, as of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreState {
    pub lineage: String,
    pub format: Format,
    /// The number of the newest change, as the head says.
    pub sequence: u64,
    /// What the newest change is told from others by that had its number.
    pub chain: String,
    /// The number that the log ends with.
    pub log: u64,
    /// The number of a change that a replica has known and misses, or 0: nobody believes the store then.
    pub missed: u64,
    /// The replicas that refuse everything because of what they miss, by their names.
    pub witnesses: Vec<ReplicaAhead>,
    /// The lineages that it had before, the last one at the end: before it was accepted, or moved by a migration.
    pub was: Vec<String>,
    /// The epoch of its servers when it was put back from a backup, if it was.
    pub copied: Option<u64>,
}

impl StoreState {
    /// What the head of whatever follows this store under another lineage has as its former ones, or nothing: they came with the
    /// third format.
    pub(super) fn former(&self) -> String {
        if !self.format.has_three() {
            return String::new();
        }
        let all: Vec<&str> = self.was.iter().chain([&self.lineage]).map(String::as_str).collect();
        all[all.len().saturating_sub(MOST_FORMER)..].join(" ")
    }
}

impl Redis {
    /// What the store has, whether or not it is believed.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] also if there is no head, [`StoreError::Damaged`] if this Tollgate cannot read it.
    pub async fn standing(&self) -> Result<StoreState, StoreError> {
        self.look().await?.ok_or_else(lost)
    }

    /// As [`Redis::standing`]; `None` if there is no head.
    ///
    /// # Errors
    /// As [`Redis::standing`].
    pub async fn look(&self) -> Result<Option<StoreState>, StoreError> {
        look_over(&mut self.connector.primary().await?).await
    }

    /// Takes the store for right as it was seen: gives it a fresh lineage, so that every replica begins anew with it and ends
    /// again what it remembers to have ended. Gives the lineage and the number of the change that says so, which has this row in
    /// the audit log.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if it is not as it was seen any more.
    pub async fn accept(&self, seen: &StoreState, row: &AuditEntry) -> Result<(String, u64), StoreError> {
        self.writer.accept(seen, row).await
    }
}

/// As [`Redis::look`], over a connection.
pub(super) async fn look_over(connection: &mut Connection) -> Result<Option<StoreState>, StoreError> {
    let mut script = STANDING.prepare_invoke();
    script.key(names::HEAD).key(names::LOG).key(names::MEMBERS);
    let mut answer = run(connection, &script).await.map_err(ScriptError::into_error)?;
    if answer.word == "LOST" {
        return Ok(None);
    }
    let AsOf { lineage, sequence, format } = answer.as_of()?;
    let log = answer.number()?;
    let mut members = answer.list()?.into_iter();
    let mut witnesses = Vec::new();
    while let (Some(id), Some(member)) = (members.next(), members.next()) {
        witnesses.extend(ReplicaAhead::decode(text(id)?, &bytes(member)?.unwrap_or_default()));
    }
    witnesses.sort_by(|one, other| (&one.name, &one.id).cmp(&(&other.name, &other.id)));
    let missed = answer.number()?;
    let was = answer.text()?.split_whitespace().map(str::to_owned).collect();
    let chain = answer.text()?;
    let copied = answer.text()?.parse().ok();
    Ok(Some(StoreState { lineage, format, sequence, chain, log, missed, witnesses, was, copied }))
}
