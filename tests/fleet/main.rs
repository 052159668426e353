//! The fleet: the revocation protocol under a scheduler that tries what a network, a clock and a failover can do to it.

#![cfg(test)]

mod model;
mod redis;
mod replica;
mod world;
