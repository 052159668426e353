//! Every record of the file looked at for its signature, and signed where its operator asks for it. Never signs a record that must have
//! had a signature already.

use std::collections::HashMap;
use std::ops::Bound;

use redb::{ReadTransaction, ReadableTable, Value, WriteTransaction};

use super::super::account::{Account, Standing};
use super::super::format::Format;
use super::super::kind::Kind;
use super::super::record::by_kind;
use super::super::records::noun::Noun;
use super::super::records::written::Place;
use super::super::signature::{Distrusted, Mac, Signature, Verifier};
use super::super::{StoreError, keyspace};
use super::act::Act;
use super::{Embedded, indexes, journal};
use crate::domain::record::ApiKey;

/// How many records are written again at once.
const AT_ONCE: usize = 10_000;

impl Embedded {
    /// What stands in the file and is not believed.
    ///
    /// # Errors
    /// As any read.
    pub fn distrusted(&self) -> Result<Distrusted, StoreError> {
        let verifier = self.trust.verifier();
        self.engine.read(|read| {
            let mut found = Distrusted::default();
            for kind in Kind::ALL {
                by_kind!(kind, N => look_at_all::<N>(read, &verifier, &mut found)?,
                    Kind::Keys => look_at_all::<ApiKey>(read, &verifier, &mut found)?,
                    Kind::Peppers | Kind::LastUses | Kind::Audit => {},
                );
            }
            let noted = read.open_table(keyspace::REMOVED_ROWS)?.get(keyspace::REMOVED_ROWS_LAST)?;
            found.look_at_removed_rows(&verifier, noted.as_ref().map(|noted| noted.value()))?;
            Ok(found)
        })
    }

    /// What does not agree with what the rows of the audit log still say, and what is wrong with these.
    ///
    /// # Errors
    /// As any read.
    pub fn contradicted(&self) -> Result<Distrusted, StoreError> {
        let verifier = self.trust.verifier();
        self.engine.read(|read| {
            let removed = journal::removed_rows(&read.open_table(keyspace::REMOVED_ROWS)?, &verifier)?;
            let mut account = Account::behind(removed.unwrap_or_default());
            for entry in read.open_table(keyspace::AUDIT)?.iter()? {
                let (number, bytes) = entry?;
                account.row(&verifier, number.value(), bytes.value())?;
            }
            let mut standing = HashMap::new();
            for kind in Kind::ALL {
                by_kind!(kind, N => stand_in::<N>(read, &verifier, &mut account, &mut standing)?,
                    Kind::Keys => stand_in::<ApiKey>(read, &verifier, &mut account, &mut standing)?,
                    Kind::Peppers | Kind::LastUses | Kind::Audit => {},
                );
            }
            for (place, at) in account.take_suspects() {
                account.conclude(&place, at.and_then(|at| standing.get(&(place.0, at)).copied()));
            }
            Ok(account.end())
        })
    }
}

/// Looks at every record of a kind that is believed, and remembers those that do not agree with what was read.
fn stand_in<N: Noun>(
    read: &ReadTransaction,
    verifier: &Verifier,
    account: &mut Account,
    standing: &mut HashMap<Place, Standing>,
) -> Act<()> {
    for entry in read.open_table(N::TABLE)?.iter()? {
        let (key, bytes) = entry?;
        let key = key.value();
        let at = N::Key::as_bytes(&key);
        let record = verifier.read::<N>(at.as_ref(), bytes.value());
        if let (Ok(record), Some(mac)) = (record, Mac::of(bytes.value())) {
            let (place, now) = ((N::KIND, record.listed_place()), (record.version(), mac));
            if account.contradicts(&place, Some(now)) {
                standing.insert((N::KIND, at.as_ref().to_vec()), now);
            }
            account.look_at(place, at.as_ref(), now);
        }
    }
    Ok(())
}

fn look_at_all<N: Noun>(read: &ReadTransaction, verifier: &Verifier, found: &mut Distrusted) -> Act<()> {
    let table = read.open_table(N::TABLE)?;
    for entry in table.iter()? {
        let (key, bytes) = entry?;
        let key = key.value();
        let place = N::Key::as_bytes(&key);
        let (place, bytes) = (place.as_ref(), bytes.value());
        found.look_at(place, verifier.look(N::KIND, place, bytes)?, verifier.read::<N>(place, bytes))?;
    }
    Ok(())
}

/// Signs every record with the current key that is not signed with it. One without a signature is signed only in a store of a format
/// that knew none. Gives how many those were.
pub(super) fn sign(transaction: &WriteTransaction, verifier: &Verifier, was: Format) -> Act<u64> {
    let mut signed = 0;
    for kind in Kind::ALL {
        signed += by_kind!(kind, N => sign_all::<N>(transaction, verifier, was)?,
            Kind::Keys => {
                let keys = sign_all::<ApiKey>(transaction, verifier, was)?;
                if keys > 0 {
                    indexes::fill_keys(transaction)?;
                }
                keys
            },
            Kind::Peppers | Kind::LastUses | Kind::Audit => 0,
        );
    }
    Ok(signed)
}

fn sign_all<N: Noun>(transaction: &WriteTransaction, verifier: &Verifier, was: Format) -> Act<u64> {
    let (mut signed, mut after) = (0, None);
    let mut table = transaction.open_table(N::TABLE)?;
    loop {
        let before: Option<Vec<u8>> = after.take();
        let start = before.as_deref().and_then(N::key).map_or(Bound::Unbounded, Bound::Excluded);
        let mut again = Vec::new();
        for entry in table.range::<<N::Key as Value>::SelfType<'_>>((start, Bound::Unbounded))? {
            let (key, bytes) = entry?;
            let key = key.value();
            let place = N::Key::as_bytes(&key).as_ref().to_vec();
            let signature = verifier.look(N::KIND, &place, bytes.value())?;
            if verifier.is_current(signature) {
                continue;
            }
            let record = match signature {
                Signature::Missing if !was.demands_signatures() => N::decode(&place, bytes.value())?,
                _ => verifier.read::<N>(&place, bytes.value())?,
            };
            again.push((place, verifier.write(&record, Format::NEWEST)?));
            if again.len() == AT_ONCE {
                after = again.last().map(|(place, _)| place.clone());
                break;
            }
        }
        for (place, bytes) in &again {
            if let Some(key) = N::key(place) {
                table.insert(key, &**bytes)?;
                signed += 1;
            }
        }
        if after.is_none() {
            return Ok(signed);
        }
    }
}
