//! When keys were last used, in hashes that spread over all nodes of a Cluster. Never touches a record.

use std::collections::BTreeMap;

use futures_util::future::try_join_all;
use redis::aio::ConnectionLike;
use redis::{FromRedisValue, Value};
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tollgate_core::credential::KeyId;
use tollgate_guard::time::Timestamp;

use super::Redis;
use super::connect::{Connector, Spread};
use super::scripts::{ScriptError, USE, explained, run};
use crate::store::StoreError;
use crate::store::keyspace::redis as names;

pub(super) struct Usage {
    connector: Connector,
    runtime: Handle,
    connection: Mutex<Option<Spread>>,
}

impl Usage {
    pub(super) fn new(connector: Connector, runtime: Handle) -> Self {
        Self { connector, runtime, connection: Mutex::default() }
    }

    /// Asks over the connection that is kept, and once more over a new one if nothing comes of that, as after a restart of the
    /// server. What is asked must be the same if it is done twice.
    async fn ask<T, F>(&self, act: impl Fn(Spread) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut held = self.connection.lock().await;
        if let Some(kept) = held.take().filter(|kept| !kept.is_closed())
            && let Ok(done) = act(kept.clone()).await
        {
            *held = Some(kept);
            return Ok(done);
        }
        let fresh = self.connect().await?;
        let done = act(fresh.clone()).await?;
        *held = Some(fresh);
        Ok(done)
    }

    async fn connect(&self) -> Result<Spread, StoreError> {
        let connector = self.connector.clone();
        let connecting = self.runtime.spawn(async move { connector.spread().await });
        match connecting.await {
            Ok(connection) => connection,
            Err(error) => Err(StoreError::Unavailable(format!("the connection was not made: {error}"))),
        }
    }
}

impl Redis {
    pub async fn note_use(&self, uses: &[(KeyId, Timestamp)]) -> Result<(), StoreError> {
        if uses.is_empty() {
            return Ok(());
        }
        let mut buckets: BTreeMap<String, Vec<(KeyId, Timestamp)>> = BTreeMap::new();
        for (id, at) in uses {
            buckets.entry(names::last_used(id)).or_default().push((*id, *at));
        }
        let buckets = &buckets;
        let note = |mut connection: Spread| async move {
            for (bucket, uses) in buckets {
                let mut script = USE.prepare_invoke();
                script.key(bucket);
                for (id, at) in uses {
                    script.arg(id.as_str()).arg(at.as_millis());
                }
                run(&mut connection, &script).await.map_err(ScriptError::into_error)?;
            }
            Ok(())
        };
        self.usage.ask(note).await
    }

    pub async fn forget_use(&self, ids: &[KeyId]) -> Result<(), StoreError> {
        let mut buckets: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for id in ids {
            buckets.entry(names::last_used(id)).or_default().push(id.as_str());
        }
        let buckets = &buckets;
        let forget = |mut connection: Spread| async move {
            for (bucket, ids) in buckets {
                let _: u64 = query(&mut connection, redis::cmd("HDEL").arg(bucket).arg(ids)).await?;
            }
            Ok(())
        };
        self.usage.ask(forget).await
    }

    pub async fn last_used(&self, ids: &[KeyId]) -> Result<Vec<Option<Timestamp>>, StoreError> {
        let mut buckets: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (at, id) in ids.iter().enumerate() {
            buckets.entry(names::last_used(id)).or_default().push(at);
        }
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let buckets = &buckets;
        // Together: a page of a small store has a bucket for nearly each of its keys.
        let look = |connection: Spread| async move {
            let times = buckets.iter().map(|(bucket, places)| {
                let mut command = redis::cmd("HMGET");
                command.arg(bucket);
                for id in places.iter().filter_map(|at| ids.get(*at)) {
                    command.arg(id.as_str());
                }
                let mut connection = connection.clone();
                async move { query::<Vec<Option<u64>>>(&mut connection, &command).await }
            });
            let times = try_join_all(times).await?;
            let mut found = vec![None; ids.len()];
            for (places, times) in buckets.values().zip(times) {
                for (at, time) in places.iter().zip(times) {
                    if let Some(place) = found.get_mut(*at) {
                        *place = time.map(Timestamp::from_millis);
                    }
                }
            }
            Ok(found)
        };
        self.usage.ask(look).await
    }
}

async fn query<T: FromRedisValue>(connection: &mut impl ConnectionLike, command: &redis::Cmd) -> Result<T, StoreError> {
    let value: Value = command.query_async(connection).await.map_err(|error| unavailable(&error))?;
    T::from_redis_value(value).map_err(|_| super::scripts::unreadable("a time"))
}

fn unavailable(error: &redis::RedisError) -> StoreError {
    StoreError::Unavailable(explained(error))
}
