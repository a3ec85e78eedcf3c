//! The service `Nodes`.

use tonic::{Request, Response, Status};

use crate::caller::{Caller, Principal};
use crate::enrollment::{self, NewNode};
use crate::error::Result;
use crate::grpc::{Door, next_page, page, status, timestamp, v1};
use crate::policy::{Asked, Operation, permit};

#[tonic::async_trait]
impl v1::nodes_server::Nodes for Door {
    async fn create_node(
        &self,
        request: Request<v1::CreateNodeRequest>,
    ) -> Result<Response<v1::CreateNodeResponse>, Status> {
        let caller = self.caller(&request).await?;
        let request = request.into_inner();
        let new = NewNode {
            cluster: request.parent,
            id: request.node_id,
            request_pem: request.certificate_request_pem,
            valid_days: request.valid_days,
        };
        let made =
            enrollment::create_node(&self.custody, &self.authority, &caller, new).await.map_err(status::status)?;
        Ok(Response::new(v1::CreateNodeResponse {
            node: Some(message(&made.principal)),
            certificate_pem: made.certificate.certificate_pem,
            ca_pem: self.authority.certificate_pem().to_owned(),
            server: self.endpoint.to_string(),
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
        let asked = Asked { operation: Operation::ReadNode, cluster: Some(&request.parent), signs: None };
        if let Err(refusal) = permit(&caller, &asked) {
            return Err(self.refused(&caller, Operation::ReadNode, &request.parent, refusal).await);
        }
        let page = page(request.page_size, &request.page_token);
        let found = self.custody.nodes(&request.parent, page).await.map_err(status::status)?;
        let next_page_token = next_page(&found, page, |principal| &principal.name);
        let nodes = found.iter().map(message).collect();
        Ok(Response::new(v1::ListNodesResponse { nodes, next_page_token }))
    }
}

impl Door {
    async fn node(&self, caller: &Caller, name: &str) -> Result<v1::Node> {
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
