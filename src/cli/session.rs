//! The login of this user, kept in a file that nobody else can read. Never shows the token, and never uses a file that others
//! could have read.

use std::fmt;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use super::{Exit, Failure};

const FILE: &str = "session.json";
const MAX_FILE: u64 = 64 << 10;

/// One login.
#[derive(Debug, Serialize, Deserialize)]
pub struct Session {
    /// The server that gave the token: it goes nowhere else.
    pub url: String,
    pub token: Token,
    /// RFC 3339.
    pub expires_at: String,
    pub username: String,
    /// The certificates that the server was checked against, if not the system's.
    pub ca: Option<PathBuf>,
    /// Whether the token may cross the network in clear.
    pub plaintext: bool,
}

/// The token of a login.
pub struct Token(pub Zeroizing<String>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

impl Serialize for Token {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self(Zeroizing::new(String::deserialize(deserializer)?)))
    }
}

impl Session {
    /// Whether its token has expired; one whose end cannot be read has.
    pub fn is_over(&self) -> bool {
        self.expires_at.parse::<jiff::Timestamp>().is_ok_and(|end| end <= jiff::Timestamp::now())
            || self.expires_at.parse::<jiff::Timestamp>().is_err()
    }
}

/// `$XDG_CONFIG_HOME/tollgate`, by default `~/.config/tollgate`.
fn folder(env: impl Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let configuration = absolute("XDG_CONFIG_HOME").or_else(|| Some(absolute("HOME")?.join(".config")))?;
    Some(configuration.join("tollgate"))
}

/// The login, if there is one.
///
/// # Errors
/// If the file cannot be read, or others can read it.
pub fn read(env: impl Fn(&str) -> Option<String>) -> Result<Option<Session>, Failure> {
    let Some(path) = folder(env).map(|folder| folder.join(FILE)) else { return Ok(None) };
    let wrong = |problem: &str| Failure::new(Exit::Failed, format!("{}: {problem}", path.display()));
    let file = match OpenOptions::new().read(true).custom_flags(no_links()).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(wrong(&error.to_string())),
    };
    let found = file.metadata().map_err(|error| wrong(&error.to_string()))?;
    if !found.is_file() || found.uid() != rustix::process::geteuid().as_raw() || found.mode() & 0o077 != 0 {
        return Err(wrong("others can read this login: remove the file and run `tollgate login`"));
    }
    let mut text = Zeroizing::new(String::with_capacity(usize::try_from(found.len().min(MAX_FILE)).unwrap_or(0) + 1));
    file.take(MAX_FILE).read_to_string(&mut text).map_err(|error| wrong(&error.to_string()))?;
    let unreadable = |_| wrong("this is no login: remove the file and run `tollgate login`");
    serde_json::from_str(&text).map(Some).map_err(unreadable)
}

fn no_links() -> i32 {
    i32::try_from(rustix::fs::OFlags::NOFOLLOW.bits()).unwrap_or_default()
}

/// Keeps a login in the place of the one before, in one step; where it is kept.
///
/// # Errors
/// If it cannot be written.
pub fn write(session: &Session, env: impl Fn(&str) -> Option<String>) -> Result<PathBuf, Failure> {
    let Some(folder) = folder(env) else {
        return Err(Failure::usage("there is no place for the login: set HOME or XDG_CONFIG_HOME"));
    };
    let path = folder.join(FILE);
    let text = Zeroizing::new(serde_json::to_vec_pretty(session).unwrap_or_default());
    match replace(&folder, &path, &text) {
        Ok(()) => Ok(path),
        Err(error) => {
            Err(Failure::new(Exit::Failed, format!("the login cannot be kept in {}: {error}", path.display())))
        }
    }
}

fn replace(folder: &Path, path: &Path, text: &[u8]) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    fs::set_permissions(folder, Permissions::from_mode(0o700))?;
    let draft = folder.join(format!(".{FILE}.{}", std::process::id()));
    let written = write_new(&draft, text).and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        // What was wrong is told; the draft may not even be there.
        let _ = fs::remove_file(&draft);
    }
    written
}

fn write_new(path: &Path, text: &[u8]) -> io::Result<()> {
    let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text)?;
    file.sync_all()
}

/// Forgets the login.
///
/// # Errors
/// If the file is there and cannot be removed.
pub fn remove(env: impl Fn(&str) -> Option<String>) -> Result<(), Failure> {
    let Some(path) = folder(env).map(|folder| folder.join(FILE)) else { return Ok(()) };
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Failure::new(Exit::Failed, format!("{} cannot be removed: {error}", path.display())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session {
            url: "https://a.example".to_owned(),
            token: Token(Zeroizing::new("secret-token".to_owned())),
            expires_at: "2999-01-01T00:00:00Z".to_owned(),
            username: "alice".to_owned(),
            ca: None,
            plaintext: false,
        }
    }

    #[test]
    fn a_login_is_kept_for_its_user_alone() {
        let home = tempfile::tempdir().unwrap();
        let env = |name: &str| (name == "HOME").then(|| home.path().to_str().unwrap().to_owned());
        assert!(read(env).unwrap().is_none());
        for _ in 0..2 {
            let path = write(&session(), env).unwrap();
            assert_eq!(path, home.path().join(".config/tollgate/session.json"));
            assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
            assert_eq!(fs::metadata(path.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        }
        assert_eq!(fs::read_dir(home.path().join(".config/tollgate")).unwrap().count(), 1, "no draft stays");
        let kept = read(env).unwrap().unwrap();
        assert_eq!((kept.token.0.as_str(), kept.is_over()), ("secret-token", false));
        assert!(!format!("{kept:?}").contains("secret-token"));
        remove(env).unwrap();
        remove(env).unwrap();
        assert!(read(env).unwrap().is_none());
    }

    #[test]
    fn a_login_that_others_can_read_is_not_used() {
        let home = tempfile::tempdir().unwrap();
        let env = |name: &str| (name == "XDG_CONFIG_HOME").then(|| home.path().to_str().unwrap().to_owned());
        let path = write(&session(), env).unwrap();
        for mode in [0o640, 0o604, 0o660] {
            fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let refused = read(env).unwrap_err().message;
            assert!(refused.contains("others can read") && !refused.contains("secret-token"), "{refused}");
        }
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        let elsewhere = home.path().join("elsewhere.json");
        fs::rename(&path, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &path).unwrap();
        assert!(read(env).is_err(), "a link may lead to what others wrote");
        fs::remove_file(&path).unwrap();
        fs::write(&path, "{\"token\": \"secret-token\"").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        assert!(!read(env).unwrap_err().message.contains("secret-token"));
    }

    #[test]
    fn a_login_ends_at_its_time_or_if_that_cannot_be_read() {
        for over in ["2026-01-01T00:00:00Z", "never", ""] {
            assert!(Session { expires_at: over.to_owned(), ..session() }.is_over(), "{over}");
        }
    }
}
