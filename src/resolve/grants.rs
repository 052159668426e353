//! One copy of each grant for all who have it: a million keys need no more memory for them than their kinds do, and the
//! processor's caches hold them. Never decides anything.

use std::fmt;
use std::sync::Arc;

use tollgate_core::principal::Grant;

/// Kinds of grant that are shared. Beyond it, one that has not been met lately is not shared any more, and still right.
const KINDS: u64 = 20_000;

/// The grants that were met lately.
pub struct Grants(moka::sync::Cache<Grant, Arc<Grant>>);

impl Default for Grants {
    fn default() -> Self {
        Self(moka::sync::Cache::new(KINDS))
    }
}

impl Grants {
    /// The one copy of this grant.
    pub fn share(&self, grant: &Grant) -> Arc<Grant> {
        match self.0.get(grant) {
            Some(shared) => shared,
            None => self.0.get_with_by_ref(grant, || Arc::new(grant.clone())),
        }
    }
}

impl fmt::Debug for Grants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Grants")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_grants_are_one_and_others_are_not() {
        let grants = Grants::default();
        let of = |project: &str| grants.share(&Grant::new("data", project, &[], &[]).unwrap());
        assert!(Arc::ptr_eq(&of("acme"), &of("acme")));
        assert!(!Arc::ptr_eq(&of("acme"), &of("beta")));
    }
}
