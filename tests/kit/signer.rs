//! An audit key outside of a token, for logs that a test makes.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use keyward::audit::checkpoint::origin;
use keyward::audit::note::{Note, VerifierKey};
use keyward::audit::trust::Trust;
use keyward::key::PublicKey;

/// A key that stands for the audit key in a token.
pub(crate) struct Signer {
    pair: EcdsaKeyPair,
    pub(crate) key: VerifierKey,
}

impl Signer {
    pub(crate) fn new(log: &str) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = pair.public_key().as_ref().to_vec();
        Signer { key: VerifierKey::new(&origin(log), &PublicKey::P256 { point }).unwrap(), pair }
    }

    pub(crate) fn sign(&self, mut note: Note) -> Note {
        let signature = self.pair.sign(&SystemRandom::new(), note.text().as_bytes()).unwrap();
        note.add(&self.key, signature.as_ref()).unwrap();
        note
    }

    pub(crate) fn trust(&self, log: &str) -> Trust {
        self.sign(Trust::first(log, 0, &self.key).unwrap()).to_string().parse().unwrap()
    }
}
