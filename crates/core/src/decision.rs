//! The trace of a decision. Values of codes: rendering them is another room's work.

use crate::credential::KeyId;
use crate::denial::Denial;

/// Where a look-up was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// In process, a known entry.
    Cache,
    /// In process, known to be unknown.
    NegativeCache,
    Store,
    /// Nowhere: a signature was verified.
    Verified,
}

impl Tier {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cache => "l1",
            Self::NegativeCache => "l1_negative",
            Self::Store => "store",
            Self::Verified => "verified",
        }
    }
}

/// Index of a route in the policy that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteId(pub u32);

/// The steps of a decision, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    Route,
    Extract,
    Resolve,
    Authorize,
    Respond,
}

impl Step {
    pub const ALL: [Self; 5] = [Self::Route, Self::Extract, Self::Resolve, Self::Authorize, Self::Respond];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Extract => "extract",
            Self::Resolve => "resolve",
            Self::Authorize => "authorize",
            Self::Respond => "respond",
        }
    }
}

/// What happened on the way to a decision, as codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trace {
    /// How far it came: the step that refused, or the last.
    pub step: Step,
    pub route: Option<RouteId>,
    /// The public id of the key that was presented, once its grammar was found good.
    pub key_id: Option<KeyId>,
    pub principal: Option<Tier>,
    pub resource: Option<Tier>,
    /// `None`: allowed.
    pub denied: Option<Denial>,
}

impl Trace {
    /// The trace of a decision that has not begun. It counts as a denial until a permit says otherwise.
    pub fn begin() -> Self {
        Self {
            step: Step::Route,
            route: None,
            key_id: None,
            principal: None,
            resource: None,
            denied: Some(Denial::Internal),
        }
    }
}
