//! The services `Nodes` and `Join`.

use tonic::{Request, Response, Status};
use zeroize::Zeroizing;

use crate::caller::{Caller, Principal};
use crate::custody::Page;
use crate::enrollment::join::{self, NewInvitation};
use crate::error::Result;
use crate::grpc::identity::address;
use crate::grpc::{Door, check_name, next_page, page, status, timestamp, v1};
use crate::policy::{Asked, Operation, permit};

#[tonic::async_trait]
impl v1::nodes_server::Nodes for Door {
    async fn invite_node(
        &self,
        request: Request<v1::InviteNodeRequest>,
    ) -> Result<Response<v1::InviteNodeResponse>, Status> {
        let caller = self.caller(&request).await?;
        let request = request.into_inner();
        let new = NewInvitation {
            cluster: request.parent,
            id: request.node_id,
            token_minutes: request.token_minutes,
            certificate_days: request.certificate_days,
        };
        let invited = join::invite(&self.custody, &caller, new).await.map_err(status::status)?;
        Ok(Response::new(v1::InviteNodeResponse {
            node: invited.node,
            secret: invited.secret.to_string(),
            expire_time: Some(timestamp(invited.expires_us)),
            join_server: self.join_endpoint.to_string(),
            ca_pem: self.authority.certificate_pem().to_owned(),
        }))
    }

    async fn get_node(&self, request: Request<v1::GetNodeRequest>) -> Result<Response<v1::Node>, Status> {
        let caller = self.caller(&request).await?;
        let name = request.into_inner().name;
        match self.node(&caller, &name).await {
            Ok(node) => Ok(Response::new(node)),
            Err(refusal) => Err(self.refused(&caller, Operation::ReadNode, &name, refusal).await),
        }
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let caller = self.caller(&request).await?;
        let request = request.into_inner();
        let page = page(request.page_size, &request.page_token);
        let found = match self.nodes(&caller, &request.parent, page).await {
            Ok(found) => found,
            Err(refusal) => return Err(self.refused(&caller, Operation::ReadNode, &request.parent, refusal).await),
        };
        let next_page_token = next_page(&found, page, |principal| &principal.name);
        let nodes = found.iter().map(message).collect();
        Ok(Response::new(v1::ListNodesResponse { nodes, next_page_token }))
    }
}

#[tonic::async_trait]
impl v1::join_server::Join for Door {
    async fn join_cluster(
        &self,
        request: Request<v1::JoinClusterRequest>,
    ) -> Result<Response<v1::JoinClusterResponse>, Status> {
        let address = address(&request);
        let v1::JoinClusterRequest { secret, certificate_request_pem } = request.into_inner();
        let secret = Zeroizing::new(secret);
        let joined = join::join(&self.custody, &self.authority, address, &secret, &certificate_request_pem)
            .await
            .map_err(status::status)?;
        Ok(Response::new(v1::JoinClusterResponse {
            node: Some(message(&joined.principal)),
            certificate_pem: joined.certificate.certificate_pem,
            server: self.endpoint.to_string(),
        }))
    }
}

impl Door {
    async fn nodes(&self, caller: &Caller, cluster: &str, page: Page<'_>) -> Result<Vec<Principal>> {
        check_name(cluster)?;
        permit(caller, &Asked { operation: Operation::ReadNode, cluster: Some(cluster), signs: None })?;
        // A list of nothing would say that the cluster has no nodes.
        self.custody.cluster(cluster).await?;
        self.custody.nodes(cluster, page).await
    }

    async fn node(&self, caller: &Caller, name: &str) -> Result<v1::Node> {
        check_name(name)?;
        let cluster = name.split_once("/nodes/").map(|(cluster, _)| cluster);
        permit(caller, &Asked { operation: Operation::ReadNode, cluster, signs: None })?;
        Ok(message(&self.custody.node(name).await?))
    }
}

fn message(principal: &Principal) -> v1::Node {
    v1::Node {
        name: principal.name.clone(),
        certificate_sha256: principal.certificate_sha256.clone(),
        active: principal.active,
        create_time: Some(timestamp(principal.created_us)),
        certificate_expire_time: Some(timestamp(principal.certificate_expires_us)),
    }
}
