//! Signed notes (C2SP signed-note): a text, and lines of signatures under it. What is verified here is type 02, ECDSA over
//! P-256; lines of other types are kept as they are.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Error, Reason, Result};
use crate::key::{PublicKey, ecdsa_der};

/// Longest note that is read, in bytes.
pub const NOTE_BYTES_MAX: usize = 64 * 1024;
/// Most signatures of a note; the format asks for at least 16.
pub const SIGNATURES_MAX: usize = 32;

/// Type byte of ECDSA signatures in a verifier key.
const ECDSA: u8 = 0x02;
/// What a signature line begins with: em dash, space.
const DASH: &str = "\u{2014} ";

/// A named public key that notes are verified with. As text: `name+id+base64`, id as 8 hexadecimal digits, then the
/// type byte and the SubjectPublicKeyInfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VerifierKey {
    name: String,
    point: Vec<u8>,
    id: [u8; 4],
}

impl VerifierKey {
    /// Names a P-256 key. The name must not be empty and have no spaces and no plus sign.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for another name or another kind of key.
    pub fn new(name: &str, key: &PublicKey) -> Result<Self> {
        let PublicKey::P256 { point } = key else {
            return Err(malformed("notes are signed with P-256 keys only"));
        };
        if !is_key_name(name) {
            return Err(malformed("a key name has at least one character, no space, no plus sign"));
        }
        let mut id = [0; 4];
        id.copy_from_slice(&digest(&SHA256, &key.spki_der()).as_ref()[..4]);
        Ok(VerifierKey { name: name.to_owned(), point: point.clone(), id })
    }

    /// The name in signature lines.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id in signature lines: the first four bytes of the SHA-256 of the SubjectPublicKeyInfo.
    #[must_use]
    pub fn id(&self) -> [u8; 4] {
        self.id
    }

    /// The key itself.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        PublicKey::P256 { point: self.point.clone() }
    }

    /// Whether this key made the signature, ASN.1 DER, over the text.
    #[must_use]
    pub fn made(&self, signature: &[u8], text: &str) -> bool {
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point).verify(text.as_bytes(), signature).is_ok()
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [&[ECDSA], self.public_key().spki_der().as_slice()].concat();
        write!(f, "{}+{}+{}", self.name, hex::encode(self.id), STANDARD.encode(key))
    }
}

impl FromStr for VerifierKey {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // The base64 may hold plus signs of its own, so the text is cut from the left.
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(_), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(malformed("a verifier key has the form name+id+key"));
        };
        let key = STANDARD.decode(key).map_err(|_| malformed("the key of a verifier key is not base64"))?;
        let point = key.last_chunk::<65>().ok_or_else(|| malformed("a verifier key is too short"))?;
        let read = VerifierKey::new(name, &PublicKey::P256 { point: point.to_vec() })?;
        // What does not read back as it was written has another type, curve, id or encoding.
        if read.to_string() == text { Ok(read) } else { Err(malformed("not a verifier key for ECDSA over P-256")) }
    }
}

/// One signature line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signature {
    /// Name of the key.
    pub name: String,
    /// Id of the key.
    pub key_id: [u8; 4],
    /// The signature as its type defines it; for type 02 ASN.1 DER.
    pub bytes: Vec<u8>,
}

/// A text and its signatures. `to_string` gives the note's bytes; the signatures say nothing before [`Note::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<Signature>,
}

impl Note {
    /// A note without signatures yet.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` if the text does not end with a newline, or has control characters.
    pub fn new(text: String) -> Result<Self> {
        if !text.ends_with('\n') || text.contains(|c: char| c < ' ' && c != '\n') {
            return Err(malformed("the text of a note ends with a newline and has no control characters"));
        }
        if text.len() > NOTE_BYTES_MAX {
            return Err(too_large());
        }
        Ok(Note { text, signatures: Vec::new() })
    }

    /// The signed text, with its last newline.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The signature lines, in their order.
    #[must_use]
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    /// Whether a signature line names one of these keys, whether or not the signature holds.
    #[must_use]
    pub fn names_one_of(&self, keys: &[VerifierKey]) -> bool {
        let is_of = |key: &VerifierKey, line: &Signature| key.name == line.name && key.id == line.key_id;
        self.signatures.iter().any(|line| keys.iter().any(|key| is_of(key, line)))
    }

    /// What a token is asked to sign: SHA-256 of the text.
    #[must_use]
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, self.text.as_bytes()).as_ref());
        hash
    }

    /// Adds the signature that a token made over [`Note::digest`]: r‖s, 64 bytes. It is verified first.
    ///
    /// # Errors
    /// `TOKEN_MISMATCH` if it is not this key's signature over the text, `LIMIT_EXCEEDED` for one signature too many.
    pub fn add(&mut self, key: &VerifierKey, r_s: &[u8]) -> Result<()> {
        let bytes = ecdsa_der(r_s).filter(|der| key.made(der, &self.text)).ok_or_else(|| {
            Error::new(Reason::TokenMismatch, format!("the signature for a note is not one of the key {}", key.name))
        })?;
        self.attach(Signature { name: key.name.clone(), key_id: key.id, bytes })
    }

    /// Adds a signature line of any type.
    ///
    /// # Errors
    /// `LIMIT_EXCEEDED` for one signature too many.
    pub(super) fn attach(&mut self, line: Signature) -> Result<()> {
        if self.signatures.len() >= SIGNATURES_MAX {
            return Err(too_large());
        }
        self.signatures.push(line);
        Ok(())
    }

    /// The keys, among those given, that signed this note. Signatures of other keys are passed over.
    ///
    /// # Errors
    /// `SIGNATURE_INVALID` if a signature that names one of the keys does not hold, or if none of the keys signed.
    pub fn verify<'k>(&self, keys: &'k [VerifierKey]) -> Result<Vec<&'k VerifierKey>> {
        let mut signers: Vec<&VerifierKey> = Vec::new();
        for signature in &self.signatures {
            let Some(key) = keys.iter().find(|key| key.name == signature.name && key.id == signature.key_id) else {
                continue;
            };
            if !key.made(&signature.bytes, &self.text) {
                let words =
                    format!("the signature of {} does not hold: the text or the signature was changed", key.name);
                return Err(Error::new(Reason::SignatureInvalid, words));
            }
            if !signers.contains(&key) {
                signers.push(key);
            }
        }
        if signers.is_empty() {
            return Err(Error::new(Reason::SignatureInvalid, "no trusted key signed this note"));
        }
        Ok(signers)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.text)?;
        for Signature { name, key_id, bytes } in &self.signatures {
            writeln!(f, "{DASH}{name} {}", STANDARD.encode([key_id, bytes.as_slice()].concat()))?;
        }
        Ok(())
    }
}

impl FromStr for Note {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.len() > NOTE_BYTES_MAX {
            return Err(too_large());
        }
        // The text may have empty lines itself: the last one divides.
        let divide =
            text.rfind("\n\n").ok_or_else(|| malformed("a signed note has an empty line above its signatures"))?;
        let mut note = Note::new(text[..=divide].to_owned())?;
        let lines =
            text[divide + 2..].strip_suffix('\n').ok_or_else(|| malformed("a signed note ends with a newline"))?;
        for line in lines.split('\n') {
            if note.signatures.len() >= SIGNATURES_MAX {
                return Err(too_large());
            }
            note.signatures.push(signature(line).ok_or_else(|| malformed("not a signature line of a note"))?);
        }
        Ok(note)
    }
}

fn signature(line: &str) -> Option<Signature> {
    let (name, signature) = line.strip_prefix(DASH)?.split_once(' ')?;
    let signature = STANDARD.decode(signature).ok()?;
    let (key_id, bytes) = signature.split_first_chunk::<4>()?;
    let signature = Signature { name: name.to_owned(), key_id: *key_id, bytes: bytes.to_vec() };
    (is_key_name(name) && !bytes.is_empty()).then_some(signature)
}

/// Whether the text can stand as one word in a signature line: not empty, no space, no plus sign.
pub(super) fn is_key_name(name: &str) -> bool {
    !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+')
}

pub(super) fn malformed(words: &str) -> Error {
    Error::new(Reason::InvalidArgument, words)
}

fn too_large() -> Error {
    let words = format!("a note has at most {NOTE_BYTES_MAX} bytes and {SIGNATURES_MAX} signatures");
    Error::new(Reason::LimitExceeded, words)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
pub(super) mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

    use super::*;

    /// A key pair that stands for the token's.
    pub(in crate::audit) struct Signer {
        pair: EcdsaKeyPair,
        pub(in crate::audit) key: VerifierKey,
    }

    impl Signer {
        pub(in crate::audit) fn new(name: &str) -> Self {
            let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
            let point = pair.public_key().as_ref().to_vec();
            Signer { key: VerifierKey::new(name, &PublicKey::P256 { point }).unwrap(), pair }
        }

        pub(in crate::audit) fn sign(&self, note: &mut Note) {
            let signature = self.pair.sign(&SystemRandom::new(), note.text().as_bytes()).unwrap();
            note.add(&self.key, signature.as_ref()).unwrap();
        }
    }

    fn signed(text: &str, signers: &[&Signer]) -> Note {
        let mut note = Note::new(text.to_owned()).unwrap();
        signers.iter().for_each(|signer| signer.sign(&mut note));
        note
    }

    /// Made with OpenSSL: `ecparam -name prime256v1`, `dgst -sha256 -sign`, `dgst -sha256` of the DER public key.
    const OPENSSL_KEY: &str = "example.com/log+ef714386+AjBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABMgEuLcNx4/+cS1e3omj4SHDvQ7aUCVX1TQotQIWPNTbJfPbivZZiEbqtOsPxBM4e7m9g1wPPttbVqOHkSIQhFk=";
    const OPENSSL_NOTE: &str = "example.com/log\n1\nempty line below\n\nlast line\n\n\u{2014} example.com/log 73FDhjBFAiBODmNeZMq1OhnlgL2tSE8btmpd9R6Cm7XOGPPVYTl2sAIhAOobKup94hidVfWBlslMzxvj5s3uT+SmH/tD5NW5AFlP\n";

    #[test]
    fn a_note_made_with_openssl_reads_verifies_and_writes_back() {
        let note: Note = OPENSSL_NOTE.parse().unwrap();
        let key: VerifierKey = OPENSSL_KEY.parse().unwrap();
        assert_eq!(note.verify(std::slice::from_ref(&key)).unwrap(), [&key]);
        assert_eq!(note.text(), "example.com/log\n1\nempty line below\n\nlast line\n");
        assert_eq!((note.to_string(), key.to_string()), (OPENSSL_NOTE.to_owned(), OPENSSL_KEY.to_owned()));
    }

    #[test]
    fn every_flipped_bit_of_a_note_is_refused() {
        let (note, key) = (OPENSSL_NOTE.as_bytes(), OPENSSL_KEY.parse::<VerifierKey>().unwrap());
        for (byte, bit) in (0..note.len()).flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
            let mut changed = note.to_vec();
            changed[byte] ^= 1 << bit;
            let read = std::str::from_utf8(&changed).ok().and_then(|text| text.parse::<Note>().ok());
            assert!(read.is_none_or(|note| note.verify(std::slice::from_ref(&key)).is_err()), "byte {byte} bit {bit}");
        }
    }

    #[test]
    fn signatures_of_unknown_keys_are_passed_over_but_one_known_key_must_have_signed() {
        let (a, b, stranger) = (Signer::new("a"), Signer::new("b"), Signer::new("stranger"));
        let note = signed("text\n", &[&stranger, &a, &b, &a]);
        let keys = [a.key.clone(), b.key.clone()];
        assert_eq!(note.verify(&keys).unwrap(), [&a.key, &b.key]);
        assert_eq!(note.verify(&keys[1..]).unwrap(), [&b.key]);
        let none = [Signer::new("a").key];
        assert_eq!(note.verify(&none).unwrap_err().reason(), Reason::SignatureInvalid);
        assert!(Note::new("text\n".into()).unwrap().verify(&keys).is_err());
    }

    #[test]
    fn one_known_signature_that_fails_spoils_the_whole_note() {
        let (a, b) = (Signer::new("a"), Signer::new("b"));
        let mut note = signed("text\n", &[&a]);
        note.signatures.push(Signature { bytes: vec![0x30, 0], ..signed("other\n", &[&b]).signatures[0].clone() });
        assert!(note.verify(std::slice::from_ref(&a.key)).is_ok());
        assert_eq!(note.verify(&[a.key, b.key]).unwrap_err().reason(), Reason::SignatureInvalid);
    }

    #[test]
    fn a_signature_is_checked_before_it_is_added() {
        let (a, b) = (Signer::new("a"), Signer::new("b"));
        let mut note = Note::new("text\n".into()).unwrap();
        let by_b = b.pair.sign(&SystemRandom::new(), b"text\n").unwrap();
        let over_other = a.pair.sign(&SystemRandom::new(), b"other\n").unwrap();
        for r_s in [by_b.as_ref(), over_other.as_ref(), &[0; 64], &[]] {
            assert_eq!(note.add(&a.key, r_s).unwrap_err().reason(), Reason::TokenMismatch);
        }
        assert!(note.signatures().is_empty());
    }

    #[test]
    fn texts_that_are_not_notes_are_refused() {
        let good = signed("text\n", &[&Signer::new("a")]).to_string();
        assert!(good.parse::<Note>().is_ok());
        let line = good.lines().last().unwrap();
        for text in [
            String::new(),
            "text\n".into(),
            "text\n\n".into(),
            good.trim_end().into(),
            format!("{good}\n"),
            format!("{good}text\n"),
            format!("text\r\n\n{line}\n"),
            good.replace(DASH, "- "),
            good.replace(" a ", "  "),
            good.replace(" a ", " a+b "),
            good.replace(" a ", " a\u{a0}b "),
            good.replace(" a ", " a b "),
            format!("text\n\n{DASH}a AAAA\n"),
            format!("text\n\n{DASH}a AAAAAA==\n"),
        ] {
            assert_eq!(text.parse::<Note>().unwrap_err().reason(), Reason::InvalidArgument, "{text:?}");
        }
    }

    #[test]
    fn notes_beyond_the_bounds_are_refused() {
        let signer = Signer::new("a");
        let full = signed("text\n", &vec![&signer; SIGNATURES_MAX]).to_string();
        assert!(full.parse::<Note>().is_ok());
        let more = format!("{full}{}\n", full.lines().last().unwrap());
        let long = format!("{}{full}", "x".repeat(NOTE_BYTES_MAX));
        for text in [more, long] {
            assert_eq!(text.parse::<Note>().unwrap_err().reason(), Reason::LimitExceeded);
        }
    }

    #[test]
    fn verifier_keys_of_another_form_are_refused() {
        let good = OPENSSL_KEY.to_owned();
        let parts: Vec<&str> = good.splitn(3, '+').collect();
        let (front, key) = (parts[..2].join("+"), parts[2]);
        let der = STANDARD.decode(key).unwrap();
        let with = |first: u8| STANDARD.encode([&[first], &der[1..]].concat());
        for text in [
            String::new(),
            "name".into(),
            good.replacen("example", "ex ample", 1),
            good.replacen(parts[1], "00000000", 1),
            good.to_uppercase(),
            format!("{front}+{}", with(0x01)),
            format!("{front}+{}", STANDARD.encode(&der[1..])),
            format!("{front}+{}", &key[..8]),
        ] {
            assert_eq!(text.parse::<VerifierKey>().unwrap_err().reason(), Reason::InvalidArgument, "{text}");
        }
        let rsa = PublicKey::Rsa(crate::key::RsaPublicKey::new(&[0xff; 256], 65537).unwrap());
        assert!(VerifierKey::new("a", &rsa).is_err());
    }

    #[test]
    fn ecdsa_numbers_are_written_with_the_fewest_bytes() {
        let mut r_s = [0u8; 64];
        r_s[31] = 0x7f;
        r_s[62] = 0x80;
        assert_eq!(ecdsa_der(&r_s).unwrap(), [0x30, 8, 2, 1, 0x7f, 2, 3, 0, 0x80, 0]);
        assert_eq!(ecdsa_der(&[0; 64]).unwrap(), [0x30, 6, 2, 1, 0, 2, 1, 0]);
        assert_eq!(ecdsa_der(&[0xff; 64]).unwrap().len(), 72);
        assert_eq!(ecdsa_der(&[0; 63]), None);
    }
}
