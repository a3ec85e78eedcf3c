//! The service `Audit`.

use std::pin::Pin;

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::audit::chain::Head;
use crate::audit::checkpoint::Checkpoint;
use crate::audit::merkle::{Frontier, TreeHash};
use crate::audit::note::Note;
use crate::error::{Error, Reason, Result};
use crate::grpc::{Door, status, v1};
use crate::policy::{Asked, Operation, permit};

/// Records in one message of an export. A record is far below 16 KiB.
const EXPORT_RECORDS: u32 = 256;

#[tonic::async_trait]
impl v1::audit_server::Audit for Door {
    type ExportLogStream = Pin<Box<dyn Stream<Item = Result<v1::ExportLogResponse, Status>> + Send>>;

    async fn export_log(
        &self,
        request: Request<v1::ExportLogRequest>,
    ) -> Result<Response<Self::ExportLogStream>, Status> {
        let caller = self.caller(&request).await?;
        let asked = Asked { operation: Operation::ExportLog, cluster: None, signs: None };
        let permit = match permit(&caller, &asked) {
            Ok(permit) => permit,
            Err(refusal) => return Err(self.refused(&caller, Operation::ExportLog, "log", refusal).await),
        };
        self.custody.export(permit).await.map_err(status::status)?;
        let checkpoint = self.custody.checkpoint().await.map_err(status::status)?;
        let (send, receive) = mpsc::channel(4);
        let door = self.clone();
        tokio::spawn(async move {
            let sent = door.export(&checkpoint, &send).await;
            if let Err(fault) = sent {
                let _ = send.send(Err(status::status(fault))).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn get_checkpoint(
        &self,
        request: Request<v1::GetCheckpointRequest>,
    ) -> Result<Response<v1::Checkpoint>, Status> {
        let caller = self.caller(&request).await?;
        let done = self.signed_end(&caller).await;
        self.answer(&caller, Operation::ExportLog, "log", done).await
    }

    async fn prove_entry(
        &self,
        request: Request<v1::ProveEntryRequest>,
    ) -> Result<Response<v1::ProveEntryResponse>, Status> {
        let caller = self.caller(&request).await?;
        let done = self.proof_of_entry(&caller, &request.get_ref().name).await;
        self.answer(&caller, Operation::ExportLog, "log", done).await
    }

    async fn prove_consistency(
        &self,
        request: Request<v1::ProveConsistencyRequest>,
    ) -> Result<Response<v1::ProveConsistencyResponse>, Status> {
        let caller = self.caller(&request).await?;
        let done = self.proof_of_consistency(&caller, request.get_ref().old_size).await;
        self.answer(&caller, Operation::ExportLog, "log", done).await
    }

    async fn rotate_audit_key(
        &self,
        request: Request<v1::RotateAuditKeyRequest>,
    ) -> Result<Response<v1::RotateAuditKeyResponse>, Status> {
        let caller = self.caller(&request).await?;
        let done = self.rotate(&caller).await;
        self.answer(&caller, Operation::RotateAuditKey, "audit key", done).await
    }

    async fn countersign_checkpoint(
        &self,
        request: Request<v1::CountersignCheckpointRequest>,
    ) -> Result<Response<v1::Checkpoint>, Status> {
        let caller = self.caller(&request).await?;
        let done = self.countersigned(&caller, request.get_ref()).await;
        self.answer(&caller, Operation::Countersign, "checkpoint", done).await
    }
}

impl Door {
    /// Sends the records that a checkpoint was signed over, and the checkpoint.
    async fn export(&self, note: &Note, send: &mpsc::Sender<Result<v1::ExportLogResponse, Status>>) -> Result<()> {
        let signed: Checkpoint = note.text().parse()?;
        let mut frontier = Frontier::default();
        let mut at = Head::empty(signed.log.clone());
        while at.size < signed.size {
            let count = u32::try_from(signed.size - at.size).unwrap_or(u32::MAX).min(EXPORT_RECORDS);
            let records = self.custody.records(at.size, count).await?;
            for record in &records {
                at.follow(record)?;
                frontier.append(TreeHash::leaf(record), |_, _, _| {});
            }
            if send.send(Ok(v1::ExportLogResponse { records, ..Default::default() })).await.is_err() {
                return Ok(());
            }
        }
        if (at.chain, frontier.root()) != (signed.chain, signed.root) {
            return Err(Error::new(Reason::RecordBroken, "the stored records do not lead to the log's checkpoint"));
        }
        let (checkpoint, trust) = (note.to_string(), self.custody.trust()?.to_string());
        let _ = send.send(Ok(v1::ExportLogResponse { records: Vec::new(), checkpoint, trust })).await;
        Ok(())
    }
}
