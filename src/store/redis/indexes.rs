//! The lists that came with the third format, made of the rows of an older store. Never takes a row off a list.

use super::Redis;
use super::lists::{MOST_ROWS, PAGE};
use super::scripts::INDEX_ROWS;
use crate::store::StoreError;
use crate::store::keyspace::redis as names;
use crate::store::records::audit::lists_of_actor;

impl Redis {
    /// Puts every row of the audit log on the lists of its actor, for a store that is being raised to the third format: what is
    /// appended meanwhile is on them already. Ended in the middle it is done again.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] if the store went over to another history meanwhile; else as any read.
    pub async fn fill_indexes(&self) -> Result<(), StoreError> {
        let lineage = self.read(&[], 0).await?.lineage;
        let mut from = MOST_ROWS;
        while from > 0 {
            let rows = self.rows(None, from, PAGE).await?;
            let Some(oldest) = rows.last().map(|row| row.sequence) else { break };
            let mut script = INDEX_ROWS.prepare_invoke();
            script.key(names::HEAD).arg(&lineage);
            for row in &rows {
                for list in lists_of_actor(row) {
                    script.arg(list).arg(row.sequence);
                }
            }
            if self.reads.ask(&script).await?.word != "DONE" {
                let reason = "the store went over to another history meanwhile: run this again";
                return Err(StoreError::Conflict(reason.to_owned()));
            }
            from = oldest - 1;
        }
        Ok(())
    }
}
