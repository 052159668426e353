//! `tollgate store check`: what a fleet's store and its server are found to be. Changes nothing, and asks no Tollgate.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::{as_findings, failed, findings_table};
use crate::cli::output::{self, Format, fields};
use crate::cli::{Exit, Failure, connect, invalid};
use crate::config::{self, StoreSettings};
use crate::store::redis::Redis;
use crate::store::redis::check::Check;
use crate::store::redis::connect::Connector;
use crate::store::redis::survey::Severity;

pub(super) const HELP: &str = "Examples:
  tollgate store check --config /etc/tollgate/tollgate.yaml
  tollgate store check -o json

It changes nothing, and may be run at any time, as from a timer. Exit codes: 0 where there is nothing but notes, 7 where
something should be mended (warn), 8 where Tollgate cannot work with this store (refuse), 4 where the server cannot be asked.";

#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The configuration file, with `store.redis`
    #[arg(long, value_name = "FILE", env = "TOLLGATE_CONFIG", default_value = connect::DEFAULT_CONFIG)]
    config: PathBuf,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

pub async fn run(args: &CheckArgs) -> Result<(), Failure> {
    let settings = config::load(&args.config).map_err(|problems| invalid(&args.config, &problems))?.settings;
    let StoreSettings::Redis(redis) = settings.store else {
        let problem =
            format!("{} has an embedded store: what is checked is the server of a fleet", args.config.display());
        return Err(Failure::new(Exit::Configuration, problem));
    };
    let connector = Connector::open(redis.location).map_err(|error| failed(&error))?;
    let redis = Redis::new(connector, Handle::current());
    let check = Check::of(&redis).await.map_err(|error| failed(&error))?;
    match args.output {
        Format::Json => output::print(&output::json(&as_json(&check))?)?,
        Format::Table => output::print(&as_text(&check, output::is_colourful()))?,
    }
    match check.gravest() {
        Some(Severity::Refuse) => Err(Failure::new(Exit::Unfit, "Tollgate cannot work with this store: see above")),
        Some(Severity::Warn) => Err(Failure::new(Exit::Warned, "something should be mended: see above")),
        Some(Severity::Note) | None => Ok(()),
    }
}

fn as_json(check: &Check) -> Value {
    let (survey, seen) = (&check.survey, &check.seen);
    json!({
        "lineage": seen.lineage,
        "sequence": seen.sequence,
        "format": seen.format(),
        "replicas": seen.members,
        "server": {"engine": survey.engine.to_string(), "version": survey.version.to_string()},
        "level": survey.level.to_string(),
        "findings": as_findings(&check.findings),
    })
}

fn as_text(check: &Check, colourful: bool) -> String {
    let (survey, seen) = (&check.survey, &check.seen);
    let store = match &seen.lineage {
        Some(_) => format!("there, with {} changes", seen.sequence),
        None => "not there".to_owned(),
    };
    let mut text = fields(&[
        ("Store", store),
        ("Lineage", seen.lineage.clone().unwrap_or_else(|| "-".to_owned())),
        ("Format", seen.format()),
        ("Replicas", seen.members.to_string()),
        ("Server", format!("{} {}", survey.engine, survey.version)),
        ("Revocation", survey.level.to_string()),
    ]);
    if check.findings.is_empty() {
        text.push_str("\nNothing was found.\n");
    } else {
        text.push_str(&findings_table(&check.findings, colourful));
    }
    text
}
