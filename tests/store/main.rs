//! The store and what stands right on it: the contract of every backend, crashes, power cuts, broken disks, the cache.
//! Uses no network, and no file outside a temporary folder.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, clippy::needless_pass_by_value)]

mod cache;
mod changes;
mod contract;
mod faults;
mod file;
mod kill;
mod power;
mod support;
