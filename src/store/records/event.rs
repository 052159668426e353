//! What the log of changes says of one: no kind of record, as each stands in it once and is never changed.

use prost::{Message, Oneof};
use tollgate_guard::digest::Digest;
use tollgate_guard::slots::{SLOTS, Touched};
use tollgate_guard::time::Timestamp;

use super::super::StoreError;
use super::noun::damaged;
use super::project::{self, StoredState};
use super::session::{self, StoredEndedSession};
use super::written::{self, Left, Place, StoredLink, StoredWritten, Written};
use crate::domain::change::{Ended, Event};

/// One change, as the log of a fleet's store tells it to every replica.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct StoredEvent {
    /// The slots that it touched, of 16,384; see [`Touched`].
    #[prost(uint32, repeated, tag = "1")]
    slots: Vec<u32>,
    /// Whether it touched all of them.
    #[prost(bool, tag = "2")]
    all: bool,
    /// What it ended. What has none of these is of another version, and passed over: the slots say enough.
    #[prost(message, repeated, tag = "4")]
    ended: Vec<StoredEnded>,
    /// Every record that it has put or removed, so that a copy of the store can be brought up to date. Nobody's cache goes by it.
    #[prost(message, repeated, tag = "5")]
    written: Vec<StoredWritten>,
    /// Whether that is said. Whoever wrote entries before it was does not say it.
    #[prost(bool, tag = "6")]
    says_written: bool,
    /// Format 4.
    #[prost(message, optional, tag = "7")]
    link: Option<StoredLink>,
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct StoredEnded {
    #[prost(oneof = "What", tags = "1, 2, 3, 4, 5")]
    what: Option<What>,
}

#[derive(Clone, PartialEq, Oneof)]
#[prost(skip_debug)]
enum What {
    #[prost(message, tag = "1")]
    Key(EndedKey),
    #[prost(message, tag = "2")]
    Session(StoredEndedSession),
    #[prost(message, tag = "3")]
    User(EndedUser),
    #[prost(message, tag = "4")]
    Project(EndedProject),
    #[prost(message, tag = "5")]
    Resource(EndedResource),
}

#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct EndedKey {
    /// 32 bytes.
    #[prost(bytes = "vec", tag = "1")]
    digest: Vec<u8>,
    /// Milliseconds since the Unix epoch.
    #[prost(uint64, tag = "2")]
    at_ms: u64,
}

/// Every session of an earlier generation, and what became of the user.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct EndedUser {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint64, tag = "2")]
    sessions: u64,
    #[prost(bool, tag = "3")]
    disabled: bool,
    #[prost(bool, tag = "4")]
    deleted: bool,
    #[prost(uint64, tag = "5")]
    created_at_ms: u64,
}

/// Also that it goes on.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct EndedProject {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(enumeration = "StoredState", tag = "2")]
    state: i32,
    #[prost(uint64, tag = "3")]
    version: u64,
    #[prost(uint64, tag = "4")]
    changed_at_ms: u64,
}

/// The one that was made at this time.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct EndedResource {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(string, tag = "2")]
    id: String,
    #[prost(uint64, tag = "3")]
    created_at_ms: u64,
}

/// An event, every place that its change has written, where that is known, and its link in a store that has them.
pub(in crate::store) fn encode_event(event: &Event, written: Option<&Written>, link: Option<StoredLink>) -> Vec<u8> {
    let (slots, all) = match &event.touched {
        Touched::All => (Vec::new(), true),
        Touched::Slots(slots) => (slots.iter().map(|slot| u32::from(*slot)).collect(), false),
    };
    let ended = event.ended.iter().map(encode_ended).collect();
    let (says_written, written) = (written.is_some(), written.map(Written::places).into_iter().flatten());
    let written = written.map(written::message_of).collect();
    StoredEvent { slots, all, ended, written, says_written, link }.encode_to_vec()
}

fn encode_ended(ended: &Ended) -> StoredEnded {
    let what = match ended.clone() {
        Ended::Key { digest, at } => What::Key(EndedKey { digest: digest.0.to_vec(), at_ms: at.as_millis() }),
        Ended::Session(ended) => What::Session(session::message_of(&ended)),
        Ended::User { name, created_at, sessions, disabled, deleted } => {
            let created_at_ms = created_at.as_millis();
            What::User(EndedUser { name, sessions, disabled, deleted, created_at_ms })
        }
        Ended::Project { name, state, changed_at, version } => {
            let (state, changed_at_ms) = (project::encode_state(state), changed_at.as_millis());
            What::Project(EndedProject { name, state, version, changed_at_ms })
        }
        Ended::Resource { kind, id, created_at } => {
            What::Resource(EndedResource { kind, id, created_at_ms: created_at.as_millis() })
        }
    };
    StoredEnded { what: Some(what) }
}

/// # Errors
/// [`StoreError::Damaged`] if the bytes are no event.
pub(in crate::store) fn decode_event(bytes: &[u8]) -> Result<Event, StoreError> {
    let damaged = || damaged("an event");
    let message = StoredEvent::decode(bytes).map_err(|_| damaged())?;
    let slot = |slot: &u32| u16::try_from(*slot).ok().filter(|slot| usize::from(*slot) < SLOTS).ok_or_else(damaged);
    let slots = message.slots.iter().map(slot).collect::<Result<Vec<u16>, _>>()?;
    let ended = message.ended.into_iter().filter_map(|ended| ended.what);
    Ok(Event {
        touched: if message.all { Touched::All } else { Touched::Slots(slots) },
        ended: ended.filter_map(|what| decode_ended(what).transpose()).collect::<Result<_, _>>()?,
    })
}

/// The places that the change with this event has written; `None`: it does not say.
///
/// # Errors
/// [`StoreError::Damaged`] if the bytes are no event.
pub(in crate::store) fn decode_written(bytes: &[u8]) -> Result<Option<Vec<(Place, Left)>>, StoreError> {
    let message = StoredEvent::decode(bytes).map_err(|_| damaged("an event"))?;
    let written = message.written.into_iter().map(written::of_message);
    // One with a kind that a later Tollgate has says nothing here.
    Ok(if message.says_written { written.collect() } else { None })
}

/// The link of an entry, which nobody vouches for; `None`: it has none, or is no event.
pub(in crate::store) fn link_of(entry: &[u8]) -> Option<StoredLink> {
    StoredEvent::decode(entry).ok()?.link
}

/// `None` for what another version says.
fn decode_ended(what: What) -> Result<Option<Ended>, StoreError> {
    Ok(Some(match what {
        What::Key(key) => {
            let digest = Digest::from_slice(&key.digest).ok_or_else(|| damaged("an event"))?;
            Ended::Key { digest, at: Timestamp::from_millis(key.at_ms) }
        }
        What::Session(ended) => Ended::Session(session::of_message(ended)),
        What::User(EndedUser { name, sessions, disabled, deleted, created_at_ms }) => {
            Ended::User { name, created_at: Timestamp::from_millis(created_at_ms), sessions, disabled, deleted }
        }
        What::Project(EndedProject { name, state, version, changed_at_ms }) => {
            let Ok(state) = project::decode_state(state) else { return Ok(None) };
            Ended::Project { name, state, changed_at: Timestamp::from_millis(changed_at_ms), version }
        }
        What::Resource(EndedResource { kind, id, created_at_ms }) => {
            Ended::Resource { kind, id, created_at: Timestamp::from_millis(created_at_ms) }
        }
    }))
}
