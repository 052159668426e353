//! Planes: kinds of keys that never reach each other's routes. Never says which route is on which.

use std::time::Duration;

/// Index of a plane in [`Policy::planes`](crate::policy::Policy::planes).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PlaneId(pub u8);

/// A kind of key, told by its prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plane {
    pub name: Box<str>,
    /// Without the `_` that ends it in a key. No prefix begins another.
    pub prefix: Box<str>,
    pub revoked: RevokedStatus,
    /// Only on such a plane do administrative permissions exist.
    pub admin: bool,
    /// How long what is cached stays good after a fleet's store has fallen silent, beyond what is certain.
    pub grace: Duration,
}

/// What a revoked or retired key of a plane is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RevokedStatus {
    /// 401, as if it were unknown.
    Unauthenticated,
    /// 403.
    Forbidden,
}

/// Permissions over Tollgate itself. They exist only on planes marked `admin`.
pub const ADMIN_PERMISSIONS: [&str; 5] =
    ["manage_keys", "manage_resources", "manage_secrets", "manage_users", "view_audit_logs"];
