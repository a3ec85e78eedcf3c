//! The service `Audit`.

use std::pin::Pin;

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::audit::chain::{ChainHash, Head};
use crate::audit::checkpoint::Checkpoint;
use crate::audit::merkle::{Frontier, TreeHash};
use crate::audit::note::Note;
use crate::error::{Error, Reason, Result};
use crate::grpc::entries::number;
use crate::grpc::{Door, status, v1};
use crate::policy::{Asked, Operation, permit};
use crate::sink::Standing;

/// Records of an export that are read at a time.
const EXPORT_RECORDS: u32 = 256;
/// Bytes of records that fill a message of an export; one more record may go with them. Clients take 4 MiB or more.
const EXPORT_BYTES: usize = 1024 * 1024;

#[tonic::async_trait]
impl v1::audit_server::Audit for Door {
    type ExportLogStream = Pin<Box<dyn Stream<Item = Result<v1::ExportLogResponse, Status>> + Send>>;

    async fn list_entries(
        &self,
        request: Request<v1::ListEntriesRequest>,
    ) -> Result<Response<v1::ListEntriesResponse>, Status> {
        let caller = self.caller(&request).await?;
        let request = request.into_inner();
        match self.entries(&caller, &request).await {
            Ok(page) => Ok(Response::new(page)),
            Err(refusal) => Err(self.refused(&caller, Operation::ReadLog, &request.parent, refusal).await),
        }
    }

    async fn list_sinks(
        &self,
        request: Request<v1::ListSinksRequest>,
    ) -> Result<Response<v1::ListSinksResponse>, Status> {
        let caller = self.caller(&request).await?;
        if let Err(refusal) = permit(&caller, &Asked { operation: Operation::ReadLog, cluster: None, signs: None }) {
            return Err(self.refused(&caller, Operation::ReadLog, "sinks", refusal).await);
        }
        let size = self.custody.store().head().size;
        let sink = |standing: Standing| v1::Sink {
            name: standing.name,
            place: standing.place,
            next_seq: number(standing.next),
            behind: number(size.saturating_sub(standing.next)),
            failing: standing.failing.unwrap_or_default(),
        };
        let sinks = self.sinks.standings().into_iter().map(sink).collect();
        Ok(Response::new(v1::ListSinksResponse { sinks }))
    }

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
        let start = match self.start(request.get_ref()).await {
            Ok(start) => start,
            Err(refusal) => return Err(self.refused(&caller, Operation::ExportLog, "log", refusal).await),
        };
        self.custody.export(permit).await.map_err(status::status)?;
        let checkpoint = self.custody.checkpoint().await.map_err(status::status)?;
        let (send, receive) = mpsc::channel(4);
        let door = self.clone();
        tokio::spawn(async move {
            let sent = door.export(start, &checkpoint, &send).await;
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

    async fn record_backup(
        &self,
        request: Request<v1::RecordBackupRequest>,
    ) -> Result<Response<v1::RecordBackupResponse>, Status> {
        let caller = self.caller(&request).await?;
        let done = self.recorded_backup(&caller, &request.get_ref().manifest_sha256).await;
        self.answer(&caller, Operation::BackUp, "backup", done).await
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
    /// Where an export goes on: behind the records that the caller has, if they are those of this log.
    async fn start(&self, request: &v1::ExportLogRequest) -> Result<u64> {
        let start = u64::try_from(request.start_seq)
            .map_err(|_| Error::new(Reason::InvalidArgument, "start_seq is a number of records"))?;
        let Some(last) = start.checked_sub(1) else { return Ok(0) };
        let ours = match self.custody.store().head().size {
            size if start <= size => self.custody.records(last, 1).await?.first().map(|record| ChainHash::of(record)),
            _ => None,
        };
        if ours.is_some_and(|ours| ours.to_string() == request.start_sha256) {
            return Ok(start);
        }
        let words = format!("the first {start} records that are there already are not those of this log");
        Err(Error::new(Reason::InvalidArgument, words).hint(
            "it is the export of another log, or one of the two was changed: keep both, and export into a new place",
        ))
    }

    /// Sends the records that a checkpoint was signed over and that the caller does not have, and the checkpoint.
    async fn export(
        &self,
        start: u64,
        note: &Note,
        send: &mpsc::Sender<Result<v1::ExportLogResponse, Status>>,
    ) -> Result<()> {
        let signed: Checkpoint = note.text().parse()?;
        let log_size = number(signed.size);
        let mut frontier = Frontier::default();
        let mut at = Head::empty(signed.log.clone());
        while at.size < signed.size {
            let end = if at.size < start { start } else { signed.size };
            let count = u32::try_from(end - at.size).unwrap_or(u32::MAX).min(EXPORT_RECORDS);
            let is_new = at.size >= start;
            let records = self.custody.records(at.size, count).await?;
            for record in &records {
                at.follow(record)?;
                frontier.append(TreeHash::leaf(record), |_, _, _| {});
            }
            let mut records = if is_new { records } else { Vec::new() }.into_iter().peekable();
            // One at least, though it be empty: so the caller sees how far it is, and it is seen when the caller has gone.
            loop {
                let some = message_of(&mut records);
                let message = v1::ExportLogResponse { records: some, log_size, ..Default::default() };
                if send.send(Ok(message)).await.is_err() {
                    return Ok(());
                }
                if records.peek().is_none() {
                    break;
                }
            }
        }
        if (at.chain, frontier.root()) != (signed.chain, signed.root) {
            return Err(Error::new(Reason::RecordBroken, "the stored records do not lead to the log's checkpoint"));
        }
        let (checkpoint, trust) = (note.to_string(), self.custody.trust()?.to_string());
        let _ = send.send(Ok(v1::ExportLogResponse { records: Vec::new(), checkpoint, trust, log_size })).await;
        Ok(())
    }
}

/// The records of the next message.
fn message_of(records: &mut impl Iterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    let mut room = EXPORT_BYTES;
    let mut of = Vec::new();
    while room > 0
        && let Some(record) = records.next()
    {
        room = room.saturating_sub(record.len());
        of.push(record);
    }
    of
}
