//! A process whose store has lost what the one before it has known: it answers 503 at every door, and follows the store until that
//! is whole again or was accepted. Never reads a record from the store, and never writes one.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::sleep;
use tollgate_core::policy::Policy;
use tollgate_guard::protocol::{Loss, MemberState};
use tollgate_guard::stamps::Stamps;

use super::store::Joined;
use super::{Core, Doors, RunError, identity, longest_grace, start};
use crate::clock::Clock;
use crate::config::Settings;
use crate::domain::change::Endings;
use crate::fleet::driver::{self, Joining};
use crate::fleet::handle::Fleet;
use crate::fleet::replicas::Replicas;
use crate::pepper;
use crate::resolve::api_key::Digester;
use crate::store::Store;
use crate::store::redis::Redis;
use crate::tasks::{Task, Tasks};
use crate::telemetry::Telemetry;

/// How often it is looked whether the store is right.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Why nothing is refused any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// The store is whole, or was accepted.
    Right,
    /// The process is to end.
    Stopped,
}

/// Refuses everything until the store is right, or until `stop`.
///
/// # Errors
/// [`RunError`] if a door cannot be opened.
pub(super) async fn refuse_all(
    joined: Joined,
    loss: &Loss,
    settings: &Settings,
    policy: &Arc<Policy>,
    tasks: &Tasks,
    stop: &mut (impl Future<Output = ()> + Unpin),
) -> Result<Ended, RunError> {
    let core = refusing(&joined, loss, settings, tasks.clone())?;
    let replicas = Replicas::Fleet(follow(joined, longest_grace(policy), tasks.task("fleet_log"))?);
    let Replicas::Fleet(fleet) = &replicas else { return Ok(Ended::Right) };
    let telemetry = Arc::new(Telemetry::new(None).map_err(start)?);
    telemetry.watch_fleet(fleet.clone(), &core.resolver).map_err(start)?;
    let live = Arc::new(ArcSwap::new(Arc::clone(policy)));
    telemetry.adopt(policy);
    let doors = Doors::open(settings, &core, &replicas, core.logins_without_keys()?, &live, &telemetry).await?;
    let mut ended = Ended::Stopped;
    let end = async {
        tokio::select! {
            () = stop => {}
            () = right(fleet) => ended = Ended::Right,
        }
    };
    let served = doors.serve(end).await;
    replicas.leave().await;
    served.map(|()| ended)
}

/// Decides with stamps that stay sealed and a store that stays shut, whatever becomes of the one that is followed: whether the
/// peppers are the right ones is not known yet.
fn refusing(joined: &Joined, loss: &Loss, settings: &Settings, tasks: Tasks) -> Result<Core, RunError> {
    let redis = Redis::new(joined.redis.connector().clone(), Handle::current());
    redis.refuse(Some(driver::refusal(loss)));
    let (current, older) = pepper::read_all(&settings.pepper)?;
    let (digester, stamps) = (Arc::new(Digester::new(&current, &older)), Arc::new(Stamps::leased(Clock::System)));
    stamps.seal();
    let store = Store::Redis(Arc::new(redis));
    Ok(Core::of(store, digester, stamps, settings.cache, Clock::System, None, tasks))
}

/// Guards nothing by what it follows: it is listed as a replica that misses something, and finds out when that is over.
fn follow(joined: Joined, grace: Duration, task: Task) -> Result<Fleet, RunError> {
    let (stamps, clock) = (Arc::new(Stamps::leased(Clock::System)), Clock::System);
    // Nobody needs to end anything again: the process begins with the store as it is then.
    let (reconcile, _) = mpsc::unbounded_channel();
    let endings = Arc::<Endings>::default();
    let level = joined.survey.level.to_string();
    let identity = identity(joined.name, grace);
    let Joined { redis, remembered, file, former, .. } = joined;
    driver::start(Joining { redis, stamps, endings, identity, level, clock, reconcile, task, remembered, file, former })
        .map_err(start)
}

async fn right(fleet: &Fleet) {
    while fleet.figures().state() != MemberState::Attached {
        sleep(LOOK_EVERY).await;
    }
}
