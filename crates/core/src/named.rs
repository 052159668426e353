//! Digests of things that have a name and are not keys.

use sha2::{Digest as _, Sha256};
use tollgate_guard::digest::Digest;

/// The digest of something that is not a key, such as a user, a session or a project. It has no pepper in it, so that it is
/// the same in every replica, also while a pepper is being replaced.
pub fn named(kind: &str, name: &str) -> Digest {
    Digest(Sha256::new().chain_update(kind).chain_update(" ").chain_update(name).finalize().into())
}
