//! Which tables the file has. Never looks at what is in one.

use std::collections::BTreeSet;

use redb::{ReadTransaction, TableDefinition, TableHandle, WriteTransaction};

use super::super::keyspace;
use super::super::kind::Kind;
use super::super::record::by_kind;
use super::super::records::noun::{Index, Noun};
use super::act::Act;
use crate::domain::record::ApiKey;

/// A table that has to be there, whatever is in it.
trait Table {
    fn name(&self) -> &str;
    fn make(&self, transaction: &WriteTransaction) -> Act<()>;
}

impl<K: redb::Key + 'static, V: redb::Value + 'static> Table for TableDefinition<'static, K, V> {
    fn name(&self) -> &str {
        TableHandle::name(self)
    }

    fn make(&self, transaction: &WriteTransaction) -> Act<()> {
        transaction.open_table(*self)?;
        Ok(())
    }
}

/// All of them: those of each kind of record, and what stands in ways of its own.
fn tables() -> Vec<Box<dyn Table>> {
    fn of<N: Noun>(tables: &mut Vec<Box<dyn Table>>) {
        tables.push(Box::new(N::TABLE));
        if let Some((index, _)) = N::BY_TIME {
            tables.push(Box::new(index));
        }
        tables.extend(N::INDEXES.iter().map(|index| -> Box<dyn Table> {
            match *index {
                Index::Bytes(index) => Box::new(index),
                Index::Text(index) => Box::new(index),
                Index::Valued(index) => Box::new(index),
            }
        }));
    }
    let mut tables: Vec<Box<dyn Table>> = vec![
        Box::new(keyspace::KEY_IDS),
        Box::new(keyspace::LAST_USED),
        Box::new(keyspace::PEPPERS),
        Box::new(keyspace::AUDIT),
        Box::new(keyspace::AUDIT_BY_PROJECT),
        Box::new(keyspace::AUDIT_BY_ACTOR),
    ];
    for kind in Kind::ALL {
        by_kind!(kind, N => of::<N>(&mut tables),
            Kind::Keys => of::<ApiKey>(&mut tables),
            Kind::Peppers | Kind::LastUses | Kind::Audit => {},
        );
    }
    // The last one: see `is_younger_than_its_format`.
    tables.push(Box::new(keyspace::REMOVED_ROWS));
    tables
}

/// Whether a store may have its format, and all other tables, and not this one.
pub(super) fn is_younger_than_its_format(table: &str) -> bool {
    table == TableHandle::name(&keyspace::REMOVED_ROWS)
}

/// The name of the first one that is not there. A store that an older Tollgate made may lack some.
pub(super) fn missing_table(read: &ReadTransaction) -> Act<Option<String>> {
    let there: BTreeSet<String> = read.list_tables()?.map(|table| table.name().to_owned()).collect();
    Ok(tables().iter().map(|table| table.name()).find(|name| !there.contains(*name)).map(str::to_owned))
}

pub(super) fn make_tables(transaction: &WriteTransaction) -> Act<()> {
    tables().iter().try_for_each(|table| table.make(transaction))
}
