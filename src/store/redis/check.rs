//! What `tollgate store check` finds out about a fleet's store: what its server guarantees, and whether what stands in it holds
//! together. Changes nothing, and never takes a store that is not there for one without records.
//!
//! Something new to look for is a function from what was [`Seen`] to a [`Finding`], and a line of [`LOOKS`].

use super::Redis;
use super::scripts::{CHECK, ScriptError, run};
use super::survey::{Finding, Severity, Survey};
use crate::store::StoreError;
use crate::store::format::Format;
use crate::store::keyspace::redis as names;

/// A store and its server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    pub survey: Survey,
    pub seen: Seen,
    /// Of the server and of the store, the gravest first.
    pub findings: Vec<Finding>,
}

/// What stands in a store, of one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// `None`: there is no head.
    pub lineage: Option<String>,
    /// The newest change, as the head says it.
    pub sequence: u64,
    chain: String,
    format: u64,
    /// The newest entry of the log; zero: it is empty.
    newest: u64,
    newest_chain: String,
    /// How many replicas are listed.
    pub members: u64,
    /// How many the head has counted; zero: it does not count them.
    counted: u64,
    /// A change that a replica has known and misses; zero: none does.
    missed: u64,
}

/// Everything that is looked for in a store.
const LOOKS: [fn(&Seen) -> Option<Finding>; 8] = [
    has_head,
    format_is_known,
    log_is_whole,
    log_ends_at_head,
    log_is_the_heads,
    nobody_misses,
    members_are_listed,
    is_signed,
];

impl Check {
    /// # Errors
    /// [`StoreError::Unavailable`] if the server cannot be asked.
    pub async fn of(redis: &Redis) -> Result<Self, StoreError> {
        let survey = Survey::of(redis.connector()).await?;
        let seen = Seen::of(redis).await?;
        let mut findings = survey.findings.clone();
        findings.extend(LOOKS.iter().filter_map(|look| look(&seen)));
        findings.sort_by_key(|finding| finding.severity);
        Ok(Self { survey, seen, findings })
    }

    /// How grave the gravest is.
    pub fn gravest(&self) -> Option<Severity> {
        self.findings.first().map(|finding| finding.severity)
    }
}

impl Seen {
    async fn of(redis: &Redis) -> Result<Self, StoreError> {
        let mut script = CHECK.prepare_invoke();
        script.key(names::HEAD).key(names::LOG).key(names::MEMBERS);
        let mut connection = redis.connector().primary().await?;
        let mut answer = run(&mut connection, &script).await.map_err(ScriptError::into_error)?;
        let lineage = answer.text()?;
        let (sequence, chain, format) = (answer.number()?, answer.text()?, answer.number()?);
        let (newest, newest_chain, members) = (answer.number()?, answer.text()?, answer.number()?);
        let (counted, missed) = (answer.number()?, answer.number()?);
        let lineage = (!lineage.is_empty()).then_some(lineage);
        Ok(Self { lineage, sequence, chain, format, newest, newest_chain, members, counted, missed })
    }

    /// Whether its records can be read.
    pub fn is_readable(&self) -> bool {
        self.lineage.is_some() && Format::of_head(self.format).is_ok()
    }

    /// The format, in words.
    pub fn format(&self) -> String {
        match Format::of_head(self.format) {
            Ok(format) if format.is_under_way() => format!("{}, under way", format.written()),
            Ok(format) => format.written().to_string(),
            Err(_) => self.format.to_string(),
        }
    }
}

fn refuse(what: impl Into<String>, remedy: &str) -> Finding {
    Finding { severity: Severity::Refuse, what: what.into(), remedy: remedy.to_owned() }
}

const RESTORE: &str =
    "stop every Tollgate and restore a backup, or see \"A store that has come back empty\" in docs/fleet.md";

fn has_head(seen: &Seen) -> Option<Finding> {
    if seen.lineage.is_some() {
        return None;
    }
    let finding = if seen.newest > 0 || seen.members > 0 {
        refuse("the head of the store is gone, and other parts of it are there", RESTORE)
    } else {
        let remedy = "run `tollgate store init`, once, if this is the right server and there has never been one; else restore it";
        refuse("there is no store on this server", remedy)
    };
    Some(finding)
}

fn is_signed(seen: &Seen) -> Option<Finding> {
    seen.lineage.as_ref()?;
    let format = Format::of_head(seen.format).ok()?;
    (!format.demands_signatures()).then(|| Finding {
        severity: Severity::Warn,
        what: format!("the store has format {format}, in which records need no signature: whoever can write it can mint keys"),
        remedy: "run `tollgate store upgrade` once every Tollgate on it is of this release, and set `store.signed: required` then"
            .to_owned(),
    })
}

fn format_is_known(seen: &Seen) -> Option<Finding> {
    seen.lineage.as_ref()?;
    let error = Format::of_head(seen.format).err()?;
    Some(refuse(
        error.to_string(),
        "use the release of Tollgate that wrote it, or finish the `store upgrade` or `store migrate` that was interrupted",
    ))
}

/// The log is trimmed at its other end only.
fn log_is_whole(seen: &Seen) -> Option<Finding> {
    seen.lineage.as_ref()?;
    let what = format!("the newest entry of the log is number {}, and the head says {}", seen.newest, seen.sequence);
    (seen.newest < seen.sequence).then(|| refuse(format!("{what}: changes were lost"), RESTORE))
}

fn log_ends_at_head(seen: &Seen) -> Option<Finding> {
    seen.lineage.as_ref()?;
    let what = format!("the log goes on to number {}, and the head says {}", seen.newest, seen.sequence);
    (seen.newest > seen.sequence).then(|| refuse(format!("{what}: every change is refused"), RESTORE))
}

fn log_is_the_heads(seen: &Seen) -> Option<Finding> {
    let is_another = seen.newest > 0 && seen.newest == seen.sequence && seen.newest_chain != seen.chain;
    is_another.then(|| refuse("the newest entry of the log is not the one that the head names", RESTORE))
}

fn nobody_misses(seen: &Seen) -> Option<Finding> {
    let what =
        format!("a replica has known change number {} as it is not there, so everything is refused", seen.missed);
    let remedy = "restore what was there, or look at it with `tollgate store accept` and take it as it is";
    (seen.missed > 0).then(|| refuse(what, remedy))
}

fn members_are_listed(seen: &Seen) -> Option<Finding> {
    let missing = seen.counted.checked_sub(seen.members).filter(|missing| *missing > 0)?;
    Some(Finding {
        severity: Severity::Warn,
        what: format!("{missing} replicas that have been counted are not listed any more: the list was lost"),
        remedy: "nothing: those that run list themselves again, and `--wait` waits for the others or names them"
            .to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is done to a sound one, and what is found then.
    type Row = (fn(&mut Seen), &'static [&'static str]);

    fn sound() -> Seen {
        let (lineage, chain) = (Some("l".to_owned()), "c".to_owned());
        let newest_chain = chain.clone();
        let format = Format::NEWEST.in_head();
        Seen { lineage, sequence: 7, chain, format, newest: 7, newest_chain, members: 1, counted: 1, missed: 0 }
    }

    #[test]
    fn what_is_found_in_a_store() {
        let rows: [Row; 12] = [
            (|_| {}, &[]),
            (|seen| (seen.sequence, seen.newest, seen.newest_chain) = (0, 0, String::new()), &[]),
            (|seen| *seen = Seen::default(), &["there is no store"]),
            (|seen| seen.lineage = None, &["the head of the store is gone"]),
            (|seen| (seen.lineage, seen.newest) = (None, 0), &["the head of the store is gone"]),
            (|seen| seen.format = 99, &["99"]),
            (|seen| (seen.newest, seen.newest_chain) = (0, String::new()), &["changes were lost"]),
            (|seen| seen.newest = 9, &["every change is refused"]),
            (|seen| seen.missed = 8, &["has known change number 8"]),
            (|seen| seen.counted = 3, &["2 replicas that have been counted"]),
            (|seen| seen.counted = 0, &[]),
            (|seen| seen.newest_chain = "other".to_owned(), &["not the one that the head names"]),
        ];
        for (change, expected) in rows {
            let mut seen = sound();
            change(&mut seen);
            let found: Vec<_> = LOOKS.iter().filter_map(|look| look(&seen)).collect();
            let fits = found.len() == expected.len()
                && found.iter().zip(expected).all(|(finding, part)| finding.what.contains(part));
            assert!(fits && found.iter().all(|finding| !finding.remedy.is_empty()), "{seen:?}: {found:?}");
        }
    }
}
