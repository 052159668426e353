//! A real `tollgate serve` and a client of its check socket. Ended by its id.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest, CheckResponse};
use h2::client::SendRequest;
use prost::Message;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::net::UnixStream;

use super::house::{HOST, PATIENCE, TARGET};
use super::load::Answer;

#[derive(Debug)]
pub struct Process {
    /// What outlasts the process.
    folder: Option<TempDir>,
    child: Mutex<Child>,
    id: Pid,
    /// As Envoy has it: one connection, made anew when it breaks.
    connection: tokio::sync::Mutex<Option<SendRequest<Bytes>>>,
}

impl Process {
    /// Starts one in a folder that has its pepper, and waits until its check socket is there.
    pub fn start(folder: TempDir, config: &str) -> Self {
        Self::of(Path::new(env!("CARGO_BIN_EXE_tollgate")), folder, config)
    }

    /// The same with another Tollgate than this one.
    pub fn of(program: &Path, folder: TempDir, config: &str) -> Self {
        let file = folder.path().join("tollgate.yaml");
        fs::write(&file, config).unwrap();
        let log = File::create(folder.path().join("log")).unwrap();
        let child = Command::new(program)
            .env_clear()
            .args(["serve", "--config"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let id = Pid::from_child(&child);
        let process =
            Self { folder: Some(folder), child: Mutex::new(child), id, connection: tokio::sync::Mutex::default() };
        let start = Instant::now();
        while std::os::unix::net::UnixStream::connect(process.path().join("check.sock")).is_err() {
            let ended = process.child.lock().unwrap().try_wait().unwrap().is_some();
            assert!(!ended && start.elapsed() < PATIENCE, "it does not serve: {}", process.log());
            std::thread::sleep(Duration::from_millis(10));
        }
        process
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.id, signal).unwrap();
    }

    /// Tells it to end, and waits until it has.
    pub fn end(mut self) {
        self.signal(Signal::TERM);
        assert!(self.child.get_mut().unwrap().wait().unwrap().success(), "{}", self.log());
    }

    /// Ends it with this signal, waits for its end, and starts another one on what it leaves behind.
    pub fn restart(mut self, signal: Signal) -> Self {
        self.signal(signal);
        self.child.get_mut().unwrap().wait().unwrap();
        let folder = self.folder.take().unwrap();
        let config = fs::read_to_string(folder.path().join("tollgate.yaml")).unwrap();
        Self::start(folder, &config)
    }

    pub fn config(&self) -> PathBuf {
        self.path().join("tollgate.yaml")
    }

    /// What the operator's door answers.
    pub fn probe(&self, path: &str) -> String {
        let config = fs::read_to_string(self.config()).unwrap();
        let ops = config.split("ops: {http: ").nth(1).unwrap().split('}').next().unwrap().trim_matches('"');
        let Ok(mut connection) = TcpStream::connect(ops) else { return String::new() };
        let asked = format!("GET {path} HTTP/1.1\r\nhost: ops\r\nconnection: close\r\n\r\n");
        let mut answer = String::new();
        let answered = connection.write_all(asked.as_bytes()).and_then(|()| connection.read_to_string(&mut answer));
        answered.map(|_| answer).unwrap_or_default()
    }

    fn path(&self) -> &Path {
        self.folder.as_ref().unwrap().path()
    }

    /// Where it is administered.
    pub fn admin(&self) -> PathBuf {
        self.path().join("admin.sock")
    }

    /// The memory that it has in use, in bytes.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id.as_raw_nonzero())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// What a check with this key comes to. No answer is the same as 503: Envoy refuses then.
    pub async fn check(&self, key: &str) -> Answer {
        self.try_check(key).await.unwrap_or(Answer::Unavailable)
    }

    async fn try_check(&self, key: &str) -> Option<Answer> {
        let sender = self.sender().await?;
        let request = http::Request::post("http://localhost/envoy.service.auth.v3.Authorization/Check")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let mut sender = self.kept(sender.ready().await).await?;
        let (response, mut body) = self.kept(sender.send_request(request, false)).await?;
        body.send_data(framed(key), true).ok()?;
        let mut stream = response.await.ok()?.into_body();
        let mut received = BytesMut::new();
        while let Some(data) = stream.data().await {
            let data = data.ok()?;
            stream.flow_control().release_capacity(data.len()).ok()?;
            received.extend_from_slice(&data);
        }
        answer_of(received.get(5..)?)
    }

    async fn sender(&self) -> Option<SendRequest<Bytes>> {
        let mut connection = self.connection.lock().await;
        if let Some(sender) = &*connection {
            return Some(sender.clone());
        }
        let stream = UnixStream::connect(self.path().join("check.sock")).await.ok()?;
        let (sender, driver) = h2::client::handshake(stream).await.ok()?;
        // It ends with an error when the process goes away; whoever waits for an answer sees that.
        tokio::spawn(async move { drop(driver.await) });
        Some(connection.insert(sender).clone())
    }

    /// Gives a connection up that is broken.
    async fn kept<T>(&self, result: Result<T, h2::Error>) -> Option<T> {
        if result.is_err() {
            *self.connection.lock().await = None;
        }
        result.ok()
    }

    fn log(&self) -> String {
        let Some(folder) = &self.folder else { return String::new() };
        fs::read_to_string(folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap();
        let _ = child.kill();
        let _ = child.wait();
        if std::thread::panicking() {
            eprintln!("--- tollgate ---\n{}", self.log());
        }
    }
}

fn framed(key: &str) -> Bytes {
    let http = HttpRequest {
        method: "POST".to_owned(),
        path: TARGET.to_owned(),
        host: HOST.to_owned(),
        headers: [(":method", "POST"), (":path", TARGET), ("authorization", &format!("Bearer {key}"))]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        ..HttpRequest::default()
    };
    let attributes = AttributeContext {
        request: Some(Request { http: Some(http), ..Request::default() }),
        ..AttributeContext::default()
    };
    let message = CheckRequest { attributes: Some(attributes) }.encode_to_vec();
    let mut framed = BytesMut::new();
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap());
    framed.put_slice(&message);
    framed.freeze()
}

fn answer_of(message: &[u8]) -> Option<Answer> {
    match CheckResponse::decode(message).ok()?.http_response? {
        HttpResponse::OkResponse(_) => Some(Answer::Allowed),
        HttpResponse::DeniedResponse(denied) => match denied.status?.code {
            503 => Some(Answer::Unavailable),
            code => Some(Answer::Denied(u16::try_from(code).ok()?)),
        },
        _ => None,
    }
}
