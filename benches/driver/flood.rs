//! The table `login-flood`: how long a check takes while strangers try to log in 500 times a second, and how many logins are
//! left for whoever knows the password. Bounded in time, and on loopback.

use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::direct::{BODY, Target};
use crate::floods::PEERS;
use crate::keys::{KEY_LENGTH, Keys, USER};
use crate::load;
use crate::payload::{Form, Payload};
use crate::process::{self, LOAD_CORE, SERVER_CORE};
use crate::report::{Row, Samples};
use crate::tollgate::Tollgate;
use crate::{Bench, Outcome};

pub const ROWS: [Row; 4] = [
    Row::new("login-flood", "checks-alone", "us p99", "checks-alone"),
    Row::new("login-flood", "checks", "us p99", "checks-alone").bar(0.5),
    Row::new("login-flood", "attempts", "1/s", "attempts").more_is_better(),
    Row::new("login-flood", "honest-logins", "1/s", "honest-logins").more_is_better(),
];

const SECONDS: u64 = 10;
/// Attempts in a second.
const RATE: u64 = 500;
/// Attempts in a second by the one who knows the password.
const HONEST: u64 = 10;
/// Where they come from.
const HOME: &str = "198.51.100.7";

pub fn measure(bench: &Bench, keys: &Keys, samples: &mut Samples) -> Outcome<()> {
    let seconds = if bench.quick { 2 } else { SECONDS };
    let payload = Payload::new(Form::Map, "POST", &keys.hot, BODY);
    let file = bench.folder.join("flood.grpc");
    std::fs::write(&file, &payload.bytes)?;
    let log = bench.folder.join("flood.log");
    for round in 1..=bench.rounds {
        bench.say(&format!("login flood: round {round} of {}", bench.rounds));
        let tollgate = Tollgate::start(&bench.tollgate, &bench.folder, keys, SERVER_CORE, false)?;
        let target = Target::of(&tollgate.server, &tollgate.check);
        // In slices until the time is over, since how many requests fit is not known beforehand.
        let checks = || -> Outcome<f64> {
            let (start, mut micros) = (std::time::Instant::now(), Vec::new());
            while start.elapsed() < Duration::from_secs(seconds) {
                micros.extend(target.h2load(&file, (1, 1, 2_000), Some(&log)).go()?.micros);
            }
            micros.sort_unstable();
            Ok(f64::from(load::percentile(&micros, 99)))
        };
        samples.add("login-flood", "checks-alone", checks()?);
        let mut flood = process::pinned(LOAD_CORE, &bench.own);
        flood.arg("flood").arg(tollgate.door.to_string()).arg(seconds.to_string());
        let flood = std::thread::spawn(move || process::output_of(&mut flood).map_err(|error| error.to_string()));
        samples.add("login-flood", "checks", checks()?);
        let counted: Value = serde_json::from_str(&flood.join().map_err(|_| "the flood panicked")??)?;
        let rate = |name: &str| counted[name].as_f64().map(|count| count / seconds as f64).ok_or("no count");
        samples.add("login-flood", "attempts", rate("attempts")?);
        samples.add("login-flood", "honest-logins", rate("honest")?);
        if counted["other"] != 0 || counted["accepted"] != 0 {
            return Err(format!("the flood was answered as it should not be: {counted}").into());
        }
        tollgate.server.stop(Signal::TERM)?;
    }
    Ok(())
}

/// The program `bench flood`: an address and seconds in arguments, counts in JSON. With `strangers` nobody honest comes; with `keys`
/// and a file, strangers come with keys in place of passwords.
pub fn program(mut arguments: impl Iterator<Item = String>) -> Outcome<()> {
    let address: SocketAddr = arguments.next().ok_or("bench flood: the address is missing")?.parse()?;
    let seconds: u64 = arguments.next().ok_or("bench flood: the seconds are missing")?.parse()?;
    let time = Duration::from_secs(seconds);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let counted = match arguments.next().as_deref() {
        None => runtime.block_on(run(address, time))?,
        Some("strangers") => runtime.block_on(strangers(address, time, &[]))?,
        Some("keys") => {
            let text = std::fs::read_to_string(arguments.next().ok_or("bench flood: the file with keys is missing")?)?;
            let keys = text.as_bytes().chunks(KEY_LENGTH).map(|key| String::from_utf8_lossy(key).into_owned());
            runtime.block_on(strangers(address, time, &keys.collect::<Vec<_>>()))?
        }
        Some(other) => return Err(format!("bench flood: what are {other}?").into()),
    };
    println!("{counted}");
    Ok(())
}

/// One honest login, of whoever is known where it comes from.
pub fn log_in(address: SocketAddr) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let attempt = async { tokio::time::timeout(Duration::from_secs(5), attempt(address, USER.0, USER.1, HOME)).await };
    match runtime.block_on(attempt)?? {
        200 => Ok(()),
        status => Err(format!("the honest user cannot log in: {status}").into()),
    }
}

/// Attempts at a rate, with passwords or with these keys, whatever they are answered.
async fn strangers(address: SocketAddr, time: Duration, keys: &[String]) -> Outcome<Value> {
    let start = Instant::now();
    let mut ticks = interval(Duration::from_secs(1) / u32::try_from(RATE)?);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut attempts = JoinSet::new();
    let mut sent = 0usize;
    while start.elapsed() < time {
        ticks.tick().await;
        let key = keys.get(sent % keys.len().max(1)).cloned();
        sent += 1;
        let peer = sent % PEERS + 1;
        attempts.spawn(async move {
            let outcome = match key {
                Some(key) => whoami(address, peer, &key).await,
                None => {
                    let from = format!("192.0.{}.{}", peer / 250, peer % 250);
                    attempt(address, &format!("stranger-{peer}"), "a guess", &from).await
                }
            };
            drop(outcome);
        });
    }
    attempts.abort_all();
    Ok(json!({"sent": sent, "held": 0}))
}

async fn whoami(address: SocketAddr, peer: usize, key: &str) -> Outcome<u16> {
    let request = format!(
        "GET /api/v1/auth/whoami HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {key}\r\nconnection: close\r\n\r\n"
    );
    answered(load::connect(&address.to_string(), Some(peer)).await?, &request).await
}

async fn run(address: SocketAddr, time: Duration) -> Outcome<Value> {
    // Known where they come from, as those are who logged in yesterday.
    if attempt(address, USER.0, USER.1, HOME).await? != 200 {
        return Err("the honest user cannot log in".into());
    }
    let start = Instant::now();
    let mut ticks = interval(Duration::from_millis(1000) / u32::try_from(RATE)?);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut attempts = JoinSet::new();
    let mut number = 0u64;
    while start.elapsed() < time {
        ticks.tick().await;
        number += 1;
        let is_honest = number.is_multiple_of(RATE / HONEST);
        attempts.spawn(async move {
            let (name, password) =
                if is_honest { (USER.0.to_owned(), USER.1) } else { (format!("stranger-{number}"), "a guess") };
            let from =
                if is_honest { HOME.to_owned() } else { format!("192.0.{}.{}", number / 250 % 250, number % 250) };
            let status = attempt(address, &name, password, &from).await;
            (is_honest, status.unwrap_or_default())
        });
    }
    let (mut accepted, mut honest, mut busy, mut refused, mut other) = (0, 0, 0, 0, 0);
    while let Some(outcome) = attempts.join_next().await {
        match outcome? {
            (true, 200) => honest += 1,
            (false, 200) => accepted += 1,
            (_, 401) => refused += 1,
            (_, 503 | 429) => busy += 1,
            _ => other += 1,
        }
    }
    Ok(json!({"attempts": number, "honest": honest, "accepted": accepted, "refused": refused, "busy": busy,
        "other": other}))
}

/// The status of one attempt, on a connection of its own.
async fn attempt(address: SocketAddr, name: &str, password: &str, from: &str) -> Outcome<u16> {
    let body = json!({"username": name, "password": password}).to_string();
    let request = format!(
        "POST /api/v1/auth/login HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         x-envoy-external-address: {from}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    answered(TcpStream::connect(address).await?, &request).await
}

async fn answered(mut stream: TcpStream, request: &str) -> Outcome<u16> {
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer.split(' ').nth(1).ok_or("no status")?.parse()?)
}
