//! How fast one actor, and everybody of one project together, may make and change things. Never refuses what ends something, nor
//! the operator, and never grows without bound.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tollgate_guard::time::Moment;

use super::tombstones::Tombstones;
use crate::store::{Counted, Quota, Write};

/// So many actors, and as many projects, are told apart at a time.
const MOST_NAMES: usize = 10_000;

/// How much may be made, and how fast.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub rates: Rates,
    pub quotas: Quotas,
    /// How long rows of the audit log are kept; `None`: for good.
    pub audit_kept: Option<Duration>,
    /// What becomes of revoked keys; `None`: they stay.
    pub tombstones: Option<Tombstones>,
}

/// How many things one project may have, ended ones included.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    pub each: ProjectQuotas,
    /// Instead, for these projects.
    pub projects: HashMap<String, ProjectQuotas>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProjectQuotas {
    pub keys: u64,
    pub users: u64,
    pub resources: u64,
}

impl Default for ProjectQuotas {
    fn default() -> Self {
        Self { keys: 100_000, users: 10_000, resources: 1_000_000 }
    }
}

impl Quotas {
    /// What the store is to check before something is made in a project.
    pub(super) fn step(&self, counted: Counted, project: &str) -> Write {
        let quotas = self.projects.get(project).unwrap_or(&self.each);
        let most = match counted {
            Counted::Keys => quotas.keys,
            Counted::Users => quotas.users,
            Counted::Resources => quotas.resources,
        };
        Write::Quota(Quota { counted, project: project.to_owned(), most })
    }
}

/// Of changes that make something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rates {
    /// Of one actor.
    pub actor: Rate,
    /// Of all actors of one project.
    pub project: Rate,
}

impl Default for Rates {
    fn default() -> Self {
        Self { actor: Rate { burst: 300, per_second: 5 }, project: Rate { burst: 1_000, per_second: 10 } }
    }
}

/// So many at once, and then so many a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    pub burst: u32,
    /// At least 1.
    pub per_second: u32,
}

/// What was done of late.
#[derive(Debug, Default)]
pub(super) struct Paces {
    /// What was made or changed.
    pub(super) made: Pace,
    /// Sessions that began.
    pub(super) begun: Pace,
}

#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<Made>);

#[derive(Debug, Default)]
struct Made {
    actors: Buckets,
    projects: Buckets,
}

impl Pace {
    /// Whether one more may be made; if not, when, and nothing is counted.
    pub(super) fn admit(
        &self,
        rates: &Rates,
        actor: &str,
        project: Option<&str>,
        now: Moment,
    ) -> Result<(), (Duration, LimitedBy)> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Made { actors, projects } = &mut *made;
        let of_actor = actors.look(rates.actor, actor, now).map_err(|wait| (wait, LimitedBy::Actor))?;
        if let Some(project) = project {
            let of_project = projects.look(rates.project, project, now).map_err(|wait| (wait, LimitedBy::Project))?;
            projects.set(project, of_project, now);
        }
        actors.set(actor, of_actor, now);
        Ok(())
    }
}

/// Whose rate is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LimitedBy {
    Actor,
    Project,
}

/// When all that somebody has made will be forgotten, in microseconds, by the generic cell rate algorithm.
#[derive(Debug, Default)]
struct Buckets(HashMap<String, u64>);

impl Buckets {
    /// What the bucket is after one more.
    fn look(&self, rate: Rate, name: &str, now: Moment) -> Result<u64, Duration> {
        let (now, each) = (micros(now), 1_000_000 / u64::from(rate.per_second.max(1)));
        let next = self.0.get(name).copied().unwrap_or_default().max(now).saturating_add(each);
        let most = now.saturating_add(each.saturating_mul(u64::from(rate.burst.max(1))));
        if next <= most { Ok(next) } else { Err(Duration::from_micros(next - most)) }
    }

    fn set(&mut self, name: &str, until: u64, now: Moment) {
        if self.0.len() >= MOST_NAMES && !self.0.contains_key(name) {
            let now = micros(now);
            self.0.retain(|_, until| *until > now);
            // All of them are busy: whoever has made least is forgotten.
            if self.0.len() >= MOST_NAMES
                && let Some(least) = self.0.iter().min_by_key(|(_, until)| **until).map(|(name, _)| name.clone())
            {
                self.0.remove(&least);
            }
        }
        self.0.insert(name.to_owned(), until);
    }
}

fn micros(moment: Moment) -> u64 {
    moment.as_millis().saturating_mul(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATES: Rates = Rates { actor: Rate { burst: 10, per_second: 2 }, project: Rate { burst: 25, per_second: 4 } };

    fn made(pace: &Pace, actor: &str, project: Option<&str>, second: u64) -> usize {
        let now = Moment::from_millis(1000 * second);
        (0..1000).take_while(|_| pace.admit(&RATES, actor, project, now).is_ok()).count()
    }

    #[test]
    fn each_actor_and_each_project_has_a_rate() {
        let pace = Pace::default();
        assert_eq!(made(&pace, "a", Some("acme"), 1), 10);
        assert_eq!(made(&pace, "a", Some("acme"), 1), 0);
        assert_eq!(made(&pace, "a", Some("acme"), 2), 2);
        assert_eq!(
            [made(&pace, "b", Some("acme"), 2), made(&pace, "c", Some("acme"), 2)],
            [10, 7],
            "25 and 4 a second"
        );
        assert_eq!([made(&pace, "d", Some("beta"), 2), made(&pace, "e", None, 2)], [10, 10], "others do not notice");
        let refused = pace.admit(&RATES, "c", Some("acme"), Moment::from_millis(2000));
        assert_eq!(refused, Err((Duration::from_millis(250), LimitedBy::Project)));
        let refused = pace.admit(&RATES, "a", Some("acme"), Moment::from_millis(2000));
        assert_eq!(refused, Err((Duration::from_millis(500), LimitedBy::Actor)));
    }

    #[test]
    fn names_without_end_take_no_room_without_end() {
        let pace = Pace::default();
        assert_eq!(made(&pace, "a", None, 1), 10);
        for n in 0..MOST_NAMES + 100 {
            assert!(pace.admit(&RATES, &n.to_string(), None, Moment::from_millis(1000)).is_ok());
        }
        assert_eq!(pace.0.lock().unwrap().actors.0.len(), MOST_NAMES);
        assert_eq!(made(&pace, "a", None, 1), 0, "who has made most is remembered");
    }
}
