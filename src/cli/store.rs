//! `tollgate store`: what is done once to a store, by its operator. Reaches the store itself and no Tollgate; never makes a
//! store where there is one.

mod accept;
mod check;
pub(super) mod migrate;
mod upgrade;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::output::{self, Cell, Colour, Format, Table, fields};
use super::{Exit, Failure, connect, invalid};
use crate::clock::Clock;
use crate::config::{self, Settings, StoreSettings};
use crate::domain::record::{AuditEntry, Outcome};
use crate::fleet::position;
use crate::registry::Actor;
use crate::run::store::unfit;
use crate::store::embedded::Embedded;
use crate::store::redis::connect::Connector;
use crate::store::redis::survey::{Finding, Severity, Survey};
use crate::store::redis::{Init, Redis};
use crate::store::{PepperCheck, Store, StoreError};

#[derive(Args, Debug)]
pub struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, Subcommand)]
enum StoreCommand {
    /// Make the store, once, and show what a fleet's server guarantees
    #[command(after_help = "Examples:
  tollgate store init --config /etc/tollgate/tollgate.yaml
  tollgate store init -o json

An existing store stays as it is: `tollgate store check` shows it, and what the server guarantees. An embedded store is made at
the first start; run this for one only if the pepper exists and the store was lost.

If the file of `fleet.position` remembers a store in Redis that is gone, no other one is made in its place without `--anew`. Its
keys are lost then.")]
    Init(InitArgs),
    /// Show what a fleet's store and its server are found to be, and change nothing
    #[command(after_help = check::HELP)]
    Check(check::CheckArgs),
    /// Look at a fleet's store that lost changes, and take it as it is
    #[command(after_help = accept::HELP)]
    Accept(accept::AcceptArgs),
    /// Carry everything from one store to another, and compare them
    #[command(after_help = migrate::HELP)]
    Migrate(migrate::MigrateArgs),
    /// Raise an older store to the format of this release
    #[command(after_help = upgrade::HELP)]
    Upgrade(upgrade::UpgradeArgs),
}

#[derive(Args, Debug)]
struct InitArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "TOLLGATE_CONFIG", default_value = connect::DEFAULT_CONFIG)]
    config: PathBuf,
    /// Make an empty store though `fleet.position` remembers an earlier one; the keys of that one are lost
    #[arg(long)]
    anew: bool,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

pub async fn run(args: StoreArgs) -> Result<(), Failure> {
    match args.command {
        StoreCommand::Init(args) => init(args).await,
        StoreCommand::Check(args) => check::run(&args).await,
        StoreCommand::Accept(args) => accept::run(&args).await,
        StoreCommand::Migrate(args) => migrate::run(&args).await,
        StoreCommand::Upgrade(args) => upgrade::run(&args).await,
    }
}

async fn init(args: InitArgs) -> Result<(), Failure> {
    let settings = config::load(&args.config).map_err(|problems| invalid(&args.config, &problems))?.settings;
    let redis = match settings.store {
        StoreSettings::Redis(redis) => redis,
        StoreSettings::Embedded(path) => return init_file(&path, args.output),
    };
    let connector = Connector::open(redis.location).map_err(|error| failed(&error))?;
    let survey = Survey::of(&connector).await.map_err(|error| failed(&error))?;
    if let Some(unfit) = unfit(&survey) {
        return Err(Failure::new(Exit::Failed, unfit));
    }
    let store = Redis::new(connector, Handle::current());
    if let Some(path) = redis.position.filter(|_| !args.anew) {
        refuse_if_lost(&store, &path).await?;
    }
    let made = store.init().await.map_err(|error| failed(&error))?;
    match args.output {
        Format::Json => output::print(&output::json(&as_json(&made, &survey))?),
        Format::Table => output::print(&as_text(&made, &survey, output::is_colourful())),
    }
}

/// An empty store in the place of one that was lost would be taken for the right one by whoever has just started: every key is unknown
/// then, and nothing says why.
async fn refuse_if_lost(store: &Redis, path: &Path) -> Result<(), Failure> {
    let file = path.display();
    let kept = position::read(path)
        .map_err(|error| Failure::new(Exit::Failed, format!("fleet.position: {file} cannot be read: {error}")))?;
    match (kept, store.look().await.map_err(|error| failed(&error))?) {
        (Some(kept), None) => Err(Failure::new(
            Exit::Failed,
            format!(
                "there is no store, and {file} remembers one with {} changes (lineage {}): bring its data back, or, to begin \
                 without its keys, run this again with --anew",
                kept.remembered.place.position.sequence, kept.remembered.place.lineage
            ),
        )),
        _ => Ok(()),
    }
}

/// Whether every record of the store must be signed, by what the configuration says, and what a replica on this machine remembers.
///
/// # Errors
/// If that cannot be read.
pub(super) fn must_be_signed(settings: &Settings) -> Result<bool, Failure> {
    let path = match &settings.store {
        StoreSettings::Redis(redis) => redis.position.as_deref(),
        StoreSettings::Embedded(_) => None,
    };
    let kept = match path {
        Some(path) => position::read(path).map_err(|error| {
            let file = path.display();
            Failure::new(Exit::Failed, format!("fleet.position: {file} cannot be read: {error}"))
        })?,
        None => None,
    };
    Ok(settings.demands_signatures || kept.is_some_and(|kept| kept.is_signed))
}

/// From now on believes no record without a signature, if [all must have one](must_be_signed).
///
/// # Errors
/// As [`must_be_signed`].
pub(super) fn demand_if_signed(store: &Store, settings: &Settings) -> Result<(), Failure> {
    if must_be_signed(settings)? {
        store.trust().demand();
    }
    Ok(())
}

/// What is signed with another pepper than its store's is believed by nobody.
pub(super) async fn demand_pepper(store: &Store, ours: PepperCheck) -> Result<(), Failure> {
    let known = store.pepper_checks().await.map_err(|error| failed(&error))?;
    if known.contains(&ours) {
        return Ok(());
    }
    let problem = format!(
        "the store does not know the pepper of version {}: give this command the configuration and the pepper files of its Tollgates",
        ours.version
    );
    Err(Failure::new(Exit::Failed, problem))
}

/// An empty store in a file, where there is none.
fn init_file(path: &Path, format: Format) -> Result<(), Failure> {
    let is_new = !path.exists();
    let store = Embedded::open(path, Duration::ZERO).map_err(|error| failed(&error))?;
    let sequence = store.sequence().map_err(|error| failed(&error))?;
    match format {
        Format::Json => {
            let made = json!({"made": is_new, "path": path.display().to_string(), "sequence": sequence});
            output::print(&output::json(&made)?)
        }
        Format::Table => {
            let state = if is_new { "made now".to_owned() } else { format!("there already, with {sequence} changes") };
            output::print(&fields(&[("Store", state), ("File", path.display().to_string())]))
        }
    }
}

/// A row of the audit log for what somebody with the store's configuration did.
pub(super) fn operators_row(act: &str, target: &str, reason: Option<String>) -> AuditEntry {
    AuditEntry {
        sequence: 0,
        at: Clock::System.now(),
        actor: Actor::operator().subject,
        actor_id: None,
        act: act.to_owned(),
        target: target.to_owned(),
        project: None,
        outcome: Outcome::Done,
        reason,
        peer: act.replace('.', " "),
        request_id: String::new(),
    }
}

pub(super) fn failed(error: &StoreError) -> Failure {
    let exit = if matches!(error, StoreError::Unavailable(_)) { Exit::Unreachable } else { Exit::Failed };
    Failure::new(exit, error.to_string())
}

fn as_json(made: &Init, survey: &Survey) -> Value {
    let (is_new, lineage, sequence) = match made {
        Init::Made { lineage } => (true, lineage, 0),
        Init::WasThere { lineage, sequence } => (false, lineage, *sequence),
    };
    json!({
        "made": is_new,
        "lineage": lineage,
        "sequence": sequence,
        "server": {"engine": survey.engine.to_string(), "version": survey.version.to_string()},
        "level": survey.level.to_string(),
        "findings": as_findings(&survey.findings),
    })
}

fn as_findings(findings: &[Finding]) -> Vec<Value> {
    let each = |finding: &Finding| json!({"severity": finding.severity.as_str(), "what": finding.what, "remedy": finding.remedy});
    findings.iter().map(each).collect()
}

fn as_text(made: &Init, survey: &Survey, colourful: bool) -> String {
    let (state, lineage) = match made {
        Init::Made { lineage } => ("made now".to_owned(), lineage),
        Init::WasThere { lineage, sequence } => (format!("there already, with {sequence} changes"), lineage),
    };
    let mut text = fields(&[
        ("Store", state),
        ("Lineage", lineage.clone()),
        ("Server", format!("{} {}", survey.engine, survey.version)),
        ("Revocation", survey.level.to_string()),
    ]);
    if !survey.findings.is_empty() {
        text.push_str(&findings_table(&survey.findings, colourful));
    }
    text
}

fn findings_table(findings: &[Finding], colourful: bool) -> String {
    let mut table = Table::new(&["FINDING", "WHAT", "REMEDY"]);
    for finding in findings {
        let colour = match finding.severity {
            Severity::Refuse => Some(Colour::Red),
            Severity::Warn => Some(Colour::Yellow),
            Severity::Note => None,
        };
        let severity = Cell::coloured(finding.severity.as_str(), colour);
        table.row(vec![severity, finding.what.as_str().into(), finding.remedy.as_str().into()]);
    }
    format!("\n{}", table.render(colourful))
}
