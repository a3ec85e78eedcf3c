//! Keys of custody: identity, role, mode and state. No key material but the public half.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use crate::clock;
use crate::error::{Error, Reason, Result};

/// Identity of a key in its token: the 20 random bytes of CKA_ID, made together with the key.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyId(pub [u8; 20]);

impl KeyId {
    /// A fresh identity.
    ///
    /// # Errors
    /// `INTERNAL` if the system's random source fails.
    pub fn random() -> Result<Self> {
        Ok(KeyId(clock::random()?))
    }
}

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl std::str::FromStr for KeyId {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut id = [0u8; 20];
        hex::decode_to_slice(text, &mut id)
            .map_err(|_| Error::new(Reason::InvalidArgument, "a key id is 40 hexadecimal digits"))?;
        Ok(KeyId(id))
    }
}

impl Serialize for KeyId {
    fn serialize<S: serde::Serializer>(&self, s: S) -> std::result::Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for KeyId {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What a key is for. Never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyRole {
    /// Server licensor key of a cluster: signs documents and opens sealed keys.
    Slc,
    /// Root of an authority's hierarchy: its public half is what verifiers pin.
    Root,
    /// Certificate authority below the root.
    Ca,
    /// Enrollment authority below that.
    EnrollmentCa,
    /// Enrollment service: signs server licensor certificates.
    EnrollmentService,
    /// Signs the log's checkpoints and nothing else.
    Audit,
    /// Signs the TLS certificates of servers and nodes and nothing else.
    TlsCa,
    /// Tries out a token; never signs anything that counts.
    Probe,
}

impl KeyRole {
    /// The name in records and on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            KeyRole::Slc => "slc",
            KeyRole::Root => "root",
            KeyRole::Ca => "ca",
            KeyRole::EnrollmentCa => "enrollment-ca",
            KeyRole::EnrollmentService => "enrollment-service",
            KeyRole::Audit => "audit",
            KeyRole::TlsCa => "tls-ca",
            KeyRole::Probe => "probe",
        }
    }

    /// The key pair that a key of this role is, in a mode. The audit log and TLS are outside the license hierarchy and
    /// use P-256.
    #[must_use]
    pub const fn algorithm(self, mode: Mode) -> KeyAlgorithm {
        match self {
            KeyRole::Audit | KeyRole::TlsCa => KeyAlgorithm::P256,
            _ => KeyAlgorithm::Rsa(mode.modulus_bits()),
        }
    }

    /// Whether the private key may sign.
    #[must_use]
    pub const fn signs(self) -> bool {
        true
    }

    /// Whether the private key may decrypt.
    #[must_use]
    pub const fn decrypts(self) -> bool {
        matches!(self, KeyRole::Slc | KeyRole::Probe)
    }
}

/// Hash functions of the field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hash {
    /// SHA-1: Mode 1, and OAEP where the token has nothing better.
    Sha1,
    /// SHA-256.
    Sha256,
}

impl Hash {
    /// Length of the digest in bytes.
    #[must_use]
    pub const fn bytes(self) -> usize {
        match self {
            Hash::Sha1 => 20,
            Hash::Sha256 => 32,
        }
    }

    /// DER prefix of DigestInfo (RFC 8017, 9.2 note 1).
    #[must_use]
    pub const fn digest_info(self) -> &'static [u8] {
        match self {
            Hash::Sha1 => &[0x30, 0x21, 0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00, 0x04, 0x14],
            Hash::Sha256 => &[
                0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05, 0x00,
                0x04, 0x20,
            ],
        }
    }
}

/// Cryptographic mode of a cluster and its key (MS-RMPR 3.1.4.7). Never changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// RSA-1024 with SHA-1.
    #[serde(rename = "mode-1")]
    One,
    /// RSA-2048 with SHA-256.
    #[serde(rename = "mode-2")]
    Two,
}

impl Mode {
    /// The name in records and on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Mode::One => "mode-1",
            Mode::Two => "mode-2",
        }
    }

    /// Bits of the cluster's modulus.
    #[must_use]
    pub const fn modulus_bits(self) -> u32 {
        match self {
            Mode::One => 1024,
            Mode::Two => 2048,
        }
    }

    /// Hash under its signatures.
    #[must_use]
    pub const fn hash(self) -> Hash {
        match self {
            Mode::One => Hash::Sha1,
            Mode::Two => Hash::Sha256,
        }
    }
}

/// Life of a key. Records are never deleted; a state moves only as [`KeyState::may_become`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyState {
    /// Made, not yet proved or not yet enrolled.
    Pending,
    /// In use.
    Active,
    /// Opens old content, signs nothing.
    Archived,
    /// In no use until a person decides.
    Disabled,
    /// The token does not show it.
    Missing,
}

impl KeyState {
    /// The name in records and on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            KeyState::Pending => "pending",
            KeyState::Active => "active",
            KeyState::Archived => "archived",
            KeyState::Disabled => "disabled",
            KeyState::Missing => "missing",
        }
    }

    /// Whether the life of a key allows this step.
    #[must_use]
    pub const fn may_become(self, next: KeyState) -> bool {
        use KeyState::{Active, Archived, Disabled, Missing, Pending};
        matches!(
            (self, next),
            (Pending, Active | Disabled | Missing)
                | (Active, Archived | Disabled | Missing)
                | (Archived, Disabled | Missing)
                | (Disabled, Active | Archived | Missing)
                | (Missing, Pending | Active | Archived | Disabled)
        )
    }
}

/// An RSA public key as big-endian bytes without leading zeros. XrML writes the modulus the other way round:
/// that form has a type of its own in `xrml`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RsaPublicKey {
    #[serde(with = "hex_bytes")]
    modulus: Vec<u8>,
    exponent: u32,
}

impl RsaPublicKey {
    /// Takes a big-endian modulus and the exponent.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for an exponent other than 65537 or a modulus of other than 1024, 2048, 3072 or 4096 bits.
    pub fn new(modulus_be: &[u8], exponent: u32) -> Result<Self> {
        let start = modulus_be.iter().position(|b| *b != 0).unwrap_or(modulus_be.len());
        let modulus = modulus_be[start..].to_vec();
        if exponent != 65537 {
            return Err(Error::new(Reason::InvalidArgument, format!("the public exponent is {exponent}, not 65537")));
        }
        let bits = modulus.len() * 8;
        if ![1024, 2048, 3072, 4096].contains(&bits) || modulus[0] & 0x80 == 0 {
            return Err(Error::new(
                Reason::InvalidArgument,
                format!("a modulus has 1024, 2048, 3072 or 4096 bits; this one has {} bytes", modulus.len()),
            ));
        }
        Ok(RsaPublicKey { modulus, exponent })
    }

    /// The modulus, big-endian, first byte not zero.
    #[must_use]
    pub fn modulus_be(&self) -> &[u8] {
        &self.modulus
    }

    /// The exponent, always 65537.
    #[must_use]
    pub fn exponent(&self) -> u32 {
        self.exponent
    }

    /// Bits of the modulus.
    #[must_use]
    pub fn bits(&self) -> u32 {
        u32::try_from(self.modulus.len() * 8).unwrap_or(u32::MAX)
    }

    /// DER of RSAPublicKey (RFC 8017, A.1.1).
    #[must_use]
    pub fn pkcs1_der(&self) -> Vec<u8> {
        let mut modulus = vec![0u8];
        modulus.extend_from_slice(&self.modulus);
        let body = [der(0x02, &modulus), der(0x02, &[0x01, 0x00, 0x01])].concat();
        der(0x30, &body)
    }

    /// DER of SubjectPublicKeyInfo (RFC 8017, A.1).
    #[must_use]
    pub fn spki_der(&self) -> Vec<u8> {
        const RSA_ENCRYPTION: &[u8] =
            &[0x30, 0x0d, 0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00];
        let mut bits = vec![0u8];
        bits.extend_from_slice(&self.pkcs1_der());
        der(0x30, &[RSA_ENCRYPTION, &der(0x03, &bits)].concat())
    }
}

impl fmt::Debug for RsaPublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RsaPublicKey({} bits, {}…)", self.bits(), hex::encode(&self.modulus[..8]))
    }
}

/// A public key that custody recorded: what verifies, and what a token's key is compared with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "algorithm", rename_all = "kebab-case")]
pub enum PublicKey {
    /// RSA, for the license hierarchy.
    Rsa(RsaPublicKey),
    /// ECDSA over P-256, for keys that never sign XrML.
    P256 {
        /// The point, uncompressed: 0x04, X, Y; 65 bytes (SEC 1, 2.3.3).
        #[serde(with = "hex_bytes")]
        point: Vec<u8>,
    },
}

impl PublicKey {
    /// DER of SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki_der(&self) -> Vec<u8> {
        const P256_ALGORITHM: &[u8] = &[
            0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d,
            0x03, 0x01, 0x07,
        ];
        match self {
            PublicKey::Rsa(key) => key.spki_der(),
            PublicKey::P256 { point } => {
                let bits = [&[0u8], point.as_slice()].concat();
                der(0x30, &[P256_ALGORITHM, &der(0x03, &bits)].concat())
            }
        }
    }
}

impl PublicKey {
    /// PEM of SubjectPublicKeyInfo (RFC 7468): what verifiers pin.
    #[must_use]
    pub fn pem(&self) -> String {
        let text = STANDARD.encode(self.spki_der());
        let mut pem = String::from("-----BEGIN PUBLIC KEY-----\n");
        for line in text.as_bytes().chunks(64) {
            pem.push_str(&String::from_utf8_lossy(line));
            pem.push('\n');
        }
        pem + "-----END PUBLIC KEY-----\n"
    }
}

/// What kind of key pair to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KeyAlgorithm {
    /// RSA with a modulus of this many bits.
    Rsa(u32),
    /// P-256.
    P256,
}

/// DER of an ECDSA signature (RFC 3279, 2.2.3) from r‖s of 64 bytes, as tokens give it; `None` for another length.
#[must_use]
pub fn ecdsa_der(r_s: &[u8]) -> Option<Vec<u8>> {
    let (r, s) = r_s.split_at_checked(32).filter(|(_, s)| s.len() == 32)?;
    Some(der(0x30, &[integer(r), integer(s)].concat()))
}

/// DER of a number that is not negative: no needless zeros in front, and one if it would look negative.
fn integer(bytes: &[u8]) -> Vec<u8> {
    let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len() - 1);
    let digits = &bytes[first..];
    let sign: &[u8] = if digits[0] & 0x80 == 0 { &[] } else { &[0] };
    der(0x02, &[sign, digits].concat())
}

/// One DER element with a definite length below 64 KiB.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len().to_be_bytes();
    let mut out = vec![tag];
    match content.len() {
        0..=0x7f => out.push(length[length.len() - 1]),
        0x80..=0xff => out.extend_from_slice(&[0x81, length[length.len() - 1]]),
        _ => out.extend_from_slice(&[0x82, length[length.len() - 2], length[length.len() - 1]]),
    }
    out.extend_from_slice(content);
    out
}

/// Bytes as lower-case hexadecimal text in records.
pub mod hex_bytes {
    use serde::{Deserialize, Deserializer, Serializer};

    /// Writes bytes as hexadecimal.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(bytes: &[u8], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&hex::encode(bytes))
    }

    /// Reads hexadecimal.
    ///
    /// # Errors
    /// A text that is not hexadecimal.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<u8>, D::Error> {
        hex::decode(String::deserialize(d)?).map_err(serde::de::Error::custom)
    }
}
