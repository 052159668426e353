//! The file that a replica's position outlasts its process in, so that a store which went back while everything was stopped is
//! noticed. Never written more often than once a second, and never in the way of a lease.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::domain::change::{Head, Position};
use crate::domain::fleet::{Remembered, Term};

/// Between two writes.
const PAUSE: Duration = Duration::from_secs(1);
/// With a good deal of room.
const LONGEST: u64 = 64 << 10;

/// Keeps the newest position in its file, until it is dropped.
#[derive(Debug)]
pub struct PositionFile {
    newest: Option<Sender<Remembered>>,
    writer: Option<JoinHandle<()>>,
}

impl PositionFile {
    /// Writes whatever is there already once more, so that a folder that cannot be written to is noticed at the start.
    ///
    /// # Errors
    /// The system's.
    pub fn open(path: &Path) -> io::Result<(Self, Option<Remembered>)> {
        let remembered = read(path)?;
        match &remembered {
            Some(remembered) => write(path, remembered)?,
            None => drop(scratch(path)?),
        }
        let (newest, noted) = mpsc::channel();
        let path = path.to_owned();
        let keep = move || keep(&path, &noted);
        let writer = thread::Builder::new().name("tollgate-position".to_owned()).spawn(keep)?;
        Ok((Self { newest: Some(newest), writer: Some(writer) }, remembered))
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

fn keep(path: &Path, noted: &Receiver<Remembered>) {
    let (mut pending, mut has_complained) = (None, false);
    let mut put = |remembered: &Remembered| {
        let written = write(path, remembered);
        if let Err(error) = &written
            && !has_complained
        {
            let path = path.display();
            tracing::error!(%path, %error, "the position cannot be remembered: a store that goes back while this process is \
                                            stopped is not noticed by it");
        }
        has_complained = written.is_err();
    };
    loop {
        let Some(newest) = pending.take().or_else(|| noted.recv().ok()) else { return };
        put(&newest);
        let next = Instant::now() + PAUSE;
        loop {
            match noted.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(newer) => pending = Some(newer),
                Err(RecvTimeoutError::Timeout) => break,
                // Nobody waits longer for it than for the disk.
                Err(RecvTimeoutError::Disconnected) => {
                    pending.iter().for_each(put);
                    return;
                }
            }
        }
    }
}

/// What a process has noted. `None` if there is no file.
///
/// # Errors
/// The system's; also if the file holds something else.
pub fn read(path: &Path) -> io::Result<Option<Remembered>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = String::new();
    file.take(LONGEST).read_to_string(&mut text)?;
    let remembered = decode(&text).ok_or_else(|| io::Error::other("it does not hold a position"))?;
    Ok(Some(remembered))
}

/// Whole and durable, or not at all.
fn write(path: &Path, remembered: &Remembered) -> io::Result<()> {
    let mut file = scratch(path)?;
    file.write_all(encode(remembered).as_bytes())?;
    file.sync_all()?;
    fs::rename(beside(path), path)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn scratch(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(beside(path))
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

fn encode(remembered: &Remembered) -> String {
    let Remembered { place: Head { lineage, position }, term, left } = remembered;
    let epoch = if let Term::Epoch(epoch) = term { Some(epoch) } else { None };
    let value = json!({
        "lineage": lineage, "seq": position.sequence, "h": position.chain, "epoch": epoch, "left": left,
    });
    format!("{value}\n")
}

fn decode(text: &str) -> Option<Remembered> {
    let value: Value = serde_json::from_str(text).ok()?;
    let field = |name: &str| value.get(name);
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let position = Position { sequence: field("seq")?.as_u64()?, chain: text(field("h")?)? };
    Some(Remembered {
        place: Head { lineage: text(field("lineage")?)?, position },
        term: field("epoch").and_then(Value::as_u64).map_or(Term::Fixed, Term::Epoch),
        left: field("left")?.as_array()?.iter().map(text).collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sequence: u64) -> Remembered {
        let position = Position { sequence, chain: format!("h{sequence}") };
        let place = Head { lineage: "one".to_owned(), position };
        Remembered { place, term: Term::Epoch(3), left: vec!["none".to_owned()] }
    }

    #[test]
    fn the_last_position_is_there_after_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("position");
        let (file, before) = PositionFile::open(&path).unwrap();
        assert_eq!(before, None);
        for sequence in 1..=1_000 {
            file.note(at(sequence));
        }
        drop(file);
        assert_eq!(PositionFile::open(&path).unwrap().1, Some(at(1_000)));
        let fixed = Remembered { term: Term::Fixed, ..at(5) };
        write(&path, &fixed).unwrap();
        assert_eq!(read(&path).unwrap(), Some(fixed));
    }

    #[test]
    fn a_file_that_holds_something_else_is_not_taken_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("position");
        for text in ["", "{}", "nothing", r#"{"lineage": "one", "seq": -1, "h": "", "left": []}"#] {
            fs::write(&path, text).unwrap();
            assert!(PositionFile::open(&path).is_err(), "{text}");
        }
        assert!(PositionFile::open(&folder.path().join("missing/position")).is_err());
    }
}
