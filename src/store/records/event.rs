//! What the log of changes says of one: no kind of record, as each stands in it once and is never changed.

use prost::Message;
use tollgate_guard::digest::Digest;
use tollgate_guard::slots::{SLOTS, Touched};
use tollgate_guard::time::Timestamp;

use super::super::StoreError;
use super::noun::damaged;
use super::written::{self, Left, Place, Written};
use super::{project, session, wire};
use crate::domain::change::{Ended, Event};

/// An event, every place that its change has written, where that is known, and its link in a store that has them.
pub(in crate::store) fn encode_event(event: &Event, written: Option<&Written>, link: Option<wire::Link>) -> Vec<u8> {
    let (slots, all) = match &event.touched {
        Touched::All => (Vec::new(), true),
        Touched::Slots(slots) => (slots.iter().map(|slot| u32::from(*slot)).collect(), false),
    };
    let ended = event.ended.iter().map(encode_ended).collect();
    let (says_written, written) = (written.is_some(), written.map(Written::places).into_iter().flatten());
    let written = written.map(written::wire_of).collect();
    wire::Event { slots, all, ended, written, says_written, link }.encode_to_vec()
}

fn encode_ended(ended: &Ended) -> wire::event::Ended {
    use wire::event::ended::What;
    let what = match ended.clone() {
        Ended::Key { digest, at } => What::Key(wire::event::Key { digest: digest.0.to_vec(), at_ms: at.as_millis() }),
        Ended::Session(ended) => What::Session(session::wire_of(&ended)),
        Ended::User { name, created_at, sessions, disabled, deleted } => {
            let created_at_ms = created_at.as_millis();
            What::User(wire::event::User { name, sessions, disabled, deleted, created_at_ms })
        }
        Ended::Project { name, state, changed_at, version } => {
            let (state, changed_at_ms) = (project::encode_state(state), changed_at.as_millis());
            What::Project(wire::event::Project { name, state, version, changed_at_ms })
        }
        Ended::Resource { kind, id, created_at } => {
            What::Resource(wire::event::Resource { kind, id, created_at_ms: created_at.as_millis() })
        }
    };
    wire::event::Ended { what: Some(what) }
}

/// # Errors
/// [`StoreError::Damaged`] if the bytes are no event.
pub(in crate::store) fn decode_event(bytes: &[u8]) -> Result<Event, StoreError> {
    let damaged = || damaged("an event");
    let wire = wire::Event::decode(bytes).map_err(|_| damaged())?;
    let slot = |slot: &u32| u16::try_from(*slot).ok().filter(|slot| usize::from(*slot) < SLOTS).ok_or_else(damaged);
    let slots = wire.slots.iter().map(slot).collect::<Result<Vec<u16>, _>>()?;
    let ended = wire.ended.into_iter().filter_map(|ended| ended.what);
    Ok(Event {
        touched: if wire.all { Touched::All } else { Touched::Slots(slots) },
        ended: ended.filter_map(|what| decode_ended(what).transpose()).collect::<Result<_, _>>()?,
    })
}

/// The places that the change with this event has written; `None`: it does not say.
///
/// # Errors
/// [`StoreError::Damaged`] if the bytes are no event.
pub(in crate::store) fn decode_written(bytes: &[u8]) -> Result<Option<Vec<(Place, Left)>>, StoreError> {
    let wire = wire::Event::decode(bytes).map_err(|_| damaged("an event"))?;
    let written = wire.written.into_iter().map(written::of_wire);
    // One with a kind that a later Tollgate has says nothing here.
    Ok(if wire.says_written { written.collect() } else { None })
}

/// `None` for what another version says.
fn decode_ended(what: wire::event::ended::What) -> Result<Option<Ended>, StoreError> {
    use wire::event::ended::What;
    Ok(Some(match what {
        What::Key(key) => {
            let digest = Digest::from_slice(&key.digest).ok_or_else(|| damaged("an event"))?;
            Ended::Key { digest, at: Timestamp::from_millis(key.at_ms) }
        }
        What::Session(ended) => Ended::Session(session::of_wire(ended)),
        What::User(wire::event::User { name, sessions, disabled, deleted, created_at_ms }) => {
            Ended::User { name, created_at: Timestamp::from_millis(created_at_ms), sessions, disabled, deleted }
        }
        What::Project(wire::event::Project { name, state, version, changed_at_ms }) => {
            let Ok(state) = project::decode_state(state) else { return Ok(None) };
            Ended::Project { name, state, changed_at: Timestamp::from_millis(changed_at_ms), version }
        }
        What::Resource(wire::event::Resource { kind, id, created_at_ms }) => {
            Ended::Resource { kind, id, created_at: Timestamp::from_millis(created_at_ms) }
        }
    }))
}
