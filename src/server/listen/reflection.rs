//! What clients such as grpcurl may ask about the check listener. Describes; answers no check.

use tonic::service::Routes;
use tonic_reflection::server::{Builder, Error};

/// Compiled from `proto/envoy/service/auth/v3/external_auth.proto` and what it imports.
const CHECK: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/check.fds"));

/// Adds both versions of the reflection service, which describe themselves, health and the check service.
///
/// # Errors
/// If the descriptors cannot be read.
pub fn add(routes: Routes) -> Result<Routes, Error> {
    let builder = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(CHECK)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(routes.add_service(builder().build_v1()?).add_service(builder().build_v1alpha()?))
}
