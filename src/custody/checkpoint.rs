//! Signed statements of where the log ends and which key signs for it.

use std::time::Instant;

use crate::audit::chain::Head;
use crate::audit::checkpoint::{self, Checkpoint};
use crate::audit::merkle::TreeHash;
use crate::audit::note::{Note, VerifierKey};
use crate::audit::trust::Trust;
use crate::custody::Custody;
use crate::error::Result;

/// Resource name of the key that signs checkpoints.
pub const AUDIT_KEY: &str = "keys/audit";

impl Custody {
    /// Signs a checkpoint over a log that ends at `head` and whose tree has this root.
    ///
    /// # Errors
    /// The token's; `NOT_FOUND` if the instance has no audit key.
    pub async fn checkpoint(&self, head: &Head, root: TreeHash, deadline: Instant) -> Result<Note> {
        let checkpoint =
            Checkpoint { log: head.log.clone(), size: head.size, root, chain: head.chain, others: Vec::new() };
        let key = self.key(AUDIT_KEY).await?;
        self.sign_note(&key, checkpoint.note()?, deadline).await
    }

    /// The first entry of the log's history of audit keys: what verifiers are given beforehand.
    ///
    /// # Errors
    /// As [`Custody::checkpoint`].
    pub async fn trust(&self, deadline: Instant) -> Result<Note> {
        let key = self.key(AUDIT_KEY).await?;
        let log = self.store.head().log;
        let verifier = VerifierKey::new(&checkpoint::origin(&log), &key.record.public)?;
        self.sign_note(&key, Trust::first(&log, 0, &verifier)?, deadline).await
    }
}
