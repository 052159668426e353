//! A file that holds a secret: peppers, passwords, the keys of TLS. Refuses one that somebody else could read, change or put in
//! its place, never shows what it holds, and leaves no copy of it behind.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use zeroize::Zeroizing;

/// What a group may not do with it, and the others.
const FORBIDDEN: u32 = 0o027;
/// A mounted secret is another file with each change; whoever reads it meanwhile begins again so often.
const ATTEMPTS: usize = 3;

/// Why a file is not believed.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    #[error("there is no such file")]
    Missing,
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    #[error(
        "it is open to others (mode {mode:04o}): only its owner may write it, and nobody but its owner and group may read it; \
         run `chmod 600 {path}`, or `chmod 440` where a group reads it"
    )]
    Exposed { path: PathBuf, mode: u32 },
    #[error(
        "it belongs to user {owner}, who could change it: it must belong to root, or to user {own}, as whom Tollgate runs; run \
         `chown {own} {path}`"
    )]
    Foreign { path: PathBuf, owner: u32, own: u32 },
    #[error("it is a link out of its folder, to {target}: give the file itself, or put it into that folder")]
    Elsewhere { target: PathBuf },
    #[error("it is no file")]
    NoFile,
    #[error("it has more than {0} bytes")]
    TooLong(usize),
}

/// All that the file holds, at most `limit` bytes. A link is followed within the folder of `path`, as Kubernetes makes them.
///
/// # Errors
/// [`Problem`], each with what to do about it.
pub fn read(path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let mut attempts = 0;
    let file = loop {
        attempts += 1;
        match open(path) {
            Err(Problem::Missing) if attempts < ATTEMPTS && path.exists() => {}
            opened => break opened?,
        }
    };
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(Problem::NoFile);
    }
    let (mode, owner, own) = (found.mode() & 0o7777, found.uid(), rustix::process::geteuid().as_raw());
    if owner != 0 && owner != own {
        return Err(Problem::Foreign { path: path.to_owned(), owner, own });
    }
    if mode & FORBIDDEN != 0 {
        return Err(Problem::Exposed { path: path.to_owned(), mode });
    }
    // Room for all of it at once, and for one byte too many: a vector that grows leaves its old content behind.
    let length = usize::try_from(found.len()).unwrap_or(usize::MAX).min(limit);
    let mut text = Zeroizing::new(Vec::with_capacity(length + 2));
    file.take(length as u64 + 1).read_to_end(&mut text)?;
    if text.len() > limit { Err(Problem::TooLong(limit)) } else { Ok(text) }
}

fn open(path: &Path) -> Result<File, Problem> {
    let missing = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Problem::Missing,
        _ => Problem::Unreadable(error),
    };
    let target = fs::canonicalize(path).map_err(missing)?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !target.starts_with(fs::canonicalize(folder).map_err(missing)?) {
        return Err(Problem::Elsewhere { target });
    }
    // What was a file a moment ago may be a link or a pipe now: neither is followed, and nobody is waited for.
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    OpenOptions::new().read(true).custom_flags(flags).open(&target).map_err(missing)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    const SECRET: &str = "correct horse";

    fn put(path: &Path, mode: u32) {
        fs::write(path, SECRET).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    fn refused(path: &Path) -> String {
        let problem = read(path, 100).unwrap_err();
        let text = format!("{problem} {problem:?}");
        assert!(!text.contains("horse"), "{text}");
        text
    }

    #[test]
    fn modes_that_keep_it_from_others_are_right() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        for mode in [0o400, 0o600, 0o440, 0o640, 0o700] {
            put(&path, mode);
            assert_eq!(**read(&path, 100).unwrap(), *SECRET.as_bytes(), "{mode:o}");
        }
        for mode in [0o604, 0o644, 0o444, 0o660, 0o620, 0o602, 0o601, 0o666, 0o777] {
            put(&path, mode);
            assert!(refused(&path).contains("chmod 600"), "{mode:o}");
        }
    }

    #[test]
    fn a_file_of_somebody_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        put(&path, 0o600);
        // Only root can give it away.
        if rustix::process::geteuid().is_root() {
            chown(&path, Some(12_345), None).unwrap();
            let problem = refused(&path);
            assert!(problem.contains("belongs to user 12345") && problem.contains("chown 0"), "{problem}");
            chown(&path, Some(0), Some(12_345)).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o440)).unwrap();
        }
        read(&path, 100).unwrap();
    }

    #[test]
    fn links_are_followed_within_the_folder_alone() {
        let (folder, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (path, outside) = (folder.path().join("secret"), elsewhere.path().join("secret"));
        put(&outside, 0o600);
        symlink(&outside, &path).unwrap();
        assert!(refused(&path).contains("link out of its folder"));
        fs::remove_file(&path).unwrap();
        // A folder whose name begins like this one's is another folder.
        let beside = PathBuf::from(format!("{}-2", folder.path().display()));
        fs::create_dir(&beside).unwrap();
        put(&beside.join("secret"), 0o600);
        symlink(beside.join("secret"), &path).unwrap();
        assert!(refused(&path).contains("link out of its folder"));
        fs::remove_dir_all(&beside).unwrap();
        fs::remove_file(&path).unwrap();

        // As Kubernetes mounts a secret, and changes it.
        for version in ["..1", "..2"] {
            fs::create_dir(folder.path().join(version)).unwrap();
            put(&folder.path().join(version).join("secret"), 0o440);
            let data = folder.path().join("..data");
            let _ = fs::remove_file(&data);
            symlink(version, &data).unwrap();
            let _ = fs::remove_file(&path);
            symlink("..data/secret", &path).unwrap();
            read(&path, 100).unwrap();
        }
        // Through a link to the folder itself.
        let way = elsewhere.path().join("way");
        symlink(folder.path(), &way).unwrap();
        read(&way.join("secret"), 100).unwrap();
    }

    #[test]
    fn what_is_missing_too_long_or_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        assert!(matches!(read(&path, 100), Err(Problem::Missing)));
        put(&path, 0o600);
        assert!(matches!(read(&path, SECRET.len() - 1), Err(Problem::TooLong(_))));
        assert_eq!(read(&path, SECRET.len()).unwrap().len(), SECRET.len());
        assert!(matches!(read(folder.path(), 100), Err(Problem::NoFile | Problem::Elsewhere { .. })));
        symlink("nowhere", folder.path().join("broken")).unwrap();
        assert!(matches!(read(&folder.path().join("broken"), 100), Err(Problem::Missing)));
    }
}
