//! Serves the doors of the admin API, and notes where each request came from. Never decides who may come in.

use std::future::Future;
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::serve::Listener;
use hyper::body::Incoming;
use tokio::net::{TcpListener, UnixListener};
use tower::ServiceExt;

use crate::server::http::{self, Limits};

/// Where a request came from, for logs: an address, or the user of the process at the other end of a socket.
#[derive(Clone, Debug, Default)]
pub struct Peer(pub String);

const LIMITS: Limits = Limits { connections: 256, head_time: Duration::from_secs(10), drain: Duration::from_secs(12) };

/// Serves a door over TCP until `shutdown`, then finishes what is under way.
pub async fn serve_tcp(listener: TcpListener, router: Router, shutdown: impl Future<Output = ()> + Send) {
    serve(listener, router, shutdown, |_, address| address.to_string()).await;
}

/// Serves a door over a Unix socket, as [`serve_tcp`].
pub async fn serve_unix(listener: UnixListener, router: Router, shutdown: impl Future<Output = ()> + Send) {
    let user = |stream: &tokio::net::UnixStream, _: &_| match stream.peer_cred() {
        Ok(user) => format!("uid:{}", user.uid()),
        Err(_) => String::new(),
    };
    serve(listener, router, shutdown, user).await;
}

async fn serve<L: Listener>(
    listener: L,
    router: Router,
    shutdown: impl Future<Output = ()> + Send,
    peer: impl Fn(&L::Io, &L::Addr) -> String,
) {
    let service = |stream: &L::Io, address: &L::Addr| {
        let peer = Peer(peer(stream, address));
        router.clone().map_request(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(peer.clone());
            request
        })
    };
    if let Err(connections) = http::serve(listener, LIMITS, shutdown, service).await {
        tracing::warn!(connections, "admin connections were still open at the end");
    }
}
