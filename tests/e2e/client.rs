//! Two small HTTP clients that send exactly what they are told: raw HTTP/1.1 and HTTP/2. Never normalise, never retry.

use std::io;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpSocket, TcpStream};

/// An answer, of either protocol.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub trailers: Vec<(String, String)>,
}

impl Reply {
    /// All values of a header, joined by ` | `.
    pub fn header(&self, name: &str) -> Option<String> {
        let mut values =
            self.headers.iter().chain(&self.trailers).filter(|(known, _)| known.eq_ignore_ascii_case(name));
        let first = values.next()?.1.clone();
        Some(values.fold(first, |all, (_, value)| format!("{all} | {value}")))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

/// A request to be sent as it stands.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    pub method: String,
    pub target: String,
    /// `host` is added unless one stands here.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// HTTP/2 alone.
    pub trailers: Vec<(String, String)>,
}

impl Sent {
    pub fn new(method: &str, target: &str) -> Self {
        Self { method: method.to_owned(), target: target.to_owned(), ..Self::default() }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn bearer(self, key: &str) -> Self {
        self.header("authorization", &format!("Bearer {key}"))
    }

    /// With a JSON body.
    pub fn json(self, body: &Value) -> Self {
        self.header("content-type", "application/json").body(body.to_string())
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// One gRPC message, framed, with the headers that gRPC asks for.
    pub fn grpc(method: &str, message: &[u8]) -> Self {
        let mut framed = vec![0];
        framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
        framed.extend_from_slice(message);
        Self::new("POST", method).header("content-type", "application/grpc").header("te", "trailers").body(framed)
    }

    /// The bytes of an HTTP/1.1 request.
    pub fn http1(&self) -> Vec<u8> {
        let has = |name: &str| self.headers.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        let mut text = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        if !has("host") {
            text.push_str("host: localhost\r\n");
        }
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !has("transfer-encoding") && !has("content-length") && (!self.body.is_empty() || self.method != "GET") {
            text.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// One HTTP/1.1 connection.
pub struct Http1 {
    stream: BufReader<TcpStream>,
}

impl Http1 {
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        Self::over(TcpStream::connect(address).await?)
    }

    /// From this loopback address: a client elsewhere, to whoever looks.
    pub async fn connect_from(client: IpAddr, address: SocketAddr) -> io::Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(client, 0))?;
        Self::over(socket.connect(address).await?)
    }

    fn over(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    pub async fn send(&mut self, request: &Sent) -> io::Result<Reply> {
        self.write(&request.http1()).await?;
        self.read(request.method == "HEAD").await
    }

    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes).await
    }

    /// Reads one answer; interim ones are skipped.
    pub async fn read(&mut self, to_head: bool) -> io::Result<Reply> {
        loop {
            let status = self.status_line().await?;
            let headers = self.headers().await?;
            let mut reply = Reply { status, headers, ..Reply::default() };
            if status / 100 == 1 {
                continue;
            }
            if to_head || matches!(status, 204 | 304) {
                return Ok(reply);
            }
            if reply.header("transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
                self.chunks(&mut reply).await?;
            } else if let Some(length) = reply.header("content-length") {
                let length = length.parse().map_err(io::Error::other)?;
                reply.body = vec![0; length];
                self.stream.read_exact(&mut reply.body).await?;
            } else {
                self.stream.read_to_end(&mut reply.body).await?;
            }
            return Ok(reply);
        }
    }

    async fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        if self.stream.read_until(b'\n', &mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    async fn status_line(&mut self) -> io::Result<u16> {
        let line = self.line().await?;
        let status = line.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
        status.and_then(|status| status.parse().ok()).ok_or_else(|| io::Error::other(format!("not HTTP/1.1: {line}")))
    }

    async fn headers(&mut self) -> io::Result<Vec<(String, String)>> {
        let mut headers = Vec::new();
        loop {
            let line = self.line().await?;
            match line.split_once(':') {
                _ if line.is_empty() => return Ok(headers),
                Some((name, value)) => headers.push((name.to_lowercase(), value.trim().to_owned())),
                None => return Err(io::Error::other(format!("no header: {line}"))),
            }
        }
    }

    async fn chunks(&mut self, reply: &mut Reply) -> io::Result<()> {
        loop {
            let size = usize::from_str_radix(&self.line().await?, 16).map_err(io::Error::other)?;
            if size == 0 {
                reply.trailers = self.headers().await?;
                return Ok(());
            }
            let start = reply.body.len();
            reply.body.resize(start + size, 0);
            self.stream.read_exact(&mut reply.body[start..]).await?;
            self.line().await?;
        }
    }
}

/// Sends one request on a connection of its own.
pub async fn http1(address: SocketAddr, request: &Sent) -> Reply {
    Http1::connect(address).await.unwrap().send(request).await.unwrap()
}

/// The same from another loopback address.
pub async fn http1_from(client: IpAddr, address: SocketAddr, request: &Sent) -> Reply {
    Http1::connect_from(client, address).await.unwrap().send(request).await.unwrap()
}

/// One HTTP/2 connection (prior knowledge).
#[derive(Clone)]
pub struct Http2 {
    sender: h2::client::SendRequest<Bytes>,
    authority: String,
}

impl Http2 {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).await.unwrap(), format!("localhost:{}", address.port())).await
    }

    pub async fn over<T>(stream: T, authority: String) -> Self
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    {
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        // Ends with an error when the peer goes away; whoever waits for an answer sees that.
        tokio::spawn(async move { drop(connection.await) });
        Self { sender, authority }
    }

    /// # Errors
    /// A stream that was reset, or a connection that broke.
    pub async fn send(&mut self, request: &Sent) -> Result<Reply, h2::Error> {
        let (answer, mut body) = self.open(request).await?;
        // A refusal may come before all of the request was sent, and then ends the stream: only the answer counts.
        if !request.body.is_empty() {
            let _ = body.send_data(Bytes::from(request.body.clone()), request.trailers.is_empty());
        }
        if !request.trailers.is_empty() {
            let _ = body.send_trailers(headers_of(&request.trailers));
        }
        receive(answer.await?).await
    }

    /// Sends the head alone; the stream stays open if there is a body or trailers to come.
    pub async fn open(
        &mut self,
        request: &Sent,
    ) -> Result<(h2::client::ResponseFuture, h2::SendStream<Bytes>), h2::Error> {
        let mut head = Request::builder().method(&*request.method);
        let authority = request.headers.iter().find(|(name, _)| name == "host").map(|(_, host)| host);
        head = head.uri(format!("http://{}{}", authority.unwrap_or(&self.authority), request.target));
        let mut head = head.body(()).unwrap();
        let others: Vec<_> = request.headers.iter().filter(|(name, _)| name != "host").cloned().collect();
        *head.headers_mut() = headers_of(&others);
        *head.version_mut() = http::Version::HTTP_2;
        let end = request.body.is_empty() && request.trailers.is_empty();
        self.sender = self.sender.clone().ready().await?;
        self.sender.send_request(head, end)
    }
}

/// Collects an answer.
pub async fn receive(response: http::Response<h2::RecvStream>) -> Result<Reply, h2::Error> {
    let (parts, mut stream) = response.into_parts();
    let mut reply = Reply { status: parts.status.as_u16(), headers: listed(&parts.headers), ..Reply::default() };
    while let Some(data) = stream.data().await {
        let data = data?;
        stream.flow_control().release_capacity(data.len())?;
        reply.body.extend_from_slice(&data);
    }
    reply.trailers = stream.trailers().await?.map(|trailers| listed(&trailers)).unwrap_or_default();
    Ok(reply)
}

fn headers_of(list: &[(String, String)]) -> http::HeaderMap {
    let pair = |(name, value): &(String, String)| {
        (HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap())
    };
    let mut headers = http::HeaderMap::new();
    for (name, value) in list.iter().map(pair) {
        headers.append(name, value);
    }
    headers
}

fn listed(headers: &http::HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect()
}
