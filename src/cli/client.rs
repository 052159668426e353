//! A small client of the admin API: one request, one connection. Never repeats a request by itself, and never shows what
//! it authenticates with.

use std::error::Error;
use std::fmt::Display;
use std::io;
use std::path::Path;
use std::time::Duration;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, IF_MATCH};
use axum::http::{HeaderValue, Method};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use reqwest::{ClientBuilder, redirect};
use serde::Serialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::connect::{Proof, Target};
use super::output::printable;
use super::{Exit, Failure};

const MAX_TIME: Duration = Duration::from_secs(30);
/// The largest body that the server takes.
const MAX_BODY: usize = 64 << 10;
const MAX_ANSWER: usize = 64 << 20;
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
        self.send(Outgoing { method, path: path.to_owned(), if_match: None, body: Zeroizing::new(body) }).await
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
        self.send(Outgoing { method, path: path.to_owned(), if_match, body: bytes }).await
    }

    /// Sends one request whose answer is as long as it is; a success, before its body.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn stream(&self, method: Method, path: &str) -> Result<reqwest::Response, Failure> {
        let outgoing = Outgoing { method, path: path.to_owned(), if_match: None, body: Zeroizing::default() };
        let client = self.client(|builder| builder.read_timeout(MAX_TIME))?;
        let response = self.execute(&client, outgoing).await?;
        if response.status().is_success() {
            return Ok(response);
        }
        match self.answer(response).await {
            Err(failure) => Err(failure),
            Ok(_) => Err(self.unreachable("the answer is not Tollgate's")),
        }
    }

    /// Why the body of an answer did not come to its end.
    pub fn broken(&self, error: &reqwest::Error) -> Failure {
        self.broken_off(error)
    }

    async fn send(&self, outgoing: Outgoing) -> Result<Value, Failure> {
        let client = self.client(|builder| builder.timeout(MAX_TIME))?;
        self.answer(self.execute(&client, outgoing).await?).await
    }

    async fn execute(&self, client: &reqwest::Client, outgoing: Outgoing) -> Result<reqwest::Response, Failure> {
        client.execute(self.request(outgoing)?).await.map_err(|error| self.no_answer(&error))
    }

    /// The body of a success.
    async fn answer(&self, response: reqwest::Response) -> Result<Value, Failure> {
        let status = response.status().as_u16();
        let body = Limited::new(reqwest::Body::from(response), MAX_ANSWER).collect().await;
        let body = body.map_err(|error| self.broken_off(&*error))?.to_bytes();
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

    /// What makes one connection, to this server and no other.
    fn client(&self, limited: fn(ClientBuilder) -> ClientBuilder) -> Result<reqwest::Client, Failure> {
        let builder = reqwest::Client::builder()
            .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
            .http1_only()
            .no_proxy()
            .referer(false)
            .redirect(redirect::Policy::none())
            .retry(reqwest::retry::never());
        let mut builder = limited(builder);
        let (is_tls, ca) = match self {
            Self::Socket(path) => {
                builder = builder.unix_socket(path.as_path());
                (false, None)
            }
            Self::Http { base, ca, .. } => (base.tls, ca.as_deref()),
        };
        let unusable = |file: &Path, problem: &dyn Display| {
            let problem = format!("the certificates in {} cannot be used: {problem}", file.display());
            Failure::new(Exit::Failed, problem)
        };
        match ca {
            // The system's list of authorities is not looked at, and need not be there.
            _ if !is_tls => builder = builder.tls_certs_only([]),
            Some(file) => {
                let pem = std::fs::read(file).map_err(|error| unusable(file, &error))?;
                let authorities = reqwest::Certificate::from_pem_bundle(&pem);
                let authorities = authorities.map_err(|error| unusable(file, innermost(&error)))?;
                if authorities.is_empty() {
                    return Err(unusable(file, &"there are none"));
                }
                builder = builder.tls_certs_only(authorities);
            }
            None => {}
        }
        builder.build().map_err(|error| match ca {
            Some(file) => unusable(file, innermost(&error)),
            None => {
                let problem = innermost(&error);
                Failure::usage(format!("no authority of this system can be used: say --ca FILE ({problem})"))
            }
        })
    }

    fn request(&self, outgoing: Outgoing) -> Result<reqwest::Request, Failure> {
        let Outgoing { method, path, if_match, body } = outgoing;
        // A URL has no such segment: what stands before it would be asked for instead.
        if let Some(dots) = path.split(['/', '?']).find(|segment| matches!(*segment, "." | "..")) {
            return Err(Failure::usage(format!("nothing has the name `{dots}`")));
        }
        let root = match self {
            Self::Socket(_) => "http://localhost".to_owned(),
            Self::Http { base, .. } => {
                format!("{}://{}{}", if base.tls { "https" } else { "http" }, base.authority, base.path)
            }
        };
        let url = format!("{root}{path}").parse();
        let url = url.map_err(|_| Failure::usage("what was asked for does not fit into a request"))?;
        let mut request = reqwest::Request::new(method, url);
        if !body.is_empty() {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            *request.body_mut() = Some(Bytes::from_owner(body).into());
        }
        if let Some(version) = if_match {
            let version = HeaderValue::from_str(&version);
            let version = version.map_err(|_| Failure::usage("what was asked for does not fit into a request"))?;
            request.headers_mut().insert(IF_MATCH, version);
        }
        if let Self::Http { proof: Some(proof), .. } = self {
            let value = Zeroizing::new(format!("Bearer {}", proof.secret().trim()));
            let mut value = HeaderValue::from_str(&value)
                .map_err(|_| Failure::usage("the credential has characters that none of ours has"))?;
            value.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, value);
        }
        Ok(request)
    }

    /// There was no answer: why, and what may help.
    fn no_answer(&self, error: &reqwest::Error) -> Failure {
        let cause = innermost(error);
        match (self, cause.downcast_ref::<io::Error>()) {
            (Self::Socket(_), Some(cause)) if error.is_connect() => self.unreachable(&no_socket(cause)),
            _ if error.is_connect() && !error.is_timeout() => self.unreachable(&cause.to_string()),
            _ => self.broken_off(error),
        }
    }

    fn broken_off(&self, error: &(dyn Error + 'static)) -> Failure {
        let is_late = |cause: &(dyn Error + 'static)| {
            cause.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_timeout)
        };
        if causes(error).any(is_late) {
            return self.unreachable("no answer within 30 seconds");
        }
        self.unreachable(&format!("the connection broke: {}", innermost(error)))
    }

    fn unreachable(&self, problem: &str) -> Failure {
        let place = match self {
            Self::Socket(path) => path.display().to_string(),
            Self::Http { base, .. } => base.authority.clone(),
        };
        Failure::new(Exit::Unreachable, format!("cannot reach the server at {place}: {problem}"))
    }
}

/// An error and what it comes from.
fn causes<'e>(error: &'e (dyn Error + 'static)) -> impl Iterator<Item = &'e (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error| (*error).source())
}

/// What an error comes from: those around it say little.
fn innermost<'e>(error: &'e (dyn Error + 'static)) -> &'e (dyn Error + 'static) {
    causes(error).last().unwrap_or(error)
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
    Failure { status: Some(status), ..Failure::new(exit, text) }
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
    fn no_name_leads_out_of_its_path() {
        let target = Target::Socket("/run/tollgate/admin.sock".into());
        let asked = |path: &str| {
            let outgoing =
                Outgoing { method: Method::DELETE, path: path.to_owned(), if_match: None, body: Zeroizing::default() };
            target.request(outgoing).map(|request| request.url().to_string()).map_err(|failure| failure.exit)
        };
        for name in ["..", "."] {
            for path in
                [format!("/api/v1/keys/{name}"), format!("/api/v1/keys/{name}/rotate"), format!("/x/{name}?a=b")]
            {
                assert_eq!(asked(&path), Err(Exit::Usage), "{path}");
            }
        }
        for name in ["...", "a.b", "%2E%2F..%2F", "..a", "a%00"] {
            let path = format!("/api/v1/keys/{}", encoded(name));
            assert_eq!(asked(&path), Ok(format!("http://localhost{path}")));
        }
        assert_eq!(asked("/keys?after=.."), Ok("http://localhost/keys?after=..".to_owned()));
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
