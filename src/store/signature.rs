//! What a store believes: a record that carries a signature with a key from the pepper, over what kind it is, where it stands and what
//! it says. So who can write the store, and has no pepper, can neither make a record, nor change one, nor move one. Never signs what it
//! has not been given to write.
//!
//! A signature is the last field of a record, with a number that no kind uses: whoever does not ask for it passes it over.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use hmac::{Hmac, KeyInit, Mac as _};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::format::Format;
use super::kind::Kind;
use super::records::noun::Noun;
use super::{Store, StoreError, on_thread};

const MAC: usize = 32;

/// An HMAC-SHA-256.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac([u8; MAC]);

impl Mac {
    /// Of what ends with a signature.
    pub(super) fn of(bytes: &[u8]) -> Option<Self> {
        Self::try_from(split(bytes)?.2.to_vec()).ok()
    }

    pub(super) fn to_vec(self) -> Vec<u8> {
        self.0.to_vec()
    }
}

impl TryFrom<Vec<u8>> for Mac {
    type Error = Vec<u8>;

    fn try_from(bytes: Vec<u8>) -> Result<Self, Vec<u8>> {
        bytes.try_into().map(Self)
    }
}

/// What is signed and is no record, by the number in place of that of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sealed {
    Mark = 0,
    Row = 11,
    Entry = 100,
    RemovedRows = 101,
}
const CONTENT: usize = size_of::<u32>() + MAC;
/// Field 100, as bytes, of this length.
const FIELD: [u8; 3] = [0xa2, 0x06, CONTENT as u8];
const LENGTH: usize = FIELD.len() + CONTENT;
/// How much is said of one record, in characters.
const MOST_TOLD: usize = 500;

/// The keys that sign records: one for each pepper, by its version.
#[derive(Clone)]
pub struct Signers {
    current: u32,
    keys: HashMap<u32, Hmac<Sha256>>,
}

impl Signers {
    /// What is written is signed with the key of the current pepper, which must be among them.
    pub fn new(current: (u32, Hmac<Sha256>), older: impl IntoIterator<Item = (u32, Hmac<Sha256>)>) -> Self {
        let version = current.0;
        Self { current: version, keys: older.into_iter().chain([current]).collect() }
    }

    /// Of a store that is gone with this process.
    pub(super) fn random() -> Result<Self, StoreError> {
        let mut secret = Zeroizing::new([0; 64]);
        getrandom::fill(&mut *secret).map_err(|error| StoreError::Unavailable(error.to_string()))?;
        Ok(Self::new((0, Hmac::new((&*secret).into())), []))
    }

    fn mac(&self, version: u32, kind: u8, place: &[u8], record: &[u8]) -> Option<Hmac<Sha256>> {
        let mac = self.keys.get(&version)?.clone();
        let length = u32::try_from(place.len()).unwrap_or(u32::MAX);
        let mac = mac.chain_update(b"tollgate record v1\0").chain_update([kind]);
        Some(mac.chain_update(length.to_be_bytes()).chain_update(place).chain_update(record))
    }

    fn sign(&self, kind: u8, place: &[u8], record: &mut Vec<u8>) {
        if let Some(mac) = self.mac(self.current, kind, place, record) {
            record.extend(FIELD);
            record.extend(self.current.to_be_bytes());
            record.extend(mac.finalize().into_bytes());
        }
    }

    fn look(&self, kind: u8, place: &[u8], bytes: &[u8]) -> Signature {
        let Some((record, version, found)) = split(bytes) else { return Signature::Missing };
        match self.mac(version, kind, place, record) {
            None => Signature::Unknown(version),
            Some(mac) => mac.verify_slice(found).map_or(Signature::Wrong, |()| Signature::Right(version)),
        }
    }
}

/// The record, the version of the pepper, and the MAC; `None`: it carries no signature.
fn split(bytes: &[u8]) -> Option<(&[u8], u32, &[u8])> {
    let (record, signature) = bytes.split_at_checked(bytes.len().checked_sub(LENGTH)?)?;
    let (version, mac) = signature.strip_prefix(&FIELD)?.split_first_chunk()?;
    Some((record, u32::from_be_bytes(*version), mac))
}

impl fmt::Debug for Signers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signers(pepper version {})", self.current)
    }
}

/// What a record carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signature {
    /// Of the pepper with this version.
    Right(u32),
    Missing,
    /// Of a pepper with this version, which is not configured.
    Unknown(u32),
    Wrong,
}

impl Store {
    /// Gives it the keys that sign what is in it. Without them nothing of it is read or written that is signed.
    pub fn set_signers(&self, signers: Signers) {
        self.trust().set_signers(signers);
    }

    /// What its records are believed by.
    pub fn trust(&self) -> &Trust {
        match self {
            Self::Embedded(store) => store.trust(),
            Self::Redis(store) => store.trust(),
        }
    }

    /// How many entries of its log were not believed.
    pub fn distrusted_entries(&self) -> u64 {
        match self {
            Self::Embedded(_) => 0,
            Self::Redis(store) => store.distrusted_entries(),
        }
    }

    /// From now on believes no record without a signature.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it says to have a format in which records need none.
    pub async fn demand_signatures(&self) -> Result<(), StoreError> {
        self.trust().demand();
        let format = self.format().await?;
        self.trust().demand_of(format)
    }

    /// What stands in it and is not believed.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]
    pub async fn distrusted(&self) -> Result<Distrusted, StoreError> {
        match self {
            Self::Embedded(store) => on_thread(store, |store| store.distrusted()).await,
            Self::Redis(store) => store.distrusted().await,
        }
    }

    /// What does not agree with what its log and its audit log still say, and what is wrong with these.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]
    pub async fn contradicted(&self) -> Result<Distrusted, StoreError> {
        match self {
            Self::Embedded(store) => on_thread(store, |store| store.contradicted()).await,
            Self::Redis(store) => store.contradicted().await,
        }
    }
}

/// What one open store is believed by.
#[derive(Debug, Default)]
pub struct Trust {
    signers: RwLock<Option<Arc<Signers>>>,
    /// Once set it stays so, whatever the store says to be.
    is_signed: Arc<AtomicBool>,
    told: Arc<Told>,
}

/// The records that the log has named as not believed, each once, and no more than so many.
#[derive(Debug, Default)]
struct Told(Mutex<HashSet<String>>);

impl Told {
    fn tell(&self, problem: &str) {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() < Distrusted::MOST && told.insert(problem.to_owned()) {
            tracing::error!("{problem}");
            if told.len() == Distrusted::MOST {
                tracing::error!("the log names no more records that are not believed");
            }
        }
    }
}

impl Trust {
    /// As [`Store::set_signers`].
    pub fn set_signers(&self, signers: Signers) {
        *self.signers.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(signers));
    }

    /// From now on believes no record without a signature, and writes none.
    pub fn demand(&self) {
        self.is_signed.store(true, Ordering::Relaxed);
    }

    /// Whether every record of the store must carry a signature, as far as this process has seen.
    pub fn is_signed(&self) -> bool {
        self.is_signed.load(Ordering::Relaxed)
    }

    /// The same as it changes, for whoever remembers it.
    pub fn memory(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.is_signed)
    }

    /// What believes the records of a store that says to have this format. One that was seen signed before is read as strictly as ever,
    /// whatever it says.
    pub(super) fn of(&self, format: Format) -> Verifier {
        if format.demands_signatures() {
            self.demand();
        }
        self.verifier()
    }

    /// # Errors
    /// [`StoreError::Damaged`] if every record must be signed here, and a store of this format does not say so.
    pub(super) fn demand_of(&self, format: Format) -> Result<(), StoreError> {
        self.of(format);
        if self.is_signed() && !format.demands_signatures() { Err(set_back(format)) } else { Ok(()) }
    }

    /// What believes the records of a store of the format that was [seen](Trust::of) last.
    pub(super) fn verifier(&self) -> Verifier {
        let signers = self.signers.read().unwrap_or_else(PoisonError::into_inner).clone();
        Verifier { signers, is_signed: self.is_signed(), told: Arc::clone(&self.told) }
    }
}

/// Reads records that are believed, and writes such records.
#[derive(Clone, Debug)]
pub(super) struct Verifier {
    signers: Option<Arc<Signers>>,
    is_signed: bool,
    told: Arc<Told>,
}

impl Verifier {
    /// The record in this place.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is not believed, is no such record, or one of another place.
    pub(super) fn read<N: Noun>(&self, place: &[u8], bytes: &[u8]) -> Result<N, StoreError> {
        self.believe_at(N::decode(place, bytes)?, place, bytes)
    }

    /// The record that these bytes are, in its own place.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is not believed.
    pub(super) fn believe<N: Noun>(&self, record: N, bytes: &[u8]) -> Result<N, StoreError> {
        let place = record.place();
        self.believe_at(record, &place, bytes)
    }

    fn believe_at<N: Noun>(&self, record: N, place: &[u8], bytes: &[u8]) -> Result<N, StoreError> {
        let problem = match self.look(N::KIND, place, bytes)? {
            Signature::Right(_) => return Ok(record),
            Signature::Missing if !self.is_signed => return Ok(record),
            Signature::Missing => format!("has no signature: {BY_ANOTHER}"),
            Signature::Wrong => format!("has a wrong signature: {BY_ANOTHER}"),
            Signature::Unknown(version) => format!(
                "is signed with a key from pepper version {version}, which is not configured: add its file to `pepper.keys`"
            ),
        };
        Err(self.disbelieve(&record, &problem))
    }

    /// Why a record is not believed that is another one than a change has left there, as this process has heard.
    pub(super) fn set_back<N: Noun>(&self, record: &N, change: u64) -> StoreError {
        self.disbelieve(record, &format!("is another one than change {change} has left there: {BY_ANOTHER}"))
    }

    fn disbelieve<N: Noun>(&self, record: &N, problem: &str) -> StoreError {
        let of = |name: &str| format!("the record of {} {problem}", shortened(name));
        // A person's name may be an e-mail address, and has no place in the log.
        match N::KIND {
            Kind::Users => self.told.tell(&of("a user")),
            Kind::Sessions | Kind::EndedSessions => self.told.tell(&of("a user's session")),
            _ => self.told.tell(&of(&record.name())),
        }
        StoreError::Damaged(of(&record.name()))
    }

    /// What the record in this place carries.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if this process has not been given the pepper.
    pub(super) fn look(&self, kind: Kind, place: &[u8], bytes: &[u8]) -> Result<Signature, StoreError> {
        self.look_for(kind.number(), place, bytes)
    }

    fn look_for(&self, kind: u8, place: &[u8], bytes: &[u8]) -> Result<Signature, StoreError> {
        match &self.signers {
            Some(signers) => Ok(signers.look(kind, place, bytes)),
            None if self.is_signed || split(bytes).is_some() => Err(without_pepper()),
            None => Ok(Signature::Missing),
        }
    }

    /// Whether every record must carry a signature.
    pub(super) fn is_signed(&self) -> bool {
        self.is_signed
    }

    /// Whether it is signed as it would be if it were written now.
    pub(super) fn is_current(&self, signature: Signature) -> bool {
        let current = self.signers.as_ref().map(|signers| signers.current);
        matches!(signature, Signature::Right(version) if Some(version) == current)
    }

    /// The record as it is written in a store of this format.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if it must be signed, and this process has not been given the pepper; [`StoreError::Damaged`] if a store
    /// of this format would not have it signed, and every record must be.
    pub(super) fn write<N: Noun>(&self, record: &N, format: Format) -> Result<Vec<u8>, StoreError> {
        let mut bytes = record.encode(format);
        if self.is_signed && !format.has_signatures() {
            return Err(set_back(format));
        }
        if format.has_signatures() {
            let signers = self.signers.as_ref().ok_or_else(without_pepper)?;
            signers.sign(N::KIND.number(), &record.place(), &mut bytes);
        }
        Ok(bytes)
    }
}

const BY_ANOTHER: &str =
    "something else than Tollgate has written it. It is not believed; `tollgate store check` names every such record";

fn set_back(format: Format) -> StoreError {
    StoreError::Damaged(format!(
        "it has format {format}, in which records need no signature, and every record must have one here. If it was signed before, somebody \
         has put an older store in its place: restore a backup. If it never was, or comes from an older backup of yours, \
         `tollgate store upgrade --trust-unsigned` signs it as it stands"
    ))
}

fn without_pepper() -> StoreError {
    StoreError::Unavailable(
        "its records are signed with a key from the pepper, which this process was not given".to_owned(),
    )
}

/// What was found that is not believed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distrusted {
    /// How many records were looked at.
    pub looked_at: u64,
    /// How many of them are not believed.
    pub found: u64,
    /// The first of those, as people call them, each with what is wrong with it.
    pub named: Vec<String>,
    /// What is wrong with the first that is signed with a pepper which is not configured, by its version.
    pub unknown: BTreeMap<u32, String>,
    /// How many rows and entries of the two logs are signed with such a pepper, and so were not looked at, by its version.
    pub unlooked_at: BTreeMap<u32, u64>,
}

/// What others have written may be of any length.
fn shortened(text: &str) -> String {
    text.chars().take(MOST_TOLD).collect()
}

impl Distrusted {
    /// How many are named.
    pub const MOST: usize = 1_000;

    /// Notes what has become of the reading of a record.
    ///
    /// # Errors
    /// Those that say nothing of the record.
    pub(super) fn look_at<N: Noun>(
        &mut self,
        place: &[u8],
        signature: Signature,
        read: Result<N, StoreError>,
    ) -> Result<(), StoreError> {
        self.looked_at += 1;
        let problem = match read {
            Ok(_) => return Ok(()),
            Err(StoreError::Damaged(problem)) => problem,
            Err(error) => return Err(error),
        };
        self.found += 1;
        let named = format!("{} {}", N::KIND.as_str().replace('_', " "), N::text(place).escape_debug());
        if let Signature::Unknown(version) = signature {
            self.unknown.entry(version).or_insert_with(|| shortened(&problem));
        }
        self.name(&format!("{named}: {problem}"));
        Ok(())
    }

    /// Looks at what is noted of rows that were removed.
    ///
    /// # Errors
    /// As [`Verifier::look`].
    pub(super) fn look_at_removed_rows(&mut self, verifier: &Verifier, bytes: Option<&[u8]>) -> Result<(), StoreError> {
        let Some(bytes) = bytes else { return Ok(()) };
        let noted = "what is noted of the rows that were removed from the audit log";
        match verifier.look_at_sealed(Sealed::RemovedRows, bytes)? {
            Signature::Right(_) => {}
            Signature::Unknown(version) => {
                let problem =
                    format!("{noted} is signed with a key from pepper version {version}, which is not configured");
                self.note(&problem);
                self.unknown.entry(version).or_insert(problem);
            }
            Signature::Missing | Signature::Wrong => self.note(&format!("{noted} has no right signature")),
        }
        Ok(())
    }

    /// Notes something that stands where no record can.
    pub(super) fn note_strange(&mut self, kind: Kind, name: &str) {
        self.looked_at += 1;
        self.note(&format!("{}: something stands where none can, {name}", kind.as_str().replace('_', " ")));
    }

    /// Notes that something is wrong with what was looked at.
    pub(super) fn note(&mut self, problem: &str) {
        self.found += 1;
        self.name(problem);
    }

    fn name(&mut self, problem: &str) {
        if self.named.len() < Self::MOST {
            self.named.push(shortened(problem));
        }
    }
}

impl Verifier {
    /// The lineage of the store whose upgrade has left this mark; `None`: it is no mark that this pepper has made.
    pub(super) fn read_mark(&self, bytes: &[u8]) -> Option<String> {
        let signers = self.signers.as_ref()?;
        let (lineage, version, found) = split(bytes)?;
        signers.mac(version, Sealed::Mark as u8, b"", lineage)?.verify_slice(found).ok()?;
        String::from_utf8(lineage.to_vec()).ok()
    }

    pub(super) fn write_mark(&self, lineage: &str) -> Result<Vec<u8>, StoreError> {
        let mut bytes = lineage.as_bytes().to_vec();
        self.signers.as_ref().ok_or_else(without_pepper)?.sign(Sealed::Mark as u8, b"", &mut bytes);
        Ok(bytes)
    }

    /// The same with a signature behind it, and what that is.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if this process has not been given the pepper.
    pub(super) fn seal(&self, what: Sealed, mut bytes: Vec<u8>) -> Result<(Vec<u8>, Mac), StoreError> {
        self.signers.as_ref().ok_or_else(without_pepper)?.sign(what as u8, b"", &mut bytes);
        let mac = Mac::of(&bytes).ok_or_else(without_pepper)?;
        Ok((bytes, mac))
    }

    /// What something carries that is no record.
    ///
    /// # Errors
    /// As [`Verifier::look`].
    pub(super) fn look_at_sealed(&self, what: Sealed, bytes: &[u8]) -> Result<Signature, StoreError> {
        self.look_for(what as u8, b"", bytes)
    }
}
