//! Opening a sealed key with the private half in a token: one path and the same token calls whatever is wrong with it.

use aws_lc_rs::hmac;

use crate::clock;
use crate::error::{Error, Reason, Result};
use crate::key::PublicKey;
use crate::secret::Secret;
use crate::token::{Class, KeyRef, Padding, Token};
use crate::xrml::element::{EnablingBits, SealForm};
use crate::xrml::sealed::{self, Payload, SealProfile};

/// What stands in for the session key of a sealed key whose RSA layer does not decrypt (implicit rejection). It is
/// derived from the sealed key by a secret that is outside of every token, so that the same sealed key fails in the same
/// way each time, and nobody can foresee how.
pub struct StandIn(hmac::Key);

impl StandIn {
    /// With a fresh secret, good for the life of the process.
    ///
    /// # Errors
    /// `INTERNAL` if the system's random source fails.
    pub fn new() -> Result<Self> {
        Ok(StandIn(hmac::Key::new(hmac::HMAC_SHA256, &zeroize::Zeroizing::new(clock::random::<32>()?)[..])))
    }

    fn of(&self, sealed: &[u8]) -> [u8; 32] {
        let mut bytes = [0u8; 32];
        bytes.copy_from_slice(hmac::sign(&self.0, sealed).as_ref());
        bytes
    }
}

/// Opens a sealed key with a key of this token. Whatever the sealed key is, the token is asked to decrypt once, with as
/// many bytes as the modulus has; whether it could, and whether it hides that it could not, makes no difference to what
/// follows.
///
/// # Errors
/// `UNSEAL_FAILED`, in the same words for every fault of the sealed key; the token's if it did not try.
pub fn unseal(
    token: &dyn Token,
    key: &KeyRef,
    bits: &EnablingBits,
    bound: &str,
    profile: &SealProfile,
    stand_in: &StandIn,
) -> Result<Payload> {
    let PublicKey::Rsa(recipient) = &key.public else {
        return Err(Error::new(Reason::Internal, "sealed keys are opened with RSA keys"));
    };
    let padding = match profile.form {
        SealForm::V1 => Padding::Pkcs1,
        SealForm::V2 => Padding::Oaep(profile.oaep),
    };
    let instead = stand_in.of(&bits.raw);
    let mut bits = bits.clone();
    let modulus_bytes = recipient.modulus_be().len();
    if bits.raw.len() < modulus_bytes {
        // Too short for any key: the token is asked all the same.
        bits.raw.resize(modulus_bytes, 0);
    }
    sealed::open(&bits, recipient, bound, profile, instead, |block| match token.decrypt(key, padding, block) {
        Ok(message) => Ok(Some(message)),
        Err(failure) if failure.class == Class::Caller => Ok(None::<Secret>),
        Err(failure) => Err(failure.into()),
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_stand_in_is_the_same_for_the_same_sealed_key_and_differs_between_them_and_processes() {
        let (one, other) = (StandIn::new().unwrap(), StandIn::new().unwrap());
        assert_eq!(one.of(b"sealed"), one.of(b"sealed"));
        assert_ne!(one.of(b"sealed"), one.of(b"Sealed"));
        assert_ne!(one.of(b"sealed"), other.of(b"sealed"));
    }
}
