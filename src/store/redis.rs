//! The store of a fleet: Redis or Valkey. Never believes a server that is not the primary.

mod access;
pub mod connect;
pub mod place;
pub mod survey;
