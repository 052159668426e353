//! The table `fleet`: a replica on a real Redis beside a Tollgate that owns its store. Never asks for a key twice where a miss is
//! measured.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::thread::sleep;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::direct::{BODY, Shape, ask};
use crate::jwt::JWKS;
use crate::keys::Keys;
use crate::load::Order;
use crate::payload::Form;
use crate::process::{self, Cpu, LOAD_CORE, SERVER_CORE, Server, free_address, is_open};
use crate::report::{Better, Reference, Row, Samples};
use crate::tollgate::Tollgate;
use crate::{Bench, Outcome, h2load};

/// Processor time in the replica, but for `redis-miss-server`, which is what the same misses cost Redis.
pub const ROWS: [Row; 18] = [
    Row::new("fleet", "l1-hit", "us cpu", "l1-hit"),
    Row::new("fleet", "redis-miss", "us cpu", "l1-hit"),
    Row::new("fleet", "redis-miss-server", "us cpu", "l1-hit"),
    Row::new("fleet", "embedded-miss", "us cpu", "l1-hit"),
    Row::new("fleet", "negative-hit", "us cpu", "l1-hit"),
    Row::new("fleet-p50", "l1-hit", "us", "l1-hit"),
    Row::new("fleet-p50", "redis-miss", "us", "l1-hit"),
    Row::new("fleet-p50", "embedded-miss", "us", "l1-hit"),
    Row::new("fleet-p50", "negative-hit", "us", "l1-hit"),
    Row::new("fleet-p99", "l1-hit", "us", "l1-hit"),
    Row::new("fleet-p99", "redis-miss", "us", "l1-hit"),
    Row::new("fleet-p99", "embedded-miss", "us", "l1-hit"),
    Row::new("fleet-p99", "negative-hit", "us", "l1-hit"),
    // Processor time in a second in which nobody asks anything.
    Row::new("fleet-idle", "embedded", "ms cpu/s", "embedded"),
    Row::new("fleet-idle", "replica", "ms cpu/s", "embedded"),
    Row::new("fleet-idle", "redis", "ms cpu/s", "embedded"),
    READY,
    // What the server needs for a key, and not what a replica needs to have it cached: that is `bytes-per-key`.
    Row::new("memory", "bytes-per-key-redis", "bytes", "bytes-per-key-redis"),
];

/// From exec to ready.
const READY: Row = Row {
    table: "memory",
    name: "ready-1m-redis",
    unit: "s",
    better: Better::Less,
    reference: Reference::Bar(2.0),
    bar: Some(1.0),
    by_interval: false,
};

/// At most 256 loads are under way at once.
const WIDE: (usize, usize) = (8, 16);
const NARROW: (usize, usize) = (1, 1);
const UNKNOWN: usize = 100;
/// More than the processor time of a second in which Redis does nothing but look at its clock (2 to 3 ms).
const RESTS_BELOW_MICROS: f64 = 4_000.0;
const SETTLE_SECONDS: usize = 30;

/// A Tollgate on a Redis of its own.
pub struct Replica {
    redis: Redis,
    tollgate: Tollgate,
}

/// A Redis server of its own.
pub struct Redis {
    pub server: Server,
    pub address: SocketAddr,
}

impl Replica {
    /// With the first `count` keys in the store; `None` where there is no Redis.
    pub fn start(bench: &Bench, keys: &Keys, count: usize) -> Outcome<Option<Self>> {
        let Some(redis) = Redis::start(bench, "redis")? else { return Ok(None) };
        bench.say(&format!("{count} keys into Redis"));
        redis.fill(keys, count)?;
        let tollgate = redis.tollgate(bench, keys)?;
        Ok(Some(Self { redis, tollgate }))
    }

    /// How many keys are asked for to measure a miss.
    pub fn asked(bench: &Bench) -> usize {
        bench.scaled(20_000)
    }

    /// Microseconds of processor time, here and in Redis, for each of the keys behind `from`, none of which is cached.
    pub fn miss(&self, bench: &Bench, keys: &Keys, shape: &Shape, from: usize) -> Outcome<(f64, f64)> {
        let count = Self::asked(bench);
        let (part, before) = (keys.part(&bench.folder, from, count)?, self.redis.server.cpu()?);
        let cpu = cpu_of(&self.tollgate.server, count, || {
            allowed(&ask(bench, &self.tollgate.check, shape, &part, Order::Each, (WIDE.0, WIDE.1, count))?, count)
        })?;
        Ok((cpu, self.redis.server.cpu()?.since(&before) / count as f64))
    }

    pub fn stop(self) -> Outcome<()> {
        self.tollgate.stop()?;
        self.redis.stop()
    }
}

impl Redis {
    /// As it is recommended, on the core of the load, in a folder of this name; `None` if there is none on `PATH`.
    pub fn start(bench: &Bench, name: &str) -> Outcome<Option<Self>> {
        let Some(binary) = h2load::find("redis-server") else {
            bench.say("no redis-server: put one on PATH for what is measured with it");
            return Ok(None);
        };
        let (folder, address) = (bench.folder.join(name), free_address()?);
        if folder.exists() {
            fs::remove_dir_all(&folder)?;
        }
        fs::create_dir(&folder)?;
        let mut command = process::pinned(LOAD_CORE, &binary);
        command.args(["--bind", "127.0.0.1", "--port", &address.port().to_string(), "--save", ""]);
        command.args(["--maxmemory-policy", "noeviction", "--appendonly", "yes", "--appendfsync", "always"]);
        // A rewrite of the file would fall into what is measured.
        command.args(["--auto-aof-rewrite-percentage", "0", "--dir"]).arg(&folder);
        let mut server = Server::start("redis-server", command, &bench.folder.join(format!("{name}.log")))?;
        server.wait_for(Duration::from_secs(10), || is_open(&address.to_string()))?;
        Ok(Some(Self { server, address }))
    }

    pub fn stop(self) -> Outcome<()> {
        self.server.stop(Signal::TERM)
    }

    /// Without waiting for the disk meanwhile.
    pub fn fill(&self, keys: &Keys, count: usize) -> Outcome<()> {
        self.set("appendfsync no")?;
        keys.fill_redis(self.address, count)?;
        self.set("appendfsync always")?;
        self.settle()
    }

    /// Until it rests from being filled: what it still does then would fall into what is measured.
    fn settle(&self) -> Outcome<()> {
        for _ in 0..SETTLE_SECONDS {
            let before = self.server.cpu()?;
            sleep(Duration::from_secs(1));
            if self.server.cpu()?.since(&before) < RESTS_BELOW_MICROS {
                break;
            }
        }
        Ok(())
    }

    fn set(&self, setting: &str) -> Outcome<()> {
        let answer = self.ask(&format!("CONFIG SET {setting}"))?;
        if answer == "+OK" { Ok(()) } else { Err(format!("{setting}: {answer}").into()) }
    }

    /// Bytes of the store's log, which is as long after as many changes, however many keys there are.
    fn log(&self) -> Outcome<u64> {
        let answer = self.ask("MEMORY USAGE tg:{tg}:log SAMPLES 0")?;
        Ok(answer.strip_prefix(':').ok_or("no log in Redis")?.parse()?)
    }

    /// The first line of its answer.
    fn ask(&self, command: &str) -> Outcome<String> {
        let mut stream = TcpStream::connect(self.address)?;
        write!(stream, "{command}\r\n")?;
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer)?;
        Ok(answer.trim_end().to_owned())
    }

    fn tollgate(&self, bench: &Bench, keys: &Keys) -> Outcome<Tollgate> {
        let folder = bench.folder.join("replica");
        fs::create_dir_all(&folder)?;
        fs::copy(bench.folder.join(JWKS), folder.join(JWKS))?;
        let store = format!("{{redis: {{url: \"redis://{}\"}}}}", self.address);
        Tollgate::start_on(&store, &bench.tollgate, &folder, keys, SERVER_CORE, false)
    }
}

/// Measures all rows, with every key of `keys` in Redis.
pub fn measure(bench: &Bench, keys: &Keys, samples: &mut Samples) -> Outcome<()> {
    let Some(redis) = Redis::start(bench, "redis")? else { return Ok(()) };
    bench.say(&format!("{} keys into Redis", keys.count));
    let empty = redis.server.resident()?;
    redis.fill(keys, keys.count)?;
    let full = redis.server.resident()?.saturating_sub(redis.log()?);
    samples.add("memory", "bytes-per-key-redis", full.saturating_sub(empty) as f64 / keys.count as f64);

    let shape = Shape::new(bench, keys, "fleet", Form::Map, BODY, 1)?;
    let unknown = Keys::unknown(&bench.folder, UNKNOWN)?;
    for round in 1..=bench.rounds {
        bench.say(&format!("fleet: round {round} of {}", bench.rounds));
        let sole = Tollgate::start(&bench.tollgate, &bench.folder, keys, SERVER_CORE, false)?;
        samples.add("fleet-idle", "embedded", idle(bench, &[&sole.server])?[0]);
        misses(bench, &sole, &shape, keys, "embedded-miss", samples)?;
        sole.stop()?;

        let tollgate = redis.tollgate(bench, keys)?;
        samples.add("memory", "ready-1m-redis", tollgate.started_in.as_secs_f64());
        let figures = idle(bench, &[&tollgate.server, &redis.server])?;
        samples.add("fleet-idle", "replica", figures[0]);
        samples.add("fleet-idle", "redis", figures[1]);
        let before = redis.server.cpu()?;
        misses(bench, &tollgate, &shape, keys, "redis-miss", samples)?;
        let spent = redis.server.cpu()?.since(&before) / keys_of_round(bench) as f64;
        samples.add("fleet", "redis-miss-server", spent);
        hits(bench, &tollgate, &shape, keys, samples)?;
        strangers(bench, &tollgate, &shape, &unknown, samples)?;
        tollgate.stop()?;
    }
    redis.server.stop(Signal::TERM)
}

/// Keys that are asked for with many at once, and then those that are asked for one by one.
fn keys_of_round(bench: &Bench) -> usize {
    Replica::asked(bench) + bench.scaled(5_000)
}

/// Each key once, right after the start.
fn misses(
    bench: &Bench,
    tollgate: &Tollgate,
    shape: &Shape,
    keys: &Keys,
    row: &'static str,
    samples: &mut Samples,
) -> Outcome<()> {
    let (wide, narrow) = (Replica::asked(bench), bench.scaled(5_000));
    let part = keys.part(&bench.folder, 0, wide)?;
    let cpu = cpu_of(&tollgate.server, wide, || {
        allowed(&ask(bench, &tollgate.check, shape, &part, Order::Each, (WIDE.0, WIDE.1, wide))?, wide)
    })?;
    samples.add("fleet", row, cpu);
    let part = keys.part(&bench.folder, wide, narrow)?;
    let report = ask(bench, &tollgate.check, shape, &part, Order::Each, (NARROW.0, NARROW.1, narrow))?;
    allowed(&report, narrow)?;
    latency(&report, row, samples)
}

/// The same keys again.
fn hits(bench: &Bench, tollgate: &Tollgate, shape: &Shape, keys: &Keys, samples: &mut Samples) -> Outcome<()> {
    let (wide, narrow) = (bench.scaled(60_000), bench.scaled(5_000));
    let part = keys.part(&bench.folder, 0, keys_of_round(bench))?;
    let cpu = cpu_of(&tollgate.server, wide, || {
        allowed(&ask(bench, &tollgate.check, shape, &part, Order::Uniform, (WIDE.0, WIDE.1, wide))?, wide)
    })?;
    samples.add("fleet", "l1-hit", cpu);
    let report = ask(bench, &tollgate.check, shape, &part, Order::Uniform, (NARROW.0, NARROW.1, narrow))?;
    allowed(&report, narrow)?;
    latency(&report, "l1-hit", samples)
}

/// Keys that nobody holds, which is known after the first time.
fn strangers(bench: &Bench, tollgate: &Tollgate, shape: &Shape, unknown: &Path, samples: &mut Samples) -> Outcome<()> {
    let (wide, narrow) = (bench.scaled(60_000), bench.scaled(5_000));
    ask(bench, &tollgate.check, shape, unknown, Order::Each, (NARROW.0, NARROW.1, UNKNOWN))?;
    let cpu = cpu_of(&tollgate.server, wide, || {
        ask(bench, &tollgate.check, shape, unknown, Order::Uniform, (WIDE.0, WIDE.1, wide)).map(|_| ())
    })?;
    samples.add("fleet", "negative-hit", cpu);
    let report = ask(bench, &tollgate.check, shape, unknown, Order::Uniform, (NARROW.0, NARROW.1, narrow))?;
    let counted = tollgate.counted()?;
    if counted.denied != (UNKNOWN + wide + narrow) as f64 || counted.unavailable > 0.0 {
        return Err(format!("tollgate counts other decisions than were asked for: {counted:?}").into());
    }
    latency(&report, "negative-hit", samples)
}

/// Microseconds of processor time for each of `count` requests.
fn cpu_of(server: &Server, count: usize, work: impl FnOnce() -> Outcome<()>) -> Outcome<f64> {
    let before = server.cpu()?;
    work()?;
    Ok(server.cpu()?.since(&before) / count as f64)
}

fn allowed(report: &Value, count: usize) -> Outcome<()> {
    if report["allowed"] == count { Ok(()) } else { Err(format!("not every answer was an allow: {report}").into()) }
}

fn latency(report: &Value, row: &'static str, samples: &mut Samples) -> Outcome<()> {
    samples.add("fleet-p50", row, report["p50"].as_f64().ok_or("no p50")?);
    samples.add("fleet-p99", row, report["p99"].as_f64().ok_or("no p99")?);
    Ok(())
}

/// Milliseconds of processor time that each server uses in a second.
fn idle(bench: &Bench, servers: &[&Server]) -> Outcome<Vec<f64>> {
    let seconds = if bench.quick { 1 } else { 5 };
    let before = servers.iter().map(|server| server.cpu()).collect::<Outcome<Vec<Cpu>>>()?;
    sleep(Duration::from_secs(seconds));
    let used = servers.iter().zip(&before).map(|(server, before)| Ok(server.cpu()?.since(before)));
    used.map(|micros: Outcome<f64>| Ok(micros? / 1_000.0 / seconds as f64)).collect()
}
