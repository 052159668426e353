//! What a replica asks and tells when its store is not what it was: whether there was a failover, what is missing, what is to be
//! remembered. Never decides that something was lost: `channel.rs` of the guard does.

use std::sync::Arc;
use std::time::Duration;

use tollgate_guard::protocol::{Loss, MemberState, Term};

use super::{Driver, Joining, LOOK_ROUND};
use crate::domain::change::Renewal;
use crate::store::StoreError;
use crate::store::redis::survey::{Finding, Survey};

/// How often somebody is asked for a failover that would explain what the store has lost.
const ASK_TERM: Duration = Duration::from_secs(1);
/// How much of what may be lost is told.
const MOST_MISSED: usize = 20;

/// Why everything is refused, and what an operator can do.
pub fn refusal(loss: &Loss) -> String {
    let choices = match loss {
        Loss::Head => "restore what was there, or say with `tollgate store init` that it begins anew",
        _ => "restore what was there, or look at it with `tollgate store accept` and take it as it is",
    };
    format!("{loss}. Everything is refused until somebody decides: {choices}")
}

/// The first of them, and whether there are more.
fn cut(mut told: Vec<String>) -> Vec<String> {
    if told.len() > MOST_MISSED {
        told.truncate(MOST_MISSED);
        told.push("and more".to_owned());
    }
    told
}

impl Driver {
    /// What the store has now is not what it had.
    pub(super) fn refuse_all(&mut self, loss: &Loss) {
        let refused = refusal(loss);
        tracing::error!("{refused}");
        self.joining.redis.refuse(Some(refused.clone()));
        self.loss = Some(StoreError::Unavailable(refused));
    }

    /// What would be missed if it were not there any more.
    pub(super) fn missed(&self) -> Vec<String> {
        let Joining { endings, redis, .. } = &self.joining;
        let head = self.head.as_ref().map_or(0, |head| head.position.sequence);
        // A store that went on from where it went back does not say where that was.
        let common = if head < self.protocol.own().position.sequence { head } else { 0 };
        let ended = endings.ended_behind(common, MOST_MISSED + 1).iter().map(ToString::to_string).collect();
        [cut(ended), cut(redis.made_behind(common, MOST_MISSED + 1))].concat()
    }

    pub(super) fn remember(&mut self) {
        let remembered = self.protocol.remembered();
        if let Some(file) = &self.joining.file
            && remembered != self.noted
        {
            self.noted.clone_from(&remembered);
            remembered.into_iter().for_each(|remembered| file.note(remembered));
        }
    }

    pub(super) async fn ask_term(&mut self) -> Result<(), StoreError> {
        self.term_asked = self.joining.clock.moment();
        self.asking_term = None;
        self.term = self.joining.redis.connector().term().await?;
        Ok(())
    }

    /// Asks again now and then, where somebody counts failovers, and nothing waits for the answer. One that was heard of only with the
    /// next connection would explain whatever else is lost until then, be it a year later.
    pub(super) fn ask_term_again(&mut self) {
        let now = self.joining.clock.moment();
        let is_time = matches!(self.term, Term::Epoch(_) | Term::Untold) && now.since(self.term_asked) >= LOOK_ROUND;
        if is_time && self.asking_term.is_none() {
            let redis = Arc::clone(&self.joining.redis);
            self.term_asked = now;
            self.asking_term = Some(tokio::spawn(async move { redis.connector().term().await }));
        }
    }

    /// Takes a higher one. Not every sentinel knows the newest, and who knows of a failover does not forget it.
    pub(super) async fn hear_term(&mut self) {
        let Some(asked) = self.asking_term.take_if(|asking| asking.is_finished()) else { return };
        if let Ok(Ok(term)) = asked.await
            && (term.explains(self.term) || self.term == Term::Untold)
        {
            self.term = term;
        }
    }

    /// Whether a renewal shows what only a failover can explain, and nobody was asked just now.
    pub(super) fn wants_term(&self, renewal: &Renewal) -> bool {
        let is_time = self.joining.clock.moment().since(self.term_asked) >= ASK_TERM;
        if !is_time && self.protocol.own().state == MemberState::Sealed {
            return false;
        }
        match renewal {
            Renewal::Gone(_) => true,
            Renewal::Resync(head) | Renewal::Ahead { head, .. } => {
                self.protocol.lineage().is_some_and(|lineage| lineage != head.lineage)
            }
            Renewal::Lost | Renewal::Short { .. } | Renewal::Missed { .. } => false,
        }
    }

    /// Another server, or the same one with other settings, may guarantee something else. Nothing waits for the answer.
    pub(super) fn look_at_level(&self) {
        let (redis, level) = (Arc::clone(&self.joining.redis), Arc::clone(&self.ends.level));
        let findings = Arc::clone(&self.findings);
        tokio::spawn(async move {
            let Ok(survey) = Survey::of(redis.connector()).await else { return };
            for Finding { what, remedy, .. } in survey.refusals() {
                tracing::error!(remedy, "{what}");
            }
            let (now, before) = (survey.level.to_string(), level.load_full());
            if now != *before {
                tracing::warn!(%before, %now, "the store's server guarantees something else than before");
                level.store(Arc::new(now));
            }
            findings.store(Arc::new(survey.findings));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_cut_says_so() {
        let told = |count| cut((0..count).map(|n| n.to_string()).collect());
        assert_eq!(told(MOST_MISSED).len(), MOST_MISSED);
        assert_eq!(
            told(MOST_MISSED + 9).split_last().map(|(last, rest)| (&**last, rest.len())),
            Some(("and more", MOST_MISSED))
        );
    }
}
