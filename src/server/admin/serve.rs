//! Serves the doors of the admin API, and notes where each request came from. Never decides who may come in.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::serve::Listener;
use futures_util::FutureExt;
use tokio::net::{TcpListener, UnixListener};
use tower::ServiceExt;

use super::Door;
use crate::server::budget::Budget;
use crate::server::http::{self, Answering, CONNECTION_LIFE, Limits};
use crate::server::places::ConnectionLimits;
use crate::server::runtime::{self, Crowd};
use crate::server::socket::SocketFile;

/// Where a request came from, for logs: an address, or the user of the process at the other end of a socket.
#[derive(Clone, Debug, Default)]
pub struct Peer(pub String);

const CONNECTION_LIMITS: ConnectionLimits =
    ConnectionLimits { places: 256, strangers: 256, share: 32, cuts_answers: false };
const LIMITS: Limits = Limits {
    room: CONNECTION_LIMITS,
    head_time: Duration::from_secs(10),
    buffer: 64 << 10,
    life: CONNECTION_LIFE,
    drain: Duration::from_secs(12),
};

/// Serves a door over TCP until `shutdown`, then finishes what is under way; on a thread of its own. What comes back is told
/// when it has ended.
///
/// # Errors
/// If the system gives no thread.
pub fn start_tcp(
    listener: std::net::TcpListener,
    door: Door,
    router: Router,
    budget: Arc<Budget>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<runtime::End> {
    let from = move |_: &_, address: &SocketAddr| {
        // All that come through Envoy have its address, until a head says for whom it speaks.
        (address.to_string(), (door != Door::ThroughEnvoy).then(|| address.ip()))
    };
    runtime::run_apart("admin", Crowd::Anybody, move || async move {
        match TcpListener::from_std(listener) {
            Ok(listener) => serve(listener, LIMITS, router, budget, shutdown, from).await,
            Err(error) => tracing::error!(%error, "a door of the admin API could not be served"),
        }
    })
}

/// The operator may take a copy of a large store, at the pace of whatever it is written to.
const OPERATORS_LIMITS: Limits = Limits { life: Duration::from_secs(3600), ..LIMITS };

/// How often it is tried to make a socket anew that was removed.
const REMAKE_EVERY: Duration = Duration::from_secs(1);

/// Serves the operator's door, as [`start_tcp`], with memory of its own. If somebody removes its file it is made anew.
///
/// # Errors
/// If the system gives no thread.
pub fn start_unix(
    listener: std::os::unix::net::UnixListener,
    file: SocketFile,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<runtime::End> {
    let from = |stream: &tokio::net::UnixStream, _: &_| {
        let user = stream.peer_cred().map(|user| format!("uid:{}", user.uid()));
        (user.unwrap_or_default(), None)
    };
    let budget = Budget::new();
    runtime::run_apart("operator", Crowd::Operator, move || async move {
        let (shutdown, mut listener, mut file) = (shutdown.shared(), listener, file);
        loop {
            let until = async {
                tokio::select! {
                    () = shutdown.clone() => {}
                    () = file.gone() => {}
                }
            };
            match UnixListener::from_std(listener) {
                Ok(listener) => {
                    serve(listener, OPERATORS_LIMITS, router.clone(), Arc::clone(&budget), until, from).await;
                }
                Err(error) => return tracing::error!(%error, "the admin socket could not be served"),
            }
            listener = tokio::select! {
                biased;
                () = shutdown.clone() => return,
                again = remake(&mut file) => again,
            };
        }
    })
}

/// The socket once more, as soon as there is room for it.
async fn remake(file: &mut SocketFile) -> std::os::unix::net::UnixListener {
    let path = file.path().display().to_string();
    let mut has_complained = false;
    loop {
        match file.bind_again() {
            Ok(listener) => {
                tracing::warn!(path, "the admin socket was removed, and is made anew");
                return listener;
            }
            Err(error) if !std::mem::replace(&mut has_complained, true) => {
                tracing::error!(path, %error, "the admin socket was removed, and cannot be made anew: trying until it can");
            }
            Err(_) => {}
        }
        tokio::time::sleep(REMAKE_EVERY).await;
    }
}

async fn serve<L: Listener>(
    listener: L,
    limits: Limits,
    router: Router,
    budget: Arc<Budget>,
    shutdown: impl Future<Output = ()> + Send,
    from: impl Fn(&L::Io, &L::Addr) -> (String, Option<IpAddr>),
) {
    let arrive = |stream: &L::Io, address: &L::Addr| {
        let (name, peer) = from(stream, address);
        let name = Peer(name);
        let service = router.clone().map_request(move |mut request: Request<Body>| {
            request.extensions_mut().insert(name.clone());
            request
        });
        Answering { service, peer }
    };
    if let Err(connections) = http::serve(listener, limits, budget, shutdown, arrive).await {
        tracing::warn!(connections, "admin connections were still open at the end");
    }
}
