//! The service `Licensing`.

use tonic::{Request, Response, Status};

use crate::grpc::{Door, deadline, status, v1};
use crate::issuance::sign_document;

#[tonic::async_trait]
impl v1::licensing_server::Licensing for Door {
    async fn sign_document(
        &self,
        request: Request<v1::SignDocumentRequest>,
    ) -> Result<Response<v1::SignDocumentResponse>, Status> {
        let caller = self.caller(&request).await?;
        let deadline = deadline(&request);
        let v1::SignDocumentRequest { cluster, body } = request.into_inner();
        let signed = sign_document::sign_document(&self.custody, &caller, &cluster, &body, deadline)
            .await
            .map_err(status::status)?;
        Ok(Response::new(v1::SignDocumentResponse {
            document: signed.document,
            kind: signed.kind.name().to_owned(),
            guid: signed.guid,
            digest: signed.digest.bytes().to_vec(),
        }))
    }
}
