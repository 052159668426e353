//! `tollgate login`, `logout` and `whoami`: a token instead of a key. Takes the password from the terminal or from standard input
//! alone, and keeps the token where nobody else can read it.

use std::path::PathBuf;

use axum::http::Method;
use clap::Args;
use serde::Deserialize;

use super::connect::{ConnectArgs, Proof, Target, safe_url, target};
use super::output::read;
use super::output::{self, Format, fields, json, note};
use super::session::{self, Session, Token};
use super::{Failure, prompt};
use crate::server::admin::wire::session::{LoginRequest, WhoamiBody};
use crate::server::admin::wire::users::Password;
use crate::server::admin::wire::{LOGIN, LOGOUT, WHOAMI};

#[derive(Debug, Args)]
pub struct LoginArgs {
    /// The admin API; by default that of the last login [env: TOLLGATE_ADMIN_URL]
    #[arg(long, value_name = "URL")]
    url: Option<String>,
    /// Who you are; asked for if it is left out
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// Read the password from the first line of standard input
    #[arg(long)]
    password_stdin: bool,
    /// Certificates (PEM) that an https URL is checked against, instead of the system's
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Send password and token to an http URL off this machine, in clear
    #[arg(long)]
    plaintext: bool,
}

#[derive(Debug, Args)]
pub struct WhoamiArgs {
    #[command(flatten)]
    connect: ConnectArgs,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// What the server answers to a login.
#[derive(Deserialize)]
struct Granted {
    token: Token,
    expires_at: String,
}

fn env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

pub async fn login(args: LoginArgs) -> Result<(), Failure> {
    let LoginArgs { url, username, password_stdin, ca, plaintext } = args;
    let before = || session::read(env).ok().flatten().map(|session| session.url);
    let url = url.or_else(|| env("TOLLGATE_ADMIN_URL")).or_else(before);
    let url = url.ok_or_else(|| Failure::usage("say where to log in: --url URL"))?;
    let base = safe_url(&url, plaintext)?;
    // A later command may be run in another folder.
    let ca = ca.map(std::path::absolute).transpose().map_err(|error| Failure::usage(error.to_string()))?;
    let username = username.map_or_else(|| prompt::visible("Username: "), Ok)?;
    let password = Password(prompt::password(password_stdin)?);
    let target = Target::Http { base, proof: None, ca: ca.clone() };
    let body = LoginRequest { username: username.clone(), password };
    let Granted { token, expires_at } = read(target.change(Method::POST, LOGIN, None, &body).await?)?;
    let until = output::time(Some(&expires_at));
    let path = session::write(&Session { url, token, expires_at, username, ca, plaintext }, env)?;
    note(&format!("You are logged in until {until}. The token is in {}.", path.display()));
    Ok(())
}

/// Ends the login at the server first, so that a token that was copied ends with it.
pub async fn logout() -> Result<(), Failure> {
    let Some(session) = session::read(env)? else {
        note("You are not logged in.");
        return Ok(());
    };
    if !session.is_over() {
        let base = safe_url(&session.url, session.plaintext)?;
        let target = Target::Http { base, proof: Some(Proof::Session(session.token.0)), ca: session.ca };
        match target.call(Method::POST, LOGOUT, None).await {
            Ok(_) => {}
            // It is over there already.
            Err(refused) if refused.status == Some(401) => {}
            Err(failure) => {
                let hint = format!("you are still logged in, until {} at the latest", session.expires_at);
                return Err(Failure::new(failure.exit, format!("{failure}; {hint}")));
            }
        }
    }
    session::remove(env)?;
    note("You are logged out.");
    Ok(())
}

pub async fn whoami(args: WhoamiArgs) -> Result<(), Failure> {
    let answer = target(&args.connect)?.call(Method::GET, WHOAMI, None).await?;
    if args.output == Format::Json {
        return output::print(&json(&answer)?);
    }
    let me: WhoamiBody = read(answer)?;
    output::print(&fields(&[
        ("Subject", me.subject),
        ("Project", me.project),
        ("Permissions", me.permissions.join(", ")),
        ("Expires", output::time(me.expires_at.as_deref())),
    ]))
}
