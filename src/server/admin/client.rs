//! Where a request came from: the peer, or behind Envoy the client that Envoy names. Never believes a header at a door that
//! clients reach themselves.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use axum::extract::{Extension, FromRequestParts, Request, State};
use axum::http::request::Parts;
use axum::middleware::Next;
use axum::response::Response;
use tollgate_core::policy::ClientIp;

use super::guard::attributes;
use super::reply::ApiError;
use super::serve::Peer;
use super::{AdminState, Door};
use crate::server::places::PeerState;

/// The address of the client, if it can be known.
pub struct ClientAddress(pub Option<IpAddr>);

impl FromRequestParts<AdminState> for ClientAddress {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &AdminState) -> Result<Self, ApiError> {
        let Extension(door) =
            Extension::<Door>::from_request_parts(parts, state).await.map_err(|_| ApiError::internal())?;
        let address = match door {
            Door::Socket => None,
            Door::Http => peer(parts).0.parse::<SocketAddr>().ok().map(|address| address.ip()),
            // Whoever cannot be told apart is one.
            Door::ThroughEnvoy => named_by_envoy(parts, state).or(Some(IpAddr::V4(Ipv4Addr::UNSPECIFIED))),
        };
        Ok(Self(address))
    }
}

/// Behind Envoy, which all clients share: has logs and audit rows say the client instead, where Envoy names one, and counts
/// the place as the client's.
pub(super) async fn tell_apart(State(state): State<AdminState>, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    if let Some(address) = named_by_envoy(&parts, &state) {
        if let Some(peer_state) = parts.extensions.get::<Arc<PeerState>>() {
            peer_state.speaks_for(address);
        }
        parts.extensions.insert(Peer(address.to_string()));
    }
    next.run(Request::from_parts(parts, body)).await
}

fn named_by_envoy(parts: &Parts, state: &AdminState) -> Option<IpAddr> {
    match state.live.load().client_ip {
        ClientIp::Peer => None,
        source => source.of(&attributes(parts, &peer(parts))).parse().ok(),
    }
}

fn peer(parts: &Parts) -> Peer {
    parts.extensions.get::<Peer>().cloned().unwrap_or_default()
}
