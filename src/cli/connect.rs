//! How commands reach a service: as the local operator, or as a node with its identity directory.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::config::Config;
use crate::error::{Error, Reason, Result};
use crate::grpc::client::{Connection, NodeIdentity};

/// Connects to the service of a data directory.
pub(super) async fn operator(data: &Path) -> Result<Connection> {
    let config = Config::load(data)?;
    Connection::operator(&config.path(&config.file.operator.socket)).await
}

/// What stands in a node's `node.toml`. Paths are relative to its directory.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodeFile {
    /// Resource name of the node.
    pub(super) node: String,
    /// Where the service listens.
    pub(super) server: String,
    /// The authority of the server's certificate.
    pub(super) ca: PathBuf,
    /// The node's certificate.
    pub(super) certificate: PathBuf,
    /// The node's private key.
    pub(super) key: PathBuf,
}

/// The file's name in a node's identity directory.
pub(super) const NODE_FILE: &str = "node.toml";

/// Reads a node's identity directory. Gives the node's resource name as well.
pub(super) fn node_identity(directory: &Path) -> Result<(String, NodeIdentity)> {
    let read = |path: &Path| {
        let path = directory.join(path);
        std::fs::read_to_string(&path).map_err(|fault| {
            Error::new(Reason::ConfigInvalid, format!("{} cannot be read: {fault}", path.display()))
                .hint("name a directory that `keyward node join TOKEN --out DIR` has made")
        })
    };
    let text = read(Path::new(NODE_FILE))?;
    let file: NodeFile = toml::from_str(&text).map_err(|fault| {
        Error::new(Reason::ConfigInvalid, format!("{}: {}", directory.join(NODE_FILE).display(), fault.message()))
    })?;
    let identity = NodeIdentity {
        server: file.server,
        ca_pem: read(&file.ca)?,
        certificate_pem: read(&file.certificate)?,
        key_pem: Zeroizing::new(read(&file.key)?),
    };
    Ok((file.node, identity))
}

/// Connects as a node. Gives the node's resource name as well.
pub(super) async fn node(directory: &Path) -> Result<(String, Connection)> {
    let (name, identity) = node_identity(directory)?;
    Ok((name, Connection::node(&identity).await?))
}
