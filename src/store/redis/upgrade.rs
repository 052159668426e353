//! The store in Redis raised to the newest format while its replicas go on. Never begins while one of them could not write that,
//! and never says that it has ended before every record was seen.
//!
//! Names are read over one connection, between two scripts that a server runs only if it is the primary. What is created
//! meanwhile is of the new format already.

use std::time::Duration;

use super::Redis;
use super::connection::Connection;
use super::loads::checked_user;
use super::scripts::{Answer, BEGIN_UPGRADE, END_UPGRADE, Silence, explained, run};
use crate::domain::change::{Event, Slots, Touched, named};
use crate::store::format::Format;
use crate::store::keyspace::redis as names;
use crate::store::records::encode_event;
use crate::store::upgrade::{Upgraded, user_id};
use crate::store::{StoreError, Write};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How many names a server looks through at once.
const SCANNED_AT_ONCE: usize = 1000;
/// How many records one change writes again.
const AT_ONCE: usize = 100;

/// What stands at the beginning.
struct Begun {
    lineage: String,
    was: Format,
}

impl Redis {
    pub(in crate::store) async fn upgrade(&self) -> Result<Upgraded, StoreError> {
        let mut connection = self.connector.primary().await?;
        connection.set_response_timeout(LIMIT);
        let Begun { lineage, was } = self.begin_upgrade(&mut connection).await?;
        let mut rewritten = 0;
        if was != Format::NEWEST {
            let mut cursor: u64 = 0;
            loop {
                let (next, users) = scan(&mut connection, cursor).await?;
                for some in users.chunks(AT_ONCE) {
                    rewritten += self.give_ids(some).await?;
                }
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
            self.fill_indexes().await?;
            self.end_upgrade(&mut connection, &lineage).await?;
        }
        Ok(Upgraded { was, rewritten })
    }

    async fn begin_upgrade(&self, connection: &mut Connection) -> Result<Begun, StoreError> {
        let mut script = BEGIN_UPGRADE.prepare_invoke();
        script.key(names::HEAD).key(names::LOG).key(names::MEMBERS);
        script.arg(Format::Two.in_head()).arg(Format::RisingToThree.in_head());
        script.arg(Format::HIGHEST).arg(Format::OLDEST).arg(everything());
        let mut answer = asked(run(connection, &script).await)?;
        match &*answer.word {
            "BEHIND" => {
                let behind = super::texts(answer.value()?)?.join(", ");
                Err(StoreError::Conflict(format!(
                    "these replicas cannot write format {}: {behind}. Move each to this release first; one that is gone is \
                     forgotten after ten minutes",
                    Format::HIGHEST
                )))
            }
            _ => {
                let was = Format::of_head(answer.number()?)?;
                let begun = Begun { was, lineage: answer.text()? };
                self.writer.confirm(connection).await?;
                Ok(begun)
            }
        }
    }

    /// Gives an id to whoever of these users has none. Gives how many those were.
    async fn give_ids(&self, users: &[String]) -> Result<u64, StoreError> {
        let wanted: Vec<String> = users.iter().map(|name| names::user(name)).collect();
        let read = self.read(&wanted, 0).await?;
        let (mut batch, mut touched) = (Vec::new(), Vec::new());
        for (name, value) in users.iter().zip(read.values) {
            let Some(value) = value else { continue };
            if checked_user(&value, name)?.id.is_none() {
                batch.push(Write::GiveUserId { name: name.clone(), id: user_id()? });
                touched.push(Slots::of_digests(&[named("user", name)]));
            }
        }
        let count = batch.len() as u64;
        if count > 0 {
            self.commit(&batch, &Event::touching(&touched)).await?;
        }
        Ok(count)
    }

    async fn end_upgrade(&self, connection: &mut Connection, lineage: &str) -> Result<(), StoreError> {
        let mut script = END_UPGRADE.prepare_invoke();
        script.key(names::HEAD).key(names::LOG).arg(lineage);
        script.arg(Format::RisingToThree.in_head()).arg(Format::NEWEST.in_head()).arg(everything());
        let answer = asked(run(connection, &script).await)?;
        if answer.word != "DONE" {
            let reason = "the store went over to another history meanwhile: run this again";
            return Err(StoreError::Conflict(reason.to_owned()));
        }
        self.writer.confirm(connection).await
    }
}

fn everything() -> Vec<u8> {
    encode_event(&Event { touched: Touched::All, ended: Vec::new() })
}

fn asked(answer: Result<Answer, Silence>) -> Result<Answer, StoreError> {
    answer.map_err(Silence::into_error)?.found()
}

/// Some names of users, also of deleted ones, and where to go on; zero: those were the last.
async fn scan(connection: &mut Connection, cursor: u64) -> Result<(u64, Vec<String>), StoreError> {
    let mut command = redis::cmd("SCAN");
    command.arg(cursor).arg("MATCH").arg(format!("{}*", names::USERS)).arg("COUNT").arg(SCANNED_AT_ONCE);
    let scanned: Result<(u64, Vec<String>), _> = command.query_async(connection).await;
    let (next, found) = scanned.map_err(|error| StoreError::Unavailable(explained(&error)))?;
    let users = found.iter().filter_map(|name| Some(name.strip_prefix(names::USERS)?.to_owned()));
    Ok((next, users.collect()))
}
