//! `tollgate projects`: makes projects, suspends them, lets them go on and deletes them through the running server. Never brings a deleted
//! one back.

use axum::http::Method;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::Failure;
use super::client::encoded;
use super::connect::{ConnectArgs, Target, target};
use super::output::read;
use super::output::{self, Cell, Colour, Format, Table, fields, json, note};
use super::page::{PageArgs, tell_of_more};
use super::waiting::WaitArgs;
use crate::server::admin::wire::PROJECTS;
use crate::server::admin::wire::projects::{
    CreateProject, ProjectBody, ProjectPage, ProjectStateChange, UpdateProject,
};

#[derive(Debug, Args)]
pub struct ProjectsArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(subcommand)]
    command: ProjectsCommand,
}

#[derive(Debug, Subcommand)]
enum ProjectsCommand {
    /// List the projects
    #[command(after_help = "Example:
  tollgate projects list -o json")]
    List(ListArgs),
    /// Make a project before anything is made in it
    #[command(after_help = "Example:
  tollgate projects create acme

The first key, user or resource of a project makes it as well.")]
    Create(OneArgs),
    /// Show whether a project is active
    #[command(after_help = "Example:
  tollgate projects show acme")]
    Show(OneArgs),
    /// Refuse every key, session and token of a project at once, until it is resumed
    #[command(after_help = "Examples:
  tollgate projects suspend acme
  tollgate projects suspend acme --wait      # until no replica can let anybody of it in

Its own administrators are refused, too: an administrator of every project resumes it.")]
    Suspend(ChangeArgs),
    /// Let a suspended project go on; its keys, sessions and tokens work again
    #[command(after_help = "Example:
  tollgate projects resume acme")]
    Resume(ChangeArgs),
    /// Refuse every key, session and token of a project at once and for good
    #[command(after_help = "Example:
  tollgate projects delete acme --wait

A deleted project stays deleted: no key or user is made in it any more, and its name is not given again. To refuse it for a
while, suspend it.")]
    Delete(ChangeArgs),
}

#[derive(Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    page: PageArgs,
}

#[derive(Debug, Args)]
struct OneArgs {
    /// The project
    name: String,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

#[derive(Debug, Args)]
struct ChangeArgs {
    /// The project
    name: String,
    #[command(flatten)]
    waiting: WaitArgs,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

pub async fn run(args: ProjectsArgs) -> Result<(), Failure> {
    let target = target(&args.connect)?;
    match args.command {
        ProjectsCommand::Suspend(args) => change_state(&target, &args, ProjectStateChange::Suspended).await,
        ProjectsCommand::Resume(args) => change_state(&target, &args, ProjectStateChange::Active).await,
        ProjectsCommand::Delete(args) => {
            let path = args.waiting.on(&path_of(&args.name));
            changed(&target.call(Method::DELETE, &path, None).await?, &args)
        }
        ProjectsCommand::Create(args) => {
            let body = CreateProject { name: args.name };
            show(&target.change(Method::POST, PROJECTS, None, &body).await?, args.output)
        }
        ProjectsCommand::Show(args) => show(&target.call(Method::GET, &path_of(&args.name), None).await?, args.output),
        ProjectsCommand::List(args) => {
            let output = args.page.output;
            let list_of = args.page.of(PROJECTS, &[]);
            let answer = target.call(Method::GET, &list_of, None).await?;
            match output {
                Format::Json => output::print(&json(&answer)?),
                Format::Table => list(&read(answer)?),
            }
        }
    }
}

fn path_of(name: &str) -> String {
    format!("{PROJECTS}/{}", encoded(name))
}

async fn change_state(target: &Target, args: &ChangeArgs, state: ProjectStateChange) -> Result<(), Failure> {
    let path = args.waiting.on(&path_of(&args.name));
    changed(&target.change(Method::PATCH, &path, Some("*"), &UpdateProject { state }).await?, args)
}

fn changed(answer: &Value, args: &ChangeArgs) -> Result<(), Failure> {
    show(answer, args.output)?;
    args.waiting.tell(answer)
}

fn show(answer: &Value, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => output::print(&json(answer)?),
        Format::Table => output::print(&record(&read(answer.clone())?)),
    }
}

fn record(project: &ProjectBody) -> String {
    let by = project.changed_by.as_deref().map(|by| format!(" by {by}")).unwrap_or_default();
    fields(&[
        ("Project", project.name.clone()),
        ("Id", project.id.clone().unwrap_or_else(|| "-".to_owned())),
        ("State", project.state.clone()),
        ("Since", format!("{}{by}", output::time(project.changed_at.as_deref()))),
        ("Version", project.version.to_string()),
    ])
}

fn list(page: &ProjectPage) -> Result<(), Failure> {
    if page.projects.is_empty() {
        note("No project has a record yet: `tollgate projects create` makes one, and so does the first thing in it.");
        return Ok(());
    }
    let mut table = Table::new(&["PROJECT", "STATE", "SINCE", "BY"]);
    for project in &page.projects {
        table.row(vec![
            project.name.as_str().into(),
            Cell::coloured(&project.state, colour(&project.state)),
            output::time(project.changed_at.as_deref()).as_str().into(),
            project.changed_by.as_deref().unwrap_or("-").into(),
        ]);
    }
    output::print(&table.render(output::is_colourful()))?;
    tell_of_more(page.next.as_deref());
    Ok(())
}

fn colour(state: &str) -> Option<Colour> {
    match state {
        "active" => Some(Colour::Green),
        "suspended" => Some(Colour::Yellow),
        "deleted" => Some(Colour::Red),
        _ => None,
    }
}
