//! A snapshot as it is read, a record at a time. What it gives is not to be believed before its end has come.

use std::fmt;
use std::io::{self, Read};

use sha2::{Digest as _, Sha256};

use super::{CHANGED, DIGEST, END, End, GONE, HEADER, Header, MAGIC, RECORD, Signer, SnapshotError, VERSION};
use crate::store::kind::Kind;
use crate::store::record::Record;

/// No record is longer; a length that is damaged takes no memory.
const MAX_FRAME: usize = 16 << 20;

/// What stands in a snapshot behind its head.
#[derive(Debug)]
pub enum Item {
    Record(Record),
    /// What stands in a place at the end, if anything does, whatever came before.
    Changed(Kind, Vec<u8>, Option<Record>),
    End(End, Signature),
}

/// By which a whole snapshot is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    pub digest: [u8; DIGEST],
    signature: [u8; DIGEST],
}

impl Signature {
    /// # Errors
    /// [`SnapshotError::Unsigned`]
    pub fn demand(&self, signer: &Signer) -> Result<(), SnapshotError> {
        if signer.has_signed(&self.digest, &self.signature) { Ok(()) } else { Err(SnapshotError::Unsigned) }
    }
}

/// One that is being read.
pub struct SnapshotReader<R> {
    input: R,
    digest: Sha256,
    records: u64,
    frame: Vec<u8>,
}

/// Nothing of the records that go through it.
impl<R> fmt::Debug for SnapshotReader<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotReader(behind {} records)", self.records)
    }
}

impl<R: Read> SnapshotReader<R> {
    /// # Errors
    /// [`SnapshotError`] if this is no snapshot, or one that this Tollgate cannot read.
    pub fn open(input: R) -> Result<(Header, Self), SnapshotError> {
        let mut reader = Self { input, digest: Sha256::new(), records: 0, frame: Vec::new() };
        let mut magic = [0; MAGIC.len()];
        reader.fill(&mut magic).map_err(|error| if is_end(&error) { SnapshotError::Another } else { error })?;
        if magic != *MAGIC {
            return Err(SnapshotError::Another);
        }
        match u32::from_be_bytes(reader.array()?) {
            VERSION => {}
            other => return Err(SnapshotError::Newer(other)),
        }
        match reader.next_frame()? {
            HEADER => Ok((Header::decode(&reader.frame)?, reader)),
            _ => Err(SnapshotError::Damaged("its head")),
        }
    }

    /// # Errors
    /// [`SnapshotError`]; nothing more can be read then.
    pub fn next_item(&mut self) -> Result<Item, SnapshotError> {
        let tag = self.next_frame()?;
        if tag == END {
            return self.end();
        }
        self.records += 1;
        let damaged = SnapshotError::Damaged("a record");
        let Some((&[kind, high, low], rest)) = self.frame.split_first_chunk() else { return Err(damaged) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (Some(kind), Some((place, body))) = (Kind::of_number(kind), rest.split_at_checked(length)) else {
            return Err(damaged);
        };
        let record = || Record::decode(kind, place, body).map_err(SnapshotError::Record);
        match tag {
            RECORD => Ok(Item::Record(record()?)),
            CHANGED => Ok(Item::Changed(kind, place.to_vec(), Some(record()?))),
            GONE if body.is_empty() => Ok(Item::Changed(kind, place.to_vec(), None)),
            _ => Err(damaged),
        }
    }

    fn end(&mut self) -> Result<Item, SnapshotError> {
        let end = End::decode(&self.frame)?;
        let digest: [u8; DIGEST] = self.digest.clone().finalize().into();
        if self.array()? != digest {
            return Err(SnapshotError::Digest);
        }
        let signature = self.array()?;
        if end.records != self.records {
            return Err(SnapshotError::Damaged("its end"));
        }
        match self.input.read(&mut [0])? {
            0 => Ok(Item::End(end, Signature { digest, signature })),
            _ => Err(SnapshotError::Damaged("what stands behind its end")),
        }
    }

    /// Reads a frame, and gives its tag.
    fn next_frame(&mut self) -> Result<u8, SnapshotError> {
        let [tag, length @ ..]: [u8; 5] = self.array()?;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(SnapshotError::Damaged("the length of a record"));
        }
        let mut frame = std::mem::take(&mut self.frame);
        frame.resize(length, 0);
        self.fill(&mut frame)?;
        self.frame = frame;
        Ok(tag)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SnapshotError> {
        let mut array = [0; N];
        self.fill(&mut array)?;
        Ok(array)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), SnapshotError> {
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => SnapshotError::CutOff(self.records),
            _ => SnapshotError::Read(error),
        })?;
        self.digest.update(bytes);
        Ok(())
    }
}

fn is_end(error: &SnapshotError) -> bool {
    matches!(error, SnapshotError::CutOff(_))
}
