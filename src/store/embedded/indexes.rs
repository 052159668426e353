//! The indexes that came with the third format, made of the records of an older store. Never trusts what stands in them already.

use redb::{ReadableTable, WriteTransaction};

use super::super::StoreError;
use super::super::keyspace::{self, id_key, rest_of, scoped, within};
use super::super::records::audit::decode_audit;
use super::super::records::key::decode_key;
use super::super::records::noun::Noun;
use super::act::Act;
use super::{Embedded, damaged, journal};
use crate::domain::record::User;

impl Embedded {
    /// Makes the indexes of the third format anew, for a store that is about to be raised to it.
    ///
    /// # Errors
    /// As any write; then they are as they were.
    pub fn fill_indexes(&self) -> Result<(), StoreError> {
        self.engine.write(fill)
    }
}

pub(super) fn fill(transaction: &WriteTransaction) -> Act<()> {
    // A release that does not know them may have written to the store since they were filled.
    transaction.delete_table(keyspace::LISTED_USERS)?;
    transaction.delete_table(keyspace::AUDIT_BY_ACTOR)?;
    fill_keys(transaction)?;
    fill_users(transaction)?;
    fill_audit(transaction)
}

pub(super) fn fill_keys(transaction: &WriteTransaction) -> Act<()> {
    transaction.delete_table(keyspace::KEYS_BY_BOTH)?;
    transaction.delete_table(keyspace::KEYS_IN_PROJECTS)?;
    let mut index = transaction.open_table(keyspace::KEYS_BY_BOTH)?;
    for entry in transaction.open_table(keyspace::KEYS_BY_PROJECT)?.iter()? {
        let (key, plane) = entry?;
        let id = rest_of(key.value()).unwrap_or_default();
        let project = key.value().strip_suffix(id).and_then(|scope| scope.split_last());
        let texts = (project.map(|(_, name)| std::str::from_utf8(name)), std::str::from_utf8(plane.value()));
        let (Some(Ok(project)), Ok(plane)) = texts else {
            return damaged("a list of keys has a name that is no text".to_owned());
        };
        index.insert(&*within([project, plane], id), ())?;
    }
    let mut index = transaction.open_table(keyspace::KEYS_IN_PROJECTS)?;
    for entry in transaction.open_table(keyspace::KEYS)?.iter()? {
        let (_, bytes) = entry?;
        let key = decode_key(bytes.value())?;
        index.insert(&*scoped(&key.project, &id_key(&key.id)), bytes.value())?;
    }
    Ok(())
}

fn fill_users(transaction: &WriteTransaction) -> Act<()> {
    let mut index = transaction.open_table(keyspace::LISTED_USERS)?;
    for entry in transaction.open_table(keyspace::USERS)?.iter()? {
        let (name, bytes) = entry?;
        if !User::decode(name.value().as_bytes(), bytes.value())?.deleted {
            index.insert(name.value(), ())?;
        }
    }
    Ok(())
}

fn fill_audit(transaction: &WriteTransaction) -> Act<()> {
    let mut index = transaction.open_table(keyspace::AUDIT_BY_ACTOR)?;
    for entry in transaction.open_table(keyspace::AUDIT)?.iter()? {
        let (sequence, bytes) = entry?;
        journal::list_by_actor(&mut index, sequence.value(), &decode_audit(bytes.value())?)?;
    }
    Ok(())
}
