//! `keyward cluster`.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::cli::{Global, connect, enroll, key, output, verify};
use crate::error::{Error, Reason, Result};
use crate::grpc::client::failed;
use crate::grpc::v1;

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Make a cluster and its key, inside the service's token
    Create {
        /// Lower-case letters, digits and hyphens
        id: String,
        /// Base URL of its licensing service, such as https://rms.example.com/_wmcs
        #[arg(long)]
        url: String,
        /// Name of the server, as it goes into its certificate; the id in capitals if left out
        #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
        server_name: String,
        /// A third party that may revoke what the cluster issues: its public key, PEM (may be repeated)
        #[arg(long, value_name = "FILE")]
        revocation_key: Vec<PathBuf>,
        /// The token to make its key in; the first by name if left out
        #[arg(long, default_value = "", hide_default_value = true)]
        token: String,
        /// Enroll by files: write the enrollment request for the authority
        #[arg(long, required = true)]
        offline: bool,
        /// The request's file; <NAME>EnrollRequest.xml if left out
        #[arg(long, value_name = "FILE")]
        request: Option<PathBuf>,
    },
    /// Show a cluster
    Get {
        /// Its id or resource name
        cluster: String,
    },
    /// List the clusters
    List,
}

pub(super) async fn run(command: Command, global: &Global) -> Result<()> {
    let connection = connect::operator(&global.data).await?;
    let mut clusters = connection.clusters();
    match command {
        Command::Create { id, url, server_name, revocation_key, token, offline: _, request } => {
            let name = if server_name.is_empty() { id.to_uppercase() } else { server_name };
            let file = request.unwrap_or_else(|| format!("{name}EnrollRequest.xml").into());
            if file.exists() {
                return Err(Error::new(Reason::InvalidArgument, format!("{} exists already", file.display()))
                    .hint("name another file for the request: --request FILE"));
            }
            let revocation_keys = revocation_key.iter().map(|path| read_key(path)).collect::<Result<_>>()?;
            let wanted = v1::Cluster { url, server_name: name, revocation_keys, ..Default::default() };
            let request = v1::CreateClusterRequest { cluster_id: id, cluster: Some(wanted), token };
            let cluster = clusters.create_cluster(request).await.map_err(failed)?.into_inner();
            let request = v1::GetKeyRequest { name: cluster.slc_key.clone() };
            let made = connection.keys().get_key(request).await.map_err(failed)?.into_inner();
            let exported = enroll::export(&connection, &cluster.name, &file).await?;
            let mut shown = row(&cluster);
            if global.output == output::Format::Json {
                shown["key"] = key::view(&made);
                shown["enrollment_request"] = exported;
                output::object(global.output, &shown);
            } else {
                output::object(global.output, &shown);
                println!();
                key::evidence(&made);
                println!();
                output::object(global.output, &exported);
                println!("next: carry the request to the authority, and read out the words to whoever processes it");
            }
        }
        Command::Get { cluster } => {
            let request = v1::GetClusterRequest { name: name(&cluster) };
            let found = clusters.get_cluster(request).await.map_err(failed)?.into_inner();
            let mut shown = row(&found);
            if global.output == output::Format::Json {
                shown["certificate_chain"] = json!(found.certificate_chain);
            }
            output::object(global.output, &shown);
        }
        Command::List => {
            let mut rows = Vec::new();
            let mut page_token = String::new();
            loop {
                let request = v1::ListClustersRequest { page_size: 0, page_token };
                let page = clusters.list_clusters(request).await.map_err(failed)?.into_inner();
                rows.extend(page.clusters.iter().map(|cluster| match global.output {
                    output::Format::Json => row(cluster),
                    // What fits into a line; the rest says `cluster get`.
                    output::Format::Table => json!({
                        "name": cluster.name,
                        "state": cluster.state,
                        "issues_until": output::time(cluster.issue_until_time),
                        "created": output::time(cluster.create_time),
                        "url": cluster.url,
                    }),
                }));
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

/// A resource name from an id or a resource name.
pub(super) fn name(cluster: &str) -> String {
    if cluster.starts_with("clusters/") { cluster.to_owned() } else { format!("clusters/{cluster}") }
}

/// A public key from a PEM file, as DER.
fn read_key(path: &Path) -> Result<Vec<u8>> {
    let text = std::fs::read_to_string(path)
        .map_err(|fault| output::unreadable(path, &fault, "name a public key's PEM file for --revocation-key"))?;
    Ok(verify::key_from_pem(&text).map_err(|fault| fault.while_doing(path.display()))?.spki_der())
}

pub(super) fn row(cluster: &v1::Cluster) -> Value {
    json!({
        "name": cluster.name,
        "guid": cluster.guid,
        "url": cluster.url,
        "mode": cluster.mode,
        "seal_profile": cluster.seal_profile,
        "slc_key": cluster.slc_key,
        "server_name": cluster.server_name,
        "product": format!("{} {}", cluster.sku, cluster.version),
        "state": cluster.state,
        "issues_from": output::time(cluster.issue_from_time),
        "issues_until": output::time(cluster.issue_until_time),
        "created": output::time(cluster.create_time),
    })
}
