//! The private halves of the synthetic hierarchy: what a token or a client would hold.

use std::convert::Infallible;

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use rsa::BoxedUint;
use rsa::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use rsa::rand_core::TryCryptoRng;
use rsa::traits::PublicKeyParts;

use keyward::error::Result;
use keyward::key::{Hash, RsaPublicKey};
use keyward::secret::Secret;
use keyward::xrml::element::SealForm;
use keyward::xrml::sealed::SealProfile;
use keyward::xrml::signature::{self, Root};
use keyward::xrml::text::{Body, Document};
use keyward::xrml::value::SignatureBe;

use super::vectors;

pub(super) struct Key(rsa::PrivateKey);

impl Key {
    pub(super) fn load(mode: &str, name: &str) -> Key {
        let pem = vectors::text(&format!("{mode}/keys/{name}.pem"));
        Key(rsa::PrivateKey::from_pkcs8_pem(&pem).unwrap())
    }

    pub(super) fn public(&self) -> RsaPublicKey {
        RsaPublicKey::new(&self.0.n().to_be_bytes(), 65537).unwrap()
    }

    /// The bare private operation, as a token does it.
    fn raw(&self, number: &[u8]) -> Vec<u8> {
        let length = number.len();
        let number = BoxedUint::from_be_slice(number, self.public().bits()).unwrap();
        let none = None::<&mut dyn TryCryptoRng<Error = Infallible>>;
        let result = rsa::hazmat::rsa_decrypt(none, &self.0, &number).unwrap().to_be_bytes();
        result[result.len() - length..].to_vec()
    }

    /// What a token answers to a decrypt request in a seal profile.
    pub(super) fn decrypt(&self, block: &[u8], profile: &SealProfile) -> Result<Option<Secret>> {
        Ok(match profile.form {
            SealForm::V1 if block >= self.public().modulus_be() => None,
            SealForm::V1 => {
                let plain = self.raw(block);
                let end = plain.iter().skip(2).position(|b| *b == 0).map(|at| at + 2);
                end.filter(|at| plain[..2] == [0, 2] && *at >= 10).map(|at| Secret::new(plain[at + 1..].to_vec()))
            }
            SealForm::V2 => {
                let der = self.0.to_pkcs8_der().unwrap();
                let key = PrivateDecryptingKey::from_pkcs8(der.as_bytes()).unwrap();
                let key = OaepPrivateDecryptingKey::new(key).unwrap();
                let algorithm = if profile.oaep == Hash::Sha1 { &OAEP_SHA1_MGF1SHA1 } else { &OAEP_SHA256_MGF1SHA256 };
                let mut plain = vec![0u8; key.min_output_size()];
                key.decrypt(algorithm, block, &mut plain, None).ok().map(|p| Secret::new(p.to_vec()))
            }
        })
    }

    /// Signs a BODY and completes the document.
    pub(super) fn document(&self, root: Root, body: &Body, hash: Hash) -> Document {
        let digest = signature::digest(body, hash);
        let info = digest.digest_info();
        let length = self.public().modulus_be().len();
        let mut block = vec![0xFF; length];
        block[..2].copy_from_slice(&[0, 1]);
        block[length - info.len() - 1] = 0;
        block[length - info.len()..].copy_from_slice(&info);
        let value = SignatureBe::new(self.raw(&block));
        Document::read(&signature::complete(root, body, &digest, &value)).unwrap()
    }
}

/// The profile of the synthetic seals, as their notes say.
pub(super) fn profile(mode: &str) -> SealProfile {
    match mode {
        "mode1" => SealProfile::of(SealForm::V1, Hash::Sha256),
        _ => SealProfile::of(SealForm::V2, Hash::Sha256),
    }
}

/// Fresh random bytes.
pub(super) fn seed() -> [u8; 32] {
    keyward::clock::random().unwrap()
}
