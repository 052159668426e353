//! The command line: arguments in, an exit code out. A noun, then a verb. Never prints a secret but a key that was just
//! made, and never ends the process from within.

mod audit;
mod backup;
mod check_config;
mod client;
mod connect;
mod explain;
mod fleet;
mod issuers;
mod keys;
mod login;
mod output;
mod page;
mod projects;
mod prompt;
mod resources;
mod restore;
mod sealed;
mod session;
mod sessions;
mod store;
mod users;
mod waiting;

use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{CommandFactory, Parser, Subcommand};

use crate::config;
use crate::domain::duration;
use crate::run::{self, RunError};
use crate::server::admin::openapi;

const EXIT_CODES: &str = "Exit codes:
  0   done; `explain`: allowed
  1   failed
  2   wrong usage
  3   the configuration is not valid
  4   the server is not reachable, or not able to answer now
  5   the server refused: invalid, forbidden, not found or in conflict
  6   `--wait`: the change is made, and a replica may not have heard of it
  7   `store check`: something should be mended
  8   `store check`: Tollgate cannot work with the store
  10  `explain`: denied

The server is found by, highest first: a flag, an environment variable, your login, the configuration file.";

/// Envoy external authorization for inference servers.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, after_help = EXIT_CODES, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Answer Envoy's checks, until SIGTERM
    #[command(after_help = "Example:
  tollgate serve --config /etc/tollgate/tollgate.yaml

SIGHUP, or a change of the file, reloads the configuration. SIGTERM drains: health turns NOT_SERVING, calls in flight
finish, then the process ends.")]
    Serve {
        /// The configuration file
        #[arg(long, value_name = "FILE", env = "TOLLGATE_CONFIG", default_value = connect::DEFAULT_CONFIG)]
        config: PathBuf,
        /// Let the system write core dumps, and debuggers look in: both show secrets
        #[arg(long)]
        core_dumps: bool,
    },
    /// Check a configuration file and the Envoy file beside it, or print the schema of one
    #[command(after_help = "Examples:
  tollgate check-config --config tollgate.yaml
  tollgate check-config --config tollgate.yaml --envoy envoy.yaml
  tollgate check-config --schema > config.schema.json")]
    CheckConfig(check_config::CheckConfigArgs),
    /// Make, list, show, change, rotate and revoke API keys
    Keys(keys::KeysArgs),
    /// Make, list, show, change and delete the people who log in
    Users(users::UsersArgs),
    /// Show who is logged in as a user, and end one of these sessions
    Sessions(sessions::SessionsArgs),
    /// Suspend, resume and delete whole projects
    Projects(projects::ProjectsArgs),
    /// Show who answers checks from the store, and how far each replica is
    #[command(after_help = "Examples:
  tollgate fleet
  tollgate fleet -o json

A star marks the replica that was asked. LAG counts the changes that a replica has not applied yet; LEASE is how long it may
go on, at most, with what it has cached.")]
    Fleet(fleet::FleetArgs),
    /// Forget what is cached about the tokens of an issuer
    Issuers(issuers::IssuersArgs),
    /// Say which project a workload or another resource belongs to
    Resources(resources::ResourcesArgs),
    /// Prepare the store of a fleet, and carry records from one store to another
    Store(store::StoreArgs),
    /// Copy everything that the store keeps into a file, while Tollgate goes on
    #[command(after_help = backup::HELP)]
    Backup(backup::BackupArgs),
    /// Fill an empty store with a backup
    #[command(after_help = restore::HELP)]
    Restore(restore::RestoreArgs),
    /// Read the log of administrative acts
    Audit(audit::AuditArgs),
    /// Log in with a password, and use the token for the commands that follow
    #[command(after_help = "Examples:
  tollgate login --url https://tollgate.example.com --username acme/alice@example.com
  pass show tollgate | tollgate login --url https://tollgate.example.com --username acme/alice --password-stdin

The token is kept in $XDG_CONFIG_HOME/tollgate/session.json (by default ~/.config/tollgate/), for you alone. It is used
where neither a flag nor the environment says another server.")]
    Login(login::LoginArgs),
    /// End the login, here and at the server
    #[command(after_help = "Example:
  tollgate logout")]
    Logout,
    /// Show who you are to the server, and what you may do
    #[command(after_help = "Example:
  tollgate whoami -o json")]
    Whoami(login::WhoamiArgs),
    /// Show, step by step, why a request is allowed or denied; needs no server
    #[command(after_help = explain::EXAMPLES)]
    Explain(explain::ExplainArgs),
    /// Print the description of the admin API, as OpenAPI 3.1
    #[command(after_help = "Example:
  tollgate openapi > openapi.json      # a running server has it at /openapi.json")]
    Openapi,
    /// Print the completion script of a shell
    #[command(after_help = "Example:
  tollgate completion bash > /etc/bash_completion.d/tollgate")]
    Completion {
        #[arg(value_enum)]
        shell: clap_complete::Shell,
    },
}

/// What the process ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    Failed = 1,
    Usage = 2,
    Configuration = 3,
    Unreachable = 4,
    Refused = 5,
    Lagging = 6,
    Warned = 7,
    Unfit = 8,
    Denied = 10,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it was asked, for a person and for the exit code.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
    /// Of the server's answer, if there was one.
    pub status: Option<u16>,
}

impl Failure {
    pub fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), status: None }
    }

    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(problem) => {
            // Help that nobody reads to its end is no failure.
            let _ = problem.print();
            return if problem.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    match dispatch(cli.command) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            output::note(&format!("tollgate: {failure}"));
            failure.exit.into()
        }
    }
}

/// The threads of the admin API and of everything but checks, which have threads of their own.
const SIDE_THREADS: usize = 2;
/// How long the end waits for what still waits for a disk or a name server. Whatever has to be done is done before that.
const LAST_THREADS: Duration = Duration::from_secs(1);

fn serve(config: PathBuf) -> Result<Exit, Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(SIDE_THREADS).enable_all().build();
    let runtime = runtime.map_err(|error| Failure::new(Exit::Failed, format!("cannot start threads: {error}")))?;
    let served = runtime.block_on(run::serve(config));
    runtime.shutdown_timeout(LAST_THREADS);
    match served {
        Ok(()) => Ok(Exit::Done),
        Err(error @ RunError::Config(_)) => Err(Failure::new(Exit::Configuration, error.to_string())),
        Err(error) => Err(Failure::new(Exit::Failed, error.to_string())),
    }
}

fn dispatch(command: Command) -> Result<Exit, Failure> {
    // Before any of them holds a key or a password.
    if !matches!(command, Command::Serve { core_dumps: true, .. })
        && let Err(error) = run::memory::keep_private()
    {
        output::note(&format!("Core dumps could not be forbidden, and would show secrets: {error}"));
    }
    match command {
        Command::Serve { config, core_dumps: _ } => serve(config),
        Command::CheckConfig(args) => check_config::run(&args),
        Command::Keys(args) => block_on(keys::run(args)).map(|()| Exit::Done),
        Command::Store(args) => block_on(store::run(args)).map(|()| Exit::Done),
        Command::Backup(args) => block_on(backup::run(args)).map(|()| Exit::Done),
        Command::Restore(args) => block_on(restore::run(args)).map(|()| Exit::Done),
        Command::Projects(args) => block_on(projects::run(args)).map(|()| Exit::Done),
        Command::Issuers(args) => block_on(issuers::run(args)).map(|()| Exit::Done),
        Command::Fleet(args) => block_on(fleet::run(args)).map(|()| Exit::Done),
        Command::Resources(args) => block_on(resources::run(args)).map(|()| Exit::Done),
        Command::Users(args) => block_on(users::run(args)).map(|()| Exit::Done),
        Command::Sessions(args) => block_on(sessions::run(args)).map(|()| Exit::Done),
        Command::Audit(args) => block_on(audit::run(args)).map(|()| Exit::Done),
        Command::Login(args) => block_on(login::login(args)).map(|()| Exit::Done),
        Command::Logout => block_on(login::logout()).map(|()| Exit::Done),
        Command::Whoami(args) => block_on(login::whoami(args)).map(|()| Exit::Done),
        Command::Explain(args) => block_on(explain::run(args)),
        Command::Openapi => output::print(&output::json(&openapi::document())?).map(|()| Exit::Done),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "tollgate", &mut script);
            output::print(&String::from_utf8_lossy(&script)).map(|()| Exit::Done)
        }
    }
}

fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?.block_on(work)
}

fn invalid(file: &Path, problems: &config::Problems) -> Failure {
    Failure::new(Exit::Configuration, format!("{} is not valid\n{problems}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_hold_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_says_what_it_does_and_gives_an_example() {
        fn walk(command: &clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            assert!(command.get_about().is_some(), "{path} has no description");
            for argument in command.get_arguments() {
                let named = argument.get_help().is_some() || argument.get_id() == "shell";
                assert!(named, "{path} --{} has no description", argument.get_id());
            }
            if command.has_subcommands() {
                command.get_subcommands().filter(|sub| sub.get_name() != "help").for_each(|sub| walk(sub, &path));
            } else {
                let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(example.contains("Example"), "{path} has no example");
            }
        }
        walk(&Cli::command(), "");
    }

    #[test]
    fn a_key_is_asked_for_with_lists_and_durations() {
        let parse = |line: &str| Cli::try_parse_from(line.split(' '));
        let create = "tollgate keys create --name n --permissions a,b --workloads * --expires-in 30d";
        assert!(parse(create).is_ok());
        assert!(parse(&format!("{create} --socket /s -o json")).is_ok());
        assert!(parse("tollgate keys --socket /s create --name n --permissions a").is_ok());
        for wait in ["--wait", "--wait=3s", "--wait -o json"] {
            assert!(parse(&format!("tollgate keys revoke k {wait}")).is_ok(), "{wait}");
            assert!(parse(&format!("tollgate projects suspend p {wait}")).is_ok(), "{wait}");
        }
        for bad in [
            "tollgate keys create --name n",
            "tollgate keys create --name n --permissions a --expires-in soon",
            "tollgate keys create --name n --permissions a -q -o json",
            "tollgate keys list --socket /s --url http://localhost",
            "tollgate resources put w-42",
            "tollgate keys revoke k --wait=9s",
            "tollgate keys revoke k --wait 5s",
            "tollgate keys",
            "tollgate",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
