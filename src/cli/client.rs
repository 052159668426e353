//! A small client of the admin API: one request, one connection. Never repeats a request by itself, and never shows what
//! it authenticates with.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST, IF_MATCH};
use axum::http::{HeaderValue, Method, Request};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use serde::Serialize;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use super::connect::{Base, Proof, Target};
use super::output::printable;
use super::{Exit, Failure};

const MAX_TIME: Duration = Duration::from_secs(30);
/// The largest body that the server takes.
const MAX_BODY: usize = 64 << 10;
const MAX_ANSWER: usize = 64 << 20;
/// Where systems keep the authorities that they trust.
const SYSTEM_CA: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// One request, before it is known where it goes.
struct Outgoing {
    method: Method,
    path: String,
    if_match: Option<String>,
    /// JSON, wiped once it is sent: it may hold a password. Empty: there is no body.
    body: Zeroizing<Vec<u8>>,
}

impl Target {
    /// Sends one request; the body of a success.
    ///
    /// # Errors
    /// [`Exit::Unreachable`] if there is no answer or it is 503, [`Exit::Refused`] if it is another refusal.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let body = body.map(Value::to_string).unwrap_or_default().into_bytes();
        self.bounded(Outgoing { method, path: path.to_owned(), if_match: None, body: Zeroizing::new(body) }).await
    }

    /// As [`Self::call`], with a body that may hold a password, for the version `if_match` alone if it is said.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn change<T: Serialize>(
        &self,
        method: Method,
        path: &str,
        if_match: Option<&str>,
        body: &T,
    ) -> Result<Value, Failure> {
        // With room from the start: growing would leave copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(MAX_BODY));
        serde_json::to_writer(&mut *bytes, body).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        let if_match = if_match.map(str::to_owned);
        self.bounded(Outgoing { method, path: path.to_owned(), if_match, body: bytes }).await
    }

    async fn bounded(&self, outgoing: Outgoing) -> Result<Value, Failure> {
        match tokio::time::timeout(MAX_TIME, self.exchange(outgoing)).await {
            Ok(result) => result,
            Err(_) => Err(self.unreachable("no answer within 30 seconds")),
        }
    }

    async fn exchange(&self, outgoing: Outgoing) -> Result<Value, Failure> {
        let request = self.request(outgoing)?;
        match self {
            Self::Socket(path) => match UnixStream::connect(path).await {
                Ok(stream) => self.send(stream, request).await,
                Err(error) => Err(self.unreachable(&no_socket(&error))),
            },
            Self::Http { base, ca, .. } => {
                let stream = TcpStream::connect((&*base.host, base.port)).await;
                let stream = stream.map_err(|error| self.unreachable(&error.to_string()))?;
                if base.tls {
                    let stream = tls(base, ca.as_deref(), stream).await?;
                    self.send(stream, request).await
                } else {
                    self.send(stream, request).await
                }
            }
        }
    }

    fn request(&self, outgoing: Outgoing) -> Result<Request<Full<Bytes>>, Failure> {
        let Outgoing { method, path, if_match, body } = outgoing;
        let (authority, prefix) = match self {
            Self::Socket(_) => ("localhost", ""),
            Self::Http { base, .. } => (&*base.authority, &*base.path),
        };
        let mut request = Request::builder().method(method).uri(format!("{prefix}{path}")).header(HOST, authority);
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, "application/json");
        }
        if let Some(version) = if_match {
            request = request.header(IF_MATCH, version);
        }
        if let Self::Http { proof: Some(proof), .. } = self {
            let value = Zeroizing::new(format!("Bearer {}", proof.secret().trim()));
            let mut value = HeaderValue::from_str(&value)
                .map_err(|_| Failure::usage("the credential has characters that none of ours has"))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        request
            .body(Full::new(Bytes::from_owner(body)))
            .map_err(|_| Failure::usage("what was asked for does not fit into a request"))
    }

    async fn send(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        request: Request<Full<Bytes>>,
    ) -> Result<Value, Failure> {
        let broken = |error: &dyn std::error::Error| self.unreachable(&format!("the connection broke: {error}"));
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| broken(&error))?;
        tokio::spawn(connection);
        let response = sender.send_request(request).await.map_err(|error| broken(&error))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| broken(&*error))?.to_bytes();
        if (200..300).contains(&status) && body.is_empty() {
            return Ok(Value::Null);
        }
        let answer: Value = match serde_json::from_slice(&body) {
            Ok(answer) => answer,
            Err(_) => return Err(self.unreachable(&format!("the answer ({status}) is not Tollgate's"))),
        };
        if (200..300).contains(&status) {
            return Ok(answer);
        }
        let mut refused = refusal(status, &answer);
        if status == 401 && matches!(self, Self::Http { proof: Some(Proof::Session(_)), .. }) {
            refused.message.push_str("; your login is over: run `tollgate login`");
        }
        Err(refused)
    }

    fn unreachable(&self, problem: &str) -> Failure {
        let place = match self {
            Self::Socket(path) => path.display().to_string(),
            Self::Http { base, .. } => base.authority.clone(),
        };
        Failure::new(Exit::Unreachable, format!("cannot reach the server at {place}: {problem}"))
    }
}

fn no_socket(error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ": is `tollgate serve` running, and is this its socket?"
        }
        io::ErrorKind::PermissionDenied => ": the socket is for another user",
        _ => "",
    };
    format!("{error}{hint}")
}

/// What an error of the API says to a person, and the exit code it means.
fn refusal(status: u16, answer: &Value) -> Failure {
    let error = &answer["error"];
    let message = error["message"].as_str().unwrap_or("the server gave no reason");
    let code = error["code"].as_str().unwrap_or("UNKNOWN");
    let mut text = printable(message);
    // The field stands in the sentence already.
    if !error["details"].is_null() && error["details"].get("field").is_none() {
        text.push_str(&format!(" {}", printable(&error["details"].to_string())));
    }
    text.push_str(&format!(" ({status} {})", printable(code)));
    let exit = match status {
        503 => Exit::Unreachable,
        400..500 => Exit::Refused,
        _ => Exit::Failed,
    };
    Failure::new(exit, text)
}

async fn tls(
    base: &Base,
    ca: Option<&Path>,
    stream: TcpStream,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
    let named = ca.map(Path::to_owned).or_else(|| std::env::var_os("SSL_CERT_FILE").map(PathBuf::from));
    let file = named.or_else(|| SYSTEM_CA.iter().map(PathBuf::from).find(|path| path.exists()));
    let file = file.ok_or_else(|| Failure::usage("this system has no list of authorities: say --ca FILE"))?;
    let unreadable = |error: &dyn std::fmt::Display| {
        Failure::new(Exit::Failed, format!("the certificates in {} cannot be used: {error}", file.display()))
    };
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(&file).map_err(|error| unreadable(&error))? {
        let certificate = certificate.map_err(|error| unreadable(&error))?;
        // One that is out of date in a system's list says nothing about the others.
        let added = roots.add(certificate);
        if ca.is_some() {
            added.map_err(|error| unreadable(&error))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| unreadable(&error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(base.host.clone()).map_err(|error| Failure::usage(error.to_string()))?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| {
        Failure::new(Exit::Unreachable, format!("no secure connection to {}: {error}", base.authority))
    })
}

/// Puts text into a path segment or a query value.
pub fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// A query string of what was said, with its `?`; empty if nothing was.
pub fn query(pairs: &[(&str, Option<String>)]) -> String {
    let said = pairs.iter().filter_map(|(name, value)| Some(format!("{name}={}", encoded(value.as_ref()?))));
    let said: Vec<String> = said.collect();
    if said.is_empty() { String::new() } else { format!("?{}", said.join("&")) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_and_queries_are_encoded() {
        assert_eq!(encoded("w-1_a.b~"), "w-1_a.b~");
        assert_eq!(encoded("a/b ä%"), "a%2Fb%20%C3%A4%25");
        assert_eq!(query(&[("a", None)]), "");
        assert_eq!(query(&[("a", Some("x&y".to_owned())), ("b", None), ("c", Some("1".to_owned()))]), "?a=x%26y&c=1");
    }

    #[test]
    fn each_refusal_has_its_exit_code() {
        let answer = json!({"error": {"code": "CONFLICT", "message": "key x is\u{1b} taken", "details": null}});
        for (status, exit) in [
            (400, Exit::Refused),
            (401, Exit::Refused),
            (403, Exit::Refused),
            (404, Exit::Refused),
            (409, Exit::Refused),
            (503, Exit::Unreachable),
            (500, Exit::Failed),
        ] {
            assert_eq!(refusal(status, &answer).exit, exit);
        }
        assert_eq!(refusal(409, &answer).message, "key x is\u{fffd} taken (409 CONFLICT)");
        assert!(refusal(500, &json!({})).message.contains("no reason"));
    }
}
