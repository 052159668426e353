//! The check listener while strangers hold as many connections as they can get.

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::*;
use crate::server::testing::{stranger, strangers};

const MANY: usize = 1100;
/// In which a good request is answered on a busy machine, whatever is held.
const SOON: Duration = Duration::from_secs(4);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = b"\0\0\0\x04\0\0\0\0\0";

/// Whoever was there before, and whoever comes now.
async fn assert_answers(server: &Server, before: &Channel) {
    let key = &server.fixture.key;
    assert_eq!(timeout(SOON, code(before.clone(), key)).await.unwrap().unwrap(), 0);
    let now = async { code(over_tcp(server.tcp()).await, key).await };
    assert_eq!(timeout(SOON, now).await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn peers_that_say_nothing_keep_nobody_out() {
    let server = Server::start(on_tcp()).await;
    let good = over_tcp(server.tcp()).await;
    assert_serves(good.clone(), &server.fixture.key).await;
    for opening in [vec![], PREFACE[..10].to_vec(), PREFACE.to_vec(), [PREFACE, SETTINGS].concat()] {
        let held = strangers(server.tcp(), MANY, &opening).await;
        assert_answers(&server, &good).await;
        drop(held);
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn peers_that_were_refused_once_keep_nobody_out() {
    let server = Server::start(on_tcp()).await;
    let good = over_tcp(server.tcp()).await;
    assert_serves(good.clone(), &server.fixture.key).await;
    let check = framed(&check_of(PATH, "nonsense").encode_to_vec());
    let mut held = Vec::new();
    for number in 0..MANY {
        let mut client = RawClient::over(stranger(server.tcp(), number, b"").await).await;
        assert_eq!(client.call(&[&check]).await.code(), 16);
        held.push(client);
    }
    assert_answers(&server, &good).await;
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_crowd_that_reads_nothing_and_comes_again_keeps_nobody_out() {
    let server = Server::start(on_tcp()).await;
    let address = server.tcp();
    let (stop, stopped) = oneshot::channel::<()>();
    let crowd = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut crowd = JoinSet::new();
            (0..CONNECTION_LIMITS.strangers + 40).for_each(|number| drop(crowd.spawn(ask_on(address, number))));
            drop(stopped.await);
        });
    });
    for _ in 0..8 {
        // As Envoy does, it comes again where it is hung up on.
        let answered = async { while !matches!(code_of_new(address, &server.fixture.key).await, Ok(0)) {} };
        timeout(SOON, answered).await.unwrap();
    }
    drop(stop);
    crowd.join().unwrap();
    server.stop().await.unwrap();
}

/// Of a check over a connection of its own.
async fn code_of_new(address: SocketAddr, key: &str) -> Result<i32, Box<dyn std::error::Error>> {
    let channel = Endpoint::from_shared(format!("http://{address}"))?.connect().await?;
    Ok(code(channel, key).await?)
}

/// Asks as long as it is let, and reads nothing; and again.
async fn ask_on(address: SocketAddr, number: usize) {
    const AGAIN: Duration = Duration::from_millis(100);
    let head = b"\x83\x86\x04\x2a/envoy.service.auth.v3.Authorization/Check\x01\x01a\x0f\x10\x10application/grpc";
    loop {
        let mut bytes = [PREFACE, SETTINGS].concat();
        let mut stream = stranger(address, number, b"").await;
        for call in (1u32..).step_by(2) {
            bytes.put_slice(&[0, 0, head.len() as u8, 1, 4]);
            bytes.put_u32(call);
            bytes.put_slice(head);
            // An empty message.
            bytes.put_slice(&[0, 0, 5, 0, 1]);
            bytes.put_u32(call);
            bytes.put_slice(&[0; 5]);
            if call % 64 == 63 {
                if stream.write_all(&std::mem::take(&mut bytes)).await.is_err() {
                    break;
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

#[tokio::test]
async fn a_socket_full_of_silence_lets_the_next_one_in() {
    let folder = tempfile::tempdir().unwrap();
    let (address, path) = on_unix(&folder);
    let server = Server::start(address).await;
    let good = over_unix(&path).await.unwrap();
    assert_serves(good.clone(), &server.fixture.key).await;
    let mut held = Vec::new();
    for _ in 0..MANY {
        held.push(UnixStream::connect(&path).await.unwrap());
    }
    let now = async { code(over_unix(&path).await.unwrap(), &server.fixture.key).await };
    assert_eq!(timeout(SOON, now).await.unwrap().unwrap(), 0);
    assert_eq!(timeout(SOON, code(good, &server.fixture.key)).await.unwrap().unwrap(), 0);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_certificate_gets_in_past_peers_without_one() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, authority.issuer.pem()).unwrap();
    let (cert, key) = authority.write(folder.path(), "server");
    let tls = Tls { cert, key, client_ca: ca.clone() };
    let server = Server::start(CheckAddress::Tcp { address: ([127, 0, 0, 1], 0).into(), tls: Some(tls) }).await;
    let envoy = authority.write(folder.path(), "envoy");
    let before = over_tls(server.tcp(), &ca, Some(&envoy)).await.unwrap();
    // The start of a client's greeting.
    let held = strangers(server.tcp(), MANY, b"\x16\x03\x01\x02\x00\x01").await;
    // Known by its certificate alone.
    assert_eq!(timeout(SOON, code(before, &server.fixture.key)).await.unwrap().unwrap(), 0);
    let now = async { code(over_tls(server.tcp(), &ca, Some(&envoy)).await.unwrap(), &server.fixture.key).await };
    assert_eq!(timeout(SOON, now).await.unwrap().unwrap(), 0);
    drop(held);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_peer_that_ends_its_greeting_halfway_is_hung_up_on() {
    let server = Server::start(on_tcp()).await;
    for opening in [&PREFACE[..10], PREFACE] {
        let mut halfway = stranger(server.tcp(), 1, opening).await;
        let mut sent = Vec::new();
        let end = halfway.read_to_end(&mut sent);
        // Perhaps with an error, as something was not read.
        let _ = timeout(connection::GREETING_TIME * 2, end).await.unwrap();
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_first_message_that_is_too_large_is_refused_and_its_connection_stays() {
    let server = Server::start(on_tcp()).await;
    let mut client = RawClient::connect(server.tcp()).await;
    let mut check = check_of(PATH, &server.fixture.key);
    let http = check.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap();
    http.raw_body = vec![7; 15 << 20];
    let (response, mut body) = client.open("application/grpc");
    body.send_data(framed(&check.encode_to_vec()).into(), true).unwrap();
    let answer = timeout(SOON, response).await.unwrap().unwrap();
    assert_eq!(answer.headers()["grpc-status"], (Code::ResourceExhausted as i32).to_string());
    let good = framed(&check_of(PATH, &server.fixture.key).encode_to_vec());
    assert_eq!(timeout(SOON, client.call(&[&good])).await.unwrap().code(), 0);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn whoever_connects_again_with_large_bodies_is_answered_whole() {
    let server = Server::start(on_tcp()).await;
    assert_serves(over_tcp(server.tcp()).await, &server.fixture.key).await;
    let mut check = check_of(PATH, &server.fixture.key);
    let http = check.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap();
    http.raw_body = vec![7; 32 << 10];
    let message = Bytes::from(framed(&check.encode_to_vec()));
    // All at once, so that a part of each is here before the first is whole.
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        let (mut client, message) = (RawClient::connect(server.tcp()).await, message.clone());
        clients.spawn(async move {
            let send = |client: &mut RawClient| {
                let (response, mut body) = client.open("application/grpc");
                body.send_data(message.clone(), true).unwrap();
                response
            };
            let calls: Vec<_> = (0..64).map(|_| send(&mut client)).collect();
            for response in calls {
                assert_eq!(RawAnswer::of(response).await.code(), 0);
            }
        });
    }
    timeout(5 * SOON, clients.join_all()).await.unwrap();
    server.stop().await.unwrap();
}
