//! `tollgate store upgrade`: an older store raised to the newest format. Reaches the store itself and no Tollgate.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::runtime::Handle;

use super::{demand_pepper, failed};
use crate::cli::output::{self, Format as Output, fields};
use crate::cli::{Exit, Failure, connect, invalid};
use crate::config::{self, StoreSettings};
use crate::fleet::position;
use crate::pepper;
use crate::run::store::unfit;
use crate::store::Store;
use crate::store::embedded::Embedded;
use crate::store::format::Format;
use crate::store::redis::Redis;
use crate::store::redis::connect::Connector;
use crate::store::redis::survey::Survey;
use crate::store::upgrade::{Upgraded, upgrade};

pub(super) const HELP: &str = "Examples:
  tollgate store upgrade --config /etc/tollgate/tollgate.yaml
  tollgate store upgrade -o json

First move every Tollgate on the store to this release; `tollgate fleet` shows which format each of them can write. In Redis they
go on meanwhile. The file of an embedded store has one owner: stop Tollgate, run this, and start it again. Run it again if it was
interrupted: it goes on where it was. There is no way back: an older release refuses a store that was upgraded.";

#[derive(Args, Debug)]
pub struct UpgradeArgs {
    /// The configuration file; its `store` is upgraded
    #[arg(long, value_name = "FILE", env = "TOLLGATE_CONFIG", default_value = connect::DEFAULT_CONFIG)]
    config: PathBuf,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
}

pub async fn run(args: &UpgradeArgs) -> Result<(), Failure> {
    let settings = config::load(&args.config).map_err(|problems| invalid(&args.config, &problems))?.settings;
    let (current, older) =
        pepper::read_all(&settings.pepper).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    let signers = pepper::signers(&current, &older);
    let store = match settings.store {
        StoreSettings::Embedded(path) => {
            if !path.exists() {
                let problem = format!("there is no store at {}: see `store.embedded.path`", path.display());
                return Err(Failure::new(Exit::Failed, problem));
            }
            let store = Embedded::open(&path, Duration::ZERO).map_err(|error| failed(&error))?;
            Store::Embedded(Arc::new(store.with_signers(signers)))
        }
        StoreSettings::Redis(redis) => {
            let redis_position = redis.position;
            let connector = Connector::open(redis.location).map_err(|error| failed(&error))?;
            let survey = Survey::of(&connector).await.map_err(|error| failed(&error))?;
            if let Some(unfit) = unfit(&survey) {
                return Err(Failure::new(Exit::Failed, unfit));
            }
            let redis = Redis::new(connector, Handle::current()).with_signers(signers);
            if let Some(path) = &redis_position {
                refuse_if_signed_before(&redis, path).await?;
            }
            Store::Redis(Arc::new(redis))
        }
    };
    // One that nobody has started on yet knows none.
    if !store.pepper_checks().await.map_err(|error| failed(&error))?.is_empty() {
        demand_pepper(&store, current.check()).await?;
    }
    let Upgraded { was, rewritten, passed_over } = upgrade(&store).await.map_err(|error| failed(&error))?;
    match args.output {
        Output::Json => {
            let (was, format) = (was.to_string(), Format::NEWEST.to_string());
            let done = json!({"was": was, "format": format, "rewritten": rewritten, "passed_over": passed_over});
            output::print(&output::json(&done)?)
        }
        Output::Table => {
            let mut done = vec![
                ("Format", Format::NEWEST.to_string()),
                ("It was", was.to_string()),
                ("Written again", format!("{rewritten} records")),
            ];
            if !passed_over.is_empty() {
                let passed_over = passed_over.join(", ");
                done.push((
                    "Passed over",
                    format!("{passed_over}: not heard of, and of an older release, which refuses the store"),
                ));
            }
            output::print(&fields(&done))
        }
    }
}

/// What was signed once, and says now that it never was, is not signed again: whatever was put into it meanwhile would be believed.
async fn refuse_if_signed_before(redis: &Redis, path: &Path) -> Result<(), Failure> {
    let file = path.display();
    let kept = position::read(path)
        .map_err(|error| Failure::new(Exit::Failed, format!("fleet.position: {file} cannot be read: {error}")))?;
    let format = redis.format().await.map_err(|error| failed(&error))?;
    if !kept.is_some_and(|kept| kept.is_signed) || format.demands_signatures() {
        return Ok(());
    }
    let problem = format!(
        "{file} remembers that every record of this store was signed, and it has format {format} now, in which they need no \
         signature: somebody has changed it. Nothing is signed; restore a backup"
    );
    Err(Failure::new(Exit::Failed, problem))
}
