//! Whether a replica answers checks from a store. Never takes one for ended that was only silent for a moment.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::channel::decode_member;
use super::connection::Connection;
use super::scripts::explained;
use crate::store::StoreError;
use crate::store::keyspace::redis as names;

/// How long a replica that is listed must have been silent before it is taken for one that has ended.
const SILENCE: Duration = Duration::from_secs(3);
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The name of a replica that is heard of; `None`: there is none. Replicas that were killed are listed on, so each is given time to
/// show that it lives.
///
/// # Errors
/// [`StoreError::Unavailable`]
pub(super) async fn live_replica(connection: &mut Connection) -> Result<Option<String>, StoreError> {
    let (first, deadline) = (beats(connection).await?, Instant::now() + SILENCE);
    let mut now = first.clone();
    while !now.is_empty() && Instant::now() < deadline {
        if let Some((_, (name, _))) = now.iter().find(|(id, beat)| first.get(*id) != Some(*beat)) {
            return Ok(Some(name.clone()));
        }
        sleep(LOOK_AGAIN).await;
        now = beats(connection).await?;
    }
    Ok(None)
}

/// The replicas by their ids, each with its name and its last beat.
async fn beats(connection: &mut Connection) -> Result<HashMap<String, (String, u64)>, StoreError> {
    let members: Result<HashMap<String, Vec<u8>>, _> =
        redis::cmd("HGETALL").arg(names::MEMBERS).query_async(connection).await;
    let members = members.map_err(|error| StoreError::Unavailable(explained(&error)))?;
    let beat = |(id, member): (String, Vec<u8>)| {
        let member = decode_member(id, &member);
        (member.id, (member.name, member.beat))
    };
    Ok(members.into_iter().map(beat).collect())
}
