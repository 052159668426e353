//! A snapshot as the source of a migration: read through once before anything of it is believed, and then page by page. Keeps only
//! what was changed while it was made.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};
use std::ops::Bound;
use std::sync::{Mutex, PoisonError};

use data_encoding::HEXLOWER;

use super::read::{Item, SnapshotReader};
use super::{End, Header, Signer, SnapshotError};
use crate::store::StoreError;
use crate::store::kind::Kind;
use crate::store::page::Page;
use crate::store::record::Record;

type Input = BufReader<Box<dyn Read + Send>>;
/// Gives the bytes of a snapshot from their beginning, each time that it is asked.
pub type Open = Box<dyn Fn() -> io::Result<Box<dyn Read + Send>> + Send + Sync>;

/// What stands in a place at the end.
type Changes = BTreeMap<(Kind, Vec<u8>), Option<Record>>;

/// One that is whole, and signed with our pepper.
pub struct SnapshotFile {
    open: Open,
    header: Header,
    end: End,
    digest: String,
    changes: Changes,
    cursor: Mutex<Option<Cursor>>,
}

/// How far it has been read again.
struct Cursor {
    reader: SnapshotReader<Input>,
    /// The next one.
    next: Option<Record>,
    /// Behind the last record, and, once that was read, the digest of all of it.
    at_end: bool,
    found: Option<String>,
    /// The last kind that was asked for.
    asked: Option<Kind>,
}

impl SnapshotFile {
    /// Reads all of it. Its head is shown before the rest is read, to whoever has the key to it.
    ///
    /// # Errors
    /// `E` also if it is not whole, or was not signed with that key.
    pub fn open<E: From<SnapshotError>>(
        open: Open,
        signer: impl FnOnce(&Header) -> Result<Signer, E>,
        mut each: impl FnMut(&Record) -> Result<(), E>,
    ) -> Result<Self, E> {
        let (header, mut reader) = read(&open)?;
        let signer = signer(&header)?;
        let mut changes = Changes::new();
        let mut last: Option<(Kind, Vec<u8>)> = None;
        loop {
            match reader.next_item()? {
                Item::Record(record) => {
                    each(&record)?;
                    let place = (record.kind(), record.place());
                    if !changes.is_empty() || last.as_ref().is_some_and(|last| *last >= place) {
                        return Err(SnapshotError::Damaged("the order of its records").into());
                    }
                    last = Some(place);
                }
                Item::Changed(kind, place, record) => {
                    if let Some(record) = &record {
                        each(record)?;
                    }
                    changes.insert((kind, place), record);
                }
                Item::End(end, signature) => {
                    signature.demand(&signer)?;
                    let digest = HEXLOWER.encode(&signature.digest);
                    return Ok(Self { open, header, end, digest, changes, cursor: Mutex::default() });
                }
            }
        }
    }

    pub fn header(&self) -> &Header {
        &self.header
    }

    pub fn end(&self) -> &End {
        &self.end
    }

    /// In hexadecimal; another one for each.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// Reads to its end what was given last, which must be what was found to be signed: the file may be another one by now.
    pub(in crate::store) fn demand_same(&self) -> Result<(), StoreError> {
        let mut held = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mut cursor) = held.take() else { return Ok(()) };
        if again(cursor.digest())? == self.digest {
            return Ok(());
        }
        Err(StoreError::Conflict(
            "the backup was changed while it was read: use another one, and an empty store".to_owned(),
        ))
    }

    /// As a store names what fills it.
    pub(in crate::store) fn origin(&self) -> String {
        format!("the backup with digest {}", self.digest)
    }

    /// Records of one kind behind a place.
    pub(in crate::store) fn page(&self, kind: Kind, after: Option<&[u8]>, limit: usize) -> Result<Page, StoreError> {
        let mut held = self.cursor.lock().unwrap_or_else(PoisonError::into_inner);
        let mut cursor = match held.take().filter(|cursor| after.is_some() || cursor.asked < Some(kind)) {
            Some(cursor) => cursor,
            None => again(Cursor::open(&self.open))?,
        };
        cursor.asked = Some(kind);
        while after.is_some() && again(cursor.peek(kind))?.is_some_and(|next| Some(&*next.place()) <= after) {
            cursor.next = None;
        }
        let first = (kind, after.unwrap_or_default().to_vec());
        let first = if after.is_some() { Bound::Excluded(first) } else { Bound::Included(first) };
        let mut changes = self.changes.range((first, Bound::Unbounded)).take_while(|((of, _), _)| *of == kind);
        let mut change = changes.next();
        let mut records = Vec::new();
        while records.len() < limit {
            let place = again(cursor.peek(kind))?.map(Record::place);
            match (place, change) {
                (Some(place), Some(((_, changed), now))) if *changed <= place => {
                    if *changed == place {
                        cursor.next = None;
                    }
                    records.extend(now.clone());
                    change = changes.next();
                }
                (Some(_), _) => records.extend(cursor.next.take()),
                (None, Some((_, now))) => {
                    records.extend(now.clone());
                    change = changes.next();
                }
                (None, None) => break,
            }
        }
        *held = Some(cursor);
        Ok(Page::of(records, limit))
    }
}

impl std::fmt::Debug for SnapshotFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SnapshotFile({})", self.digest)
    }
}

impl Cursor {
    fn open(open: &Open) -> Result<Self, SnapshotError> {
        Ok(Self { reader: read(open)?.1, next: None, at_end: false, found: None, asked: None })
    }

    /// `None`: there is no record any more.
    fn read(&mut self) -> Result<Option<Record>, SnapshotError> {
        match self.reader.next_item()? {
            Item::Record(record) => return Ok(Some(record)),
            Item::Changed(..) => {}
            Item::End(_, signature) => self.found = Some(HEXLOWER.encode(&signature.digest)),
        }
        Ok(None)
    }

    /// Of all of it, in hexadecimal.
    fn digest(&mut self) -> Result<String, SnapshotError> {
        loop {
            match self.found.take() {
                Some(found) => return Ok(found),
                None => drop(self.read()?),
            }
        }
    }

    /// The next record, if it is of this kind; those of kinds before it are passed over.
    fn peek(&mut self, kind: Kind) -> Result<Option<&Record>, SnapshotError> {
        while !self.at_end && self.next.as_ref().is_none_or(|next| next.kind() < kind) {
            self.next = self.read()?;
            self.at_end = self.next.is_none();
        }
        Ok(self.next.as_ref().filter(|next| next.kind() == kind))
    }
}

fn read(open: &Open) -> Result<(Header, SnapshotReader<Input>), SnapshotError> {
    SnapshotReader::open(BufReader::with_capacity(256 << 10, open()?))
}

/// Of one that was read before.
fn again<T>(read: Result<T, SnapshotError>) -> Result<T, StoreError> {
    read.map_err(|error| StoreError::Unavailable(format!("the backup: {error}")))
}
