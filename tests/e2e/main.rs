//! End to end: real requests through a real Envoy with the shipped files, the real Tollgate binary, and an inference server
//! that says what it saw. `make test` gets Envoy; `TOLLGATE_ENVOY` names another one.

#[cfg(test)]
mod aigne_hub;
#[cfg(test)]
#[path = "../support/backend.rs"]
mod backend;
#[cfg(test)]
mod broad_routes;
#[cfg(test)]
mod canaries;
#[cfg(test)]
mod cases;
#[cfg(test)]
mod client;
#[cfg(test)]
mod deployment;
#[cfg(test)]
mod door;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod examples;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod fleet;
#[cfg(test)]
mod fleet_files;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod header_rules;
#[cfg(test)]
#[path = "../support/idp.rs"]
mod idp;
#[cfg(test)]
mod inferable;
#[cfg(test)]
mod inferencekey;
#[cfg(test)]
mod inferno;
#[cfg(test)]
mod inferno_keys;
#[cfg(test)]
mod inferno_login;
#[cfg(test)]
mod inferno_permissions;
#[cfg(test)]
mod inferno_tokens;
#[cfg(test)]
mod many_headers;
#[cfg(test)]
#[path = "../support/mint.rs"]
mod mint;
#[cfg(test)]
mod mutants;
#[cfg(test)]
mod operate;
#[cfg(test)]
mod paths;
#[cfg(test)]
mod projects;
#[cfg(test)]
mod restart;
#[cfg(test)]
#[path = "../support/router.rs"]
mod router;
#[cfg(test)]
#[path = "../support/servers.rs"]
mod servers;
#[cfg(test)]
mod spoofing;
#[cfg(test)]
mod withheld;
