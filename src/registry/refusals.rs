//! How far one actor, and all actors of one project together, can make the audit log grow by being refused. Never lets the
//! refusals of one project hide those of another.

use std::collections::HashMap;

use tollgate_guard::time::Moment;

/// How many refusals of one actor are written down in a minute. The log of the process has the others.
pub(super) const A_MINUTE: u32 = 120;
/// The same of all who are bound to one project: each of its keys is an actor.
pub(super) const A_MINUTE_OF_PROJECT: u32 = 600;
/// So many actors are told apart in a minute; of more, none is written down.
const MOST_ACTORS: usize = 10_000;

/// The refusals of the current minute.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    minute: u64,
    by_actor: HashMap<String, u32>,
    by_project: HashMap<String, u32>,
}

impl Refusals {
    /// Whether another refusal of this actor is written down. `project`: the one that the actor is bound to.
    pub(super) fn admit(&mut self, actor: &str, project: Option<&str>, now: Moment) -> bool {
        let minute = now.as_millis() / 60_000;
        if minute != self.minute {
            *self = Self { minute, ..Self::default() };
        }
        if self.by_actor.len() >= MOST_ACTORS && !self.by_actor.contains_key(actor) {
            return false;
        }
        let of_actor = self.by_actor.entry(actor.to_owned()).or_default();
        if *of_actor >= A_MINUTE {
            return false;
        }
        if let Some(project) = project {
            // No more of these than there are actors.
            let of_project = self.by_project.entry(project.to_owned()).or_default();
            if *of_project >= A_MINUTE_OF_PROJECT {
                return false;
            }
            *of_project += 1;
        }
        *of_actor += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_actor_has_as_many_a_minute() {
        let mut refusals = Refusals::default();
        let mut written = |actor: &str, seconds: u64| {
            let now = Moment::from_millis(1000 * seconds);
            (0..A_MINUTE * 2).filter(|_| refusals.admit(actor, None, now)).count()
        };
        let most = A_MINUTE as usize;
        assert_eq!([written("a", 60), written("b", 119), written("a", 119), written("a", 120)], [most, most, 0, most]);
    }

    #[test]
    fn the_keys_of_one_project_share_what_it_has() {
        let mut refusals = Refusals::default();
        let now = Moment::from_millis(60_000);
        let mut written = |project: &str, actors: usize| {
            let attempts = (0..actors * 2 * A_MINUTE as usize).map(|n| format!("{project}-{}", n % actors));
            attempts.filter(|actor| refusals.admit(actor, Some(project), now)).count()
        };
        assert_eq!(written("acme", 100), A_MINUTE_OF_PROJECT as usize);
        assert_eq!(written("beta", 1), A_MINUTE as usize, "others are not hidden by it");
        assert_eq!(written("gamma", MOST_ACTORS), A_MINUTE_OF_PROJECT as usize);
        assert!(refusals.by_actor.len() <= MOST_ACTORS);
    }
}
