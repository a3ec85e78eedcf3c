//! Proofs about a log, each one text that needs no store and no service to be checked: that a record is in it (C2SP
//! tlog-proof), and that a later checkpoint continues an earlier one (the form of C2SP tlog-witness).
//!
//! Both end with a signed checkpoint and count only under the keys of a [`Trust`] that came another way:
//!
//! ```
//! # fn main() -> keyward::error::Result<()> {
//! # let (trust_file, proof_file) = (include_str!("../../tests/vectors/proof/audit.trust"),
//! #     include_str!("../../tests/vectors/proof/entry.tlog-proof"));
//! use keyward::audit::proof::LogProof;
//! use keyward::audit::record::Record;
//! use keyward::audit::trust::Trust;
//!
//! let trust: Trust = trust_file.parse()?;
//! let proof: LogProof = proof_file.parse()?;
//! let record = proof.extra.clone().unwrap_or_default();
//! let checkpoint = proof.verify(&record, &trust)?;
//! println!("record {} of {}: {:?}", proof.index, checkpoint.size, Record::read(&record)?.event);
//! # Ok(())
//! # }
//! ```

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::audit::checkpoint::Checkpoint;
use crate::audit::merkle::{TreeHash, verify_inclusion};
use crate::audit::note::{NOTE_BYTES_MAX, Note, malformed};
use crate::audit::trust::Trust;
use crate::error::{Error, Reason, Result};

/// First line of the proof that a record is in a log.
pub const HEADER: &str = "c2sp.org/tlog-proof@v1";
/// Longest inclusion path: a tree has at most 2^64 leaves.
const PATH_HASHES_MAX: usize = 64;
/// Longest proof that is read, in bytes: the record itself may ride along as extra data.
pub const PROOF_BYTES_MAX: usize = 2 * 1024 * 1024 + NOTE_BYTES_MAX;

/// A record's proof. Nothing in it counts before [`LogProof::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogProof {
    /// Data that the proof itself says nothing about, such as the record.
    pub extra: Option<Vec<u8>>,
    /// The record's place in the log, its `seq`.
    pub index: u64,
    /// Hashes from the leaf's sibling to the root's child.
    pub path: Vec<TreeHash>,
    /// The signed checkpoint.
    pub checkpoint: Note,
}

impl LogProof {
    /// Checks that these bytes are the record at [`LogProof::index`] of the log whose keys are trusted. Gives the
    /// checkpoint that says so.
    ///
    /// # Errors
    /// `SIGNATURE_INVALID` if the checkpoint is not signed by the log's key, or the record is not in its tree;
    /// `INVALID_ARGUMENT` if the note is no checkpoint.
    pub fn verify(&self, record: &[u8], trust: &Trust) -> Result<Checkpoint> {
        let checkpoint = trust.checkpoint(&self.checkpoint)?;
        verify_inclusion(TreeHash::leaf(record), self.index, checkpoint.size, &self.path, checkpoint.root)?;
        Ok(checkpoint)
    }
}

/// The proof that a log continues an earlier checkpoint of it. Nothing in it counts before
/// [`ConsistencyProof::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsistencyProof {
    /// Records of the earlier checkpoint.
    pub old: u64,
    /// Hashes of the proof (RFC 6962, section 2.1.2).
    pub path: Vec<TreeHash>,
    /// The later checkpoint, signed.
    pub checkpoint: Note,
}

impl ConsistencyProof {
    /// Checks that the later checkpoint is the log's and continues the earlier one, which the verifier has from before.
    /// Gives the later one.
    ///
    /// # Errors
    /// `SIGNATURE_INVALID` if it is not signed by the log's key, or does not continue the earlier one;
    /// `INVALID_ARGUMENT` if the note is no checkpoint or the proof is of another size.
    pub fn verify(&self, earlier: &Checkpoint, trust: &Trust) -> Result<Checkpoint> {
        let later = trust.checkpoint(&self.checkpoint)?;
        if self.old != earlier.size {
            return Err(malformed("this proof continues a checkpoint of another size"));
        }
        later.continues(earlier, &self.path)?;
        Ok(later)
    }
}

impl fmt::Display for ConsistencyProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "old {}", self.old)?;
        self.path.iter().try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

impl FromStr for ConsistencyProof {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let not = || malformed("not a proof that a log continues");
        let (proof, checkpoint) = text.split_once("\n\n").ok_or_else(not)?;
        let mut lines = proof.split('\n');
        let old = lines.next().and_then(|line| line.strip_prefix("old ")?.parse().ok()).ok_or_else(not)?;
        let path: Vec<TreeHash> = lines.take(PATH_HASHES_MAX + 1).map(str::parse).collect::<Result<_>>()?;
        if path.len() > PATH_HASHES_MAX {
            return Err(Error::new(Reason::LimitExceeded, "a proof of this size is not read"));
        }
        let read = ConsistencyProof { old, path, checkpoint: checkpoint.parse()? };
        if read.to_string() == text { Ok(read) } else { Err(not()) }
    }
}

impl fmt::Display for LogProof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        if let Some(extra) = &self.extra {
            writeln!(f, "extra {}", STANDARD.encode(extra))?;
        }
        writeln!(f, "index {}", self.index)?;
        self.path.iter().try_for_each(|hash| writeln!(f, "{hash}"))?;
        write!(f, "\n{}", self.checkpoint)
    }
}

impl FromStr for LogProof {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let not = || malformed("not a proof that a record is in a log");
        let too_large = || Error::new(Reason::LimitExceeded, "a proof of this size is not read");
        if text.len() > PROOF_BYTES_MAX {
            return Err(too_large());
        }
        let (proof, checkpoint) = text.split_once("\n\n").ok_or_else(not)?;
        let mut lines = proof.split('\n').peekable();
        if lines.next() != Some(HEADER) {
            return Err(not());
        }
        let extra = lines.next_if(|line| line.starts_with("extra ")).map(|line| STANDARD.decode(&line[6..]));
        let index = lines.next().and_then(|line| line.strip_prefix("index ")?.parse().ok()).ok_or_else(not)?;
        let path: Vec<TreeHash> = lines.take(PATH_HASHES_MAX + 1).map(str::parse).collect::<Result<_>>()?;
        if path.len() > PATH_HASHES_MAX {
            return Err(too_large());
        }
        let extra = extra.transpose().map_err(|_| not())?;
        let read = LogProof { extra, index, path, checkpoint: checkpoint.parse()? };
        // One spelling only: a number, for one, might have zeros in front.
        if read.to_string() == text { Ok(read) } else { Err(not()) }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::audit::chain::ChainHash;
    use crate::audit::checkpoint::origin;
    use crate::audit::merkle::{consistency_path, inclusion_path, root};
    use crate::audit::note::tests::Signer;
    use crate::audit::trust::tests::begun;

    const LOG: &str = "0b8c64f4";

    fn record(n: u64) -> Vec<u8> {
        format!("record {n}").into_bytes()
    }

    fn proof(index: u64, size: u64, signer: &Signer) -> LogProof {
        let leaves: Vec<TreeHash> = (0..size).map(|n| TreeHash::leaf(&record(n))).collect();
        let root = root(size, &mut &leaves[..]).unwrap();
        let checkpoint = Checkpoint { log: LOG.into(), size, root, chain: ChainHash::ZERO, others: vec![] };
        let mut note = checkpoint.note().unwrap();
        signer.sign(&mut note);
        let path = inclusion_path(index, size, &mut &leaves[..]).unwrap();
        LogProof { extra: None, index, path, checkpoint: note }
    }

    #[test]
    fn a_proof_reads_back_and_holds_for_its_record_alone() {
        let signer = Signer::new(&origin(LOG));
        let trust = begun(&signer);
        for (index, size) in [(0, 1), (0, 6), (3, 6), (5, 6)] {
            for extra in [None, Some(vec![]), Some(record(index))] {
                let proof = LogProof { extra, ..proof(index, size, &signer) };
                let read: LogProof = proof.to_string().parse().unwrap();
                assert_eq!(read, proof);
                assert_eq!(read.verify(&record(index), &trust).unwrap().size, size);
                assert_eq!(read.verify(&record(index + 1), &trust).unwrap_err().reason(), Reason::SignatureInvalid);
            }
        }
    }

    #[test]
    fn a_proof_is_written_in_the_form_of_the_specification() {
        let proof = LogProof { extra: Some(vec![1, 2, 3]), ..proof(1, 2, &Signer::new(&origin(LOG))) };
        let expected = format!(
            "c2sp.org/tlog-proof@v1\nextra AQID\nindex 1\n{}\n\n{}",
            TreeHash::leaf(&record(0)),
            proof.checkpoint
        );
        assert_eq!(proof.to_string(), expected);
    }

    #[test]
    fn a_proof_under_another_key_does_not_hold() {
        let (signer, other) = (Signer::new(&origin(LOG)), Signer::new(&origin(LOG)));
        let error = proof(1, 5, &other).verify(&record(1), &begun(&signer)).unwrap_err();
        assert_eq!(error.reason(), Reason::SignatureInvalid);
    }

    fn consistency(old: u64, new: u64, signer: &Signer) -> (Checkpoint, ConsistencyProof) {
        let leaves: Vec<TreeHash> = (0..new).map(|n| TreeHash::leaf(&record(n))).collect();
        let path = consistency_path(old, new, &mut &leaves[..]).unwrap();
        let earlier = proof(0, old, signer).checkpoint.text().parse().unwrap();
        (earlier, ConsistencyProof { old, path, checkpoint: proof(0, new, signer).checkpoint })
    }

    #[test]
    fn a_consistency_proof_reads_back_and_holds_for_its_earlier_checkpoint_alone() {
        let signer = Signer::new(&origin(LOG));
        let trust = begun(&signer);
        for (old, new) in [(1, 1), (1, 6), (3, 6), (4, 6), (6, 6)] {
            let (earlier, proof) = consistency(old, new, &signer);
            let read: ConsistencyProof = proof.to_string().parse().unwrap();
            assert_eq!(read, proof);
            assert_eq!(read.verify(&earlier, &trust).unwrap().size, new);
            let other = Checkpoint { root: TreeHash::empty(), ..earlier.clone() };
            assert_eq!(read.verify(&other, &trust).unwrap_err().reason(), Reason::SignatureInvalid, "{old} {new}");
            let other = Checkpoint { size: old + 1, ..earlier };
            assert!(read.verify(&other, &trust).is_err(), "{old} {new}");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_consistency_proof_is_refused() {
        let signer = Signer::new(&origin(LOG));
        let ((earlier, proof), trust) = (consistency(3, 6, &signer), begun(&signer));
        let bytes = proof.to_string().into_bytes();
        for (byte, bit) in (0..bytes.len()).flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
            let mut changed = bytes.clone();
            changed[byte] ^= 1 << bit;
            let read = std::str::from_utf8(&changed).ok().and_then(|text| text.parse::<ConsistencyProof>().ok());
            assert!(read.is_none_or(|proof| proof.verify(&earlier, &trust).is_err()), "byte {byte} bit {bit}");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_proof_is_refused() {
        let signer = Signer::new(&origin(LOG));
        let (trust, bytes) = (begun(&signer), proof(2, 5, &signer).to_string().into_bytes());
        for (byte, bit) in (0..bytes.len()).flat_map(|byte| (0..8).map(move |bit| (byte, bit))) {
            let mut changed = bytes.clone();
            changed[byte] ^= 1 << bit;
            let read = std::str::from_utf8(&changed).ok().and_then(|text| text.parse::<LogProof>().ok());
            assert!(read.is_none_or(|proof| proof.verify(&record(2), &trust).is_err()), "byte {byte} bit {bit}");
        }
    }

    #[test]
    fn texts_that_are_not_proofs_are_refused() {
        let good = proof(1, 5, &Signer::new(&origin(LOG))).to_string();
        for (what, text) in [
            ("empty", String::new()),
            ("another version", good.replace("@v1", "@v2")),
            ("zeros in front", good.replace("index 1", "index 01")),
            ("no index", good.replace("index 1\n", "")),
            ("extra after index", good.replace("index 1\n", "index 1\nextra AQID\n")),
            ("bad extra", good.replace("index 1\n", "extra A\nindex 1\n")),
            ("no checkpoint", good.split_once("\n\n").unwrap().0.into()),
            ("carriage returns", good.replace('\n', "\r\n")),
        ] {
            assert_eq!(text.parse::<LogProof>().unwrap_err().reason(), Reason::InvalidArgument, "{what}");
        }
        let hash = format!("index 1\n{}", format!("{}\n", TreeHash::empty()).repeat(PATH_HASHES_MAX + 1));
        for text in [good.replace("index 1\n", &hash), format!("{good}{}", "x".repeat(PROOF_BYTES_MAX))] {
            assert_eq!(text.parse::<LogProof>().unwrap_err().reason(), Reason::LimitExceeded);
        }
    }
}
