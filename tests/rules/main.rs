//! The rules, over policies compiled from configuration text: what a file must fulfil, who may have what, and how each
//! answer reads, byte by byte.

#![cfg(test)]

mod answers;
mod case;
mod compiled;
mod credentials;
mod envoy_file;
mod files;
mod identity;
mod issuers;
mod scopes;
mod stores;
mod world;
