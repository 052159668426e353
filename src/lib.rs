//! Tollgate: Envoy external authorization for inference servers.
//!
//! The map, floor by floor; imports go down only (`tests/house.rs` watches over that). Below all of them are two crates: the rules of
//! a decision (`crates/core`), and what makes a cache forget (`crates/guard`).

// 5: arguments in, an exit code out
pub mod cli;
pub mod run;

// 4: the doors and what is seen from outside
pub mod server;
pub mod telemetry;

// 3: the decision, the configuration it is compiled from, logging in
pub mod backup;
pub mod config;
pub mod login;
pub mod pepper;
pub mod pipeline;

// 2: who asks, every change to what is known, and who else hears of it
pub mod fleet;
pub mod password;
pub mod registry;
pub mod resolve;

// 1: the port to the store, the clock, secret files, long tasks
pub mod clock;
pub mod secret_file;
pub mod store;
pub mod tasks;

// 0: what the store keeps, and what is said of it
pub mod domain;
