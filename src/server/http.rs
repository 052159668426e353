//! HTTP/1.1 for the doors that people and programs use: a bounded number of connections, a time limit for each head, an
//! orderly end. Knows no routes.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use axum::serve::Listener;
use hyper::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::sync::Semaphore;
use tower::Service;

/// What one door takes on.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub connections: usize,
    /// For the head of a request, and for a connection without one.
    pub head_time: Duration,
    /// For what is under way when the door is to close.
    pub drain: Duration,
}

/// A place is not held for longer, whatever the client does or leaves undone.
const CONNECTION_LIFE: Duration = Duration::from_secs(300);
/// Bytes of a head, and of what is read ahead of a body.
const BUFFER: usize = 64 << 10;

/// Serves until `shutdown`, then finishes what is under way. `service` makes what answers one connection.
///
/// # Errors
/// The number of connections that were still open at the end of the drain.
pub async fn serve<L, S>(
    mut listener: L,
    limits: Limits,
    shutdown: impl Future<Output = ()>,
    service: impl Fn(&L::Io, &L::Addr) -> S,
) -> Result<(), usize>
where
    L: Listener,
    S: Service<Request<Incoming>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head_time).max_buf_size(BUFFER);
    let room = Arc::new(Semaphore::new(limits.connections));
    let open = GracefulShutdown::new();
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = async {
            let place = Arc::clone(&room).acquire_owned().await;
            (listener.accept().await, place)
        };
        let ((stream, address), place) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = accepted => accepted,
        };
        let service = TowerToHyperService::new(service(&stream, &address));
        let connection = open.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            // A client that breaks off or sends no HTTP is its own affair, and one that stays gives its place back.
            let _ = tokio::time::timeout(CONNECTION_LIFE, connection).await;
            drop(place);
        });
    }
    drop(listener);
    let still_open = limits.connections - room.available_permits();
    tokio::time::timeout(limits.drain, open.shutdown()).await.map_err(|_| still_open)
}
