//! Where a Redis store is and how to get in, in words: addresses and names of files. Opens and reads nothing, and never
//! holds a secret.

use std::fmt;
use std::path::PathBuf;

/// Where the store is, as the configuration says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    pub topology: Topology,
    pub login: Login,
    /// `None`: plaintext.
    pub tls: Option<TlsFiles>,
    /// How many replicas must confirm each write.
    pub replicas: u32,
    /// Whether a service may make another server the primary without telling.
    pub is_managed: bool,
}

impl Location {
    /// One server without a login.
    pub fn single(address: Address) -> Self {
        Self { topology: Topology::Single(address), login: Login::default(), tls: None, replicas: 0, is_managed: false }
    }

    /// Whether nobody on the way can listen.
    pub fn is_private(&self) -> bool {
        let addresses = match &self.topology {
            Topology::Single(address) => std::slice::from_ref(address),
            Topology::Sentinel { sentinels, .. } => sentinels,
            Topology::Cluster(seeds) => seeds,
        };
        self.tls.is_some() || addresses.iter().all(Address::is_local)
    }
}

/// How the servers are arranged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Topology {
    Single(Address),
    Sentinel {
        sentinels: Vec<Address>,
        /// The name that the sentinels know the primary by.
        master: String,
        /// For the sentinels themselves.
        login: Login,
    },
    /// Some of its nodes, from which the others are learnt.
    Cluster(Vec<Address>),
}

impl Topology {
    /// Its word in the configuration.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Single(_) => "url",
            Self::Sentinel { .. } => "sentinel",
            Self::Cluster(_) => "cluster",
        }
    }
}

/// Without what is a matter of login, so that one store is always told in the same words.
impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sorted = |addresses: &[Address]| {
            let mut addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            addresses.sort();
            addresses.join(", ")
        };
        match self {
            Self::Single(address) => write!(f, "{address}"),
            Self::Sentinel { sentinels, master, .. } => write!(f, "{master} at the sentinels {}", sorted(sentinels)),
            Self::Cluster(seeds) => write!(f, "the Cluster of {}", sorted(seeds)),
        }
    }
}

/// Who we are to a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// `None`: the default user.
    pub username: Option<String>,
    /// The file that holds the password.
    pub password: Option<PathBuf>,
}

/// What TLS is checked and spoken with. PEM files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// The authority of the servers; `None`: those of the system.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key, for servers that ask for one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// A server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    Tcp { host: String, port: u16 },
    Unix(PathBuf),
}

impl Address {
    /// `host:port`, with brackets around an IPv6 address; the port may be left out.
    pub fn tcp(text: &str, default_port: u16) -> Option<Self> {
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, port)) => {
                host.parse::<std::net::Ipv6Addr>().ok()?;
                (host, port)
            }
            None => text.split_at(text.find(':').unwrap_or(text.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => digits.parse().ok()?,
            None if port.is_empty() => default_port,
            _ => return None,
        };
        let named = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
        let sound = matches!(host.len(), 1..=253) && host.bytes().all(named);
        (sound && port != 0).then(|| Self::Tcp { host: host.to_owned(), port })
    }

    /// Whether what is sent there stays on this machine.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { host, .. } => {
                host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_and_print_alike() {
        for (text, printed) in [
            ("a:1", "a:1"),
            ("redis-0.example.com", "redis-0.example.com:6379"),
            ("127.0.0.1:7000", "127.0.0.1:7000"),
            ("[::1]:7000", "[::1]:7000"),
            ("[::1]", "[::1]:6379"),
        ] {
            assert_eq!(Address::tcp(text, 6379).unwrap().to_string(), printed);
        }
        for bad in
            ["", ":1", "a:", "a:0", "a:65536", "a:+1", "::1", "[a]:1", "[::1]1", "a b:1", "u@a:1", "a:1/0", "a:1:2"]
        {
            assert_eq!(Address::tcp(bad, 6379), None, "{bad}");
        }
    }

    #[test]
    fn what_stays_on_the_machine() {
        for (text, local) in [("localhost:1", true), ("127.0.0.2:1", true), ("[::1]:1", true), ("10.0.0.1:1", false)] {
            assert_eq!(Address::tcp(text, 6379).unwrap().is_local(), local, "{text}");
        }
        assert!(Address::Unix("/run/redis.sock".into()).is_local());
    }
}
