//! VALUE elements and the byte orders of the field: modulus little-endian, signature big-endian, as types of their own.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::markup::{Element, incomplete};
use super::write::Xml;
use crate::error::{Error, Reason, Result};
use crate::key::{Hash, RsaPublicKey};

/// A modulus as XrML writes it: little-endian, as many bytes as the key has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModulusLe(Vec<u8>);

impl ModulusLe {
    /// The modulus of a key.
    #[must_use]
    pub fn of(key: &RsaPublicKey) -> Self {
        ModulusLe(key.modulus_be().iter().rev().copied().collect())
    }

    /// The bytes, least significant first.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A signature as XrML writes it: big-endian, as many bytes as the key has; what a token returns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignatureBe(Vec<u8>);

impl SignatureBe {
    /// Takes the bytes, most significant first.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        SignatureBe(bytes)
    }

    /// The bytes, most significant first.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The hash of a name on the wire, `SHA1` or `SHA256` and no other spelling.
pub(super) fn hash_named(name: &str) -> Result<Hash> {
    match name {
        "SHA1" => Ok(Hash::Sha1),
        "SHA256" => Ok(Hash::Sha256),
        _ => Err(incomplete("a DIGEST has an ALGORITHM other than SHA1 and SHA256")),
    }
}

/// The name of a hash on the wire.
pub(super) fn hash_name(hash: Hash) -> &'static str {
    match hash {
        Hash::Sha1 => "SHA1",
        Hash::Sha256 => "SHA256",
    }
}

/// Decodes strict base64; white space may stand around it, not in it.
pub(super) fn read_base64(element: Element<'_>) -> Result<Vec<u8>> {
    let text = element.content()?;
    let text = text.trim_matches(['\t', '\n', '\r', ' ']);
    STANDARD.decode(text).map_err(|_| incomplete(format!("{} is no base64", element.name())))
}

/// Decodes a VALUE of base64 whose size in bits, where it is given, tells the truth.
pub(super) fn read_value(element: Element<'_>) -> Result<Vec<u8>> {
    if element.attribute("encoding").is_some_and(|encoding| encoding != "base64") {
        return Err(incomplete("a VALUE of bytes is not encoded as base64"));
    }
    let bytes = read_base64(element)?;
    if let Some(size) = element.attribute("size").filter(|size| **size != (bytes.len() * 8).to_string()) {
        let size: String = size.chars().take(16).collect();
        return Err(incomplete(format!("a VALUE says it has {size} bits and has {}", bytes.len() * 8)));
    }
    Ok(bytes)
}

pub(super) fn write_value(bytes: &[u8], xml: &mut Xml) {
    let size = (bytes.len() * 8).to_string();
    xml.leaf("VALUE", &[("encoding", "base64"), ("size", &size)], &STANDARD.encode(bytes));
}

/// A public key from DER: RSAPublicKey as enrollment requests have it, or SubjectPublicKeyInfo.
///
/// # Errors
/// `INVALID_ARGUMENT`.
pub fn key_from_der(der: &[u8]) -> Result<RsaPublicKey> {
    let key = aws_lc_rs::rsa::PublicKey::from_der(der)
        .map_err(|_| Error::new(Reason::InvalidArgument, "this is no DER of an RSA public key"))?;
    let exponent = key.exponent();
    let exponent = exponent.big_endian_without_leading_zero().iter().fold(0u32, |e, byte| e << 8 | u32::from(*byte));
    RsaPublicKey::new(key.modulus().big_endian_without_leading_zero(), exponent)
}

/// Reads PUBLICKEY. Accepts the names of the revocation manual as well, `RSA-1024` and `public exponent`.
pub(super) fn read_key(element: Element<'_>) -> Result<RsaPublicKey> {
    let algorithm = element.required("ALGORITHM")?.content()?;
    if algorithm != "RSA" && algorithm != "RSA-1024" {
        return Err(incomplete("a PUBLICKEY is not of ALGORITHM RSA"));
    }
    let parameter = |names: &[&str]| -> Result<Element<'_>> {
        let is_named = |p: &Element<'_>| p.attribute("name").is_some_and(|name| names.contains(&&*name));
        let mut found = element.all("PARAMETER").filter(is_named);
        match (found.next(), found.next()) {
            (Some(parameter), None) => parameter.required("VALUE"),
            _ => Err(incomplete(format!("PUBLICKEY does not have one PARAMETER {}", names[0]))),
        }
    };
    if parameter(&["public-exponent", "public exponent"])?.content()? != "65537" {
        return Err(incomplete("a PUBLICKEY has an exponent other than 65537"));
    }
    let mut modulus = read_value(parameter(&["modulus"])?)?;
    modulus.reverse();
    if modulus.first() == Some(&0) {
        return Err(incomplete("the modulus of a PUBLICKEY has leading zeros"));
    }
    if modulus.last().is_some_and(|last| last % 2 == 0) {
        return Err(incomplete("the modulus of a PUBLICKEY is even, so it is none"));
    }
    RsaPublicKey::new(&modulus, 65537).map_err(|e| incomplete(format!("a PUBLICKEY is unusable: {e}")))
}

pub(super) fn write_key(key: &RsaPublicKey, xml: &mut Xml) {
    xml.open("PUBLICKEY", &[]);
    xml.leaf("ALGORITHM", &[], "RSA");
    xml.open("PARAMETER", &[("name", "public-exponent")]);
    xml.leaf("VALUE", &[("encoding", "integer32")], "65537");
    xml.close("PARAMETER");
    xml.open("PARAMETER", &[("name", "modulus")]);
    write_value(ModulusLe::of(key).as_bytes(), xml);
    xml.close("PARAMETER");
    xml.close("PUBLICKEY");
}
