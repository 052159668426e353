//! What look-ups found, on its way to an answer. It can be read and judged, but only [`Stamps::confirm`] makes of it what may be acted
//! upon: whoever writes a host cannot forget to ask whether it still stands. It is no defence against one who means to.

use std::time::Duration;

use crate::stamps::{Proof, Stamps};

/// A value that was found or made of what was found, with the proof of each look-up in it.
#[derive(Debug)]
#[must_use]
pub struct Found<T> {
    value: T,
    first: Proof,
    /// Of further look-ups.
    others: Vec<Proof>,
}

impl<T> Found<T> {
    pub fn new(value: T, proof: Proof) -> Self {
        Self { value, first: proof, others: Vec::new() }
    }

    /// To look at, not to act upon.
    pub fn get(&self) -> &T {
        &self.value
    }

    /// Both, which stand while each of them does.
    pub fn and<U>(mut self, other: Found<U>) -> Found<(T, U)> {
        self.others.push(other.first);
        self.others.extend(other.others);
        Found { value: (self.value, other.value), first: self.first, others: self.others }
    }

    /// What a rule makes of it, which stands while this does.
    ///
    /// # Errors
    /// Those of the rule.
    pub fn judge<U, E>(self, rule: impl FnOnce(T) -> Result<U, E>) -> Result<Found<U>, E> {
        let Self { value, first, others } = self;
        Ok(Found { value: rule(value)?, first, others })
    }
}

/// A value that stood when it was last looked at. Only [`Stamps::confirm`] makes one:
///
/// ```compile_fail,E0423
/// # use tollgate_guard::found::Confirmed;
/// let made_up = Confirmed("not looked up");
/// ```
///
/// ```compile_fail,E0308
/// # use tollgate_guard::found::{Confirmed, Found};
/// fn act(found: Found<u8>) -> Confirmed<u8> {
///     found
/// }
/// ```
#[derive(Debug)]
pub struct Confirmed<T>(T);

impl<T> Confirmed<T> {
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl Stamps {
    /// Whether all that this was made of still stands. `grace` extends the lease; see [`Stamps::stand`].
    ///
    /// # Errors
    /// What was found, if a change has touched some of it.
    pub fn confirm<T>(&self, found: Found<T>, grace: Duration) -> Result<Confirmed<T>, Found<T>> {
        let mut proofs = std::iter::once(&found.first).chain(&found.others);
        if proofs.all(|proof| self.stand(proof, grace)) { Ok(Confirmed(found.value)) } else { Err(found) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;
    use crate::slots::{Slots, Touched};
    use crate::testing::RunningClock;

    #[test]
    fn what_is_made_of_several_things_stands_while_each_of_them_does() {
        let slots = [1, 2, 3].map(|byte| Slots::of_digests(&[Digest([byte; 32])]));
        for touched in [None, Some(0), Some(1), Some(2)] {
            let stamps = Stamps::sole(RunningClock::default());
            let [a, b, c] =
                slots.map(|slots| Found::new((), Proof { stamp: stamps.take(), slots, sent: stamps.now() }));
            let judged = a.and(b).and(c).judge(|_| Ok::<_, ()>("judged")).unwrap();
            if let Some(touched) = touched {
                stamps.apply(1, &Touched::of(&[slots[touched]]));
            }
            let confirmed = stamps.confirm(judged, Duration::ZERO);
            assert_eq!(confirmed.ok().map(Confirmed::into_inner), touched.is_none().then_some("judged"));
        }
    }
}
