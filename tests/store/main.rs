//! The store and what stands right on it: the contract of every backend, crashes, power cuts, broken disks, the cache.
//! Uses no network but loopback, and no file outside a temporary folder.

#![cfg(test)]

mod cache;
mod changes;
mod contract;
mod disk;
mod earlier;
mod faults;
mod file;
mod forged;
mod formats;
mod grudge;
mod kill;
mod leased;
#[path = "../support/log.rs"]
mod log;
mod migration;
mod names;
mod pages;
mod power;
mod privilege;
mod projects;
mod redis;
#[path = "../support/redis.rs"]
mod redis_server;
mod registry;
mod registry_fixture;
#[path = "../support/servers.rs"]
mod servers;
mod set_back;
mod shared;
#[path = "../support/signed.rs"]
mod signed;
mod signing;
mod snapshots;
mod support;
mod tampered;
