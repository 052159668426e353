//! How a revocation reaches everybody who caches: the stamps that guard a cache, and the protocol that a fleet follows. Knows
//! nothing of what is cached, no clock, no socket and no store; whoever has them drives it.

pub mod channel;
pub mod digest;
pub mod ending;
pub mod endings;
pub mod entry;
pub mod found;
pub mod protocol;
pub mod slots;
pub mod stamps;
#[cfg(test)]
mod testing;
pub mod time;
pub mod wait;

use std::time::Duration;

/// How long a lease holds, from the moment its renewal was sent; and how long a load is good by itself, from the moment it
/// was sent.
pub const GUARD: Duration = Duration::from_millis(800);

/// After this time a replica of which nothing was heard holds no lease any more, whatever keeps it: [`GUARD`], and the time
/// that an answer may be on its way.
pub const FENCE: Duration = Duration::from_millis(1_100);

/// A member of which nothing was heard for this long and the grace that it announced, by the clock of whoever looks, is taken
/// off the list.
pub const PRUNED: Duration = Duration::from_secs(600);

/// How long after its last lease a replica may be on the list at least, so that whoever waits for a change counts it. Later
/// than this it trusts no load but the one that was made for the request.
pub const LISTED: Duration = Duration::from_secs(300);
