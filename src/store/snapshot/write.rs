//! A snapshot as it is written, a record at a time. Keeps none of them.

use std::fmt;
use std::io::{self, Write};

use sha2::{Digest as _, Sha256};

use super::{CHANGED, DIGEST, END, End, GONE, HEADER, Header, MAGIC, RECORD, Signer, VERSION};
use crate::store::kind::Kind;
use crate::store::record::Record;

/// One that has no end yet, and is of no use before it has.
pub struct SnapshotWriter<W> {
    out: W,
    digest: Sha256,
    signer: Signer,
    records: u64,
}

/// Nothing of the records that go through it.
impl<W> fmt::Debug for SnapshotWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotWriter(behind {} records)", self.records)
    }
}

impl<W: Write> SnapshotWriter<W> {
    /// # Errors
    /// Those of what is written to; so below.
    pub fn begin(out: W, header: &Header, signer: &Signer) -> io::Result<Self> {
        let mut begun = Self { out, digest: Sha256::new(), signer: signer.clone(), records: 0 };
        begun.put(MAGIC)?;
        begun.put(&VERSION.to_be_bytes())?;
        begun.frame(HEADER, &[&header.encode()])?;
        Ok(begun)
    }

    /// The next one, in the order of kinds and places.
    pub fn record(&mut self, record: &Record) -> io::Result<()> {
        self.placed(RECORD, record.kind(), &record.place(), &record.body())
    }

    /// What stands in a place now, whatever was written for it before; `None`: nothing does. Behind all records.
    pub fn changed(&mut self, kind: Kind, place: &[u8], now: Option<&Record>) -> io::Result<()> {
        match now {
            Some(record) => self.placed(CHANGED, kind, place, &record.body()),
            None => self.placed(GONE, kind, place, b""),
        }
    }

    /// How many records have been written.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Ends it with the newest change that is in it. Gives back what it was written to, with everything in it.
    pub fn end(mut self, sequence: u64, chain: &str) -> io::Result<(W, End)> {
        let end = End { records: self.records, sequence, chain: chain.to_owned() };
        self.frame(END, &[&end.encode()])?;
        let digest: [u8; DIGEST] = self.digest.finalize().into();
        self.out.write_all(&digest)?;
        self.out.write_all(&self.signer.sign(&digest))?;
        self.out.flush()?;
        Ok((self.out, end))
    }

    fn placed(&mut self, tag: u8, kind: Kind, place: &[u8], body: &[u8]) -> io::Result<()> {
        let length = u16::try_from(place.len()).map_err(io::Error::other)?;
        self.frame(tag, &[&[kind.number()], &length.to_be_bytes(), place, body])?;
        self.records += 1;
        Ok(())
    }

    fn frame(&mut self, tag: u8, parts: &[&[u8]]) -> io::Result<()> {
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        let length = u32::try_from(length).map_err(io::Error::other)?;
        self.put(&[tag])?;
        self.put(&length.to_be_bytes())?;
        parts.iter().try_for_each(|part| self.put(part))
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.digest.update(bytes);
        self.out.write_all(bytes)
    }
}
