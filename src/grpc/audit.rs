//! The service `Audit`.

use std::pin::Pin;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::audit::chain::Head;
use crate::audit::merkle::{Frontier, TreeHash};
use crate::custody::DEADLINE_S;
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
        let head = self.custody.export(permit).await.map_err(status::status)?;
        let (send, receive) = mpsc::channel(4);
        let door = self.clone();
        tokio::spawn(async move {
            let sent = door.export(&head, &send).await;
            if let Err(fault) = sent {
                let _ = send.send(Err(status::status(fault))).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}

impl Door {
    /// Sends the records up to a head, and a checkpoint over just what was sent.
    async fn export(&self, head: &Head, send: &mpsc::Sender<Result<v1::ExportLogResponse, Status>>) -> Result<()> {
        let mut frontier = Frontier::default();
        let mut at = Head::empty(head.log.clone());
        while at.size < head.size {
            let count = u32::try_from(head.size - at.size).unwrap_or(u32::MAX).min(EXPORT_RECORDS);
            let records = self.custody.records(at.size, count).await?;
            for record in &records {
                at.follow(record)?;
                frontier.append(TreeHash::leaf(record), |_, _, _| {});
            }
            if send.send(Ok(v1::ExportLogResponse { records, ..Default::default() })).await.is_err() {
                return Ok(());
            }
        }
        if at != *head {
            return Err(Error::new(Reason::RecordBroken, "the stored records do not lead to the log's head"));
        }
        let deadline = Instant::now() + Duration::from_secs(DEADLINE_S);
        let checkpoint = self.custody.checkpoint(head, frontier.root(), deadline).await?.to_string();
        let trust = self.audit_trust.to_string();
        let _ = send.send(Ok(v1::ExportLogResponse { records: Vec::new(), checkpoint, trust })).await;
        Ok(())
    }
}
