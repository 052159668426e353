//! The connections that everything is read over. Never waits long for an answer, and never asks again where the last answer
//! showed that it is no longer the primary.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use redis::ScriptInvocation;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::acknowledged::Acknowledged;
use super::connect::Connector;
use super::connection::Connection;
use super::scripts::{Answer, ScriptError, run};
use crate::store::StoreError;

/// How long a read may take, with finding the server if need be.
const LIMIT: Duration = Duration::from_millis(500);
const CONNECTIONS: usize = 2;

/// A few connections, each shared by many readers.
pub(super) struct ReadConnections {
    connector: Connector,
    /// Where connections live, whoever asked for them first.
    runtime: Handle,
    connections: [Arc<Mutex<Option<ReadConnection>>>; CONNECTIONS],
    turn: AtomicUsize,
    /// Connections of an earlier generation are not used any more.
    generation: AtomicU64,
    acknowledged: Arc<Acknowledged>,
}

struct ReadConnection {
    generation: u64,
    connection: Connection,
}

impl ReadConnections {
    pub(super) fn new(connector: Connector, runtime: Handle, acknowledged: Arc<Acknowledged>) -> Self {
        let (connections, turn, generation) = (Default::default(), AtomicUsize::default(), AtomicU64::default());
        Self { connector, runtime, connections, turn, generation, acknowledged }
    }

    /// Has every connection made anew before it is used again.
    pub(super) fn drop_all(&self) {
        self.generation.fetch_add(1, Ordering::SeqCst);
    }

    /// Runs a script that changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] also if the head is lost, or the store is not to be believed.
    pub(super) async fn ask(&self, script: &ScriptInvocation<'_>) -> Result<Answer, StoreError> {
        self.acknowledged.check()?;
        let generation = self.generation.load(Ordering::SeqCst);
        let asked = async {
            match self.ask_once(script).await {
                // A server that was restarted or demoted: there may be a better one already, and nothing is lost by asking it.
                Err(ScriptError::Refused(_) | ScriptError::Unknown(_) | ScriptError::Ended(_)) => {
                    self.ask_once(script).await
                }
                answer => answer,
            }
        };
        match timeout(LIMIT, asked).await {
            Ok(Ok(answer)) => answer.found(),
            Ok(Err(silence)) => Err(silence.into_error()),
            Err(_) => {
                self.retire(generation);
                Err(StoreError::Unavailable(format!("Redis did not answer within {} ms", LIMIT.as_millis())))
            }
        }
    }

    async fn ask_once(&self, script: &ScriptInvocation<'_>) -> Result<Answer, ScriptError> {
        let generation = self.generation.load(Ordering::SeqCst);
        let unreachable = |error: StoreError| ScriptError::Refused(reason(error));
        let mut connection = self.connection(generation).await.map_err(unreachable)?;
        let answer = run(&mut connection, script).await;
        if answer.is_err() {
            self.retire(generation);
        }
        answer
    }

    /// Has connections of this generation made anew, if nobody else has seen to that.
    fn retire(&self, generation: u64) {
        let next = generation + 1;
        // Whoever was faster has done the same.
        let _ = self.generation.compare_exchange(generation, next, Ordering::SeqCst, Ordering::SeqCst);
    }

    async fn connection(&self, generation: u64) -> Result<Connection, StoreError> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % CONNECTIONS;
        // Boxed: each request to the store would have room for all that a new connection waits for.
        let Some(known) = self.connections.get(turn) else { return Box::pin(self.connector.primary()).await };
        let mut known = Arc::clone(known).lock_owned().await;
        if let Some(known) =
            known.as_ref().filter(|known| known.generation >= generation && !known.connection.is_closed())
        {
            return Ok(known.connection.clone());
        }
        *known = None;
        let connector = self.connector.clone();
        // A task of its own: who asked may give up before there is a connection, and the next one finds it.
        let connecting = self.runtime.spawn(async move {
            let mut connection = connector.primary().await?;
            connection.set_response_timeout(LIMIT);
            *known = Some(ReadConnection { generation, connection: connection.clone() });
            Ok(connection)
        });
        match connecting.await {
            Ok(connected) => connected,
            Err(error) => Err(StoreError::Unavailable(format!("the connection was not made: {error}"))),
        }
    }
}

fn reason(error: StoreError) -> String {
    match error {
        StoreError::OverQuota(quota) => quota.to_string(),
        StoreError::Unavailable(reason)
        | StoreError::Full(reason)
        | StoreError::Conflict(reason)
        | StoreError::Unreplicated(reason)
        | StoreError::Damaged(reason) => reason,
    }
}
