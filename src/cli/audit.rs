//! `tollgate audit`: who changed what, and who was refused. Reads the log, and removes its oldest rows.

use axum::http::Method;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::query;
use super::connect::{ConnectArgs, Target, target};
use super::output::read;
use super::output::{self, Cell, Colour, Format, Table, json, note};
use super::{Failure, duration};
use crate::server::admin::wire::AUDIT;
use crate::server::admin::wire::audit::{AuditPage, TrimmedBody};

#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(subcommand)]
    command: AuditCommand,
}

#[derive(Debug, Subcommand)]
enum AuditCommand {
    /// List administrative acts and refused attempts, newest first
    #[command(after_help = "Examples:
  tollgate audit list --since 24h
  tollgate audit list --actor user:acme/alice@example.com --act key.create
  tollgate audit list --target key:Ab3dEf6hIj9l --since 2027-01-31T12:00:00Z -o json")]
    List(ListArgs),
    /// Remove the rows from before a time, for good
    #[command(after_help = "Examples:
  tollgate audit trim --before 400d
  tollgate audit trim --before 2027-01-31T12:00:00Z

The newest row always stays. Only the operator may, at the admin socket. See also `audit: {keep: 400d}` in the configuration.")]
    Trim(TrimArgs),
}

#[derive(Args, Debug)]
struct TrimArgs {
    /// Before this time: RFC 3339, or how long ago, such as 400d
    #[arg(long, value_parser = time, value_name = "TIME")]
    before: String,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// About this project alone
    #[arg(long)]
    project: Option<String>,
    /// By this one alone, such as key:ID, user:NAME or operator
    #[arg(long)]
    actor: Option<String>,
    /// Of this kind alone, such as key.create
    #[arg(long)]
    act: Option<String>,
    /// About this thing alone, such as key:ID, user:NAME or workload:w-42
    #[arg(long)]
    target: Option<String>,
    /// From this time on: RFC 3339, or how long ago, such as 24h
    #[arg(long, value_parser = time, value_name = "TIME")]
    since: Option<String>,
    /// Before this time: RFC 3339, or how long ago
    #[arg(long, value_parser = time, value_name = "TIME")]
    until: Option<String>,
    /// Only what is older than the row of this number
    #[arg(long, value_name = "NUMBER")]
    before: Option<u64>,
    /// At most this many, up to 1000
    #[arg(long, default_value_t = 100, value_name = "COUNT")]
    limit: usize,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// Reads a time, or how long ago it was.
fn time(text: &str) -> Result<String, String> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return Ok(time.to_string());
    }
    let wrong =
        || format!("`{text}` is no time: write RFC 3339, such as 2027-01-31T12:00:00Z, or how long ago, such as 24h");
    let ago = duration::parse(text).map_err(|_| wrong())?;
    let time = jiff::Timestamp::now().checked_sub(ago).map_err(|_| wrong())?;
    Ok(time.to_string())
}

pub async fn run(args: AuditArgs) -> Result<(), Failure> {
    let target = target(&args.connect)?;
    let args = match args.command {
        AuditCommand::List(args) => args,
        AuditCommand::Trim(args) => return trim(&target, args.before).await,
    };
    let answer = pages(&target, &args).await?;
    match args.output {
        Format::Json => output::print(&json(&answer)?),
        Format::Table => list(&read(answer)?),
    }
}

/// As many rows as were asked for, or all there are: a page of the server may hold fewer, with more to come.
async fn pages(target: &Target, args: &ListArgs) -> Result<Value, Failure> {
    let (mut found, mut before) = (Vec::new(), args.before);
    loop {
        let query = query(&[
            ("project", args.project.clone()),
            ("actor", args.actor.clone()),
            ("act", args.act.clone()),
            ("target", args.target.clone()),
            ("since", args.since.clone()),
            ("until", args.until.clone()),
            ("before", before.map(|number| number.to_string())),
            ("limit", Some(args.limit.saturating_sub(found.len()).to_string())),
        ]);
        let mut page = target.call(Method::GET, &format!("{AUDIT}{query}"), None).await?;
        before = page.get("next").and_then(Value::as_u64);
        let Some(entries) = page.get_mut("entries").and_then(Value::as_array_mut) else { return Ok(page) };
        found.append(entries);
        if before.is_none() || found.len() >= args.limit {
            *entries = found;
            return Ok(page);
        }
    }
}

async fn trim(target: &Target, before: String) -> Result<(), Failure> {
    let query = query(&[("before", Some(before))]);
    let mut removed = 0;
    loop {
        let answer = target.call(Method::DELETE, &format!("{AUDIT}{query}"), None).await;
        let trimmed: TrimmedBody = read(answer.inspect_err(|_| {
            if removed > 0 {
                note(&format!("Removed {removed} rows before this."));
            }
        })?)?;
        removed += trimmed.removed;
        if !trimmed.more {
            return output::print(&format!("Removed {removed} rows.\n"));
        }
    }
}

fn list(page: &AuditPage) -> Result<(), Failure> {
    if page.entries.is_empty() {
        note("No rows.");
        return Ok(());
    }
    let mut table = Table::new(&["TIME", "ACTOR", "ACT", "TARGET", "PROJECT", "OUTCOME", "FROM", "REASON"]);
    for entry in &page.entries {
        let colour = if entry.outcome == "done" { Colour::Green } else { Colour::Red };
        table.row(vec![
            output::time(Some(&entry.at)).as_str().into(),
            entry.actor.as_str().into(),
            entry.act.as_str().into(),
            entry.target.as_str().into(),
            entry.project.as_deref().unwrap_or("-").into(),
            Cell::coloured(&entry.outcome, Some(colour)),
            entry.peer.as_str().into(),
            entry.reason.as_deref().unwrap_or("-").into(),
        ]);
    }
    output::print(&table.render(output::is_colourful()))?;
    if let Some(next) = page.next {
        note(&format!("There are more: --before {next}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_said_or_counted_back() {
        assert_eq!(time("2027-01-31T13:00:00+01:00"), Ok("2027-01-31T12:00:00Z".to_owned()));
        let ago: jiff::Timestamp = time("24h").unwrap().parse().unwrap();
        let seconds = jiff::Timestamp::now().as_second() - ago.as_second();
        assert!((86_400..86_460).contains(&seconds), "{seconds}");
        for bad in ["yesterday", "24", "", "99999999999999d"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }
}
