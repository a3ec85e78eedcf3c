//! Sealed keys, the content of ENABLINGBITS: layout, both forms, and the hash that binds a key to its document
//! (MS-RMPR 2.2.9.1.13; what that leaves open is fixed by a [`SealProfile`]).

use aes::cipher::{Block, BlockCipherDecrypt, BlockCipherEncrypt, KeyInit};
use aes::{Aes128, Aes192, Aes256};
use aws_lc_rs::hmac;
use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use rsa::BoxedUint;
use serde::{Deserialize, Serialize};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq, ConstantTimeLess};
use zeroize::Zeroizing;

use super::element::{EnablingBits, SealForm};
use super::signature::digest_text;
use crate::error::{Error, Reason, Result};
use crate::key::{Hash, RsaPublicKey};
use crate::secret::Secret;

/// Longest sealed key in bytes: an RSA-2048 private key under RSA-4096 has below 2 000.
pub const SEALED_BYTES_MAX: usize = 4096;
/// Bytes of UDEBHeader.
const ENVELOPE_HEADER: usize = 16;
/// Bytes of KeyHeader.
const KEY_HEADER: usize = 12;
/// Mode field of a key used in ECB, the only one that older clients write.
const MODE_ECB: u16 = 0xFFFF;
const BLOCK: usize = 16;

/// How the diagram of KeyHeader's Flags is read. The word says AES and ECB either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FlagBits {
    /// Bit 0 of the diagram is the most significant: 0x00001001.
    MsbFirst,
    /// Bit 0 of the diagram is the least significant: 0x80080000.
    LsbFirst,
}

/// The text over which the binding hash goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BoundText {
    /// UTF-16LE of the element as written, as signatures do it.
    Utf16Element,
}

/// What the published format leaves open, fixed for a cluster when it is made. There is no fallback on reading.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealProfile {
    /// Which form is written, and the only one that is read.
    pub form: SealForm,
    /// Hash of OAEP and of its mask generation; the label is empty. Without meaning in the first form.
    pub oaep: Hash,
    /// Flags of KeyHeader as written; not looked at on reading.
    pub flags: FlagBits,
    /// The text that is hashed.
    pub bound: BoundText,
}

impl SealProfile {
    /// The profile of a form with what we take to be most likely for the rest.
    #[must_use]
    pub const fn of(form: SealForm, oaep: Hash) -> Self {
        SealProfile { form, oaep, flags: FlagBits::MsbFirst, bound: BoundText::Utf16Element }
    }
}

/// The symmetric key of a content: AES-128, AES-192 or AES-256, and the mode in which applications use it.
#[derive(Debug)]
pub struct ContentKey {
    key: Secret,
    mode: u16,
}

impl ContentKey {
    /// Takes a key for use in ECB mode.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` unless it has 16, 24 or 32 bytes.
    pub fn new(key: Vec<u8>) -> Result<Self> {
        ContentKey::with_mode(Secret::new(key), MODE_ECB)
    }

    fn with_mode(key: Secret, mode: u16) -> Result<Self> {
        if ![16, 24, 32].contains(&key.expose().len()) {
            return Err(Error::new(Reason::InvalidArgument, "a content key has 16, 24 or 32 bytes"));
        }
        Ok(ContentKey { key, mode })
    }

    /// The key's bytes.
    #[must_use]
    pub fn key(&self) -> &Secret {
        &self.key
    }

    /// The mode field of KeyHeader: 0xFFFF ECB, 0xFFFE to 0xFFFC the CBC modes.
    #[must_use]
    pub fn mode(&self) -> u16 {
        self.mode
    }
}

/// What is sealed.
#[derive(Debug)]
pub enum Payload {
    /// A content key.
    Content(ContentKey),
    /// An RSA private key of that many bits, DER of RSAPrivateKey. The layout is ours: the published one is unknown.
    Private {
        /// Bits of the modulus.
        bits: u16,
        /// The DER.
        der: Secret,
    },
}

impl Payload {
    /// KeyHeader and key.
    fn bytes(&self, flags: FlagBits) -> Result<Zeroizing<Vec<u8>>> {
        match self {
            Payload::Content(content) => key_blob(content.key.expose(), content.mode, None, flags),
            Payload::Private { bits, der } => key_blob(der.expose(), MODE_ECB, Some(*bits), flags),
        }
    }

    /// Reads KeyHeader and key; a symmetric key is told by its size.
    fn read(bytes: &[u8]) -> Option<Payload> {
        let (header, key) = bytes.split_at_checked(KEY_HEADER)?;
        let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
        let bits = word(4);
        if usize::from(word(0)) != bytes.len() {
            return None;
        }
        if [128, 192, 256].contains(&bits) {
            let key = (key.len() * 8 == usize::from(bits)).then(|| Secret::new(key.to_vec()))?;
            return ContentKey::with_mode(key, word(2)).ok().map(Payload::Content);
        }
        [1024, 2048].contains(&bits).then(|| Payload::Private { bits, der: Secret::new(key.to_vec()) })
    }
}

fn key_blob(key: &[u8], mode: u16, rsa_bits: Option<u16>, flags: FlagBits) -> Result<Zeroizing<Vec<u8>>> {
    let too_long = |_| Error::new(Reason::InvalidArgument, "the key to seal is too long");
    let size = u16::try_from(KEY_HEADER + key.len()).map_err(too_long)?;
    let bits = match rsa_bits {
        Some(bits) => bits,
        None => u16::try_from(key.len() * 8).map_err(too_long)?,
    };
    let (block, flags) = match (rsa_bits, flags) {
        (Some(_), _) => (0u16, 0u32),
        (None, FlagBits::MsbFirst) => (16, 0x0000_1001),
        (None, FlagBits::LsbFirst) => (16, 0x8008_0000),
    };
    let header = [size, mode, bits, block].map(u16::to_le_bytes).concat();
    Ok(Zeroizing::new([&header[..], &flags.to_le_bytes(), key].concat()))
}

/// Seals a key to a recipient and binds it to a text, with a fresh AES-128 session key.
///
/// `seed` must come from the system's random source and serve this one call: session key and padding are drawn from it.
///
/// # Errors
/// `INVALID_ARGUMENT` if the recipient's key does not fit the form (OAEP needs 2048 bits), or `INTERNAL`.
pub fn seal(
    payload: &Payload,
    recipient: &RsaPublicKey,
    bound: &str,
    profile: &SealProfile,
    seed: [u8; 32],
) -> Result<EnablingBits> {
    let mut random = stream(&Zeroizing::new(seed));
    let session = Secret::new(random.by_ref().take(16).collect());
    let message = key_blob(session.expose(), MODE_ECB, None, profile.flags)?;
    let block = match profile.form {
        SealForm::V1 => encrypt_pkcs1(&message, recipient, random)?,
        SealForm::V2 => encrypt_oaep(&message, recipient, profile.oaep)?,
    };

    let payload = payload.bytes(profile.flags)?;
    let hash = bound_hash(bound, profile);
    let size = u32::try_from(payload.len() + hash.len())
        .map_err(|_| Error::new(Reason::InvalidArgument, "the key to seal is too long"))?;
    let mut tail = Zeroizing::new(Vec::with_capacity(ENVELOPE_HEADER + payload.len() + hash.len() + BLOCK));
    tail.extend_from_slice(&version(profile.form).to_le_bytes());
    tail.extend_from_slice(&size.to_le_bytes());
    tail.extend_from_slice(&[0; 8]);
    tail.extend_from_slice(&payload);
    tail.extend_from_slice(&hash);
    let length = tail.len().next_multiple_of(BLOCK);
    tail.resize(length, 0);
    encrypt_blocks(&session, &mut tail)?;
    Ok(EnablingBits { form: profile.form, raw: [&block[..], &tail].concat() })
}

/// Opens a sealed key. `decrypt` has the private half: it gets the RSA block, answers `None` if the padding is wrong, and
/// an error only if it could not try.
///
/// A wrong padding is not the end: the work goes on with `instead`, 32 fresh random bytes, as the session key and fails
/// where a wrong key fails, so that answer and time do not tell what was wrong.
///
/// # Errors
/// `UNSEAL_FAILED`, the same for every cause, or the error of `decrypt`.
pub fn open(
    bits: &EnablingBits,
    recipient: &RsaPublicKey,
    bound: &str,
    profile: &SealProfile,
    instead: [u8; 32],
    decrypt: impl FnOnce(&[u8]) -> Result<Option<Secret>>,
) -> Result<Payload> {
    let failed = || {
        Error::new(Reason::UnsealFailed, "the sealed key cannot be opened")
            .hint("The license may be meant for another server, or it was changed")
    };
    let Some((block, tail)) = bits.raw.split_at_checked(recipient.modulus_be().len()) else { return Err(failed()) };
    // First of all, so that every license costs the token the same, whatever is wrong with the rest.
    let decrypted = decrypt(block)?;
    let is_form = bits.form == profile.form && bits.raw.len() <= SEALED_BYTES_MAX;
    if !is_form || tail.len() < ENVELOPE_HEADER + KEY_HEADER || !tail.len().is_multiple_of(BLOCK) {
        return Err(failed());
    }
    let instead = Zeroizing::new(instead);
    let (session, is_session) = session_key(decrypted, &instead);
    let mut tail = Zeroizing::new(tail.to_vec());
    decrypt_blocks(&session, &mut tail).map_err(|_| failed())?;
    let (payload, is_tail) = split_tail(&tail, &bound_hash(bound, profile), profile.form);
    if !bool::from(is_session & is_tail) {
        return Err(failed());
    }
    Payload::read(payload).ok_or_else(failed)
}

/// The session key of a decrypted RSA block, or the random one, chosen without a branch on the secret.
fn session_key(decrypted: Option<Secret>, instead: &[u8; 32]) -> (Secret, Choice) {
    let empty = Secret::new(Vec::new());
    let bytes = decrypted.as_ref().unwrap_or(&empty).expose();
    let mut blob = Zeroizing::new([0u8; KEY_HEADER + 32]);
    let length = bytes.len().min(blob.len());
    blob[..length].copy_from_slice(&bytes[..length]);
    let named = if [16, 24, 32].contains(&length.saturating_sub(KEY_HEADER)) { length - KEY_HEADER } else { 16 };
    let size = u16::from_le_bytes([blob[0], blob[1]]);
    let bits = u16::from_le_bytes([blob[4], blob[5]]);
    let is_good = (bytes.len() as u64).ct_eq(&((KEY_HEADER + named) as u64))
        & u64::from(size).ct_eq(&(bytes.len() as u64))
        & u64::from(bits).ct_eq(&(named as u64 * 8));
    // The size of a good key is no secret, for whoever made it wrote it; of anything else not even the size counts.
    let key_bytes = if bool::from(is_good) { named } else { 16 };
    let key: Vec<u8> =
        (0..key_bytes).map(|at| u8::conditional_select(&instead[at], &blob[KEY_HEADER + at], is_good)).collect();
    (Secret::new(key), is_good)
}

/// Splits a decrypted tail into payload and hash and compares the hash; every step is done whatever the one before says.
fn split_tail<'a>(tail: &'a [u8], hash: &[u8], form: SealForm) -> (&'a [u8], Choice) {
    let word = |at: usize| u32::from_le_bytes([tail[at], tail[at + 1], tail[at + 2], tail[at + 3]]);
    let room = tail.len() - ENVELOPE_HEADER;
    let size = word(4);
    let least = u32::try_from(KEY_HEADER + hash.len()).unwrap_or(u32::MAX);
    let most = u32::try_from(room).unwrap_or(0);
    let is_size = !size.ct_lt(&least) & !most.ct_lt(&size);
    let size = usize::try_from(size).unwrap_or(room).min(room).max(hash.len().min(room));
    let (payload, found) = tail[ENVELOPE_HEADER..ENVELOPE_HEADER + size].split_at(size - hash.len().min(size));
    let is_good = word(0).ct_eq(&version(form)) & word(8).ct_eq(&0) & word(12).ct_eq(&0) & is_size & found.ct_eq(hash);
    (payload, is_good)
}

fn version(form: SealForm) -> u32 {
    match form {
        SealForm::V1 => 1,
        SealForm::V2 => 2,
    }
}

fn bound_hash(bound: &str, profile: &SealProfile) -> Vec<u8> {
    match profile.bound {
        BoundText::Utf16Element => digest_text(bound, profile.form.hash()).bytes().to_vec(),
    }
}

/// Any number of bytes from a seed: HMAC-SHA-256 of a counter.
fn stream(seed: &[u8; 32]) -> impl Iterator<Item = u8> + use<> {
    let key = hmac::Key::new(hmac::HMAC_SHA256, seed);
    (0u32..).flat_map(move |counter| {
        let mut block = Zeroizing::new([0u8; 32]);
        block.copy_from_slice(hmac::sign(&key, &counter.to_le_bytes()).as_ref());
        (0..32).map(move |at| block[at])
    })
}

/// RSAES-OAEP (RFC 8017, 7.1) with an empty label. The library draws the padding's seed itself.
fn encrypt_oaep(message: &[u8], recipient: &RsaPublicKey, hash: Hash) -> Result<Vec<u8>> {
    let unfit = || Error::new(Reason::InvalidArgument, "sealing with OAEP needs a key of 2048 bits or more");
    let key = PublicEncryptingKey::from_der(&recipient.spki_der()).map_err(|_| unfit())?;
    let key = OaepPublicEncryptingKey::new(key).map_err(|_| unfit())?;
    let algorithm = match hash {
        Hash::Sha1 => &OAEP_SHA1_MGF1SHA1,
        Hash::Sha256 => &OAEP_SHA256_MGF1SHA256,
    };
    let mut block = vec![0u8; key.ciphertext_size()];
    let length = key.encrypt(algorithm, message, &mut block, None).map_err(|_| unfit())?.len();
    block.truncate(length);
    Ok(block)
}

/// RSAES-PKCS1-v1_5 (RFC 8017, 7.2), also for keys of 1024 bits, which aws-lc-rs does not encrypt to.
fn encrypt_pkcs1(message: &[u8], recipient: &RsaPublicKey, random: impl Iterator<Item = u8>) -> Result<Vec<u8>> {
    let unfit = |_| Error::new(Reason::InvalidArgument, "the recipient's key cannot be encrypted to");
    let length = recipient.modulus_be().len();
    let mut block = Zeroizing::new(vec![0u8; length]);
    let start = length - message.len();
    block[1] = 2;
    let padding = random.filter(|byte| *byte != 0);
    block[2..start - 1].iter_mut().zip(padding).for_each(|(place, byte)| *place = byte);
    block[start..].copy_from_slice(message);
    let modulus = BoxedUint::from_be_slice_vartime(recipient.modulus_be());
    let exponent = BoxedUint::from(recipient.exponent());
    let key = rsa::PublicKey::new(modulus, exponent).map_err(unfit)?;
    let number = BoxedUint::from_be_slice(&block, recipient.bits())
        .map(Zeroizing::new)
        .map_err(|_| Error::new(Reason::Internal, "a padded block is longer than its key"))?;
    let sealed = rsa::hazmat::rsa_encrypt(&key, &number).map_err(unfit)?.to_be_bytes();
    let mut out = vec![0u8; length];
    let sealed = &sealed[sealed.len().saturating_sub(length)..];
    out[length - sealed.len()..].copy_from_slice(sealed);
    Ok(out)
}

/// AES in ECB mode over whole blocks.
pub(super) fn encrypt_blocks(key: &Secret, bytes: &mut [u8]) -> Result<()> {
    fn run<C: KeyInit + BlockCipherEncrypt>(key: &[u8], bytes: &mut [u8]) -> Result<()> {
        let cipher = C::new_from_slice(key).map_err(|_| not_aes())?;
        cipher.encrypt_blocks(Block::<C>::slice_as_chunks_mut(bytes).0);
        Ok(())
    }
    match key.expose().len() {
        16 => run::<Aes128>(key.expose(), bytes),
        24 => run::<Aes192>(key.expose(), bytes),
        32 => run::<Aes256>(key.expose(), bytes),
        _ => Err(not_aes()),
    }
}

/// The reverse of [`encrypt_blocks`].
pub(super) fn decrypt_blocks(key: &Secret, bytes: &mut [u8]) -> Result<()> {
    fn run<C: KeyInit + BlockCipherDecrypt>(key: &[u8], bytes: &mut [u8]) -> Result<()> {
        let cipher = C::new_from_slice(key).map_err(|_| not_aes())?;
        cipher.decrypt_blocks(Block::<C>::slice_as_chunks_mut(bytes).0);
        Ok(())
    }
    match key.expose().len() {
        16 => run::<Aes128>(key.expose(), bytes),
        24 => run::<Aes192>(key.expose(), bytes),
        32 => run::<Aes256>(key.expose(), bytes),
        _ => Err(not_aes()),
    }
}

fn not_aes() -> Error {
    Error::new(Reason::InvalidArgument, "an AES key has 16, 24 or 32 bytes")
}
