//! `tollgate restore`: an empty store filled with a backup. Reaches the store itself and no Tollgate; never believes anything of a
//! backup before all of it was read and its signature found right, and never writes over a record.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::runtime::Handle;
use tollgate_guard::time::Timestamp;

use super::connect;
use super::output::{self, Format, Progress, fields};
use super::sealed::OpenArgs;
use super::store::migrate::{counts_as_json, counts_as_text};
use super::store::{failed, operators_row};
use super::{Exit, Failure, invalid};
use crate::clock::Clock;
use crate::config::{self, RedisSettings, Settings, StoreSettings};
use crate::domain::change::Event;
use crate::pepper;
use crate::resolve::pepper::Pepper;
use crate::run::store::unfit;
use crate::server::admin::wire::rfc3339;
use crate::store::migration::{MigrationStore, Report, Source, migrate};
use crate::store::record::Record;
use crate::store::redis::Redis;
use crate::store::redis::connect::Connector;
use crate::store::redis::survey::Survey;
use crate::store::snapshot::{Header, Signer, SnapshotError, SnapshotFile};
use crate::store::{PepperCheck, Store, Write};

pub const HELP: &str = "Examples:
  tollgate restore /backups/tollgate-monday --config /etc/tollgate/tollgate.yaml
  tollgate restore /backups/tollgate-monday --identity ~/age-identity.txt
  tollgate restore /backups/tollgate-monday --passphrase-stdin < passphrase

Put the pepper files back first, then run this, then start Tollgate. Stop every Tollgate on the store before. The store must be
empty: a file that is not there yet, or a Redis without a store, which is made. Run it again if it was interrupted: it goes on, and
until it has ended no Tollgate starts on that store. A backup that is older than `backup.keep` is refused: keys that were revoked
since would work again, and nothing would be left that says so.

A replica in a fleet that remembers later changes than the backup has (`fleet.position`) refuses everything until `tollgate store
accept` has said what is missing and you have taken it as it is. What was ended since the backup, and nobody remembers, is not
ended: look at the audit log for what to revoke again.";

#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The configuration file; its `store` is filled
    #[arg(long, value_name = "FILE", env = "TOLLGATE_CONFIG", default_value = connect::DEFAULT_CONFIG)]
    config: PathBuf,
    #[command(flatten)]
    open: OpenArgs,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

pub async fn run(args: RestoreArgs) -> Result<(), Failure> {
    let settings = config::load(&args.config).map_err(|problems| invalid(&args.config, &problems))?.settings;
    let (current, older) =
        pepper::read_all(&settings.pepper).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let peppers: Vec<Pepper> = std::iter::once(current).chain(older).collect();
    let opener = args.open.opener(&args.file)?;
    let name = args.file.display();
    let unusable = |problem: Unusable| Failure::new(Exit::Failed, format!("{name}: {problem}"));
    let now = Clock::System.now();
    let signer = |header: &Header| signer(header, &peppers, &settings, now);
    let (mut records, mut progress) = (0u64, Progress::new());
    let each = |record: &Record| {
        records += 1;
        progress.tell(|| format!("{records} records looked at"));
        demand_same_pepper(record, &peppers)
    };
    let file = SnapshotFile::open(Box::new(move || opener.open()), signer, each);
    progress.end();
    let file = Arc::new(file.map_err(unusable)?);
    let (target, store) = match settings.store {
        StoreSettings::Embedded(path) => {
            (MigrationStore::target_file(&path).await.map_err(|error| failed(&error))?, None)
        }
        StoreSettings::Redis(redis) => fleet(*redis, &file).await?,
    };
    let report = migrate(&Source::Snapshot(Arc::clone(&file)), &target, now).await.map_err(|error| failed(&error))?;
    let reason = format!("the backup of {} with digest {}", rfc3339(file.header().made_at), file.digest());
    let row = Write::Audit(operators_row("store.restore", "store", Some(reason)));
    let store = store.or_else(|| target.embedded()).ok_or_else(|| Failure::new(Exit::Failed, "the store is gone"))?;
    store.commit(vec![row], Event::touching(&[])).await.map_err(|error| failed(&error))?;
    match args.output {
        Format::Json => output::print(&output::json(&as_json(&file, &report))?),
        Format::Table => output::print(&as_text(&file, &report)),
    }
}

const DAY: u64 = 24 * 3600;

/// Why a backup is not restored.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(
        "it was made with pepper version {0}, which has no file here: add that file to `pepper.keys`, as no key works without it"
    )]
    NoPepper(u32),
    #[error(
        "the pepper of version {0} here is not the one that it was made with: put the right file back, as no key works without it"
    )]
    OtherPepper(u32),
    #[error(
        "it was made at {}, and `backup.keep` says that none older than {} days is ever put back: keys that were revoked since \
         would work again. If there is no newer one, raise `backup.keep`",
        rfc3339(*made_at), keep.as_secs() / DAY
    )]
    TooOld { made_at: Timestamp, keep: Duration },
}

/// Of the pepper that it was made with.
fn signer(header: &Header, peppers: &[Pepper], settings: &Settings, now: Timestamp) -> Result<Signer, Unusable> {
    let PepperCheck { version, .. } = header.pepper;
    let pepper = peppers.iter().find(|pepper| pepper.version == version).ok_or(Unusable::NoPepper(version))?;
    if pepper.check() != header.pepper {
        return Err(Unusable::OtherPepper(version));
    }
    if let Some(kept) = settings.limits.tombstones.as_ref().map(|tombstones| tombstones.backups_kept)
        && header.made_at.plus(kept) < now
    {
        return Err(Unusable::TooOld { made_at: header.made_at, keep: kept });
    }
    Ok(pepper.snapshot_signer())
}

/// Those of other versions, too.
fn demand_same_pepper(record: &Record, peppers: &[Pepper]) -> Result<(), Unusable> {
    let Record::Pepper(known) = record else { return Ok(()) };
    let ours = peppers.iter().find(|pepper| pepper.version == known.version);
    match ours {
        Some(ours) if ours.check() != *known => Err(Unusable::OtherPepper(known.version)),
        _ => Ok(()),
    }
}

/// A store that is made if there is none.
async fn fleet(settings: RedisSettings, backup: &SnapshotFile) -> Result<(MigrationStore, Option<Store>), Failure> {
    let connector = Connector::open(settings.location).map_err(|error| failed(&error))?;
    let survey = Survey::of(&connector).await.map_err(|error| failed(&error))?;
    if let Some(unfit) = unfit(&survey) {
        return Err(Failure::new(Exit::Failed, unfit));
    }
    let redis = Arc::new(Redis::new(connector, Handle::current()));
    let target = MigrationStore::redis_for(Arc::clone(&redis), backup).await.map_err(|error| failed(&error))?;
    Ok((target, Some(Store::Redis(redis))))
}

fn as_json(file: &SnapshotFile, report: &Report) -> serde_json::Value {
    json!({
        "made_at": rfc3339(file.header().made_at),
        "sequence": file.end().sequence,
        "records": counts_as_json(report),
    })
}

fn as_text(file: &SnapshotFile, report: &Report) -> String {
    let said =
        fields(&[("Backup of", rfc3339(file.header().made_at)), ("Up to change", file.end().sequence.to_string())]);
    format!("{}\n{said}", counts_as_text(report))
}
