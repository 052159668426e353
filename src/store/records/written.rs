//! What a change has left in which places of a store, as the log of changes and the rows of the audit log name it. Never holds what
//! stands there.

use std::collections::{BTreeMap, BTreeSet};

use super::super::kind::Kind;
use super::super::signature::Mac;
use super::wire;

/// A kind, and a place as lists and snapshots have it.
pub(in crate::store) type Place = (Kind, Vec<u8>);

/// What a change has left in a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Left {
    /// A record with this signature; of a kind that counts its versions, with this one.
    Record {
        version: Option<u64>,
        mac: Mac,
    },
    Nothing,
    /// That is not said.
    Unsaid,
}

/// Every place that a change has written.
#[derive(Clone, Debug, Default)]
pub(in crate::store) struct Written {
    places: BTreeMap<Place, Left>,
    /// Those that no row has named.
    unnamed: BTreeSet<Place>,
}

impl Written {
    pub(in crate::store) fn note(&mut self, kind: Kind, place: &[u8], left: Left) {
        self.unnamed.insert((kind, place.to_vec()));
        self.places.insert((kind, place.to_vec()), left);
    }

    /// Of a place that is written by more than one step, of which another one says what is left.
    pub(in crate::store) fn note_touched(&mut self, kind: Kind, place: &[u8]) {
        self.unnamed.insert((kind, place.to_vec()));
        self.places.entry((kind, place.to_vec())).or_insert(Left::Unsaid);
    }

    /// What was written since the last row was added, for the next one to name.
    pub(in crate::store) fn take_unnamed(&mut self) -> Vec<(Place, Left)> {
        let left = |place: Place| self.places.get(&place).map(|left| (place.clone(), *left));
        std::mem::take(&mut self.unnamed).into_iter().filter_map(left).collect()
    }

    pub(in crate::store) fn places(&self) -> impl Iterator<Item = (&Place, &Left)> {
        self.places.iter()
    }
}

pub(in crate::store) fn wire_of(((kind, place), left): (&Place, &Left)) -> wire::Written {
    let (mac, version) = match left {
        Left::Record { version, mac } => (mac.to_vec(), *version),
        Left::Nothing | Left::Unsaid => (Vec::new(), None),
    };
    let removed = *left == Left::Nothing;
    wire::Written { kind: kind.number().into(), place: place.clone(), mac, version, removed }
}

/// `None`: of a kind that a later Tollgate has.
pub(in crate::store) fn of_wire(wire: wire::Written) -> Option<(Place, Left)> {
    let kind = u8::try_from(wire.kind).ok().and_then(Kind::of_number)?;
    let left = match Mac::try_from(wire.mac) {
        Ok(mac) => Left::Record { version: wire.version, mac },
        Err(_) if wire.removed => Left::Nothing,
        Err(_) => Left::Unsaid,
    };
    Some(((kind, wire.place), left))
}
