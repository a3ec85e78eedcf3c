//! The service `Enrollment`.

use tonic::{Request, Response, Status};

use crate::enrollment::cluster;
use crate::enrollment::response::{self, Import};
use crate::grpc::{Door, clusters, status, v1};

#[tonic::async_trait]
impl v1::enrollment_server::Enrollment for Door {
    async fn export_enrollment_request(
        &self,
        request: Request<v1::ExportEnrollmentRequestRequest>,
    ) -> Result<Response<v1::ExportEnrollmentRequestResponse>, Status> {
        let caller = self.caller(&request).await?;
        let name = request.into_inner().cluster;
        let exported = cluster::export_request(&self.custody, &caller, &name).await.map_err(status::status)?;
        Ok(Response::new(v1::ExportEnrollmentRequestResponse {
            document: exported.document,
            sha256: exported.fingerprint.sha256,
            words: exported.fingerprint.words,
        }))
    }

    async fn import_enrollment_response(
        &self,
        request: Request<v1::ImportEnrollmentResponseRequest>,
    ) -> Result<Response<v1::Cluster>, Status> {
        let caller = self.caller(&request).await?;
        let request = request.into_inner();
        let import = Import {
            cluster: request.cluster,
            document: request.document,
            pins: request.pins,
            accept: request.accept_differences,
        };
        let cluster = response::import(&self.custody, &caller, import).await.map_err(status::status)?;
        Ok(Response::new(clusters::message(&cluster)))
    }
}
