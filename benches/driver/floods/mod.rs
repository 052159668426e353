//! `make floods`: what is left for those who are known while strangers hold a door, by door and by the way they hold it. Each flood
//! is set beside the same flood against a sink, so that what the machine itself loses is not counted. Never sends anything off
//! loopback, and each flood ends by itself.

mod cells;
mod good;
mod peers;
mod sink;

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::keys::{KEY_LENGTH, Keys};
use crate::payload::{Form, Payload};
use crate::{Bench, Outcome};
use cells::{CELLS, Cell, Door, Way};
use good::Figures;

pub use peers::program as peers;
pub use sink::program as sink;

/// How many strangers there are.
pub const PEERS: usize = 1_100;
const SECONDS: u64 = 5;
/// Each cell and its control are measured so often, in turn: the p99 of one time says little on a machine that others share.
const ROUNDS: usize = 3;
/// Where a bound does not hold then, there are so many in all, and all of them count.
const MORE_ROUNDS: usize = 9;
const KEYS: usize = 20_000;
/// How much of what Tollgate can do the good load asks for.
const SHARE: f64 = 0.25;

const LEAST_GOOD: f64 = 0.95;
const MOST_P99: f64 = 2.0;
const MOST_RSS_MB: f64 = 50.0;
const MOST_LIVE_MS: f64 = 1_000.0;
const MOST_REVOKE_MS: f64 = 2_000.0;

/// What every cell needs.
pub struct Floods {
    bench: Bench,
    keys: Keys,
    seconds: u64,
    /// Checks a second of the good load.
    rate: f64,
    /// A check with a key that is known.
    known: Message,
    /// One with a key that nobody holds.
    unknown: Message,
    /// Ones with forged tokens, by algorithm.
    forged: Vec<(&'static str, Message)>,
}

/// A gRPC message in a file, and what takes the place of its credential.
pub struct Message {
    file: PathBuf,
    key_at: usize,
    credentials: PathBuf,
    length: usize,
}

impl Floods {
    fn prepare() -> Outcome<Self> {
        let bench = Bench::new()?;
        bench.say(&format!("a store with {KEYS} keys"));
        let keys = Keys::make(&bench.folder, KEYS)?;
        let seconds = if bench.quick { 2 } else { SECONDS };
        let known = Message::new(&bench, "known", keys.file.clone(), KEY_LENGTH)?;
        let unknown = Message::new(&bench, "unknown", Keys::unknown(&bench.folder, KEYS)?, KEY_LENGTH)?;
        bench.say("forged tokens");
        let forged = crate::jwt::forged(&bench)?;
        let forged = forged.into_iter().map(|(algorithm, file, length)| {
            Ok((algorithm, Message::new(&bench, &format!("forged-{algorithm}"), file, length)?))
        });
        let forged = forged.collect::<Outcome<_>>()?;
        let mut floods = Self { bench, keys, seconds, rate: 0.0, known, unknown, forged };
        floods.rate = SHARE * good::capacity(&floods)?;
        Ok(floods)
    }

    fn message(&self, way: Way) -> Option<&Message> {
        match way {
            Way::UnknownKeys => Some(&self.unknown),
            Way::Forged(wanted) => {
                self.forged.iter().find(|(algorithm, _)| *algorithm == wanted).map(|(_, message)| message)
            }
            _ => None,
        }
    }
}

impl Message {
    fn new(bench: &Bench, name: &str, credentials: PathBuf, length: usize) -> Outcome<Self> {
        let text = std::fs::read(&credentials)?;
        let first = std::str::from_utf8(text.get(..length).ok_or("too few credentials")?)?;
        let payload = Payload::new(Form::Map, "POST", first, crate::direct::BODY);
        let file = bench.folder.join(format!("{name}.grpc"));
        std::fs::write(&file, &payload.bytes)?;
        Ok(Self { file, key_at: payload.key_at, credentials, length })
    }
}

/// Measures every cell, prints the table and writes `target/floods.json`.
///
/// # Errors
/// Also if a bound does not hold.
pub fn measure(wanted: Option<&str>) -> Outcome<()> {
    let floods = Floods::prepare()?;
    floods.bench.say(&format!("{:.0} checks a second of the known, {PEERS} strangers", floods.rate));
    let (mut rows, mut held) = (Vec::new(), true);
    println!(
        "{:<14} {:<16} {:>8} {:>5} {:>6} {:>6} {:>6} {:>7} {:>7} {:>7} {:>8} {:>6}",
        "door", "flood", "rate", "held", "good", "late", "p99", "p99 ms", "rss MB", "live", "revoke", "at door"
    );
    for cell in CELLS.iter().filter(|cell| wanted.is_none_or(|wanted| cell.name().contains(wanted))) {
        let row = match cell.way {
            Some(way) => {
                let row = floods.run(cell.door, way)?;
                held &= row.print(cell);
                row.to_json(cell)
            }
            None => {
                println!("{:<14} {:<16} means nothing: {}", cell.door.name(), cell.flood, cell.why);
                json!({"door": cell.door.name(), "flood": cell.flood, "means_nothing": cell.why})
            }
        };
        rows.push(row);
    }
    let file = floods.bench.folder.with_file_name("floods.json");
    std::fs::write(&file, serde_json::to_string_pretty(&json!({"rows": Value::Array(rows)}))? + "\n")?;
    println!(
        "\ngood, p99, at door: beside the same flood against a sink, the median of {ROUNDS} rounds, or of {MORE_ROUNDS} where \
         a bound does not hold for these. late: checks of the known not allowed \
         within 200 ms. at door: what good callers ask who connect to the held door anew. live and revoke are in milliseconds."
    );
    println!("Written to {}", file.display());
    if held { Ok(()) } else { Err("a bound does not hold: see the rows marked with !".into()) }
}

impl Floods {
    /// The same flood against a sink, and against the door.
    fn run(&self, door: Door, way: Way) -> Outcome<Flooded> {
        let (few, more) = if self.bench.quick { (1, 1) } else { (ROUNDS, MORE_ROUNDS) };
        let round = |_| Ok((good::measure(self, door, way, true)?, good::measure(self, door, way, false)?));
        let mut rounds = (0..few).map(round).collect::<Outcome<Vec<_>>>()?;
        if !Flooded::of(&rounds).holds() {
            rounds.extend((few..more).map(round).collect::<Outcome<Vec<_>>>()?);
        }
        Ok(Flooded::of(&rounds))
    }
}

/// One row: of all its rounds the median of what is compared with the control, and the worst of the rest.
struct Flooded {
    rounds: usize,
    /// Requests a second of the strangers.
    rate: f64,
    held: u64,
    good_ratio: f64,
    /// Checks of the known that were due and not allowed in time, of so many.
    late: u64,
    due: u64,
    p99_ratio: f64,
    p99: f64,
    control_p99: f64,
    rss_mb: f64,
    live_ms: f64,
    revoke_ms: f64,
    door_ratio: f64,
}

impl Flooded {
    fn of(rounds: &[(Figures, Figures)]) -> Self {
        let middle = |figure: fn(&Figures, &Figures) -> f64| {
            median(rounds.iter().map(|(control, flood)| figure(control, flood)).collect())
        };
        let worst = |figure: fn(&Figures) -> f64| rounds.iter().map(|(_, flood)| figure(flood)).fold(0.0, f64::max);
        Self {
            rounds: rounds.len(),
            rate: middle(|_, flood| flood.rate),
            held: rounds.iter().map(|(_, flood)| flood.held).max().unwrap_or_default(),
            good_ratio: middle(|control, flood| flood.in_time / control.in_time),
            late: rounds.iter().map(|(_, flood)| flood.late).sum(),
            due: rounds.iter().map(|(_, flood)| flood.due).sum(),
            p99_ratio: middle(|control, flood| flood.p99 / control.p99),
            p99: middle(|_, flood| flood.p99),
            control_p99: middle(|control, _| control.p99),
            rss_mb: worst(|flood| flood.rss_mb),
            live_ms: worst(|flood| flood.live_ms),
            revoke_ms: worst(|flood| flood.revoke_ms),
            door_ratio: middle(|control, flood| if control.door > 0.0 { flood.door / control.door } else { 0.0 }),
        }
    }

    fn holds(&self) -> bool {
        self.good_ratio >= LEAST_GOOD
            && self.p99_ratio <= MOST_P99
            && self.rss_mb <= MOST_RSS_MB
            && self.live_ms <= MOST_LIVE_MS
            && self.revoke_ms <= MOST_REVOKE_MS
            && self.door_ratio >= LEAST_GOOD
    }

    fn to_json(&self, cell: &Cell) -> Value {
        json!({
            "door": cell.door.name(), "flood": cell.flood, "rate": self.rate.round(), "held": self.held,
            "good_ratio": self.good_ratio, "late": self.late, "due": self.due, "p99_ratio": self.p99_ratio,
            "rss_mb": self.rss_mb, "live_ms": self.live_ms, "revoke_ms": self.revoke_ms, "door_ratio": self.door_ratio,
            "rounds": self.rounds, "p99_us": self.p99, "control_p99_us": self.control_p99, "pass": self.holds(),
        })
    }

    fn print(&self, cell: &Cell) -> bool {
        let holds = self.holds();
        println!(
            "{:<14} {:<16} {:>8.0} {:>5} {:>6.3} {:>6} {:>6.2} {:>7.1} {:>7.1} {:>7.1} {:>8.1} {:>6.2}{}",
            cell.door.name(),
            cell.flood,
            self.rate,
            self.held,
            self.good_ratio,
            self.late,
            self.p99_ratio,
            self.p99 / 1e3,
            self.rss_mb,
            self.live_ms,
            self.revoke_ms,
            self.door_ratio,
            if holds { "" } else { " !" }
        );
        holds
    }
}

/// Of an even number, the lower of the two in the middle.
fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len().saturating_sub(1) / 2).copied().unwrap_or_default()
}
