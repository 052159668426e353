//! One HTTP/2 connection: greeting, calls, pings, and its end. Knows nothing of gRPC.
//!
//! Calls that came with one read run on the connection's own task, and their answers leave in one write; only a call that
//! has to wait gets a task of its own. A check that the cache answers never waits.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use h2::server::Builder;
use h2::{Ping, PingPong};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::yield_now;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::grpc::{Call, Calls};
use super::stream::Metered;
use crate::server::turns::LoadProbe;

/// Calls under way on one connection; Envoy opens another connection beyond.
const MAX_STREAMS: u32 = 512;
const MAX_HEADER_LIST: u32 = 16 << 10;
/// What a peer may send ahead of what is read of it, for one call and for all of them.
const WINDOW: u32 = 1 << 20;
/// From connecting to the end of a handshake: of TLS, of HTTP/2's preface, and from there to the answer to a ping.
pub const GREETING_TIME: Duration = Duration::from_secs(5);
/// A peer is asked this often whether it is there, and has this long to answer.
const PING_EVERY: Duration = Duration::from_secs(20);
const PING_TIME: Duration = Duration::from_secs(10);
/// Pings that a stranger may answer without asking anything, in five minutes and a little.
const IDLE_PINGS: u32 = 16;

/// Calls that are answered before more is read, so that one connection leaves time for the others.
const TOGETHER: usize = 128;

/// Serves one connection until it ends, or until `stop`, which is its own, and all its calls have finished; it stops a stranger that
/// only answers pings. `probe` sees the others of this thread.
pub async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    calls: Arc<Calls>,
    mut probe: LoadProbe,
    stop: CancellationToken,
) {
    let account = calls.account();
    account.begin_turn(probe.sees_quiet());
    let handshake = Builder::new()
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST)
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake(Metered::new(stream, Arc::clone(&account)));
    // A peer that says nothing, or speaks something else, is its own affair.
    let Ok(Ok(mut connection)) = timeout(GREETING_TIME, handshake).await else { return };
    let mut pings = connection.ping_pong().map(Pings::new);
    let mut stopped = pin!(stop.cancelled());
    let mut stopping = false;
    let (mut arrived, mut is_quiet) = (Vec::new(), false);
    poll_fn(|cx| {
        let mut is_answered = false;
        // What is still to be answered belongs to the turn in which it came.
        if arrived.is_empty() {
            is_quiet = probe.sees_quiet();
            account.begin_turn(is_quiet);
        }
        loop {
            let in_steps = !is_quiet && !account.peer_state().is_trusted();
            if arrived.is_empty() || !in_steps {
                match connection.poll_accept(cx) {
                    Poll::Ready(Some(Ok(call))) => {
                        arrived.push(call);
                        if !in_steps && arrived.len() < TOGETHER {
                            continue;
                        }
                    }
                    Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(()),
                    Poll::Pending => {}
                }
            }
            if in_steps && is_answered && !arrived.is_empty() {
                // Strangers among the known have one call a turn: this one is answered in the next.
                let _ = pin!(yield_now()).poll(cx);
                return Poll::Pending;
            }
            if !arrived.is_empty() {
                is_answered = true;
                pings.iter_mut().for_each(|pings| pings.since_call = 0);
                arrived.drain(..).for_each(|call| start(call, &calls, cx));
            } else if !account.is_paused() && pings.as_mut().is_some_and(|pings| pings.poll_lost(cx).is_ready()) {
                return Poll::Ready(());
            } else if !stopping && (stopped.as_mut().poll(cx).is_ready() || is_idle(pings.as_ref(), &calls)) {
                stopping = true;
                // Of an idle peer what streams on, too.
                stop.cancel();
                connection.graceful_shutdown();
            } else {
                if account.is_paused() {
                    // Behind all others who are ready, and whoever has sent something meanwhile.
                    let _ = pin!(yield_now()).poll(cx);
                }
                return Poll::Pending;
            }
        }
    })
    .await;
}

/// Runs a call until it is answered or has to wait.
fn start(call: Call, calls: &Arc<Calls>, cx: &mut Context<'_>) {
    if let Some(mut answering) = calls.answer(call, cx)
        && answering.as_mut().poll(cx).is_pending()
    {
        tokio::spawn(answering);
    }
}

/// Whether it is a stranger that has said for a while that it is there, and nothing else.
fn is_idle(pings: Option<&Pings>, calls: &Calls) -> bool {
    pings.is_some_and(|pings| pings.since_call >= IDLE_PINGS) && calls.are_of_a_stranger()
}

/// Finds out whether the peer is still there.
struct Pings {
    channel: PingPong,
    /// Until the next ping, or until the answer to the last one is too late.
    timer: Pin<Box<Sleep>>,
    asked: bool,
    /// Those that were answered since the last call began.
    since_call: u32,
}

impl Pings {
    /// Asks at once: whoever answers speaks HTTP/2 beyond its preface.
    fn new(mut channel: PingPong) -> Self {
        let asked = channel.send_ping(Ping::opaque()).is_ok();
        Self { channel, timer: Box::pin(sleep(GREETING_TIME)), asked, since_call: 0 }
    }

    /// Ready once a ping was not answered in time.
    fn poll_lost(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if self.asked && self.channel.poll_pong(cx).is_ready() {
                self.asked = false;
                self.since_call += 1;
                self.timer.as_mut().reset(Instant::now() + PING_EVERY);
            }
            ready!(self.timer.as_mut().poll(cx));
            if self.asked || self.channel.send_ping(Ping::opaque()).is_err() {
                return Poll::Ready(());
            }
            self.asked = true;
            self.timer.as_mut().reset(Instant::now() + PING_TIME);
        }
    }
}
