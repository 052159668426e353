//! What a server says of itself in `INFO`, and of its memory there. Never asks it.

use std::collections::HashMap;
use std::str::FromStr;

/// The part of `maxmemory` that may be filled, in hundredths. The rest is for revocations and the like.
pub(super) const SOFT_MARK: u64 = 90;

/// What the server uses of its memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Memory {
    /// Without what does not count against the limit, such as buffers for replicas.
    pub(super) used: u64,
    /// `maxmemory`; 0: none.
    pub(super) limit: u64,
}

impl Memory {
    /// Whether only what ends something may be written.
    pub(super) fn is_full(self) -> bool {
        self.limit > 0 && self.used >= self.limit / 100 * SOFT_MARK
    }
}

/// What the server says of its memory.
pub(super) fn memory_of(info: &str) -> Option<Memory> {
    let info = parsed(info);
    let uncounted = number::<u64>(&info, "mem_not_counted_for_evict").unwrap_or_default();
    let used = number::<u64>(&info, "used_memory")?.saturating_sub(uncounted);
    Some(Memory { used, limit: number(&info, "maxmemory")? })
}

/// The answer to `INFO`, line by line.
pub(super) fn parsed(info: &str) -> HashMap<&str, &str> {
    info.lines().filter_map(|line| line.trim_end().split_once(':')).collect()
}

pub(super) fn number<T: FromStr>(info: &HashMap<&str, &str>, name: &str) -> Option<T> {
    info.get(name).and_then(|value| value.parse().ok())
}
