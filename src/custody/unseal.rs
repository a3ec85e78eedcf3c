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
    let (bits, is_ciphertext) = askable(bits, recipient.modulus_be());
    sealed::open(&bits, recipient, bound, profile, instead, |block| match token.decrypt(key, padding, block) {
        Ok(message) => Ok(Some(message).filter(|_| is_ciphertext)),
        Err(failure) if matches!(failure.class, Class::Caller | Class::Undecided) => Ok(None::<Secret>),
        Err(failure) => Err(failure.into()),
    })
}

/// A sealed key as a token is asked with it, and whether its RSA block is a ciphertext of this modulus at all. What is too
/// short for any key is filled up; what is not below the modulus, which tokens refuse without any work, is brought below
/// it, and what comes of that counts for nothing.
fn askable(bits: &EnablingBits, modulus: &[u8]) -> (EnablingBits, bool) {
    let mut bits = bits.clone();
    if bits.raw.len() < modulus.len() {
        bits.raw.resize(modulus.len(), 0);
    }
    let is_ciphertext = bits.raw[..modulus.len()] < *modulus;
    if !is_ciphertext {
        bits.raw[0] = 0;
    }
    (bits, is_ciphertext)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_asked_with_a_ciphertext_of_its_modulus_whatever_came() {
        let modulus = [0xc5u8; 128];
        let sealed = |raw: &[u8]| EnablingBits { form: SealForm::V1, raw: raw.to_vec() };
        for (raw, is_ciphertext) in [
            (vec![0xc4; 200], true),
            (vec![0xc5; 200], false),
            (vec![0xff; 128], false),
            (vec![0xff; 5], false),
            (vec![7; 5], true),
            (vec![], true),
        ] {
            let (asked, is) = askable(&sealed(&raw), &modulus);
            assert!(asked.raw[..128] < modulus[..], "{raw:?}");
            assert_eq!((is, asked.raw.len()), (is_ciphertext, raw.len().max(128)), "{raw:?}");
            assert_eq!(asked.raw[1..raw.len().max(1)], raw[raw.len().min(1)..], "{raw:?}");
        }
    }

    #[test]
    fn a_stand_in_is_the_same_for_the_same_sealed_key_and_differs_between_them_and_processes() {
        let (one, other) = (StandIn::new().unwrap(), StandIn::new().unwrap());
        assert_eq!(one.of(b"sealed"), one.of(b"sealed"));
        assert_ne!(one.of(b"sealed"), one.of(b"Sealed"));
        assert_ne!(one.of(b"sealed"), other.of(b"sealed"));
    }
}
