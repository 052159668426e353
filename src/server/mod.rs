//! What listens: the doors through which requests come in. Never decides; every door asks the pipeline or the registry.

pub mod admin;
pub mod budget;
pub mod ext_authz;
mod http;
pub mod listen;
pub mod ops;
mod places;
pub mod runtime;
pub mod socket;
mod turns;

#[cfg(test)]
mod testing;
