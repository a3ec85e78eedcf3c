//! Proofs of what is in the log, each held against the signed checkpoint before it is given out.

use crate::audit::checkpoint::Checkpoint;
use crate::audit::merkle::{TreeHash, consistency_path, inclusion_path, verify_inclusion};
use crate::audit::proof::{ConsistencyProof, LogProof};
use crate::custody::{Custody, performed};
use crate::error::{Error, Reason, Result};
use crate::policy::Permit;
use crate::store::{Batch, ask};

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

    /// Records that a backup was made, by the SHA-256 of its list of files, and proves that record.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if that is no SHA-256; those of the store and of [`Custody::checkpoint`].
    pub async fn record_backup(&self, permit: Permit, manifest_sha256: &str) -> Result<LogProof> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if manifest_sha256.len() != 64 || !manifest_sha256.bytes().all(is_digit) {
            return Err(Error::new(Reason::InvalidArgument, "manifest_sha256 is 64 lower-case hexadecimal digits"));
        }
        let event = performed(permit, &format!("sha256:{manifest_sha256}"));
        let seq = self.store.commit(Batch::event(event)).await?;
        self.prove_entry(seq).await
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
