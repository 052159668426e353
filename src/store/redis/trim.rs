//! The audit log loses its oldest rows, and what time it is for that. Never the newest row, and never one whose time was not read.

use std::collections::BTreeSet;

use tollgate_guard::time::Timestamp;

use super::Redis;
use super::lists::numbered_row;
use super::scripts::{OLDEST, TIME, TRIM};
use crate::domain::record::AuditEntry;
use crate::store::StoreError;
use crate::store::keyspace::redis as names;
use crate::store::records::audit::lists_of_actor;

impl Redis {
    /// As [`super::super::Store::time`].
    pub async fn time(&self) -> Result<Timestamp, StoreError> {
        let mut script = TIME.prepare_invoke();
        script.key(names::HEAD).key(names::CLOCK);
        Ok(Timestamp::from_millis(self.reads.ask(&script).await?.number()?))
    }

    /// As [`super::super::Store::trim_audit`].
    pub async fn trim_audit(&self, before: Timestamp, most: usize) -> Result<usize, StoreError> {
        let (lineage, rows) = self.oldest_rows(most.saturating_add(1)).await?;
        let old = rows.iter().take(most).take_while(|row| row.at < before).count();
        // Of what was read, one row stays at least.
        let old = old.min(rows.len().saturating_sub(1));
        let Some(first_to_stay) = rows.get(old).filter(|_| old > 0) else { return Ok(0) };
        let lists: BTreeSet<String> = rows.iter().take(old).flat_map(lists_of).collect();
        let mut script = TRIM.prepare_invoke();
        script.key(names::HEAD).key(names::AUDIT).arg(lineage).arg(first_to_stay.sequence);
        for list in lists {
            script.arg(list);
        }
        let answer = self.writer.run_alone(&script).await?;
        if answer.word == "DONE" {
            return Ok(old);
        }
        Err(StoreError::Unavailable("the audit log was changed meanwhile: try again".to_owned()))
    }

    /// The oldest rows of the audit log, and the lineage of the store that holds them.
    pub(super) async fn oldest_rows(&self, most: usize) -> Result<(String, Vec<AuditEntry>), StoreError> {
        let mut script = OLDEST.prepare_invoke();
        script.key(names::HEAD).key(names::AUDIT).arg(most);
        let mut answer = self.reads.ask(&script).await?;
        let lineage = answer.as_of()?.lineage;
        let (ids, rows) = (answer.list()?, answer.list()?);
        let rows: Result<_, _> = ids.into_iter().zip(rows).map(|(id, row)| numbered_row(id, row)).collect();
        Ok((lineage, rows?))
    }
}

/// Every list that a row may be on.
fn lists_of(row: &AuditEntry) -> Vec<String> {
    row.project.iter().map(|project| names::audit_of_project(project)).chain(lists_of_actor(row)).collect()
}
