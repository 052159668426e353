//! gRPC over HTTP/2, as far as one unary method over bytes needs it; all other paths go to tonic. Never holds more room for a
//! message than four times what has arrived of it, and never waits for the rest of one for ever.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes};
use futures_util::FutureExt;
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::service::Routes;

use super::others;
use crate::server::budget::{Account, Exhausted, Held, HeldMessage};
use crate::server::ext_authz::{CHECK, CheckService, encode};
use crate::server::places::Stage;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const OK: HeaderValue = HeaderValue::from_static("0");

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
/// From a call's head to the end of its message.
pub const MESSAGE_TIME: Duration = Duration::from_secs(5);

/// Who is at the other end of a connection.
#[derive(Debug)]
pub struct Peer {
    pub account: Arc<Account>,
    /// How far whoever has said something whole has come.
    pub whoever_speaks: Stage,
}

impl Peer {
    /// Notes that it has said something whole, and whether it has brought somebody who could be told by their credential.
    fn has_spoken(&self, is_authenticated: bool) {
        let seat = self.account.seat();
        if seat.stage() < Stage::Known {
            seat.set(if is_authenticated { Stage::Known } else { self.whoever_speaks });
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
        self.peer.whoever_speaks < Stage::Known && !self.peer.account.seat().is_trusted()
    }

    /// Answers one call. A peer that has gone meanwhile gets nothing.
    pub async fn answer(self: Arc<Self>, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
        if request.uri().path() != CHECK {
            let Ok(_held) = self.peer.account.hold(OTHER_CALL) else {
                let _ = respond.send_response(TOO_MUCH.into_response(), true);
                return;
            };
            let spoken = || self.peer.has_spoken(false);
            Box::pin(others::answer(self.others.clone(), request, respond, self.stop.clone(), spoken)).await;
            return;
        }
        let refusal = if request.method() != Method::POST {
            bare(StatusCode::METHOD_NOT_ALLOWED)
        } else if !is_grpc(request.headers()) {
            bare(StatusCode::UNSUPPORTED_MEDIA_TYPE)
        } else {
            match self.message(request.into_body()).await {
                Ok((message, _held)) => match self.judge(&message).await {
                    Ok(answer) => {
                        let _ = send(respond, answer);
                        return;
                    }
                    Err(Exhausted) => TOO_MUCH.into_response(),
                },
                Err(refusal) => refusal.into_response(),
            }
        };
        let _ = respond.send_response(refusal, true);
    }

    /// The answer to a message, counted until it is read: from before the message is judged, so that nothing is decided for naught.
    async fn judge(&self, message: &[u8]) -> Result<Bytes, Exhausted> {
        let mut held = self.peer.account.hold(ANSWERED_CALL + USUAL_ANSWER)?;
        let mut answer = Vec::with_capacity(USUAL_ANSWER);
        answer.extend_from_slice(&[0; PREFIX]);
        let is_authenticated = self.check.check(message, &mut answer).await;
        self.peer.has_spoken(is_authenticated);
        let length = u32::try_from(answer.len() - PREFIX).unwrap_or(u32::MAX);
        answer[1..PREFIX].copy_from_slice(&length.to_be_bytes());
        if answer.len() > USUAL_ANSWER {
            held.grow(answer.len() - USUAL_ANSWER)?;
        }
        Ok(held.until_dropped(answer))
    }

    /// The message of a call, and what it holds. What has arrived already is taken without a timer.
    async fn message(&self, body: RecvStream) -> Result<(Bytes, Option<Held>), Refusal> {
        let mut read = pin!(self.read(body));
        match read.as_mut().now_or_never() {
            Some(message) => message,
            None => {
                let _held = self.peer.account.hold(WAITING_CALL)?;
                tokio::time::timeout(MESSAGE_TIME, read).await.unwrap_or(Err(TOO_SLOW))
            }
        }
    }

    async fn read(&self, mut body: RecvStream) -> Result<(Bytes, Option<Held>), Refusal> {
        let first = next_data(&mut body).await?.unwrap_or_default();
        if body.is_end_stream() {
            return Ok((whole(first)?, None));
        }
        let mut message = Arriving { bytes: Wiped::default(), held: self.peer.account.message() };
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

/// The head, one message with its prefix, and the status 0.
fn send(mut respond: SendResponse<Bytes>, message: Bytes) -> Result<(), h2::Error> {
    let mut head = Response::new(());
    head.headers_mut().insert(CONTENT_TYPE, GRPC);
    let mut stream = respond.send_response(head, false)?;
    stream.send_data(message, false)?;
    stream.send_trailers(status(OK))
}

/// Trailers.
pub fn status(status: HeaderValue) -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, status);
    trailers
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes);
    kind.and_then(|kind| kind.strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest, [] | [b';', ..]) || rest.starts_with(b"+proto"))
}

async fn next_data(body: &mut RecvStream) -> Result<Option<Bytes>, Refusal> {
    while let Some(data) = body.data().await {
        let data = data.map_err(|_| BROKEN)?;
        body.flow_control().release_capacity(data.len()).map_err(|_| BROKEN)?;
        if !data.is_empty() {
            return Ok(Some(data));
        }
    }
    Ok(None)
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
    bytes: Wiped,
    held: HeldMessage,
}

impl Arriving {
    fn push(&mut self, data: &[u8]) -> Result<(), Refusal> {
        let Wiped(bytes) = &self.bytes;
        let (room, needed) = (bytes.capacity(), bytes.len() + data.len());
        if needed > room {
            // Never more than the whole message takes.
            let whole = declared(bytes)?.map_or(needed, |length| PREFIX + length);
            let room_then = needed.max((4 * room).min(whole));
            self.held.grow(room_then - room)?;
            let mut roomier = Vec::with_capacity(room_then);
            roomier.extend_from_slice(bytes);
            self.bytes = Wiped(roomier);
        }
        let Wiped(bytes) = &mut self.bytes;
        bytes.put_slice(data);
        match declared(bytes)? {
            Some(length) if bytes.len() > PREFIX + length => Err(MORE_THAN_ONE),
            _ => Ok(()),
        }
    }
}

/// Bytes that hold the credential of a client, wiped when they are dropped. At once, where `Zeroizing` goes byte by byte: bodies are long.
#[derive(Default)]
struct Wiped(Vec<u8>);

impl AsRef<[u8]> for Wiped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        self.0.fill(0);
        zeroize::optimization_barrier(&*self.0);
    }
}

/// Why a call gets no answer; Envoy treats it as an error of the service, never as an allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Refusal {
    code: Code,
    message: &'static str,
}

const COMPRESSED: Refusal = Refusal { code: Code::Unimplemented, message: "compressed messages are not supported" };
const TOO_LONG: Refusal = Refusal { code: Code::ResourceExhausted, message: "the message is longer than 16 MiB" };
const TOO_MUCH: Refusal =
    Refusal { code: Code::ResourceExhausted, message: "too much is being sent or not yet read: try again" };
const TOO_SLOW: Refusal = Refusal { code: Code::DeadlineExceeded, message: "the message did not arrive in time" };
const CUT: Refusal = Refusal { code: Code::Internal, message: "the message is cut" };
const MORE_THAN_ONE: Refusal = Refusal { code: Code::Internal, message: "there is more than one message" };
const BROKEN: Refusal = Refusal { code: Code::Cancelled, message: "the call was broken off" };

impl From<Exhausted> for Refusal {
    fn from(_: Exhausted) -> Self {
        TOO_MUCH
    }
}

impl Refusal {
    /// The status in the head, and no body.
    fn into_response(self) -> Response<()> {
        let mut response = Response::new(());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, GRPC);
        headers.insert(GRPC_STATUS, HeaderValue::from(self.code as i32));
        headers.insert(GRPC_MESSAGE, HeaderValue::from_static(self.message));
        response
    }
}

fn bare(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}
