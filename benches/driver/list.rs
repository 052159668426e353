//! The tables `list` and `list-redis`: what a page of the keys of one project and plane takes, read from the store as the admin
//! API reads it, among a thousand keys and among a million. Never measures a page twice in a row.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tollgate::domain::credential::KeyId;
use tollgate::store::embedded::Embedded;
use tollgate::store::redis::Redis;
use tollgate::store::redis::connect::Connector;
use tollgate::store::{KeyQuery, Store};

use crate::fleet;
use crate::keys::{Keys, PROJECT};
use crate::report::{Row, Samples};
use crate::{Bench, Outcome};

/// A page among a million keys takes at most one and a half times one among a thousand.
const BAR: f64 = 1.0 / 1.5;
const FEW: usize = 1_000;
const PAGE: usize = 100;
/// Pages of one round, each behind another key.
const PAGES: usize = 400;

pub const ROWS: [Row; 4] = [
    Row::new("list", "list-1k", "us", "list-1k"),
    Row::new("list", "list-1m", "us", "list-1k").bar(BAR),
    Row::new("list-redis", "list-1k", "us", "list-1k"),
    Row::new("list-redis", "list-1m", "us", "list-1k").bar(BAR),
];

/// Two stores that differ in how many keys they hold.
struct Pair {
    table: &'static str,
    few: Store,
    many: Store,
    /// The ids in each, in order: where pages begin.
    of_few: Vec<KeyId>,
    of_many: Vec<KeyId>,
}

pub fn measure(bench: &Bench, keys: &Keys, samples: &mut Samples) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let folder = bench.folder.join("list");
    std::fs::create_dir_all(&folder)?;
    bench.say(&format!("{FEW} keys for pages"));
    let few = Keys::make(&folder, FEW)?;
    let pair = runtime.block_on(Pair::of("list", file(&few.store)?, file(&keys.store)?))?;
    runtime.block_on(pair.measure(bench, samples))?;
    drop(pair);
    let (Some(small), Some(large)) = (fleet::Redis::start(bench, "list-1k")?, fleet::Redis::start(bench, "list-1m")?)
    else {
        return Ok(());
    };
    bench.say(&format!("{FEW} and {} keys into Redis", keys.count));
    small.fill(keys, FEW)?;
    large.fill(keys, keys.count)?;
    let store = |address: SocketAddr| -> Outcome<Store> {
        let connector = Connector::single(&address.to_string())?;
        Ok(Store::Redis(Arc::new(Redis::new(connector, runtime.handle().clone()))))
    };
    let pair = runtime.block_on(Pair::of("list-redis", store(small.address)?, store(large.address)?))?;
    runtime.block_on(pair.measure(bench, samples))?;
    small.server.stop(Signal::TERM)?;
    large.server.stop(Signal::TERM)
}

fn file(path: &Path) -> Outcome<Store> {
    Ok(Store::Embedded(Arc::new(Embedded::open(path, Duration::from_secs(10))?)))
}

impl Pair {
    async fn of(table: &'static str, few: Store, many: Store) -> Outcome<Self> {
        let ids = async |store: &Store| -> Outcome<Vec<KeyId>> {
            let (mut ids, mut after) = (Vec::new(), None);
            loop {
                let page = store.keys(KeyQuery { after, limit: 10_000, ..KeyQuery::default() }).await?;
                let Some(last) = page.last() else { return Ok(ids) };
                after = Some(last.id);
                ids.extend(page.iter().map(|key| key.id));
            }
        };
        let (of_few, of_many) = (ids(&few).await?, ids(&many).await?);
        Ok(Self { table, few, many, of_few, of_many })
    }

    async fn measure(&self, bench: &Bench, samples: &mut Samples) -> Outcome<()> {
        for round in 1..=bench.rounds {
            bench.say(&format!("{}: round {round} of {}", self.table, bench.rounds));
            samples.add(self.table, "list-1k", pages(&self.few, &self.of_few, round).await?);
            samples.add(self.table, "list-1m", pages(&self.many, &self.of_many, round).await?);
        }
        Ok(())
    }
}

/// Microseconds for a page, the mean of many that begin all over the list.
async fn pages(store: &Store, ids: &[KeyId], round: usize) -> Outcome<f64> {
    let places = ids.len().checked_sub(PAGE + 1).ok_or("too few keys for a page")?;
    let begin = Instant::now();
    for number in 0..PAGES {
        // The golden ratio spreads them evenly, and no two alike.
        let at = ((number + round * PAGES) as f64 * 0.618_033_988_75).fract() * places as f64;
        let query = KeyQuery {
            project: Some(PROJECT.to_owned()),
            plane: Some("data".to_owned()),
            after: ids.get(at as usize).copied(),
            limit: PAGE,
        };
        let found = store.keys(query).await?.len();
        if found != PAGE {
            return Err(format!("a page of {found} keys instead of {PAGE}").into());
        }
    }
    Ok(begin.elapsed().as_secs_f64() * 1e6 / PAGES as f64)
}
