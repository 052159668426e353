//! Measures Tollgate beside its references, interleaved, and writes `target/bench.json`. Never part of the product; leaves
//! no process behind, and no file outside its own folder.

mod backup;
mod direct;
mod envoy;
mod fleet;
mod flood;
mod floods;
mod h2load;
mod jwt;
mod keys;
mod list;
mod load;
mod memory;
#[path = "../../tests/support/mint.rs"]
mod mint;
mod payload;
mod process;
mod report;
mod tollgate;

use std::path::PathBuf;
use std::time::Instant;

use jwt::Tokens;
use keys::Keys;
use report::Samples;

pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

/// How this run is done.
pub struct Bench {
    /// `target/bench`.
    folder: PathBuf,
    /// This very program, which is also the load and the back end.
    own: PathBuf,
    tollgate: PathBuf,
    null: PathBuf,
    rounds: usize,
    envoy_rounds: usize,
    quick: bool,
    start: Instant,
}

impl Bench {
    /// From `BENCH_*` in the environment. The servers lie beside this program; the results go to `target` in the current
    /// folder.
    fn new() -> Outcome<Self> {
        let own = std::env::current_exe()?;
        let programs = own.parent().ok_or("no folder of programs")?;
        let quick = is_set("BENCH_QUICK");
        let rounds = match std::env::var("BENCH_ROUNDS") {
            Ok(text) => text.parse()?,
            Err(_) if quick => 1,
            Err(_) => 5,
        };
        let bench = Self {
            folder: std::env::current_dir()?.join("target/bench"),
            tollgate: programs.join("tollgate"),
            null: programs.join("tonic-null"),
            rounds,
            envoy_rounds: if quick { rounds } else { rounds.max(5) * 3 },
            quick,
            start: Instant::now(),
            own: own.clone(),
        };
        std::fs::create_dir_all(&bench.folder)?;
        Ok(bench)
    }

    /// A number of requests, fewer in a quick run.
    fn scaled(&self, requests: usize) -> usize {
        if self.quick { requests / 10 } else { requests }
    }

    fn say(&self, what: &str) {
        eprintln!("[{:>5.1} s] {what}", self.start.elapsed().as_secs_f64());
    }
}

fn is_set(name: &str) -> bool {
    std::env::var_os(name).is_some_and(|value| !value.is_empty() && value != "0")
}

/// Whether a table is among those named in `BENCH_TABLES`, by default all.
fn is_wanted(table: &str) -> bool {
    match std::env::var("BENCH_TABLES") {
        Ok(names) if !names.trim().is_empty() => names.split_whitespace().any(|name| name == table),
        _ => true,
    }
}

fn main() -> Outcome<()> {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        Some("load") => load::program(arguments),
        Some("flood") => flood::program(arguments),
        Some("floods") => floods::measure(arguments.next().as_deref()),
        Some("peers") => floods::peers(arguments),
        Some("sink") => floods::sink(arguments),
        Some("backend") => envoy::backend(arguments),
        Some(other) => Err(format!("bench: no such program: {other}").into()),
        None => measure(),
    }
}

fn measure() -> Outcome<()> {
    let bench = Bench::new()?;
    if std::thread::available_parallelism()?.get() < 2 {
        return Err("the servers and the load need a core each: this machine has one".into());
    }
    let count = if bench.quick { 20_000 } else { 1_000_000 };
    bench.say(&format!("a store with {count} keys"));
    let keys = Keys::make(&bench.folder, count)?;
    bench.say("tokens");
    let tokens = Tokens::make(&bench)?;
    let mut samples = Samples::default();
    if is_wanted("memory") {
        memory::measure(&bench, &keys, &mut samples)?;
    }
    if is_wanted("list") {
        list::measure(&bench, &keys, &mut samples)?;
    }
    if is_wanted("direct") {
        direct::measure(&bench, &keys, &tokens, &mut samples)?;
    }
    if is_wanted("fleet") {
        fleet::measure(&bench, &keys, &mut samples)?;
    }
    if is_wanted("backup") {
        backup::measure(&bench, &keys, &mut samples)?;
    }
    if is_wanted("login-flood") {
        flood::measure(&bench, &keys, &mut samples)?;
    }
    match std::env::var_os("ENVOY").filter(|path| !path.is_empty()).map(PathBuf::from).or_else(|| h2load::find("envoy"))
    {
        _ if !is_wanted("envoy") => {}
        Some(binary) => envoy::measure(&bench, &binary, &keys, &mut samples)?,
        None => bench.say("no Envoy: set ENVOY or put one on PATH for the table `envoy`"),
    }
    let rows: Vec<_> = direct::ROWS
        .into_iter()
        .chain(direct::RAW_ROWS)
        .chain(jwt::ROWS)
        .chain(fleet::ROWS)
        .chain(flood::ROWS)
        .chain(envoy::ROWS)
        .chain(memory::ROWS)
        .chain(list::ROWS)
        .chain(backup::ROWS)
        .collect();
    let file = bench.folder.with_file_name("bench.json");
    report::report(&rows, &samples, &file)?;
    bench.say("done");
    Ok(())
}
