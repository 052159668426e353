//! How full the server's memory is. What makes something is refused before the memory is full, so that there is room for
//! what ends something; never asks for each write.

use std::time::{Duration, Instant};

use redis::{RedisResult, cmd};

use super::connection::Connection;
use super::memory::{Memory, SOFT_MARK, memory_of};

/// How long an answer of the server counts.
const FRESH: Duration = Duration::from_millis(250);

/// The last answer of one server.
#[derive(Debug, Default)]
pub(super) struct MemoryHeadroom {
    seen: Option<(Instant, Option<Memory>)>,
}

impl MemoryHeadroom {
    /// Why nothing more may be made; `None`: there is room. A server that does not say has room until it refuses by itself.
    ///
    /// # Errors
    /// If the connection broke off.
    pub(super) async fn shortage(&mut self, connection: &mut Connection) -> RedisResult<Option<String>> {
        let memory = match self.seen {
            Some((at, memory)) if at.elapsed() < FRESH => memory,
            _ => {
                let memory = ask(connection).await?;
                self.seen = Some((Instant::now(), memory));
                memory
            }
        };
        Ok(memory.filter(|memory| memory.is_full()).map(|Memory { used, limit }| {
            format!(
                "Redis uses {used} bytes, and above {SOFT_MARK} % of its {limit} (`maxmemory`) only revocations and the like \
                 are taken: raise `maxmemory`, or delete what is not needed"
            )
        }))
    }
}

async fn ask(connection: &mut Connection) -> RedisResult<Option<Memory>> {
    let info: RedisResult<String> = cmd("INFO").arg("memory").query_async(connection).await;
    match info {
        Ok(info) => Ok(memory_of(&info)),
        Err(error) if error.code().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenth_is_kept() {
        let is_full = |used, limit| Memory { used, limit }.is_full();
        assert!(!is_full(u64::MAX, 0), "no limit");
        assert!(!is_full(899, 1000) && is_full(900, 1000) && is_full(2000, 1000));
        assert!(is_full(u64::MAX, u64::MAX) && is_full(1, 1));
    }
}
