//! Mutual TLS for the check listener: a client without a certificate of the configured authority gets no connection.

use std::fmt::Display;
use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::version::{TLS12, TLS13};

use crate::config::Tls;
use crate::secret_file;

/// A key has some 2 KiB.
const LONGEST_KEY: usize = 1 << 20;

/// Reads the files and makes the settings of the server: TLS 1.2 at least, HTTP/2 alone, clients authenticated.
///
/// # Errors
/// [`io::ErrorKind::InvalidInput`] with the file at fault. Nothing of a key is in the message.
pub fn server_config(tls: &Tls) -> io::Result<ServerConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let mut authorities = RootCertStore::empty();
    for authority in certificates(&tls.client_ca)? {
        authorities.add(authority).map_err(|error| at_fault(&tls.client_ca, &error))?;
    }
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(authorities), Arc::clone(&provider))
        .build()
        .map_err(|error| at_fault(&tls.client_ca, &error))?;
    let pem = secret_file::read(&tls.key, LONGEST_KEY).map_err(|problem| at_fault(&tls.key, &problem))?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| at_fault(&tls.key, &error))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| at_fault(&tls.cert, &error))?
        .with_client_cert_verifier(clients)
        .with_single_cert(certificates(&tls.cert)?, key)
        .map_err(|error| at_fault(&tls.cert, &error))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(config)
}

/// Every certificate of a PEM file; at least one.
fn certificates(file: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let read = || CertificateDer::pem_file_iter(file)?.collect::<Result<Vec<_>, _>>();
    match read() {
        Ok(found) if found.is_empty() => Err(at_fault(file, &"it holds no certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(at_fault(file, &error)),
    }
}

fn at_fault(file: &Path, problem: &dyn Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{}: {problem}", file.display()))
}
