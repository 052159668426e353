//! What the operator's machines ask: live, ready, metrics. Tells nothing of keys or requests, and changes nothing.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::budget::Budget;
use super::http::{self, Answering, CONNECTION_LIFE, Limits, Shared};
use super::places::{ConnectionLimits, PeerState};
use super::runtime::{self, Crowd};
use crate::resolve::Resolver;
use crate::store::Store;
use crate::telemetry::Telemetry;

/// Whoever asks asks again, so that nobody's place is worth more than that of whoever comes next.
/// There are many places, so that a crowd that comes again as soon as it is hung up on leaves everybody time to ask.
const CONNECTION_LIMITS: ConnectionLimits =
    ConnectionLimits { places: 1024, strangers: 1024, share: 64, cuts_answers: true };
const LIMITS: Limits = Limits {
    room: CONNECTION_LIMITS,
    head_time: Duration::from_secs(5),
    buffer: 8 << 10,
    life: CONNECTION_LIFE,
    drain: Duration::from_secs(2),
};
/// How often the metrics are written anew in such a time. Whoever asks more often is told what was written last.
const METRICS_FRESH: u32 = 4;
const METRICS_AGE: Duration = Duration::from_millis(100);
/// Texts of metrics that are held while peers do not read them. With so many, whoever asks is told what was written last, until
/// that is so old: then whoever holds the oldest is hung up on.
const METRICS_TEXTS: usize = 16;
const METRICS_OLD: Duration = Duration::from_secs(1);
/// A store that takes longer is not available.
const STORE_TIME: Duration = Duration::from_secs(1);

/// What the answers are made from.
#[derive(Clone, Debug)]
pub struct OpsState {
    pub telemetry: Arc<Telemetry>,
    pub resolver: Arc<Resolver>,
    pub store: Store,
    /// True from the signal to stop on.
    pub draining: watch::Receiver<bool>,
}

/// Serves `/live`, `/ready` and `/metrics` until `shutdown`, on a thread of its own. What comes back is told when it has ended.
///
/// # Errors
/// If the system gives no thread.
pub fn start(
    listener: std::net::TcpListener,
    state: OpsState,
    budget: Arc<Budget>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> io::Result<runtime::End> {
    runtime::run_apart("ops", Crowd::Anybody, move || async move {
        match TcpListener::from_std(listener) {
            Ok(listener) => serve(listener, state, budget, shutdown).await,
            Err(error) => tracing::error!(%error, "the ops listener could not be served"),
        }
    })
}

async fn serve(listener: TcpListener, state: OpsState, budget: Arc<Budget>, shutdown: impl Future<Output = ()>) {
    let router = router(state);
    let arrive = |_: &_, peer: &SocketAddr| Answering { service: router.clone(), peer: Some(peer.ip()) };
    if let Err(connections) = http::serve(listener, LIMITS, budget, shutdown, arrive).await {
        tracing::warn!(connections, "clients of the ops listener were still connected at the end");
    }
}

fn router(state: OpsState) -> Router {
    let latest = Arc::new(Mutex::new(Latest::new(Instant::now())));
    Router::new()
        .route("/live", get(async || Json(json!({"live": true}))))
        .route("/ready", get(ready))
        .route(
            "/metrics",
            get(move |State(state): State<OpsState>, Extension(peer_state): Extension<Arc<PeerState>>| async move {
                metrics(&state, &latest, &peer_state)
            }),
        )
        .with_state(state)
}

/// 200 if checks can be answered, else 503 and why not.
async fn ready(State(state): State<OpsState>) -> Response {
    let mut reasons = Vec::new();
    if *state.draining.borrow() {
        reasons.push("draining");
    }
    if state.resolver.is_sealed() {
        reasons.push("sealed");
    } else if !state.resolver.can_serve() {
        reasons.push("no_lease");
    }
    if !matches!(tokio::time::timeout(STORE_TIME, state.store.is_available()).await, Ok(true)) {
        reasons.push("store_unavailable");
    }
    let down = state.resolver.tasks().down();
    if !down.is_empty() {
        reasons.push("task_down");
    }
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut answer = json!({"ready": reasons.is_empty(), "reasons": reasons});
    if !down.is_empty() {
        answer["tasks"] = down.into();
    }
    (status, Json(answer)).into_response()
}

/// The metrics as they were last written, and all texts that are still held.
struct Latest {
    since: Instant,
    /// How often they were written since then.
    fresh: u32,
    text: Arc<String>,
    written: Instant,
    /// The oldest first.
    held: VecDeque<SharedText>,
}

/// A text, and whoever has been given it and has yet to read it.
struct SharedText {
    text: Weak<String>,
    readers: Vec<Weak<Reader>>,
}

/// Holds a text until its answer has left.
struct Reader {
    text: Arc<String>,
    peer_state: Arc<PeerState>,
}

struct Unread(Arc<Reader>);

impl AsRef<[u8]> for Unread {
    fn as_ref(&self) -> &[u8] {
        self.0.text.as_bytes()
    }
}

impl Latest {
    fn new(since: Instant) -> Self {
        Self { since, fresh: 0, text: Arc::default(), written: since, held: VecDeque::new() }
    }

    /// Whether whoever asks is to be told something new: not each of a crowd.
    fn is_to_be_written(&mut self) -> bool {
        if self.since.elapsed() >= METRICS_AGE {
            (self.since, self.fresh) = (Instant::now(), 0);
        }
        if self.fresh >= METRICS_FRESH {
            return false;
        }
        self.held.retain(|held| held.text.strong_count() > 0);
        if self.held.len() < METRICS_TEXTS {
            return true;
        }
        let is_old = self.written.elapsed() >= METRICS_OLD;
        if is_old && let Some(oldest) = self.held.pop_front() {
            oldest.readers.iter().filter_map(Weak::upgrade).for_each(|reader| reader.peer_state.give_up());
        }
        is_old
    }

    fn write(&mut self, text: String) {
        self.text = Arc::new(text);
        (self.written, self.fresh) = (Instant::now(), self.fresh + 1);
        self.held.push_back(SharedText { text: Arc::downgrade(&self.text), readers: Vec::new() });
    }

    fn give(&mut self, peer_state: &Arc<PeerState>) -> Bytes {
        let reader = Arc::new(Reader { text: Arc::clone(&self.text), peer_state: Arc::clone(peer_state) });
        if let Some(SharedText { readers, .. }) = self.held.back_mut() {
            if readers.len() == readers.capacity() {
                readers.retain(|reader| reader.strong_count() > 0);
            }
            readers.push(Arc::downgrade(&reader));
        }
        Bytes::from_owner(Unread(reader))
    }
}

/// Written anew for whoever asks, but not for each of a crowd.
fn metrics(state: &OpsState, latest: &Mutex<Latest>, peer_state: &Arc<PeerState>) -> Response {
    let mut latest = latest.lock().unwrap_or_else(PoisonError::into_inner);
    if latest.is_to_be_written() {
        match state.telemetry.render(&state.resolver) {
            Ok(text) => latest.write(text),
            Err(error) => {
                tracing::error!(%error, "the metrics could not be written");
                return StatusCode::INTERNAL_SERVER_ERROR.into_response();
            }
        }
    }
    let kind = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (Extension(Shared), kind, latest.give(peer_state)).into_response()
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;
    use tokio::task::JoinSet;
    use tokio::time::timeout;

    use super::*;
    use crate::server::places::{Place, Places};
    use crate::server::socket::FEW_UNREAD;
    use crate::server::testing::{Fixture, stranger};

    const MANY: usize = 1100;
    /// How long each of them waits before it comes again.
    const AGAIN: Duration = Duration::from_millis(20);
    /// In which a good request is answered on a busy machine, whatever is held.
    const SOON: Duration = Duration::from_secs(4);

    #[tokio::test]
    async fn metrics_are_not_written_anew_for_each_of_a_crowd() {
        let fixture = Fixture::new().await;
        let (_drain, draining) = watch::channel(false);
        let state =
            OpsState { telemetry: fixture.telemetry, resolver: fixture.resolver, store: fixture.store, draining };
        // For as long as the test takes, no time has passed.
        let since = Instant::now() + Duration::from_secs(3600);
        let (latest, place) = (Mutex::new(Latest::new(since)), Places::new(CONNECTION_LIMITS).enter(None).unwrap());
        let is_anew = || {
            let before = Arc::clone(&latest.lock().unwrap().text);
            metrics(&state, &latest, place.peer_state());
            !Arc::ptr_eq(&before, &latest.lock().unwrap().text)
        };
        for _ in 0..METRICS_FRESH {
            assert!(is_anew());
        }
        assert!(!is_anew());
        latest.lock().unwrap().since = Instant::now().checked_sub(METRICS_AGE).unwrap();
        assert!(is_anew());
    }

    #[tokio::test]
    async fn texts_that_nobody_reads_are_few_and_none_is_told_for_long() {
        let fixture = Fixture::new().await;
        let (_drain, draining) = watch::channel(false);
        let state =
            OpsState { telemetry: fixture.telemetry, resolver: fixture.resolver, store: fixture.store, draining };
        // For as long as the test takes, the last one was only just written.
        let (latest, places) = (Mutex::new(Latest::new(Instant::now())), Places::new(CONNECTION_LIMITS));
        let ask = |peer_state: &Arc<PeerState>, is_old: bool| {
            let mut now = latest.lock().unwrap();
            now.fresh = 0;
            now.written = if is_old {
                Instant::now().checked_sub(METRICS_OLD).unwrap()
            } else {
                Instant::now() + Duration::from_secs(3600)
            };
            drop(now);
            let answer = metrics(&state, &latest, peer_state);
            (answer, Arc::clone(&latest.lock().unwrap().text))
        };
        let strangers: Vec<_> = (0..MANY).map(|_| Places::new(CONNECTION_LIMITS).enter(None).unwrap()).collect();
        let mut unread: Vec<Response> = strangers.iter().map(|place| ask(place.peer_state(), false).0).collect();
        let is_told_to_leave = |place: &Place| place.taken_away().now_or_never().is_some();
        assert_eq!(latest.lock().unwrap().held.len(), METRICS_TEXTS);
        assert!(!strangers.iter().any(is_told_to_leave));
        // Whoever asks is told what is new nevertheless, and whoever has not read the oldest for so long goes.
        let prober = places.enter(None).unwrap();
        let before = ask(prober.peer_state(), false).1;
        let now = ask(prober.peer_state(), true).1;
        assert!(!Arc::ptr_eq(&before, &now));
        assert!(is_told_to_leave(&strangers[0]) && !strangers[1..].iter().any(is_told_to_leave));
        assert!(!is_told_to_leave(&prober) && latest.lock().unwrap().held.len() == METRICS_TEXTS);
        unread.clear();
        drop((before, now));
        ask(prober.peer_state(), false);
        let mut latest = latest.lock().unwrap();
        latest.held.retain(|held| held.text.strong_count() > 0);
        assert_eq!(latest.held.len(), 1);
    }

    /// Strangers that hold as many texts as there may be.
    #[tokio::test]
    async fn strangers_that_read_no_metrics_do_not_keep_them_old() {
        let fixture = Fixture::new().await;
        let tasks = fixture.resolver.tasks().clone();
        let (_drain, draining) = watch::channel(false);
        let state =
            OpsState { telemetry: fixture.telemetry, resolver: fixture.resolver, store: fixture.store, draining };
        let listener = crate::server::socket::bind_tcp(([127, 0, 0, 1], 0).into(), Some(FEW_UNREAD)).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = start(listener, state, Budget::new(), async { drop(stopped.await) }).unwrap();
        let requests = "GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n".repeat(200);
        let mut strangers = Vec::new();
        for number in 0..4 * METRICS_TEXTS {
            let mut stream = stranger(address, number, b"").await;
            // As much of it as is taken, which is less than all where nothing is read.
            let _ = timeout(METRICS_AGE / 2, stream.write_all(requests.as_bytes())).await;
            tokio::time::sleep(METRICS_AGE / 2).await;
            strangers.push(stream);
        }
        let _new = tasks.task("new");
        let client = reqwest::Client::builder().pool_max_idle_per_host(0).timeout(SOON).build().unwrap();
        let is_told = async {
            loop {
                let answer = client.get(format!("http://{address}/metrics")).send().await.unwrap();
                if answer.text().await.unwrap().contains(r#"task="new""#) {
                    break;
                }
            }
        };
        timeout(SOON, is_told).await.expect("the metrics are not old");
        drop((strangers, stop));
        let _ = ended.await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn strangers_that_come_again_and_again_cut_off_nobody_who_asks() {
        let fixture = Fixture::new().await;
        let (_drain, draining) = watch::channel(false);
        let state =
            OpsState { telemetry: fixture.telemetry, resolver: fixture.resolver, store: fixture.store, draining };
        let listener = crate::server::socket::bind_tcp(([127, 0, 0, 1], 0).into(), None).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = start(listener, state, Budget::new(), async { drop(stopped.await) }).unwrap();
        let mut strangers = JoinSet::new();
        for number in 0..MANY {
            strangers.spawn(async move {
                loop {
                    // Until it is hung up on.
                    let _ = stranger(address, number, b"").await.read_u8().await;
                    tokio::time::sleep(AGAIN).await;
                }
            });
        }
        let client = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
        let mut failed = 0;
        for _ in 0..100 {
            let answer = client.get(format!("http://{address}/live")).send().await;
            failed += usize::from(!answer.is_ok_and(|answer| answer.status() == 200));
        }
        assert_eq!(failed, 0, "of 100");
        drop((strangers, stop));
        let _ = ended.await;
    }

    #[tokio::test]
    async fn strangers_that_read_no_metrics_keep_nobody_waiting() {
        let fixture = Fixture::new().await;
        let (_drain, draining) = watch::channel(false);
        let state =
            OpsState { telemetry: fixture.telemetry, resolver: fixture.resolver, store: fixture.store, draining };
        let listener = crate::server::socket::bind_tcp(([127, 0, 0, 1], 0).into(), Some(FEW_UNREAD)).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let ended = start(listener, state, Budget::new(), async { drop(stopped.await) }).unwrap();
        let (leave, left) = oneshot::channel::<()>();
        let strangers = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut strangers = JoinSet::new();
                (0..MANY).for_each(|number| drop(strangers.spawn(ask_on(address, number))));
                drop(left.await);
            });
        });
        let client = reqwest::Client::builder().pool_max_idle_per_host(0).timeout(SOON).build().unwrap();
        for path in ["live", "ready", "metrics"].repeat(5) {
            let answer = client.get(format!("http://{address}/{path}")).send().await.unwrap();
            assert_eq!(answer.status(), 200, "{path}");
        }
        drop((leave, stop));
        strangers.join().unwrap();
        let _ = ended.await;
    }

    /// Asks as long as it is let, and reads nothing; and again.
    async fn ask_on(address: SocketAddr, number: usize) {
        let requests = "GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n".repeat(16);
        loop {
            let mut stream = stranger(address, number, b"").await;
            while stream.write_all(requests.as_bytes()).await.is_ok() {
                tokio::time::sleep(AGAIN * 10).await;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    #[tokio::test]
    async fn probes_tell_a_live_process_from_a_ready_one() {
        let fixture = Fixture::new().await;
        let tasks = fixture.resolver.tasks().clone();
        let (drain, draining) = watch::channel(false);
        let state =
            OpsState { telemetry: fixture.telemetry, resolver: fixture.resolver, store: fixture.store, draining };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let served = tokio::spawn(serve(listener, state, Budget::new(), async { drop(stopped.await) }));
        let get = async |path: &str| {
            let response = reqwest::get(format!("http://{address}{path}")).await.unwrap();
            (response.status().as_u16(), response.text().await.unwrap())
        };
        assert_eq!(get("/live").await.0, 200);
        assert_eq!(get("/ready").await, (200, r#"{"ready":true,"reasons":[]}"#.to_owned()));
        let (status, metrics) = get("/metrics").await;
        assert_eq!(status, 200);
        assert!(metrics.contains("tollgate_build_info"), "{metrics}");
        assert_eq!(get("/other").await.0, 404);
        fixture.stamps.seal();
        assert_eq!(get("/ready").await, (503, r#"{"ready":false,"reasons":["sealed"]}"#.to_owned()));
        fixture.stamps.unseal();
        let down = tasks.task("follower").stopped();
        let (status, answer) = get("/ready").await;
        assert_eq!((status, &*answer), (503, r#"{"ready":false,"reasons":["task_down"],"tasks":["follower"]}"#));
        drop(down);
        assert_eq!(get("/ready").await.0, 200);
        assert!(get("/metrics").await.1.contains(r#"tollgate_task_restarts{task="follower"} 0"#));
        drain.send(true).unwrap();
        assert_eq!(get("/ready").await, (503, r#"{"ready":false,"reasons":["draining"]}"#.to_owned()));
        assert_eq!(get("/live").await.0, 200);
        stop.send(()).unwrap();
        served.await.unwrap();
    }
}
