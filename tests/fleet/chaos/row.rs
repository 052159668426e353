//! One line of the table: what was tried and what came of it. Never passes with a wrong answer.

use std::env;
use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::json;

use super::load::Tally;

/// How much of an experiment is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    Short,
    Full,
}

impl Scale {
    pub fn asked() -> Self {
        if env::var_os("TOLLGATE_CHAOS").is_some() { Self::Full } else { Self::Short }
    }

    pub fn of<T>(self, short: T, full: T) -> T {
        match self {
            Self::Short => short,
            Self::Full => full,
        }
    }
}

#[derive(Debug)]
pub struct Row {
    name: &'static str,
    tried: u64,
    /// Allows of a key whose revocation had been acknowledged for longer than is promised.
    wrong_allows: u64,
    /// Refusals, other than 503, of a key that nobody revoked.
    wrong_denials: u64,
    /// 503 and what was not answered in time.
    unavailable: u64,
    longest_loss: Duration,
    p50: Duration,
    p99: Duration,
    max: Duration,
    failures: Vec<String>,
    notes: Vec<String>,
}

impl Row {
    /// The times are those of checks of keys that nobody revoked and that were allowed.
    pub fn of(name: &'static str, tally: &Tally) -> Self {
        let row = Self {
            name,
            tried: tally.tried,
            wrong_allows: tally.wrong_allows,
            wrong_denials: tally.wrong_denials,
            unavailable: tally.unavailable,
            longest_loss: tally.longest_loss,
            p50: Duration::ZERO,
            p99: Duration::ZERO,
            max: Duration::ZERO,
            failures: Vec::new(),
            notes: Vec::new(),
        };
        row.timed(tally.times.clone())
    }

    /// With these times instead.
    pub fn timed(mut self, mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |percent: usize| times.get(times.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default();
        (self.p50, self.p99, self.max) = (at(50), at(99), at(100));
        self
    }

    pub fn p99(&self) -> Duration {
        self.p99
    }

    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.notes.push(note.into());
        self
    }

    /// What must hold besides for the row to pass.
    pub fn demand(mut self, holds: bool, otherwise: impl Into<String>) -> Self {
        if !holds {
            self.failures.push(otherwise.into());
        }
        self
    }

    fn passes(&self) -> bool {
        self.wrong_allows == 0 && self.wrong_denials == 0 && self.tried > 0 && self.failures.is_empty()
    }

    /// Writes the row of a full experiment down, and fails the test unless it passes.
    pub fn conclude(self, scale: Scale) {
        let pass = self.passes();
        println!("{self:#?}");
        if scale == Scale::Full {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/chaos");
            fs::create_dir_all(&folder).unwrap();
            let text = serde_json::to_string_pretty(&self.json(pass)).unwrap();
            fs::write(folder.join(format!("{}.json", self.name)), text).unwrap();
        }
        assert!(pass, "{} does not hold: {:?}", self.name, self.failures);
    }

    fn json(&self, pass: bool) -> serde_json::Value {
        let milliseconds = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
        let build = if cfg!(debug_assertions) { "debug build" } else { "release build" };
        let service =
            format!("{} unavailable, longest loss of service {} ms", self.unavailable, self.longest_loss.as_millis());
        let notes = [build.to_owned(), service].into_iter().chain(self.notes.iter().cloned());
        let failures = self.failures.iter().map(|failure| format!("FAILED: {failure}"));
        json!({
            "name": self.name,
            "tried": self.tried,
            "wrong_allows": self.wrong_allows,
            "wrong_denials": self.wrong_denials,
            "p50_ms": milliseconds(self.p50),
            "p99_ms": milliseconds(self.p99),
            "max_ms": milliseconds(self.max),
            "pass": pass,
            "note": notes.chain(failures).collect::<Vec<_>>().join("; "),
        })
    }
}
