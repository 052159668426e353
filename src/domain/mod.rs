//! The records of the store, and what else more than one room speaks of. No clock, no I/O, no log.

pub mod change;
pub mod duration;
pub mod json;
pub mod record;
