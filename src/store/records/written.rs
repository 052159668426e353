//! What a change has left in which places of a store, as the log of changes and the rows of the audit log name it. Never holds what
//! stands there.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message;

use super::super::kind::Kind;
use super::super::signature::Mac;

/// What a row of the audit log, or an entry of the log of changes, says of the others that its process wrote. Format 4.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(in crate::store) struct StoredLink {
    /// 16 random bytes: the process, in this history of the store.
    #[prost(bytes = "vec", tag = "1")]
    pub(in crate::store) writer: Vec<u8>,
    /// How many of its rows, or entries, were sent before this one.
    #[prost(uint64, tag = "2")]
    pub(in crate::store) count: u64,
    /// The MAC of the last one of them that was written for certain. Absent: this is the first.
    #[prost(bytes = "vec", optional, tag = "3")]
    pub(in crate::store) before: Option<Vec<u8>>,
    /// The MACs of those that were sent since, and may have been written.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub(in crate::store) unheard: Vec<Vec<u8>>,
    /// Of a row: the records that its change has put or removed.
    #[prost(message, repeated, tag = "5")]
    pub(in crate::store) written: Vec<StoredWritten>,
}

/// A record that a change has put or removed.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub(in crate::store) struct StoredWritten {
    /// The number of its [`Kind`].
    #[prost(uint32, tag = "1")]
    kind: u32,
    #[prost(bytes = "vec", tag = "2")]
    place: Vec<u8>,
    /// Format 4. The MAC of what was put. Absent: that is not said.
    #[prost(bytes = "vec", tag = "3")]
    mac: Vec<u8>,
    /// Format 4. As the record has it. Absent: it counts no versions.
    #[prost(uint64, optional, tag = "4")]
    version: Option<u64>,
    /// Format 4.
    #[prost(bool, tag = "5")]
    removed: bool,
}

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

pub(in crate::store) fn message_of(((kind, place), left): (&Place, &Left)) -> StoredWritten {
    let (mac, version) = match left {
        Left::Record { version, mac } => (mac.to_vec(), *version),
        Left::Nothing | Left::Unsaid => (Vec::new(), None),
    };
    let removed = *left == Left::Nothing;
    StoredWritten { kind: kind.number().into(), place: place.clone(), mac, version, removed }
}

/// `None`: of a kind that a later Tollgate has.
pub(in crate::store) fn of_message(message: StoredWritten) -> Option<(Place, Left)> {
    let kind = u8::try_from(message.kind).ok().and_then(Kind::of_number)?;
    let left = match Mac::try_from(message.mac) {
        Ok(mac) => Left::Record { version: message.version, mac },
        Err(_) if message.removed => Left::Nothing,
        Err(_) => Left::Unsaid,
    };
    Some(((kind, message.place), left))
}
