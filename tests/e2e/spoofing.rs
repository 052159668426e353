//! What a client must not be able to tell the back end: thousands of ways to say it, on guarded and public routes, over
//! both protocols. Judges by what the back end saw alone.

use super::cases::headers;
use super::client::{Http2, Sent, http1};
use super::harness::{H2_BACKEND, Key, Setup, Stack};

/// Names under the reserved prefix, those in use and others.
const IDENTITY: [&str; 12] = [
    "x-tollgate-subject",
    "x-tollgate-user-id",
    "x-tollgate-project",
    "x-tollgate-workload",
    "x-tollgate-key-id",
    "x-tollgate-plane",
    "x-tollgate-permissions",
    "x-tollgate-request-id",
    "x-tollgate-model",
    "x-tollgate-auth-context",
    "x-tollgate-assertion",
    "x-tollgate-a.b_c",
];

const OVERRIDES: [&str; 5] =
    ["x-http-method-override", "x-http-method", "x-method-override", "x-original-url", "x-rewrite-url"];

/// Stands in every value that must not arrive.
const EVIL: &str = "evil";

/// A route that lets the request through, and the identity headers that its back end must find, without their prefix.
#[derive(Clone, Copy)]
pub struct Way {
    pub method: &'static str,
    pub target: &'static str,
    /// None: the route is public.
    pub identity: &'static [&'static str],
}

impl Way {
    fn is_public(&self) -> bool {
        self.identity.is_empty()
    }
}

const OF_A_KEY: &[&str] = &["key-id", "permissions", "plane", "project", "subject"];
const WAYS: [Way; 3] = [
    Way { method: "GET", target: "/healthz", identity: &[] },
    Way { method: "POST", target: "/v1/chat/completions", identity: OF_A_KEY },
    Way {
        method: "POST",
        target: "/endpoint/acme/chat/run",
        identity: &["key-id", "permissions", "plane", "project", "subject", "workload"],
    },
];
const GRPC: Way = Way { method: "POST", target: "/inference.GRPCInferenceService/ModelInfer", identity: OF_A_KEY };

/// Whose credential is sent along, and whom the back end must see.
pub struct Caller {
    pub bearer: String,
    pub subject: String,
}

impl Caller {
    fn of(key: &Key) -> Self {
        Self { bearer: key.text.clone(), subject: format!("key:{}", key.id) }
    }
}

#[derive(Default)]
pub struct Tally {
    tried: usize,
    reached: usize,
    survived: Vec<String>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_a_client_says_about_itself_survives() {
    let mut tally = Tally::default();
    let over_h1 = Stack::start().await;
    let caller = Caller::of(&over_h1.data_key());
    for (sent, way) in http1_variants(&WAYS, &spellings) {
        tally.http1(&over_h1, &caller, sent, way).await;
    }
    drop(over_h1);

    let over_h2 = Stack::start_with(Setup { envoy_edits: vec![H2_BACKEND], ..Setup::default() }).await;
    let caller = Caller::of(&over_h2.data_key());
    let mut connection = Http2::connect(over_h2.envoy).await;
    for (sent, way) in http2_variants(&[&WAYS[..], &[GRPC]].concat(), &plain) {
        tally.http2(&over_h2, &mut connection, &caller, sent, way).await;
    }
    tally.judge("as it is shipped", 1000);
}

/// Some back ends make the same of every character that is no letter or digit: PHP of a dot, Apache's CGI of all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_survives_with_another_separator() {
    let stack = Stack::start_with(Setup { envoy_edits: vec![H2_BACKEND], ..Setup::default() }).await;
    let caller = Caller::of(&stack.data_key());
    let mut connection = Http2::connect(stack.envoy).await;
    let mut tally = Tally::default();
    for way in WAYS {
        for name in names(way).into_iter().flat_map(separated) {
            let sent = Sent::new(way.method, way.target).header(&name, EVIL);
            tally.http1(&stack, &caller, sent.clone(), way).await;
            tally.http2(&stack, &mut connection, &caller, sent, way).await;
        }
    }
    tally.judge("with another separator", 1000);
}

/// Tollgate's own defence, where an operator lets Envoy accept underscores.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_survives_where_envoy_accepts_underscores() {
    const ACCEPT: (&str, &str) =
        ("headers_with_underscores_action: REJECT_REQUEST", "headers_with_underscores_action: ALLOW");
    let mut tally = Tally::default();
    let stack = Stack::start_with(Setup { envoy_edits: vec![H2_BACKEND, ACCEPT], ..Setup::default() }).await;
    let caller = Caller::of(&stack.data_key());
    for (sent, way) in http1_variants(&WAYS, &underscored) {
        tally.http1(&stack, &caller, sent, way).await;
    }
    let mut connection = Http2::connect(stack.envoy).await;
    for (sent, way) in http2_variants(&[&WAYS[..], &[GRPC]].concat(), &underscored) {
        tally.http2(&stack, &mut connection, &caller, sent, way).await;
    }
    tally.judge("with underscores accepted", 1000);
}

/// Envoy takes orders by these names from clients that it takes for its own, and back ends take them for Envoy's word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_header_of_envoy_is_believed_from_a_client() {
    let stack = Stack::start().await;
    for name in ["external-address", "original-path", "internal", "upstream-rq-timeout-ms", "retry-on", "max-retries"] {
        let sent = Sent::new("GET", "/healthz").header(&format!("x-envoy-{name}"), EVIL);
        assert_eq!(stack.send(&sent).await.status, 200, "{name}");
        let mut found = headers(&stack.take_seen()[0]);
        found.retain(|header, _| header.starts_with("x-envoy-"));
        let truth = std::collections::BTreeMap::from([("x-envoy-external-address".to_owned(), "127.0.0.1".to_owned())]);
        assert_eq!(found, truth, "{name}");
    }
}

impl Tally {
    pub async fn http1(&mut self, stack: &Stack, caller: &Caller, sent: Sent, way: Way) {
        let sent = if way.is_public() { sent } else { sent.bearer(&caller.bearer) };
        let status = http1(stack.envoy, &sent).await.status;
        self.note(stack, caller, &sent, way, status);
    }

    pub async fn http2(&mut self, stack: &Stack, connection: &mut Http2, caller: &Caller, sent: Sent, way: Way) {
        let sent = if way.is_public() { sent } else { sent.bearer(&caller.bearer) };
        let reply = match connection.send(&sent).await {
            Ok(reply) => reply,
            // Envoy ended the stream or the connection: nothing of it may have arrived either.
            Err(_) => {
                *connection = Http2::connect(stack.envoy).await;
                super::client::Reply::default()
            }
        };
        self.note(stack, caller, &sent, way, reply.status);
    }

    fn note(&mut self, stack: &Stack, caller: &Caller, sent: &Sent, way: Way, status: u16) {
        self.tried += 1;
        let seen = stack.take_seen();
        assert!(seen.len() <= 1, "one request arrived as {}", seen.len());
        let Some(seen) = seen.first() else {
            assert!(!(200..300).contains(&status), "{status} without the back end");
            return;
        };
        self.reached += 1;
        let mut problems = Vec::new();
        if seen.method != way.method || seen.target != way.target {
            problems.push(format!("arrived as {} {}", seen.method, seen.target));
        }
        let lines = seen.headers.iter().chain(&seen.trailers);
        problems.extend(lines.filter(|(_, value)| value.contains(EVIL)).map(|(name, _)| format!("{name} survived")));
        if !seen.trailers.is_empty() {
            problems.push("trailers arrived".to_owned());
        }
        let found = headers(seen);
        let identity = |name: &&String| folded(name).starts_with("x-tollgate-") && !name.ends_with("request-id");
        let mut names: Vec<&str> = found.keys().filter(identity).map(String::as_str).collect();
        names.sort_unstable();
        let expected: Vec<String> = way.identity.iter().map(|name| format!("x-tollgate-{name}")).collect();
        if names != expected {
            problems.push(format!("identity headers {names:?}"));
        }
        if !way.is_public() && found.get("x-tollgate-subject") != Some(&caller.subject) {
            problems.push("another subject".to_owned());
        }
        if !problems.is_empty() {
            self.survived.push(format!("{:?} {:?}: {problems:?}", sent.headers, sent.trailers));
        }
    }

    /// Fails if anything survived, or if fewer than `least` were tried.
    pub fn judge(&self, how: &str, least: usize) {
        println!(
            "spoofing {how}: {} tried, {} reached the back end, {} survived",
            self.tried,
            self.reached,
            self.survived.len()
        );
        assert!(self.tried >= least, "{} variants", self.tried);
        assert!(self.reached * 2 >= self.tried, "most must be let through, so that there is something to survive");
        assert!(self.survived.is_empty(), "{:#?}", &self.survived[..self.survived.len().min(10)]);
    }
}

type Spellings<'a> = &'a dyn Fn(&str) -> Vec<String>;

pub fn plain(name: &str) -> Vec<String> {
    vec![name.to_owned()]
}

/// A name in several cases, and with underscores for dashes.
pub fn spellings(name: &str) -> Vec<String> {
    let mixed = name.chars().enumerate();
    let mixed = mixed.map(|(at, c)| if at % 2 == 0 { c.to_ascii_uppercase() } else { c }).collect();
    let title = name.split('-').map(|part| part[..1].to_uppercase() + &part[1..]).collect::<Vec<_>>().join("-");
    vec![name.to_owned(), name.to_uppercase(), title, mixed, name.replace('-', "_")]
}

/// A name with each character that may stand for a dash (Envoy itself refuses the underscore).
fn separated(name: &str) -> Vec<String> {
    let last = name.rfind('-').unwrap();
    let spelled = |with: char| {
        let with = with.to_string();
        [
            name.replace('-', &with),
            name.replacen('-', &with, 1),
            format!("{}{with}{}", &name[..last], &name[last + 1..]),
        ]
    };
    ".!#$%&'*+^`|~".chars().flat_map(spelled).collect()
}

/// What a back end takes the name for that folds separators.
fn folded(name: &str) -> String {
    name.replace(|c: char| !c.is_ascii_alphanumeric(), "-")
}

fn underscored(name: &str) -> Vec<String> {
    let last = name.rfind('-').unwrap();
    vec![name.replace('-', "_"), name.replacen('-', "_", 1), format!("{}_{}", &name[..last], &name[last + 1..])]
}

fn names(way: Way) -> Vec<&'static str> {
    // A second credential is an error where credentials are read, and must be removed where they are not.
    let credentials: &[&str] = if way.is_public() { &["x-api-key"] } else { &[] };
    IDENTITY.iter().chain(&OVERRIDES).chain(credentials).copied().collect()
}

/// Every name in every spelling and place, for each way.
pub fn http1_variants(ways: &[Way], spelled: Spellings<'_>) -> Vec<(Sent, Way)> {
    let mut all = Vec::new();
    for &way in ways {
        for name in names(way) {
            for name in spelled(name) {
                let plain = || Sent::new(way.method, way.target);
                let both = format!("{EVIL}-2, {EVIL}-3");
                let chunked = format!("2\r\n{{}}\r\n0\r\n{name}: {EVIL}\r\n\r\n");
                all.extend([
                    (plain().header(&name, EVIL), way),
                    (plain().header(&name, EVIL).header(&name, &format!("{EVIL}-2")), way),
                    (plain().header(&name, EVIL).header(&name.to_uppercase(), &both), way),
                    (plain().header(&name, "").header(&name, EVIL), way),
                    (plain().header("connection", &name).header(&name, EVIL), way),
                    (
                        plain()
                            .header(&name, EVIL)
                            .header("connection", &format!("keep-alive, {}", name.to_uppercase())),
                        way,
                    ),
                    (plain().header("transfer-encoding", "chunked").header("trailer", &name).body(chunked), way),
                ]);
            }
        }
        // Naming a header that Tollgate sets must not make Envoy drop it.
        for name in IDENTITY {
            all.push((Sent::new(way.method, way.target).header("connection", name), way));
        }
    }
    all
}

pub fn http2_variants(ways: &[Way], spelled: Spellings<'_>) -> Vec<(Sent, Way)> {
    let mut all = Vec::new();
    for &way in ways {
        for name in names(way) {
            for name in spelled(name) {
                let plain = || match way.target {
                    target if target == GRPC.target => Sent::grpc(target, b"\x0a\x01m"),
                    target => Sent::new(way.method, target).body("{}"),
                };
                all.extend([
                    (plain().header(&name, EVIL), way),
                    (plain().header(&name, EVIL).header(&name, &format!("{EVIL}-2")), way),
                    (plain().trailer(&name, EVIL), way),
                    (plain().trailer(&name, EVIL).trailer(&name, &format!("{EVIL}-2")).trailer("x-other", EVIL), way),
                    (plain().header(&name, EVIL).trailer(&name, EVIL), way),
                    (Sent { body: Vec::new(), ..plain() }.trailer(&name, EVIL), way),
                ]);
            }
        }
    }
    all
}
