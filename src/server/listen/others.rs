//! Calls of tonic's services, health and reflection, over a connection of ours. Sends no faster than the peer reads, and
//! ends a stream that has no end of its own when the server is to stop.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Request};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic::service::Routes;
use tower_service::Service;

use super::reply;

/// The bytes of a request: they are names of services, and tonic would hold 4 MiB.
const REQUEST_LIMIT: usize = 32 << 10;

/// Answers one call. `spoken` is told when the call is whole.
pub async fn answer(
    mut routes: Routes,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    stop: CancellationToken,
    spoken: impl Fn(),
) {
    let request = request.map(|body| tonic::body::Body::new(Received { body, left: REQUEST_LIMIT }));
    // One that does not say whom it is for in time is broken off.
    let Ok(Ok(response)) = timeout(reply::MESSAGE_TIME, routes.call(request)).await else { return };
    spoken();
    let (head, body) = response.into_parts();
    let is_whole = body.is_end_stream();
    // A peer that has gone meanwhile gets nothing.
    let Ok(stream) = respond.send_response(http::Response::from_parts(head, ()), is_whole) else { return };
    if !is_whole {
        let _ = send(body, stream, stop).await;
    }
}

async fn send(
    body: tonic::body::Body,
    mut stream: SendStream<Bytes>,
    stop: CancellationToken,
) -> Result<(), h2::Error> {
    let mut body = pin!(body);
    loop {
        let frame = tokio::select! {
            biased;
            frame = body.frame() => frame,
            // The client has lost interest.
            _ = poll_fn(|cx| stream.poll_reset(cx)) => return Ok(()),
            () = stop.cancelled() => {
                return stream.send_trailers(reply::status(HeaderValue::from(Code::Unavailable as i32)));
            }
        };
        match frame.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(data))) => send_data(data, &mut stream).await?,
            Some(Ok(Err(frame))) => {
                let trailers: HeaderMap = frame.into_trailers().unwrap_or_default();
                return stream.send_trailers(trailers);
            }
            Some(Err(_)) => {
                stream.send_reset(Reason::INTERNAL_ERROR);
                return Ok(());
            }
            None => return stream.send_data(Bytes::new(), true),
        }
    }
}

/// Sends as the peer makes room.
async fn send_data(mut data: Bytes, stream: &mut SendStream<Bytes>) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        while stream.capacity() == 0 {
            match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(room) => room?,
                None => return Err(Reason::CANCEL.into()),
            };
        }
        stream.send_data(data.split_to(stream.capacity().min(data.len())), false)?;
    }
    Ok(())
}

/// The body of a request.
struct Received {
    body: RecvStream,
    /// Bytes that may still come.
    left: usize,
}

impl Body for Received {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let Self { body: stream, left } = &mut *self;
        match ready!(stream.poll_data(cx)) {
            Some(Ok(data)) => {
                stream.flow_control().release_capacity(data.len())?;
                *left = left.checked_sub(data.len()).ok_or(Reason::ENHANCE_YOUR_CALM)?;
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(error))),
            None => Poll::Ready(ready!(stream.poll_trailers(cx))?.map(|trailers| Ok(Frame::trailers(trailers)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
}
