//! `tollgate check-config`: judges a configuration file, and an Envoy file beside it. Starts nothing and opens no store.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tollgate_core::policy::Policy;

use super::output::{self, Format};
use super::{Exit, Failure, connect};
use crate::config::{self, Problems};

#[derive(Debug, clap::Args)]
pub(super) struct CheckConfigArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "TOLLGATE_CONFIG", default_value = connect::DEFAULT_CONFIG)]
    config: PathBuf,
    /// An Envoy file too: whether it lets Tollgate see, set and remove every header that it must
    #[arg(long, value_name = "FILE")]
    envoy: Option<PathBuf>,
    /// Print the JSON Schema of the configuration file instead
    #[arg(long)]
    schema: bool,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

pub(super) fn run(args: &CheckConfigArgs) -> Result<Exit, Failure> {
    if args.schema {
        return output::print(&output::json(&config::schema())?).map(|()| Exit::Done);
    }
    let file = args.config.display();
    match (config::load(&args.config), args.output) {
        (Ok(compiled), format) => {
            let (planes, routes) = (compiled.policy.planes.len(), compiled.policy.routes.routes().len());
            let valid = format!("{file} is valid: {planes} planes, {routes} routes\n");
            match (&args.envoy, format) {
                (Some(envoy), format) => compare(&compiled.policy, envoy, &valid, format),
                (None, Format::Table) => output::print(&valid).map(|()| Exit::Done),
                (None, Format::Json) => {
                    output::print(&output::json(&json!({"valid": true, "problems": []}))?).map(|()| Exit::Done)
                }
            }
        }
        (Err(problems), Format::Table) => Err(super::invalid(&args.config, &problems)),
        (Err(problems), Format::Json) => {
            let report = json!({"valid": false, "problems": problems.problems()});
            output::print(&output::json(&report)?).map(|()| Exit::Configuration)
        }
    }
}

/// An Envoy file beside a valid configuration.
fn compare(policy: &Policy, file: &Path, valid: &str, format: Format) -> Result<Exit, Failure> {
    let text = fs::read_to_string(file)
        .map_err(|error| Failure::new(Exit::Configuration, format!("cannot read {}: {error}", file.display())))?;
    let found = config::envoy::compare(policy, &text);
    let expression = config::envoy::allow_expression(policy);
    // What cannot be read is told with the rest.
    let missing = config::envoy::missing_room(policy, &text).ok().flatten();
    let exit = if found.is_ok() { Exit::Done } else { Exit::Configuration };
    match format {
        Format::Table => {
            let judged = judgement(file, &found);
            let hint = "decoder_header_mutation_rules.allow_expression.regex for this configuration:";
            let missing = missing.map(|missing| format!("{missing}\n")).unwrap_or_default();
            output::print(&format!("{valid}{judged}\n{hint}\n  {expression}\n{missing}"))?;
        }
        Format::Json => {
            let problems: Value = found.as_ref().err().map_or_else(|| json!([]), |found| json!(found.problems()));
            let envoy =
                json!({"valid": found.is_ok(), "problems": problems, "allow_expression": expression, "note": missing});
            output::print(&output::json(&json!({"valid": true, "problems": [], "envoy": envoy}))?)?;
        }
    }
    Ok(exit)
}

fn judgement(file: &Path, found: &Result<(), Problems>) -> String {
    let file = file.display();
    match found {
        Ok(()) => format!("{file} lets Tollgate see, set and remove what it must"),
        Err(problems) => format!("{file} does not fit\n{problems}"),
    }
}
