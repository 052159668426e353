//! When keys were last used, in hashes that spread over all nodes of a Cluster. Never touches a record.

use std::collections::BTreeMap;

use redis::aio::ConnectionLike;
use redis::{FromRedisValue, Value};
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use super::Redis;
use super::connect::{Connector, Spread};
use super::scripts::{USE, explained, run};
use crate::domain::credential::KeyId;
use crate::domain::time::Timestamp;
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

    /// The connection, which is to be put back when it has served well.
    async fn connect(&self, held: &mut Option<Spread>) -> Result<Spread, StoreError> {
        if let Some(connection) = held.take() {
            return Ok(connection);
        }
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
        let mut held = self.usage.connection.lock().await;
        let mut connection = self.usage.connect(&mut held).await?;
        for (bucket, uses) in buckets {
            let mut script = USE.prepare_invoke();
            script.key(bucket);
            for (id, at) in uses {
                script.arg(id.as_str()).arg(at.as_millis());
            }
            run(&mut connection, &script).await.map_err(super::scripts::Silence::into_error)?;
        }
        *held = Some(connection);
        Ok(())
    }

    pub async fn last_used(&self, ids: &[KeyId]) -> Result<Vec<Option<Timestamp>>, StoreError> {
        let mut buckets: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (at, id) in ids.iter().enumerate() {
            buckets.entry(names::last_used(id)).or_default().push(at);
        }
        let mut found = vec![None; ids.len()];
        if ids.is_empty() {
            return Ok(found);
        }
        let mut held = self.usage.connection.lock().await;
        let mut connection = self.usage.connect(&mut held).await?;
        for (bucket, places) in buckets {
            let mut command = redis::cmd("HMGET");
            command.arg(bucket);
            for id in places.iter().filter_map(|at| ids.get(*at)) {
                command.arg(id.as_str());
            }
            let times: Vec<Option<u64>> = query(&mut connection, &command).await?;
            for (at, time) in places.into_iter().zip(times) {
                if let Some(place) = found.get_mut(at) {
                    *place = time.map(Timestamp::from_millis);
                }
            }
        }
        *held = Some(connection);
        Ok(found)
    }
}

async fn query<T: FromRedisValue>(connection: &mut impl ConnectionLike, command: &redis::Cmd) -> Result<T, StoreError> {
    let value: Value = command.query_async(connection).await.map_err(|error| unavailable(&error))?;
    T::from_redis_value(value).map_err(|_| super::scripts::unreadable("a time"))
}

fn unavailable(error: &redis::RedisError) -> StoreError {
    StoreError::Unavailable(explained(error))
}
