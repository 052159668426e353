//! Who answers checks from one store, and how far a change has come among them. Never decides about a request.

pub mod driver;
pub mod handle;
mod members;
pub mod position;
pub mod replicas;
pub mod report;
