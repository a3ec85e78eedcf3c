//! What a TPM says of a key that it made: TPM2_Certify by a key of the same TPM, and the creation data.

#![allow(unsafe_code)]

use tss_esapi::Error as Tss;
use tss_esapi::handles::{KeyHandle, ObjectHandle};
use tss_esapi::interface_types::resource_handles::Hierarchy;
use tss_esapi::interface_types::session_handles::AuthSession;
use tss_esapi::structures::{CreationData, Data, Signature, SignatureScheme};
use tss_esapi::traits::Marshall;
use tss_esapi::tss2_esys::{TPMS_CREATION_DATA, Tss2_MU_TPMS_CREATION_DATA_Marshal};

use super::fault::failure;
use super::{Connection, object};
use crate::token::{Class, Failure, refusal};

/// Most bytes of creation data: a PCR selection, a digest, two names and 64 bytes of the caller's.
const CREATION_BYTES_MAX: usize = 512;

/// Certified words of a TPM about one of its keys, all of them in the TPM's own byte forms.
pub(super) struct Certified {
    /// TPMT_PUBLIC of the attestation key.
    pub(super) key: Vec<u8>,
    /// TPMS_ATTEST, which holds the name of the certified key and the qualifying data.
    pub(super) info: Vec<u8>,
    /// ECDSA with SHA-256 over `info`: r‖s, 64 bytes.
    pub(super) signature: Vec<u8>,
}

impl Connection {
    /// Has the TPM certify that this key is loaded in it. The attestation key is a restricted P-256 primary of the owner
    /// hierarchy: restricted, so that it signs nothing that only looks like the TPM's own words, and the same each time.
    /// It is bound to no endorsement certificate.
    pub(super) fn certify(&mut self, key: KeyHandle, qualifying: &[u8]) -> Result<Certified, Failure> {
        let certifying = |e: Tss| failure("TPM2_Certify", &e);
        let template = object::attestation_primary().map_err(certifying)?;
        let primary = self
            .context
            .execute_with_nullauth_session(|c| c.create_primary(Hierarchy::Owner, template, None, None, None, None))
            .map_err(|e| failure("TPM2_CreatePrimary", &e))?;
        let ours = Some(self.session);
        let qualifying = Data::try_from(qualifying.to_vec()).map_err(certifying)?;
        let certified = self.context.execute_with_sessions((ours, Some(AuthSession::Password), None), |c| {
            c.certify(key.into(), primary.key_handle, qualifying, SignatureScheme::Null)
        });
        // Three objects fill a TPM without a resource manager.
        let _ = self.context.flush_context(ObjectHandle::from(primary.key_handle));
        let (info, signature) = certified.map_err(certifying)?;
        let signature = match signature {
            Signature::EcDsa(ecdsa) => object::r_s(&ecdsa),
            _ => None,
        };
        let strange = || refusal(Class::Mismatch, "TPM2_Certify", "a signature of another form");
        let bytes = |value: Result<Vec<u8>, Tss>| value.map_err(certifying);
        Ok(Certified {
            key: bytes(primary.out_public.marshall())?,
            info: bytes(info.marshall())?,
            signature: signature.ok_or_else(strange)?,
        })
    }
}

/// TPMS_CREATION_DATA as the TPM hashed it into the creation hash; the binding has no function for it.
pub(super) fn creation_bytes(data: CreationData) -> Result<Vec<u8>, Failure> {
    let data = TPMS_CREATION_DATA::from(data);
    let (mut bytes, mut written) = (vec![0u8; CREATION_BYTES_MAX], 0);
    let room = bytes.len().try_into().unwrap_or_default();
    // SAFETY: the structure and the buffer live through the call, and the buffer's true length is given.
    let code =
        unsafe { Tss2_MU_TPMS_CREATION_DATA_Marshal(&raw const data, bytes.as_mut_ptr(), room, &raw mut written) };
    if code != 0 {
        return Err(refusal(Class::Mismatch, "TPM2_Create", "creation data of another form"));
    }
    bytes.truncate(usize::try_from(written).unwrap_or_default());
    Ok(bytes)
}
