//! The signature of this instance under another log's checkpoint: it says that whoever else it was shown to saw the same
//! log, or one that this one continues.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::audit::chain::ChainHash;
use crate::audit::checkpoint::{self, Checkpoint};
use crate::audit::cosignature;
use crate::audit::merkle::TreeHash;
use crate::audit::note::{Note, VerifierKey};
use crate::audit::proof::ConsistencyProof;
use crate::audit::trust::Trust;
use crate::clock;
use crate::custody::{Custody, DEADLINE_S, performed};
use crate::error::{Error, Reason, Result};
use crate::policy::Permit;
use crate::store::{Batch, Kind, Write};

/// What was countersigned last of a log, by its origin.
#[derive(Debug, Serialize, Deserialize)]
struct Witnessed {
    trust: String,
    checkpoint: String,
}

impl Custody {
    /// Countersigns another log's checkpoint that continues the one before. Which one that was is durable before the
    /// signature leaves, so that no two that contradict each other are signed.
    ///
    /// # Errors
    /// `SIGNATURE_INVALID` if the checkpoint is not the log's, or does not continue what was countersigned before, or the
    /// history of its keys does not; `INVALID_ARGUMENT` for a proof from another size, or for this instance's own log;
    /// `STORE_CONFLICT` if another was countersigned meanwhile; `RECORD_BROKEN` and the like once this instance's own log
    /// does not hold, `CLOCK_BEHIND`, `STORE_CLOSED`; the token's and the store's.
    pub async fn countersign(&self, permit: Permit, proof: &ConsistencyProof, trust: &Trust) -> Result<Note> {
        if trust.log() == self.store.head().log {
            return Err(Error::new(Reason::InvalidArgument, "a log does not countersign its own checkpoints"));
        }
        let _guard = self.may_act().await?;
        let name = checkpoint::origin(trust.log());
        let (earlier, over) = match self.store.get(Kind::Witnessed, &name).await? {
            None => (nothing(trust.log()), 0),
            Some(object) => {
                let seen: Witnessed = object.read()?;
                if !trust.continues(&seen.trust.parse()?) {
                    let words = "these audit keys do not continue those that were countersigned for before";
                    return Err(Error::new(Reason::SignatureInvalid, words));
                }
                (seen.checkpoint.parse::<Note>()?.text().parse()?, object.version)
            }
        };
        let later = proof.verify(&earlier, trust).map_err(|fault| {
            let words = format!("the last one that was countersigned has {} records", earlier.size);
            fault.hint(format!("{words}; prove that the log continues it: keyward audit prove --since"))
        })?;
        let seen = Witnessed { trust: trust.to_string(), checkpoint: proof.checkpoint.to_string() };
        let writes = vec![Write::new(Kind::Witnessed, &name, over, &seen)?];
        let event = performed(permit, &format!("{name} at {}", later.size));
        self.store.commit(Batch { writes, events: vec![event] }).await?;
        let key = self.audit_key().await?;
        let verifier = VerifierKey::new(&checkpoint::origin(&self.store.head().log), &key.record.public)?;
        let time_s = clock::now_us().unsigned_abs() / 1_000_000;
        let asked = cosignature::asked(verifier.name(), time_s, &proof.checkpoint)?;
        let signed = self.sign_note(&key, asked, Instant::now() + Duration::from_secs(DEADLINE_S)).await?;
        let mut note = proof.checkpoint.clone();
        let signature = signed.signatures().first().map(|line| line.bytes.as_slice()).unwrap_or_default();
        cosignature::add(&mut note, &verifier, time_s, signature)?;
        Ok(note)
    }
}

/// What every log continues.
fn nothing(log: &str) -> Checkpoint {
    let (root, chain) = (TreeHash::empty(), ChainHash::ZERO);
    Checkpoint { log: log.to_owned(), size: 0, root, chain, others: Vec::new() }
}
