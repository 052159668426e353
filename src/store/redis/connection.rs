//! A connection that knows when it has ended, so that whoever kept it for later takes another one instead of learning it from a
//! failed call. Never makes itself anew.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisFuture, Value};

/// A connection to one server. Its clones share it.
#[derive(Clone)]
pub struct Connection {
    inner: MultiplexedConnection,
    has_ended: Arc<AtomicBool>,
}

impl Connection {
    /// Drives the connection until either side closes it. It ends when its last clone is dropped.
    pub(super) fn of(inner: MultiplexedConnection, driver: impl Future<Output = ()> + Send + 'static) -> Self {
        let has_ended = Arc::new(AtomicBool::new(false));
        let end = Arc::clone(&has_ended);
        tokio::spawn(async move {
            driver.await;
            end.store(true, Ordering::Release);
        });
        Self { inner, has_ended }
    }

    /// Whether nothing can be asked over it any more: the server ended, or closed it. One that does not say this may be broken
    /// all the same.
    pub fn is_closed(&self) -> bool {
        self.has_ended.load(Ordering::Acquire)
    }

    /// How long an answer may take.
    pub(super) fn set_response_timeout(&mut self, limit: Duration) {
        self.inner.set_response_timeout(limit);
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connection")
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        self.inner.req_packed_command(cmd)
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        self.inner.req_packed_commands(pipeline, offset, count)
    }

    fn get_db(&self) -> i64 {
        self.inner.get_db()
    }
}
