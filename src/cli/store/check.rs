//! `tollgate store check`: what a store and a fleet's server are found to be, and every record that is not believed. Changes nothing, and
//! asks no Tollgate.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::{Map, Value, json};
use tokio::runtime::Handle;

use super::{as_findings, demand_if_signed, failed, findings_table};
use crate::cli::output::{self, Format, fields};
use crate::cli::{Exit, Failure, connect, invalid};
use crate::config::{self, RedisSettings, Settings, StoreSettings};
use crate::pepper;
use crate::store::Store;
use crate::store::embedded::Embedded;
use crate::store::format;
use crate::store::redis::Redis;
use crate::store::redis::check::Check;
use crate::store::redis::connect::Connector;
use crate::store::redis::survey::{Finding, Severity};
use crate::store::signature::Distrusted;

pub(super) const HELP: &str = "Examples:
  tollgate store check --config /etc/tollgate/tollgate.yaml
  tollgate store check -o json

It changes nothing. A fleet's store may be checked at any time, as from a timer; the file of an embedded store has one owner, so stop
Tollgate first, or check a copy that `tollgate restore` has made of a backup. Every record is read, and each that somebody else than
Tollgate has written is named.

Exit codes: 0 where there is nothing but notes, 7 where something should be mended (warn), 8 where Tollgate cannot work with this store
(refuse), 4 where the server cannot be asked.";

#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "TOLLGATE_CONFIG", default_value = connect::DEFAULT_CONFIG)]
    config: PathBuf,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

/// What is printed of a store, and what was found.
struct Found {
    said: Vec<(&'static str, String)>,
    json: Map<String, Value>,
    findings: Vec<Finding>,
}

pub async fn run(args: &CheckArgs) -> Result<(), Failure> {
    let settings = config::load(&args.config).map_err(|problems| invalid(&args.config, &problems))?.settings;
    let mut found = match &settings.store {
        StoreSettings::Redis(redis) => of_fleet(redis, &settings).await?,
        StoreSettings::Embedded(path) => of_file(path, &settings).await?,
    };
    found.findings.sort_by_key(|finding| finding.severity);
    let findings = &found.findings;
    match args.output {
        Format::Json => {
            found.json.insert("findings".to_owned(), as_findings(findings).into());
            output::print(&output::json(&Value::Object(found.json))?)?;
        }
        Format::Table => {
            let findings = match findings.is_empty() {
                true => "\nNothing was found.\n".to_owned(),
                false => findings_table(findings, output::is_colourful()),
            };
            output::print(&format!("{}{findings}", fields(&found.said)))?;
        }
    }
    match found.findings.first().map(|finding| finding.severity) {
        Some(Severity::Refuse) => Err(Failure::new(Exit::Unfit, "Tollgate cannot work with this store: see above")),
        Some(Severity::Warn) => Err(Failure::new(Exit::Warned, "something should be mended: see above")),
        Some(Severity::Note) | None => Ok(()),
    }
}

async fn of_fleet(redis: &RedisSettings, settings: &Settings) -> Result<Found, Failure> {
    let connector = Connector::open(redis.location.clone()).map_err(|error| failed(&error))?;
    let redis = Redis::new(connector, Handle::current());
    let Check { survey, seen, mut findings } = Check::of(&redis).await.map_err(|error| failed(&error))?;
    let mut looked_at = None;
    if seen.is_readable() {
        let store = Store::Redis(Arc::new(redis));
        looked_at = look_at_records(&store, settings, &mut findings).await?;
    }
    let store = match &seen.lineage {
        Some(_) => format!("there, with {} changes", seen.sequence),
        None => "not there".to_owned(),
    };
    let said = vec![
        ("Store", store),
        ("Lineage", seen.lineage.clone().unwrap_or_else(|| "-".to_owned())),
        ("Format", seen.format()),
        ("Records", records(looked_at)),
        ("Replicas", seen.members.to_string()),
        ("Server", format!("{} {}", survey.engine, survey.version)),
        ("Revocation", survey.level.to_string()),
    ];
    let json = json!({
        "lineage": seen.lineage,
        "sequence": seen.sequence,
        "format": seen.format(),
        "records": looked_at,
        "replicas": seen.members,
        "server": {"engine": survey.engine.to_string(), "version": survey.version.to_string()},
        "level": survey.level.to_string(),
    });
    Ok(Found { said, json: object(json), findings })
}

async fn of_file(path: &Path, settings: &Settings) -> Result<Found, Failure> {
    if !path.exists() {
        let problem = format!("there is no store at {}: see `store.embedded.path`", path.display());
        return Err(Failure::new(Exit::Unreachable, problem));
    }
    let store = Embedded::open(path, Duration::ZERO).map_err(|error| failed(&error))?;
    let (format, sequence) = (store.format().map_err(|error| failed(&error))?, store.sequence());
    let sequence = sequence.map_err(|error| failed(&error))?;
    let mut findings = Vec::new();
    if !format.demands_signatures() {
        findings.push(unsigned(format));
    }
    let store = Store::Embedded(Arc::new(store));
    let looked_at = look_at_records(&store, settings, &mut findings).await?;
    let said = vec![
        ("Store", format!("{}, with {sequence} changes", path.display())),
        ("Format", format.to_string()),
        ("Records", records(looked_at)),
    ];
    let json = json!({"sequence": sequence, "format": format.to_string(), "records": looked_at});
    Ok(Found { said, json: object(json), findings })
}

/// Looks at every record, and gives how many those were; `None`: there is no pepper to look at them with.
async fn look_at_records(
    store: &Store,
    settings: &Settings,
    findings: &mut Vec<Finding>,
) -> Result<Option<u64>, Failure> {
    if let Err(error) = pepper::unlock(&settings.pepper, store).await {
        findings.push(unread(&error));
        return Ok(None);
    }
    demand_if_signed(store, settings)?;
    let distrusted = store.distrusted().await.map_err(|error| failed(&error))?;
    let looked_at = distrusted.looked_at;
    findings.extend(distrust(distrusted, "records are not believed"));
    if store.trust().is_signed() {
        let contradicted = store.contradicted().await.map_err(|error| failed(&error))?;
        findings.extend(contradicted.unlooked_at.iter().map(|(version, count)| Finding {
            severity: Severity::Note,
            what: format!(
                "{count} rows of the audit log or changes in the store's log are signed with a key from pepper version {version}, which \
                 is not configured: they were not looked at"
            ),
            remedy: "nothing, if that pepper was retired; to have them looked at, give this command its file".to_owned(),
        }));
        findings.extend(distrust(contradicted, "things do not agree with what the logs of the store say"));
    }
    Ok(Some(looked_at))
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn records(looked_at: Option<u64>) -> String {
    looked_at.map_or_else(|| "not looked at".to_owned(), |count| format!("{count} looked at"))
}

fn unsigned(format: format::Format) -> Finding {
    Finding {
        severity: Severity::Warn,
        what: format!(
            "the store has format {format}, in which records need no signature: whoever can write it can mint keys"
        ),
        remedy: "run `tollgate store upgrade`, and set `store.signed: required` then".to_owned(),
    }
}

fn unread(error: &pepper::PepperError) -> Finding {
    Finding {
        severity: Severity::Warn,
        what: format!("the signatures of the records were not looked at: {error}"),
        remedy: "give this command the pepper files of its Tollgates".to_owned(),
    }
}

/// Each thing that is not believed, and how many more there are.
fn distrust(distrusted: Distrusted, more_of_them: &str) -> Vec<Finding> {
    let named = distrusted.named.len() as u64;
    let finding = |what| Finding {
        severity: Severity::Warn,
        what,
        remedy: "find out who can write the store, and restore a backup from before that".to_owned(),
    };
    let more = (distrusted.found > named).then(|| format!("{} more {more_of_them}", distrusted.found - named));
    distrusted.named.into_iter().chain(more).map(finding).collect()
}
