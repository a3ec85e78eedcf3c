//! Proofs of what is in the log, each held against the signed checkpoint before it is given out.

use crate::audit::checkpoint::Checkpoint;
use crate::audit::merkle::{TreeHash, consistency_path, inclusion_path, verify_inclusion};
use crate::audit::proof::{ConsistencyProof, LogProof};
use crate::custody::Custody;
use crate::error::{Error, Reason, Result};
use crate::store::ask;

impl Custody {
    /// The proof that the record at a place is in the log, with the record itself as its extra data. It leads to the last
    /// checkpoint, or to a new one where the record is not under that yet.
    ///
    /// # Errors
    /// `NOT_FOUND` if the log has no such record, `RECORD_BROKEN` if it is not the one that was signed; those of
    /// [`Custody::checkpoint`].
    pub async fn prove_entry(&self, seq: u64) -> Result<LogProof> {
        let size = self.store.head().size;
        if seq >= size {
            return Err(Error::new(Reason::NotFound, format!("the log has {size} records and none at place {seq}")));
        }
        let note = self.checkpoint_of(seq + 1).await?;
        let signed: Checkpoint = note.text().parse()?;
        let record = self.records(seq, 1).await?.swap_remove(0);
        let path = ask(self.store.as_ref(), |tree| inclusion_path(seq, signed.size, tree)).await?;
        verify_inclusion(TreeHash::leaf(&record), seq, signed.size, &path, signed.root).map_err(|fault| {
            Error::new(Reason::RecordBroken, format!("record {seq} is not the one that was signed")).detail(fault)
        })?;
        Ok(LogProof { extra: Some(record), index: seq, path, checkpoint: note })
    }

    /// The proof that the log as it ends now continues its first `old` records. Only who has a checkpoint of that size can
    /// tell whether it holds.
    ///
    /// # Errors
    /// `NOT_FOUND` if the log has not so many; those of [`Custody::checkpoint`].
    pub async fn prove_consistency(&self, old: u64) -> Result<ConsistencyProof> {
        let size = self.store.head().size;
        if old > size {
            return Err(Error::new(Reason::NotFound, format!("the log has {size} records, not {old}"))
                .hint("if a checkpoint of that size was signed by this log, records were lost: raise the alarm"));
        }
        let checkpoint = self.checkpoint().await?;
        let signed: Checkpoint = checkpoint.text().parse()?;
        let path = ask(self.store.as_ref(), |tree| consistency_path(old, signed.size, tree)).await?;
        Ok(ConsistencyProof { old, path, checkpoint })
    }
}
