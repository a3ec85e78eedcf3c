//! The service `Clusters`.

use tonic::{Request, Response, Status};

use crate::caller::Caller;
use crate::cluster::Cluster;
use crate::enrollment;
use crate::enrollment::cluster::NewCluster;
use crate::enrollment::response::Chain;
use crate::error::Result;
use crate::grpc::{Door, check_name, deadline, next_page, page, status, timestamp, v1};
use crate::policy::{Asked, Operation, permit};

#[tonic::async_trait]
impl v1::clusters_server::Clusters for Door {
    async fn create_cluster(
        &self,
        request: Request<v1::CreateClusterRequest>,
    ) -> Result<Response<v1::Cluster>, Status> {
        let caller = self.caller(&request).await?;
        let deadline = deadline(&request);
        let v1::CreateClusterRequest { cluster_id, cluster, token } = request.into_inner();
        let cluster = cluster.unwrap_or_default();
        let new = NewCluster {
            id: cluster_id,
            url: cluster.url,
            server_name: cluster.server_name,
            revocation: cluster.revocation_keys,
            token: token.strip_prefix("tokens/").unwrap_or(&token).to_owned(),
        };
        let (cluster, _) = enrollment::cluster::create(&self.custody, &caller, &self.product, new, deadline)
            .await
            .map_err(status::status)?;
        Ok(Response::new(message(&cluster)))
    }

    async fn get_cluster(&self, request: Request<v1::GetClusterRequest>) -> Result<Response<v1::Cluster>, Status> {
        let caller = self.caller(&request).await?;
        let name = request.into_inner().name;
        match self.cluster(&caller, &name).await {
            Ok(cluster) => Ok(Response::new(cluster)),
            Err(refusal) => Err(self.refused(&caller, Operation::ReadCluster, &name, refusal).await),
        }
    }

    async fn list_clusters(
        &self,
        request: Request<v1::ListClustersRequest>,
    ) -> Result<Response<v1::ListClustersResponse>, Status> {
        let caller = self.caller(&request).await?;
        let request = request.into_inner();
        let asked = Asked { operation: Operation::ReadCluster, cluster: None, signs: None };
        if let Err(refusal) = permit(&caller, &asked) {
            return Err(self.refused(&caller, Operation::ReadCluster, "clusters", refusal).await);
        }
        let page = page(request.page_size, &request.page_token);
        let found = self.custody.clusters(page).await.map_err(status::status)?;
        let next_page_token = next_page(&found, page, |cluster| &cluster.name);
        let clusters = found.iter().map(message).collect();
        Ok(Response::new(v1::ListClustersResponse { clusters, next_page_token }))
    }
}

impl Door {
    /// A cluster with its certificates.
    async fn cluster(&self, caller: &Caller, name: &str) -> Result<v1::Cluster> {
        check_name(name)?;
        permit(caller, &Asked { operation: Operation::ReadCluster, cluster: Some(name), signs: None })?;
        let cluster = self.custody.cluster(name).await?;
        let certificate_chain = match &cluster.slc {
            Some(slc) => self.custody.chain::<Chain>(&slc.chain).await?.documents,
            None => Vec::new(),
        };
        Ok(v1::Cluster { certificate_chain, ..message(&cluster) })
    }
}

pub(super) fn message(cluster: &Cluster) -> v1::Cluster {
    v1::Cluster {
        name: cluster.name.clone(),
        guid: format!("{{{}}}", cluster.guid),
        url: cluster.url.clone(),
        mode: cluster.mode.name().to_owned(),
        seal_profile: cluster.seal.name().to_owned(),
        slc_key: cluster.slc_key.clone(),
        create_time: Some(timestamp(cluster.created_us)),
        server_name: cluster.server_name.clone(),
        sku: cluster.sku.clone(),
        version: cluster.version.clone(),
        revocation_keys: cluster.revocation.iter().map(|key| key.spki_der()).collect(),
        state: if cluster.slc.is_some() { "enrolled" } else { "awaiting-enrollment" }.to_owned(),
        issue_from_time: cluster.slc.as_ref().map(|slc| timestamp(slc.from_us)),
        issue_until_time: cluster.slc.as_ref().map(|slc| timestamp(slc.until_us)),
        certificate_chain: Vec::new(),
    }
}
