//! How the Envoy in front treats request headers, as serde reads it. No logic.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How the Envoy in front treats request headers.
#[derive(Clone, Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Envoy {
    /// How many request headers it carries: `max_headers_count` of its `common_http_protocol_options`. Its own default is 100.
    /// A request is refused with 431 if there is no room for the headers that say who asks.
    #[schemars(range(min = 40, max = 10000))]
    pub max_headers_count: u16,
    /// How many KiB of them: its `max_request_headers_kb`. Its own default is 60.
    #[schemars(range(min = 16, max = 8192))]
    pub max_request_headers_kb: u16,
    /// What becomes of requests of which it sends a part of the headers alone (`headersToExtAuth` of Envoy Gateway,
    /// `allowed_headers` of ext_authz). `refuse`: 503. `accept`: what a client sends in the others, identity headers and second
    /// credentials included, reaches the back end unless something else removes it.
    pub withheld_headers: WithheldHeaders,
}

impl Default for Envoy {
    fn default() -> Self {
        Self { max_headers_count: 200, max_request_headers_kb: 96, withheld_headers: WithheldHeaders::Refuse }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(inline)]
pub enum WithheldHeaders {
    Refuse,
    Accept,
}
