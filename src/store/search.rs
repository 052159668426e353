//! A search back through the audit log, the same in every store. Never reads anything itself, and never leaves a row out that is
//! dated by a clock which is right to a day.

use std::time::Duration;

use tollgate_guard::time::Timestamp;

use super::{AuditQuery, AuditRows};
use crate::domain::record::AuditEntry;

/// Rows are nearly in the order of time: no clock that tells it is further from another one than half of this, but for fewer rows in
/// a row than [`ENOUGH`].
const CLOCKS_APART: Duration = Duration::from_secs(48 * 3600);
/// So many rows that are too old, one behind the other, say that all before them are; and so many that are too new, that all behind
/// them are.
pub(super) const ENOUGH: usize = 500;
/// So many rows that are not wanted are passed over for one page. Whoever asks goes on from there.
pub(super) const MOST_PASSED_OVER: usize = 5_000;

/// Is shown rows, from the newest to the oldest, until it has a page of what is asked for.
#[derive(Debug)]
pub(super) struct Search<'q> {
    query: &'q AuditQuery,
    found: AuditRows,
    passed_over: usize,
    old_in_a_row: usize,
    is_over: bool,
}

impl<'q> Search<'q> {
    pub(super) fn new(query: &'q AuditQuery) -> Self {
        let (found, passed_over, old_in_a_row) = Default::default();
        Self { query, found, passed_over, old_in_a_row, is_over: false }
    }

    /// Whether it wants another row.
    pub(super) fn goes_on(&self) -> bool {
        !self.is_over && self.found.rows.len() < self.query.limit
    }

    /// Looks at the next older row.
    pub(super) fn look_at(&mut self, row: AuditEntry) {
        let is_old = self.query.since.is_some_and(|since| row.at.plus(CLOCKS_APART) < since);
        self.old_in_a_row = if is_old { self.old_in_a_row + 1 } else { 0 };
        if self.old_in_a_row >= ENOUGH {
            self.is_over = true;
        } else if self.query.matches(&row) {
            self.found.rows.push(row);
        } else {
            self.passed_over += 1;
            if self.passed_over >= MOST_PASSED_OVER {
                self.found.goes_on_before = Some(row.sequence);
                self.is_over = true;
            }
        }
    }

    pub(super) fn end(self) -> AuditRows {
        self.found
    }
}

/// Where the rows before a time begin, found by halves. It says which rows it wants to see, and is shown them.
#[derive(Debug)]
pub(super) struct Beginning {
    until: Timestamp,
    /// From here downwards not all rows were too new, or there are none.
    low: u64,
    /// All rows above are too new.
    high: u64,
    asked: Option<u64>,
}

impl Beginning {
    /// `None`: what is asked for may begin with the newest row.
    pub(super) fn of(query: &AuditQuery, oldest: u64, newest: u64) -> Option<Self> {
        let until = query.until?.plus(CLOCKS_APART);
        Some(Self { until, low: oldest.saturating_sub(1), high: newest, asked: Some(newest) })
    }

    /// The number from which [`ENOUGH`] rows are to be shown, downwards; `None`: it is found.
    pub(super) fn asks_for(&self) -> Option<u64> {
        self.asked
    }

    /// Is shown the rows that it asked for, the newest first. It may be shown fewer if the last of them is not too new.
    pub(super) fn show(&mut self, rows: &[AuditEntry]) {
        let Some(asked) = self.asked else { return };
        if !rows.iter().all(|row| self.is_too_new(row)) {
            // Nothing to pass over: it begins with the first of all that was shown.
            self.low = asked;
        } else if rows.len() < ENOUGH {
            self.high = self.low;
        } else {
            self.high = rows.last().map_or(self.low, |row| row.sequence.saturating_sub(1));
        }
        let left = self.high.saturating_sub(self.low);
        self.asked = (left > ENOUGH as u64).then(|| self.low + left / 2);
    }

    pub(super) fn is_too_new(&self, row: &AuditEntry) -> bool {
        row.at >= self.until
    }

    /// The number behind that of the first row to look at.
    pub(super) fn found(&self) -> u64 {
        self.high.saturating_add(1)
    }
}

impl AuditQuery {
    /// All but the place of the row.
    fn matches(&self, row: &AuditEntry) -> bool {
        let is = |wanted: &Option<String>, text: &str| wanted.as_ref().is_none_or(|wanted| wanted == text);
        is(&self.actor, &row.actor)
            && is(&self.act, &row.act)
            && is(&self.target, &row.target)
            && self.since.is_none_or(|since| row.at >= since)
            && self.until.is_none_or(|until| row.at < until)
    }
}
