//! The nouns: plain values that every other room speaks of. Imports nothing of ours; no clock, no I/O, no log.

pub mod attributes;
pub mod bytes;
pub mod change;
pub mod credential;
pub mod decision;
pub mod denial;
pub mod duration;
pub mod fleet;
pub mod json;
pub mod name;
pub mod principal;
pub mod record;
pub mod time;
pub mod token;
