//! Rows of the audit log. Where one stands is its number, which the store gives.

use prost::Message;
use tollgate_guard::time::Timestamp;

use super::super::StoreError;
use super::super::format::Format;
use super::super::keyspace::is_part;
use super::super::keyspace::redis as names;
use super::super::rules::check_parts;
use super::noun::{Tables, damaged};
use super::wire;
use crate::domain::record::{AuditEntry, Outcome};

pub(in crate::store) fn encode_audit(entry: &AuditEntry) -> Vec<u8> {
    encode_row(entry, None)
}

/// The same with its link, in a store that has them.
pub(in crate::store) fn encode_row(entry: &AuditEntry, link: Option<wire::Link>) -> Vec<u8> {
    let outcome = match entry.outcome {
        Outcome::Done => wire::audit_entry::Outcome::Done,
        Outcome::Refused => wire::audit_entry::Outcome::Refused,
    };
    let wire = wire::AuditEntry {
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
    wire.encode_to_vec()
}

/// # Errors
/// [`StoreError::Damaged`] if the bytes are no row of the audit log.
pub(in crate::store) fn decode_audit(bytes: &[u8]) -> Result<AuditEntry, StoreError> {
    let wire = wire::AuditEntry::decode(bytes).map_err(|_| damaged("an audit entry"))?;
    let outcome = match wire.outcome() {
        wire::audit_entry::Outcome::Done => Outcome::Done,
        wire::audit_entry::Outcome::Refused => Outcome::Refused,
        wire::audit_entry::Outcome::Unspecified => {
            return Err(damaged(&format!("audit entry {}", wire.sequence)));
        }
    };
    Ok(AuditEntry {
        sequence: wire.sequence,
        at: Timestamp::from_millis(wire.at_ms),
        actor: wire.actor,
        actor_id: wire.actor_id,
        act: wire.act,
        target: wire.target,
        project: wire.project,
        outcome,
        reason: wire.reason,
        peer: wire.peer,
        request_id: wire.request_id,
    })
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
