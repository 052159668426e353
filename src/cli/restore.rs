//! `tollgate restore`: an empty store filled with a backup. Reaches the store itself and no Tollgate; never believes anything of a
//! backup before all of it was read and its signature found right, and never writes over a record.

use std::path::{Path, PathBuf};
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
use crate::fleet::position;
use crate::pepper;
use crate::resolve::pepper::Pepper;
use crate::run::store::unfit;
use crate::server::admin::wire::rfc3339;
use crate::store::PepperCheck;
use crate::store::migration::{MigrationStore, Report, restore};
use crate::store::record::Record;
use crate::store::redis::Redis;
use crate::store::redis::connect::Connector;
use crate::store::redis::survey::Survey;
use crate::store::signature::Signers;
use crate::store::snapshot::{Header, Signer, SnapshotError, SnapshotFile};

pub const HELP: &str = "Examples:
  tollgate restore /backups/tollgate-monday --config /etc/tollgate/tollgate.yaml
  tollgate restore /backups/tollgate-monday --identity ~/age-identity.txt
  tollgate restore /backups/tollgate-monday --passphrase-stdin < passphrase

Put the pepper files back first, then run this, then start Tollgate. Stop every Tollgate on the store before. The store must be
empty: a file that is not there yet, or a Redis without a store, which is made. Run it again if it was interrupted: it goes on, and
until it has ended no Tollgate starts on that store. A backup that is older than `backup.keep` is refused: keys that were revoked
since would work again, and nothing would be left that says so.

What was ended since the backup works again, as nobody remembers it once every Tollgate was stopped: look at an audit log that is kept
elsewhere, and revoke it again. In a fleet, `fleet.position` remembers up to which change a replica has known the store: where that is
more than the backup has, this asks for --older, and a replica on another machine refuses everything until `tollgate store accept`.";

#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The configuration file; its `store` is filled
    #[arg(long, value_name = "FILE", env = "TOLLGATE_CONFIG", default_value = connect::DEFAULT_CONFIG)]
    config: PathBuf,
    /// Put back a backup that has less than what `fleet.position` on this machine remembers
    #[arg(long)]
    older: bool,
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
    let signers = pepper::signers(&current, &older);
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
    drop(progress);
    let file = Arc::new(file.map_err(unusable)?);
    let target = match settings.store {
        StoreSettings::Embedded(path) => {
            MigrationStore::target_file(&path, signers).await.map_err(|error| failed(&error))?
        }
        StoreSettings::Redis(redis) => fleet(*redis, signers, &file, args.older).await?,
    };
    let reason = format!("the backup of {} with digest {}", rfc3339(file.header().made_at), file.digest());
    let row = operators_row("store.restore", "store", Some(reason));
    let report = restore(Arc::clone(&file), &target, &row, now).await.map_err(|error| failed(&error))?;
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
async fn fleet(
    settings: RedisSettings,
    signers: Signers,
    backup: &SnapshotFile,
    older: bool,
) -> Result<MigrationStore, Failure> {
    if let Some(path) = settings.position.as_deref().filter(|_| !older) {
        refuse_if_older(backup, path)?;
    }
    let connector = Connector::open(settings.location).map_err(|error| failed(&error))?;
    let survey = Survey::of(&connector).await.map_err(|error| failed(&error))?;
    if let Some(unfit) = unfit(&survey) {
        return Err(Failure::new(Exit::Failed, unfit));
    }
    let redis = Arc::new(Redis::new(connector, Handle::current()).with_signers(signers));
    MigrationStore::redis_for(redis, backup).await.map_err(|error| failed(&error))
}

/// What a replica on this machine remembers, and the backup has not, nobody could ask about later if it is of another lineage.
fn refuse_if_older(backup: &SnapshotFile, path: &Path) -> Result<(), Failure> {
    let file = path.display();
    let kept = position::read(path)
        .map_err(|error| Failure::new(Exit::Failed, format!("fleet.position: {file} cannot be read: {error}")))?;
    let Some(known) = kept.map(|kept| kept.remembered.place) else { return Ok(()) };
    let (header, end) = (backup.header(), backup.end());
    let is_same = header.lineage.as_ref() == Some(&known.lineage);
    let is_former = header.was.split(' ').any(|was| was == known.lineage);
    let missing = match (is_same, known.position.sequence) {
        (true, sequence) if sequence > end.sequence => {
            format!("changes {} to {sequence} are not in the backup", end.sequence + 1)
        }
        (true, _) => return Ok(()),
        (false, _) if is_former => return Ok(()),
        (false, _) => format!("the backup is of another history than the store of lineage {}", known.lineage),
    };
    let problem = format!(
        "{file} remembers what the backup has not: {missing}. Put back a newer one; or, if there is none, run this again with --older: \
         what was ended in those changes is not ended then"
    );
    Err(Failure::new(Exit::Failed, problem))
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
