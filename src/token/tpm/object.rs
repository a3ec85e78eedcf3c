//! Objects of a TPM token: the storage primary, key templates, and the files that hold wrapped keys.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use tss_esapi::Result as TssResult;
use tss_esapi::attributes::{ObjectAttributes, ObjectAttributesBuilder};
use tss_esapi::interface_types::algorithm::{HashingAlgorithm, PublicAlgorithm};
use tss_esapi::interface_types::ecc::EccCurve;
use tss_esapi::interface_types::key_bits::RsaKeyBits;
use tss_esapi::structures::{
    EccPoint, EccScheme, EccSignature, HashScheme, KeyDerivationFunctionScheme, Private, Public, PublicBuilder,
    PublicEccParameters, PublicEccParametersBuilder, PublicKeyRsa, PublicRsaParametersBuilder, RsaExponent, RsaScheme,
    SymmetricDefinitionObject,
};
use tss_esapi::traits::{Marshall, UnMarshall};

use crate::error::{Error, Reason, Result};
use crate::key::{KeyAlgorithm, KeyId, PublicKey, RsaPublicKey, hex_bytes};

/// The storage primary that wraps every key: ECC P-256, AES-128-CFB, made anew from the owner seed at each start,
/// the same as long as nobody clears the TPM.
pub(super) fn storage_primary() -> TssResult<Public> {
    let parameters = PublicEccParametersBuilder::new_restricted_decryption_key(
        SymmetricDefinitionObject::AES_128_CFB,
        EccCurve::NistP256,
    );
    p256(attributes().with_decrypt(true).with_restricted(true).build()?, parameters.build()?)
}

/// The key that attests others: a P-256 primary that signs the TPM's own words and nothing else.
pub(super) fn attestation_primary() -> TssResult<Public> {
    let parameters = ecdsa().with_is_signing_key(true).with_is_decryption_key(false).with_restricted(true);
    p256(attributes().with_sign_encrypt(true).with_restricted(true).build()?, parameters.build()?)
}

/// Template of a key. Unrestricted, and for RSA without a scheme, so that one key signs and decrypts as each call says
/// (P-256 signs with SHA-256, the only form that the software stack's builder takes).
pub(super) fn key(algorithm: KeyAlgorithm, sign: bool, decrypt: bool) -> TssResult<Option<Public>> {
    let attributes = attributes().with_sign_encrypt(sign).with_decrypt(decrypt).build()?;
    let bits = match algorithm {
        KeyAlgorithm::Rsa(1024) => RsaKeyBits::Rsa1024,
        KeyAlgorithm::Rsa(2048) => RsaKeyBits::Rsa2048,
        KeyAlgorithm::Rsa(3072) => RsaKeyBits::Rsa3072,
        KeyAlgorithm::Rsa(4096) => RsaKeyBits::Rsa4096,
        KeyAlgorithm::Rsa(_) => return Ok(None),
        KeyAlgorithm::P256 => {
            let parameters = ecdsa().with_is_signing_key(sign).with_is_decryption_key(decrypt).with_restricted(false);
            return p256(attributes, parameters.build()?).map(Some);
        }
    };
    let parameters = PublicRsaParametersBuilder::new()
        .with_scheme(RsaScheme::Null)
        .with_key_bits(bits)
        .with_exponent(RsaExponent::default())
        .with_is_signing_key(sign)
        .with_is_decryption_key(decrypt)
        .with_restricted(false)
        .build()?;
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Rsa)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_rsa_parameters(parameters)
        .with_rsa_unique_identifier(PublicKeyRsa::default())
        .build()
        .map(Some)
}

/// What every object is: bound to this TPM and parent, made in it, and outside dictionary-attack protection, since its
/// authorization is empty or 32 bytes of hash and an unclean power-off must not count against it.
fn attributes() -> ObjectAttributesBuilder {
    ObjectAttributesBuilder::new()
        .with_fixed_tpm(true)
        .with_fixed_parent(true)
        .with_sensitive_data_origin(true)
        .with_user_with_auth(true)
        .with_no_da(true)
}

/// P-256 that signs by ECDSA with SHA-256.
fn ecdsa() -> PublicEccParametersBuilder {
    PublicEccParametersBuilder::new()
        .with_ecc_scheme(EccScheme::EcDsa(HashScheme::new(HashingAlgorithm::Sha256)))
        .with_curve(EccCurve::NistP256)
        .with_key_derivation_function_scheme(KeyDerivationFunctionScheme::Null)
}

fn p256(attributes: ObjectAttributes, parameters: PublicEccParameters) -> TssResult<Public> {
    PublicBuilder::new()
        .with_public_algorithm(PublicAlgorithm::Ecc)
        .with_name_hashing_algorithm(HashingAlgorithm::Sha256)
        .with_object_attributes(attributes)
        .with_ecc_parameters(parameters)
        .with_ecc_unique_identifier(EccPoint::default())
        .build()
}

/// The public half as the rest of the program knows it.
pub(super) fn public_key(public: &Public) -> Option<PublicKey> {
    match public {
        Public::Rsa { unique, .. } => RsaPublicKey::new(unique.value(), 65537).ok().map(PublicKey::Rsa),
        Public::Ecc { unique, .. } => {
            let mut point = vec![0x04];
            for coordinate in [unique.x().value(), unique.y().value()] {
                point.extend_from_slice(&fixed_32(coordinate)?);
            }
            Some(PublicKey::P256 { point })
        }
        _ => None,
    }
}

/// An ECDSA signature over P-256 as r‖s, 64 bytes.
pub(super) fn r_s(signature: &EccSignature) -> Option<Vec<u8>> {
    let [r, s] = [signature.signature_r(), signature.signature_s()].map(|half| fixed_32(half.value()));
    Some([r?, s?].concat())
}

/// A big-endian number as 32 bytes: TPMs leave leading zeros out or in.
fn fixed_32(number: &[u8]) -> Option<[u8; 32]> {
    let significant = &number[number.iter().position(|b| *b != 0).unwrap_or(number.len())..];
    let mut fixed = [0u8; 32];
    fixed.get_mut(32usize.checked_sub(significant.len())?..)?.copy_from_slice(significant);
    Some(fixed)
}

/// What a token directory says of itself.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenFile {
    pub(super) label: String,
    /// Name of the storage primary: algorithm and SHA-256 of its public area.
    pub(super) primary: String,
}

/// A wrapped key: the private part is encrypted by the TPM and of no use anywhere else.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KeyFile {
    #[serde(with = "hex_bytes")]
    public: Vec<u8>,
    #[serde(with = "hex_bytes")]
    private: Vec<u8>,
    /// For people.
    label: String,
}

impl KeyFile {
    pub(super) fn of(public: &Public, private: &Private, label: &str) -> TssResult<Self> {
        Ok(KeyFile { public: public.marshall()?, private: private.value().to_vec(), label: label.to_owned() })
    }

    pub(super) fn parts(&self) -> TssResult<(Public, Private)> {
        Ok((Public::unmarshall(&self.public)?, Private::try_from(self.private.clone())?))
    }
}

/// Where a key's file is.
pub(super) fn key_path(directory: &Path, id: KeyId) -> PathBuf {
    directory.join(format!("{id}.tpmkey"))
}

/// Reads a file of the token directory; `None` if it is not there.
pub(super) fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(fault(path, &e)),
    };
    serde_json::from_slice(&text).map(Some).map_err(|e| fault(path, &e))
}

/// Writes a new file of the token directory, durably; one that exists is never replaced.
pub(super) fn write<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text = serde_json::to_vec(value).map_err(|e| fault(path, &e))?;
    let written = || -> std::io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::File::open(path.parent().unwrap_or(path))?.sync_all()
    };
    written().map_err(|e| fault(path, &e))
}

fn fault(path: &Path, e: &dyn std::fmt::Display) -> Error {
    Error::new(Reason::DataDirectory, format!("{}: {e}", path.display()))
}
