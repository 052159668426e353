//! Who answers checks from one store, and how far a change has come among them. Never decides about a request.

pub mod replicas;
pub mod report;
