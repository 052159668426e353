//! The steps of a batch, judged by what the server held and put into a set of writes. Never takes back a revocation, and never puts a
//! record over one that its writer had not seen.

use super::write_set::{Halt, Seen, Step, WriteSet};
use crate::domain::record::User;
use crate::store::keyspace::redis as names;
use crate::store::kind::Kind;
use crate::store::records::{self, noun::Tables};
use crate::store::{PepperCheck, StoreError, Write};

/// Takes each step. With something left to be read, the set of writes says what, and nothing else of it counts.
///
/// # Errors
/// The first step that does not fit.
pub(super) fn judge<'s>(batch: &[Write], seen: &'s Seen) -> Result<WriteSet<'s>, StoreError> {
    let mut write_set = WriteSet::new(seen);
    for write in batch {
        match step(&mut write_set, write) {
            Ok(()) | Err(Halt::Unseen) => {}
            Err(Halt::Refused(error)) if write_set.is_complete() => return Err(error),
            // It may fit once everything is known.
            Err(Halt::Refused(_)) => break,
        }
    }
    Ok(write_set)
}

fn step(write_set: &mut WriteSet<'_>, write: &Write) -> Step<()> {
    let user = match write {
        Write::UpdateUser(user) => write_set.find::<User>(user.name.as_bytes())?,
        _ => None,
    };
    write_set.purpose().note(write, user.as_ref());
    records::step(write_set, write)
}

/// Puts something in a place that no record has, or removes it from there.
pub(super) fn judge_named<'s>(name: &str, value: Option<&[u8]>, seen: &'s Seen) -> Result<WriteSet<'s>, StoreError> {
    let mut write_set = WriteSet::new(seen);
    match write_set.named(name) {
        Ok(_) => match value {
            Some(value) => {
                write_set.purpose().note_making();
                write_set.set(name.to_owned(), value.to_vec());
            }
            None => write_set.delete(name.to_owned()),
        },
        Err(Halt::Unseen) => {}
        Err(Halt::Refused(error)) => return Err(error),
    }
    Ok(write_set)
}

/// The same where what stands there is still this. A full store takes it, too: it is needed to make room.
///
/// # Errors
/// [`StoreError::Conflict`] if something else stands there.
pub(super) fn judge_exchange<'s>(
    name: &str,
    before: Option<&[u8]>,
    after: &[u8],
    seen: &'s Seen,
) -> Result<WriteSet<'s>, StoreError> {
    let mut write_set = WriteSet::new(seen);
    match write_set.named(name) {
        Ok(stands) if stands.as_deref() == before => write_set.set(name.to_owned(), after.to_vec()),
        Ok(_) => return Err(StoreError::Conflict(format!("{name} has been changed meanwhile"))),
        Err(Halt::Unseen) => {}
        Err(Halt::Refused(error)) => return Err(error),
    }
    Ok(write_set)
}

/// Keeps the check value of a pepper version, unless it is kept already.
///
/// # Errors
/// [`StoreError::Conflict`] if the version has another one.
pub(super) fn judge_pepper<'s>(check: &PepperCheck, seen: &'s Seen) -> Result<WriteSet<'s>, StoreError> {
    let mut write_set = WriteSet::new(seen);
    let name = names::pepper(check.version);
    match write_set.named(&name) {
        Ok(Some(known)) if known != check.check => {
            return Err(StoreError::Conflict(format!("pepper version {} is known with another value", check.version)));
        }
        Ok(known) => {
            // At each start: one that is known needs no room.
            if known.is_none() {
                write_set.purpose().note_making();
            }
            write_set.set(name, check.check.to_vec());
            write_set.note_written(Kind::Peppers, &check.version.to_be_bytes());
            write_set.add_member(names::PEPPER_LIST, check.version.to_string());
        }
        Err(Halt::Unseen) => {}
        Err(Halt::Refused(error)) => return Err(error),
    }
    Ok(write_set)
}
