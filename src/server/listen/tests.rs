//! The check listener as a client meets it: every transport, an orderly end, and peers that mean harm.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes};
use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use http::{Request, Uri};
use hyper_util::rt::TokioIo;
use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus as Health;
use tonic_health::pb::health_client::HealthClient;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tower::service_fn;

mod bounds;
mod deadlines;
mod held;

use super::*;
use crate::config::{Tls, UnixAddress};
use crate::server::ext_authz::CHECK;
use crate::server::testing::{Fixture, PATH, check_of};

/// A listener that serves until it is told to stop.
struct Server {
    fixture: Fixture,
    stop: oneshot::Sender<()>,
    served: JoinHandle<io::Result<()>>,
    address: Option<SocketAddr>,
}

impl Server {
    async fn start(address: CheckAddress) -> Self {
        let fixture = Fixture::new().await;
        let listener = CheckListener::bind(&address).unwrap();
        let address = listener.local_address();
        let (stop, stopped) = oneshot::channel::<()>();
        let options = Options { workers: 2, drain: Duration::from_secs(20), reflection: true };
        let service = fixture.service.clone();
        let served = tokio::spawn(listener.serve(service, options, Budget::new(), async { drop(stopped.await) }));
        Self { fixture, stop, served, address }
    }

    async fn stop(self) -> io::Result<()> {
        let _ = self.stop.send(());
        self.served.await.unwrap()
    }

    fn tcp(&self) -> SocketAddr {
        self.address.unwrap()
    }
}

fn on_tcp() -> CheckAddress {
    CheckAddress::Tcp { address: ([127, 0, 0, 1], 0).into(), tls: None }
}

fn on_unix(folder: &tempfile::TempDir) -> (CheckAddress, PathBuf) {
    let path = folder.path().join("check.sock");
    (CheckAddress::Unix(UnixAddress { path: path.clone(), mode: 0o600, group: None }), path)
}

async fn over_tcp(address: SocketAddr) -> Channel {
    Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap()
}

async fn over_unix(path: &Path) -> Result<Channel, tonic::transport::Error> {
    let path = path.to_owned();
    let connect = move |_: Uri| {
        let path = path.clone();
        async move { Ok::<_, io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
    };
    Endpoint::from_static("http://tollgate.local").connect_with_connector(service_fn(connect)).await
}

/// The `status.code` of a check.
async fn code(channel: Channel, key: &str) -> Result<i32, tonic::Status> {
    let response = AuthorizationClient::new(channel).check(check_of(PATH, key)).await?.into_inner();
    Ok(response.status.unwrap().code)
}

async fn assert_serves(channel: Channel, key: &str) {
    assert_eq!(code(channel.clone(), key).await.unwrap(), 0);
    assert_eq!(code(channel, "nonsense").await.unwrap(), 16);
}

async fn health(channel: &Channel, service: &str) -> Health {
    let request = HealthCheckRequest { service: service.to_owned() };
    HealthClient::new(channel.clone()).check(request).await.unwrap().into_inner().status()
}

#[tokio::test]
async fn a_unix_socket_serves_and_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let (address, path) = on_unix(&folder);
    let server = Server::start(address.clone()).await;
    let channel = over_unix(&path).await.unwrap();
    assert_serves(channel.clone(), &server.fixture.key).await;
    assert_eq!(CheckListener::bind(&address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    server.stop().await.unwrap();
    assert!(!path.exists());
    assert!(over_unix(&path).await.is_err());
}

#[tokio::test]
async fn health_and_reflection_are_served() {
    let server = Server::start(on_tcp()).await;
    let channel = over_tcp(server.tcp()).await;
    for service in ["", SERVICE] {
        assert_eq!(health(&channel, service).await, Health::Serving);
    }
    let ask = |question| ServerReflectionRequest { host: String::new(), message_request: Some(question) };
    let questions = [
        ask(MessageRequest::ListServices(String::new())),
        ask(MessageRequest::FileContainingSymbol(SERVICE.to_owned())),
        ask(MessageRequest::FileContainingSymbol("envoy.service.auth.v3.CheckRequest".to_owned())),
    ];
    let mut client = ServerReflectionClient::new(channel.clone());
    let asked = futures_util::stream::iter(questions.clone());
    let mut answers = client.server_reflection_info(asked).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list of services");
    };
    assert!(list.service.iter().any(|service| service.name == SERVICE), "{list:?}");
    for _ in 1..questions.len() {
        let answer = answers.message().await.unwrap().unwrap().message_response;
        assert!(matches!(answer, Some(MessageResponse::FileDescriptorResponse(_))), "{answer:?}");
    }
    assert_serves(channel, &server.fixture.key).await;
    server.stop().await.unwrap();
}

/// An authority, and PEM files of a certificate that it signed.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["tollgate.local".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let (cert_file, key_file) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        std::fs::write(&cert_file, certificate.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        std::fs::set_permissions(&key_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        (cert_file, key_file)
    }
}

/// Connects with this certificate, or with none.
async fn over_tls(address: SocketAddr, ca: &Path, own: Option<&(PathBuf, PathBuf)>) -> Result<Channel, String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match own {
        None => config.with_no_client_auth(),
        Some((cert, key)) => config
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_file(cert).unwrap()],
                PrivateKeyDer::from_pem_file(key).unwrap(),
            )
            .unwrap(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let connect = move |_: Uri| {
        let connector = connector.clone();
        async move {
            let stream = TcpStream::connect(address).await?;
            let name = ServerName::try_from("tollgate.local").unwrap();
            Ok::<_, io::Error>(TokioIo::new(connector.connect(name, stream).await?))
        }
    };
    let endpoint = Endpoint::from_static("http://tollgate.local");
    endpoint.connect_with_connector(service_fn(connect)).await.map_err(|error| format!("{error:?}"))
}

#[tokio::test]
async fn mutual_tls_serves_known_clients_alone() {
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (Authority::new(), Authority::new());
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, ours.issuer.pem()).unwrap();
    let (cert, key) = ours.write(folder.path(), "server");
    let tls = Tls { cert, key, client_ca: ca.clone() };
    let server = Server::start(CheckAddress::Tcp { address: ([127, 0, 0, 1], 0).into(), tls: Some(tls) }).await;

    let friend = ours.write(folder.path(), "friend");
    let channel = over_tls(server.tcp(), &ca, Some(&friend)).await.unwrap();
    assert_serves(channel, &server.fixture.key).await;

    let stranger = theirs.write(folder.path(), "stranger");
    for own in [None, Some(&stranger)] {
        // In TLS 1.3 the client learns of it only when it speaks.
        let refused = match over_tls(server.tcp(), &ca, own).await {
            Err(_) => true,
            Ok(channel) => code(channel, &server.fixture.key).await.is_err(),
        };
        assert!(refused, "{own:?}");
    }
    server.stop().await.unwrap();
}

#[test]
fn tls_files_that_are_wrong_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new();
    let (cert, key) = authority.write(folder.path(), "server");
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, authority.issuer.pem()).unwrap();
    let good = Tls { cert, key, client_ca: ca };
    let none = folder.path().join("none.pem");
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    assert!(tls::server_config(&good).is_ok());
    for bad in [none, empty] {
        for tls in [
            Tls { cert: bad.clone(), ..good.clone() },
            Tls { key: bad.clone(), ..good.clone() },
            Tls { client_ca: bad.clone(), ..good.clone() },
        ] {
            let error = tls::server_config(&tls).unwrap_err().to_string();
            assert!(error.contains(bad.to_str().unwrap()), "{error}");
        }
    }
}

/// A client that frames its messages itself.
struct RawClient {
    send: h2::client::SendRequest<Bytes>,
}

impl RawClient {
    async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap()).await
    }

    async fn over(stream: TcpStream) -> Self {
        let (send, connection) = h2::client::handshake(stream).await.unwrap();
        tokio::spawn(connection);
        Self { send: send.ready().await.unwrap() }
    }

    fn open(&mut self, kind: &str) -> (h2::client::ResponseFuture, h2::SendStream<Bytes>) {
        let request = Request::post(format!("http://tollgate.local{CHECK}")).header("content-type", kind);
        self.send.send_request(request.body(()).unwrap(), false).unwrap()
    }

    /// Sends these pieces as one body and gives what comes back.
    async fn call(&mut self, pieces: &[&[u8]]) -> RawAnswer {
        let (response, mut body) = self.open("application/grpc");
        for (at, piece) in pieces.iter().enumerate() {
            let last = at + 1 == pieces.len();
            if body.send_data(Bytes::copy_from_slice(piece), last).is_err() {
                break;
            }
        }
        RawAnswer::of(response).await
    }
}

#[derive(Debug)]
struct RawAnswer {
    status: u16,
    /// Of the head or of the trailers.
    grpc: Option<i32>,
    body: Vec<u8>,
}

impl RawAnswer {
    async fn of(response: h2::client::ResponseFuture) -> Self {
        let (head, mut stream) = response.await.unwrap().into_parts();
        let mut body = Vec::new();
        while let Some(data) = stream.data().await {
            body.put_slice(&data.unwrap());
        }
        let trailers = stream.trailers().await.unwrap().unwrap_or(head.headers);
        let grpc = trailers.get("grpc-status").map(|status| status.to_str().unwrap().parse().unwrap());
        Self { status: head.status.as_u16(), grpc, body }
    }

    /// The `status.code` of the check inside.
    fn code(&self) -> i32 {
        assert_eq!((self.status, self.grpc), (200, Some(0)), "{self:?}");
        assert_eq!(self.body[..5], [0, 0, 0, ((self.body.len() - 5) >> 8) as u8, (self.body.len() - 5) as u8]);
        CheckResponse::decode(&self.body[5..]).unwrap().status.unwrap().code
    }
}

fn framed(message: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.put_u32(message.len() as u32);
    bytes.put_slice(message);
    bytes
}

#[tokio::test]
async fn a_message_may_come_in_pieces() {
    let server = Server::start(on_tcp()).await;
    let mut client = RawClient::connect(server.tcp()).await;
    let message = framed(&check_of(PATH, &server.fixture.key).encode_to_vec());
    assert_eq!(client.call(&[&message]).await.code(), 0);
    assert_eq!(client.call(&message.chunks(1).collect::<Vec<_>>()).await.code(), 0);
    assert_eq!(client.call(&[&[], &message[..3], &[], &message[3..], &[]]).await.code(), 0);
    // A large one, with a body that nobody reads.
    let mut check = check_of(PATH, &server.fixture.key);
    let http = check.attributes.as_mut().unwrap().request.as_mut().unwrap().http.as_mut().unwrap();
    http.raw_body = vec![7; 3 << 20];
    let large = framed(&check.encode_to_vec());
    // More of them than may be unfinished at a time.
    for _ in 0..=crate::server::budget::LIMIT / large.len() {
        assert_eq!(client.call(&[&large]).await.code(), 0);
    }
    server.stop().await.unwrap();
}

#[tokio::test]
async fn calls_that_are_no_checks_get_an_error() {
    let server = Server::start(on_tcp()).await;
    let mut client = RawClient::connect(server.tcp()).await;
    let message = framed(b"");
    let mut compressed = message.clone();
    compressed[0] = 1;
    let mut long = vec![0];
    long.put_u32(grpc::MESSAGE_LIMIT as u32 + 1);
    let cases: [(&[&[u8]], Code); 8] = [
        (&[&compressed], Code::Unimplemented),
        (&[&long], Code::ResourceExhausted),
        (&[&[0, 0xff, 0xff, 0xff, 0xff]], Code::ResourceExhausted),
        (&[&[]], Code::Internal),
        (&[&message[..4]], Code::Internal),
        (&[&[0, 0, 0, 0, 9, 1]], Code::Internal),
        (&[&message, &message], Code::Internal),
        (&[&[0, 0, 0, 0, 0, 1]], Code::Internal),
    ];
    for (pieces, code) in cases {
        assert_eq!(client.call(pieces).await.grpc, Some(code as i32), "{pieces:?}");
    }
    for kind in ["application/json", "application/grpc-web", "application/grpc-web+proto", ""] {
        let (response, _body) = client.open(kind);
        assert_eq!(RawAnswer::of(response).await.status, 415, "{kind}");
    }
    for (method, path, status) in [("GET", CHECK, 405), ("POST", "/envoy.service.auth.v3.Authorization/Other", 200)] {
        let request = Request::builder().method(method).uri(format!("http://tollgate.local{path}"));
        let request = request.header("content-type", "application/grpc").body(()).unwrap();
        let (response, _) = client.send.send_request(request, true).unwrap();
        let answer = RawAnswer::of(response).await;
        assert_eq!(answer.status, status);
        assert!(answer.grpc.is_none_or(|code| code == Code::Unimplemented as i32));
    }
    assert_eq!(client.call(&[&message]).await.code(), 7);
    server.stop().await.unwrap();
}

#[tokio::test]
async fn calls_in_flight_finish_when_the_server_stops() {
    let folder = tempfile::tempdir().unwrap();
    let (address, path) = on_unix(&folder);
    let server = Server::start(address).await;
    let key = server.fixture.key.clone();
    let (send, connection) = h2::client::handshake(UnixStream::connect(&path).await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    let mut client = RawClient { send: send.ready().await.unwrap() };
    let message = framed(&check_of(PATH, &key).encode_to_vec());
    assert_eq!(client.call(&[&message]).await.code(), 0);

    // One call is under way, one client watches, one is just there.
    let (response, mut body) = client.open("application/grpc");
    body.send_data(Bytes::copy_from_slice(&message[..10]), false).unwrap();
    let channel = over_unix(&path).await.unwrap();
    let request = HealthCheckRequest { service: SERVICE.to_owned() };
    let mut watch = HealthClient::new(channel.clone()).watch(request).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), Health::Serving);
    let _idle = over_unix(&path).await.unwrap();

    let began = Instant::now();
    let stopped = tokio::spawn(server.stop());
    assert_eq!(watch.message().await.unwrap().unwrap().status(), Health::NotServing);
    assert_eq!(watch.message().await.unwrap_err().code(), Code::Unavailable);
    // The path is free, and nobody is let in any more, while the call is under way.
    while path.exists() {
        tokio::task::yield_now().await;
    }
    assert!(UnixStream::connect(&path).await.is_err());
    assert!(!stopped.is_finished());
    body.send_data(Bytes::copy_from_slice(&message[10..]), true).unwrap();
    assert_eq!(RawAnswer::of(response).await.code(), 0);
    stopped.await.unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test]
async fn the_drain_has_an_end() {
    let fixture = Fixture::new().await;
    let listener = CheckListener::bind(&on_tcp()).unwrap();
    let address = listener.local_address().unwrap();
    let options = Options { workers: 1, drain: Duration::from_millis(100), reflection: false };
    let (stop, stopped) = oneshot::channel::<()>();
    let served = tokio::spawn(listener.serve(fixture.service, options, Budget::new(), async { drop(stopped.await) }));
    let mut client = RawClient::connect(address).await;
    // A call that never ends.
    let (response, _body) = client.open("application/grpc");
    assert_eq!(client.call(&[&framed(b"")]).await.code(), 7);
    stop.send(()).unwrap();
    served.await.unwrap().unwrap();
    assert!(response.await.is_err());
}

#[tokio::test]
async fn who_connected_before_the_stop_is_served() {
    let fixture = Fixture::new().await;
    let listener = CheckListener::bind(&on_tcp()).unwrap();
    let address = listener.local_address().unwrap();
    let options = Options { workers: 1, drain: Duration::from_secs(20), reflection: false };
    // In the queue before anything is accepted, and told to stop at once.
    let (mut send, connection) = h2::client::handshake(TcpStream::connect(address).await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post(format!("http://tollgate.local{CHECK}")).header("content-type", "application/grpc");
    let (response, mut body) = send.send_request(request.body(()).unwrap(), false).unwrap();
    body.send_data(framed(&check_of(PATH, &fixture.key).encode_to_vec()).into(), true).unwrap();
    let served = tokio::spawn(listener.serve(fixture.service.clone(), options, Budget::new(), async {}));
    assert_eq!(RawAnswer::of(response).await.code(), 0);
    drop(send);
    served.await.unwrap().unwrap();
}

#[tokio::test]
async fn hostile_peers_harm_nobody_else() {
    let server = Server::start(on_tcp()).await;
    let address = server.tcp();
    let good = over_tcp(address).await;
    let mut peers = Vec::new();

    // Silent ones, slow ones, and ones that speak something else.
    for bytes in [
        &b""[..],
        b"P",
        b"PRI * HTTP/2.0\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        b"\x16\x03\x01\x02\x00",
        &[0xff; 4096],
    ] {
        for _ in 0..8 {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(bytes).await.unwrap();
            peers.push(stream);
        }
    }
    // A good preface and then junk frames.
    for seed in 0..32u8 {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let junk: Vec<u8> = (0..2048u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8 ^ seed).collect();
        // The server may have hung up on us already.
        let _ = stream.write_all(&junk).await;
        peers.push(stream);
    }
    // Calls that never send their message, calls that are reset at once, and heads that are too long.
    let mut slow = RawClient::connect(address).await;
    let mut held = Vec::new();
    for _ in 0..100 {
        let (response, mut body) = slow.open("application/grpc");
        body.send_data(Bytes::from_static(&[0, 0, 0xff, 0xff, 0xff, 1]), false).unwrap();
        held.push((response, body));
    }
    let mut rapid = RawClient::connect(address).await;
    for _ in 0..1000 {
        if poll_fn(|cx| rapid.send.poll_ready(cx)).await.is_err() {
            break;
        }
        let (_, mut body) = rapid.open("application/grpc");
        body.send_reset(h2::Reason::CANCEL);
    }
    let mut vain = RawClient::connect(address).await;
    let request = Request::post(format!("http://tollgate.local{CHECK}")).header("x-long", "a".repeat(1 << 20));
    let (response, _) = vain.send.send_request(request.body(()).unwrap(), true).unwrap();
    assert!(response.await.is_ok_and(|response| response.status() == 431) || vain.send.ready().await.is_err());

    for _ in 0..50 {
        assert_serves(good.clone(), &server.fixture.key).await;
        assert_serves(over_tcp(address).await, &server.fixture.key).await;
    }
    drop((held, slow));
    // Whoever did not greet is closed in the end, though it stays silent.
    let mut silent = peers.swap_remove(0);
    tokio::time::timeout(connection::GREETING_TIME * 2, silent.read_to_end(&mut Vec::new())).await.unwrap().unwrap();
    drop(peers);
    server.stop().await.unwrap();
}
