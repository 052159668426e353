//! One fetch of an issuer's keys for the whole fleet. Never takes a set that is older than the one in use, and fetches by
//! itself when the others cannot be asked.

use std::time::Duration;

use tokio::time::{Instant, sleep};
use tollgate_guard::time::Timestamp;

use crate::resolve::l2::{Known, L2, Ticket};
use crate::store::redis::shared::SharedKey;

/// A set that answers an unknown key must be newer than the key: at most this old.
const JUST_NOW: Duration = Duration::from_secs(1);
/// How long the one who fetches has before others do it themselves: within the time that a check waits.
const PATIENCE: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// A key set that somebody of the fleet fetched.
#[derive(Debug)]
pub(super) struct Fetched {
    pub(super) bytes: Vec<u8>,
    /// How long it is good for from now.
    pub(super) age: Duration,
    pub(super) at: Timestamp,
}

/// What another replica has fetched since `newest`, or what `fetch` gives, which the others are then told of.
///
/// # Errors
/// Those of `fetch`.
pub(super) async fn fetch_once<F>(
    l2: &L2,
    key: SharedKey<'_>,
    newest: Timestamp,
    demanded: bool,
    fetch: impl Fn() -> F,
) -> Result<Fetched, String>
where
    F: Future<Output = Result<(Vec<u8>, Duration), String>>,
{
    let began = Instant::now();
    let mut is_ours = false;
    let ticket = loop {
        match l2.look(key).await {
            Known::Unreachable => break None,
            Known::Value(value, at, ticket) => match usable(&value, at, l2.now(), newest, demanded) {
                Some(fetched) => return Ok(fetched),
                None if is_ours => break Some(ticket),
                None => {}
            },
            Known::Nothing(ticket) if is_ours => break Some(ticket),
            Known::Nothing(_) => {}
        }
        if began.elapsed() >= PATIENCE || l2.begin(key, PATIENCE).await {
            // It may have been told in between.
            is_ours = true;
        } else {
            sleep(LOOK_AGAIN).await;
        }
    };
    let (bytes, age) = fetch().await?;
    let at = l2.now();
    if let Some(ticket) = ticket {
        tell(l2, key, &bytes, age, ticket).await;
    }
    Ok(Fetched { bytes, age, at })
}

async fn tell(l2: &L2, key: SharedKey<'_>, bytes: &[u8], age: Duration, ticket: Ticket) {
    let value = [&age.as_secs().to_be_bytes(), bytes].concat();
    l2.tell(key, &value, age, ticket).await;
}

/// The set in a shared value, if it is of use.
fn usable(value: &[u8], at: Timestamp, now: Timestamp, newest: Timestamp, demanded: bool) -> Option<Fetched> {
    let (seconds, bytes) = value.split_first_chunk()?;
    let age = Duration::from_secs(u64::from_be_bytes(*seconds));
    // One that is dated later than now, by a clock that differs or was set, is as far from now as one that is dated earlier.
    let passed = Duration::from_millis(now.as_millis().abs_diff(at.as_millis()));
    let limit = if demanded { JUST_NOW } else { age.mul_f64(0.8) };
    (at > newest && passed < limit).then(|| Fetched { bytes: bytes.to_vec(), age: age.saturating_sub(passed), at })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_is_taken_that_is_newer_than_ours_and_young_enough() {
        let value = [&100u64.to_be_bytes(), b"{}".as_slice()].concat();
        let at = |seconds| Timestamp::from_secs(seconds);
        for (fetched, now, newest, demanded, expected) in [
            (1_000, 1_000, 0, false, Some(100)),
            (1_000, 1_079, 0, false, Some(21)),
            (1_000, 1_080, 0, false, None),
            (1_000, 1_010, 1_000, false, None),
            (1_000, 1_010, 999, false, Some(90)),
            (1_000, 1_000, 999, true, Some(100)),
            (1_000, 1_001, 999, true, None),
            (4_600, 1_000, 0, false, None),
            (1_001, 1_000, 0, false, Some(99)),
        ] {
            let found = usable(&value, at(fetched), at(now), at(newest), demanded);
            assert_eq!(found.map(|found| found.age.as_secs()), expected, "{fetched} {now} {newest} {demanded}");
        }
        assert!(usable(b"short", at(1), at(1), at(0), false).is_none());
    }
}
