//! From a place to a connection: single server, Sentinel or Cluster. Never takes a server's role on trust, never remembers who
//! the primary was, and never puts a secret or what a server said during a login into an error.

use std::fmt;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::io::tcp::TcpSettings;
use redis::io::tcp::socket2::{SockRef, TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Cmd, ConnectionAddr, ErrorKind, Pipeline, RedisError, RedisFuture, RedisResult, TlsMode,
    Value, cmd, from_redis_value,
};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tollgate_guard::protocol::Term;

use super::access::{Access, Tls};
use super::connection::Connection;
use super::location::{Address, Location, Login, Topology};
use crate::store::StoreError;

/// How long one server may take until it has said that it is the primary.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// How long an answer may take, unless the user of the connection says another time.
const RESPONSE_LIMIT: Duration = Duration::from_secs(1);
/// What was sent and not confirmed for so long ends the connection.
const USER_TIMEOUT: Duration = Duration::from_secs(3);
/// How much later each further seed is asked: one that hangs delays nothing for longer.
const SEED_STAGGER: Duration = Duration::from_millis(100);
/// How much later than the first of them all sentinels must have answered that count.
const LATER_ANSWERS: Duration = Duration::from_millis(200);
/// The slot of `{tg}`, in which all records are.
const SLOT: u64 = 6364;
const REDIS_PORT: u16 = 6379;

/// Makes connections to where the store is. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Connector(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    location: Location,
    access: Access,
    /// For the sentinels.
    sentinel_access: Access,
    tls: Option<Tls>,
}

/// What a server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Primary,
    Replica,
    Sentinel,
}

impl Connector {
    /// Reads the password and the certificates. Connects to nothing.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] with the file at fault.
    pub fn open(location: Location) -> Result<Self, StoreError> {
        let sentinel_login = match &location.topology {
            Topology::Sentinel { login, .. } => login.clone(),
            Topology::Single(_) | Topology::Cluster(_) => Login::default(),
        };
        Ok(Self(Arc::new(Inner {
            access: Access::read(&location.login)?,
            sentinel_access: Access::read(&sentinel_login)?,
            tls: location.tls.as_ref().map(Tls::read).transpose()?,
            location,
        })))
    }

    /// One server without a login: `host:port` or `unix:/path`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if this is no address.
    pub fn single(address: &str) -> Result<Self, StoreError> {
        let found = match address.strip_prefix("unix:") {
            Some(path) => Some(Address::Unix(path.into())),
            None => Address::tcp(address, REDIS_PORT),
        };
        let address = found.ok_or_else(|| StoreError::Unavailable(format!("`{address}` is no address of a server")))?;
        Self::open(Location::single(address))
    }

    pub fn location(&self) -> &Location {
        &self.0.location
    }

    /// How many replicas must confirm a write.
    pub fn replicas(&self) -> u32 {
        self.0.location.replicas
    }

    /// A new connection to the primary of the slot of `{tg}`, which it has just said that it is.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] with each server that was tried, and what to do.
    pub async fn primary(&self) -> Result<Connection, StoreError> {
        match &self.0.location.topology {
            Topology::Single(address) => self.primary_at(address).await,
            Topology::Sentinel { sentinels, master, .. } => {
                through_any(sentinels, |sentinel| async move {
                    let address = self.primary_by_sentinel(sentinel, master).await?;
                    self.primary_at(&address).await
                })
                .await
            }
            Topology::Cluster(seeds) => {
                through_any(seeds, |seed| async move {
                    let address = self.primary_by_node(seed).await?;
                    self.primary_at(&address).await
                })
                .await
            }
        }
    }

    /// A connection for keys that lie on all nodes of a Cluster; otherwise one to the primary.
    ///
    /// # Errors
    /// As [`Connector::primary`].
    pub async fn spread(&self) -> Result<Spread, StoreError> {
        let Topology::Cluster(seeds) = &self.0.location.topology else {
            return self.primary().await.map(Spread::One);
        };
        let (access, tls) = (&self.0.access, self.0.tls.as_ref());
        let nodes = seeds.iter().filter_map(|seed| match seed {
            Address::Tcp { host, port } if tls.is_some() => {
                Some(ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None })
            }
            Address::Tcp { host, port } => Some(ConnectionAddr::Tcp(host.clone(), *port)),
            Address::Unix(_) => None,
        });
        let mut client = ClusterClient::builder(nodes)
            .connection_timeout(CONNECT_LIMIT)
            .response_timeout(RESPONSE_LIMIT)
            .tcp_settings(TcpSettings::default().set_nodelay(true).set_user_timeout(USER_TIMEOUT))
            .retries(1);
        if let Some(tls) = tls {
            client = client.tls(TlsMode::Secure).certs(tls.certificates());
        }
        if let Some(username) = access.username() {
            client = client.username(username);
        }
        if let Some(password) = access.password() {
            client = client.password(password);
        }
        let failed = |error: &RedisError| {
            let seeds: Vec<String> = seeds.iter().map(ToString::to_string).collect();
            StoreError::Unavailable(format!("the Cluster of {} {}", seeds.join(", "), explained(error)))
        };
        let client = client.build().map_err(|error| failed(&error))?;
        let connection = timeout(2 * CONNECT_LIMIT, Box::pin(client.get_async_connection())).await;
        let connection = connection.unwrap_or_else(|elapsed| Err(io::Error::from(elapsed).into()));
        connection.map(Spread::Cluster).map_err(|error| failed(&error))
    }

    /// What the sentinels know of the primary: names and values, as the first of them says. `None` without Sentinel.
    pub(super) async fn sentinel_view(&self) -> Option<Result<Vec<(String, String)>, StoreError>> {
        let Topology::Sentinel { sentinels, master, .. } = &self.0.location.topology else { return None };
        let view = through_any(sentinels, |sentinel| async move {
            let view = self.view_of(sentinel, master).await?;
            view.ok_or_else(|| unavailable(sentinel, "does not let this user ask: widen the rules of its ACL"))
        });
        Some(view.await)
    }

    /// What one sentinel knows; `None` if it does not tell this user.
    async fn view_of(&self, sentinel: &Address, master: &str) -> Result<Option<Vec<(String, String)>>, StoreError> {
        let asked = async {
            let mut connection = Box::pin(self.open_node(sentinel, &self.0.sentinel_access)).await?;
            let view = cmd("SENTINEL").arg("MASTER").arg(master).query_async(&mut connection).await;
            told(sentinel, view)
        };
        in_time(sentinel, asked).await
    }

    /// By what the store may have gone back. It rises with each failover where somebody counts them.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if nobody who counts them can be asked.
    pub async fn term(&self) -> Result<Term, StoreError> {
        match &self.0.location.topology {
            Topology::Single(_) if self.0.location.is_managed => Ok(Term::Managed),
            Topology::Single(_) => Ok(Term::Fixed),
            Topology::Sentinel { sentinels, master, .. } => {
                // Each may be the only one that knows of the newest failover yet.
                let views = whoever_answers(sentinels.iter().map(|sentinel| self.view_of(sentinel, master))).await;
                let epoch_in = |view: &Vec<(String, String)>| {
                    view.iter().find(|(name, _)| name == "config-epoch").and_then(|(_, epoch)| epoch.parse().ok())
                };
                let epochs = views.iter().flatten().flatten().filter_map(epoch_in);
                if let Some(epoch) = epochs.max() {
                    return Ok(Term::Epoch(epoch));
                }
                let (silent, told): (Vec<_>, Vec<_>) = views.into_iter().partition(Result::is_err);
                match (silent.into_iter().find_map(Result::err), told.is_empty()) {
                    (Some(error), true) => Err(error),
                    // Those that are silent may tell later.
                    (Some(_), false) => Ok(Term::Untold),
                    (None, _) => Ok(Term::Fixed),
                }
            }
            Topology::Cluster(_) => {
                let mut primary = self.primary().await?;
                let info: Result<String, _> = cmd("CLUSTER").arg("INFO").query_async(&mut primary).await;
                let Some(info) = told(&"the primary", info)? else { return Ok(Term::Fixed) };
                let epoch =
                    info.lines().find_map(|line| line.trim_end().strip_prefix("cluster_my_epoch:")?.parse().ok());
                Ok(epoch.map_or(Term::Fixed, Term::Epoch))
            }
        }
    }

    async fn primary_at(&self, address: &Address) -> Result<Connection, StoreError> {
        let verified = async {
            let mut connection = Box::pin(self.open_node(address, &self.0.access)).await?;
            let role = cmd("ROLE").query_async(&mut connection).await;
            match role.and_then(|answer| role_of(&answer)) {
                Ok(Role::Primary) => Ok(connection),
                Ok(Role::Replica) => Err(unavailable(
                    address,
                    "is a replica, and only the primary tells the truth: give the address of the primary, or let Sentinel \
                     or Cluster find it",
                )),
                Ok(Role::Sentinel) => {
                    Err(unavailable(address, "is a sentinel: give it under `store.redis.sentinel.addresses`"))
                }
                Err(error) => Err(unavailable(address, &explained(&error))),
            }
        };
        in_time(address, verified).await
    }

    async fn primary_by_sentinel(&self, sentinel: &Address, master: &str) -> Result<Address, StoreError> {
        let asked = async {
            let mut connection = Box::pin(self.open_node(sentinel, &self.0.sentinel_access)).await?;
            let address: Option<(String, u16)> = cmd("SENTINEL")
                .arg("GET-MASTER-ADDR-BY-NAME")
                .arg(master)
                .query_async(&mut connection)
                .await
                .map_err(|error| without_command(sentinel, "no sentinel", &error))?;
            match address {
                Some((host, port)) => Ok(Address::Tcp { host, port }),
                None => Err(unavailable(sentinel, &format!("knows no primary named `{master}`"))),
            }
        };
        in_time(sentinel, asked).await
    }

    /// The primary of our slot, as a node of the Cluster sees it.
    async fn primary_by_node(&self, node: &Address) -> Result<Address, StoreError> {
        let asked = async {
            let mut connection = Box::pin(self.open_node(node, &self.0.access)).await?;
            let slots: Vec<Value> =
                cmd("CLUSTER").arg("SLOTS").query_async(&mut connection).await.map_err(|error| {
                    without_command(node, "no node of a Cluster: give it as `store.redis.url`", &error)
                })?;
            slots.into_iter().find_map(|range| owner_of_our_slot(range, node)).ok_or_else(|| {
                unavailable(node, "knows no node for the slot of Tollgate's records: is the Cluster whole?")
            })
        };
        in_time(node, asked).await
    }

    /// A connection to one server, greeted. Nothing is known of its role. Large: whoever may have to connect boxes it.
    async fn open_node(&self, address: &Address, access: &Access) -> Result<Connection, StoreError> {
        let (host, port) = match address {
            Address::Tcp { host, port } => (host, *port),
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| unreachable(address, &error))?;
                return greet(address, stream, access).await;
            }
        };
        let stream = connect_tcp(host, port).await.map_err(|error| unreachable(address, &error))?;
        let Some(tls) = &self.0.tls else { return greet(address, stream, access).await };
        let name = ServerName::try_from(host.clone())
            .map_err(|_| unavailable(address, "has no name that a certificate could have"))?;
        let secured = TlsConnector::from(Arc::clone(&tls.config)).connect(name, stream).await;
        greet(
            address,
            secured.map_err(|error| unavailable(address, &format!("cannot be spoken to over TLS: {error}")))?,
            access,
        )
        .await
    }
}

async fn connect_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(USER_TIMEOUT).with_interval(USER_TIMEOUT))?;
    Ok(stream)
}

async fn greet<S>(address: &Address, stream: S, access: &Access) -> Result<Connection, StoreError>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let config = AsyncConnectionConfig::new().set_response_timeout(Some(RESPONSE_LIMIT));
    let greeted = MultiplexedConnection::new_with_config(&access.greeting(), stream, config).await;
    let (connection, driver) = greeted.map_err(|error| unavailable(address, &explained(&error)))?;
    Ok(Connection::of(connection, driver))
}

/// What all say who answer in time: one that hangs delays those who do not, and whatever waits for them, but little. One that does
/// not tell this user is no reason not to wait for the others.
async fn whoever_answers<T>(
    asked: impl Iterator<Item = impl Future<Output = Result<Option<T>, StoreError>>>,
) -> Vec<Result<Option<T>, StoreError>> {
    let mut asked: FuturesUnordered<_> = asked.collect();
    let (mut answers, mut until) = (Vec::new(), None);
    loop {
        let answer = match until {
            None => asked.next().await,
            Some(until) => timeout_at(until, asked.next()).await.ok().flatten(),
        };
        let Some(answer) = answer else { return answers };
        if matches!(answer, Ok(Some(_))) {
            until.get_or_insert_with(|| Instant::now() + LATER_ANSWERS);
        }
        answers.push(answer);
    }
}

/// The first success over several servers. Each is asked a little later than the one before it.
async fn through_any<'s, T, F>(servers: &'s [Address], ask: impl Fn(&'s Address) -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut asked: FuturesUnordered<_> = (0..)
        .zip(servers)
        .map(|(turn, server)| {
            let answer = ask(server);
            async move {
                sleep(SEED_STAGGER * turn).await;
                answer.await
            }
        })
        .collect();
    let mut failures: Vec<String> = Vec::new();
    while let Some(answer) = asked.next().await {
        match answer {
            Ok(found) => return Ok(found),
            Err(StoreError::Unavailable(problem)) if failures.contains(&problem) => {}
            Err(StoreError::Unavailable(problem)) => failures.push(problem),
            Err(other) => return Err(other),
        }
    }
    Err(StoreError::Unavailable(failures.join("; ")))
}

async fn in_time<T>(address: &Address, work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    match timeout(CONNECT_LIMIT, work).await {
        Ok(done) => done,
        Err(_) => Err(unavailable(address, &format!("did not answer within {} ms", CONNECT_LIMIT.as_millis()))),
    }
}

fn role_of(answer: &Value) -> RedisResult<Role> {
    let word: Option<String> = match answer {
        Value::Array(parts) => parts.first().map(|word| from_redis_value(word.clone())).transpose()?,
        _ => None,
    };
    match word.as_deref() {
        Some("master") => Ok(Role::Primary),
        Some("slave") => Ok(Role::Replica),
        Some("sentinel") => Ok(Role::Sentinel),
        _ => Err((ErrorKind::Parse, "no role").into()),
    }
}

/// `[first, last, [host, port, …], …replicas]`. A node that does not know its own host leaves it empty.
fn owner_of_our_slot(range: Value, asked: &Address) -> Option<Address> {
    let Value::Array(parts) = range else { return None };
    let mut parts = parts.into_iter();
    let first: u64 = from_redis_value(parts.next()?).ok()?;
    let last: u64 = from_redis_value(parts.next()?).ok()?;
    if !(first..=last).contains(&SLOT) {
        return None;
    }
    let Value::Array(primary) = parts.next()? else { return None };
    let mut primary = primary.into_iter();
    let host: Option<String> = from_redis_value(primary.next()?).ok()?;
    let port: u16 = from_redis_value(primary.next()?).ok()?;
    match (host.filter(|host| !host.is_empty() && host != "?"), asked) {
        (Some(host), _) => Some(Address::Tcp { host, port }),
        (None, Address::Tcp { host, .. }) => Some(Address::Tcp { host: host.clone(), port }),
        (None, Address::Unix(_)) => None,
    }
}

/// What a server says, or `None` if it forbids to ask.
fn told<T>(address: &dyn fmt::Display, answer: RedisResult<T>) -> Result<Option<T>, StoreError> {
    match answer {
        Ok(told) => Ok(Some(told)),
        Err(error) if error.code() == Some("NOPERM") => Ok(None),
        Err(error) => Err(StoreError::Unavailable(format!("{address} {}", explained(&error)))),
    }
}

fn unavailable(address: &Address, problem: &str) -> StoreError {
    StoreError::Unavailable(format!("{address} {problem}"))
}

fn unreachable(address: &Address, error: &io::Error) -> StoreError {
    unavailable(address, &format!("cannot be reached: {error}"))
}

/// What a server is not that does not know its command.
fn without_command(address: &Address, kind: &str, error: &RedisError) -> StoreError {
    let problem = if error.code() == Some("ERR") { format!("is {kind}") } else { explained(error) };
    unavailable(address, &problem)
}

/// In our words: a server's may repeat what it was sent, which during a login is the password.
fn explained(error: &RedisError) -> String {
    match (error.kind(), error.code()) {
        (_, Some("NOAUTH")) => {
            "wants a login: give `password`, and `username` if it is not the default user".to_owned()
        }
        (_, Some("NOPERM")) => "does not let this user do what Tollgate needs: widen the rules of its ACL".to_owned(),
        (ErrorKind::AuthenticationFailed, _) | (_, Some("WRONGPASS")) => {
            "refuses the login: compare `username` and the password file with the server's users".to_owned()
        }
        (ErrorKind::Parse, _) => "does not speak as Redis does: is this its port?".to_owned(),
        (_, Some(code)) => format!("answers {code}"),
        _ if error.is_timeout() => "did not answer in time".to_owned(),
        _ if error.is_io_error() => {
            "broke the connection off: is this its port, and does it want TLS (`rediss://`, or `tls: {}`)?".to_owned()
        }
        _ => format!("failed: {}", error.category()),
    }
}

/// A connection for keys that may lie on any node.
#[derive(Clone)]
pub enum Spread {
    One(Connection),
    Cluster(ClusterConnection),
}

impl Spread {
    /// As [`Connection::is_closed`]. One to a Cluster finds its servers again by itself.
    pub(super) fn is_closed(&self) -> bool {
        match self {
            Self::One(connection) => connection.is_closed(),
            Self::Cluster(_) => false,
        }
    }
}

impl fmt::Debug for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::One(_) => "One",
            Self::Cluster(_) => "Cluster",
        })
    }
}

impl ConnectionLike for Spread {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::One(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::One(connection) => connection.req_packed_commands(pipeline, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        0
    }
}
