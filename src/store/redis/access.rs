//! What gets us into a Redis server: passwords and certificates, read from their files. Never shows what a file holds.

use std::fmt::{self, Display};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use redis::{ClientTlsConfig, ProtocolVersion, RedisConnectionInfo, TlsCertificates};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use zeroize::Zeroizing;

use super::location::{Login, TlsFiles};
use crate::secret_file;
use crate::store::StoreError;

const LONGEST_PASSWORD: usize = 1024;
/// A file with the certificates of every public authority has about 250 KiB.
const LONGEST_PEM: usize = 4 << 20;

/// Who we are to a server, with the secret that proves it.
#[derive(Clone)]
pub(super) struct Access {
    username: Option<String>,
    password: Option<Zeroizing<String>>,
}

impl Access {
    /// Reads the password.
    ///
    /// # Errors
    /// With the file at fault, and what to do.
    pub(super) fn read(login: &Login) -> Result<Self, StoreError> {
        let password = login.password.as_deref().map(password).transpose()?;
        Ok(Self { username: login.username.clone(), password })
    }

    pub(super) fn username(&self) -> Option<&str> {
        self.username.as_deref()
    }

    pub(super) fn password(&self) -> Option<&str> {
        self.password.as_ref().map(|password| password.as_str())
    }

    /// How a connection introduces itself.
    pub(super) fn greeting(&self) -> RedisConnectionInfo {
        let mut greeting = RedisConnectionInfo::default()
            .set_protocol(ProtocolVersion::RESP2)
            .set_lib_name("tollgate", env!("CARGO_PKG_VERSION"));
        if let Some(username) = self.username() {
            greeting = greeting.set_username(username);
        }
        if let Some(password) = self.password() {
            greeting = greeting.set_password(password);
        }
        greeting
    }
}

impl fmt::Debug for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Access").field("username", &self.username).finish_non_exhaustive()
    }
}

/// One line, in a file that nobody else can read.
fn password(path: &Path) -> Result<Zeroizing<String>, StoreError> {
    let text = secret(path, "the password", LONGEST_PASSWORD)?;
    let line = text.strip_suffix(b"\n").unwrap_or(&text);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let sound = !line.is_empty() && !line.iter().any(|byte| byte.is_ascii_control());
    let password = std::str::from_utf8(line).ok().filter(|_| sound);
    let problem = format!("it must hold the password in one line of at most {LONGEST_PASSWORD} bytes and nothing else");
    password.map(|password| Zeroizing::new(password.to_owned())).ok_or_else(|| at_fault(path, &problem))
}

type Pem = Zeroizing<Vec<u8>>;

/// What TLS is spoken with.
pub(super) struct Tls {
    pub(super) config: Arc<ClientConfig>,
    ca: Option<Pem>,
    /// Certificate and key.
    identity: Option<(Pem, Pem)>,
}

impl Tls {
    /// Reads the files. Servers are always authenticated.
    ///
    /// # Errors
    /// With the file at fault. Nothing of a key is in the message.
    pub(super) fn read(files: &TlsFiles) -> Result<Self, StoreError> {
        let broken = |error: rustls::Error| StoreError::Unavailable(format!("store.redis.tls: {error}"));
        let ca = files.ca.as_deref().map(|path| content(path, LONGEST_PEM)).transpose()?;
        let mut roots = RootCertStore::empty();
        match (&files.ca, &ca) {
            (Some(path), Some(pem)) => {
                for certificate in certificates(path, pem)? {
                    roots.add(certificate).map_err(|error| at_fault(path, &error))?;
                }
            }
            _ => {
                // One that cannot be read only means that what it signs is not trusted.
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    let problem = "the system has no certificates to check servers with: give `store.redis.tls.ca`";
                    return Err(StoreError::Unavailable(problem.to_owned()));
                }
            }
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(broken)?
            .with_root_certificates(roots);
        let (config, identity) = match &files.identity {
            None => (builder.with_no_client_auth(), None),
            Some((certificate, key)) => {
                let chain = content(certificate, LONGEST_PEM)?;
                let secret = secret(key, "the key of TLS", LONGEST_PEM)?;
                let parsed = PrivateKeyDer::from_pem_slice(&secret).map_err(|error| at_fault(key, &error))?;
                let config = builder
                    .with_client_auth_cert(certificates(certificate, &chain)?, parsed)
                    .map_err(|error| at_fault(certificate, &error))?;
                (config, Some((chain, secret)))
            }
        };
        Ok(Self { config: Arc::new(config), ca, identity })
    }

    /// For the cluster's own client, which reads PEM by itself.
    pub(super) fn certificates(&self) -> TlsCertificates {
        let client_tls = self
            .identity
            .as_ref()
            .map(|(certificate, key)| ClientTlsConfig { client_cert: certificate.to_vec(), client_key: key.to_vec() });
        TlsCertificates { client_tls, root_cert: self.ca.as_ref().map(|pem| pem.to_vec()) }
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

fn certificates(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, StoreError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(at_fault(path, &"it holds no certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(at_fault(path, &error)),
    }
}

/// What is in a secret file.
fn secret(path: &Path, what: &str, limit: usize) -> Result<Pem, StoreError> {
    secret_file::read(path, limit).map_err(|problem| at_fault(path, &format!("{what} is not used: {problem}")))
}

/// The whole file, which holds no secret.
fn content(path: &Path, limit: usize) -> Result<Pem, StoreError> {
    let read = || -> io::Result<Pem> {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        if length > limit as u64 {
            return Err(io::Error::other(format!("it has more than {limit} bytes")));
        }
        // Room for all of it at once: a vector that grows leaves its old content behind.
        let mut text = Zeroizing::new(Vec::with_capacity(usize::try_from(length).unwrap_or_default() + 1));
        file.take(length).read_to_end(&mut text)?;
        Ok(text)
    };
    read().map_err(|error| at_fault(path, &error))
}

fn at_fault(path: &Path, problem: &dyn Display) -> StoreError {
    StoreError::Unavailable(format!("{}: {problem}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn given(text: &str, mode: u32) -> (tempfile::TempDir, Login) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (folder, Login { username: Some("tollgate".to_owned()), password: Some(path) })
    }

    #[test]
    fn a_password_is_one_line() {
        for text in ["correct horse", "correct horse\n", "correct horse\r\n"] {
            let (_folder, login) = given(text, 0o400);
            let access = Access::read(&login).unwrap();
            assert_eq!(access.password(), Some("correct horse"));
            assert!(!format!("{access:?} {:?}", access.greeting()).contains("horse"));
        }
        for text in ["", "\n", "horse\n\n", "horse\nbattery", "horse\0", &"x".repeat(LONGEST_PASSWORD + 1)] {
            let (_folder, login) = given(text, 0o600);
            let error = Access::read(&login).unwrap_err().to_string();
            assert!(error.contains("password") && !error.contains("horse"), "{error}");
        }
    }

    #[test]
    fn a_password_that_others_can_read_is_refused() {
        for mode in [0o604, 0o660, 0o444, 0o620] {
            let (_folder, login) = given("horse", mode);
            let error = Access::read(&login).unwrap_err().to_string();
            assert!(error.contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn files_at_fault_are_named() {
        let (_folder, login) = given("-----BEGIN horse", 0o600);
        let path = login.password.unwrap();
        let missing = path.with_file_name("missing");
        for files in [
            TlsFiles { ca: Some(path.clone()), identity: None },
            TlsFiles { ca: Some(missing.clone()), identity: None },
            TlsFiles { ca: None, identity: Some((path.clone(), path.clone())) },
        ] {
            let error = Tls::read(&files).unwrap_err().to_string();
            let named = [&path, &missing].iter().any(|path| error.contains(path.to_str().unwrap()));
            assert!(named && !error.contains("horse"), "{error}");
        }
    }
}
