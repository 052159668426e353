//! The strangers: each a connection from an address of its own, opened again whenever it is closed. Bounded in number and time.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::PEERS;
use crate::Outcome;
use crate::load::connect;

/// How long a peer waits before it knocks again.
const AGAIN: Duration = Duration::from_millis(100);
/// Requests that a peer sends before it looks at whether anything has been read.
const BURST: usize = 64;
/// Resets a second of one peer.
const RESETS: u32 = 20;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// POST, http, `:path`, `:authority`, `content-type`, `te` (RFC 7541, sections 6.1 and 6.2.2).
const HEADER_BLOCK: &[u8] =
    b"\x83\x86\x04\x2a/envoy.service.auth.v3.Authorization/Check\x01\x09localhost\x0f\x10\x10application/grpc\
    \x00\x02te\x08trailers";

/// The program `bench peers`: an address, `h2` or `http1`, what to do, how long, and a path; how many connections stood at the end and
/// how many requests were sent, in JSON.
pub fn program(mut arguments: impl Iterator<Item = String>) -> Outcome<()> {
    let mut next = |what: &str| arguments.next().ok_or_else(|| format!("bench peers: {what} is missing"));
    let address = next("the address")?;
    let is_h2 = next("the protocol")? == "h2";
    let way = next("the way")?;
    let seconds: u64 = next("the seconds")?.parse()?;
    let path = next("the path")?;
    let opening = opening(is_h2, &way, &path)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (held, sent) = runtime.block_on(async {
        let end = Instant::now() + Duration::from_secs(seconds);
        let mut peers = JoinSet::new();
        for number in 1..=PEERS {
            let (address, way, opening) = (address.clone(), way.clone(), opening.clone());
            peers.spawn(async move { Peer { number, end, sent: 0 }.knock(&address, &way, &opening).await });
        }
        peers
            .join_all()
            .await
            .into_iter()
            .fold((0, 0), |(held, sent), (stands, own)| (held + usize::from(stands), sent + own))
    });
    println!("{}", json!({"held": held, "sent": sent}));
    Ok(())
}

/// What each peer begins with.
fn opening(is_h2: bool, way: &str, path: &str) -> Outcome<Vec<u8>> {
    let ready = || [PREFACE, SETTINGS].concat();
    Ok(match (is_h2, way) {
        (_, "silent") => Vec::new(),
        (true, "no-handshake") => PREFACE[..12].to_vec(),
        // A frame of headers that says it is longer than what comes.
        (true, "half-header") => [&ready(), &frame(1, 4, 1, HEADER_BLOCK)[..40]].concat(),
        (true, "half-body") => [ready(), frame(1, 4, 1, HEADER_BLOCK), frame(0, 0, 1, &[0, 0, 0, 200, 0, 1, 2, 3])].concat(),
        (true, "unread" | "rapid-reset") => ready(),
        (false, "half-header") => format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nx-half: ").into_bytes(),
        (false, "half-body") => format!(
            "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 1000\r\n\r\n{{\"user"
        )
        .into_bytes(),
        (false, "unread") => format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n").into_bytes(),
        (_, other) => return Err(format!("bench peers: nobody knows how to do {other} here").into()),
    })
}

struct Peer {
    number: usize,
    end: Instant,
    sent: usize,
}

impl Peer {
    /// Until the end; whether the connection stood then, and how many requests were sent.
    async fn knock(mut self, address: &str, way: &str, opening: &[u8]) -> (bool, usize) {
        while Instant::now() < self.end {
            let opened = timeout_at(self.end, connect(address, Some(self.number))).await;
            if let Ok(Ok(stream)) = opened
                && self.hold(stream, way, opening).await.is_some()
            {
                return (true, self.sent);
            }
            sleep(AGAIN).await;
        }
        (false, self.sent)
    }

    /// `None`: it was closed before the end.
    async fn hold(&mut self, mut stream: TcpStream, way: &str, opening: &[u8]) -> Option<()> {
        stream.write_all(opening).await.ok()?;
        match way {
            "unread" => self.ask_on(&mut stream, opening).await?,
            "rapid-reset" => self.reset_on(&mut stream).await?,
            _ => self.sent += 1,
        }
        let mut buffer = [0; 4096];
        loop {
            match timeout_at(self.end, stream.read(&mut buffer)).await {
                Err(_) => return Some(()),
                Ok(Ok(1..)) if way != "unread" => {}
                Ok(Ok(1..)) => sleep_until(self.end).await,
                Ok(_) => return None,
            }
        }
    }

    /// Asks as long as anything is taken, and reads nothing.
    async fn ask_on(&mut self, stream: &mut TcpStream, request: &[u8]) -> Option<()> {
        let is_h2 = request.starts_with(PREFACE);
        let mut id = 1;
        loop {
            let mut burst = Vec::new();
            for _ in 0..BURST {
                if is_h2 {
                    burst.extend(frame(1, 4, id, HEADER_BLOCK));
                    // An empty message, which is refused.
                    burst.extend(frame(0, 1, id, &[0; 5]));
                    id += 2;
                } else {
                    burst.extend(request);
                }
            }
            match timeout_at(self.end, stream.write_all(&burst)).await {
                Err(_) => return Some(()),
                Ok(written) => written.ok()?,
            }
            self.sent += BURST;
            if Instant::now() >= self.end {
                return Some(());
            }
            // One core serves them all.
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn reset_on(&mut self, stream: &mut TcpStream) -> Option<()> {
        let mut buffer = vec![0; 16 * 1024];
        let mut id = 1;
        while Instant::now() < self.end {
            let pair = [frame(1, 4, id, HEADER_BLOCK), frame(3, 0, id, &8u32.to_be_bytes())].concat();
            stream.write_all(&pair).await.ok()?;
            id += 2;
            self.sent += 1;
            while let Ok(read) = stream.try_read(&mut buffer) {
                if read == 0 {
                    return None;
                }
            }
            sleep(Duration::from_secs(1) / RESETS).await;
        }
        Some(())
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = payload.len() as u32;
    let mut frame = length.to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}
