//! From an address to a connection. Never takes a server's role on trust.

use std::fmt;
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster_async::ClusterConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, Pipeline, RedisFuture, Value};

use crate::store::StoreError;

const LIMIT: Duration = Duration::from_secs(1);

/// Makes connections to where the store is. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connector {
    client: Client,
}

impl Connector {
    /// One server without a login: `host:port` or `unix:/path`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if this is no address.
    pub fn single(address: &str) -> Result<Self, StoreError> {
        let url = match address.strip_prefix("unix:") {
            Some(path) => format!("unix://{path}"),
            None => format!("redis://{address}"),
        };
        let client =
            Client::open(url).map_err(|_| StoreError::Unavailable(format!("`{address}` is no address of a server")))?;
        Ok(Self { client })
    }

    /// How many replicas must confirm a write.
    pub fn replicas(&self) -> u32 {
        0
    }

    /// A new connection to the primary of the slot of `{tg}`, which it has just said that it is.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], with what to do.
    pub async fn primary(&self) -> Result<MultiplexedConnection, StoreError> {
        let failed = |problem: &str| StoreError::Unavailable(format!("{}: {problem}", self.address()));
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(LIMIT)).set_response_timeout(Some(LIMIT));
        let connected = self.client.get_multiplexed_async_connection_with_config(&config).await;
        let mut connection = connected.map_err(|error| failed(error.category()))?;
        let role: Vec<Value> =
            redis::cmd("ROLE").query_async(&mut connection).await.map_err(|error| failed(error.category()))?;
        match role.first() {
            Some(Value::BulkString(role)) if role == b"master" => Ok(connection),
            _ => Err(failed("is not the primary, and only the primary tells the truth")),
        }
    }

    /// A connection for keys that lie on all nodes of a Cluster; otherwise one to the primary.
    ///
    /// # Errors
    /// As [`Connector::primary`].
    pub async fn spread(&self) -> Result<Spread, StoreError> {
        self.primary().await.map(Spread::One)
    }

    fn address(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }
}

/// A connection for keys that may lie on any node.
#[derive(Clone)]
pub enum Spread {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

impl fmt::Debug for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One(_) => "One",
            Self::Cluster(_) => "Cluster",
        })
    }
}

impl ConnectionLike for Spread {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        0
    }
}
