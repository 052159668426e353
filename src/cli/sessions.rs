//! `tollgate sessions`: who is logged in as a user, and the end of one of these logins, through the running server. Never shows a
//! token.

use axum::http::Method;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::Failure;
use super::client::encoded;
use super::connect::{ConnectArgs, target};
use super::output::read;
use super::output::{self, Format, Table, fields, json, note};
use super::users::path_of;
use super::waiting::WaitArgs;
use crate::server::admin::wire::SESSIONS;
use crate::server::admin::wire::session::{EndedBody, SessionsBody};

#[derive(Debug, Args)]
pub struct SessionsArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(subcommand)]
    command: SessionsCommand,
}

#[derive(Debug, Subcommand)]
enum SessionsCommand {
    /// List the sessions of a user that go on; without a name, your own
    #[command(after_help = "Examples:
  tollgate sessions list
  tollgate sessions list acme/alice@example.com -o json")]
    List(ListArgs),
    /// End one session at once; the others of the user go on
    #[command(after_help = "Examples:
  tollgate sessions end 3f0c9a1be7d24c58a90f1e6b2d7c4a85
  tollgate sessions end 3f0c9a1be7d24c58a90f1e6b2d7c4a85 --user acme/alice@example.com --wait

To end every session of a user, give another password (`users passwd`), or disable the user.")]
    End(EndArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    /// What the user logs in with; by default you
    user: Option<String>,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

#[derive(Debug, Args)]
struct EndArgs {
    /// The session, as `sessions list` shows it
    id: String,
    /// Whose session it is; by default yours
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    #[command(flatten)]
    waiting: WaitArgs,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

pub async fn run(args: SessionsArgs) -> Result<(), Failure> {
    let target = target(&args.connect)?;
    match args.command {
        SessionsCommand::List(args) => {
            let answer = target.call(Method::GET, &sessions_of(args.user.as_deref()), None).await?;
            match args.output {
                Format::Json => output::print(&json(&answer)?),
                Format::Table => list(&read(answer)?),
            }
        }
        SessionsCommand::End(args) => {
            let one = format!("{}/{}", sessions_of(args.user.as_deref()), encoded(&args.id));
            let answer = target.call(Method::DELETE, &args.waiting.on(&one), None).await?;
            show(answer.clone(), args.output)?;
            args.waiting.tell(&answer)
        }
    }
}

fn sessions_of(user: Option<&str>) -> String {
    user.map_or_else(|| SESSIONS.to_owned(), |name| format!("{}/sessions", path_of(name)))
}

fn show(answer: Value, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => output::print(&json(&answer)?),
        Format::Table => output::print(&fields(&[("Ended", read::<EndedBody>(answer)?.id)])),
    }
}

fn list(found: &SessionsBody) -> Result<(), Failure> {
    if found.sessions.is_empty() {
        note("No sessions.");
        return Ok(());
    }
    let mut table = Table::new(&["ID", "BEGAN", "EXPIRES", "FROM"]);
    for session in &found.sessions {
        table.row(vec![
            session.id.as_str().into(),
            output::time(Some(&session.began_at)).as_str().into(),
            output::time(Some(&session.expires_at)).as_str().into(),
            session.address.as_deref().unwrap_or("-").into(),
        ]);
    }
    output::print(&table.render(output::is_colourful()))
}
