//! The end of a process: health turns NOT_SERVING, a call in flight is answered, and only then it ends.

use bytes::Bytes;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};
use prost::Message;
use tokio::net::UnixStream;

use super::client::{Http2, Sent, receive};
use super::harness::{Stack, get, wait_for};

const SERVING: u8 = 1;
const NOT_SERVING: u8 = 2;

/// One framed gRPC message.
fn framed(message: &[u8]) -> Bytes {
    Bytes::from(Sent::grpc("/", message).body)
}

/// A check of `GET /healthz` on localhost.
fn check_request() -> Vec<u8> {
    let http = HttpRequest {
        method: "GET".to_owned(),
        path: "/healthz".to_owned(),
        host: "localhost".to_owned(),
        headers: [(":method", "GET"), (":path", "/healthz")].map(|(name, value)| (name.into(), value.into())).into(),
        ..HttpRequest::default()
    };
    let request = Some(Request { http: Some(http), ..Request::default() });
    let attributes = Some(AttributeContext { request, ..AttributeContext::default() });
    CheckRequest { attributes }.encode_to_vec()
}

/// The status in the next `HealthCheckResponse` of a watch.
async fn next_status(stream: &mut h2::RecvStream) -> u8 {
    let mut message = Vec::new();
    while message.len() < 7 {
        let data = stream.data().await.expect("the watch goes on").unwrap();
        stream.flow_control().release_capacity(data.len()).unwrap();
        message.extend_from_slice(&data);
    }
    // Five bytes of frame, then field 1 as a varint.
    assert_eq!(message[5], 0x08);
    message[6]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_in_flight_is_answered_and_health_says_so() {
    let mut stack = Stack::start().await;
    let socket = stack.dir.path().join("check.sock");
    let connect = async || Http2::over(UnixStream::connect(&socket).await.unwrap(), "tollgate.local".to_owned()).await;

    let head = |method: &str| Sent { body: vec![0], ..Sent::grpc(method, b"") };
    let (answer, mut send) = connect().await.open(&head("/grpc.health.v1.Health/Watch")).await.unwrap();
    send.send_data(framed(b""), true).unwrap();
    let mut watch = answer.await.unwrap().into_body();
    assert_eq!(next_status(&mut watch).await, SERVING);

    // Half of a check has been sent when the signal comes; the rest follows when the drain has begun.
    let check = framed(&check_request());
    let (answer, mut send) = connect().await.open(&head("/envoy.service.auth.v3.Authorization/Check")).await.unwrap();
    send.send_data(check.slice(..7), false).unwrap();
    wait_until_sent(&stack).await;
    stack.terminate_tollgate();
    assert_eq!(next_status(&mut watch).await, NOT_SERVING);
    let ops = stack.ops;
    wait_for("/ready to say no", async || get(ops, "/ready").await.is_none_or(|reply| reply.status == 503)).await;

    send.send_data(check.slice(7..), true).unwrap();
    let reply = receive(answer.await.unwrap()).await.unwrap();
    assert_eq!(reply.header("grpc-status").as_deref(), Some("0"), "{reply:?}");
    let decided = CheckResponse::decode(&reply.body[5..]).unwrap();
    assert!(matches!(decided.http_response, Some(HttpResponse::OkResponse(_))), "{decided:?}");
    drop(watch);
    assert_eq!(stack.tollgate_ended().await, Some(0));
    assert!(!socket.exists(), "the socket is taken away");
}

/// What was written to a socket before this is known to the server afterwards: a call of its own has been answered.
async fn wait_until_sent(stack: &Stack) {
    for _ in 0..3 {
        assert_eq!(stack.send(&Sent::new("GET", "/healthz")).await.status, 200);
    }
}
