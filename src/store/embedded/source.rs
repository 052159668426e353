//! Where the embedded store's bytes are: a file, or a backend that was given. Never makes a store where one was before,
//! and never leaves a half-made one under the store's name.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

use super::super::StoreError;

/// Opens the storage again each time it is called; the same bytes must be there.
pub type BackendFactory = Arc<dyn Fn() -> io::Result<Box<dyn StorageBackend>> + Send + Sync>;

/// Makes a whole, closed, empty store on a backend.
type Initialise = fn(Box<dyn StorageBackend>) -> Result<(), String>;

pub(super) enum Source {
    File {
        path: PathBuf,
        /// Which file was opened there: its device and its number.
        opened: OnceLock<(u64, u64)>,
    },
    Backend(BackendFactory),
}

impl Source {
    pub(super) fn file(path: &Path) -> Self {
        Self::File { path: path.to_owned(), opened: OnceLock::new() }
    }

    /// Whether what is written would be found again: the file that was opened is the one at its path.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] with what to do.
    pub(super) fn is_in_place(&self) -> Result<(), StoreError> {
        let Self::File { path, opened } = self else { return Ok(()) };
        let is_gone = match fs::metadata(path) {
            Ok(found) => opened.get().is_some_and(|opened| *opened != number_of(&found)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(error) => return Err(StoreError::Unavailable(format!("{self} cannot be looked at: {error}"))),
        };
        if is_gone {
            return Err(StoreError::Unavailable(format!(
                "{self} was removed or replaced while it was open, so nothing more is written: put it back, or stop Tollgate, \
                 restore the file and start again"
            )));
        }
        Ok(())
    }

    /// Makes the file of a new store, whole and durable, if there is none.
    pub(super) fn prepare(&self, initialise: Initialise) -> Result<(), StoreError> {
        match self {
            Self::File { path, .. } if !path.exists() => make_file(path, initialise),
            _ => Ok(()),
        }
    }

    /// The bytes. `again`: they were open in this process before.
    pub(super) fn backend(&self, again: bool) -> Result<Box<dyn StorageBackend>, StoreError> {
        let unavailable = |error: io::Error| StoreError::Unavailable(format!("{self}: {error}"));
        match self {
            Self::File { path, opened } => {
                let file = open_file(path)?;
                let found = file.metadata().map_err(unavailable)?;
                refuse_if_others_write(path, &found)?;
                if *opened.get_or_init(|| number_of(&found)) != number_of(&found) {
                    return Err(StoreError::Unavailable(format!(
                        "{self} is another file than the one that was open: put that one back, or start Tollgate again"
                    )));
                }
                if again {
                    forget_cached_pages(&file);
                }
                if found.len() == 0 {
                    return Err(StoreError::Damaged(format!(
                        "{self} is empty: restore it, or remove it to begin with a new store"
                    )));
                }
                let backend = FileBackend::new(file).map_err(|error| unavailable(io::Error::other(error)))?;
                Ok(Box::new(backend))
            }
            Self::Backend(factory) => {
                let backend = factory().map_err(unavailable)?;
                if again && backend.len().map_err(unavailable)? == 0 {
                    return Err(StoreError::Unavailable(format!("{self} is gone")));
                }
                Ok(backend)
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, .. } => path.display().fmt(f),
            Self::Backend(_) => f.write_str("the given storage"),
        }
    }
}

fn open_file(path: &Path) -> Result<File, StoreError> {
    OpenOptions::new().read(true).write(true).open(path).map_err(|error| {
        let advice = match error.kind() {
            io::ErrorKind::PermissionDenied => ": it must belong to the user that Tollgate runs as",
            _ => "",
        };
        StoreError::Unavailable(format!("{} cannot be opened: {error}{advice}", path.display()))
    })
}

fn number_of(found: &fs::Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

/// Whoever can write the file can make themselves a key.
fn refuse_if_others_write(path: &Path, found: &fs::Metadata) -> Result<(), StoreError> {
    let (mode, owner, own) = (found.mode() & 0o7777, found.uid(), rustix::process::geteuid().as_raw());
    let shown = path.display();
    if owner != 0 && owner != own {
        return Err(StoreError::Unavailable(format!(
            "{shown} belongs to user {owner}, who could change it: it must belong to root, or to user {own}, as whom Tollgate \
             runs; run `chown {own} {shown}`"
        )));
    }
    // Kubernetes lets the group of a volume write (`fsGroup`), and marks its folders with the bit that hands the group on.
    let folder = path
        .parent()
        .and_then(|folder| fs::metadata(if folder.as_os_str().is_empty() { Path::new(".") } else { folder }).ok());
    let is_of_volume = folder.is_some_and(|folder| folder.mode() & 0o2000 != 0 && folder.gid() == found.gid());
    let forbidden = if is_of_volume { 0o002 } else { 0o022 };
    if mode & forbidden != 0 {
        return Err(StoreError::Unavailable(format!(
            "{shown} can be written by others (mode {mode:04o}), who could make themselves keys: find out who did, then run \
             `chmod 600 {shown}`"
        )));
    }
    Ok(())
}

/// After a failed sync Linux may show pages as they were meant to be, though they never reached the disk. What is read
/// after a fault must be what is there.
fn forget_cached_pages(file: &File) {
    #[cfg(target_os = "linux")]
    {
        // It is advice: where it is not taken, nothing is worse than before.
        let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = file;
}

/// Makes a store under another name and gives it its own when it is whole, so that a crash leaves none or all of it.
fn make_file(path: &Path, initialise: Initialise) -> Result<(), StoreError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        return Err(StoreError::Unavailable(format!(
            "{} cannot be made: the folder {} does not exist; make it, or change `store.embedded.path`",
            path.display(),
            folder.display()
        )));
    }
    let failed =
        |error: &dyn fmt::Display| StoreError::Unavailable(format!("{} cannot be made: {error}", path.display()));
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| failed(&error))?;
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{:016x}.new", u64::from_le_bytes(random)));
    let unfinished = folder.join(name);

    let made = || -> Result<(), StoreError> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create_new(true).mode(0o600).open(&unfinished);
        let file = file.map_err(|error| failed(&error))?;
        let handle = file.try_clone().map_err(|error| failed(&error))?;
        let backend = FileBackend::new(file).map_err(|error| failed(&error))?;
        initialise(Box::new(backend)).map_err(|reason| failed(&reason))?;
        handle.sync_all().map_err(|error| failed(&error))?;
        take_name(&unfinished, path).map_err(|error| failed(&error))?;
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| failed(&error))
    }();
    // Gone already if it was renamed.
    let _ = fs::remove_file(&unfinished);
    made
}

/// Gives the file its name, unless another process has made the store meanwhile: then that one counts.
fn take_name(unfinished: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(unfinished, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        // Not every file system has hard links.
        Err(_) if !path.exists() => fs::rename(unfinished, path),
        result => result,
    }
}

/// A backend behind a pointer.
#[derive(Debug)]
pub(super) struct Boxed(pub(super) Box<dyn StorageBackend>);

type Locked<T> = Result<T, BackendError>;

impl StorageBackend for Boxed {
    fn len(&self) -> io::Result<u64> {
        self.0.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.0.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.0.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked<bool> {
        self.0.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked<bool> {
        self.0.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked<()> {
        self.0.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked<()> {
        self.0.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked<()> {
        self.0.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Locked<bool> {
        self.0.query_lock_range(start, end)
    }
}
