//! Clusters and nodes coming into being: what they are named, which key and which certificate they get.

mod cluster;
mod node;

pub use cluster::{NewCluster, create as create_cluster};
pub use node::{NewNode, NodeCredentials, create as create_node};
