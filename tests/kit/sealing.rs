//! Sealed keys that are broken in every way that a token or the layers above it could tell apart.

use aws_lc_rs::rsa::{OAEP_SHA1_MGF1SHA1, OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};
use keyward::clock;
use keyward::key::{Hash, RsaPublicKey};
use keyward::xrml::element::{EnablingBits, SealForm};
use keyward::xrml::sealed::{ContentKey, Payload, SealProfile, seal};
use rsa::BoxedUint;

/// The text that sealed keys of these tests are bound to.
pub(crate) const BOUND: &str = "<ISSUER>the issuer of a test</ISSUER>";
/// The content key in them.
pub(crate) const CONTENT: [u8; 16] = [0x3c; 16];

/// A sealed key that opens.
pub(crate) fn good(key: &RsaPublicKey, profile: &SealProfile) -> EnablingBits {
    let payload = Payload::Content(ContentKey::new(CONTENT.to_vec()).unwrap());
    seal(&payload, key, BOUND, profile, clock::random().unwrap()).unwrap()
}

/// Sealed keys that do not open, by what is wrong with each; fresh ones at every call.
pub(crate) fn broken(key: &RsaPublicKey, profile: &SealProfile) -> Vec<(&'static str, EnablingBits)> {
    let length = key.modulus_be().len();
    let sealed = good(key, profile);
    let (_, tail) = sealed.raw.split_at(length);
    let with_block = |block: Vec<u8>| EnablingBits { raw: [&block, tail].concat(), ..sealed.clone() };
    let with_raw = |raw: Vec<u8>| EnablingBits { raw, ..sealed.clone() };
    let changed = |at: usize| {
        let mut raw = sealed.raw.clone();
        raw[at] ^= 0x40;
        with_raw(raw)
    };
    // KeyHeader of an AES-128 key: size, mode, bits, block, flags.
    let blob = |size: u16, bits: u16, key_bytes: usize| {
        let words = [size, 0xffff, bits, 16].map(u16::to_le_bytes).concat();
        [&words[..], &0x1001u32.to_le_bytes(), &vec![7; key_bytes]].concat()
    };
    let mut cases = vec![
        ("header: another size", with_block(encrypt(key, profile, &blob(99, 128, 16), b""))),
        ("header: other bits", with_block(encrypt(key, profile, &blob(28, 192, 16), b""))),
        ("message too short for a header", with_block(encrypt(key, profile, &[7; 11], b""))),
        ("message of a wrong length", with_block(encrypt(key, profile, &blob(29, 128, 17), b""))),
        ("another session key", with_block(encrypt(key, profile, &blob(28, 128, 16), b""))),
        ("not below the modulus", with_block(vec![0xff; length])),
        ("envelope changed", changed(length + 4)),
        ("hash changed", changed(sealed.raw.len() - 20)),
        ("tail cut", with_raw(sealed.raw[..length].to_vec())),
        ("tail of odd length", with_raw(sealed.raw[..sealed.raw.len() - 3].to_vec())),
        ("block cut", with_raw(sealed.raw[..length - 1].to_vec())),
        ("nothing", with_raw(Vec::new())),
    ];
    let padded = |first: [u8; 2], filling: usize, separator: bool| {
        let mut block = vec![0x55; length];
        block[..2].copy_from_slice(&first);
        if separator {
            block[2 + filling] = 0;
        }
        with_block(raw_encrypt(key, &block))
    };
    match profile.form {
        SealForm::V1 => cases.extend([
            ("padding: block type 1", padded([0, 1], length - 31, true)),
            ("padding: first byte is not zero", padded([1, 2], length - 31, true)),
            ("padding: seven bytes", padded([0, 2], 7, true)),
            ("empty message", with_block(encrypt(key, profile, b"", b""))),
            ("padding: no end", padded([0, 2], 0, false)),
        ]),
        SealForm::V2 => cases.extend([
            ("padding: first byte is not zero", padded([1, 0x55], 0, false)),
            ("padding: none", padded([0, 0x55], 0, false)),
            ("padding: another label", with_block(encrypt(key, profile, &blob(28, 128, 16), b"label"))),
        ]),
    }
    cases
}

/// Encrypts a message in the padding of a form.
fn encrypt(key: &RsaPublicKey, profile: &SealProfile, message: &[u8], label: &[u8]) -> Vec<u8> {
    let length = key.modulus_be().len();
    if profile.form == SealForm::V1 {
        let mut block = vec![0x55; length];
        block[..2].copy_from_slice(&[0, 2]);
        block[length - message.len() - 1] = 0;
        block[length - message.len()..].copy_from_slice(message);
        return raw_encrypt(key, &block);
    }
    let algorithm = if profile.oaep == Hash::Sha1 { &OAEP_SHA1_MGF1SHA1 } else { &OAEP_SHA256_MGF1SHA256 };
    let key = OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(&key.spki_der()).unwrap()).unwrap();
    let mut block = vec![0; length];
    let label = (!label.is_empty()).then_some(label);
    key.encrypt(algorithm, message, &mut block, label).unwrap();
    block
}

/// The bare public operation.
fn raw_encrypt(key: &RsaPublicKey, block: &[u8]) -> Vec<u8> {
    let public = rsa::PublicKey::new(BoxedUint::from_be_slice_vartime(key.modulus_be()), BoxedUint::from(65537u64));
    let number = BoxedUint::from_be_slice(block, key.bits()).unwrap();
    let bytes = rsa::hazmat::rsa_encrypt(&public.unwrap(), &number).unwrap().to_be_bytes();
    let bytes = &bytes[bytes.len().saturating_sub(block.len())..];
    [vec![0; block.len() - bytes.len()], bytes.to_vec()].concat()
}
