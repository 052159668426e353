//! The table `envoy`: what a real Envoy makes of each kind of authorization. One Envoy process has a listener for each row,
//! so that the rows differ in nothing else. Envoy has a core for itself; load, back end and authorizers share the other.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::direct::null;
use crate::h2load::Run;
use crate::keys::{KEY_LENGTH, Keys};
use crate::load::{self, Order, Plan};
use crate::payload::{Form, HEADERS, HOST, PATH, Payload};
use crate::process::{self, LOAD_CORE, SERVER_CORE, Server, free_address, is_open};
use crate::report::{Row, Samples};
use crate::tollgate::Tollgate;
use crate::{Bench, Outcome};

const NAMES: [&str; 6] = ["no-auth", "api_key_auth", "jwt_authn", "tonic-null", "tonic-null-edits", "tollgate"];

pub const ROWS: [Row; 14] = [
    rate("envoy", "no-auth", "tonic-null"),
    rate("envoy", "api_key_auth", "tonic-null"),
    rate("envoy", "jwt_authn", "tonic-null"),
    rate("envoy", "tonic-null", "tonic-null"),
    Row { by_interval: true, ..rate("envoy", "tollgate", "tonic-null").bar(0.97) },
    // The second reference sends the header edits that Tollgate sends.
    rate("envoy-edits", "tonic-null-edits", "tonic-null-edits"),
    Row { by_interval: true, ..rate("envoy-edits", "tollgate", "tonic-null-edits").bar(0.97) },
    // Envoy's own processor time, which the noise of a shared machine moves less.
    cpu("no-auth"),
    cpu("api_key_auth"),
    cpu("jwt_authn"),
    cpu("tonic-null"),
    cpu("tonic-null-edits"),
    cpu("tollgate"),
    // The authorizer's.
    Row::new("envoy-authorizer", "tollgate", "us cpu", "tollgate"),
];

const fn rate(table: &'static str, name: &'static str, reference: &'static str) -> Row {
    Row::new(table, name, "req/s", reference).more_is_better()
}

const fn cpu(name: &'static str) -> Row {
    Row::new("envoy-cpu", name, "us cpu", "tonic-null")
}

const JWT_SECRET: &[u8] = b"a secret of the benchmark, and of nothing else";
const ISSUER: &str = "https://issuer.example.com";

pub fn measure(bench: &Bench, binary: &Path, keys: &Keys, samples: &mut Samples) -> Outcome<()> {
    let folder = &bench.folder;
    let tollgate = Tollgate::start(&bench.tollgate, folder, keys, LOAD_CORE, true)?;
    let answer = folder.join("answer");
    fs::write(&answer, sample(&tollgate, keys)?)?;
    let socket = |name: &str| format!("unix:{}", folder.join(name).display());
    let null_server = null(&bench.null, &socket("null.sock"), None, LOAD_CORE, folder)?;
    let edits_server = null(&bench.null, &socket("edits.sock"), Some(&answer), LOAD_CORE, folder)?;

    let backend = free_address()?;
    let mut command = process::pinned(LOAD_CORE, &bench.own);
    command.arg("backend").arg(backend.to_string());
    let mut backend_server = Server::start("back end", command, &folder.join("backend.log"))?;
    backend_server.wait_for(Duration::from_secs(5), || is_open(&backend.to_string()))?;

    let ports = NAMES.map(|_| free_address()).into_iter().collect::<Outcome<Vec<_>>>()?;
    let sockets =
        [("tonic-null", &null_server.1), ("tonic-null-edits", &edits_server.1), ("tollgate", &tollgate.check)];
    let file = folder.join("envoy.json");
    fs::write(&file, configuration(&ports, backend, &sockets, keys).to_string())?;
    let mut command = process::pinned(SERVER_CORE, binary);
    command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "warn", "-c"]).arg(&file);
    let mut envoy = Server::start("envoy", command, &folder.join("envoy.log"))?;
    envoy
        .wait_for(Duration::from_secs(30), || ports.iter().all(|port| is_open(&port.to_string())))
        .map_err(|error| format!("{error}; see {}", folder.join("envoy.log").display()))?;

    let rounds = bench.envoy_rounds;
    for round in 0..=rounds {
        bench.say(&format!("envoy: round {round} of {rounds}"));
        for (name, address) in NAMES.into_iter().zip(&ports) {
            let requests = bench.scaled(if name.starts_with("to") { 4_000 } else { 12_000 });
            let bearer = format!("Bearer {}", if name == "jwt_authn" { jwt()? } else { keys.hot.clone() });
            let credential =
                if name == "api_key_auth" { ("x-api-key", &*keys.hot) } else { ("authorization", &*bearer) };
            let run = Run {
                url: format!("http://{address}{PATH}"),
                // A GET has no content; the id of a request is Envoy's to make.
                headers: &HEADERS
                    .into_iter()
                    .filter(|(name, _)| !name.starts_with("content-") && *name != "x-request-id")
                    .chain([(":authority", HOST), credential])
                    .collect::<Vec<_>>(),
                body: None,
                http1: true,
                connections: 32,
                streams: 1,
                requests,
                log: None,
            };
            let (before, ours) = (envoy.cpu()?, tollgate.server.cpu()?);
            let figures = run.go().map_err(|error| format!("{name}: {error}"))?;
            // The first round only warms up.
            if round == 0 {
                continue;
            }
            let micros = |since: f64| since / requests as f64;
            samples.add("envoy-cpu", name, micros(envoy.cpu()?.since(&before)));
            if name != "tonic-null-edits" {
                samples.add("envoy", name, figures.rate);
            }
            if name == "tonic-null-edits" || name == "tollgate" {
                samples.add("envoy-edits", name, figures.rate);
            }
            if name == "tollgate" {
                samples.add("envoy-authorizer", name, micros(tollgate.server.cpu()?.since(&ours)));
            }
        }
    }
    let counted = tollgate.counted()?;
    let asked = (bench.scaled(4_000) * (rounds + 1)) as f64;
    if counted.denied > 0.0 || counted.allowed < asked {
        return Err(format!("tollgate counts other decisions than were asked for: {counted:?}").into());
    }
    envoy.stop(Signal::TERM)?;
    tollgate.stop()
}

/// An answer of Tollgate's to such a request.
fn sample(tollgate: &Tollgate, keys: &Keys) -> Outcome<Vec<u8>> {
    let payload = Payload::new(Form::List, "GET", &keys.hot, 0);
    let plan = Plan {
        address: tollgate.check.clone(),
        message: payload.bytes,
        key_at: payload.key_at,
        keys: keys.hot.as_bytes().to_vec(),
        key_length: KEY_LENGTH,
        order: Order::Each,
        connections: 1,
        streams: 1,
        requests: 1,
        rate: None,
        lead: Duration::ZERO,
        spread: false,
    };
    let report = load::run(&plan)?;
    if report.edited != 1 {
        return Err(format!("tollgate does not allow it: {}", report.to_json()).into());
    }
    Ok(report.sample)
}

fn configuration(ports: &[SocketAddr], backend: SocketAddr, sockets: &[(&str, &String)], keys: &Keys) -> Value {
    let listeners: Vec<Value> = NAMES.into_iter().zip(ports).map(|(name, port)| listener(name, *port, keys)).collect();
    let http1 = json!({"http_protocol_options": {}});
    let http2 = json!({"http2_protocol_options": {}});
    let mut clusters = vec![cluster("backend", &socket_address(backend), &http1)];
    for (name, socket) in sockets {
        let pipe = json!({"pipe": {"path": socket.trim_start_matches("unix:")}});
        clusters.push(cluster(name, &pipe, &http2));
    }
    json!({"static_resources": {"listeners": listeners, "clusters": clusters}})
}

fn listener(name: &str, port: SocketAddr, keys: &Keys) -> Value {
    let mut filters: Vec<Value> = Vec::new();
    filters.extend(match name {
        "no-auth" => None,
        "api_key_auth" => Some(filter(
            "api_key_auth",
            "api_key_auth.v3.ApiKeyAuth",
            json!({"credentials": [{"key": keys.hot, "client": "bench"}], "key_sources": [{"header": "x-api-key"}]}),
        )),
        "jwt_authn" => Some(filter("jwt_authn", "jwt_authn.v3.JwtAuthentication", jwt_authn())),
        _ => Some(filter("ext_authz", "ext_authz.v3.ExtAuthz", ext_authz(name))),
    });
    filters.push(filter("router", "router.v3.Router", json!({})));
    let route = json!({"match": {"prefix": "/"}, "route": {"cluster": "backend"}});
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name, "normalize_path": true, "merge_slashes": true,
        "path_with_escaped_slashes_action": "REJECT_REQUEST", "use_remote_address": true,
        "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"},
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": filters,
    });
    let chain =
        json!({"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]});
    json!({"name": name, "address": socket_address(port), "filter_chains": [chain]})
}

fn filter(name: &str, kind: &str, mut settings: Value) -> Value {
    settings["@type"] = json!(format!("type.googleapis.com/envoy.extensions.filters.http.{kind}"));
    json!({"name": format!("envoy.filters.http.{name}"), "typed_config": settings})
}

/// As in the shipped `envoy/envoy.yaml`, the same for every authorizer.
fn ext_authz(cluster: &str) -> Value {
    let names = "authorization|x[-_]tollgate[-_].*|x-(api-key|(http-)?method(-override)?|(original|rewrite)-url)";
    json!({
        "transport_api_version": "V3", "failure_mode_allow": false, "status_on_error": {"code": "ServiceUnavailable"},
        "encode_raw_headers": true, "validate_mutations": true,
        "grpc_service": {"envoy_grpc": {"cluster_name": cluster, "authority": "tollgate.local"}, "timeout": "3s"},
        "decoder_header_mutation_rules": {"disallow_all": {"value": true}, "allow_expression": {"regex": names}},
    })
}

fn jwt_authn() -> Value {
    let jwks =
        json!({"keys": [{"kty": "oct", "alg": "HS256", "kid": "bench", "k": URL_SAFE_NO_PAD.encode(JWT_SECRET)}]});
    json!({
        "providers": {"bench": {
            "issuer": ISSUER, "forward": true, "local_jwks": {"inline_string": jwks.to_string()},
            "jwt_cache_config": {"jwt_cache_size": 1000},
        }},
        "rules": [{"match": {"prefix": "/"}, "requires": {"provider_name": "bench"}}],
    })
}

/// A token for `jwt_authn`, made anew so that none stands in the repository.
fn jwt() -> Outcome<String> {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = part(&json!({"alg": "HS256", "typ": "JWT", "kid": "bench"}));
    let claims = part(&json!({"iss": ISSUER, "sub": "bench", "aud": "bench", "exp": 4_102_444_800_u64}));
    let mac = Hmac::<Sha256>::new_from_slice(JWT_SECRET)?.chain_update(format!("{head}.{claims}"));
    Ok(format!("{head}.{claims}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())))
}

fn cluster(name: &str, address: &Value, protocol: &Value) -> Value {
    json!({
        "name": name, "type": "STATIC", "connect_timeout": "1s",
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": protocol,
        }},
    })
}

fn socket_address(address: SocketAddr) -> Value {
    json!({"socket_address": {"address": address.ip().to_string(), "port_value": address.port()}})
}

/// The program `bench backend`: answers every GET with 200 and two bytes.
pub fn backend(mut arguments: impl Iterator<Item = String>) -> Outcome<()> {
    let address: SocketAddr = arguments.next().ok_or("bench backend: the address is missing")?.parse()?;
    tokio::runtime::Builder::new_current_thread().enable_io().build()?.block_on(async {
        let listener = TcpListener::bind(address).await?;
        loop {
            let (stream, _) = listener.accept().await?;
            // A client that leaves is no concern of the next one.
            tokio::spawn(async move { answer(stream).await.unwrap_or_default() });
        }
    })
}

async fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    const END: &[u8] = b"\r\n\r\n";
    stream.set_nodelay(true)?;
    let mut input = Vec::with_capacity(16 * 1024);
    while stream.read_buf(&mut input).await? > 0 {
        while let Some(end) = input.windows(END.len()).position(|window| window == END) {
            input.drain(..end + END.len());
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-type: text/plain\r\n\r\nok").await?;
        }
    }
    Ok(())
}
