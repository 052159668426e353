//! Everything in one store, or in a snapshot of one, carried to another, as it is, and compared there. Never overwrites, never
//! changes the source, and never opens a target to others that is not equal to it.
//!
//! Both stores give their records in the same order, so that two walks side by side find what is missing, what differs and what
//! is too much, a page at a time. A run that was ended in the middle leaves a target that nobody but the next run opens.

mod source;
mod store;
mod walk;

use std::sync::Arc;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};
use tollgate_guard::time::Timestamp;

use super::StoreError;
use super::format::Format;
use super::kind::Kind;
use super::record::Record;
use super::snapshot::SnapshotFile;
use super::upgrade::UPGRADE_FIRST;
use crate::domain::record::AuditEntry;
use walk::Walk;

pub use source::Source;
pub use store::MigrationStore;

pub(super) use store::{Begun, History};

/// What was carried over and compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub counts: Vec<Count>,
    /// Over every record of the target, in hexadecimal; the same as over those of the source.
    pub digest: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Count {
    pub kind: Kind,
    /// How many both stores have.
    pub found: u64,
    /// How many of them this run has written.
    pub copied: u64,
}

/// Carries everything to the target that is not there yet, compares all of it, and opens the target, laid out like the source. Whatever
/// no longer counts at this time stays behind: uses of idempotency keys, and ends of sessions whose tokens expired long ago.
///
/// # Errors
/// [`StoreError::Conflict`] if the target has something else, if the source was changed meanwhile, or if its upgrade has not
/// ended.
pub async fn migrate(source: &Source, target: &MigrationStore, now: Timestamp) -> Result<Report, StoreError> {
    carry(source, target, None, now).await
}

/// As [`migrate`], of a snapshot. The store has this row in its audit log from the moment on in which it is open.
///
/// # Errors
/// As [`migrate`].
pub async fn restore(
    backup: Arc<SnapshotFile>,
    target: &MigrationStore,
    row: &AuditEntry,
    now: Timestamp,
) -> Result<Report, StoreError> {
    carry(&Source::Snapshot(backup), target, Some(row), now).await
}

async fn carry(
    source: &Source,
    target: &MigrationStore,
    row: Option<&AuditEntry>,
    now: Timestamp,
) -> Result<Report, StoreError> {
    let (origin, head) = (source.origin(), source.head().await?);
    if origin == target.origin() {
        return Err(StoreError::Conflict(format!("both stores are the same, {origin}: name two")));
    }
    let format = source.format().await?;
    if format.is_under_way() {
        return Err(StoreError::Conflict(UPGRADE_FIRST.to_owned()));
    }
    let begun = target.begin(&origin).await?;
    if begun == Begun::Ended && matches!(source, Source::Snapshot(_)) {
        let reason = "the target was filled with this backup before: start Tollgate on it, or use an empty one";
        return Err(StoreError::Conflict(reason.to_owned()));
    }
    if format.demands_signatures() {
        // What it was filled with before the source was signed is not believed by anybody.
        target.believe_signed();
    }
    let mut copied = Vec::new();
    let kinds = || Kind::ALL.into_iter().filter(|kind| source.has(*kind));
    for kind in kinds() {
        copied.push(match begun {
            Begun::Open => copy(source, target, kind, format, now).await?,
            Begun::Ended => 0,
        });
    }
    let mut digest = Sha256::new();
    let mut counts = Vec::new();
    for (kind, copied) in kinds().zip(copied) {
        let found = compare(source, target, kind, now, &mut digest).await?;
        counts.push(Count { kind, found, copied });
    }
    source.refuse_if_used().await?;
    if source.head().await? != head {
        let reason = "the source was changed meanwhile: stop whatever uses it, and migrate to another, empty target";
        return Err(StoreError::Conflict(reason.to_owned()));
    }
    target.end(format, &source.history().await?, row).await?;
    Ok(Report { counts, digest: HEXLOWER.encode(&digest.finalize()) })
}

/// Writes what the target does not have. Gives how many those were.
async fn copy(
    source: &Source,
    target: &MigrationStore,
    kind: Kind,
    format: Format,
    now: Timestamp,
) -> Result<u64, StoreError> {
    let (mut ours, mut theirs) = (Walk::new(source, kind, now), Walk::new(target, kind, now));
    let (mut copied, mut missing, at_once) = (0, Vec::new(), target.records_at_once());
    while let Some(record) = ours.next().await? {
        match theirs.peek().await? {
            Some(known) if known.place() < record.place() => return Err(surplus(known)),
            Some(known) if known.place() == record.place() => {
                if *known != record {
                    return Err(different(&record));
                }
                theirs.next().await?;
            }
            _ => missing.push(record),
        }
        if missing.len() == at_once {
            target.import(std::mem::take(&mut missing), format, now).await?;
            copied += at_once as u64;
        }
    }
    if !missing.is_empty() {
        copied += missing.len() as u64;
        target.import(missing, format, now).await?;
    }
    match theirs.peek().await? {
        Some(known) => Err(surplus(known)),
        None => Ok(copied),
    }
}

/// Reads every record of both stores. Gives how many there are.
async fn compare(
    source: &Source,
    target: &MigrationStore,
    kind: Kind,
    now: Timestamp,
    digest: &mut Sha256,
) -> Result<u64, StoreError> {
    let (mut ours, mut theirs) = (Walk::new(source, kind, now), Walk::new(target, kind, now));
    let mut found: u64 = 0;
    loop {
        match (ours.next().await?, theirs.next().await?) {
            (Some(ours), Some(theirs)) if ours == theirs => {
                let bytes = theirs.bytes();
                digest.update((bytes.len() as u64).to_be_bytes());
                digest.update(bytes);
                found += 1;
            }
            (Some(ours), Some(theirs)) if ours.place() == theirs.place() => return Err(different(&ours)),
            (Some(ours), Some(theirs)) if ours.place() > theirs.place() => return Err(surplus(&theirs)),
            (Some(ours), _) => return Err(StoreError::Conflict(format!("the target lacks {}", ours.name()))),
            (None, Some(theirs)) => return Err(surplus(&theirs)),
            (None, None) => break,
        }
    }
    // Where one kind ends and the next begins counts, too.
    digest.update(kind.as_str());
    digest.update(found.to_be_bytes());
    Ok(found)
}

fn different(record: &Record) -> StoreError {
    let name = record.name();
    StoreError::Conflict(format!(
        "{name} is another one in the target, and nothing is overwritten: use an empty target"
    ))
}

fn surplus(record: &Record) -> StoreError {
    let name = record.name();
    StoreError::Conflict(format!("{name} is in the target, and not in the source: use an empty target"))
}
