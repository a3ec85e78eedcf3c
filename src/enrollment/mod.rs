//! Things coming into being: instances, authorities, clusters with their certificates, and nodes.

pub mod authority;
pub mod cluster;
pub mod fingerprint;
pub mod instance;
pub mod join;
pub mod request;
pub mod response;
