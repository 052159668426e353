//! The store and what stands right on it: the contract of every backend, crashes, power cuts, broken disks, the cache.
//! Uses no network, and no file outside a temporary folder.

#![cfg(test)]

mod cache;
mod changes;
mod contract;
mod desk;
mod faults;
mod file;
mod kill;
mod power;
mod privilege;
mod redis;
#[path = "../support/redis.rs"]
mod redis_server;
mod registry;
mod support;
