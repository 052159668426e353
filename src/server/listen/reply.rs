//! How a call ends: with an answer and a status, or with a refusal. Never says yes by itself.

use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode};
use tonic::Code;

use crate::server::budget::Exhausted;

/// From a call's head to the end of its message.
pub const MESSAGE_TIME: Duration = Duration::from_secs(5);

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const OK: HeaderValue = HeaderValue::from_static("0");

/// The head, one message with its prefix, and the status 0.
pub(super) fn send(mut respond: SendResponse<Bytes>, message: Bytes) -> Result<(), h2::Error> {
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

/// Why a call gets no answer; Envoy treats it as an error of the service, never as an allow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    code: Code,
    message: &'static str,
}

pub(super) const COMPRESSED: Refusal =
    Refusal { code: Code::Unimplemented, message: "compressed messages are not supported" };
pub(super) const TOO_LONG: Refusal =
    Refusal { code: Code::ResourceExhausted, message: "the message is longer than 16 MiB" };
pub(super) const TOO_MUCH: Refusal =
    Refusal { code: Code::ResourceExhausted, message: "too much is being sent or not yet read: try again" };
pub(super) const TOO_SLOW: Refusal =
    Refusal { code: Code::DeadlineExceeded, message: "the message did not arrive in time" };
pub(super) const CUT: Refusal = Refusal { code: Code::Internal, message: "the message is cut" };
pub(super) const MORE_THAN_ONE: Refusal = Refusal { code: Code::Internal, message: "there is more than one message" };
pub(super) const BROKEN: Refusal = Refusal { code: Code::Cancelled, message: "the call was broken off" };

impl From<Exhausted> for Refusal {
    fn from(_: Exhausted) -> Self {
        TOO_MUCH
    }
}

impl Refusal {
    /// The status in the head, and no body.
    pub(super) fn into_response(self) -> Response<()> {
        let mut response = Response::new(());
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, GRPC);
        headers.insert(GRPC_STATUS, HeaderValue::from(self.code as i32));
        headers.insert(GRPC_MESSAGE, HeaderValue::from_static(self.message));
        response
    }
}

pub(super) fn bare(status: StatusCode) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    response
}
