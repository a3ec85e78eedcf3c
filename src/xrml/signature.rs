//! Digest and signature of a BODY: UTF-16LE of its characters, SHA-1 or SHA-256, RSASSA-PKCS1-v1_5.

use aws_lc_rs::digest as lc;
use aws_lc_rs::signature::{
    RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, UnparsedPublicKey,
};

use super::markup::{Element, incomplete};
use super::text::{Body, Document};
use super::value::{SignatureBe, hash_name, hash_named, read_value, write_value};
use super::write::Xml;
use crate::error::{Error, Reason, Result};
use crate::key::{Hash, RsaPublicKey};

/// The only coding of digests: over the characters as they stand.
const CODING: &str = "surface-coding";
const RSA_PKCS1: &str = "RSA PKCS#1-V1.5";

/// A digest of characters in UTF-16LE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    hash: Hash,
    bytes: Vec<u8>,
}

impl Digest {
    /// Takes a digest that is known from elsewhere, as a revocation list names one.
    ///
    /// # Errors
    /// `DOCUMENT_INCOMPLETE` if it is not as long as the hash is.
    pub fn new(hash: Hash, bytes: Vec<u8>) -> Result<Self> {
        if bytes.len() != hash.bytes() {
            return Err(incomplete(format!("a {} digest has {} bytes", hash_name(hash), bytes.len())));
        }
        Ok(Digest { hash, bytes })
    }

    /// The hash function.
    #[must_use]
    pub fn hash(&self) -> Hash {
        self.hash
    }

    /// The digest, 20 or 32 bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// DER of DigestInfo (RFC 8017, 9.2): what CKM_RSA_PKCS signs.
    #[must_use]
    pub fn digest_info(&self) -> Vec<u8> {
        [self.hash.digest_info(), &self.bytes].concat()
    }

    /// Reads DIGEST: ALGORITHM, a PARAMETER `codingtype` where there is one, and VALUE, in any order.
    pub(super) fn read(element: Element<'_>) -> Result<Self> {
        let hash = hash_named(&element.required("ALGORITHM")?.content()?)?;
        if let Some(parameter) = element.optional("PARAMETER")? {
            let is_coding = parameter.attribute("name").is_some_and(|name| name == "codingtype");
            if !is_coding || parameter.required("VALUE")?.content()? != CODING {
                return Err(incomplete(format!("a DIGEST is not coded as {CODING}")));
            }
        }
        Digest::new(hash, read_value(element.required("VALUE")?)?)
    }

    pub(super) fn write(&self, with_coding: bool, xml: &mut Xml) {
        xml.open("DIGEST", &[]);
        xml.leaf("ALGORITHM", &[], hash_name(self.hash));
        if with_coding {
            xml.open("PARAMETER", &[("name", "codingtype")]);
            xml.leaf("VALUE", &[("encoding", "string")], CODING);
            xml.close("PARAMETER");
        }
        write_value(&self.bytes, xml);
        xml.close("DIGEST");
    }
}

/// The digest of a BODY.
#[must_use]
pub fn digest(body: &Body, hash: Hash) -> Digest {
    digest_text(body.as_str(), hash)
}

/// The digest of any characters: sealed keys are bound to elements in the same way.
pub(super) fn digest_text(text: &str, hash: Hash) -> Digest {
    digest_parts(std::iter::once(text), hash)
}

/// The digest of texts one after another, fed in small pieces so that no second copy of the text is made.
pub(super) fn digest_parts<'a>(parts: impl Iterator<Item = &'a str>, hash: Hash) -> Digest {
    let mut context = lc::Context::new(algorithm(hash));
    let mut piece = [0u8; 4096];
    for mut rest in parts {
        while !rest.is_empty() {
            // A character has at most as many units of UTF-16 as bytes of UTF-8, so this much always fits.
            let (now, later) = rest.split_at(rest.floor_char_boundary(piece.len() / 2));
            rest = later;
            context.update(utf16le(now, &mut piece));
        }
    }
    Digest { hash, bytes: context.finish().as_ref().to_vec() }
}

fn utf16le<'a>(text: &str, out: &'a mut [u8; 4096]) -> &'a [u8] {
    if text.is_ascii() {
        for (pair, byte) in out.chunks_exact_mut(2).zip(text.bytes()) {
            pair.copy_from_slice(&[byte, 0]);
        }
        return &out[..text.len() * 2];
    }
    let mut length = 0;
    for unit in text.encode_utf16() {
        out[length..length + 2].copy_from_slice(&unit.to_le_bytes());
        length += 2;
    }
    &out[..length]
}

fn algorithm(hash: Hash) -> &'static lc::Algorithm {
    match hash {
        Hash::Sha1 => &lc::SHA1_FOR_LEGACY_USE_ONLY,
        Hash::Sha256 => &lc::SHA256,
    }
}

/// The content of SIGNATURE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// The digest it claims for BODY.
    pub digest: Digest,
    /// The RSA signature over that digest.
    pub value: SignatureBe,
}

impl Signature {
    /// Reads SIGNATURE, in the order of servers and in that of clients.
    ///
    /// # Errors
    /// `DOCUMENT_INCOMPLETE`.
    pub fn read(element: Element<'_>) -> Result<Signature> {
        if element.required("ALGORITHM")?.content()? != RSA_PKCS1 {
            return Err(incomplete(format!("SIGNATURE is not of ALGORITHM {RSA_PKCS1}")));
        }
        let digest = Digest::read(element.required("DIGEST")?)?;
        Ok(Signature { digest, value: SignatureBe::new(read_value(element.required("VALUE")?)?) })
    }
}

/// The root tag of a document. It is not signed; the forms are those that servers and clients write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// A use license.
    UseLicense,
    /// Any other document that a server makes.
    Server,
    /// A document that a client makes, and a publishing license.
    Client,
    /// A revocation list.
    RevocationList,
}

impl Root {
    fn tag(self) -> &'static str {
        match self {
            Root::UseLicense => "<XrML xmlns=\"\" version=\"1.2\" purpose=\"Content-License\">",
            Root::Server => "<XrML xmlns=\"\" version=\"1.2\">",
            Root::Client => "<XrML version=\"1.2\" xmlns=\"\">",
            Root::RevocationList => "<XrML version=\"1.2\">",
        }
    }
}

/// Writes the whole document around a signed BODY, SIGNATURE in the server's order.
#[must_use]
pub fn complete(root: Root, body: &Body, digest: &Digest, signature: &SignatureBe) -> String {
    let mut xml = Xml::new();
    xml.open("SIGNATURE", &[]);
    digest.write(true, &mut xml);
    xml.leaf("ALGORITHM", &[], RSA_PKCS1);
    write_value(signature.as_bytes(), &mut xml);
    xml.close("SIGNATURE");
    [root.tag(), body.as_str(), &xml.into_string(), "</XrML>"].concat()
}

/// Writes a document that is not signed: rights data, or a publishing license on its way to the server.
#[must_use]
pub fn unsigned(root: Root, body: &Body) -> String {
    [root.tag(), body.as_str(), "</XrML>"].concat()
}

/// Checks the signature of a document under a key. The key must come from the issuer's certificate or a pin, never from
/// the document alone.
///
/// # Errors
/// `DOCUMENT_INCOMPLETE` if SIGNATURE is missing or cannot be read; `SIGNATURE_INVALID` with what does not hold.
pub fn verify(document: &Document, key: &RsaPublicKey) -> Result<()> {
    let signature = Signature::read(document.signature()?)?;
    let claimed = &signature.digest;
    if digest(document.body(), claimed.hash) != *claimed {
        const CHANGED: &str = "the digest of BODY is not the one in SIGNATURE";
        return Err(match was_laid_out(document.body(), claimed) {
            true => {
                let message = format!("{CHANGED}: it matches only with the white space between its tags removed");
                Error::new(Reason::SignatureInvalid, message).hint("Get the original: this copy was laid out")
            }
            false => Error::new(Reason::SignatureInvalid, CHANGED)
                .hint("Get the original: the text was changed after it was signed"),
        });
    }
    verify_digest(claimed, &signature.value, key)
}

/// Checks a signature over a digest that was computed from the text itself: what custody does before it lets one go.
///
/// # Errors
/// `SIGNATURE_INVALID`.
pub fn verify_digest(digest: &Digest, signature: &SignatureBe, key: &RsaPublicKey) -> Result<()> {
    let invalid = |message: String| Error::new(Reason::SignatureInvalid, message);
    let (have, need) = (signature.as_bytes().len(), key.modulus_be().len());
    if have != need {
        return Err(invalid(format!("the signature has {have} bytes, the issuer's key {need}")));
    }
    let parameters = match digest.hash {
        Hash::Sha1 => &RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
        Hash::Sha256 => &RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
    };
    let imported = lc::Digest::import_less_safe(&digest.bytes, algorithm(digest.hash))
        .map_err(|_| invalid("the digest has the wrong length".to_owned()))?;
    UnparsedPublicKey::new(parameters, key.pkcs1_der())
        .verify_digest(&imported, signature.as_bytes())
        .map_err(|_| invalid("the signature does not hold under the issuer's key".to_owned()))
}

/// Whether the digest would match without the white space that stands alone between tags.
fn was_laid_out(body: &Body, claimed: &Digest) -> bool {
    let text = body.as_str();
    let pieces = text.split_inclusive('>').map(|piece| match piece.find('<') {
        Some(at) if super::markup::is_blank(&piece[..at]) => &piece[at..],
        _ => piece,
    });
    digest_parts(pieces, claimed.hash) == *claimed
}
