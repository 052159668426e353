//! The peppers that keys are digested with: read from files, and the first one made. Never makes one for a store that has
//! been used, never starts with a wrong one, and never shows what a file holds.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::config::PepperSettings;
use crate::resolve::pepper::Pepper;
use crate::secret_file::{self, Problem};
use crate::store::signature::Signers;
use crate::store::{KeyQuery, PepperCheck, Store, StoreError};

const BYTES: usize = 32;
const DIGITS: usize = 2 * BYTES;

/// Why Tollgate does not start, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum PepperError {
    #[error(
        "the pepper file {path} (version {version}) is missing: restore it. Without it no key that was made with it \
         works, so none is made in its place"
    )]
    Lost { version: u32, path: PathBuf },
    #[error(
        "the pepper file {path} (version {version}) is missing, and Tollgate makes only the current one of an empty \
         store: make it with `(umask 077 && openssl rand -hex 32 > {path})`"
    )]
    Missing { version: u32, path: PathBuf },
    #[error(
        "the pepper file {path} (version {version}) is missing, and a fleet shares its pepper, so none is made: make it once \
         with `(umask 077 && openssl rand -hex 32 > {path})`, and give the same file to every replica"
    )]
    Unshared { version: u32, path: PathBuf },
    #[error("the current pepper, version {0}, has no file: add it to `pepper.keys`")]
    NoCurrent(u32),
    #[error("the pepper file {path} is not used: {problem}")]
    Unfit { path: PathBuf, problem: Problem },
    #[error("the pepper file {path} must hold 64 hexadecimal digits and nothing else")]
    Malformed { path: PathBuf },
    #[error(
        "the pepper in {path} is not the one that this store knows as version {version}: restore the right file, or give \
         a new pepper a new version number"
    )]
    Wrong { version: u32, path: PathBuf },
    #[error(
        "pepper version {version} is not configured, and key {key} was made with it: add its file to `pepper.keys`, or \
         revoke every key of that version first"
    )]
    StillInUse { version: u32, key: String },
    #[error(
        "{problem}, and run `tollgate store upgrade`, which signs every record with the current one, before pepper version {version} goes"
    )]
    StillSigns { version: u32, problem: String },
    #[error("the pepper file {path} cannot be made: {error}")]
    NotMade { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The current pepper and the older ones. Makes the current one if it is missing, the store is empty and nobody shares it;
/// leaves a check value of each in the store, which reads and writes signed records from then on.
///
/// # Errors
/// [`PepperError`]: rather than start and refuse every key, Tollgate does not start.
pub async fn load(settings: &PepperSettings, store: &Store) -> Result<(Pepper, Vec<Pepper>), PepperError> {
    let checks = store.pepper_checks().await?;
    let is_new = checks.is_empty() && store.has_no_keys().await?;
    let is_shared = matches!(store, Store::Redis(_));
    let (mut current, mut older, mut unknown) = (None, Vec::new(), Vec::new());
    for (version, path) in &settings.files {
        let is_current = *version == settings.current;
        let secret = match read(path)? {
            Some(secret) => secret,
            None if is_current && is_new && !is_shared => make(path)?,
            None => {
                return Err(match missing(*version, path, &checks, is_new) {
                    PepperError::Missing { version, path } if is_shared => PepperError::Unshared { version, path },
                    other => other,
                });
            }
        };
        let pepper = Pepper::new(*version, secret);
        match checks.iter().find(|check| check.version == *version) {
            Some(known) if *known != pepper.check() => {
                return Err(PepperError::Wrong { version: *version, path: path.clone() });
            }
            Some(_) => {}
            None => unknown.push((pepper.check(), path)),
        }
        if is_current {
            current = Some(pepper);
        } else {
            older.push(pepper);
        }
    }
    let current = current.ok_or(PepperError::NoCurrent(settings.current))?;
    // What is written in the store's log is signed, too.
    store.set_signers(signers(&current, &older));
    for (check, path) in unknown {
        match store.put_pepper_check(check).await {
            // Another replica was faster, with another pepper.
            Err(StoreError::Conflict(_)) => {
                return Err(PepperError::Wrong { version: check.version, path: path.clone() });
            }
            put => put?,
        }
    }
    let is_gone = |check: &&PepperCheck| settings.files.iter().all(|(version, _)| *version != check.version);
    refuse_if_used(checks.iter().filter(is_gone).map(|check| check.version).collect(), store).await?;
    Ok((current, older))
}

/// What signs the records of a store with these.
pub fn signers(current: &Pepper, older: &[Pepper]) -> Signers {
    Signers::new(current.record_signer(), older.iter().map(Pepper::record_signer))
}

/// The same from the files of the peppers, compared with no store.
///
/// # Errors
/// As [`read_all`].
pub fn read_signers(settings: &PepperSettings) -> Result<Signers, PepperError> {
    read_all(settings).map(|(current, older)| signers(&current, &older))
}

/// Gives a store the keys that sign its records, from the files of the peppers. Gives the current one.
///
/// # Errors
/// As [`read_all`], and [`PepperError::Wrong`] if the store knows another pepper of one of these versions.
pub async fn unlock(settings: &PepperSettings, store: &Store) -> Result<Pepper, PepperError> {
    let (current, older) = read_all(settings)?;
    let known = store.pepper_checks().await?;
    for pepper in older.iter().chain([&current]) {
        let ours = pepper.check();
        if known.iter().any(|known| known.version == ours.version && *known != ours) {
            let file = settings.files.iter().find(|(version, _)| *version == ours.version);
            let path = file.map(|(_, path)| path.clone()).unwrap_or_default();
            return Err(PepperError::Wrong { version: ours.version, path });
        }
    }
    store.set_signers(signers(&current, &older));
    Ok(current)
}

/// The peppers from their files alone, compared with no store: for a process that answers nothing by them.
///
/// # Errors
/// [`PepperError`] if one of them is missing or no pepper.
pub fn read_all(settings: &PepperSettings) -> Result<(Pepper, Vec<Pepper>), PepperError> {
    let (mut current, mut older) = (None, Vec::new());
    for (version, path) in &settings.files {
        let lost = || PepperError::Lost { version: *version, path: path.clone() };
        let pepper = Pepper::new(*version, read(path)?.ok_or_else(lost)?);
        if *version == settings.current {
            current = Some(pepper);
        } else {
            older.push(pepper);
        }
    }
    current.map(|current| (current, older)).ok_or(PepperError::NoCurrent(settings.current))
}

/// A file that was there before is lost; one that never was has to be made.
fn missing(version: u32, path: &Path, checks: &[PepperCheck], is_new: bool) -> PepperError {
    let path = path.to_owned();
    // A store with keys and without any check value has lost its only pepper.
    if (checks.is_empty() && !is_new) || checks.iter().any(|check| check.version == version) {
        PepperError::Lost { version, path }
    } else {
        PepperError::Missing { version, path }
    }
}

/// A pepper may go when no key needs it any more, and no record is signed with it. Looks at all of them, but only while a known version
/// is not configured.
async fn refuse_if_used(versions: BTreeSet<u32>, store: &Store) -> Result<(), PepperError> {
    if versions.is_empty() {
        return Ok(());
    }
    let unknown = store.distrusted().await?.unknown;
    if let Some((version, problem)) = unknown.into_iter().find(|(version, _)| versions.contains(version)) {
        return Err(PepperError::StillSigns { version, problem });
    }
    let mut query = KeyQuery { limit: 1000, ..KeyQuery::default() };
    loop {
        let page = store.keys(query.clone()).await?;
        if let Some(key) = page.iter().find(|key| versions.contains(&key.pepper_version) && key.revoked_at.is_none()) {
            return Err(PepperError::StillInUse { version: key.pepper_version, key: key.id.to_string() });
        }
        match page.last() {
            Some(last) => query.after = Some(last.id),
            None => return Ok(()),
        }
    }
}

type Secret = Zeroizing<[u8; BYTES]>;

/// The pepper in a file; `None` if there is no file.
fn read(path: &Path) -> Result<Option<Secret>, PepperError> {
    let malformed = || PepperError::Malformed { path: path.to_owned() };
    // With room for a line end.
    match secret_file::read(path, DIGITS + 2) {
        Ok(text) => decode(&text).map(Some).ok_or_else(malformed),
        Err(Problem::Missing) => Ok(None),
        Err(Problem::TooLong(_)) => Err(malformed()),
        Err(problem) => Err(PepperError::Unfit { path: path.to_owned(), problem }),
    }
}

/// 64 hexadecimal digits, and perhaps a line end.
fn decode(text: &[u8]) -> Option<Secret> {
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let text = text.strip_suffix(b"\r").unwrap_or(text);
    if text.len() != DIGITS {
        return None;
    }
    let mut secret = Zeroizing::new([0; BYTES]);
    for (byte, pair) in secret.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(secret)
}

fn digit(character: u8) -> Option<u8> {
    char::from(character).to_digit(16).and_then(|digit| u8::try_from(digit).ok())
}

fn encode(secret: &Secret) -> Zeroizing<Vec<u8>> {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = Zeroizing::new(Vec::with_capacity(DIGITS + 1));
    for byte in secret.iter() {
        text.extend([HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
    }
    text.push(b'\n');
    text
}

/// Makes a pepper: on the disk before it is used, readable by its owner alone, and never in the place of another.
fn make(path: &Path) -> Result<Secret, PepperError> {
    let failed = |error| PepperError::NotMade { path: path.to_owned(), error };
    let mut secret = Zeroizing::new([0; BYTES]);
    getrandom::fill(&mut *secret).map_err(|error| failed(io::Error::other(error)))?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let unfinished = folder.join(name);

    let made = || -> io::Result<()> {
        if let Err(error) = fs::remove_file(&unfinished)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&unfinished)?;
        file.write_all(&encode(&secret))?;
        file.sync_all()?;
        // Another Tollgate may have been given the same file: a link never replaces what is there.
        match fs::hard_link(&unfinished, path) {
            Ok(()) => fs::remove_file(&unfinished)?,
            Err(_) if !path.exists() => fs::rename(&unfinished, path)?,
            Err(error) => {
                fs::remove_file(&unfinished)?;
                return Err(error);
            }
        }
        File::open(folder)?.sync_all()
    }();
    made.map_err(failed)?;
    Ok(secret)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::sync::Arc;

    use super::*;
    use crate::domain::change::Event;
    use crate::domain::record::ApiKey;
    use crate::store::Write;
    use crate::store::embedded::Embedded;
    use crate::store::upgrade::upgrade;
    use tollgate_core::credential::KeyId;
    use tollgate_guard::digest::Digest;
    use tollgate_guard::time::Timestamp;

    struct House {
        folder: tempfile::TempDir,
        store: Store,
    }

    impl House {
        fn new() -> Self {
            let store = Store::Embedded(Arc::new(Embedded::in_memory().unwrap()));
            Self { folder: tempfile::tempdir().unwrap(), store }
        }

        fn path(&self, version: u32) -> PathBuf {
            self.folder.path().join(format!("pepper.{version}"))
        }

        fn put(&self, version: u32, content: &str, mode: u32) {
            fs::write(self.path(version), content).unwrap();
            fs::set_permissions(self.path(version), fs::Permissions::from_mode(mode)).unwrap();
        }

        async fn load(&self, current: u32, versions: &[u32]) -> Result<(Pepper, Vec<Pepper>), PepperError> {
            let files = versions.iter().map(|version| (*version, self.path(*version))).collect();
            load(&PepperSettings { current, files }, &self.store).await
        }

        async fn mint(&self, id: &str, pepper_version: u32) -> ApiKey {
            let key = ApiKey {
                id: KeyId::parse(id).unwrap(),
                digest: Digest([u8::try_from(pepper_version).unwrap(); 32]),
                pepper_version,
                name: "key".to_owned(),
                plane: "data".to_owned(),
                project: "acme".to_owned(),
                project_id: None,
                workloads: vec![],
                permissions: vec![],
                created_at: Timestamp::from_millis(1),
                created_by: "operator".to_owned(),
                expires_at: None,
                retires_at: None,
                revoked_at: None,
                replaces: None,
                replaced_by: None,
                version: 1,
            };
            self.store.commit(vec![Write::CreateKey(key.clone())], Event::touching(&[])).await.unwrap();
            key
        }
    }

    const HEX: &str = "000102030405060708090a0b0c0d0e0fF0F1F2F3F4F5F6F7F8F9FAFBFCFDFEFF";

    #[tokio::test]
    async fn the_first_pepper_is_made_once() {
        let house = House::new();
        let (made, older) = house.load(1, &[1]).await.unwrap();
        assert!(older.is_empty());
        let text = fs::read(house.path(1)).unwrap();
        assert_eq!((text.len(), text[64]), (65, b'\n'));
        assert_eq!(fs::metadata(house.path(1)).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(fs::read_dir(house.folder.path()).unwrap().count(), 1, "nothing else is left");
        assert_eq!(house.store.pepper_checks().await.unwrap(), [made.check()]);

        let (again, _) = house.load(1, &[1]).await.unwrap();
        assert_eq!(again.check(), made.check());
        assert_eq!(fs::read(house.path(1)).unwrap(), text);
    }

    #[tokio::test]
    async fn a_lost_pepper_is_not_made_again() {
        let house = House::new();
        house.load(1, &[1]).await.unwrap();
        fs::remove_file(house.path(1)).unwrap();
        let error = house.load(1, &[1]).await.unwrap_err();
        assert!(matches!(error, PepperError::Lost { version: 1, .. }), "{error}");
        assert!(!house.path(1).exists());
    }

    #[tokio::test]
    async fn no_pepper_is_made_for_a_store_with_keys() {
        let house = House::new();
        house.mint("abcdefABCDEF", 1).await;
        let error = house.load(1, &[1]).await.unwrap_err();
        assert!(matches!(error, PepperError::Lost { version: 1, .. }), "{error}");
        assert!(!house.path(1).exists());
    }

    #[tokio::test]
    async fn a_wrong_pepper_is_refused() {
        let house = House::new();
        house.load(1, &[1]).await.unwrap();
        house.put(1, HEX, 0o600);
        let error = house.load(1, &[1]).await.unwrap_err();
        assert!(matches!(error, PepperError::Wrong { version: 1, .. }), "{error}");
    }

    #[tokio::test]
    async fn a_file_that_others_can_open_is_refused() {
        for mode in [0o604, 0o660, 0o644, 0o620] {
            let house = House::new();
            house.put(1, HEX, mode);
            let error = house.load(1, &[1]).await.unwrap_err();
            assert!(error.to_string().contains("chmod 600"), "{error}");
        }
    }

    #[tokio::test]
    async fn only_64_digits_are_a_pepper() {
        for content in ["", "\n", &HEX[1..], &format!("{HEX}00"), &format!("{HEX}\n\n"), &HEX.replace('a', "g")] {
            let house = House::new();
            house.put(1, content, 0o600);
            let error = house.load(1, &[1]).await.unwrap_err();
            assert!(matches!(error, PepperError::Malformed { .. }), "{error}");
            assert!(content.len() < 2 || !format!("{error} {error:?}").contains(content.trim_end()));
        }
        for content in [HEX.to_owned(), format!("{HEX}\n"), format!("{}\r\n", HEX.to_lowercase())] {
            let house = House::new();
            house.put(1, &content, 0o400);
            house.load(1, &[1]).await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_new_version_is_given_and_remembered() {
        let house = House::new();
        house.load(1, &[1]).await.unwrap();
        let error = house.load(2, &[1, 2]).await.unwrap_err();
        assert!(error.to_string().contains("openssl rand -hex 32"), "{error}");

        house.put(2, HEX, 0o600);
        let (current, older) = house.load(2, &[1, 2]).await.unwrap();
        assert_eq!((current.version, older.len(), older[0].version), (2, 1, 1));
        assert_eq!(house.store.pepper_checks().await.unwrap().len(), 2);
        house.put(2, &HEX.replace('F', "E"), 0o600);
        assert!(matches!(house.load(2, &[1, 2]).await, Err(PepperError::Wrong { version: 2, .. })));
    }

    #[tokio::test]
    async fn a_pepper_goes_when_no_key_needs_it() {
        let house = House::new();
        house.load(1, &[1]).await.unwrap();
        let mut key = house.mint("abcdefABCDEF", 1).await;
        house.put(2, HEX, 0o600);
        house.load(2, &[1, 2]).await.unwrap();
        let error = house.load(2, &[2]).await.unwrap_err().to_string();
        assert!(error.contains("abcdefABCDEF") && error.contains("tollgate store upgrade"), "{error}");
        house.load(2, &[1, 2]).await.unwrap();
        assert_eq!(upgrade(&house.store).await.unwrap().rewritten, 1);
        let error = house.load(2, &[2]).await.unwrap_err();
        assert!(matches!(&error, PepperError::StillInUse { version: 1, key } if key == "abcdefABCDEF"), "{error}");

        house.load(2, &[1, 2]).await.unwrap();
        key.revoked_at = Some(Timestamp::from_millis(2));
        key.version = 2;
        house.store.commit(vec![Write::UpdateKey(key)], Event::touching(&[])).await.unwrap();
        house.load(2, &[2]).await.unwrap();
    }

    #[tokio::test]
    async fn only_the_current_pepper_is_made() {
        let house = House::new();
        let error = house.load(2, &[1, 2]).await.unwrap_err();
        assert!(matches!(error, PepperError::Missing { version: 1, .. }), "{error}");
    }

    #[tokio::test]
    async fn the_current_version_must_have_a_file() {
        let house = House::new();
        house.put(1, HEX, 0o600);
        assert!(matches!(house.load(2, &[1]).await, Err(PepperError::NoCurrent(2))));
    }

    #[tokio::test]
    async fn what_cannot_be_made_says_why() {
        let house = House::new();
        let files = vec![(1, house.folder.path().join("nowhere/pepper.1"))];
        let error = load(&PepperSettings { current: 1, files }, &house.store).await.unwrap_err();
        assert!(matches!(error, PepperError::NotMade { .. }), "{error}");
    }
}
