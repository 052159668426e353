//! How a revocation reaches everybody who caches: the stamps that guard a cache, and the protocol that a fleet follows. Knows
//! no socket and no store; whoever has them drives it.

pub mod stamps;
pub mod sticky;

use std::time::Duration;

/// How long a lease holds, from the moment its renewal was sent; and how long a load is good by itself, from the moment it
/// was sent.
pub const GUARD: Duration = Duration::from_millis(800);
