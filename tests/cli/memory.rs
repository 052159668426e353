//! What the process holds in memory for peers that send and never read: little, however many they are. Meanwhile the known are
//! answered, and the operator is heard.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use prost::Message;
use tonic::transport::{Channel, Endpoint};

use super::held::get;
use super::run;
use super::server::Server;
use super::strangers::{Ending, Sender, calls, connect, framed};

/// What the process may grow by.
const GROWTH: usize = 50 << 20;
const MANY: usize = 1100;
/// Far less than a peer may hold anything up for, and far more than a busy machine needs for the flood beside it.
const SOON: Duration = Duration::from_secs(5);

fn check(key: &str) -> CheckRequest {
    let authorization = format!("Bearer {key}");
    let headers = [
        (":method", "POST"),
        (":path", "/endpoint/acme/chat/run"),
        (":authority", "api.example.com"),
        ("authorization", &authorization),
    ];
    let http = HttpRequest {
        method: "POST".into(),
        path: "/endpoint/acme/chat/run".into(),
        host: "api.example.com".into(),
        headers: headers.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        ..Default::default()
    };
    let request = Some(Request { http: Some(http), time: None });
    CheckRequest { attributes: Some(AttributeContext { request, ..Default::default() }) }
}

async fn open(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

async fn assert_allowed(channel: Channel, key: &str) {
    let answer = tokio::time::timeout(SOON, AuthorizationClient::new(channel).check(check(key))).await;
    assert_eq!(answer.unwrap().unwrap().into_inner().status.unwrap().code, 0);
}

fn create_key(server: &Server) -> serde_json::Value {
    let create = ["keys", "create", "--name", "n", "--plane", "data", "--project", "acme", "--workloads", "*"];
    let more = ["--permissions", "run_inference", "-o", "json", "--socket", &server.socket()];
    run(&[&create[..], &more].concat()).ends(0).json()
}

/// So many peers send these bytes to this door, as far as they are taken, while good requests go on.
async fn flood(server: &Server, checks: SocketAddr, door: SocketAddr, peers: usize, bytes: &[u8]) {
    let made = create_key(server);
    let (key, id) = (made["key"].as_str().unwrap(), made["id"].as_str().unwrap());
    let known = open(checks).await;
    assert_allowed(known.clone(), key).await;
    let before = server.resident_bytes();
    let mut senders: Vec<Sender> = (0..peers).map(|number| Sender::new(connect(door, number).unwrap())).collect();
    let (start, mut most, mut rounds) = (Instant::now(), before, 0);
    while rounds < 5 || start.elapsed() < Duration::from_secs(2) {
        // Whoever was hung up on comes again.
        for (number, sender) in senders.iter_mut().enumerate() {
            if !sender.push(bytes)
                && let Ok(stream) = connect(door, number)
            {
                *sender = Sender::new(stream);
            }
        }
        assert_allowed(known.clone(), key).await;
        most = most.max(server.resident_bytes());
        rounds += 1;
    }
    let now = async { assert_allowed(open(checks).await, key).await };
    tokio::time::timeout(SOON, now).await.unwrap();
    assert!(get(server.ops(), "/live").contains(r#"{"live":true}"#));
    let start = Instant::now();
    run(&["keys", "revoke", id, "--socket", &server.socket()]).ends(0);
    assert!(start.elapsed() < SOON, "it took {:?}", start.elapsed());
    let grown = most.max(server.resident_bytes()) - before;
    assert!(grown <= GROWTH, "{} MB more", grown >> 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_that_never_read_and_messages_that_never_end_are_held_within_bounds() {
    let (mut server, address) = Server::start_on_tcp();
    // 4 MB a peer: 240 together.
    let part = framed(&[1; 1 << 20], 8 << 20);
    let halves = calls(|_| part.clone(), 4, Ending::Half).await;
    flood(&server, address, address, 60, &halves).await;
    let message = check("unknown").encode_to_vec();
    let whole = framed(&message, message.len());
    let unread = calls(|_| whole.clone(), 400, Ending::Whole).await;
    flood(&server, address, address, 60, &unread).await;
    // Refused before they are looked at.
    let empty = framed(&[], 1);
    let unread = calls(|_| empty.clone(), 100, Ending::Whole).await;
    flood(&server, address, address, 300, &unread).await;
    server.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_and_bodies_that_never_end_are_held_within_bounds() {
    let (mut server, address) = Server::start_on_tcp();
    let head = [b"GET /live HTTP/1.1\r\nhost: localhost\r\nx-long: ".as_slice(), &[b'a'; 60 << 10]].concat();
    flood(&server, address, server.ops(), MANY, &head).await;
    flood(&server, address, server.admin(), MANY, &head).await;
    let body = b"POST /api/v1/auth/login HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
        content-length: 65000\r\n\r\n{\"username\":\"";
    flood(&server, address, server.admin(), MANY, &[body.as_slice(), &[b'a'; 60 << 10]].concat()).await;
    server.stop();
}
