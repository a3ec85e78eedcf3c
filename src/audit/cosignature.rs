//! Cosignatures: what another instance says of a log's checkpoint, in the manner of C2SP tlog-cosignature, which has no type
//! for P-256. It is over a text of its own, so that nobody can take it for a signature of the log itself:
//!
//! ```text
//! keyward/cosignature/v1
//! time 1795512600                                      when it was made by the cosigner's clock: seconds since 1970
//! by keyward/log/5f0d2b1e-…                            the cosigner: the name of its own log
//! keyward/log/0b8c64f4-…                               the checkpoint's text, whole
//! …
//! ```
//! The signature line in the checkpoint's note bears the cosigner's name. Its key id is the first four bytes of SHA-256 of
//! that name, a line feed, the byte 255, `keyward/cosignature/v1` and the SubjectPublicKeyInfo; what follows are eight bytes
//! of the time, the highest first, and the ECDSA signature in DER.

use aws_lc_rs::digest::{SHA256, digest};

use crate::audit::note::{Note, Signature, VerifierKey, malformed};
use crate::error::{Error, Reason, Result};

/// The first line of what is signed, and the type in the key id.
const FORMAT: &str = "keyward/cosignature/v1";
/// Type byte of signatures that say which they are (C2SP signed-note).
const OTHER_TYPE: u8 = 0xff;
/// Bytes of the time.
const TIME_BYTES: usize = 8;

/// A cosignature that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cosignature<'k> {
    /// The key that made it.
    pub key: &'k VerifierKey,
    /// When, as the cosigner says: seconds since 1970, UTC.
    pub time_s: u64,
}

/// What the cosigner of this name signs.
///
/// # Errors
/// `LIMIT_EXCEEDED` for a checkpoint that is too long.
pub fn asked(cosigner: &str, time_s: u64, checkpoint: &Note) -> Result<Note> {
    Note::new(format!("{FORMAT}\ntime {time_s}\nby {cosigner}\n{}", checkpoint.text()))
}

/// Adds the cosignature that a key made, ASN.1 DER, over [`asked`] of the same.
///
/// # Errors
/// `TOKEN_MISMATCH` if it is not that, `LIMIT_EXCEEDED` for one signature too many.
pub fn add(checkpoint: &mut Note, key: &VerifierKey, time_s: u64, der: &[u8]) -> Result<()> {
    if !key.made(der, asked(key.name(), time_s, checkpoint)?.text()) {
        let words = format!("the cosignature is not one of the key {}", key.name());
        return Err(Error::new(Reason::TokenMismatch, words));
    }
    let bytes = [&time_s.to_be_bytes(), der].concat();
    checkpoint.attach(Signature { name: key.name().to_owned(), key_id: id(key), bytes })
}

/// The cosignatures of these keys under a checkpoint.
///
/// # Errors
/// `SIGNATURE_INVALID` if one that names such a key does not hold, or if there is none; `INVALID_ARGUMENT` if one is too short.
pub fn verify<'k>(checkpoint: &Note, keys: &'k [VerifierKey]) -> Result<Vec<Cosignature<'k>>> {
    let mut made = Vec::new();
    for line in checkpoint.signatures() {
        let Some(key) = keys.iter().find(|key| key.name() == line.name && id(key) == line.key_id) else { continue };
        let (time, der) = line.bytes.split_first_chunk::<TIME_BYTES>().ok_or_else(|| malformed("not a cosignature"))?;
        let time_s = u64::from_be_bytes(*time);
        if !key.made(der, asked(key.name(), time_s, checkpoint)?.text()) {
            let words = format!("the cosignature of {} does not hold: it or the checkpoint was changed", key.name());
            return Err(Error::new(Reason::SignatureInvalid, words));
        }
        made.push(Cosignature { key, time_s });
    }
    if made.is_empty() {
        return Err(Error::new(Reason::SignatureInvalid, "no trusted key has cosigned this checkpoint"));
    }
    Ok(made)
}

/// The key's id in cosignatures.
fn id(key: &VerifierKey) -> [u8; 4] {
    let spki = key.public_key().spki_der();
    let text = [key.name().as_bytes(), b"\n", &[OTHER_TYPE], FORMAT.as_bytes(), &spki].concat();
    let mut id = [0; 4];
    id.copy_from_slice(&digest(&SHA256, &text).as_ref()[..4]);
    id
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::audit::chain::ChainHash;
    use crate::audit::checkpoint::{Checkpoint, origin};
    use crate::audit::merkle::TreeHash;
    use crate::audit::note::tests::Signer;

    fn cosigned(checkpoint: &mut Note, by: &Signer, time_s: u64) {
        let mut text = asked(by.key.name(), time_s, checkpoint).unwrap();
        by.sign(&mut text);
        add(checkpoint, &by.key, time_s, &text.signatures()[0].bytes).unwrap();
    }

    #[test]
    fn a_cosignature_holds_for_one_checkpoint_one_cosigner_and_one_time_and_is_no_signature_of_the_log() {
        let (log, witness) = (Signer::new(&origin("a")), Signer::new(&origin("b")));
        let of = |size| Checkpoint {
            log: "a".into(),
            size,
            root: TreeHash([7; 32]),
            chain: ChainHash([8; 32]),
            others: vec![],
        };
        let mut note = of(5).note().unwrap();
        log.sign(&mut note);
        cosigned(&mut note, &witness, 1_795_512_600);
        let note: Note = note.to_string().parse().unwrap();
        let (keys, own) = (std::slice::from_ref(&witness.key), std::slice::from_ref(&log.key));
        assert_eq!(verify(&note, keys).unwrap(), [Cosignature { key: &witness.key, time_s: 1_795_512_600 }]);
        assert_eq!(Checkpoint::open(&note, own).unwrap(), of(5));
        assert!(verify(&note, own).is_err() && note.verify(keys).is_err(), "each is only what it is");

        let line = note.signatures()[1].clone();
        let with = |size, line: Signature| {
            let mut note = of(size).note().unwrap();
            note.attach(line).unwrap();
            note
        };
        assert!(verify(&with(6, line.clone()), keys).is_err(), "another checkpoint");
        let mut later = line.clone();
        later.bytes[TIME_BYTES - 1] ^= 1;
        assert!(verify(&with(5, later), keys).is_err(), "another time");
        let renamed = VerifierKey::new(&origin("a"), &witness.key.public_key()).unwrap();
        let taken = Signature { name: origin("a"), key_id: renamed.id(), bytes: line.bytes[TIME_BYTES..].to_vec() };
        assert!(Checkpoint::open(&with(5, taken), std::slice::from_ref(&renamed)).is_err(), "the log's own signature");
        let taken = Signature { name: origin("a"), key_id: id(&renamed), ..line };
        assert!(verify(&with(5, taken), &[renamed]).is_err(), "another cosigner");
        assert!(verify(&with(5, Signature { bytes: vec![1], ..note.signatures()[1].clone() }), keys).is_err());
    }
}
