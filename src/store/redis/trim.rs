//! The audit log loses its oldest rows, and what time it is for that. Never the newest row, and never one whose time was not read.

use std::collections::BTreeSet;

use tollgate_guard::time::Timestamp;

use super::Redis;
use super::lists::numbered_row;
use super::scripts::{OLDEST, TIME, TRIM, bytes};
use crate::domain::record::AuditEntry;
use crate::store::StoreError;
use crate::store::chain::RemovedRows;
use crate::store::keyspace::redis as names;
use crate::store::records::audit::lists_of_actor;

/// How often what others change meanwhile is changed anew.
const ATTEMPTS: usize = 8;

impl Redis {
    /// As [`super::super::Store::time`].
    pub async fn time(&self) -> Result<Timestamp, StoreError> {
        let mut script = TIME.prepare_invoke();
        script.key(names::HEAD).key(names::CLOCK);
        Ok(Timestamp::from_millis(self.reads.ask(&script).await?.number()?))
    }

    /// As [`super::super::Store::trim_audit`].
    pub async fn trim_audit(&self, before: Timestamp, most: usize) -> Result<usize, StoreError> {
        let (lineage, rows, bytes) = self.oldest_rows(most.saturating_add(1)).await?;
        let old = rows.iter().take(most).take_while(|row| row.at < before).count();
        // Of what was read, one row stays at least.
        let old = old.min(rows.len().saturating_sub(1));
        let Some(first_to_stay) = rows.get(old).filter(|_| old > 0) else { return Ok(0) };
        if self.format().await?.has_signatures() {
            // Before they go, so that nobody takes them for lost.
            let gone: Vec<_> = rows.iter().zip(&bytes).take(old).collect();
            self.change_removed_rows(|noted| gone.iter().for_each(|(row, bytes)| noted.add(row.sequence, bytes)))
                .await?;
        }
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

    /// What is noted of rows that are gone; `None`: nothing that this pepper has made.
    pub(super) async fn removed_rows(&self) -> Result<Option<RemovedRows>, StoreError> {
        let mut read = self.read(&[names::REMOVED_ROWS.to_owned()], 0).await?;
        Ok(read.values.pop().flatten().and_then(|bytes| RemovedRows::read(&read.verifier, &bytes)))
    }

    /// Changes what is noted, and nobody else's change of it.
    pub(super) async fn change_removed_rows(&self, change: impl Fn(&mut RemovedRows)) -> Result<(), StoreError> {
        for _ in 0..ATTEMPTS {
            let mut read = self.read(&[names::REMOVED_ROWS.to_owned()], 0).await?;
            let before = read.values.pop().flatten();
            let noted = before.as_ref().and_then(|bytes| RemovedRows::read(&read.verifier, bytes));
            let mut noted = noted.unwrap_or_default();
            change(&mut noted);
            let after = noted.write(&read.verifier)?;
            match self.writer.exchange(names::REMOVED_ROWS, before.as_deref(), &after).await {
                Err(StoreError::Conflict(_)) => {}
                done => return done,
            }
        }
        Err(StoreError::Unavailable("others keep removing rows of the audit log: try again".to_owned()))
    }

    /// The oldest rows of the audit log, each also as it stands there, behind the lineage of the store that holds them.
    pub(super) async fn oldest_rows(&self, most: usize) -> Result<(String, Vec<AuditEntry>, Vec<Vec<u8>>), StoreError> {
        let mut script = OLDEST.prepare_invoke();
        script.key(names::HEAD).key(names::AUDIT).arg(most);
        let mut answer = self.reads.ask(&script).await?;
        let lineage = answer.as_of()?.lineage;
        let (ids, rows) = (answer.list()?, answer.list()?);
        let stored =
            rows.iter().map(|row| bytes(row.clone()).map(Option::unwrap_or_default)).collect::<Result<_, _>>()?;
        let rows = ids.into_iter().zip(rows).map(|(id, row)| numbered_row(id, row)).collect::<Result<_, _>>()?;
        Ok((lineage, rows, stored))
    }
}

/// Every list that a row may be on.
fn lists_of(row: &AuditEntry) -> Vec<String> {
    row.project.iter().map(|project| names::audit_of_project(project)).chain(lists_of_actor(row)).collect()
}
