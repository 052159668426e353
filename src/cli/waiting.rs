//! `--wait`: a change that is answered when every replica has confirmed it, and what is said of those that have not. Never takes
//! a change for undone because a replica lags.

use std::time::Duration;

use clap::Args;
use serde_json::Value;

use super::output::read;
use super::output::{note, printable};
use super::{Exit, Failure, duration};
use crate::server::admin::wire::fleet::{ReplicaName, WaitBody};

#[derive(Clone, Copy, Debug, Args)]
pub struct WaitArgs {
    /// Wait until every replica has applied the change, for at most 5s, or as long as you say, from 2s to 8s
    #[arg(long, value_name = "LIMIT", value_parser = limit, num_args = 0..=1, require_equals = true, default_missing_value = "5s")]
    wait: Option<Duration>,
}

fn limit(text: &str) -> Result<Duration, String> {
    match duration::parse(text)? {
        limit if (2..=8).contains(&limit.as_secs()) => Ok(limit),
        _ => Err("wait from 2s to 8s".to_owned()),
    }
}

impl WaitArgs {
    /// A path that asks for this.
    pub fn on(self, path: &str) -> String {
        match self.wait {
            Some(limit) => format!("{path}?wait=fleet&limit={}s", limit.as_secs()),
            None => path.to_owned(),
        }
    }

    /// Says who has confirmed the change that was answered.
    ///
    /// # Errors
    /// [`Exit::Lagging`] if a replica may still act on what was before.
    pub fn tell(self, answer: &Value) -> Result<(), Failure> {
        if self.wait.is_none() {
            return Ok(());
        }
        let fleet: WaitBody = read(answer["fleet"].clone())?;
        note(&confirmed(&fleet));
        if fleet.is_everywhere() {
            return Ok(());
        }
        if let Some(why) = &fleet.unknown {
            let problem = format!(
                "the change is made, and the replicas could not be asked whether they have it ({}): see `tollgate fleet`",
                printable(why)
            );
            return Err(Failure::new(Exit::Lagging, problem));
        }
        let problem = format!(
            "the change is made, and these replicas may not have it yet: {}. Run the command again, or see `tollgate fleet` (level: {})",
            listed(&fleet.lagging),
            printable(&fleet.level)
        );
        Err(Failure::new(Exit::Lagging, problem))
    }
}

fn confirmed(fleet: &WaitBody) -> String {
    let replicas = if fleet.confirmed == 1 { "replica" } else { "replicas" };
    let mut text = format!("Confirmed by {} {replicas}.", fleet.confirmed);
    if !fleet.fenced.is_empty() {
        text.push_str(&format!(" Silent, and unable to allow anything: {}.", listed(&fleet.fenced)));
    }
    text
}

fn listed(replicas: &[ReplicaName]) -> String {
    let shown = |replica: &ReplicaName| {
        let mut text = printable(replica.name.as_deref().unwrap_or(&replica.id));
        if replica.grace_seconds > 0 {
            text.push_str(&format!(" (goes on for {} s without the store)", replica.grace_seconds));
        }
        text
    };
    replicas.iter().map(shown).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn answer(fenced: &[&str], lagging: &[(&str, u64)]) -> Value {
        let replica = |name: &str, grace: u64| json!({"id": "1", "name": name, "grace_seconds": grace});
        let fenced: Vec<Value> = fenced.iter().map(|name| replica(name, 0)).collect();
        let lagging: Vec<Value> = lagging.iter().map(|(name, grace)| replica(name, *grace)).collect();
        json!({"id": "k", "fleet":
            {"level": "bounded (1 s)", "sequence": 7, "confirmed": 2, "fenced": fenced, "lagging": lagging,
            "unknown": null}})
    }

    #[test]
    fn only_who_lags_is_a_failure_and_is_named() {
        let waiting = WaitArgs { wait: Some(Duration::from_secs(3)) };
        assert_eq!(waiting.on("/keys/k"), "/keys/k?wait=fleet&limit=3s");
        assert_eq!(waiting.tell(&answer(&[], &[])), Ok(()));
        assert_eq!(waiting.tell(&answer(&["gpu-1"], &[])), Ok(()));
        let lagging = waiting.tell(&answer(&[], &[("gpu-2", 0), ("gpu\u{1b}-3", 30)])).unwrap_err();
        assert_eq!(lagging.exit, Exit::Lagging);
        assert!(lagging.message.contains("gpu-2, gpu\u{fffd}-3 (goes on for 30 s"), "{lagging}");
        let mut unknown = answer(&[], &[]);
        unknown["fleet"]["unknown"] = json!("Nobody could be asked.");
        let failure = waiting.tell(&unknown).unwrap_err();
        assert!(failure.exit == Exit::Lagging && failure.message.contains("Nobody could be asked"), "{failure}");
        // A server that did not wait has not confirmed anything.
        assert_eq!(waiting.tell(&json!({"id": "k"})).unwrap_err().exit, Exit::Failed);
        let not = WaitArgs { wait: None };
        assert_eq!((not.on("/keys/k"), not.tell(&json!({"id": "k"}))), ("/keys/k".to_owned(), Ok(())));
    }

    #[test]
    fn who_confirmed_is_counted_and_who_is_fenced_is_named() {
        let fleet = |answer: Value| confirmed(&read(answer["fleet"].clone()).unwrap());
        assert_eq!(fleet(answer(&[], &[])), "Confirmed by 2 replicas.");
        let text = fleet(answer(&["gpu-1", "gpu-2"], &[]));
        assert_eq!(text, "Confirmed by 2 replicas. Silent, and unable to allow anything: gpu-1, gpu-2.");
        for bad in ["0s", "1s", "9s", "5", "1m"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }
}
