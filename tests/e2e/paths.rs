//! Paths: whatever a client writes, nobody reaches a handler without the permission for it, behind back ends that decode
//! and that clean, with Envoy's normalisation on and off. And what is legal gets through.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::client::{Http1, Http2, Reply, Sent};
use super::harness::{Edit, Setup, Stack};
use super::mutants::{Dice, HOSTS, composed, legal, single};
use super::router::{Handler, Reading, handler};

/// Envoy as it comes, without the lines that make it read paths carefully.
const RAW: [Edit; 3] = [
    ("normalize_path: true", "normalize_path: false"),
    ("merge_slashes: true", "merge_slashes: false"),
    ("path_with_escaped_slashes_action: REJECT_REQUEST", "path_with_escaped_slashes_action: KEEP_UNCHANGED"),
];

/// Who asks. Each may do something, so that a mistake has something to lean on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Caller {
    Nobody,
    /// Data key of all of acme.
    Data,
    /// Data key of acme/chat.
    OneWorkload,
    /// Control key of acme.
    Control,
}

/// Something protected: method, path, and who is sent there without the permission.
const TARGETS: [(&str, &str, &[Caller]); 7] = [
    ("POST", "/v1/chat/completions", &[Caller::Nobody, Caller::Control]),
    ("POST", "/endpoint/beta/llama/run", &[Caller::Nobody, Caller::Data]),
    ("POST", "/endpoint/acme/embed/run", &[Caller::OneWorkload, Caller::Control]),
    ("POST", "/api/projects/beta/workloads", &[Caller::Control, Caller::Nobody]),
    ("POST", "/api/projects/acme/workloads", &[Caller::Data, Caller::OneWorkload]),
    ("PATCH", "/api/workloads/w-beta", &[Caller::Control]),
    ("DELETE", "/api/workloads/w-chat", &[Caller::Data]),
];

/// What a caller may reach, to begin a detour from.
fn bases(caller: Caller) -> &'static [&'static str] {
    match caller {
        Caller::Nobody => &["/healthz"],
        Caller::Data | Caller::OneWorkload => &["/endpoint/acme/chat/run", "/healthz"],
        Caller::Control => &["/api/projects/acme/workloads", "/api/workloads/w-chat"],
    }
}

fn may_reach(caller: Caller, handler: &Handler) -> bool {
    let inference = matches!(caller, Caller::Data | Caller::OneWorkload);
    match handler {
        Handler::Health | Handler::Other => true,
        Handler::Models | Handler::Chat | Handler::ModelInfer => inference,
        Handler::Endpoint { project, workload } => {
            inference && project == "acme" && (caller == Caller::Data || workload == "chat")
        }
        Handler::Workloads { project } => caller == Caller::Control && project == "acme",
        Handler::Workload { id } => caller == Caller::Control && (id == "w-chat" || id == "w-embed"),
    }
}

/// A mutant, ready to be sent.
#[derive(Clone)]
struct Shot {
    caller: Caller,
    method: &'static str,
    target: String,
    host: Option<&'static str>,
}

fn shots(seed: u64, count: usize) -> Vec<Shot> {
    let mut dice = Dice(seed);
    let mut all = Vec::new();
    for (method, path, callers) in TARGETS {
        for &caller in callers {
            let shot = |target, host| Shot { caller, method, target, host };
            all.extend(single(path, bases(caller)).into_iter().map(|mutant| shot(mutant, HOSTS[0])));
            all.extend(HOSTS.iter().map(|host| shot(path.to_owned(), *host)));
            for host in HOSTS.iter().flatten() {
                all.push(shot(format!("http://{host}{path}"), HOSTS[5]));
                all.push(shot(format!("HTTPS://{host}{path}"), HOSTS[0]));
            }
        }
    }
    // Every stack gets other ones; over all of them each single mutation is sent.
    let step = (all.len() / count).max(1);
    let offset = dice.below(step);
    let mut chosen: Vec<Shot> = all.into_iter().skip(offset).step_by(step).take(count / 2).collect();
    while chosen.len() < count {
        let (method, path, callers) = dice.pick(&TARGETS);
        let caller = *dice.pick(callers);
        let target = composed(&mut dice, path, bases(caller));
        let host = if dice.below(8) == 0 { *dice.pick(&HOSTS) } else { HOSTS[0] };
        chosen.push(Shot { caller, method, target, host });
    }
    chosen
}

#[derive(Default)]
struct Tally {
    tried: usize,
    statuses: BTreeMap<u16, usize>,
    reached: usize,
    breaches: Vec<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_mutant_reaches_a_handler_without_the_permission() {
    let each = if super::harness::is_full() { 25_000 } else { 2_000 };
    let mut all = 0;
    for (seed, (reading, edits)) in (1..).zip([
        (Reading::Decoding, vec![]),
        (Reading::Cleaning, vec![]),
        (Reading::Decoding, RAW.to_vec()),
        (Reading::Cleaning, RAW.to_vec()),
    ]) {
        let raw = !edits.is_empty();
        let setup = Setup { reading, envoy_edits: edits, record: false, ..Setup::default() };
        let stack = Stack::start_with(setup).await;
        let keys = Arc::new(callers(&stack));
        let list = shots(seed, each);
        let halves = list
            .chunks(list.len().div_ceil(2))
            .map(|half| tokio::spawn(fire(stack.envoy, reading, Arc::clone(&keys), half.to_vec())));
        let mut tally = Tally::default();
        for half in halves.collect::<Vec<_>>() {
            tally.add(half.await.unwrap());
        }
        println!(
            "paths, {reading:?} back end, normalisation {}: {} tried, {} reached the back end, {} without permission; {:?}",
            if raw { "off" } else { "on" },
            tally.tried,
            tally.reached,
            tally.breaches.len(),
            tally.statuses,
        );
        assert!(tally.breaches.is_empty(), "{:#?}", &tally.breaches[..tally.breaches.len().min(10)]);
        assert!(tally.reached > 0, "some mutants are harmless, and must get through");
        all += tally.tried;
    }
    assert!(all >= 5000, "{all} mutants");
}

fn callers(stack: &Stack) -> BTreeMap<Caller, String> {
    stack.put_resource("w-chat", "acme", "chat");
    stack.put_resource("w-embed", "acme", "embed");
    stack.put_resource("w-beta", "beta", "llama");
    let one = stack.create_key("data", "acme", "chat", "run_inference", &[]);
    BTreeMap::from([
        (Caller::Data, stack.data_key().text),
        (Caller::OneWorkload, one.text),
        (Caller::Control, stack.control_key().text),
    ])
}

/// Sends every shot: most on a connection that is used again, some behind a harmless request in one write, some over
/// HTTP/2.
async fn fire(envoy: SocketAddr, reading: Reading, keys: Arc<BTreeMap<Caller, String>>, list: Vec<Shot>) -> Tally {
    let mut tally = Tally::default();
    let mut connection = None;
    let mut h2 = Http2::connect(envoy).await;
    for (at, shot) in list.iter().enumerate() {
        let mut sent = Sent::new(shot.method, &shot.target);
        if let Some(key) = keys.get(&shot.caller) {
            sent = sent.bearer(key);
        }
        let as_h2 = at % 8 == 7 && format!("http://localhost{}", shot.target).parse::<http::Uri>().is_ok();
        let reply = if as_h2 && shot.target.starts_with('/') {
            match h2.send(&sent).await {
                Ok(reply) => Some(reply),
                Err(_) => {
                    h2 = Http2::connect(envoy).await;
                    None
                }
            }
        } else {
            let bytes = match shot.host {
                Some(host) => sent.header("host", host).http1(),
                None => without_host(&sent),
            };
            over_http1(envoy, &mut connection, &bytes, at % 5 == 4).await
        };
        tally.note(reading, shot, reply.as_ref());
    }
    tally
}

fn without_host(sent: &Sent) -> Vec<u8> {
    String::from_utf8(sent.http1()).unwrap().replacen("host: localhost\r\n", "", 1).into_bytes()
}

/// The answer, or nothing where Envoy closed the connection instead.
async fn over_http1(
    envoy: SocketAddr,
    connection: &mut Option<Http1>,
    bytes: &[u8],
    behind_another: bool,
) -> Option<Reply> {
    let mut open = match connection.take() {
        Some(open) => open,
        None => Http1::connect(envoy).await.unwrap(),
    };
    let harmless = Sent::new("GET", "/healthz").http1();
    let exchange = async {
        if behind_another {
            open.write(&[&harmless, bytes].concat()).await?;
            open.read(false).await?;
        } else {
            open.write(bytes).await?;
        }
        let reply = open.read(false).await?;
        std::io::Result::Ok((open, reply))
    };
    let (open, reply) = tokio::time::timeout(Duration::from_secs(10), exchange).await.expect("Envoy answers").ok()?;
    let stays = reply.header("connection").is_none_or(|value| value != "close");
    *connection = stays.then_some(open);
    Some(reply)
}

impl Tally {
    fn note(&mut self, reading: Reading, shot: &Shot, reply: Option<&Reply>) {
        self.tried += 1;
        let Some(reply) = reply else { return *self.statuses.entry(0).or_default() += 1 };
        *self.statuses.entry(reply.status).or_default() += 1;
        let answer = reply.json();
        let seen = &answer["seen"];
        let (Some(method), Some(target)) = (seen["method"].as_str(), seen["path"].as_str()) else {
            // Nothing but a back end answers with success here.
            if reply.status < 300 {
                self.breaches.push(format!("{:?} {:?}: {} from nowhere", shot.caller, shot.target, reply.status));
            }
            return;
        };
        self.reached += 1;
        let path = target.split('?').next().unwrap_or_default();
        let reached = handler(reading, method, path);
        if !may_reach(shot.caller, &reached) {
            self.breaches
                .push(format!("{:?} {:?} {:?} reached {reached:?} as {target}", shot.caller, shot.method, shot.target));
        }
    }

    fn add(&mut self, other: Self) {
        self.tried += other.tried;
        self.reached += other.reached;
        self.breaches.extend(other.breaches);
        for (status, count) in other.statuses {
            *self.statuses.entry(status).or_default() += count;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn legal_paths_get_through_as_they_are() {
    let stack = Stack::start().await;
    let key = stack.data_key();
    let mut dice = Dice(11);
    let mut connection = Http1::connect(stack.envoy).await.unwrap();
    let mut failed = Vec::new();
    for _ in 0..600 {
        let path = legal(&mut dice);
        let reply = connection.send(&Sent::new("POST", &path).bearer(&key.text)).await.unwrap();
        if reply.status != 200 || reply.json()["seen"]["path"] != *path {
            failed.push(format!("{path}: {} {}", reply.status, reply.text()));
        }
    }
    println!("600 legal paths, {} refused or changed", failed.len());
    assert!(failed.is_empty(), "{:#?}", &failed[..failed.len().min(10)]);
}
