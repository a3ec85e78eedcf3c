//! `keyward cluster`.

use serde_json::{Value, json};

use crate::cli::{Global, connect, key, output};
use crate::error::Result;
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
        Command::Create { id, url } => {
            let cluster = Some(v1::Cluster { url, ..Default::default() });
            let request = v1::CreateClusterRequest { cluster_id: id, cluster };
            let cluster = clusters.create_cluster(request).await.map_err(failed)?.into_inner();
            let request = v1::GetKeyRequest { name: cluster.slc_key.clone() };
            let made = connection.keys().get_key(request).await.map_err(failed)?.into_inner();
            let mut shown = row(&cluster);
            if global.output == output::Format::Json {
                shown["key"] = key::view(&made);
                output::object(global.output, &shown);
            } else {
                output::object(global.output, &shown);
                println!();
                key::evidence(&made);
            }
        }
        Command::Get { cluster } => {
            let request = v1::GetClusterRequest { name: name(&cluster) };
            output::object(global.output, &row(&clusters.get_cluster(request).await.map_err(failed)?.into_inner()));
        }
        Command::List => {
            let mut rows = Vec::new();
            let mut page_token = String::new();
            loop {
                let request = v1::ListClustersRequest { page_size: 0, page_token };
                let page = clusters.list_clusters(request).await.map_err(failed)?.into_inner();
                rows.extend(page.clusters.iter().map(row));
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

fn row(cluster: &v1::Cluster) -> Value {
    json!({
        "name": cluster.name,
        "guid": cluster.guid,
        "url": cluster.url,
        "mode": cluster.mode,
        "seal_profile": cluster.seal_profile,
        "slc_key": cluster.slc_key,
        "created": output::time(cluster.create_time),
    })
}
