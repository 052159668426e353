//! `tollgate backup`: everything that a store keeps, in one file. Reaches a store in Redis itself, and an embedded one through the
//! Tollgate that owns it, or itself if none does. Never leaves half a backup under the name of a whole one.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::http::Method;
use bytes::{Buf, Bytes};
use clap::Args;
use data_encoding::HEXLOWER;
use serde_json::json;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tollgate_guard::time::Timestamp;

use super::connect::{self, Target};
use super::output::{self, Format, Progress, fields};
use super::sealed::{Output, SealArgs};
use super::store::{demand_if_signed, demand_pepper, failed, operators_row};
use super::{Exit, Failure, invalid};
use crate::clock::Clock;
use crate::config::{self, RedisSettings, Settings, StoreSettings};
use crate::domain::change::Event;
use crate::domain::record::STORE_BACKUP;
use crate::pepper;
use crate::run::store::unfit;
use crate::server::admin::wire::{BACKUP, rfc3339};
use crate::store::embedded::Embedded;
use crate::store::redis::Redis;
use crate::store::redis::connect::Connector;
use crate::store::redis::snapshot::Copied;
use crate::store::redis::survey::Survey;
use crate::store::snapshot::{End, Item, SnapshotError, SnapshotReader};
use crate::store::{Store, Write as StoreWrite};
use crate::tasks::stand_behind_checks;

pub const HELP: &str = "Examples:
  tollgate backup /backups/tollgate-monday --config /etc/tollgate/tollgate.yaml
  tollgate backup /backups/tollgate-monday --recipient age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p
  tollgate backup - --passphrase-stdin < passphrase | ssh elsewhere 'cat > tollgate-monday'

Tollgate goes on meanwhile, and the backup is of one moment: everything that was acknowledged before this began is in it. It holds
keys, users, projects, sessions, resources and the audit log; when keys were last used is not in it. Neither is the pepper: keep
that file apart, as no key works without it. Who can read a backup learns names and the audit log, and can try passwords; no key
of yours can be read from it. It is signed with the pepper, so that nobody else can change it.

`-` is standard output; what was cut off there is no backup, and `tollgate restore` says so.";

#[derive(Args, Debug)]
pub struct BackupArgs {
    /// Where it is written; a file that is there stays as it is. `-`: standard output
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "TOLLGATE_CONFIG", default_value = connect::DEFAULT_CONFIG)]
    config: PathBuf,
    #[command(flatten)]
    seal: SealArgs,
    /// How to print what was made
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// How often a copy of a store is begun that changes faster than it is copied.
const ATTEMPTS: usize = 3;
/// How far behind a server on this machine it stands.
const NICENESS: i32 = 15;

/// What was made.
struct Made {
    made_at: Timestamp,
    end: End,
    bytes: u64,
    seconds: f64,
}

pub async fn run(args: BackupArgs) -> Result<(), Failure> {
    let settings = config::load(&args.config).map_err(|problems| invalid(&args.config, &problems))?.settings;
    let begun = Instant::now();
    stand_behind_checks(NICENESS, "what makes a backup");
    let mut attempt = 0;
    let (made_at, end, bytes) = loop {
        attempt += 1;
        // Before anything is asked of a store.
        let (file, encryptor) = (Unfinished::new(&args.file)?, args.seal.encryptor()?);
        let out =
            Output::new(Counted { out: file, bytes: 0 }, encryptor).map_err(|error| unwritten(&args.file, &error))?;
        let copied = match &settings.store {
            StoreSettings::Redis(redis) => of_fleet(redis, &settings, out).await?,
            StoreSettings::Embedded(path) => of_file(path, &settings, out).await?,
        };
        match copied {
            Copy::Whole(made_at, end, out) => {
                let out = out.finish().map_err(|error| unwritten(&args.file, &error))?;
                out.out.keep()?;
                break (made_at, end, out.bytes);
            }
            // What went to standard output is gone, and a passphrase was read there.
            Copy::Overtaken(reason) if attempt == ATTEMPTS || args.file == Path::new("-") || args.seal.asks() => {
                return Err(Failure::new(Exit::Failed, format!("{reason}, so there is no backup: try again")));
            }
            Copy::Overtaken(reason) => output::note(&format!("{reason}: the backup is begun anew")),
        }
    };
    let made = Made { made_at, end, bytes, seconds: begun.elapsed().as_secs_f64() };
    match (args.output, args.file == Path::new("-")) {
        (_, true) => {
            output::note(&made.sentence());
            Ok(())
        }
        (Format::Json, false) => output::print(&output::json(&made.as_json(&args.file))?),
        (Format::Table, false) => output::print(&made.as_text(&args.file)),
    }
}

type Out = Output<Counted<Unfinished>>;

/// What became of one try.
enum Copy {
    Whole(Timestamp, End, Out),
    /// For this reason it must be begun anew.
    Overtaken(&'static str),
}

/// Of a store in Redis.
async fn of_fleet(redis: &RedisSettings, settings: &Settings, out: Out) -> Result<Copy, Failure> {
    let (current, older) =
        pepper::read_all(&settings.pepper).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let signer = current.snapshot_signer();
    let connector = Connector::open(redis.location.clone()).map_err(|error| failed(&error))?;
    let survey = Survey::of(&connector).await.map_err(|error| failed(&error))?;
    if let Some(unfit) = unfit(&survey) {
        return Err(Failure::new(Exit::Failed, unfit));
    }
    let redis = Arc::new(Redis::new(connector, Handle::current()).with_signers(pepper::signers(&current, &older)));
    let store = Store::Redis(Arc::clone(&redis));
    demand_pepper(&store, signer.pepper()).await?;
    demand_if_signed(&store, settings)?;
    let row = StoreWrite::Audit(operators_row(STORE_BACKUP, "store", None));
    store.commit(vec![row], Event::touching(&[])).await.map_err(|error| failed(&error))?;
    let (made_at, mut progress) = (Clock::System.now(), Progress::new());
    let told = |records| progress.tell(|| format!("{records} records copied"));
    let copied = redis.snapshot(out, made_at, &signer, told).await;
    drop(progress);
    match copied.map_err(|error| failed(&error))? {
        Copied::Whole(out, end) => Ok(Copy::Whole(made_at, end, out)),
        Copied::Overtaken(reason) => Ok(Copy::Overtaken(reason)),
    }
}

/// Of a store in a file: from the process that owns it, if there is one.
async fn of_file(path: &Path, settings: &Settings, out: Out) -> Result<Copy, Failure> {
    let target = Target::Socket(settings.admin.unix.path.clone());
    match target.stream(Method::POST, BACKUP).await {
        Ok(response) => received(&target, response, out).await,
        // Nobody has it, then.
        Err(failure) if failure.exit == Exit::Unreachable && failure.status.is_none() => {
            let alone = of_unowned_file(path, settings, out).await;
            alone.map_err(|problem| Failure::new(problem.exit, format!("{failure}; and without a server: {problem}")))
        }
        Err(failure) => Err(failure),
    }
}

async fn of_unowned_file(path: &Path, settings: &Settings, out: Out) -> Result<Copy, Failure> {
    if !path.exists() {
        let problem = format!("there is no store at {}: see `store.embedded.path`", path.display());
        return Err(Failure::new(Exit::Unreachable, problem));
    }
    let (current, older) =
        pepper::read_all(&settings.pepper).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let signer = current.snapshot_signer();
    let embedded = Embedded::open(path, Duration::ZERO).map_err(|error| failed(&error))?;
    let embedded = Arc::new(embedded.with_signers(pepper::signers(&current, &older)));
    let store = Store::Embedded(Arc::clone(&embedded));
    demand_pepper(&store, signer.pepper()).await?;
    demand_if_signed(&store, settings)?;
    let row = StoreWrite::Audit(operators_row(STORE_BACKUP, "store", None));
    store.commit(vec![row], Event::touching(&[])).await.map_err(|error| failed(&error))?;
    let made_at = Clock::System.now();
    let (out, end) = embedded.snapshot(out, made_at, &signer).map_err(|error| failed(&error))?;
    Ok(Copy::Whole(made_at, end, out))
}

/// Takes what a server sends, and looks at every record of it.
async fn received(target: &Target, response: reqwest::Response, out: Out) -> Result<Copy, Failure> {
    let (chunks, incoming) = mpsc::channel(4);
    let mut tee = Tee { incoming, chunk: Bytes::new(), out, failed: None };
    let take = move || {
        let taken = take(&mut tee);
        // Without whoever reads it, so that what comes is not waited for any more.
        let Tee { out, failed, .. } = tee;
        (taken, out, failed)
    };
    let taking = tokio::task::spawn_blocking(take);
    let broken = forward(response, chunks).await.err();
    let (taken, out, failed) = taking.await.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    match (taken, broken, failed) {
        (Ok((made_at, end)), None, None) => Ok(Copy::Whole(made_at, end, out)),
        (_, _, Some(error)) => Err(Failure::new(Exit::Failed, format!("the backup cannot be written: {error}"))),
        (_, Some(error), _) => {
            let Failure { exit, message, .. } = target.broken(&error);
            Err(Failure::new(
                exit,
                format!("the server did not send the whole backup, and its log says why: {message}"),
            ))
        }
        (Err(error), ..) => Err(Failure::new(Exit::Failed, format!("what the server sent: {error}"))),
    }
}

async fn forward(mut response: reqwest::Response, chunks: mpsc::Sender<Bytes>) -> Result<(), reqwest::Error> {
    while let Some(chunk) = response.chunk().await? {
        // Whoever took it says why it takes no more.
        if chunks.send(chunk).await.is_err() {
            break;
        }
    }
    Ok(())
}

fn take(tee: &mut Tee) -> Result<(Timestamp, End), SnapshotError> {
    let (mut progress, mut records) = (Progress::new(), 0u64);
    let (header, mut reader) = SnapshotReader::open(tee)?;
    let end = loop {
        if let Item::End(end, _) = reader.next_item()? {
            break end;
        }
        records += 1;
        progress.tell(|| format!("{records} records copied"));
    };
    Ok((header.made_at, end))
}

/// What comes in, written out as it is read.
struct Tee {
    incoming: mpsc::Receiver<Bytes>,
    chunk: Bytes,
    out: Out,
    failed: Option<io::Error>,
}

impl Read for Tee {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            let Some(chunk) = self.incoming.blocking_recv() else { return Ok(0) };
            if let Err(error) = self.out.write_all(&chunk) {
                let told = io::Error::from(error.kind());
                self.failed = Some(error);
                return Err(told);
            }
            self.chunk = chunk;
        }
        let taken = bytes.len().min(self.chunk.len());
        bytes[..taken].copy_from_slice(&self.chunk[..taken]);
        self.chunk.advance(taken);
        Ok(taken)
    }
}

/// Counts what is written.
struct Counted<W> {
    out: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// A file that has its name only once it is whole; removed if it never is.
struct Unfinished {
    /// `None`: standard output.
    file: Option<BufWriter<File>>,
    path: PathBuf,
    unfinished: PathBuf,
}

impl Unfinished {
    fn new(path: &Path) -> Result<Self, Failure> {
        if path == Path::new("-") {
            return Ok(Self { file: None, path: path.to_owned(), unfinished: PathBuf::new() });
        }
        if path.exists() {
            let problem = format!("{} is there already, and nothing is overwritten: give another name", path.display());
            return Err(Failure::usage(problem));
        }
        // Another one for each run: two that are given the same name do not write over each other.
        let mut own = [0; 8];
        getrandom::fill(&mut own).map_err(|error| unwritten(path, &io::Error::other(error)))?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".{}.unfinished", HEXLOWER.encode(&own)));
        let unfinished = path.with_file_name(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished);
        let file = file.map_err(|error| unwritten(&unfinished, &error))?;
        Ok(Self { file: Some(BufWriter::with_capacity(256 << 10, file)), path: path.to_owned(), unfinished })
    }

    /// Gives it its name, once it is on the disk.
    fn keep(mut self) -> Result<(), Failure> {
        let Some(file) = &mut self.file else { return Ok(()) };
        let mut kept = || -> io::Result<()> {
            file.flush()?;
            file.get_ref().sync_all()?;
            // A link never takes the place of what is there; some file systems have none.
            match fs::hard_link(&self.unfinished, &self.path) {
                Ok(()) => fs::remove_file(&self.unfinished)?,
                Err(_) if !self.path.exists() => fs::rename(&self.unfinished, &self.path)?,
                Err(error) => return Err(error),
            }
            let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        kept().map_err(|error| unwritten(&self.path, &error))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _ = fs::remove_file(&self.unfinished);
        }
    }
}

impl Write for Unfinished {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.file {
            Some(file) => file.write(bytes),
            None => io::stdout().write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.file {
            Some(file) => file.flush(),
            None => io::stdout().flush(),
        }
    }
}

fn unwritten(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Failed, format!("{} cannot be written: {error}", path.display()))
}

impl Made {
    fn sentence(&self) -> String {
        let Self { end: End { records, sequence, .. }, bytes, seconds, .. } = self;
        format!("{records} records in {bytes} bytes, up to change {sequence}, in {seconds:.1} s")
    }

    fn as_json(&self, file: &Path) -> serde_json::Value {
        json!({
            "file": file.display().to_string(),
            "made_at": rfc3339(self.made_at),
            "records": self.end.records,
            "sequence": self.end.sequence,
            "bytes": self.bytes,
            "seconds": self.seconds,
        })
    }

    fn as_text(&self, file: &Path) -> String {
        fields(&[
            ("Backup", file.display().to_string()),
            ("Of", rfc3339(self.made_at)),
            ("Records", self.end.records.to_string()),
            ("Up to change", self.end.sequence.to_string()),
            ("Size", format!("{} bytes, in {:.1} s", self.bytes, self.seconds)),
        ])
    }
}
