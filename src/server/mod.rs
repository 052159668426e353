//! What listens: the doors through which requests come in. Never decides; every door asks the pipeline or the registry.

pub mod admin;
pub mod ext_authz;
