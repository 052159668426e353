//! JSON Web Tokens: honest ones are accepted, forged and twisted ones are not, and the keys of their issuers are followed
//! without a crowd ever reaching the issuer.

#![cfg(test)]

mod followed;
mod forged;
mod honest;
#[path = "../support/idp.rs"]
mod idp;
#[path = "../support/log.rs"]
mod log;
#[path = "../support/mint.rs"]
mod mint;
mod overtaken;
mod sessions;
mod signatures;
mod world;
