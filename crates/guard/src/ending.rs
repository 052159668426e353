//! What it takes to be something that can be ended. Never says what that is.

use crate::digest::Digest;
use crate::slots::Slots;

/// Something that was ended, such as a key or a session.
pub trait Ending: Clone + PartialEq {
    /// What a store has of such a thing.
    type Stored<'s>;

    /// What the thing is known by.
    fn digest(&self) -> Digest;

    /// The same, by what a store has of it.
    fn digest_of(stored: &Self::Stored<'_>) -> Digest;

    /// What depends on it.
    fn slots(&self) -> Slots;

    /// Whether a store that has this of the same thing has lost that it was ended.
    fn is_lost_in(&self, stored: &Self::Stored<'_>) -> bool;

    /// Whether it takes the place of what is `known` of the same thing. Who wrote something may hear of what was there before only
    /// then.
    fn is_newer_than(&self, known: &Self) -> bool;
}
