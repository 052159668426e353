//! Reaching real servers: one, over TLS, by a Unix socket, as a user of its ACL, by Sentinel, in a Cluster; and what they are
//! said to guarantee. Needs `redis-server`.

#![cfg(test)]

mod connect;
mod docs;
#[path = "../support/servers.rs"]
mod servers;
#[path = "../support/signed.rs"]
mod signed;
mod survey;
mod tls;
