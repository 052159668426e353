//! The only view of a request. Borrows from the message it came in; never copies, decodes or trusts it.

/// One request header as Envoy forwarded it: the name in lower case and UTF-8, the bytes as they came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    pub name: &'a [u8],
    pub value: &'a [u8],
}

impl<'a> Header<'a> {
    pub fn new(name: &'a str, value: &'a [u8]) -> Self {
        Self { name: name.as_bytes(), value }
    }
}

/// What Envoy tells of one HTTP request (`envoy.service.auth.v3.AttributeContext`).
///
/// Source of each field: `attributes.request.http.*`, `attributes.source.*`. Absent fields are empty.
#[derive(Clone, Default)]
pub struct Attributes<'a> {
    pub method: &'a str,
    /// The request target: path and query, neither decoded nor normalised.
    pub target: &'a str,
    /// The `Host` or `:authority`, with its case, port and trailing dot as they came.
    pub host: &'a str,
    pub scheme: &'a str,
    pub protocol: &'a str,
    /// Without pseudo-headers. Duplicates may stand apart (`header_map`) or be joined with a comma (`headers`).
    pub headers: Vec<Header<'a>>,
    /// Whether Envoy sends a part of the request headers alone: even `:method` or `:path` is missing among them.
    pub headers_withheld: bool,
    /// `body` or `raw_body`, as far as Envoy buffered it; empty where the route does not buffer.
    pub body: &'a [u8],
    /// The address of the TCP peer of Envoy; never taken from a header.
    pub peer_address: &'a str,
    /// The peer's identity by mTLS, as Envoy saw it (`source.principal`).
    pub peer_principal: &'a str,
}

impl<'a> Attributes<'a> {
    /// The values of a header, in order. `name` must be in lower case.
    pub fn values<'s>(&'s self, name: &'s str) -> impl Iterator<Item = &'a [u8]> + 's {
        self.headers.iter().filter(move |h| h.name.eq_ignore_ascii_case(name.as_bytes())).map(|h| h.value)
    }

    /// The first value of a header if it is text.
    pub fn text(&self, name: &str) -> Option<&'a str> {
        self.values(name).next().and_then(|value| std::str::from_utf8(value).ok())
    }

    /// The target without its query.
    pub fn path(&self) -> &'a str {
        self.target.split_once('?').map_or(self.target, |(path, _)| path)
    }

    /// `x-request-id`, if it is safe to write into a header, a log line and a label: at most 128 visible ASCII
    /// characters.
    pub fn request_id(&self) -> Option<&'a str> {
        self.text("x-request-id")
            .filter(|id| !id.is_empty() && id.len() <= 128 && id.bytes().all(|b| b.is_ascii_graphic()))
    }

    /// Whether the client speaks gRPC, so that Envoy turns a denial into `grpc-status` and `grpc-message`.
    pub fn is_grpc(&self) -> bool {
        self.text("content-type").is_some_and(|kind| {
            kind.strip_prefix("application/grpc").is_some_and(|rest| rest.is_empty() || rest.starts_with(['+', ';']))
        })
    }
}

/// Shows the request without what may be secret: target, header values and body stay out.
impl std::fmt::Debug for Attributes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attributes")
            .field("method", &self.method)
            .field("host", &self.host)
            .field("headers", &self.headers.iter().map(|h| String::from_utf8_lossy(h.name)).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
