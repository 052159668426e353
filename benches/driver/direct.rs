//! The table `direct`: Tollgate and tonic-null under the same load, without Envoy in between. Never counts a run in which
//! one request was not allowed.

use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::fleet::Replica;
use crate::h2load::{Figures, Run};
use crate::jwt::Tokens;
use crate::keys::{KEY_LENGTH, Keys};
use crate::load::{self, Order, Plan};
use crate::payload::{Form, Payload};
use crate::process::{self, LOAD_CORE, SERVER_CORE, Server, free_address, is_open};
use crate::report::{Row, Samples};
use crate::tollgate::Tollgate;
use crate::{Bench, Outcome};

pub const ROWS: [Row; 23] = [
    Row::new("direct", "tonic-null", "us cpu", "tonic-null"),
    Row::new("direct", "api-key-hot", "us cpu", "tonic-null").bar(1.3),
    Row::new("direct", "jwt-first", "us cpu", "tonic-null"),
    Row::new("direct", "jwt-repeat", "us cpu", "tonic-null"),
    Row::new("direct", "redis-miss", "us cpu", "tonic-null"),
    Row::new("direct", "tonic-null-1m", "us cpu", "tonic-null-1m"),
    Row::new("direct", "api-key-1m", "us cpu", "tonic-null-1m").bar(1.1),
    Row::new("direct-rate", "tonic-null", "req/s", "tonic-null").more_is_better(),
    Row::new("direct-rate", "api-key-hot", "req/s", "tonic-null").more_is_better(),
    Row::new("direct-rate", "tonic-null-1m", "req/s", "tonic-null-1m").more_is_better(),
    Row::new("direct-rate", "api-key-1m", "req/s", "tonic-null-1m").more_is_better(),
    Row::new("direct-p50", "tonic-null", "us", "tonic-null"),
    Row::new("direct-p50", "api-key-hot", "us", "tonic-null"),
    Row::new("direct-p50", "tonic-null-1m", "us", "tonic-null-1m"),
    Row::new("direct-p50", "api-key-1m", "us", "tonic-null-1m"),
    Row::new("direct-p99", "tonic-null", "us", "tonic-null"),
    Row::new("direct-p99", "api-key-hot", "us", "tonic-null").bar(0.9),
    Row::new("direct-p99", "tonic-null-1m", "us", "tonic-null-1m"),
    Row::new("direct-p99", "api-key-1m", "us", "tonic-null-1m"),
    // The other payloads: (a) without a body, (c) with 32 KiB; and (b) as Envoy sends it with `encode_raw_headers`.
    Row::new("direct-no-body", "tonic-null", "us cpu", "tonic-null"),
    Row::new("direct-no-body", "api-key-hot", "us cpu", "tonic-null"),
    Row::new("direct-32k", "tonic-null", "us cpu", "tonic-null"),
    Row::new("direct-32k", "api-key-hot", "us cpu", "tonic-null"),
];

pub const RAW_ROWS: [Row; 2] = [
    Row::new("direct-raw", "tonic-null", "us cpu", "tonic-null"),
    Row::new("direct-raw", "api-key-hot", "us cpu", "tonic-null"),
];

/// Bytes of the chat in most messages.
pub const BODY: usize = 600;
const LARGE_BODY: usize = 32 * 1024;
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const GRPC: [(&str, &str); 2] = [("content-type", "application/grpc"), ("te", "trailers")];

/// One payload, in a file for h2load.
pub struct Shape {
    table: &'static str,
    payload: Payload,
    file: PathBuf,
    /// How much less of it fits into the time of a run.
    weight: usize,
}

/// A server that is measured.
pub struct Target<'a> {
    row: &'static str,
    row_1m: &'static str,
    pub server: &'a Server,
    pub address: &'a str,
    /// Whether an answer must edit headers.
    edits: bool,
}

/// Measures all rows, with every key of `keys` in the cache. Adds the row `bytes-per-key` too, as this is when it shows.
pub fn measure(bench: &Bench, keys: &Keys, tokens: &Tokens, samples: &mut Samples) -> Outcome<()> {
    let shapes = [
        Shape::new(bench, keys, "direct", Form::Map, BODY, 1)?,
        Shape::new(bench, keys, "direct-no-body", Form::Map, 0, 2)?,
        Shape::new(bench, keys, "direct-32k", Form::Map, LARGE_BODY, 12)?,
        Shape::new(bench, keys, "direct-raw", Form::List, BODY, 2)?,
    ];
    let null = null(&bench.null, &free_address()?.to_string(), None, SERVER_CORE, &bench.folder)?;
    let tollgate = Tollgate::start(&bench.tollgate, &bench.folder, keys, SERVER_CORE, false)?;
    let replica = Replica::start(bench, keys, bench.rounds * Replica::asked(bench))?;
    let targets = [
        Target { row: "tonic-null", row_1m: "tonic-null-1m", server: &null.0, address: &null.1, edits: false },
        Target::of(&tollgate.server, &tollgate.check),
    ];
    for target in &targets {
        for shape in &shapes {
            target.prove(shape, keys)?;
        }
    }
    tokens.wait_for_keys(&tollgate.check)?;
    bench.say("every key into the cache");
    let empty = tollgate.server.resident()?;
    targets[1].load(bench, &shapes[0], keys, Order::Each, (2, 64, keys.count))?;
    let full = tollgate.server.resident()?;
    samples.add("memory", "bytes-per-key", full.saturating_sub(empty) as f64 / keys.count as f64);

    for round in 1..=bench.rounds {
        bench.say(&format!("direct: round {round} of {}", bench.rounds));
        for shape in &shapes {
            for target in &targets {
                target.capacity(bench, shape, samples)?;
            }
        }
        if let Some(replica) = &replica {
            let (cpu, _) = replica.miss(bench, keys, &shapes[0], (round - 1) * Replica::asked(bench))?;
            samples.add("direct", "redis-miss", cpu);
        }
        tokens.round(bench, round, &targets[1], &shapes[0], samples)?;
        for target in &targets {
            target.million(bench, &shapes[0], keys, samples)?;
        }
        for target in &targets {
            target.latency(bench, &shapes[0], keys, samples)?;
        }
    }
    let counted = tollgate.counted()?;
    if counted.denied > 0.0 || counted.allowed < keys.count as f64 {
        return Err(format!("tollgate counts other decisions than were asked for: {counted:?}").into());
    }
    tollgate.stop()?;
    if let Some(replica) = replica {
        replica.stop()?;
    }
    null.0.stop(Signal::TERM)
}

/// Starts tonic-null, which answers with the message in `answer` if that is given; with the address it listens on.
pub fn null(
    binary: &Path,
    address: &str,
    answer: Option<&Path>,
    core: usize,
    folder: &Path,
) -> Outcome<(Server, String)> {
    let mut command = process::pinned(core, binary);
    command.arg(address).args(answer);
    let mut server = Server::start("tonic-null", command, &folder.join("tonic-null.log"))?;
    server.wait_for(std::time::Duration::from_secs(10), || is_open(address))?;
    Ok((server, address.to_owned()))
}

impl Shape {
    pub fn file(&self) -> &Path {
        &self.file
    }

    pub fn new(
        bench: &Bench,
        keys: &Keys,
        table: &'static str,
        form: Form,
        body: usize,
        weight: usize,
    ) -> Outcome<Self> {
        let payload = Payload::new(form, "POST", &keys.hot, body);
        let file = bench.folder.join(format!("{table}.grpc"));
        std::fs::write(&file, &payload.bytes)?;
        bench.say(&format!("{table}: a message of {} bytes", payload.bytes.len() - 5));
        Ok(Self { table, payload, file, weight })
    }
}

impl<'a> Target<'a> {
    /// Tollgate, measured apart from the rows of this table.
    pub fn of(server: &'a Server, address: &'a str) -> Self {
        Self { row: "api-key-hot", row_1m: "api-key-1m", server, address, edits: true }
    }

    /// Whether the answers to this payload let requests pass.
    fn prove(&self, shape: &Shape, keys: &Keys) -> Outcome<()> {
        let plan = Plan {
            address: self.address.to_owned(),
            message: shape.payload.bytes.clone(),
            key_at: shape.payload.key_at,
            keys: keys.hot.as_bytes().to_vec(),
            key_length: KEY_LENGTH,
            order: Order::Each,
            connections: 1,
            streams: 1,
            requests: 100,
            rate: None,
            lead: std::time::Duration::ZERO,
            spread: false,
        };
        let report = load::run(&plan)?;
        if report.refused > 0 || (report.edited == 100) != self.edits {
            return Err(format!("{}, {}: not allowed: {}", self.row, shape.table, report.to_json()).into());
        }
        Ok(())
    }

    /// Processor time and rate with one key and `-c 8 -m 64`.
    fn capacity(&self, bench: &Bench, shape: &Shape, samples: &mut Samples) -> Outcome<()> {
        let requests = bench.scaled(60_000 / shape.weight);
        let (cpu, figures) = self.busy(&shape.file, requests)?;
        samples.add(shape.table, self.row, cpu);
        if shape.table == "direct" {
            samples.add("direct-rate", self.row, figures.rate);
        }
        Ok(())
    }

    /// Microseconds of processor time for each request with this message.
    pub fn busy(&self, message: &Path, requests: usize) -> Outcome<(f64, Figures)> {
        let run = self.h2load(message, (8, 64, requests), None);
        let before = self.server.cpu()?;
        let figures = run.go()?;
        Ok((self.server.cpu()?.since(&before) / requests as f64, figures))
    }

    /// The time of each request with `-c 1 -m 1`: with one key, and with another key each time.
    fn latency(&self, bench: &Bench, shape: &Shape, keys: &Keys, samples: &mut Samples) -> Outcome<()> {
        let requests = bench.scaled(5_000);
        let log = bench.folder.join("h2load.log");
        let figures = self.h2load(&shape.file, (1, 1, requests), Some(&log)).go()?;
        samples.add("direct-p50", self.row, figures.percentile(50));
        samples.add("direct-p99", self.row, figures.percentile(99));
        let report = self.load(bench, shape, keys, Order::Uniform, (1, 1, requests))?;
        samples.add("direct-p50", self.row_1m, report["p50"].as_f64().ok_or("no p50")?);
        samples.add("direct-p99", self.row_1m, report["p99"].as_f64().ok_or("no p99")?);
        Ok(())
    }

    /// Processor time and rate with a uniform choice among all keys, by our own load.
    fn million(&self, bench: &Bench, shape: &Shape, keys: &Keys, samples: &mut Samples) -> Outcome<()> {
        let requests = bench.scaled(60_000);
        let before = self.server.cpu()?;
        let report = self.load(bench, shape, keys, Order::Uniform, (8, 64, requests))?;
        samples.add(shape.table, self.row_1m, self.server.cpu()?.since(&before) / requests as f64);
        let seconds = report["seconds"].as_f64().ok_or("no time")?;
        samples.add("direct-rate", self.row_1m, requests as f64 / seconds);
        Ok(())
    }

    pub fn h2load<'r>(
        &self,
        message: &'r Path,
        (connections, streams, requests): (usize, usize, usize),
        log: Option<&'r Path>,
    ) -> Run<'r> {
        let url = format!("http://{}{CHECK}", self.address);
        Run { url, headers: &GRPC, body: Some(message), http1: false, connections, streams, requests, log }
    }

    /// Runs our own load, in which every answer must be an allow.
    fn load(
        &self,
        bench: &Bench,
        shape: &Shape,
        keys: &Keys,
        order: Order,
        (connections, streams, requests): (usize, usize, usize),
    ) -> Outcome<serde_json::Value> {
        let report = ask(bench, self.address, shape, &keys.file, order, (connections, streams, requests))?;
        let edited = if self.edits { requests } else { 0 };
        if report["allowed"] != requests || report["edited"] != edited {
            return Err(format!("{}: not every answer was an allow: {report}", self.row).into());
        }
        Ok(report)
    }
}

/// Runs our own load with the keys of a file in a process of its own, and gives its report.
pub fn ask(
    bench: &Bench,
    address: &str,
    shape: &Shape,
    keys: &Path,
    order: Order,
    (connections, streams, requests): (usize, usize, usize),
) -> Outcome<serde_json::Value> {
    let mut command = process::pinned(LOAD_CORE, &bench.own);
    command.arg("load").arg(address).arg(&shape.file).arg(shape.payload.key_at.to_string());
    command.arg(keys).arg(KEY_LENGTH.to_string());
    command.arg(if order == Order::Each { "each" } else { "uniform" });
    command.args([connections, streams, requests].map(|number| number.to_string()));
    Ok(serde_json::from_str(&process::output_of(&mut command)?)?)
}
