//! Where the public keys of an issuer come from: fetched or read in the background, kept when the issuer is down, and fetched
//! anew for an unknown key at most once in half a minute. A check never fetches by itself, and never waits in a crowd.

mod fleet;

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use reqwest::header::CACHE_CONTROL;
use reqwest::redirect;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tollgate_core::issuer::{Algorithm, Issuer, KeySource};
use tollgate_guard::time::Timestamp;

use super::key_set::{KeySet, MAX_BYTES};
use crate::resolve::l2::L2;
use crate::tasks::Task;

/// Between two fetches that unknown keys asked for.
const DEMAND_PAUSE: Duration = Duration::from_secs(30);
/// Checks that wait for a fetch; more are answered at once that nothing is known.
const MAX_WAITING: usize = 64;
/// How long a check waits for a fetch: less than the second that the shipped Envoy gives one try, so that the answer is ours.
const MAX_WAIT: Duration = Duration::from_millis(750);
/// From the request to the last byte of the answer.
const FETCH_TIME: Duration = Duration::from_secs(5);
const CONNECT_TIME: Duration = Duration::from_secs(2);
const MAX_REDIRECTS: usize = 3;
/// How long a set is good for if the answer does not say, and what it may say.
const DEFAULT_AGE: Duration = Duration::from_secs(600);
const MIN_AGE: Duration = Duration::from_secs(60);
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);
/// Files are read again after this time.
const FILE_AGE: Duration = Duration::from_secs(60);
/// After a failure; doubled with each further one.
const RETRY: Duration = Duration::from_secs(2);
const MAX_RETRY: Duration = Duration::from_secs(120);

/// How often keys were withdrawn. What was verified before the last time must be verified again.
#[derive(Clone, Debug, Default)]
pub struct Withdrawals(Arc<AtomicU64>);

impl Withdrawals {
    /// Read it before the keys, so that what they verify is remembered under a number that a later withdrawal leaves behind.
    pub fn number(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn count(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// The keys of one issuer, followed until this is dropped.
pub struct IssuerKeys {
    shared: Arc<Shared>,
    waiting: Semaphore,
    /// When an unknown key last asked for a fetch.
    demanded: Mutex<Option<Instant>>,
    _task: AbortOnDropHandle<()>,
}

struct Shared {
    keys: ArcSwapOption<KeySet>,
    /// When the newest good set was fetched or read, by whichever replica did.
    fetched: Mutex<Option<Instant>>,
    withdrawals: Withdrawals,
    wanted: Notify,
    fetches: watch::Sender<Fetches>,
}

/// How the fetches went. At most one is asked for and not answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Fetches {
    asked: u64,
    answered: u64,
    /// Whether the last answer was a set.
    ok: bool,
}

impl Fetches {
    /// Asks for one, unless one is under way.
    fn ask(&mut self) {
        self.asked = self.answered + 1;
    }

    fn answer(&mut self, ok: bool) {
        *self = Self { answered: self.asked, ok, ..*self };
    }
}

/// What an unknown key found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The set is as new as it may be asked for: look again, and what is not in it does not exist.
    Fresh,
    /// The issuer cannot be reached, or too many ask: nothing can be said.
    Unknown,
}

impl IssuerKeys {
    /// Begins to follow a source. Must be called on a runtime that outlives the keys.
    pub fn follow(rules: &Issuer, withdrawals: &Withdrawals, l2: Option<L2>, task: Task) -> Self {
        let shared = Arc::new(Shared {
            keys: ArcSwapOption::empty(),
            fetched: Mutex::default(),
            withdrawals: withdrawals.clone(),
            wanted: Notify::new(),
            // The first one is asked for by nobody's turn.
            fetches: watch::Sender::new(Fetches { asked: 1, ..Fetches::default() }),
        });
        let follower = Follower {
            name: rules.name.to_string(),
            source: rules.keys.clone(),
            allowed: rules.algorithms.clone(),
            l2,
            newest: Timestamp::default(),
            refused: Vec::new(),
            shared: Arc::clone(&shared),
        };
        let task = AbortOnDropHandle::new(tokio::spawn(task.keep(move || follower.clone().run())));
        Self { shared, waiting: Semaphore::new(MAX_WAITING), demanded: Mutex::new(None), _task: task }
    }

    /// The last good set; `None` if there never was one.
    pub fn keys(&self) -> Option<Arc<KeySet>> {
        self.shared.keys.load_full()
    }

    /// How long ago the newest good set was fetched or read; `None` if there never was one.
    pub fn age(&self) -> Option<Duration> {
        self.shared.fetched.lock().unwrap_or_else(PoisonError::into_inner).map(|at| at.elapsed())
    }

    /// Asks for a newer set, if it is time for one, or waits for the fetch that is under way. That one may have been answered
    /// before a new key was there: then the next demand finds it.
    pub async fn refresh(&self) -> Freshness {
        let mut fetches = self.shared.fetches.subscribe();
        let seen = *fetches.borrow_and_update();
        let is_under_way = seen.asked > seen.answered;
        if !is_under_way && !self.may_demand() {
            return freshness(seen);
        }
        let Ok(_waiting) = self.waiting.try_acquire() else { return Freshness::Unknown };
        if !is_under_way {
            self.shared.fetches.send_modify(Fetches::ask);
            self.shared.wanted.notify_one();
        }
        let answered = fetches.wait_for(|now| now.answered > seen.answered);
        match timeout(MAX_WAIT, answered).await {
            Ok(Ok(now)) => freshness(*now),
            Ok(Err(_)) | Err(_) => Freshness::Unknown,
        }
    }

    /// Takes the turn, if there is one now.
    fn may_demand(&self) -> bool {
        let mut demanded = self.demanded.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let may = demanded.is_none_or(|at| now.duration_since(at) >= DEMAND_PAUSE);
        if may {
            *demanded = Some(now);
        }
        may
    }
}

fn freshness(fetches: Fetches) -> Freshness {
    if fetches.ok { Freshness::Fresh } else { Freshness::Unknown }
}

impl fmt::Debug for IssuerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IssuerKeys({:?})", self.keys())
    }
}

/// The one task that fetches for an issuer.
#[derive(Clone)]
struct Follower {
    name: String,
    source: KeySource,
    allowed: Vec<Algorithm>,
    shared: Arc<Shared>,
    l2: Option<L2>,
    /// When the set in use was fetched, by whichever replica did.
    newest: Timestamp,
    /// The keys that were refused, as it was said in the log.
    refused: Vec<String>,
}

impl Follower {
    async fn run(mut self) {
        let client = loop {
            self.shared.fetches.send_modify(Fetches::ask);
            match self.client().await {
                Ok(client) => break client,
                Err(problem) => self.tell(&problem),
            }
            self.pause(MAX_RETRY).await;
        };
        let (mut failures, mut demanded) = (0, false);
        loop {
            self.shared.fetches.send_modify(Fetches::ask);
            let outcome = match self.load(client.as_ref(), demanded).await {
                Ok(Loaded { bytes, age, passed }) => {
                    KeySet::parse(&bytes, &self.allowed).map(|keys| (keys, age, passed))
                }
                Err(problem) => Err(problem),
            };
            let pause = match outcome {
                Ok((keys, age, passed)) => {
                    failures = 0;
                    self.adopt(keys);
                    *self.shared.fetched.lock().unwrap_or_else(PoisonError::into_inner) =
                        Instant::now().checked_sub(passed);
                    self.shared.fetches.send_modify(|fetches| fetches.answer(true));
                    // Before it is old.
                    age.mul_f64(0.8)
                }
                Err(problem) => {
                    self.tell(&problem);
                    failures += 1;
                    (RETRY * 2u32.saturating_pow(failures - 1)).min(MAX_RETRY)
                }
            };
            demanded = self.pause(pause).await;
        }
    }

    /// What a key signed that the issuer has taken back is not believed any more, wherever it is remembered.
    fn adopt(&mut self, keys: KeySet) {
        self.tell_of_refused(&keys);
        let keys = Arc::new(keys);
        let before = self.shared.keys.swap(Some(Arc::clone(&keys)));
        if before.is_some_and(|before| !keys.has_all_of(&before)) {
            self.shared.withdrawals.count();
            tracing::info!(issuer = self.name, "an issuer has withdrawn a key: its tokens are verified anew");
        }
    }

    /// Once for each key, as long as it stays in the set.
    fn tell_of_refused(&mut self, keys: &KeySet) {
        for refused in keys.refused().iter().filter(|refused| !self.refused.contains(refused)) {
            tracing::warn!(issuer = self.name, refused, "a key of an issuer is refused, and its tokens with it");
        }
        self.refused = keys.refused().to_vec();
    }

    /// The last good set stays in force.
    fn tell(&self, problem: &str) {
        tracing::warn!(issuer = self.name, problem, "the keys of an issuer could not be loaded");
        self.shared.fetches.send_modify(|fetches| fetches.answer(false));
    }

    /// Whether an unknown key asked for a fetch meanwhile.
    async fn pause(&self, pause: Duration) -> bool {
        tokio::select! {
            () = sleep(pause) => false,
            () = self.shared.wanted.notified() => true,
        }
    }

    /// What fetches; `None` where a file is read.
    async fn client(&self) -> Result<Option<reqwest::Client>, String> {
        let KeySource::Url { url, ca } = &self.source else { return Ok(None) };
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
            .timeout(FETCH_TIME)
            .connect_timeout(CONNECT_TIME)
            .pool_max_idle_per_host(0)
            .referer(false)
            .redirect(redirect::Policy::custom(same_origin_only));
        if url.starts_with("http:") {
            // It is allowed because it does not leave this machine.
            builder = builder.no_proxy();
        }
        if let Some(ca) = ca {
            let pem = read(Path::new(&**ca)).await?;
            let authorities = reqwest::Certificate::from_pem_bundle(&pem).map_err(|error| format!("{ca}: {error}"))?;
            builder = builder.tls_certs_only(authorities);
        }
        builder.build().map(Some).map_err(|error| error.to_string())
    }

    async fn load(&mut self, client: Option<&reqwest::Client>, demanded: bool) -> Result<Loaded, String> {
        match (&self.source, client) {
            (KeySource::File(path), _) => Ok(Loaded::now((read(Path::new(&**path)).await?, FILE_AGE))),
            (KeySource::Url { url, .. }, Some(client)) => match self.l2.clone() {
                None => fetch(client, url).await.map(Loaded::now),
                Some(l2) => {
                    let key = l2.key_set(&self.name, url);
                    let fetched = fleet::fetch_once(&l2, key, self.newest, demanded, || fetch(client, url)).await?;
                    self.newest = fetched.at;
                    let passed = l2.now().as_millis().abs_diff(fetched.at.as_millis());
                    Ok(Loaded { bytes: fetched.bytes, age: fetched.age, passed: Duration::from_millis(passed) })
                }
            },
            (KeySource::Url { .. }, None) => Err("there is no client to fetch with".to_owned()),
        }
    }
}

/// The bytes of a set.
struct Loaded {
    bytes: Vec<u8>,
    /// How long they are good for from now.
    age: Duration,
    /// How long ago they were fetched or read.
    passed: Duration,
}

impl Loaded {
    fn now((bytes, age): (Vec<u8>, Duration)) -> Self {
        Self { bytes, age, passed: Duration::ZERO }
    }
}

async fn read(path: &Path) -> Result<Vec<u8>, String> {
    let path = path.to_owned();
    let task = tokio::task::spawn_blocking(move || {
        std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
    });
    task.await.map_err(|error| error.to_string())?
}

async fn fetch(client: &reqwest::Client, url: &str) -> Result<(Vec<u8>, Duration), String> {
    let mut response = client.get(url).send().await.map_err(|error| chain(&error))?;
    if response.status() != reqwest::StatusCode::OK {
        return Err(format!("{url} answered {}", response.status()));
    }
    let age = response.headers().get(CACHE_CONTROL).and_then(|value| max_age(value.to_str().ok()?));
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| chain(&error))? {
        if bytes.len() + chunk.len() > MAX_BYTES {
            return Err(format!("{url} answered with more than {MAX_BYTES} bytes"));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok((bytes, age.unwrap_or(DEFAULT_AGE).clamp(MIN_AGE, MAX_AGE)))
}

/// An error with its causes: the outermost says little.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}

/// Whoever answers for the issuer's host may not send us to another.
fn same_origin_only(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let is_same = attempt.previous().first().is_some_and(|first| first.origin() == attempt.url().origin());
    if is_same && attempt.previous().len() <= MAX_REDIRECTS {
        attempt.follow()
    } else {
        attempt.error("redirected to another host, or too often")
    }
}

/// `max-age` in seconds (RFC 9111 section 5.2.2.1).
fn max_age(cache_control: &str) -> Option<Duration> {
    let mut directives = cache_control.split(',').map(str::trim);
    let seconds = directives.find_map(|directive| {
        let (name, value) = directive.split_once('=')?;
        name.eq_ignore_ascii_case("max-age").then(|| value.trim_matches('"').parse().ok())?
    });
    seconds.map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_age_is_found_among_others() {
        for (text, seconds) in [
            ("max-age=60", Some(60)),
            ("public, Max-Age=\"86400\", must-revalidate", Some(86_400)),
            ("s-maxage=5", None),
            ("max-age=soon", None),
            ("no-store", None),
            ("", None),
        ] {
            assert_eq!(max_age(text), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
