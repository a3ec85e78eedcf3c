//! What `Audit` proves and signs: checkpoints, proofs, and the change of the audit key.

use tonic::{Response, Status};

use crate::caller::Caller;
use crate::enrollment::instance;
use crate::error::{Error, Reason, Result};
use crate::grpc::{Door, v1};
use crate::policy::{Asked, Operation, Permit, permit};

impl Door {
    fn permit_on_log(&self, caller: &Caller, operation: Operation) -> Result<Permit> {
        permit(caller, &Asked { operation, cluster: None, signs: None })
    }

    pub(super) async fn signed_end(&self, caller: &Caller) -> Result<v1::Checkpoint> {
        self.permit_on_log(caller, Operation::ExportLog)?;
        let note = self.custody.checkpoint().await?.to_string();
        Ok(v1::Checkpoint { note, trust: self.custody.trust()?.to_string() })
    }

    pub(super) async fn proof_of_entry(&self, caller: &Caller, name: &str) -> Result<v1::ProveEntryResponse> {
        self.permit_on_log(caller, Operation::ExportLog)?;
        let seq = self.place(name)?;
        Ok(v1::ProveEntryResponse { proof: self.custody.prove_entry(seq).await?.to_string() })
    }

    pub(super) async fn proof_of_consistency(&self, caller: &Caller, old: i64) -> Result<v1::ProveConsistencyResponse> {
        self.permit_on_log(caller, Operation::ExportLog)?;
        let old = u64::try_from(old).map_err(|_| Error::new(Reason::InvalidArgument, "a size is not negative"))?;
        Ok(v1::ProveConsistencyResponse { proof: self.custody.prove_consistency(old).await?.to_string() })
    }

    pub(super) async fn recorded_backup(
        &self,
        caller: &Caller,
        manifest_sha256: &str,
    ) -> Result<v1::RecordBackupResponse> {
        let permit = self.permit_on_log(caller, Operation::BackUp)?;
        let proof = self.custody.record_backup(permit, manifest_sha256).await?;
        Ok(v1::RecordBackupResponse { proof: proof.to_string() })
    }

    pub(super) async fn rotate(&self, caller: &Caller) -> Result<v1::RotateAuditKeyResponse> {
        let (key, trust) = instance::rotate_audit_key(&self.custody, caller).await?;
        Ok(v1::RotateAuditKeyResponse { key, trust: trust.to_string() })
    }

    pub(super) async fn countersigned(
        &self,
        caller: &Caller,
        request: &v1::CountersignCheckpointRequest,
    ) -> Result<v1::Checkpoint> {
        let permit = self.permit_on_log(caller, Operation::Countersign)?;
        let (proof, trust) = (request.proof.parse()?, request.trust.parse()?);
        let note = self.custody.countersign(permit, &proof, &trust).await?.to_string();
        Ok(v1::Checkpoint { note, trust: self.custody.trust()?.to_string() })
    }

    /// The answer, or the refusal once it is recorded.
    pub(super) async fn answer<T>(
        &self,
        caller: &Caller,
        operation: Operation,
        target: &str,
        done: Result<T>,
    ) -> Result<Response<T>, Status> {
        match done {
            Ok(done) => Ok(Response::new(done)),
            Err(refusal) => Err(self.refused(caller, operation, target, refusal).await),
        }
    }

    /// The place in a record's resource name.
    fn place(&self, name: &str) -> Result<u64> {
        let mut parts = name.split('/');
        let own = self.custody.store().head().log;
        match (parts.next(), parts.next(), parts.next(), parts.next().map(str::parse), parts.next()) {
            (Some("logs"), Some(log), Some("entries"), Some(Ok(seq)), None) if log == "-" || log == own => Ok(seq),
            (Some("logs"), Some(_), Some("entries"), Some(Ok(_)), None) => {
                Err(Error::new(Reason::NotFound, format!("this instance writes log {own} and reads no other")))
            }
            _ => Err(Error::new(Reason::InvalidArgument, "a record's name is logs/{log}/entries/{seq}")),
        }
    }
}
