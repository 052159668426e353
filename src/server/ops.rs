//! What the operator's machines ask: live, ready, metrics. Tells nothing of keys or requests, and changes nothing.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
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
use super::http::{self, Answering, Limits, Shared};
use super::places::Room;
use super::runtime::{self, Crowd};
use crate::resolve::Resolver;
use crate::store::Store;
use crate::telemetry::Telemetry;

/// Whoever asks asks again, so that nobody's place is worth more than that of whoever comes next.
/// There are many places, so that a crowd that comes again as soon as it is hung up on leaves everybody time to ask.
const ROOM: Room = Room { places: 1024, strangers: 1024, share: 64, cuts_answers: true };
const LIMITS: Limits =
    Limits { room: ROOM, head_time: Duration::from_secs(5), buffer: 8 << 10, drain: Duration::from_secs(2) };
/// How often the metrics are written anew in such a time. Whoever asks more often is told what was written last.
const METRICS_FRESH: u32 = 4;
const METRICS_AGE: Duration = Duration::from_millis(100);
/// Texts of metrics that are held while peers do not read them. With so many, whoever asks is told what was written last.
const METRICS_TEXTS: usize = 16;
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
        .route("/metrics", get(move |State(state): State<OpsState>| async move { metrics(&state, &latest) }))
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

/// The metrics as they were last written.
struct Latest {
    since: Instant,
    /// How often they were written since then.
    fresh: u32,
    text: Bytes,
    /// One for each text that is still held.
    held: Arc<()>,
}

impl Latest {
    fn new(since: Instant) -> Self {
        Self { since, fresh: 0, text: Bytes::new(), held: Arc::default() }
    }
}

/// Held by everybody who has yet to read it.
struct Text {
    text: String,
    _held: Arc<()>,
}

impl AsRef<[u8]> for Text {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

/// Written anew for whoever asks, but not for each of a crowd.
fn metrics(state: &OpsState, latest: &Mutex<Latest>) -> Response {
    let mut latest = latest.lock().unwrap_or_else(PoisonError::into_inner);
    if latest.since.elapsed() >= METRICS_AGE {
        (latest.since, latest.fresh) = (Instant::now(), 0);
    }
    if latest.fresh < METRICS_FRESH && Arc::strong_count(&latest.held) <= METRICS_TEXTS {
        latest.text = match state.telemetry.render(&state.resolver) {
            Ok(text) => Bytes::from_owner(Text { text, _held: Arc::clone(&latest.held) }),
            Err(error) => {
                tracing::error!(%error, "the metrics could not be written");
                return StatusCode::INTERNAL_SERVER_ERROR.into_response();
            }
        };
        latest.fresh += 1;
    }
    let kind = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (Extension(Shared), kind, latest.text.clone()).into_response()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;
    use tokio::task::JoinSet;

    use super::*;
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
        let latest = Mutex::new(Latest::new(since));
        for _ in 0..METRICS_FRESH {
            latest.lock().unwrap().text = Bytes::from_static(b"before");
            metrics(&state, &latest);
            assert_ne!(latest.lock().unwrap().text, "before");
        }
        latest.lock().unwrap().text = Bytes::from_static(b"before");
        metrics(&state, &latest);
        assert_eq!(latest.lock().unwrap().text, "before");
        latest.lock().unwrap().since = Instant::now().checked_sub(METRICS_AGE).unwrap();
        metrics(&state, &latest);
        assert_ne!(latest.lock().unwrap().text, "before");
    }

    #[tokio::test]
    async fn texts_that_nobody_reads_are_few() {
        let fixture = Fixture::new().await;
        let (_drain, draining) = watch::channel(false);
        let state =
            OpsState { telemetry: fixture.telemetry, resolver: fixture.resolver, store: fixture.store, draining };
        let latest = Mutex::new(Latest::new(Instant::now()));
        let unread: Vec<Bytes> = (0..MANY)
            .map(|_| {
                latest.lock().unwrap().fresh = 0;
                metrics(&state, &latest);
                latest.lock().unwrap().text.clone()
            })
            .collect();
        let texts: std::collections::HashSet<_> = unread.iter().map(|text| text.as_ptr()).collect();
        assert_eq!(texts.len(), METRICS_TEXTS);
        drop(unread);
        let last = latest.lock().unwrap().text.as_ptr();
        metrics(&state, &latest);
        assert_ne!(latest.lock().unwrap().text.as_ptr(), last);
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
