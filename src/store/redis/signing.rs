//! Every record in Redis looked at for its signature, and signed where its operator asks for it. Never signs a record that must have had
//! a signature already.
//!
//! An upgrade that is under way has a mark, which only a process with the pepper can make. Without it a store which says that it is on its
//! way is one that somebody else has set back.

use std::time::Duration;

use redis::Value;

use super::channel::{raw_entry, raw_row};
use super::connection::Connection;
use super::scripts::explained;
use super::values::{name_of, record_of, signature_of};
use super::write_set::{Halt, Seen, Step, WriteSet};
use super::{Read, Redis};
use crate::domain::record::ApiKey;
use crate::store::StoreError;
use crate::store::account::{Account, Standing};
use crate::store::keyspace::key_id;
use crate::store::keyspace::redis as names;
use crate::store::kind::Kind;
use crate::store::record::by_kind;
use crate::store::records::noun::{Noun, Tables};
use crate::store::signature::{Distrusted, Mac, Signature, Verifier};

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(10);
/// How many names a server looks through at once.
const SCANNED_AT_ONCE: usize = 1000;
/// How many records one change signs.
const AT_ONCE: usize = 100;
/// How often something is looked at again that may be changed meanwhile.
const ATTEMPTS: usize = 4;

impl Redis {
    /// What stands in the store and is not believed. What is changed meanwhile may be passed over.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]
    pub async fn distrusted(&self) -> Result<Distrusted, StoreError> {
        // Says of which format it is.
        let Read { verifier, mut values, .. } = self.read(&[names::REMOVED_ROWS.to_owned()], 0).await?;
        let mut connection = self.connector.primary().await?;
        connection.set_response_timeout(LIMIT);
        let mut found = Distrusted::default();
        for kind in Kind::ALL {
            by_kind!(kind, N => look_at_all::<N>(&mut connection, &verifier, &mut found).await?,
                Kind::Keys => look_at_all::<ApiKey>(&mut connection, &verifier, &mut found).await?,
                Kind::Peppers | Kind::LastUses | Kind::Audit => {},
            );
        }
        found.look_at_removed_rows(&verifier, values.pop().flatten().as_deref())?;
        Ok(found)
    }

    /// What does not agree with what the log and the audit log still say, and what is wrong with these.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]
    pub async fn contradicted(&self) -> Result<Distrusted, StoreError> {
        let verifier = self.read(&[], 0).await?.verifier;
        let mut connection = self.connector.primary().await?;
        connection.set_response_timeout(LIMIT);
        let mut account = self.account_of_rows(&mut connection, &verifier).await?;
        read_entries(&mut connection, &verifier, &mut account).await?;
        for kind in Kind::ALL {
            by_kind!(kind, N => stand_in::<N>(&mut connection, &verifier, &mut account).await?,
                Kind::Keys => stand_in::<ApiKey>(&mut connection, &verifier, &mut account).await?,
                Kind::Peppers | Kind::LastUses | Kind::Audit => {},
            );
        }
        for (place, at) in account.take_suspects() {
            // Where everything is wrong, each is looked at once.
            let attempts = if account.is_full() { 1 } else { ATTEMPTS };
            let mut standing = None;
            for _ in 0..attempts {
                read_entries(&mut connection, &verifier, &mut account).await?;
                standing = by_kind!(place.0, N => {
                        let at = at.as_ref().unwrap_or(&place.1);
                        standing_in::<N>(&mut connection, &verifier, at).await?
                    },
                    Kind::Keys => match &at {
                        Some(at) => standing_in::<ApiKey>(&mut connection, &verifier, at).await?,
                        None => standing_key(&mut connection, &verifier, &place.1).await?,
                    },
                    Kind::Peppers | Kind::LastUses | Kind::Audit => None,
                );
                // It may have been written since the log was read.
                let is_gone_since = at.is_some() && standing.is_none();
                if is_gone_since || !account.contradicts(&place, standing) {
                    break;
                }
            }
            if at.is_none() || standing.is_some() {
                account.conclude(&place, standing);
            }
        }
        Ok(account.end())
    }

    /// With every row read. Some may be removed meanwhile.
    async fn account_of_rows(&self, connection: &mut Connection, verifier: &Verifier) -> Result<Account, StoreError> {
        let mut removed = self.removed_rows().await?.unwrap_or_default();
        for attempt in 1.. {
            let mut account = Account::behind(removed.clone());
            let mut last = 0;
            loop {
                let rows = stream_page(connection, names::AUDIT, last).await?;
                if rows.is_empty() {
                    break;
                }
                for row in rows {
                    let (number, bytes) = raw_row(row)?;
                    account.row(verifier, number, &bytes)?;
                    last = number;
                }
            }
            let before = std::mem::replace(&mut removed, self.removed_rows().await?.unwrap_or_default());
            if removed.last == before.last {
                return Ok(account);
            }
            if attempt == ATTEMPTS {
                break;
            }
        }
        Err(StoreError::Unavailable("rows are removed from the audit log all the time: try again".to_owned()))
    }

    /// Signs every record of a kind with the current key that is not signed with it. Gives how many those were.
    pub(super) async fn sign_kind(&self, connection: &mut Connection, kind: Kind) -> Result<u64, StoreError> {
        by_kind!(kind, N => self.sign_all::<N>(connection).await,
            Kind::Keys => self.sign_all::<ApiKey>(connection).await,
            Kind::Peppers | Kind::LastUses | Kind::Audit => Ok(0),
        )
    }

    async fn sign_all<N: Noun>(&self, connection: &mut Connection) -> Result<u64, StoreError> {
        let (mut cursor, mut signed) = (0, 0);
        loop {
            // What stands where no record can is none to be signed.
            let (next, Scanned { places, .. }) = scan::<N>(connection, cursor).await?;
            for some in places.chunks(AT_ONCE) {
                let verifier = self.trust.verifier();
                let mut wanted = Vec::new();
                for (place, value) in some.iter().zip(values::<N>(connection, some).await?) {
                    let Some(value) = value else { continue };
                    if !verifier.is_current(signature_of::<N>(&verifier, place, &value)?) {
                        wanted.push(place.clone());
                    }
                }
                if !wanted.is_empty() {
                    self.writer.sign::<N>(&wanted).await?;
                    signed += wanted.len() as u64;
                }
            }
            cursor = next;
            if cursor == 0 {
                return Ok(signed);
            }
        }
    }

    /// The lineage of which an upgrade was begun with this pepper.
    pub(super) async fn upgrade_mark(&self) -> Result<Option<String>, StoreError> {
        let mut read = self.read(&[names::UPGRADE.to_owned()], 0).await?;
        Ok(read.values.pop().flatten().and_then(|bytes| read.verifier.read_mark(&bytes)))
    }

    pub(super) async fn put_upgrade_mark(&self, lineage: Option<&str>) -> Result<(), StoreError> {
        let value = lineage.map(|lineage| self.trust.verifier().write_mark(lineage)).transpose()?;
        self.writer.put_named(names::UPGRADE, value).await
    }
}

/// Puts records in the places where they are, with their signatures.
pub(super) fn judge<'s, N: Noun>(places: &[Vec<u8>], seen: &'s Seen) -> Result<WriteSet<'s>, StoreError> {
    let mut write_set = WriteSet::new(seen);
    write_set.purpose().note_making();
    for place in places {
        match sign::<N>(&mut write_set, place) {
            Ok(()) | Err(Halt::Unseen) => {}
            Err(Halt::Refused(error)) => return Err(error),
        }
    }
    Ok(write_set)
}

fn sign<N: Noun>(write_set: &mut WriteSet<'_>, place: &[u8]) -> Step<()> {
    match write_set.find::<N>(place)? {
        Some(record) => write_set.put_again(&record),
        None => Ok(()),
    }
}

async fn look_at_all<N: Noun>(
    connection: &mut Connection,
    verifier: &Verifier,
    found: &mut Distrusted,
) -> Result<(), StoreError> {
    let mut cursor = 0;
    loop {
        let (next, Scanned { places, strange }) = scan::<N>(connection, cursor).await?;
        strange.iter().for_each(|name| found.note_strange(N::KIND, name));
        for some in places.chunks(AT_ONCE) {
            for (place, value) in some.iter().zip(values::<N>(connection, some).await?) {
                let Some(value) = value else { continue };
                let signature = match signature_of::<N>(verifier, place, &value) {
                    // It has no project in front, which is said of its reading, too.
                    Err(StoreError::Damaged(_)) => Signature::Wrong,
                    signature => signature?,
                };
                found.look_at(place, signature, record_of::<N>(verifier, place, &value))?;
            }
        }
        cursor = next;
        if cursor == 0 {
            return Ok(());
        }
    }
}

/// Reads the entries of the log that were not read yet.
async fn read_entries(
    connection: &mut Connection,
    verifier: &Verifier,
    account: &mut Account,
) -> Result<(), StoreError> {
    loop {
        let entries = stream_page(connection, names::LOG, account.newest_entry()).await?;
        if entries.is_empty() {
            return Ok(());
        }
        for entry in entries {
            let (position, bytes) = raw_entry(entry)?;
            account.entry(verifier, position.sequence, &bytes)?;
        }
    }
}

/// What stands in a stream behind this number.
async fn stream_page(connection: &mut Connection, stream: &str, after: u64) -> Result<Vec<Value>, StoreError> {
    // Behind the last number that there is stands nothing.
    let Some(first) = after.checked_add(1) else { return Ok(Vec::new()) };
    let mut command = redis::cmd("XRANGE");
    command.arg(stream).arg(format!("{first}-0")).arg("+").arg("COUNT").arg(SCANNED_AT_ONCE);
    command.query_async(connection).await.map_err(|error| StoreError::Unavailable(explained(&error)))
}

/// Looks at every record of a kind that is believed.
async fn stand_in<N: Noun>(
    connection: &mut Connection,
    verifier: &Verifier,
    account: &mut Account,
) -> Result<(), StoreError> {
    let mut cursor = 0;
    loop {
        let (next, Scanned { places, .. }) = scan::<N>(connection, cursor).await?;
        for some in places.chunks(AT_ONCE) {
            for (place, value) in some.iter().zip(values::<N>(connection, some).await?) {
                if let Some((listed, standing)) = value.and_then(|value| believed::<N>(verifier, place, &value)) {
                    account.look_at((N::KIND, listed), place, standing);
                }
            }
        }
        cursor = next;
        if cursor == 0 {
            return Ok(());
        }
    }
}

/// Where lists have it, and what it is; `None`: it is not believed.
fn believed<N: Noun>(verifier: &Verifier, place: &[u8], value: &[u8]) -> Option<(Vec<u8>, Standing)> {
    let record: N = record_of(verifier, place, value).ok()?;
    Some((record.listed_place(), (record.version(), Mac::of(value)?)))
}

async fn standing_in<N: Noun>(
    connection: &mut Connection,
    verifier: &Verifier,
    place: &[u8],
) -> Result<Option<Standing>, StoreError> {
    let value = values::<N>(connection, &[place.to_vec()]).await?.pop().flatten();
    Ok(value.and_then(|value| believed::<N>(verifier, place, &value)).map(|(_, standing)| standing))
}

/// By its id.
async fn standing_key(
    connection: &mut Connection,
    verifier: &Verifier,
    id: &[u8],
) -> Result<Option<Standing>, StoreError> {
    let Some(id) = key_id(id) else { return Ok(None) };
    let digest: Result<Option<String>, _> = redis::cmd("GET").arg(names::key_id(&id)).query_async(connection).await;
    let digest = digest.map_err(|error| StoreError::Unavailable(explained(&error)))?;
    match digest.and_then(|digest| ApiKey::place_of(&digest)) {
        Some(digest) => standing_in::<ApiKey>(connection, verifier, &digest).await,
        None => Ok(None),
    }
}

/// Some places of a kind, and names that are none.
#[derive(Default)]
struct Scanned {
    places: Vec<Vec<u8>>,
    strange: Vec<String>,
}

/// Some of a kind, and where to go on; zero: those were the last. A place may come twice.
async fn scan<N: Noun>(connection: &mut Connection, cursor: u64) -> Result<(u64, Scanned), StoreError> {
    let mut command = redis::cmd("SCAN");
    command.arg(cursor).arg("MATCH").arg(format!("{}*", N::PREFIX)).arg("COUNT").arg(SCANNED_AT_ONCE);
    let scanned: Result<(u64, Vec<Vec<u8>>), _> = command.query_async(connection).await;
    let (next, found) = scanned.map_err(|error| StoreError::Unavailable(explained(&error)))?;
    let mut scanned = Scanned::default();
    for name in found {
        let text = std::str::from_utf8(&name).ok().and_then(|name| name.strip_prefix(N::PREFIX));
        match text.and_then(N::place_of) {
            Some(place) => scanned.places.push(place),
            None => scanned.strange.push(name.escape_ascii().to_string()),
        }
    }
    Ok((next, scanned))
}

async fn values<N: Noun>(connection: &mut Connection, places: &[Vec<u8>]) -> Result<Vec<Option<Vec<u8>>>, StoreError> {
    let mut command = redis::cmd("MGET");
    command.arg(places.iter().map(|place| name_of::<N>(place)).collect::<Vec<_>>());
    command.query_async(connection).await.map_err(|error| StoreError::Unavailable(explained(&error)))
}
