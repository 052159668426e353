//! tmp
pub mod encode;
pub mod wire;
#[cfg(test)]
mod typed;
