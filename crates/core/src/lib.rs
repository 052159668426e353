//! The rules: what a request needs, who may have it, and how the answer reads; and the nouns they speak of. Synchronous and pure: no
//! clock, lock, socket, file or log, so that the same core runs in a server, a command line or a fuzzer. [`case`] is the page.

pub mod admit;
pub mod attributes;
pub mod authorize;
pub mod bytes;
pub mod case;
pub mod credential;
pub mod decision;
pub mod denial;
pub mod envoy_limits;
pub mod error_body;
pub mod extract;
pub mod issuer;
pub mod login;
pub mod name;
pub mod named;
pub mod path;
mod path_table;
pub mod pattern;
pub mod plane;
pub mod policy;
pub mod principal;
pub mod redact;
pub mod resource;
pub mod respond;
pub mod route;
pub mod token;
