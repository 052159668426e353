//! Rows of the audit log. Where one stands is its number, which the store gives.

use prost::{Enumeration, Message};
use tollgate_guard::time::Timestamp;

use super::super::StoreError;
use super::super::format::Format;
use super::super::keyspace::is_part;
use super::super::keyspace::redis as names;
use super::super::rules::check_parts;
use super::noun::{Tables, damaged};
use super::written::StoredLink;
use crate::domain::record::{AuditEntry, Outcome};

/// One administrative act. The log grows at its end alone: no row is ever changed or removed.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct StoredRow {
    /// Counts the rows, from 1.
    #[prost(uint64, tag = "1")]
    sequence: u64,
    #[prost(uint64, tag = "2")]
    at_ms: u64,
    /// "key:<id>", "user:<name>", "<issuer>:<subject>" or "operator".
    #[prost(string, tag = "3")]
    actor: String,
    /// Such as "key.create".
    #[prost(string, tag = "4")]
    act: String,
    /// Such as "key:<id>".
    #[prost(string, tag = "5")]
    target: String,
    /// The project of the target. Absent: it has none.
    #[prost(string, optional, tag = "6")]
    project: Option<String>,
    #[prost(enumeration = "StoredOutcome", tag = "7")]
    outcome: i32,
    /// Why it was refused.
    #[prost(string, optional, tag = "8")]
    reason: Option<String>,
    /// Where the request came from.
    #[prost(string, tag = "9")]
    peer: String,
    #[prost(string, tag = "10")]
    request_id: String,
    /// The id of the user or of the subject of a token. Absent: the actor has none, or had none then.
    #[prost(string, optional, tag = "11")]
    actor_id: Option<String>,
    /// Format 4.
    #[prost(message, optional, tag = "12")]
    link: Option<StoredLink>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Enumeration)]
#[repr(i32)]
enum StoredOutcome {
    Unspecified = 0,
    Done = 1,
    Refused = 2,
}

pub(in crate::store) fn encode_audit(entry: &AuditEntry) -> Vec<u8> {
    encode_row(entry, None)
}

/// The same with its link, in a store that has them.
pub(in crate::store) fn encode_row(entry: &AuditEntry, link: Option<StoredLink>) -> Vec<u8> {
    let outcome = match entry.outcome {
        Outcome::Done => StoredOutcome::Done,
        Outcome::Refused => StoredOutcome::Refused,
    };
    let message = StoredRow {
        sequence: entry.sequence,
        at_ms: entry.at.as_millis(),
        actor: entry.actor.clone(),
        act: entry.act.clone(),
        target: entry.target.clone(),
        project: entry.project.clone(),
        outcome: outcome.into(),
        reason: entry.reason.clone(),
        peer: entry.peer.clone(),
        request_id: entry.request_id.clone(),
        actor_id: entry.actor_id.clone(),
        link,
    };
    message.encode_to_vec()
}

/// # Errors
/// [`StoreError::Damaged`] if the bytes are no row of the audit log.
pub(in crate::store) fn decode_audit(bytes: &[u8]) -> Result<AuditEntry, StoreError> {
    let message = StoredRow::decode(bytes).map_err(|_| damaged("an audit entry"))?;
    let outcome = match message.outcome() {
        StoredOutcome::Done => Outcome::Done,
        StoredOutcome::Refused => Outcome::Refused,
        StoredOutcome::Unspecified => {
            return Err(damaged(&format!("audit entry {}", message.sequence)));
        }
    };
    Ok(AuditEntry {
        sequence: message.sequence,
        at: Timestamp::from_millis(message.at_ms),
        actor: message.actor,
        actor_id: message.actor_id,
        act: message.act,
        target: message.target,
        project: message.project,
        outcome,
        reason: message.reason,
        peer: message.peer,
        request_id: message.request_id,
    })
}

/// The link of a row, which nobody vouches for; `None`: it has none, or is no row.
pub(in crate::store) fn link_of(row: &[u8]) -> Option<StoredLink> {
    StoredRow::decode(row).ok()?.link
}

pub(in crate::store) fn append<T: Tables>(tables: &mut T, row: &AuditEntry) -> Result<(), T::Halt> {
    if let Some(project) = &row.project {
        check_parts([project])?;
    }
    tables.append(row)
}

/// The lists in Redis that a row stands on.
pub(in crate::store) fn lists(row: &AuditEntry, format: Format) -> Vec<String> {
    let of_project = row.project.iter().map(|project| names::audit_of_project(project));
    let of_actor = format.has_three().then(|| lists_of_actor(row)).into_iter().flatten();
    of_project.chain(of_actor).collect()
}

/// Those that it stands on because of who did it.
pub(in crate::store) fn lists_of_actor(row: &AuditEntry) -> impl Iterator<Item = String> {
    let actor = Some(&row.actor).filter(|actor| is_part(actor));
    let of_project = row.project.iter().map(|project| names::audit_of_actor_in(&row.actor, project));
    actor.into_iter().flat_map(move |actor| of_project.clone().chain([names::audit_of_actor(actor)]))
}
