//! What a cache holds of one thing: what was found, and what it is judged by. Never decides by itself that it still stands.

use std::sync::Arc;

use crate::stamps::Proof;

/// What a look-up found.
#[derive(Debug)]
pub struct Entry<T> {
    /// `None`: it does not exist.
    pub value: Option<Arc<T>>,
    pub proof: Proof,
}

impl<T> Clone for Entry<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), proof: self.proof }
    }
}
