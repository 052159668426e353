//! `tollgate issuers`: has what was found out about the tokens of an issuer forgotten, through the running server.

use axum::http::Method;
use clap::{Args, Subcommand};

use super::Failure;
use super::client::encoded;
use super::connect::{ConnectArgs, target};
use super::output::read;
use super::output::{self, Format, fields, json};
use super::waiting::WaitArgs;
use crate::server::admin::wire::ISSUERS;
use crate::server::admin::wire::issuers::ForgottenBody;

#[derive(Debug, Args)]
pub struct IssuersArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    #[command(subcommand)]
    command: IssuersCommand,
}

#[derive(Debug, Subcommand)]
enum IssuersCommand {
    /// Have every token of an issuer verified anew, in the whole fleet
    #[command(after_help = "Examples:
  tollgate issuers forget sso
  tollgate issuers forget sso --wait      # until no replica goes by what was found out before

For when an issuer was compromised, or has changed what its tokens mean. A token that is still good costs its next
check a little more.")]
    Forget(ForgetArgs),
}

#[derive(Debug, Args)]
struct ForgetArgs {
    /// The name that the configuration gives the issuer
    name: String,
    #[command(flatten)]
    waiting: WaitArgs,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

pub async fn run(args: IssuersArgs) -> Result<(), Failure> {
    let target = target(&args.connect)?;
    let IssuersCommand::Forget(args) = args.command;
    let path = args.waiting.on(&format!("{ISSUERS}/{}/verdicts", encoded(&args.name)));
    let answer = target.call(Method::DELETE, &path, None).await?;
    match args.output {
        Format::Json => output::print(&json(&answer)?)?,
        Format::Table => {
            let forgotten: ForgottenBody = read(answer.clone())?;
            output::print(&fields(&[("Issuer", forgotten.issuer), ("Verdicts", "forgotten".to_owned())]))?;
        }
    }
    args.waiting.tell(&answer)
}
