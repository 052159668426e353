//! Backups that only some can read: sealed by the age format, to the keys of recipients or with a passphrase. Never takes a
//! passphrase as an argument, where others could read it.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use age::secrecy::SecretString;
use age::stream::StreamWriter;
use age::{DecryptError, Decryptor, Encryptor, Identity, IdentityFile, Recipient, scrypt, x25519};
use clap::Args;

use super::{Exit, Failure, prompt};

/// What every sealed file begins with.
const SEALED: &[u8] = b"age-encryption.org/v1\n";

/// Who can read a backup.
#[derive(Args, Debug)]
pub struct SealArgs {
    /// Seal it, so that only who has the identity of this age recipient can read it; may be said several times
    #[arg(long = "recipient", short = 'r', value_name = "AGE1…")]
    recipients: Vec<String>,
    /// Seal it with a passphrase, which is asked for
    #[arg(long, conflicts_with = "recipients")]
    passphrase: bool,
    /// Seal it with a passphrase: the first line of standard input
    #[arg(long, conflicts_with_all = ["recipients", "passphrase"])]
    passphrase_stdin: bool,
}

/// By what a sealed backup is read.
#[derive(Args, Debug)]
pub struct OpenArgs {
    /// The file with the age identity of a recipient of a sealed backup
    #[arg(long, short = 'i', value_name = "FILE")]
    identity: Option<PathBuf>,
    /// Read the passphrase of a sealed backup from the first line of standard input, rather than ask for it
    #[arg(long, conflicts_with = "identity")]
    passphrase_stdin: bool,
}

impl SealArgs {
    /// Whether it takes a passphrase from somebody.
    pub fn asks(&self) -> bool {
        self.passphrase || self.passphrase_stdin
    }

    /// What seals it, if it is to be sealed. Asks for a passphrase if one was meant.
    ///
    /// # Errors
    /// A usage failure if a recipient is none.
    pub fn encryptor(&self) -> Result<Option<Encryptor>, Failure> {
        if self.asks() {
            let passphrase = prompt::new_passphrase(self.passphrase_stdin)?;
            if passphrase.is_empty() {
                return Err(Failure::usage("an empty passphrase seals nothing"));
            }
            return Ok(Some(Encryptor::with_user_passphrase(secret(&passphrase))));
        }
        if self.recipients.is_empty() {
            return Ok(None);
        }
        let recipient = |text: &String| {
            x25519::Recipient::from_str(text).map_err(|problem| {
                Failure::usage(format!("`{text}` is no age recipient ({problem}): it begins with age1"))
            })
        };
        let recipients: Vec<_> = self.recipients.iter().map(recipient).collect::<Result<_, _>>()?;
        Encryptor::with_recipients(recipients.iter().map(|recipient| recipient as &dyn Recipient))
            .map(Some)
            .map_err(|error| Failure::usage(error.to_string()))
    }
}

/// What a backup is written to.
pub enum Output<W: Write> {
    Plain(W),
    Sealed(StreamWriter<W>),
}

impl<W: Write> Output<W> {
    /// # Errors
    /// Those of what is written to.
    pub fn new(out: W, encryptor: Option<Encryptor>) -> io::Result<Self> {
        match encryptor {
            Some(encryptor) => encryptor.wrap_output(out).map(Self::Sealed),
            None => Ok(Self::Plain(out)),
        }
    }

    /// Writes what is left; gives what it was written to.
    ///
    /// # Errors
    /// Those of what is written to.
    pub fn finish(self) -> io::Result<W> {
        let mut out = match self {
            Self::Plain(out) => out,
            Self::Sealed(sealed) => sealed.finish()?,
        };
        out.flush()?;
        Ok(out)
    }
}

impl<W: Write> Write for Output<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(out) => out.write(bytes),
            Self::Sealed(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(out) => out.flush(),
            Self::Sealed(out) => out.flush(),
        }
    }
}

/// Opens a file, sealed or not, again and again.
pub struct Opener {
    path: PathBuf,
    /// Of a sealed one.
    identities: Vec<Box<dyn Identity + Send + Sync>>,
}

impl OpenArgs {
    /// # Errors
    /// If the file cannot be read, or is sealed and nothing here opens it.
    pub fn opener(&self, path: &Path) -> Result<Opener, Failure> {
        let mut opener = Opener { path: path.to_owned(), identities: Vec::new() };
        let Some(sealed) = opener.sealed().map_err(|error| opener.failed(&error.to_string()))? else {
            return Ok(opener);
        };
        opener.identities = match (&self.identity, sealed.is_scrypt()) {
            (Some(file), false) => identities(file)?,
            (None, true) => {
                let passphrase = prompt::passphrase(self.passphrase_stdin)?;
                vec![Box::new(scrypt::Identity::new(secret(&passphrase)))]
            }
            (Some(_), true) => return Err(opener.failed("it is sealed with a passphrase, and not to a recipient")),
            (None, false) => {
                return Err(
                    opener.failed("it is sealed to a recipient: say --identity FILE, with the identity of that one")
                );
            }
        };
        match opener.open() {
            Ok(_) => Ok(opener),
            Err(error) => Err(opener.failed(&error.to_string())),
        }
    }
}

impl Opener {
    /// Its bytes from their beginning.
    ///
    /// # Errors
    /// Those of the file, and if nothing here opens it.
    pub fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        match self.sealed()? {
            Some(sealed) => {
                let identities = self.identities.iter().map(|identity| &**identity as &dyn Identity);
                Ok(Box::new(sealed.decrypt(identities).map_err(in_words)?))
            }
            None => Ok(Box::new(self.file()?)),
        }
    }

    fn file(&self) -> io::Result<BufReader<std::fs::File>> {
        Ok(BufReader::with_capacity(256 << 10, std::fs::File::open(&self.path)?))
    }

    /// `None`: it is not sealed.
    fn sealed(&self) -> io::Result<Option<Decryptor<BufReader<std::fs::File>>>> {
        let mut file = self.file()?;
        if !file.fill_buf()?.starts_with(SEALED) {
            return Ok(None);
        }
        Decryptor::new_buffered(file).map(Some).map_err(in_words)
    }

    fn failed(&self, problem: &str) -> Failure {
        Failure::new(Exit::Failed, format!("{}: {problem}", self.path.display()))
    }
}

fn identities(file: &Path) -> Result<Vec<Box<dyn Identity + Send + Sync>>, Failure> {
    let failed = |problem: String| Failure::new(Exit::Failed, format!("{}: {problem}", file.display()));
    let open = std::fs::File::open(file).map_err(|error| failed(error.to_string()))?;
    let read =
        IdentityFile::from_buffer(BufReader::new(open)).map_err(|error| failed(format!("no age identity: {error}")))?;
    read.into_identities().map_err(|error| failed(error.to_string()))
}

fn secret(passphrase: &str) -> SecretString {
    SecretString::from(passphrase)
}

fn in_words(error: DecryptError) -> io::Error {
    io::Error::other(match error {
        DecryptError::Io(error) => return error,
        DecryptError::NoMatchingKeys => "it is sealed to another recipient".to_owned(),
        DecryptError::KeyDecryptionFailed | DecryptError::DecryptionFailed => {
            "the passphrase is another one".to_owned()
        }
        error => format!("it is sealed, and cannot be opened: {error}"),
    })
}
