//! The load that h2load cannot make: the same message with another key each time. Writes HTTP/2 frames that were encoded
//! beforehand, keeps to the server's flow control, and reads every answer: whatever Envoy would not let pass is counted. A load at a
//! rate connects again when it is hung up on, as Envoy does.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use crate::Outcome;
use crate::payload::allows;

/// What to send.
pub struct Plan {
    /// `ADDRESS:PORT` or `unix:PATH`.
    pub address: String,
    /// The length-prefixed message.
    pub message: Vec<u8>,
    pub key_at: usize,
    /// Keys of equal length, one after the other.
    pub keys: Vec<u8>,
    pub key_length: usize,
    pub order: Order,
    pub connections: usize,
    /// Requests under way on a connection.
    pub streams: usize,
    pub requests: usize,
    /// Requests a second of all connections together, sent when they are due, whatever has been answered by then. `None`: as many
    /// as may be under way.
    pub rate: Option<f64>,
    /// What is due for so long from the beginning is sent and not counted.
    pub lead: Duration,
    /// Whether each connection comes from an address of its own, of 127.0.0.0/8.
    pub spread: bool,
}

/// Which key comes next.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// A uniform choice.
    Uniform,
    /// Each once, from the first.
    Each,
}

/// What came back.
#[derive(Default)]
pub struct Report {
    /// Answers that let the request pass.
    pub allowed: usize,
    /// Those among them that edit headers.
    pub edited: usize,
    /// All others: denials, gRPC errors, resets, and what was due and not answered.
    pub refused: usize,
    pub seconds: f64,
    /// Time from a request's first byte, or from when it was due, to its answer's last, in microseconds, sorted; [`NEVER`] where there
    /// was none.
    pub micros: Vec<u32>,
    /// Allowed within the time that Envoy gives a check.
    pub in_time: usize,
    /// One of the answers, without its prefix.
    pub sample: Vec<u8>,
}

impl Report {
    pub fn to_json(&self) -> Value {
        let (p50, p99) = (percentile(&self.micros, 50), percentile(&self.micros, 99));
        let answered = self.micros.iter().filter(|micros| **micros != NEVER).count();
        json!({"due": self.micros.len(), "answered": answered, "allowed": self.allowed, "edited": self.edited,
            "refused": self.refused, "in_time": self.in_time, "seconds": self.seconds, "p50": p50, "p99": p99})
    }
}

impl Report {
    /// For what will never be answered.
    fn fail(&mut self) {
        self.refused += 1;
        self.micros.push(NEVER);
    }
}

pub fn percentile(sorted: &[u32], percent: usize) -> u32 {
    let last = sorted.len().saturating_sub(1);
    sorted.get(last * percent / 100).copied().unwrap_or_default()
}

/// Of what was due and is not answered.
const NEVER: u32 = u32::MAX;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;
/// The first header block, which fills the table of the server's decoder: POST, http, `:path`, `:authority`,
/// `content-type`, `te` (RFC 7541, sections 6.1 and 6.2.1).
const FIRST_BLOCK: [&[u8]; 5] = [
    &[0x83, 0x86],
    b"\x44\x2a/envoy.service.auth.v3.Authorization/Check",
    b"\x41\x09localhost",
    b"\x5f\x10application/grpc",
    b"\x40\x02te\x08trailers",
];
/// The same again, from that table.
const NEXT_BLOCK: &[u8] = &[0x83, 0x86, 0xc1, 0xc0, 0xbf, 0xbe];
const DEFAULT_WINDOW: i64 = 65_535;
const MAX_FRAME: usize = 16_384;
const WIDE: u32 = 0x7fff_0000;
/// What Envoy waits for a check by default: 200 ms.
const IN_TIME_MICROS: u32 = 200_000;
/// How long the last answers to requests that are sent at a rate may take.
const ANSWER_WAIT: Duration = Duration::from_secs(2);
/// After a connection was lost: what is due meanwhile has failed.
const BACK_OFF: Duration = Duration::from_millis(25);
/// Streams under way are kept in a ring of this size.
const RING: usize = 4_096;

/// Sends it all and reads every answer.
pub fn run(plan: &Plan) -> Outcome<Report> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let start = Instant::now();
    let shares = (0..plan.connections).map(|index| Share::of(plan, index));
    let reports = runtime.block_on(futures_util::future::try_join_all(shares.map(|share| converse(plan, share))))?;
    let mut sum = Report { seconds: start.elapsed().as_secs_f64(), ..Report::default() };
    for report in reports {
        sum.allowed += report.allowed;
        sum.edited += report.edited;
        sum.refused += report.refused;
        sum.in_time += report.in_time;
        sum.micros.extend(report.micros);
        sum.sample = report.sample;
    }
    sum.micros.sort_unstable();
    Ok(sum)
}

/// The keys and requests of one connection.
struct Share {
    number: usize,
    next: usize,
    step: usize,
    left: usize,
    random: Option<u64>,
}

impl Share {
    fn of(plan: &Plan, index: usize) -> Self {
        let left = plan.requests / plan.connections + usize::from(index < plan.requests % plan.connections);
        let seed = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(index as u64 + 1);
        let random = (plan.order == Order::Uniform).then_some(seed);
        Self { number: index, next: index, step: plan.connections, left, random }
    }

    /// The index of the next key, among `count`.
    fn pick(&mut self, count: usize) -> usize {
        self.left -= 1;
        let Some(state) = &mut self.random else {
            let index = self.next % count;
            self.next += self.step;
            return index;
        };
        // xorshift64*
        *state ^= *state >> 12;
        *state ^= *state << 25;
        *state ^= *state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as usize % count
    }
}

async fn converse(plan: &Plan, share: Share) -> Outcome<Report> {
    let mut connection = Connection::new(plan, share);
    let Some(rate) = plan.rate else {
        connection.carry_out().await?;
        return Ok(connection.report);
    };
    // What was due and not answered is seen in the counts, whatever became of the connection.
    let end = tokio::time::Instant::now() + Duration::from_secs_f64(plan.requests as f64 / rate) + ANSWER_WAIT;
    while let Ok(Err(_)) = tokio::time::timeout_at(end, connection.carry_out()).await {
        connection.was_lost();
        tokio::time::sleep(BACK_OFF).await;
        connection.fail_due(Instant::now());
    }
    connection.was_lost();
    connection.fail_due(end.into_std());
    Ok(connection.report)
}

/// A connection to a server on loopback, for the peer of this number from an address of its own.
pub async fn connect(address: &str, peer: Option<usize>) -> io::Result<TcpStream> {
    let Some(peer) = peer else { return TcpStream::connect(address).await };
    let socket = TcpSocket::new_v4()?;
    let [_, b, c, d] = u32::try_from(peer).unwrap_or_default().to_be_bytes();
    // 127.0.0.1 is everybody else's.
    socket.bind(SocketAddr::from(([127, b | 1, c, d.max(1)], 0)))?;
    socket.connect(address.parse().map_err(io::Error::other)?).await
}

/// A request under way.
#[derive(Clone)]
struct Slot {
    /// 0: free.
    stream: u32,
    sent: Instant,
    answer: Vec<u8>,
}

struct Connection<'p> {
    plan: &'p Plan,
    number: usize,
    share: Share,
    slots: Vec<Slot>,
    next_stream: u32,
    under_way: usize,
    /// What the server is still willing to take on this connection.
    window: i64,
    /// The same for a new stream.
    stream_window: i64,
    /// What we have taken since we last widened the connection's window.
    taken: usize,
    out: Vec<u8>,
    report: Report,
    /// When the next request is due, and how long after it the one behind it.
    pace: Option<(Instant, Duration)>,
    counted_from: Instant,
}

impl<'p> Connection<'p> {
    fn new(plan: &'p Plan, share: Share) -> Self {
        let start = Instant::now();
        let slot = Slot { stream: 0, sent: start, answer: Vec::new() };
        Self {
            plan,
            number: share.number,
            share,
            slots: vec![slot; RING],
            next_stream: 1,
            under_way: 0,
            window: DEFAULT_WINDOW,
            stream_window: DEFAULT_WINDOW,
            taken: 0,
            out: greeting(),
            report: Report::default(),
            pace: plan.rate.map(|rate| (start, Duration::from_secs_f64(plan.connections as f64 / rate))),
            counted_from: start + plan.lead,
        }
    }

    /// What was under way has failed, and the next connection begins anew.
    fn was_lost(&mut self) {
        for slot in self.slots.iter_mut().filter(|slot| slot.stream != 0) {
            if slot.sent >= self.counted_from {
                self.report.fail();
            }
            slot.stream = 0;
        }
        (self.next_stream, self.under_way, self.taken) = (1, 0, 0);
        (self.window, self.stream_window) = (DEFAULT_WINDOW, DEFAULT_WINDOW);
        self.out = greeting();
    }

    /// What was due until then and could not be sent has failed.
    fn fail_due(&mut self, until: Instant) {
        let Some((due, step)) = &mut self.pace else { return };
        while *due <= until && self.share.left > 0 {
            self.share.pick(1);
            if *due >= self.counted_from {
                self.report.fail();
            }
            *due += *step;
        }
    }

    async fn carry_out(&mut self) -> Outcome<()> {
        match self.plan.address.strip_prefix("unix:") {
            Some(path) => self.run(UnixStream::connect(path).await?).await,
            None => {
                let stream = connect(&self.plan.address, self.plan.spread.then_some(self.number)).await?;
                stream.set_nodelay(true)?;
                self.run(stream).await
            }
        }
    }

    async fn run(&mut self, mut io: impl AsyncRead + AsyncWrite + Unpin) -> Outcome<()> {
        let mut input: Vec<u8> = Vec::with_capacity(256 * 1024);
        loop {
            self.fill()?;
            io.write_all(&self.out).await?;
            self.out.clear();
            if self.under_way == 0 && self.share.left == 0 {
                return Ok(());
            }
            match self.next_due() {
                None if io.read_buf(&mut input).await? == 0 => return Err("the server closed the connection".into()),
                None => {}
                Some(due) => tokio::select! {
                    read = io.read_buf(&mut input) => {
                        if read? == 0 {
                            return Err("the server closed the connection".into());
                        }
                    }
                    () = tokio::time::sleep_until(due.into()) => {}
                },
            }
            let mut read = 0;
            while let Some(head) = input.get(read..read + 9) {
                let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
                let (kind, flags) = (head[3], head[4]);
                let stream = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
                let Some(payload) = input.get(read + 9..read + 9 + length) else { break };
                self.take(kind, flags, stream, payload)?;
                read += 9 + length;
            }
            input.drain(..read);
        }
    }

    /// When there is something to send, whatever is read until then.
    fn next_due(&self) -> Option<Instant> {
        let (due, _) = self.pace?;
        (self.share.left > 0 && self.under_way < self.plan.streams).then_some(due)
    }

    /// When the next request counts as sent, if it is time for it.
    fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        match self.pace {
            None => Some(now),
            Some((due, _)) => (due <= now).then_some(due),
        }
    }

    /// Appends as many requests as may be under way.
    fn fill(&mut self) -> Outcome<()> {
        let plan = self.plan;
        let length = plan.message.len();
        if i64::try_from(length)? > self.stream_window {
            return Err("the message is larger than the window of a stream".into());
        }
        while self.under_way < plan.streams && self.share.left > 0 && self.window >= i64::try_from(length)? {
            let Some(sent_at) = self.due() else { break };
            let stream = self.next_stream;
            if stream == 1 {
                frame(&mut self.out, HEADERS, END_HEADERS, stream, &FIRST_BLOCK.concat());
            } else {
                frame(&mut self.out, HEADERS, END_HEADERS, stream, NEXT_BLOCK);
            }
            let key = self.share.pick(plan.keys.len() / plan.key_length) * plan.key_length;
            let key = &plan.keys[key..key + plan.key_length];
            let mut sent = 0;
            while sent < length {
                let part = MAX_FRAME.min(length - sent);
                let end = if sent + part == length { END_STREAM } else { 0 };
                let start = self.out.len() + 9;
                frame(&mut self.out, DATA, end, stream, &plan.message[sent..sent + part]);
                if (sent..sent + part).contains(&plan.key_at) {
                    let at = start + plan.key_at - sent;
                    self.out[at..at + plan.key_length].copy_from_slice(key);
                }
                sent += part;
            }
            let slot = &mut self.slots[stream as usize / 2 % RING];
            if slot.stream != 0 {
                return Err("an answer is overdue by thousands of others".into());
            }
            slot.stream = stream;
            slot.sent = sent_at;
            slot.answer.clear();
            self.window -= i64::try_from(length)?;
            self.next_stream += 2;
            self.under_way += 1;
            if let Some((due, step)) = &mut self.pace {
                *due += *step;
            }
        }
        Ok(())
    }

    fn take(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Outcome<()> {
        match kind {
            DATA => {
                self.taken += payload.len();
                if self.taken > 1 << 29 {
                    frame(&mut self.out, WINDOW_UPDATE, 0, 0, &u32::try_from(self.taken)?.to_be_bytes());
                    self.taken = 0;
                }
                self.slot(stream)?.answer.extend_from_slice(payload);
                if flags & END_STREAM != 0 {
                    self.settle(stream)?;
                }
            }
            HEADERS if flags & END_STREAM != 0 => self.settle(stream)?,
            RESET if self.slot(stream).is_ok() => self.settle(stream)?,
            SETTINGS if flags & ACK == 0 => {
                for setting in payload.chunks_exact(6) {
                    let value = u32::from_be_bytes([setting[2], setting[3], setting[4], setting[5]]);
                    match setting[1] {
                        1 if value < 4_096 => return Err("the server's header table is too small for this load".into()),
                        3 if (value as usize) < self.plan.streams => return Err("too few streams are allowed".into()),
                        // Streams under way had all they need when they were opened.
                        4 => self.stream_window = i64::from(value),
                        _ => {}
                    }
                }
                frame(&mut self.out, SETTINGS, ACK, 0, &[]);
            }
            PING if flags & ACK == 0 => frame(&mut self.out, PING, ACK, 0, payload),
            WINDOW_UPDATE if stream == 0 => {
                self.window += i64::from(u32::from_be_bytes(payload.try_into()?));
            }
            GOAWAY => return Err("the server says goodbye".into()),
            _ => {}
        }
        Ok(())
    }

    fn slot(&mut self, stream: u32) -> Outcome<&mut Slot> {
        let slot = &mut self.slots[stream as usize / 2 % RING];
        if slot.stream == stream { Ok(slot) } else { Err("an answer to nothing that was asked".into()) }
    }

    /// The stream has ended: judges its answer.
    fn settle(&mut self, stream: u32) -> Outcome<()> {
        let counted_from = self.counted_from;
        let slot = self.slot(stream)?;
        slot.stream = 0;
        let micros = u32::try_from(slot.sent.elapsed().as_micros())?;
        // The prefix: not compressed, then the length of the message.
        let verdict = match slot.answer.split_at_checked(5) {
            Some(([0, a, b, c, d], message)) if u32::from_be_bytes([*a, *b, *c, *d]) as usize == message.len() => {
                allows(message)
            }
            _ => None,
        };
        let sample = (stream == 1).then(|| slot.answer.get(5..).unwrap_or_default().to_vec());
        let counts = slot.sent >= counted_from;
        self.under_way -= 1;
        if !counts {
            return Ok(());
        }
        self.report.micros.push(micros);
        if self.report.sample.is_empty() {
            self.report.sample.extend(sample.into_iter().flatten());
        }
        match verdict {
            Some(edited) => {
                self.report.allowed += 1;
                self.report.in_time += usize::from(micros <= IN_TIME_MICROS);
                self.report.edited += usize::from(edited);
            }
            None => self.report.refused += 1,
        }
        Ok(())
    }
}

/// What a connection begins with.
fn greeting() -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    // No push; windows so wide that the server never waits for us.
    let mut settings = vec![0, 2, 0, 0, 0, 0, 0, 4];
    settings.extend(WIDE.to_be_bytes());
    frame(&mut out, SETTINGS, 0, 0, &settings);
    frame(&mut out, WINDOW_UPDATE, 0, 0, &WIDE.to_be_bytes());
    out
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let length = payload.len() as u32;
    out.extend_from_slice(&length.to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// The program `bench load`: a plan in arguments, a report in JSON. A process of its own, so that it can be pinned.
pub fn program(mut arguments: impl Iterator<Item = String>) -> Outcome<()> {
    let mut next = |what: &str| arguments.next().ok_or_else(|| format!("bench load: {what} is missing"));
    let address = next("the address")?;
    let message = fs::read(next("the file with the message")?)?;
    let key_at = next("where the key stands")?.parse()?;
    let keys = fs::read(next("the file with the keys")?)?;
    let key_length = next("the length of a key")?.parse()?;
    let order = if next("the order")? == "each" { Order::Each } else { Order::Uniform };
    let connections = next("the number of connections")?.parse()?;
    let streams = next("the number of streams")?.parse()?;
    let requests = next("the number of requests")?.parse()?;
    // All are left out where as much as possible is sent.
    let rate = arguments.next().map(|rate| rate.parse()).transpose()?;
    let lead = arguments.next().map(|millis| millis.parse()).transpose()?;
    let spread = arguments.next().is_some();
    let lead = Duration::from_millis(lead.unwrap_or_default());
    let plan =
        Plan { address, message, key_at, keys, key_length, order, connections, streams, requests, rate, lead, spread };
    println!("{}", run(&plan)?.to_json());
    Ok(())
}
