//! `tollgate users`: people who log in with a password, through the running server. Takes a password from the terminal or from
//! standard input alone, and never prints one.

use axum::http::Method;
use clap::{Args, Subcommand};
use serde_json::Value;
use tollgate_core::name::login_name_for_path;

use super::Failure;
use super::client::encoded;
use super::connect::{ConnectArgs, Target, target};
use super::keys::shortened;
use super::output::read;
use super::output::{self, Cell, Colour, Format, Table, fields, json, note};
use super::page::{PageArgs, tell_of_more};
use super::prompt;
use super::waiting::WaitArgs;
use crate::server::admin::wire::USERS;
use crate::server::admin::wire::users::{CreateUser, FreedBody, Password, SetPassword, UpdateUser, UserBody, UserPage};

#[derive(Debug, Args)]
pub struct UsersArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(subcommand)]
    command: UsersCommand,
}

#[derive(Debug, Subcommand)]
enum UsersCommand {
    /// Make a user; the password is asked for
    #[command(after_help = "Examples:
  tollgate users create alice@example.com --project acme --permissions manage_keys,run_inference
  pass show tollgate/ci | tollgate users create ci --project acme --permissions run_inference --password-stdin")]
    Create(CreateArgs),
    /// List users
    #[command(after_help = "Example:
  tollgate users list --project acme -o json")]
    List(ListArgs),
    /// Show one user
    #[command(after_help = "Example:
  tollgate users show acme/alice@example.com")]
    Show(OneArgs),
    /// Change what a user may do; what is left out stays
    #[command(after_help = "Example:
  tollgate users update acme/alice@example.com --permissions run_inference")]
    Update(UpdateArgs),
    /// End every session of a user at once, and let no new one begin
    #[command(after_help = "Example:
  tollgate users disable acme/alice@example.com --wait")]
    Disable(EndArgs),
    /// Let a disabled user log in again
    #[command(after_help = "Example:
  tollgate users enable acme/alice@example.com")]
    Enable(OneArgs),
    /// Set the password of a user, and end every session of theirs at once
    #[command(after_help = "Examples:
  tollgate users passwd acme/alice@example.com
  pass show tollgate/ci | tollgate users passwd ci --password-stdin")]
    Passwd(PasswdArgs),
    /// Delete a user, and end every session of theirs at once
    #[command(after_help = "Example:
  tollgate users delete acme/alice@example.com --wait")]
    Delete(EndArgs),
    /// Release the name of a deleted user for another one, and list what still contains it
    #[command(after_help = "Example:
  tollgate users free acme/alice@example.com

It lists the keys, resources, users and projects that contain the name, and counts its rows of the audit log: whoever reads the
name there cannot tell the next user of this name from the one before.")]
    Free(OneArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// What the user is called in the project
    name: String,
    /// The project of the user, or `*` for every project; by default your own
    #[arg(long)]
    project: Option<String>,
    /// What the user may do, with commas between them
    #[arg(long, value_delimiter = ',', value_name = "NAMES", required = true)]
    permissions: Vec<String>,
    /// Read the password from the first line of standard input
    #[arg(long)]
    password_stdin: bool,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Of this project alone
    #[arg(long)]
    project: Option<String>,
    #[command(flatten)]
    page: PageArgs,
}

#[derive(Debug, Args)]
struct OneArgs {
    /// The project and the name, as `acme/alice`; or the name alone where it is of one user
    name: String,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

#[derive(Debug, Args)]
struct EndArgs {
    #[command(flatten)]
    one: OneArgs,
    #[command(flatten)]
    waiting: WaitArgs,
}

#[derive(Debug, Args)]
struct UpdateArgs {
    /// The project and the name, as `acme/alice`; or the name alone where it is of one user
    name: String,
    #[command(flatten)]
    change: ChangeArgs,
    /// Fail unless the record has this version
    #[arg(long, value_name = "NUMBER")]
    if_version: Option<u64>,
    #[command(flatten)]
    waiting: WaitArgs,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// What changes of a user.
#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
struct ChangeArgs {
    /// The project of the user, or `*` for every project
    #[arg(long)]
    project: Option<String>,
    /// Everything that the user may do from now on, with commas between them
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    permissions: Option<Vec<String>>,
}

#[derive(Debug, Args)]
struct PasswdArgs {
    /// The project and the name, as `acme/alice`; or the name alone where it is of one user
    name: String,
    /// Read the password from the first line of standard input
    #[arg(long)]
    password_stdin: bool,
    #[command(flatten)]
    waiting: WaitArgs,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

pub async fn run(args: UsersArgs) -> Result<(), Failure> {
    let target = target(&args.connect)?;
    match args.command {
        UsersCommand::Create(args) => {
            let password = Password(prompt::new_password(args.password_stdin)?);
            let CreateArgs { name, project, permissions, output, .. } = args;
            let body = CreateUser { name, password, project, permissions };
            show(target.change(Method::POST, USERS, None, &body).await?, output)
        }
        UsersCommand::Passwd(args) => {
            let body = SetPassword { password: Password(prompt::new_password(args.password_stdin)?) };
            let path = args.waiting.on(&format!("{}/password", path_of(&args.name)));
            changed(&target.change(Method::PUT, &path, None, &body).await?, args.output, args.waiting)
        }
        UsersCommand::Update(args) => {
            let ChangeArgs { project, permissions } = args.change;
            let change = UpdateUser { project, permissions, disabled: None };
            let path = args.waiting.on(&path_of(&args.name));
            changed(&update(&target, &path, args.if_version, &change).await?, args.output, args.waiting)
        }
        UsersCommand::Disable(EndArgs { one, waiting }) => {
            let path = waiting.on(&path_of(&one.name));
            changed(&update(&target, &path, None, &disabled(true)).await?, one.output, waiting)
        }
        UsersCommand::Enable(args) => {
            show(update(&target, &path_of(&args.name), None, &disabled(false)).await?, args.output)
        }
        UsersCommand::Show(args) => show(target.call(Method::GET, &path_of(&args.name), None).await?, args.output),
        UsersCommand::Delete(EndArgs { one, waiting }) => {
            let path = waiting.on(&path_of(&one.name));
            changed(&target.call(Method::DELETE, &path, None).await?, one.output, waiting)
        }
        UsersCommand::Free(args) => {
            let answer = target.call(Method::POST, &format!("{}/free", path_of(&args.name)), None).await?;
            match args.output {
                Format::Json => output::print(&json(&answer)?),
                Format::Table => output::print(&freed(&read(answer)?)),
            }
        }
        UsersCommand::List(args) => {
            let output = args.page.output;
            let list_of = args.page.of(USERS, &[("project", args.project)]);
            let answer = target.call(Method::GET, &list_of, None).await?;
            match output {
                Format::Json => output::print(&json(&answer)?),
                Format::Table => list(&read(answer)?),
            }
        }
    }
}

/// Where the record of a user is.
pub(super) fn path_of(name: &str) -> String {
    let segments: Vec<String> = login_name_for_path(name).splitn(2, ':').map(encoded).collect();
    format!("{USERS}/{}", segments.join(":"))
}

fn disabled(disabled: bool) -> UpdateUser {
    UpdateUser { disabled: Some(disabled), ..UpdateUser::default() }
}

async fn update(target: &Target, path: &str, version: Option<u64>, change: &UpdateUser) -> Result<Value, Failure> {
    let if_match = version.map_or_else(|| "*".to_owned(), |version| format!("\"{version}\""));
    target.change(Method::PATCH, path, Some(&if_match), change).await
}

fn changed(answer: &Value, format: Format, waiting: WaitArgs) -> Result<(), Failure> {
    show(answer.clone(), format)?;
    waiting.tell(answer)
}

fn show(answer: Value, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => output::print(&json(&answer)?),
        Format::Table => output::print(&record(&read(answer)?)),
    }
}

fn record(user: &UserBody) -> String {
    fields(&[
        ("Name", user.name.clone()),
        ("Id", user.id.clone().unwrap_or_else(|| "-".to_owned())),
        ("State", state(user).to_owned()),
        ("Project", user.project.clone()),
        ("Permissions", user.permissions.join(", ")),
        ("Created", format!("{} by {}", output::time(Some(&user.created_at)), user.created_by)),
        ("Changed", output::time(Some(&user.changed_at))),
        ("Version", user.version.to_string()),
    ])
}

fn freed(freed: &FreedBody) -> String {
    let listed = |names: &[String]| if names.is_empty() { "-".to_owned() } else { names.join(", ") };
    let mut rows = vec![
        ("Free", freed.name.clone()),
        ("Id before", freed.id.clone().unwrap_or_else(|| "-".to_owned())),
        ("Keys by it", listed(&freed.keys)),
        ("Resources of it", listed(&freed.resources)),
        ("Users by it", listed(&freed.users)),
        ("Projects by it", listed(&freed.projects)),
        ("Audit rows by it", format!("{}{}", freed.audit_rows, if freed.more_audit_rows { " or more" } else { "" })),
    ];
    if freed.more {
        rows.push(("And more", "only the first hundred of each are listed".to_owned()));
    }
    fields(&rows)
}

fn state(user: &UserBody) -> &'static str {
    if user.disabled { "disabled" } else { "enabled" }
}

fn list(page: &UserPage) -> Result<(), Failure> {
    if page.users.is_empty() {
        note("No users.");
        return Ok(());
    }
    let mut table = Table::new(&["NAME", "STATE", "PROJECT", "PERMISSIONS", "CHANGED"]);
    for user in &page.users {
        let colour = if user.disabled { Colour::Red } else { Colour::Green };
        table.row(vec![
            user.name.as_str().into(),
            Cell::coloured(state(user), Some(colour)),
            user.project.as_str().into(),
            shortened(&user.permissions).as_str().into(),
            output::time(Some(&user.changed_at)).as_str().into(),
        ]);
    }
    output::print(&table.render(output::is_colourful()))?;
    tell_of_more(page.next.as_deref());
    Ok(())
}
