//! The request to explain, from flags or from a file; a flag wins over the file; or from a recorded check. Keeps the target as it was
//! written: it is for the rules to say what is wrong with it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tollgate_core::attributes::{Attributes, Header};

use super::check;
use crate::cli::Failure;
use crate::server::ext_authz::wire;

#[derive(clap::Args)]
pub struct RequestArgs {
    /// A recorded CheckRequest, as Envoy sent it: the bytes of the message, or its JSON
    #[arg(long, value_name = "FILE", help_heading = "Request", conflicts_with_all = ["request", "method", "url", "headers", "source_ip"])]
    check: Option<PathBuf>,
    /// A file (JSON or YAML) that describes the request
    #[arg(long, value_name = "FILE", help_heading = "Request")]
    request: Option<PathBuf>,
    /// The method; without this: GET
    #[arg(long, help_heading = "Request")]
    method: Option<String>,
    /// Host, path and query, such as https://api.example.com/v1/models?page=2
    #[arg(long, help_heading = "Request")]
    url: Option<String>,
    /// A header; may be repeated
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE", help_heading = "Request")]
    headers: Vec<String>,
    /// The address of the client, as Envoy sees it
    #[arg(long, value_name = "ADDRESS", help_heading = "Request")]
    source_ip: Option<String>,
}

/// Headers may be secret.
impl std::fmt::Debug for RequestArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestArgs").field("method", &self.method).finish_non_exhaustive()
    }
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RequestFile {
    method: Option<String>,
    url: Option<String>,
    headers: Headers,
    source_ip: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Headers {
    Map(BTreeMap<String, OneOrMore>),
    Lines(Vec<String>),
}

impl Default for Headers {
    fn default() -> Self {
        Self::Lines(Vec::new())
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(String),
    More(Vec<String>),
}

/// A request that lends itself to [`Attributes`].
pub enum Described {
    Split(Split),
    /// The bytes of a check, which can be read.
    Check(Vec<u8>),
}

/// A request that was read and split.
pub struct Split {
    method: String,
    scheme: String,
    host: String,
    target: String,
    headers: Vec<(String, String)>,
    source_ip: String,
}

/// Reads the file, if there is one, and puts the flags over it.
///
/// # Errors
/// A usage failure that says what is missing or unreadable, without any header's value.
pub fn described(args: &RequestArgs) -> Result<Described, Failure> {
    let Some(path) = &args.check else { return split(args).map(Described::Split) };
    check::read(path).map(Described::Check)
}

fn split(args: &RequestArgs) -> Result<Split, Failure> {
    let file = args.request.as_deref().map(read).transpose()?.unwrap_or_default();
    let mut headers = match file.headers {
        Headers::Lines(lines) => lines.iter().map(|line| split_header(line)).collect::<Result<Vec<_>, _>>()?,
        Headers::Map(map) => {
            let all = |(name, values): (String, OneOrMore)| match values {
                OneOrMore::One(value) => vec![(name.to_ascii_lowercase(), value)],
                OneOrMore::More(values) => values.into_iter().map(|value| (name.to_ascii_lowercase(), value)).collect(),
            };
            map.into_iter().flat_map(all).collect()
        }
    };
    let said: Vec<_> = args.headers.iter().map(|line| split_header(line)).collect::<Result<_, _>>()?;
    headers.retain(|(name, _)| said.iter().all(|(other, _)| other != name));
    headers.extend(said);

    let url =
        args.url.clone().or(file.url).ok_or_else(|| Failure::usage("what request? say --url, or --request FILE"))?;
    let (scheme, authority, target) = split_url(&url)?;
    let named = headers.iter().find(|(name, _)| name == "host").map(|(_, value)| value.clone());
    let host = authority
        .or(named)
        .ok_or_else(|| Failure::usage("the host is missing: write --url https://HOST/PATH, or add -H 'host: HOST'"))?;
    headers.retain(|(name, _)| name != "host");
    Ok(Split {
        method: args.method.clone().or(file.method).unwrap_or_else(|| "GET".to_owned()),
        scheme,
        host,
        target,
        headers,
        source_ip: args.source_ip.clone().or(file.source_ip).unwrap_or_default(),
    })
}

fn read(path: &Path) -> Result<RequestFile, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?;
    let options = serde_saphyr::options! { with_snippet: false };
    serde_saphyr::from_str_with_options(&text, options).map_err(|error| {
        // The text of an error can hold a value, and a value can be a secret.
        let place = error.location().map(|at| format!(", at line {}, column {}", at.line(), at.column()));
        Failure::usage(format!(
            "{} does not describe a request{}: it has the fields method, url, headers and source_ip",
            path.display(),
            place.unwrap_or_default()
        ))
    })
}

fn split_header(line: &str) -> Result<(String, String), Failure> {
    let (name, value) = line.split_once(':').ok_or_else(|| Failure::usage("a header must be `name: value`"))?;
    let name = name.trim().to_ascii_lowercase();
    if name.is_empty() || name.contains(' ') {
        return Err(Failure::usage("a header must be `name: value`"));
    }
    Ok((name, value.trim().to_owned()))
}

/// Scheme, authority and target. Not a byte of the target is rewritten, but the fragment, which no client sends, goes.
fn split_url(url: &str) -> Result<(String, Option<String>, String), Failure> {
    let url = url.split('#').next().unwrap_or_default();
    if url.starts_with('/') {
        return Ok(("https".to_owned(), None, url.to_owned()));
    }
    let wrong = || Failure::usage("the URL must be https://HOST/PATH?QUERY, or /PATH?QUERY beside a host header");
    let (scheme, rest) = url.split_once("://").ok_or_else(wrong)?;
    let at = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(at);
    if authority.is_empty() || !matches!(scheme, "http" | "https" | "grpc" | "grpcs") {
        return Err(wrong());
    }
    let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
    Ok((scheme.to_owned(), Some(authority.to_owned()), target))
}

impl Described {
    pub fn attributes(&self) -> Attributes<'_> {
        match self {
            Self::Split(split) => split.attributes(),
            Self::Check(message) => wire::read(message).unwrap_or_default(),
        }
    }
}

impl Split {
    fn attributes(&self) -> Attributes<'_> {
        Attributes {
            method: &self.method,
            target: &self.target,
            host: &self.host,
            scheme: &self.scheme,
            protocol: "HTTP/1.1",
            headers_withheld: false,
            headers: self.headers.iter().map(|(name, value)| Header::new(name, value.as_bytes())).collect(),
            body: &[],
            peer_address: &self.source_ip,
            peer_principal: "",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(url: &str) -> RequestArgs {
        RequestArgs {
            check: None,
            request: None,
            method: None,
            url: Some(url.to_owned()),
            headers: vec![],
            source_ip: None,
        }
    }

    #[test]
    fn a_url_is_split_and_not_rewritten() {
        for (url, host, target) in [
            ("https://api.example.com/a/../b?x=1#f", "api.example.com", "/a/../b?x=1"),
            ("http://a:8080", "a:8080", "/"),
            ("https://a?x", "a", "/?x"),
            ("https://[::1]:1/%2e//", "[::1]:1", "/%2e//"),
        ] {
            let described = split(&args(url)).unwrap();
            let attributes = described.attributes();
            assert_eq!((attributes.host, attributes.target, attributes.method), (host, target, "GET"));
        }
        for bad in ["", "a", "ftp://a/", "https:///x", "/path"] {
            assert!(split(&args(bad)).is_err(), "{bad}");
        }
        let mut with_host = args("/path");
        with_host.headers = vec!["Host: a".to_owned(), "X-A: b: c".to_owned()];
        let described = split(&with_host).unwrap();
        assert_eq!(described.attributes().host, "a");
        assert_eq!(described.headers, [("x-a".to_owned(), "b: c".to_owned())]);
    }

    #[test]
    fn a_file_describes_the_same_and_flags_win() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("request");
        for text in [
            "method: POST\nurl: https://a/x\nheaders: {X-A: one, x-b: [two, three]}\nsource_ip: 10.0.0.1\n",
            r#"{"method":"POST","url":"https://a/x","headers":["X-A: one","x-b: two","x-b: three"],"source_ip":"10.0.0.1"}"#,
        ] {
            std::fs::write(&path, text).unwrap();
            let mut args = RequestArgs { request: Some(path.clone()), url: None, ..args("") };
            let file = split(&args).unwrap();
            assert_eq!((&*file.method, &*file.host, &*file.source_ip), ("POST", "a", "10.0.0.1"));
            assert_eq!(file.attributes().values("x-b").collect::<Vec<_>>(), [b"two".as_slice(), b"three"]);
            args.method = Some("PUT".to_owned());
            args.headers = vec!["x-b: four".to_owned()];
            let file = split(&args).unwrap();
            assert_eq!(file.method, "PUT");
            assert_eq!(file.attributes().values("x-b").collect::<Vec<_>>(), [b"four".as_slice()]);
        }
        std::fs::write(&path, "headers: {authorization: {oops: ik_live_secret}}").unwrap();
        let args = RequestArgs { request: Some(path), url: None, ..args("") };
        let problem = split(&args).err().unwrap().message;
        assert!(!problem.contains("ik_live_secret"), "{problem}");
    }
}
