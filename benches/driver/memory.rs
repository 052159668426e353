//! The rest of the table `memory`: from exec to ready with a million keys in the store. What a cached key takes is measured
//! in `direct`, where all of them are cached.

use rustix::process::Signal;

use crate::keys::Keys;
use crate::process::SERVER_CORE;
use crate::report::{Better, Reference, Row, Samples};
use crate::tollgate::Tollgate;
use crate::{Bench, Outcome};

pub const ROWS: [Row; 3] =
    [row("bytes-per-key", "bytes", 600.0), row("ready-1m", "s", 1.0), row("ready-1m-after-kill", "s", 1.0)];

const fn row(name: &'static str, unit: &'static str, most: f64) -> Row {
    Row {
        table: "memory",
        name,
        unit,
        better: Better::Less,
        reference: Reference::Bar(most),
        bar: Some(1.0),
        by_interval: false,
    }
}

pub fn measure(bench: &Bench, keys: &Keys, samples: &mut Samples) -> Outcome<()> {
    let start = || Tollgate::start(&bench.tollgate, &bench.folder, keys, SERVER_CORE, false);
    for round in 1..=bench.rounds {
        bench.say(&format!("start: round {round} of {}", bench.rounds));
        let tollgate = start()?;
        samples.add("memory", "ready-1m", tollgate.started_in.as_secs_f64());
        // Without a chance to close its store.
        tollgate.server.stop(Signal::KILL)?;
        let tollgate = start()?;
        samples.add("memory", "ready-1m-after-kill", tollgate.started_in.as_secs_f64());
        tollgate.stop()?;
    }
    Ok(())
}
