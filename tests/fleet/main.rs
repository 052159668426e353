//! The fleet: the revocation protocol under a scheduler that tries what a network, a clock and a failover can do to it, and real
//! replicas on real servers that fail.

#![cfg(test)]

mod chaos;
mod model;
mod redis;
mod replica;
mod world;
