//! gRPC over HTTP/2, as far as one unary method over bytes needs it; all other paths go to tonic. Never holds more room for a
//! message than four times what has arrived of it, and never waits for the rest of one for ever.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes};
use futures_util::FutureExt;
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::others;
use super::reply::{
    BROKEN, COMPRESSED, CUT, MESSAGE_TIME, MORE_THAN_ONE, Refusal, TOO_LONG, TOO_MUCH, TOO_SLOW, bare, send,
};
use super::wiped::WipedOnDrop;
use crate::server::budget::{Account, Exhausted, MemoryReservation, MessageReservation};
use crate::server::ext_authz::{CHECK, CheckService, encode};
use crate::server::places::PeerStage;

/// A flag and a length of four bytes stand before each message.
const PREFIX: usize = 5;
/// Envoy buffers bodies up to a configured size; this is above what anybody should configure.
pub const MESSAGE_LIMIT: usize = 16 << 20;
const USUAL_ANSWER: usize = PREFIX + encode::USUAL_LENGTH;
/// What is counted for a call besides its message and its answer: while it waits for the rest of its message, from there until its answer
/// is read, and for one that is no check, whose head is kept.
const WAITING_CALL: usize = 6 << 10;
const ANSWERED_CALL: usize = 8 << 10;
const OTHER_CALL: usize = 16 << 10;
/// Who is at the other end of a connection.
#[derive(Debug)]
pub struct Peer {
    pub account: Arc<Account>,
    /// How far whoever has said something whole has come.
    pub whoever_speaks: PeerStage,
}

impl Peer {
    /// Notes that it has said something whole, and whether it has brought somebody who could be told by their credential.
    fn has_spoken(&self, is_authenticated: bool) {
        let peer_state = self.account.peer_state();
        if peer_state.stage() < PeerStage::Known {
            peer_state.set(if is_authenticated { PeerStage::Known } else { self.whoever_speaks });
        }
    }
}

/// What answers the calls of one connection.
#[derive(Debug)]
pub struct Calls {
    peer: Peer,
    check: CheckService,
    others: Routes,
    /// Ends what would stream on when the server is to stop.
    stop: CancellationToken,
}

impl Calls {
    pub fn new(check: CheckService, others: Routes, stop: CancellationToken, peer: Peer) -> Self {
        Self { peer, check, others, stop }
    }

    /// What their connection holds.
    pub fn account(&self) -> Arc<Account> {
        Arc::clone(&self.peer.account)
    }

    /// Whether their peer could still be anybody.
    pub fn are_of_a_stranger(&self) -> bool {
        self.peer.whoever_speaks < PeerStage::Known && !self.peer.account.peer_state().is_trusted()
    }

    /// Answers one call, if that needs no waiting; else gives what answers it, which is to be polled at once. A peer that has gone
    /// meanwhile gets nothing.
    pub fn answer(self: &Arc<Self>, (request, mut respond): Call, cx: &mut Context<'_>) -> Option<Answering> {
        let calls = || Arc::clone(self);
        if request.uri().path() != CHECK {
            return Some(Box::pin(calls().answer_other(request, respond)));
        }
        if let Some(refusal) = refused(&request) {
            let _ = respond.send_response(refusal, true);
            return None;
        }
        let mut body = request.into_body();
        let first = match poll_data(&mut body, cx) {
            Poll::Ready(Ok(data)) => data.unwrap_or_default(),
            Poll::Ready(Err(refusal)) => return refuse(refusal, respond),
            Poll::Pending => return Some(Box::pin(calls().answer_slowly(None, body, respond))),
        };
        if !body.is_end_stream() {
            return Some(Box::pin(calls().answer_slowly(Some(first), body, respond)));
        }
        let (message, mut buffer) = match whole(first).and_then(|message| Ok((message, self.buffer()?))) {
            Ok(both) => both,
            Err(refusal) => return refuse(refusal, respond),
        };
        match self.check.check_cached(&message, &mut buffer.answer) {
            Some(is_authenticated) => self.send(is_authenticated, buffer, respond),
            None => return Some(Box::pin(calls().judge(message, None, buffer, respond))),
        }
        None
    }

    async fn answer_other(self: Arc<Self>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        let Ok(_held) = self.peer.account.hold(OTHER_CALL) else {
            let _ = respond.send_response(TOO_MUCH.into_response(), true);
            return;
        };
        let spoken = || self.peer.has_spoken(false);
        Box::pin(others::answer(self.others.clone(), request, respond, self.stop.clone(), spoken)).await;
    }

    /// Answers a call whose message comes piece by piece.
    async fn answer_slowly(self: Arc<Self>, first: Option<Bytes>, body: RecvStream, respond: SendResponse<Bytes>) {
        match self.message(first, body).await.and_then(|(message, held)| Ok((message, held, self.buffer()?))) {
            Ok((message, held, buffer)) => self.judge(message, held, buffer, respond).await,
            Err(refusal) => drop(refuse(refusal, respond)),
        }
    }

    /// Answers a message for which something has to be looked up. It is counted until then.
    async fn judge(
        self: Arc<Self>,
        message: Bytes,
        _held: Option<MemoryReservation>,
        mut buffer: ResponseBuffer,
        respond: SendResponse<Bytes>,
    ) {
        let is_authenticated = self.check.check(&message, &mut buffer.answer).await;
        self.send(is_authenticated, buffer, respond);
    }

    /// Room for an answer, counted until that is read: from before the message is judged, so that nothing is decided for naught.
    fn buffer(&self) -> Result<ResponseBuffer, Exhausted> {
        let held = self.peer.account.hold(ANSWERED_CALL + USUAL_ANSWER)?;
        let mut answer = Vec::with_capacity(USUAL_ANSWER);
        answer.extend_from_slice(&[0; PREFIX]);
        Ok(ResponseBuffer { held, answer })
    }

    /// Sends the answer that is in the buffer.
    fn send(
        &self,
        is_authenticated: bool,
        ResponseBuffer { mut held, mut answer }: ResponseBuffer,
        respond: SendResponse<Bytes>,
    ) {
        self.peer.has_spoken(is_authenticated);
        let length = u32::try_from(answer.len() - PREFIX).unwrap_or(u32::MAX);
        answer[1..PREFIX].copy_from_slice(&length.to_be_bytes());
        if answer.len() > USUAL_ANSWER && held.grow(answer.len() - USUAL_ANSWER).is_err() {
            drop(refuse(TOO_MUCH, respond));
            return;
        }
        let _ = send(respond, held.until_dropped(answer));
    }

    /// The message of a call, and what it holds. What has arrived already is taken without a timer.
    async fn message(
        &self,
        first: Option<Bytes>,
        body: RecvStream,
    ) -> Result<(Bytes, Option<MemoryReservation>), Refusal> {
        let mut read = pin!(self.read(first, body));
        match read.as_mut().now_or_never() {
            Some(message) => message,
            None => {
                let _held = self.peer.account.hold(WAITING_CALL)?;
                tokio::time::timeout(MESSAGE_TIME, read).await.unwrap_or(Err(TOO_SLOW))
            }
        }
    }

    async fn read(
        &self,
        first: Option<Bytes>,
        mut body: RecvStream,
    ) -> Result<(Bytes, Option<MemoryReservation>), Refusal> {
        let first = match first {
            Some(first) => first,
            None => next_data(&mut body).await?.unwrap_or_default(),
        };
        if body.is_end_stream() {
            return Ok((whole(first)?, None));
        }
        let mut message = Arriving { bytes: WipedOnDrop::default(), held: self.peer.account.message() };
        message.push(&first)?;
        drop(first);
        loop {
            let data = tokio::select! {
                biased;
                () = message.held.refused() => return Err(TOO_MUCH),
                data = next_data(&mut body) => data?,
            };
            match data {
                Some(data) => message.push(&data)?,
                None => return Ok((whole(Bytes::from_owner(message.bytes))?, Some(message.held.complete()))),
            }
        }
    }
}

/// A call as it comes in.
pub type Call = (Request<RecvStream>, SendResponse<Bytes>);
/// What answers a call that has to wait for something.
pub type Answering = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where an answer is written, and what it holds.
struct ResponseBuffer {
    held: MemoryReservation,
    answer: Vec<u8>,
}

/// Why a call is no call of gRPC.
fn refused(request: &Request<RecvStream>) -> Option<Response<()>> {
    if request.method() != Method::POST {
        Some(bare(StatusCode::METHOD_NOT_ALLOWED))
    } else if !is_grpc(request.headers()) {
        Some(bare(StatusCode::UNSUPPORTED_MEDIA_TYPE))
    } else {
        None
    }
}

/// Answers with a refusal; nothing is left to do then.
fn refuse(refusal: Refusal, mut respond: SendResponse<Bytes>) -> Option<Answering> {
    let _ = respond.send_response(refusal.into_response(), true);
    None
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.and_then(|kind| kind.strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest, [] | [b';', ..]) || rest.starts_with(b"+proto"))
}

async fn next_data(body: &mut RecvStream) -> Result<Option<Bytes>, Refusal> {
    poll_fn(|cx| poll_data(body, cx)).await
}

fn poll_data(body: &mut RecvStream, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Refusal>> {
    while let Some(data) = ready!(body.poll_data(cx)) {
        let data = data.map_err(|_| BROKEN)?;
        body.flow_control().release_capacity(data.len()).map_err(|_| BROKEN)?;
        if !data.is_empty() {
            return Poll::Ready(Ok(Some(data)));
        }
    }
    Poll::Ready(Ok(None))
}

/// How long the message says it is, once its prefix is there.
fn declared(bytes: &[u8]) -> Result<Option<usize>, Refusal> {
    let Some((&[flag, a, b, c, d], _)) = bytes.split_first_chunk() else { return Ok(None) };
    if flag != 0 {
        return Err(COMPRESSED);
    }
    match usize::try_from(u32::from_be_bytes([a, b, c, d])) {
        Ok(length @ ..=MESSAGE_LIMIT) => Ok(Some(length)),
        _ => Err(TOO_LONG),
    }
}

/// Exactly one message.
fn whole(mut bytes: Bytes) -> Result<Bytes, Refusal> {
    let length = declared(&bytes)?.ok_or(CUT)?;
    match (bytes.len() - PREFIX).cmp(&length) {
        std::cmp::Ordering::Less => Err(CUT),
        std::cmp::Ordering::Greater => Err(MORE_THAN_ONE),
        std::cmp::Ordering::Equal => Ok(bytes.split_off(PREFIX)),
    }
}

/// A message that is arriving, counted until it has been answered or is given up.
struct Arriving {
    bytes: WipedOnDrop,
    held: MessageReservation,
}

impl Arriving {
    fn push(&mut self, data: &[u8]) -> Result<(), Refusal> {
        let WipedOnDrop(bytes) = &self.bytes;
        let (room, needed) = (bytes.capacity(), bytes.len() + data.len());
        if needed > room {
            // Never more than the whole message takes.
            let whole = declared(bytes)?.map_or(needed, |length| PREFIX + length);
            let room_then = needed.max((4 * room).min(whole));
            self.held.grow(room_then - room)?;
            let mut roomier = Vec::with_capacity(room_then);
            roomier.extend_from_slice(bytes);
            self.bytes = WipedOnDrop(roomier);
        }
        let WipedOnDrop(bytes) = &mut self.bytes;
        bytes.put_slice(data);
        match declared(bytes)? {
            Some(length) if bytes.len() > PREFIX + length => Err(MORE_THAN_ONE),
            _ => Ok(()),
        }
    }
}
