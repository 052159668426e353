//! The check listener: sockets, connections and their limits, and an orderly end. Knows nothing of what a check says.
//!
//! One current-thread runtime a worker: a check that the cache answers never leaves the thread its bytes arrived on.

mod connection;
mod grpc;
mod others;
mod reflection;
mod reply;
mod stream;
mod tls;
mod wiped;

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::{UnixListener, UnixStream};
use std::pin::pin;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use futures_util::future::select_all;
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;

use super::budget::Budget;
use super::ext_authz::{CheckService, SERVICE};
use super::places::{ConnectionLimits, PeerStage, Place, Places};
use super::socket::{self, SocketFile};
use super::turns::{self, LoadProbe, Turns};
use crate::config::CheckAddress;
use crate::resolve::jwt::inline;
use crate::tasks::{Down, Task};
use grpc::{Calls, Peer};

/// Half of the places are kept for peers that are known.
const CONNECTION_LIMITS: ConnectionLimits =
    ConnectionLimits { places: 1024, strangers: 512, share: 64, cuts_answers: true };
/// Whoever may open the socket is known, once it has said something.
const UNIX_CONNECTION_LIMITS: ConnectionLimits = ConnectionLimits { strangers: 1024, share: 1024, ..CONNECTION_LIMITS };
/// Look-ups in the store that a worker has under way at a time. Each thread keeps memory of its own; more wait their turn.
const BLOCKING_THREADS: usize = 8;
/// Connections that a worker begins between two looks at what has come in: as many as have a turn then, so that they do not pile up.
const NEWCOMERS: usize = turns::ARRIVING;
/// What of its answers a peer may leave with the system; a peer that reads has room for hundreds.
const UNREAD: usize = 256 << 10;
/// How long a connection waits for the worker whose turn it is, before another one gets it.
const WORKER_PAUSE: Duration = Duration::from_millis(10);
/// After the system refused to accept, as when there are no file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often health follows the lease, and it is looked whether the file of the socket is still there.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How the service is served.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Threads that answer checks.
    pub workers: usize,
    /// How long calls in flight may take to finish once the listener is to stop.
    pub drain: Duration,
    /// Whether clients may ask what the service looks like.
    pub reflection: bool,
}

/// The socket that Envoy connects to.
pub struct CheckListener {
    socket: Listening,
    tls: Option<TlsAcceptor>,
}

impl std::fmt::Debug for CheckListener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CheckListener").field("socket", &self.socket).finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum Listening {
    /// The file is dropped first, while nobody can take its path.
    Unix(SocketFile, UnixListener),
    Tcp(std::net::TcpListener),
}

#[derive(Debug)]
enum Accepted {
    Unix(UnixStream),
    Tcp(std::net::TcpStream, Option<IpAddr>),
}

impl Accepted {
    fn peer(&self) -> Option<IpAddr> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp(_, peer) => *peer,
        }
    }
}

impl CheckListener {
    /// Binds the socket and reads the files of TLS. Clients may connect from now on, and wait until it is served.
    ///
    /// # Errors
    /// What [`socket::bind`] or the system says; [`io::ErrorKind::InvalidInput`] with the TLS file at fault.
    pub fn bind(address: &CheckAddress) -> io::Result<Self> {
        match address {
            CheckAddress::Unix(address) => {
                let (listener, file) = socket::bind(address)?;
                Ok(Self { socket: Listening::Unix(file, listener), tls: None })
            }
            CheckAddress::Tcp { address, tls } => {
                let tls = tls.as_ref().map(tls::server_config).transpose()?;
                let socket = Listening::Tcp(socket::bind_tcp(*address, Some(UNREAD))?);
                Ok(Self { socket, tls: tls.map(|config| TlsAcceptor::from(Arc::new(config))) })
            }
        }
    }

    /// The address and port in use; `None` for a Unix socket.
    pub fn local_address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Listening::Unix(..) => None,
            Listening::Tcp(listener) => listener.local_addr().ok(),
        }
    }

    /// Serves until `shutdown`. Then health turns `NOT_SERVING`, nothing more is accepted, clients are told to go away, and
    /// calls in flight finish, before it returns. Without a lease the service is `NOT_SERVING` as well, and the process, whose
    /// name is empty, is not: Envoy asks another replica if there is one, and this one if there is none.
    ///
    /// # Errors
    /// If a thread cannot be started, or ended by itself.
    pub async fn serve(
        self,
        service: CheckService,
        options: Options,
        budget: Arc<Budget>,
        shutdown: impl Future<Output = ()>,
    ) -> io::Result<()> {
        let (health, routes) = other_services(options.reflection).await?;
        let stop = CancellationToken::new();
        let settings = Settings {
            service: service.clone(),
            routes,
            tls: self.tls,
            drain: options.drain,
            stop: stop.clone(),
            budget,
        };
        let mut workers = Workers::start(options.workers.max(1), &settings)?;
        let mut acceptor = Acceptor::new(self.socket)?;
        let (socket, mut missing) = (service.tasks().task("check_socket"), None);
        let places = Places::new(acceptor.room());
        let (mut is_well, mut look) = (true, interval(LOOK_EVERY));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);

        let mut shutdown = pin!(shutdown);
        loop {
            tokio::select! {
                biased;
                () = &mut shutdown => break,
                _ = look.tick() => {
                    if service.is_leased() != is_well {
                        is_well = !is_well;
                        let status = if is_well { ServingStatus::Serving } else { ServingStatus::NotServing };
                        health.set_service_status(SERVICE, status).await;
                    }
                    let waiting = acceptor.look_after(&socket, &mut missing);
                    workers.hand_over_all(waiting, &places).await;
                }
                (room, accepted) = async { (workers.room().await, acceptor.accept().await) } => match accepted {
                    Ok(accepted) => hand_over(accepted, &places, room),
                    Err(error) => {
                        tracing::warn!(%error, "a connection was not accepted");
                        tokio::select! {
                            () = &mut shutdown => break,
                            () = sleep(ACCEPT_PAUSE) => {}
                        }
                    }
                },
            }
        }

        for name in ["", SERVICE] {
            health.set_service_status(name, ServingStatus::NotServing).await;
        }
        // Who has connected already is served as well.
        workers.hand_over_last(acceptor.close(), &places, settings.drain).await;
        stop.cancel();
        workers.join().await
    }
}

/// Health, and reflection when it is asked for.
async fn other_services(reflection: bool) -> io::Result<(HealthReporter, Routes)> {
    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_service_status(SERVICE, ServingStatus::Serving).await;
    let mut routes = Routes::new(health);
    if reflection {
        routes = reflection::add(routes).map_err(io::Error::other)?;
    }
    Ok((reporter, routes.prepare()))
}

/// The socket, in the runtime that accepts.
enum Acceptor {
    Unix(SocketFile, tokio::net::UnixListener),
    Tcp(tokio::net::TcpListener),
}

impl Acceptor {
    fn new(socket: Listening) -> io::Result<Self> {
        match socket {
            Listening::Unix(file, listener) => Ok(Self::Unix(file, tokio::net::UnixListener::from_std(listener)?)),
            Listening::Tcp(listener) => Ok(Self::Tcp(tokio::net::TcpListener::from_std(listener)?)),
        }
    }

    async fn accept(&self) -> io::Result<Accepted> {
        match self {
            Self::Unix(_, listener) => Ok(Accepted::Unix(listener.accept().await?.0.into_std()?)),
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok(Accepted::Tcp(stream.into_std()?, Some(peer.ip())))
            }
        }
    }

    fn room(&self) -> ConnectionLimits {
        match self {
            Self::Unix(..) => UNIX_CONNECTION_LIMITS,
            Self::Tcp(_) => CONNECTION_LIMITS,
        }
    }

    /// Makes a Unix socket anew if somebody has removed its file, and gives who waits at the old one. While it cannot be made,
    /// `task` is told that it is down.
    fn look_after(&mut self, task: &Task, missing: &mut Option<Down>) -> Vec<Accepted> {
        let Self::Unix(file, listener) = self else { return Vec::new() };
        if file.is_in_place() {
            *missing = None;
            return Vec::new();
        }
        let again = file.bind_again().and_then(tokio::net::UnixListener::from_std);
        let path = file.path().display();
        match again {
            Ok(again) => {
                tracing::warn!(%path, "the check socket was removed, and is made anew");
                *missing = None;
                waiting_at(std::mem::replace(listener, again))
            }
            Err(error) => {
                missing.get_or_insert_with(|| {
                    tracing::error!(%path, %error, "the check socket was removed, and cannot be made anew: trying until it can");
                    task.stopped()
                });
                Vec::new()
            }
        }
    }

    /// Closes the socket and gives what waited to be accepted.
    fn close(self) -> Vec<Accepted> {
        let mut waiting = Vec::new();
        match self {
            Self::Unix(file, listener) => {
                drop(file);
                waiting.extend(waiting_at(listener));
            }
            Self::Tcp(listener) => {
                if let Ok(listener) = listener.into_std() {
                    waiting.extend(std::iter::from_fn(|| Some(Accepted::Tcp(listener.accept().ok()?.0, None))));
                }
            }
        }
        waiting
    }
}

/// Who has connected to a Unix socket that is closed with this.
fn waiting_at(listener: tokio::net::UnixListener) -> Vec<Accepted> {
    let Ok(listener) = listener.into_std() else { return Vec::new() };
    std::iter::from_fn(|| Some(Accepted::Unix(listener.accept().ok()?.0))).collect()
}

/// What every worker is given.
#[derive(Clone)]
struct Settings {
    service: CheckService,
    routes: Routes,
    tls: Option<TlsAcceptor>,
    drain: Duration,
    stop: CancellationToken,
    budget: Arc<Budget>,
}

type Handover = (Accepted, Place);

/// The threads that answer checks, each with its own runtime.
struct Workers {
    threads: Vec<(mpsc::Sender<Handover>, JoinHandle<()>)>,
    next: usize,
}

/// For one connection, at a worker that has heard whoever it was given before; `None` if there are no workers any more.
type WorkersRoom = Option<mpsc::OwnedPermit<Handover>>;

impl Workers {
    fn start(count: usize, settings: &Settings) -> io::Result<Self> {
        let start = |index: usize| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .max_blocking_threads(BLOCKING_THREADS)
                .on_thread_park(inline::begin_turn)
                .enable_all()
                .build()?;
            let (sender, mut receiver) = mpsc::channel(NEWCOMERS);
            let (settings, task) = (settings.clone(), settings.service.tasks().task("check_worker"));
            let thread = std::thread::Builder::new().name(format!("check-{index}")).spawn(move || {
                task.keep_blocking(|| runtime.block_on(work(&mut receiver, settings.clone())));
                // A look-up that a broken disk holds up does not hold up the end.
                runtime.shutdown_background();
            })?;
            Ok((sender, thread))
        };
        Ok(Self { threads: (0..count).map(start).collect::<io::Result<_>>()?, next: 0 })
    }

    /// Whoever comes faster than the workers hear them waits where the system keeps those who were not accepted yet, in the order in
    /// which they came: there nobody's place is taken away for the next.
    async fn room(&mut self) -> WorkersRoom {
        let at = self.next % self.threads.len();
        let in_turn = timeout(WORKER_PAUSE, self.threads[at].0.clone().reserve_owned());
        let room = match in_turn.await {
            Ok(room) => room,
            Err(_) => {
                select_all(self.threads.iter().map(|(sender, _)| Box::pin(sender.clone().reserve_owned()))).await.0
            }
        };
        self.next = self.next.wrapping_add(1);
        room.ok()
    }

    async fn hand_over_all(&mut self, waiting: Vec<Accepted>, places: &Arc<Places>) {
        for accepted in waiting {
            hand_over(accepted, places, self.room().await);
        }
    }

    /// As [`Workers::hand_over_all`], but a worker that hears nobody holds up no end.
    async fn hand_over_last(&mut self, waiting: Vec<Accepted>, places: &Arc<Places>, drain: Duration) {
        if timeout(drain, self.hand_over_all(waiting, places)).await.is_err() {
            tracing::warn!("connections that waited to be served were closed");
        }
    }

    async fn join(self) -> io::Result<()> {
        let (senders, threads): (Vec<_>, Vec<_>) = self.threads.into_iter().unzip();
        drop(senders);
        let joined = tokio::task::spawn_blocking(|| {
            // Every thread is waited for, also behind one that panicked.
            threads.into_iter().map(JoinHandle::join).fold(true, |all, joined| all & joined.is_ok())
        });
        match joined.await {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => Err(io::Error::other("a thread that answers checks has panicked")),
        }
    }
}

/// Gives a connection to a worker, or closes it if there are too many.
fn hand_over(accepted: Accepted, places: &Arc<Places>, room: WorkersRoom) {
    let Some(place) = places.enter(accepted.peer()) else {
        tracing::warn!(limit = CONNECTION_LIMITS.places, "too many connections: one was closed");
        return;
    };
    // A worker ends only when the channel does; if it is gone nevertheless, joining it says so.
    if let Some(room) = room {
        room.send((accepted, place));
    }
}

/// One worker: serves what it is given until there is nothing more to come and nothing left.
async fn work(connections: &mut mpsc::Receiver<Handover>, settings: Settings) {
    let (open, turns) = (TaskTracker::new(), Turns::new());
    let mut newcomers = Vec::new();
    while connections.recv_many(&mut newcomers, NEWCOMERS).await > 0 {
        for (accepted, place) in newcomers.drain(..) {
            let (settings, turns) = (settings.clone(), turns.clone());
            let probe = turns.probe();
            open.spawn(async move {
                let connection = Box::pin(connect(accepted, &place, probe, settings));
                match turns.take_until_taken_away(&place, connection).await {
                    None => tracing::debug!("a connection made room for another one"),
                    // A peer that breaks off, or speaks something else, is its own affair.
                    Some(Err(error)) => tracing::debug!(%error, "a connection could not be set up"),
                    Some(Ok(())) => {}
                }
            });
        }
        // What has come so far is heard before the next ones.
        yield_now().await;
    }
    open.close();
    if timeout(settings.drain, open.wait()).await.is_err() {
        tracing::warn!(connections = open.len(), "calls were still in flight at the end of the drain");
    }
}

async fn connect(accepted: Accepted, place: &Place, probe: LoadProbe, settings: Settings) -> io::Result<()> {
    let Settings { service, routes, tls, drain: _, stop, budget } = settings;
    let stop = stop.child_token();
    let calls = |whoever_speaks| {
        let peer = Peer { account: budget.open(Arc::clone(place.peer_state())), whoever_speaks };
        Arc::new(Calls::new(service, routes, stop.clone(), peer))
    };
    match accepted {
        Accepted::Unix(stream) => {
            stream.set_nonblocking(true)?;
            let stream = tokio::net::UnixStream::from_std(stream)?;
            connection::serve(stream, calls(PeerStage::Known), probe, stop.clone()).await;
        }
        Accepted::Tcp(stream, _) => {
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let stream = tokio::net::TcpStream::from_std(stream)?;
            match tls {
                None => connection::serve(stream, calls(PeerStage::Idle), probe, stop.clone()).await,
                Some(tls) => {
                    let stream = timeout(connection::GREETING_TIME, tls.accept(stream)).await??;
                    // Its certificate was verified.
                    place.peer_state().set(PeerStage::Known);
                    Box::pin(connection::serve(stream, calls(PeerStage::Known), probe, stop.clone())).await;
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
