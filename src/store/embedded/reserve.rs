//! Room on the disk that is kept for what ends something. A file beside the store takes it, so that nobody else can, and gives it
//! back piece by piece when a revocation needs it. Never touches the store's own file.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// What is kept. A revocation takes about 300 bytes of it, so it is room for some ten thousand.
const KEPT: u64 = 16 << 20;
/// What is given back at a time.
const PIECE: u64 = 2 << 20;
/// With less than this beside it, only what ends something is written. A commit of redb is far smaller.
const SPARE: u64 = 4 << 20;

/// The room that is kept beside one store.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes that the file holds.
    held: u64,
    /// The file system cannot keep room: what is free is all there is to go by.
    impossible: bool,
    is_short: bool,
}

impl Reserve {
    /// Beside the store with this name. Takes what it can get now.
    pub(super) fn beside(store: &Path) -> Self {
        let mut name = store.file_name().unwrap_or_default().to_owned();
        name.push(".reserve");
        let path = store.with_file_name(name);
        // What a process before this one has kept or left of it.
        let held = fs::metadata(&path).map_or(0, |file| file.len().min(file.blocks().saturating_mul(512)).min(KEPT));
        let reserve = Self { path, state: Mutex::new(State { held, ..State::default() }) };
        reserve.shortage();
        reserve
    }

    /// Why nothing may be made now; `None`: there is room. Takes back what was given up, as soon as there is room for it.
    pub(super) fn shortage(&self) -> Option<String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // A disk that does not say how full it is is found to be full by writing to it.
        let free = free(&self.path)?;
        let missing = if state.impossible { 0 } else { KEPT - state.held };
        let has_room = free >= missing.saturating_add(SPARE) && (missing == 0 || self.fill(&mut state));
        let was_short = std::mem::replace(&mut state.is_short, !has_room);
        if has_room {
            if was_short {
                tracing::info!("the store's disk has room again");
            }
            return None;
        }
        let reason = format!(
            "the disk of {} has {} KiB left: only revocations and the like are taken until there is room for more",
            self.path.with_extension("").display(),
            free >> 10
        );
        if !was_short {
            tracing::error!("{reason}");
        }
        Some(reason)
    }

    /// Sees to it that what ends something can be written.
    pub(super) fn make_room(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.held > 0 && free(&self.path).is_some_and(|free| free < SPARE) {
            let left = state.held - state.held.min(PIECE);
            if let Err(error) = self.file().and_then(|file| file.set_len(left)) {
                tracing::error!(%error, "the room that is kept beside the store cannot be given back");
                return;
            }
            state.held = left;
            tracing::warn!(left, "the store's disk is full: what is kept for revocations is used");
        }
    }

    /// Whether all of it is kept now, as far as that is possible.
    fn fill(&self, state: &mut State) -> bool {
        match self.file().and_then(|file| Ok(fallocate(&file, FallocateFlags::empty(), 0, KEPT)?)) {
            Ok(()) => {
                state.held = KEPT;
                true
            }
            Err(error) if error.kind() == io::ErrorKind::StorageFull => false,
            Err(error) => {
                tracing::warn!(%error, "no room can be kept beside the store: give it a disk of its own");
                state.impossible = true;
                true
            }
        }
    }

    fn file(&self) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&self.path)
    }
}

/// Bytes that can be written to the disk that a file is on; `None`: it does not say.
fn free(path: &Path) -> Option<u64> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let disk = statvfs(folder).ok()?;
    Some(disk.f_bavail.saturating_mul(disk.f_frsize))
}
