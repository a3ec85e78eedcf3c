//! The bare signing loop of a TPM.

use std::time::{Duration, Instant};

use tss_esapi::interface_types::algorithm::HashingAlgorithm;
use tss_esapi::structures::{HashScheme, SignatureScheme};

use super::TpmToken;
use crate::token::bare::{Rate, times};
use crate::token::{Failure, KeyRef};

impl TpmToken {
    /// Signs for so long, one TPM2_Sign after the other in the session that the token has. RSA keys only.
    ///
    /// # Errors
    /// The device's answer.
    pub fn bare(&self, key: &KeyRef, duration: Duration) -> Result<Rate, Failure> {
        self.with_key(key, |connection, handle| {
            let scheme = SignatureScheme::RsaSsa { hash_scheme: HashScheme::new(HashingAlgorithm::Sha256) };
            let start = Instant::now();
            let signed = times(start, duration, || connection.sign(handle, scheme, &[0x5a; 32]).map(drop))?;
            Ok(Rate::of(signed, start))
        })
    }
}
