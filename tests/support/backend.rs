//! A small inference server that says what it received: OpenAI-style chat (JSON and SSE), workloads, KServe v2 over gRPC,
//! and an echo of everything else. For the demo and the tests; it authorizes nobody, by design.
//!
//! HTTP/1.1 and HTTP/2 (prior knowledge) on one port. Every answer carries `seen`: method, path, headers and trailers as
//! they arrived.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures_util::StreamExt;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::router::{Handler, Reading, handler};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// One request as it arrived here.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    /// Path and query.
    pub target: String,
    /// In the order they came, duplicates apart.
    pub headers: Vec<(String, String)>,
    pub trailers: Vec<(String, String)>,
}

impl Seen {
    fn json(&self) -> Value {
        // Duplicates are joined with ` | `, which no header of ours contains.
        let map = |list: &[(String, String)]| {
            let mut map = serde_json::Map::new();
            for (name, value) in list {
                match map.get_mut(name) {
                    Some(Value::String(known)) => *known = format!("{known} | {value}"),
                    _ => drop(map.insert(name.clone(), json!(value))),
                }
            }
            Value::Object(map)
        };
        json!({"method": self.method, "path": self.target, "headers": map(&self.headers), "trailers": map(&self.trailers)})
    }
}

#[derive(Clone, Debug, Default)]
struct Workload {
    project: String,
    body: Value,
}

/// Where requests are written down.
pub type Recorder = Arc<Mutex<Vec<Seen>>>;

/// What the server knows. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Backend {
    reading: Reading,
    workloads: Arc<Mutex<BTreeMap<String, Workload>>>,
    recorder: Option<Recorder>,
}

impl Backend {
    /// A server that reads paths in this way before it chooses a handler.
    pub fn new(reading: Reading, recorder: Option<Recorder>) -> Self {
        Self { reading, workloads: Arc::default(), recorder }
    }

    /// Serves until it is dropped.
    ///
    /// # Errors
    /// If the listener fails.
    pub async fn serve(self, listener: TcpListener) -> io::Result<()> {
        loop {
            let (stream, _) = listener.accept().await?;
            let backend = self.clone();
            // A connection that breaks is its client's affair.
            tokio::spawn(async move { drop(backend.connection(stream).await) });
        }
    }

    async fn connection(self, stream: TcpStream) -> Result<(), hyper::Error> {
        let mut start = [0u8; 4];
        let is_h2 = stream.peek(&mut start).await.is_ok_and(|length| start[..length].starts_with(b"PRI"));
        let service = service_fn(move |request| {
            let backend = self.clone();
            async move { Ok::<_, Infallible>(backend.answer(request).await) }
        });
        let io = TokioIo::new(stream);
        if is_h2 {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .max_header_list_size(1 << 17)
                .serve_connection(io, service)
                .await
        } else {
            hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .max_headers(256)
                .serve_connection(io, service)
                .await
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let (body, trailers) = match body.collect().await {
            Ok(collected) => {
                let trailers = collected.trailers().cloned().unwrap_or_default();
                (collected.to_bytes(), trailers)
            }
            Err(_) => return json_answer(StatusCode::BAD_REQUEST, &json!({"error": "the body broke off"})),
        };
        let target = parts.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
        let seen = Seen {
            method: parts.method.to_string(),
            target,
            headers: listed(&parts.headers),
            trailers: listed(&trailers),
        };
        let echo = seen.json();
        if let Some(recorder) = &self.recorder {
            recorder.lock().unwrap_or_else(PoisonError::into_inner).push(seen);
        }
        let found = handler(self.reading, parts.method.as_str(), parts.uri.path());
        match found {
            Handler::Chat => chat(&body, &echo),
            Handler::ModelInfer => model_infer(&body, &echo),
            Handler::Models => {
                let models = ["aignehub/gpt-3.5-turbo", "llama-3-8b"]
                    .map(|id| json!({"id": id, "object": "model", "created": 0, "owned_by": "demo"}));
                json_answer(StatusCode::OK, &json!({"object": "list", "data": models, "seen": echo}))
            }
            Handler::Health => json_answer(StatusCode::OK, &json!({"status": "ok", "seen": echo})),
            Handler::Workloads { project } => self.workloads(&parts.method, &project, &body, &echo),
            Handler::Workload { id } => self.workload(&parts.method, &id, &body, &echo),
            Handler::Endpoint { project, workload } => json_answer(
                StatusCode::OK,
                &json!({"handler": "endpoint", "project": project, "workload": workload, "output": "42", "seen": echo}),
            ),
            Handler::Other => json_answer(StatusCode::OK, &json!({"handler": "echo", "seen": echo})),
        }
    }

    fn workloads(&self, method: &http::Method, project: &str, body: &[u8], echo: &Value) -> Response<Body> {
        let mut known = self.workloads.lock().unwrap_or_else(PoisonError::into_inner);
        if method == http::Method::POST {
            let body: Value = serde_json::from_slice(body).unwrap_or_default();
            let id = body["id"].as_str().map_or_else(|| format!("w-{}", known.len() + 1), str::to_owned);
            known.insert(id.clone(), Workload { project: project.to_owned(), body });
            return json_answer(
                StatusCode::CREATED,
                &json!({"handler": "workloads", "id": id, "project": project, "seen": echo}),
            );
        }
        let ids: Vec<&String> = known.iter().filter(|(_, w)| w.project == project).map(|(id, _)| id).collect();
        let answer = json!({"handler": "workloads", "project": project, "workloads": ids, "seen": echo});
        json_answer(StatusCode::OK, &answer)
    }

    fn workload(&self, method: &http::Method, id: &str, body: &[u8], echo: &Value) -> Response<Body> {
        let mut known = self.workloads.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = known.get(id).cloned().unwrap_or_default();
        if method == http::Method::PATCH {
            found.body = serde_json::from_slice(body).unwrap_or_default();
            known.insert(id.to_owned(), found.clone());
        } else if method == http::Method::DELETE {
            known.remove(id);
        }
        json_answer(StatusCode::OK, &json!({"handler": "workload", "id": id, "workload": found.body, "seen": echo}))
    }
}

fn listed(headers: &HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect()
}

fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).boxed_unsync()
}

fn json_answer(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(full(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// `POST /v1/chat/completions`: one answer, or a stream of server-sent events.
fn chat(body: &[u8], echo: &Value) -> Response<Body> {
    let asked: Value = serde_json::from_slice(body).unwrap_or_default();
    let model = asked["model"].as_str().unwrap_or("llama-3-8b");
    let words = ["Hello", " from", " the", " back", " end."];
    if asked["stream"] != true {
        return json_answer(
            StatusCode::OK,
            &json!({
                "id": "chatcmpl-1", "object": "chat.completion", "created": 0, "model": model,
                "choices": [{"index": 0, "finish_reason": "stop",
                             "message": {"role": "assistant", "content": words.concat()}}],
                "usage": {"prompt_tokens": 9, "completion_tokens": 5, "total_tokens": 14},
                "seen": echo,
            }),
        );
    }
    let chunk = |delta: Value, finish: Value, seen: Option<&Value>| {
        let mut chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": model,
                               "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
        if let Some(seen) = seen {
            chunk["seen"] = seen.clone();
        }
        format!("data: {chunk}\n\n")
    };
    let mut events = vec![chunk(json!({"role": "assistant"}), Value::Null, Some(echo))];
    events.extend(words.iter().map(|word| chunk(json!({"content": word}), Value::Null, None)));
    events.push(chunk(json!({}), json!("stop"), None));
    events.push("data: [DONE]\n\n".to_owned());
    let frames = futures_util::stream::iter(events).then(|event| async {
        tokio::time::sleep(std::time::Duration::from_millis(30)).await;
        Ok(Frame::data(Bytes::from(event)))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}

/// KServe v2 `ModelInfer`: echoes the model's name and puts what was seen into the raw output.
fn model_infer(body: &[u8], echo: &Value) -> Response<Body> {
    let name = body.get(5..).and_then(first_string).unwrap_or_default();
    let mut message = Vec::new();
    // inference.ModelInferResponse: model_name = 1, raw_output_contents = 6.
    push_field(&mut message, 1, name.as_bytes());
    push_field(&mut message, 6, echo.to_string().as_bytes());
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap_or_default().to_be_bytes());
    framed.extend(message);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames: [Result<_, Infallible>; 2] = [Ok(Frame::data(Bytes::from(framed))), Ok(Frame::trailers(trailers))];
    let mut response = Response::new(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// Appends a length-delimited protobuf field.
pub fn push_field(message: &mut Vec<u8>, field: u8, value: &[u8]) {
    message.push(field << 3 | 2);
    let mut length = value.len();
    while length >= 0x80 {
        message.push(u8::try_from(length & 0x7f).unwrap_or_default() | 0x80);
        length >>= 7;
    }
    message.push(u8::try_from(length).unwrap_or_default());
    message.extend_from_slice(value);
}

/// Field 1 of a protobuf message, if it comes first and is a short string.
fn first_string(message: &[u8]) -> Option<String> {
    let (&tag, rest) = message.split_first()?;
    let (&length, rest) = rest.split_first()?;
    let value = rest.get(..usize::from(length))?;
    (tag == 0x0a && length < 0x80).then(|| String::from_utf8_lossy(value).into_owned())
}
