//! `tollgate fleet`: who answers checks from the store of the running server. Only looks.

use axum::http::Method;
use clap::Args;

use super::Failure;
use super::connect::{ConnectArgs, target};
use super::output::read;
use super::output::{self, Cell, Colour, Format, Table, json, printable};
use crate::server::admin::wire::FLEET;
use crate::server::admin::wire::fleet::{FindingBody, FleetBody, ReplicaBody};

#[derive(Debug, Args)]
pub struct FleetArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

pub async fn run(args: FleetArgs) -> Result<(), Failure> {
    let answer = target(&args.connect)?.call(Method::GET, FLEET, None).await?;
    match args.output {
        Format::Json => output::print(&json(&answer)?),
        Format::Table => output::print(&table(&read(answer)?, output::is_colourful())),
    }
}

fn table(fleet: &FleetBody, colourful: bool) -> String {
    let mut table =
        Table::new(&["REPLICA", "STATE", "SINCE", "POSITION", "LAG", "LEASE", "GRACE", "VERSION", "WRITES", "ID"]);
    for replica in &fleet.replicas {
        table.row(vec![
            name(replica).as_str().into(),
            Cell::coloured(&replica.state, colour(&replica.state)),
            output::time(Some(&replica.since)).as_str().into(),
            replica.position.to_string().as_str().into(),
            replica.lag.to_string().as_str().into(),
            replica.lease_ms.map_or_else(|| "-".to_owned(), |lease| format!("{lease} ms")).as_str().into(),
            grace(replica.replica.grace_seconds).as_str().into(),
            replica.version.as_str().into(),
            replica.format.to_string().as_str().into(),
            replica.replica.id.as_str().into(),
        ]);
    }
    let findings: String = fleet.findings.iter().map(finding).collect();
    format!(
        "Level: {}\n{findings}Newest change: {}\nFormat: {}\n\n{}",
        printable(&fleet.level),
        fleet.head,
        printable(&fleet.format),
        table.render(colourful)
    )
}

fn finding(finding: &FindingBody) -> String {
    let text = format!("{}: {} ({})", finding.severity, finding.what, finding.remedy);
    format!("{}\n", printable(&text))
}

/// A star marks the one that was asked.
fn name(replica: &ReplicaBody) -> String {
    let name = replica.replica.name.as_deref().unwrap_or("-");
    if replica.is_asked { format!("{name} *") } else { name.to_owned() }
}

fn grace(seconds: u64) -> String {
    if seconds == 0 { "-".to_owned() } else { format!("{seconds} s") }
}

fn colour(state: &str) -> Option<Colour> {
    match state {
        "sole" | "attached" => Some(Colour::Green),
        "syncing" => Some(Colour::Yellow),
        "detached" | "sealed" | "fenced" => Some(Colour::Red),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fleet_is_a_table_under_its_level() {
        let replica = |name: &str, state: &str, lease: Option<u64>, grace: u64| {
            json!({"id": format!("id-{name}"), "name": name, "grace_seconds": grace, "is_asked": name == "a",
                "version": "1.0.0", "state": state, "since": "2026-11-21T15:00:00.5Z", "position": 40, "lag": 2,
                "lease_ms": lease, "format": 3})
        };
        let fleet = json!({"level": "bounded (1 s)", "head": 42, "format": "2",
            "findings": [{"severity": "warn", "what": "it forgets", "remedy": "mend it"}],
            "replicas": [replica("a", "attached", Some(620), 0), replica("b\u{1b}", "fenced", None, 30)]});
        let text = table(&read(fleet).unwrap(), false);
        let lines: Vec<&str> = text.lines().collect();
        let told = ["Level: bounded (1 s)", "warn: it forgets (mend it)", "Newest change: 42", "Format: 2"];
        assert_eq!(lines[..4], told);
        assert_eq!(
            lines[6],
            "a *      attached  2026-11-21T15:00:00Z  40        2    620 ms  -      1.0.0    3       id-a"
        );
        assert!(lines[7].starts_with("b\u{fffd}       fenced"), "{text}");
        assert!(lines[7].contains("-       30 s"), "{text}");
    }
}
