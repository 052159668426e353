//! Rows of the audit log. Where one stands is its number, which the store gives.

use prost::Message;
use tollgate_guard::time::Timestamp;

use super::super::StoreError;
use super::noun::damaged;
use super::wire;
use crate::domain::record::{AuditEntry, Outcome};

pub(in crate::store) fn encode_audit(entry: &AuditEntry) -> Vec<u8> {
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
