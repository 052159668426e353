//! HTTP/1.1 for the doors that people and programs use: a bounded number of connections, of which those that say nothing make
//! room for others, a time limit for each head, memory within the [`Budget`], an orderly end. Knows no routes.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::{Body, Bytes};
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::serve::Listener;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio_util::sync::CancellationToken;
use tower::Service;

use super::budget::{Account, Budget, Exhausted, MemoryReservation};
use super::places::{ConnectionLimits, PeerStage, PeerState, Places};
use super::turns::Turns;

/// What one door takes on.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub room: ConnectionLimits,
    /// For the head of a request, and for a connection without one.
    pub head_time: Duration,
    /// Bytes of a head, and of what is read ahead of a body.
    pub buffer: usize,
    /// For a connection, whatever the client does or leaves undone.
    pub life: Duration,
    /// For what is under way when the door is to close.
    pub drain: Duration,
}

/// What answers one connection.
#[derive(Debug)]
pub struct Answering<S> {
    pub service: S,
    /// Where the peer is, if it has an address.
    pub peer: Option<IpAddr>,
}

/// Of the places, one part in so many is given away, and if that took so short a time, whoever comes next waits for so long where the
/// system keeps those who were not accepted yet. So a crowd that comes again as soon as it is hung up on gets one or two thousand places
/// a second where there are 256, and several thousand where there are 1,024, and costs no more than that.
const TOGETHER: usize = 32;
const SHORT: Duration = Duration::from_millis(8);
const PAUSE: Duration = Duration::from_millis(4);

/// How long a place that anybody can have is held, at most.
pub const CONNECTION_LIFE: Duration = Duration::from_secs(300);

/// Serves until `shutdown`, then finishes what is under way. `arrive` says what answers one connection. Each request has the
/// [`PeerState`] of its connection among its extensions.
///
/// # Errors
/// The number of connections that were still open at the end of the drain.
pub async fn serve<L, S>(
    mut listener: L,
    limits: Limits,
    budget: Arc<Budget>,
    shutdown: impl Future<Output = ()>,
    arrive: impl Fn(&L::Io, &L::Addr) -> Answering<S>,
) -> Result<(), usize>
where
    L: Listener,
    S: Service<Request<Body>, Response = Response, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(limits.head_time).max_buf_size(limits.buffer);
    let (places, turns) = (Places::new(limits.room), Turns::new());
    let (open, closing) = (GracefulShutdown::new(), CancellationToken::new());
    let mut shutdown = pin!(shutdown);
    let mut pace = Pace::new(limits.room);
    loop {
        let next = async {
            pace.keep().await;
            listener.accept().await
        };
        let (stream, address) = tokio::select! {
            biased;
            () = &mut shutdown => break,
            accepted = next => accepted,
        };
        let Answering { service, peer } = arrive(&stream, &address);
        // Where everybody is being answered, whoever comes is closed: waiting would hold up what others can still be told.
        let Some(place) = places.enter(peer) else { continue };
        let (http, watcher, closing, turns) = (http.clone(), open.watcher(), closing.clone(), turns.clone());
        let account = budget.open(Arc::clone(place.peer_state()));
        let ours = Arc::clone(&account);
        let service = service_fn(move |request| answer(service.clone(), Arc::clone(&ours), request));
        tokio::spawn(async move {
            let serve = async {
                let begun = tokio::time::timeout(limits.head_time, Begun::wait(stream, account));
                let stream = tokio::select! {
                    biased;
                    stream = begun => stream,
                    () = closing.cancelled() => return,
                };
                // A client that breaks off or sends no HTTP is its own affair, and one that stays gives its place back.
                let Ok(Ok(stream)) = stream else { return };
                let connection = watcher.watch(http.serve_connection(TokioIo::new(stream), service));
                let _ = tokio::time::timeout(limits.life, connection).await;
            };
            tokio::select! {
                biased;
                () = turns.take(place.peer_state(), Box::pin(serve)) => {}
                () = place.taken_away() => {}
            }
        });
        // What has come so far is heard before the next takes its place.
        tokio::task::yield_now().await;
    }
    drop(listener);
    closing.cancel();
    tokio::time::timeout(limits.drain, open.shutdown()).await.map_err(|_| places.taken())
}

/// How fast connections are let in.
struct Pace {
    together: usize,
    come: usize,
    since: Instant,
}

impl Pace {
    fn new(room: ConnectionLimits) -> Self {
        Self { together: (room.places / TOGETHER).max(1), come: 0, since: Instant::now() }
    }

    /// Returns when the next one may come.
    async fn keep(&mut self) {
        if self.come == self.together {
            if self.since.elapsed() < SHORT {
                tokio::time::sleep(PAUSE).await;
            }
            (self.come, self.since) = (0, Instant::now());
        }
        self.come += 1;
    }
}

/// A connection on which something has been said: the first byte, and the rest, all of it counted. Before that it has no buffers.
struct Begun<S> {
    first: Option<u8>,
    stream: S,
    account: Arc<Account>,
}

impl<S: AsyncRead + Unpin> Begun<S> {
    async fn wait(mut stream: S, account: Arc<Account>) -> io::Result<Self> {
        Ok(Self { first: Some(stream.read_u8().await?), stream, account })
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { first, stream, account } = self.get_mut();
        let before = buffer.filled().len();
        let first = first.take();
        buffer.put_slice(first.as_slice());
        match Pin::new(stream).poll_read(cx, buffer) {
            Poll::Pending if first.is_none() => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending | Poll::Ready(Ok(())) => {}
        }
        let read = account.has_received(buffer.filled().len() - before);
        Poll::Ready(read.map_err(|_| io::ErrorKind::OutOfMemory.into()))
    }
}

impl<S: AsyncWrite + Unpin> Begun<S> {
    /// Notes whether the peer reads what is there for it.
    fn write<T>(&mut self, write: impl FnOnce(Pin<&mut S>) -> Poll<T>) -> Poll<T> {
        let written = write(Pin::new(&mut self.stream));
        self.account.peer_state().set_full(written.is_pending());
        written
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().write(|stream| stream.poll_write(cx, bytes))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().write(|stream| stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// Answers one request, and notes how far its peer is. Strangers get their next one in another turn.
async fn answer<S>(mut service: S, account: Arc<Account>, request: Request<Incoming>) -> Result<Response, Infallible>
where
    S: Service<Request<Body>, Response = Response, Error = Infallible>,
{
    let peer_state = Arc::clone(account.peer_state());
    if peer_state.stage() == PeerStage::Idle && !peer_state.is_trusted() {
        tokio::task::yield_now().await;
    }
    let mut request = request.map(|body| Body::new(Arriving::new(body, Arc::clone(&peer_state))));
    request.extensions_mut().insert(Arc::clone(&peer_state));
    let response = service.call(request).await?;
    account.was_answered();
    peer_state.set(PeerStage::Idle);
    let size = match response.extensions().get() {
        Some(Shared) => SHARED_ANSWER,
        None => response.body().size_hint().exact().and_then(|size| usize::try_from(size).ok()).unwrap_or_default(),
    };
    Ok(match account.hold(size) {
        Ok(held) => response.map(|body| Body::new(Leaving { body, held: Arc::new(held) })),
        Err(Exhausted) => TOO_MUCH.into_response(),
    })
}

/// Among the extensions of an answer: its body is held once for all who are told the same, and counted by whoever made it.
#[derive(Clone, Copy, Debug)]
pub struct Shared;

/// What is counted for such an answer.
const SHARED_ANSWER: usize = 1 << 10;

const TOO_MUCH: (StatusCode, [(HeaderName, &str); 1], &str) =
    (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")], "Too much is being sent or not yet read: try again.\n");

/// The body of an answer, counted until its peer takes it.
struct Leaving {
    body: Body,
    held: Arc<MemoryReservation>,
}

impl HttpBody for Leaving {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let held = &self.held;
        Poll::Ready(frame.map(|frame| Ok(frame?.map_data(|data| MemoryReservation::with_part(held, data)))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of a request. Its peer has said something whole only when the end of it is here.
struct Arriving {
    body: Incoming,
    peer_state: Arc<PeerState>,
}

impl Arriving {
    fn new(body: Incoming, peer_state: Arc<PeerState>) -> Self {
        peer_state.set(if body.is_end_stream() { PeerStage::Busy } else { PeerStage::Arriving });
        Self { body, peer_state }
    }
}

impl HttpBody for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if frame.is_none() || self.body.is_end_stream() {
            self.peer_state.set(PeerStage::Busy);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::Router;
    use axum::routing::{get, post};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::oneshot;
    use tokio::time::timeout;

    use super::*;
    use crate::server::testing::{stranger, strangers};

    const CONNECTION_LIMITS: ConnectionLimits =
        ConnectionLimits { places: 256, strangers: 256, share: 32, cuts_answers: false };
    const LIMITS: Limits = Limits {
        room: CONNECTION_LIMITS,
        head_time: Duration::from_secs(10),
        buffer: 8 << 10,
        life: CONNECTION_LIFE,
        drain: Duration::from_secs(1),
    };
    const MANY: usize = 1100;
    /// In which a good request is answered on a busy machine, whatever is held.
    const SOON: Duration = Duration::from_secs(4);

    struct Door {
        address: SocketAddr,
        /// Requests that are never answered.
        asked: Arc<AtomicUsize>,
        _stop: oneshot::Sender<()>,
    }

    impl Door {
        async fn open() -> Self {
            Self::with(LIMITS).await
        }

        async fn with(limits: Limits) -> Self {
            let asked = Arc::new(AtomicUsize::default());
            let count = Arc::clone(&asked);
            let never = move || {
                count.fetch_add(1, Ordering::SeqCst);
                std::future::pending::<()>()
            };
            let router = Router::new()
                .route("/live", get(async || "live"))
                .route("/never", get(never))
                .route("/echo", post(async |body: String| body));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let (stop, stopped) = oneshot::channel::<()>();
            let arrive = move |_: &_, peer: &SocketAddr| Answering { service: router.clone(), peer: Some(peer.ip()) };
            tokio::spawn(
                async move { serve(listener, limits, Budget::new(), async { drop(stopped.await) }, arrive).await },
            );
            Self { address, asked, _stop: stop }
        }

        /// What is answered to this, on a connection of its own.
        async fn ask(&self, request: &str) -> String {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            timeout(SOON, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
            answer
        }

        async fn assert_answers(&self) {
            let live = self.ask("GET /live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
            assert!(live.ends_with("live"), "{live}");
            let echo = "POST /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
            assert!(self.ask(echo).await.ends_with("hi"));
        }
    }

    #[tokio::test]
    async fn peers_that_say_nothing_whole_keep_nobody_out() {
        let door = Door::open().await;
        for opening in [
            "",
            "GET /live HTTP/1.1\r\nhost: a",
            "POST /echo HTTP/1.1\r\nhost: a\r\ncontent-length: 10\r\n\r\nhalf",
            // Answered once, and idle.
            "GET /live HTTP/1.1\r\nhost: a\r\n\r\n",
        ] {
            let held = strangers(door.address, MANY, opening.as_bytes()).await;
            door.assert_answers().await;
            drop(held);
        }
    }

    #[tokio::test]
    async fn a_crowd_is_let_in_a_few_at_a_time() {
        let (mut pace, begin) = (Pace::new(CONNECTION_LIMITS), Instant::now());
        for come in 0..MANY {
            pace.keep().await;
            // A machine that stands still makes a pause of its own.
            let pauses = come / (CONNECTION_LIMITS.places / TOGETHER);
            assert!(begin.elapsed() >= PAUSE * pauses as u32, "{come} after {:?}", begin.elapsed());
        }
    }

    #[tokio::test]
    async fn the_first_byte_and_every_head_have_to_come_in_time() {
        let door = Door::with(Limits { head_time: Duration::from_millis(50), ..LIMITS }).await;
        for opening in ["", "G", "GET /live HTTP/1.1\r\nhost: a", "GET /live HTTP/1.1\r\nhost: a\r\n\r\n"] {
            let mut silent = stranger(door.address, 1, opening.as_bytes()).await;
            let mut told = Vec::new();
            let end = timeout(SOON, silent.read_to_end(&mut told));
            // Perhaps with an error, as something was not read.
            let _ = end.await.unwrap_or_else(|_| panic!("{opening:?} is waited for"));
        }
        door.assert_answers().await;
    }

    #[tokio::test]
    async fn whoever_is_being_answered_is_not_cut_off() {
        let door = Door::open().await;
        let never = b"GET /never HTTP/1.1\r\nhost: a\r\n\r\n";
        let asked = strangers(door.address, CONNECTION_LIMITS.places, never).await;
        while door.asked.load(Ordering::SeqCst) < CONNECTION_LIMITS.places {
            tokio::task::yield_now().await;
        }
        // All places are taken: the next one is hung up on, and those before wait on for their answers.
        let mut next = stranger(door.address, MANY, b"").await;
        assert!(timeout(SOON, next.read_u8()).await.unwrap().is_err());
        for stream in &asked {
            assert!(stream.try_read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
        }
    }
}
