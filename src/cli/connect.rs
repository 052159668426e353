//! Where the server is: an explicit flag over an environment variable over a login over the configuration file over the
//! default. Never takes a secret as an argument, where every process of the machine could read it, and never sends the
//! token of a login to another server than the one that gave it.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use axum::http::Uri;
use clap::Args;
use serde::Deserialize;
use zeroize::Zeroizing;

use super::session::{self, Session};
use super::{Exit, Failure};

pub const DEFAULT_CONFIG: &str = "/etc/tollgate/tollgate.yaml";
const DEFAULT_SOCKET: &str = "/run/tollgate/admin.sock";

#[derive(Args, Clone, Debug, Default)]
pub struct ConnectArgs {
    /// The admin socket of the server [env: TOLLGATE_SOCKET; then your login; then the configuration file; then
    /// /run/tollgate/admin.sock]
    #[arg(long, value_name = "PATH", global = true, conflicts_with = "url", help_heading = "Connection")]
    socket: Option<PathBuf>,
    /// The admin API over HTTP instead, with the key in TOLLGATE_ADMIN_KEY or the token of `tollgate login` [env:
    /// TOLLGATE_ADMIN_URL]
    #[arg(long, value_name = "URL", global = true, help_heading = "Connection")]
    url: Option<String>,
    /// The configuration file that names the socket [env: TOLLGATE_CONFIG]
    #[arg(long, value_name = "FILE", global = true, help_heading = "Connection")]
    config: Option<PathBuf>,
    /// Certificates (PEM) that an https URL is checked against, instead of the system's
    #[arg(long, value_name = "FILE", global = true, help_heading = "Connection")]
    ca: Option<PathBuf>,
    /// Send the credential to an http URL off this machine, in clear
    #[arg(long, global = true, help_heading = "Connection")]
    plaintext: bool,
}

/// Where requests go, and what proves who sends them.
pub enum Target {
    /// Whoever may open it is the operator.
    Socket(PathBuf),
    Http {
        base: Base,
        /// `None`: the request needs none.
        proof: Option<Proof>,
        ca: Option<PathBuf>,
    },
}

/// What a request over HTTP is authenticated with.
pub enum Proof {
    Key(Zeroizing<String>),
    /// The token of a login.
    Session(Zeroizing<String>),
}

impl Proof {
    pub fn secret(&self) -> &str {
        match self {
            Self::Key(secret) | Self::Session(secret) => secret,
        }
    }
}

/// The root of an admin API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    pub tls: bool,
    pub host: String,
    pub port: u16,
    /// As it goes into `Host`.
    pub authority: String,
    /// Without a slash at its end.
    pub path: String,
}

/// Where the server is, by the arguments, the environment, the login of this user and the files of this machine.
///
/// # Errors
/// As [`locate`].
pub fn target(args: &ConnectArgs) -> Result<Target, Failure> {
    let env = |name: &str| std::env::var(name).ok();
    locate(args, env, || session::read(env))
}

/// Where the server is.
///
/// # Errors
/// A usage failure if what was said does not fit together; a configuration failure if the file cannot be read; a refusal
/// if the login is over.
fn locate(
    args: &ConnectArgs,
    env: impl Fn(&str) -> Option<String>,
    session: impl FnOnce() -> Result<Option<Session>, Failure>,
) -> Result<Target, Failure> {
    let env = |name: &str| env(name).filter(|value| !value.is_empty());
    if let Some(path) = &args.socket {
        return Ok(Target::Socket(path.clone()));
    }
    if let Some(file) = &args.config {
        return socket_of_file(Some(file)).map(Target::Socket);
    }
    let url = match (&args.url, env("TOLLGATE_SOCKET"), env("TOLLGATE_ADMIN_URL")) {
        (Some(url), _, _) => Some(url.clone()),
        (None, Some(_), Some(_)) => {
            return Err(Failure::usage("TOLLGATE_SOCKET and TOLLGATE_ADMIN_URL are both set: say --socket or --url"));
        }
        (None, Some(path), None) => return Ok(Target::Socket(path.into())),
        (None, None, url) => url,
    };
    match (url, env("TOLLGATE_ADMIN_KEY"), env("TOLLGATE_CONFIG")) {
        (Some(url), Some(key), _) => {
            let base = safe_url(&url, args.plaintext)?;
            Ok(Target::Http { base, proof: Some(Proof::Key(Zeroizing::new(key))), ca: args.ca.clone() })
        }
        (Some(url), None, _) => {
            let base = safe_url(&url, args.plaintext)?;
            match session()? {
                Some(session) if parse_url(&session.url)? == base => of_session(session, args),
                _ => Err(Failure::usage(
                    "a URL needs an administrative key in the environment (TOLLGATE_ADMIN_KEY), or a login: run \
                     `tollgate login --url URL`",
                )),
            }
        }
        (None, _, Some(file)) => socket_of_file(Some(Path::new(&file))).map(Target::Socket),
        (None, _, None) => match session()? {
            Some(session) => of_session(session, args),
            None => socket_of_file(None).map(Target::Socket),
        },
    }
}

/// The server that a login was made at.
fn of_session(session: Session, args: &ConnectArgs) -> Result<Target, Failure> {
    if session.is_over() {
        return Err(Failure::new(Exit::Refused, "your login has expired: run `tollgate login`"));
    }
    let base = safe_url(&session.url, session.plaintext || args.plaintext)?;
    let ca = args.ca.clone().or(session.ca);
    Ok(Target::Http { base, proof: Some(Proof::Session(session.token.0)), ca })
}

/// The root of an admin API that a credential may be sent to.
///
/// # Errors
/// A usage failure if it is none, or if the credential would cross a network in clear.
pub fn safe_url(url: &str, plaintext: bool) -> Result<Base, Failure> {
    let base = parse_url(url)?;
    let is_local = base.host == "localhost" || base.host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    if base.tls || is_local || plaintext {
        return Ok(base);
    }
    Err(Failure::usage(
        "the credential would cross the network in clear: use an https URL, or say --plaintext if you know the way is safe",
    ))
}

fn parse_url(url: &str) -> Result<Base, Failure> {
    let wrong = || Failure::usage("the URL must be http://HOST[:PORT] or https://HOST[:PORT], with a path if need be");
    let uri: Uri = url.parse().map_err(|_| wrong())?;
    let tls = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(wrong()),
    };
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@')).ok_or_else(wrong)?;
    if uri.query().is_some() {
        return Err(wrong());
    }
    let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = authority.port_u16().unwrap_or(if tls { 443 } else { 80 });
    let path = uri.path().trim_end_matches('/').to_owned();
    Ok(Base { tls, host, port, authority: authority.to_string(), path })
}

/// As much of the file as is needed to reach the server; whatever else stands in it may be wrong at the moment, and a key
/// must be revocable even then.
#[derive(Default, Deserialize)]
struct Peek {
    listen: Option<PeekListen>,
}

#[derive(Default, Deserialize)]
struct PeekListen {
    admin: Option<PeekAdmin>,
}

#[derive(Default, Deserialize)]
struct PeekAdmin {
    unix: Option<PeekUnix>,
}

#[derive(Default, Deserialize)]
struct PeekUnix {
    path: Option<PathBuf>,
}

fn socket_of_file(named: Option<&Path>) -> Result<PathBuf, Failure> {
    let path = named.unwrap_or(Path::new(DEFAULT_CONFIG));
    let wrong = |problem: String| {
        let hint = "say --socket if you know where the server listens";
        Failure::new(Exit::Configuration, format!("{}: {problem}; {hint}", path.display()))
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => return Ok(DEFAULT_SOCKET.into()),
        Err(error) => return Err(wrong(error.to_string())),
    };
    let peek: Peek = serde_saphyr::from_str(&text).map_err(|error| wrong(error.to_string()))?;
    let path = peek.listen.and_then(|listen| listen.admin?.unix?.path);
    Ok(path.unwrap_or_else(|| DEFAULT_SOCKET.into()))
}

#[cfg(test)]
mod tests {
    use super::super::session::Token;
    use super::*;

    fn located(args: &ConnectArgs, env: &[(&str, &str)]) -> Result<String, Exit> {
        let value = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        match locate(args, value, || Ok(None)) {
            Ok(Target::Socket(path)) => Ok(path.display().to_string()),
            Ok(Target::Http { base, .. }) => Ok(format!("{}:{}{}", base.host, base.port, base.path)),
            Err(failure) => Err(failure.exit),
        }
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_that_over_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("tollgate.yaml");
        std::fs::write(&file, "version: 1\nwrong: [\"but\", no, matter]\nlisten: {admin: {unix: {path: /f.sock}}}\n")
            .unwrap();
        let config = ("TOLLGATE_CONFIG", file.to_str().unwrap());
        let env = [("TOLLGATE_SOCKET", "/e.sock"), ("TOLLGATE_ADMIN_KEY", "k"), config];
        let none = ConnectArgs::default();
        assert_eq!(located(&none, &[config]), Ok("/f.sock".to_owned()));
        assert_eq!(located(&none, &[("TOLLGATE_SOCKET", ""), config]), Ok("/f.sock".to_owned()));
        assert_eq!(located(&none, &env), Ok("/e.sock".to_owned()));
        let by_url = ConnectArgs { url: Some("https://api.example.com/tollgate/".to_owned()), ..none.clone() };
        assert_eq!(located(&by_url, &env), Ok("api.example.com:443/tollgate".to_owned()));
        let by_socket = ConnectArgs { socket: Some("/flag.sock".into()), ..none.clone() };
        assert_eq!(located(&by_socket, &env), Ok("/flag.sock".to_owned()));
        let mut by_file = ConnectArgs { config: Some(file.clone()), ..none };
        assert_eq!(located(&by_file, &env), Ok("/f.sock".to_owned()), "a file that was named is a flag too");
        std::fs::write(&file, "listen: {}").unwrap();
        assert_eq!(located(&by_file, &[]), Ok(DEFAULT_SOCKET.to_owned()));
        std::fs::write(&file, "a: [").unwrap();
        assert_eq!(located(&by_file, &[]), Err(Exit::Configuration));
        by_file.config = Some(folder.path().join("none"));
        assert_eq!(located(&by_file, &[]), Err(Exit::Configuration));
    }

    #[test]
    fn a_url_needs_a_key_and_a_safe_way() {
        let at = |url: &str, plaintext| ConnectArgs { url: Some(url.to_owned()), plaintext, ..ConnectArgs::default() };
        let key = [("TOLLGATE_ADMIN_KEY", "k")];
        assert_eq!(located(&at("http://127.0.0.1:9181", false), &key), Ok("127.0.0.1:9181".to_owned()));
        assert_eq!(located(&at("http://[::1]:9181", false), &key), Ok("::1:9181".to_owned()));
        assert_eq!(located(&at("http://10.0.0.1", false), &key), Err(Exit::Usage));
        assert_eq!(located(&at("http://10.0.0.1", true), &key), Ok("10.0.0.1:80".to_owned()));
        assert_eq!(located(&at("https://a", false), &[]), Err(Exit::Usage));
        for bad in ["a", "/a", "ftp://a", "https://u:p@a", "https://a?b=c", "https://"] {
            assert_eq!(located(&at(bad, false), &key), Err(Exit::Usage), "{bad}");
        }
        let both = [("TOLLGATE_SOCKET", "/e"), ("TOLLGATE_ADMIN_URL", "https://a"), key[0]];
        assert_eq!(located(&ConnectArgs::default(), &both), Err(Exit::Usage));
        assert_eq!(located(&ConnectArgs::default(), &both[1..]), Ok("a:443".to_owned()));
    }

    #[test]
    fn a_login_stands_between_the_environment_and_the_file() {
        let session = |url: &str, expires_at: &str| Session {
            url: url.to_owned(),
            token: Token(Zeroizing::new("t".to_owned())),
            expires_at: expires_at.to_owned(),
            username: "alice".to_owned(),
            ca: None,
            plaintext: false,
        };
        let at = |args: &ConnectArgs, env: &[(&str, &str)], expires_at: &str| {
            let value = |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
            match locate(args, value, || Ok(Some(session("https://s.example", expires_at)))) {
                Ok(Target::Socket(path)) => Ok(path.display().to_string()),
                Ok(Target::Http { base, proof: Some(Proof::Session(_)), .. }) => Ok(format!("session {}", base.host)),
                Ok(Target::Http { base, .. }) => Ok(base.host),
                Err(failure) => Err(failure.exit),
            }
        };
        let (later, none) = ("2999-01-01T00:00:00Z", ConnectArgs::default());
        let to = |url: &str| ConnectArgs { url: Some(url.to_owned()), ..ConnectArgs::default() };
        assert_eq!(at(&none, &[], later), Ok("session s.example".to_owned()));
        assert_eq!(at(&none, &[("TOLLGATE_SOCKET", "/e")], later), Ok("/e".to_owned()));
        let url = [("TOLLGATE_ADMIN_URL", "https://e.example"), ("TOLLGATE_ADMIN_KEY", "k")];
        assert_eq!(at(&none, &url, later), Ok("e.example".to_owned()));
        assert_eq!(at(&to("https://s.example/"), &[], later), Ok("session s.example".to_owned()));
        assert_eq!(at(&to("https://s.example/"), &url[1..], later), Ok("s.example".to_owned()));
        assert_eq!(at(&to("https://other.example"), &[], later), Err(Exit::Usage), "never to another server");
        assert_eq!(at(&none, &[], "2026-01-01T00:00:00Z"), Err(Exit::Refused));
    }
}
