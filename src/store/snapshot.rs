//! A copy of everything that a store keeps, as one stream of bytes: what it is a copy of, then every record in the order of
//! [`Kind::ALL`](super::kind::Kind::ALL), then what was changed while it was made, then an end that is signed with a key which comes
//! from the pepper. Never has a pepper in it, nor a key or a password that could be used as it stands; never is believed before its
//! end was read and its signature found right.
//!
//! ```text
//! "tollgate snapshot\n"  version (u32)
//! frame*                 tag (u8)  length (u32)  content
//!   H  SnapshotHeader
//!   R  kind (u8)  length of the place (u16)  place  record     in order
//!   C  the same: what stands there now
//!   D  the same without a record: nothing stands there now
//!   E  SnapshotEnd
//! SHA-256 of all bytes before it (32)  HMAC-SHA-256 of that digest (32)
//! ```
//! Numbers are big-endian.

mod file;
mod read;
mod write;

use std::fmt;
use std::io;

use hmac::{Hmac, Mac};
use prost::Message;
use sha2::Sha256;
use tollgate_guard::time::Timestamp;

use super::format::Format;
use super::{PepperCheck, StoreError};

/// What a snapshot says of itself before its records.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct StoredHeader {
    /// Milliseconds since the Unix epoch.
    #[prost(uint64, tag = "1")]
    made_at_ms: u64,
    /// Of the store, as the file of an embedded one says it.
    #[prost(uint64, tag = "2")]
    format: u64,
    /// Whose key it is signed with.
    #[prost(uint32, tag = "3")]
    pepper_version: u32,
    #[prost(bytes = "vec", tag = "4")]
    pepper_check: Vec<u8>,
    /// The release of Tollgate that made it.
    #[prost(string, tag = "5")]
    release: String,
    /// Absent: of an embedded store.
    #[prost(string, optional, tag = "6")]
    lineage: Option<String>,
    /// The lineages that the store had before, with a space between them.
    #[prost(string, tag = "7")]
    was: String,
}

/// What it says behind its records.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
struct StoredEnd {
    /// How many frames with records there are.
    #[prost(uint64, tag = "1")]
    records: u64,
    /// The newest change that is in it, and what tells that from others of its number.
    #[prost(uint64, tag = "2")]
    sequence: u64,
    #[prost(string, tag = "3")]
    chain: String,
}

pub use file::SnapshotFile;
pub use read::{Item, SnapshotReader};
pub use write::SnapshotWriter;

const MAGIC: &[u8] = b"tollgate snapshot\n";
/// Of what is written here. A reader knows no other one.
const VERSION: u32 = 1;
const DIGEST: usize = 32;

const HEADER: u8 = b'H';
const RECORD: u8 = b'R';
const CHANGED: u8 = b'C';
const GONE: u8 = b'D';
const END: u8 = b'E';

/// What a snapshot is a copy of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// When it was begun.
    pub made_at: Timestamp,
    /// How the store is laid out.
    pub format: Format,
    /// Of the pepper whose key it is signed with.
    pub pepper: PepperCheck,
    pub release: String,
    /// `None`: the store has none, as it is embedded.
    pub lineage: Option<String>,
    /// The lineages that the store had before, in one text.
    pub was: String,
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let PepperCheck { version, check } = self.pepper;
        let message = StoredHeader {
            made_at_ms: self.made_at.as_millis(),
            format: self.format.in_file(),
            pepper_version: version,
            pepper_check: check.to_vec(),
            release: self.release.clone(),
            lineage: self.lineage.clone(),
            was: self.was.clone(),
        };
        message.encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let message = StoredHeader::decode(bytes).map_err(|_| SnapshotError::Damaged("its head"))?;
        let check = message.pepper_check.try_into().map_err(|_| SnapshotError::Damaged("its head"))?;
        Ok(Self {
            made_at: Timestamp::from_millis(message.made_at_ms),
            format: Format::of_file(message.format).map_err(|_| SnapshotError::Format(message.format))?,
            pepper: PepperCheck { version: message.pepper_version, check },
            release: message.release,
            lineage: message.lineage,
            was: message.was,
        })
    }
}

/// Where a copy ends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct End {
    /// How many records, and changes of records, are in it.
    pub records: u64,
    /// The newest change of the store that is in it.
    pub sequence: u64,
    /// What that change is told from others by that have its number; empty in an embedded store.
    pub chain: String,
}

impl End {
    fn encode(&self) -> Vec<u8> {
        let Self { records, sequence, chain } = self.clone();
        StoredEnd { records, sequence, chain }.encode_to_vec()
    }

    fn decode(bytes: &[u8]) -> Result<Self, SnapshotError> {
        let StoredEnd { records, sequence, chain } =
            StoredEnd::decode(bytes).map_err(|_| SnapshotError::Damaged("its end"))?;
        Ok(Self { records, sequence, chain })
    }
}

/// A key that comes from a pepper, and signs snapshots.
#[derive(Clone)]
pub struct Signer {
    pepper: PepperCheck,
    mac: Hmac<Sha256>,
}

impl Signer {
    pub fn new(pepper: PepperCheck, mac: Hmac<Sha256>) -> Self {
        Self { pepper, mac }
    }

    /// Of the pepper that it comes from.
    pub fn pepper(&self) -> PepperCheck {
        self.pepper
    }

    fn sign(&self, digest: &[u8; DIGEST]) -> [u8; DIGEST] {
        self.mac.clone().chain_update(digest).finalize().into_bytes().into()
    }

    fn has_signed(&self, digest: &[u8; DIGEST], signature: &[u8; DIGEST]) -> bool {
        self.mac.clone().chain_update(digest).verify(signature.into()).is_ok()
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer(pepper version {})", self.pepper.version)
    }
}

/// Why a snapshot is of no use.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("it is no backup of Tollgate")]
    Another,
    #[error(
        "it is a backup of version {0}, made by a newer Tollgate; this one reads version {VERSION}: use that release"
    )]
    Newer(u32),
    #[error("it is of a store of format {0}, which this Tollgate does not read: use the release that made it")]
    Format(u64),
    #[error("it ends before its end, behind {0} records: it was cut off. Use another backup")]
    CutOff(u64),
    #[error("it is damaged: {0} cannot be read. Use another backup")]
    Damaged(&'static str),
    #[error("it is damaged: its bytes have another digest than it says. Use another backup")]
    Digest,
    #[error("it is damaged: {0}. Use another backup")]
    Record(StoreError),
    #[error(
        "it was not signed with this pepper: somebody has changed it, or it comes from elsewhere. Nothing in it is believed"
    )]
    Unsigned,
}

#[cfg(test)]
mod tests;
