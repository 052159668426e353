//! How a store is laid out, as a number that stands in it. What a store names is what everybody writes there; nobody but
//! `tollgate store upgrade` ever raises it. Never taken for another one: a number that is not known is an error.
//!
//! A release reads this format and the two before. So a fleet is moved in two steps: every replica to a release that knows the new
//! format, and then the store.

use super::StoreError;

/// In place of a format while a migration fills the store: no Tollgate opens it, be it an older one.
pub const UNFINISHED: u64 = u64::MAX;
const HALF_FILLED: &str = "what fills it has not ended: run the same `tollgate store migrate` or `tollgate restore` again, which goes on where it was";

/// Added to the number of a format that a store is on its way to: a number that no older Tollgate reads.
const UNDER_WAY: u64 = 1_000;

/// The layout of a store that this Tollgate can use, from the oldest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// What was written before formats could rise.
    Two,
    /// Everybody writes the third one, and reads both, while what was there before is rewritten.
    RisingToThree,
    Three,
    /// Everybody signs what is written, while what was there before is signed.
    RisingToFour,
    /// Every record is signed.
    Four,
}

impl Format {
    /// Of a store that is made now.
    pub const NEWEST: Self = Self::Four;
    /// The highest number that this Tollgate can write, as each replica says it. Whoever says none writes [`Format::OLDEST`].
    pub const HIGHEST: u64 = 4;
    /// See [`Format::HIGHEST`].
    pub const OLDEST: u64 = 2;

    const ALL: [Self; 5] = [Self::Two, Self::RisingToThree, Self::Three, Self::RisingToFour, Self::Four];

    /// The number of what is written.
    pub fn written(self) -> u64 {
        match self {
            Self::Two => 2,
            Self::RisingToThree | Self::Three => 3,
            Self::RisingToFour | Self::Four => 4,
        }
    }

    /// Whether what came with the third format is written. Without it, none of it is.
    pub fn has_three(self) -> bool {
        self >= Self::RisingToThree
    }

    /// Whether every record stands in the indexes that came with the third format. They are written as soon as it
    /// [has three](Self::has_three), and read only from here on.
    pub fn has_indexes_of_three(self) -> bool {
        self >= Self::Three
    }

    /// Whether each record that is written is signed.
    pub fn has_signatures(self) -> bool {
        self >= Self::RisingToFour
    }

    /// Whether a record without a signature is none.
    pub fn demands_signatures(self) -> bool {
        self >= Self::Four
    }

    /// Whether some of the store may still be of the format before.
    pub fn is_under_way(self) -> bool {
        matches!(self, Self::RisingToThree | Self::RisingToFour)
    }

    /// As it stands in the file of an embedded store.
    pub fn in_file(self) -> u64 {
        self.written() + if self.is_under_way() { UNDER_WAY } else { 0 }
    }

    /// As it stands in the head of a store in Redis, where what is 2 in a file has always been 1.
    pub fn in_head(self) -> u64 {
        if self == Self::Two { 1 } else { self.in_file() }
    }

    /// # Errors
    /// [`StoreError::Damaged`] if this Tollgate would misread the store.
    pub(super) fn of_file(number: u64) -> Result<Self, StoreError> {
        Self::ALL.into_iter().find(|format| format.in_file() == number).ok_or_else(|| unknown(number))
    }

    /// # Errors
    /// As [`Format::of_file`].
    pub(super) fn of_head(number: u64) -> Result<Self, StoreError> {
        Self::ALL.into_iter().find(|format| format.in_head() == number).ok_or_else(|| unknown(number))
    }
}

/// In words, such as "2" and "3, under way".
impl std::fmt::Display for Format {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.written(), if self.is_under_way() { ", under way" } else { "" })
    }
}

fn unknown(number: u64) -> StoreError {
    if number == UNFINISHED {
        return StoreError::Damaged(HALF_FILLED.to_owned());
    }
    let (number, under_way) = match number.checked_sub(UNDER_WAY) {
        Some(number) if number < UNDER_WAY => (number, ", under way"),
        _ => (number, ""),
    };
    StoreError::Damaged(format!(
        "it has format {number}{under_way}, made by a newer Tollgate; this one reads formats {} to {}",
        Format::OLDEST,
        Format::HIGHEST
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_one_format_or_an_error() {
        for format in Format::ALL {
            assert_eq!(Format::of_file(format.in_file()), Ok(format));
            assert_eq!(Format::of_head(format.in_head()), Ok(format));
        }
        assert!(Format::ALL.is_sorted());
        for number in [0, 1, 5, 1_002, 1_005, UNFINISHED] {
            assert!(matches!(Format::of_file(number), Err(StoreError::Damaged(_))), "{number}");
        }
        for number in [0, 2, 5, 1_001, UNFINISHED] {
            assert!(matches!(Format::of_head(number), Err(StoreError::Damaged(_))), "{number}");
        }
        let newer = Format::of_file(1_005).unwrap_err().to_string();
        assert!(
            newer.contains("format 5, under way, made by a newer Tollgate; this one reads formats 2 to 4"),
            "{newer}"
        );
        assert_eq!(Format::RisingToThree.to_string(), "3, under way");
    }
}
