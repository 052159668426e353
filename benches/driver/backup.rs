//! The table `backup`: how long a copy of a million keys takes and its way back, of a file and of Redis, and what a check waits for
//! meanwhile. Every key must be answered by what was put back as it was before.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::Instant;

use rustix::process::Signal;
use serde_json::Value;

use crate::direct::BODY;
use crate::fleet::Redis;
use crate::keys::{KEY_LENGTH, Keys};
use crate::payload::{Form, Payload};
use crate::process::{self, LOAD_CORE, SERVER_CORE};
use crate::report::{Better, Reference, Row, Samples};
use crate::tollgate::Tollgate;
use crate::{Bench, Outcome};

/// A check may take twice as long while a copy is made.
const BAR: f64 = 0.5;

pub const ROWS: [Row; 8] = [
    seconds("make"),
    seconds("restore"),
    Row::new("backup", "checks-alone", "us p99", "checks-alone"),
    Row::new("backup", "checks", "us p99", "checks-alone").bar(BAR),
    seconds("make-redis"),
    seconds("restore-redis"),
    Row::new("backup", "checks-redis-alone", "us p99", "checks-redis-alone"),
    Row::new("backup", "checks-redis", "us p99", "checks-redis-alone").bar(BAR),
];

const fn seconds(name: &'static str) -> Row {
    let (better, reference) = (Better::Less, Reference::Row(name));
    Row { table: "backup", name, unit: "s", better, reference, bar: None, by_interval: false }
}

/// Checks in a second.
const RATE: usize = 2_000;
/// In one slice of the load.
const SLICE: usize = RATE;
/// Different keys among them.
const ASKED: usize = 5_000;

/// What is copied, and the names of its rows.
struct Place {
    store: String,
    empty: String,
    folder: PathBuf,
    made: &'static str,
    restored: &'static str,
    alone: &'static str,
    meanwhile: &'static str,
}

pub fn measure(bench: &Bench, keys: &Keys, samples: &mut Samples) -> Outcome<()> {
    let folder = bench.folder.join("backup");
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir_all(&folder)?;
    let load = Load::new(keys, &folder)?;
    for round in 1..=bench.rounds {
        bench.say(&format!("backup: round {round} of {}", bench.rounds));
        let place = |name: &str| {
            Ok::<_, std::io::Error>(folder.join(name)).and_then(|path| fs::create_dir_all(&path).map(|()| path))
        };
        let back = folder.join("back.redb");
        if back.exists() {
            fs::remove_file(&back)?;
        }
        let file = |path: &Path| format!("{{embedded: {{path: {}}}}}", path.display());
        Place {
            store: file(&keys.store),
            empty: file(&back),
            folder: place("file")?,
            made: "make",
            restored: "restore",
            alone: "checks-alone",
            meanwhile: "checks",
        }
        .measure(bench, keys, &load, samples)?;

        let (Some(full), Some(empty)) = (Redis::start(bench, "backup-from")?, Redis::start(bench, "backup-to")?) else {
            return Ok(());
        };
        bench.say(&format!("{} keys into Redis", keys.count));
        full.fill(keys, keys.count)?;
        let at = |redis: &Redis| format!("{{redis: {{url: \"redis://{}\"}}}}", redis.address);
        Place {
            store: at(&full),
            empty: at(&empty),
            folder: place("redis")?,
            made: "make-redis",
            restored: "restore-redis",
            alone: "checks-redis-alone",
            meanwhile: "checks-redis",
        }
        .measure(bench, keys, &load, samples)?;
        full.stop()?;
        empty.stop()?;
    }
    Ok(())
}

impl Place {
    fn measure(&self, bench: &Bench, keys: &Keys, load: &Load, samples: &mut Samples) -> Outcome<()> {
        let start = |store: &str| Tollgate::start_on(store, &bench.tollgate, &self.folder, keys, SERVER_CORE, false);
        fs::copy(bench.folder.join(crate::jwt::JWKS), self.folder.join(crate::jwt::JWKS))?;
        let (config, copy) = (self.folder.join("tollgate.yaml"), self.folder.join("copy"));
        if copy.exists() {
            fs::remove_file(&copy)?;
        }
        let tollgate = start(&self.store)?;
        // The first has nothing in memory yet.
        load.slice(bench, &tollgate)?;
        let (mut alone, mut meanwhile) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            alone.push(load.slice(bench, &tollgate)?);
        }
        let making = self.timed(bench, "backup", &copy, &config);
        while !making.is_finished() {
            meanwhile.push(load.slice(bench, &tollgate)?);
        }
        let (made, alone, meanwhile) = (joined(making)?, median(alone), median(meanwhile));
        samples.add("backup", self.made, made);
        samples.add("backup", self.alone, alone);
        samples.add("backup", self.meanwhile, meanwhile);
        tollgate.stop()?;
        let bytes = fs::metadata(&copy)?.len();
        bench.say(&format!(
            "a copy of {bytes} bytes in {made:.1} s; p99 of a check {meanwhile} us, and {alone} us without it"
        ));

        // The same configuration, with the store that is to be filled.
        let text = fs::read_to_string(&config)?.replace(&self.store, &self.empty);
        fs::write(&config, text)?;
        let restored = joined(self.timed(bench, "restore", &copy, &config))?;
        samples.add("backup", self.restored, restored);
        bench.say(&format!("put back in {restored:.1} s"));
        let restored = start(&self.empty)?;
        load.every_key(bench, &restored, keys)?;
        // Without writing down a million last uses.
        restored.server.stop(Signal::KILL)
    }

    /// How long a command takes with this copy, in seconds.
    fn timed(&self, bench: &Bench, command: &str, copy: &Path, config: &Path) -> JoinHandle<Result<f64, String>> {
        let mut timed = process::pinned(LOAD_CORE, &bench.tollgate);
        timed.arg(command).arg(copy).arg("--config").arg(config).args(["-o", "json"]);
        std::thread::spawn(move || {
            let begun = Instant::now();
            process::output_of(&mut timed).map_err(|error| error.to_string())?;
            Ok(begun.elapsed().as_secs_f64())
        })
    }
}

fn joined(making: JoinHandle<Result<f64, String>>) -> Outcome<f64> {
    Ok(making.join().map_err(|_| "a command was not waited for")??)
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Checks with some of the keys.
struct Load {
    message: PathBuf,
    key_at: usize,
    some: PathBuf,
}

impl Load {
    fn new(keys: &Keys, folder: &Path) -> Outcome<Self> {
        let payload = Payload::new(Form::Map, "POST", &keys.hot, BODY);
        let message = folder.join("message");
        fs::write(&message, &payload.bytes)?;
        let some = keys.part(folder, 0, ASKED.min(keys.count))?;
        Ok(Self { message, key_at: payload.key_at, some })
    }

    /// At a rate; what 99 of 100 take at most, in microseconds.
    fn slice(&self, bench: &Bench, tollgate: &Tollgate) -> Outcome<f64> {
        let report = self.run(bench, tollgate, (&self.some, "uniform"), (8, 64, SLICE), Some(RATE))?;
        if report["refused"] != 0 {
            return Err(format!("some of the keys are refused: {report}").into());
        }
        report["p99"].as_f64().ok_or_else(|| format!("no p99: {report}").into())
    }

    /// Asked for twice, as a load that is as fast as it can be may be told to come again while nothing is cached.
    fn every_key(&self, bench: &Bench, tollgate: &Tollgate, keys: &Keys) -> Outcome<()> {
        let ask = || self.run(bench, tollgate, (&keys.file, "each"), (2, 64, keys.count), None);
        ask()?;
        match ask()? {
            report if report["refused"] == 0 => Ok(()),
            report => Err(format!("some of the keys are refused: {report}").into()),
        }
    }

    fn run(
        &self,
        bench: &Bench,
        tollgate: &Tollgate,
        (keys, order): (&Path, &str),
        (connections, streams, requests): (usize, usize, usize),
        rate: Option<usize>,
    ) -> Outcome<Value> {
        let mut command = process::pinned(LOAD_CORE, &bench.own);
        command.arg("load").arg(&tollgate.check).arg(&self.message).arg(self.key_at.to_string()).arg(keys);
        command.arg(KEY_LENGTH.to_string()).arg(order);
        command.args([connections, streams, requests].map(|number| number.to_string()));
        command.args(rate.map(|rate| rate.to_string()));
        Ok(serde_json::from_str(&process::output_of(&mut command)?)?)
    }
}
