//! The records of one kind in one store or snapshot, one after the other. Never holds more than a page of them.

use std::collections::VecDeque;

use tollgate_guard::time::Timestamp;

use super::source::Pages;
use crate::store::StoreError;
use crate::store::kind::Kind;
use crate::store::record::Record;

/// How many records are read at once.
const PAGE: usize = 500;

pub(super) struct Walk<'d, P> {
    of: &'d P,
    kind: Kind,
    now: Timestamp,
    read: VecDeque<Record>,
    after: Option<Vec<u8>>,
    at_end: bool,
}

impl<'d, P: Pages> Walk<'d, P> {
    pub(super) fn new(of: &'d P, kind: Kind, now: Timestamp) -> Self {
        Self { of, kind, now, read: VecDeque::new(), after: None, at_end: false }
    }

    /// The next record that still counts.
    pub(super) async fn peek(&mut self) -> Result<Option<&Record>, StoreError> {
        while self.read.is_empty() && !self.at_end {
            let page = self.of.page(self.kind, self.after.take(), PAGE).await?;
            self.read.extend(page.records.into_iter().filter(|record| record.counts(self.now)));
            self.at_end = page.next.is_none();
            self.after = page.next;
        }
        Ok(self.read.front())
    }

    pub(super) async fn next(&mut self) -> Result<Option<Record>, StoreError> {
        self.peek().await?;
        Ok(self.read.pop_front())
    }
}
