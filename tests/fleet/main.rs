//! The fleet: the revocation protocol under a scheduler that tries what a network, a clock and a failover can do to it, and
//! over a real server.

#![cfg(test)]

mod driver;
mod model;
mod redis;
mod replica;
#[path = "../support/redis.rs"]
mod server;
mod world;
