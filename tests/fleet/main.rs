//! The fleet: the revocation protocol under a scheduler that tries what a network, a clock and a failover can do to it, a
//! large fleet in simulated time, its driver over a real server, and real replicas on real servers that fail.

#![cfg(test)]

mod chaos;
mod copies;
mod driver;
mod losses;
mod many;
mod model;
mod redis;
mod replica;
mod revoker;
mod rules;
#[path = "../support/redis.rs"]
mod server;
#[path = "../support/signed.rs"]
mod signed;
mod upgraded;
mod world;
