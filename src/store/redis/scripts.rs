//! The scripts that run in Redis, and what they answer. Never takes an empty server for an empty store: where the head is
//! lost, nothing is found and nothing is missing, it is an error.

use std::sync::LazyLock;

use redis::aio::ConnectionLike;
use redis::{RedisError, Script, ScriptInvocation, Value};
use tollgate_guard::protocol::{Head, Position};

use crate::store::StoreError;
use crate::store::format::Format;

macro_rules! scripts {
    ($($name:ident = $file:literal;)*) => {
        $(pub(super) static $name: LazyLock<Script> =
            LazyLock::new(|| Script::new(include_str!(concat!("scripts/", $file, ".lua"))));)*
    };
}

scripts! {
    READ = "read";
    LIST = "list";
    ROWS = "audit";
    INDEX_ROWS = "index_rows";
    OLDEST = "oldest";
    TRIM = "trim";
    TIME = "time";
    INIT = "init";
    KNOWN = "known";
    CHECK = "check";
    PRUNE = "prune";
    LEAVE = "leave";
    RECOUNT = "recount";
    STANDING = "standing";
    ACCEPT = "accept";
    USE = "use";
    BEGIN_MIGRATION = "migration_begin";
    IMPORT = "migration_import";
    END_MIGRATION = "migration_end";
    BEGIN_UPGRADE = "upgrade_begin";
    END_UPGRADE = "upgrade_end";
}

/// With what both begin with.
pub(super) static RENEW: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!(include_str!("scripts/lost.lua"), include_str!("scripts/renew.lua"))));
pub(super) static MEMBERS: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!(include_str!("scripts/lost.lua"), include_str!("scripts/members.lua"))));

const WRITE_BATCH: &str = include_str!("scripts/write.lua");

/// Writes a batch, unless memory is full.
pub(super) static WRITE: LazyLock<Script> = LazyLock::new(|| Script::new(WRITE_BATCH));
/// The same in full memory: for what ends something, which must always fit.
pub(super) static END: LazyLock<Script> =
    LazyLock::new(|| Script::new(&WRITE_BATCH.replacen("#!lua", "#!lua flags=allow-oom", 1)));

/// Why a script gave no answer.
#[derive(Debug)]
pub(super) enum ScriptError {
    /// The server will not run it, so nothing was done.
    Refused(String),
    /// The same, because its memory is full.
    Full(String),
    /// Nobody knows what became of it.
    Unknown(String),
    /// The server ended it, perhaps in the middle.
    Ended(String),
    /// What it answered makes no sense.
    Damaged(String),
}

/// What a server answers instead of running a script.
const BEFORE_IT_RUNS: [&str; 11] = [
    "READONLY",
    "NOREPLICAS",
    "MISCONF",
    "LOADING",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "MOVED",
    "ASK",
    "TRYAGAIN",
    "NOAUTH",
    "BUSY",
];

impl ScriptError {
    pub(super) fn into_error(self) -> StoreError {
        match self {
            Self::Refused(reason) | Self::Unknown(reason) | Self::Ended(reason) => StoreError::Unavailable(reason),
            Self::Full(reason) => StoreError::Full(reason),
            Self::Damaged(reason) => StoreError::Damaged(reason),
        }
    }
}

impl From<&RedisError> for ScriptError {
    fn from(error: &RedisError) -> Self {
        let reason = explained(error);
        if error.code() == Some("OOM") {
            return Self::Full(reason);
        }
        match error.code() {
            Some(code) if BEFORE_IT_RUNS.contains(&code) => Self::Refused(reason),
            Some(_) => Self::Ended(reason),
            None => Self::Unknown(reason),
        }
    }
}

/// In our words: those of a server may repeat what it was sent.
pub(super) fn explained(error: &RedisError) -> String {
    let what = match error.code() {
        Some("READONLY") => "it is a replica now, and what it says may be old",
        Some("NOREPLICAS") => "too few replicas are connected to it: start them, or lower `min-replicas-to-write`",
        Some("MISCONF") => "it cannot save to its disk, and refuses writes until it can",
        Some("OOM") => "its memory is full: raise `maxmemory`",
        Some("LOADING") => "it is still reading its data",
        Some("CLUSTERDOWN" | "MOVED" | "ASK" | "TRYAGAIN") => "its Cluster is being changed",
        Some("NOAUTH" | "WRONGPASS") => "it wants another login: see `username` and `password`",
        Some("NOPERM") => "it does not let this user do what Tollgate needs: widen the rules of its ACL",
        Some("WRONGTYPE") => "something that is not Tollgate's stands in the place of a record",
        Some("BUSY") => "it is busy with a script",
        Some(code) => return format!("Redis answers {code}"),
        None if error.is_timeout() => "it did not answer in time",
        None if error.is_io_error() => "the connection broke off",
        None => return format!("Redis: {}", error.category()),
    };
    format!("Redis: {what}")
}

pub(super) fn lost() -> StoreError {
    StoreError::Unavailable(
        "Redis has lost its head: it was emptied, or it is the wrong server. Restore what was there, or make a new store \
         with `tollgate store init`"
            .to_owned(),
    )
}

/// A replica has said that the store misses what it knows.
pub(super) fn missed() -> StoreError {
    StoreError::Unavailable(
        "the store has lost changes that a replica has applied: see `tollgate store accept`".to_owned(),
    )
}

/// The store that was read: its lineage, its newest change, and how it is laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AsOf {
    pub(super) lineage: String,
    pub(super) sequence: u64,
    pub(super) format: Format,
}

/// What a script answered: a word, and what follows it.
pub(super) struct Answer {
    pub(super) word: String,
    rest: std::vec::IntoIter<Value>,
}

pub(super) async fn run(
    connection: &mut impl ConnectionLike,
    script: &ScriptInvocation<'_>,
) -> Result<Answer, ScriptError> {
    let values: Vec<Value> = script.invoke_async(connection).await.map_err(|error| ScriptError::from(&error))?;
    let mut rest = values.into_iter();
    match rest.next() {
        Some(Value::BulkString(word)) => Ok(Answer { word: String::from_utf8_lossy(&word).into_owned(), rest }),
        _ => Err(ScriptError::Damaged("a script answered without a word".to_owned())),
    }
}

impl Answer {
    /// What follows the word; or why nothing does, if the store is not to be believed.
    pub(super) fn found(self) -> Result<Self, StoreError> {
        match &*self.word {
            "LOST" => Err(lost()),
            "MISSED" => Err(missed()),
            "SHORT" => {
                let reason = "its log does not end where its head says: see `tollgate store accept`";
                Err(StoreError::Damaged(reason.to_owned()))
            }
            _ => Ok(self),
        }
    }

    /// # Errors
    /// [`StoreError::Damaged`] if this Tollgate would misread the store.
    pub(super) fn as_of(&mut self) -> Result<AsOf, StoreError> {
        Ok(AsOf { lineage: self.text()?, sequence: self.number()?, format: Format::of_head(self.number()?)? })
    }

    pub(super) fn value(&mut self) -> Result<Value, StoreError> {
        self.rest.next().ok_or_else(|| unreadable("an answer"))
    }

    pub(super) fn bytes(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        bytes(self.value()?)
    }

    pub(super) fn text(&mut self) -> Result<String, StoreError> {
        text(self.value()?)
    }

    pub(super) fn number(&mut self) -> Result<u64, StoreError> {
        self.text()?.parse().map_err(|_| unreadable("a number"))
    }

    pub(super) fn list(&mut self) -> Result<Vec<Value>, StoreError> {
        list(self.value()?)
    }

    pub(super) fn head(&mut self) -> Result<Head, StoreError> {
        let lineage = self.text()?;
        let sequence = self.number()?;
        Ok(Head { lineage, position: Position { sequence, chain: self.text()? } })
    }
}

pub(super) fn bytes(value: Value) -> Result<Option<Vec<u8>>, StoreError> {
    match value {
        Value::Nil => Ok(None),
        Value::BulkString(bytes) => Ok(Some(bytes)),
        _ => Err(unreadable("a value")),
    }
}

pub(super) fn text(value: Value) -> Result<String, StoreError> {
    let bytes = bytes(value)?.ok_or_else(|| unreadable("a text"))?;
    String::from_utf8(bytes).map_err(|_| unreadable("a text"))
}

pub(super) fn list(value: Value) -> Result<Vec<Value>, StoreError> {
    match value {
        Value::Array(values) => Ok(values),
        _ => Err(unreadable("a list")),
    }
}

pub(super) fn unreadable(what: &str) -> StoreError {
    StoreError::Damaged(format!("Redis holds what is not {what}"))
}
