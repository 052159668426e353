//! What the known see of a flood: checks at a fixed rate, `/live`, a revocation over the admin socket, and requests at the held door.
//! Never waits for one answer before it sends what is due next.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use super::cells::{Door, Way};
use super::{Floods, Message, PEERS};
use crate::Outcome;
use crate::flood::log_in;
use crate::load::{Order, Plan};
use crate::process::{self, LOAD_CORE, SERVER_CORE, Server, ask, free_address, is_open, output_of};
use crate::tollgate::Tollgate;

/// Connections of the good load, as of an Envoy with a few workers.
const CONNECTIONS: usize = 8;
/// Checks under way on each.
const STREAMS: usize = 256;
/// Checks under way on each while the keys are loaded: fewer than may be loaded at a time.
const WARM_STREAMS: usize = 16;
/// How many of 20,000 keys must be cached before it counts: all.
const WARM: usize = 20_000;
/// Messages a second of a flood that sends whole ones.
const MESSAGES: f64 = 2_000.0;
/// How long a good request at a held door may take.
const DOOR_LIMIT: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(100);
/// Envoy is there before the strangers are: for so long its checks do not count.
const LEAD: Duration = Duration::from_millis(1_000);
/// And the strangers come so long before they do.
const KNOCKING: Duration = Duration::from_millis(500);

/// Of one flood.
pub struct Figures {
    /// Requests a second of the strangers.
    pub rate: f64,
    /// Connections of theirs that stood at the end.
    pub held: u64,
    /// Of the checks that were due, those allowed within 200 ms.
    pub in_time: f64,
    /// How many were not.
    pub late: u64,
    pub due: u64,
    /// Of a check, in microseconds from when it was due.
    pub p99: f64,
    /// How much the process grew at most.
    pub rss_mb: f64,
    /// The slowest `/live`.
    pub live_ms: f64,
    /// `tollgate keys revoke` over the socket.
    pub revoke_ms: f64,
    /// Of the good requests that begin a connection at the held door, those answered within two seconds.
    pub door: f64,
}

/// Checks a second when as many are under way as may be.
pub fn capacity(floods: &Floods) -> Outcome<f64> {
    let tollgate = start(floods)?;
    let requests = if floods.bench.quick { 50_000 } else { 300_000 };
    let report = load(floods, &tollgate.check, &floods.known, (STREAMS, requests), None)?;
    tollgate.stop()?;
    let seconds = report["seconds"].as_f64().ok_or("no seconds")?;
    Ok(requests as f64 / seconds)
}

fn start(floods: &Floods) -> Outcome<Tollgate> {
    let bench = &floods.bench;
    let tollgate = Tollgate::start(&bench.tollgate, &bench.folder, &floods.keys, SERVER_CORE, false)?;
    // The keys of the issuer are read, every key is cached, and the process has its usual size.
    let report = load(floods, &tollgate.check, &floods.known, (WARM_STREAMS, WARM), None)?;
    if report["allowed"] != WARM {
        return Err(format!("not every known key is let in: {report}").into());
    }
    Ok(tollgate)
}

fn load(
    floods: &Floods,
    address: &str,
    message: &Message,
    (streams, requests): (usize, usize),
    rate: Option<f64>,
) -> Outcome<Value> {
    let mut command = process::pinned(LOAD_CORE, &floods.bench.own);
    plan(&mut command, address, message, (CONNECTIONS, streams, requests), rate.map(|rate| (rate, LEAD)));
    Ok(serde_json::from_str(&output_of(&mut command)?)?)
}

fn plan(
    command: &mut Command,
    address: &str,
    message: &Message,
    (connections, streams, requests): (usize, usize, usize),
    rate: Option<(f64, Duration)>,
) {
    command.arg("load").arg(address).arg(&message.file).arg(message.key_at.to_string());
    command.arg(&message.credentials).arg(message.length.to_string()).arg("each");
    command.args([connections, streams, requests].map(|number| number.to_string()));
    if let Some((rate, lead)) = rate {
        command.arg(rate.to_string()).arg(lead.as_millis().to_string());
    }
}

/// One flood, against the door or, as a control, against a sink on the same core.
pub fn measure(floods: &Floods, door: Door, way: Way, is_control: bool) -> Outcome<Figures> {
    let bench = &floods.bench;
    bench.say(&format!("{} {way:?}{}", door.name(), if is_control { ", control" } else { "" }));
    let tollgate = start(floods)?;
    let sink = if is_control { Some(sink(floods, door)?) } else { None };
    let target = sink.as_ref().map_or_else(|| address_of(&tollgate, door), |(_, address)| address.clone());
    let admin = tollgate.create_key(&bench.tollgate, "asks", "admin", "manage_keys")?;
    let doomed = tollgate.create_key(&bench.tollgate, "doomed", "data", "run_inference")?;
    let doomed = doomed.split('_').nth(2).ok_or("an odd key")?.to_owned();
    if door == Door::Login {
        // Known where they come from, as those are who logged in yesterday.
        log_in(tollgate.door)?;
    }
    let before = tollgate.server.resident()?;
    let over = AtomicBool::new(false);
    let good_seconds = floods.seconds as f64 - 1.0;
    let all = (floods.rate * (good_seconds + LEAD.as_secs_f64())) as usize;
    let figures = thread::scope(|scope| -> Outcome<Figures> {
        let checks =
            scope.spawn(|| text(load(floods, &tollgate.check, &floods.known, (STREAMS, all), Some(floods.rate))));
        thread::sleep(LEAD - KNOCKING);
        let strangers = scope.spawn(|| text(flood(floods, door, way, &target)));
        thread::sleep(KNOCKING);
        let live = scope.spawn(|| slowest(&over, || ask(tollgate.ops, "/live", &[]).is_ok_and(|status| status == 200)));
        let good_at_door = scope.spawn(|| share_in_time(&over, || good_request(floods, &tollgate, door, &admin)));
        let grown = scope.spawn(|| text(most_resident(&over, &tollgate.server)));
        let revoked = scope.spawn(|| {
            thread::sleep(Duration::from_secs(floods.seconds) / 4);
            let start = Instant::now();
            text(tollgate.cli(&bench.tollgate, &["keys", "revoke", &doomed])).map(|_| start.elapsed())
        });
        let checks = checks.join().map_err(|_| "the load panicked")?;
        over.store(true, Ordering::Relaxed);
        let strangers = strangers.join().map_err(|_| "the flood panicked")??;
        let most = grown.join().map_err(|_| "panicked")??;
        let checks = checks?;
        let (in_time, due) = (checks["in_time"].as_u64().ok_or("no count")?, checks["due"].as_u64().ok_or("no count")?);
        Ok(Figures {
            rate: strangers["sent"].as_f64().ok_or("no count")? / floods.seconds as f64,
            held: strangers["held"].as_u64().unwrap_or_default(),
            in_time: in_time as f64 / due as f64,
            late: due.saturating_sub(in_time),
            due,
            p99: checks["p99"].as_f64().ok_or("no p99")?,
            rss_mb: most.saturating_sub(before) as f64 / 1e6,
            live_ms: live.join().map_err(|_| "panicked")?.as_secs_f64() * 1e3,
            revoke_ms: revoked.join().map_err(|_| "panicked")?.map_or(f64::INFINITY, |time| time.as_secs_f64() * 1e3),
            door: good_at_door.join().map_err(|_| "panicked")?,
        })
    })?;
    if let Some((sink, _)) = sink {
        sink.stop(Signal::TERM)?;
    }
    tollgate.stop()?;
    Ok(figures)
}

/// An error that can cross threads.
fn text<T>(outcome: Outcome<T>) -> Result<T, String> {
    outcome.map_err(|error| error.to_string())
}

fn address_of(tollgate: &Tollgate, door: Door) -> String {
    match door {
        Door::Check => tollgate.check.clone(),
        Door::Ops => tollgate.ops.to_string(),
        Door::Admin => tollgate.admin.to_string(),
        Door::Login => tollgate.door.to_string(),
    }
}

/// tonic-null where the strangers speak gRPC, else what answers nothing.
fn sink(floods: &Floods, door: Door) -> Outcome<(Server, String)> {
    let address = free_address()?.to_string();
    let bench = &floods.bench;
    if door == Door::Check {
        return crate::direct::null(&bench.null, &address, None, SERVER_CORE, &bench.folder);
    }
    let mut command = process::pinned(SERVER_CORE, &bench.own);
    command.arg("sink").arg(&address);
    let mut server = Server::start("sink", command, &bench.folder.join("sink.log"))?;
    server.wait_for(Duration::from_secs(10), || is_open(&address))?;
    Ok((server, address))
}

fn flood(floods: &Floods, door: Door, way: Way, address: &str) -> Outcome<Value> {
    let seconds = floods.seconds;
    let mut command = process::pinned(LOAD_CORE, Path::new("nice"));
    command.arg("-n").arg("5").arg(&floods.bench.own);
    let (protocol, path) = match door {
        Door::Check => ("h2", "-"),
        Door::Ops => ("http1", "/metrics"),
        Door::Admin => ("http1", "/api/v1/auth/whoami"),
        Door::Login => ("http1", "/api/v1/auth/login"),
    };
    let way = match way {
        Way::Silent => "silent",
        Way::NoHandshake => "no-handshake",
        Way::HalfHeader => "half-header",
        Way::HalfBody => "half-body",
        Way::Unread => "unread",
        Way::RapidReset => "rapid-reset",
        Way::WrongPasswords => {
            command.arg("flood").arg(address).arg(seconds.to_string()).arg("strangers");
            return Ok(serde_json::from_str(&output_of(&mut command)?)?);
        }
        Way::UnknownKeys if door == Door::Admin => {
            command.arg("flood").arg(address).arg(seconds.to_string()).arg("keys").arg(&floods.unknown.credentials);
            return Ok(serde_json::from_str(&output_of(&mut command)?)?);
        }
        Way::UnknownKeys | Way::Forged(_) => {
            let message = floods.message(way).ok_or("no such message")?;
            let requests = (MESSAGES * seconds as f64) as usize;
            plan(&mut command, address, message, (PEERS, 4, requests), Some((MESSAGES, Duration::ZERO)));
            command.arg("spread");
            let report: Value = serde_json::from_str(&output_of(&mut command)?)?;
            return Ok(serde_json::json!({"sent": report["answered"], "held": PEERS}));
        }
    };
    command.arg("peers").arg(address).arg(protocol).arg(way).arg(seconds.to_string()).arg(path);
    Ok(serde_json::from_str(&output_of(&mut command)?)?)
}

/// The longest that one took; what fails counts as for ever.
fn slowest(over: &AtomicBool, mut act: impl FnMut() -> bool) -> Duration {
    let mut slowest = Duration::ZERO;
    while !over.load(Ordering::Relaxed) {
        let start = Instant::now();
        slowest = slowest.max(if act() { start.elapsed() } else { Duration::MAX });
        thread::sleep(PAUSE);
    }
    slowest
}

fn share_in_time(over: &AtomicBool, mut act: impl FnMut() -> bool) -> f64 {
    let (mut asked, mut answered) = (0u32, 0u32);
    while !over.load(Ordering::Relaxed) {
        let start = Instant::now();
        let is_good = act();
        asked += 1;
        answered += u32::from(is_good && start.elapsed() <= DOOR_LIMIT);
        thread::sleep(2 * PAUSE);
    }
    f64::from(answered) / f64::from(asked.max(1))
}

fn most_resident(over: &AtomicBool, server: &Server) -> Outcome<u64> {
    let mut most = 0;
    while !over.load(Ordering::Relaxed) {
        most = most.max(server.resident()?);
        thread::sleep(PAUSE / 2);
    }
    Ok(most)
}

/// One check over a connection of its own: an Envoy that has just begun, which comes again where it is hung up on.
fn good_newcomer(floods: &Floods, tollgate: &Tollgate) -> Outcome<bool> {
    let Message { file, key_at, credentials, length } = &floods.known;
    let plan = Plan {
        address: tollgate.check.clone(),
        message: std::fs::read(file)?,
        key_at: *key_at,
        keys: std::fs::read(credentials)?,
        key_length: *length,
        order: Order::Each,
        connections: 1,
        streams: 1,
        requests: 1,
        rate: Some(1.0),
        lead: Duration::ZERO,
        spread: false,
    };
    Ok(crate::load::run(&plan)?.allowed == 1)
}

/// What a good caller asks at a door that does not know the connection yet.
fn good_request(floods: &Floods, tollgate: &Tollgate, door: Door, admin_key: &str) -> bool {
    let is_ok = |address: SocketAddr, path: &str, headers: &[(&str, &str)]| {
        ask(address, path, headers).is_ok_and(|status| status == 200)
    };
    match door {
        Door::Check => good_newcomer(floods, tollgate).unwrap_or(false),
        Door::Ops => is_ok(tollgate.ops, "/ready", &[]),
        Door::Admin => {
            is_ok(tollgate.admin, "/api/v1/auth/whoami", &[("authorization", &format!("Bearer {admin_key}"))])
        }
        Door::Login => log_in(tollgate.door).is_ok(),
    }
}
