//! `keyward node`.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::cli::connect::{NODE_FILE, NodeFile};
use crate::cli::{Global, cluster, connect, output};
use crate::error::{Error, Reason, Result};
use crate::grpc::client::{Connection, failed};
use crate::grpc::v1;
use crate::tls;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Make a join token for a node: a file to be carried to it, good for one node and one time
    Invite {
        /// The node's id: lower-case letters, digits and hyphens
        id: String,
        /// The cluster's id or resource name
        #[arg(long)]
        cluster: String,
        /// The join token's file, to be made
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        /// Life of the token
        #[arg(long, value_name = "MINUTES", default_value_t = 60)]
        token_minutes: u32,
        /// Life of the node's certificate
        #[arg(long, value_name = "DAYS", default_value_t = 365)]
        certificate_days: u32,
    },
    /// Join a cluster with a join token, on the node: its private key is made here and sent nowhere
    Join {
        /// The join token's file
        token: PathBuf,
        /// The identity directory to make
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
    },
    /// Show a node
    Get {
        /// Resource name, such as clusters/emea/nodes/lic-1
        node: String,
    },
    /// List the nodes of a cluster
    List {
        /// The cluster's id or resource name
        cluster: String,
    },
}

pub(super) async fn run(command: Command, global: &Global) -> Result<()> {
    if let Command::Join { token, out } = command {
        return join(&token, &out, global).await;
    }
    let mut nodes = connect::operator(&global.data).await?.nodes();
    match command {
        Command::Join { .. } => {}
        Command::Invite { id, cluster, out, token_minutes, certificate_days } => {
            let parent = cluster::name(&cluster);
            let request = v1::InviteNodeRequest { parent, node_id: id, token_minutes, certificate_days };
            // Made first: a token that cannot be written down must not come into being.
            let file = output::NewFile::create(&out, 0o600)?;
            let invited = nodes.invite_node(request).await.map_err(failed)?.into_inner();
            let expires = output::time(invited.expire_time);
            let token = TokenFile {
                node: invited.node.clone(),
                server: invited.join_server,
                expires: expires.clone(),
                secret: invited.secret,
                ca: invited.ca_pem,
            };
            file.finish(to_toml(&token)?.as_bytes())?;
            let shown = json!({"node": invited.node, "expires": expires, "join_token": out.display().to_string()});
            output::object(global.output, &shown);
        }
        Command::Get { node } => {
            let found = nodes.get_node(v1::GetNodeRequest { name: node }).await.map_err(failed)?.into_inner();
            output::object(global.output, &row(&found));
        }
        Command::List { cluster } => {
            let mut rows = Vec::new();
            let mut page_token = String::new();
            loop {
                let request = v1::ListNodesRequest { parent: cluster::name(&cluster), page_size: 0, page_token };
                let page = nodes.list_nodes(request).await.map_err(failed)?.into_inner();
                rows.extend(page.nodes.iter().map(row));
                page_token = page.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            output::list(global.output, &rows);
        }
    }
    Ok(())
}

/// Makes a key, spends the token, and leaves an identity directory.
async fn join(token: &Path, out: &Path, global: &Global) -> Result<()> {
    let text = std::fs::read_to_string(token).map(Zeroizing::new).map_err(|fault| {
        Error::new(Reason::InvalidArgument, format!("{} cannot be read: {fault}", token.display()))
            .hint("name the file that `keyward node invite --out FILE` has made")
    })?;
    let token: TokenFile = toml::from_str(&text).map_err(|fault| {
        Error::new(Reason::InvalidArgument, format!("{} is no join token: {}", token.display(), fault.message()))
    })?;
    // All that the token is spent for is prepared first.
    DirBuilder::new().mode(0o700).create(out).map_err(|fault| {
        Error::new(Reason::InvalidArgument, format!("{} cannot be made: {fault}", out.display()))
            .hint("name a new directory in a place that this user may write")
    })?;
    let joined = async {
        let (certificate_request_pem, key_pem) = tls::request()?;
        output::write_new(&out.join("node-key.pem"), key_pem.as_bytes(), 0o600)?;
        output::write_new(&out.join("ca.pem"), token.ca.as_bytes(), 0o644)?;
        let connection = Connection::joiner(&token.server, &token.ca).await?;
        let request = v1::JoinClusterRequest { secret: token.secret.clone(), certificate_request_pem };
        let joined = connection.join().join_cluster(request).await.map_err(failed)?.into_inner();
        let node = joined.node.unwrap_or_default();
        let file = NodeFile {
            node: node.name.clone(),
            server: joined.server,
            ca: "ca.pem".into(),
            certificate: "node.pem".into(),
            key: "node-key.pem".into(),
        };
        output::write_new(&out.join(&file.certificate), joined.certificate_pem.as_bytes(), 0o644)?;
        output::write_new(&out.join(NODE_FILE), to_toml(&file)?.as_bytes(), 0o644)?;
        Ok::<_, Error>(node)
    };
    match joined.await {
        Ok(node) => {
            output::object(global.output, &row(&node));
            Ok(())
        }
        Err(fault) => {
            let _ = std::fs::remove_dir_all(out);
            Err(fault)
        }
    }
}

/// A join token on its way to the node.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenFile {
    node: String,
    server: String,
    expires: String,
    secret: String,
    ca: String,
}

fn to_toml(file: &impl Serialize) -> Result<Zeroizing<String>> {
    toml::to_string(file)
        .map(Zeroizing::new)
        .map_err(|fault| Error::new(Reason::Internal, "the file cannot be written").detail(fault))
}

fn row(node: &v1::Node) -> Value {
    json!({
        "name": node.name,
        "active": node.active,
        "certificate_sha256": node.certificate_sha256,
        "expires": output::time(node.certificate_expire_time),
        "created": output::time(node.create_time),
    })
}
