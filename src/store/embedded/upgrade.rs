//! The file of an embedded store raised to the newest format, in one step: nobody else has it open. Never leaves it in between.

use redb::ReadableTable;

use super::super::StoreError;
use super::super::format::Format;
use super::super::keyspace::{self, META_FORMAT};
use super::super::records::decode_user;
use super::super::upgrade::{Upgraded, user_id};
use super::batch::Batch;
use super::{Embedded, format_in, indexes, users};

impl Embedded {
    pub(in crate::store) fn upgrade(&self) -> Result<Upgraded, StoreError> {
        let was = self.format()?;
        if was == Format::NEWEST {
            return Ok(Upgraded { was, rewritten: 0 });
        }
        let (upgraded, sequence) = self.engine.write(|transaction| {
            let was = format_in(&transaction.open_table(keyspace::META)?)?;
            let mut without = Vec::new();
            for entry in transaction.open_table(keyspace::USERS)?.iter()? {
                let user = decode_user(entry?.1.value())?;
                if user.id.is_none() {
                    without.push(user.name);
                }
            }
            for name in &without {
                users::give_id(transaction, name, user_id()?, Format::NEWEST)?;
            }
            indexes::fill(transaction)?;
            transaction.open_table(keyspace::META)?.insert(META_FORMAT, Format::NEWEST.in_file())?;
            let sequence = Batch::begin(transaction, Format::NEWEST)?.number()?;
            Ok((Upgraded { was, rewritten: without.len() as u64 }, sequence))
        })?;
        self.engine.acknowledge(sequence);
        Ok(upgraded)
    }
}
