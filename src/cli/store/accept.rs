//! `tollgate store accept`: what a store has lost, as far as anybody knows, and the operator's word that it is right all the same.
//! Changes nothing before that word.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::Args;
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;

use super::super::output::{self, Format, Table, fields};
use super::super::{Exit, Failure, connect, invalid};
use super::{failed, operators_row};
use crate::config::{self, RedisSettings, StoreSettings};
use crate::domain::record::AuditEntry;
use crate::fleet::position;
use crate::pepper;
use crate::store::redis::Redis;
use crate::store::redis::connect::Connector;
use crate::store::redis::store_state::StoreState;

pub(super) const HELP: &str = "Examples:
  tollgate store accept --config /etc/tollgate/tollgate.yaml
  tollgate store accept --yes 3f9c01d2a7b4

Without --yes it changes nothing, says what is missing, and gives that loss a name. With that name every replica begins anew with what
the store has now, and ends again what it remembers to have ended. What was made or changed in the missing changes is not made
again. If more is missing by then, nothing is accepted, and it is shown.";

#[derive(Args, Debug)]
pub(super) struct AcceptArgs {
    /// The configuration file, with `store.redis`
    #[arg(long, value_name = "FILE", env = "TOLLGATE_CONFIG", default_value = connect::DEFAULT_CONFIG)]
    config: PathBuf,
    /// Take the store as it is, without what is missing: the name of the loss, as `store accept` prints it
    #[arg(long, value_name = "LOSS")]
    yes: Option<String>,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// What is known of a store.
struct Look {
    standing: StoreState,
    /// The newest change that anybody has known.
    known: u64,
}

pub(super) async fn run(args: &AcceptArgs) -> Result<(), Failure> {
    let settings = config::load(&args.config).map_err(|problems| invalid(&args.config, &problems))?.settings;
    let pepper = settings.pepper;
    let StoreSettings::Redis(settings) = settings.store else {
        let problem =
            format!("`store accept` needs `store.redis`, and {} has an embedded store", args.config.display());
        return Err(Failure::new(Exit::Configuration, problem));
    };
    let connector = Connector::open(settings.location.clone()).map_err(|error| failed(&error))?;
    let redis = Redis::new(connector, Handle::current());
    let standing = redis.standing().await.map_err(|error| failed(&error))?;
    let look = Look { known: newest_known(&standing, &settings), standing };
    let is_shown = args.yes.as_ref().is_none_or(|shown| *shown == look.name());
    let accepted = match &args.yes {
        Some(_) if is_shown => {
            if look.standing.format.has_signatures() {
                // It is told to the replicas in an entry of the log that they believe.
                let signers = pepper::read_signers(&pepper);
                redis.trust().set_signers(signers.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?);
            }
            Some(redis.accept(&look.standing, &look.row()).await.map_err(|error| failed(&error))?)
        }
        _ => None,
    };
    match args.output {
        Format::Json => output::print(&output::json(&look.as_json(accepted.as_ref()))?)?,
        Format::Table => output::print(&look.as_text(accepted.as_ref(), output::is_colourful()))?,
    }
    if is_shown {
        return Ok(());
    }
    let problem = "nothing was accepted: what is missing is not what was shown under that name. Look at it, and accept it by its own";
    Err(Failure::new(Exit::Failed, problem))
}

/// By the replicas that refuse everything, and by what one on this machine has remembered of the same history.
fn newest_known(standing: &StoreState, settings: &RedisSettings) -> u64 {
    let remembered = settings.position.as_deref().and_then(|path| position::read(path).ok().flatten());
    let here = remembered.map(|kept| kept.remembered.place).filter(|place| place.lineage == standing.lineage);
    let here = here.map(|place| place.position.sequence);
    standing
        .witnesses
        .iter()
        .map(|witness| witness.known)
        .chain(here)
        .chain([standing.missed])
        .fold(standing.sequence, u64::max)
}

impl Look {
    /// Of this very loss: another one for whatever else would be accepted.
    fn name(&self) -> String {
        let StoreState { lineage, sequence, chain, log, witnesses, .. } = &self.standing;
        let missed: BTreeSet<&String> = witnesses.iter().flat_map(|witness| &witness.missed).collect();
        let digest = Sha256::digest(json!([lineage, sequence, chain, log, self.known, missed]).to_string());
        HEXLOWER.encode(&digest[..6])
    }

    /// That it was accepted.
    fn row(&self) -> AuditEntry {
        let missing = self.missing().unwrap_or_else(|| "nothing that anybody knows by its number".to_owned());
        operators_row(
            "store.accept",
            &format!("lineage:{}", self.standing.lineage),
            Some(format!("missing: {missing}")),
        )
    }

    fn missing(&self) -> Option<String> {
        let Self { standing: StoreState { sequence, witnesses, .. }, known } = self;
        if known > sequence {
            return Some(format!("changes {} to {known}, as far as anybody knows", sequence + 1));
        }
        let newest = witnesses.iter().map(|witness| witness.known).max()?;
        Some(format!("changes up to {newest}: the store went back, and has others of the same numbers now"))
    }

    fn as_json(&self, accepted: Option<&(String, u64)>) -> Value {
        let standing = &self.standing;
        let witness = standing.witnesses.iter().map(
            |witness| json!({"id": witness.id, "name": witness.name, "known": witness.known, "missed": witness.missed}),
        );
        json!({
            "lineage": standing.lineage,
            "sequence": standing.sequence,
            "log": standing.log,
            "known": self.known,
            "missing": self.missing(),
            "loss": self.name(),
            "replicas": witness.collect::<Vec<_>>(),
            "accepted": accepted.map(|(lineage, sequence)| json!({"lineage": lineage, "sequence": sequence})),
        })
    }

    fn as_text(&self, accepted: Option<&(String, u64)>, colourful: bool) -> String {
        let standing = &self.standing;
        let log = match (standing.log == standing.sequence, standing.log) {
            (true, _) => "whole".to_owned(),
            (false, 0) => "missing".to_owned(),
            (false, log) => format!("ends with number {log}"),
        };
        let mut text = fields(&[
            ("Store", format!("{} changes", standing.sequence)),
            ("Lineage", standing.lineage.clone()),
            ("Log", log),
            ("Missing", self.missing().unwrap_or_else(|| "nothing that anybody knows by its number".to_owned())),
        ]);
        if !standing.witnesses.is_empty() {
            let mut table = Table::new(&["REPLICA", "KNOWS UP TO", "ENDED OR CHANGED, AND PERHAPS NOT IN THE STORE"]);
            for witness in &standing.witnesses {
                let missed = if witness.missed.is_empty() { "-".to_owned() } else { witness.missed.join(", ") };
                table.row(vec![
                    witness.name.as_str().into(),
                    witness.known.to_string().as_str().into(),
                    missed.as_str().into(),
                ]);
            }
            text.push('\n');
            text.push_str(&table.render(colourful));
        }
        text.push('\n');
        text.push_str(&match accepted {
            Some((lineage, sequence)) => format!(
                "Accepted as lineage {lineage}, with change {sequence}. Every replica begins anew, and ends again what it \
                 remembers to have ended.\n"
            ),
            None => format!(
                "To restore: put back a copy that has what is missing; the replicas go on by themselves.\n\
                 To accept:  run this again with --yes {}; what was made or changed in what is missing is gone.\n",
                self.name()
            ),
        });
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::format::Format;
    use crate::store::redis::ReplicaAhead;

    /// A store with seven changes, and replicas that have known so many.
    fn look(chain: &str, known: &[u64]) -> Look {
        let witness =
            |known: &u64| ReplicaAhead { id: "i".to_owned(), name: "n".to_owned(), known: *known, missed: vec![] };
        let standing = StoreState {
            lineage: "one".to_owned(),
            format: Format::NEWEST,
            sequence: 7,
            chain: chain.to_owned(),
            log: 7,
            missed: 0,
            witnesses: known.iter().map(witness).collect(),
            was: Vec::new(),
            copied: None,
        };
        Look { standing, known: known.iter().copied().fold(7, u64::max) }
    }

    #[test]
    fn each_loss_has_a_name_of_its_own() {
        assert_eq!(look("a", &[9]).name(), look("a", &[9]).name());
        // Two copies of one store that have gone on differently.
        assert_ne!(look("a", &[9]).name(), look("b", &[9]).name());
        assert_ne!(look("a", &[9]).name(), look("a", &[8]).name());
    }

    #[test]
    fn what_is_missing_is_said_also_where_the_store_has_gone_on() {
        assert_eq!(look("a", &[]).missing(), None);
        assert!(look("a", &[9]).missing().unwrap().contains("changes 8 to 9"));
        for known in [[7, 7], [7, 6]] {
            let missing = look("a", &known).missing().unwrap();
            assert!(missing.contains("changes up to 7: the store went back"), "{missing}");
        }
    }
}
