//! The store that Tollgate is measured with: a fresh one with a million keys, and their text in a file for the load. The
//! keys are worthless elsewhere: the pepper and the keys come from a fixed seed.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use tollgate::domain::change::Event;
use tollgate::domain::record::{ApiKey, User};
use tollgate::password::Passwords;
use tollgate::pepper;
use tollgate::resolve::api_key::Digester;
use tollgate::resolve::pepper::Pepper;
use tollgate::store::embedded::Embedded;
use tollgate::store::redis::Redis;
use tollgate::store::redis::connect::Connector;
use tollgate::store::{Store, Write};
use tollgate_core::credential::{MintedKey, PresentedKey};
use tollgate_guard::time::Timestamp;
use zeroize::Zeroizing;

use crate::Outcome;

pub const PREFIX: &str = "ik_live";
pub const PROJECT: &str = "acme";
/// A user and the password.
pub const USER: (&str, &str) = ("ada", "correct horse battery");
/// Of every key: prefix, `_`, id, `_`, secret, checksum.
pub const KEY_LENGTH: usize = 70;
const BATCH: usize = 50_000;
/// A script must not hold Redis up for long.
const REDIS_BATCH: usize = 1_000;
const PEPPER: [u8; 32] = [0x5a; 32];

/// A store and its keys, in files.
pub struct Keys {
    pub store: PathBuf,
    pub pepper: PathBuf,
    /// The text of all keys, one after the other.
    pub file: PathBuf,
    pub count: usize,
    /// The first of them.
    pub hot: String,
}

impl Keys {
    /// Makes them anew in `folder`.
    pub fn make(folder: &Path, count: usize) -> Outcome<Self> {
        let (store, pepper) = (folder.join("store.redb"), folder.join("pepper"));
        let file = folder.join("keys");
        if store.exists() {
            fs::remove_file(&store)?;
        }
        let digits: String = PEPPER.iter().map(|byte| format!("{byte:02x}")).collect();
        fs::write(&pepper, digits)?;
        fs::set_permissions(&pepper, fs::Permissions::from_mode(0o600))?;

        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let embedded = Store::Embedded(Arc::new(Embedded::open(&store, Duration::from_secs(1))?));
        let mut text = io::BufWriter::new(fs::File::create(&file)?);
        let hot = runtime.block_on(fill(&embedded, count, BATCH, &mut text))?;
        let hash = runtime.block_on(password_hash())?;
        runtime.block_on(embedded.commit(vec![Write::CreateUser(user(hash))], Event::touching(&[])))?;
        // What is still on its way to the disk would be waited for by whoever syncs next: the start that is measured.
        text.into_inner()?.sync_all()?;
        Ok(Self { store, pepper, file, count, hot })
    }

    /// Puts the first `count` of them into a store in Redis, which is made for it.
    pub fn fill_redis(&self, address: SocketAddr, count: usize) -> Outcome<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let redis = Redis::new(Connector::single(&address.to_string())?, runtime.handle().clone());
        runtime.block_on(redis.init())?;
        runtime.block_on(fill(&Store::Redis(Arc::new(redis)), count, REDIS_BATCH, &mut io::sink()))?;
        Ok(())
    }

    /// A file with `count` of them, from one on.
    pub fn part(&self, folder: &Path, from: usize, count: usize) -> Outcome<PathBuf> {
        if from + count > self.count {
            return Err(format!("there are {} keys: too few for {count} behind {from}", self.count).into());
        }
        let mut text = vec![0; count * KEY_LENGTH];
        fs::File::open(&self.file)?.read_exact_at(&mut text, (from * KEY_LENGTH) as u64)?;
        let file = folder.join("keys.part");
        fs::write(&file, text)?;
        Ok(file)
    }

    /// A file with `count` keys that nobody holds.
    pub fn unknown(folder: &Path, count: usize) -> Outcome<PathBuf> {
        let (mut random, mut text) = (Random(1 << 40), String::new());
        for _ in 0..count {
            let Ok(key) = MintedKey::generate(PREFIX, |buffer: &mut [u8]| random.fill(buffer));
            text.push_str(key.expose());
        }
        let file = folder.join("keys.unknown");
        fs::write(&file, text)?;
        Ok(file)
    }
}

/// Makes the same keys each time, writes down their text, and gives the first of them.
async fn fill(store: &Store, count: usize, batch: usize, text: &mut impl io::Write) -> Outcome<String> {
    let secret = Pepper::new(1, Zeroizing::new(PEPPER));
    store.set_signers(pepper::signers(&secret, &[]));
    store.put_pepper_check(secret.check()).await?;
    let digester = Digester::new(&secret, &[]);
    let (mut random, mut hot, mut made) = (Random::new(), String::new(), 0);
    while made < count {
        let size = batch.min(count - made);
        let mut writes = Vec::with_capacity(size);
        for _ in 0..size {
            let Ok(key) = MintedKey::generate(PREFIX, |buffer: &mut [u8]| random.fill(buffer));
            let presented = PresentedKey::parse(key.expose(), PREFIX).map_err(|_| "a minted key does not parse")?;
            text.write_all(presented.expose())?;
            if hot.is_empty() {
                hot = key.expose().to_owned();
            }
            writes.push(Write::CreateKey(record(&digester, &presented)));
        }
        store.commit(writes, Event::touching(&[])).await?;
        made += size;
    }
    Ok(hot)
}

async fn password_hash() -> Outcome<String> {
    let hash = Passwords::start()?.hash(Zeroizing::new(USER.1.to_owned())).await;
    hash.map_err(|_| "the password was not hashed".into())
}

fn user(password_hash: String) -> User {
    let now = Timestamp::from_secs(1_760_000_000);
    User {
        freed: false,
        id: None,
        name: USER.0.to_owned(),
        password_hash,
        project: PROJECT.to_owned(),
        project_id: None,
        permissions: vec!["manage_keys".to_owned()],
        disabled: false,
        deleted: false,
        sessions: 1,
        created_at: now,
        created_by: "operator".to_owned(),
        changed_at: now,
        version: 1,
    }
}

fn record(digester: &Digester, key: &PresentedKey<'_>) -> ApiKey {
    ApiKey {
        id: key.id(),
        digest: digester.current(key),
        pepper_version: digester.current_version(),
        name: format!("service {}", key.id()),
        plane: "data".to_owned(),
        project: PROJECT.to_owned(),
        project_id: None,
        workloads: vec!["*".to_owned()],
        permissions: vec!["run_inference".to_owned()],
        created_at: Timestamp::from_secs(1_760_000_000),
        created_by: "operator".to_owned(),
        expires_at: None,
        retires_at: None,
        revoked_at: None,
        replaces: None,
        replaced_by: None,
        version: 1,
    }
}

/// SHA-256 of a counter.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(0)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), std::convert::Infallible> {
        for chunk in buffer.chunks_mut(32) {
            self.0 += 1;
            chunk.copy_from_slice(&Sha256::digest(self.0.to_be_bytes())[..chunk.len()]);
        }
        Ok(())
    }
}
