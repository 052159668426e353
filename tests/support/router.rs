//! How back ends choose a handler for a path: literally, after decoding it, or after cleaning it. Deliberately careless,
//! as some real ones are; the tests ask what a caller reaches behind such a router.

/// How a router reads a path before it compares it with its handlers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reading {
    /// Byte by byte.
    #[default]
    Literal,
    /// Percent-decodes until nothing changes, ignores case and what follows a `;` or a NUL in a segment.
    Decoding,
    /// Decodes once, takes `\` for `/`, drops `;params`, empty and dot segments, control characters and trailing dots and
    /// spaces, and ignores case.
    Cleaning,
}

/// What a request reaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Handler {
    Health,
    Models,
    Chat,
    ModelInfer,
    Endpoint {
        project: String,
        workload: String,
    },
    Workloads {
        project: String,
    },
    Workload {
        id: String,
    },
    /// Nothing that is protected.
    Other,
}

pub fn handler(reading: Reading, method: &str, path: &str) -> Handler {
    let segments = segments(reading, path);
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match (method, &*segments) {
        (_, ["healthz"]) => Handler::Health,
        (_, ["v1", "models"] | ["api", "v1", "models"]) => Handler::Models,
        ("POST", ["v1", "chat", "completions"] | ["api", "v1", "chat", "completions"]) => Handler::Chat,
        (
            "POST",
            ["inference.GRPCInferenceService", "ModelInfer"] | ["inference.grpcinferenceservice", "modelinfer"],
        ) => Handler::ModelInfer,
        (_, ["endpoint", project, workload, _, ..]) => {
            Handler::Endpoint { project: (*project).to_owned(), workload: (*workload).to_owned() }
        }
        (_, ["api", "projects", project, "workloads"]) => Handler::Workloads { project: (*project).to_owned() },
        (_, ["api", "workloads", id]) => Handler::Workload { id: (*id).to_owned() },
        _ => Handler::Other,
    }
}

fn segments(reading: Reading, path: &str) -> Vec<String> {
    let path = path.strip_prefix('/').unwrap_or(path);
    match reading {
        Reading::Literal => path.split('/').map(str::to_owned).collect(),
        Reading::Decoding => {
            let mut decoded = decode(path.as_bytes());
            loop {
                let again = decode(&decoded);
                if again == decoded {
                    break;
                }
                decoded = again;
            }
            let text = String::from_utf8_lossy(&decoded).into_owned();
            text.split('/').map(|segment| cut(segment).to_lowercase()).filter(|segment| !segment.is_empty()).collect()
        }
        Reading::Cleaning => {
            let text = String::from_utf8_lossy(&decode(path.as_bytes())).replace('\\', "/");
            let mut kept: Vec<String> = Vec::new();
            for segment in text.split('/') {
                let visible: String = segment.chars().filter(|c| !c.is_control()).collect();
                match cut(&visible) {
                    "" | "." => {}
                    ".." => drop(kept.pop()),
                    segment => {
                        let trimmed = segment.trim_matches(' ').trim_end_matches(['.', ' ']);
                        kept.push(trimmed.to_lowercase());
                    }
                }
            }
            kept
        }
    }
}

/// A segment without its parameters, and without what follows a NUL.
fn cut(segment: &str) -> &str {
    segment.split([';', '\0']).next().unwrap_or_default()
}

fn decode(bytes: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let code = bytes
            .get(at + 1..at + 3)
            .filter(|_| bytes[at] == b'%')
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(code) => {
                decoded.push(code);
                at += 3;
            }
            None => {
                decoded.push(bytes[at]);
                at += 1;
            }
        }
    }
    decoded
}
