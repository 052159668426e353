//! How far one actor can make the audit log grow by being refused. Never lets the refusals of one hide those of another.

use std::collections::HashMap;

use crate::domain::time::Timestamp;

/// How many refusals of one actor are written down in a minute. The log of the process has the others.
pub(super) const A_MINUTE: u32 = 120;

/// The refusals of the current minute.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    minute: u64,
    by_actor: HashMap<String, u32>,
}

impl Refusals {
    /// Whether another refusal of this actor is written down.
    pub(super) fn admit(&mut self, actor: &str, now: Timestamp) -> bool {
        let minute = now.as_secs() / 60;
        if minute != self.minute {
            *self = Self { minute, by_actor: HashMap::new() };
        }
        let count = self.by_actor.entry(actor.to_owned()).or_default();
        *count = count.saturating_add(1);
        *count <= A_MINUTE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_actor_has_as_many_a_minute() {
        let mut refusals = Refusals::default();
        let mut written = |actor: &str, seconds: u64| {
            (0..A_MINUTE * 2).filter(|_| refusals.admit(actor, Timestamp::from_secs(seconds))).count()
        };
        let most = A_MINUTE as usize;
        assert_eq!([written("a", 60), written("b", 119), written("a", 119), written("a", 120)], [most, most, 0, most]);
        assert_eq!(written("a", 60), most, "a clock that was set back stops nothing");
    }
}
