//! What Envoy does with request headers on their way: how many it carries, and whether it shows all of them. An allow that it
//! could not carry out is refused here, where the client can be told why.

use crate::attributes::Attributes;
use crate::denial::Denial;

/// The limits of the Envoy in front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnvoyLimits {
    /// Pseudo-headers count.
    pub max_headers: usize,
    /// Names and values.
    pub max_bytes: usize,
    /// Whether requests are judged of which Envoy shows a part of the headers alone.
    pub takes_withheld: bool,
}

/// More headers than this are refused, those that Envoy has added counted: as many as its default lets in.
const MAX_HEADERS: usize = 100;
/// Likewise their bytes.
const MAX_BYTES: usize = 60 << 10;

/// What Envoy counts besides the headers that we see: the pseudo-headers, and what its router adds.
const MORE_HEADERS: usize = 8;
/// The names and values of those, the request target and the host apart.
const MORE_BYTES: usize = 512;

impl EnvoyLimits {
    /// As the shipped Envoy files have it.
    pub const SHIPPED: Self = Self { max_headers: 200, max_bytes: 96 << 10, takes_withheld: false };

    /// # Errors
    /// [`Denial::HeadersTooLarge`] or [`Denial::HeadersWithheld`].
    pub(crate) fn admit(&self, request: &Attributes<'_>) -> Result<(), Denial> {
        if request.headers_withheld && !self.takes_withheld {
            return Err(Denial::HeadersWithheld);
        }
        if request.headers.len() > MAX_HEADERS || bytes_of(request) > MAX_BYTES {
            return Err(Denial::HeadersTooLarge);
        }
        Ok(())
    }

    /// Whether Envoy has room for the request with these headers. What is removed from it does not make any.
    pub(crate) fn carries<'a>(&self, request: &Attributes<'_>, set: impl Iterator<Item = (&'a str, &'a str)>) -> bool {
        let begun = (request.headers.len() + MORE_HEADERS, MORE_BYTES);
        let (count, bytes) =
            set.fold(begun, |(count, bytes), (name, value)| (count + 1, bytes + name.len() + value.len()));
        let fits = |client: usize| client + bytes <= self.max_bytes;
        // A client's are never more than that; mostly they need not be added up again.
        count <= self.max_headers && (fits(MAX_BYTES) || fits(bytes_of(request)))
    }
}

fn bytes_of(request: &Attributes<'_>) -> usize {
    let headers: usize = request.headers.iter().map(|header| header.name.len() + header.value.len()).sum();
    headers + request.target.len() + request.host.len()
}
