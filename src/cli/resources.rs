//! `tollgate resources`: which project an id belongs to. Never moves a resource unless that was said.

use axum::http::Method;
use clap::{Args, Subcommand};
use serde_json::Value;

use super::Failure;
use super::client::encoded;
use super::connect::{ConnectArgs, target};
use super::output::read;
use super::output::{self, Format, Table, fields, json, note};
use super::page::{PageArgs, tell_of_more};
use super::waiting::WaitArgs;
use crate::server::admin::wire::RESOURCES;
use crate::server::admin::wire::resources::{PutResource, ResourceBody, ResourcePage};

#[derive(Debug, Args)]
pub struct ResourcesArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(subcommand)]
    command: ResourcesCommand,
}

#[derive(Debug, Subcommand)]
enum ResourcesCommand {
    /// Register a resource, or change it with --move
    #[command(after_help = "Examples:
  tollgate resources put workload:w-42 --project acme
  tollgate resources put workload:w-42 --project acme --slug chat
  tollgate resources put workload:w-42 --project beta --move --wait")]
    Put(PutArgs),
    /// List resources
    #[command(after_help = "Example:
  tollgate resources list --kind workload --project acme -o json")]
    List(ListArgs),
    /// Show one resource
    #[command(after_help = "Example:
  tollgate resources show workload:w-42")]
    Show(OneArgs),
    /// Take a resource out of the registry; nobody reaches it by its id any more
    #[command(after_help = "Example:
  tollgate resources delete workload:w-42 --wait")]
    Delete(DeleteArgs),
}

#[derive(Debug, Args)]
struct PutArgs {
    /// Such as workload:w-42
    #[arg(value_name = "KIND:ID", value_parser = reference)]
    resource: (String, String),
    /// The project it belongs to
    #[arg(long)]
    project: Option<String>,
    /// The name that keys are scoped by, if it is not the id
    #[arg(long)]
    slug: Option<String>,
    /// Who made it
    #[arg(long)]
    owner: Option<String>,
    /// Change it if it is registered otherwise already
    #[arg(long = "move")]
    may_move: bool,
    #[command(flatten)]
    waiting: WaitArgs,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

#[derive(Debug, Args)]
struct ListArgs {
    /// Of this kind alone
    #[arg(long)]
    kind: Option<String>,
    /// Of this project alone
    #[arg(long)]
    project: Option<String>,
    #[command(flatten)]
    page: PageArgs,
}

#[derive(Debug, Args)]
struct OneArgs {
    /// Such as workload:w-42
    #[arg(value_name = "KIND:ID", value_parser = reference)]
    resource: (String, String),
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

#[derive(Debug, Args)]
struct DeleteArgs {
    #[command(flatten)]
    one: OneArgs,
    #[command(flatten)]
    waiting: WaitArgs,
}

/// Reads `kind:id`.
///
/// # Errors
/// A sentence for whoever wrote it.
pub fn reference(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((kind, id)) if !kind.is_empty() && !id.is_empty() => Ok((kind.to_owned(), id.to_owned())),
        _ => Err("write KIND:ID, such as workload:w-42".to_owned()),
    }
}

pub async fn run(args: ResourcesArgs) -> Result<(), Failure> {
    let target = target(&args.connect)?;
    let path = |(kind, id): &(String, String)| format!("{RESOURCES}/{}/{}", encoded(kind), encoded(id));
    match args.command {
        ResourcesCommand::Put(args) => {
            let PutArgs { project, slug, owner, may_move, waiting, .. } = args;
            let body = serde_json::to_value(PutResource { project, slug, owner, may_move }).unwrap_or_default();
            let answer = target.call(Method::PUT, &waiting.on(&path(&args.resource)), Some(&body)).await?;
            changed(&answer, args.output, waiting)
        }
        ResourcesCommand::Show(args) => {
            show(&target.call(Method::GET, &path(&args.resource), None).await?, args.output)
        }
        ResourcesCommand::Delete(DeleteArgs { one, waiting }) => {
            let answer = target.call(Method::DELETE, &waiting.on(&path(&one.resource)), None).await?;
            changed(&answer, one.output, waiting)
        }
        ResourcesCommand::List(args) => {
            let output = args.page.output;
            let list_of = args.page.of(RESOURCES, &[("kind", args.kind), ("project", args.project)]);
            let answer = target.call(Method::GET, &list_of, None).await?;
            match output {
                Format::Json => output::print(&json(&answer)?),
                Format::Table => list(&read(answer)?),
            }
        }
    }
}

fn changed(answer: &Value, format: Format, waiting: WaitArgs) -> Result<(), Failure> {
    show(answer, format)?;
    waiting.tell(answer)
}

fn show(answer: &Value, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => output::print(&json(answer)?),
        Format::Table => output::print(&record(read(answer.clone())?)),
    }
}

fn record(resource: ResourceBody) -> String {
    fields(&[
        ("Resource", format!("{}:{}", resource.kind, resource.id)),
        ("Project", resource.project),
        ("Slug", resource.slug),
        ("Owner", resource.owner.unwrap_or_else(|| "-".to_owned())),
        ("Created", output::time(Some(&resource.created_at))),
    ])
}

fn list(page: &ResourcePage) -> Result<(), Failure> {
    if page.resources.is_empty() {
        note("No resources.");
        return Ok(());
    }
    let mut table = Table::new(&["RESOURCE", "PROJECT", "SLUG", "CREATED", "OWNER"]);
    for resource in &page.resources {
        table.row(vec![
            format!("{}:{}", resource.kind, resource.id).as_str().into(),
            resource.project.as_str().into(),
            resource.slug.as_str().into(),
            output::time(Some(&resource.created_at)).as_str().into(),
            resource.owner.as_deref().unwrap_or("-").into(),
        ]);
    }
    output::print(&table.render(false))?;
    tell_of_more(page.next.as_deref());
    Ok(())
}
