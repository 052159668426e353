//! `tollgate store upgrade`: an older store raised to the newest format. Reaches the store itself and no Tollgate.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde_json::json;
use tokio::runtime::Handle;
use tollgate_core::issuer::{ClaimOrLiteral, Issuer};
use tollgate_core::policy::Policy;
use tollgate_core::resource::EVERY;

use super::{demand_pepper, failed, must_be_signed};
use crate::cli::output::{self, Format as Output, fields};
use crate::cli::{Exit, Failure, connect, invalid};
use crate::config::{self, Compiled, Settings, StoreSettings};
use crate::pepper;
use crate::run::store::unfit;
use crate::store::Store;
use crate::store::embedded::Embedded;
use crate::store::format::Format;
use crate::store::redis::Redis;
use crate::store::redis::connect::Connector;
use crate::store::redis::survey::Survey;
use crate::store::upgrade::{Upgraded, upgrade_naming};

pub(super) const HELP: &str = "Examples:
  tollgate store upgrade --config /etc/tollgate/tollgate.yaml
  tollgate store upgrade -o json

First move every Tollgate on the store to this release; `tollgate fleet` shows which format each of them can write. In Redis they
go on meanwhile. The file of an embedded store has one owner: stop Tollgate, run this, and start it again. Run it again if it was
interrupted: it goes on where it was. There is no way back: an older release refuses a store that was upgraded.

It signs every record with a key from the pepper, and after a change of the pepper signs them anew. A store that must have been signed
before, by `store.signed` or `fleet.position`, and says that it was not, is signed with --trust-unsigned alone.";

#[derive(Args, Debug)]
pub struct UpgradeArgs {
    /// The configuration file; its `store` is upgraded
    #[arg(long, value_name = "FILE", env = "TOLLGATE_CONFIG", default_value = connect::DEFAULT_CONFIG)]
    config: PathBuf,
    /// Sign an unsigned store as it stands, though `store.signed` or `fleet.position` says that it was signed before
    #[arg(long)]
    trust_unsigned: bool,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Output,
}

pub async fn run(args: &UpgradeArgs) -> Result<(), Failure> {
    let Compiled { policy, settings } =
        config::load(&args.config).map_err(|problems| invalid(&args.config, &problems))?;
    let named = projects_named(&policy, &settings);
    let demands = !args.trust_unsigned && must_be_signed(&settings)?;
    let store = match &settings.store {
        StoreSettings::Embedded(path) => {
            if !path.exists() {
                let problem = format!("there is no store at {}: see `store.embedded.path`", path.display());
                return Err(Failure::new(Exit::Failed, problem));
            }
            Store::Embedded(Arc::new(Embedded::open(path, Duration::ZERO).map_err(|error| failed(&error))?))
        }
        StoreSettings::Redis(redis) => {
            let connector = Connector::open(redis.location.clone()).map_err(|error| failed(&error))?;
            let survey = Survey::of(&connector).await.map_err(|error| failed(&error))?;
            if let Some(unfit) = unfit(&survey) {
                return Err(Failure::new(Exit::Failed, unfit));
            }
            Store::Redis(Arc::new(Redis::new(connector, Handle::current())))
        }
    };
    let unlocked = pepper::unlock(&settings.pepper, &store).await;
    let current = unlocked.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
    // One that nobody has started on yet knows none.
    if !store.pepper_checks().await.map_err(|error| failed(&error))?.is_empty() {
        demand_pepper(&store, current.check()).await?;
    }
    if demands {
        store.demand_signatures().await.map_err(|error| failed(&error))?;
    }
    if !store.format().await.map_err(|error| failed(&error))?.demands_signatures() {
        demand_decisions(&policy)?;
    }
    let Upgraded { was, rewritten, passed_over } =
        upgrade_naming(&store, named).await.map_err(|error| failed(&error))?;
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

/// The projects that a configuration names: those of issuers whose tokens are all of one, and those with quotas of their own.
fn projects_named(policy: &Policy, settings: &Settings) -> BTreeSet<String> {
    let of_issuers = policy.issuers.iter().filter_map(|issuer| match &issuer.meaning.project {
        ClaimOrLiteral::Literal(project) if **project != *EVERY => Some(project.to_string()),
        _ => None,
    });
    of_issuers.chain(settings.limits.quotas.projects.keys().cloned()).collect()
}

/// From the upgrade on a project without a record lets no token in, unless its issuer may name any: that is decided before it begins.
fn demand_decisions(policy: &Policy) -> Result<(), Failure> {
    let is_open = |issuer: &&Issuer| {
        matches!(issuer.meaning.project, ClaimOrLiteral::Claim(_)) && issuer.unknown_projects.is_none()
    };
    let open: Vec<&str> = policy.issuers.iter().filter(is_open).map(|issuer| &*issuer.name).collect();
    if open.is_empty() {
        return Ok(());
    }
    let problem = format!(
        "nothing was upgraded: from then on a token is refused whose project has no record, and these issuers take the project from a \
         claim: {}. Make those projects with `tollgate projects create`, and say `unknown_projects: refuse` for each; or say `allow`, \
         where projects are the matter of the issuer",
        open.join(", ")
    );
    Err(Failure::new(Exit::Configuration, problem))
}
