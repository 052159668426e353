//! Requests with many headers, or with large ones: served, or refused as what they are, and never a fault of the gateway.

use super::client::{Http2, Reply, Sent};
use super::harness::{H2_BACKEND, Setup, Stack};

const GRPC: &str = "/inference.GRPCInferenceService/ModelInfer";

/// So many headers of so many bytes each, name and value.
fn with_headers(sent: Sent, count: usize, bytes: usize) -> Sent {
    (0..count).fold(sent, |sent, at| sent.header(&format!("x-many-{at:03}"), &"v".repeat(bytes - 10)))
}

#[derive(Default)]
struct Tally {
    served: usize,
    refused: usize,
    /// Ended without an answer, by Envoy.
    reset: usize,
    wrong: Vec<String>,
}

impl Tally {
    fn note(&mut self, what: &str, stack: &Stack, reply: Option<Reply>) -> Option<Reply> {
        let arrived = stack.take_seen().len();
        let Some(reply) = reply else {
            self.reset += 1;
            if arrived > 0 {
                self.wrong.push(format!("{what}: reset, and arrived"));
            }
            return None;
        };
        let grpc = reply.header("grpc-status");
        match (reply.status, grpc.as_deref()) {
            (200, None | Some("0")) if arrived == 1 => self.served += 1,
            // Of a gRPC client, Envoy makes the status of the RPC from that of HTTP: 2 is that of 431.
            (431, None) | (200 | 431, Some("2")) if arrived == 0 => self.refused += 1,
            status => self.wrong.push(format!("{what}: {status:?} {}, {arrived} arrived", reply.text())),
        }
        Some(reply)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_headers_are_served_or_431_and_never_500() {
    let mut tally = Tally::default();
    let stack = Stack::start().await;
    let key = stack.data_key().text;
    let counts = (0..=240).step_by(12).chain(80..=104).map(|count| (count, 20));
    let sizes = (8..=112).step_by(4).map(|kib| (40, kib * 1024 / 40)).chain((56..62).map(|kib| (1, kib * 1024)));
    let all: Vec<(usize, usize)> = counts.chain(sizes).collect();
    for &(count, bytes) in &all {
        for target in ["/healthz", "/v1/models"] {
            let sent = with_headers(Sent::new("GET", target).bearer(&key), count, bytes);
            let reply = stack.send(&sent).await;
            let reply = tally.note(&format!("h1 {target} {count} of {bytes}"), &stack, Some(reply)).unwrap();
            if (count, target) == (94, "/v1/models") {
                assert_eq!(reply.status, 200, "94 headers of a client are served");
            }
            if (count, target) == (104, "/v1/models") {
                assert!(reply.status == 431 && reply.text().contains("too many headers"), "{}", reply.text());
            }
        }
    }
    drop(stack);

    let stack = Stack::start_with(Setup { envoy_edits: vec![H2_BACKEND], ..Setup::default() }).await;
    let key = stack.data_key().text;
    let mut connection = Http2::connect(stack.envoy).await;
    for &(count, bytes) in &all {
        let plain = Sent::new("GET", "/v1/models").bearer(&key);
        for (what, sent) in [("h2", plain), ("grpc", Sent::grpc(GRPC, b"\x0a\x01m").bearer(&key))] {
            let reply = connection.send(&with_headers(sent, count, bytes)).await.ok();
            if reply.is_none() {
                connection = Http2::connect(stack.envoy).await;
            }
            tally.note(&format!("{what} {count} of {bytes}"), &stack, reply);
        }
    }
    let Tally { served, refused, reset, wrong } = tally;
    println!("{} with many headers: {served} served, {refused} are 431, {reset} reset by Envoy", all.len() * 4);
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(served > 100 && refused > 50 && reset < 100);
}
