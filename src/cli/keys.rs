//! `tollgate keys`: makes, lists, shows, changes, rotates and revokes keys through the running server. A key's text goes to standard
//! output once, when it is made, and nowhere else.

use std::io::{self, IsTerminal};
use std::time::Duration;

use axum::http::Method;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::encoded;
use super::connect::{ConnectArgs, target};
use super::output::{self, Cell, Colour, Format, Table, fields, json, note, painted, read};
use super::page::{PageArgs, tell_of_more};
use super::waiting::WaitArgs;
use super::{Exit, Failure, duration};
use crate::server::admin::wire::keys::{CreateKey, KeyBody, KeyPage, RotateKey, UpdateKey};
use crate::server::admin::wire::{BOOTSTRAP, KEYS};

#[derive(Debug, Args)]
pub struct KeysArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Make a key and show it once
    #[command(after_help = "Examples:
  tollgate keys create --name chat --plane data --project acme --workloads '*' --permissions run_inference
  tollgate keys create --name ci --plane control --project acme --workloads '*' \\
      --permissions read_workloads,create_workloads --expires-in 30d -o json
  export MY_KEY=$(tollgate keys create -q --name job --plane data --project acme --workloads w1,w2 \\
      --permissions run_inference --expires-in 24h)")]
    Create(CreateArgs),
    /// List keys, without their secrets
    #[command(after_help = "Examples:
  tollgate keys list --project acme
  tollgate keys list --plane data --limit 1000 -o json")]
    List(ListArgs),
    /// Show the record of one key, without its secret
    #[command(after_help = "Example:
  tollgate keys show Ab3dEf6hIj9l -o json > key.json      # what `tollgate explain --key` reads")]
    Show(OneArgs),
    /// Change a key's name, rights or expiry; what is left out stays
    #[command(after_help = "Examples:
  tollgate keys update Ab3dEf6hIj9l --name 'chat (EU)'
  tollgate keys update Ab3dEf6hIj9l --permissions run_inference --expires-in 30d")]
    Update(UpdateArgs),
    /// Revoke a key, at once and for good
    #[command(after_help = "Examples:
  tollgate keys revoke Ab3dEf6hIj9l
  tollgate keys revoke Ab3dEf6hIj9l --wait      # until no replica can allow it any more")]
    Revoke(RevokeArgs),
    /// Make a replacement with the same rights, and let the old key end after a grace
    #[command(after_help = "Example:
  tollgate keys rotate Ab3dEf6hIj9l --grace 24h")]
    Rotate(RotateArgs),
    /// Make the first administrative key, if there is none (through the admin socket alone)
    #[command(after_help = "Example:
  export TOLLGATE_ADMIN_KEY=$(tollgate keys bootstrap -q)")]
    Bootstrap(ShownArgs),
}

/// How a new key is printed.
#[derive(Debug, Args)]
struct ShownArgs {
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
    /// Print the key and nothing else, for scripts
    #[arg(short, long, conflicts_with = "output")]
    quiet: bool,
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// What people will know the key by
    #[arg(long)]
    name: String,
    /// The plane it is for, such as data or control
    #[arg(long)]
    plane: Option<String>,
    /// The project it belongs to; `*` for every project, on an admin plane
    #[arg(long)]
    project: Option<String>,
    /// The workloads it reaches, with commas between them; `*` for all of the project
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    workloads: Option<Vec<String>>,
    /// What it may do, with commas between them
    #[arg(long, value_delimiter = ',', value_name = "NAMES", required = true)]
    permissions: Vec<String>,
    /// When it expires, such as 90m, 24h or 30d; without this it does not
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    expires_in: Option<Duration>,
    #[command(flatten)]
    shown: ShownArgs,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Of this project alone
    #[arg(long)]
    project: Option<String>,
    /// Of this plane alone
    #[arg(long)]
    plane: Option<String>,
    #[command(flatten)]
    page: PageArgs,
}

#[derive(Debug, Args)]
struct OneArgs {
    /// The public id of the key: the 12 characters behind its prefix
    id: String,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

#[derive(Debug, Args)]
struct RevokeArgs {
    #[command(flatten)]
    one: OneArgs,
    #[command(flatten)]
    waiting: WaitArgs,
}

#[derive(Debug, Args)]
struct UpdateArgs {
    /// The public id of the key
    id: String,
    #[command(flatten)]
    change: ChangeArgs,
    /// Fail unless the record has this version
    #[arg(long, value_name = "NUMBER")]
    if_version: Option<u64>,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// What changes of a key.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct ChangeArgs {
    /// What people will know the key by
    #[arg(long)]
    name: Option<String>,
    /// Everything that it may do from now on, with commas between them
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    permissions: Option<Vec<String>>,
    /// Every workload that it reaches from now on, with commas between them; `*` for all of its project
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    workloads: Option<Vec<String>>,
    /// When it expires from now, such as 90m, 24h or 30d
    #[arg(long, value_parser = duration::parse, value_name = "DURATION")]
    expires_in: Option<Duration>,
    /// Let it live until it is revoked
    #[arg(long, conflicts_with = "expires_in")]
    never_expires: bool,
}

#[derive(Debug, Args)]
struct RotateArgs {
    /// The public id of the key
    id: String,
    /// How long the old key goes on, such as 24h; 0 ends it at once
    #[arg(long, value_parser = duration::parse, value_name = "DURATION", default_value = "0")]
    grace: Duration,
    #[command(flatten)]
    waiting: WaitArgs,
    #[command(flatten)]
    shown: ShownArgs,
}

pub async fn run(args: KeysArgs) -> Result<(), Failure> {
    let target = target(&args.connect)?;
    match args.command {
        KeysCommand::Create(args) => {
            let body = value(&CreateKey {
                name: Some(args.name),
                permissions: Some(args.permissions),
                plane: args.plane,
                project: args.project,
                workloads: args.workloads,
                expires_in_days: None,
                expires_in_seconds: args.expires_in.map(|life| life.as_secs()),
            })?;
            show_once(&target.call(Method::POST, KEYS, Some(&body)).await?, &args.shown)
        }
        KeysCommand::Rotate(args) => {
            let body = value(&RotateKey { grace_seconds: Some(args.grace.as_secs()) })?;
            let path = args.waiting.on(&format!("{KEYS}/{}/rotate", encoded(&args.id)));
            let answer = target.call(Method::POST, &path, Some(&body)).await?;
            show_once(&answer, &args.shown)?;
            args.waiting.tell(&answer)
        }
        KeysCommand::Bootstrap(shown) => show_once(&target.call(Method::POST, BOOTSTRAP, None).await?, &shown),
        KeysCommand::List(args) => {
            let output = args.page.output;
            let list_of = args.page.of(KEYS, &[("project", args.project), ("plane", args.plane)]);
            let answer = target.call(Method::GET, &list_of, None).await?;
            match output {
                Format::Json => output::print(&json(&answer)?),
                Format::Table => list(&read(answer)?),
            }
        }
        KeysCommand::Show(args) => {
            let answer = target.call(Method::GET, &format!("{KEYS}/{}", encoded(&args.id)), None).await?;
            show(answer, args.output)
        }
        KeysCommand::Update(args) => {
            let if_match = args.if_version.map_or_else(|| "*".to_owned(), |version| format!("\"{version}\""));
            let path = format!("{KEYS}/{}", encoded(&args.id));
            show(target.change(Method::PATCH, &path, Some(&if_match), &change_of(args.change)?).await?, args.output)
        }
        KeysCommand::Revoke(RevokeArgs { one, waiting }) => {
            let path = waiting.on(&format!("{KEYS}/{}", encoded(&one.id)));
            let answer = target.call(Method::DELETE, &path, None).await?;
            show(answer.clone(), one.output)?;
            waiting.tell(&answer)
        }
    }
}

fn change_of(args: ChangeArgs) -> Result<UpdateKey, Failure> {
    let ChangeArgs { name, permissions, workloads, expires_in, never_expires } = args;
    let too_long = |_| Failure::usage("the key would expire beyond the calendar: say --never-expires");
    let expires_in = expires_in.map(|life| jiff::Timestamp::now().checked_add(life).map_err(too_long)).transpose()?;
    let expires_at = expires_in.map(|end| Some(end.to_string())).or(never_expires.then_some(None));
    Ok(UpdateKey { name, permissions, workloads, expires_at })
}

fn value<T: serde::Serialize>(body: &T) -> Result<Value, Failure> {
    serde_json::to_value(body).map_err(|error| Failure::new(Exit::Failed, error.to_string()))
}

fn list(page: &KeyPage) -> Result<(), Failure> {
    if page.keys.is_empty() {
        note("No keys.");
        return Ok(());
    }
    let headings = ["ID", "STATE", "PLANE", "PROJECT", "WORKLOADS", "PERMISSIONS", "EXPIRES", "LAST USED", "NAME"];
    let mut table = Table::new(&headings);
    for key in &page.keys {
        table.row(vec![
            key.id.as_str().into(),
            Cell::coloured(&key.state, state_colour(&key.state)),
            key.plane.as_str().into(),
            key.project.as_str().into(),
            shortened(&key.workloads).as_str().into(),
            shortened(&key.permissions).as_str().into(),
            output::time(end_of(key)).as_str().into(),
            output::time(key.last_used_at.as_deref()).as_str().into(),
            key.name.as_str().into(),
        ]);
    }
    output::print(&table.render(output::is_colourful()))?;
    tell_of_more(page.next.as_deref());
    Ok(())
}

/// What ends the key first.
fn end_of(key: &KeyBody) -> Option<&str> {
    let ends = [key.expires_at.as_deref(), key.retires_at.as_deref()];
    ends.into_iter().flatten().min_by_key(|end| end.parse::<jiff::Timestamp>().ok())
}

/// A list that fits into a column; all of it stands in `keys show`.
pub fn shortened(list: &[String]) -> String {
    let text = list.join(",");
    match list {
        [first, rest @ ..] if text.chars().count() > 40 && !rest.is_empty() => {
            format!("{first} and {} more", rest.len())
        }
        _ => text,
    }
}

fn state_colour(state: &str) -> Option<Colour> {
    match state {
        "active" => Some(Colour::Green),
        "retiring" => Some(Colour::Yellow),
        "revoked" | "retired" | "expired" => Some(Colour::Red),
        _ => None,
    }
}

fn show(answer: Value, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => output::print(&json(&answer)?),
        Format::Table => output::print(&record(&read(answer)?)),
    }
}

fn record(key: &KeyBody) -> String {
    let optional = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    fields(&[
        ("Id", key.id.clone()),
        ("Name", key.name.clone()),
        ("State", key.state.clone()),
        ("Plane", key.plane.clone()),
        ("Project", key.project.clone()),
        ("Workloads", key.workloads.join(", ")),
        ("Permissions", key.permissions.join(", ")),
        ("Created", format!("{} by {}", output::time(Some(&key.created_at)), key.created_by)),
        ("Expires", output::time(key.expires_at.as_deref())),
        ("Retires", output::time(key.retires_at.as_deref())),
        ("Revoked", output::time(key.revoked_at.as_deref())),
        ("Last used", output::time(key.last_used_at.as_deref())),
        ("Replaces", optional(&key.replaces)),
        ("Replaced by", optional(&key.replaced_by)),
        ("Version", key.version.to_string()),
    ])
}

/// Prints a key that was just made. If nobody could read it, it must not pass for a success.
fn show_once(answer: &Value, shown: &ShownArgs) -> Result<(), Failure> {
    let (Some(key), Some(id)) = (answer["key"].as_str(), answer["id"].as_str()) else {
        return Err(Failure::new(
            Exit::Failed,
            "the server made a key and did not show it: revoke it and make another",
        ));
    };
    let text = match (shown.quiet, shown.output) {
        (true, _) => format!("{key}\n"),
        (false, Format::Json) => json(answer)?,
        (false, Format::Table) => {
            let shown = painted(key, Colour::Green, output::is_colourful());
            format!("{}\n    {shown}\n\n", record(&read(answer.clone())?))
        }
    };
    output::write_out(&text).map_err(|error| {
        let problem = format!("the key could not be shown ({error}) and is lost: revoke {id} and make another");
        Failure::new(Exit::Failed, problem)
    })?;
    if !shown.quiet || io::stdout().is_terminal() {
        note("This is the only time the key is shown. Keep it safe: a lost key is rotated, never read back.");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> KeyBody {
        KeyBody {
            id: "abcdefghijkl".to_owned(),
            name: "chat".to_owned(),
            state: "active".to_owned(),
            plane: "data".to_owned(),
            project: "acme".to_owned(),
            project_id: None,
            workloads: vec!["*".to_owned()],
            permissions: vec!["run_inference".to_owned()],
            created_at: "2026-11-18T11:06:40Z".to_owned(),
            created_by: "operator".to_owned(),
            expires_at: Some("2026-12-18T11:06:40.5Z".to_owned()),
            retires_at: None,
            revoked_at: None,
            replaces: None,
            replaced_by: None,
            last_used_at: None,
            version: 1,
        }
    }

    #[test]
    fn a_record_reads_well() {
        let text = record(&key());
        assert!(text.starts_with("Id           abcdefghijkl\nName         chat\n"), "{text}");
        assert!(text.contains("Created      2026-11-18T11:06:40Z by operator\n"), "{text}");
        assert!(text.contains("Expires      2026-12-18T11:06:40Z\n"), "{text}");
    }

    #[test]
    fn long_lists_are_shortened_and_the_first_end_counts() {
        let many: Vec<String> = (0..20).map(|n| format!("workload-{n}")).collect();
        assert_eq!(shortened(&many), "workload-0 and 19 more");
        assert_eq!(shortened(&many[..2]), "workload-0,workload-1");
        let mut key = key();
        key.retires_at = Some("2026-12-01T00:00:00Z".to_owned());
        assert_eq!(end_of(&key), Some("2026-12-01T00:00:00Z"));
    }
}
