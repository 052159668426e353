//! `tollgate explain`: one described request through the same pipeline, step by step. Needs no server, changes nothing that
//! is stored, and never prints a credential that it was given.

mod check;
mod records;
mod report;
mod request;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use tollgate_core::admit::{Admission, admit};
use tollgate_core::attributes::Attributes;
use tollgate_core::authorize::Ask;
use tollgate_core::decision::Trace;
use tollgate_core::extract::Credential;
use tollgate_core::policy::Policy;
use zeroize::Zeroizing;

use super::output::{self, Format, json, note};
use super::{Exit, Failure, connect, invalid};
use crate::clock::Clock;
use crate::config::{self, Compiled, StoreSettings};
use crate::domain::change::Event;
use crate::pepper;
use crate::resolve::api_key::Digester;
use crate::resolve::cache::Sizes;
use crate::resolve::pepper::Pepper;
use crate::run::{self, Core};
use crate::server::admin::wire::timestamp;
use crate::store::embedded::Embedded;
use crate::store::{Store, StoreError};
use crate::tasks::Tasks;
use records::{GivenKey, GivenResource};
use report::Report;

pub const EXAMPLES: &str = "Examples:
  tollgate keys show Ab3dEf6hIj9l -o json > key.json
  tollgate explain --key key.json --method POST --url https://api.example.com/v1/chat/completions
  tollgate explain --key key.json --resource workload:w-42=acme/chat \\
      --method PATCH --url https://api.example.com/api/workloads/w-42 -o json
  tollgate explain --request request.yaml --at 2026-12-24T18:00:00Z
  tollgate explain --check check.json --key key.json

A request file has the fields method, url, headers (a map, or a list of 'name: value') and source_ip. With --key and no
credential in the request, the request is explained as if that key had been presented; its secret is not needed.
A file for --check is a CheckRequest (envoy.service.auth.v3) as it was recorded between Envoy and Tollgate: the bytes of the
message, with or without gRPC's frame around them, or its JSON. What was sent is read as the server reads it.";

#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// The configuration file
    #[arg(long, value_name = "FILE", env = "TOLLGATE_CONFIG", default_value = connect::DEFAULT_CONFIG)]
    config: PathBuf,
    #[command(flatten)]
    request: request::RequestArgs,
    /// The record of a key, as `tollgate keys show -o json` prints it; may be repeated
    #[arg(long, value_name = "FILE")]
    key: Vec<PathBuf>,
    /// A registered resource; may be repeated
    #[arg(long, value_name = "KIND:ID=PROJECT[/SLUG]", value_parser = records::resource)]
    resource: Vec<GivenResource>,
    /// When the request comes, in RFC 3339; without this: now
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// How to print the answer
    #[arg(short, long, value_enum, default_value_t, value_name = "FORMAT")]
    output: Format,
}

pub async fn run(args: ExplainArgs) -> Result<Exit, Failure> {
    let report = explain(&args).await?;
    match args.output {
        Format::Json => output::print(&json(&report.as_json())?)?,
        Format::Table => output::print(&report.as_text(output::is_colourful()))?,
    }
    Ok(if report.is_allowed() { Exit::Done } else { Exit::Denied })
}

async fn explain(args: &ExplainArgs) -> Result<Report, Failure> {
    let clock = clock(args.at.as_deref())?;
    let described = request::described(&args.request)?;
    let Compiled { policy, settings } =
        config::load(&args.config).map_err(|problems| invalid(&args.config, &problems))?;
    let mut keys = Vec::new();
    for path in &args.key {
        keys.push(GivenKey::read(path, &policy)?);
    }
    let mut attributes = described.attributes();
    // The secret of a record is known to its owner alone; a stand-in that is good for this one look-up will do.
    let stand_in = match keys.first() {
        Some(key) if !presents_something(&policy, &attributes) => policy.credentials.first().map(|source| {
            let value = match &source.scheme {
                Some(scheme) => format!("{scheme} {}", key.stand_in()),
                None => key.stand_in().to_owned(),
            };
            (source.name.clone(), Zeroizing::new(value))
        }),
        _ => None,
    };
    if let Some((name, value)) = &stand_in {
        attributes.headers.push(tollgate_core::attributes::Header::new(name, value.as_bytes()));
    }
    let world = if keys.is_empty() && args.resource.is_empty() {
        World::of_configuration(&policy, &settings, &attributes).await?
    } else {
        World::given(&policy, &attributes, &keys, &args.resource).await?
    };
    if stand_in.is_some() {
        note("The request has no credential: the first --key is taken as presented.");
    }
    let store = world.store.clone();
    let core = world.core(clock.clone());
    core.resolver.adopt(&policy);
    core.resolver.signing().load(clock.now()).await.map_err(|error| store_failed(&error))?;
    let decision = core.pipeline.decide(&policy, &attributes).await;
    Report::of(&policy, &attributes, &decision, &store, clock.now()).await
}

fn clock(at: Option<&str>) -> Result<Clock, Failure> {
    let Some(text) = at else { return Ok(Clock::System) };
    let time = timestamp(text)
        .ok_or_else(|| Failure::usage("--at must be a time in RFC 3339, such as 2026-12-24T18:00:00Z"))?;
    Ok(Clock::Manual(Arc::new(AtomicU64::new(time.as_millis()))))
}

fn presents_something(policy: &Policy, request: &Attributes<'_>) -> bool {
    let said = |name: &str| request.values(name).any(|value| !value.trim_ascii().is_empty());
    policy.credentials.iter().any(|source| said(&source.name))
}

/// For one decision.
const SIZES: Sizes = Sizes { known: 16, unknown: 16, loads: 4 };

/// What the pipeline looks things up in.
struct World {
    store: Store,
    digester: Digester,
}

impl World {
    fn in_memory() -> Result<Self, Failure> {
        let mut secret = Zeroizing::new([0; 32]);
        getrandom::fill(secret.as_mut()).map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        let store = Store::Embedded(Arc::new(Embedded::in_memory().map_err(|error| store_failed(&error))?));
        Ok(Self { store, digester: Digester::new(&Pepper::new(1, secret), &[]) })
    }

    /// Of the records that were given.
    async fn given(
        policy: &Policy,
        request: &Attributes<'_>,
        keys: &[GivenKey],
        resources: &[GivenResource],
    ) -> Result<Self, Failure> {
        let world = Self::in_memory()?;
        let presented = match admit(policy, request, &mut Trace::begin()) {
            Ok(Admission::Guarded(Ask { credential: Credential::ApiKey(key), .. })) => Some(key),
            _ => None,
        };
        let mut batch = Vec::new();
        for key in keys {
            // A key in the request that has the id of a record is taken for it: only the store could tell better.
            let record = match presented.filter(|presented| presented.id() == key.id()) {
                Some(presented) => key.record(world.digester.current(&presented)),
                None => key.record_of_stand_in(&world.digester)?,
            };
            batch.push(crate::store::Write::CreateKey(record));
        }
        batch.extend(resources.iter().map(|resource| crate::store::Write::CreateResource(resource.record())));
        world
            .store
            .commit(batch, Event::touching(&[]))
            .await
            .map_err(|error| Failure::usage(format!("--key and --resource: {error}")))?;
        Ok(world)
    }

    /// Of the configured store, if the decision needs it and it is there.
    async fn of_configuration(
        policy: &Policy,
        settings: &config::Settings,
        request: &Attributes<'_>,
    ) -> Result<Self, Failure> {
        if !matches!(admit(policy, request, &mut Trace::begin()), Ok(Admission::Guarded(_))) {
            return Self::in_memory();
        }
        let place = match &settings.store {
            StoreSettings::Embedded(path) => path.display().to_string(),
            StoreSettings::Redis(_) => "the configured Redis".to_owned(),
        };
        let hint = "explain from records instead: `tollgate keys show ID -o json > key.json`, then `--key key.json`";
        if let StoreSettings::Embedded(path) = &settings.store
            && !is_there(path)?
        {
            note(&format!("There is no store at {place}, so no key is known; give records with --key."));
            return Self::in_memory();
        }
        for (_, path) in &settings.pepper.files {
            if !is_there(path)? {
                let problem = format!("the pepper file {} is not there; {hint}", path.display());
                return Err(Failure::new(Exit::Failed, problem));
            }
        }
        let mut only_read = settings.store.clone();
        if let StoreSettings::Redis(redis) = &mut only_read {
            // The file belongs to the server.
            redis.position = None;
        }
        let opened = run::store::open(&only_read, Duration::ZERO, &Tasks::default()).await;
        let store = opened.map_err(|error| Failure::new(Exit::Unreachable, format!("{error}; {hint}")))?.store();
        // Loading a pepper that the store has not seen would write to it.
        let known = store.pepper_checks().await.map_err(|error| store_failed(&error))?;
        let unseen = |(version, _): &&(u32, PathBuf)| known.iter().all(|check| check.version != *version);
        if let Some((version, _)) = settings.pepper.files.iter().find(unseen) {
            let problem = format!("the store at {place} has not seen pepper version {version}: start the server first");
            return Err(Failure::new(Exit::Failed, format!("{problem}, or {hint}")));
        }
        let peppers = pepper::load(&settings.pepper, &store).await;
        let (current, older) = peppers.map_err(|error| Failure::new(Exit::Failed, error.to_string()))?;
        Ok(Self { store, digester: Digester::new(&current, &older) })
    }

    fn core(self, clock: Clock) -> Core {
        Core::new(self.store, self.digester, SIZES, clock)
    }
}

fn is_there(path: &Path) -> Result<bool, Failure> {
    path.try_exists().map_err(|error| Failure::new(Exit::Failed, format!("{}: {error}", path.display())))
}

fn store_failed(error: &StoreError) -> Failure {
    Failure::new(Exit::Failed, error.to_string())
}

#[cfg(test)]
mod tests;
