//! `tollgate store migrate`: everything of one store carried to another and compared there. Reaches both stores itself and no
//! Tollgate; never goes on while one of them is in use.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::{failed, must_be_signed};
use crate::cli::output::{self, Format, Table, fields};
use crate::cli::{Exit, Failure, invalid};
use crate::clock::Clock;
use crate::config::{self, RedisSettings, Settings, StoreSettings};
use crate::fleet::position;
use crate::pepper;
use crate::run::store::{find_loss, since_put_back, unfit};
use crate::store::migration::{MigrationStore, Report, Source, migrate};
use crate::store::redis::Redis;
use crate::store::redis::connect::Connector;
use crate::store::redis::survey::Survey;
use crate::store::signature::Signers;

pub(super) const HELP: &str = "Examples:
  tollgate store migrate --from embedded.yaml --to fleet.yaml
  tollgate store migrate --from fleet.yaml --to embedded.yaml -o json

Stop every Tollgate on either store first. The target must be empty: a Redis after `tollgate store init`, or a file that is not
there yet. Run it again if it was interrupted: it goes on, and until it has ended no Tollgate starts on the target. Nothing is
ever overwritten, and the source stays as it is. Give the target the same pepper files: keys are recognised by them.";

#[derive(Args, Debug)]
pub struct MigrateArgs {
    /// A configuration file; its `store` is read
    #[arg(long, value_name = "FILE")]
    from: PathBuf,
    /// A configuration file; its `store` is filled
    #[arg(long, value_name = "FILE")]
    to: PathBuf,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

pub async fn run(args: &MigrateArgs) -> Result<(), Failure> {
    // Both are read before either store is touched.
    let (from, to) = (settings(&args.from)?, settings(&args.to)?);
    if from.store == to.store {
        return Err(Failure::usage("both files name the same store: give two"));
    }
    let (source_signers, target_signers) = (signers(&from)?, signers(&to)?);
    let source_is_signed = must_be_signed(&from)?;
    let source = match from.store {
        StoreSettings::Embedded(path) => {
            MigrationStore::source_file(&path, source_signers).await.map_err(|error| failed(&error))?
        }
        StoreSettings::Redis(redis) => fleet(*redis, source_signers, End::Source).await?,
    };
    let target = match to.store {
        StoreSettings::Embedded(path) => {
            MigrationStore::target_file(&path, target_signers).await.map_err(|error| failed(&error))?
        }
        StoreSettings::Redis(redis) => fleet(*redis, target_signers, End::Target).await?,
    };
    if source_is_signed {
        source.demand_signatures().await.map_err(|error| failed(&error))?;
    }
    let report = migrate(&Source::Store(source), &target, Clock::System.now()).await.map_err(|error| failed(&error))?;
    match args.output {
        Format::Json => output::print(&output::json(&as_json(&report))?),
        Format::Table => output::print(&as_text(&report)),
    }
}

fn settings(file: &Path) -> Result<Settings, Failure> {
    config::load(file).map(|compiled| compiled.settings).map_err(|problems| invalid(file, &problems))
}

fn signers(settings: &Settings) -> Result<Signers, Failure> {
    pepper::read_signers(&settings.pepper).map_err(|error| Failure::new(Exit::Failed, error.to_string()))
}

/// Which end of a migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Source,
    Target,
}

async fn fleet(settings: RedisSettings, signers: Signers, end: End) -> Result<MigrationStore, Failure> {
    let connector = Connector::open(settings.location).map_err(|error| failed(&error))?;
    let survey = Survey::of(&connector).await.map_err(|error| failed(&error))?;
    if let Some(unfit) = unfit(&survey) {
        return Err(Failure::new(Exit::Failed, unfit));
    }
    let redis = Arc::new(Redis::new(connector, Handle::current()).with_signers(signers));
    if let Some(path) = settings.position.filter(|_| end == End::Source) {
        refuse_if_lost(&redis, &path).await?;
    }
    MigrationStore::redis(redis).await.map_err(|error| failed(&error))
}

/// What a replica on this machine remembers of the source is in it: in another store nobody would know that it is missing.
async fn refuse_if_lost(source: &Redis, path: &Path) -> Result<(), Failure> {
    let file = path.display();
    let kept = position::read(path)
        .map_err(|error| Failure::new(Exit::Failed, format!("fleet.position: {file} cannot be read: {error}")))?;
    let found = source.look().await.map_err(|error| failed(&error))?;
    let remembered = kept.map(|kept| since_put_back(kept.remembered, found.as_ref()));
    let loss = find_loss(source, found.as_ref(), remembered.as_ref()).await.map_err(|error| failed(&error))?;
    match loss {
        Some(loss) => Err(Failure::new(
            Exit::Failed,
            format!(
                "the source: {loss}, as {file} says. Restore it, or look at it with `tollgate store accept` and take it as it is, and \
                 run this again"
            ),
        )),
        None => Ok(()),
    }
}

fn as_json(report: &Report) -> Value {
    json!({"records": counts_as_json(report), "digest": report.digest})
}

pub(in crate::cli) fn counts_as_json(report: &Report) -> Vec<Value> {
    let counts = report
        .counts
        .iter()
        .map(|count| json!({"kind": count.kind.as_str(), "verified": count.found, "copied": count.copied}));
    counts.collect()
}

fn as_text(report: &Report) -> String {
    let digest = fields(&[("Digest of both", report.digest.clone())]);
    format!("{}\n{digest}", counts_as_text(report))
}

pub(in crate::cli) fn counts_as_text(report: &Report) -> String {
    let mut table = Table::new(&["RECORDS", "VERIFIED", "COPIED NOW"]);
    for count in &report.counts {
        let name = count.kind.as_str().replace('_', " ");
        table.row(vec![(&*name).into(), (&*count.found.to_string()).into(), (&*count.copied.to_string()).into()]);
    }
    table.render(output::is_colourful())
}
