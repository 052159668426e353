//! Other spellings of guarded requests where broad routes stand beside the guarded ones, so that a slip falls into a route
//! instead of a refusal: by the thousand, through real Envoy, to back ends that read paths carelessly. Whoever lacks the
//! right must reach no guarded handler, however the request is written, and legal requests must all pass.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::client::{Http1, Reply};
use super::harness::{Edit, Setup, Stack, shipped};
use super::router::{Handler, Reading, handler};

/// Mutants for each of the four pairs of Envoy and back end.
const MUTANTS: usize = 1400;
const LEGAL: usize = 150;
/// Requests under way at once.
const CONNECTIONS: usize = 8;

/// A public corner, guarded routes, and beside them the broad routes that a slip would fall into: public for some methods,
/// open to every data key for the others.
const HOSTS: &str = r#"
hosts:
  - match: [localhost, api.example.com, "*.example.net"]
    routes:
      - {name: public, match: ["GET /public/{rest*}"], public: true}
      - {name: admin, match: [GET /admin, POST /admin], plane: admin, all_of: [manage_keys], in: {project: key}}
      - {name: models, match: [GET /v1/models], plane: data, all_of: [read_models], in: {project: key}}
      - {name: chat, match: [POST /v1/chat/completions], plane: data, all_of: [run_inference], in: {project: key}}
      - {name: infer, match: ["POST /endpoint/{project}/{workload}/{rest*}"], plane: data, all_of: [run_inference],
         in: {project: "{project}", workload: "{workload}"}}
      - {name: list, match: ["GET /api/projects/{pid}/workloads"], plane: control, all_of: [read_workloads],
         in: {project: "{pid}"}}
      - {name: create, match: ["POST /api/projects/{pid}/workloads"], plane: control, all_of: [create_workloads],
         in: {project: "{pid}"}}
      - {name: read, match: ["GET /api/workloads/{id}"], plane: control, all_of: [read_workloads],
         in: {resource: "workload:{id}"}}
      - {name: update, match: ["PATCH /api/workloads/{id}"], plane: control, all_of: [update_workloads],
         in: {resource: "workload:{id}"}}
      - {name: delete, match: ["DELETE /api/workloads/{id}"], plane: control, all_of: [delete_workloads],
         in: {resource: "workload:{id}"}}
      - {name: broad, match: ["GET /{rest*}", "OPTIONS /{rest*}", "DELETE /{rest*}", "TRACE /{rest*}"], public: true}
      - {name: broad_data, match: ["POST /{rest*}", "PUT /{rest*}", "PATCH /{rest*}"], plane: data,
         any_of: [read_models, run_inference], in: {project: key}}
  - match: [open.example.com]
    routes:
      - {name: open, match: ["GET /public/{rest*}"], public: true}
"#;

const ENVOY_AS_IT_COMES: [Edit; 3] = [
    ("normalize_path: true", "normalize_path: false"),
    ("merge_slashes: true", "merge_slashes: false"),
    ("path_with_escaped_slashes_action: REJECT_REQUEST", "path_with_escaped_slashes_action: KEEP_UNCHANGED"),
];

/// A guarded request, and who may be tried on it.
struct Target {
    method: &'static str,
    path: &'static str,
    plane: &'static str,
}

const TARGETS: [Target; 9] = [
    Target { method: "GET", path: "/admin", plane: "admin" },
    Target { method: "GET", path: "/v1/models", plane: "data" },
    Target { method: "POST", path: "/v1/chat/completions", plane: "data" },
    Target { method: "POST", path: "/endpoint/acme/llama/generate", plane: "data" },
    Target { method: "GET", path: "/api/projects/acme/workloads", plane: "control" },
    Target { method: "POST", path: "/api/projects/acme/workloads", plane: "control" },
    Target { method: "GET", path: "/api/workloads/w-1", plane: "control" },
    Target { method: "PATCH", path: "/api/workloads/w-1", plane: "control" },
    Target { method: "DELETE", path: "/api/workloads/w-1", plane: "control" },
];

/// A caller, and what it may reach: as `reached` names it.
struct Caller {
    name: &'static str,
    plane: &'static str,
    key: Option<String>,
    may: &'static [&'static str],
}

#[derive(Default)]
struct Tally {
    tried: usize,
    answered: usize,
    at_back_end: usize,
    reached: BTreeSet<String>,
    legal: usize,
    refused: Vec<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_other_spelling_reaches_a_guarded_handler() {
    let mut all = Tally::default();
    let mut mutants = BTreeSet::new();
    let shipped = std::fs::read_to_string(shipped().join("tollgate.yaml")).unwrap();
    let (from, to) = (shipped.find("\nhosts:").unwrap(), shipped.find("\nlog:").unwrap());
    // An edit is made of literals; this one lasts as long as the test's process.
    let hosts: &'static str = String::leak(shipped[from..to].to_owned());
    for (round, (reading, normalise)) in
        [Reading::Decoding, Reading::Cleaning].into_iter().flat_map(|r| [(r, true), (r, false)]).enumerate()
    {
        let stack = Stack::start_with(Setup {
            envoy_edits: if normalise { Vec::new() } else { ENVOY_AS_IT_COMES.to_vec() },
            tollgate_edits: vec![(hosts, HOSTS)],
            reading,
            record: false,
            ..Setup::default()
        })
        .await;
        stack.put_resource("w-1", "acme", "llama");
        let callers = Arc::new(callers(&stack));
        let mut random = Random(0x9e37_79b9_7f4a_7c15 ^ ((round as u64 + 1) << 32));
        let mut work = Vec::new();
        for at in 0..MUTANTS {
            let target = &TARGETS[at % TARGETS.len()];
            let bytes = mutant(target, &mut random, at / TARGETS.len());
            mutants.insert(bytes.head.clone());
            for (who, caller) in callers.iter().enumerate() {
                if caller.plane == target.plane || caller.key.is_none() || at % 3 == 0 {
                    work.push(Job { request: bytes.with_key(caller.key.as_deref()), who, legal: None });
                }
            }
        }
        for at in 0..LEGAL {
            let (request, who, handler) = legal(&callers, &mut random, at);
            work.push(Job { request, who, legal: Some(handler) });
        }
        run(&stack, reading, &callers, work, &mut all).await;
    }
    println!(
        "paths beside broad routes: {} tried, {} reached ({} mutants, {} answered, {} at an open handler of the back end, {} legal)",
        all.tried,
        all.reached.len(),
        mutants.len(),
        all.answered,
        all.at_back_end,
        all.legal
    );
    assert!(all.reached.is_empty(), "{:#?}", all.reached);
    assert!(all.refused.is_empty(), "legal requests that did not pass: {:#?}", all.refused);
    assert!(mutants.len() >= 5000 && all.legal >= 500, "{} mutants, {} legal", mutants.len(), all.legal);
    // Refusing everything would be no proof: what Tollgate takes for unguarded must come through.
    assert!(all.at_back_end * 50 > all.tried, "{} of {} reached the back end", all.at_back_end, all.tried);
    assert!(all.answered * 10 > all.tried * 9, "{} of {} were answered", all.answered, all.tried);
}

fn callers(stack: &Stack) -> Vec<Caller> {
    let key = |plane: &str, project: &str, permissions: &str| {
        Some(stack.create_key(plane, project, "*", permissions, &[]).text)
    };
    let caller = |name, plane, key, may| Caller { name, plane, key, may };
    let control = "read_workloads,create_workloads,update_workloads,delete_workloads";
    vec![
        caller("nobody", "", None, &[]),
        caller("may read models", "data", key("data", "acme", "read_models"), &["models"]),
        caller("may infer", "data", key("data", "acme", "run_inference"), &["chat", "endpoint acme"]),
        caller(
            "of another project",
            "data",
            key("data", "other", "read_models,run_inference"),
            &["models", "chat", "endpoint other"],
        ),
        caller(
            "may read workloads",
            "control",
            key("control", "acme", "read_workloads"),
            &["GET workloads acme", "GET workload w-1"],
        ),
        caller(
            "may delete elsewhere",
            "control",
            key("control", "other", control),
            &["GET workloads other", "POST workloads other"],
        ),
    ]
}

/// What a back end that reads paths in this way served; `None`: nothing guarded, or it was not asked.
fn reached(reading: Reading, reply: &Reply) -> Option<String> {
    let answer = reply.json();
    let seen = &answer["seen"];
    let (method, path) = (seen["method"].as_str()?, seen["path"].as_str()?);
    let path = path.split('?').next().unwrap_or_default();
    let text = |field: &str| answer[field].as_str().unwrap_or_default().to_owned();
    match (answer["handler"].as_str(), answer["object"].as_str()) {
        (Some("endpoint"), _) => Some(format!("endpoint {}", text("project"))),
        (Some("workloads"), _) => Some(format!("{method} workloads {}", text("project"))),
        (Some("workload"), _) => Some(format!("{method} workload {}", text("id"))),
        (_, Some("list")) => Some("models".to_owned()),
        (_, Some("chat.completion")) => Some("chat".to_owned()),
        // The back end has no handler for `/admin`. Its router is asked what it makes of the segment instead.
        (Some("echo"), _) => {
            let wrapped = format!("/api/projects/{}/workloads", path.trim_start_matches('/'));
            let admin = Handler::Workloads { project: "admin".to_owned() };
            (handler(reading, "GET", &wrapped) == admin).then(|| "admin".to_owned())
        }
        _ => None,
    }
}

struct Job {
    request: Vec<u8>,
    who: usize,
    /// A request that must pass, and what it reaches.
    legal: Option<&'static str>,
}

async fn run(stack: &Stack, reading: Reading, callers: &Arc<Vec<Caller>>, work: Vec<Job>, all: &mut Tally) {
    let mut lanes: Vec<Vec<Job>> = (0..CONNECTIONS).map(|_| Vec::new()).collect();
    for (at, job) in work.into_iter().enumerate() {
        lanes[at % CONNECTIONS].push(job);
    }
    let mut running = tokio::task::JoinSet::new();
    for lane in lanes {
        let (envoy, callers) = (stack.envoy, Arc::clone(callers));
        running.spawn(async move {
            let (mut tally, mut connection) = (Tally::default(), None);
            for job in lane {
                let reply = exchange(envoy, &mut connection, &job.request).await;
                judge(&mut tally, reading, &callers[job.who], &job, reply.as_ref());
            }
            tally
        });
    }
    while let Some(lane) = running.join_next().await {
        let lane = lane.unwrap();
        all.tried += lane.tried;
        all.answered += lane.answered;
        all.at_back_end += lane.at_back_end;
        all.legal += lane.legal;
        all.reached.extend(lane.reached);
        all.refused.extend(lane.refused);
    }
}

fn judge(tally: &mut Tally, reading: Reading, caller: &Caller, job: &Job, reply: Option<&Reply>) {
    let reached = reply.and_then(|reply| reached(reading, reply));
    let text = job.request.escape_ascii();
    if let Some(expected) = job.legal {
        tally.legal += 1;
        let passed = reply.is_some_and(|reply| matches!(reply.status, 200 | 201) && !reply.json()["seen"].is_null());
        if !passed || reached.as_deref().unwrap_or("open") != expected {
            let reply = reply.map(|reply| (reply.status, reply.text()));
            tally.refused.push(format!("{}: {reached:?}, {reply:?}: {text}", caller.name));
        }
        return;
    }
    tally.tried += 1;
    tally.answered += usize::from(reply.is_some());
    match reached {
        Some(handler) if !caller.may.contains(&&*handler) => {
            tally.reached.insert(format!("{} reached {handler} ({reading:?}): {text}", caller.name));
        }
        Some(_) => {}
        None => tally.at_back_end += usize::from(reply.is_some_and(|reply| !reply.json()["seen"].is_null())),
    }
}

/// One exchange on a connection that is kept as long as Envoy keeps it.
async fn exchange(envoy: std::net::SocketAddr, kept: &mut Option<Http1>, request: &[u8]) -> Option<Reply> {
    for _ in 0..2 {
        let reused = kept.is_some();
        let mut connection = match kept.take() {
            Some(connection) => connection,
            None => Http1::connect(envoy).await.ok()?,
        };
        let answer = async {
            connection.write(request).await?;
            connection.read(false).await
        };
        match tokio::time::timeout(Duration::from_secs(5), answer).await {
            Ok(Ok(reply)) => {
                // After a refusal of the request as such, nobody knows where the next one begins.
                if reply.status != 400 && reply.header("connection").is_none_or(|said| said != "close") {
                    *kept = Some(connection);
                }
                return Some(reply);
            }
            Ok(Err(_)) if reused => {}
            _ => return None,
        }
    }
    None
}

/// A request that is not yet anybody's.
struct Mutant {
    head: Vec<u8>,
}

impl Mutant {
    fn with_key(&self, key: Option<&str>) -> Vec<u8> {
        let mut request = self.head.clone();
        if let Some(key) = key {
            request.extend_from_slice(format!("authorization: Bearer {key}\r\n").as_bytes());
        }
        request.extend_from_slice(b"content-length: 2\r\n\r\n{}");
        request
    }
}

/// What may stand between two segments, or at the end.
#[rustfmt::skip]
const BETWEEN: [&[u8]; 47] = [
    b"/", b"//", b"///", b"/./", b"/../", b"/x/../", b"/%2e/", b"/%2E%2e/", b"/x/%2e%2e/", b"/x/.%2e/", b"/%252e/",
    b"\\", b"/\\", b"\\..\\", b"%2f", b"%2F", b"%5c", b"%5C", b"/%2f", b"%252f", b"%255c", b"%c0%af", b"%e0%80%af",
    b"%f0%80%80%af", b"\xc0\xaf", b"%ef%bc%8f", b"%u002f", b"/;/", b"/;x=1/", b";x=1/", b";/", b"/.;/", b"/x/..;/",
    b"/x/..;a=b/", b"%3b/", b"/%20/", b"%20/", b"/%20", b"./", b"../", b".%20/", b"/%00/", b"/%09", b"/\x01", b"/\t",
    b"/%c2%85", b"/%e2%80%8b",
];

#[rustfmt::skip]
const ENDS: [&[u8]; 46] = [
    b"/", b"//", b"/.", b"/..", b"/./", b"/x/..", b"/%2e", b"/x/%2e%2e", b".", b"..", b"...", b"%2e", b"%2E", b"%20",
    b"%20.", b".%20", b"+", b"%2b", b";", b";x", b";.css", b"%3b", b"%3bx", b"?", b"?x=/../", b"?/../public/", b"#",
    b"#/public", b"%23", b"%3f", b"%00", b"%00.css", b"\x00", b"\x01", b"\x7f", b"\t", b"%09", b"%0a", b"%0d%0a",
    b"%7f", b"\\", b"%5c", b"%2f", b"%c2%a0", b"%c2%85", b"/%20",
];

#[rustfmt::skip]
const STARTS: [&[u8]; 40] = [
    b"/public/..", b"/public/../..", b"/public/x/../..", b"/public/%2e%2e", b"/public/.%2e", b"/public/%252e%252e",
    b"/public%2f..", b"/public/..%2f", b"/public\\..", b"/public/..\\", b"/public/..;", b"/public/..;x=1",
    b"/public/;/..", b"/public/..%00", b"/public/%2e%2e%2f", b"/public/..%5c", b"/public//..", b"/.", b"/..", b"/%2e",
    b"/%2e%2e", b"/;", b"/;x=1", b"/", b"//", b"/\\", b"\\", b"/%2f", b"/%5c", b"/%00", b"http://localhost",
    b"HTTP://LOCALHOST", b"http://localhost/public/..", b"http://open.example.com", b"http://nobody@localhost",
    b"https://localhost:443", b"http://localhost:0", b"//localhost", b"*", b"/%20",
];

#[rustfmt::skip]
const HOST_LINES: [&[u8]; 25] = [
    b"host: localhost.\r\n", b"host: LOCALHOST\r\n", b"host: localhost:10000\r\n", b"host: localhost:\r\n",
    b"host: localhost:99999\r\n", b"host: user@localhost\r\n", b"host: localhost@open.example.com\r\n",
    b"host: open.example.com@localhost\r\n", b"host: localhost,open.example.com\r\n",
    b"host: open.example.com,localhost\r\n", b"host: \r\n", b"", b"host: open.example.com\r\nhost: localhost\r\n",
    b"host: localhost\r\nhost: localhost\r\n", b"host: open.example.com\r\n", b"host: open.example.com.\r\n",
    b"host: a.example.net\r\n", b"host: .example.net\r\n", b"host: a..example.net\r\n", b"host: [::1]\r\n",
    b"host: localhost/public\r\n", b"host: localhost?x\r\n", b"host: localhost\\x\r\n", b"host: local\xc3\xa9\r\n",
    b"host:\tApi.Example.Com\r\n",
];

#[rustfmt::skip]
const METHODS: [&str; 18] = [
    "GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "get", "post", "Get", "PROPFIND",
    "GET,POST", "PRI", "PURGE", "LINK", "QUERY", "delete",
];

#[rustfmt::skip]
const OVERRIDES: [&str; 10] = [
    "X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-URL", "X-Rewrite-URL",
    "x-forwarded-uri", "x-forwarded-prefix", "x-envoy-original-path", "x-forwarded-host", "x_original_url",
];

/// A spelling of the target: each kind of change by itself at first, then several at once.
fn mutant(target: &Target, random: &mut Random, round: usize) -> Mutant {
    let changes = if round < 30 { 1 } else { 1 + random.below(3) };
    let mut path = target.path.as_bytes().to_vec();
    let mut method = target.method;
    let mut host: &[u8] = b"host: localhost\r\n";
    let mut extra = String::new();
    for _ in 0..changes {
        match random.below(20) {
            0..=3 => {
                let slashes: Vec<usize> = (1..path.len()).filter(|at| path[*at] == b'/').collect();
                let at = if slashes.is_empty() { 0 } else { slashes[random.below(slashes.len())] };
                let end = (at + 1).min(path.len());
                path.splice(at..end, random.pick(&BETWEEN).iter().copied());
            }
            4..=6 => path.extend_from_slice(random.pick(&ENDS)),
            7..=9 => drop(path.splice(0..0, random.pick(&STARTS).iter().copied())),
            10..=15 => letter(&mut path, random),
            16 => host = random.pick(&HOST_LINES),
            17 => method = random.pick(&METHODS),
            18 => {
                let value = if random.below(2) == 0 { target.method } else { target.path };
                extra = format!("{}: {value}\r\n", random.pick(&OVERRIDES));
                // What a careless back end would turn back into the guarded request.
                if random.below(2) == 0 {
                    (path, method) = (b"/public/x".to_vec(), "GET");
                }
            }
            _ => path.make_ascii_uppercase(),
        }
    }
    // A query of its own makes every mutant another one, unless a query or fragment is what was tried.
    if !path.contains(&b'?') && !path.contains(&b'#') {
        path.extend_from_slice(format!("?n={}", random.below(1 << 40)).as_bytes());
    }
    let head = [method.as_bytes(), b" ", &path, b" HTTP/1.1\r\n", host, extra.as_bytes()].concat();
    Mutant { head }
}

/// Writes one letter of the path in another way.
fn letter(path: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(path.len());
    let byte = path[at];
    // Letters that some back ends fold into ASCII ones when they ignore case.
    let alike: Vec<usize> = (0..path.len()).filter(|at| matches!(path[*at], b'k' | b's' | b'i')).collect();
    let (at, new) = match random.below(11) {
        0 => (at, format!("%{byte:02x}").into_bytes()),
        1 => (at, format!("%{byte:02X}").into_bytes()),
        2 => (at, format!("%25{byte:02x}").into_bytes()),
        3 | 4 => (at, vec![byte.to_ascii_uppercase()]),
        5 => (at, format!("%{:02x}%{:02x}", 0xc0 | byte >> 6, 0x80 | byte & 0x3f).into_bytes()),
        6 => (at, vec![byte, 1 + u8::try_from(random.below(8)).unwrap()]),
        7 => (at, vec![byte | 0x80]),
        8 => (at, format!("%u00{byte:02x}").into_bytes()),
        _ if alike.is_empty() => (at, [&[byte][..], b"%00"].concat()),
        _ => {
            let at = alike[random.below(alike.len())];
            let new: &[u8] = match path[at] {
                b'k' => b"%E2%84%AA",
                b's' => b"%C5%BF",
                _ => b"%C4%B0",
            };
            (at, new.to_vec())
        }
    };
    path.splice(at..=at, new);
}

/// A request that is written as it should be, by somebody who may send it.
fn legal(callers: &[Caller], random: &mut Random, at: usize) -> (Vec<u8>, usize, &'static str) {
    let mut word = || {
        let parts =
            ["a", "B7", "x-y", "_", "~z", "%20", "%C3%A9", "%e2%82%ac", ":go", "@v1", "a.b", "1,2", "k=v", "!$&'()*+"];
        let mut word = String::from("w");
        for _ in 0..1 + random.below(4) {
            word.push_str(random.pick(&parts));
        }
        word
    };
    let (who, method, path, handler) = match at % 7 {
        0 => ("nobody", "GET", format!("/public/{}/{}", word(), word()), "open"),
        1 => ("nobody", "GET", format!("/{}/{}?{}=/../x;y", word(), word(), word()), "open"),
        2 => ("may infer", "POST", format!("/endpoint/acme/llama/{}/{}", word(), word()), "endpoint acme"),
        3 => ("may read models", "GET", format!("/v1/models?{}", word()), "models"),
        4 => ("may infer", "POST", format!("/v1/chat/completions?{}", word()), "chat"),
        5 => ("may read workloads", "GET", format!("/api/workloads/w-1?{}", word()), "GET workload w-1"),
        _ => ("may read models", "PUT", format!("/{}/v1/{}", word(), word()), "open"),
    };
    let who = callers.iter().position(|caller| caller.name == who).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\n").into_bytes();
    (Mutant { head }.with_key(callers[who].key.as_deref()), who, handler)
}

/// The same numbers in every run, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % end as u64).unwrap()
    }

    fn pick<'a, T: ?Sized>(&mut self, list: &[&'a T]) -> &'a T {
        list[self.below(list.len())]
    }
}
