//! L2: what was expensive to find out, kept where the whole fleet finds it. Holds sealed values alone, never a record, and
//! never an answer of its own: what is lost or cannot be reached here costs time and nothing else.
//!
//! The keys of a tenant share a slot, and those of different tenants are spread over all nodes.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use data_encoding::HEXLOWER;
use redis::Script;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::timeout;
use tollgate_guard::digest::Digest;

use super::connect::{Connector, Spread};
use crate::store::StoreError;

/// Waiting longer would cost more than most of what is kept.
const TIME_LIMIT: Duration = Duration::from_millis(100);
/// After a failure nothing is asked for this long.
const PAUSE: Duration = Duration::from_secs(1);
/// The same for a connection.
const OPEN_LIMIT: Duration = Duration::from_millis(200);
/// The digits of a number, so that the order of texts is the order of numbers.
const DIGITS: usize = 20;

/// The cache that a fleet shares.
pub struct SharedCache {
    connector: Connector,
    /// Where the connection lives, whoever asked for it first.
    runtime: Handle,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    open: Option<Spread>,
    not_before: Option<Instant>,
}

/// The key of one value.
#[derive(Clone, Copy, Debug)]
pub struct SharedKey<'a> {
    /// Whose it is: what is purged together.
    pub tenant: &'a str,
    /// What kind of thing it is; a word of ours.
    pub kind: &'static str,
    pub name: Digest,
}

/// What lies at a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// A value and its version.
    pub value: Option<(Vec<u8>, u64)>,
    /// How often the tenant had been purged; a fill that was begun before a later purge is refused.
    pub purges: u64,
}

impl SharedCache {
    /// Connects to nothing yet. The connection lives on this runtime.
    pub fn new(connector: Connector, runtime: Handle) -> Self {
        Self { connector, runtime, state: Arc::default() }
    }

    /// # Errors
    /// [`StoreError::Unavailable`], as for all that follows; it may be passed over.
    pub async fn look(&self, key: SharedKey<'_>) -> Result<Found, StoreError> {
        let mut command = redis::cmd("MGET");
        command.arg(key.purges()).arg(key.value());
        let (purges, value): (Option<u64>, Option<Vec<u8>>) =
            self.ask(async |mut open| command.query_async(&mut open).await).await?;
        let purges = purges.unwrap_or(0);
        let value = value.and_then(|bytes| {
            let (version, rest) = number(&bytes)?;
            let (filled_at, sealed) = number(rest)?;
            (filled_at == purges).then(|| (sealed.to_vec(), version))
        });
        Ok(Found { value, purges })
    }

    /// Keeps a value for a time, and ends the flight of its key. False if the tenant was purged since, or if a later version
    /// is there already.
    ///
    /// # Errors
    /// See [`SharedCache::look`].
    pub async fn fill(
        &self,
        key: SharedKey<'_>,
        sealed: &[u8],
        version: u64,
        life: Duration,
        purges: u64,
    ) -> Result<bool, StoreError> {
        let head = format!("{version:0DIGITS$}{purges:0DIGITS$}");
        let mut call = fill_script().prepare_invoke();
        call.key(key.purges()).key(key.value()).key(key.flight());
        call.arg(purges).arg(&head[..DIGITS]).arg([head.as_bytes(), sealed].concat()).arg(millis(life));
        self.ask(async |mut open| call.invoke_async(&mut open).await).await
    }

    /// Whether the caller is the one in the fleet to find this out now. Others look again a little later, and find it out
    /// themselves if nothing has come by the time `limit` is over.
    ///
    /// # Errors
    /// See [`SharedCache::look`].
    pub async fn begin(&self, key: SharedKey<'_>, limit: Duration) -> Result<bool, StoreError> {
        let mut command = redis::cmd("SET");
        command.arg(key.flight()).arg(1).arg("NX").arg("PX").arg(millis(limit));
        let taken: Option<String> = self.ask(async |mut open| command.query_async(&mut open).await).await?;
        Ok(taken.is_some())
    }

    /// Forgets everything of a tenant, and what is being found out about it now. Gives the number of the purge.
    ///
    /// # Errors
    /// See [`SharedCache::look`].
    pub async fn purge(&self, tenant: &str) -> Result<u64, StoreError> {
        let mut command = redis::cmd("INCR");
        command.arg(purges_of(tenant));
        self.ask(async |mut open| command.query_async(&mut open).await).await
    }

    async fn ask<T>(&self, act: impl AsyncFnOnce(Spread) -> redis::RedisResult<T>) -> Result<T, StoreError> {
        let open = self.open().await?;
        let reason = match timeout(TIME_LIMIT, act(open)).await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it did not answer in time".to_owned(),
        };
        // Whoever holds it is making a new connection already.
        if let Ok(mut state) = self.state.try_lock() {
            *state = State::paused();
        }
        Err(StoreError::Unavailable(format!("the shared cache: {reason}")))
    }

    /// The connection, which one caller makes for all. Nobody waits for it for long.
    async fn open(&self) -> Result<Spread, StoreError> {
        let not_yet = || StoreError::Unavailable("the shared cache could not be reached a moment ago".to_owned());
        let opened = async {
            let mut state = Arc::clone(&self.state).lock_owned().await;
            if let Some(open) = state.open.as_ref().filter(|open| !open.is_closed()) {
                return Ok(open.clone());
            }
            if state.not_before.is_some_and(|end| Instant::now() < end) {
                return Err(not_yet());
            }
            let connector = self.connector.clone();
            // A task of its own: who asked may give up before there is a connection, and the next one finds it.
            let opening = self.runtime.spawn(async move {
                let open = connector.spread().await;
                *state = open.clone().map_or_else(|_| State::paused(), State::open);
                open
            });
            opening.await.unwrap_or_else(|_| Err(not_yet()))
        };
        timeout(OPEN_LIMIT, opened).await.unwrap_or_else(|_| Err(not_yet()))
    }
}

impl State {
    fn open(open: Spread) -> Self {
        Self { open: Some(open), not_before: None }
    }

    fn paused() -> Self {
        Self { open: None, not_before: Some(Instant::now() + PAUSE) }
    }
}

impl fmt::Debug for SharedCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SharedCache")
    }
}

impl SharedKey<'_> {
    fn purges(&self) -> String {
        purges_of(self.tenant)
    }

    fn value(&self) -> String {
        format!("{}:{}:{}", tag(self.tenant), self.kind, HEXLOWER.encode(&self.name.0))
    }

    fn flight(&self) -> String {
        format!("{}:flight", self.value())
    }
}

/// A tenant's name may have braces, which would move its keys to another slot.
fn tag(tenant: &str) -> String {
    let plain: String = tenant.chars().map(|c| if c == '{' || c == '}' { '_' } else { c }).collect();
    format!("tg:l2:{{{plain}}}")
}

fn purges_of(tenant: &str) -> String {
    format!("{}:purges", tag(tenant))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).clamp(1, i64::MAX as u64)
}

/// A number at the beginning, and what follows it.
fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (digits, rest) = bytes.split_at_checked(DIGITS)?;
    Some((std::str::from_utf8(digits).ok()?.parse().ok()?, rest))
}

fn fill_script() -> &'static Script {
    static SCRIPT: OnceLock<Script> = OnceLock::new();
    SCRIPT.get_or_init(|| {
        Script::new(
            r"
            if (redis.call('GET', KEYS[1]) or '0') ~= ARGV[1] then return 0 end
            local version = redis.call('GETRANGE', KEYS[2], 0, 19)
            if version ~= '' and version > ARGV[2] then return 0 end
            redis.call('SET', KEYS[2], ARGV[3], 'PX', ARGV[4])
            redis.call('DEL', KEYS[3])
            return 1
            ",
        )
    })
}
