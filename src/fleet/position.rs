//! The file that a replica's position outlasts its process in, so that a store which went back while everything was stopped is
//! noticed. Never written more often than once a second, never in the way of a lease, and never by two processes.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use serde_json::{Value, json};
use tollgate_guard::protocol::{Head, Position, Remembered, Term};

use crate::tasks::Task;

/// Between two writes.
const PAUSE: Duration = Duration::from_secs(1);
/// Between two looks whether the store is signed by now, while nothing is noted.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// With a good deal of room.
const LONGEST: u64 = 64 << 10;

/// Keeps the newest position in its file, until it is dropped.
#[derive(Debug)]
pub struct PositionFile {
    newest: Option<Sender<Remembered>>,
    writer: Option<JoinHandle<()>>,
    is_failing: Arc<AtomicBool>,
    /// Held for as long as the file is written.
    _lock: Option<File>,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    pub remembered: Remembered,
    /// Where the store is that this is of; `None`: the release that wrote it did not say.
    pub store: Option<String>,
    /// Whether every record of it was signed.
    pub is_signed: bool,
}

impl PositionFile {
    /// For the store at this place. Writes whatever is there already once more, so that a folder that cannot be written to is
    /// noticed at the start. A disk that is full is waited for. The thread that writes is `task`. `is_signed` becomes true if the file says
    /// so, and the file says so from when it is.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::WouldBlock`] while another process uses the file.
    pub fn open(path: &Path, store: &str, is_signed: Arc<AtomicBool>, task: Task) -> io::Result<(Self, Option<Kept>)> {
        let lock = match lock(path) {
            Err(error) if is_full(&error) => None,
            locked => Some(locked?),
        };
        let kept = read(path)?;
        if kept.as_ref().is_some_and(|kept| kept.is_signed) {
            is_signed.store(true, Ordering::Relaxed);
        }
        let tried = match &kept {
            Some(kept) => write(path, kept),
            None => scratch(path).and_then(|_| fs::remove_file(beside(path))),
        };
        let is_failing = match tried {
            Err(error) if is_full(&error) => {
                complain(path, &error);
                true
            }
            tried => tried.map(|()| false)?,
        };
        let is_failing = Arc::new(AtomicBool::new(is_failing));
        let (newest, noted) = mpsc::channel();
        let writer =
            Writer { path: path.to_owned(), store: store.to_owned(), is_signed, is_failing: Arc::clone(&is_failing) };
        let keep = move || task.keep_blocking(|| writer.keep(&noted));
        let writer = thread::Builder::new().name("tollgate-position".to_owned()).spawn(keep)?;
        Ok((Self { newest: Some(newest), writer: Some(writer), is_failing, _lock: lock }, kept))
    }

    /// Whether what was noted last could not be written.
    pub fn is_failing(&self) -> bool {
        self.is_failing.load(Ordering::Relaxed)
    }

    /// Has this written soon.
    pub fn note(&self, remembered: Remembered) {
        if let Some(newest) = &self.newest {
            // The thread ends with this alone.
            let _ = newest.send(remembered);
        }
    }
}

/// What was noted last is in the file then.
impl Drop for PositionFile {
    fn drop(&mut self) {
        self.newest = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

/// What the thread writes that keeps the file.
struct Writer {
    path: PathBuf,
    store: String,
    is_signed: Arc<AtomicBool>,
    is_failing: Arc<AtomicBool>,
}

impl Writer {
    fn keep(&self, noted: &Receiver<Remembered>) {
        let (mut pending, mut last): (Option<Remembered>, Option<Kept>) = (None, None);
        loop {
            let newest = match pending.take() {
                Some(newest) => newest,
                None => match noted.recv_timeout(LOOK_EVERY) {
                    Ok(newest) => newest,
                    // The store may be signed since, which no change says.
                    Err(RecvTimeoutError::Timeout) => match &last {
                        Some(last) if last.is_signed != self.is_signed() => last.remembered.clone(),
                        _ => continue,
                    },
                    Err(RecvTimeoutError::Disconnected) => match &last {
                        Some(last) if last.is_signed != self.is_signed() => {
                            self.put(&self.kept(last.remembered.clone()));
                            return;
                        }
                        _ => return,
                    },
                },
            };
            let kept = self.kept(newest);
            // What could not be written is tried again.
            if self.put(&kept) {
                last = Some(kept);
            } else {
                pending = Some(kept.remembered);
            }
            let next = Instant::now() + PAUSE;
            loop {
                match noted.recv_timeout(next.saturating_duration_since(Instant::now())) {
                    Ok(newer) => pending = Some(newer),
                    Err(RecvTimeoutError::Timeout) => break,
                    // Nobody waits longer for it than for the disk.
                    Err(RecvTimeoutError::Disconnected) => {
                        let unsaid = last.filter(|last| last.is_signed != self.is_signed());
                        if let Some(newest) = pending.or(unsaid.map(|last| last.remembered)) {
                            self.put(&self.kept(newest));
                        }
                        return;
                    }
                }
            }
        }
    }

    fn is_signed(&self) -> bool {
        self.is_signed.load(Ordering::Relaxed)
    }

    fn kept(&self, remembered: Remembered) -> Kept {
        Kept { remembered, store: Some(self.store.clone()), is_signed: self.is_signed() }
    }

    fn put(&self, kept: &Kept) -> bool {
        let written = write(&self.path, kept);
        let was_failing = self.is_failing.swap(written.is_err(), Ordering::Relaxed);
        match &written {
            Err(error) if !was_failing => complain(&self.path, error),
            Ok(()) if was_failing => tracing::info!(path = %self.path.display(), "the position is remembered again"),
            _ => {}
        }
        written.is_ok()
    }
}

fn complain(path: &Path, error: &io::Error) {
    let path = path.display();
    tracing::error!(%path, %error, "the position cannot be remembered: a store that goes back while this process is stopped is \
                                    not noticed by it");
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// What a process has noted. `None` if there is no file.
///
/// # Errors
/// The system's; also if the file holds something else.
pub fn read(path: &Path) -> io::Result<Option<Kept>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text)?;
    let kept = decode(&text).ok_or_else(|| io::Error::other("it does not hold a position"))?;
    Ok(Some(kept))
}

/// Whole and durable, or not at all.
fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    let mut file = scratch(path)?;
    file.write_all(encode(kept).as_bytes())?;
    file.sync_all()?;
    fs::rename(beside(path), path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn scratch(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(beside(path))
}

/// Keeps others from this file. The lock has a file of its own, as each write puts a new one in the place of the other.
fn lock(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(with(path, ".lock"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        // Some network file systems know no locks. Who shares such a file by mistake is not told so.
        Err(TryLockError::Error(error)) if knows_no_locks(&error) => {
            tracing::warn!(path = %path.display(), %error, "the file system keeps no locks: let no other process use this file");
            Ok(file)
        }
        Err(TryLockError::Error(error)) => Err(error),
    }
}

fn knows_no_locks(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOLCK | Errno::NOSYS | Errno::OPNOTSUPP))
}

/// Of this process alone, whoever else writes beside it.
fn beside(path: &Path) -> PathBuf {
    with(path, &format!(".{}.new", std::process::id()))
}

fn with(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn encode(Kept { remembered, store, is_signed }: &Kept) -> String {
    let Remembered { place: Head { lineage, position }, term, left } = remembered;
    let epoch = if let Term::Epoch(epoch) = term { Some(epoch) } else { None };
    let value = json!({
        "lineage": lineage, "seq": position.sequence, "h": position.chain, "epoch": epoch, "left": left, "store": store,
        "signed": is_signed,
    });
    format!("{value}\n")
}

fn decode(text: &str) -> Option<Kept> {
    let value: Value = serde_json::from_str(text).ok()?;
    let field = |name: &str| value.get(name);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let position = Position { sequence: field("seq")?.as_u64()?, chain: text(field("h")?)? };
    let remembered = Remembered {
        place: Head { lineage: text(field("lineage")?)?, position },
        term: field("epoch").and_then(Value::as_u64).map_or(Term::Fixed, Term::Epoch),
        left: field("left")?.as_array()?.iter().map(text).collect::<Option<_>>()?,
    };
    let is_signed = field("signed").and_then(Value::as_bool).unwrap_or_default();
    Some(Kept { remembered, store: field("store").and_then(text), is_signed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tasks::Tasks;

    fn open(path: &Path, store: &str) -> io::Result<(PositionFile, Option<Kept>)> {
        PositionFile::open(path, store, Arc::default(), Tasks::default().task("position"))
    }

    fn at(sequence: u64) -> Remembered {
        let position = Position { sequence, chain: format!("h{sequence}") };
        let place = Head { lineage: "one".to_owned(), position };
        Remembered { place, term: Term::Epoch(3), left: vec!["none".to_owned()] }
    }

    fn kept(remembered: Remembered) -> Kept {
        Kept { remembered, store: Some("here".to_owned()), is_signed: false }
    }

    #[test]
    fn the_last_position_is_there_after_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("position");
        let (file, before) = open(&path, "here").unwrap();
        assert_eq!(before, None);
        for sequence in 1..=1_000 {
            file.note(at(sequence));
        }
        drop(file);
        // Another store does not take it for its own before it has noted something.
        assert_eq!(open(&path, "there").unwrap().1, Some(kept(at(1_000))));
        assert_eq!(read(&path).unwrap(), Some(kept(at(1_000))));
        let fixed = kept(Remembered { term: Term::Fixed, ..at(5) });
        write(&path, &fixed).unwrap();
        assert_eq!(read(&path).unwrap(), Some(fixed));
    }

    #[test]
    fn a_file_is_written_by_one_process_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("position");
        let (first, _) = open(&path, "here").unwrap();
        first.note(at(7));
        let second = open(&path, "here").unwrap_err();
        assert_eq!(second.kind(), io::ErrorKind::WouldBlock);
        drop(first);
        assert_eq!(open(&path, "here").unwrap().1, Some(kept(at(7))));
        let names = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(
            names.collect::<std::collections::BTreeSet<_>>(),
            ["position", "position.lock"].map(Into::into).into()
        );
    }

    #[test]
    fn a_disk_that_is_full_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("position");
        // Whatever is written there finds no room.
        std::os::unix::fs::symlink("/dev/full", beside(&path)).unwrap();
        write_plainly(&path, &kept(at(3)));
        let (file, known) = open(&path, "here").unwrap();
        assert_eq!((known, file.is_failing()), (Some(kept(at(3))), true));
        file.note(at(4));
        fs::remove_file(beside(&path)).unwrap();
        let since = Instant::now();
        while read(&path).unwrap() != Some(kept(at(4))) || file.is_failing() {
            assert!(since.elapsed() < 10 * PAUSE, "it is not written again");
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn write_plainly(path: &Path, kept: &Kept) {
        fs::write(path, encode(kept)).unwrap();
    }

    #[test]
    fn a_file_that_holds_something_else_is_not_taken_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("position");
        for text in ["", "{}", "nothing", r#"{"lineage": "one", "seq": -1, "h": "", "left": []}"#] {
            fs::write(&path, text).unwrap();
            assert!(open(&path, "here").is_err(), "{text}");
        }
        assert!(open(&folder.path().join("missing/position"), "here").is_err());
    }
}
