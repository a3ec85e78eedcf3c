//! `keyward node`.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::cli::connect::{NODE_FILE, NodeFile};
use crate::cli::{Global, cluster, connect, output};
use crate::error::{Error, Reason, Result};
use crate::grpc::client::failed;
use crate::grpc::v1;
use crate::tls;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Make a node of a cluster and an identity directory for it; its private key is made here and sent nowhere
    Create {
        /// Lower-case letters, digits and hyphens
        id: String,
        /// The cluster's id or resource name
        #[arg(long)]
        cluster: String,
        /// The identity directory to make
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Life of its certificate
        #[arg(long, value_name = "DAYS", default_value_t = 365)]
        valid_days: u32,
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
    let mut nodes = connect::operator(&global.data).await?.nodes();
    match command {
        Command::Create { id, cluster, out, valid_days } => {
            // Made first: a directory that cannot be written must not leave a certificate behind.
            DirBuilder::new().mode(0o700).create(&out).map_err(|fault| {
                Error::new(Reason::InvalidArgument, format!("{} cannot be made: {fault}", out.display()))
                    .hint("name a new directory in a place that this user may write")
            })?;
            let (certificate_request_pem, key_pem) = tls::request()?;
            let parent = cluster::name(&cluster);
            let request = v1::CreateNodeRequest { parent, node_id: id, certificate_request_pem, valid_days };
            let made = nodes.create_node(request).await.map_err(|status| {
                let _ = std::fs::remove_dir(&out);
                failed(status)
            })?;
            let made = made.into_inner();
            let node = made.node.unwrap_or_default();
            let file = NodeFile {
                node: node.name.clone(),
                server: made.server,
                ca: "ca.pem".into(),
                certificate: "node.pem".into(),
                key: "node-key.pem".into(),
            };
            let text = toml::to_string(&file)
                .map_err(|fault| Error::new(Reason::Internal, "the identity cannot be written").detail(fault))?;
            output::write_new(&out.join(&file.key), key_pem.as_bytes(), 0o600)?;
            output::write_new(&out.join(&file.certificate), made.certificate_pem.as_bytes(), 0o644)?;
            output::write_new(&out.join(&file.ca), made.ca_pem.as_bytes(), 0o644)?;
            output::write_new(&out.join(NODE_FILE), text.as_bytes(), 0o644)?;
            output::object(global.output, &row(&node));
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

fn row(node: &v1::Node) -> Value {
    json!({
        "name": node.name,
        "active": node.active,
        "certificate_sha256": node.certificate_sha256,
        "expires": output::time(node.certificate_expire_time),
        "created": output::time(node.create_time),
    })
}
