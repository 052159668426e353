//! Peers of the check listener that mean harm: what each of them sends, as bytes that were written down once and can be sent on
//! any connection, whatever is answered. Never reads an answer.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::{client, server};
use http::Request;
use socket2::{Domain, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// What becomes of each call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The message is whole.
    Whole,
    /// The rest of it never comes.
    Half,
}

/// The bytes of a client that opens so many calls, each with its body.
pub async fn calls(body: impl Fn(u32) -> Bytes, count: u32, ending: Ending) -> Vec<u8> {
    let (near, far) = tokio::io::duplex(1 << 20);
    let written = Arc::new(Mutex::new(Vec::new()));
    let recorder = Recorder { stream: near, written: Arc::clone(&written) };
    let taken = Arc::new(AtomicUsize::default());
    let served = tokio::spawn(swallow(far, Arc::clone(&taken)));
    let (mut send, connection) = client::handshake(recorder).await.unwrap();
    let connection = tokio::spawn(connection);
    let (mut held, mut expected) = (Vec::new(), 0);
    for number in 0..count {
        send = send.ready().await.unwrap();
        let request = Request::post(format!("http://tollgate.local{CHECK}")).header("content-type", "application/grpc");
        let (response, mut stream) = send.send_request(request.body(()).unwrap(), false).unwrap();
        let body = body(number);
        expected += body.len();
        stream.send_data(body, ending == Ending::Whole).unwrap();
        held.push((response, stream));
    }
    // Whatever was sent has arrived at the other end.
    while taken.load(Ordering::SeqCst) < expected {
        tokio::task::yield_now().await;
    }
    connection.abort();
    served.abort();
    std::mem::take(&mut *written.lock().unwrap())
}

/// A server that takes everything and answers nothing; it counts the bytes of bodies.
async fn swallow(stream: DuplexStream, taken: Arc<AtomicUsize>) {
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(u32::MAX).initial_window_size(1 << 30).initial_connection_window_size(1 << 30);
    let mut connection = builder.handshake::<_, Bytes>(stream).await.unwrap();
    let mut held = Vec::new();
    while let Some(Ok((request, respond))) = connection.accept().await {
        let (mut body, taken) = (request.into_body(), Arc::clone(&taken));
        held.push(respond);
        tokio::spawn(async move {
            while let Some(Ok(data)) = body.data().await {
                taken.fetch_add(data.len(), Ordering::SeqCst);
            }
        });
    }
}

struct Recorder {
    stream: DuplexStream,
    written: Arc<Mutex<Vec<u8>>>,
}

impl AsyncRead for Recorder {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Recorder {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = result {
            self.written.lock().unwrap().extend_from_slice(&bytes[..count]);
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// A message with its prefix of gRPC, which says that it has this length.
pub fn framed(message: &[u8], length: usize) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
    bytes.extend_from_slice(message);
    bytes.into()
}

/// A connection from an address of its own, from which nothing is read.
pub fn connect(address: SocketAddr, number: usize) -> io::Result<std::net::TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_recv_buffer_size(4096)?;
    let [.., high, middle, low] = number.to_be_bytes();
    socket.bind(&SocketAddr::from(([127, high | 2, middle, low], 0)).into())?;
    socket.connect(&address.into())?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// Bytes on their way to a peer that may not take them.
#[derive(Debug)]
pub struct Sender {
    pub stream: std::net::TcpStream,
    sent: usize,
}

impl Sender {
    pub fn new(stream: std::net::TcpStream) -> Self {
        Self { stream, sent: 0 }
    }

    /// Sends what is taken now. Whether the connection is still there.
    pub fn push(&mut self, bytes: &[u8]) -> bool {
        use io::Write;
        while self.sent < bytes.len() {
            match self.stream.write(&bytes[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(_) => return false,
            }
        }
        true
    }
}
