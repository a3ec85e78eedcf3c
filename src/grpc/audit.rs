//! The service `Audit`.

use std::pin::Pin;

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::audit::chain::Head;
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
        let start = request.into_inner().start;
        let asked = Asked { operation: Operation::ExportLog, cluster: None, signs: None };
        let permit = match permit(&caller, &asked) {
            Ok(permit) => permit,
            Err(refusal) => return Err(self.refused(&caller, Operation::ExportLog, "log", refusal).await),
        };
        let head = self.custody.export(permit).await.map_err(status::status)?;
        let (send, receive) = mpsc::channel(4);
        let door = self.clone();
        tokio::spawn(async move {
            let mut next = start;
            while next < head.size {
                let count = u32::try_from(head.size - next).unwrap_or(u32::MAX).min(EXPORT_RECORDS);
                let records = door.custody.records(next, count).await;
                next += records.as_ref().map_or(0, |records| records.len() as u64);
                let message =
                    records.map(|records| v1::ExportLogResponse { records, head: None }).map_err(status::status);
                let last = message.is_err();
                if send.send(message).await.is_err() || last {
                    return;
                }
            }
            let end = v1::ExportLogResponse { records: Vec::new(), head: Some(message(&head)) };
            let _ = send.send(Ok(end)).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}

fn message(head: &Head) -> v1::LogHead {
    v1::LogHead { log: head.log.clone(), size: head.size, chain: head.chain.0.to_vec(), time_us: head.time_us }
}
